"""The rows of an experiment, in one SQLite file that a killed process cannot spoil: written here, and read as frames.

Every batch is one transaction in write-ahead mode with `synchronous=FULL`, so after `kill -9` (or a power cut) the file
holds all of a batch or nothing of it. One process writes, under a file lock that ends with it; others may read meanwhile.

    run       the experiment's table and the fingerprints of its models
    sessions  one row a start: settings, versions, commit, device, times
    items     one row an item of an attack set, as it was when it was asked
    answers   one row for each (pair, attack, item, defender, settings)
    verdicts  one row for each (answer, judge, version)
    sizes     the batch size that fitted into memory, where the run's own did not
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock, Timeout

from ssd_lib.attacks import Record
from ssd_lib.defenders import Answer
from ssd_lib.experiments.config import Choice
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

    def __init__(self, connection: sqlite3.Connection, lock: FileLock):
        self.connection, self.lock = connection, lock

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Lock and open the run in `folder`.

        Raises:
            ValueError: Where another process is writing it, or the file is of another format or no database.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is writing {folder}: wait for it, or choose another out") from error
        try:
            return cls(_connect(folder / "run.sqlite"), lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.lock.release()

    # -------------------------------------------------------------------------------------------- the run and its sessions

    def get(self, name: str) -> Any:
        """What `set` stored under `name`, or None."""
        found = self.connection.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def set(self, name: str, value: Any) -> None:
        """Keep a JSON value about the whole run."""
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, json.dumps(value)))

    @contextmanager
    def session(self, about: Mapping[str, Any]) -> Iterator[int]:
        """One start of the run: writes when and how it began, and at the end when and how it ended."""
        with self.connection:
            insert = "INSERT INTO sessions (started, about) VALUES (?, ?)"
            session = self.connection.execute(insert, (now(), json.dumps(about))).lastrowid
        ended = "finished"
        try:
            yield session or 0
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            with self.connection:
                update = "UPDATE sessions SET stopped = ?, ended = ? WHERE id = ?"
                self.connection.execute(update, (now(), ended, session))

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
        with self.connection:
            self.connection.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?)", rows)

    def items(self, attack: str) -> dict[str, Record]:
        """The items of a set that were kept, by their id."""
        stored = self.connection.execute("SELECT item, record FROM items WHERE attack = ?", (attack,))
        return {item: record_from(record) for item, record in stored}

    def answered(self, pair: str, attack: str, defender: Choice, *, errors: bool = True) -> set[str]:
        """Ids of the items that have a row; without `errors`, only of those whose row is an answer."""
        query = "SELECT item FROM answers WHERE pair = ? AND attack = ? AND defender = ? AND settings = ?"
        query += "" if errors else " AND error IS NULL"
        return {item for (item,) in self.connection.execute(query, (pair, attack, defender.name, defender.key))}

    def size(self, attack: str, defender: Choice, default: int) -> int:
        """Rows that fit into memory together, as far as this run has found out."""
        query = "SELECT rows FROM sizes WHERE attack = ? AND defender = ? AND settings = ?"
        found = self.connection.execute(query, (attack, defender.name, defender.key)).fetchone()
        return found[0] if found else default

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
        with self.connection:
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
        rows = self.connection.execute(query, (again, judge.name, judge.key))
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
        with self.connection:
            self.connection.executemany(f"INSERT OR REPLACE INTO verdicts VALUES ({', '.join('?' * 12)})", rows)


def _connect(file: Path) -> sqlite3.Connection:
    """Open for writing, in write-ahead mode, with the tables made."""
    connection = sqlite3.connect(file)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(TABLES)
        with connection:
            connection.execute("INSERT OR IGNORE INTO run VALUES ('format', ?)", (json.dumps(FORMAT),))
        (found,) = connection.execute("SELECT value FROM run WHERE name = 'format'").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ValueError(
            f"{file} is not a run of this library ({error}): move it away, or choose another out"
        ) from error
    if json.loads(found) != FORMAT:
        connection.close()
        raise ValueError(f"{file} has format {found}, this library writes {FORMAT}: choose another out")
    return connection


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
        ValueError: For a file that is no run.
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
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return pd.read_sql_query(query, connection)
    except pd.errors.DatabaseError as error:
        raise ValueError(f"{file} is not a run of this library: {error}") from error
    finally:
        connection.close()


def _unpacked(texts: pd.Series, columns: list[str] | None = None) -> pd.DataFrame:
    """A column of JSON tables as columns of their own."""
    return pd.DataFrame([json.loads(text) for text in texts], texts.index, columns)


def _systems(frame: pd.DataFrame) -> list[str]:
    settings = [tuple(json.loads(text).items()) for text in frame.settings]
    return [Choice(name, given).label for name, given in zip(frame.defender, settings, strict=True)]
