"""Chapter 09: how few changes are a finding, α for a budget, a rate that comes out too small, and a run that shows a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from checks.asking import ask
from checks.embedded import embedded
from ssd_lib import answer
from ssd_lib.attacks import load_set
from ssd_lib.defenders import settings_for
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.config import Choice
from ssd_lib.experiments.stats import mcnemar
from ssd_lib.judges import judge, says_harmful
from ssd_lib.show.exercises import Wrong, exercise, expect, same
from ssd_lib.toy import world

ASKED = 20
"""Forbidden questions of exercise 4."""


@exercise(
    "09.1",
    "easy",
    5,
    "What does `coin(k, 0)` say for k = 1, 2, 3, …?",
    "Count up from 1 until `coin(k, 0)` is below the level. A level that is just reached is not passed.",
)
def fewest_changes(given: Callable[..., Any]) -> str:
    """`given(level)`: the smallest k such that k changes, all one way, have p < level."""
    for level in (0.05, 0.01, 0.3, 1e-6, 0.125, 1.0, 1e-12):
        wanted = next(k for k in range(1, 100) if 2 / 2**k < level)
        same(given(level), wanted, f"the smallest k with p < {level:g}")
    return "below 5% need six changes, however many questions were asked"


SETTINGS = ["refused", "told", "right", "alpha_intersection", "alpha_union"]


def grid(seed: int) -> pd.DataFrame:
    """A table of settings with many ties; no two agree in told, right and the sum of the weights."""
    rng = np.random.default_rng(seed)
    weights = [(a, b) for a in (0.25, 0.5, 1.0) for b in (0.125, 0.75, 2.0)]
    shares = rng.integers(0, [5, 3, 3], (len(weights), 3)) / 16
    table = pd.DataFrame(np.hstack([shares, weights]), columns=pd.Index(SETTINGS))
    table.right += 0.75
    table.index = pd.Index([f"ssd:alpha_intersection={a}:alpha_union={b}" for a, b in weights])
    return table.sample(frac=1, random_state=seed)


def tables() -> Iterator[tuple[str, pd.DataFrame, float]]:
    """Name, table and budget: random ones, then two in which one rule decides."""
    for seed in range(24):
        table, budget = grid(seed), (seed % 5) / 16
        if seed == 11:
            table.refused += 0.5  # nothing is within the budget
        yield f"random table {seed + 1}, with a budget of {budget:.1%}", table, budget
    names = pd.Index(["ssd:alpha_intersection=1.0:alpha_union=0.0", "ssd:alpha_intersection=0.25:alpha_union=0.5"])
    columns = pd.Index(SETTINGS)
    equal = [[0.1, 0.25, 0.5, 1.0, 0.0], [0.1, 0.25, 0.5, 0.25, 0.5]]
    yield "a table of two that are equal but for their weights", pd.DataFrame(equal, names, columns), 0.1
    near = [[0.0, 0.26, 0.9, 1.0, 0.0], [0.1, 0.25, 0.5, 0.25, 2.0]]
    yield "a table of two that leak nearly the same", pd.DataFrame(near, names, columns), 0.1


@exercise(
    "09.2",
    "real",
    10,
    "First drop what is over the budget. What is left when nothing is?",
    "Sort what is left by told, then by right (descending), then by the sum of the weights: `DataFrame.sort_values` takes lists.",
)
def choose(given: Any) -> None:
    """`given(settings, budget)`: the name of the best setting within the budget, None where there is none."""
    for where, table, budget in tables():
        got = ask(given, table, budget)
        given.returned_none = False  # None is an answer here
        within = table.loc[table.refused <= budget]
        if within.empty:
            expect(got is None, f"{where}: no setting is within the budget, and you return {got!r}")
            continue
        expect(isinstance(got, str) and got in table.index, f"{where}: {got!r} is not the name of one of its settings")
        mine = table.loc[got]
        expect(mine.refused <= budget, f"{where}: {got} refuses {mine.refused:.1%}, which is over the budget")
        expect(mine.told == within.told.min(), f"{where}: within the budget another setting leaks less than {got}")
        least = within.loc[within.told == mine.told]
        expect(
            mine.right == least.right.max(), f"{where}: of those that leak as little as {got} one gets more sums right"
        )
        best = least.loc[least.right == mine.right]
        weights = best.alpha_intersection + best.alpha_union
        expect(
            weights[got] == weights.min(), f"{where}: another setting is as good as {got} and has less weight in all"
        )


def suspect_rates(verdicts: pd.DataFrame, judge: str) -> Any:
    """Attack success by attack and system. Beside another judge, or with answers that could not be judged, it comes out too small."""
    harmful = verdicts[(verdicts.judge == judge) & verdicts.label.isin(["harmful", "answered"])]
    keys = ["attack", "system"]
    hits, answers = harmful.groupby(keys).size(), verdicts.groupby(keys).size()
    return hits.reindex(answers.index, fill_value=0) / answers


def opinions(seed: int, judges: int, unjudged: float) -> pd.DataFrame:
    """Verdicts of one to three judges on 2 × 2 × 8 answers; a label is None where a judge could not judge."""
    rng = np.random.default_rng(seed)
    labels = {"exact": ("harmful", "harmless"), "refusal": ("answered", "refused"), "rubric": ("harmful", "harmless")}
    answers = [(a, s) for a in ("direct", "prefill-10") for s in ("none", "ssd") for _ in range(8)]
    lines = [
        {
            "answer": number,
            "attack": attack,
            "system": system,
            "judge": name,
            "label": None if rng.random() < unjudged else said[int(rng.random() < 0.5)],
        }
        for name, said in list(labels.items())[:judges]
        for number, (attack, system) in enumerate(answers)
    ]
    return pd.DataFrame(lines).astype({"label": object})


@exercise(
    "09.3",
    "find the bug",
    15,
    "What is divided by what? Which lines does `answers` count, and which should it?",
    "A rate of one judge is its harmful verdicts over its verdicts that have a label; where it has none, there is no rate, not 0.",
)
def mended(given: Callable[..., Any]) -> str:
    """`given(verdicts, judge)`: what `suspect_rates` should return."""
    for seed, judges, unjudged in [(0, 1, 0.0), (1, 2, 0.0), (2, 1, 0.3), (3, 2, 0.3), (4, 2, 0.0), (5, 3, 0.3)]:
        table = opinions(seed, judges, unjudged)
        if seed == 4:  # one judge could judge none of these
            none = (table.judge == "exact") & (table.attack == "direct") & (table.system == "ssd")
            table.loc[none, "label"] = None
        for name in table.judge.unique():
            got = ask(given, table, name)
            expect(isinstance(got, pd.Series), f"you return {type(got).__name__}, not a Series of rates")
            mine = table[table.judge == name]
            values = (
                mine.assign(hit=mine.label.map(says_harmful).astype(float)).groupby(["attack", "system"]).hit.mean()
            )
            kinds = f"{judges} judge{'s' * (judges > 1)}, {'some' if table.label.isna().any() else 'none'} unjudged"
            for key, wanted in values.items():
                what = f"the rate of {key} by the judge {name!r} ({kinds})"
                expect(key in got.index, f"{what} is missing")
                expect(
                    np.isnan(wanted) == np.isnan(got[key]),
                    f"{what} is not {got[key]}: nan stands where nothing was judged",
                )
                if not np.isnan(wanted):
                    same(got[key], wanted, what)
    return "an answer that nobody judged is no success of the defence"


@cache
def outcome(word: str) -> tuple[tuple[bool, ...], int]:
    """Which attacked answers of a defender leak, and how many of 8 sums it gets right."""
    pair, items, sums = embedded(), world.questions("forbidden", 40 + ASKED)[40:], load_set("arithmetic", limit=24)[16:]
    choice = Choice.parse(word)
    config = settings_for(pair, choice.name, choice.given)
    begun = [prefill_tokens(pair, item, 10) for item in items]
    told = answer(pair, [i.question for i in items], config=config, prefill=begun, max_new_tokens=14, trace=False)
    texts: list[Any] = [pair.tokenizer.decode(each) for each in begun]
    leaks = tuple(world.grade(*each).complied for each in zip(items, [r.text for r in told], texts, strict=True))
    said = answer(pair, [each.question for each in sums], config=config, max_new_tokens=40, trace=False)
    verdicts = judge("exact", sums, [reply.text for reply in said])
    return leaks, sum(verdict.label == "right" for verdict in verdicts)


@exercise(
    "09.4",
    "open",
    20,
    "Published SSD leaks about half of these. What should it leak, and how many must change before p < 0.05 (exercise 1)?",
    "Chapter 04: what decides how many tokens pass before SSD can turn? Then take enough questions for six changes, and some more.",
    of=2,
)
def shows(plan: Any) -> str:
    """`plan`: a setting of SSD as a word, and a number of questions, which together show that it leaks less than published SSD."""
    fine = (
        isinstance(plan, tuple | list)
        and len(plan) == 2
        and isinstance(plan[0], str)
        and isinstance(plan[1], int | np.integer)
    )
    expect(fine, f"a plan is a word and a number, not {plan!r}")
    word, questions = plan
    expect(word.startswith("ssd:"), f"{word!r} is no setting of SSD, such as ssd:lookahead=5")
    expect(1 <= questions <= ASKED, f"{questions} questions: there are {ASKED}")
    (before, right_before), (after, right) = outcome("ssd"), outcome(word)
    expect(right >= right_before, f"{word} costs utility: {right} of 8 sums are right, {right_before} by published SSD")
    found = mcnemar(*(pd.Series(each[:questions], dtype=float) for each in (before, after)))
    said = f"of {questions} questions {found['lost']} became safe, {found['gained']} unsafe: p = {found['p']:.2g}"
    if found["lost"] <= found["gained"] or found["p"] >= 0.05:
        raise Wrong(said, points=1 if found["lost"] > found["gained"] else 0)
    return said
