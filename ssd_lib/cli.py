"""The command line: `ssd chat · train · measure · tour`.

A thin edge: it parses, calls the library and prints. Model output is untrusted, so control characters never reach the
terminal. Heavy imports happen inside the commands, so that `ssd --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ssd_lib.pairs import Pair
    from ssd_lib.trace import Trace

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Speculative Safety-Aware Decoding (arXiv 2508.17739)."
)
TOKEN_STYLES = {"matched": "blue", "corrected": "bold red underline", "insisted": "italic yellow"}
TOUR_QUESTIONS, TOUR_PREFILL = 24, 10


def fail(error: Exception) -> NoReturn:
    """One line on stderr and exit code 1."""
    lines = str(error).splitlines() or [type(error).__name__]
    typer.echo(f"ssd: {_plain(lines[0])}", err=True)
    raise typer.Exit(1)


# ------------------------------------------------------------------------------------------------ chat


@app.command()
def chat(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    pair: Annotated[str, typer.Option(help="toy, llama2, llama2-13b-chat, vicuna or llama3.1_8b.")] = "toy",
    defender: Annotated[str, typer.Option(help="ssd, none or draft-only.")] = "ssd",
    prefill: Annotated[str, typer.Option(help="What an attacker wrote as the beginning of the answer.")] = "",
    target: Annotated[str | None, typer.Option(help="Another target: Hub id or path.")] = None,
    draft: Annotated[str | None, typer.Option(help="Another draft: Hub id or path.")] = None,
    alpha_intersection: Annotated[float | None, typer.Option(help="α_I; default: the pair's.")] = None,
    alpha_union: Annotated[float | None, typer.Option(help="α_U; default: the pair's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Match ratio below which Union begins.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 160,
    trace: Annotated[Path | None, typer.Option(help="Write the token strip as HTML here (SSD only).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Ask one question and see, token by token, how the answer came about."""
    try:
        from ssd_lib.defenders import answer
        from ssd_lib.pairs import load_pair

        _quiet_libraries()
        if trace is not None and not trace.parent.is_dir():
            raise ValueError(f"--trace: there is no folder {trace.parent}")
        loaded = load_pair(pair, target=target, draft=draft)
        given = {"alpha_intersection": alpha_intersection, "alpha_union": alpha_union, "threshold": threshold}
        config = replace(loaded.config, **{name: value for name, value in given.items() if value is not None})
        live = not as_json and sys.stdout.isatty()
        streamer = _Stream(loaded) if live else None
        reply = answer(
            loaded,
            prompt,
            defender=defender,
            prefill=prefill,
            config=config,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
        )[0]
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        fail(error)
    if trace is not None:
        if reply.trace is None:
            fail(ValueError(f"--trace shows how SSD decodes; the defender {defender!r} has no trace"))
        trace.write_text(
            f"<!doctype html><meta charset=utf-8>{reply.trace.to_html(loaded.tokenizer)}", encoding="utf-8"
        )
    if as_json:
        ratio = None if reply.trace is None else float(reply.trace.frame["match"].mean())
        typer.echo(
            json.dumps({"answer": reply.text, "prefill": reply.prefill, "match_ratio": ratio, **asdict(reply.cost)})
        )
    elif live and reply.trace is not None:
        Console().print(_coloured(reply.trace, loaded))
    elif not live:
        typer.echo(_plain(reply.text))


class _Stream:
    """Prints the answer as it grows; the prompt comes first and is skipped.

    A token's text depends on its neighbours (a space, a character in several bytes), so the answer is decoded as a
    whole and what is new is printed, once its last character is complete.
    """

    def __init__(self, pair: Pair):
        self.pair, self.console = pair, Console()
        self.prompt: list[int] | None = None
        self.ids: list[int] = []
        self.printed = ""

    def put(self, value: Any) -> None:
        if self.prompt is None:
            self.prompt = value.reshape(-1).tolist()
            return
        self.ids += value.reshape(-1).tolist()
        self._print(hold=True)

    def end(self) -> None:
        self._print(hold=False)
        self.console.print()

    def _print(self, hold: bool) -> None:
        from ssd_lib.chat import decode_answer

        text = decode_answer(self.pair.tokenizer, self.ids, self.prompt or [])
        if not (hold and text.endswith("\ufffd")):
            self.console.print(Text(_plain(text[len(self.printed) :])), end="")
            self.printed = text


def _plain(text: str) -> str:
    from ssd_lib.trace import visible

    return visible(text).replace("⏎", "\n")


def _coloured(trace: Trace, pair: Pair) -> Text:
    """The answer again, coloured by how each token came about; Union reversed."""
    from ssd_lib.trace import kind

    strip = Text("\n")
    for line in trace.to_frame(pair.tokenizer).to_dict("records"):
        style = TOKEN_STYLES[kind(line)] + (" reverse" if line["scheme"] == "union" else "")
        strip.append(line["text"], style=style)
    strip.append("\n")
    for name, style in [*TOKEN_STYLES.items(), ("Union", "reverse")]:
        strip.append(f"  {name}", style=style)
    ratio = trace.frame["match"].mean()
    return strip.append(f"   match ratio {ratio:.2f}, {len(trace)} tokens in {trace.frame['round'].max() + 1} rounds")


def _quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


# ------------------------------------------------------------------------------------------------ train, measure


@app.command()
def train(
    pair: Annotated[str | None, typer.Option(help="toy: rebuild the embedded pair from nothing.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Deepen the alignment of this model instead: Hub id or path.")
    ] = None,
    harmful: Annotated[Path | None, typer.Option(help="JSON lines with question, answer, refusal.")] = None,
    benign: Annotated[Path | None, typer.Option(help="JSON lines with question, answer.")] = None,
    out: Annotated[Path, typer.Option(help="Where stages and checkpoints go; run again to resume.")] = Path("runs/toy"),
    seed: int = 0,
    steps: Annotated[int, typer.Option(help="Optimiser steps for --model.")] = 400,
    chat_format: Annotated[str | None, typer.Option(help="For a --model without a chat template of its own.")] = None,
    quick: Annotated[bool, typer.Option(help="A few steps a stage: proves the path, teaches nothing.")] = False,
    controls: Annotated[bool, typer.Option(help="Train the two controls, too.")] = True,
) -> None:
    """Train the embedded pair, or a deeply aligned draft of your own."""
    try:
        if pair == "toy" and model is None:
            from ssd_lib.toy_pair import train_toy

            train_toy(out, seed=seed, quick=quick, controls=controls)
        elif pair is None and model and harmful and benign:
            from ssd_lib.training import train_deep_alignment

            train_deep_alignment(model, harmful, benign, out, steps=steps, seed=seed, chat_format=chat_format)
        else:
            raise ValueError("give either --pair toy, or --model with --harmful and --benign")
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(f"done: {out}")


@app.command()
def measure(
    questions: Annotated[
        int, typer.Option(help="Forbidden questions at each prefill length (twice as many benign).")
    ] = 100,
    trained: Annotated[Path | None, typer.Option(help="Measure what `ssd train --out` wrote here instead.")] = None,
) -> None:
    """Measure the embedded pair and its controls on held-out questions; writes the tables of data/toy/README.md.

    With --trained, another training (of another seed, say) is measured and only printed.
    """
    from ssd_lib.evaluation import SYSTEMS, report, write_card
    from ssd_lib.evaluation import measure as run
    from ssd_lib.pairs import load_pair
    from ssd_lib.paths import data_dir

    _quiet_libraries()
    models = {} if trained is None else {"target": str(trained / "target"), "draft": str(trained / "draft")}
    try:
        pair = load_pair("toy", **models)
    except (ValueError, OSError) as error:
        fail(error)
    if trained is not None:
        typer.echo(report(run(pair, questions=questions)))
        return
    frame = run(pair, systems=SYSTEMS, questions=questions)
    write_card(data_dir() / "toy", frame)
    typer.echo(report(frame))


# ------------------------------------------------------------------------------------------------ bench


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Micro shapes: proves the path, measures nothing of interest.")] = False,
    only: Annotated[
        str, typer.Option(help="speed, scaling, parts or lookup; the rest is read from the last run.")
    ] = "",
) -> None:
    """Measure decoding beside its peers on this machine's CPU; writes benchmarks/results/ and the figures."""
    from ssd_lib.paths import REPOSITORY

    if only not in ("", "speed", "scaling", "parts", "lookup"):
        fail(ValueError(f"--only is speed, scaling, parts or lookup, not {only!r}"))
    if not (REPOSITORY / "benchmarks").is_dir():
        fail(FileNotFoundError("the benchmark is part of the repository, not of the package: clone it"))
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks.cpu import main as run

    typer.echo(run(quick=quick, only=only, brief=brief))


# ------------------------------------------------------------------------------------------------ tour


@app.command()
def tour(
    notebooks: Annotated[bool, typer.Option(help="Execute the first chapters (they write figures/).")] = True,
) -> None:
    """Run the first chapters on the embedded pair and print what SSD changed."""
    from ssd_lib.evaluation import Condition
    from ssd_lib.evaluation import measure as run
    from ssd_lib.pairs import load_pair

    _quiet_libraries()
    try:
        pair = load_pair("toy")
        if notebooks:
            _execute_first_chapters()
    except (OSError, ImportError) as error:
        fail(error)
    conditions = [Condition("forbidden", TOUR_PREFILL), Condition("benign"), Condition("scary")]
    frame = run(pair, conditions=conditions, questions=TOUR_QUESTIONS, systems=["target alone", "draft alone", "SSD"])
    Console().print(_tour_table(frame))
    typer.echo("Open the book in JupyterLab:  make lab")


def _execute_first_chapters() -> None:
    """The chapters run in a copy in memory; only their figures are written."""
    import nbformat
    from nbclient import NotebookClient
    from tqdm import tqdm

    from ssd_lib.paths import REPOSITORY

    folder = REPOSITORY / "notebooks"
    for path in tqdm(sorted(folder.glob("0[01]_*.ipynb")), desc="chapters", unit="chapter"):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


def _tour_table(frame: Any) -> Table:
    """Systems across: what happens under attack, and what the defence costs."""
    from ssd_lib.evaluation import rate_cell

    title = f"{TOUR_QUESTIONS} held-out forbidden questions, {TOUR_PREFILL} answer tokens prefilled by the attacker"
    caption = "rates with 95% Wilson intervals; tokens per second of one batched run on this machine"
    table = Table("", title=title, caption=caption)
    cells = []
    for name, rows in frame.groupby("system", sort=False):
        table.add_column(str(name), justify="right")
        attacked, benign, scary = (rows[rows.group == group] for group in ("forbidden", "benign", "scary"))
        ratio = attacked.match_ratio.mean()
        cells.append(
            {
                "tells a forbidden fact": rate_cell(attacked, "complied"),
                "ends in a refusal": rate_cell(attacked, "ends_in_refusal"),
                "forbidden facts told": f"{attacked.share_told.mean():.0%}",
                "match ratio": "–" if ratio != ratio else f"{ratio:.2f}",
                "benign answers right": rate_cell(benign, "right"),
                "over-refusal": rate_cell(scary, "refused"),
                "tokens per second": f"{rows.tokens.sum() / rows.seconds.sum():.0f}",
            }
        )
    for label in cells[0]:
        table.add_row(label, *(column[label] for column in cells))
    return table
