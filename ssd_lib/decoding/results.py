"""What comes of a round: as tensors on the device, as plain values for the loop, and as lines of the trace.

The first kind is what the two halves of a round hand on (`Scored`, `Decision`). `packed` makes one tensor of all that the CPU
wants to know, so that a round waits for the device once, and `unpack` makes plain values of it (`Emitted`). A `Recorder` keeps
what a trace shows on the device until the call ends, so recording costs no wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ssd_lib.config import SSDConfig
from ssd_lib.method import switching
from ssd_lib.method.composite import Candidates
from ssd_lib.method.switching import SwitchState
from ssd_lib.method.trace import COLUMNS, SPACE, TOP, Trace


class Step(NamedTuple):
    """What the draft proposes after each token that it read, its probabilities there, and where they are not numbers."""

    proposals: Int[Tensor, "rows new"]
    probs: Float[Tensor, "rows new vocab"]
    nan: Bool[Tensor, "rows new"]


class Scored(NamedTuple):
    """What was guessed, what the draft itself proposes after the same prefix, and both models' probabilities."""

    guesses: Int[Tensor, "rows T"]
    proposals: Int[Tensor, "rows T"]
    target_probs: Float[Tensor, "rows T vocab"]
    draft_probs: Float[Tensor, "rows T vocab"]
    target_nan: Bool[Tensor, "rows T"]
    draft_nan: Bool[Tensor, "rows T"]


class Chosen(NamedTuple):
    """The token of every position and how it was found; where no trace is recorded, only positions where the models disagree."""

    tokens: Int[Tensor, "rows T"]
    matched: Bool[Tensor, "rows T"]
    k: Int[Tensor, "rows T"]
    short: Bool[Tensor, "rows T"]
    """The heads of the lists were not deep enough here: decide again, deeper."""
    found: Candidates | None = None
    scores: Float[Tensor, "rows T listed"] | None = None


class Decision(NamedTuple):
    """What a round emits; nothing has changed yet."""

    choice: Chosen
    alive: Bool[Tensor, "rows T"]
    """These positions count."""
    accepted: Bool[Tensor, "rows T"]
    """The emitted token is the guessed one, so that the walk can go on after it."""
    path: SwitchState
    switch: SwitchState
    back: Int[Tensor, " rows"]
    """Tokens that are taken back, those of this round first."""
    finished: Bool[Tensor, " rows"]
    short: Bool[Tensor, " rows"]


class Emitted(NamedTuple):
    """One row of a round, as plain values: the tokens that count, which matched, and whose logits were not numbers."""

    tokens: list[int]
    matched: list[bool]
    target_nan: list[bool]
    draft_nan: list[bool]
    accepted: list[bool]
    deepest: int
    """The largest k of Intersection."""
    back: int
    """How many tokens of the answer, these included, are taken back."""
    union: bool
    """The scheme of the next token."""
    finished: bool
    short: bool = False

    @property
    def goes_on(self) -> bool:
        """Every guess was accepted, and the answer goes on after it."""
        return all(self.accepted) and not self.finished and not self.back

    def and_then(self, later: Emitted) -> Emitted:
        """This and what the same round emitted after it."""
        return later._replace(
            tokens=self.tokens + later.tokens,
            matched=self.matched + later.matched,
            target_nan=self.target_nan + later.target_nan,
            draft_nan=self.draft_nan + later.draft_nan,
            accepted=self.accepted + later.accepted,
            deepest=max(self.deepest, later.deepest),
        )


def packed(scored: Scored, decision: Decision) -> Int[Tensor, "rows columns"]:
    """What the CPU wants to know, in one tensor: tokens, flags, and three last columns for the row; see `unpack`."""
    flags = (decision.alive, decision.choice.matched, scored.target_nan, scored.draft_nan, decision.accepted)
    bits = torch.stack([flag.long() << place for place, flag in enumerate(flags)]).sum(dim=0)
    row = decision.finished + 2 * decision.short + 4 * decision.switch.union
    deepest = decision.choice.k.masked_fill(~decision.alive, 0).amax(dim=1)
    last = torch.stack([deepest, decision.back, row], dim=1)
    return torch.cat([decision.choice.tokens, bits, last], dim=1)


def unpack(lines: list[list[int]]) -> list[Emitted]:
    """The rows of `packed(…).tolist()`."""
    rows = []
    for *line, deepest, back, row in lines:
        width = len(line) // 2
        count = sum(bits & 1 for bits in line[width:])
        matched, target_nan, draft_nan, accepted = (
            [bool(bits >> place & 1) for bits in line[width : width + count]] for place in (1, 2, 3, 4)
        )
        flags = bool(row & 4), bool(row & 1), bool(row & 2)
        rows.append(Emitted(line[:count], matched, target_nan, draft_nan, accepted, deepest, back, *flags))
    return rows


# ------------------------------------------------------------------------------------------------ the trace


@dataclass
class Recorder:
    """The record of one call, a decision at a time."""

    config: SSDConfig
    decisions: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, scored: Scored, decision: Decision, number: int, indices: Sequence[int]) -> None:
        """Record one decision of round `number`, [rows, n] values; those not emitted are dropped at the end.

        Args:
            scored: What both models said.
            decision: What was decided on it.
            number: Of the round.
            indices: The prompt that each row of the batch answers.
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
            "insisted": found.fallback,
            "target_top": target_top.indices,
            "target_top_probs": target_top.values,
            "draft_top": draft_top.indices,
            "draft_top_probs": draft_top.values,
            "space": pad(found.ids.gather(-1, best.indices), missing),
            "space_composite": pad(best.values, missing, value=-torch.inf),
        }
        # A recorded round (`cuda_graph`) writes over its own results.
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
        inside = [sum(score != -torch.inf for score in scores) for scores in frame["space_composite"]]  # best first
        for name in ("space", "space_composite"):
            frame[name] = [values[:number] for values, number in zip(frame[name], inside, strict=True)]
        frame = frame.sort_values("row", kind="stable", ignore_index=True)
        frame["retracted"] = _retracted(frame)
        kept = frame["retracted"] | (frame["position"] < frame["row"].map(lengths.__getitem__))
        return Trace(frame.loc[kept, COLUMNS].reset_index(drop=True))


def _retracted(frame: pd.DataFrame) -> list[bool]:
    """Which lines were taken back: `back` of a round's last line counts the last lines of its answer that still stood."""
    marks = [False] * len(frame)
    lines = zip(range(len(frame)), frame["row"], frame["round"], frame["back"], strict=True)
    for _, answer in groupby(lines, key=itemgetter(1)):
        standing: list[int] = []
        for _, of_round in groupby(answer, key=itemgetter(2)):
            known = list(of_round)
            standing += [place for place, *_ in known]
            for _ in range(known[-1][3]):
                marks[standing.pop()] = True
    return marks
