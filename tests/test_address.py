"""Where the repository lives is said once: every place that shows it is written from there, and no place shows a home that is none."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from docs import address, twins

ROOT = address.ROOT
FILES = ["pyproject.toml", "CITATION.cff", "mkdocs.yml", "README.md", "constraints.txt"]
CHAPTERS = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))
WRITTEN = (
    "*.md",
    "*.toml",
    "*.yml",
    "*.cff",
    "docs/**/*",
    "data/**/*.md",
    "benchmarks/**/*.md",
    "notebooks/**/*",
    ".github/**/*",
)


@pytest.fixture(scope="module")
def homeless(tmp_path_factory):
    """A copy of what shows the address, without one."""
    root = tmp_path_factory.mktemp("book")
    for name in FILES:
        shutil.copy(ROOT / name, root)
    for name in ("docs", "notebooks", ".github"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    address.write(None, root)
    return root


@pytest.fixture
def book(homeless, tmp_path):
    """Two chapters and a solution of it, to be written to."""
    root = shutil.copytree(homeless, tmp_path / "book")
    for path in twins.notebooks(root):
        if path.stem[:2] > "01" or path.stem == "01_solutions":
            path.unlink()
            twins.twin(path).unlink()
    return root


def texts(root):
    """Every written file, by its path; of notebooks the sources."""
    found = {path for pattern in WRITTEN for path in root.glob(pattern) if path.is_file()}
    for path in sorted(found):
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            yield path.relative_to(root).as_posix(), "\n".join(cell.source for cell in cells)
        elif path.suffix in (".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".css"):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def shows(root, home):
    """Files that show an address, and how often."""
    counts = {name: len(re.findall(re.escape(home), text)) for name, text in texts(root)}
    return {name: count for name, count in counts.items() if count}


def test_a_home_is_written_to_every_place(homeless, tmp_path):
    book = shutil.copytree(homeless, tmp_path / "book")
    (book / "CONTRIBUTING.md").write_text("no home yet\n")
    assert address.address(book) is None
    assert address.write("some-body/the.book", book)
    assert address.address(book) == "some-body/the.book"
    chapters = [f"notebooks/{name}" for name in CHAPTERS]
    solutions = [path.relative_to(book).as_posix() for path in book.glob("notebooks/solutions/*.ipynb")]
    wanted = {"pyproject.toml": 1, "CITATION.cff": 1, "mkdocs.yml": 1, "README.md": len(CHAPTERS) + 2}
    for names, times in ((chapters, 2), (solutions, 1)):
        for name in names:
            wanted |= {name: times, twins.twin(book / name).relative_to(book).as_posix(): times}
    assert shows(book, "some-body/the.book") == wanted
    badges = (book / "README.md").read_text(encoding="utf-8").splitlines()[1]
    assert (
        "(https://mybinder.org/v2/gh/some-body/the.book/main?urlpath=lab/tree/notebooks/00_start_here.ipynb)" in badges
    )
    assert badges.endswith("(https://codespaces.new/some-body/the.book)")
    for name in CHAPTERS:
        badge = f"(https://colab.research.google.com/github/some-body/the.book/blob/main/notebooks/{name})"
        first = nbformat.read(book / "notebooks" / name, as_version=4).cells[0].source
        row = next(line for line in (book / "README.md").read_text().splitlines() if f"(notebooks/{name})" in line)
        assert badge in first.splitlines()[0] and row.endswith(f"{badge} |")
    assert yaml.safe_load((book / "CITATION.cff").read_text())["repository-code"].endswith("/some-body/the.book")
    assert tomllib.loads((book / "pyproject.toml").read_text())["project"]["urls"]["Repository"].startswith("https://")
    assert address.write("some-body/the.book", book) == [], "a second time there is nothing to write"


def test_the_table_of_chapters_keeps_its_columns(book):
    for home in (None, "a/b"):
        address.write(home, book)
        lines = (book / "README.md").read_text().splitlines()
        first = next(place for place, line in enumerate(lines) if line.startswith("| [00 "))
        table = lines[first - 2 : first + len(CHAPTERS)]
        assert len({line.count("|") for line in table}) == 1 and ("colab" in table[2]) == bool(home)
        assert set(table[1]) == set("| -")


def test_a_move_leaves_nothing_of_the_old_home(book):
    address.write("some/book", book)
    page = book / "CONTRIBUTING.md"
    page.write_text("git clone https://github.com/some/book.git, not https://github.com/some/bookshelf\n")
    address.write("other/home", book)
    assert page.read_text() == "git clone https://github.com/other/home.git, not https://github.com/some/bookshelf\n"
    page.unlink()
    assert not shows(book, "some/book") and shows(book, "other/home")


def test_a_home_can_be_taken_away(book):
    before = dict(texts(book))
    address.write("some/book", book)
    assert dict(texts(book)) != before
    address.write(None, book)
    assert dict(texts(book)) == before


def test_what_is_committed_is_what_the_command_writes(tmp_path):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    assert address.write(address.address(), tmp_path) == [], "run `make address` and commit"


def test_nobody_meets_a_home_that_is_none():
    here = dict(texts(ROOT)) | {
        str(path): path.read_text(encoding="utf-8") for path in (ROOT / "ssd_lib").rglob("*.py")
    }
    for name, text in here.items():
        assert not re.search(r"\bOWNER\b|YOUR[-_ ]?(NAME|ORG)\b|<owner>", text), name
        links = set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)", text))
        assert links <= {address.address()}, name


@pytest.mark.parametrize("wrong", ["ssd", "https://github.com/a/b", "a/b/c", "a b/c", "/b"])
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(SystemExit, match="make address REPO=owner/name"):
        address.main(wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="the workflow runs on Linux")
@pytest.mark.slow
def test_the_workflow_commits_the_address_at_the_first_push(book, tmp_path):
    """Its last step, as it stands, on a repository whose origin is a folder; `pip` finds what is installed."""

    def git(*words, cwd=book):
        settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *settings, *words], cwd=cwd, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    workflow = yaml.safe_load((ROOT / ".github/workflows/address.yml").read_text(encoding="utf-8"))
    script = workflow["jobs"]["address"]["steps"][-1]["run"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\ncase "$*" in *pip*) exit 0;; esac\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    git("init", "-q", "--bare", str(tmp_path / "origin"))
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "book"]):
        git(*words)
    git("remote", "add", "origin", str(tmp_path / "origin"))
    git("push", "-q", "-u", "origin", "HEAD:main")
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "GITHUB_REPOSITORY": "new/home", "HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run(["bash", "-e", "-c", script], cwd=book, env=environment, check=True, capture_output=True)
        assert git("log", "--format=%s", "main", cwd=tmp_path / "origin").splitlines() == [
            "Write the address of this repository",
            "book",
        ]
        assert git("status", "--porcelain") == ""
    assert address.address(book) == "new/home"
    assert Path(book / "README.md").read_text().count("github/new/home/") == len(CHAPTERS)
