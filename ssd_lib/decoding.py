"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the loop.

A round: the draft proposes T tokens, the target scores all T positions in one forward, and a walk emits one token a
position by the current scheme until an emitted token differs from the proposal:

    propose   p_1 … p_T          T draft forwards
    verify    P_M at T positions  one target forward on [pending, p_1 … p_{T−1}]
    walk      emit, match?, switch; stop after the first token that does not match
    rewind    both caches forget what was not emitted

Each emitted token is a function of the prefix and the switching state alone, so the output does not depend on T.
Between rounds both caches hold all tokens but the last emitted one, the *pending* token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

from ssd_lib import switching
from ssd_lib.composite import (
    accept_or_resample,
    choose_greedy,
    composite,
    composite_distribution,
    intersection_space,
    rank_tokens,
    target_insists,
    union_space,
)
from ssd_lib.config import SSDConfig
from ssd_lib.kv_cache import RowCache
from ssd_lib.switching import SwitchState
from ssd_lib.trace import COLUMNS, SPACE, TOP, Trace


@dataclass(frozen=True)
class SSDStats:
    """What a call cost, over all rows. A forward counts once, however many rows it carries."""

    rounds: int
    target_forwards: int
    draft_forwards: int
    tokens: int
    match_ratio: float
    seconds: float


@dataclass(frozen=True)
class SSDOutput:
    """The answer's token ids, one 1-D tensor a row (an end-of-sequence token included), the trace and the cost."""

    sequences: list[Tensor]
    trace: Trace | None
    stats: SSDStats


# ------------------------------------------------------------------------------------------------ one model and its cache


class CachedModel:
    """A causal language model that continues its own cache."""

    def __init__(
        self, model: PreTrainedModel, prompts: Int[Tensor, "rows length"], lengths: Int[Tensor, " rows"], slots: int
    ):
        self.model, self.device, self.forwards = model, model.get_input_embeddings().weight.device, 0
        rows = prompts.shape[0]
        self.cache = RowCache(model.config.get_text_config().num_hidden_layers, rows, slots, self.device)
        self.additive_mask = model.config._attn_implementation == "eager"
        context = prompts[:, :-1].to(self.device)  # the last token of each prompt stays pending
        if context.shape[1]:
            self.forward(context, logits_to_keep=1)
        self.cache.advance(lengths.to(self.device) - 1)

    def forward(self, tokens: Int[Tensor, "rows new"], logits_to_keep: int = 0) -> Float[Tensor, "rows kept vocab"]:
        """Logits (fp32) after the last `logits_to_keep` of these tokens (0: all), which are written behind each row's length."""
        new = tokens.shape[1]
        mask = self.cache.mask(new)
        if self.additive_mask:
            mask = (~mask).to(self.model.dtype) * torch.finfo(self.model.dtype).min
        self.forwards += 1
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=self.cache.positions(new),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits.float()


# ------------------------------------------------------------------------------------------------ a round


class Round(NamedTuple):
    """What a round emitted, [rows, T] each: the tokens, which of them count, which matched, and where logits were NaN."""

    tokens: Int[Tensor, "rows T"]
    valid: Bool[Tensor, "rows T"]
    matched: Bool[Tensor, "rows T"]
    target_nan: Bool[Tensor, "rows T"]
    draft_nan: Bool[Tensor, "rows T"]


@dataclass
class Decoder:
    """The state of one call. Everything tensor-valued lives on the target's device; nothing in a round waits for the host."""

    target: CachedModel
    draft: CachedModel
    config: SSDConfig
    eos: Int[Tensor, " ids"]
    max_new_tokens: int
    generator: torch.Generator | None
    pending: Int[Tensor, " rows"]
    draft_pending: Int[Tensor, " rows"]
    """The same token as `pending`, but for the first round: the last token of the draft's own prompt."""
    switch: SwitchState
    finished: Bool[Tensor, " rows"]

    def round(self, record: Recorder | None) -> Round:
        """Emit at least one and at most T tokens for every row that is not finished."""
        proposals, draft_probs, draft_nan = self.propose()
        target_probs, target_nan = self.verify(proposals)
        tokens, valid, matched = self.walk(proposals, target_probs, draft_probs, record)
        self.settle(tokens, valid)
        return Round(tokens, valid, matched, target_nan, draft_nan)

    def propose(self) -> tuple[Int[Tensor, "rows T"], Float[Tensor, "rows T vocab"], Bool[Tensor, "rows T"]]:
        """The draft continues the pending token, one forward a token."""
        token, proposals, probs, nan = self.draft_pending, [], [], []
        for _ in range(self.config.lookahead):
            logits = self.draft.forward(token.to(self.draft.device).unsqueeze(-1))[:, -1].to(self.target.device)
            self.draft.cache.advance(1)
            p, bad = self.probabilities(logits)
            token = (
                torch.multinomial(p, 1, generator=self.generator).squeeze(-1)
                if self.config.do_sample
                else p.argmax(dim=-1)
            )
            proposals.append(token)
            probs.append(p)
            nan.append(bad)
        return torch.stack(proposals, 1), torch.stack(probs, 1), torch.stack(nan, 1)

    def verify(self, proposals: Int[Tensor, "rows T"]) -> tuple[Float[Tensor, "rows T vocab"], Bool[Tensor, "rows T"]]:
        """The target reads the pending token and all proposals but the last, in one forward."""
        read = torch.cat([self.pending.unsqueeze(-1), proposals[:, :-1]], dim=1)
        logits = self.target.forward(read)
        self.target.cache.advance(read.shape[1])
        return self.probabilities(logits)

    def probabilities(
        self, logits: Float[Tensor, "*rows vocab"]
    ) -> tuple[Float[Tensor, "*rows vocab"], Bool[Tensor, "*rows"]]:
        """Softmax in fp32 and where it is not a number (made uniform there, so that the round can end and report it)."""
        scaled = logits / self.config.temperature if self.config.do_sample else logits
        bad = scaled.isnan().any(dim=-1)
        return scaled.masked_fill(bad.unsqueeze(-1), 0.0).softmax(dim=-1), bad

    def walk(
        self,
        proposals: Int[Tensor, "rows T"],
        target_probs: Float[Tensor, "rows T vocab"],
        draft_probs: Float[Tensor, "rows T vocab"],
        record: Recorder | None,
    ) -> tuple[Int[Tensor, "rows T"], Bool[Tensor, "rows T"], Bool[Tensor, "rows T"]]:
        """Emit by the current scheme while tokens match. The sample spaces of all positions are found in one go."""
        target_ranks, draft_ranks = rank_tokens(target_probs), rank_tokens(draft_probs)
        intersection, k = intersection_space(target_ranks, draft_ranks, self.config.candidates)
        union = union_space(target_ranks, draft_ranks, self.config.candidates)
        alive, tokens, valid, matches = ~self.finished, [], [], []
        for t in range(self.config.lookahead):
            before = self.switch
            alpha = switching.alpha(before, self.config)
            space = torch.where(before.union.unsqueeze(-1), union[:, t], intersection[:, t])
            insisted = target_insists(space, target_ranks[:, t], before.union)
            scores = composite(target_probs[:, t], draft_probs[:, t], alpha)
            position = Position(
                proposals[:, t], target_probs[:, t], draft_probs[:, t], target_ranks[:, t], scores, space, insisted
            )
            token, matched = self.emit(position)
            self.switch = switching.update(before, matched, alive, self.config)
            if record is not None:
                counted = switching.count(before, matched, alive, self.config)
                record.add(
                    alive, position, token, matched, before, alpha, torch.where(before.union, 0, k[:, t]), counted
                )
            tokens.append(token)
            valid.append(alive)
            matches.append(matched)
            ended = torch.isin(token, self.eos) | (self.switch.emitted >= self.max_new_tokens)
            self.finished = self.finished | (alive & ended)
            alive = alive & matched & ~ended
        return torch.stack(tokens, 1), torch.stack(valid, 1), torch.stack(matches, 1)

    def emit(self, position: Position) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """One token and whether it matches.

        Greedy: argmax F over the sample space; it matches when it is the draft's own greedy proposal. Sampling: the
        proposal is accepted with probability min(1, F⁺/P_m), else F⁺'s residual is drawn; it matches when accepted.
        """
        p = position
        if not self.config.do_sample:
            token = choose_greedy(p.scores, p.space, p.target_ranks, p.insisted)
            return token, token == p.proposal
        wanted = composite_distribution(p.scores, p.space, p.target_probs, p.insisted, self.config.top_p)
        return accept_or_resample(wanted, p.draft_probs, p.proposal, self.generator)

    def settle(self, tokens: Int[Tensor, "rows T"], valid: Bool[Tensor, "rows T"]) -> None:
        """The last emitted token is pending; both caches forget what was not emitted."""
        emitted = valid.sum(dim=1)
        last = tokens.gather(1, (emitted - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        self.pending = torch.where(emitted > 0, last, self.pending)
        self.draft_pending = torch.where(emitted > 0, last, self.draft_pending)
        rejected = tokens.shape[1] - emitted
        self.target.cache.rewind(rejected)
        self.draft.cache.rewind(rejected)


@dataclass(frozen=True)
class Position:
    """Everything about one answer position, one entry a row."""

    proposal: Int[Tensor, " rows"]
    target_probs: Float[Tensor, "rows vocab"]
    draft_probs: Float[Tensor, "rows vocab"]
    target_ranks: Int[Tensor, "rows vocab"]
    scores: Float[Tensor, "rows vocab"]
    space: Bool[Tensor, "rows vocab"]
    insisted: Bool[Tensor, " rows"]


# ------------------------------------------------------------------------------------------------ recording


@dataclass
class Recorder:
    """Collects what the trace shows; stays on the device until the end."""

    config: SSDConfig
    round: int = 0
    steps: list[dict[str, Tensor]] = field(default_factory=list)

    def add(
        self,
        alive: Tensor,
        position: Position,
        token: Tensor,
        matched: Tensor,
        before: SwitchState,
        alpha: Tensor,
        k: Tensor,
        counted: SwitchState,
    ) -> None:
        """Record one position for the rows that are alive."""
        top, space = min(TOP, position.scores.shape[-1]), min(SPACE, position.scores.shape[-1])
        of_token = lambda values: values.gather(-1, token.unsqueeze(-1)).squeeze(-1)  # noqa: E731
        target_top, draft_top = position.target_probs.topk(top), position.draft_probs.topk(top)
        best = position.scores.masked_fill(~position.space, -torch.inf).topk(space)
        self.steps.append(
            {
                "alive": alive,
                "round": torch.full_like(token, self.round),
                "position": before.emitted,
                "token": token,
                "proposal": position.proposal,
                "match": matched,
                "scheme": before.union,
                "k": k,
                "threshold": before.threshold,
                "alpha": alpha,
                "bin_tokens": (counted.emitted - 1) % self.config.bin_size + 1,
                "match_ratio": switching.running_match_ratio(counted, self.config),
                "target_prob": of_token(position.target_probs),
                "draft_prob": of_token(position.draft_probs),
                "composite": of_token(position.scores),
                "insisted": position.insisted,
                "target_top": target_top.indices,
                "target_top_probs": target_top.values,
                "draft_top": draft_top.indices,
                "draft_top_probs": draft_top.values,
                "space": best.indices,
                "space_composite": best.values,
            }
        )

    def trace(self, lengths: Sequence[int]) -> Trace:
        """One data frame, row by row; lines behind a row's length (cut by a stopping criterion) are dropped."""
        if not self.steps:
            return Trace(pd.DataFrame(columns=COLUMNS))
        columns = {name: torch.stack([step[name] for step in self.steps]).cpu() for name in self.steps[0]}
        rows = torch.arange(len(lengths)).expand(columns["alive"].shape)
        keep = columns.pop("alive") & (columns["position"] < torch.tensor(lengths))
        frame = pd.DataFrame(
            {"row": rows[keep].numpy()} | {name: values[keep].tolist() for name, values in columns.items()}
        )
        frame["scheme"] = ["union" if union else "intersection" for union in frame["scheme"]]
        inside = [[score != -torch.inf for score in scores] for scores in frame["space_composite"]]
        for name in ("space", "space_composite"):
            frame[name] = [
                [v for v, i in zip(values, ins, strict=True) if i]
                for values, ins in zip(frame[name], inside, strict=True)
            ]
        return Trace(frame.sort_values(["row", "position"], ignore_index=True)[COLUMNS])


# ------------------------------------------------------------------------------------------------ checks before any forward


def _aligned_left(name: str, ids: Tensor, mask: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Left-padded prompts moved to slot 0, and their lengths."""
    if ids.ndim != 2 or ids.shape[0] == 0:
        raise ValueError(f"{name} must have shape [rows, length], not {list(ids.shape)}")
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape:
        raise ValueError(
            f"the attention mask of {name} has shape {list(mask.shape)}, the ids {list(ids.shape)}: they must agree"
        )
    mask = mask.to(device).bool()
    lengths = mask.sum(dim=1)
    if not bool((lengths > 0).all()):
        raise ValueError(
            f"row {int(lengths.argmin())} of {name} is an empty prompt: give it at least one token (BOS, say)"
        )
    if not bool((mask.int().diff(dim=1) >= 0).all()):
        raise ValueError(f"{name} must be padded on the left: pass padding_side='left' to the tokenizer")
    places = (torch.arange(ids.shape[1], device=device) + (ids.shape[1] - lengths).unsqueeze(-1)) % ids.shape[1]
    return ids.to(device).gather(1, places), lengths


def _check_models(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    sizes = [model.config.get_text_config().vocab_size for model in (target, draft)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"target and draft must share one vocabulary: the target has {sizes[0]} tokens, the draft {sizes[1]}"
        )


def _check_room(name: str, model: PreTrainedModel, prompt: int, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt + max_new_tokens > context:
        advice = f"at most {context - prompt} new tokens fit" if prompt < context else "shorten the prompt"
        raise ValueError(
            f"the {name}'s context holds {context} tokens; {prompt} of prompt and {max_new_tokens} new ones do not fit: {advice}"
        )


def _eos_ids(target: PreTrainedModel, eos_token_id: int | Sequence[int] | Tensor | None) -> Tensor:
    """Every end-of-sequence id: the given ones, else all of the generation config."""
    given: Any = eos_token_id
    if given is None and target.generation_config is not None:
        given = target.generation_config.eos_token_id
    ids = [] if given is None else torch.as_tensor(given).reshape(-1).tolist()
    return torch.tensor(ids, dtype=torch.long)


# ------------------------------------------------------------------------------------------------ the public call


@torch.inference_mode()
def ssd_generate(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    input_ids: Int[Tensor, "rows length"],
    *,
    attention_mask: Tensor | None = None,
    draft_input_ids: Tensor | None = None,
    draft_attention_mask: Tensor | None = None,
    config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
    max_new_tokens: int = 256,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    generator: torch.Generator | None = None,
    streamer: Any = None,
    stopping_criteria: Any = None,
    trace: bool = True,
) -> SSDOutput:
    """Decode with Speculative Safety-Aware Decoding (arXiv 2508.17739).

    input_ids: [rows, length], left-padded where lengths differ (then with `attention_mask`, 1 for real tokens).
    draft_input_ids: the draft's own prompts, if its template differs; their length may differ too.
    eos_token_id: one id or several; default: all of the target's generation config.
    generator: random numbers for sampling, on the target's device; default: seeded with `config.seed`.
    streamer: gets the prompt, then tokens as they are emitted (one row only, as in transformers).
    stopping_criteria: called after every emitted token with one row's ids [1, so far] and None.
    trace: False skips the record, which costs some time.

    Raises ValueError, before any forward, for vocabularies that differ, an empty or right-padded prompt, batches of
    different size and a context that is too long; FloatingPointError for NaN logits, naming model, row and position.
    """
    _check_models(target, draft)
    target_device = target.get_input_embeddings().weight.device
    if draft_input_ids is None:
        draft_input_ids, draft_attention_mask = input_ids, attention_mask
    if draft_input_ids.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"target and draft got batches of different size: {input_ids.shape[0]} and {draft_input_ids.shape[0]} rows"
        )
    prompts, lengths = _aligned_left("input_ids", input_ids, attention_mask, target_device)
    draft_prompts, draft_lengths = _aligned_left(
        "draft_input_ids", draft_input_ids, draft_attention_mask, target_device
    )
    _check_room("target", target, prompts.shape[1], max_new_tokens)
    _check_room("draft", draft, draft_prompts.shape[1], max_new_tokens)
    host = Host([prompts[i, :n].tolist() for i, n in enumerate(lengths.tolist())], streamer, stopping_criteria)
    if generator is None and config.do_sample and config.seed is not None:
        generator = torch.Generator(target_device).manual_seed(config.seed)

    started, rows = time.perf_counter(), prompts.shape[0]
    spare = max_new_tokens + config.lookahead
    decoder = Decoder(
        target=CachedModel(target, prompts, lengths, prompts.shape[1] + spare),
        draft=CachedModel(draft, draft_prompts, draft_lengths, draft_prompts.shape[1] + spare),
        config=config,
        eos=_eos_ids(target, eos_token_id).to(target_device),
        max_new_tokens=max_new_tokens,
        generator=generator,
        pending=prompts.gather(1, (lengths - 1).unsqueeze(-1)).squeeze(-1),
        draft_pending=draft_prompts.gather(1, (draft_lengths - 1).unsqueeze(-1)).squeeze(-1),
        switch=switching.start(rows, config, target_device),
        finished=torch.zeros(rows, dtype=torch.bool, device=target_device),
    )
    recorder = Recorder(config) if trace else None
    rounds = 0
    while not host.all_finished:
        longest = max(map(len, host.answers)) + config.lookahead
        decoder.target.cache.show_up_to(prompts.shape[1] + longest)
        decoder.draft.cache.show_up_to(draft_prompts.shape[1] + longest)
        if recorder is not None:
            recorder.round = rounds
        emitted = decoder.round(recorder)
        decoder.finished = host.take(emitted, decoder.finished)
        rounds += 1
    host.end()
    return SSDOutput(
        sequences=[torch.tensor(answer, dtype=torch.long) for answer in host.answers],
        trace=recorder.trace([len(answer) for answer in host.answers]) if recorder is not None else None,
        stats=SSDStats(
            rounds=rounds,
            target_forwards=decoder.target.forwards,
            draft_forwards=decoder.draft.forwards,
            tokens=sum(map(len, host.answers)),
            match_ratio=host.matches / max(1, sum(map(len, host.answers))),
            seconds=time.perf_counter() - started,
        ),
    )


class Host:
    """The part of a call that needs values on the host: one transfer a round, then plain lists."""

    def __init__(self, prompts: list[list[int]], streamer: Any, stopping_criteria: Any):
        self.prompts, self.streamer, self.stopping_criteria = prompts, streamer, stopping_criteria
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.all_finished = False
        self.matches = 0
        if streamer is not None:
            if len(prompts) != 1:
                raise ValueError(f"a streamer shows one row; this batch has {len(prompts)}")
            streamer.put(torch.tensor(prompts))

    def take(self, emitted: Round, finished: Tensor) -> Tensor:
        """Append what a round emitted; returns which rows are finished, those included that a criterion stops."""
        packed = torch.stack(
            [part.long() for part in emitted] + [finished.long().unsqueeze(-1).expand_as(emitted.tokens)]
        )
        tokens, valid, matched, target_nan, draft_nan, done = packed.tolist()  # the round's only wait
        stopped = [flags[0] for flags in done]
        for row in range(len(self.answers)):
            for t in range(sum(valid[row])):
                self._refuse_nan(row, target=target_nan[row][t], draft=draft_nan[row][t])
                self.answers[row].append(tokens[row][t])
                self.matches += matched[row][t]
                if self.streamer is not None:
                    self.streamer.put(torch.tensor(tokens[row][t : t + 1]))
                if self._stopped(row):
                    stopped[row] = 1
                    break
        self.all_finished = all(stopped)
        return torch.tensor(stopped, dtype=torch.bool, device=finished.device)

    def _refuse_nan(self, row: int, *, target: int, draft: int) -> None:
        if target or draft:
            name = "target" if target else "draft"
            raise FloatingPointError(
                f"the {name}'s logits are NaN at answer position {len(self.answers[row])} of row {row}: "
                "load it in bfloat16 or float32, and check its weights"
            )

    def _stopped(self, row: int) -> bool:
        if not self.stopping_criteria:
            return False
        ids = torch.tensor([self.prompts[row] + self.answers[row]])
        outcomes = [criterion(ids, None) for criterion in self.stopping_criteria]
        return any(bool(torch.as_tensor(outcome).any()) for outcome in outcomes)

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()


# ------------------------------------------------------------------------------------------------ inside transformers' generate


def ssd_custom_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    *,
    draft: PreTrainedModel | None = None,
    ssd_config: SSDConfig | None = None,
    ssd_streamer: Any = None,
    draft_input_ids: Tensor | None = None,
    draft_attention_mask: Tensor | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """SSD as `target.generate(…, custom_generate=ssd_custom_generate, draft=draft, ssd_config=…)`.

    Returns prompts and answers as one tensor, padded on the right, as `generate` does. Pass a streamer as
    `ssd_streamer`, since `generate` keeps its own for itself.
    """
    if draft is None:
        raise ValueError(
            "ssd_custom_generate needs the draft model: generate(…, custom_generate=ssd_custom_generate, draft=draft)"
        )
    own = [c for c in stopping_criteria or [] if not isinstance(c, EosTokenCriteria | MaxLengthCriteria)]
    output = ssd_generate(
        model,
        draft,
        input_ids,
        attention_mask=model_kwargs.get("attention_mask"),
        draft_input_ids=draft_input_ids,
        draft_attention_mask=draft_attention_mask,
        config=ssd_config or SSDConfig(),
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        eos_token_id=generation_config.eos_token_id,
        streamer=ssd_streamer,
        stopping_criteria=own,
        trace=False,
    )
    pad = generation_config.pad_token_id
    pad = pad if pad is not None else int(_eos_ids(model, generation_config.eos_token_id)[0])
    answers = torch.nn.utils.rnn.pad_sequence(output.sequences, batch_first=True, padding_value=pad)
    return torch.cat([input_ids, answers.to(input_ids.device)], dim=1)
