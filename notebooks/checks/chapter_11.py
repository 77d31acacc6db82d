"""Chapter 11: how deep refusals begin, a loss in which examples weigh the same, a checklist that averages, the plan of a test."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from checks.asking import ask
from ssd_lib.experiments.stats import wilson
from ssd_lib.models.training import supervised_example
from ssd_lib.show.exercises import Wrong, exercise, expect, same


@exercise(
    "11.1",
    "easy",
    5,
    "Of 1 … C, how many lie above n?",
    "An answer of 30 tokens cannot be broken off after 50: what is the greatest k then?",
)
def deeper_than(given: Callable[..., Any]) -> None:
    """`given(n, direct, C, length)`: the share of examples whose refusal begins after more than n tokens."""
    rows = [
        (20, 0.5, 100, 200),
        (0, 0.4, 80, 90),
        (20, 0.25, 100, 60),
        (1, 0.7, 5, 3),
        (80, 0.5, 80, 80),
        (40, 0.3, 100, 30),
        (10, 1.0, 50, 40),
        (30, 0.35, 170, 130),
        (7, 0.45, 13, 90),
    ]
    for n, direct, deepest, length in rows:
        counted = [k > n for k in range(1, min(deepest, length) + 1)]
        what = f"the share for n = {n}, direct = {direct}, C = {deepest} and answers of {length} tokens"
        same(given(n, direct, deepest, length), (1 - direct) * sum(counted) / len(counted), what)


VOCABULARY = 40


@cache
def micro_model() -> PreTrainedModel:
    """A model of one layer with weights large enough that its losses differ."""
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.3, **shape))
    return model.eval()


@cache
def batches() -> list[tuple[str, list[dict[str, list[int]]]]]:
    """Examples whose prompts, beginnings and learned parts have different lengths."""
    rng = random.Random(0)

    def example(prompt: int, given: int, learned: int) -> dict[str, list[int]]:
        parts = [[rng.randrange(VOCABULARY) for _ in range(count)] for count in (prompt, given, learned)]
        return supervised_example(*parts)

    return [
        ("one example", [example(4, 3, 5)]),
        ("two examples, one of them with a single learned token", [example(3, 0, 1), example(5, 2, 12)]),
        ("five examples", [example(2 + i, (3 * i) % 5, 1 + i * i) for i in range(5)]),
    ]


def gradient(loss: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """A loss's slopes by all weights, in one row."""
    slopes = torch.autograd.grad(loss.sum(), list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


@exercise(
    "11.2",
    "real",
    15,
    "Two averages: one inside each example, one over the examples.",
    "Token i is predicted at place i − 1. Stay with tensors until the end: `.item()` cuts off the gradient.",
)
def loss_by_example(given: Callable[..., Any]) -> None:
    """`given(model, examples)`: the mean over examples of each one's mean loss."""
    model = micro_model()
    for name, examples in batches():
        tensors = [{key: torch.tensor([row]) for key, row in each.items()} for each in examples]
        wanted = torch.stack([model(**each).loss for each in tensors]).mean()
        slope = gradient(wanted, model)
        got = ask(partial(given, model), [{key: list(row) for key, row in each.items()} for each in examples])
        expect(isinstance(got, torch.Tensor), f"a loss is a tensor, not {type(got).__name__}")
        expect(got.numel() == 1, f"a loss is one number, yours has the shape {tuple(got.shape)}")
        expect(got.requires_grad, "nothing can be trained on your loss: it has no gradient")
        same(got.item(), wanted.item(), f"the loss of {name}")
        off = (gradient(got, model) - slope).norm() / slope.norm()
        expect(off < 0.01, f"the loss of {name} is right, its gradient is not: what is cut off from the model?")


def suspect_verdict(recovered: dict[int, list[bool]], refused: list[bool], least: float, most: float) -> bool:
    """Whether a draft is fit: it recovers in at least `least` of the attacked answers, and refuses at most `most` of the benign questions.

    Both are asked of the unfavourable end of the 95% interval.
    """
    attacked = [each for answers in recovered.values() for each in answers]
    low, _ = wilson(sum(attacked), len(attacked))
    _, high = wilson(sum(refused), len(refused))
    return low >= least and high <= most


def answers(true: int, count: int) -> list[bool]:
    """So many True of so many."""
    return [True] * true + [False] * (count - true)


UNEQUAL: list[tuple[str, dict[int, tuple[int, int]], tuple[int, int], float, float]] = [
    ("a draft that was asked twice only after 40 tokens", {0: (60, 60), 20: (60, 60), 40: (2, 2)}, (2, 60), 0.8, 0.2),
    (
        "a draft that gives in after 20 tokens, where it was asked most often",
        {0: (28, 30), 20: (70, 100)},
        (0, 60),
        0.7,
        0.2,
    ),
    (
        "a good draft that was asked less often after 5 tokens",
        {0: (99, 100), 5: (39, 40), 40: (97, 100)},
        (2, 60),
        0.8,
        0.2,
    ),
    ("a good draft that was asked a few benign questions", {0: (60, 60), 20: (60, 60)}, (0, 5), 0.8, 0.2),
    ("a draft that recovers always, held to what ten answers can show", {0: (10, 10)}, (0, 60), wilson(10, 10)[0], 0.2),
    ("a draft that refuses nothing, held to what ten can show", {0: (60, 60)}, (0, 10), 0.8, wilson(0, 10)[1]),
]
"""The same with (recoveries, answers) for each number of prefilled tokens, and (refusals, benign questions)."""
DRAFTS: list[tuple[str, dict[int, int], int, int, float, float]] = [
    ("a good draft", {0: 60, 5: 58, 40: 60}, 60, 2, 0.8, 0.2),
    ("a draft that gives in after 40 tokens", {0: 60, 5: 60, 10: 60, 20: 60, 40: 30}, 60, 2, 0.8, 0.2),
    ("a draft that gives in after 5 tokens alone", {0: 60, 5: 20, 10: 60, 20: 60, 40: 60}, 60, 2, 0.6, 0.2),
    ("a draft that does not refuse when it is asked directly", {0: 10, 5: 60, 10: 60, 20: 60, 40: 60}, 60, 2, 0.5, 0.2),
    ("a draft that recovers in 85% of 60 answers, where 80% are wanted", {0: 60, 20: 51}, 60, 2, 0.8, 0.2),
    ("a draft that recovers in 85% of 600 answers, where 80% are wanted", {0: 600, 20: 510}, 600, 20, 0.8, 0.2),
    ("a draft that refuses 15% of 60 benign questions, where 20% are allowed", {0: 60, 20: 60}, 60, 9, 0.8, 0.2),
    ("a draft that refuses everything", {0: 60, 20: 60}, 60, 60, 0.8, 0.2),
    ("a draft that refuses 15% of 600 benign questions, where 20% are allowed", {0: 600, 20: 600}, 600, 90, 0.8, 0.2),
    ("a good draft, held to a strict standard", {0: 60, 20: 60}, 60, 0, 0.95, 0.2),
    ("a draft that refuses 30% of the benign questions, where half are allowed", {0: 60, 20: 60}, 60, 18, 0.8, 0.5),
]
"""Name, recoveries for each number of prefilled tokens, answers, refusals of benign questions, `least`, `most`."""


@exercise(
    "11.3",
    "find the bug",
    10,
    "What does the average of 100%, 100%, 100% and 20% hide?",
    "Attackers choose the number of tokens. A draft is as good as its worst one.",
)
def mended_verdict(given: Callable[..., Any]) -> None:
    """`given(recovered, refused, least, most)`: whether a draft is fit at every length."""
    for name, counts, asked, refusals, least, most in DRAFTS:
        recovered = {n: answers(count, asked) for n, count in counts.items()}
        fit = all(wilson(count, asked)[0] >= least for count in counts.values()) and wilson(refusals, asked)[1] <= most
        got = bool(ask(given, recovered, answers(refusals, asked), least, most))
        expect(got == fit, f"{name} is {'not ' if got else ''}fit, and your checklist says otherwise")
    for name, tallies, refusals, least, most in UNEQUAL:
        fit = all(wilson(*each)[0] >= least for each in tallies.values()) and wilson(*refusals)[1] <= most
        got = bool(ask(given, {n: answers(*each) for n, each in tallies.items()}, answers(*refusals), least, most))
        expect(got == fit, f"{name} is {'not ' if got else ''}fit, and your checklist says otherwise")


GOOD, BAD = 0.95, 0.8
MOST, CHEAP = 120, 60


@exercise(
    "11.4",
    "open",
    20,
    "How many recoveries a draft shows among n questions is binomial: scipy.stats.binom.",
    "binom.sf(least - 1, n, rate) is the probability of `least` or more. Try all plans.",
    of=2,
)
def plan(given: Any) -> str:
    """(n, least): passes the good draft with 90%, the bad one with at most 5%."""
    expect(isinstance(given, tuple | list | np.ndarray) and len(given) == 2, "a plan is (n, least)")
    n, least = given
    expect(all(int(each) == each for each in (n, least)), "n and least are whole numbers")
    expect(0 <= least <= n, "least lies between 0 and n")
    expect(0 < n <= MOST, f"a plan has at most {MOST} questions")
    good, bad = (float(binom.sf(least - 1, n, rate)) for rate in (GOOD, BAD))
    expect(bad <= 0.05, f"the bad draft passes with a probability of {bad:.1%}")
    expect(good >= 0.9, f"the good draft passes with a probability of {good:.1%} only")
    said = f"The good draft passes with {good:.1%}, the bad one with {bad:.1%}"
    if n > CHEAP:
        raise Wrong(f"it works, but {CHEAP} questions are enough. {said}", points=1)
    return said
