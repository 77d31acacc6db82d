"""PRESTO, "prefill attention stopping" (Vega & Singh 2025, arXiv 2512.05518): a draft that looks away from a prefill.

A draft that refuses at any depth gives the refusal nearly all probability, but leaves the next harmful token high in the
*ranking*, where RAP finds it (`ssd_lib.attacks.rap`). PRESTO, by RAP's authors, makes the model say after a harmful beginning
what it says where nothing was prefilled. With λ = `Stage.presto` the loss has, for every token t of the
harmful beginning h_{≤k} and of the refusal,

    + λ (1/L) Σ_{layers, heads} ( attention of t to h_{≤k}  −  attention of t to all else  +  1 )

Of the paper itself only the abstract and reviews could be read (they say that this difference is its equation 3, in an
earlier version, and that the weight is not given); the rest is `deep_safety_alignment.py` of
github.com/uiuc-focal-lab/push-forward-alignment, commit e551767: the + 1 that makes 0 the least value, the sum over
heads, the mean over L layers, λ = 1, and that all terms are divided by the number of tokens that carry any.

The embedded draft, trained on for 300 steps with λ = 1, spends 7% of its attention there instead of 37% (37% without λ), RAP
against it alone gets none of the facts (24 questions; before .02, without λ .01), and utility and match ratio stay.
Against SSD it changes nothing (.86): Union holds the target's top c, whatever the draft thinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from transformers.loss.loss_utils import ForCausalLMLoss

IGNORED = -100  # the label that cross-entropy skips
PREFILLED = -101  # the label of a harmful beginning


def presto_loss(weight: float) -> Callable[..., Tensor]:
    """The Trainer's loss: cross-entropy and `weight` × PRESTO's term, over the number of tokens that carry either."""

    def loss(outputs: Any, labels: Int[Tensor, "rows length"], num_items_in_batch: Any = None) -> Tensor:
        items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        learned = labels.masked_fill(labels == PREFILLED, IGNORED)
        spoken = ForCausalLMLoss(outputs.logits, learned, outputs.logits.shape[-1], num_items_in_batch=items)
        return spoken + weight * prefill_attention(outputs.attentions, labels) / items

    return loss


def prefill_attention(
    attentions: Sequence[Float[Tensor, "rows heads length length"] | None] | None, labels: Int[Tensor, "rows length"]
) -> Float[Tensor, ""]:
    """PRESTO's term before its weight, summed over rows and over the tokens of harmful beginning and refusal.

    A row of attention sums to 1: what goes to the beginning, less what goes elsewhere, plus 1, is twice the former.

    Raises:
        ValueError: For a model that returns no attention weights.
    """
    shown = [layer for layer in attentions or () if layer is not None]
    if not shown:
        raise ValueError("PRESTO needs attention weights, and this model returns none: train it without --presto")
    prefill = labels == PREFILLED
    answer = (labels != IGNORED) & prefill.any(dim=1, keepdim=True)
    shares = [(layer.float() * prefill[:, None, None, :]).sum(dim=-1) for layer in shown]
    return 2 * torch.stack([(share * answer[:, None, :]).sum() for share in shares]).mean()


class PrestoTrainer(Trainer):
    """A Trainer whose loss function also gets the attention weights."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        return super().compute_loss(model, inputs | {"output_attentions": True}, *args, **options)


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention as plain products: the other implementations do not compute the weights."""
    before = cast(str, model.config._attn_implementation)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
