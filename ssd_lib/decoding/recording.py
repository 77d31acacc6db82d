"""Collects what a trace shows. Everything stays on the device until the call ends: a record costs no wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd_lib.config import SSDConfig
from ssd_lib.method import switching
from ssd_lib.method.trace import COLUMNS, SPACE, TOP, Trace

if TYPE_CHECKING:
    from ssd_lib.decoding.decoder import Decision, Scored


@dataclass
class Recorder:
    """The record of one call, a decision at a time."""

    config: SSDConfig
    decisions: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, scored: Scored, decision: Decision, number: int, indices: Sequence[int]) -> None:
        """Record one decision of round `number`, [rows, n] values; those not emitted are dropped at the end.

        indices: the prompt that each row of the batch answers.
        """
        tokens, matched, found, scores = decision.choice[0], decision.choice[1], *decision.choice[4:]
        assert found is not None and scores is not None
        target_probs, draft_probs = scored.target_probs, scored.draft_probs
        before = decision.path
        counted = switching.count(before, matched, decision.alive, self.config)
        of_token = lambda probs: probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # noqa: E731
        target_top, draft_top = (probs.topk(min(TOP, probs.shape[-1])) for probs in (target_probs, draft_probs))
        best = scores.masked_fill(~found.inside, -torch.inf).topk(min(SPACE, scores.shape[-1]))
        missing = (0, SPACE - best.values.shape[-1])  # heads of different depth list different numbers
        target_prob, draft_prob = of_token(target_probs), of_token(draft_probs)
        alpha = switching.alpha(before, self.config)
        columns = {
            "row": torch.tensor(indices).unsqueeze(-1).expand(tokens.shape),
            "alive": decision.alive,
            "back": decision.back.unsqueeze(-1).expand(tokens.shape),
            "round": torch.full_like(tokens, number),
            "position": before.emitted,
            "token": tokens,
            "proposal": scored.proposals,
            "match": matched,
            "scheme": before.union,
            "k": found.k,
            "threshold": before.threshold,
            "alpha": alpha,
            "bin_tokens": (counted.emitted - 1) % self.config.bin_size + 1,
            "match_ratio": switching.running_match_ratio(counted, self.config),
            "target_prob": target_prob,
            "draft_prob": draft_prob,
            "composite": target_prob + alpha.to(target_prob.dtype) * (draft_prob - target_prob),
            "insisted": found.insisted,
            "target_top": target_top.indices,
            "target_top_probs": target_top.values,
            "draft_top": draft_top.indices,
            "draft_top_probs": draft_top.values,
            "space": pad(found.ids.gather(-1, best.indices), missing),
            "space_composite": pad(best.values, missing, value=-torch.inf),
        }
        # A recorded round (`graphs`) writes over its own results.
        self.decisions.append({name: values.clone() for name, values in columns.items()})

    def trace(self, lengths: Sequence[int]) -> Trace:
        """One data frame, answer by answer; lines after an answer's length (cut by a stopping criterion) are dropped."""
        if not self.decisions:
            return Trace(pd.DataFrame(columns=COLUMNS))
        columns = {
            name: torch.cat([part[name].flatten(0, 1) for part in self.decisions]).cpu() for name in self.decisions[0]
        }
        alive = columns.pop("alive")
        frame = pd.DataFrame({name: values[alive].tolist() for name, values in columns.items()})
        frame["scheme"] = ["union" if union else "intersection" for union in frame["scheme"]]
        inside = [[score != -torch.inf for score in scores] for scores in frame["space_composite"]]
        for name in ("space", "space_composite"):
            frame[name] = [
                [v for v, i in zip(values, ins, strict=True) if i]
                for values, ins in zip(frame[name], inside, strict=True)
            ]
        frame = frame.sort_values("row", kind="stable", ignore_index=True)
        frame["retracted"] = _retracted(frame)
        kept = frame["retracted"] | (
            frame["position"] < torch.tensor(lengths)[torch.tensor(frame["row"].to_numpy())].numpy()
        )
        return Trace(frame.loc[kept, COLUMNS].reset_index(drop=True))


def _retracted(frame: pd.DataFrame) -> list[bool]:
    """Which lines were taken back: `back` of a round's last line counts the last lines of its answer that still stood."""
    marks, standing = [False] * len(frame), []
    lines = list(zip(frame["row"], frame["round"], frame["back"], strict=True))
    for place, (row, number, back) in enumerate(lines):
        standing = [*standing, place] if place and lines[place - 1][0] == row else [place]
        following = lines[place + 1][:2] if place + 1 < len(lines) else None
        if back and following != (row, number):
            for mark in standing[-back:]:
                marks[mark] = True
            standing = standing[:-back]
    return marks
