"""Rows of a data set from the Hub or from a local file, each knowing where it stands.

Real attack sets hold real harmful text, so they are read at the user's request only, through `datasets` and its cache,
and never copied here. What is read is untrusted: an error names file, row and reason, and quotes nothing of a row.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_lib.attacks.records import AttackSet, HubData, SetRequest

Cells = Iterator[tuple[str, dict[str, Any]]]
"""Rows as they are read: the place of each, for error messages, and its fields."""


@dataclass(frozen=True)
class SourceRow:
    """One row: its place for error messages, its number in the set (from 0), its fields and the file it is from."""

    number: int
    where: str
    fields: Mapping[str, Any]
    label: str = ""

    def text(self, *columns: str, default: str | None = None) -> str:
        """The first of `columns` that is filled, as text. Raises ValueError where none is and there is no default, or
        where it is a list or an object."""
        for column in columns:
            value = self.fields.get(column)
            if hasattr(value, "__len__") and not isinstance(value, str):
                raise self.broken(f"{column} is a {type(value).__name__}, not text")
            if not missing(value):
                return str(value)
        if default is None:
            raise self.broken(f"no value in {' or '.join(columns)} (its columns are {column_names(self.fields)})")
        return default

    def texts(self, column: str) -> tuple[str, ...]:
        """A column of lists (in CSV: as JSON, or separated by " | "); nothing where it is missing. Raises ValueError
        for a list with an empty cell."""
        value = self.fields.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            with suppress(json.JSONDecodeError):
                value = json.loads(value)
        if not isinstance(value, list | tuple):
            return () if missing(value) else tuple(str(value).split(" | "))
        if any(map(missing, value)):
            raise self.broken(f"{column} has an empty cell in its list")
        return tuple(map(str, value))

    def broken(self, reason: str) -> ValueError:
        return ValueError(f"{self.where}: {reason}")


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or blanks."""
    if isinstance(value, str) or value is None:
        return not (value or "").strip()
    return not hasattr(value, "__len__") and bool(pd.isna(value))


def column_names(columns: Iterable[Any]) -> str:
    """Columns for an error message; one that looks like a question (in a file without a header) is not shown."""
    shown = [name if len(name) <= 40 and name.count(" ") < 4 else "…" for name in map(str, columns)]
    return ", ".join(shown) or "none"


def read_rows(found: AttackSet, request: SetRequest) -> tuple[list[SourceRow], str]:
    """All rows of a set and their source: `request.path` where it is given, else an installed package that holds the set, else
    the Hub.

    Raises:
        ValueError: For a broken or empty file, or a set that is not on the Hub.
        FileNotFoundError: Where there is no file at the path.
        PermissionError: For a gated set.
        ConnectionError: Offline.
        ImportError: Without the library `datasets`.
    """
    if request.path is not None:
        return _from_files(_files(request.path, found), found)
    if packaged := files_of_package(found):
        return _from_files(packaged, found)
    if found.hub is None:
        raise ValueError(f"{found.name} is not on the Hub: pass path=… to your copy. {found.note}".strip())
    rows = _from_hub(found.name, found.hub)
    return rows, f"{found.hub.repo}@{found.hub.revision}"


def files_of_package(found: AttackSet) -> list[Path]:
    """A set's files in an installed package, which is found without being imported; none where there is none."""
    package, _, pattern = found.package.partition("/")
    spec = importlib.util.find_spec(package) if package else None
    folders = spec.submodule_search_locations or [] if spec else []
    return sorted(file for folder in folders for file in Path(folder).glob(pattern))


# ------------------------------------------------------------------------------------------------ the Hub


def _from_hub(name: str, hub: HubData) -> list[SourceRow]:
    data = _load_dataset(name, hub)
    parts = [(label, data[label]) for label, _ in hub.files] if hub.files else [("", data)]
    labelled = [(label, fields) for label, part in parts for fields in part]
    return [
        SourceRow(number, f"{hub.repo}@{hub.revision}, row {number + 1}", fields, label)
        for number, (label, fields) in enumerate(labelled)
    ]


def _load_dataset(name: str, hub: HubData) -> Any:
    """`datasets.load_dataset`, with errors that say what to do."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} is loaded with the datasets library: pip install 'ssd_lib[train]'") from error
    options: dict[str, Any] = {"data_files": dict(hub.files)} if hub.files else {"split": hub.split}
    if hub.columns:
        options |= {"names": list(hub.columns), "header": None}  # `column_names` is ignored by datasets 5
    try:
        return datasets.load_dataset(hub.repo, hub.config, revision=hub.revision, **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"cannot reach the Hub for {name} ({hub.repo}): connect once so that it is cached, or pass path=… to a local copy"
        ) from error
    except OSError as error:  # DatasetNotFoundError or the Hub's own error, by how far one came
        if "gated" not in str(error).lower():
            raise
        raise PermissionError(
            f"{name} is gated: ask for access at {hub.page}, then run `huggingface-cli login` with a token of that account; "
            "or pass path=… to a local copy"
        ) from error


# ------------------------------------------------------------------------------------------------ local files


def _files(path: Path, found: AttackSet) -> list[Path]:
    """The file itself, or the files of this set in a folder, in the order of their numbers."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{found.name}: there is no file at {path}")
    files = sorted(path.glob(found.file_pattern), key=_by_number) if found.file_pattern else []
    if not files:
        wanted = f"{found.file_pattern} in it" if found.file_pattern else "a file, not a folder"
        raise FileNotFoundError(f"{found.name}: {path} is a folder; expected {wanted}")
    return files


def _by_number(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _from_files(files: list[Path], found: AttackSet) -> tuple[list[SourceRow], str]:
    rows = []
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
        for where, fields in _read(path, found.hub.columns if found.hub else ()):
            rows.append(SourceRow(len(rows), where, fields, path.stem))
    if not rows:
        raise ValueError(f"{files[0]}: the file holds no rows")
    name = files[0].name if len(files) == 1 else f"{files[0].parent.name}/ ({len(files)} files)"
    return rows, f"{name} sha256:{digest.hexdigest()}"


def _read(path: Path, columns: tuple[str, ...]) -> Cells:
    """Every row of a file. Raises ValueError for anything that is not the format its name says."""
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(READERS)}")
    try:
        yield from READERS[path.suffix.lower()](path, columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: lists or objects inside each other too deep to be read") from error


def _read_json(path: Path, _: tuple[str, ...]) -> Cells:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of rows, found {type(content).__name__}")
    for number, item in enumerate(content, 1):
        yield _checked(f"{path}, row {number}", item)


def _read_jsonl(path: Path, _: tuple[str, ...]) -> Cells:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number}: not JSON ({error.msg})") from error
            yield _checked(f"{path}, row {number}", item)


def _checked(where: str, item: Any) -> tuple[str, dict[str, Any]]:
    """A row is an object; a conversation (a list of messages) becomes the object {"messages": …}."""
    if isinstance(item, list) and all(isinstance(message, dict) for message in item):
        item = {"messages": item}
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected an object with named fields, found {type(item).__name__}")
    return where, item


NAN = ("NaN", "nan", "<NA>")
"""How pandas and NumPy write a missing cell into CSV."""


def _read_csv(path: Path, columns: tuple[str, ...]) -> Cells:
    """Rows by the header's names, or by `columns` for files without a header."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, fieldnames=columns or None, strict=True)
        number = 0
        try:
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise ValueError(f"{path}, row {number}: has more cells than there are columns")
                yield f"{path}, row {number}", {name: None if cell in NAN else cell for name, cell in row.items()}
        except csv.Error as error:
            raise ValueError(f"{path}, row {number + 1}: not CSV ({error})") from error


def _read_parquet(path: Path, _: tuple[str, ...]) -> Cells:
    try:
        table = pd.read_parquet(path, dtype_backend="pyarrow")  # whose cells are lists and None, not arrays and NaN
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a parquet file") from error
    for number, row in enumerate(table.to_dict("records"), 1):
        yield f"{path}, row {number}", {str(column): value for column, value in row.items()}


READERS: dict[str, Callable[[Path, tuple[str, ...]], Cells]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
