"""Collects what a trace shows. Everything stays on the device until the call ends: a record costs no wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd_lib import switching
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.rounds import Decision, Scored
from ssd_lib.trace import COLUMNS, SPACE, TOP, Trace


@dataclass
class Recorder:
    """The record of one call, a decision at a time."""

    config: SSDConfig
    decisions: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, scored: Scored, decision: Decision, number: int, owners: Sequence[int]) -> None:
        """Record one decision of round `number`, [rows, n] values; those not emitted are dropped at the end.

        owners: whose answer each row of the batch is writing.
        """
        tokens, matched, found = decision.tokens, decision.matched, decision.found
        target_probs, draft_probs = scored.target_probs, scored.draft_probs
        before = decision.path
        counted = switching.count(before, matched, decision.alive, self.config)
        of_token = lambda probs: probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # noqa: E731
        target_top, draft_top = (probs.topk(min(TOP, probs.shape[-1])) for probs in (target_probs, draft_probs))
        best = decision.scores.masked_fill(~found.inside, -torch.inf).topk(min(SPACE, decision.scores.shape[-1]))
        missing = (0, SPACE - best.values.shape[-1])  # heads of different depth list different numbers
        target_prob, draft_prob = of_token(target_probs), of_token(draft_probs)
        alpha = switching.alpha(before, self.config)
        columns = {
            "row": torch.tensor(owners).unsqueeze(-1).expand(tokens.shape),
            "alive": decision.alive,
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
        """One data frame, answer by answer; lines behind an answer's length (cut by a stopping criterion) are dropped."""
        if not self.decisions:
            return Trace(pd.DataFrame(columns=COLUMNS))
        columns = {
            name: torch.cat([part[name].flatten(0, 1) for part in self.decisions]).cpu() for name in self.decisions[0]
        }
        keep = columns.pop("alive") & (columns["position"] < torch.tensor(lengths)[columns["row"]])
        frame = pd.DataFrame({name: values[keep].tolist() for name, values in columns.items()})
        frame["scheme"] = ["union" if union else "intersection" for union in frame["scheme"]]
        inside = [[score != -torch.inf for score in scores] for scores in frame["space_composite"]]
        for name in ("space", "space_composite"):
            frame[name] = [
                [v for v, i in zip(values, ins, strict=True) if i]
                for values, ins in zip(frame[name], inside, strict=True)
            ]
        return Trace(frame.sort_values(["row", "position"], ignore_index=True)[COLUMNS])
