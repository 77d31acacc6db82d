"""What `generate` asks of a decoder: honoured as `generate` does it, or refused by name.

`generate` prepares one generation config, one list of processors, one of stopping criteria, and a model's inputs. Whatever SSD
would pass over there changes the answer that the caller expects, so it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ssd_lib.config import SSDConfig
from ssd_lib.models.inference import eos_ids

SERVED = {
    *("max_length", "max_new_tokens", "max_time", "stop_strings", "eos_token_id", "pad_token_id", "bos_token_id"),
    *("min_length", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "watermarking_config", "do_sample", "temperature", "top_k", "top_p"),
    # no effect on what is generated here: how `generate` stores, compiles or ranks what SSD does not have
    *("use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile", "transformers_version"),
    *("early_stopping", "length_penalty", "low_memory", "is_assistant", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
}
"""Options of a generation config that are honoured, or have no meaning here."""
SAMPLING = {"typical_p", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
"""Refused where they have an effect: `generate` itself passes them over in greedy decoding."""
COUNTED = {"attention_mask", "position_ids", "past_key_values", "cache_position"}
"""Inputs that `generate` prepares and that SSD makes for itself."""
ON_THE_COMPOSITE = {TemperatureLogitsWarper: "temperature", TopKLogitsWarper: "top_k", TopPLogitsWarper: "top_p"}
"""What shapes sampling, and its option: done here where both distributions meet."""


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


def refuse_inputs(input_ids: Tensor, mask: Tensor | None, model_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError for inputs of a forward beside ids and mask: positions of the caller's, a cache that is filled, embeddings, images."""
    cache, positions = model_kwargs.get("past_key_values"), model_kwargs.get("position_ids")
    if cache is not None and cache.get_seq_length():
        raise ValueError("SSD keeps caches of its own, and cannot go on with past_key_values: leave them out")
    if isinstance(positions, Tensor) and positions.shape == input_ids.shape:
        real = (torch.ones_like(input_ids) if mask is None else mask).bool()
        if (positions != real.cumsum(1) - 1)[real].any():
            raise ValueError("SSD counts positions from the first token that is not padding: leave position_ids out")
    for name, value in model_kwargs.items():
        filled = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] if name not in COUNTED else []
        if any(name != "token_type_ids" or leaf.any() for leaf in filled):
            raise ValueError(f"SSD decodes token ids alone, and cannot take {name}: leave it out")


class Ends(NamedTuple):
    """Where `generate` lets an answer end."""

    length: int
    """Of prompt and answer, at most."""
    eos_token_id: list[int]
    criteria: list[Any]
    """The others."""


def ends_of(generation_config: GenerationConfig, criteria: Any) -> Ends:
    """The ends that a list of stopping criteria sets. One for length or ids that the caller gave stands in the config's place there."""
    length, eos, others = generation_config.max_length, generation_config.eos_token_id, []
    for each in criteria or ():
        if isinstance(each, MaxLengthCriteria):
            length = each.max_length
        elif isinstance(each, EosTokenCriteria):
            eos = each.eos_token_id
        else:
            others.append(each)
    return Ends(length, list(eos_ids(eos)), others)


def own_processors(model: PreTrainedModel, given: Any, generation_config: GenerationConfig) -> LogitsProcessorList:
    """The caller's processors: the list that `generate` prepared, without those that the generation config asks for.

    Raises ValueError for a temperature or a cut among them, which SSD makes on the composite.
    """
    config = generation_config
    asked = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu", model_kwargs={})  # pyright: ignore
    kinds = [*map(type, asked)]
    for cut, option in ON_THE_COMPOSITE.items():
        if [*map(type, given or ())].count(cut) > kinds.count(cut):
            raise ValueError(f"SSD cannot honour {cut.__name__} as a logits processor: give {option}=")
    return LogitsProcessorList(p for p in given or [] if type(p) not in kinds)


def sampling_settings(config: SSDConfig, generation_config: GenerationConfig) -> SSDConfig:
    """`config`, or where only `generate` was asked to sample, with its temperature, top_k and top_p."""
    if config.do_sample or not generation_config.do_sample:
        return config
    given = {name: getattr(generation_config, name) for name in ON_THE_COMPOSITE.values()}
    return replace(config, do_sample=True, **{name: value for name, value in given.items() if value is not None})
