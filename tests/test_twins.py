"""The notebooks' text twins: each says what its notebook says, and an edit in either reaches the other."""

import json
import os
import shutil
import subprocess
import sys

import jupytext
import nbformat
import pytest

from docs import twins

NOTEBOOKS = twins.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_and_its_text_say_the_same(path):
    raw, text = path.read_text(encoding="utf-8"), twins.twin(path).read_text(encoding="utf-8")
    notebook = nbformat.reads(raw, as_version=4)
    assert text == twins.as_text(notebook), "run `make text` and commit"
    assert twins.sources(jupytext.reads(text, twins.PERCENT)) == twins.sources(notebook), "the text loses something"
    assert raw == twins.as_json(notebook), "not in this repository's form: run `make text` and commit"


def test_every_text_has_its_notebook():
    texts = (twins.ROOT / "notebooks/plain_text").rglob("*.*")
    assert sorted(texts) == sorted(map(twins.twin, NOTEBOOKS))


@pytest.fixture
def pair(tmp_path):
    """A chapter and its text, in a folder of their own."""
    shutil.copy(twins.ROOT / "pyproject.toml", tmp_path)
    chapter = tmp_path / "notebooks" / NOTEBOOKS[0].name
    for here, there in ((NOTEBOOKS[0], chapter), (twins.twin(NOTEBOOKS[0]), twins.twin(chapter))):
        there.parent.mkdir(exist_ok=True)
        shutil.copy(here, there)
    return chapter, twins.twin(chapter)


def later(path, text):
    """Write a file, as somebody would an hour from now."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (path.stat().st_mtime + 3600,) * 2)


def edit(text, by=" (edited)"):
    return text.replace("# 00 · Start here", f"# 00 · Start here{by}")


def outputs(path):
    return [cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells]


@pytest.mark.parametrize("way", ["make text", pytest.param("jupytext --sync", marks=pytest.mark.slow)])
def test_an_edit_in_either_reaches_the_other(way, pair):
    def sync():
        if way == "jupytext --sync":
            subprocess.run([sys.executable, "-m", "jupytext", "--sync", str(chapter)], check=True, capture_output=True)
        twins.sync(chapter)  # after jupytext: back into this repository's form

    chapter, text = pair
    kept = outputs(chapter)
    later(text, edit(text.read_text(encoding="utf-8")))
    sync()
    assert "Start here (edited)" in chapter.read_text(encoding="utf-8") and outputs(chapter) == kept
    once = chapter.read_text(encoding="utf-8")
    later(chapter, once.replace("Start here (edited)", "Start here (twice)"))
    os.utime(chapter, (text.stat().st_mtime + 7200,) * 2)
    sync()
    assert "Start here (twice)" in text.read_text(encoding="utf-8")
    assert outputs(chapter) == kept and "(edited)" not in chapter.read_text(encoding="utf-8")
    assert twins.sync(chapter) is None, "nothing is left to write"


def test_of_two_files_from_one_checkout_the_notebook_is_right(pair):
    chapter, text = pair
    text.write_text(edit(text.read_text(encoding="utf-8")), encoding="utf-8")
    os.utime(text, (chapter.stat().st_mtime + 1,) * 2)
    assert twins.sync(chapter) == f"{chapter.name} → {text.name}"


def test_the_order_of_a_cells_keys_says_nothing(pair):
    chapter, text = pair
    kept = chapter.read_bytes(), text.read_bytes()
    notebook = json.loads(kept[0])
    for cell in notebook["cells"]:
        cell["metadata"] = dict(reversed(cell["metadata"].items()))
    later(chapter, json.dumps(notebook))
    twins.sync(chapter)
    assert (chapter.read_bytes(), text.read_bytes()) == kept


def test_who_is_right_can_be_said(pair):
    chapter, text = pair
    later(text, edit(text.read_text(encoding="utf-8")))
    assert twins.sync(chapter, master="notebook") == f"{chapter.name} → {text.name}"
    assert "(edited)" not in text.read_text(encoding="utf-8")
    later(text, edit(text.read_text(encoding="utf-8")))
    os.utime(text, (0, 0))
    assert twins.sync(chapter, master="text") == f"{text.name} → {chapter.name}"
    assert "(edited)" in chapter.read_text(encoding="utf-8")
