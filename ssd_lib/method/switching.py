"""When to trust the target and when the draft: the match-ratio scheduler (arXiv 2508.17739, section 4.3).

A token *matches* when it is what the draft proposed. Where both models want the same thing most tokens match; where the
target is about to comply and the draft refuses, hardly any do. After every b emitted tokens

    β = matches among the last b tokens / b        next scheme = Union if β < threshold, else Intersection

- the scheme stays:    threshold ← max(threshold − 0.1, 0), and in Intersection α_I ← max(α_I − 0.15, 0.3), never raised
- the scheme changes:  threshold and α_I go back to their starting values

The new scheme applies from the very next token on. The state is one value a row and `update` is a pure function of it.

Hardened switching (ours, off by default; docs/contract.md, chapter 15): `threshold_floor` bounds the threshold's decay,
`count_prefill` lets the given beginning of an answer count as a bin (`start`), and `retract` takes back a bin that was
decoded in Intersection and ends with an alarm (`to_take_back`), so that it is decoded again in Union.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssd_lib.config import SSDConfig


class SwitchState(NamedTuple):
    """What the scheduler remembers, one entry a row. Float64, so that 0.6 − 0.1 − … is the same on every device."""

    union: Bool[Tensor, "*rows"]
    threshold: Float[Tensor, "*rows"]
    alpha_intersection: Float[Tensor, "*rows"]
    matches: Int[Tensor, "*rows"]
    """Matches in the running bin."""
    emitted: Int[Tensor, "*rows"]
    """Tokens emitted since the start."""


def start(rows: int, config: SSDConfig, device: torch.device | str = "cpu") -> SwitchState:
    """The state before the first token."""
    full = lambda value, dtype: torch.full((rows,), value, dtype=dtype, device=device)  # noqa: E731
    return SwitchState(
        union=full(config.first_scheme == "union", torch.bool),
        threshold=full(config.threshold, torch.float64),
        alpha_intersection=full(config.alpha_intersection, torch.float64),
        matches=full(0, torch.long),
        emitted=full(0, torch.long),
    )


def alpha(state: SwitchState, config: SSDConfig) -> Float[Tensor, "*rows"]:
    """The α of the current scheme: α_U in Union, the annealed α_I in Intersection."""
    return torch.where(state.union, config.alpha_union, state.alpha_intersection)


def running_match_ratio(state: SwitchState, config: SSDConfig) -> Float[Tensor, "*rows"]:
    """Matches over tokens of the running bin (the whole bin right after its last token); 0 before the first token."""
    in_bin = torch.where(state.emitted > 0, (state.emitted - 1) % config.bin_size + 1, 1)
    return state.matches.double() / in_bin


def count(
    state: SwitchState, matched: Bool[Tensor, "*rows"], active: Bool[Tensor, "*rows"], config: SSDConfig
) -> SwitchState:
    """Count one emitted token for the active rows; a new bin starts from zero."""
    begins = active & (state.emitted % config.bin_size == 0)
    matches = state.matches.masked_fill(begins, 0) + (matched & active)
    return state._replace(matches=matches, emitted=state.emitted + active)


def alarm(
    matches: Int[Tensor, "*rows"], tokens: Int[Tensor, "*rows"] | int, threshold: Float[Tensor, "*rows"] | float
) -> Bool[Tensor, "*rows"]:
    """Whether the match ratio of a bin of so many tokens lies below the threshold."""
    return matches.double() / tokens < threshold


def decide(
    state: SwitchState,
    active: Bool[Tensor, "*rows"],
    config: SSDConfig,
    ends: Bool[Tensor, "*rows"] | None = None,
) -> SwitchState:
    """At the end of a bin: choose the next scheme and anneal, for the active rows.

    With `retract` the last bin of an answer is decided, too, over the tokens that it has; and a bin of Intersection as soon as
    its alarm is certain, whatever the tokens that it lacks would be.

    Args:
        state: After the last emitted token was counted.
        active: The rows that emitted one.
        config: Settings of the method.
        ends: The rows whose answer ends with this token.
    """
    in_bin = (state.emitted - 1) % config.bin_size + 1
    decides = active & (in_bin == config.bin_size)
    if config.retract and not config.fixed_scheme:
        best = state.matches + config.bin_size - in_bin  # if all tokens that the bin lacks were matches
        settled = ~state.union & alarm(best, config.bin_size, state.threshold)
        settled = settled if ends is None else settled | ends
        decides = decides | (active & settled & (in_bin >= config.tail_tokens))
    union = state.union if config.fixed_scheme else alarm(state.matches, in_bin, state.threshold)
    same = union == state.union
    lower_threshold = (state.threshold - config.threshold_decay).clamp(min=config.threshold_floor)
    lower_alpha = torch.minimum(
        (state.alpha_intersection - config.alpha_decay).clamp(min=config.alpha_floor), state.alpha_intersection
    )
    threshold = torch.where(same, lower_threshold, config.threshold)
    alpha_intersection = torch.where(
        same, torch.where(union, state.alpha_intersection, lower_alpha), config.alpha_intersection
    )
    return state._replace(
        union=torch.where(decides, union, state.union),
        threshold=torch.where(decides, threshold, state.threshold),
        alpha_intersection=torch.where(decides, alpha_intersection, state.alpha_intersection),
    )


def update(
    state: SwitchState,
    matched: Bool[Tensor, "*rows"],
    active: Bool[Tensor, "*rows"],
    config: SSDConfig,
    ends: Bool[Tensor, "*rows"] | None = None,
) -> SwitchState:
    """The state after one more emitted token; rows that are not active keep theirs."""
    return decide(count(state, matched, active, config), active, config, ends)


def to_take_back(before: SwitchState, after: SwitchState, config: SSDConfig) -> Int[Tensor, "*rows"]:
    """`retract`: how many tokens are taken back, those of a bin that was decoded in Intersection and ends with an alarm.

    Args:
        before: The state before the token that was emitted last.
        after: The state after it.
        config: Settings of the method.

    Returns:
        Tokens a row; 0 where no bin is taken back, or without `retract`.
    """
    if not config.retract:
        return torch.zeros_like(after.emitted)
    in_bin = (after.emitted - 1) % config.bin_size + 1
    return in_bin * (after.union & ~before.union)


def take_back(state: SwitchState, tokens: Int[Tensor, " rows"]) -> SwitchState:
    """The state at the beginning of the bin that is taken back; scheme, threshold and α_I stay as its alarm left them."""
    return state._replace(emitted=state.emitted - tokens)


# ------------------------------------------------------------------------------------------------ a round at a time


def ahead(
    state: SwitchState, would_match: Bool[Tensor, "rows T"], active: Bool[Tensor, " rows"], config: SSDConfig
) -> SwitchState:
    """The state before each of the next T tokens, [rows, T] each, if the round gets that far.

    A round goes on only while it emits what was guessed, so it is known before the walk whether each earlier token counts as a
    match (`would_match`). All positions of a round can therefore be decided at once, a bin at a time: only between bins do
    scheme, threshold and α_I change.
    """
    size, length = config.bin_size, would_match.shape[1]
    steps = torch.arange(length, device=would_match.device)
    inside = (state.emitted % size).unsqueeze(-1)  # tokens that the running bin has already
    passed = would_match.long().cumsum(dim=1) - would_match.long()  # matches among the tokens before each position
    bins = (inside + steps).div(size, rounding_mode="floor")  # bins that end before each position
    earlier = torch.where(inside > 0, state.matches.unsqueeze(-1), 0)  # matches that the running bin has already
    states = [state]
    for ended in range(1, (length + size - 2) // size + 1):
        end = ended * size - inside  # the next bin's first token
        full = matches_since(end - size, passed.gather(1, end.clamp(max=length - 1)), passed, earlier).squeeze(-1)
        states.append(
            decide(states[-1]._replace(matches=full, emitted=state.emitted + end.squeeze(-1)), active, config)
        )
    union, threshold, alpha_i = (
        values[0].unsqueeze(-1).expand(bins.shape) if len(states) == 1 else torch.stack(values, dim=1).gather(1, bins)
        for values in list(zip(*states, strict=True))[:3]
    )
    matches = matches_since(bins * size - inside, passed, passed, earlier)
    return SwitchState(union, threshold, alpha_i, matches, state.emitted.unsqueeze(-1) + steps)


def matches_since(
    first: Int[Tensor, "rows bins"],
    total: Int[Tensor, "rows bins"],
    passed: Int[Tensor, "rows T"],
    earlier: Int[Tensor, "rows 1"],
) -> Int[Tensor, "rows bins"]:
    """Matches of a bin whose first token is the round's token number `first`, or an earlier one.

    Args:
        first: Number of the bin's first token in the round.
        total: Matches of the round at the bin's end.
        passed: Matches of the round before each position.
        earlier: Matches of the running bin before the round.
    """
    return total - passed.gather(1, first.clamp(0, passed.shape[1] - 1)) + torch.where(first <= 0, earlier, 0)


def at(path: SwitchState, position: Int[Tensor, " rows"]) -> SwitchState:
    """The state before the token at `position`, a row each."""
    return SwitchState(*(values.gather(1, position.unsqueeze(-1)).squeeze(-1) for values in path))


def restart(state: SwitchState, rows: Bool[Tensor, " rows"], config: SSDConfig) -> SwitchState:
    """These rows start again, for another answer."""
    fresh = start(rows.shape[0], config, rows.device)
    return SwitchState(*(torch.where(rows, new, old) for new, old in zip(fresh, state, strict=True)))
