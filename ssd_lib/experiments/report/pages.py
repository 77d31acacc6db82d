"""A report as a whole, and as files: Markdown, two CSV tables, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ssd_lib.experiments import load_run, load_sessions, load_verdicts
from ssd_lib.experiments.evaluation import markdown
from ssd_lib.experiments.report.comparing import tests_of
from ssd_lib.experiments.report.numbers import judged, summary_of
from ssd_lib.experiments.report.tables import Section, examples_of, sections_of
from ssd_lib.method.trace import visible

MAIN_TABLES = ("Attack success (judge: exact)", "Facts told (judge: exact)", "Right (judge: exact)", "ATGR")
"""What a README shows of a run of the embedded pair."""


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


def build_report(paths: Iterable[str | Path]) -> Report:
    """The report of one run, or of several side by side; runs of one pair are told apart by their folder.

    Raises FileNotFoundError where there is no run, ValueError when the runs hold no answers or one of them two pairs' worth.
    """
    paths = list(paths)
    rows = told_apart(pd.concat([load_run(path).assign(run=str(path)) for path in paths], ignore_index=True))
    if rows.empty:
        raise ValueError(f"there are no answers in {', '.join(map(str, paths))} yet: `ssd run` again continues a run")
    verdicts = pd.concat([load_verdicts(path).assign(run=str(path)) for path in paths], ignore_index=True)
    verdicts = judged(rows, verdicts)
    summary, tests = summary_of(rows, verdicts), tests_of(verdicts)
    sections, examples = tuple(sections_of(summary, tests)), examples_of(rows)
    return Report(_about(paths), summary, tests, sections, examples, tests_of(verdicts, "ssd"))


def told_apart(rows: pd.DataFrame) -> pd.DataFrame:
    """A pair that several runs have is named after each run's folder, so that their answers are not counted together."""
    shared = rows.groupby("pair").run.transform("nunique") > 1
    return rows.assign(pair=rows.pair.where(~shared, [Path(run).name for run in rows.run]))


def _about(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Models, settings, versions and times of every run, a line each."""
    lines = []
    for path in paths:
        sessions = load_sessions(path).to_dict("records")
        last = sessions[-1]
        pair, config, versions = last["pair"], last["config"], last["versions"]
        dirty = " with uncommitted changes" if last["dirty"] else ""
        lines.append(
            f"{Path(path).name}: target {pair['target']}, draft {pair['draft']}, {last['dtype']} on {last['device']}, "
            f"batches of {config['batch']}, at most {config['max_new_tokens']} new tokens, seed {last['seed']}; "
            f"torch {versions['torch']}, transformers {versions['transformers']}, "
            f"commit {(last['commit'] or 'unknown')[:10]}{dirty}; {len(sessions)} start{'s' * (len(sessions) > 1)}, "
            f"{sessions[0]['started']} to {last['stopped'] or 'now'}." + _generation(last.get("generation"))
        )
    return tuple(lines)


def _generation(recorded: Any) -> str:
    """What the models' generation configs did to the answers; nothing where they were at their defaults, or in a run of
    before this was recorded."""
    in_force = {role: of["in_force"] for role, of in recorded.items()} if isinstance(recorded, dict) else {}
    said = [f"{role} {name} = {value}" for role, of in in_force.items() for name, value in of.items()]
    return f" Generation settings in force: {', '.join(said)}." if said else ""


# ------------------------------------------------------------------------------------------------ files


def write_report(report: Report, folder: str | Path, figures: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write report.md, summary.csv, tests.csv and report.html (with `figures`, PNG bytes by caption) into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": report_markdown(report),
        "summary.csv": report.summary.to_csv(index=False, float_format="%.6g"),
        "tests.csv": report.tests.to_csv(index=False, float_format="%.6g"),
        "report.html": report_html(report, figures or {}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
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
