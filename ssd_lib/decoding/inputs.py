"""What a decoder is given, checked before any forward: prompts, masks, vocabularies, room, end-of-sequence ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.decoding.cached_model import check_supported, context_of


def aligned_left(name: str, ids: Tensor, mask: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
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


def check_models(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    check_supported("target", target), check_supported("draft", draft)
    sizes = [model.config.get_text_config().vocab_size for model in (target, draft)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"target and draft must share one vocabulary: the target has {sizes[0]} tokens, the draft {sizes[1]}"
        )


def check_room(name: str, model: PreTrainedModel, prompt: int, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    context = context_of(model)
    if context is not None and prompt + max_new_tokens > context:
        advice = f"at most {context - prompt} new tokens fit" if prompt < context else "shorten the prompt"
        raise ValueError(
            f"the {name}'s context holds {context} tokens; {prompt} of prompt and {max_new_tokens} new ones do not fit: {advice}"
        )


def eos_ids(target: PreTrainedModel, eos_token_id: int | Sequence[int] | Tensor | None) -> Tensor:
    """Every end-of-sequence id: the given ones, else all of the generation config."""
    given: Any = eos_token_id
    if given is None and target.generation_config is not None:
        given = target.generation_config.eos_token_id
    ids = [] if given is None else torch.as_tensor(given).reshape(-1).tolist()
    return torch.tensor(ids, dtype=torch.long)
