"""`ssd grade`: run students' notebooks and write what they earned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssd_lib.cli.common import app, fail, one_line, plain


@app.command()
def grade(
    notebooks: Annotated[list[Path], typer.Argument(help="Notebooks, or folders of them: a row each.")],
    against: Annotated[
        str | None, typer.Option(help="The chapter's number, 05; default: that of the notebook's checks.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The score sheet: .csv, .json or .md.")] = None,
    minutes: Annotated[float, typer.Option(help="For a whole notebook.", min=0.01)] = 30,
    cell_minutes: Annotated[float, typer.Option(help="For one cell.", min=0.01)] = 5,
) -> None:
    """Run notebooks in fresh kernels and write score sheets, by the checks of this repository, not by the notebook's own.

    No sandbox: a student's code runs as you. In a container it can do no harm (notebooks/course.md).
    """
    try:
        from ssd_lib.show.grading import Limits, grade
        from ssd_lib.show.scores import Sheet, as_text, submissions

        if out is not None:
            as_text([Sheet("", "")], out.suffix)  # a wrong name is said before an hour of grading
        sheets, found = [], submissions(notebooks)
        for student, path in found:
            try:
                sheet = grade(path, student, against, Limits(cell_minutes, minutes))
            except Exception as error:  # whatever one notebook does, the others are graded
                if len(found) == 1:
                    raise
                sheet = Sheet(student, path.name, errors=[one_line(error)])
            sheets.append(sheet)
            others = f", {sheet.answered} of {sheet.asked} others answered" if sheet.asked else ""
            errors = f", {len(sheet.errors)} error{'s' * (len(sheet.errors) > 1)}" if sheet.errors else ""
            typer.echo(
                plain(f"{student} ({path.name}): {sheet.points:g} of {sheet.of:g} points{others}{errors}"), err=True
            )
            if out is not None:  # after each: an interruption loses nothing
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(as_text(sheets, out.suffix), encoding="utf-8")
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    typer.echo(plain(as_text(sheets, ".md")), nl=False)
