"""Replies of a remote judge on disk, so that no request is paid for twice.

One SQLite file; a reply stands under the SHA-256 of everything that was sent (address, model, messages, parameters, the
rubric's version), so nothing of a question or a key is in it, and a changed word asks anew. Only replies that gave a verdict
are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_lib.judges.base import Reply
from ssd_lib.paths import cache_dir

FILE = "judge-replies.sqlite3"
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""


def default_file() -> Path:
    """Where replies are kept unless told otherwise: the user's cache folder."""
    return cache_dir() / FILE


def request_key(request: dict[str, Any]) -> str:
    """The name of a request: equal for equal requests, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """A file of replies; safe for threads and processes.

    Raises ValueError where the file cannot be used. After that it never raises: a cache that breaks while it is used costs
    a request, not a verdict.
    """

    def __init__(self, file: Path):
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._connection() as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT, tokens INTEGER)"
                )
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"the judge's cache {file} cannot be used ({error}): delete it, or pass cache=False"
            ) from error

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if it was kept."""
        with contextlib.suppress(sqlite3.Error), self._connection() as connection:
            row = connection.execute("SELECT text, tokens FROM replies WHERE key = ?", (key,)).fetchone()
            return Reply(*row) if row else None
        return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        with contextlib.suppress(sqlite3.Error), self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, reply.text, reply.tokens))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One short transaction: a connection belongs to one thread."""
        connection = sqlite3.connect(self.file, timeout=PATIENCE)
        try:
            with connection:
                yield connection
        finally:
            connection.close()
