"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the public calls.

`ssd_generate` for one prompt or many, `Conversation`, which reads nothing twice, and `ssd_custom_generate` inside transformers'
`generate`: fronts of one `Loop` over rounds (`decoder`). Each emitted token is a function of the prefix and the switching state
alone, so the output depends neither on T nor on who guessed the tokens.

Inside `generate`, what a generation config or the caller asks for is honoured as `generate` does it, or refused by name: logits
processors work on both models' logits (`inputs.Processors`), sampling takes temperature, top_k and top_p (the last two on the
composite), and every other way to decode is refused.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import asked, inputs
from ssd_lib.decoding.cuda_graph import Graph
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.lookahead import longest_lookahead
from ssd_lib.decoding.loop import Criterion, Loop, SSDOutput
from ssd_lib.decoding.short_products import short_products
from ssd_lib.models.inference import check_room, eos_ids, positive
from ssd_lib.settings import of_kind

Ids = Tensor | Sequence[Sequence[int]]


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
    stopping_criteria: Sequence[Criterion] | None = None,
    cuda_graph: Graph = "auto",
    trace: bool = False,
    progress: bool = False,
) -> SSDOutput:
    """Decode with Speculative Safety-Aware Decoding (arXiv 2508.17739); a batch gives what its prompts alone would.

    Args:
        target: The model to protect.
        draft: The small, deeply aligned model. Both share a vocabulary.
        input_ids: The target's prompts, as lists of ids or as a tensor [rows, length], left-padded where lengths differ.
        attention_mask: [rows, length], 1 for real tokens; needed with a padded tensor.
        draft_input_ids: The draft's own prompts, if its template differs; their lengths may differ, too.
        draft_attention_mask: The same for the draft's prompts.
        config: Settings of the method.
        max_new_tokens: Tokens of each answer, at most.
        rows: How many prompts are decoded at once; the others wait for a free row. Default: all.
        prefilled: How many of a prompt's last tokens are the answer's (`config.count_prefill`), one number or one each.
        vocab_size: Token ids that both models share, where their embeddings are padded to different sizes.
        eos_token_id: One id or several. Default: all of the target's generation config.
        generation_config: Asks for logits processors, such as a repetition penalty. Default: the target's.
        logits_processor: More of them. All work on both models' logits, in view of the target's prompt and the answer.
        generator: Random numbers for sampling, on the target's device. Default: seeded with `config.seed`.
        streamer: Gets the prompt, then tokens as they are settled (one prompt only, as in transformers).
        stopping_criteria: Called after every settled token with one answer's ids [1, so far] and None.
        cuda_graph: Replay rounds as CUDA graphs: "auto" where that is possible and the answers are long enough to pay.
        trace: Record every token; this costs some time.
        progress: Show a tqdm bar over answers.

    Returns:
        Answers in the order of the prompts, with the trace if one was asked for.

    Raises:
        ValueError: Before any forward, for a model that cannot be decoded, vocabularies that differ, bad ids or padding,
            batches of different size, a context that is too long, or a graph that cannot be recorded.
        TypeError: Before any forward, for prompts or ids of another type.
        FloatingPointError: For NaN logits, naming model, row and position.
    """
    started = time.perf_counter()
    vocab = inputs.check_models(target, draft, vocab_size)
    of_kind("config", config, SSDConfig)
    prompts = inputs.prompt_lists("input_ids", input_ids, attention_mask, target)
    if draft_input_ids is not None:
        draft_prompts = inputs.prompt_lists("draft_input_ids", draft_input_ids, draft_attention_mask, draft)
    else:
        draft_prompts = inputs.prompt_lists("input_ids, read by the draft,", prompts, None, draft)
    if len(prompts) != len(draft_prompts):
        raise ValueError(
            f"target and draft got batches of different size: {len(prompts)} and {len(draft_prompts)} rows"
        )
    both = (("target", target, prompts), ("draft", draft, draft_prompts))
    for name, model, ids in both:
        check_room(f"the {name}", model, max(map(len, ids)), max_new_tokens)
    given = inputs.one_each("prefilled", prefilled, prompts)
    inputs.check_listeners(streamer, stopping_criteria, logits_processor)
    at_once = min(positive("rows", rows if rows is not None else len(prompts)), len(prompts))
    if streamer is not None and len(prompts) != 1:
        raise ValueError(f"a streamer shows one row; this batch has {len(prompts)}")
    spare = max_new_tokens + max(
        longest_lookahead(config), config.bin_size
    )  # a waiting prompt's prefill is read in all rows
    with decoding(target, draft):
        first, second = (CachedModel(m, ids[:at_once], max(map(len, ids)) + spare) for _, m, ids in both)
        loop = Loop(
            (first, second),
            (prompts, draft_prompts),
            config,
            vocab=vocab,
            max_new_tokens=max_new_tokens,
            prefilled=given,
            eos_token_id=eos_token_id,
            generation_config=generation_config,
            logits_processor=logits_processor,
            generator=generator,
            streamer=streamer,
            stopping_criteria=stopping_criteria,
            cuda_graph=cuda_graph,
            trace=trace,
        )
        loop.run(progress)
    return loop.output(started)


@contextmanager
def decoding(*models: PreTrainedModel) -> Iterator[None]:
    """Both models in evaluation mode, without gradients, with short products computed the quickest way; afterwards as before."""
    training = [module for model in models for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(), short_products(*models):
            yield
    finally:
        for module in training:
            module.training = True


# ------------------------------------------------------------------------------------------------ a conversation


class Conversation:
    """Both models with the caches of one conversation: nothing is read twice.

    Every turn's prompt begins with the turns before it, whose keys and values both caches still hold. A reply keeps the
    longest beginning that the new prompt shares with what was read, forgets the rest (one number a model) and reads only
    what is new. So an edited or regenerated turn costs no more than what changed.

    Args:
        target: The model to protect.
        draft: The small, deeply aligned model. Both share a vocabulary.
        config: Settings of the method.
        context: Tokens that each model's cache holds, prompt and answer together.
        vocab_size: As for `ssd_generate`.
        cuda_graph: As for `ssd_generate`.

    Raises:
        ValueError: For models that cannot be decoded, and for vocabularies that differ.
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
        of_kind("config", config, SSDConfig)
        self.target, self.draft, self.config = target, draft, config
        self.context = positive("context", context)
        self.graph: Graph = cuda_graph
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
        stopping_criteria: Sequence[Criterion] | None = None,
        trace: bool = False,
    ) -> SSDOutput:
        """Answer the whole conversation so far. The other arguments, and the reply, are those of `ssd_generate`.

        Args:
            prompt: The conversation as the target's token ids.
            draft_prompt: The same as the draft's token ids, if its template differs.

        Returns:
            One answer. The stats count this turn's forwards alone.

        Raises:
            ValueError: For an empty prompt, or one that does not fit into the context together with `max_new_tokens`.
            TypeError: As for `ssd_generate`.
            FloatingPointError: For NaN logits.
        """
        started, given = time.perf_counter(), prompt if draft_prompt is None else draft_prompt
        inputs.check_listeners(streamer, stopping_criteria)
        both = (("target", self.target, prompt), ("draft", self.draft, given))
        first, second = (inputs.prompt_lists(f"the {name}'s prompt", [ids], None, model) for name, model, ids in both)
        prompts = (first, second)
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
                loop = Loop(
                    self._read(prompts, shared),
                    prompts,
                    self.config,
                    vocab=self.vocab,
                    max_new_tokens=max_new_tokens,
                    prefilled=[prefilled],
                    eos_token_id=eos_token_id,
                    streamer=streamer,
                    stopping_criteria=stopping_criteria,
                    cuda_graph=self.graph,
                    trace=trace,
                )
                loop.run()
                return loop.output(started, shared[0])
        finally:
            if loop is not None:
                said = loop.buffers[0].answer[:-1]
                self.known = (prompts[0][0] + said, prompts[1][0] + said)

    def _read(self, prompts: tuple[list[list[int]], ...], shared: list[int]) -> tuple[CachedModel, CachedModel]:
        """Both models with all of their prompts but the last token in the cache; what they share with it is not read."""
        if self.models is None:
            slots = self.context + max(longest_lookahead(self.config), self.config.bin_size)
            self.models = CachedModel(self.target, prompts[0], slots), CachedModel(self.draft, prompts[1], slots)
            return self.models
        for model, (ids,), kept in zip(self.models, prompts, shared, strict=True):
            model.forwards = 0
            model.replace_row(0, ids, kept=kept)
        return self.models


def _shared(known: list[int], ids: list[int]) -> int:
    """The length of the beginning that two texts share."""
    differ = (place for place, (one, other) in enumerate(zip(known, ids, strict=False)) if one != other)
    return next(differ, min(len(known), len(ids)))


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
    prefilled: int | Sequence[int] = 0,
    vocab_size: int | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """SSD as `target.generate(…, custom_generate=ssd_custom_generate, draft=draft, ssd_config=…)`.

    Args:
        model: The target; this and the next four are what `generate` passes on.
        input_ids: The target's prompts, [rows, length].
        logits_processor: As for `ssd_generate`.
        stopping_criteria: As for `ssd_generate`.
        generation_config: `do_sample=True` samples with its temperature, top_k and top_p, unless `ssd_config` samples itself.
        draft: The small, deeply aligned model.
        ssd_config: Settings of the method. Default: the paper's.
        ssd_streamer: A streamer, under this name since `generate` keeps its own for itself.
        draft_input_ids: As for `ssd_generate`.
        draft_attention_mask: As for `ssd_generate`.
        prefilled: As for `ssd_generate`.
        vocab_size: As for `ssd_generate`.
        model_kwargs: What else `generate` prepares, `attention_mask` among it.

    Returns:
        Prompts and answers, [rows, longest], padded on the right, as `generate` gives them.

    Raises:
        ValueError: For a missing draft, for options that SSD cannot honour, naming them, and as `ssd_generate`.
    """
    if draft is None:
        raise ValueError(
            "ssd_custom_generate needs the draft model: generate(…, custom_generate=ssd_custom_generate, draft=draft)"
        )
    mask = model_kwargs.get("attention_mask")
    asked.refuse_unserved(generation_config, input_ids)
    asked.refuse_inputs(input_ids, mask, model_kwargs)
    ends = asked.ends_of(generation_config, stopping_criteria)
    shaping = copy.deepcopy(generation_config)
    shaping.stop_strings = None  # a stopping criterion by now
    processors = asked.own_processors(model, logits_processor, generation_config)
    if len(input_ids) > 1 and any(isinstance(p, PrefixConstrainedLogitsProcessor) for p in processors):
        raise ValueError("prefix_allowed_tokens_fn counts the rows of a batch, which SSD decodes apart: give one row")
    output = ssd_generate(
        model,
        draft,
        input_ids,
        attention_mask=mask,
        draft_input_ids=draft_input_ids,
        draft_attention_mask=draft_attention_mask,
        config=asked.sampling_settings(ssd_config or SSDConfig(), generation_config),
        max_new_tokens=ends.length - input_ids.shape[1],
        prefilled=prefilled,
        vocab_size=vocab_size,
        eos_token_id=ends.eos_token_id,
        generation_config=shaping,
        logits_processor=processors,
        streamer=ssd_streamer,
        stopping_criteria=ends.criteria,
    )
    pads = (generation_config.pad_token_id, *eos_ids(generation_config.eos_token_id), 0)
    pad = next(token for token in pads if token is not None)
    answers = torch.nn.utils.rnn.pad_sequence(output.sequences, batch_first=True, padding_value=pad)
    return torch.cat([input_ids, answers.to(input_ids.device)], dim=1)
