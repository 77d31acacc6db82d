"""`ssd doctor`: do two models belong together?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssd_lib.cli.common import Draft, DraftFormat, Target, TargetFormat, app, fail, plain, quiet_libraries

STYLES = {"ok": "green", "look": "yellow", "fault": "bold red"}


@app.command()
def doctor(
    pair: Annotated[str | None, typer.Option(help="A registered pair; none: --target and --draft.")] = None,
    target: Target = None,
    draft: Draft = None,
    target_format: TargetFormat = None,
    draft_format: DraftFormat = None,
) -> None:
    """Check that two models are a pair, without loading their weights; exit code 1 where they cannot work together."""
    from ssd_lib.experiments.doctor import examine

    quiet_libraries()
    try:
        findings = examine(pair, target=target, draft=draft, target_format=target_format, draft_format=draft_format)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    table = Table("", "target", "draft", "", "")
    table.columns[0].no_wrap = True
    for found in findings:
        cells = [Text(plain(cell)) for cell in (found.check, found.target, found.draft)]
        table.add_row(*cells, Text(found.verdict, style=STYLES[found.verdict]), Text(plain(found.advice)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if any(found.verdict == "fault" for found in findings):
        raise typer.Exit(1)
