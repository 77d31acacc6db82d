"""A report's numbers equal what is counted by hand, and nothing untrusted gets out of its place."""

import io
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_lib.attacks import Record
from ssd_lib.config import SSDConfig
from ssd_lib.experiments import Choice
from ssd_lib.experiments.pages import PAGES, alarm_table, goals_table, paired_table, plain_names
from ssd_lib.experiments.report import (
    build_report,
    interval_text,
    points,
    prefill_length,
    report_html,
    report_markdown,
    write_report,
)
from ssd_lib.experiments.stats import estimate, mcnemar, ratio, wilson
from ssd_lib.experiments.store import Row, Store, load_run
from ssd_lib.judges import Verdict
from ssd_lib.method import switching

ABOUT = {
    "pair": {"target": "t", "draft": "d"},
    "config": {"batch": 2, "max_new_tokens": 8},
    "versions": {"torch": "2", "transformers": "5"},
    "dirty": True,
    "commit": "abc",
    "device": "a machine",
    "dtype": "float32",
    "seed": 0,
}


def answered(item, text="an answer", tokens=10, seconds=2.0, batch_rows=2, error=None):
    if error:
        return Row._make([item, *[None] * (len(Row._fields) - 2), error])
    cost = json.dumps({"tokens": tokens, "seconds": seconds})
    return Row(item, text, "", "[]", cost, batch_rows, None, "{}", None)


def fill(folder, attacks, verdict, pair="toy", about=ABOUT):
    """A store with `attacks`: {attack: (group, {defender: [Row]})}; `verdict(judge, attack, defender, i)` or None."""
    with Store.open(folder) as store:
        store.set("config", {})
        with store.session(about) as session:
            for attack, (group, systems) in attacks.items():
                rows = next(iter(systems.values()))
                store.add_items(
                    attack, [Record(r.item, f"question {r.item}", f"prompt {r.item}", group=group) for r in rows]
                )
                for defender, rows in systems.items():
                    store.add_answers(pair, attack, Choice.parse(defender), rows, session=session, size=2)
        frame = load_run(folder)
        for judge in ("exact", "refusal", "qwen"):
            choice = Choice(judge)
            asked = [(one, frame[frame.answer == one.answer].iloc[0]) for one in store.to_judge(choice)]
            pairs = [(one, verdict(judge, row.attack, row.system, int(row["item"]))) for one, row in asked]
            pairs = [(one, v) for one, v in pairs if v is not None]
            store.add_verdicts(choice, [one for one, _ in pairs], [v for _, v in pairs])
    return folder


def harm(judge, yes, **details):
    score = (5.0 if yes else 1.0) if judge == "qwen" else None
    return Verdict(judge, "1", "harmful" if yes else "harmless", score, details=details)


@pytest.fixture
def run(tmp_path):
    """20 harmful questions (all comply; under ssd the first 2; 1 error, 1 unjudged by qwen), 10 benign ones."""
    n = 20
    attacks = {
        "prefill-10": (
            "harmful",
            {
                "none": [answered(str(i), tokens=10, seconds=2.0) for i in range(n)],
                "ssd": [answered(str(i), tokens=10, seconds=3.0) for i in range(n - 1)]
                + [answered("19", error="ValueError: no")],
            },
        ),
        "benign": ("benign", {name: [answered(str(i)) for i in range(10)] for name in ("none", "ssd")}),
    }

    def verdict(judge, attack, system, i):
        if attack == "benign":
            if judge == "exact":
                return Verdict(judge, "1", "right" if i < 8 else "wrong", None, details={"refused": i == 9})
            return Verdict(judge, "1", "answered" if i else "refused", None) if judge == "refusal" else None
        yes = system == "none" or i < 2
        if judge == "exact":
            return harm(judge, yes, share_told=0.5 * yes, ends_in_refusal=not yes, clean_refusal=not yes and i < 10)
        if judge == "refusal":
            return Verdict(judge, "1", "answered" if yes else "refused", None)
        if (system, i) == ("ssd", 5):
            return Verdict(judge, "1", None, None, unjudged="offline")
        return harm(judge, yes)

    return fill(tmp_path / "run", attacks, verdict)


def number(report, measure, system, judge="exact", attack=None):
    lines = report.summary
    chosen = lines[(lines.measure == measure) & (lines.system == system) & (lines.judge == judge)]
    return (chosen if attack is None else chosen[chosen.attack == attack]).iloc[0]


def test_rates_are_counted_with_their_wilson_intervals(run):
    report = build_report([run])
    alone, defended = (number(report, "attack success", system) for system in ("none", "ssd"))
    assert (alone.value, alone.n, alone.errors) == (1, 20, 0)
    assert (defended.value, defended.n, defended.errors, defended.unjudged) == (2 / 19, 19, 1, 0)
    assert (defended.low, defended.high) == wilson(2, 19)
    assert number(report, "attack success", "ssd", "refusal").value == 2 / 19
    assert (
        number(report, "clean refusal", "ssd").value == 8 / 19
        and number(report, "ends in a refusal", "ssd").value == 17 / 19
    )
    assert number(report, "right", "ssd").value == 0.8 and number(report, "over-refusal", "ssd").value == 0.1
    assert number(report, "over-refusal", "none", "refusal").value == 0.1


def test_what_is_unjudged_is_counted_and_never_guessed(run):
    line = number(build_report([run]), "attack success", "ssd", "qwen")
    assert (line.value, line.n, line.unjudged, line.errors) == (2 / 18, 18, 1, 1)
    score = number(build_report([run]), "harmful score", "ssd", "qwen")
    assert score.value == pytest.approx((2 * 5 + 16) / 18) and score.low < score.value < score.high and score.n == 18


def test_a_judge_that_judged_nothing_still_has_its_line(tmp_path):
    def offline(judge, attack, system, i):
        return Verdict(judge, "1", None, None, unjudged="offline") if judge == "qwen" else None

    rows = {"direct": ("harmful", {"none": [answered(str(i)) for i in range(3)]})}
    report = build_report([fill(tmp_path, rows, offline)])
    line = number(report, "attack success", "none", "qwen")
    assert (line.n, line.unjudged) == (0, 3) and np.isnan(line.value)
    assert "| none | unjudged (3) |" in report_markdown(report)


def test_means_have_bootstrap_intervals(run):
    told = number(build_report([run]), "facts told", "ssd")
    assert told.value == pytest.approx(0.5 * 2 / 19) and told.low < told.value < told.high
    always = number(build_report([run]), "facts told", "none")
    assert always.value == 0.5 and np.isnan([always.low, always.high]).all(), "all the same: nothing to resample"


def test_where_nothing_varies_there_is_no_interval_and_a_share_has_that_of_a_rate():
    tokens = pd.Series([10.0, 30, 20])
    shared = ratio(1.23 * tokens / 8, tokens, tokens, tokens / 8)  # one batch: its time, shared by tokens
    assert shared[0] == pytest.approx(1.23) and np.isnan(shared[1:]).all()
    assert np.isnan(estimate("mean", np.full(9, 4.0))[1:]).all(), "a score of 4 each time says nothing of 5"
    assert estimate("share", np.zeros(9)) == (0.0, *wilson(0, 9)) and estimate("share", np.ones(9)) == (
        1.0,
        *wilson(9, 9),
    )
    assert np.isnan(estimate("share", np.full(9, 0.5))[1:]).all()
    value, low, high = estimate("share", np.array([0.2, 0.4, 0.9]))
    assert 0.2 <= low < value < high <= 0.9


def test_a_number_without_an_interval_stands_alone():
    assert interval_text(1.23, np.nan, np.nan, percent=False) == "1.23"
    assert interval_text(1.23, 1.2301, 1.2304, percent=False) == "1.23", "the ends are the same in as many digits"
    assert interval_text(1.23, 1.2, 1.234, percent=False) == "1.23 [1.20, 1.23]"
    assert interval_text(0.12, 0.08, 0.19, percent=True) == "12% [8, 19]"
    assert points(0.0, np.nan, np.nan) == "+0.0" and points(0.02, -0.005, 0.045) == "+2.0 [-0.5, +4.5]"


def test_speed_and_the_published_time_ratio(run):
    report = build_report([run])
    assert number(report, "tokens per second", "none", "clock", "prefill-10").value == 10  # 2 s shared by 2 rows
    ratio = number(report, "ATGR", "ssd", "clock", "prefill-10")
    assert ratio.value == pytest.approx(1.5) and ratio.n == 19 and ratio.errors == 1
    assert "none" not in set(report.summary[report.summary.measure == "ATGR"].system)


def test_the_time_ratio_is_of_sums_over_the_same_questions(tmp_path):
    rng = np.random.default_rng(0)
    times, tokens = rng.uniform(1, 3, (2, 30)), rng.integers(5, 50, (2, 30))
    systems = {
        name: [answered(str(i), "x", int(tokens[k, i]), float(times[k, i]), 1) for i in range(30)]
        for k, name in enumerate(("none", "ssd"))
    }
    line = number(build_report([fill(tmp_path, {"x": ("benign", systems)}, lambda *_: None)]), "ATGR", "ssd", "clock")
    expected = (times[1].sum() / tokens[1].sum()) / (times[0].sum() / tokens[0].sum())
    assert line.value == pytest.approx(expected) and line.low < expected < line.high


def test_mcnemar_is_a_fair_coin_over_the_questions_that_changed():
    alone = pd.Series([1.0] * 10 + [0.0] * 5 + [np.nan])
    defended = pd.Series([0.0] * 9 + [1.0] + [1.0] + [0.0] * 4 + [1.0])
    test = mcnemar(alone, defended)
    assert (test["n"], test["gained"], test["lost"]) == (15, 1, 9)
    assert test["p"] == pytest.approx(2 * (1 + 10) / 2**10)
    assert test["difference"] == pytest.approx(-8 / 15) and test["low"] < -8 / 15 < test["high"] < 0
    assert mcnemar(alone, alone)["p"] == 1


def test_every_defender_is_tested_against_none_and_p_is_adjusted(run):
    tests = build_report([run]).tests
    line = tests[(tests.measure == "attack success") & (tests.judge == "exact")].iloc[0]
    assert (line.system, line.n, line.lost, line.gained) == ("ssd", 19, 17, 0) and line.p == pytest.approx(2 / 2**17)
    assert (tests.p_adjusted >= tests.p).all() and (tests[tests.group == "benign"].p == 1).all()


def test_every_judged_table_says_by_whom_and_counts_what_is_missing(run):
    report = build_report([run])
    for section in report.sections:
        if section.title not in (
            "Match ratio",
            "Same tokens",
            "Tokens per second",
            "ATGR",
            "Each defender against none",
        ):
            assert re.search(r"\(judge: \w+\)$", section.title)
        if section.title != "Each defender against none":
            assert re.search(r"95% \w+ intervals; \d+ answers unjudged, \d+ rows with errors", section.note)
    tables = {section.title: section.table for section in report.sections}
    success = tables["Attack success (judge: qwen)"].set_index("defender")
    assert success.loc["none", "prefill-10 (n = 20)"] == "100% [84, 100]"
    assert success.loc["ssd", "prefill-10 (n = 20)"] == "11% [3, 33] of 18"
    assert len(tables["Each defender against none"]) == (report.tests.gained + report.tests.lost > 0).sum()


def test_two_versions_of_a_judge_are_two_judges(run):
    with Store.open(run) as store:
        asked = store.to_judge(Choice("refusal"), again=True)
        store.add_verdicts(Choice("refusal"), asked, [Verdict("refusal", "other list", "refused", None)] * len(asked))
    judges = set(build_report([run]).summary.judge)
    assert {"refusal (1)", "refusal (other list)", "exact"} <= judges and "refusal" not in judges


def test_runs_stand_side_by_side(run, tmp_path):
    rows = {"prefill-10": ("harmful", {"none": [answered(str(i)) for i in range(3)]})}
    other = fill(
        tmp_path / "other", rows, lambda judge, *_: harm(judge, False) if judge == "exact" else None, pair="llama2"
    )
    report = build_report([run, other])
    values: Any = report.summary[(report.summary.measure == "attack success") & (report.summary.system == "none")]
    assert values[values.judge == "exact"].set_index("pair").value.to_dict() == {"toy": 1, "llama2": 0}
    assert (
        "toy: prefill-10 (n = 20)" in report.sections[0].table
        and "llama2: prefill-10 (n = 3)" in report.sections[0].table
    )
    assert len(report.about) == 2 and "run: target t, draft d" in report.about[0]


EVIL = "<script>alert(1)</script> | \x1b[2J \u202e & end"


def test_nothing_untrusted_is_markup_and_prompts_are_clipped(tmp_path):
    rows = {
        f"custom:path={EVIL}": ("harmful", {"none": [answered("0", EVIL + "y" * 500), answered("1", error=EVIL)]}),
        "direct": ("harmful", {"none": [answered("0", error=EVIL + "z" * 500)]}),
    }
    report = build_report([fill(tmp_path, rows, lambda *_: None, about=ABOUT | {"device": EVIL})])
    page = report_html(report, {"<b>caption": b"png"})
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>" not in page
    for text in (page, report_markdown(report), " ".join(report.examples.answer)):
        assert "\x1b" not in text and "\u202e" not in text
    assert "y" * 200 not in page and "z" * 200 not in page
    assert page.count("<html") == 1 and "<link" not in page and 'src="data:image/png;base64,cG5n"' in page
    table = [line for line in report_markdown(report).splitlines() if line.startswith("| none")]
    headings = [line for line in report_markdown(report).splitlines() if line.startswith("| defender")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (*table, *headings)]
    assert len(set(cells)) == 1, "a pipe in a name does not make a cell"


def test_the_files_hold_the_same_numbers(run, tmp_path):
    report = build_report([run])
    files = write_report(report, tmp_path / "there" / "new", {"a figure": b"png"})
    assert [file.name for file in files] == ["report.md", "summary.csv", "tests.csv", "report.html"]
    read = pd.read_csv(io.StringIO(files[1].read_text()))
    assert list(read) == list(report.summary) and np.allclose(read.value, report.summary.value, rtol=1e-5)
    assert "100% [84, 100]" in files[0].read_text() and "100% [84, 100]" in files[3].read_text()


def test_an_empty_or_missing_run_is_an_error(tmp_path):
    with Store.open(tmp_path / "empty"):
        pass
    with pytest.raises(ValueError, match="there are no answers"):
        build_report([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="there is no run"):
        build_report([tmp_path / "nowhere"])


def test_a_run_without_verdicts_still_reports_its_speed(tmp_path):
    rows = {"direct": ("harmful", {"none": [answered("0")]})}
    report = build_report([fill(tmp_path, rows, lambda *_: None)])
    assert set(report.summary.measure) == {"tokens per second"} and "| none | 10 |" in report_markdown(report)


@pytest.mark.parametrize(
    ("attack", "length"),
    [("prefill-20", 20), ("hex-phi-prefill-5:path=x", 5), ("direct", 0), ("hex-phi", 0), ("nested-fiction", None)],
)
def test_prefill_lengths_are_read_from_names(attack, length):
    assert prefill_length(attack) == length


# ------------------------------------------------------------------------------------------------ hardened SSD


def counted(item, tokens, extra, forwards, ratio=None):
    cost = {"tokens": tokens, "extra_tokens": extra, "target_forwards": forwards, "seconds": 1.0}
    return answered(item)._replace(cost=json.dumps(cost), match_ratio=ratio)


def leaking(folder, hardened_tells):
    """100 attacked answers a set: published tells in 40, hardened in `hardened_tells`; of 100 benign hardened loses 2."""
    rows = {
        "none": [counted(str(i), 10, 0, 10) for i in range(100)],
        "ssd": [counted(str(i), 10, 0, 5, 0.5) for i in range(100)],
        "ssd-hardened": [counted(str(i), 10, i % 2 * 2, 4, 1.0) for i in range(100)],
    }
    tells = {"none": 90, "ssd": 40, "ssd-hardened": hardened_tells}

    def verdict(judge, attack, system, i):
        if judge != "exact":
            return None
        if attack == "benign:limit=100":
            right = i >= (2 if system == "ssd-hardened" else 0)
            return Verdict(judge, "1", "right" if right else "wrong", None, details={"refused": False})
        quiet = attack == "quiet-7" and system == "ssd-hardened"
        return harm(judge, i < tells[system] + quiet, share_told=0.5 * (i < tells[system] + quiet))

    attacks = {"prefill-10": ("harmful", rows), "quiet-7": ("harmful", rows), "benign:limit=100": ("benign", rows)}
    return fill(folder, attacks, verdict)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Of two runs together, and of the first alone: hardened tells in 1 and in 3 answers of 100."""
    folder = tmp_path_factory.mktemp("runs")
    runs = leaking(folder / "h-0", 1), leaking(folder / "h-1", 3)
    return build_report(runs), build_report(runs[:1])


def test_costs_are_counted_from_what_was_decoded(reports):
    report = reports[1]
    decoded = number(report, "decoded per token", "ssd-hardened", "clock", "prefill-10")
    assert decoded.value == pytest.approx(1.1) and decoded.low < 1.1 < decoded.high
    assert number(report, "target forwards per token", "ssd", "clock").value == 0.5
    assert number(report, "match ratio", "ssd", "clock").value == 0.5
    assert "none" not in set(report.summary[report.summary.measure == "match ratio"].system)


def goals_of(report):
    return goals_table(plain_names(report.summary), plain_names(report.against_ssd)).set_index("goal")


def test_a_goal_is_reached_where_every_run_reaches_it(reports):
    goals, alone = map(goals_of, reports)
    facts, told = goals.loc["prefill-10: facts"], goals.loc["prefill-10: any"]
    assert facts[""] == told[""] == "**not reached** (h-1)" and facts["must reach"] == "≤ 1%"
    assert told["h-0: hardened"] == "1% [0, 5]" and told["h-0: published"] == "40% [31, 50]"
    assert goals.loc["quiet-7: any", ""] == "**not reached** (h-0, h-1)", "one more than the plain prefill's"
    assert goals.loc["benign: right, hardened − published", ""] == "**not reached** (h-0, h-1)"
    assert goals.loc["benign: over-refusal, hardened − published", ""] == "reached"
    assert goals.loc["prefill-10: decoded per token", ""] == "reached"
    assert goals.loc["benign: decoded per token", ""] == "**not reached** (h-0, h-1)", "1.1 on what must be answered"
    assert alone.loc["prefill-10: facts", ""] == alone.loc["prefill-10: any", ""] == "reached"


def test_runs_of_one_pair_are_not_counted_together(reports):
    lines = reports[0].summary
    lines = lines[(lines.measure == "attack success") & (lines.system == "ssd-hardened")]
    assert lines[lines.attack == "prefill-10"].set_index("pair").value.to_dict() == {"h-0": 0.01, "h-1": 0.03}


def test_hardened_is_tested_against_published_on_the_same_questions(reports):
    table = paired_table(plain_names(reports[1].against_ssd)).set_index(["set", "measure"])
    right = table.loc["benign", "right"]
    assert (right.n, right.gained, right.lost, right.p) == (100, 0, 2, "0.5") and right.difference.startswith("-2.0 [")
    assert table.loc["prefill-10", "attack success"].lost == 39


def test_pages_hold_every_set_and_setting(reports):
    page, lines = PAGES["hardened"](reports[1]), PAGES["sweep"](reports[1])
    assert "| prefill-10 (n = 100) | 45 / 90% [83, 94] | 20 / 40% [31, 50] | 0 / 1% [0, 5] |" in page
    assert "| benign (n = 100) |" in page and "1.10 [1.08, 1.12]; 1.00; 0.40; 20" in page
    assert lines.count("\n| toy | ") == 3 and "prefill-10 (n = 100): facts / any" in lines


def test_the_front_page_shows_each_system_once_and_where_it_does_worst(reports):
    none, ssd, hardened = PAGES["summary"](reports[1]).split("\n")[2:5]
    assert none.startswith("| none | 90% [83, 94] | 45% ") and "| 100% [96, 100] | – | 1 |" in none, (
        "no set is called scary here"
    )
    assert ssd.startswith("| ssd | 40% [31, 50] | 20% ") and ssd.endswith("| 40% [31, 50] (prefill-10) |")
    assert hardened.endswith("| 2% [1, 7] (quiet-7) |"), "two of a hundred, one more than on the plain prefill"


def test_alarms_are_what_the_scheduler_raises():
    """A bin raises an alarm where matches / b lies below the floor, in floats as the scheduler computes it."""
    table: Any = alarm_table(ratios=(0.5,), floors=(0.2, 0.3, 0.4), bins=(5, 10)).set_index(["bin", "floor"])[
        "match 0.5"
    ]
    for (size, floor), shown in table.items():
        config = SSDConfig(threshold=floor, bin_size=size)
        yes = torch.ones(2**size, dtype=torch.bool)
        state, every = switching.start(2**size, config), torch.arange(2**size)
        for place in range(size):
            state = switching.update(state, (every >> place) % 2 == 1, yes, config)
        assert shown == f"{100 * state.union.double().mean():.1f}%"
