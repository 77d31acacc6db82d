"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the public calls.

    propose   p_1 … p_T          T draft forwards
    verify    P_M at T positions  one target forward on [pending, p_1 … p_{T−1}]
    walk      emit, match?, switch; stop after the first token that does not match
    rewind    both caches forget what was not emitted

One such round is in `decoder`, the loop around it in `loop`; here are its fronts: `ssd_generate` for one prompt or many,
`Conversation`, which reads nothing twice, and `ssd_custom_generate` inside transformers' `generate`. Each emitted token is a
function of the prefix and the switching state alone, so the output does not depend on T, nor on who guessed the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import cuda_graph, inputs
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.lookahead import Lookahead, longest_lookahead
from ssd_lib.decoding.loop import Loop
from ssd_lib.decoding.processors import Processors
from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.short_products import short_products
from ssd_lib.decoding.stepwise import StepwiseDecoder
from ssd_lib.method import switching
from ssd_lib.method.trace import Trace
from ssd_lib.models.inference import check_room, eos_ids, generation_settings, positive

Ids = Tensor | Sequence[Sequence[int]]
Graph = bool | Literal["auto"]


@dataclass(frozen=True)
class SSDStats:
    """What a call cost, over all rows. A forward counts once, however many rows it carries."""

    rounds: int
    target_forwards: int
    draft_forwards: int
    tokens: int
    match_ratio: float
    seconds: float
    retracted: int = 0
    """Tokens that were taken back, besides `tokens`."""
    kept: int = 0
    """Tokens of the target's prompt that were in the cache already (`Conversation`)."""
    schedule: tuple[tuple[int, int, int], ...] = ()
    """Of every round: positions that the target scored, draft forwards, and the most tokens that a row emitted."""


@dataclass(frozen=True)
class SSDOutput:
    """The answers' token ids, one 1-D tensor a prompt (an end-of-sequence token included), the trace and the cost."""

    sequences: list[Tensor]
    trace: Trace | None
    stats: SSDStats
    matched: list[int]
    """Of every answer: tokens that were the draft's own proposal, …"""
    retracted: list[int]
    """… and tokens that were taken back, besides."""


def ssd_generate(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    input_ids: Ids,
    *,
    attention_mask: Tensor | None = None,
    draft_input_ids: Ids | None = None,
    draft_attention_mask: Tensor | None = None,
    config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
    max_new_tokens: int = 256,
    rows: int | None = None,
    prefilled: int | Sequence[int] = 0,
    vocab_size: int | None = None,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    generator: torch.Generator | None = None,
    streamer: Any = None,
    stopping_criteria: Any = None,
    cuda_graph: Graph = "auto",
    trace: bool = False,
    progress: bool = False,
) -> SSDOutput:
    """Decode with Speculative Safety-Aware Decoding (arXiv 2508.17739); a batch gives what its prompts alone would.

    Args:
        target: the model to protect; draft: the small, deeply aligned one. Both share a vocabulary.
        input_ids: prompts as lists of ids, or a tensor [rows, length], left-padded where lengths differ (then with
            `attention_mask` [rows, length], 1 for real tokens).
        draft_input_ids: the draft's own prompts, if its template differs; their lengths may differ, too.
        config: settings of the method.
        max_new_tokens: of each answer, at most.
        rows: so many prompts are decoded at once, the others wait for a free row; default: all.
        prefilled: how many of a prompt's last tokens are the answer's (`config.count_prefill`), one number or one each.
        vocab_size: token ids that both models share, where their embeddings are padded to different sizes.
        eos_token_id: one id or several; default: all of the target's generation config.
        generation_config: asks for logits processors, such as a repetition penalty; default: the target's.
        logits_processor: more of them. All work on both models' logits, in view of the target's prompt and the answer.
        generator: random numbers for sampling, on the target's device; default: seeded with `config.seed`.
        streamer: gets the prompt, then tokens as they are settled (one prompt only, as in transformers).
        stopping_criteria: called after every settled token with one answer's ids [1, so far] and None.
        cuda_graph: replay rounds as CUDA graphs: "auto" where that is possible and the answers are long enough to pay.
        trace: record every token; this costs some time.
        progress: a tqdm bar over answers.

    Returns:
        Answers in the order of the prompts, with the trace if one was asked for.

    Raises:
        ValueError, TypeError: before any forward, for a model that cannot be decoded, vocabularies that differ, bad ids or
            padding, batches of different size, a context that is too long, or a graph that cannot be recorded.
        FloatingPointError: for NaN logits, naming model, row and position.
    """
    started = time.perf_counter()
    vocab = inputs.check_models(target, draft, vocab_size)
    prompts = inputs.prompt_lists("input_ids", input_ids, attention_mask, target)
    draft_prompts = prompts
    if draft_input_ids is not None:
        draft_prompts = inputs.prompt_lists("draft_input_ids", draft_input_ids, draft_attention_mask, draft)
    if len(prompts) != len(draft_prompts):
        raise ValueError(
            f"target and draft got batches of different size: {len(prompts)} and {len(draft_prompts)} rows"
        )
    both = (("target", target, prompts), ("draft", draft, draft_prompts))
    for name, model, ids in both:
        check_room(f"the {name}", model, max(map(len, ids)), max_new_tokens)
    given = inputs.one_each("prefilled", prefilled, prompts)
    at_once = min(positive("rows", rows if rows is not None else len(prompts)), len(prompts))
    if streamer is not None and len(prompts) != 1:
        raise ValueError(f"a streamer shows one row; this batch has {len(prompts)}")
    spare = max(max_new_tokens + longest_lookahead(config), config.bin_size)
    with decoding(target, draft):
        models = tuple(CachedModel(m, ids[:at_once], max(map(len, ids)) + spare) for _, m, ids in both)
        texts, eos = [list(prompt) for prompt in prompts], _ends(target, eos_token_id)
        processors = Processors.of(target, generation_config, logits_processor, texts, eos, max_new_tokens)
        options = (config, max_new_tokens, vocab, eos, processors, Recorder(config) if trace else None)
        loop = _loop(models, (prompts, draft_prompts), texts, given, options, generator, cuda_graph)
        loop.streamer, loop.stopping_criteria = streamer, stopping_criteria
        loop.run(progress)
    return _output(loop, started)


@contextmanager
def decoding(*models: PreTrainedModel) -> Iterator[None]:
    """Both models in evaluation mode, without gradients, with short products computed the quickest way; all given back."""
    training = [module for model in models for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(), short_products(*models):
            yield
    finally:
        for module in training:
            module.training = True


def _loop(
    models: Any,
    prompts: tuple[list[list[int]], list[list[int]]],
    texts: list[list[int]],
    prefilled: Sequence[int],
    options: tuple[Any, ...],
    generator: torch.Generator | None = None,
    graph: Graph = "auto",
) -> Loop:
    """The loop before its first round; both models have read the first prompts but for their last tokens."""
    config, max_new_tokens, vocab, eos, processors, recorder = options
    target, draft = models
    device, count = target.device, target.cache.lengths.shape[0]
    if generator is None and config.do_sample and config.seed is not None:
        generator = torch.Generator(device).manual_seed(config.seed)
    on_cpu = target.device.type == "cpu" == draft.device.type
    stepwise = on_cpu and count == 1 and not config.do_sample
    timed = recorder is None and not config.do_sample
    lookahead = Lookahead(config, target.model, draft.model, texts[:count], stepwise=stepwise, timed=timed)
    decoder = (StepwiseDecoder if stepwise else Decoder)(
        target=target,
        draft=draft,
        config=config,
        eos=torch.tensor(eos, dtype=torch.long, device=device),
        max_new_tokens=max_new_tokens,
        vocab=vocab,
        pending=torch.tensor([[ids[-1] for ids in each[:count]] for each in prompts], device=device),
        switch=switching.start(count, config, device),
        finished=torch.zeros(count, dtype=torch.bool, device=device),
        generator=generator,
        processors=processors,
        recorder=recorder,
        indices=list(range(count)),
        clock=lookahead.clock if on_cpu else None,
    )
    return Loop(decoder, lookahead, prompts, texts, prefilled, record_after=_record_after(decoder, graph))


def _ends(target: PreTrainedModel, eos_token_id: Any) -> tuple[int, ...]:
    """Every end-of-sequence id: the given ones, else all of the target's generation config."""
    return generation_settings(target).eos_token_id if eos_token_id is None else eos_ids(eos_token_id)


def _record_after(decoder: Decoder, graph: Graph) -> int | None:
    """Rounds after which they are recorded; None for never. Raises ValueError where recording is asked for in vain."""
    if graph not in (True, False, "auto"):
        raise ValueError(f"cuda_graph must be True, False or 'auto', not {graph!r}")
    why_not = cuda_graph.hindrance(decoder) if graph else None
    if graph is True and why_not:
        raise ValueError(f"cuda_graph=True, but {why_not}: leave it at 'auto'")
    if not graph or why_not:
        return None
    return 0 if graph is True else cuda_graph.PAYS_AFTER


def _output(loop: Loop, started: float, kept: int = 0) -> SSDOutput:
    """Answers, trace and cost of a call that began at `started`."""
    decoder, lengths = loop.decoder, [len(answer) for answer in loop.answers]
    return SSDOutput(
        sequences=[torch.tensor(answer, dtype=torch.long) for answer in loop.answers],
        trace=decoder.recorder.trace(lengths) if decoder.recorder is not None else None,
        stats=SSDStats(
            rounds=len(loop.schedule),
            target_forwards=decoder.target.forwards,
            draft_forwards=decoder.draft.forwards,
            tokens=sum(lengths),
            match_ratio=sum(map(sum, loop.matched)) / max(1, sum(lengths)),
            seconds=time.perf_counter() - started,
            retracted=sum(loop.retracted),
            kept=kept,
            schedule=tuple(loop.schedule),
        ),
        matched=[sum(row) for row in loop.matched],
        retracted=loop.retracted,
    )


# ------------------------------------------------------------------------------------------------ a conversation


class Conversation:
    """Both models with the caches of one conversation of at most `context` tokens a model: nothing is read twice.

    Every turn's prompt begins with the turns before it, whose keys and values both caches still hold. A reply keeps the
    longest beginning that the new prompt shares with what was read, forgets the rest (one number a model) and reads only
    what is new. So an edited or regenerated turn costs no more than what changed.

    Raises ValueError for models that cannot be decoded and vocabularies that differ.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        draft: PreTrainedModel,
        config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
        *,
        context: int = 4096,
        vocab_size: int | None = None,
        cuda_graph: Graph = "auto",
    ):
        self.vocab = inputs.check_models(target, draft, vocab_size)
        self.target, self.draft, self.config = target, draft, config
        self.context, self.graph = positive("context", context), cuda_graph
        self.models: tuple[CachedModel, CachedModel] | None = None
        self.known: tuple[list[int], list[int]] = ([], [])
        """What each model's cache holds."""

    def reply(
        self,
        prompt: Sequence[int],
        draft_prompt: Sequence[int] | None = None,
        *,
        max_new_tokens: int = 256,
        prefilled: int = 0,
        eos_token_id: int | Sequence[int] | None = None,
        streamer: Any = None,
        stopping_criteria: Any = None,
        trace: bool = False,
    ) -> SSDOutput:
        """Answer the whole conversation so far, `prompt` (token ids) for the target and `draft_prompt` for the draft.

        Replies equal those of `ssd_generate`, whose arguments these are. The stats count this turn's forwards alone.

        Raises ValueError for an empty prompt, or one that does not fit the context together with `max_new_tokens`.
        """
        started, given = time.perf_counter(), prompt if draft_prompt is None else draft_prompt
        both = (("target", self.target, prompt), ("draft", self.draft, given))
        prompts = tuple(inputs.prompt_lists(f"the {name}'s prompt", [ids], None, model) for name, model, ids in both)
        for (name, model, _), (ids,) in zip(both, prompts, strict=True):
            check_room(f"the {name}", model, len(ids), max_new_tokens)
            if len(ids) + max_new_tokens > self.context:
                raise ValueError(
                    f"the {name}'s prompt has {len(ids)} tokens; this conversation holds {self.context} with the "
                    f"{max_new_tokens} new ones: shorten it, or make Conversation(context=…) larger"
                )
        known, self.known = self.known, ([], [])  # whatever interrupts a read, nothing is taken for known that is not
        shared = [_shared(before, ids[:-1]) for before, (ids,) in zip(known, prompts, strict=True)]
        loop = None
        try:
            with decoding(self.target, self.draft):
                models, texts = self._read(prompts, shared), [list(prompts[0][0])]
                eos = _ends(self.target, eos_token_id)
                processors = Processors.of(self.target, None, None, texts, eos, max_new_tokens)
                recorder = Recorder(self.config) if trace else None
                options = (self.config, max_new_tokens, self.vocab, eos, processors, recorder)
                loop = _loop(models, prompts, texts, [prefilled], options, graph=self.graph)
                loop.streamer, loop.stopping_criteria = streamer, stopping_criteria
                loop.run()
        finally:
            if loop is not None:
                said = loop.answers[0][:-1]
                self.known = (prompts[0][0] + said, prompts[1][0] + said)
        return _output(loop, started, shared[0])

    def _read(self, prompts: tuple[list[list[int]], ...], shared: list[int]) -> tuple[CachedModel, CachedModel]:
        """Both models with all of their prompts but the last token in the cache; what they share with it is not read."""
        if self.models is None:
            slots = self.context + max(longest_lookahead(self.config), self.config.bin_size)
            first, second = (
                CachedModel(model, ids, slots) for model, ids in zip((self.target, self.draft), prompts, strict=True)
            )
            self.models = (first, second)
            return self.models
        for model, (ids,), kept in zip(self.models, prompts, shared, strict=True):
            model.forwards = 0
            model.replace_row(0, ids, kept=kept)
        return self.models


def _shared(known: list[int], ids: list[int]) -> int:
    """The length of the beginning that two texts share."""
    for place, (one, other) in enumerate(zip(known, ids, strict=False)):
        if one != other:
            return place
    return min(len(known), len(ids))
