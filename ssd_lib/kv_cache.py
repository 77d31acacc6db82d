"""A static KV cache that can go back, row by row.

Rows of a batch accept different numbers of tokens, so each row has its own length. New keys are written at
`keys[row, length[row] : length[row] + q]`, an explicit mask hides every slot beyond a token's own position, and a
rejection is one subtraction, `length -= rejected`, for all rows at once: no copy, no host sync, fixed shapes.

Slot and position are the same thing here: row i's tokens sit at slots 0 … length_i − 1, whatever padding the prompt had.
Keys are stored [rows, slots, heads, size], so that the tokens of all rows are written by one `index_copy_` of whole
lines; attention reads a transposed view. Lengths change in place: a recorded CUDA graph and views of single rows see it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

VISIBLE_STEP = 64  # the attended part of the cache grows in steps of so many slots


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, slots, heads, size], allocated on the layer's own device at its first use."""

    def __init__(self, cache: RowCache):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def room(like: Tensor) -> Tensor:
            _, heads, _, size = like.shape
            rows = self.cache.lengths.shape[0]
            return torch.zeros(rows, self.cache.slots, heads, size, dtype=like.dtype, device=like.device)

        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "rows heads new size"],
        value_states: Float[Tensor, "rows heads new size"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind each row's length; return what may be attended to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        places = self.cache.places.to(key_states.device)
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            lines = new.transpose(1, 2).flatten(0, 1)
            stored.view(-1, *stored.shape[2:]).index_copy_(0, places, lines)
        return self._visible(self.keys), self._visible(self.values)

    def _visible(self, stored: Tensor) -> Tensor:
        return stored[:, : self.cache.visible].transpose(1, 2)

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
        self.places: Int[Tensor, " rows_x_new"] = self.lengths
        self.numbers = torch.arange(slots, device=device)

    def positions(self, new: int) -> Int[Tensor, "rows {new}"]:
        """Positions (and slots) of the next `new` tokens of every row."""
        return self.lengths.unsqueeze(-1) + self.numbers[:new]

    def mask(self, positions: Int[Tensor, "rows new"]) -> Bool[Tensor, "rows 1 new visible"]:
        """Which slots tokens at these positions may attend to: those up to their own."""
        return self.numbers[: self.visible] <= positions[:, None, :, None]

    def prepare(self, new: int) -> Int[Tensor, "rows {new}"]:
        """Decide, once for all layers, where the next `new` tokens of every row are written; returns their positions."""
        positions, rows = self.positions(new), self.lengths.shape[0]
        if rows == 1:
            self.places = positions[0]
        else:
            first_slot = torch.arange(0, rows * self.slots, self.slots, device=positions.device)
            self.places = (positions + first_slot.unsqueeze(-1)).flatten()
        return positions

    def advance(self, new: int | Int[Tensor, " rows"]) -> None:
        """The tokens just written count from now on."""
        self.lengths += new

    def rewind(self, rejected: int | Int[Tensor, " rows"]) -> None:
        """Forget the last `rejected` tokens of every row; their slots will be written over."""
        self.lengths -= rejected if isinstance(rejected, int) else rejected.to(self.lengths.device)

    def show_up_to(self, used: int) -> None:
        """Attend to the first `used` slots only (rounded up): what lies behind is empty for every row."""
        self.visible = min(self.slots, -(-used // VISIBLE_STEP) * VISIBLE_STEP)

    def row(self, index: int) -> RowCache:
        """One row as a cache of its own: a view, so what is written there is written here.

        Raises ValueError before the first forward, when there is nothing to look at yet.
        """
        if not all(layer.is_initialized for layer in self.row_layers):
            raise ValueError("a row of an empty cache cannot be viewed: run a forward first")
        view = RowCache(len(self.row_layers), 1, self.slots, self.lengths.device)
        view.visible, view.lengths = self.visible, self.lengths[index : index + 1]
        for own, other in zip(view.row_layers, self.row_layers, strict=True):
            assert other.keys is not None and other.values is not None
            own.keys, own.values = other.keys[index : index + 1], other.values[index : index + 1]
            own.is_initialized = True
        return view

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Only these rows stay, in this order; one copy, so to be called seldom."""
        self.lengths = self.lengths[rows.to(self.lengths.device)]
        for layer in self.row_layers:
            if layer.keys is not None and layer.values is not None:
                at = rows.to(layer.keys.device)
                layer.keys, layer.values = layer.keys[at], layer.values[at]
