"""What every command shares: the application, errors as one line, untrusted text made harmless, quiet libraries."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Speculative Safety-Aware Decoding (arXiv 2508.17739)."
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
