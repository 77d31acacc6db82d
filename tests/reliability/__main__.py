"""`python -m tests.reliability [PART…] [--short] [--seed N] [--again]`: all parts in turn, their figures into one page.

Every part's result is kept as it comes: a second start goes on where the first stopped, and asks a part again only where the
code, the count or the seed changed. `--short` takes a minute or two and writes to build/, never to the page.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import platform
import shlex
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

import tests.reliability
from ssd_lib.experiments.report import markdown, put_measured
from ssd_lib.paths import REPOSITORY
from tests.reliability.missing import Missing
from tests.reliability.outcome import Outcome

RESULTS = REPOSITORY / "benchmarks" / "results" / "reliability.json"
SHORT = REPOSITORY / "build" / "reliability-short.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
COMMAND = "make reliability"
PACKAGES = ("torch", "transformers", "pandas", "hypothesis", "ray", "openai", "fastapi", "uvicorn")


def parts() -> dict[str, ModuleType]:
    """Every part by name: the modules of this package that have a `run`; the soak, which takes longest, last."""
    names = sorted(
        (name for _, name, _ in pkgutil.iter_modules(tests.reliability.__path__) if name != "__main__"),
        key=lambda name: (name == "soak", name),
    )
    modules = {name: importlib.import_module(f"tests.reliability.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Parts; default: all.")] = None,
    short: Annotated[bool, typer.Option("--short", help="A few cases of each part.")] = False,
    seed: int = 0,
    again: Annotated[bool, typer.Option("--again", help="Run parts that are done, too.")] = False,
) -> None:
    """Try to break the library, and write what came of it."""
    known = parts()
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    file = SHORT if short else RESULTS
    results = read(file)
    for name in only or known:
        module = known[name]
        count = module.SHORT if short else module.FULL
        asked = {"count": count, "seed": seed, "code": code()}
        if not again and done(results, name, asked):
            typer.echo(f"{name}: done already, on this code")
            continue
        typer.echo(f"{name}: {module.TITLE} ({count})")
        results[name] = measured(module, asked)
        keep(file, results)
        typer.echo(f"{name}: {summary(results[name])}")
    if not short:
        put_measured(PAGE, COMMAND, page(results))
    if any(results[name].get("failures") for name in only or known):
        raise typer.Exit(1)


def read(file: Path) -> dict[str, Any]:
    """Results by part, as `keep` wrote them; none where there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def done(results: dict[str, Any], name: str, asked: dict[str, Any]) -> bool:
    """Whether a stored result answers just this question."""
    stored = results.get(name, {})
    return "missing" not in stored and all(stored.get(key) == value for key, value in asked.items())


def measured(module: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """One part's result with all that says how it came about. A part that breaks is a failure, not the end of the others."""
    began = time.monotonic()
    try:
        outcome = module.run(asked["count"], asked["seed"], True)
        said = {"tried": outcome.tried, "failures": outcome.failures, "facts": outcome.facts}
    except Missing as reason:
        said = {"tried": 0, "failures": [], "facts": {}, "missing": str(reason)}
    except Exception as error:
        traceback.print_exc()
        said = {"tried": 0, "failures": [f"the part itself broke: {error!r}"], "facts": {}}
    seconds = round(time.monotonic() - began, 1)
    return {"title": module.TITLE, **said, "seconds": seconds, **asked, "about": about()}


def keep(file: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, file)


def about() -> dict[str, Any]:
    """Command, processor, versions, date and commit of a result."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {
        "command": shlex.join(["python", "-m", "tests.reliability", *sys.argv[1:]]),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {name: found for name, found in versions.items() if found},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "ssd_lib", "tests")),
    }


def code() -> str:
    """A hash of the library and of this package: what a result depends on."""
    digest = hashlib.sha256()
    for folder in (REPOSITORY / "ssd_lib", REPOSITORY / "tests" / "reliability"):
        for file in sorted([*folder.rglob("*.py"), *folder.rglob("*.toml")]):
            digest.update(file.relative_to(REPOSITORY).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def version(name: str) -> str | None:
    """An installed package's version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def git(*args: str) -> str:
    """What git says here; nothing outside of a clone."""
    said = subprocess.run(["git", "-C", str(REPOSITORY), *args], capture_output=True, text=True, check=False)
    return said.stdout.strip()


# ------------------------------------------------------------------------------------------------ the page


def summary(result: dict[str, Any]) -> str:
    """One line: how often, what failed."""
    if "missing" in result:
        return f"not run: {result['missing']}"
    shown = "".join(f"\n  {line}" for line in result["failures"][:10])
    return f"{result['tried']} tried, {len(result['failures'])} failed, {result['seconds']:.0f} s{shown}"


def page(results: dict[str, Any]) -> str:
    """The measured part of docs/reliability.md: one table of all parts, one of each part's facts, and how they came about."""
    import pandas as pd

    rows = [
        {
            "part": result["title"],
            "tried": "not run here" if "missing" in result else f"{result['tried']:,}",
            "failed": "–" if "missing" in result else len(result["failures"]),
            "minutes": f"{result['seconds'] / 60:.1f}",
            "measured": f"{result['about']['date'][:10]}, `{result['about']['commit'][:10]}`",
        }
        for result in results.values()
    ]
    blocks = [markdown(pd.DataFrame(rows))] if rows else ["Nothing was measured yet."]
    for name, result in results.items():
        lines = [{"what": what, "figure": figure(value)} for what, value in result["facts"].items()]
        said = [markdown(pd.DataFrame(lines))] if lines else [result.get("missing", "")]
        said += [f"- failed: {line}" for line in result["failures"]]
        blocks += [f"### {result['title']}", f"`python -m tests.reliability {name}`", *said]
    return "\n\n".join([*blocks, *machines(results)])


def figure(value: float | int | str) -> str:
    """A fact as the page prints it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value


def machines(results: dict[str, Any]) -> list[str]:
    """The machines and versions that the figures are from, each said once."""
    told = {
        f"Measured on {about['cores']} cores of {about['processor']} with "
        + ", ".join(f"{name} {found}" for name, found in about["versions"].items())
        + "."
        for about in (result["about"] for result in results.values())
    }
    return sorted(told)


__all__ = ["Outcome", "main"]

if __name__ == "__main__":
    typer.run(main)
