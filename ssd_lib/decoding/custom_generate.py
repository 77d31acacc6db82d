"""SSD inside transformers' `generate`: `target.generate(…, custom_generate=ssd_custom_generate, draft=draft)`.

What a generation config or the caller asks for is honoured as `generate` does it, or refused by name: logits processors work on
both models' logits (`processors`), sampling takes temperature, top_k and top_p (these two on the composite), everything that
is another way to decode is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.logits_process import (
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.generate import ssd_generate
from ssd_lib.models.inference import eos_ids

SERVED = {
    *("max_length", "max_new_tokens", "max_time", "stop_strings", "eos_token_id", "pad_token_id", "bos_token_id"),
    *("min_length", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "watermarking_config", "do_sample", "temperature", "top_k", "top_p"),
    # without effect on what is generated here: how `generate` stores, compiles or ranks what SSD does not have
    *("use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile", "transformers_version"),
    *("early_stopping", "length_penalty", "low_memory", "is_assistant", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
}
"""Options of a generation config that are honoured, or have nothing to say here."""
SAMPLING = {"typical_p", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
"""Refused where they have an effect: `generate` itself passes them over in greedy decoding."""
ON_THE_COMPOSITE = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)


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

    Returns prompts and answers as one tensor, padded on the right, as `generate` does. Pass a streamer as
    `ssd_streamer`, since `generate` keeps its own for itself. `do_sample=True` samples with `generate`'s temperature, top_k
    and top_p unless `ssd_config` samples itself.

    Raises ValueError for a missing draft and for options that SSD cannot honour, naming them.
    """
    if draft is None:
        raise ValueError(
            "ssd_custom_generate needs the draft model: generate(…, custom_generate=ssd_custom_generate, draft=draft)"
        )
    refuse_unserved(generation_config, input_ids)
    shaping = copy.deepcopy(generation_config)
    shaping.stop_strings = None  # a stopping criterion by now
    mask = model_kwargs.get("attention_mask")
    processors = own_processors(model, logits_processor, generation_config)
    if len(input_ids) > 1 and any(isinstance(p, PrefixConstrainedLogitsProcessor) for p in processors):
        raise ValueError("prefix_allowed_tokens_fn counts the rows of a batch, which SSD decodes apart: give one row")
    output = ssd_generate(
        model,
        draft,
        input_ids,
        attention_mask=mask,
        draft_input_ids=draft_input_ids,
        draft_attention_mask=draft_attention_mask,
        config=sampling_settings(ssd_config or SSDConfig(), generation_config),
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        prefilled=prefilled,
        vocab_size=vocab_size,
        eos_token_id=generation_config.eos_token_id if generation_config.eos_token_id is not None else [],
        generation_config=shaping,
        logits_processor=processors,
        streamer=ssd_streamer,
        stopping_criteria=[
            c for c in stopping_criteria or [] if not isinstance(c, EosTokenCriteria | MaxLengthCriteria)
        ],
    )
    pad = generation_config.pad_token_id
    pad = pad if pad is not None else eos_ids(generation_config.eos_token_id)[0]
    answers = torch.nn.utils.rnn.pad_sequence(output.sequences, batch_first=True, padding_value=pad)
    return torch.cat([input_ids, answers.to(input_ids.device)], dim=1)


def refuse_unserved(generation_config: GenerationConfig, input_ids: Tensor) -> None:
    """Raise ValueError for options that SSD cannot honour; each would change what `generate` returns."""
    defaults = GenerationConfig._get_default_generation_params()
    passed_over = SERVED | (set() if generation_config.do_sample else SAMPLING)
    asked = {
        name: value
        for name in GenerationConfig().to_dict()
        if name not in passed_over
        and not name.startswith("_")
        and (value := getattr(generation_config, name, None)) not in (None, False, defaults.get(name))
    }
    if asked:
        options = ", ".join(f"{name}={value!r}" for name, value in asked.items())
        raise ValueError(f"SSD cannot honour {options}: leave it out, or generate without custom_generate")
    if not input_ids.shape[1]:
        raise ValueError("SSD decodes token ids: pass input_ids, not inputs_embeds")


def own_processors(model: PreTrainedModel, given: Any, generation_config: GenerationConfig) -> LogitsProcessorList:
    """The caller's processors: the list that `generate` prepared, without those that the generation config asks for."""
    config = generation_config
    asked = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu", model_kwargs={})  # pyright: ignore
    kinds = {*map(type, asked), *ON_THE_COMPOSITE}
    return LogitsProcessorList(p for p in given or [] if type(p) not in kinds)


def sampling_settings(config: SSDConfig, generation_config: GenerationConfig) -> SSDConfig:
    """`config`, or where only `generate` was asked to sample, with its temperature, top_k and top_p."""
    if config.do_sample or not generation_config.do_sample:
        return config
    given = {name: getattr(generation_config, name) for name in ("temperature", "top_k", "top_p")}
    return replace(config, do_sample=True, **{name: value for name, value in given.items() if value is not None})
