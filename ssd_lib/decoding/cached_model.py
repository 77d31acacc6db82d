"""A causal language model that continues its own cache.

Any decoder-only transformers model will do whose layers remember keys and values and nothing else: it is called with a cache,
explicit masks and explicit positions, nothing inside it is replaced. Layers may see all of the past, a window or a chunk of it;
masks are one for each kind of layer, as transformers builds them. What cannot be served so is refused before any forward, by
what the model has (`check_supported`). Prompts are read in chunks, so that masks and activations of a long prompt stay small.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, cache_utils, masking_utils
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING

from ssd_lib.decoding.kv_cache import MaskFunction, RowCache

CHUNK = 512  # prompt tokens read in one forward
NEEDED = ("attention_mask", "position_ids", "past_key_values")  # arguments of a forward
NOTHING = getattr(cache_utils, "DummyLayer", DynamicLayer)  # stores nothing: no attention, or keys of an earlier layer
KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer, NOTHING)


# ------------------------------------------------------------------------------------------------ what a model must have


def check_supported(name: str, model: PreTrainedModel) -> None:
    """Raises ValueError, without a forward, if the model called `name` cannot be decoded with a cache that goes back row by row."""
    obstacle = next(_obstacles(model), None)
    if obstacle is not None:
        raise ValueError(
            f"the {name} cannot be decoded: {type(model).__name__} (model_type {model.config.model_type!r}) {obstacle}. "
            "Any decoder-only model will do that takes `position_ids` and a 4-D mask and whose only memory is keys and values"
        )


def _obstacles(model: PreTrainedModel) -> Iterator[str]:
    """Why a model cannot be served, by what it has; most models: nothing."""
    config, modules = model.config.get_text_config(decoder=True), list(model.modules())
    if model.config.is_encoder_decoder:
        yield "is an encoder-decoder"
    if getattr(model, "_is_stateful", False):
        yield "keeps a state that is no key/value cache and cannot go back"
    arguments = inspect.signature(type(model).forward).parameters
    missing = [argument for argument in NEEDED if argument not in arguments]
    if missing:
        yield f"takes no `{missing[0]}`: it cannot be told what each row of a batch has read"
    if getattr(config, "alibi", False):
        yield "reads positions off its attention mask (alibi)"
    if _attends_to_both_sides(config, modules):
        yield "attends to both sides, not to the past alone: set `is_decoder=True` in its configuration, if it was trained so"
    if any(_starts_behind_padding(module) for module in modules):
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
    """An encoder that was not told to be a decoder; a vision tower, of another configuration, may look both ways."""
    of_text = [vars(module) for module in modules if type(vars(module).get("config", config)) is type(config)]
    return any(fields.get(flag) is False for fields in of_text for flag in ("is_causal", "is_decoder"))


def _starts_behind_padding(module: torch.nn.Module) -> bool:
    table = module._modules.get("position_embeddings")
    return isinstance(table, torch.nn.Embedding) and table.padding_idx is not None


def _is_own_mask(buffer: Tensor) -> bool:
    return buffer.ndim == 4 and buffer.shape[-1] == buffer.shape[-2] > 1


def mask_kind(config: PreTrainedConfig) -> str | None:
    """boolean | additive, as the model's attention takes it; None if it takes no mask of values."""
    kinds = {masking_utils.sdpa_mask: "boolean", masking_utils.eager_mask: "additive"}
    return kinds.get(ALL_MASK_ATTENTION_FUNCTIONS.get(config._attn_implementation))


# ------------------------------------------------------------------------------------------------ masks


class LayerMask(NamedTuple):
    """What layers of one kind may attend to: the past, or only what of it lies within `reach` (a window, a chunk)."""

    may_attend: MaskFunction
    reach: float


PAST = LayerMask(masking_utils.causal_mask_function, math.inf)


def visible_to(layers: LayerMask, cache: RowCache) -> LayerMask:
    """A reach beyond what is visible is all of the past, so that such layers share its mask."""
    return layers if layers.reach < cache.visible else PAST


def mask_functions(config: PreTrainedConfig) -> dict[str, LayerMask] | LayerMask:
    """One mask for all layers, or one for each type of layer: as transformers' `create_masks_for_generate` decides it.

    Raises ValueError for a layer type that has no mask of keys and values.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return {kind: _layer_mask(kind, config) for kind in sorted(set(kinds))}
    if getattr(config, "sliding_window", None) is not None:
        return _layer_mask("sliding_attention", config)
    if getattr(config, "attention_chunk_size", None) is not None:
        return _layer_mask("chunked_attention", config)
    return _layer_mask("full_attention", config)


def _layer_mask(kind: str, config: PreTrainedConfig) -> LayerMask:
    built = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING.get(kind)
    if built is masking_utils.create_causal_mask:
        return PAST
    if built is masking_utils.create_sliding_window_causal_mask and (window := config.sliding_window) is not None:
        return LayerMask(masking_utils.sliding_window_causal_mask_function(window), window)
    if built is masking_utils.create_chunked_causal_mask and (size := config.attention_chunk_size) is not None:
        return LayerMask(masking_utils.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long)), size)
    raise ValueError(f"has layers of the type {kind!r}, for which no mask of keys and values is known")


# ------------------------------------------------------------------------------------------------ the model and its cache


class CachedModel:
    """A model and the cache of what it has read.

    All rows' prompts but their last token, which stays pending, are read at once.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], slots: int):
        self.model, self.device, self.forwards = model, model.get_input_embeddings().weight.device, 0
        config = model.config.get_text_config(decoder=True)
        self.cache = RowCache(len(DynamicCache(config=config)), len(prompts), slots, self.device)
        self.layer_masks, self.additive_mask = mask_functions(config), mask_kind(config) == "additive"
        longest = max(map(len, prompts)) - 1
        ids = torch.tensor([[*prompt[:-1], *[0] * (longest + 1 - len(prompt))] for prompt in prompts], dtype=torch.long)
        self.read(self.cache, ids.to(self.device))
        self.cache.lengths.copy_(torch.tensor([len(prompt) - 1 for prompt in prompts]))

    def forward(
        self, tokens: Int[Tensor, "rows new"], logits_to_keep: int = 0, cache: RowCache | None = None
    ) -> Float[Tensor, "rows kept vocab"]:
        """Logits (fp32) after the last `logits_to_keep` of these tokens (0: all), which are written behind each row's length.

        cache: a view of one row, for tokens of that row alone.
        """
        cache = self.cache if cache is None else cache
        positions = cache.prepare(tokens.shape[1])
        self.forwards += 1
        return self.call(tokens, self.masks(positions, cache), positions, cache, logits_to_keep).float()

    def masks(self, positions: Int[Tensor, "rows new"], cache: RowCache) -> Tensor | dict[str, Tensor]:
        """What tokens at these positions may attend to: one mask for all layers, or one by type of layer."""
        if isinstance(self.layer_masks, LayerMask):
            return self.mask(positions, cache, visible_to(self.layer_masks, cache))
        visible = {kind: visible_to(layers, cache) for kind, layers in self.layer_masks.items()}
        made = {layers: self.mask(positions, cache, layers) for layers in dict.fromkeys(visible.values())}
        return {kind: made[layers] for kind, layers in visible.items()}

    def mask(self, positions: Int[Tensor, "rows new"], cache: RowCache, layers: LayerMask) -> Tensor:
        """What these layers may attend to, as the model wants it: true, or 0 where the rest is added as minus infinity."""
        may, dtype = cache.mask(positions, layers.may_attend), self.model.dtype
        return (~may).to(dtype) * torch.finfo(dtype).min if self.additive_mask else may

    def call(
        self,
        tokens: Tensor,
        mask: Tensor | dict[str, Tensor],
        positions: Tensor,
        cache: RowCache,
        logits_to_keep: int,
    ) -> Float[Tensor, "rows kept vocab"]:
        """The model itself."""
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits

    def read(self, cache: RowCache, tokens: Int[Tensor, "rows length"], start: int = 0) -> None:
        """Read prompt tokens into a cache that holds `start` tokens in every row, chunk by chunk; every row advances."""
        for begin in range(0, tokens.shape[1], CHUNK):
            chunk = tokens[:, begin : begin + CHUNK]
            cache.show_up_to(start + begin + chunk.shape[1])
            self.forward(chunk, logits_to_keep=1, cache=cache)
            cache.advance(chunk.shape[1])

    def replace_row(self, row: int, prompt: Sequence[int], kept: int = 0) -> None:
        """A row forgets all but its first `kept` tokens and reads the rest of another prompt, but for its last token."""
        view = self.cache.row(row)
        view.lengths.fill_(kept)
        self.read(view, torch.tensor([list(prompt[kept:-1])], dtype=torch.long, device=self.device), kept)
