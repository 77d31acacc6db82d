"""Colab mode: in an empty folder, with a `google.colab` to be found, a chapter fetches the book and works from it.

Nothing outside is asked: the book is cloned from a snapshot of this working tree (file://), and `pip` is a stub on PYTHONPATH
that writes down what it was told. Chapters whose setup cells are the same share one run.
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

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb")) + sorted(ROOT.glob("notebooks/solutions/*.ipynb"))
REPORT = """
import json, ssd_lib
from ssd_lib import paths
print(json.dumps({"library": ssd_lib.__file__, "data": str(paths.data_dir()), "cwd": os.getcwd(), "colab": IN_COLAB, "root": str(ROOT)}))
"""


def setup_cell(path):
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


SETUPS = {}
for notebook in NOTEBOOKS:
    SETUPS.setdefault(setup_cell(notebook), notebook.stem)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository that holds the library and its data as they are now; returns its file:// address."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("ssd_lib", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "book"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder.as_uri()


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
    environment = os.environ | {"PYTHONPATH": str(stubs), "SSD_REPOSITORY": repository, "HOME": str(tmp_path)}
    environment.pop("SSD_DATA", None)
    return content, environment, told


@pytest.mark.parametrize("setup", SETUPS, ids=SETUPS.get)
def test_the_setup_cell_fetches_the_book(setup, colab):
    content, environment, told = colab
    result = subprocess.run(
        [sys.executable, "-c", setup + REPORT],
        cwd=content,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found, clone = json.loads(result.stdout.splitlines()[-1]), content / "ssd"
    assert found["colab"] and Path(found["root"]) == clone
    assert Path(found["library"]) == clone / "ssd_lib/__init__.py", "not the clone's, but the installed one"
    assert Path(found["data"]) == clone / "data" and Path(found["cwd"]) == content
    installed = json.loads(told.read_text())
    assert installed[:1] == ["install"] and not any(name.startswith("torch") for name in installed), (
        "torch is Colab's own"
    )
    again = subprocess.run(
        [sys.executable, "-c", setup + REPORT], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert Path(json.loads(again.stdout.splitlines()[-1])["root"]) == clone, "inside the book nothing is fetched"


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
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(content)}}
    )
    client.execute(env=environment | {"TQDM_DISABLE": "1"})
    assert (content / "ssd/figures/start_here.png").exists()
    assert [path.name for path in content.iterdir()] == ["ssd"], "a chapter leaves nothing beside the clone"
