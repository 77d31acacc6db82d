"""What the repository's own files promise about installing it."""

import ast
import re
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
    extras = re.search(r"-e \.\[(.*)\]", " ".join(pip))[1].split(",")
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


@pytest.mark.parametrize("module", SHAPES_CHECKED)
def test_what_is_shape_checked_defines_no_function_within_another(module):
    """The check of such a function is compiled at each call of the outer one: 2 ms, as long as a micro-model's forward."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inner = [
        n.name for outer in functions for n in ast.walk(outer) if isinstance(n, ast.FunctionDef) and n is not outer
    ]
    assert not inner, f"{module}: move {inner} to the module or the class"
