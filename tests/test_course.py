"""The teaching kit: the course's lists are those of the book, the paper's page names what exists, containers install what is asked for."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from docs import course
from ssd_lib.config import SSDConfig

ROOT = Path(__file__).resolve().parent.parent
COURSE = ROOT / course.PAGE
PAPER = ROOT / "docs/paper.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEVCONTAINERS = "@devcontainers/cli@0.89.0"


def text(path):
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ the course


def test_the_page_is_up_to_date():
    assert course.filled(text(COURSE)) == text(COURSE), "run `python -m docs.course` and commit"


def test_exercises_and_mistakes_come_from_the_book(tmp_path):
    for folder in ("notebooks/checks", "tests/mutants"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks/07_x.ipynb").touch()
    (tmp_path / "notebooks/checks/chapter_07.py").write_text(
        'LATER = 3\n@exercise("07.2", "open", 30, "A hint.", of=5)\ndef b(x):\n    pass\n\n'
        '@cache\ndef helper():\n    pass\n\n@exercise("07.1", "easy", 5)\ndef a(x):\n    pass\n'
    )
    (tmp_path / "tests/mutants/chapter_07.py").write_text(
        'MUTANTS: list = [("07.1", "≤ for <", "a", "b"), ("07.2", "mean | <b>.", "c", "d"), ("07.1", "no reset", "e", "f")]\n'
    )
    assert list(course.exercises(tmp_path)) == [("07.2", "open", 30, 5), ("07.1", "easy", 5, 1)]
    assert "| [07](07_x.ipynb) | 07.1 (5 min) | – | 07.2 (30 min, 5 points) | – | – |" in course.exercise_table(
        tmp_path
    )
    listed = course.mistake_list(tmp_path)
    assert r"- **07.1**: ≤ for \<; no reset." in listed and r"- **07.2**: mean \| \<b\>." in listed
    page = course.filled(text(COURSE), tmp_path)
    assert listed in page and course.filled(page, tmp_path) == page and course.filled(page) == text(COURSE)
    with pytest.raises(ValueError, match="needs the lines"):
        course.filled("no markers")


def test_every_exercise_of_the_checks_is_listed():
    judges = "".join(text(path) for path in ROOT.glob("notebooks/checks/chapter_*.py"))
    assert len(list(course.exercises())) == len(re.findall(r"^@exercise\(", judges, re.M))
    planted = "".join(text(path) for path in ROOT.glob("tests/mutants/chapter_*.py"))
    assert len(list(course.mistakes())) == sum(
        len(getattr(node.value, "elts", []))
        for node in ast.parse(planted).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and "MUTANTS" in ast.unparse(node).partition("=")[0]
    )


def test_what_the_course_tells_to_open_or_type_is_there():
    page = text(COURSE)
    paths = [name for name in re.findall(r"`([^`\s]+)`", page) if re.match(r"(ssd_lib|\.devcontainer|\.binder)/", name)]
    assert len(paths) >= 4 and not [name for name in paths if not (ROOT / name).exists()]
    from typer.main import get_command

    from ssd_lib.cli import app

    commands = set(re.findall(r"\bssd ([a-z]+)\b(?= |`)", page)) - {"ssd"}
    known = set(getattr(get_command(app), "commands", ()))
    assert {"grade", "run", "report", "doctor", "train"} <= commands and commands <= known


def test_every_plan_adds_up():
    lecture = text(COURSE).split("## One lecture, 90 minutes")[1].split("##")[0]
    spans = [tuple(map(int, found)) for found in re.findall(r"^\| (\d+) to (\d+) \|", lecture, re.M)]
    assert spans[0][0] == 0 and spans[-1][1] == 90
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    for grading in re.findall(r"^Grade: .*?(?=^$)", text(COURSE), re.M | re.S):
        assert sum(map(int, re.findall(r"(\d+)%", grading))) == 100, grading


# ------------------------------------------------------------------------------------------------ the paper


def named(page):
    return sorted(set(re.findall(r"`(ssd_lib(?:\.\w+)+)`", page)))


def resolve(name):
    """The object of a dotted name: as much of it as is a module is imported."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", named(text(PAPER)))
def test_what_the_papers_page_names_can_be_imported(name):
    assert resolve(name) is not None


def test_a_name_that_is_none_is_found():
    with pytest.raises(AttributeError):
        resolve("ssd_lib.method.composite.no_such_thing")
    assert len(named(text(PAPER))) > 30


def test_every_row_of_the_papers_page_leads_to_a_chapter():
    rows = [line for line in text(PAPER).splitlines() if line.startswith("| ") and "---" not in line]
    rows = [row for row in rows if "| chapter |" not in row]
    assert len(rows) > 20
    for row in rows:
        cells = re.split(r"(?<!\\)\|", row)
        chapters = re.findall(r"\[(\d\d)\]\(\.\./notebooks/(\d\d)_\w+\.ipynb\)", cells[-3])
        assert chapters and all(label == number for label, number in chapters), row
        assert "`ssd_lib." in row or "here" in row or "every end-of-sequence" in row, row


def test_the_threshold_ends_as_the_papers_page_says():
    config = SSDConfig()
    threshold, seen = config.threshold, []
    for _ in range(7):
        threshold = max(threshold - config.threshold_decay, 0)
        seen.append(threshold)
    assert 0 < seen[5] < 1e-10 and seen[6] == 0


# ------------------------------------------------------------------------------------------------ containers


def jsonc(path):
    """JSON with whole-line comments."""
    return json.loads(re.sub(r"^\s*//.*$", "", text(path), flags=re.M))


def installs(script):
    """The extras that a script installs of this repository, with its constraints."""
    (extras,) = re.findall(r'-c constraints\.txt -e "\.\[([\w,]+)\]"', script)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    return set(extras.split(","))


def test_the_devcontainer_runs_make():
    container = jsonc(ROOT / ".devcontainer/devcontainer.json")
    words = container["postCreateCommand"].split()
    assert words[0] == "make" and container["image"].endswith("python:3.11")
    assert f"{words[1].rpartition('/')[0]}/bin/python" in json.dumps(container["customizations"])
    assert all((ROOT / name).exists() for name in container["customizations"]["codespaces"]["openFiles"])
    assert "download.pytorch.org/whl/cpu" in container["postCreateCommand"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_knows_how_to_install(tmp_path):
    container = jsonc(ROOT / ".devcontainer/devcontainer.json")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    said = subprocess.run(
        container["postCreateCommand"].replace("make", "make -n UV=", 1),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e" in said


def test_binder_and_the_graders_image_install_from_the_repositorys_own_files():
    environment = yaml.safe_load(text(ROOT / ".binder/environment.yml"))
    assert environment["dependencies"] == ["python=3.11", "pip"] and PROJECT["requires-python"].startswith(">=3.11")
    post = ROOT / ".binder/postBuild"
    assert installs(text(post)) == installs(text(ROOT / ".devcontainer/Dockerfile")) == {"notebooks", "judge"}
    assert os.name == "nt" or os.access(post, os.X_OK)
    assert all("nbclient" in " ".join(PROJECT["optional-dependencies"][extra]) for extra in ("notebooks",))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_post_build_is_a_script_that_stops_at_an_error(tmp_path):
    """As it stands, with a `python` that writes down what it was told, and then one that fails."""
    for code in (0, 3):
        (tmp_path / "python").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\nexit {code}\n')
        (tmp_path / "python").chmod(0o755)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        done = subprocess.run(["bash", str(ROOT / ".binder/postBuild")], env=os.environ | {"PATH": path}, cwd=tmp_path)
        assert done.returncode == code and text(tmp_path / "told").startswith("-m pip install ")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="the devcontainer tool needs node")
def test_the_devcontainer_tool_reads_the_file():
    """Its container is looked for with a `docker` that knows of none."""
    npx = [str(shutil.which("npx")), "--yes", "--prefer-offline", DEVCONTAINERS, "read-configuration"]
    words = [*npx, "--workspace-folder", str(ROOT), "--docker-path", str(shutil.which("true"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["configuration"]
    assert read["postCreateCommand"] == jsonc(ROOT / ".devcontainer/devcontainer.json")["postCreateCommand"]
