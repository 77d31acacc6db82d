"""A static KV cache that can go back, row by row.

Rows of a batch accept different numbers of tokens, so each row has its own length. New keys are written at
`keys[row, :, length[row] : length[row] + q]`, an explicit mask hides every slot beyond a token's own position, and a
rejection is one subtraction, `length -= rejected`, for all rows at once: no copy, no host sync, fixed shapes.

Slot and position are the same thing here: row i's tokens sit at slots 0 … length_i − 1, whatever padding the prompt had. So
transformers' own mask functions, of the positions of a query and of a key, serve as they are.
Keys are stored heads first, [rows, heads, slots, size], as attention reads them; the tokens of all rows are written by one
`index_copy_` of lines of `size` numbers. Lengths change in place: a recorded CUDA graph and views of single rows see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import causal_mask_function

VISIBLE_STEP = 64  # the attended part of the cache grows in steps of so many slots
MaskFunction = Callable[
    [Any, Any, Tensor, Tensor], Tensor
]  # (row, head, query's position, key's position) → may attend


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, slots, size], allocated on the layer's own device at its first use."""

    def __init__(self, cache: RowCache):
        super().__init__()
        self.cache = cache

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
        self, positions: Int[Tensor, "rows new"], may_attend: MaskFunction = causal_mask_function
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
        """Forget the last `rejected` tokens of every row; their slots will be written over."""
        self.lengths -= rejected if isinstance(rejected, int) else rejected.to(self.lengths.device)

    def show_up_to(self, used: int) -> None:
        """Attend to the first `used` slots only (rounded up): what lies behind is empty for every row."""
        self.visible = min(self.slots, -(-used // VISIBLE_STEP) * VISIBLE_STEP)

    def row(self, index: int) -> RowCache:
        """One row as a cache of its own: a view, so what is written there is written here.

        Raises ValueError before the first forward, when there is nothing to look at yet.
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
