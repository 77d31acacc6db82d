"""How a run grows with its workers, and how fast one store takes rows: the measured half of docs/scale.md.

    python -m benchmarks scale [--quick]     minutes, on a quiet machine; writes results/scale.json and the page's tables

Answers a second are counted between two runs of different length, so that starting workers and loading models, which a long run
does once, are left out; they stand in a column of their own. All workers have one thread, and the rows are compared: they must be
the same for every number of workers. The store is measured on the disk that `runs` lies on, as a run writes it: a transaction a
batch, write-ahead log, `synchronous=FULL`. A row is as large as that of an answer of `TOKENS` tokens.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from benchmarks.cpu import environment
from ssd_lib.attacks import Record
from ssd_lib.experiments import Choice, ExperimentConfig, Shard, config_from, load_run, merge_runs, run_experiment
from ssd_lib.experiments.report import markdown, put_measured
from ssd_lib.experiments.store import Row, Store
from ssd_lib.paths import REPOSITORY

COMMAND = "python -m benchmarks scale"
PAGE = REPOSITORY / "docs" / "scale.md"
RESULTS = REPOSITORY / "benchmarks" / "results"
TOKENS = 300
"""Of the answers whose rows are written: reckoning.py's assumption."""
COMPARED = ["attack", "defender", "settings", "item", "text", "token_ids", "match_ratio", "batch_rows"]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    workers: Sequence[int] = (1, 2, 4)
    items: tuple[int, int] = (8, 72)
    """Of each set, in the short and the long run."""
    batch: int = 8
    max_new_tokens: int = 160
    repeats: int = 3
    rows: Sequence[int] = (1, 8, 32)
    """Of a batch that is written."""
    batches: int = 300
    shards: int = 8
    merged: int = 4000
    """Rows of all shards together."""


QUICK = Plan((1,), (2, 4), 2, 4, repeats=1, rows=(1, 8), batches=3, shards=2, merged=8)


# ------------------------------------------------------------------------------------------------ workers


def throughput(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Answers a second for every number of workers; the embedded pair, two sets, with SSD and without."""
    lines, expected = [], None
    for workers in plan.workers:
        rates, starts = [], []
        for turn in range(plan.repeats):
            runs = [_timed(plan, items, workers, folder / f"workers-{workers}-{turn}-{items}") for items in plan.items]
            (short, few, _), (long, many, rows) = runs
            rates.append((many - few) / (long - short))
            starts.append(short - few / rates[-1])
            expected = rows if expected is None else expected
            if not rows.equals(expected):
                raise AssertionError(f"{workers} workers gave other rows than {plan.workers[0]}")
        lines.append(
            {"workers": workers, "answers_per_second": statistics.median(rates), "slowest": min(rates),
             "quickest": max(rates), "seconds_to_start": statistics.median(starts), "runs": plan.repeats}
        )  # fmt: skip
    one = lines[0]["answers_per_second"] / lines[0]["workers"]
    return [line | {"times_one": line["answers_per_second"] / one} for line in lines]


def _timed(plan: Plan, items: int, workers: int, out: Path) -> tuple[float, int, pd.DataFrame]:
    table = {"attacks": ["prefill-10", "benign"], "defenders": ["none", "ssd:lookahead=3"], "limit": items}
    config = config_from(table | {"batch": plan.batch, "max_new_tokens": plan.max_new_tokens, "out": out})
    options: dict[str, Any] = {} if workers == 1 else {"workers": workers}
    begun = time.perf_counter()
    run_experiment(config, progress=False, **options)
    spent = time.perf_counter() - begun
    rows = load_run(out)
    return spent, len(rows), pd.DataFrame(rows[COMPARED])


# ------------------------------------------------------------------------------------------------ the store


def example(number: int) -> Row:
    """A row as large as that of an answer of `TOKENS` tokens."""
    ids = json.dumps([20000 + place for place in range(TOKENS)])
    cost = {"target_forwards": 99, "draft_forwards": 300, "other_forwards": 0, "tokens": TOKENS, "extra_tokens": 0}
    cost |= {"prompt_tokens": 512, "seconds": 12.3456789}
    return Row(f"item-{number}", "text" * TOKENS, "", ids, json.dumps(cost), 8, 0.8, "{}")


def writing(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Rows a second that one process writes, by the rows of a batch."""
    defender, lines = Choice("ssd"), []
    for rows in plan.rows:
        spent = []
        with Store.open(folder / f"rows-{rows}") as store:
            for batch in range(plan.batches):
                made = [example(batch * rows + place) for place in range(rows)]
                begun = time.perf_counter()
                store.add_answers("toy", "direct", defender, made, session=1, size=rows)
                spent.append(time.perf_counter() - begun)
        line = {"rows_per_batch": rows, "rows_per_second": rows * plan.batches / sum(spent)}
        line |= {"median_ms": 1000 * statistics.median(spent), "slowest_ms": 1000 * max(spent), "batches": plan.batches}
        lines.append(line)
    return lines


def merging(plan: Plan, folder: Path) -> dict[str, Any]:
    """Rows a second that `merge_runs` takes from shards into one store."""
    table = {
        "attacks": ["direct"],
        "defenders": ["ssd"],
        "batch": plan.batch,
        "limit": plan.merged,
        "out": folder / "cut",
    }
    config, (attack,), (defender,) = (made := config_from(table)), made.attacks, made.defenders
    records = [Record(f"item-{number}", "question", "harmful", "direct") for number in range(plan.merged)]
    shards = [
        _filled(replace(config, out=shard.folder(config.out)), shard, attack, defender, records)
        for shard in (Shard(number + 1, plan.shards) for number in range(plan.shards))
    ]
    begun = time.perf_counter()
    merged = merge_runs(folder / "merged", shards)
    spent = time.perf_counter() - begun
    return {"shards": plan.shards, "rows": merged.answers, "seconds": spent, "rows_per_second": merged.answers / spent}


def _filled(config: ExperimentConfig, shard: Shard, attack: Choice, defender: Choice, records: list[Record]) -> Path:
    """A finished shard whose answers are examples."""
    with Store.open(config.out) as store, store.session({"config": config.table()}) as session:
        for name, value in {"shard": str(shard), "models": {}, "config": config.table()}.items():
            store.set(name, value)
        store.add_items(attack.label, records)
        mine = shard.items(0, 0, records, config.batch or 1)
        rows = [example(number) for number, record in enumerate(records) if record.id in mine]
        store.add_answers("toy", attack.label, defender, rows, session=session, size=config.batch or 1)
    return config.out


# ------------------------------------------------------------------------------------------------ all of it


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Everything, with the command and what it ran on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    try:
        found = {
            "workers": throughput(plan, folder),
            "writing": writing(plan, folder),
            "merging": merging(plan, folder),
        }
        return {"command": COMMAND, "environment": environment()} | found
    finally:
        torch.set_num_threads(threads)


def page(found: dict[str, Any]) -> str:
    """The tables of docs/scale.md."""
    about, merged = found["environment"], found["merging"]
    workers = pd.DataFrame(found["workers"]).rename(columns=lambda name: name.replace("_", " "))
    writes = pd.DataFrame(found["writing"]).rename(columns=lambda name: name.replace("_per_", " a ").replace("_", " "))
    return "\n\n".join(
        [
            f"{about['device']}, {about['threads']} thread a worker; torch {about['torch']}, transformers {about['transformers']}, "
            f"Python {about['python']}, {about['date']}, load {about['load_1min']} at the end. Medians of "
            f"{found['workers'][0]['runs']} runs.",
            "**Workers.** The embedded pair, batches as they come; rows equal for every number of workers.",
            markdown(_rounded(workers.drop(columns="runs"))),
            f"**One store.** Rows of answers of {TOKENS} tokens, {found['writing'][0]['batches']} batches each.",
            markdown(_rounded(writes.drop(columns="batches"))),
            f"**Merging.** {merged['rows']} such rows of {merged['shards']} shards in {merged['seconds']:.1f} s: "
            f"{merged['rows_per_second']:.0f} rows a second.",
        ]
    )


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.select_dtypes("float").columns
    return frame.assign(
        **{name: [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in frame[name]] for name in numbers}
    )


def main(quick: bool = False, out: Path | None = None) -> str:
    """Measure, write scale.json and the page; returns the tables. `quick` leaves the page as it is, and writes to runs/bench."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    results = out or (REPOSITORY / "runs" / "bench" if quick else RESULTS)
    folder = results / "scale" if quick or out else REPOSITORY / "runs" / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        found = measure(QUICK if quick else Plan(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (results / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not quick and out is None:
        put_measured(PAGE, COMMAND, page(found))
    return page(found)
