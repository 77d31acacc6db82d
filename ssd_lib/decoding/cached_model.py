"""A causal language model that continues its own cache.

Any transformers model will do: it is called with a cache, an explicit mask and explicit positions, nothing inside it is
replaced. Prompts are read in chunks, so that the mask and the activations of a long prompt stay small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.kv_cache import RowCache

CHUNK = 512  # prompt tokens read in one forward


class CachedModel:
    """A model and the cache of what it has read.

    All rows' prompts but their last token, which stays pending, are read at once.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], slots: int):
        self.model, self.device, self.forwards = model, model.get_input_embeddings().weight.device, 0
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = RowCache(layers, len(prompts), slots, self.device)
        self.additive_mask = model.config._attn_implementation == "eager"
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
        mask = cache.mask(positions)
        if self.additive_mask:
            mask = (~mask).to(self.model.dtype) * torch.finfo(self.model.dtype).min
        self.forwards += 1
        return self.call(tokens, mask, positions, cache, logits_to_keep).float()

    def call(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: RowCache, logits_to_keep: int
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
