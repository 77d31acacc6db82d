"""`ssd run`, `ssd merge`, `ssd judge`, `ssd report`: a whole comparison, resumable, judged and reported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ssd_lib.cli.common import Draft, DraftFormat, Target, TargetFormat, app, fail, given, plain, quiet_libraries


def spread(args: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """Repeat an option before each of its values: `--attacks a b,c` becomes `--attacks a --attacks b --attacks c`.

    Only for the options in `names`, which may be given several times; their values end at the next option.
    """
    names, option = set(names), None
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("-"):
            option = name if name in names else None
            values = _values(value) if option and equals else [] if option else None
        else:
            values = _values(arg) if option else None
        if values is None:
            yield arg
        else:
            for each in filter(None, values):
                yield from (str(option), each)


def _values(text: str) -> list[str]:
    """Parts between commas; a comma before a space or in double quotes is text."""
    return re.findall(r'(?:"[^"]*"|, |[^,])+', text)


class ListCommand(TyperCommand):
    """A command whose repeatable options also take `--attacks a b` and `--attacks a,b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = [name for param in self.params if getattr(param, "multiple", False) for name in param.opts]
        return super().parse_args(ctx, list(spread(args, names)))


@app.command(cls=ListCommand)
def run(
    config: Annotated[Path | None, typer.Option(help="The experiment as a TOML file.")] = None,
    preset: Annotated[str | None, typer.Option(help="paper-prefill, paper-gsm8k, paper-attacks, embedded, …")] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", "--model_name", help="toy, llama2, vicuna, …; none: --target and --draft.")
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attacks", "--attacker", help="Sets: direct advbench:prefill=10 gsm8k my/questions.csv …"),
    ] = None,
    defenders: Annotated[
        list[str] | None, typer.Option("--defenders", "--defender", help="none ssd ssd:alpha_union=1.5 self-exam …")
    ] = None,
    judges: Annotated[list[str] | None, typer.Option(help="exact refusal gsm8k qwen …")] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each set.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; run again to resume.")] = None,
    target: Target = None,
    draft: Draft = None,
    target_format: TargetFormat = None,
    draft_format: DraftFormat = None,
    expert: Annotated[str | None, typer.Option(help="SafeDecoding's adapter.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with the sets that are files.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantization: Annotated[str | None, typer.Option(help="4bit or 8bit, for the target.")] = None,
    alpha_intersection: Annotated[
        float | None, typer.Option("--alpha-intersection", "--spec_alpha1", help="α_I.")
    ] = None,
    alpha_union: Annotated[float | None, typer.Option("--alpha-union", "--spec_alpha2", help="α_U.")] = None,
    defense_off: Annotated[bool, typer.Option("--defense_off", "--defense-off", help="As --defenders none.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", "--max_new_tokens")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows decoded together; default: what memory holds.")] = None,
    seed: int | None = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Ask rows again that are stored as errors.")
    ] = False,
    workers: Annotated[
        str, typer.Option(help="Processes that answer: N here; ray or ray:ADDRESS, as many as fit into a Ray cluster.")
    ] = "1",
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="GPUs of each worker, or a part of one; default: one, shared if there are fewer."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="2/8: the second of eight parts (counted from 1), in OUT/shard-2-of-8; slurm: this array task's part. "
            "Join them with ssd merge."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run; no network, no model.")] = False,
) -> None:
    """Run attack sets against defenders and store every answer; the same command again resumes.

    A choice takes settings: ssd:alpha_intersection=0.3:alpha_union=0.8. The published system's names and flags work too.
    """
    from ssd_lib.experiments import Shard, experiment, load_run, plan, run_experiment
    from ssd_lib.experiments.shards import unsharded_array

    quiet_libraries()
    models = given(name=pair, target=target, draft=draft, target_format=target_format, draft_format=draft_format)
    loading = models | given(device=device, dtype=dtype, quantization=quantization)
    try:
        part = None if shard is None else Shard.parse(shard)
        chosen = experiment(
            preset=preset,
            config=config,
            pair=loading or None,
            attacks=attacks,
            defenders=["none"] if defense_off else defenders,
            judges=judges,
            limit=limit,
            max_new_tokens=max_new_tokens,
            batch=batch,
            seed=seed,
            out=out,
            ssd=given(alpha_intersection=alpha_intersection, alpha_union=alpha_union),
            expert=expert,
            data=data,
        )
        if dry_run:
            typer.echo(plain(plan(chosen).text()))
            if part is not None:
                typer.echo(f"shard       {part} of these answers, in {part.folder(chosen.out)}")
            return
        if part is None and (array := unsharded_array()):
            typer.echo(f"ssd: {array}", err=True)
        options: dict[str, Any] = {"workers": workers, "gpus_per_worker": gpus_per_worker, "shard": part}
        folder = run_experiment(chosen, retry_errors=retry_errors, **options)
        frame = load_run(folder)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(error)
    failed = frame.error.dropna()
    place = shlex.quote(str(folder if part is None else folder.parent))
    following = f"ssd report {place}" if part is None else f"ssd merge {place} {place}/shard-*"
    typer.echo(f"{len(frame) - len(failed)} answers in {folder}; next: {following}")
    if len(failed):
        typer.echo(f"{len(failed)} rows failed, the first: {plain(failed.iloc[0])}; try them again with --retry-errors")


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="The folder of the whole run.")],
    shards: Annotated[list[Path], typer.Argument(help="The folders of its shards: OUT/shard-*")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Merge what there is where shards are missing or not finished.")
    ] = False,
) -> None:
    """Join the shards of a run in one store, as one process would have written it; merging again adds what is new."""
    from ssd_lib.experiments import merge_runs

    try:
        merged = merge_runs(out, shards, partial=partial)
    except (ValueError, OSError) as error:
        fail(error)
    said = f"{merged.answers} answers in {out}; next: ssd report {shlex.quote(str(out))}"
    typer.echo(plain("\n".join([*merged.missing, said])))


@app.command(cls=ListCommand)
def judge(
    folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    judges: Annotated[
        list[str], typer.Option(help="refusal exact gsm8k qwen just-eval llama-guard … (refusal:which=gcg)")
    ],
    again: Annotated[bool, typer.Option("--again", help="Judge everything again.")] = False,
    again_unjudged: Annotated[
        bool, typer.Option("--again-unjudged", help="Ask again where a judge gave no verdict.")
    ] = False,
) -> None:
    """Judge stored answers, later or again, without generating."""
    from ssd_lib.experiments import judge_run, load_verdicts

    quiet_libraries()
    try:
        judge_run(folder, judges, again=again, again_unjudged=again_unjudged)
        verdicts = load_verdicts(folder)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(error)
    for name, part in verdicts.groupby("judge"):
        typer.echo(f"{name}: {len(part)} verdicts, {part.unjudged.notna().sum()} unjudged")


@app.command(cls=ListCommand)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of one run, or of several to put side by side.")],
    out: Annotated[
        Path | None, typer.Option(help="Where report.md, .html and .csv go; default: the first run's folder.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Put the page's tables into this Markdown page, between its markers.")
    ] = None,
    page: Annotated[
        str,
        typer.Option(
            help="main; hardened (does the switch leak?); sweep or agreement (one line for each setting); card."
        ),
    ] = "main",
    front: Annotated[Path | None, typer.Option(help="Write leak against utility and speed to this PNG.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="Write every answer and verdict into this folder, for others to recheck.")
    ] = None,
    items_as: Annotated[
        list[str] | None, typer.Option("--items-as", help="parquet (with a dataset card), inspect, lm-eval.")
    ] = None,
    texts: Annotated[
        str, typer.Option(help="Of items: own writes the texts of the worlds that ship here alone; all every text.")
    ] = "own",
) -> None:
    """Print and write the tables of a run: rates with intervals, paired tests, speed; its items with --items."""
    from ssd_lib.experiments.logs import check_choice, write_items_as
    from ssd_lib.experiments.pages import PAGES
    from ssd_lib.experiments.report import build_report, put_measured, report_markdown, write_report
    from ssd_lib.paths import write_whole

    try:
        if page not in PAGES:
            raise ValueError(f"unknown page {page!r}: choose one of {', '.join(PAGES)}")
        if front is not None and (front.is_dir() or not front.parent.is_dir()):
            raise ValueError(f"--front names the PNG to write, in a folder that is there, not {front}")
        if items is None and (items_as or texts != "own"):
            raise ValueError("--items-as and --texts say how items are written: name their folder, --items FOLDER")
        if items is not None and items.exists() and not items.is_dir():
            raise ValueError(f"--items names a folder, and {items} is a file")
        check_choice(items_as or ["parquet"], texts)
        finished = build_report(folders)
        if into is not None:
            command = "ssd report" if page == "main" else f"ssd report --page {page}"
            put_measured(into, command, PAGES[page](finished))
        drawn = _figures(finished.summary)
        if front is not None:
            from ssd_lib.show import plots

            plots.use_book_style()
            write_whole(front, plots.png(plots.front(finished.summary)))
        written = write_report(finished, out or folders[0], drawn)
        if items is not None:
            written += write_items_as(folders, items, items_as or ["parquet"], texts)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    typer.echo(plain(report_markdown(finished) if page == "main" else PAGES[page](finished)))
    typer.echo("written: " + ", ".join(map(str, written)))


def _figures(summary: Any) -> dict[str, bytes]:
    """The report's figures as PNG; none where matplotlib is not installed."""
    try:
        from ssd_lib.show import plots
    except ImportError:
        typer.echo("no figures: pip install 'ssd_lib[notebooks]'", err=True)
        return {}
    plots.use_book_style()
    return {caption: plots.png(figure) for caption, figure in plots.report_figures(summary).items()}
