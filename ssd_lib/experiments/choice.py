"""A named attack set, defender or judge with its settings: as one word, as a table, or as a grid of settings.

    "ssd:alpha_union=0.8:lookahead=5"
    { name = "ssd", settings = { lookahead = 5 }, grid = { alpha_intersection = [0.3, 0.6], alpha_union = [0.8, 1.5] } }

A grid stands for one choice for every combination.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

Value = str | int | float | bool | tuple | None


SETTING = r':(?=\w+=)(?=(?:[^"]*"[^"]*")*[^"]*$)'
"""Where a setting begins: a colon before a name, with no open quote before it."""


@dataclass(frozen=True)
class Choice:
    """A name with the settings that differ from its defaults."""

    name: str
    settings: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        frozen = {key: _frozen(value) for key, value in self.settings}
        object.__setattr__(self, "settings", tuple(sorted(frozen.items())))

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read `name:key=value:key=value`; a value is JSON where it can be, else text. In double quotes, `:key=` is text."""
        name, *given = re.split(SETTING, text.strip())
        pairs = [part.split("=", 1) for part in given]
        return cls(name, tuple((key, _value(raw)) for key, raw in pairs))

    @property
    def key(self) -> str:
        """The settings as canonical JSON: what tells two settings of one defender apart in the store."""
        return json.dumps(dict(self.settings), sort_keys=True)

    @property
    def label(self) -> str:
        """The choice as one word; `parse` reads it back."""
        return ":".join([self.name, *(f"{key}={_written(value)}" for key, value in self.settings)])


def _frozen(value: Any) -> Value:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return str(value) if isinstance(value, Path) else value


def _value(raw: str) -> Value:
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        return raw
    return raw if isinstance(value, dict) else value


def _written(value: Value) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    read_back = _value(value) == value and '"' not in value and not re.search(SETTING, value)
    return value if read_back else json.dumps(value, ensure_ascii=False)


def read_choices(entries: Iterable[Any], find: Callable[[str], str]) -> tuple[Choice, ...]:
    """Each entry a word, or a table with name, settings and grid; every name resolved, none twice."""
    found: dict[Choice, None] = {}
    for entry in [entries] if isinstance(entries, str) else entries:
        for choice in _expand(entry):
            found[replace(choice, name=find(choice.name))] = None
    return tuple(found)


def _expand(entry: Any) -> list[Choice]:
    if isinstance(entry, Choice):
        return [entry]
    if isinstance(entry, str):
        return [Choice.parse(entry)]
    unknown = sorted(set(entry) - {"name", "settings", "grid"})
    if unknown or "name" not in entry:
        raise ValueError(f"an entry has a name, and may have settings and a grid: {dict(entry)!r}")
    grid = entry.get("grid", {})
    if not all(isinstance(values, list | tuple) for values in grid.values()):
        raise ValueError(f"a grid gives a list for every setting: {dict(grid)!r}")
    points = product(*grid.values())
    return [
        Choice(entry["name"], tuple((entry.get("settings", {}) | dict(zip(grid, point, strict=True))).items()))
        for point in points
    ]
