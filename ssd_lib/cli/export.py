"""`ssd export`: a pair as one model folder for transformers' pipeline and server."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ssd_lib.cli.common import Draft, DraftFormat, Target, TargetFormat, app, fail, plain, quiet_libraries


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The new folder.")],
    pair: Annotated[str | None, typer.Option(help="A registered pair; none: --target and --draft, else toy.")] = None,
    hardened: Annotated[bool, typer.Option("--hardened", help="Hardened switching instead of the published.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Sample at this temperature unless a request says otherwise; default: greedy.")
    ] = None,
    target: Target = None,
    draft: Draft = None,
    target_format: TargetFormat = None,
    draft_format: DraftFormat = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: float32, bfloat16, float16; default: float32 on a CPU.")
    ] = None,
) -> None:
    """Write target, draft and method into one folder that transformers' pipeline and `transformers serve` load."""
    try:
        import torch

        from ssd_lib.models.export import export_pair
        from ssd_lib.models.pairs import load_pair

        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"--dtype is float32, bfloat16 or float16, not {dtype!r}")
        quiet_libraries()
        loaded = load_pair(
            pair,
            target=target,
            draft=draft,
            target_format=target_format,
            draft_format=draft_format,
            dtype=None if dtype is None else getattr(torch, dtype),
        )
        config = loaded.config.harden() if hardened else loaded.config
        if temperature is not None:
            config = replace(config, do_sample=True, temperature=temperature)
        folder = export_pair(loaded.with_config(config), out)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    typer.echo(
        f"transformers serve {plain(shlex.quote(str(folder)))} --trust-remote-code    (never with --continuous-batching: it goes round SSD)"
    )
