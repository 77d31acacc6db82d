"""From stored rows and verdicts to tables, and to files: Markdown, two CSV tables, one HTML page that needs nothing else.

    finished = build_report(["runs/x"])
    write_report(finished, "runs/x")

One table a measure and judge: defenders down, attack sets across, a number with its interval in each cell. Answers that a judge
could not judge are counted, never guessed; a table's title names its judge.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ssd_lib.experiments.stats import wilson
from ssd_lib.experiments.store import load_run, load_sessions, load_verdicts
from ssd_lib.experiments.summary import CLOCK, MEASURES, groups, judged, records, summary_of, tests_of
from ssd_lib.method.trace import visible
from ssd_lib.paths import write_whole

MAIN_TABLES = ("Attack success (judge: exact)", "Facts told (judge: exact)", "Right (judge: exact)", "ATGR")
"""What a README shows of a run of the embedded pair."""
CLIP_PROMPT, CLIP_ANSWER = 40, 120
"""Characters of a prompt and of an answer that a report shows."""
RATES = {measure.name for measure in MEASURES if measure.kind == "rate"}
PERCENT = RATES | {"facts told", "share that is recipe", "same tokens"}
ABOUT = {measure.name: measure.about for measure in MEASURES} | {
    "tokens per second": "Of whole answers, in batches as they were decoded; the machine's own noise is not in the interval.",
    "same tokens": "Mean share of an answer's tokens that stand in the same place without a defence.",
    "ATGR": "Time a token takes with the defence over without it, on the same questions; 1 is no slower.",
    "decoded per token": "Tokens generated, those taken back or thrown away included, for every token of the answers.",
    "target forwards per token": "Target forwards of a row's batch over the row's tokens; rows that wait for longer ones count.",
    "match ratio": "Share of an answer's tokens that the draft proposed, mean over answers.",
}
EXACT_DETAILS = ("right", "told", "complied", "refused", "ends_in_refusal", "clean_refusal", "share_told")
"""What the embedded world's own grader says of an answer."""


@dataclass(frozen=True)
class Section:
    """One table with its title and what to know about it."""

    title: str
    note: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Report:
    """A finished report: `summary` (one line a number), `tests` (one line a comparison), tables and clipped examples."""

    about: tuple[str, ...]
    summary: pd.DataFrame
    tests: pd.DataFrame
    sections: tuple[Section, ...]
    examples: pd.DataFrame
    against_ssd: pd.DataFrame
    """Every defender against published SSD, as `tests` is against none."""
    answers: pd.DataFrame
    """Every row of the runs (`load_run`) with its run and the details of the exact judge's verdict, where there is one."""


def build_report(paths: Iterable[str | Path]) -> Report:
    """The report of one run, or of several side by side.

    Args:
        paths: Folders or databases of runs. Several runs of one pair are named after their folders.

    Returns:
        Numbers with 95% intervals, paired tests, the tables made of them, and clipped examples.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: Where the runs hold no answers, or one of them answers of two pairs.
    """
    paths = list(paths)
    rows = told_apart(pd.concat([load_run(path).assign(run=str(path)) for path in paths], ignore_index=True))
    if rows.empty:
        raise ValueError(f"there are no answers in {', '.join(map(str, paths))} yet: `ssd run` again continues a run")
    verdicts = pd.concat([load_verdicts(path).assign(run=str(path)) for path in paths], ignore_index=True)
    verdicts = judged(rows, verdicts)
    summary, tests = summary_of(rows, verdicts), tests_of(verdicts)
    return Report(
        about=about_of(paths),
        summary=summary,
        tests=tests,
        sections=tuple(sections_of(summary, tests)),
        examples=examples_of(rows),
        against_ssd=tests_of(verdicts, "ssd"),
        answers=rows.merge(_exact(verdicts), on=["run", "answer"], how="left"),
    )


def _exact(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The exact judge's details, with run and answer to find them by."""
    told = [name for name in EXACT_DETAILS if name in verdicts]
    return verdicts.loc[verdicts.judge == "exact", ["run", "answer", *told]]


def told_apart(rows: pd.DataFrame) -> pd.DataFrame:
    """A pair that several runs have is named after each run's folder, so that their answers are not counted together."""
    shared = rows.groupby("pair").run.transform("nunique") > 1
    return rows.assign(pair=rows.pair.where(~shared, [Path(run).name for run in rows.run]))


def about_of(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Models, settings, versions and times of every run, a line each."""
    lines = []
    for path in paths:
        sessions = records(load_sessions(path))
        last = sessions[-1]
        pair, config, versions = last["pair"], last["config"], last["versions"]
        dirty = " with uncommitted changes" if last["dirty"] else ""
        lines.append(
            f"{Path(path).resolve().name}: target {pair['target']}, draft {pair['draft']}, {last['dtype']} on {last['device']}, "
            f"batches of {config['batch']}, at most {config['max_new_tokens']} new tokens, seed {last['seed']}; "
            f"torch {versions['torch']}, transformers {versions['transformers']}, "
            f"commit {(last['commit'] or 'unknown')[:10]}{dirty}; {len(sessions)} start{'s' * (len(sessions) > 1)}, "
            f"{sessions[0]['started']} to {last['stopped'] or 'now'}." + _generation(last.get("generation"))
        )
    return tuple(lines)


def _generation(recorded: Any) -> str:
    """What the models' generation configs did to the answers; nothing where they were at their defaults, or in an older run that
    did not record it."""
    in_force = {role: of["in_force"] for role, of in recorded.items()} if isinstance(recorded, dict) else {}
    said = [f"{role} {name} = {value}" for role, of in in_force.items() for name, value in of.items()]
    return f" Generation settings in force: {', '.join(said)}." if said else ""


# ------------------------------------------------------------------------------------------------ tables


def sections_of(summary: pd.DataFrame, tests: pd.DataFrame) -> Iterator[Section]:
    """One section a measure and judge, then the paired tests."""
    for (measure, judge), lines in groups(summary, ["measure", "judge"]):
        title = measure[:1].upper() + measure[1:] + ("" if judge == CLOCK else f" (judge: {judge})")
        yield Section(title, f"{ABOUT[measure]} {_counts(lines)}", _wide(lines, measure in PERCENT))
    changed = tests.loc[tests.gained + tests.lost > 0] if len(tests) else tests
    if len(changed):
        note = (
            "On the same questions, exact McNemar; the difference in points with its 95% bootstrap interval; p adjusted "
            f"(Benjamini and Hochberg) for all {len(tests)} comparisons, of which the {len(changed)} with a change are shown."
        )
        yield Section("Each defender against none", note, _test_table(changed))


def _counts(lines: pd.DataFrame) -> str:
    kind = "Wilson" if set(lines.measure) & RATES else "bootstrap"
    return f"95% {kind} intervals; {lines.unjudged.sum()} answers unjudged, {lines.errors.sum()} rows with errors."


def _wide(lines: pd.DataFrame, percent: bool) -> pd.DataFrame:
    """Systems down, attack sets across; how many questions count stands in the heading, and in a cell where fewer do."""
    columns: dict[str, dict[str, str]] = {}
    for (pair, attack, group), part in groups(lines, ["pair", "attack", "group"]):
        most = int(part.n.max())
        names = [pair] * (lines.pair.nunique() > 1) + [attack]
        names += [group] * (lines[lines.attack == attack].group.nunique() > 1)
        heading = f"{': '.join(names)} (n = {most})"
        columns[heading] = {line["system"]: cell(line, percent, most) for line in records(part)}
    table = pd.DataFrame(columns).reindex(list(dict.fromkeys(lines.system))).fillna("–")
    return table.rename_axis("defender").reset_index()


def cell(line: Mapping[Any, Any], percent: bool, most: int = 0) -> str:
    """A number with its interval, and how many questions count where that is fewer than `most`."""
    if not line["n"]:
        return f"unjudged ({line['unjudged']})"
    few = f" of {line['n']}" if line["n"] < most else ""
    return interval_text(line["value"], line["low"], line["high"], percent) + few


def interval_text(value: float, low: float, high: float, percent: bool) -> str:
    """`12% [8, 19]`, or `0.81 [0.78, 0.84]`; 10 and more without decimals.

    The number alone where it has no interval, and where its ends are the same in as many digits.
    """
    digits = 0 if percent or abs(value) >= 10 else 2
    said, *ends = ("–" if np.isnan(x) else f"{x * (100 if percent else 1):.{digits}f}" for x in (value, low, high))
    if np.isnan([low, high]).any() or set(ends) == {said}:
        return f"{said}{'%' if percent else ''}"
    return f"{said}{'%' if percent else ''} [{', '.join(ends)}]"


def rate_text(successes: int, trials: int) -> str:
    """A rate with its Wilson interval, as percent."""
    return interval_text(successes / trials, *wilson(successes, trials), percent=True)


def rate_cell(rows: pd.DataFrame, column: str) -> str:
    """The share of rows where `column` is true, as `rate_text`; – for no rows."""
    return rate_text(int(rows[column].to_numpy().sum()), len(rows)) if len(rows) else "–"


def points(difference: float, low: float, high: float, digits: int = 1) -> str:
    """A difference of shares in points, with its interval: `+2.0 [-0.5, +4.5]`; alone where it has none: no answer changed."""
    shown = [f"{100 * x:+.{digits}f}" for x in (difference, low, high)]
    return shown[0] if np.isnan([low, high]).any() else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _test_table(tests: pd.DataFrame) -> pd.DataFrame:
    difference = [points(*line, digits=0) for line in tests[["difference", "low", "high"]].to_numpy()]
    small = {name: [f"{p:.2g}" for p in tests[name]] for name in ("p", "p_adjusted")}
    columns = ["pair", "attack", "measure", "judge", "system", "n", "gained", "lost", "difference", "p", "p_adjusted"]
    shown = tests.assign(difference=difference, **small)[columns if tests.pair.nunique() > 1 else columns[1:]]
    return pd.DataFrame(shown).rename(columns={"system": "defender", "p_adjusted": "p adjusted"})


def examples_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The first answer of every attack set and defender, clipped; an error in place of an answer."""
    first = rows.groupby(["pair", "attack", "system"], sort=False).head(1)
    said = first.text.where(first.error.isna(), first.error)
    return pd.DataFrame(
        {
            "attack": first.attack,
            "defender": first.system,
            "question": [clip(text, CLIP_PROMPT) for text in first.question],
            "answer": [clip(text, CLIP_ANSWER) for text in said],
        }
    )


def clip(text: str, length: int) -> str:
    """The beginning of a text on one line, control characters made visible."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= length else f"{line[:length].rstrip()} …"


def prefill_length(attack: str) -> int | None:
    """How many answer tokens a set's attacker writes: N of prefill-N, 0 for the same questions asked directly."""
    found = re.search(r"prefill-(\d+)\b", attack)
    return int(found[1]) if found else 0 if attack in ("direct", "kitchen-direct", "hex-phi") else None


# ------------------------------------------------------------------------------------------------ files


def write_report(report: Report, folder: str | Path, figures: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write report.md, summary.csv, tests.csv and report.html into a folder.

    Args:
        report: From `build_report`.
        folder: Made where it does not exist.
        figures: PNG bytes by caption, for report.html.

    Returns:
        The paths of the four files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": report_markdown(report),
        "summary.csv": report.summary.to_csv(index=False, float_format="%.6g"),
        "tests.csv": report.tests.to_csv(index=False, float_format="%.6g"),
        "report.html": report_html(report, figures or {}),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def report_markdown(report: Report, titles: Collection[str] | None = None) -> str:
    """The tables as Markdown, all of them or those with these titles, without examples."""
    parts = [visible(line) for line in report.about]
    for section in report.sections:
        if titles is not None and section.title not in titles:
            continue
        parts += [
            f"### {visible(section.title)}",
            section.note,
            markdown(section.table.map(_in_cell).rename(columns=_in_cell)),
        ]
    return "\n\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def put_measured(page: Path, command: str, text: str) -> None:
    """Replace what stands in a Markdown page between the markers of the command that measured it.

    Raises:
        ValueError: Where the page is no text, or has no such markers.
        OSError: Where it cannot be read or written.
    """
    before, after = f"<!-- measured: {command} -->", f"<!-- end of {command} -->"
    try:
        whole = page.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{page}: not UTF-8 text (byte {error.start})") from error
    if before not in whole or after not in whole:
        raise ValueError(f"{page} has no place for this: put the lines {before} and {after} into it")
    head, tail = whole[: whole.index(before)], whole[whole.index(after) :]
    write_whole(page, f"{head}{before}\n\n{text.strip()}\n\n{tail}")


def _in_cell(value: Any) -> str:
    """Text that cannot end a Markdown cell, control characters made visible."""
    return visible(str(value)).replace("|", "\\|")


def _finalize(value: Any) -> Any:
    """What the page prints: text with control characters made visible; markup of the page itself as it is."""
    return visible(value) if type(value) is str else value


def report_html(report: Report, figures: Mapping[str, bytes]) -> str:
    """The report as one page: tables, figures inside, everything escaped."""
    images = {caption: base64.b64encode(png).decode() for caption, png in figures.items()}
    return _PAGE.render(report=report, images=images)


_PAGE = jinja2.Environment(autoescape=True, finalize=_finalize, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Report</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .7rem; text-align: left; vertical-align: top }
img { max-width: 100% } figure { margin: 1rem 0 } figcaption, .note { color: #555 }
</style></head><body>
{% macro grid(table) %}
<table><thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.itertuples(index=False) %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endmacro %}
<h1>Report</h1>
{% for line in report.about %}<p class="note">{{ line }}</p>{% endfor %}
{% for caption, image in images.items() %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% for section in report.sections %}
<h2>{{ section.title }}</h2><p class="note">{{ section.note }}</p>
{{ grid(section.table) }}
{% endfor %}
<h2>The first answer of each set, clipped</h2>
{{ grid(report.examples) }}
</body></html>
"""
)
