"""`ssd bench`: decoding beside its peers on this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ssd_lib.cli.common import app, fail

PARTS = ("speed", "scaling", "parts", "lookup")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Micro shapes: proves the path, measures nothing of interest.")] = False,
    only: Annotated[
        str, typer.Option(help="speed, scaling, parts or lookup; the rest is read from the last run.")
    ] = "",
    brief: Annotated[
        bool, typer.Option("--brief", help="For a busy machine: fewer points, one thread, the process's own CPU time.")
    ] = False,
) -> None:
    """Measure decoding beside its peers on this machine's CPU; writes benchmarks/results/ and the figures."""
    from ssd_lib.paths import REPOSITORY

    if only not in ("", *PARTS):
        fail(ValueError(f"--only is one of {', '.join(PARTS)}, not {only!r}"))
    if not (REPOSITORY / "benchmarks").is_dir():
        fail(FileNotFoundError("the benchmark is part of the repository, not of the package: clone it"))
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks.cpu import main as run  # pyright: ignore[reportMissingImports]

    typer.echo(run(quick=quick, only=only, brief=brief))
