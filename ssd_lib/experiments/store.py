"""The rows of an experiment, in one SQLite file that a killed process cannot spoil: written here, and read as frames.

Every batch is one transaction in write-ahead mode with `synchronous=FULL`, so after `kill -9` (or a power cut) the file
holds all of a batch or nothing of it. One process writes, under a file lock that ends with it; others may read meanwhile.

    run       the experiment's table and the fingerprints of its models
    sessions  one row a start: settings, versions, commit, device, times
    items     one row an item of an attack set, as it was when it was asked
    answers   one row for each (pair, attack, item, defender, settings)
    verdicts  one row for each (answer, judge, version)
    sizes     the batch size that fitted into memory, where the run's own did not
    sums      a hash of every row, by which a damaged file is known (damage.py)
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock, Timeout

from ssd_lib.attacks import Record
from ssd_lib.defenders import Answer
from ssd_lib.experiments.config import Choice
from ssd_lib.experiments.damage import SUMS, examine, keep_sums, new_number, reading, sync_folder, told
from ssd_lib.judges import Verdict

FORMAT = 1
"""A higher number whenever the tables change; a file of another format is refused."""

TABLES = """
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY, started TEXT NOT NULL, stopped TEXT, ended TEXT, about TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    attack TEXT, item TEXT, place INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (attack, item));
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, pair TEXT NOT NULL, attack TEXT NOT NULL, item TEXT NOT NULL, defender TEXT NOT NULL,
    settings TEXT NOT NULL, text TEXT, prefill TEXT, token_ids TEXT, cost TEXT, batch_rows INTEGER, match_ratio REAL,
    notes TEXT, error TEXT, session INTEGER NOT NULL, written TEXT NOT NULL, UNIQUE (pair, attack, item, defender, settings));
CREATE TABLE IF NOT EXISTS verdicts (
    answer INTEGER REFERENCES answers (id), judge TEXT, version TEXT, options TEXT NOT NULL, label TEXT, score REAL,
    reason TEXT, raw TEXT, details TEXT, unjudged TEXT, tokens INTEGER, written TEXT NOT NULL,
    PRIMARY KEY (answer, judge, version));
CREATE TABLE IF NOT EXISTS sizes (
    attack TEXT, defender TEXT, settings TEXT, rows INTEGER NOT NULL, PRIMARY KEY (attack, defender, settings));
"""


class Row(NamedTuple):
    """One row of `answers`: what was generated (lists and tables as JSON), or the error that took its place."""

    item: str
    text: str | None = None
    prefill: str | None = None
    token_ids: str | None = None
    cost: str | None = None
    batch_rows: int | None = None
    match_ratio: float | None = None
    notes: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, record: Record, reply: Answer, batch_rows: int) -> Row:
        """The row of an answer that was generated together with others, `batch_rows` in all."""
        ids, cost, notes = json.dumps(reply.token_ids), json.dumps(asdict(reply.cost)), json.dumps(reply.notes)
        return cls(record.id, reply.text, reply.prefill, ids, cost, batch_rows, reply.match_ratio, notes)


class Asked(NamedTuple):
    """A stored answer on its way to a judge."""

    answer: int
    record: Record
    text: str


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """The one process that writes a run. Use it as a context manager; `open` makes the folder and the tables."""

    def __init__(self, connection: sqlite3.Connection, lock: FileLock, file: Path):
        self.connection, self.lock, self.file = connection, lock, file
        self.opened = _identity(file)

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Lock and open the run in `folder`.

        Raises:
            ValueError: Where another process is writing it, or the file is of another format, damaged or no database.
            OSError: Where the folder cannot be written, or its disk is full. Every method that writes raises it, too.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing {folder}: wait for it, or choose another out") from error
        try:
            file = folder / "run.sqlite"
            return cls(_connect(file), lock, file)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.lock.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written inside is written whole or not at all.

        Raises:
            OSError: Where the disk is full, or the file is no longer the one that was opened; ValueError where it is damaged.
        """
        if _identity(self.file) != self.opened:
            raise OSError(
                f"{self.file} was removed or replaced while this run was writing it, and its answers with it: what is "
                "written now would be lost. Put it back, or run the same command again to begin anew"
            )
        with told(self.file), self.connection:
            yield self.connection

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with told(self.file):
            return self.connection.execute(query, values).fetchall()

    # -------------------------------------------------------------------------------------------- the run and its sessions

    def get(self, name: str) -> Any:
        """What `set` stored under `name`, or None."""
        found = self._rows("SELECT value FROM run WHERE name = ?", (name,))
        return json.loads(found[0][0]) if found else None

    def set(self, name: str, value: Any) -> None:
        """Keep a JSON value about the whole run."""
        with self.transaction():
            self.connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, json.dumps(value)))

    @contextmanager
    def session(self, about: Mapping[str, Any]) -> Iterator[int]:
        """One start of the run: writes when and how it began, and at the end when and how it ended."""
        with self.transaction():
            insert = "INSERT INTO sessions (started, about) VALUES (?, ?)"
            session = self.connection.execute(insert, (now(), json.dumps(about))).lastrowid
        try:
            yield session or 0
        except BaseException as error:
            with suppress(OSError, ValueError):  # on a full disk, say: the error is the one to tell
                self._end(session, type(error).__name__)
            raise
        self._end(session, "finished")

    def _end(self, session: int | None, how: str) -> None:
        with self.transaction():
            update = "UPDATE sessions SET stopped = ?, ended = ? WHERE id = ?"
            self.connection.execute(update, (now(), how, session))

    # -------------------------------------------------------------------------------------------- items and answers

    def add_items(self, attack: str, records: Sequence[Record]) -> None:
        """Keep the items of a set. Raises ValueError when one of them is not what it was when it was asked."""
        known = self.items(attack)
        changed = [new.id for new in records if replace(known.get(new.id, new), source=new.source) != new]
        if changed:
            raise ValueError(
                f"{len(changed)} items of the set {attack!r} changed since this run began (the first: {changed[0]!r}): "
                "choose another out, or bring the old data back"
            )
        rows = [(attack, each.id, place, json.dumps(asdict(each))) for place, each in enumerate(records)]
        with self.transaction():
            self.connection.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?)", rows)

    def items(self, attack: str) -> dict[str, Record]:
        """The items of a set that were kept, by their id."""
        stored = self._rows("SELECT item, record FROM items WHERE attack = ?", (attack,))
        return {item: record_from(record) for item, record in stored}

    def answered(self, pair: str, attack: str, defender: Choice, *, errors: bool = True) -> set[str]:
        """Ids of the items that have a row; without `errors`, only of those whose row is an answer."""
        query = "SELECT item FROM answers WHERE pair = ? AND attack = ? AND defender = ? AND settings = ?"
        query += "" if errors else " AND error IS NULL"
        return {item for (item,) in self._rows(query, (pair, attack, defender.name, defender.key))}

    def size(self, attack: str, defender: Choice, default: int) -> int:
        """Rows that fit into memory together, as far as this run has found out."""
        query = "SELECT rows FROM sizes WHERE attack = ? AND defender = ? AND settings = ?"
        found = self._rows(query, (attack, defender.name, defender.key))
        return found[0][0] if found else default

    def add_answers(
        self, pair: str, attack: str, defender: Choice, rows: Iterable[Row], *, session: int, size: int
    ) -> None:
        """Write one batch and the size that it fitted in, all or nothing. A row replaces an error, never an answer."""
        columns = (*Row._fields, "pair", "attack", "defender", "settings", "session", "written")
        tail = (pair, attack, defender.name, defender.key, session, now())
        update = ", ".join(f"{name} = excluded.{name}" for name in (*Row._fields[1:], "session", "written"))
        insert = (
            f"INSERT INTO answers ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT (pair, attack, item, defender, settings) DO UPDATE SET {update} WHERE answers.error IS NOT NULL"
        )
        with self.transaction():
            self.connection.executemany(insert, [(*row, *tail) for row in rows])
            key = (attack, defender.name, defender.key, size)
            self.connection.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?, ?)", key)

    # -------------------------------------------------------------------------------------------- verdicts

    def to_judge(self, judge: Choice, *, again: bool = False, again_unjudged: bool = False) -> list[Asked]:
        """Answers without a verdict of this judge under these options; `again` all, `again_unjudged` the failed ones too."""
        spare = "AND unjudged IS NULL" if again_unjudged else ""
        query = (
            "SELECT answers.id, items.record, answers.text FROM answers JOIN items USING (attack, item) "
            "WHERE answers.error IS NULL AND (? OR NOT EXISTS (SELECT 1 FROM verdicts "
            f"WHERE answer = answers.id AND judge = ? AND options = ? {spare})) ORDER BY answers.id"
        )
        rows = self._rows(query, (again, judge.name, judge.key))
        return [Asked(answer, record_from(record), text) for answer, record, text in rows]

    def add_verdicts(self, judge: Choice, asked: Sequence[Asked], verdicts: Sequence[Verdict]) -> None:
        """Write verdicts on stored answers, all or nothing; a judge's newer verdict of the same version replaces the older one."""
        rows = [
            (
                one.answer, judge.name, v.version, judge.key, v.label, v.score, v.reason, v.raw,
                json.dumps(dict(v.details)), v.unjudged, v.tokens, now(),
            )
            for one, v in zip(asked, verdicts, strict=True)
        ]  # fmt: skip
        with self.transaction():
            self.connection.executemany(f"INSERT OR REPLACE INTO verdicts VALUES ({', '.join('?' * 12)})", rows)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file stands at a path, if any."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(file: Path) -> sqlite3.Connection:
    """Open for writing, in write-ahead mode; a new file is made, one that is there is examined before anything touches it."""
    if not file.exists():
        _create(file)
    with reading(file) as connection:
        examine(connection, file, FORMAT)
    with told(file):
        connection = sqlite3.connect(file)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(TABLES + SUMS)
            keep_sums(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _create(file: Path) -> None:
    """Make a store under another name first, so that a killed process never leaves a part of one."""
    log, new = file.with_name(file.name + "-wal"), file.with_name(file.name + ".new")
    if log.exists():
        raise ValueError(f"{log} is there without {file}: put that file back, or remove this one to begin anew")
    for left in (new, new.with_name(new.name + "-journal"), new.with_name(new.name + "-wal")):
        left.unlink(missing_ok=True)
    with told(file), closing(sqlite3.connect(new)) as connection:
        connection.executescript(TABLES + SUMS)
        keep_sums(connection)
        with connection:
            connection.execute("INSERT INTO run VALUES ('format', ?)", (json.dumps(FORMAT),))
        new_number(connection)
        connection.execute("PRAGMA journal_mode = WAL")
    os.replace(new, file)
    sync_folder(file.parent)


def record_from(text: str) -> Record:
    """The record that `add_items` wrote as JSON."""
    table = json.loads(text)
    return Record(**table | {"facts": tuple(table["facts"])})


# ------------------------------------------------------------------------------------------------ reading


def store_file(path: str | Path) -> Path:
    """The database of a run: `path` itself, or `run.sqlite` in the folder. Raises FileNotFoundError where there is none."""
    path = Path(path)
    file = path / "run.sqlite" if path.is_dir() or not path.suffix else path
    if not file.exists():
        raise FileNotFoundError(f"there is no run at {path}: `ssd run --out {path}` makes one")
    return file


def load_run(path: str | Path) -> pd.DataFrame:
    """All rows of a run, one an answer, also while it is being written.

    Args:
        path: The run's folder or database.

    Returns:
        Columns answer (the row's number), pair, attack, place, item, defender, settings (JSON), system (defender and settings
        as one word), the fields of the item's `Record`, text, prefill, token_ids, match_ratio, notes (JSON), error, session,
        written, and the fields of the answer's `Cost`, with `seconds` the row's equal share of its batch's. An error row has
        neither text nor cost.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: For a file that is no run, or damaged.
    """
    query = "SELECT answers.*, place, record FROM answers JOIN items USING (attack, item) ORDER BY answers.id"
    frame = _read(path, query)
    records = _unpacked(frame.record, [field.name for field in fields(Record)])
    costs = _unpacked(frame.cost.fillna("{}"))
    frame = frame.drop(columns=["record", "cost"]).rename(columns={"id": "answer"})
    frame = pd.concat([frame, records.drop(columns=["id", "prefill"]), costs], axis=1)
    if "seconds" in frame:
        frame["seconds"] = frame.seconds / frame.batch_rows
    return frame.assign(system=_systems(frame))


def load_verdicts(path: str | Path) -> pd.DataFrame:
    """All verdicts of a run, one row each; arguments and errors as for `load_run`.

    Returns:
        Columns answer, judge, version, options, label, score, reason, raw, unjudged and tokens, and one for each of the judges'
        details.
    """
    frame = _read(path, "SELECT * FROM verdicts ORDER BY answer, judge, version")
    details = _unpacked(frame.details)
    return pd.concat([frame.drop(columns="details"), details.drop(columns=frame.columns, errors="ignore")], axis=1)


def load_sessions(path: str | Path) -> pd.DataFrame:
    """Every start of a run, one row each: started, stopped, ended (None after a kill), and what it recorded about itself."""
    frame = _read(path, "SELECT * FROM sessions ORDER BY id")
    return pd.concat([frame.drop(columns="about"), _unpacked(frame.about)], axis=1)


def _read(path: str | Path, query: str) -> pd.DataFrame:
    file = store_file(path)
    with reading(file) as connection:
        examine(connection, file, FORMAT)
        rows = connection.execute(query)
        return pd.DataFrame.from_records(
            rows.fetchall(), columns=[name for name, *_ in rows.description], coerce_float=True
        )


def _unpacked(texts: pd.Series, columns: list[str] | None = None) -> pd.DataFrame:
    """A column of JSON tables as columns of their own."""
    return pd.DataFrame([json.loads(text) for text in texts], texts.index, columns)


def _systems(frame: pd.DataFrame) -> list[str]:
    settings = [tuple(json.loads(text).items()) for text in frame.settings]
    return [Choice(name, given).label for name, given in zip(frame.defender, settings, strict=True)]
