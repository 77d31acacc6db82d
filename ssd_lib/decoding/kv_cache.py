"""A model that goes on from its own KV cache, which can go back, row by row.

Rows of a batch accept different numbers of tokens, so each row has its own length. New keys are written at
`keys[row, :, length[row] : length[row] + q]`, an explicit mask hides every slot beyond a token's own position, and a
rejection is one subtraction, `length -= rejected`, for all rows at once: no copy, no wait for the CPU, fixed shapes.

Slot and position are the same thing here: row i's tokens sit at slots 0 … length_i − 1, whatever padding the prompt had. So
transformers' own mask functions, of the positions of a query and of a key, serve as they are. Layers may see all of the past,
a window or a chunk of it; masks are one for each kind of layer, as transformers builds them. Prompts are read in chunks, so
that masks and activations of a long prompt stay small.

Keys are stored heads first, [rows, heads, slots, size], as attention reads them; the tokens of all rows are written by one
`index_copy_` of lines of `size` numbers. Lengths change in place: a recorded CUDA graph and views of single rows see it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel, masking_utils
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING

CHUNK = 512  # prompt tokens read in one forward
VISIBLE_STEP = 64  # the attended part of the cache grows in steps of so many slots
MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""(row, head, query's position, key's position) → may attend: transformers' annotations say int, its masks pass tensors."""


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, slots, size], allocated on the layer's own device at its first use."""

    def __init__(self, cache: RowCache):
        super().__init__()
        self._cache = weakref.ref(cache)  # in a cycle, memory would wait for Python's garbage collector

    @property
    def cache(self) -> RowCache:
        """The cache that this is a layer of."""
        cache = self._cache()
        assert cache is not None
        return cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, slots = self.cache.lengths.shape[0], self.cache.slots
        self.keys, self.values = (
            like.new_zeros(rows, like.shape[1], slots, like.shape[3]) for like in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "rows heads new key_size"],
        value_states: Float[Tensor, "rows value_heads new value_size"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values after each row's length; return what may be attended to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            lines = self.cache.lines(new.shape[1], new.device)
            stored.view(-1, stored.shape[-1]).index_copy_(0, lines, new.flatten(0, 2))
        return self.keys[:, :, : self.cache.visible], self.values[:, :, : self.cache.visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.visible, 0

    def get_seq_length(self) -> int:
        return 0  # lengths differ by row and stay on the device; masks and positions are always explicit

    def get_max_length(self) -> int:
        return self.cache.slots


class RowCache(Cache):
    """The cache of one model: `layers` layers of `slots` slots, and one length a row."""

    def __init__(self, layers: int, rows: int, slots: int, device: torch.device | str):
        self.row_layers = [RowLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.row_layers))
        self.slots = slots
        self.visible = slots
        self.lengths: Int[Tensor, " rows"] = torch.zeros(rows, dtype=torch.long, device=device)
        self.numbers = torch.arange(slots, device=device)
        self.next: Int[Tensor, "rows new"] = self.positions(0)
        self.line_numbers: dict[tuple[int, torch.device], Int[Tensor, " rows_x_heads_x_new"]] = {}

    def positions(self, new: int) -> Int[Tensor, "rows {new}"]:
        """Positions (and slots) of the next `new` tokens of every row."""
        return self.lengths.unsqueeze(-1) + self.numbers[:new]

    def mask(
        self, positions: Int[Tensor, "rows new"], may_attend: MaskFunction = masking_utils.causal_mask_function
    ) -> Bool[Tensor, "rows 1 new visible"]:
        """Which slots tokens at these positions may attend to: by default all up to their own."""
        return may_attend(0, 0, positions[:, None, :, None], self.numbers[: self.visible])

    def prepare(self, new: int) -> Int[Tensor, "rows {new}"]:
        """The next `new` tokens of every row are about to be written; returns their positions."""
        self.next, self.line_numbers = self.positions(new), {}
        return self.next

    def lines(self, heads: int, device: torch.device) -> Int[Tensor, " rows_x_heads_x_new"]:
        """Where the next tokens go in a layer of so many heads, a line a row, head and token; counted once a forward."""
        if (heads, device) not in self.line_numbers:
            firsts = torch.arange(self.lengths.shape[0] * heads, device=self.next.device) * self.slots
            lines = firsts.view(-1, heads, 1) + self.next.unsqueeze(1)
            self.line_numbers[heads, device] = lines.flatten().to(device)
        return self.line_numbers[heads, device]

    def advance(self, new: int | Int[Tensor, " rows"]) -> None:
        """The tokens just written count from now on."""
        self.lengths += new

    def rewind(self, rejected: int | Int[Tensor, " rows"]) -> None:
        """Forget the last `rejected` tokens of every row; their slots will be overwritten."""
        self.lengths -= rejected if isinstance(rejected, int) else rejected.to(self.lengths.device)

    def show_up_to(self, used: int) -> None:
        """Attend to the first `used` slots only (rounded up): what follows is empty for every row."""
        self.visible = min(self.slots, -(-used // VISIBLE_STEP) * VISIBLE_STEP)

    def row(self, index: int) -> RowCache:
        """One row as a cache of its own: a view, so what is written there is written here.

        Raises:
            ValueError: Before the first forward, when there is nothing to look at yet.
        """
        if not any(layer.is_initialized for layer in self.row_layers):
            raise ValueError("a row of an empty cache cannot be viewed: run a forward first")
        view = RowCache(len(self.row_layers), 1, self.slots, self.lengths.device)
        view.visible, view.lengths = self.visible, self.lengths[index : index + 1]
        for own, other in zip(view.row_layers, self.row_layers, strict=True):
            if other.keys is not None and other.values is not None:  # some layers use the keys of an earlier one
                own.keys, own.values = other.keys[index : index + 1], other.values[index : index + 1]
                own.is_initialized = True
        return view

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Only these rows stay, in ascending order: what was read moves up in place, where it has to move."""
        self.lengths = self.lengths[rows.to(self.lengths.device)]
        to = torch.arange(len(rows), device=rows.device)
        moved, to = rows[rows != to], to[rows != to]
        for layer in self.row_layers:
            if layer.keys is not None and layer.values is not None:
                for stored in (layer.keys, layer.values):
                    here, there = to.to(stored.device), moved.to(stored.device)
                    stored[here, :, : self.visible] = stored[there, :, : self.visible]
                layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]


# ------------------------------------------------------------------------------------------------ masks


def mask_kind(config: PreTrainedConfig) -> str | None:
    """boolean | additive, as the model's attention takes it; None if it takes no mask of values."""
    kinds = {masking_utils.sdpa_mask: "boolean", masking_utils.eager_mask: "additive"}
    return kinds.get(ALL_MASK_ATTENTION_FUNCTIONS.get(config._attn_implementation))


class LayerMask(NamedTuple):
    """What layers of one kind may attend to: the past, or only what of it lies within `reach` (a window, a chunk)."""

    may_attend: MaskFunction
    reach: float


PAST = LayerMask(masking_utils.causal_mask_function, math.inf)


def mask_functions(config: PreTrainedConfig) -> dict[str | None, LayerMask]:
    """The mask of each type of layer, or one for all under None: as transformers' `create_masks_for_generate` decides it.

    Raises:
        ValueError: For a layer type that has no mask of keys and values.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return {kind: _layer_mask(kind, config) for kind in sorted(set(kinds))}
    options = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
    given = (kind for option, kind in options.items() if getattr(config, option, None) is not None)
    return {None: _layer_mask(next(given, "full_attention"), config)}


def _layer_mask(kind: str, config: PreTrainedConfig) -> LayerMask:
    built = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING.get(kind)
    if built is masking_utils.create_causal_mask:
        return PAST
    if built is masking_utils.create_sliding_window_causal_mask and (window := config.sliding_window) is not None:
        return LayerMask(masking_utils.sliding_window_causal_mask_function(window), window)
    if built is masking_utils.create_chunked_causal_mask and (size := config.attention_chunk_size) is not None:
        return LayerMask(masking_utils.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long)), size)
    raise ValueError(f"has layers of the type {kind!r}, for which no mask of keys and values is known")


# ------------------------------------------------------------------------------------------------ the model


def token_table(model: PreTrainedModel) -> Tensor:
    """The embedding matrix, [ids, size], which lies where token ids are read."""
    return cast(Tensor, model.get_input_embeddings().weight)


class CachedModel:
    """A model and the cache of what it has read.

    All prompts are read at once, except their last tokens, which stay pending.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], slots: int):
        self.model, self.device, self.forwards = model, token_table(model).device, 0
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
        """Logits (fp32) after the last `logits_to_keep` of these tokens (0: all), which are written after each row's length.

        Args:
            tokens: [rows, new].
            logits_to_keep: After how many of the last tokens logits are wanted; 0: after all.
            cache: A view of one row, for tokens of that row alone.
        """
        cache = self.cache if cache is None else cache
        positions = cache.prepare(tokens.shape[1])
        self.forwards += 1
        return self.call(tokens, self.masks(positions, cache), positions, cache, logits_to_keep).float()

    def masks(self, positions: Int[Tensor, "rows new"], cache: RowCache) -> Tensor | dict[str, Tensor]:
        """What tokens at these positions may attend to: one mask for all layers, or one by type of layer."""
        # A reach beyond what is visible is all of the past, so that such layers share its mask.
        visible = {kind: each if each.reach < cache.visible else PAST for kind, each in self.layer_masks.items()}
        made = {layers: self.mask(positions, cache, layers) for layers in dict.fromkeys(visible.values())}
        if None in visible:
            return made[visible[None]]
        return {kind: made[layers] for kind, layers in visible.items() if kind is not None}

    def mask(self, positions: Int[Tensor, "rows new"], cache: RowCache, layers: LayerMask) -> Tensor:
        """What these layers may attend to, as the model wants it: true, or 0 where the rest is added as minus infinity."""
        may, dtype = cache.mask(positions, layers.may_attend), self.model.dtype
        return (~may).to(dtype) * torch.finfo(dtype).min if self.additive_mask else may

    def call(
        self, tokens: Tensor, mask: Tensor | dict[str, Tensor], positions: Tensor, cache: RowCache, logits_to_keep: int
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
        """A row forgets all but its first `kept` tokens and reads the rest of another prompt, except its last token."""
        view = self.cache.row(row)
        view.lengths.fill_(kept)
        self.read(view, torch.tensor([list(prompt[kept:-1])], dtype=torch.long, device=self.device), kept)
