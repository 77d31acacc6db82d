"""Many workers: each a Ray actor that holds the pair on a device of its own and answers whole batches.

Batches are asked ahead of the writing, as a draft proposes tokens, and written strictly in the order in which one process
would have written them:

    asked     b3 b4 b5 …   under the batch size that is known at that time
    written   b1 b2        in order; a smaller size that comes to light makes later results void, and they are asked again

So the store ends as that of one process does, row for row, number for number, whichever worker was slow, new or killed. A
batch whose worker was lost goes to the next one that is free, first of all; after three losses in a row it is named.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from ssd_lib.attacks import Record
from ssd_lib.attacks.prefilling import beginnings
from ssd_lib.experiments.answering import answer_rows, describe
from ssd_lib.experiments.cluster import Cluster
from ssd_lib.experiments.config import Choice, ExperimentConfig
from ssd_lib.experiments.crew import Crew, Job, Size
from ssd_lib.experiments.starting import Loaded, Memory, about_session, load, loaded_as
from ssd_lib.experiments.store import Row

LOSSES = 3
"""A batch that was lost with so many workers in a row ends the run, and so does a loading that was."""
AHEAD = 8
"""Batches for each worker that may be asked beyond the first unwritten one."""
POLL = 1.0
"""Seconds between looks at the cluster: machines come and go."""
PATIENCE = 60.0
"""Seconds without any worker after which the run says what it waits for."""


class Hired(NamedTuple):
    """What a worker says when it has loaded the pair."""

    loaded: Loaded
    about: dict[str, Any]
    weights: int
    """Bytes."""


class Worker:
    """The pair in a process of its own. Made into a Ray actor by `Cluster.start`."""

    def __init__(self, folder: str, threads: int):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        with suppress(OSError):  # a machine without the driver's folder has the models elsewhere
            os.chdir(folder)

    def load(self, config: ExperimentConfig, memory: Memory, first: bool) -> Hired:
        """Load the pair. Only the first worker sends its tokenizer."""
        self.pair, self.config = load(config), config
        loaded = loaded_as(self.pair, config, memory)
        models = {id(model): model for model in (self.pair.target, self.pair.draft)}.values()
        weights = sum(weight.nbytes for model in models for weight in model.parameters())
        return Hired(loaded if first else replace(loaded, tokenizer=None), about_session(config, self.pair), weights)

    def ping(self) -> None:
        """Be there."""

    def answers(self, records: list[Record], defender: Choice, size: int) -> tuple[list[Row], int]:
        """As `answer_rows`."""
        return answer_rows(self.pair, records, defender, self.config, size)

    def prefills(self, records: list[Record], tokens: int) -> list[str]:
        """As `beginnings`."""
        return beginnings(self.pair, records, tokens)


class _Task(NamedTuple):
    """A place among the tasks, and the arguments under which it was asked."""

    place: int
    args: tuple


@dataclass(eq=False)
class _Hand:
    """The driver's side of one worker."""

    actor: Any
    attempt: int
    """One more than the loadings that had failed in a row when it began: what one machine takes with it counts once."""
    ready: bool = False


class Workers:
    """A crew of Ray actors; see `Crew` for what it is asked."""

    def __init__(self, config: ExperimentConfig, workers: int | str, gpus: float | None = None, progress: bool = True):
        """Connect and have a first worker load the pair.

        Args:
            config: The experiment.
            workers: As `read_workers` returns it.
            gpus: GPUs of each worker, as in `Cluster`.
            progress: Say on stderr how many workers there are, and what is waited for.

        Raises:
            ImportError: Without ray.
            ValueError: As `Cluster`, and as `load`.
            OSError: As `load`.
            RuntimeError: Where workers die while they load.
        """
        self.config, self.progress = config, progress
        self.cluster = Cluster(workers, gpus, config.pair.device)
        self.first: Hired | None = None
        self.hands: list[_Hand] = []
        self.idle: list[_Hand] = []
        self.running: dict[Any, tuple[_Hand, _Task | None]] = {}
        self.losses, self.failed_loads = Counter[int](), 0
        self.looked, self.slots, self.said = 0.0, 0, 0
        try:
            self._wait_for_the_first()
        except BaseException:
            self.close()
            raise

    def _wait_for_the_first(self) -> None:
        began = time.monotonic()
        while self.first is None:
            self._grow(1)
            list(self._finished(str))
            if self.first is None and time.monotonic() - began > PATIENCE:
                began = float("inf")
                self._say(f"no worker has loaded the pair yet: it may wait for {self.cluster.each()} that nobody uses")

    @property
    def loaded(self) -> Loaded:
        """What the first worker reported."""
        assert self.first is not None
        return self.first.loaded

    def about(self, config: ExperimentConfig) -> dict[str, Any]:
        assert self.first is not None
        workers = {"number": self.cluster.count, "gpus": self.cluster.needs["GPU"], "ray": self.cluster.ray.__version__}
        return self.first.about | {"config": config.table(), "workers": workers}

    def prefills(self, parts: Sequence[Sequence[Record]], tokens: int) -> Iterator[list[str]]:
        return self._ordered(
            "prefills", parts, lambda part: (list(part), tokens), lambda part: _named("prefills", part)
        )

    def answers(self, jobs: Sequence[Job], size: Size) -> Iterator[tuple[list[Row], int]]:
        def args(job: Job) -> tuple:
            return job.records, job.defender, size(job)

        return self._ordered("answers", jobs, args, lambda job: _named(job.label, job.records))

    def line(self) -> str:
        ready = sum(hand.ready for hand in self.hands)
        return f"{ready} worker{'s' * (ready != 1)}"

    def close(self) -> None:
        for hand in self.hands:
            self.cluster.end(hand.actor)
        self.hands, self.idle, self.running = [], [], {}
        self.cluster.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------- tasks, in order

    def _ordered(
        self, method: str, tasks: Sequence[Any], args: Callable[[Any], tuple], name: Callable[[Any], str]
    ) -> Iterator[Any]:
        """The results of a worker's method for every task, in order. A result counts if `args` still gives what it was asked with."""
        waiting = list(range(len(tasks)))  # a heap
        held: dict[int, tuple[tuple, Any]] = {}
        self.losses.clear()

        def lost(place: int) -> str:
            heappush(waiting, place)
            return name(tasks[place])

        for place, task in enumerate(tasks):
            while place not in held or held[place][0] != args(task):
                if held.pop(place, None) is not None:  # asked under another size
                    heappush(waiting, place)
                self._grow(len(tasks) - place)
                while self.idle and waiting and waiting[0] < place + AHEAD * len(self.hands):
                    chosen = heappop(waiting)
                    self._ask(self.idle.pop(), method, _Task(chosen, args(tasks[chosen])))
                for found, result in self._finished(lost):
                    held[found.place] = found.args, result
            yield held.pop(place)[1]

    def _ask(self, hand: _Hand, method: str, task: _Task) -> None:
        self.running[getattr(hand.actor, method).remote(*task.args)] = hand, task

    def _finished(self, lost: Callable[[int], str]) -> Iterator[tuple[_Task, Any]]:
        """Wait for something to end; the tasks that did, with their results. `lost` takes a task back, and names it."""
        ray = self.cluster.ray
        if not self.running:
            return
        done, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL)
        for ref in done:
            hand, task = self.running.pop(ref)
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise _own_error(error) from None
            except ray.exceptions.RayError as error:  # the process, its machine, or the result on it is gone
                self._lost(hand, None if task is None else (task.place, lost(task.place)), error)
                continue
            self.idle.append(hand)
            if task is None:
                self._welcome(hand, result)
            else:
                del self.losses[task.place]
                yield task, result

    # -------------------------------------------------------------------------------------------- workers

    def _grow(self, tasks: int) -> None:
        """As many workers as fit and have something to do. Those that wait for a machine that left are given up."""
        if time.monotonic() - self.looked > POLL:
            self.looked, self.slots = time.monotonic(), self.cluster.slots()
        for ref, (hand, _) in list(self.running.items()):
            if not hand.ready and len(self.hands) > self.slots:
                del self.running[ref]
                self._dismiss(hand)
        wanted = min(self.slots, tasks)
        while len(self.hands) < wanted:
            self._hire()
        if not self.hands:
            raise RuntimeError(
                f"no machine of the cluster has {self.cluster.each()} for a worker any more: bring one back, and give the "
                "same command again, which goes on where this one stopped"
            )
        if self.first and len(self.hands) > self.said:
            self.said = len(self.hands)
            self._say(f"{self.said} worker{'s' * (self.said > 1)}, {self.cluster.each()} each")

    def _hire(self) -> None:
        first, memory = self.first is None, Memory(share=Memory.share * self.cluster.share())
        hand = _Hand(self.cluster.start(Worker, os.getcwd(), self.cluster.threads()), self.failed_loads + 1)
        self.hands.append(hand)
        self.running[hand.actor.load.remote(self._config(), memory, first)] = hand, None

    def _config(self) -> ExperimentConfig:
        """The experiment for a worker, which takes the device that it was given."""
        device = self.config.pair.device or (None if self.cluster.needs["GPU"] else "cpu")
        return replace(self.config, pair=replace(self.config.pair, device=device))

    def _welcome(self, hand: _Hand, hired: Hired | None) -> None:
        """A worker has loaded the pair, or was there when it was asked."""
        hand.ready = True
        if hired is None:
            return
        self.failed_loads = 0
        if self.first is None:
            self.first = hired
            self.cluster.reserve(hired.weights)
        models, known = hired.loaded.models, self.loaded.models
        different = [role for role in known if models.get(role) != known[role]]
        if different:
            raise ValueError(
                f"the weights of the {' and the '.join(different)} are not the same on all workers: give every machine the "
                "same models, or a folder that all of them see"
            )

    def _lost(self, hand: _Hand, task: tuple[int, str] | None, error: BaseException) -> None:
        """A worker is gone. Idle ones may be, with its machine: they are asked before they are given anything."""
        was_ready = hand.ready
        self._dismiss(hand)
        self.looked = 0.0
        for other in self.idle:
            self.running[other.actor.ping.remote()] = other, None
        self.idle = []
        if task is not None:
            place, name = task
            self.losses[place] += 1
            if self.losses[place] >= LOSSES:
                raise RuntimeError(
                    f"{LOSSES} workers in a row died over one batch ({name}); everything before it is stored. It may need "
                    f"more memory than there is: the last one said {describe(error)}"
                )
        elif not was_ready:
            self.failed_loads = max(self.failed_loads, hand.attempt)
            if self.failed_loads >= LOSSES:
                raise RuntimeError(f"{LOSSES} workers in a row died while they loaded the pair: {describe(error)}")

    def _dismiss(self, hand: _Hand) -> None:
        self.hands.remove(hand)
        self.cluster.end(hand.actor)

    def _say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)


def _named(label: str, records: Sequence[Record]) -> str:
    return f"{label}: items {', '.join(record.id for record in records)}"


def _own_error(error: Any) -> Exception:
    """What a worker raised, as this process would have, with where it was."""
    cause = error.cause
    kinds = (ValueError, OSError, ImportError)
    kind = next((kind for kind in kinds if isinstance(cause, kind)), RuntimeError)
    text = str(cause) if isinstance(cause, (*kinds, RuntimeError)) else describe(cause)
    found = re.search(r"\bip=([\w.:]+)", str(error))  # Ray's class for an error of a known kind has lost the attribute
    where = getattr(error, "ip", None) or (found[1] if found else "an unknown address")
    return kind(f"{text} (a worker at {where})")
