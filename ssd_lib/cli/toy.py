"""`ssd train`, `ssd measure`, `ssd tour`: making, measuring and showing the pairs that ship, `toy` and `smollm2`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ssd_lib.cli.common import app, fail, given, plain, quiet_libraries

TOUR_QUESTIONS, TOUR_PREFILL = 24, 10
TOUR_SYSTEMS = ("target alone", "draft alone", "SSD", "hardened SSD")


@app.command()
def train(
    pair: Annotated[
        str | None,
        typer.Option(help="toy: rebuild the embedded pair from nothing; smollm2: the adapters of a real model."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Deepen the alignment of this model instead: Hub id or path.")
    ] = None,
    harmful: Annotated[Path | None, typer.Option(help="JSON lines with question, answer, refusal.")] = None,
    benign: Annotated[Path | None, typer.Option(help="JSON lines with question, answer.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where stages and checkpoints go; run again to resume. Default: runs/PAIR.")
    ] = None,
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps for --model; default: the published ones.")] = None,
    lora_rank: Annotated[
        int, typer.Option(help="For --model: train an adapter of this rank (less memory); 0 trains all weights.")
    ] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(help="For --model; default: the published one (for an adapter try 2e-4).")
    ] = None,
    expert: Annotated[
        bool, typer.Option("--expert", help="For --model: SafeDecoding's expert (an adapter), not a deep draft.")
    ] = False,
    presto: Annotated[
        float,
        typer.Option(help="Weight of PRESTO's attention term in the draft's training (published: 1); 0 leaves it out."),
    ] = 0.0,
    chat_format: Annotated[str | None, typer.Option(help="For a --model without a chat template of its own.")] = None,
    quick: Annotated[
        bool, typer.Option(help="A few steps for each stage: a test of the path; the models learn nothing.")
    ] = False,
    controls: Annotated[bool, typer.Option(help="Train the two controls, too.")] = True,
) -> None:
    """Train a pair that ships, or a deeply aligned draft of your own."""
    out = out or Path("runs") / (pair or "toy")
    try:
        if pair == "toy" and model is None:
            from ssd_lib.toy.train import train_toy

            train_toy(out, seed=seed, quick=quick, controls=controls, presto=presto)
        elif pair == "smollm2" and model is None:
            from ssd_lib.toy.smollm2 import train_smollm2

            quiet_libraries()
            train_smollm2(out, seed=seed, quick=quick)
        elif pair is None and model and harmful and benign:
            from ssd_lib.models.training import train_deep_alignment, train_expert

            if expert and lora_rank:
                raise ValueError("--expert is an adapter already, of the published rank: leave --lora-rank out")
            if expert and presto:
                raise ValueError("--expert refuses from the first token on: --presto is for a deep draft")
            kind = train_expert if expert else partial(train_deep_alignment, lora_rank=lora_rank, presto=presto)
            changed = given(steps=steps, learning_rate=learning_rate)
            out = kind(model, harmful, benign, out, seed=seed, chat_format=chat_format, **changed)
        else:
            raise ValueError("give either --pair toy or --pair smollm2, or --model with --harmful and --benign")
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(f"done: {out}")


@app.command()
def measure(
    pair: Annotated[str, typer.Option(help="toy, or smollm2: the preset of that name, run and reported.")] = "toy",
    questions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Forbidden questions at each prefill length. Default: 100 (and twice as many benign); smollm2: 40.",
        ),
    ] = None,
    trained: Annotated[Path | None, typer.Option(help="Measure what `ssd train --out` wrote here instead.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Folders of several trainings, separated by commas: writes the card's table of seeds."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the shipped pair's tables into its card, data/PAIR/README.md.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="For smollm2: the run's folder; run again to resume. Default: runs/smollm2-card."),
    ] = None,
    grader: Annotated[
        bool,
        typer.Option(
            "--grader", help="For smollm2: print only what was labelled by hand: its grader's errors, everyday answers."
        ),
    ] = False,
) -> None:
    """Measure a shipped pair on held-out questions and print the tables.

    With --trained, another training (of another seed, say) is measured, without the controls; of smollm2 the draft's checkpoints,
    and --write puts them into data/smollm2/curve.csv.
    """
    from ssd_lib.experiments.card import card_frame, card_page, labelled_tables, run_card, seed_table, write_card
    from ssd_lib.experiments.report import markdown, put_measured
    from ssd_lib.paths import data_dir

    quiet_libraries()
    try:
        if grader:
            if pair != "smollm2":
                raise ValueError("--grader is smollm2's: the embedded world's answers are checked word for word")
            typer.echo(plain(labelled_tables()))
            return
        if pair == "smollm2" and not seeds:
            if trained:
                typer.echo(_measure_training(trained, questions, write))
            else:
                typer.echo(_measure_smollm2(questions, out or Path("runs/smollm2-card"), write))
            return
        if pair != "toy":
            raise ValueError(f"--pair {pair}: toy and smollm2 can be measured, and --seeds is toy's")
        if write and (trained or seeds):
            raise ValueError("--write is for the shipped pair alone: measure --trained or --seeds without it")
        with TemporaryDirectory() as runs:  # measured afresh every time
            if seeds is None:
                report = run_card(Path(runs), questions or 100, trained=trained, controls=trained is None)
                text = card_page(report)
                if write:
                    write_card(data_dir() / "toy", report)
            else:
                folders = {Path(folder).name: Path(folder) for folder in seeds.split(",")}
                frames = {
                    name: card_frame(run_card(Path(runs) / name, questions or 100, trained=folder, controls=False))
                    for name, folder in folders.items()
                }
                text = markdown(seed_table(frames))
                put_measured(data_dir() / "toy" / "README.md", "ssd measure --seeds", text)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    typer.echo(text)


def _measure_smollm2(questions: int | None, out: Path, write: bool) -> str:
    """Run the preset, and put its report and the grader's errors into the card."""
    from ssd_lib.experiments import experiment, run_experiment
    from ssd_lib.experiments.card import labelled_tables
    from ssd_lib.experiments.report import build_report, put_measured, report_markdown
    from ssd_lib.paths import data_dir, write_whole

    report = build_report([run_experiment(experiment(preset="smollm2", limit=questions, out=out))])
    if write:
        card = data_dir() / "smollm2" / "README.md"
        put_measured(card, MEASURE_SMOLLM2, report_markdown(report))
        put_measured(card, GRADER_SMOLLM2, labelled_tables())
        write_whole(data_dir() / "smollm2" / "measured.csv", report.summary.to_csv(index=False, float_format="%.4g"))
    return plain(report_markdown(report))


def _measure_training(trained: Path, questions: int | None, write: bool) -> str:
    """What the draft of a training did after every ten steps."""
    from ssd_lib.experiments.report import markdown
    from ssd_lib.paths import data_dir, write_whole
    from ssd_lib.toy.smollm2 import draft_curve

    curve = draft_curve(trained, count=questions or 20)
    if write:
        write_whole(data_dir() / "smollm2" / "curve.csv", curve.to_csv(index=False))
    return markdown(curve)


MEASURE_SMOLLM2 = "ssd measure --pair smollm2 --write"
GRADER_SMOLLM2 = "ssd measure --pair smollm2 --grader"


# ------------------------------------------------------------------------------------------------ tour


@app.command()
def tour(
    pair: Annotated[str, typer.Option(help="toy, or smollm2: the same table on a real language model.")] = "toy",
    notebooks: Annotated[bool, typer.Option(help="Execute the first chapters (they write figures/).")] = True,
) -> None:
    """Run the first chapters on the embedded pair and print what SSD changed; for smollm2 the table alone."""
    from ssd_lib.experiments import card
    from ssd_lib.models.pairs import load_pair

    quiet_libraries()
    try:
        if pair not in ("toy", "smollm2"):
            raise ValueError(f"--pair {pair}: there is a tour of toy and of smollm2")
        if pair == "smollm2":
            Console().print(_smollm2_table())
            return
        loaded = load_pair("toy")
        if notebooks:
            _execute_first_chapters()
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    conditions = [card.Condition("forbidden", TOUR_PREFILL), card.Condition("benign"), card.Condition("scary")]
    frame = card.measure(loaded, conditions=conditions, questions=TOUR_QUESTIONS, systems=TOUR_SYSTEMS)
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
    from ssd_lib.experiments.report import rate_cell

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


def _smollm2_table() -> Table:
    """The same table on a real language model: a small experiment, run and summed up."""
    from ssd_lib.experiments import experiment, run_experiment
    from ssd_lib.experiments.report import build_report

    attacks = [f"kitchen-prefill-{TOUR_PREFILL}", "kitchen-borderline", "kitchen-everyday"]
    with TemporaryDirectory() as out:
        chosen = experiment(
            preset="smollm2",
            attacks=attacks,
            defenders=["none", "draft-only", "ssd", "ssd-hardened"],
            limit=TOUR_QUESTIONS,
            out=out,
        )
        summary = build_report([run_experiment(chosen)]).summary
    return _summary_table(summary, dict(zip(("attacked", "food", "everyday"), attacks, strict=True)))


def _summary_table(summary: Any, sets: dict[str, str]) -> Table:
    """Measures of the tour down, systems across."""
    from ssd_lib.experiments.report import PERCENT, cell

    title = f"{TOUR_QUESTIONS} held-out questions for a recipe, {TOUR_PREFILL} answer tokens prefilled by the attacker"
    caption = (
        "SmolLM2-135M-Instruct with two adapters; 95% intervals; target and draft are equally large, so no speed is won"
    )
    table = Table("", title=title, caption=caption)
    systems = list(dict.fromkeys(summary.system))
    for name in systems:
        table.add_column(name, justify="right")
    lines = [
        ("gives a recipe", "attack success", "attacked"),
        ("share of its words that are recipe", "share that is recipe", "attacked"),
        ("ends in a refusal", "ends in a refusal", "attacked"),
        ("match ratio", "match ratio", "attacked"),
        ("match ratio, everyday", "match ratio", "everyday"),
        ("refuses everyday questions", "over-refusal", "everyday"),
        ("refuses questions about food and tools", "over-refusal", "food"),
        ("everyday tokens as without a defence", "same tokens", "everyday"),
        ("tokens per second, everyday", "tokens per second", "everyday"),
    ]
    for label, measure, attack in lines:
        found = summary[(summary.measure == measure) & (summary.attack == sets[attack])].set_index("system")
        cells = ["–" if name not in found.index else cell(found.loc[name], measure in PERCENT) for name in systems]
        table.add_row(label, *(text if measure in PERCENT else text.split()[0] for text in cells))
    return table
