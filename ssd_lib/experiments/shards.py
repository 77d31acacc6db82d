"""One part of an experiment for a process of its own: `--shard 2/8` does the second of eight parts, `merging` joins them.

Parts are cut by whole batches, which are those of one process: batch b of the a-th set against the d-th defender goes to part
(a + d + b) mod n, counted from 0. So a part has its share of every set and of every defender, to within one batch of each of
their pairs, and depends on nothing but the config; sets, defenders and items that are added at the end move no batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd_lib.attacks import Record
from ssd_lib.experiments.config import ExperimentConfig
from ssd_lib.experiments.store import Store
from ssd_lib.settings import of_kind

SLURM = "SLURM_ARRAY_TASK_"
FOLDER = re.compile(r"shard-(\d+)-of-(\d+)")


@dataclass(frozen=True, order=True)
class Shard:
    """Part `number` of `of`, counted from 1."""

    number: int
    of: int

    def __post_init__(self) -> None:
        for name in ("number", "of"):
            of_kind(f"a shard's {name}", getattr(self, name), int)
        if not 1 <= self.number <= self.of:
            raise ValueError(f"a shard is one of the parts 1/{self.of} to {self.of}/{self.of}, not {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str] = os.environ) -> Shard:
        """Read `i/n`, or take it from SLURM's array variables where `text` is "slurm".

        Raises:
            ValueError: For anything else, and where SLURM's variables do not say which part of how many this is.
        """
        if text.strip().lower() == "slurm":
            return _from_slurm(environ)
        found = re.fullmatch(r"\s*(\d+)\s*/\s*([1-9]\d*)\s*", text)
        if found is None:
            raise ValueError(f"a shard is i/n, such as 2/8 for the second of eight parts, or slurm, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def folder(self, out: Path) -> Path:
        """Where this part of the run in `out` goes: `out` itself where it is named so, else a folder of its own in it.

        Raises:
            ValueError: Where `out` is named as another part, or holds parts of another cut.
        """
        own = FOLDER.fullmatch(out.name)
        if own is not None:
            if (int(own[1]), int(own[2])) != (self.number, self.of):
                raise ValueError(f"{out} is the folder of shard {own[1]}/{own[2]}, not of {self}: choose another out")
            return out
        cuts = {int(found[2]) for each in out.glob("shard-*") if (found := FOLDER.fullmatch(each.name))}
        if cuts - {self.of}:
            raise ValueError(
                f"{out} holds shards of {min(cuts - {self.of})}, and this is {self}: keep to that cut, or choose another out"
            )
        return out / f"shard-{self.number}-of-{self.of}"

    def items(self, attack: int, defender: int, records: Sequence[Record], batch: int) -> set[str]:
        """Ids of the items of the `attack`-th set that this part asks the `defender`-th defender."""
        mine = (
            place for place in range(len(records)) if part_of(attack, defender, place // batch, self.of) == self.number
        )
        return {records[place].id for place in mine}


def part_of(attack: int, defender: int, batch: int, parts: int) -> int:
    """The number, from 1, of the part that a batch belongs to."""
    return (attack + defender + batch) % parts + 1


def claim(store: Store, config: ExperimentConfig, shard: Shard | None) -> None:
    """Keep in a store which part it is, at its first start; at a later one, another part is an error.

    Raises:
        ValueError: For another part, for a part of a whole run or the whole of a part, and where no batch size is given: the
            default depends on the free memory, and parts are cut by batches.
    """
    stored, run = store.get("shard"), store.get("config")
    given = None if shard is None else str(shard)
    if stored != given and (stored is not None or run is not None):
        what = f"shard {stored}" if stored is not None else "a whole run"
        now = f"shard {given}" if given is not None else "the whole run"
        merge = "" if stored is None or given is not None else ", or join its shards with ssd merge"
        raise ValueError(f"{config.out} holds {what}, not {now}: choose another out{merge}")
    if shard is not None:
        if config.batch is None and run is None:
            raise ValueError(
                "a shard needs batch (--batch N): parts are cut by whole batches, and the default batch size depends on the "
                "free memory of each machine"
            )
        store.set("shard", given)


# ------------------------------------------------------------------------------------------------ SLURM


def _from_slurm(environ: Mapping[str, str]) -> Shard:
    names = ("ID", "MIN", "MAX", "COUNT")
    missing = [SLURM + name for name in names if not environ.get(SLURM + name, "").isdigit()]
    if missing:
        raise ValueError(f"--shard slurm is for tasks of a SLURM array, where {missing[0]} is set: give --shard i/n")
    task, first, last, count = (int(environ[SLURM + name]) for name in names)
    given = environ.get(f"{SLURM}STEP", "1")
    step = int(given) if given.isdigit() and int(given) > 0 else 1
    whole = first in (0, 1) and count > 1 and first + step * (count - 1) == last and (task - first) % step == 0
    if not whole:
        raise ValueError(
            f"--shard slurm needs an array that begins at 0 or 1 and leaves nothing out, and this one has {count} of the tasks "
            f"{first} to {last}: for some parts only, give --shard i/n"
        )
    return Shard((task - first) // step + 1, count)


def unsharded_array(environ: Mapping[str, str] = os.environ) -> str | None:
    """What to say where a task of a SLURM array runs without a shard, None where there is nothing to say."""
    task, count = environ.get(f"{SLURM}ID", ""), environ.get(f"{SLURM}COUNT", "")
    if not task or count in ("", "1"):
        return None
    return f"task {task} of a SLURM array of {count} does the whole run; --shard slurm would do its part"
