"""Running an experiment: pair × attack sets × defenders, one stored row an answer, resumed where it stopped.

A set's items are cut into batches by their place, so the same batches come out at every start; a batch is generated and
written whole. After a kill at any moment, the next start therefore does exactly what is left, in the same batches. The store
then equals that of a run that was never stopped, except for times, and for forwards where the lookahead is "auto".

On real models the shape of a batch can change the last bits of its numbers, so a batch is not cut again. Where a later start
adds items to a set, the batch in which they begin holds the new ones only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from tqdm.auto import tqdm

from ssd_lib.attacks import Record, load_set
from ssd_lib.attacks.prefilling import written_by_target
from ssd_lib.experiments.config import Choice, ExperimentConfig
from ssd_lib.experiments.crew import Crew, Job, crew_for
from ssd_lib.experiments.judging import can_judge, judge_store
from ssd_lib.experiments.shards import Shard, claim
from ssd_lib.experiments.starting import agreed, check_expert, check_files, settled
from ssd_lib.experiments.store import Row, Store
from ssd_lib.judges import judge
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import of_kind


def run_experiment(
    config: ExperimentConfig,
    *,
    pair: Pair | None = None,
    retry_errors: bool = False,
    progress: bool = True,
    workers: int | str = 1,
    gpus_per_worker: float | None = None,
    shard: Shard | None = None,
) -> Path:
    """Generate the answers of an experiment that are not stored yet, then judge them.

    Args:
        config: The experiment, from `experiment`, `config_from` or `read_config`.
        pair: An already loaded pair, in place of loading `config.pair`.
        retry_errors: Ask rows again that are stored as errors.
        progress: Show tqdm bars.
        workers: How many processes answer, each with the pair on its own device: a number on this machine, or "ray" or
            "ray:ADDRESS", as many as fit into a Ray cluster (`ssd_lib.experiments.cluster`). The rows are the same.
        gpus_per_worker: GPUs of each of them, or a part of one. Default: one each where there are any, shared if there are fewer.
        shard: Do this part only, in a folder of its own in `config.out`, for `merge_runs`.

    Returns:
        The run's folder: `config.out`, or the shard's in it.

    Raises:
        ImportError: For many workers without ray.
        RuntimeError: Where many workers die in a row, naming the batch.
        ValueError: Where another process is writing the run, where the stored run differs in something that decides its rows
            (the message says in what) or is another shard, for unknown settings, and as `load_set` and `load_pair`.
        OSError: As `load_set` and `load_pair`, where a file, a data set or a model cannot be read.
    """
    of_kind("config", config, ExperimentConfig)
    of_kind("shard", shard, Shard, NoneType)
    for name, flag in (("retry_errors", retry_errors), ("progress", progress)):
        of_kind(name, flag, bool)
    if shard is not None:
        config = replace(config, out=shard.folder(config.out))
    with Store.open(config.out) as store:
        claim(store, config, shard)
        config = agreed(store, config)
        check_expert(config)
        check_files(config)
        with crew_for(config, pair, workers, gpus_per_worker, progress) as crew:
            config = settled(store, config, crew.loaded)
            with store.session(crew.about(config)) as session:
                sets = {attack: stored_records(attack, config, crew, store, progress) for attack in config.attacks}
                _Run(store, config, crew, session, sets, retry_errors, shard).generate(progress)
                crew.close()
                for choice in config.judges:
                    judge_store(store, choice, progress=progress)
    return config.out


def load_records(attack: Choice, config: ExperimentConfig, tokenizer: Any) -> list[Record]:
    """The items of a set, cut by the target's tokenizer and optimised for the target where the set depends on it."""
    given = attack.given
    if given.pop("from", "record") == "target":  # `stored_records` has the target write them
        del given["prefill"]
    options: dict[str, Any] = {"seed": config.seed, "target_model": config.pair.spec.name, "limit": config.limit}
    return load_set(attack.name, tokenizer=tokenizer, **options | given)


def stored_records(attack: Choice, config: ExperimentConfig, crew: Crew, store: Store, progress: bool) -> list[Record]:
    """The items of a set, kept in the store; prefills that the target writes are written once, and kept with them."""
    records, given = load_records(attack, config, crew.loaded.tokenizer), attack.given
    if given.get("from") == "target":
        known, loaded, records = store.items(attack.label), records, []
        for part in written_by_target(crew.prefills, loaded, given["prefill"], known, config.batch or 1, progress):
            records += part
            store.add_items(attack.label, records)
    store.add_items(attack.label, records)
    return records


# ------------------------------------------------------------------------------------------------ generating


@dataclass
class _Run:
    """One start of an experiment, on its way through attack sets and defenders."""

    store: Store
    config: ExperimentConfig
    crew: Crew
    session: int
    sets: dict[Choice, list[Record]]
    retry_errors: bool
    shard: Shard | None = None
    live: _Live = field(default_factory=lambda: _Live())

    def generate(self, progress: bool) -> None:
        """Write every missing row, batch by batch."""
        kinds = [(attack, defender) for attack in self.sets for defender in self.config.defenders]
        left = {kind: self._missing(*kind) for kind in kinds}
        total, missing = sum(len(self._asked(*kind)) for kind in kinds), sum(map(len, left.values()))
        jobs = [Job(*kind, batch) for kind, items in left.items() for batch in self._batches(kind[0], items)]
        answers = self.crew.answers(jobs, self._size)
        with tqdm(total=total, initial=total - missing, desc="answers", unit="answer", disable=not progress) as bar:
            for job in jobs:
                bar.set_description(job.label)
                rows, size = next(answers)
                self._write(job, rows, size)
                self.live.count(job.records, rows)
                bar.set_postfix_str(", ".join(filter(None, (self.live.line(), self.crew.line()))), refresh=False)
                bar.update(len(rows))

    def _missing(self, attack: Choice, defender: Choice) -> set[str]:
        stored = self.store.answered(self.config.pair.spec.name, attack.label, defender, errors=not self.retry_errors)
        return self._asked(attack, defender) - stored

    def _asked(self, attack: Choice, defender: Choice) -> set[str]:
        """Ids of the items that this start is for: a set's, or those of them that belong to the shard."""
        records = self.sets[attack]
        if self.shard is None:
            return {record.id for record in records}
        place = list(self.sets).index(attack), self.config.defenders.index(defender)
        return self.shard.items(*place, records, self.config.batch or 1)

    def _batches(self, attack: Choice, items: set[str]) -> Iterator[list[Record]]:
        """The missing rows of each batch; a batch is a fixed stretch of the set."""
        records, size = self.sets[attack], self.config.batch or 1
        for start in range(0, len(records), size):
            batch = [record for record in records[start : start + size] if record.id in items]
            if batch:
                yield batch

    def _size(self, job: Job) -> int:
        return self.store.size(job.attack.label, job.defender, self.config.batch or 1)

    def _write(self, job: Job, rows: list[Row], size: int) -> None:
        pair = self.config.pair.spec.name
        self.store.add_answers(pair, job.attack.label, job.defender, rows, session=self.session, size=size)


@dataclass
class _Live:
    """What the progress bar says: compliance where it can be decided exactly, speed, errors."""

    complied: int = 0
    graded: int = 0
    tokens: int = 0
    seconds: float = 0.0
    errors: int = 0

    def count(self, batch: Sequence[Record], rows: Sequence[Row]) -> None:
        """Take in one batch."""
        done = [(record, row) for record, row in zip(batch, rows, strict=True) if row.error is None]
        self.errors += len(rows) - len(done)
        costs = [json.loads(row.cost or "{}") for _, row in done]
        self.tokens += sum(cost["tokens"] for cost in costs)
        self.seconds += sum(cost["seconds"] / (row.batch_rows or 1) for cost, (_, row) in zip(costs, done, strict=True))
        harmful = [(r, row.text or "") for r, row in done if r.group == "harmful" and can_judge("exact", r)]
        if harmful:
            verdicts = judge("exact", [r for r, _ in harmful], [text for _, text in harmful])
            self.graded += len(verdicts)
            self.complied += sum(verdict.label == "harmful" for verdict in verdicts)

    def line(self) -> str:
        """One short line."""
        parts = [f"complied {self.complied}/{self.graded}"] if self.graded else []
        parts += [f"{self.tokens / self.seconds:.0f} tokens/s"] if self.seconds else []
        parts += [f"{self.errors} errors"] if self.errors else []
        return ", ".join(parts)
