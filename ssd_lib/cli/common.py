"""What every command shares: the application, errors as one line, untrusted text made harmless, quiet libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
import typer.core


class Plain(typer.core.TyperGroup):
    """Commands whose usage errors repeat what was typed without its control characters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with made_plain():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with made_plain():
            return super().invoke(ctx)


@contextmanager
def made_plain() -> Iterator[None]:
    """Usage errors from inside have a harmless message."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            setattr(error, "message", plain(message))  # noqa: B010 (click's errors, of whatever class typer has)
        raise


app = typer.Typer(
    cls=Plain, no_args_is_help=True, add_completion=False, help="Speculative Safety-Aware Decoding (arXiv 2508.17739)."
)

Target = Annotated[str | None, typer.Option(help="Another target: Hub id, path or GGUF file.")]
Draft = Annotated[str | None, typer.Option(help="Another draft, likewise.")]
TargetFormat = Annotated[
    str | None,
    typer.Option(
        help="A known chat template (llama2, vicuna, llama3, tinyllama), for a target without one of its own."
    ),
]
DraftFormat = Annotated[str | None, typer.Option(help="The same for the draft.")]


def given(**options: Any) -> dict[str, Any]:
    """Those of the options that the user gave a value."""
    return {name: value for name, value in options.items() if value is not None}


def fail(error: Exception) -> NoReturn:
    """One line on stderr and exit code 1."""
    typer.echo(f"ssd: {one_line(error)}", err=True)
    raise typer.Exit(1)


def one_line(error: Exception) -> str:
    """An error's first line, made harmless."""
    return plain((str(error).splitlines() or [type(error).__name__])[0])


def plain(text: str) -> str:
    """Text whose control characters cannot reach the terminal; line breaks stay."""
    from ssd_lib.method.trace import visible

    return visible(text).replace("⏎", "\n")


def quiet_libraries() -> None:
    """No warnings and bars of transformers between our lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
