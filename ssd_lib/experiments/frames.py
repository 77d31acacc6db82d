"""A stored run as data frames, also while it is being written."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from pathlib import Path

import pandas as pd

from ssd_lib.attacks import Record
from ssd_lib.experiments.choice import Choice


def store_file(path: str | Path) -> Path:
    """The database of a run: `path` itself, or `run.sqlite` in the folder. Raises FileNotFoundError where there is none."""
    path = Path(path)
    file = path / "run.sqlite" if path.is_dir() or not path.suffix else path
    if not file.exists():
        raise FileNotFoundError(f"there is no run at {path}: `ssd run --out {path}` makes one")
    return file


def load_run(path: str | Path) -> pd.DataFrame:
    """All rows of a run, one an answer, also while it is being written.

    Columns: answer (the row's number), pair, attack, place, item, defender, settings (JSON), system (defender and settings
    as one word), the fields of the item's `Record`, text, prefill, token_ids, match_ratio, notes (JSON), error, session, written, and
    those of the answer's `Cost`, with `seconds` the row's equal share of its batch's. An error row has no text and no cost.
    """
    query = "SELECT answers.*, place, record FROM answers JOIN items USING (attack, item) ORDER BY answers.id"
    frame = _read(path, query)
    records = pd.DataFrame(
        [json.loads(text) for text in frame.record], columns=[field.name for field in fields(Record)]
    )
    costs = pd.DataFrame([json.loads(text) for text in frame.cost.fillna("{}")], index=frame.index)
    frame = frame.drop(columns=["record", "cost"]).rename(columns={"id": "answer"})
    frame = pd.concat([frame, records.drop(columns=["id", "prefill"]), costs], axis=1)
    if "seconds" in frame:
        frame["seconds"] = frame.seconds / frame.batch_rows
    return frame.assign(system=_systems(frame))


def load_verdicts(path: str | Path) -> pd.DataFrame:
    """All verdicts of a run, one row each: answer, judge, version, options, label, score, reason, raw, unjudged, tokens,
    and one column for each of the judges' details."""
    frame = _read(path, "SELECT * FROM verdicts ORDER BY answer, judge, version")
    details = pd.DataFrame([json.loads(text) for text in frame.details], index=frame.index)
    return pd.concat([frame.drop(columns="details"), details.drop(columns=frame.columns, errors="ignore")], axis=1)


def load_sessions(path: str | Path) -> pd.DataFrame:
    """Every start of a run: started, stopped, ended (None after a kill), and what it recorded about itself."""
    frame = _read(path, "SELECT * FROM sessions ORDER BY id")
    about = pd.DataFrame([json.loads(text) for text in frame.about], index=frame.index)
    return pd.concat([frame.drop(columns="about"), about], axis=1)


def _read(path: str | Path, query: str) -> pd.DataFrame:
    file = store_file(path)
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return pd.read_sql_query(query, connection)
    except pd.errors.DatabaseError as error:
        raise ValueError(f"{file} is not a run of this library: {error}") from error
    finally:
        connection.close()


def _systems(frame: pd.DataFrame) -> list[str]:
    settings = [tuple(json.loads(text).items()) for text in frame.settings]
    return [Choice(name, given).label for name, given in zip(frame.defender, settings, strict=True)]
