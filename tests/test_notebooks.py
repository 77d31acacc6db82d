"""The book: what every chapter must have, and that all of them execute in a fresh kernel.

`python -m tests.test_notebooks` (make notebooks) executes the chapters in place, with outputs ready to be committed.
"""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ssd_lib.exercises import check

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
ids = [path.stem for path in CHAPTERS]


def execute(path, **environment):
    """The notebook with fresh outputs, from a fresh kernel in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    return client.execute(env=os.environ | {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"} | environment)


def strip(notebook):
    """Drop what changes from run to run or machine to machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
    return notebook


def code(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def words(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def test_there_are_chapters_with_solutions():
    assert len(CHAPTERS) >= 6
    assert [path.stem[:2] for path in SOLUTIONS] == [path.stem[:2] for path in CHAPTERS]


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_every_chapter_has_the_same_frame(path):
    text, cells = words(path), code(path)
    assert cells[0] == code(CHAPTERS[0])[0] and cells[0].startswith("# Setup")
    assert re.search(r"^[A-Z_]+ = ", cells[1], re.M), "the second code cell sets the constants"
    assert "colab-badge.svg" in text and re.search(r"^# \d\d · ", text, re.M)
    for part in ("You will be able to", "**Predict", "## Exercises", "## Takeaways", "## Questions"):
        assert part in text, part
    assert sum("check(" in cell and "= ..." in cell or "return ..." in cell for cell in cells) >= 1


@pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS, ids=lambda path: path.stem)
def test_committed_outputs_are_clean(path):
    notebook, raw = nbformat.read(path, as_version=4), path.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    assert len(raw) < 1_000_000 and "widgets" not in notebook.metadata
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source), "not executed"
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not re.search(r"/work/|/tmp/|/home/|/root/", raw), "an absolute path"
    assert not re.search(r"\b(sk|hf|ghp)[-_][A-Za-z0-9]{16,}", re.sub(r'"image/png": "[^"]*"', "", raw)), (
        "looks like a key"
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_links_between_notebooks_exist(path):
    for link in re.findall(r"\]\(([^)#]+\.ipynb)\)", words(path)):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_an_unsolved_exercise_says_what_to_try_and_fails_when_strict(capsys, monkeypatch):
    for got in (..., 4, 3):
        check("sum", got, 3, "Add them.")
    printed = capsys.readouterr().out
    assert printed.count("Add them.") == 2 and printed.count("✔ sum") == 1
    monkeypatch.setenv("SSD_STRICT_CHECKS", "1")
    for wrong in (..., 4):
        with pytest.raises(AssertionError, match="Add them"):
            check("sum", wrong, 3, "Add them.")


@pytest.mark.notebooks
@pytest.mark.parametrize("path", CHAPTERS, ids=ids)
def test_chapter_executes(path):
    execute(path)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_pass_their_own_checks(path):
    execute(path, SSD_STRICT_CHECKS="1")


if __name__ == "__main__":
    for path in CHAPTERS + SOLUTIONS:
        print(path.name, flush=True)
        notebook = strip(execute(path, **({"SSD_STRICT_CHECKS": "1"} if path in SOLUTIONS else {})))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
