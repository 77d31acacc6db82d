"""The shards of a run as one store, equal row for row to that of one process.

Everything is written in one transaction, so a merge that is killed, or refused, leaves OUT as it was. OUT may hold the result of
an earlier merge, its missing rows filled by `ssd run`, too: it counts as one more source, and nothing of it is lost. Rows get the
numbers that one process would have given them: by set, defender and the item's place.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ssd_lib.attacks import Record
from ssd_lib.experiments.config import CHOICES, Choice
from ssd_lib.experiments.damage import examine, reading
from ssd_lib.experiments.shards import Shard, part_of
from ssd_lib.experiments.store import FORMAT, Row, Store, record_from, store_file
from ssd_lib.settings import of_kind

KEY = ("pair", "attack", "item", "defender", "settings")
SAME = ("text", "prefill", "token_ids", "match_ratio", "notes")
"""What two answers to one question must agree in; times, and forwards under the lookahead "auto", go by the clock."""


class Merged(NamedTuple):
    """What `merge_runs` wrote."""

    out: Path
    answers: int
    missing: tuple[str, ...]
    """One line for each shard that lacks or is not finished; empty unless `partial`."""


def merge_runs(out: str | Path, shards: Iterable[str | Path], *, partial: bool = False) -> Merged:
    """Join the shards of a run, verdicts included. The result can be reported, judged, resumed and merged again.

    Args:
        out: The folder of the whole run; what an earlier merge left there is kept.
        shards: Folders or databases of its shards.
        partial: Merge what there is where shards lack or are not finished.

    Raises:
        FileNotFoundError: Where there is no run in one of the folders.
        ValueError: For a folder that is no shard, shards of other settings, weights or cuts, items or answers of which two
            stores hold different ones, shards that lack or are not finished (without `partial`), or an OUT in use.
    """
    of_kind("out", out, str, Path)
    of_kind("shards", shards, Iterable)
    of_kind("partial", partial, bool)
    out, folders = Path(out), list(shards)
    for path in folders:
        of_kind("a shard's folder", path, str, Path)
    made: list[Path] = []
    with ExitStack() as stack:
        stack.push(lambda kind, *_: kind is not None and _forget(made))
        parts = [stack.enter_context(_open(path)) for path in folders]
        if not parts:
            raise ValueError("name the folders of the shards to merge")
        _check_alike(parts)
        begun = (out / "run.sqlite").exists()
        store = stack.enter_context(Store.open(out))
        if not begun:
            made.append(out)
        table = _table(store, out, parts)
        try:
            with store.transaction() as into:
                into.execute("BEGIN IMMEDIATE")
                missing = _merge(into, parts, table)
                if missing and not partial:
                    raise ValueError("; ".join(missing) + ". Finish them, or merge what there is with --partial")
            (count,) = store.connection.execute("SELECT count(*) FROM answers").fetchone()
        except sqlite3.Error as error:
            raise ValueError(f"the shards cannot be merged into {out}: {error}") from error
    return Merged(out, count, tuple(missing))


def _forget(folders: Iterable[Path]) -> None:
    """Take away new stores that came to nothing."""
    for folder in folders:
        for path in (*folder.glob("run.sqlite*"), folder / "run.lock"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other files are in it
            folder.rmdir()


def _merge(into: sqlite3.Connection, parts: Sequence[_Part], table: Mapping[str, Any]) -> list[str]:
    """Take in everything; returns what is missing, a line each."""
    sessions = _add_sessions(into, parts)
    for part in parts:
        _add_items(into, part)
        _add_answers(into, part, sessions[part])
        _add_sizes(into, part)
    _number(into, table)
    known = json.loads(_value(into, "shards") or '{"merged": []}')["merged"]
    merged = sorted({*known, *(part.shard.number for part in parts)})
    found = {"config": table, "models": _models(into, parts), "shards": {"of": parts[0].shard.of, "merged": merged}}
    into.executemany(
        "INSERT OR REPLACE INTO run VALUES (?, ?)", [(name, json.dumps(each)) for name, each in found.items()]
    )
    return list(_missing(into, table, parts, merged))


# ------------------------------------------------------------------------------------------------ what is merged


@dataclass(frozen=True, eq=False)
class _Part:
    """A shard, open for reading: all that is read of it is of one moment."""

    path: Path
    connection: sqlite3.Connection
    shard: Shard
    table: dict[str, Any]
    models: dict[str, str]

    def rows(self, query: str) -> sqlite3.Cursor:
        return self.connection.execute(query)


@contextmanager
def _open(path: str | Path) -> Iterator[_Part]:
    file = store_file(path)
    with reading(file) as connection:
        examine(connection, file, FORMAT)
        run = {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM run")}
        if "config" not in run:
            raise ValueError(f"{path} has not begun: run it first, or leave it out with --partial")
        if "shard" not in run:
            raise ValueError(f"{path} is no shard: `ssd run --shard i/n` makes them")
        yield _Part(Path(path), connection, Shard.parse(run["shard"]), run["config"], run["models"])


def _check_alike(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.shard.of != first.shard.of:
            raise ValueError(
                f"{first.path} is shard {first.shard}, {part.path} is {part.shard}: they are of different cuts"
            )
        _check_config(first.path, {**_deciding(first.table), **_growing(first.table)},
                      part.path, {**_deciding(part.table), **_growing(part.table)})  # fmt: skip
        _check_models(first.path, first.models, part.path, part.models)


def _table(store: Store, out: Path, parts: Sequence[_Part]) -> dict[str, Any]:
    """The merged run's config: that of the shards, with what OUT has beyond it. OUT must be of the same run."""
    first, before = parts[0], store.get("config")
    table = first.table | {"judges": _union(part.table["judges"] for part in parts)}
    if store.get("shard") is not None:
        raise ValueError(f"{out} is shard {store.get('shard')} itself: choose another folder for the whole")
    if before is None:
        return table
    cut = (store.get("shards") or {}).get("of", first.shard.of)
    if cut != first.shard.of:
        raise ValueError(
            f"{out} was merged from shards of {cut}, {first.path} is {first.shard}: they are of different cuts"
        )
    _check_config(out, _deciding(before), first.path, _deciding(table))
    _check_models(out, store.get("models") or {}, first.path, first.models)
    return table | {name: _union([table[name], before[name]]) for name in CHOICES}


def _deciding(table: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a row, by name; which of a machine's GPUs it was does not."""
    pair = {f"pair.{key}": value for key, value in table["pair"].items()}
    pair["pair.device"] = (pair.get("pair.device") or "default").split(":")[0]
    return {name: value for name, value in table.items() if name not in (*CHOICES, "limit", "pair")} | pair


def _growing(table: Mapping[str, Any]) -> dict[str, Any]:
    """What a later start may change, and must be the same in all shards: the cut depends on it."""
    return {name: table[name] for name in ("attacks", "defenders", "limit")}


def _check_config(one: Path, before: Mapping[str, Any], other: Path, now: Mapping[str, Any]) -> None:
    differ = [
        f"{name} is {before.get(name)!r} and {now[name]!r}" for name in sorted(now) if before.get(name) != now[name]
    ]
    if differ:
        raise ValueError(f"{one} and {other} are shards of different runs: {'; '.join(differ)}")


def _check_models(one: Path, before: Mapping[str, str], other: Path, now: Mapping[str, str]) -> None:
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise ValueError(f"{one} and {other} were made by other weights of the {' and the '.join(changed)}")


def _models(into: sqlite3.Connection, parts: Sequence[_Part]) -> dict[str, str]:
    models = json.loads(_value(into, "models") or "{}")
    for part in parts:
        models |= part.models
    return models


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(each for names in lists for each in names))


def _value(into: sqlite3.Connection, name: str) -> str | None:
    found = into.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


# ------------------------------------------------------------------------------------------------ taking in


def _add_sessions(into: sqlite3.Connection, parts: Sequence[_Part]) -> dict[_Part, dict[int, int]]:
    """Every start of every shard, once and in the order of time, marked by its shard; returns the new numbers."""
    query = "SELECT id, started, stopped, ended, about FROM sessions"
    starts = [(row[1], part.shard, row, part) for part in parts for row in part.rows(query)]
    numbers: dict[_Part, dict[int, int]] = {part: {} for part in parts}
    for started, shard, (old, _, stopped, ended, about), part in sorted(starts, key=lambda each: each[:2]):
        mark = {"shard": str(shard), "shard_session": old}
        find = (
            "SELECT id FROM sessions WHERE started = ? AND json_extract(about, '$.shard') = ? "
            "AND json_extract(about, '$.shard_session') = ?"
        )
        known = into.execute(find, (started, *mark.values())).fetchone()
        values = (known and known[0], started, stopped, ended, json.dumps(json.loads(about) | mark))
        new = into.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", values).lastrowid
        numbers[part][old] = new or 0
    return numbers


def _add_items(into: sqlite3.Connection, part: _Part) -> None:
    known = {(attack, item): record for attack, item, record in into.execute("SELECT attack, item, record FROM items")}
    for attack, item, place, record in part.rows("SELECT attack, item, place, record FROM items"):
        if (attack, item) not in known:
            into.execute("INSERT INTO items VALUES (?, ?, ?, ?)", (attack, item, place, record))
            continue
        differ = _differing(record_from(known[attack, item]), record_from(record))
        if differ:
            raise ValueError(f"{part.path}: the item {item!r} of the set {attack!r} is another one there, in {differ}")


def _differing(one: Record, other: Record) -> str:
    names = [field.name for field in fields(Record) if field.name != "source"]
    return ", ".join(name for name in names if asdict(one)[name] != asdict(other)[name])


def _add_answers(into: sqlite3.Connection, part: _Part, sessions: Mapping[int, int]) -> None:
    """Answers with their verdicts. An answer takes an error's place; of two verdicts of one judge, the newer one stays."""
    columns = ("id", *KEY, *Row._fields[1:], "session", "written")
    into.execute("DROP TABLE IF EXISTS temp.coming")
    into.execute(f"CREATE TEMP TABLE coming AS SELECT {', '.join(columns)} FROM main.answers WHERE 0")
    into.execute(f"CREATE UNIQUE INDEX temp.coming_key ON coming ({', '.join(KEY)})")
    rows = part.rows(f"SELECT {', '.join(columns)} FROM answers ORDER BY id")
    place = columns.index("session")
    moved = ((*row[:place], sessions[row[place]], *row[place + 1 :]) for row in rows)
    into.executemany(f"INSERT INTO temp.coming VALUES ({', '.join('?' * len(columns))})", moved)
    _check_overlap(into, part)
    taken = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in ("id", *KEY))
    into.execute(
        f"INSERT INTO main.answers ({', '.join(columns[1:])}) SELECT {', '.join(columns[1:])} FROM temp.coming WHERE true ORDER BY id "
        f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {taken} WHERE answers.error IS NOT NULL"
    )
    _add_verdicts(into, part)


def _check_overlap(into: sqlite3.Connection, part: _Part) -> None:
    unequal = " OR ".join(f"a.{name} IS NOT c.{name}" for name in SAME)
    values = ", ".join(f"a.{name} IS NOT c.{name}" for name in SAME)
    both = into.execute(
        f"SELECT c.attack, c.item, c.defender, c.settings, {values} FROM temp.coming c JOIN main.answers a USING ({', '.join(KEY)}) "
        f"WHERE a.error IS NULL AND c.error IS NULL AND ({unequal}) ORDER BY c.id"
    ).fetchall()
    if both:
        attack, item, name, settings, *differ = both[0]
        defender = Choice(name, tuple(json.loads(settings).items())).label
        what = ", ".join(column for column, unlike in zip(SAME, differ, strict=True) if unlike)
        raise ValueError(
            f"{part.path} has other answers to {len(both)} questions that were already merged; the first: set {attack!r}, "
            f"defender {defender!r}, item {item!r}, which differs in {what}"
        )


def _add_verdicts(into: sqlite3.Connection, part: _Part) -> None:
    find = f"SELECT a.id FROM temp.coming c JOIN main.answers a USING ({', '.join(KEY)}) WHERE c.id = ?"
    columns = [name for _, name, *_ in into.execute("PRAGMA main.table_info(verdicts)")]
    taken = ", ".join(f"{name} = excluded.{name}" for name in columns[3:])
    rows = part.rows(f"SELECT {', '.join(columns)} FROM verdicts")
    into.execute("CREATE INDEX temp.coming_id ON coming (id)")
    into.executemany(
        f"INSERT INTO main.verdicts ({', '.join(columns)}) VALUES (({find}), {', '.join('?' * (len(columns) - 1))}) "
        f"ON CONFLICT (answer, judge, version) DO UPDATE SET {taken} WHERE excluded.written > verdicts.written",
        rows,
    )


def _add_sizes(into: sqlite3.Connection, part: _Part) -> None:
    insert = "INSERT INTO sizes VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET rows = min(rows, excluded.rows)"
    into.executemany(insert, part.rows("SELECT attack, defender, settings, rows FROM sizes"))


def _number(into: sqlite3.Connection, table: Mapping[str, Any]) -> None:
    """Number the answers as one process would have written them. Twice, since two rows never have one number."""
    into.execute("CREATE TEMP TABLE IF NOT EXISTS places (kind TEXT, name TEXT, settings TEXT, place INTEGER)")
    into.execute("DELETE FROM temp.places")
    into.executemany(
        "INSERT INTO temp.places VALUES ('attack', ?, '', ?)", [(n, i) for i, n in enumerate(table["attacks"])]
    )
    defenders = [Choice.parse(label) for label in table["defenders"]]
    into.executemany(
        "INSERT INTO temp.places VALUES ('defender', ?, ?, ?)", [(d.name, d.key, i) for i, d in enumerate(defenders)]
    )
    into.execute("DROP TABLE IF EXISTS temp.numbered")
    into.execute(
        "CREATE TEMP TABLE numbered AS SELECT a.id AS old, row_number() OVER ("
        "ORDER BY s.place IS NULL, s.place, d.place IS NULL, d.place, items.place, a.id) AS new "
        "FROM main.answers a JOIN main.items USING (attack, item) "
        "LEFT JOIN temp.places s ON s.kind = 'attack' AND s.name = a.attack "
        "LEFT JOIN temp.places d ON d.kind = 'defender' AND d.name = a.defender AND d.settings = a.settings"
    )
    into.execute("CREATE UNIQUE INDEX temp.numbered_old ON numbered (old)")
    for name, column in (("answers", "id"), ("verdicts", "answer")):
        into.execute(f"UPDATE main.{name} SET {column} = -(SELECT new FROM temp.numbered WHERE old = {column})")
        into.execute(f"UPDATE main.{name} SET {column} = -{column}")


# ------------------------------------------------------------------------------------------------ what is missing


def _missing(
    into: sqlite3.Connection, table: Mapping[str, Any], parts: Sequence[_Part], merged: Sequence[int]
) -> Iterator[str]:
    """A line for each shard that was never merged and lacks rows, or was merged and is not finished."""
    lacking: dict[int, list[str]] = {}
    of, paths = parts[0].shard.of, {part.shard.number: part.path for part in parts}
    for (number, attack), (defender_number, label) in _jobs(table):
        defender = Choice.parse(label)
        rows = into.execute(
            "SELECT item, place FROM items WHERE attack = ? AND item NOT IN "
            "(SELECT item FROM answers WHERE attack = ? AND defender = ? AND settings = ?) ORDER BY place",
            (attack, attack, defender.name, defender.key),
        )
        for item, place in rows:
            part = part_of(number, defender_number, place // table["batch"], of)
            lacking.setdefault(part, []).append(f"set {attack!r}, defender {label!r}, item {item!r}")
    for part, rows in sorted(lacking.items()):
        what = f"{len(rows)} rows, the first: {rows[0]}"
        if part in merged:
            where = f" ({paths[part]})" if part in paths else ""
            yield f"shard {part}/{of}{where} is not finished: it lacks {what}"
        else:
            yield f"shard {part}/{of} is missing: {what}"
    empty = [
        name
        for name in table["attacks"]
        if not into.execute("SELECT 1 FROM items WHERE attack = ?", (name,)).fetchone()
    ]
    if empty:
        yield f"no shard has begun the set{'s' * (len(empty) > 1)} {', '.join(map(repr, empty))}"


def _jobs(table: Mapping[str, Any]) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    return ((a, d) for a in enumerate(table["attacks"]) for d in enumerate(table["defenders"]))
