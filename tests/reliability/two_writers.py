"""Two processes on one folder, readers beside a writer, a lock that a kill left, a folder that cannot be written or goes away.

Of two writers the second is told so by one line and touches nothing; the first one's rows are those of a run that was alone.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tests.reliability.children import Started, ready
from tests.reliability.disk_full import in_child, mount, why_no_mount
from tests.reliability.kills import TABLE, WORKERS, Fault, contents, play, unavailable
from tests.reliability.outcome import Outcome

TITLE = "Two writers, readers beside a writer, a stale lock, a folder that goes away"
FULL, SHORT = 80, 3


def run(count: int, seed: int, progress: bool) -> Outcome:
    """Play `count` scenes."""
    ready()
    with tempfile.TemporaryDirectory(prefix="ssd-two-") as place:
        trial = Trial(Path(place), random.Random(seed))
        trial.begin()
        scenes = trial.scenes()
        play(trial, scenes, count, seed, progress)
    facts: dict[str, float | int | str] = {name: trial.tried[name] for name in scenes}
    facts |= trial.left_out
    return Outcome(count, trial.failures, facts | {"reads beside a writer": trial.reads})


@dataclass
class Trial:
    """All scenes, below one folder."""

    place: Path
    rng: random.Random
    tried: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    reads: int = 0

    def begin(self) -> None:
        """A run that is alone."""
        (self.place / "run.toml").write_text(TABLE, encoding="utf-8")
        began = time.monotonic()
        self.finish(self.start(self.place / "whole"))
        self.lasts = time.monotonic() - began
        self.expected = contents(self.place / "whole")

    def scenes(self) -> dict[str, Callable[[Path], None]]:
        """What is played, by what the page calls it."""
        scenes = {
            "two runs at once": self.two_runs,
            "a judge beside a run": self.judge_beside,
            "readers beside a run": self.readers,
            "two runs, the lock's file removed": self.lock_removed,
            "a stale lock after a kill": self.stale_lock,
            "a folder deleted under the writer": self.deleted,
        }
        if why := why_no_mount(self.place / "mounted"):
            self.left_out["a folder that is read only"] = f"not tried: {why}"
        else:
            scenes["a folder that is read only"] = self.read_only
        if why := unavailable().get("Ray"):
            self.left_out["a second writer beside a driver with workers"] = f"not tried: {why}"
        else:
            scenes["a second writer beside a driver with workers"] = self.beside_workers
        return scenes

    # ---------------------------------------------------------------------------------------- scenes

    def two_runs(self, out: Path) -> None:
        first = self.started(out)
        self.refused(self.start(out, log="second"), "another process is writing")
        self.finish(first)
        self.compare(out)

    def judge_beside(self, out: Path) -> None:
        first = self.started(out)
        second = Started(["judge", str(out), "--judges", "refusal"], self.place / "second.log")
        self.refused(second, "another process is writing")
        self.finish(first)
        self.compare(out)

    def beside_workers(self, out: Path) -> None:
        first = self.started(out, "--workers", str(WORKERS))
        self.refused(self.start(out, log="second"), "another process is writing")
        self.finish(first)
        self.compare(out)

    def readers(self, out: Path) -> None:
        """Each sees whole batches, never fewer rows than the one before, and only right ones."""
        first, seen = self.started(out), 0
        right = self.expected[0].set_index("answer").text.to_dict()
        while first.poll() is None:
            rows, _ = contents(out)
            self.reads += 1
            if len(rows) < seen:
                raise Fault(f"a reader saw {len(rows)} rows after {seen}")
            if wrong := [answer for answer, text in zip(rows.answer, rows.text, strict=True) if right[answer] != text]:
                raise Fault(f"a reader saw another answer {wrong[0]}")
            seen = len(rows)
        self.finish(first)
        self.compare(out)

    def lock_removed(self, out: Path) -> None:
        """Who takes the lock's file away lets two write; still nothing is lost or doubled."""
        first = self.started(out)
        (out / "run.lock").unlink(missing_ok=True)
        second = self.start(out, log="second")
        for start in (first, second):
            self.finish(start)
        self.compare(out)

    def stale_lock(self, out: Path) -> None:
        first = self.started(out)
        first.kill()
        self.finish(self.start(out))
        self.compare(out)

    def deleted(self, out: Path) -> None:
        """The writer says so and stops; the next one begins anew."""
        first = self.started(out)
        shutil.rmtree(out, ignore_errors=True)
        if first.wait() == 0:
            shutil.rmtree(out, ignore_errors=True)  # it had finished before
        else:
            self.one_line(first, out, ("was removed or replaced", "there is no run"))
        self.finish(self.start(out))
        self.compare(out)

    def read_only(self, out: Path) -> None:
        """A finished run can be read there, and not continued; a new one is refused."""
        out.mkdir()
        mount("-t", "tmpfs", "ssd-reliability", str(out))
        try:
            shutil.copytree(self.place / "whole", out / "whole")
            for left in ("run.sqlite-shm", "run.sqlite-wal"):
                (out / "whole" / left).unlink(missing_ok=True)
            mount("-o", "remount,ro", str(out))
            self.compare(out / "whole")
            for folder in (out / "whole", out / "new"):
                self.refused(self.start(folder), "ead-only", "cannot be written", "readonly")
            said = in_child(lambda: print(contents(out / "whole")))
            if said:
                raise Fault(f"it cannot be read: {said}")
        finally:
            subprocess.run(["umount", str(out)], check=False, capture_output=True)

    # ---------------------------------------------------------------------------------------- steps

    def start(self, out: Path, *options: str, log: str = "first") -> Started:
        argv = ["run", "--config", str(self.place / "run.toml"), "--out", str(out), *options]
        return Started(argv, self.place / f"{log}.log")

    def started(self, out: Path, *options: str) -> Started:
        """A run that holds its lock, at a random moment of its work."""
        start, end = self.start(out, *options), time.monotonic() + 300
        while not rows_in(out) and start.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(self.rng.uniform(0, 0.2) * self.lasts)
        return start

    def finish(self, start: Started) -> None:
        if start.wait():
            raise Fault(f"it ended with {start.code}: {start.said.strip()[-300:]}")

    def refused(self, start: Started, *words: str) -> None:
        """It ends with exit code 1 and one line that has one of the words."""
        if start.wait() != 1:
            raise Fault(f"it was not refused ({start.code}): {start.said.strip()[-300:]}")
        self.one_line(start, Path(), words)

    def one_line(self, start: Started, out: Path, words: tuple[str, ...]) -> None:
        lines = [line for line in start.said.splitlines() if "ssd: " in line]
        clear = len(lines) == 1 and any(word in lines[0] for word in words) and str(out).strip(".") in lines[0]
        if "Traceback" in start.said or not clear:
            raise Fault(f"not one clear line: {start.said.strip()[-300:]}")

    def compare(self, out: Path) -> None:
        for one, other in zip(contents(out), self.expected, strict=True):
            try:
                pd.testing.assert_frame_equal(one, other)
            except AssertionError as error:
                raise Fault(f"rows differ: {' '.join(str(error).split())[:300]}") from error


def rows_in(out: Path) -> int:
    """Answers that are stored by now."""
    try:
        return len(contents(out)[0])
    except (Fault, KeyError):
        return 0
