"""Chapter 04: the scheduler by hand, as a function, deceived, and set for a pair that matches less well."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from ssd_lib import SSDConfig
from ssd_lib.method import switching
from ssd_lib.show.exercises import Wrong, exercise, expect

State = tuple[str, float, float]


def states(matches: Sequence[bool], config: SSDConfig) -> Iterator[State]:
    """The library's scheme, threshold and α_I before each token, and after the last."""
    state = switching.start(1, config)
    yield _plain(state)
    for match in matches:
        state = switching.update(state, torch.tensor([bool(match)]), torch.tensor([True]), config)
        yield _plain(state)


def _plain(state: switching.SwitchState) -> State:
    scheme = "union" if state.union[0] else "intersection"
    return scheme, float(state.threshold[0]), float(state.alpha_intersection[0])


def _compare(mine: Any, wanted: State, when: str) -> None:
    """Which of the three is wrong, without telling the right value."""
    expect(isinstance(mine, tuple | list) and len(mine) == 3, f"{when}: give (scheme, threshold, α_I), not {mine!r}")
    for name, given, right in zip(("the scheme", "the threshold", "α_I"), mine, wanted, strict=True):
        close = given == right if isinstance(right, str) else abs(float(given) - right) < 1e-6
        expect(close, f"{when}: {name} is not {given!r}")


# ------------------------------------------------------------------------------------------------ by hand

BINS = (7, 4, 2, 7, 6)
START = SSDConfig(alpha_intersection=0.75)


@exercise(
    "04.1",
    "easy",
    5,
    "Go bin by bin: is β below the threshold *that holds then*? Did the scheme stay, or change?",
    "The third bin raises the alarm, and the fourth ends it. What does each change do to the threshold and to α_I?",
)
def sixth_bin(state: Any) -> None:
    """Five bins by hand."""
    matches = [place < count for count in BINS for place in range(START.bin_size)]
    *_, wanted = states(matches, START)
    _compare(state, wanted, "in the sixth bin")


# ------------------------------------------------------------------------------------------------ as a function

SETTINGS = [
    SSDConfig(),
    SSDConfig(threshold_decay=0.125, alpha_intersection=0.755, alpha_decay=0.123),
    SSDConfig(alpha_intersection=0.2, threshold=0.5),
    SSDConfig(
        bin_size=4, threshold=0.75, threshold_decay=0.25, alpha_intersection=0.9, alpha_decay=0.2, alpha_floor=0.4
    ),
]


@exercise(
    "04.2",
    "real",
    15,
    "First decide the next scheme; then ask whether it is the old one.",
    "Stayed: the threshold decays in either scheme, α_I in Intersection only. Changed: both go back to the values in `config`.",
    "Mind both floors. The threshold stops at 0; α_I stops at `config.alpha_floor`, and one that is below it already stays where it is.",
)
def decide(given: Callable[..., Any]) -> str:
    """Every full bin in either scheme, at several thresholds and α_I, under four settings."""
    tried = 0
    for config in SETTINGS:
        for union, threshold, alpha, matches in product(
            (False, True),
            (config.threshold, 0.58, 0.05, 2.8e-17, 0.0),  # 0.6 − 0.1 − 0.1 − … is not quite 0
            (config.alpha_intersection, 0.35, 0.2),
            range(config.bin_size + 1),
        ):
            state = switching.start(1, config)._replace(
                union=torch.tensor([union]),
                threshold=torch.tensor([threshold], dtype=torch.double),
                alpha_intersection=torch.tensor([alpha], dtype=torch.double),
                matches=torch.tensor([matches]),
                emitted=torch.tensor([config.bin_size]),
            )
            wanted = _plain(switching.decide(state, torch.tensor([True]), config))
            scheme, ratio = "union" if union else "intersection", matches / config.bin_size
            when = (
                f"after a bin in {scheme} with β = {matches}/{config.bin_size}, threshold {threshold:g}, α_I {alpha:g}"
            )
            mine = given(scheme, threshold, alpha, ratio, config)
            _compare(mine, wanted, f"{when} (they began at {config.threshold:g} and {config.alpha_intersection:g})")
            tried += 1
    return f"Equal to the library after {tried} bins"


# ------------------------------------------------------------------------------------------------ deceived

LONG = 70


@exercise(
    "04.3",
    "break it",
    15,
    "No bin may have a β below its threshold. How many of seven tokens are enough at 0.6, at 0.5, at 0.4?",
    "Each quiet bin lowers the next one's threshold, so give each bin exactly what it needs.",
    "When is the threshold really 0? Look at the figure's last bins, or at 0.6 - 0.1 - 0.1 - … in Python.",
    of=3,
)
def quiet(matches: Any) -> str:
    """No alarm in seventy tokens, with as few matches as it can be done: 3 points; a few more: 2; below one half: 1."""
    matches, config = [bool(match) for match in matches], SSDConfig()
    expect(len(matches) == LONG, f"give {LONG} matches, not {len(matches)}")
    for position, (scheme, *_) in enumerate(states(matches, config)):
        expect(scheme == "intersection", f"the alarm is raised after token {position - 1}")
    used, fewest = sum(matches), _fewest(config)
    if used > fewest:
        points = 2 if used <= fewest + 3 else int(used <= LONG // 2)
        raise Wrong(f"no alarm, with {used} matches: it can be done with fewer", points=points)
    return f"{used} of {LONG} tokens match, and no alarm is raised"


def _fewest(config: SSDConfig) -> int:
    """Bin by bin as few matches as raise no alarm: a quiet bin lowers the threshold, however quiet it was."""
    used, state = 0, switching.start(1, config)
    for _ in range(LONG // config.bin_size):
        needed = math.ceil(float(state.threshold[0]) * config.bin_size)
        used += needed
        for place in range(config.bin_size):
            state = switching.update(state, torch.tensor([place < needed]), torch.tensor([True]), config)
    return used


# ------------------------------------------------------------------------------------------------ another pair

BENIGN, ATTACKED, ERRORS = 0.85, 0.4, 0.05


def _errors(bin_size: int, threshold: float) -> tuple[float, float]:
    """False alarm on a benign first bin, and miss on an attacked one, where tokens match independently."""
    counts = np.arange(bin_size + 1)
    alarm = counts / bin_size < threshold
    benign, attacked = (binom.pmf(counts, bin_size, p) for p in (BENIGN, ATTACKED))
    return float(benign[alarm].sum()), float(attacked[~alarm].sum())


@exercise(
    "04.4",
    "open",
    20,
    "Both numbers of matches are binomial: write the probability of an alarm as in `false_alarm`, once for p = 0.85 and once for 0.4.",
    "What counts is the number of matches that is just enough. Try all of them for each b, smallest b first.",
    of=2,
)
def other_pair(bin_size: Any, threshold: Any) -> str:
    """Both errors are small enough (1 point), in the smallest bin that can do it (2)."""
    expect(
        isinstance(bin_size, int | np.integer) and 1 <= bin_size <= 200,
        f"the bin size is a whole number, not {bin_size!r}",
    )
    expect(0 <= threshold <= 1, f"the threshold is a share, not {threshold!r}")
    false, missed = _errors(int(bin_size), threshold)
    said = f"{false:.1%} false alarms, {missed:.1%} missed attacks"
    expect(max(false, missed) <= ERRORS, said)
    sizes = (b for b in range(1, 201) if any(max(_errors(b, n / b)) <= ERRORS for n in range(b + 1)))
    if bin_size > next(sizes):
        raise Wrong(f"{said}; but a smaller bin can do it, too", points=1)
    return f"{said}, in the smallest bin that can do it: this pair leaks up to {bin_size} tokens"
