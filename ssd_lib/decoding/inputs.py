"""What a call is given, checked before any forward: models, prompts, masks, vocabularies, and a generation config's options.

Any decoder-only transformers model can be decoded whose layers remember keys and values and nothing else: it is called with a
cache, explicit masks and explicit positions, and nothing inside it is replaced. A model that cannot be decoded this way is
refused for what it has, not for its name (`check_supported`).

What else a generation config asks of scores (a repetition penalty, forbidden words, a minimum length) is done by transformers'
own logits processors, on both models' logits, before the softmax, with the same ids: the target's prompt and the answer
(`Processors`). Within a round the guesses before a position belong to these ids, so the output still does not depend on the
lookahead, and a draft that is the target still gives what the target's own `generate` gives. Processors are Python on the CPU,
one call a row and position: such rounds are not recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    cache_utils,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ssd_lib.decoding.kv_cache import mask_functions, mask_kind, token_table
from ssd_lib.models.inference import generation_settings, logits_processors, positive
from ssd_lib.settings import of_kind

NEEDED = ("attention_mask", "position_ids", "past_key_values")  # arguments of a forward
NOTHING = getattr(cache_utils, "DummyLayer", DynamicLayer)  # stores nothing: no attention, or keys of an earlier layer
KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer, NOTHING)

# ------------------------------------------------------------------------------------------------ models


def check_models(target: PreTrainedModel, draft: PreTrainedModel, vocab_size: int | None = None) -> int:
    """The number of token ids that may be emitted: `vocab_size`, or what both output layers have.

    Raises:
        ValueError: For a model that cannot be decoded, and for vocabularies that differ.
    """
    check_supported("target", target)
    check_supported("draft", draft)
    sizes = [model.config.get_text_config().vocab_size for model in (target, draft)]
    if vocab_size is not None:
        if positive("vocab_size", vocab_size) > min(sizes):
            raise ValueError(f"vocab_size is {vocab_size}, but the target has {sizes[0]} ids and the draft {sizes[1]}")
        return vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"target and draft must share one vocabulary: the target has {sizes[0]} tokens, the draft {sizes[1]}. If only "
            "padding differs, pass vocab_size, the number of ids that both tokenizers have"
        )
    return sizes[0]


def check_supported(name: str, model: PreTrainedModel) -> None:
    """Raises ValueError, without a forward, if the model called `name` cannot be decoded with a cache that goes back row by row."""
    of_kind(f"the {name}", model, PreTrainedModel)
    obstacle = next(_obstacles(model), None)
    if obstacle is not None:
        raise ValueError(
            f"the {name} cannot be decoded: {type(model).__name__} (model_type {model.config.model_type!r}) {obstacle}. "
            "Any decoder-only model will do that takes `position_ids` and a 4-D mask and whose only memory is keys and values"
        )


def _obstacles(model: PreTrainedModel) -> Iterator[str]:
    """Why a model cannot be decoded, one reason each; of most models none."""
    config, modules = model.config.get_text_config(decoder=True), list(model.modules())
    if model.config.is_encoder_decoder:
        yield "is an encoder-decoder"
    if model.get_output_embeddings() is None:
        yield "has no output layer: load it with AutoModelForCausalLM"
    if getattr(model, "_is_stateful", False):
        yield "keeps a state that is no key/value cache and cannot go back"
    arguments = inspect.signature(type(model).forward).parameters
    missing = [argument for argument in NEEDED if argument not in arguments]
    if missing:
        yield f"takes no `{missing[0]}`, so it cannot know what each row of a batch has read"
    if getattr(config, "alibi", False):
        yield "reads positions off its attention mask (alibi)"
    if _attends_to_both_sides(config, modules):
        yield "attends to both sides, not to the past alone: set `is_decoder=True` in its configuration, if it was trained so"
    if any(_starts_after_padding(module) for module in modules):
        yield "counts positions from its padding index, so that explicit ones would be shifted"
    if any(_is_own_mask(buffer) for module in modules for buffer in module.buffers(recurse=False)):
        yield "has a causal mask of its own inside its attention"
    yield from _wrong_layers(config)
    if mask_kind(config) is None:
        yield (
            f"uses the attention implementation {config._attn_implementation!r}, which takes no explicit mask: "
            "load it with attn_implementation='sdpa' or 'eager'"
        )


def _wrong_layers(config: PreTrainedConfig) -> Iterator[str]:
    """Layers whose memory or whose mask is not among what is known."""
    try:
        for layer in DynamicCache(config=config).layers:
            if type(layer) not in KEYS_AND_VALUES:
                yield f"has layers ({type(layer).__name__}) whose state is no key/value cache and cannot go back"
        mask_functions(config)
    except KeyError as unknown:
        yield f"has layers of the type {unknown}, for which there is no cache"
    except (ValueError, RuntimeError) as unknown:  # RuntimeError: windows that differ from layer to layer
        yield str(unknown)


def _attends_to_both_sides(config: PreTrainedConfig, modules: Sequence[torch.nn.Module]) -> bool:
    """Whether it is an encoder that is not set to be a decoder; a vision tower, of another configuration, may look both ways."""
    of_text = [vars(module) for module in modules if type(vars(module).get("config", config)) is type(config)]
    return any(fields.get(flag) is False for fields in of_text for flag in ("is_causal", "is_decoder"))


def _starts_after_padding(module: torch.nn.Module) -> bool:
    table = module._modules.get("position_embeddings")
    return isinstance(table, torch.nn.Embedding) and table.padding_idx is not None


def _is_own_mask(buffer: Tensor) -> bool:
    return buffer.ndim == 4 and buffer.shape[-1] == buffer.shape[-2] > 1


# ------------------------------------------------------------------------------------------------ prompts


def prompt_lists(name: str, ids: Any, mask: Tensor | None, model: PreTrainedModel) -> list[list[int]]:
    """Prompts as lists of ids without padding, from such lists or from a left-padded tensor with its mask.

    Raises:
        ValueError: For a wrong shape, an empty prompt, padding on the right, or an id that the model does not have.
        TypeError: For what holds no whole numbers.
    """
    if isinstance(ids, Tensor):
        rows = _unpadded(name, ids, mask)
    elif isinstance(ids, Sequence) and not isinstance(ids, str) and all(isinstance(row, Sequence) for row in ids):
        rows = [list(row) for row in ids]
    else:
        raise TypeError(f"{name} must be a tensor [rows, length] or a list of lists of ids")
    if not rows:
        raise ValueError(f"{name} is empty: give at least one prompt")
    width = token_table(model).shape[0]
    for row, prompt in enumerate(rows):
        if not prompt:
            raise ValueError(f"row {row} of {name} is an empty prompt: give it at least one token (BOS, say)")
        for token in prompt:
            if type(token) is not int:
                raise TypeError(f"row {row} of {name} must hold whole numbers, not {token!r}")
            if not 0 <= token < width:
                raise ValueError(f"row {row} of {name} holds the id {token}; this model has ids from 0 to {width - 1}")
    return rows


def _unpadded(name: str, ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    if ids.ndim != 2 or ids.shape[0] == 0:
        raise ValueError(f"{name} must have shape [rows, length], not {list(ids.shape)}")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must hold whole numbers, not {ids.dtype}")
    if mask is None:
        return ids.tolist()
    if mask.shape != ids.shape:
        raise ValueError(
            f"the attention mask of {name} has shape {list(mask.shape)}, the ids {list(ids.shape)}: they must agree"
        )
    real = mask.bool().cpu()
    if not bool((real.int().diff(dim=1) >= 0).all()):
        raise ValueError(f"{name} must be padded on the left: pass padding_side='left' to the tokenizer")
    return [row[:, None][keep].flatten().tolist() for row, keep in zip(ids.cpu(), real, strict=True)]


def one_each(name: str, value: int | Sequence[int], prompts: Sequence[Sequence[int]]) -> list[int]:
    """One number for all prompts, or one for each, from 0 to its length. Raises ValueError otherwise, TypeError for another type."""
    of_kind(name, value, int, Sequence)
    each = [value] * len(prompts) if isinstance(value, int) else list(value)
    if len(each) != len(prompts):
        raise ValueError(f"{name} has {len(each)} numbers for {len(prompts)} prompts: give one for all, or one each")
    for number, prompt in zip(each, prompts, strict=True):
        if type(number) is not int or not 0 <= number <= len(prompt):
            raise ValueError(f"{name} counts tokens of a prompt of {len(prompt)}, so it cannot be {number!r}")
    return each


def check_listeners(streamer: Any, stopping_criteria: Any, logits_processor: Any = None) -> None:
    """Raise TypeError for a streamer that takes no tokens, and for criteria and processors that cannot be asked."""
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"streamer has the methods put and end of transformers' streamers, unlike {streamer!r:.80}")
    criteria = ("stopping_criteria", "a stopping criterion", stopping_criteria)
    for name, one, given in (criteria, ("logits_processor", "a logits processor", logits_processor)):
        if given is not None:
            of_kind(name, given, list, tuple)
        for each in given or ():
            if not callable(each):
                raise TypeError(f"{one} is a function of ids and scores, not {each!r:.80}")


# ------------------------------------------------------------------------------------------------ logits processors


class Processors:
    """Processors of every prompt, and every prompt's ids so far (the caller appends to these lists)."""

    def __init__(self, lists: Sequence[LogitsProcessorList], texts: Sequence[list[int]]):
        self.lists, self.texts = lists, texts

    @classmethod
    def of(
        cls,
        target: PreTrainedModel,
        generation_config: GenerationConfig | None,
        own: LogitsProcessorList | None,
        texts: Sequence[list[int]],
        eos: Sequence[int],
        max_new_tokens: int,
    ) -> Processors | None:
        """What a generation config (default: the target's) asks for, made by transformers for each prompt, and the caller's own.

        None where nothing is asked for.
        """
        settings, lists = generation_settings(target, generation_config), []
        for text in texts:
            asked = logits_processors(
                target, settings, len(text), eos, prompt_ids=torch.tensor([text]), max_new_tokens=max_new_tokens
            )
            lists.append(LogitsProcessorList([*asked, *(own or ())]))
        return cls(lists, texts) if any(lists) else None

    def __call__(
        self,
        logits: Float[Tensor, "rows new width"],
        guessed: Sequence[Int[Tensor, "rows some"]],
        indices: Sequence[int],
        again: int = 0,
    ) -> Float[Tensor, "rows new width"]:
        """Processed logits; `guessed` are the round's tokens before the last position, `indices` each row's prompt.

        Args:
            logits: [rows, new, width].
            guessed: The tokens, [rows, some] each.
            indices: The prompt that each row answers.
            again: How many last tokens of the texts are read once more, as `guessed` and the token after it.
        """
        new, processed = logits.shape[1], logits.clone()
        after = torch.cat([part.cpu() for part in guessed], dim=1).tolist() if guessed else [[] for _ in indices]
        for row, index in enumerate(indices):
            text = self.texts[index][: len(self.texts[index]) - again]
            for place in range(new):
                ids = text + after[row][: len(after[row]) - new + 1 + place]
                so_far, scores = torch.tensor([ids], device=logits.device), logits[row, place].unsqueeze(0)
                processed[row, place] = _applied(self.lists[index], so_far, scores)
        return processed


def _applied(processors: LogitsProcessorList, ids: Tensor, scores: Tensor) -> Tensor:
    """One place's scores after all processors. Raises ValueError where they are no scores any more."""
    # transformers' stub wants a LongTensor, which no tensor is an instance of
    after: Any = processors(ids, scores)  # pyright: ignore[reportArgumentType]
    if not isinstance(after, Tensor) or after.shape != scores.shape:
        got = list(after.shape) if isinstance(after, Tensor) else f"{after!r:.80}"
        kinds = ", ".join(getattr(each, "__name__", type(each).__name__) for each in processors)
        raise ValueError(f"logits processors ({kinds}) must return scores of the shape {list(scores.shape)}, not {got}")
    return after[0]
