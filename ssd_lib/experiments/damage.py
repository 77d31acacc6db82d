"""What can happen to a store's file, noticed and said: a damaged file is never read as if it were whole.

SQLite keeps no checksums, so every row gets one here: triggers of the writing connection (whatever writes through it) put a
hash of each row into the table `sums`. `examine` compares them, after SQLite's own check of pages and indexes. A row without a
sum, from an older store or another program, is taken as it is.

A write-ahead log says nothing of the file that it belongs to, and SQLite plays back any. A random number in the file's header
(`user_version`) is therefore compared with the number that is seen through the log.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

KEYS = {
    "run": ("name",),
    "sessions": ("id",),
    "items": ("attack", "item"),
    "answers": ("id",),
    "verdicts": ("answer", "judge", "version"),
}
"""The tables whose rows have sums, with what tells a row of each from the others."""
SUMS = (
    "CREATE TABLE IF NOT EXISTS sums (part TEXT, key TEXT, sum TEXT NOT NULL, PRIMARY KEY (part, key)) WITHOUT ROWID;"
)
UNLOCKED = "mode=ro&immutable=1"
"""A connection that reads the file alone: no log, no locks, nothing made."""
NO_PLACE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
"""A reader has no place for the log's index: a folder that cannot be written, or a full disk."""
ANEW = "move it away, or choose another out: the same command then generates its answers anew"
RESCUE = f"`sqlite3 {{name}} .recover` may bring rows back; else {ANEW}"


def explained(error: sqlite3.Error, file: Path) -> Exception:
    """An error of SQLite as one that says which file it is about, and what to do; itself where it is a fault of this library."""
    if (
        not isinstance(error, sqlite3.OperationalError | sqlite3.InternalError)
        and type(error) is not sqlite3.DatabaseError
    ):
        return error
    kept = "What was stored before is kept: the same command goes on from there"
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return OSError(f"the disk is full: {file} cannot grow. Make room in {file.parent}. {kept}")
        case sqlite3.SQLITE_IOERR:
            return OSError(f"{file} cannot be read or written ({error}): disk full, over quota or failing? {kept}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return OSError(f"{file} cannot be written ({error}): is the folder {file.parent} yours to write? {kept}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return OSError(f"another program holds {file} ({error}): close it. {kept}")
        case sqlite3.SQLITE_NOTADB:
            return ValueError(f"{file} is not a run of this library ({error}): {ANEW}")
    return damaged(file, str(error))


def damaged(file: Path, what: str) -> ValueError:
    """The error for a file that was a run once."""
    return ValueError(f"{file} is damaged ({what}): {RESCUE.format(name=file)}")


@contextmanager
def told(file: Path) -> Iterator[None]:
    """Errors of SQLite inside leave as `explained`."""
    try:
        yield
    except sqlite3.Error as error:
        raise explained(error, file) from error


# ------------------------------------------------------------------------------------------------ sums


def _sum(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in connection.execute(f"PRAGMA main.table_info({table})")]


def _key(table: str, row: str = "") -> str:
    return f"json_array({', '.join(row + name for name in KEYS[table])})"


def keep_sums(connection: sqlite3.Connection) -> None:
    """From here on, whatever writes rows through this connection writes their sums, in the same transaction."""
    connection.create_function("ssd_sum", -1, _sum, deterministic=True)
    for table in KEYS:
        row = ", ".join(f"new.{name}" for name in _columns(connection, table))
        put = f"INSERT OR REPLACE INTO sums VALUES ('{table}', {_key(table, 'new.')}, ssd_sum({row}));"
        forget = f"DELETE FROM sums WHERE part = '{table}' AND key = {_key(table, 'old.')};"
        for event, steps in {"INSERT": put, "UPDATE": forget + put, "DELETE": forget}.items():
            connection.execute(
                f"CREATE TEMP TRIGGER sum_{table}_{event} AFTER {event} ON main.{table} BEGIN {steps} END"
            )


def _changed(connection: sqlite3.Connection, table: str) -> str | None:
    """A row that is not what was written."""
    row = ", ".join(_columns(connection, table))
    query = (
        f"SELECT sums.key FROM {table} JOIN sums ON sums.part = '{table}' AND sums.key = {_key(table)} "
        f"WHERE sums.sum IS NOT ssd_sum({row}) LIMIT 1"
    )
    found = connection.execute(query).fetchone()
    return f"a row of {table}, {found[0]}, is not what was written" if found else None


# ------------------------------------------------------------------------------------------------ examining


def new_number(connection: sqlite3.Connection) -> None:
    """Give a new file its number."""
    connection.execute(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}")


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing and sees one moment of the file, also while another process writes it.

    Raises:
        OSError, ValueError: As `explained`.
    """
    with told(file), closing(_open(file)) as connection:
        connection.execute("BEGIN")
        yield connection


def _open(file: Path) -> sqlite3.Connection:
    connection = _addressed(file, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
        return connection
    except sqlite3.OperationalError as error:
        connection.close()
        log = file.with_name(file.name + "-wal")
        alone = not log.exists() or not log.stat().st_size
        if error.sqlite_errorcode & 0xFF not in NO_PLACE or not alone:
            raise
    return _addressed(file, UNLOCKED)  # nothing to play back, nothing to make


def _addressed(file: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?{how}", uri=True)


def _number(file: Path) -> int:
    """`user_version` in the file's header. SQLite reads it: whoever else opens a file and closes it again takes away the locks of
    every connection that the process has to it (POSIX). The rest of the file may still be in the log, on a full disk for good:
    with `writable_schema` SQLite does not miss it."""
    with closing(_addressed(file, UNLOCKED)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        return connection.execute("PRAGMA user_version").fetchone()[0]


def examine(connection: sqlite3.Connection, file: Path, expected: int) -> None:
    """Raise ValueError where the file that `reading` opened is no run, is of another format than `expected`, or is damaged."""
    if not file.stat().st_size:
        raise damaged(file, "it is empty")
    if connection.execute("PRAGMA user_version").fetchone() != (_number(file),):
        raise damaged(file, f"{file.name}-wal beside it belongs to another file; without it this one may be whole")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "run" not in tables:
        raise ValueError(f"{file} is not a run of this library (it has no table run): {ANEW}")
    if lost := sorted(KEYS.keys() - tables):
        raise damaged(file, f"it has no table {', '.join(lost)}")
    found = connection.execute("SELECT value FROM run WHERE name = 'format'").fetchone()
    if found is None:
        raise damaged(file, "its format is not said")
    if found[0] != str(expected):
        raise ValueError(f"{file} has format {found[0]}, this library writes {expected}: choose another out")
    _examine_pages(connection, file)
    if "sums" in tables:
        connection.create_function("ssd_sum", -1, _sum, deterministic=True)
        for table in KEYS:
            if what := _changed(connection, table):
                raise damaged(file, what)


def _examine_pages(connection: sqlite3.Connection, file: Path) -> None:
    """SQLite's own check, of the indexes, too: a query that goes by a damaged one would leave rows out."""
    ((said, *_),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if said != "ok":
        raise damaged(file, said.splitlines()[-1])


def sync_folder(folder: Path) -> None:
    """Have a new name in a folder outlive a power cut, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
