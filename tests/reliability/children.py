"""Processes that run `ssd` for real, forked from one that has imported everything, so that a start takes a moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from tests.reliability.missing import Missing

START = 600
"""Seconds after which a start that does not end is killed, and counts as hanging."""


def need_fork() -> None:
    """Raise Missing where this system has no fork (Windows)."""
    if not hasattr(os, "fork"):
        raise Missing("needs fork")


def ready() -> None:
    """Import what every start needs, once, before the first fork; one thread, as forked processes must have."""
    need_fork()
    import pandas  # noqa: F401
    import torch

    import ssd_lib.cli
    import ssd_lib.experiments
    import ssd_lib.models.pairs  # noqa: F401

    torch.set_num_threads(1)


def alone() -> None:
    """In a forked process, before it has threads: locks and pools of its own.

    A process that is killed never gives back the shared lock of progress bars. torch renews its thread pool at the first use
    after a fork, without a lock: two threads that come at once may find none ("Invalid thread pool!").
    """
    import torch

    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)


class Started:
    """A forked process that runs one `ssd` command; `said` is what it wrote, both streams."""

    def __init__(self, argv: Sequence[str], log: Path, first: Callable[[], object] | None = None):
        """`first` runs in the child before the command, to arrange a fault there."""
        self.argv, self.log, self.code = list(argv), log, None
        self.pid = os.fork()
        if self.pid == 0:
            self._child(first)

    def _child(self, first: Callable[[], object] | None) -> None:
        code = 1
        try:
            os.setsid()
            alone()
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            code = self._command(first)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _command(self, first: Callable[[], object] | None) -> int:
        from ssd_lib.cli import app

        if first is not None:
            first()
        try:
            app(self.argv, prog_name="ssd")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 1
        return 0

    def poll(self) -> int | None:
        """The exit code (minus the signal where one ended it), or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = START) -> int:
        """Wait for the end; a start that takes longer is killed."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def kill(self) -> int:
        """SIGKILL, and the exit code: -9 unless it had ended before."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        assert self.code is not None
        return self.code

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def fault(self) -> str | None:
        """What is wrong with the way in which it ended by itself: a traceback, or an error of more than one line."""
        said = self.said
        if "Traceback" in said:
            return f"a traceback: {said.strip().splitlines()[-1]}"
        if self.code and not said.strip().splitlines()[-1:][0:1]:
            return f"exit code {self.code} without a word"
        return None
