"""SIGKILL at random moments, while models load, while answers are generated, inside a transaction, while verdicts are written.

Single processes, shards and Ray runs are killed, resumed (and killed again) to the end, and compared row for row with a run
that was left alone. Everything goes through the `ssd` command.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from tqdm.auto import tqdm

from tests.reliability.children import Started, ready
from tests.reliability.outcome import Outcome

TITLE = "Processes killed with SIGKILL, resumed, compared row for row"
FULL, SHORT = 100, 4
SHARE = {"by the clock": 0.35, "inside a transaction": 0.15, "shards": 0.3, "Ray": 0.2}
"""Of the kills, by way; what Ray cannot take, where it is not installed, is killed by the clock."""
KILLS_A_RUN = 4
"""A run is killed this often before it may end, so that starts over half-finished stores are killed, too."""
TIMES = ["seconds", "written", "session"]
KEY = ["pair", "attack", "item", "defender", "settings"]
TABLE = """
pair = "toy"
attacks = ["prefill-10", "scary"]
defenders = ["none", "ssd:lookahead=3", "self-exam"]
limit = 4
batch = 1
max_new_tokens = 16
judges = ["exact", "refusal"]
"""
ROWS, VERDICTS, SHARDS, WORKERS = 24, 48, 3, 2


def run(count: int, seed: int, progress: bool) -> Outcome:
    """Kill `count` starts in all."""
    ready()
    with tempfile.TemporaryDirectory(prefix="ssd-kills-") as place, tqdm(total=count, disable=not progress) as bar:
        trial = Trial(Path(place), random.Random(seed), seed, bar)
        trial.begin()
        for way, times in shares(count, trial.left_out).items():
            trial.kill(way, times)
    return Outcome(trial.kills.total(), trial.failures, trial.facts())


def shares(count: int, left_out: dict[str, str]) -> dict[str, int]:
    """How many kills each way gets: at least one, as long as they last."""
    ways = [way for way in SHARE if way not in left_out]
    given = {way: max(1, int(count * SHARE[way])) for way in ways}
    given[ways[0]] += count - sum(given.values())
    return given


def unavailable() -> dict[str, str]:
    """Ways that this installation does not have, with the reason."""
    import typer.main

    from ssd_lib.cli import app

    commands: Any = getattr(typer.main.get_command(app), "commands")  # noqa: B009 (pyright knows a command without)
    options = {name for param in commands["run"].params for name in param.opts}
    out = {}
    if "--shard" not in options or "merge" not in commands:
        out["shards"] = "this version has no shards"
    if "--workers" not in options:
        out["Ray"] = "this version has no workers"
    elif find_spec("ray") is None:
        out["Ray"] = "ray is not installed"
    return out


@dataclass
class Trial:
    """All kills of one seed, below one folder."""

    place: Path
    rng: random.Random
    seed: int
    bar: Any
    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    runs: int = 0
    lasts: dict[str, float] = field(default_factory=dict)
    """Seconds of an undisturbed start, by way."""

    def begin(self) -> None:
        """The run that is left alone, and how long it takes and how many statements it writes."""
        self.left_out = unavailable()
        (self.place / "run.toml").write_text(TABLE, encoding="utf-8")
        counted = self.place / "statements"
        started = time.monotonic()
        whole = self.start(self.place / "whole", first=lambda: count_statements(counted))
        if whole.wait():
            raise RuntimeError(f"an undisturbed run failed: {whole.said[-500:]}")
        self.lasts["by the clock"] = time.monotonic() - started
        self.statements = len(counted.read_bytes())
        self.expected = contents(self.place / "whole")
        assert (len(self.expected[0]), len(self.expected[1])) == (ROWS, VERDICTS), "the undisturbed run is whole"

    def start(self, out: Path, *options: str, first: Callable[[], object] | None = None) -> Started:
        argv = ["run", "--config", str(self.place / "run.toml"), "--out", str(out), *options]
        return Started(argv, out.with_name(out.name + ".log"), first)

    def kill(self, way: str, times: int) -> None:
        """Runs of one way, until `times` starts were killed and the last run is whole."""
        left = times
        while left > 0:
            out, before = self.place / f"run{self.runs}", self.kills[way]
            self.runs += 1
            try:
                {"shards": self._shards, "Ray": self._ray}.get(way, self._single)(out, min(left, KILLS_A_RUN), way)
                self.compare(out)
            except Fault as fault:
                self.failures.append(f"{way}, run {self.runs - 1}, seed {self.seed}: {fault}")
            left -= max(1, self.kills[way] - before)
            shutil.rmtree(out, ignore_errors=True)

    # ---------------------------------------------------------------------------------------- ways

    def _single(self, out: Path, kills: int, way: str) -> None:
        for _ in range(kills):
            if way == "inside a transaction":
                number = self.rng.randint(1, max(1, self.statements // (kills + 1)))
                self.struck(self.start(out, first=lambda n=number: die_at(n)), None, way, out)
            else:
                self.struck(self.start(out), self.delay("by the clock", kills), way, out)
        self.finish(self.start(out))

    def _shards(self, out: Path, kills: int, way: str) -> None:
        """Every kill hits one shard, or the merge of all of them."""
        folders = [out / f"shard-{number}-of-{SHARDS}" for number in range(1, SHARDS + 1)]
        out.mkdir()
        hit = [self.rng.randint(1, SHARDS) for _ in range(kills)]
        merging = kills > 1 or self.rng.random() < 0.5
        for number in hit[merging:]:
            delay = self.delay("by the clock", kills) / SHARDS
            self.struck(self.start(out, "--shard", f"{number}/{SHARDS}"), delay, way, folders[number - 1])
        for number in range(1, SHARDS + 1):
            self.finish(self.start(out, "--shard", f"{number}/{SHARDS}"))
        merge = ["merge", str(out), *map(str, folders)]
        log = out.with_name(out.name + ".log")
        if merging:
            number = self.rng.randint(1, 120)
            self.struck(Started(merge, log, lambda: die_at(number)), None, way, out)
        self.finish(Started(merge, log))

    def _ray(self, out: Path, kills: int, way: str) -> None:
        """The driver dies, or one of its actors (then the same start must come to its end by itself), or the machine."""
        if way not in self.lasts:
            began = time.monotonic()
            self.finish(self.start(out, "--workers", str(WORKERS)))
            self.lasts[way] = time.monotonic() - began
            self.compare(out)
            shutil.rmtree(out)
        for _ in range(kills):
            start, choice = self.start(out, "--workers", str(WORKERS)), self.rng.random()
            if choice < 0.5:
                self.struck(start, self.rng.uniform(0.1, 1.0) * self.lasts[way], way, out)
                continue
            what, name = ("an actor", ACTOR) if choice < 0.85 else ("the node", NODE)
            while not (hit := below(start.pid, name)) and start.poll() is None:
                time.sleep(0.05)
            time.sleep(self.rng.uniform(0, LIVES))
            if hit and start.poll() is None:
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(self.rng.choice(hit), signal.SIGKILL)
                    self.count(way, f"{what} of a Ray run")
            if what == "the node":  # the only one: the driver ends, too
                start.wait()
                if "Traceback" in start.said:
                    raise Fault(f"a traceback: {start.said.strip()[-300:]}")
            else:
                self.finish(start)
        self.finish(self.start(out, "--workers", str(WORKERS)))

    # ---------------------------------------------------------------------------------------- steps

    def delay(self, way: str, kills: int) -> float:
        """Seconds, so that `kills` of them in a row reach from the first moment to the last."""
        return self.rng.uniform(0, 1.6 / kills if kills > 1 else 1.0) * self.lasts[way]

    def struck(self, start: Started, delay: float | None, way: str, out: Path) -> None:
        """Kill a start after a delay, or wait until it kills itself."""
        if delay is None:
            start.wait()
        else:
            end = time.monotonic() + delay
            while time.monotonic() < end and start.poll() is None:
                time.sleep(0.002)
            start.kill()
        if start.code != -signal.SIGKILL:
            return self.finish(start)  # it was quicker
        self.count(way, "inside a transaction" if delay is None else moment(out))

    def count(self, way: str, when: str) -> None:
        self.kills[way] += 1
        self.moments[when] += 1
        self.bar.update()

    def finish(self, start: Started) -> None:
        """A start that nobody disturbs ends well."""
        if start.wait():
            raise Fault(f"a later start ended with {start.code}: {start.said.strip()[-300:]}")

    def compare(self, out: Path) -> None:
        """Raise Fault where the run is not that of the run that was left alone."""
        found = contents(out)
        if (out / "run.sqlite.new").exists():
            raise Fault("an unfinished new store is left")
        for what, one, other in zip(("answers", "verdicts"), found, self.expected, strict=True):
            try:
                pd.testing.assert_frame_equal(one, other)
            except AssertionError as error:
                raise Fault(f"{what} differ: {' '.join(str(error).split())[:300]}") from error

    def facts(self) -> dict[str, float | int | str]:
        """What the page tells."""
        facts: dict[str, float | int | str] = {"runs resumed to the end and compared": self.runs}
        facts |= {f"kills: {way}": self.kills[way] for way in SHARE if way not in self.left_out}
        facts |= {f"kills: {way}": f"not tried: {reason}" for way, reason in self.left_out.items()}
        facts |= {f"killed: {when}": self.moments[when] for when in sorted(self.moments)}
        return facts | {"rows lost": 0 if not self.failures else "see below", "answers of each run": ROWS}


class Fault(Exception):
    """What a kill must not do."""


def play(trial: Any, cases: dict[str, Callable[[Path], None]], count: int, seed: int, progress: bool) -> None:
    """Each of the cases in turn, `count` in all, in a folder of its own below the trial's; a `Fault` is a failure of the trial."""
    for number in tqdm(range(count), disable=not progress):
        name, out = [*cases][number % len(cases)], trial.place / f"case{number}"
        try:
            trial.tried[name] += 1
            cases[name](out)
        except Fault as fault:
            trial.failures.append(f"{name}, case {number}, seed {seed}: {fault}")
        shutil.rmtree(out, ignore_errors=True)


def contents(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers and verdicts without their times, told apart by what was asked, in the order of their numbers."""
    from ssd_lib.experiments import load_run, load_verdicts

    try:
        answers, verdicts = load_run(out), load_verdicts(out).drop(columns="written")
    except (OSError, ValueError) as error:
        raise Fault(f"the store cannot be read: {error}") from error
    return answers.drop(columns=TIMES, errors="ignore"), verdicts  # a store without answers has no seconds


def moment(out: Path) -> str:
    """What a killed start was doing, by what it had stored."""
    from ssd_lib.experiments import load_run, load_sessions, load_verdicts

    try:
        if load_sessions(out).empty:
            return "before the first row"
        answers, verdicts = len(load_run(out)), len(load_verdicts(out))
    except (OSError, ValueError):
        return "before the first row"
    if not answers:
        return "before the first row"
    return "while judging" if verdicts else "while generating"


LIVES = 4.0
"""Seconds within which an actor or a machine is killed after it came up: it loads models and answers for about as long."""
ACTOR, NODE = "ray::Worker", "raylet"
"""How command lines of an actor and of a machine of a Ray run begin: programs by their name."""


def below(pid: int, name: str) -> list[int]:
    """Process ids of an actor, or of the machine itself, below a driver."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        lines = [(child.pid, child.cmdline()) for child in children]
    except psutil.Error:
        return []
    return [number for number, line in lines if line and Path(line[0]).name.startswith(name)]


# ------------------------------------------------------------------------------------------------ inside a transaction


def on_statements(act: Callable[[int], object]) -> None:
    """Call `act` with the number of each statement that this process sends to any database, before it takes effect."""
    connect, sent = sqlite3.connect, [0]

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)

        def statement(text: str) -> None:
            if connection.in_transaction and text.startswith(("INSERT", "UPDATE", "COMMIT", "CREATE")):
                sent[0] += 1
                act(sent[0])

        connection.set_trace_callback(statement)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


def die_at(number: int) -> None:
    """SIGKILL to this process at its `number`th statement inside a transaction."""
    on_statements(lambda sent: os.kill(os.getpid(), signal.SIGKILL) if sent == number else None)


def count_statements(file: Path) -> None:
    """Write one byte into `file` for each statement inside a transaction."""
    out = file.open("ab", buffering=0)
    on_statements(lambda sent: out.write(b"."))
