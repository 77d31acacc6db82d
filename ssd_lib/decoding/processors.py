"""What else a generation config asks of scores: transformers' own logits processors, on both models' logits.

A processor (a repetition penalty, forbidden words, a least length) changes a position's logits in view of the ids so far. SSD
applies it to target and draft alike, before the softmax, with the same ids: the target's prompt and the answer. Within a
round the guesses before a position belong to these ids, so the output still does not depend on the lookahead, and a draft
that is the target still gives what the target's own `generate` gives. Processors are Python on the host, one call a row
and position: such rounds are not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from ssd_lib.models.inference import generation_settings, logits_processors


class Processors:
    """Processors of every prompt, and every prompt's ids so far (the caller appends to these lists)."""

    def __init__(self, lists: Sequence[LogitsProcessorList], texts: Sequence[list[int]]):
        self.lists, self.texts = lists, texts

    @classmethod
    def of(
        cls,
        target: PreTrainedModel,
        generation_config: GenerationConfig | None,
        own: LogitsProcessorList | None,
        texts: Sequence[list[int]],
        eos: Sequence[int],
        max_new_tokens: int,
    ) -> Processors | None:
        """What a generation config (default: the target's) asks for, made by transformers for each prompt, and the caller's own.

        None where nothing is asked for.
        """
        settings = generation_settings(target, generation_config)
        options = dict(eos_token_id=eos, max_new_tokens=max_new_tokens)
        lists = []
        for text in texts:
            asked = logits_processors(target, settings, len(text), prompt_ids=torch.tensor([text]), **options)
            lists.append(LogitsProcessorList([*asked, *(own or ())]))
        return cls(lists, texts) if any(lists) else None

    def __call__(
        self,
        logits: Float[Tensor, "rows new width"],
        guessed: Sequence[Int[Tensor, "rows some"]],
        indices: Sequence[int],
        again: int = 0,
    ) -> Float[Tensor, "rows new width"]:
        """Processed logits; `guessed` are the round's tokens before the last position, `indices` each row's prompt.

        again: so many last tokens of the texts are read once more, as `guessed` and the token after it.
        """
        new, processed = logits.shape[1], logits.clone()
        after = torch.cat([part.cpu() for part in guessed], dim=1).tolist() if guessed else [[] for _ in indices]
        for row, index in enumerate(indices):
            for place in range(new):
                text = self.texts[index][: len(self.texts[index]) - again]
                ids = text + after[row][: len(after[row]) - new + 1 + place]
                scores = logits[row, place].unsqueeze(0)
                processed[row, place] = self.lists[index](torch.tensor([ids], device=logits.device), scores)[0]
        return processed
