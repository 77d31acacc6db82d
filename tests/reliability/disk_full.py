"""The disk fills while a run is stored, and while reports, tables, models, figures and checkpoints are written.

Three ways to fill it: a limit on the size of files (RLIMIT_FSIZE, where the kernel says "file too large"), SQLite's own limit of
pages ("database or disk is full"), and a small file system in memory, which only root can mount. Each is set at a random size.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tests.reliability.children import Started, alone, ready
from tests.reliability.kills import TABLE, Fault, contents, play
from tests.reliability.outcome import Outcome

TITLE = "A full disk while storing and while writing files"
FULL, SHORT = 120, 9
PAGE, PAGES_OF_A_NEW_STORE = 4096, 14
QUESTION, SAID = "How do I brew the Silver Courage cordial?", "said.pickle"


def run(count: int, seed: int, progress: bool) -> Outcome:
    """Fill the disk `count` times: half of them while a run is stored, half while files are written."""
    ready()
    with tempfile.TemporaryDirectory(prefix="ssd-full-") as place:
        trial = Trial(Path(place), random.Random(seed))
        trial.begin()
        play(trial, trial.ways(), count, seed, progress)
    facts: dict[str, float | int | str] = {name: times for name, times in trial.tried.items()}
    facts |= {"ended with the message of a full disk": trial.refused, "had room enough": trial.fitted}
    if trial.no_mount:
        facts["a small file system"] = f"not tried: {trial.no_mount}"
    return Outcome(count, trial.failures, facts)


@dataclass
class Trial:
    """All cases, below one folder."""

    place: Path
    rng: random.Random
    tried: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    refused: int = 0
    fitted: int = 0
    no_mount: str = ""

    def begin(self) -> None:
        """A run with room enough, to compare with."""
        if said := in_child(lambda: _answer(self.place / SAID)):
            raise RuntimeError(said)
        (self.place / "run.toml").write_text(TABLE, encoding="utf-8")
        whole = self.start(self.place / "whole")
        if whole.wait():
            raise RuntimeError(f"an undisturbed run failed: {whole.said[-500:]}")
        self.whole = self.place / "whole"
        self.expected = contents(self.whole)
        self.size = (self.whole / "run.sqlite").stat().st_size
        self.no_mount = why_no_mount(self.place / "mounted")

    def ways(self) -> dict[str, Callable[[Path], None]]:
        """Every case by what the page calls it."""
        stored: dict[str, Callable[[Path], None]] = {
            "storing a run, files limited": lambda out: self.stored(out, limit_files(self.some(2.5 * self.size))),
            "storing a run, pages limited": lambda out: self.stored(
                out, limit_pages(self.rng.randint(PAGES_OF_A_NEW_STORE, self.size // PAGE))
            ),
        }
        if not self.no_mount:
            stored["storing a run, a small file system"] = self.stored_on_small_disk
        return stored | {f"writing {name}": lambda out, n=name: self.written(n, out) for name in WRITERS}

    def some(self, most: float) -> int:
        return self.rng.randint(0, int(most))

    def start(self, out: Path, first: Callable[[], object] | None = None) -> Started:
        argv = ["run", "--config", str(self.place / "run.toml"), "--out", str(out)]
        return Started(argv, self.place / "log", first)

    # ---------------------------------------------------------------------------------------- storing

    def stored(self, out: Path, full: Callable[[], object]) -> None:
        """A run on a full disk ends with one line; with room again it goes on to the same rows."""
        self.ended(self.start(out, full), out)
        self.goes_on(out)

    def stored_on_small_disk(self, out: Path) -> None:
        out.mkdir()
        size = max(64, self.some(3 * self.size) // 1024)
        mount("-t", "tmpfs", "-o", f"size={size}k", "ssd-reliability", str(out))
        try:
            self.ended(self.start(out / "run"), out)
            mount("-o", "remount,size=64m", str(out))
            self.goes_on(out / "run")
        finally:
            subprocess.run(["umount", str(out)], check=False, capture_output=True)

    def ended(self, start: Started, out: Path) -> None:
        """It ended well, or by one line that says what to do."""
        if start.wait() == 0:
            self.fitted += 1
            return
        self.refused += 1
        if "Traceback" in start.said:
            raise Fault(f"a traceback: {start.said.strip()[-400:]}")
        lines = [line for line in start.said.splitlines() if "ssd: " in line]
        if len(lines) != 1 or not is_clear(lines[0], out):
            raise Fault(f"not one clear line: {start.said.strip()[-400:]}")

    def goes_on(self, out: Path) -> None:
        """What was stored is a part of the whole, and the same command makes the whole of it."""
        stored = {}
        if (out / "run.sqlite").exists():
            rows, _ = contents(out)
            stored = rows.set_index("answer").text.to_dict()
        start = self.start(out)
        if start.wait():
            raise Fault(f"with room it does not go on: {start.said.strip()[-300:]}")
        for one, other in zip(contents(out), self.expected, strict=True):
            try:
                pd.testing.assert_frame_equal(one, other)
            except AssertionError as error:
                raise Fault(f"rows differ: {' '.join(str(error).split())[:300]}") from error
        now = contents(out)[0].set_index("answer").text.to_dict()
        if any(now.get(answer) != text for answer, text in stored.items()):
            raise Fault("a stored answer was written again")

    # ---------------------------------------------------------------------------------------- writing

    def written(self, name: str, out: Path) -> None:
        """Where a file does not fit, the good one that was there stays, and nothing else is left."""
        write = WRITERS[name]
        out.mkdir()
        known = {"a model's folder", "a training's checkpoints"}
        if name not in known and (said := in_child(lambda: write(self.whole, out))):
            raise Fault(f"with room enough: {said}")
        before = held(out)
        largest = max(map(len, before.values()), default=4_000_000)
        said = in_child(lambda: write(self.whole, out), limit_files(self.some(largest)))
        if said is None:
            self.fitted += 1
        else:
            self.refused += 1
            if not is_clear(said, out):
                raise Fault(f"not one clear line: {said}")
            if name != "a training's checkpoints" and held(out) != before:
                raise Fault(f"{sorted(held(out))} in the place of {sorted(before)}")
        if name in known and said is not None and (said := in_child(lambda: write(self.whole, out))):
            raise Fault(f"with room again: {said}")


def is_clear(said: str, out: Path) -> bool:
    """One line: what happened, where, and how to go on."""
    full = "disk is full" in said or "disk full" in said
    return full and str(out) in said and "same command" in said and len(said.splitlines()) == 1


def held(out: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ full disks


def limit_files(size: int) -> Callable[[], None]:
    """No file of this process may grow beyond so many bytes."""

    def limit() -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def limit_pages(pages: int) -> Callable[[], None]:
    """No database that this process writes may have more pages."""

    def limit() -> None:
        connect = sqlite3.connect

        def limited(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*args, **options)
            with suppress(sqlite3.Error):  # it is no database
                connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
            return connection

        sqlite3.connect = limited  # type: ignore[assignment]

    return limit


def mount(*args: str) -> None:
    """Raises subprocess.CalledProcessError where it cannot be."""
    subprocess.run(["mount", *args], check=True, capture_output=True, text=True)


def why_no_mount(place: Path) -> str:
    """Nothing where a small file system can be mounted, else why not."""
    place.mkdir()
    if not sys.platform.startswith("linux") or not shutil.which("mount"):
        return "it is Linux's"
    try:
        mount("-t", "tmpfs", "-o", "size=64k", "ssd-reliability", str(place))
    except subprocess.CalledProcessError as error:
        return (error.stderr or "it was refused").strip().splitlines()[-1]
    subprocess.run(["umount", str(place)], check=False, capture_output=True)
    return ""


def in_child(act: Callable[[], object], first: Callable[[], object] | None = None) -> str | None:
    """What an action raises in a forked process, after `first`; None where it ends well."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            alone()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            if first is not None:
                first()
            act()
        except BaseException as error:
            clear = isinstance(error, OSError | ValueError)
            said = (str(error) if clear else f"it broke: {error!r}").encode()
        finally:
            os.write(writes, said[:8000])
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return f"it died: {status}" if status else said or None


# ------------------------------------------------------------------------------------------------ what is written


def _report(run_folder: Path, out: Path) -> None:
    from ssd_lib.experiments.report import build_report, write_report

    write_report(build_report([run_folder]), out)


def _items(run_folder: Path, out: Path) -> None:
    from ssd_lib.experiments.items import write_items

    write_items([run_folder], out)


def _export(run_folder: Path, out: Path) -> None:
    from ssd_lib.models.export import export_pair
    from ssd_lib.models.pairs import load_pair

    export_pair(load_pair("toy"), out / "exported")


def _traces(run_folder: Path, out: Path) -> None:
    from ssd_lib.cli.conversation import write_strip
    from ssd_lib.models.pairs import load_pair

    pair, said = load_pair("toy"), pickle.loads((run_folder.with_name(SAID)).read_bytes())
    said.trace.save(out / "trace.parquet")
    said.trace.save(out / "trace.json")
    write_strip(out / "page.html", said, pair, QUESTION, "ssd", pair.config)


def _answer(file: Path) -> None:
    """Keep one answer, so that its times are the same wherever it is written again."""
    from ssd_lib.defenders import answer
    from ssd_lib.models.pairs import load_pair

    file.write_bytes(pickle.dumps(answer(load_pair("toy"), [QUESTION], max_new_tokens=24)[0]))


def _figure(run_folder: Path, out: Path) -> None:
    from matplotlib.figure import Figure

    from ssd_lib.show import style

    os.environ["SSD_FIGURES"] = str(out)
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    style.save(figure, "figure.png")


def _training(run_folder: Path, out: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ssd_lib.models.training import Stage, fine_tune, supervised_example
    from tests.micro_models import llama2_tokenizer

    torch.manual_seed(0)
    tokenizer = llama2_tokenizer()
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **small))
    examples = [supervised_example([5, 6, 7 + i], [], [8, 9, 2]) for i in range(16)]
    tokenizer.pad_token = tokenizer.eos_token
    stage = Stage("stage", steps=4, learning_rate=1e-3, batch_size=4, warmup_steps=1, save_every=1)
    fine_tune(model, tokenizer, examples, stage, out, quiet=True)
    LlamaForCausalLM.from_pretrained(out / "stage")


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "a report": _report,
    "items and their card": _items,
    "a model's folder": _export,
    "traces and a saved page": _traces,
    "a figure": _figure,
    "a training's checkpoints": _training,
}
