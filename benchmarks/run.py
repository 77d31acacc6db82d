"""Everything that `make bench` measures, part by part; each part writes its CSV as it is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import transformers

from benchmarks import cpu, hardened, parts, peers, products, tables
from benchmarks.cpu import BRIEF, QUICK, Plan
from benchmarks.plot import draw
from ssd_lib.paths import REPOSITORY

PARTS: dict[str, Callable[[Plan], pd.DataFrame]] = {
    "products": lambda plan: products.products(plan.shapes, plan.products_repeats),
    "speed": cpu.speed,
    "scaling": cpu.scaling,
    "parts": parts.shares,
    "batches": parts.batches,
    "lookup": cpu.lookup,
    "hardened": hardened.hardened,
}
TRIED = REPOSITORY / "runs" / "bench"
"""Where the results of a quick run go."""


def main(quick: bool = False, only: str = "", brief: bool = False, out: Path | None = None) -> str:
    """Measure, write CSVs, figures and the page's tables; returns the tables as text.

    Args:
        quick: Micro shapes; page and figures stay as they are, and CSVs go to runs/bench.
        only: One of `PARTS`; the rest is read from the last run.
        brief: Fewer points and tokens, one thread, and the process's own CPU time: for a machine that others use, too.
        out: The folder of the CSVs.
    """
    if only not in ("", *PARTS):
        raise ValueError(f"only is one of {', '.join(PARTS)}, not {only!r}")
    transformers.utils.logging.set_verbosity_error()
    plan = QUICK if quick else BRIEF if brief else Plan()
    cpu.RESULTS = out or (TRIED if quick else cpu.RESULTS)
    if brief:
        peers.measure_cpu_time()
        torch.set_num_threads(1)
    frames = {name: _frame(name, measure, plan, only) for name, measure in PARTS.items()}
    frames = {name: frame for name, frame in frames.items() if frame is not None}
    if len(frames) < len(PARTS):
        return tables.about(frames) + "\n\n" + "\n\n".join(frame.to_string() for frame in frames.values())
    if not quick and out is None:
        draw(cpu.RESULTS)
        tables.write_page(frames)
    return tables.text(frames)


def _frame(name: str, measure: Callable[[Plan], pd.DataFrame], plan: Plan, only: str) -> pd.DataFrame | None:
    """A part measured now, or as it was measured last; None if it never was."""
    if only in ("", name):
        return measure(plan)
    on_disk = cpu.RESULTS / f"{name}.csv"
    return pd.read_csv(on_disk) if on_disk.exists() else None
