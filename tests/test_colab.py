"""The first cell of a notebook: in an empty folder, as in Colab, it fetches the book and what is lacking; elsewhere, nothing.

Nothing outside is asked: the book is cloned from a snapshot of this working tree (file://), and `pip` is a stub on PYTHONPATH
that writes down what it was told.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from docs.address import setup_cell

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb")) + sorted(ROOT.glob("notebooks/solutions/*.ipynb"))
HOMES = [None, "somebody/ssd", "a-rather-long-organisation/speculative-safety-aware-decoding"]
LACKING = ["a-package-that-nobody-has>=1", "numpy>=99"]
REPORT = """
import json, ssd_lib
from ssd_lib import paths
found = {"library": ssd_lib.__file__, "data": str(paths.data_dir()), "cwd": os.getcwd(), "root": str(ROOT)}
assert sys.path and subprocess and Path, "names that chapters use"
print(json.dumps(found))
"""


def copy_book(folder):
    """The library, its data and what a first cell runs, in a folder of their own; pyproject.toml asks for more than is here."""
    for name in ("ssd_lib", "data", "notebooks/checks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks/solutions").mkdir()
    shutil.copy(ROOT / "notebooks/prepare.py", folder / "notebooks")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"torch>=' in project
    more = re.sub('"torch>=[^"]*"', f'"torch>=99", {", ".join(map(json.dumps, LACKING))}', project, count=1)
    (folder / "pyproject.toml").write_text(more, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository that holds the book as it is now; returns its folder."""
    folder = copy_book(tmp_path_factory.mktemp("repository"))
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "book"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def colab(tmp_path, repository):
    """An empty /content, and the environment of a machine that has google.colab and a pip that installs nothing."""
    stubs, content = tmp_path / "stubs", tmp_path / "content"
    for package in ("google", "google/colab", "pip"):
        (stubs / package).mkdir(parents=True)
        (stubs / package / "__init__.py").touch()
    told = tmp_path / "pip.json"
    (stubs / "pip/__main__.py").write_text(f"import json, sys\njson.dump(sys.argv[1:], open({str(told)!r}, 'w'))\n")
    content.mkdir()
    environment = os.environ | {"PYTHONPATH": str(stubs), "SSD_REPOSITORY": repository.as_uri(), "HOME": str(tmp_path)}
    environment.pop("SSD_DATA", None)
    return content, environment, told


def run(cell, folder, environment):
    """A first cell in a folder, as a kernel runs it; returns what came of it, and what it found where it went well."""
    script = Path(environment["HOME"]) / "cell.ipy"
    script.write_text(cell + REPORT, encoding="utf-8")
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", str(script)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return result, json.loads(lines[-1]) if lines else None


def test_the_first_cell_fetches_the_book(colab):
    content, environment, told = colab
    result, found = run(setup_cell("somebody/ssd"), content, environment)
    assert found, result.stdout + result.stderr
    clone = content / "ssd"
    assert Path(found["root"]) == clone
    assert Path(found["library"]) == clone / "ssd_lib/__init__.py", "not the clone's, but the installed one"
    assert Path(found["data"]) == clone / "data" and Path(found["cwd"]) == content
    assert json.loads(told.read_text()) == ["install", "-q", *LACKING], (
        "what lacks, and not torch, which is Colab's own"
    )
    before = sorted(clone.rglob("*"))
    result, again = run(setup_cell("somebody/ssd"), content, environment | {"SSD_REPOSITORY": "file:///nowhere"})
    assert again == found and "nowhere" not in result.stderr, "a second time it is there already"
    assert [path.name for path in content.iterdir()] == ["ssd"] and len(before) <= len(sorted(clone.rglob("*")))


@pytest.mark.parametrize("home", HOMES[:2], ids=str)
@pytest.mark.parametrize("place", [".", "notebooks", "notebooks/solutions"])
def test_inside_the_book_nothing_is_fetched(place, home, colab, repository):
    _, environment, told = colab
    result, found = run(setup_cell(home), repository / place, environment | {"SSD_REPOSITORY": "file:///nowhere"})
    assert found, result.stdout + result.stderr
    assert Path(found["root"]) == repository and Path(found["cwd"]) == repository / place
    assert Path(found["library"]) == repository / "ssd_lib/__init__.py", "not the installed one"
    assert not told.exists() and not list(repository.rglob("ssd")) and "nowhere" not in result.stdout + result.stderr


def test_without_a_home_a_notebook_alone_says_what_to_do(colab):
    content, environment, told = colab
    result, found = run(setup_cell(None), content, environment)
    last = (result.stdout + result.stderr).strip().splitlines()[-1]
    assert found is None and last.startswith("AssertionError: This notebook needs the repository around it: download")
    assert not told.exists() and not list(content.iterdir())


@pytest.mark.parametrize("home", HOMES, ids=str)
def test_the_first_cell_is_five_lines_that_the_formatter_keeps(home, tmp_path):
    cell = setup_cell(home)
    assert len(cell.splitlines()) == 5
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        result = subprocess.run(ruff, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_chapter_depends_on_the_folder_it_is_run_in(path):
    """In Colab the current folder is /content: what a chapter reads, it finds through ROOT or ssd_lib."""
    python = TransformerManager().transform_cell  # magics are calls, too
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for node in ast.walk(ast.parse("\n".join(map(python, cells[1:])))):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"[\w./-]{2,99}", node.value)
        ):
            assert not re.match(r"\.\./|\w", node.value) or not (path.parent / node.value).exists(), node.value
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("cwd", "getcwd", "chdir"), ast.unparse(node)


@pytest.mark.notebooks
def test_a_whole_chapter_runs_in_colab(colab):
    """The chapter that a newcomer opens first, from the clone alone: its kernel sees neither this folder nor its own."""
    content, environment, _ = colab
    notebook = nbformat.read(ROOT / "notebooks/00_start_here.ipynb", as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").source = setup_cell("somebody/ssd")
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(content)}}
    )
    client.execute(env=environment | {"TQDM_DISABLE": "1"})
    assert (content / "ssd/figures/start_here.png").exists()
    assert [path.name for path in content.iterdir()] == ["ssd"], "a chapter leaves nothing beside the clone"
