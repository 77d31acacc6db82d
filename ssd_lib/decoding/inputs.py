"""What a decoder is given, checked before any forward: prompts, masks, vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.decoding.cached_model import check_supported
from ssd_lib.models.inference import positive


def prompt_lists(name: str, ids: Any, mask: Tensor | None, model: PreTrainedModel) -> list[list[int]]:
    """Prompts as lists of ids without padding, from such lists or from a left-padded tensor with its mask.

    Raises ValueError or TypeError for a wrong shape or type, an empty prompt, padding on the right, and ids that the
    model does not have.
    """
    rows = _unpadded(name, ids, mask) if isinstance(ids, Tensor) else [list(row) for row in _sequences(name, ids)]
    if not rows:
        raise ValueError(f"{name} is empty: give at least one prompt")
    width = int(model.get_input_embeddings().weight.size(0))  # pyright: ignore[reportCallIssue]
    for row, prompt in enumerate(rows):
        if not prompt:
            raise ValueError(f"row {row} of {name} is an empty prompt: give it at least one token (BOS, say)")
        for token in prompt:
            if type(token) is not int:
                raise TypeError(f"row {row} of {name} must hold whole numbers, not {token!r}")
            if not 0 <= token < width:
                raise ValueError(f"row {row} of {name} holds the id {token}; this model has ids from 0 to {width - 1}")
    return rows


def _sequences(name: str, ids: Any) -> Sequence[Sequence[int]]:
    if not isinstance(ids, Sequence) or isinstance(ids, str) or any(not isinstance(row, Sequence) for row in ids):
        raise TypeError(f"{name} must be a tensor [rows, length] or a list of lists of ids")
    return ids


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
    """One number for all prompts, or one for each, from 0 to its length. Raises ValueError otherwise."""
    each = [value] * len(prompts) if isinstance(value, int) else list(value)
    if len(each) != len(prompts):
        raise ValueError(f"{name} has {len(each)} numbers for {len(prompts)} prompts: give one for all, or one each")
    for number, prompt in zip(each, prompts, strict=True):
        if type(number) is not int or not 0 <= number <= len(prompt):
            raise ValueError(f"{name} counts tokens of a prompt of {len(prompt)}, so it cannot be {number!r}")
    return each


def check_models(target: PreTrainedModel, draft: PreTrainedModel, vocab_size: int | None = None) -> int:
    """The number of token ids that may be emitted: `vocab_size`, or what both output layers have.

    Raises ValueError for a model that cannot be decoded, and for vocabularies that differ.
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
