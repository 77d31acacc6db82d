"""Damaged stores: bytes flipped, files cut off, emptied, exchanged. Every command names the file, or the rows are the right ones.

Wrong rows that are taken for right ones are the worst that can happen to a table of results, so every load is compared with the
rows that were written, byte for byte.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm
from typer.testing import CliRunner

from tests.reliability.outcome import Outcome

TITLE = "Damaged stores, read, continued, judged and reported"
FULL, SHORT = 1000, 20
COMMANDS = 10
"""One damage in so many also meets every command; all meet `load_run`."""
TABLE = {
    "attacks": ["prefill-10", "scary"],
    "defenders": ["none", "ssd:lookahead=3"],
    "limit": 4,
    "batch": 2,
    "max_new_tokens": 12,
    "judges": ["exact"],
}


def run(count: int, seed: int, progress: bool) -> Outcome:
    """Damage `count` copies of a run, each in one way."""
    rng, failures, seen = random.Random(seed), [], Counter()
    with tempfile.TemporaryDirectory(prefix="ssd-damage-") as place:
        whole, other = _written(Path(place) / "whole", 0), _written(Path(place) / "other", 1)
        expected = _loaded(whole)
        for number in tqdm(range(count), disable=not progress):
            name = [*DAMAGES][number % len(DAMAGES)]
            out = Path(place) / "damaged"
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(whole, out)
            DAMAGES[name](out, other, rng)
            said, faults = _tried(out, expected, with_commands=number % COMMANDS < len(_COMMANDS) and number < 200)
            seen[said] += 1
            failures += [f"{name}, case {number}, seed {seed}: {fault}" for fault in faults]
    facts: dict[str, float | int | str] = {"kinds of damage": len(DAMAGES)}
    facts |= {f"a damage that {said}": number for said, number in sorted(seen.items())}
    return Outcome(
        count, failures, facts | {"wrong rows taken for right ones": sum("wrong" in each for each in failures)}
    )


def _written(out: Path, seed: int) -> Path:
    """A real run whose write-ahead log still holds its later rows, as after a SIGKILL."""
    from ssd_lib.experiments import config_from, run_experiment

    made = out.with_name(out.name + "-made")
    table = TABLE | {"seed": seed, "out": made}
    run_experiment(config_from(table | {"attacks": TABLE["attacks"][:1]}), progress=False)
    holding = sqlite3.connect(made / "run.sqlite")  # while it is open, nobody takes the log away
    holding.execute("SELECT count(*) FROM run").fetchall()
    run_experiment(config_from(table), progress=False)
    shutil.copytree(made, out)
    holding.close()
    assert _wal(out).stat().st_size > PAGE, "the log holds rows"
    return out


def _loaded(out: Path) -> tuple[pd.DataFrame, ...]:
    from ssd_lib.experiments import load_run, load_sessions, load_verdicts

    ends = ["stopped", "ended"]  # a store that lost the end of its log is one of an earlier moment
    return load_run(out), load_verdicts(out), load_sessions(out).drop(columns=ends)


# ------------------------------------------------------------------------------------------------ damages


def _flip(file: Path, rng: random.Random, times: int = 1) -> None:
    held = bytearray(file.read_bytes())
    for _ in range(times):
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
    file.write_bytes(held)


def _in_text(out: Path, rng: random.Random) -> None:
    """Change one letter of an answer, where it stands in the file: SQLite cannot see that."""
    file = out / "run.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        texts = [text.encode() for (text,) in connection.execute("SELECT text FROM answers WHERE length(text) > 12")]
    connection.close()
    held, text = bytearray(file.read_bytes()), rng.choice(texts)
    held[held.index(text) + rng.randrange(len(text))] ^= 1
    file.write_bytes(held)


def _sql(out: Path, *steps: str) -> None:
    connection = sqlite3.connect(out / "run.sqlite")
    for step in steps:
        connection.execute(step)
    connection.commit()
    connection.close()


def _cut(file: Path, rng: random.Random) -> None:
    with file.open("r+b") as held:
        held.truncate(rng.randrange(1, file.stat().st_size))


def _wal(out: Path) -> Path:
    return out / "run.sqlite-wal"


Damage = Callable[[Path, Path, random.Random], object]
DAMAGES: dict[str, Damage] = {
    "one bit flipped": lambda out, other, rng: _flip(out / "run.sqlite", rng),
    "a letter of an answer changed": lambda out, other, rng: _in_text(out, rng),
    "twenty bits flipped": lambda out, other, rng: _flip(out / "run.sqlite", rng, 20),
    "a bit of the log flipped": lambda out, other, rng: _flip(_wal(out), rng),
    "cut off": lambda out, other, rng: _cut(out / "run.sqlite", rng),
    "cut off at a page": lambda out, other, rng: _pages(out / "run.sqlite", rng),
    "the log cut off": lambda out, other, rng: _cut(_wal(out), rng),
    "emptied": lambda out, other, rng: (out / "run.sqlite").write_bytes(b""),
    "emptied, without its log": lambda out, other, rng: (
        (out / "run.sqlite").write_bytes(b""),
        _wal(out).unlink(),
    ),
    "replaced by text": lambda out, other, rng: (out / "run.sqlite").write_text("Dear diary, " * rng.randint(1, 999)),
    "the log of another run": lambda out, other, rng: shutil.copyfile(_wal(other), _wal(out)),
    "the whole log of another run": lambda out, other, rng: _full_log(out, other),
    "the log is missing": lambda out, other, rng: _wal(out).unlink(),
    "only the log is left": lambda out, other, rng: (out / "run.sqlite").unlink(),
    "another format": lambda out, other, rng: _sql(out, "UPDATE run SET value = '7' WHERE name = 'format'"),
    "no format": lambda out, other, rng: _sql(out, "DELETE FROM run WHERE name = 'format'"),
    "a table missing": lambda out, other, rng: _sql(
        out, f"DROP TABLE {rng.choice(['run', 'sessions', 'items', 'answers', 'verdicts'])}"
    ),
    "a page of zeros": lambda out, other, rng: _zero(out / "run.sqlite", rng),
    "two pages exchanged": lambda out, other, rng: _exchange(out / "run.sqlite", rng),
    "a folder in its place": lambda out, other, rng: ((out / "run.sqlite").unlink(), (out / "run.sqlite").mkdir()),
}
PAGE = 4096


def _pages(file: Path, rng: random.Random) -> None:
    with file.open("r+b") as held:
        held.truncate(PAGE * rng.randrange(1, file.stat().st_size // PAGE))


def _full_log(out: Path, other: Path) -> None:
    """A log that holds every page of the other run: played back, it would be the other run."""
    spare = out.with_name("spare")
    shutil.rmtree(spare, ignore_errors=True)
    shutil.copytree(other, spare)
    holding = sqlite3.connect(spare / "run.sqlite")
    holding.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for table in ("answers", "items", "run", "sessions", "verdicts"):
        holding.execute(f"UPDATE {table} SET rowid = rowid + 1000000")
    holding.commit()
    shutil.copyfile(_wal(spare), _wal(out))
    holding.close()


def _zero(file: Path, rng: random.Random) -> None:
    held = bytearray(file.read_bytes())
    at = PAGE * rng.randrange(len(held) // PAGE)
    held[at : at + PAGE] = bytes(PAGE)
    file.write_bytes(held)


def _exchange(file: Path, rng: random.Random) -> None:
    held = bytearray(file.read_bytes())
    one, other = (PAGE * number for number in rng.sample(range(len(held) // PAGE), 2))
    held[one : one + PAGE], held[other : other + PAGE] = held[other : other + PAGE], held[one : one + PAGE]
    file.write_bytes(held)


# ------------------------------------------------------------------------------------------------ trying


def _tried(out: Path, expected: tuple[pd.DataFrame, ...], with_commands: bool) -> tuple[str, list[str]]:
    """What reading said, and every fault in it."""
    kept = out.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(out, kept)
    faults = []
    try:
        found = _loaded(out)
        said = _compared(found, expected)
        if said == "wrong":
            faults.append("load_run took wrong rows for right ones")
    except (ValueError, OSError) as error:
        said = "is named"
        faults += _message(str(error), out)
    except Exception as error:
        said = "broke"
        faults.append(f"load_run broke: {error!r}")
    if with_commands:
        for argv in _COMMANDS:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(kept, out)
            faults += _commanded(argv, out, said)
    said = {
        "right": "left the rows as they were",
        "fewer": "left a part of the rows, all right",
        "wrong": "was not noticed",
    }.get(said, said)
    return said, faults


def _compared(found: tuple[pd.DataFrame, ...], expected: tuple[pd.DataFrame, ...]) -> str:
    """right, fewer (each of them right), or wrong."""
    lines = [[{*map(repr, frame.to_numpy().tolist())} for frame in frames] for frames in (found, expected)]
    if all(one == other for one, other in zip(*lines, strict=True)):
        return "right"
    return "fewer" if all(one <= other for one, other in zip(*lines, strict=True)) else "wrong"


def _message(said: str, out: Path) -> list[str]:
    """One line that names the file, and what to do."""
    faults = [] if str(out) in said else [f"the file is not named: {said}"]
    if len(said.splitlines()) != 1:
        faults.append(f"not one line: {said}")
    return faults


_COMMANDS = (
    ["run", "--attacks", "prefill-10", "scary", "--defenders", "none", "ssd:lookahead=3", "--limit", "4", "--batch", "2",
     "--max-new-tokens", "12", "--judges", "exact"],
    ["report"],
    ["judge", "--judges", "refusal"],
)  # fmt: skip


def _commanded(argv: list[str], out: Path, loaded: str) -> list[str]:
    """What `ssd` says where reading was refused: one line that names the file, exit code 1; else it ends well."""
    from ssd_lib.cli import app

    where = ["--out", str(out)] if argv[0] == "run" else [str(out)]
    ended = CliRunner().invoke(app, [argv[0], *where, *argv[1:]])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        return [f"ssd {argv[0]} broke: {ended.exception!r}"]
    lines = [line for line in ended.output.splitlines() if line.startswith("ssd: ")]
    if ended.exit_code == 0:
        return [] if loaded in ("right", "fewer") else [f"ssd {argv[0]} took a store that load_run refused"]
    return _message(lines[-1] if lines else ended.output, out)
