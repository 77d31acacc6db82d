"""What the first cell of every notebook runs: `ssd_lib` is imported from this repository, whatever else is installed.

`checks`, the chapters' exercises and predictions, is imported from this folder.

A repository that the notebook lies in is used as it is. One that the cell has cloned (in Colab) also gets what `ssd_lib` needs
and the machine lacks; torch is there already, fits the machine, and is not replaced.
"""

import importlib.metadata
import os  # noqa: F401 (%run hands these names to the notebook)
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _lacking() -> list[str]:
    """What pyproject.toml asks for, and is not here or too old; of torch any version will do."""
    import tomllib

    from packaging.requirements import Requirement

    found = []
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]:
        wanted = Requirement(line)
        try:
            here = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(line)
            continue
        if wanted.name != "torch" and not wanted.specifier.contains(here, prereleases=True):
            found.append(line)
    return found


sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]
if not Path.cwd().is_relative_to(ROOT) and (_packages := _lacking()):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *_packages], check=True)
    importlib.invalidate_caches()
