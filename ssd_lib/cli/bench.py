"""`ssd bench`: decoding beside its peers on this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ssd_lib.cli.common import app, fail


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Micro shapes: a test of the path, with numbers of no interest.")] = False,
    only: Annotated[
        str,
        typer.Option(
            help="products, speed, scaling, parts, batches, lookup or hardened; the other tables come from the last run."
        ),
    ] = "",
    brief: Annotated[
        bool, typer.Option("--brief", help="For a busy machine: fewer points, one thread, the process's own CPU time.")
    ] = False,
) -> None:
    """Measure decoding beside its peers on this machine's CPU; writes benchmarks/results/, the figures and the tables."""
    from ssd_lib.paths import REPOSITORY

    if not (REPOSITORY / "benchmarks").is_dir():
        fail(FileNotFoundError("the benchmark is part of the repository, not of the package: clone it"))
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks.run import PARTS, main  # pyright: ignore[reportMissingImports]

    if only not in ("", *PARTS):
        fail(ValueError(f"--only is one of {', '.join(PARTS)}, not {only!r}"))
    typer.echo(main(quick=quick, only=only, brief=brief))
