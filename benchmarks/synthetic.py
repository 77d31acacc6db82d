"""A pair of random models of any shape whose match ratio is exactly what you ask for: to measure speed.

Speed depends on the shapes of the two models and on how often they agree, not on what they say. Here the attention and
feed-forward branches are scaled to almost nothing, so that the next token depends on the last one alone, while every weight
is still read and multiplied. Every token x has a random feature z_x; a model with map f predicts f(x) after x:

    embedding of x = z_x A        output row of f(x) = z_x A        logit of y after x  ∝  z_x · z_{f⁻¹(y)}

with A a projection of the features to the model's width. The target's f is one cycle through the vocabulary. The draft's map
differs from it on a chosen share of tokens, exactly that share within any `BLOCK` successive ones, so an answer of n tokens
has the match ratio that was asked for to within a block. The draft is less sure than the target (its favourite has
probability `DRAFT_TOP`): then the target's choice wins in both schemes, and switching runs as it does with real models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

BLOCK = 20  # tokens over which the match ratio is exact
STRIDE = 7  # blocks between the beginnings of two rows
FEATURES = 64  # components of z: enough to distinguish 128,256 random features
BRANCH = 1e-4  # standard deviation of the weights that close a residual branch
TARGET_SCALE = 30.0  # logit of the target's favourite: it has nearly all the mass
DRAFT_TOP = 0.15  # probability of the draft's favourite, small enough that α_U P_m(p) < (1 − α_U) P_M(f)


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int = 8192


PAIRS: dict[str, tuple[Shape, Shape]] = {
    "micro": (Shape(64, 3, 4, 2, 96, 512), Shape(64, 1, 4, 2, 96, 512)),
    # 110 M and 16 M weights: the cost ratio (0.14) and the relation of widths are those of Llama-2-7B and TinyLlama.
    "120m": (Shape(768, 12, 12, 12, 2048, 32000), Shape(384, 2, 6, 6, 1024, 32000)),
    # The same target with a draft of its own width: 38.7 M weights, most of them output matrix.
    "120m-wide": (Shape(768, 12, 12, 12, 2048, 32000), Shape(768, 2, 12, 12, 2048, 32000)),
    "120m-llama3-vocabulary": (Shape(768, 12, 12, 12, 2048, 128256), Shape(384, 2, 6, 6, 1024, 128256)),
    "llama2-7b": (Shape(4096, 32, 32, 32, 11008, 32000), Shape(2048, 22, 32, 4, 5632, 32000)),
}


def synthetic_pair(
    shapes: str | tuple[Shape, Shape] = "120m",
    match_ratio: float = 0.8,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Target and draft with this match ratio.

    Args:
        shapes: A name of `PAIRS`, or two shapes with one vocabulary.
        match_ratio: The share of tokens on which both agree.
        dtype: Of the weights.
        device: Where they are made.
        seed: Of the weights and of the maps.

    Raises:
        ValueError: For an unknown name, vocabularies that differ, or a match ratio outside 0 … 1.
    """
    if isinstance(shapes, str) and shapes not in PAIRS:
        raise ValueError(f"unknown shapes {shapes!r}: choose one of {', '.join(PAIRS)}, or give two shapes")
    target_shape, draft_shape = PAIRS[shapes] if isinstance(shapes, str) else shapes
    if target_shape.vocabulary != draft_shape.vocabulary:
        raise ValueError(f"one vocabulary for both: {target_shape.vocabulary} and {draft_shape.vocabulary} differ")
    if not 0 <= match_ratio <= 1:
        raise ValueError(f"a match ratio lies between 0 and 1, not {match_ratio!r}")
    target, draft = (
        _random_llama(shape, dtype, device, seed + i) for i, shape in enumerate((target_shape, draft_shape))
    )
    set_match_ratio(target, draft, match_ratio, seed=seed)
    return target, draft


@torch.no_grad()
def set_match_ratio(target: PreTrainedModel, draft: PreTrainedModel, match_ratio: float, *, seed: int = 0) -> None:
    """Give a synthetic pair another match ratio: only embeddings and output matrices change, in place."""
    vocabulary = target.config.get_text_config().vocab_size
    orbit, places = _orbit(vocabulary, seed)
    differs = places < round((1 - match_ratio) * BLOCK)
    features = torch.randn(vocabulary, FEATURES, generator=torch.Generator().manual_seed(seed))
    features = torch.nn.functional.normalize(features, dim=-1)
    following = torch.empty(vocabulary, dtype=torch.long)
    following[orbit] = orbit.roll(-1)
    proposed = following.clone()
    elsewhere = orbit[differs]
    proposed[elsewhere] = following[elsewhere].roll(1)  # no token keeps its successor, and none is predicted twice
    _write(target, features, following, TARGET_SCALE)
    _write(draft, features, proposed, _scale_for(DRAFT_TOP, features))


@torch.no_grad()
def set_alternating(
    target: PreTrainedModel, draft: PreTrainedModel, matches: Sequence[bool], *, seed: int = 0
) -> Int[Tensor, "1 b"]:
    """Make a synthetic pair at its worst for `retract`, in place: bins of Intersection match as `matches` says, all of Union match.

    Token p < b stands at place p of a bin, token b + p too. After either the target is sure of p + 1, and the draft of the same
    where `matches[p + 1]`, else of b + p + 1. In Intersection the target's favourite wins, in Union the draft's.

    Returns:
        The prompt after which the first bin begins.
    """
    vocabulary, size = target.config.get_text_config().vocab_size, len(matches)
    features = torch.randn(vocabulary, FEATURES, generator=torch.Generator().manual_seed(seed))
    features = torch.nn.functional.normalize(features, dim=-1)
    following = torch.arange(vocabulary)  # a token that does not occur follows itself
    following[: 2 * size] = torch.arange(1, size + 1).remainder(size).repeat(2)
    proposed = following.clone()
    proposed[: 2 * size] += size * ~torch.tensor(matches)[following[: 2 * size]]
    _write(target, features, following, TARGET_SCALE)
    _write(draft, features, proposed, TARGET_SCALE)
    return torch.arange(size).unsqueeze(0)


def synthetic_prompt(vocabulary: int, length: int, *, row: int = 0, seed: int = 0) -> Int[Tensor, "1 length"]:
    """A prompt of a synthetic pair: a part of the orbit that ends with the first token of a block, another for every row.

    From there on the share of matches is exact for every `BLOCK` answer tokens.
    """
    orbit, _ = _orbit(vocabulary, seed)
    first = BLOCK * (STRIDE * row % (vocabulary // BLOCK))
    return orbit.roll(length - 1 - first)[:length].unsqueeze(0)


def _orbit(vocabulary: int, seed: int) -> tuple[Int[Tensor, " vocab"], Int[Tensor, " vocab"]]:
    """One cycle through all tokens, and the place of each in a shuffle of its block."""
    generator = torch.Generator().manual_seed(seed)
    orbit = torch.randperm(vocabulary, generator=generator)
    places = torch.rand(-(-vocabulary // BLOCK), BLOCK, generator=generator).argsort(dim=1)
    return orbit, places.flatten()[:vocabulary]


def _scale_for(top: float, features: Tensor) -> float:
    """The scale of the logits at which the favourite has this probability, found by halving on a few tokens."""
    similar = features[:64] @ features.T
    low, high = 1.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        sure = (middle * similar).softmax(-1).amax(-1).mean() > top
        low, high = (low, middle) if sure else (middle, high)
    return high


def _random_llama(shape: Shape, dtype: torch.dtype, device: torch.device | str, seed: int) -> PreTrainedModel:
    """Random weights everywhere, drawn on the device itself; residual branches end in almost nothing."""
    settings: dict[str, Any] = dict(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1)
            else:
                closes = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(std=BRANCH if closes else shape.hidden**-0.5, generator=generator)
    return model


def _write(model: PreTrainedModel, features: Tensor, following: Tensor, scale: float) -> None:
    """Embeddings z_x A, and output rows that send x to `following[x]` with logits scale · z_x · z_y."""
    output_matrix = model.get_output_embeddings()
    assert output_matrix is not None
    table, head = model.get_input_embeddings().weight, output_matrix.weight
    assert isinstance(table, Tensor) and isinstance(head, Tensor)
    width = table.shape[1]
    projection = torch.linalg.qr(torch.randn(width, FEATURES, generator=torch.Generator().manual_seed(width)))[0].T
    lifted = features @ projection  # unit length, for z is and A is orthonormal
    table.copy_(lifted * width**0.5)  # the last norm divides by the root mean square, 1 here
    output = torch.zeros_like(lifted)
    output.index_add_(0, following.to(output.device), lifted * (scale / width**0.5))
    head.copy_(output)
