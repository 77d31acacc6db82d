"""Hostile tokens through every view: none of them may become markup, a terminal's command, or a broken page.

A case is one answer of the embedded pair whose tokens say hostile texts, in a random order, and one view of it. What an HTML view
consists of (elements, attributes, and their values, titles aside) must be what it is for harmless tokens of as many characters;
no control, direction or half character may come through; where a view shows a whole answer (`WHOLE`), every token's visible
text must stand in it. Text and terminal views may hold printable characters and line breaks only. Plots must draw.

What a program reads keeps every text as it is: the Parquet files of `ssd report --items`, and what the server says
(`hostile_stream`). The CSV files of `ssd report` hold numbers and names; no question, answer or error may come into them, so that
nothing there is a spreadsheet's formula.
"""

from __future__ import annotations

import csv
import html
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pandas as pd
from rich.console import Console
from tqdm import tqdm

from ssd_lib import answer, load_pair
from ssd_lib.attacks import Record
from ssd_lib.cli import chat
from ssd_lib.cli.common import plain
from ssd_lib.defenders import Answer
from ssd_lib.experiments import Choice
from ssd_lib.experiments.items import write_items
from ssd_lib.experiments.report import build_report, report_html, report_markdown, write_report
from ssd_lib.experiments.store import Row, Store, load_run
from ssd_lib.method.trace import Trace, visible
from ssd_lib.show import charts, page, plots, rounds, strips
from ssd_lib.toy import world
from tests.reliability import hostile_stream
from tests.reliability.missing import Missing
from tests.reliability.outcome import Outcome
from tests.test_report import ABOUT

TITLE = "Hostile tokens through every view"
FULL, SHORT = 2_000, 90

HOSTILE = (
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='x",
        "</span></td></svg><b onclick=x>",
    ),
    *(
        "&amp;&lt;",
        "<!--",
        "-->",
        "]]><title>",
        "</details>",
        "<?php",
        "</style><style>*{display:none}",
        "javascript:alert(1)",
    ),
    *(
        "[x](javascript:alert(1))",
        "| a | b |",
        "```",
        "---\n# head",
        "$x^$ \\frac{",
        "$$",
        "\\(x\\)",
        "%s{0}",
        "[red]x[/red]",
    ),
    *(
        "=cmd|' /C calc'!A0",
        "+1+1",
        "@SUM(1)",
        "data: x\n\ndata: [DONE]\n\n",
        '{"a": "',
        "\\u202e",
        "\u202eabc",
        "\u2066\u200f",
    ),
    *(
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b2J",
        "a\x00b",
        "\r\n",
        "\b\b",
        "\ud800",
        "\udfff",
        "\u2028",
        "\ufeff",
        "\u0301\u0301",
    ),
    *("\n", "", "אבג", "a" * 3000, "👩\u200d💻", "\U000e0041", " plain"),
)
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-inf")


class Wrong(Exception):
    """A token is not only text."""


class Elements(HTMLParser):
    """What a page consists of, and its text."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.found: list[Any] = []
        self.words: list[str] = []
        self.titles: list[str] = []
        self.hovering = False
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.titles.append(given.pop("title", None) or "")
        self.found.append((tag, sorted(given.items())))
        self.hovering = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("/", tag))
        self.hovering = False

    def handle_data(self, data: str) -> None:
        (self.titles if self.hovering else self.words).append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.found.append(("instruction", data))

    def unknown_decl(self, data: str) -> None:
        self.found.append(("declaration", data))


class Says:
    """A tokenizer that says one text for each id."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        return "".join(self.texts[int(i) % len(self.texts)] for i in token_ids)

    def encode(self, *_: Any, **__: Any) -> list[int]:
        return []


@cache
def trace() -> Trace:
    """A real answer's trace: accepted, corrected and taken-back tokens, both schemes."""
    pair = load_pair("toy")
    question = world.questions("forbidden", 1)[0]
    (said,) = answer(pair, question.question, defender="ssd-hardened", prefill=question.answer[:40], max_new_tokens=24)
    assert said.trace is not None
    return said.trace


def lines_of(says: Says) -> list[dict[str, Any]]:
    return trace().to_frame(says, retracted=True).to_dict("records")  # pyright: ignore[reportReturnType]


# ------------------------------------------------------------------------------------------------ views

Html = Callable[[Says], str]


def candidates_html(says: Says) -> str:
    texts = {number: visible(says.decode([number])) for number in range(4096)}
    return "".join(charts.candidates_html(line, texts) for line in lines_of(says)[:3])


def comparison(says: Says) -> str:
    lines = lines_of(says)
    return strips.comparison(("left", lines, ["given"]), ("right", lines[1:], ["given"]))


def saved(says: Says, opened: bool) -> str:
    """The page of an answer to a hostile question with a hostile beginning, by a defender and with a setting named so."""
    said: Any = SimpleNamespace(trace=trace(), prefill=says.texts[1] or "none", cost=SimpleNamespace(target_forwards=3))
    settings = {"alpha_union": 0.5, "note": says.texts[2]}
    return page.page(said, says, says.texts[0] or "none", says.texts[3], settings, opened)


HTML: dict[str, Html] = {
    "token strip": lambda says: trace().to_html(says, retracted=True),
    "page of ssd chat --trace": lambda says: saved(says, opened=False),
    "page of ssd chat --trace, opened": lambda says: saved(says, opened=True),
    "explorer's strip": lambda says: strips.strip(lines_of(says), [visible(says.decode([1]))]),
    "explorer's timeline": lambda says: charts.timeline(lines_of(says), 0),
    "explorer's candidates": candidates_html,
    "explorer's token": lambda says: "".join(map(strips.details_html, lines_of(says))),
    "explorer's comparison": comparison,
    "explorer's rounds": lambda says: rounds.frame(lines_of(says), 1, 3, [visible(says.decode([2]))]),
}
WHOLE = (
    "token strip",
    "page of ssd chat --trace",
    "page of ssd chat --trace, opened",
    "explorer's strip",
    "explorer's comparison",
)
"""HTML views that show every token of the answer."""
TEXT: dict[str, Html] = {
    "text strip": lambda says: trace().to_text(says, retracted=True),
    "strip as text": lambda says: strips.strip_text(lines_of(says)),
    "timeline as text": lambda says: charts.timeline_text(lines_of(says)),
    "rounds as text": lambda says: rounds.frame_text(lines_of(says), 1, 3),
    "terminal of ssd chat": lambda says: terminal(says),
    "an error line": lambda says: plain("".join(says.texts)),
}


def terminal(says: Says) -> str:
    """What `ssd chat` prints of an answer: the growing text, then the coloured strip. Our own colours are taken out."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=False, width=10_000)
    pair: Any = SimpleNamespace(tokenizer=says)
    stream = chat._Stream(pair, says.texts[0], console)
    said: Any = SimpleNamespace(trace=trace(), prefill=says.texts[1], text="")
    stream.prompt = []
    stream.ids = trace().frame["token"].tolist()
    stream._print(hold=False)
    console.print(chat._coloured(said, pair, retracted=True))
    assert isinstance(said, Answer | SimpleNamespace)
    return written.getvalue()


def check_html(view: Html, says: Says, harmless: Says, whole: bool) -> None:
    shown, usual = Elements(view(says)), Elements(view(harmless))
    if shown.found != usual.found:
        other = next(
            (pair for pair in zip(shown.found, usual.found, strict=False) if pair[0] != pair[1]), "more elements"
        )
        raise Wrong(f"not the elements of harmless tokens: {other}")
    text = "".join(shown.words)
    check_text(text + "".join(shown.titles))
    if lost := [line["text"] for line in lines_of(says) if whole and line["text"] not in text]:
        raise Wrong(f"{lost[0]!r} is not in it")


def check_text(text: str) -> None:
    if hidden := HIDDEN.search(text):
        raise Wrong(f"{hidden[0]!r} comes through")


def check_plots(says: Says) -> None:
    """matplotlib takes text between two $ for formulas, unless it is told not to."""
    import matplotlib.pyplot as plt

    texts = [visible(text) for text in says.texts[:6]]
    half = [0.5] * len(texts)
    plots.png(plots.token_bars(texts, half, half, half, [True] * len(texts), title=texts[0]))
    plots.png(plots.answers({"ssd": trace().to_frame(says, retracted=True).head(12)}, prefill=visible(says.texts[1])))
    plt.close("all")


def check_report(says: Says, harmless: Says) -> None:
    """report.md, .html, .csv and the Parquet card of a run with such questions, answers and errors."""
    pages = []
    for texts in (says.texts, harmless.texts):
        with TemporaryDirectory() as folder:
            report = build_report([stored(Path(folder) / "run", texts)])
            files = write_report(report, Path(folder) / "out", {})
            check_csv([file for file in files if file.suffix == ".csv"], texts)
            files += check_items(Path(folder) / "run", Path(folder) / "items")
            pages.append(Elements(report_html(report, {})))
            for text in (report_markdown(report), *(file.read_text(encoding="utf-8") for file in files)):
                check_text(html.unescape(text))
    if pages[0].found != pages[1].found:
        raise Wrong("report.html has not the elements of harmless answers")


def check_csv(files: Sequence[Path], texts: Sequence[str]) -> None:
    """A report's CSV holds no question, answer or error, and nothing that a spreadsheet takes for a formula."""
    for file in files:
        for cell in (cell for line in csv.reader(io.StringIO(file.read_text(encoding="utf-8"))) for cell in line):
            if cell in texts and cell.strip():
                raise Wrong(f"{file.name} holds {cell!r}")
            if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(cell):
                raise Wrong(f"{file.name} holds the formula {cell!r}")


def check_items(run_folder: Path, out: Path) -> list[Path]:
    """The Parquet files hold each text as it is stored, or, of sets that are not ours, none. Returns the cards."""
    rows, cards = load_run(run_folder), []
    for kind in ("all", "own"):
        answers, _, card = write_items([run_folder], out / kind, texts=kind)
        kept = pd.read_parquet(answers)
        for name in ("question", "prompt", "prefill", "text", "error", "category"):
            open_to_all = kind == "all" or name in ("error", "category")
            expected = [None if pd.isna(value) or not open_to_all else value for value in rows[name]]
            if [None if pd.isna(value) else value for value in kept[name]] != expected:
                raise Wrong(f"{name} of the Parquet files differs from the run's, texts={kind}")
        cards.append(card)
    return cards


def stored(folder: Path, texts: Sequence[str]) -> Path:
    """A run whose answers, questions and errors are these texts."""
    kept = [text.encode("utf-8", "replace").decode() for text in texts[:8]]
    records = [Record(str(i), text or "?", text or "?", category=text) for i, text in enumerate(kept)]
    rows = [
        Row(str(i), text, text, "[1]", '{"tokens": 1, "seconds": 1.0}', 1, 0.5, "{}") for i, text in enumerate(kept[:6])
    ]
    rows += [Row(str(i), error=text or "?") for i, text in enumerate(kept) if i > 5]
    with Store.open(folder) as store:
        store.set("config", {})
        with store.session(ABOUT | {"device": kept[0]}) as session:
            store.add_items("custom", records)
            store.add_answers("toy", "custom", Choice("none"), rows, session=session, size=1)
    return folder


# ------------------------------------------------------------------------------------------------ all of them


def views(says: Says, harmless: Says) -> dict[str, Callable[[], None]]:
    """Every view, as a check."""
    checks: dict[str, Callable[[], None]] = {
        name: partial(check_html, view, says, harmless, name in WHOLE) for name, view in HTML.items()
    }
    checks |= {name: (lambda view=view: check_text(view(says))) for name, view in TEXT.items()}
    return checks | {"report": partial(check_report, says, harmless), "plots": partial(check_plots, says)}


def run(count: int, seed: int = 0, progress: bool = False) -> Outcome:
    """`count` times a view of an answer whose tokens are hostile, all views in turn; then the server."""
    failures, tried = [], Counter[str]()
    for case in tqdm(range(count), unit="view", disable=not progress):
        rng = random.Random(f"{seed}/{case}")
        texts = rng.sample(HOSTILE, len(HOSTILE))
        checks = views(Says(texts), Says([f"w{place}" for place in range(len(texts))]))
        name = [*checks][case % len(checks)]
        tried[name] += 1
        try:
            checks[name]()
        except Exception as error:  # whatever a view raises is a failure of this case
            failures.append(f"seed {seed}, case {case}, {name}: {type(error).__name__}: {str(error)[:200]}")
    facts: dict[str, float | int | str] = {"views": len(tried), "hostile texts": len(HOSTILE)}
    try:
        served = hostile_stream.cases()
    except Missing as reason:
        served, facts["the server"] = [], f"not tried: {reason}"
    else:
        facts["answers and streams of the server"] = len(served) - 1
    failures += [f"the server, {name}: {fault}" for name, fault in served if fault]
    return Outcome(sum(tried.values()) + len(served), failures, facts)
