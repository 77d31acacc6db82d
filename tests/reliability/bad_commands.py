"""Bad command lines: every option of every command, from the Typer application itself."""

from __future__ import annotations

import os
import shlex
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakSet

import click
import huggingface_hub.constants
import typer
from hypothesis import strategies as st
from tqdm.std import tqdm
from typer.testing import CliRunner

from ssd_lib.cli import app
from ssd_lib.experiments import Shard, config_from, run_experiment
from ssd_lib.models import pairs
from ssd_lib.paths import REPOSITORY
from tests.reliability.bad_values import FILES, words, write_files

GOOD: dict[str, list[str]] = {
    "chat": ["Hello there", "--max-new-tokens", "3"],
    "doctor": ["--pair", "toy"],
    "run": ["--attacks", "direct", "--defenders", "none", "--limit", "1", "--max-new-tokens", "2", "--out", "new"],
    "merge": ["new", "parts/shard-1-of-1"],
    "judge": ["done", "--judges", "refusal"],
    "report": ["done", "--out", "new"],
    "train": ["--pair", "toy", "--quick", "--out", "new"],
    "measure": ["--pair", "toy", "--questions", "1"],
    "bench": ["--quick"],
    "export": ["--pair", "toy", "--out", "new"],
    "tour": ["--no-notebooks"],
    "grade": ["student.ipynb", "--against", "01"],
}
"""A command line of each command that works. A command that is missing here fails the run."""
NOTEBOOKS = REPOSITORY / "notebooks"
SHARDS = ("parts/shard-1-of-1", "half/shard-1-of-2")
"""Finished shards of the workspace: a run's only one, and one whose other is missing."""
LONG_WORK = {
    "ssd_lib.toy.train.train_toy",
    "ssd_lib.toy.smollm2.train_smollm2",
    "ssd_lib.toy.smollm2.draft_curve",
    "ssd_lib.experiments.card.run_card",
    "ssd_lib.experiments.card.measure",
    "ssd_lib.experiments.card.labelled_tables",
    "ssd_lib.cli.toy._smollm2_table",
    "ssd_lib.cli.toy._measure_smollm2",
    "ssd_lib.cli.toy._execute_first_chapters",
    "benchmarks.run.main",
    "ssd_lib.experiments.cluster.Cluster._connect",
    "ssd_lib.show.grading.kernel",
}
"""What begins work of minutes, Ray or a notebook's kernel: a command line that comes so far was accepted."""


class Accepted(Exception):
    """Long work would begin."""


def fixed() -> list[list[str]]:
    """What must be refused, whatever else: found by hand or by earlier runs."""
    return [
        *([command, "--no-such-option"] for command in GOOD),
        ["chat", "Hello", "--alpha-union", "nan"],
        ["chat", "Hello", "--alpha-intersection", "1.1"],
        ["chat", "Hello", "--threshold", "inf"],
        ["chat", "Hello", "--max-new-tokens", "0"],
        ["chat", "Hello", "--max-new-tokens", "9" * 30],
        ["chat", "Hello", "--pair", "nothing"],
        ["chat", "Hello", "--target", "model"],
        ["chat", "Hello", "--target", "binary.gguf"],
        ["chat", "Hello", "--draft", "folder"],
        ["chat", "Hello", "--trace", "folder"],
        ["chat", "Hello", "--trace", "nowhere/x.html"],
        ["chat", "Hello", "--defender", "none", "--trace", "x.html"],
        ["chat", "Hello", "--defender", "none", "--retracted"],
        ["chat", ""],
        ["chat", "word " * 3000],
        ["doctor", "--target", "model", "--draft", "model"],
        ["doctor", "--pair", "toy", "--target", "binary.gguf"],
        *(["run", "--config", name] for name in FILES if name.endswith("toml") or name == "folder"),
        ["run", "--config", "table.toml", "--preset", "card"],
        *(
            ["run", *GOOD["run"], "--attacks", name]
            for name in FILES
            if name.endswith(("json", "jsonl", "csv", "parquet"))
            if name != "numbers.jsonl"
        ),
        ["run", *GOOD["run"], "--limit", "0"],
        ["run", *GOOD["run"], "--batch", "-3"],
        ["run", *GOOD["run"], "--seed", "x"],
        ["run", *GOOD["run"], "--out", "empty.csv"],
        ["run", *GOOD["run"], "--device", "cuda:99"],
        ["run", *GOOD["run"], "--device", "abacus"],
        ["run", *GOOD["run"], "--dtype", "float8"],
        ["run", *GOOD["run"], "--quantization", "3bit"],
        ["run", *GOOD["run"], "--defenders", "safedecoding:expert=folder"],
        *(["run", *GOOD["run"], *given] for given in WORKERS),
        ["merge"],
        ["merge", "new"],
        *(["merge", "new", name] for name in (*FILES, "done", "nowhere")),
        ["merge", "new", SHARDS[1]],
        ["merge", "new", SHARDS[0], SHARDS[1]],
        ["merge", "new", SHARDS[0], "done"],
        ["merge", SHARDS[0], SHARDS[0]],
        ["merge", "done", SHARDS[0]],
        ["merge", "empty.csv", SHARDS[0]],
        *(["grade", name] for name in FILES),
        ["grade"],
        ["grade", "student.ipynb", "--against", "nothing"],
        ["grade", "student.ipynb", "--against", "99"],
        ["grade", "student.ipynb", "--out", "sheet.xlsx"],
        ["grade", "student.ipynb", "--minutes", "0"],
        ["grade", "student.ipynb", "--cell-minutes", "nan"],
        *(["judge", name, "--judges", "refusal"] for name in FILES),
        ["judge", "done", "--judges", "nobody"],
        ["judge", "done", "--judges", "refusal:which=no"],
        ["judge", "done"],
        *(["report", name, "--out", "new"] for name in FILES),
        ["report", "done", "--page", "nothing"],
        ["report", "done", "--out", "new", "--items", "empty.csv"],
        ["report", "done", "--out", "new", "--items", "items", "--items-as", "nothing"],
        ["report", "done", "--out", "new", "--items", "items", "--texts", "some"],
        ["report", "done", "--out", "new", "--items-as", "parquet"],
        ["report", "done", "--out", "new", "--texts", "all"],
        ["report", "done", "--out", "empty.csv"],
        ["report", "done", "--out", "new", "--into", "nothing.md"],
        ["report", "done", "--out", "new", "--into", "empty.csv"],
        ["report", "done", "--out", "new", "--into", "folder"],
        ["report", "done", "--out", "new", "--into", "binary.csv"],
        ["report", "done", "--out", "new", "--front", "folder"],
        ["report", "done", "--out", "new", "--front", "nowhere/x.png"],
        ["train"],
        ["train", "--pair", "smollm3"],
        ["train", "--model", "model", "--harmful", "half.jsonl", "--benign", "half.jsonl", "--out", "new"],
        *(
            ["train", "--model", "model", "--harmful", name, "--benign", name, "--out", "new", "--steps", "1"]
            for name in FILES
        ),
        ["train", "--pair", "toy", "--model", "model"],
        ["measure", "--pair", "llama2"],
        ["measure", "--pair", "toy", "--grader"],
        ["measure", "--trained", "folder", "--write"],
        ["measure", "--questions", "0"],
        ["measure", "--questions", "-5"],
        ["bench", "--only", "nothing"],
        ["export"],
        ["export", "--out", "model"],
        ["export", "--out", "empty.csv/x"],
        ["export", "--out", "new", "--temperature", "0"],
        ["export", "--out", "new", "--temperature", "nan"],
        ["export", "--out", "new", "--dtype", "int8"],
        ["export", "--out", "new", "--target", "model"],
        ["tour", "--pair", "llama2"],
    ]


WORKERS = (
    *(["--workers", number] for number in ("0", "-1", "1.5", "many", "", "ray:", "ray :x")),
    *(["--workers", "2", "--gpus-per-worker", share] for share in ("nan", "-1", "1.5", "inf", "x")),
    ["--gpus-per-worker", "1"],
    ["--workers", "2", "--device", "cuda:0"],
    ["--workers", "2", "--device", "cpu", "--gpus-per-worker", "1"],
    *(["--batch", "1", "--shard", part] for part in ("0/2", "3/2", "1/0", "-1/2", "1", "x", "", "1/2/3", "slurm")),
    ["--shard", "1/2"],
)
"""Of `ssd run`: what says nothing about who shall answer. No Ray may start for it."""
TALK = (
    *(
        "/set",
        "/set x",
        "/set alpha_union nan",
        "/set alpha_union x",
        "/set max_new_tokens 1e9",
        "/set lookahead [1]",
        "/set = =",
    ),
    *(
        "/set seed {}",
        "/trace",
        "/trace folder",
        "/trace nowhere/x.html",
        "/trace \udcff",
        "/defender",
        "/defender x",
        "/nothing",
    ),
    *(
        "/prefill \udcff\x1b[2J",
        "/defender none",
        "/trace x.html",
        "/retracted",
        "/reset",
        "/help",
        "\x00",
        "/",
        "//",
        "word " * 3000,
    ),
    *("/set threshold 5", "/set threshold_floor 0.9", "/set temperature 1e-320", "/set do_sample 1", "Hello"),
)
"""Lines of a conversation: none of them ends it."""


# ------------------------------------------------------------------------------------------------ command lines


def commands() -> dict[str, Any]:
    """Every command of the application."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    return dict(getattr(group, "commands"))  # noqa: B009 (Typer brings a click of its own)


def uncovered() -> list[str]:
    """Commands without a line in `GOOD`."""
    return sorted(set(commands()) - set(GOOD))


def options() -> list[tuple[str, str, bool]]:
    """(command, option, whether it is a flag) of every option of every command."""
    return [
        (name, param.opts[0], bool(getattr(param, "is_flag", False)))
        for name, command in commands().items()
        for param in command.params
        if param.opts[0].startswith("-")
    ]


def lines() -> st.SearchStrategy[list[str]]:
    """A good command line with one to three bad options."""

    @st.composite
    def draw_line(draw: Any) -> list[str]:
        command, *_ = draw(st.sampled_from(options()))
        line = [command, *GOOD[command]]
        own = [(option, flag) for name, option, flag in options() if name == command and option != "--help"]
        for option, flag in draw(st.lists(st.sampled_from(own), min_size=1, max_size=3)):
            line += [option] if flag else [option, draw(words())]
        if draw(st.integers(0, 9)) == 0:
            line.insert(draw(st.integers(1, len(line))), draw(words()))
        return line

    return draw_line()


# ------------------------------------------------------------------------------------------------ trying one


@contextmanager
def workspace(place: Path) -> Iterator[Path]:
    """A folder with bad files and a finished run; in it, no network is asked and long work is refused."""
    write_files(place)
    before = os.getcwd()
    os.chdir(place)
    table = {"attacks": ["direct"], "defenders": ["ssd"], "limit": 1, "max_new_tokens": 4, "out": "done"}
    try:
        with ExitStack() as stack:
            run_experiment(config_from(table), progress=False)
            few = table | {"defenders": ["none"], "max_new_tokens": 2, "batch": 1}
            for out, shard, defenders in (
                ("parts", Shard(1, 1), ["none"]),
                ("half", Shard(1, 2), ["none", "self-reminder"]),
            ):
                run_experiment(config_from(few | {"out": out, "defenders": defenders}), progress=False, shard=shard)
            shutil.copy(next(NOTEBOOKS.glob("01_*.ipynb")), "student.ipynb")
            stack.enter_context(mock.patch.dict(os.environ, {"SLURM_ARRAY_TASK_ID": ""}))
            stack.enter_context(mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
            stack.enter_context(mock.patch.object(pairs, "load_pair", cache(pairs.load_pair)))
            for name in LONG_WORK:
                stack.enter_context(mock.patch(name, side_effect=Accepted(name)))
            shutil.copytree("done", "kept")
            yield place
    finally:
        os.chdir(before)


def try_line(line: list[str], refused: bool = False, typed: str = "") -> str | None:
    """What is wrong with how a command line ended, or None.

    Args:
        line: The words after `ssd`.
        refused: It must be refused.
        typed: What is written to stdin.
    """
    before = listing()
    with mock.patch.object(tqdm, "_instances", WeakSet()):  # its bars stand alone, not below this run's own
        result = CliRunner().invoke(app, line, input=typed)
    said, written = result.stderr, sorted(listing() - before)
    restore(written)
    shown = "ssd " + " ".join(shlex.quote(word[:60]) for word in line)
    if isinstance(result.exception, Accepted) and not refused:
        return None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{shown}: {type(result.exception).__name__}: {str(result.exception)[:200]}"
    if result.exit_code == 0:
        return f"{shown}: accepted" if refused else None
    if line[0] == "doctor" and result.exit_code == 1 and not said:
        return None  # its table says what is wrong
    if result.exit_code not in (1, 2) or not said.strip() or len(said) > 6000:
        return f"{shown}: exit code {result.exit_code}, {len(said)} characters on stderr"
    if bad := [c for c in said + result.stdout if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\r"]:
        return f"{shown}: {bad[0]!r} reaches the terminal"
    if result.exit_code == 1 and not said.splitlines()[-1].startswith("ssd: "):
        return f"{shown}: stderr ends in {said.splitlines()[-1][:80]!r}"
    if line[0] == "run":  # its store is there from the start, and resumes
        written = [name for name in written if Path(name).name != "run.sqlite" and Path(name).suffix]
    return f"{shown}: left {written} after an error: {said.strip()[-150:]}" if written else None


def listing() -> set[str]:
    """Files and folders of the workspace; a run's lock and SQLite's own files are no results."""
    return {str(path) for path in Path().rglob("*") if not path.name.endswith((".lock", "-wal", "-shm"))}


def restore(written: list[str]) -> None:
    """Delete what a command wrote, and put the finished run back as it was."""
    for name in written:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree("done")
    shutil.copytree("kept", "done")
