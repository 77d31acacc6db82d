"""The part of a call that lives on the host: answers as lists, streamers, stopping criteria, refusing NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ssd_lib.decoding.rounds import Emitted


class Host:
    """The part of a call that needs values on the host: one transfer a round, then plain lists."""

    def __init__(self, prompts: list[list[int]], streamer: Any, stopping_criteria: Any):
        self.prompts, self.streamer, self.stopping_criteria = prompts, streamer, stopping_criteria
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.all_finished = False
        self.matches = 0
        self.shortest = 0
        """Tokens of the shortest answer that is not finished."""
        if streamer is not None:
            if len(prompts) != 1:
                raise ValueError(f"a streamer shows one row; this batch has {len(prompts)}")
            streamer.put(torch.tensor(prompts))

    def take(self, emitted: Sequence[Emitted]) -> list[bool]:
        """Append what a round emitted; returns which rows a stopping criterion ended."""
        stopped = [self._take_row(row, values) for row, values in enumerate(emitted)]
        ended = [stop or values.finished for stop, values in zip(stopped, emitted, strict=True)]
        self.all_finished = all(ended)
        self.shortest = min(
            (len(answer) for answer, end in zip(self.answers, ended, strict=True) if not end), default=0
        )
        return stopped

    def _take_row(self, row: int, emitted: Emitted) -> bool:
        for t, token in enumerate(emitted.tokens):
            self._refuse_nan(row, target=emitted.target_nan[t], draft=emitted.draft_nan[t])
            self.answers[row].append(token)
            self.matches += emitted.matched[t]
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            if self._stopped(row):
                return True
        return False

    def _refuse_nan(self, row: int, *, target: bool, draft: bool) -> None:
        if target or draft:
            name = "target" if target else "draft"
            raise FloatingPointError(
                f"the {name}'s logits are NaN at answer position {len(self.answers[row])} of row {row}: "
                "load it in bfloat16 or float32, and check its weights"
            )

    def _stopped(self, row: int) -> bool:
        if not self.stopping_criteria:
            return False
        ids = torch.tensor([self.prompts[row] + self.answers[row]])
        outcomes = [criterion(ids, None) for criterion in self.stopping_criteria]
        return any(bool(torch.as_tensor(outcome).any()) for outcome in outcomes)

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()
