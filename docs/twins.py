"""Text twins of the notebooks, in which a change can be read: prose and code, no outputs (`make text`).

`notebooks/plain_text/X.py` is `notebooks/X.ipynb` in jupytext's percent format; [tool.jupytext] in pyproject.toml pairs them, so
JupyterLab and `jupytext --sync` know them, too. An edit in either goes to the other; a cell edited in the text loses its output.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from jupytext.config import load_jupytext_config

ROOT = Path(__file__).resolve().parent.parent
MARGIN = 10
"""Seconds. A checkout or a merge writes both files within this time, in any order: then the notebook is right."""
PERCENT = {"extension": ".py", "format_name": "percent"}


def notebooks(root: Path = ROOT) -> list[Path]:
    """Chapters, then solutions."""
    return sorted(root.glob("notebooks/*.ipynb")) + sorted(root.glob("notebooks/solutions/*.ipynb"))


def twin(path: Path) -> Path:
    """Where a notebook's text stands: solutions have a folder of their own there, too."""
    inner = path.parent.name == "solutions"
    return path.parents[inner] / "plain_text" / ("solutions" if inner else "") / f"{path.stem}.py"


@cache
def pairing() -> Any:
    """[tool.jupytext] in pyproject.toml."""
    return load_jupytext_config(str(ROOT / "notebooks"))


def as_text(notebook: Any) -> str:
    """A notebook's twin, as `jupytext --sync` writes it."""
    options = dict(PERCENT)
    pairing().set_default_format_options(options)
    return jupytext.writes(notebook, options, config=pairing())


def as_json(notebook: Any) -> str:
    """A notebook as this repository stores it: every source and output one string, keys in order."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def sources(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def sync(path: Path, master: str | None = None) -> str | None:
    """Make a notebook and its twin say the same; returns what was written, if anything.

    Args:
        path: The notebook.
        master: "notebook" or "text", whichever is right where they differ; without it, the one that was edited last.
    """
    text = twin(path)
    notebook = nbformat.reads(as_json(nbformat.read(path, as_version=4)), as_version=4)
    newer = path
    if text.exists() and master != "notebook":
        later = text.stat().st_mtime - path.stat().st_mtime
        newer = text if master == "text" or later > MARGIN else path
    if newer is text:
        edited = jupytext.reads(text.read_text(encoding="utf-8"), PERCENT)
        if sources(edited) != sources(notebook):
            notebook = combine_inputs_with_outputs(edited, notebook, PERCENT)
    written = [p for p, new in ((path, as_json(notebook)), (text, as_text(notebook))) if write(p, new)]
    return f"{newer.name} → {', '.join(p.name for p in written)}" if written else None


def write(path: Path, new: str) -> bool:
    """Write a file that changes, in the same bytes on every system; returns whether it did."""
    if path.exists() and path.read_bytes() == new.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(new.encode())
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make every notebook and its text twin say the same.")
    parser.add_argument("--master", choices=["notebook", "text"], help="who is right (else: who was edited last)")
    master = parser.parse_args().master
    for path in notebooks():
        if message := sync(path, master):
            print(message)
