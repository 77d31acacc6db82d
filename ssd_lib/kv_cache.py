"""A static KV cache that can go back, row by row.

Rows of a batch accept different numbers of tokens, so each row has its own length. New keys are written at
`keys[row, :, length[row] : length[row] + q]`, an explicit mask hides every slot beyond a token's own position, and a
rejection is one subtraction, `length -= rejected`, for all rows at once: no copy, no host sync, fixed shapes.

Slot and position are the same thing here: row i's tokens sit at slots 0 … length_i − 1, whatever padding the prompt had.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

VISIBLE_STEP = 64  # the attended part of the cache grows in steps of so many slots


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, slots, size], allocated on the layer's own device at its first use."""

    def __init__(self, cache: RowCache):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def room(like: Tensor) -> Tensor:
            rows, heads, _, size = like.shape
            return torch.zeros(rows, heads, self.cache.slots, size, dtype=like.dtype, device=like.device)

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
        rows = torch.arange(key_states.shape[0], device=key_states.device).unsqueeze(-1)
        slots = self.cache.positions(key_states.shape[2]).to(key_states.device)
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
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
        super().__init__(layers=[RowLayer(self) for _ in range(layers)])
        self.slots = slots
        self.visible = slots
        self.lengths: Int[Tensor, " rows"] = torch.zeros(rows, dtype=torch.long, device=device)

    def positions(self, new: int) -> Int[Tensor, "rows {new}"]:
        """Positions (and slots) of the next `new` tokens of every row."""
        return self.lengths.unsqueeze(-1) + torch.arange(new, device=self.lengths.device)

    def mask(self, new: int) -> Bool[Tensor, "rows 1 {new} visible"]:
        """Which slots the next `new` tokens may attend to: those up to their own."""
        slots = torch.arange(self.visible, device=self.lengths.device)
        return slots <= self.positions(new)[:, None, :, None]

    def advance(self, new: int | Int[Tensor, " rows"]) -> None:
        """The tokens just written count from now on."""
        self.lengths = self.lengths + new

    def rewind(self, rejected: Int[Tensor, " rows"]) -> None:
        """Forget the last `rejected` tokens of every row; their slots will be written over."""
        self.lengths = self.lengths - rejected.to(self.lengths.device)

    def show_up_to(self, used: int) -> None:
        """Attend to the first `used` slots only (rounded up): what lies behind is empty for every row."""
        self.visible = min(self.slots, -(-used // VISIBLE_STEP) * VISIBLE_STEP)
