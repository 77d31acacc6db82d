"""The newest request wins: once a slider rests, stop the earlier work and do the last thing that was asked.

While a slider is being dragged, the newest request is done now and then, too, so that the page lives: as often as work takes, and
what is at work then has time to end. Work runs in a thread of its own, so that the kernel goes on listening to the sliders meanwhile; this needs no event loop and
works the same in every kind of kernel and without one. The thread ends as soon as there is nothing left to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

DELAY = 0.15
"""Seconds that a slider must rest."""
LIVE = 0.4
"""Seconds after which a request is due though the slider goes on moving; more where work takes longer than that."""

Work = Callable[[Any, Callable[[], bool]], None]
"""`work(job, stop)`: does a job and asks `stop()` now and then whether it is still wanted. It reports its own errors."""


class Latest:
    """At most one job runs and at most one waits. A running job is to stop as soon as another is due."""

    def __init__(self, work: Work, delay: float = DELAY):
        self.work, self.delay = work, delay
        self._changed = threading.Condition()
        self._waiting: list[Any] = []
        self._asked_at = self._first_asked_at = self._took = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, job: Any) -> None:
        """Do this job next, unless another is asked for within the delay. Returns at once, from any thread."""
        with self._changed:
            now = time.monotonic()
            self._first_asked_at = self._first_asked_at if self._waiting else now
            self._waiting, self._asked_at = [job], now
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ssd-explorer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def waiting(self) -> bool:
        """Whether a job waits for its turn."""
        return bool(self._waiting)

    def cancel(self) -> None:
        """Forget the waiting job and ask the running one to stop. Returns at once; `wait` waits until it has stopped."""
        with self._changed:
            self._waiting = []
            self._stop.set()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing runs or waits. False where that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                begun, stop = time.monotonic(), self._stop
                self.work(job[0], lambda stop=stop: stop.is_set() or self._rest() <= 0)
                self._took = time.monotonic() - begun
        finally:
            with self._changed:
                if self._thread is threading.current_thread():  # the work failed
                    self._thread = None
                self._changed.notify_all()

    def _rest(self) -> float:
        """Seconds until the waiting job is due; infinite without one."""
        if not self._waiting:
            return float("inf")
        due = min(self._asked_at + self.delay, self._first_asked_at + max(LIVE, 1.5 * self._took))
        return due - time.monotonic()

    def _next(self) -> tuple[Any] | None:
        with self._changed:
            while self._waiting and (rest := self._rest()) > 0:
                self._changed.wait(rest)
            if not self._waiting:
                self._thread = None  # while the lock is held, so that whoever asks next starts another
                return None
            self._stop = threading.Event()
            return (self._waiting.pop(),)
