"""How a short matrix product is computed on a CPU: chosen by measurement, while a model decodes.

Decoding multiplies weights [out, in] by a few tokens [tokens, in]: one for a draft step, T for a target pass. The weights are
read once in both cases, yet on many processors `F.linear` takes 2 to 3 times as long over 2 to 4 tokens as over one. PyTorch
has other ways to compute the same product, and which is fastest differs by processor, shape and number of tokens:

    as is      F.linear(x, W, b)           what nn.Linear does (MKL, for fp32)
    flipped    (W xᵀ + b)ᵀ                 the same library with the operands exchanged
    onednn     oneDNN's inner product      on the same weights, not repacked

The first products of a kind (shape, dtype, bias, tokens, threads) take the ways one after the other, timed, so that measuring
costs no product beyond those that decoding needs; then the fastest is kept for the process. The ways agree up to rounding. An
answer whose best two tokens tie to the last bits may therefore depend on the way taken, and so on T, as in half precision.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Way = Callable[[Tensor, Tensor, Tensor | None], Tensor]

LONGEST = 32  # tokens of a short product; over longer ones F.linear is as good as any
SMALLEST = 2**16  # elements of a weight worth a choice: below, calling costs more than computing
REPEATS = 3  # timed products a way; the least counts, since other programs only ever add to it
HOPELESS = 1.5  # a way this many times slower than another is not tried again
TIE = 0.95  # F.linear stays unless another way needs less than this share of its time
SWITCH = "SSD_SHORT_PRODUCTS"  # environment variable: "off" leaves every layer as it is


def flipped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[…, in] → […, out] as (W xᵀ + b)ᵀ; rows are made contiguous again, as the next product needs them."""
    columns = x.reshape(-1, x.shape[-1]).T
    product = weight @ columns if bias is None else torch.addmm(bias.unsqueeze(-1), weight, columns)
    return product.T.contiguous().view(*x.shape[:-1], -1)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[…, in] → […, out] by oneDNN, under the name by which torch.compile calls it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


AS_IS = "as is"
WAYS: dict[str, Way] = {AS_IS: F.linear, "flipped": flipped, "onednn": onednn}


class FastestWay:
    """Products of one kind: timed, one way after the other, until the best is known."""

    def __init__(self) -> None:
        self.left = list(WAYS) * (1 + REPEATS)  # the first of each only warms up
        self.seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        self.best: Way | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        name = next(iter(self.left), AS_IS)  # none is left while another thread is about to set the best
        begun = time.thread_time()
        try:
            product = WAYS[name](x, weight, bias)
            self.seconds[name].append(time.thread_time() - begun)
        except (RuntimeError, AttributeError):  # not in this build, or not for this dtype on this processor
            if name == AS_IS:
                raise
            product = F.linear(x, weight, bias)
            self.seconds[name] = [inf, inf]
        self._settle(self.left[1:])
        return product

    def _settle(self, left: list[str]) -> None:
        least = {name: min(seconds[1:], default=0.0) for name, seconds in self.seconds.items()}
        hopeless = HOPELESS * min((value for value in least.values() if value), default=inf)
        self.left = [name for name in left if least[name] <= hopeless and least[name] < inf]
        if not self.left and self.best is None:
            quickest = min(least, key=lambda name: least[name])
            self.best = WAYS[quickest if least[quickest] < TIE * least[AS_IS] else AS_IS]


_kinds: dict[tuple[object, ...], dict[int, FastestWay]] = {}
"""What is known in this process: a choice for every number of tokens, for products that are otherwise alike."""


@contextmanager
def short_products(*models: nn.Module) -> Iterator[None]:
    """While open, the linear layers of these models on a CPU compute short products in the fastest way measured.

    Only `forward` of plain nn.Linear layers with plain weights is replaced, for as long as this is open: quantised layers, a
    layer whose `forward` somebody else has replaced, compiled models and models on a GPU stay as they are, and so does
    everything with gradients or autocast. Weights are neither copied nor moved.
    """
    replaced: list[nn.Linear] = []
    try:
        if os.environ.get(SWITCH) != "off":
            for layer in (layer for model in models if not _compiled(model) for layer in model.modules()):
                if type(layer) is nn.Linear and _plain(layer):
                    replaced.append(layer)
                    layer.forward = _forward(layer)
        yield
    finally:
        for layer in replaced:
            layer.__dict__.pop("forward", None)


def _compiled(model: nn.Module) -> bool:
    """Whether torch.compile works on this model: replacing a layer would compile it again."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules())


def _plain(layer: nn.Linear) -> bool:
    """A layer that computes W x + b on the CPU, nothing else, and is large enough."""
    weight = layer.weight
    return (
        "forward" not in layer.__dict__
        and type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.is_floating_point()
        and weight.is_contiguous()
        and weight.numel() >= SMALLEST
    )


def _forward(layer: nn.Linear) -> Any:
    kind = (*layer.weight.shape, layer.weight.dtype, layer.bias is None, torch.get_num_threads())
    choices, width = _kinds.setdefault(kind, {}), layer.in_features

    def forward(input: Tensor) -> Tensor:  # noqa: A002 (nn.Linear's own name)
        tokens = input.numel() // width
        short = 0 < tokens <= LONGEST and input.is_contiguous()
        if not short or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(input, layer.weight, layer.bias)
        choice = choices.get(tokens) or choices.setdefault(tokens, FastestWay())
        return (choice.best or choice)(input, layer.weight, layer.bias)

    return forward
