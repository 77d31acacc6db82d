"""Chapter 02: tokens a round, the best lookahead on a real machine, a sampler with a fault, and a lookahead that follows the text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch

from checks.asking import ask
from ssd_lib.show.exercises import Wrong, exercise, expect, same

LONGEST = 16
"""Positions of a round, at most."""
PRICE = 0.1
"""Of a draft forward, in target forwards."""


def tokens(beta: float, lookahead: int) -> float:
    """Tokens that a round emits on average."""
    return sum(beta**t for t in range(lookahead))


@exercise(
    "02.1",
    "easy",
    5,
    "How likely does a round get to its first, its second, its third position?",
    "Each position that is reached emits one token. No further token follows the last one.",
)
def average(given: Any) -> None:
    """`given`: tokens a round at β = 0.8 and T = 3."""
    same(given, tokens(0.8, 3), "the average")


@exercise(
    "02.2",
    "real",
    15,
    "Tokens a second: tokens of a round over the seconds of its T draft forwards and its one target forward.",
    "Without speculation a token takes v[1] seconds. At β = 1 the closed formula divides by zero.",
)
def best_lookahead(given: Callable[..., Any]) -> None:
    """`given(beta, d, v)`: the quickest T of those in v, 0 where the target alone is quicker than all."""
    flat = {t: 1.0 for t in range(1, 17)}
    rising = {t: 1 + 0.2 * (t - 1) for t in range(1, 13)}
    stairs = {t: 1.0 if t <= 4 else 1.8 for t in range(1, 9)}
    some = {1: 4.46, 2: 3.73, 3: 4.20, 4: 4.23, 6: 5.30, 8: 5.47}  # in milliseconds, of a small model
    tables = {"flat": flat, "rising": rising, "stairs": stairs, "some": some}
    betas, costs = (0.05, 0.3, 0.6, 0.9, 0.97, 1.0), (0.02, 0.1, 0.25, 0.8)
    as_quick = [("flat", 0.0, 0.0), ("flat", 0.5, 0.25)]  # as the target alone, to the last digit
    for name, beta, d in [*product(tables, betas, costs), *as_quick]:
        v = tables[name]
        rates = {t: tokens(beta, t) / (t * d + seconds) for t, seconds in v.items()}
        wanted = max(rates, key=lambda t: rates[t])
        if rates[wanted] <= 1 / v[1]:
            wanted = 0
        same(ask(given, beta, d, v), wanted, f"the best T at β = {beta}, d = {d} and {name} costs")


# ------------------------------------------------------------------------------------------------ a faulty sampler


def suspect_sample(p: Any, q: Any, count: int, generator: Any) -> Any:
    """Tokens by speculative sampling, or are they?"""
    x = torch.multinomial(q, count, replacement=True, generator=generator)
    accepted = torch.rand(count, generator=generator) < p[x] / q[x]
    corrected = torch.multinomial(p, count, replacement=True, generator=generator)
    return torch.where(accepted, x, corrected)


@cache
def distributions() -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Pairs p and q of several sizes: equal, near, far, without a common token, with one that neither has."""
    found = [
        ("the chapter's p and q", [0.40, 0.25, 0.15, 0.10, 0.06, 0.04], [0.10, 0.45, 0.05, 0.25, 0.05, 0.10]),
        ("two equal distributions", [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]),
        ("two that have no token in common", [0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.7, 0.3]),
        ("two that leave a token out", [0.5, 0.4, 0.1, 0.0, 0.0], [0.25, 0.0, 0.25, 0.5, 0.0]),
    ]
    pairs = [(name, torch.tensor(p).double(), torch.tensor(q).double()) for name, p, q in found]
    for seed in range(4):
        both = torch.rand(2, 5 + 3 * seed, generator=torch.Generator().manual_seed(seed)).double().pow(3)
        p, q = both / both.sum(dim=1, keepdim=True)
        pairs.append((f"random distributions {seed + 1}", p, q))
    return pairs


@exercise(
    "02.3",
    "find the bug",
    15,
    "Follow one token x: with which probability is it proposed and accepted? And with which does it come as a correction?",
    "Corrections come with probability 1 − Σ min(p, q). What are they drawn from here?",
)
def what_it_emits(given: Callable[..., Any]) -> None:
    """`given(p, q)`: the exact distribution of what `suspect_sample` emits."""
    for name, p, q in distributions():
        accepted = torch.minimum(p, q)
        wanted = accepted + (1 - accepted.sum()) * p
        got = torch.as_tensor(ask(given, p, q)).double()
        expect(got.shape == p.shape, f"for {name} a probability for each of the {len(p)} tokens is asked for")
        same(got.sum().item(), 1.0, f"the sum of the probabilities for {name}")
        wrong = (got - wanted).abs() > 1e-4
        if wrong.any():
            token = int(wrong.nonzero()[0])
            raise Wrong(f"for {name} the probability of token {token} is not {float(got[token]):.4f}")


# ------------------------------------------------------------------------------------------------ a lookahead that follows


@cache
def texts() -> list[np.ndarray]:
    """Of each text, which proposals would be accepted: easy and hard stretches by turns."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stretches = ([0.3, 0.97] if seed % 2 else [0.97, 0.3]) * 3
        betas = np.concatenate([np.full(rng.integers(30, 80), beta) for beta in stretches])
        found.append(rng.random(len(betas)) < betas)
    return found


def speed_up_of(choose: Callable[[list[tuple[int, int]]], Any]) -> float:
    """Tokens a target forward's time, over all texts, where `choose` gives each round's T."""
    emitted, spent = 0, 0.0
    for hits in texts():
        at, rounds = 0, list[tuple[int, int]]()
        while at < len(hits):
            lookahead = choose(list(rounds))
            whole = isinstance(lookahead, int | np.integer) and not isinstance(lookahead, bool)
            expect(
                whole and 1 <= lookahead <= LONGEST,
                f"after {len(rounds)} rounds T is {lookahead!r}, and must be a whole number from 1 to {LONGEST}",
            )
            accepted = int(np.cumprod(hits[at : at + lookahead]).sum())
            at += min(accepted + 1, lookahead)
            spent += 1 + PRICE * lookahead
            rounds.append((int(lookahead), accepted))
        emitted += len(hits)
    return emitted / spent


@cache
def fixed() -> tuple[float, float]:
    """The speed-up of the paper's T = 3, and of the best fixed T."""
    return speed_up_of(lambda rounds: 3), max(speed_up_of(lambda rounds, t=t: t) for t in range(1, LONGEST + 1))


@exercise(
    "02.4",
    "open",
    20,
    "Look at the last round: were all of its proposals accepted? Then the next round may be longer.",
    "After a rejection be short at once; grow again where nothing is rejected.",
    of=2,
)
def follows_the_text(given: Callable[..., Any]) -> str:
    """`given(rounds)`: T of the next round, after rounds (T, accepted)."""
    speed, (published, best) = speed_up_of(given), fixed()
    said = f"{speed:.2f} times as fast as the target alone"
    if speed <= best:
        worth = 1 if speed > published else 0
        raise Wrong(
            f"{said}; a fixed T can reach {best:.2f}, the published T = 3 reaches {published:.2f}", points=worth
        )
    return f"{said} (best fixed T: {best:.2f})"
