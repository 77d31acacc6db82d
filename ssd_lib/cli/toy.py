"""`ssd train`, `ssd measure`, `ssd tour`: making, measuring and showing the embedded pair."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ssd_lib.cli.common import app, fail, quiet_libraries

TOUR_QUESTIONS, TOUR_PREFILL = 24, 10
TOUR_SYSTEMS = ("target alone", "draft alone", "SSD", "hardened SSD")


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
    quick: Annotated[bool, typer.Option(help="A few steps a stage: proves the path, teaches nothing.")] = False,
    controls: Annotated[bool, typer.Option(help="Train the two controls, too.")] = True,
) -> None:
    """Train the embedded pair, or a deeply aligned draft of your own."""
    try:
        if pair == "toy" and model is None:
            from ssd_lib.toy_pair import train_toy

            train_toy(out, seed=seed, quick=quick, controls=controls, presto=presto)
        elif pair is None and model and harmful and benign:
            from ssd_lib.training import train_deep_alignment, train_expert

            given = {
                name: value
                for name, value in {"steps": steps, "learning_rate": learning_rate}.items()
                if value is not None
            }
            if expert and lora_rank:
                raise ValueError("--expert is an adapter already, of the published rank: leave --lora-rank out")
            if expert and presto:
                raise ValueError("--expert refuses from the first token on: --presto is for a deep draft")
            kind = train_expert if expert else partial(train_deep_alignment, lora_rank=lora_rank, presto=presto)
            out = kind(model, harmful, benign, out, seed=seed, chat_format=chat_format, **given)
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
    seeds: Annotated[
        str | None, typer.Option(help="Folders of several trainings, with commas: writes the card's table of seeds.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the shipped pair's tables into data/toy/README.md.")
    ] = False,
) -> None:
    """Measure the embedded pair and its controls on held-out questions and print the tables.

    With --trained, another training (of another seed, say) is measured, without the controls.
    """
    from ssd_lib.evaluation import SYSTEMS, markdown, report, seed_table, write_card, write_seeds
    from ssd_lib.evaluation import measure as run
    from ssd_lib.pairs import load_pair
    from ssd_lib.paths import data_dir

    quiet_libraries()

    def load(folder: Path | None) -> Any:
        models = {} if folder is None else {"target": str(folder / "target"), "draft": str(folder / "draft")}
        return load_pair("toy", **models)

    try:
        if write and (trained or seeds):
            raise ValueError("--write is for the shipped pair alone: measure --trained or --seeds without it")
        if seeds is not None:
            pairs = {Path(folder).name: load(Path(folder)) for folder in seeds.split(",")}
        else:
            pair = load(trained)
    except (ValueError, OSError) as error:
        fail(error)
    if seeds is not None:
        frames = {name: run(each, questions=questions) for name, each in pairs.items()}
        write_seeds(data_dir() / "toy", frames)
        typer.echo(markdown(seed_table(frames)))
        return
    frame = run(pair, systems=["target alone", "draft alone", "SSD"] if trained else SYSTEMS, questions=questions)
    if write:
        write_card(data_dir() / "toy", frame)
    typer.echo(report(frame))


# ------------------------------------------------------------------------------------------------ tour


@app.command()
def tour(
    notebooks: Annotated[bool, typer.Option(help="Execute the first chapters (they write figures/).")] = True,
) -> None:
    """Run the first chapters on the embedded pair and print what SSD changed."""
    from ssd_lib.evaluation import Condition
    from ssd_lib.evaluation import measure as run
    from ssd_lib.pairs import load_pair

    quiet_libraries()
    try:
        pair = load_pair("toy")
        if notebooks:
            _execute_first_chapters()
    except (OSError, ImportError) as error:
        fail(error)
    conditions = [Condition("forbidden", TOUR_PREFILL), Condition("benign"), Condition("scary")]
    frame = run(pair, conditions=conditions, questions=TOUR_QUESTIONS, systems=TOUR_SYSTEMS)
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
