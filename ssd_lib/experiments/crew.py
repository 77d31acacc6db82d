"""Who answers the batches of a run: the pair in this process, or many workers that each hold one (`workers`).

Either way the results come in the order of the jobs, and only the run writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from ssd_lib.attacks import Record
from ssd_lib.attacks.prefilling import beginnings
from ssd_lib.experiments.answering import answer_rows
from ssd_lib.experiments.cluster import read_workers
from ssd_lib.experiments.config import Choice, ExperimentConfig
from ssd_lib.experiments.starting import Loaded, about_session, load, loaded_as
from ssd_lib.experiments.store import Row
from ssd_lib.models.pairs import Pair


class Job(NamedTuple):
    """One batch of a run: the items of a set that are answered together by one defender."""

    attack: Choice
    defender: Choice
    records: list[Record]

    @property
    def label(self) -> str:
        """Set and defender."""
        return f"{self.attack.label} · {self.defender.label}"


Size = Callable[[Job], int]
"""How many rows of a job fit into memory together, as far as the run knows at that time."""


class Crew(Protocol):
    """Answers batches, somewhere. A context manager: what it started ends with it, or with `close`."""

    @property
    def loaded(self) -> Loaded:
        """What is known of the pair."""
        ...

    def about(self, config: ExperimentConfig) -> dict[str, Any]:
        """What a session records of itself."""
        ...

    def prefills(self, parts: Sequence[Sequence[Record]], tokens: int) -> Iterator[list[str]]:
        """What the undefended target's answers begin with, part by part, in order."""
        ...

    def answers(self, jobs: Sequence[Job], size: Size) -> Iterator[tuple[list[Row], int]]:
        """The rows of every job, and the size that fitted into memory, in the order of the jobs; `size` counts what was written."""
        ...

    def line(self) -> str:
        """What a progress bar says of the workers; nothing where there is one."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...

    def __enter__(self) -> Crew: ...

    def __exit__(self, *_: object) -> None: ...


class Here:
    """The pair in this process."""

    def __init__(self, config: ExperimentConfig, pair: Pair | None = None):
        self.pair = pair or load(config)
        self.config, self.loaded = config, loaded_as(self.pair, config)

    def about(self, config: ExperimentConfig) -> dict[str, Any]:
        return about_session(config, self.pair)

    def prefills(self, parts: Sequence[Sequence[Record]], tokens: int) -> Iterator[list[str]]:
        for part in parts:
            yield beginnings(self.pair, part, tokens)

    def answers(self, jobs: Sequence[Job], size: Size) -> Iterator[tuple[list[Row], int]]:
        for job in jobs:
            yield answer_rows(self.pair, job.records, job.defender, self.config, size(job))

    def line(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def crew_for(
    config: ExperimentConfig, pair: Pair | None, workers: int | str, gpus: float | None, progress: bool
) -> Crew:
    """Who answers a run's batches: this process where there is one worker. Raises as `run_experiment`."""
    chosen = read_workers(workers)
    if chosen == 1:
        if gpus is not None:
            raise ValueError("gpus_per_worker is for many workers: give workers=, too")
        return Here(config, pair)
    if pair is not None:
        raise ValueError("many workers load the pair themselves: leave pair out, or workers")
    from ssd_lib.experiments.workers import Workers  # here: it needs `crew`

    return Workers(config, chosen, gpus, progress)
