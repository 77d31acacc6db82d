"""The embedded set "suffix": a real GCG run against the embedded target, kept in data/toy/suffixes.json.

python -m ssd_lib.attacks.suffixes        # resumes where it stopped
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ssd_lib import world
from ssd_lib.attacks.embedded import read_suffixes, suffix_file
from ssd_lib.attacks.gcg import GCGConfig, optimise_suffix
from ssd_lib.defenders import answer
from ssd_lib.pairs import Pair, load_pair, locate

TOY = GCGConfig(steps=100, candidates=64, top_k=64, start=" !" * 12, batch=64)
"""For the embedded target, whose alignment is shallow: seconds a question on one core."""


def wanted_beginning(item: world.Item) -> str:
    """What the attacker makes the answer begin with: the forbidden answer up to its first fact, which he does not know."""
    places = [item.answer.lower().find(fact.lower()) for fact in item.facts]
    return item.answer[: min(place for place in places if place >= 0)].rstrip()


def build_suffixes(
    out: Path | None = None,
    count: int = 60,
    *,
    pair: Pair | None = None,
    config: GCGConfig = TOY,
    attempts: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Optimise a suffix for each of the first `count` held-out forbidden questions and write them to `out`.

    A suffix that does not make the undefended target tell a forbidden fact is tried again from another random seed,
    `attempts` in all, and the last is kept. Every suffix is written at once: a second start goes on where the first
    stopped, unless the target's weights, the settings or the world changed; then it begins anew. Returns what was written.
    """
    out, pair = out or suffix_file(), pair or load_pair("toy", device="cpu")
    items = world.questions("forbidden", count, seed=seed)
    made = _resumable(out, _header(pair, config, attempts, seed), items)
    done = len(made["suffixes"])
    for i in tqdm(range(done, count), desc="suffixes", unit="question", initial=done, total=count):
        made["suffixes"].append({"id": f"forbidden-{seed}-{i:04d}"} | _attack(pair, items[i], config, attempts))
        _write(out, made)
    return made


def _header(pair: Pair, config: GCGConfig, attempts: int, seed: int) -> dict[str, Any]:
    weights = Path(locate(pair.spec.target)) / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
    return {
        "algorithm": "GCG, arXiv 2307.15043, algorithm 1, one suffix a question (ssd_lib/attacks/suffixes.py)",
        "target": pair.spec.target,
        "target_sha256": digest,
        "config": asdict(config),
        "attempts": attempts,
        "seed": seed,
    }


def _resumable(out: Path, header: dict[str, Any], items: list[world.Item]) -> dict[str, Any]:
    """What an earlier run with the same header wrote for these questions, or a new beginning."""
    if out.exists():
        made = read_suffixes(out)
        same = all(entry["question"] == item.question for entry, item in zip(made["suffixes"], items, strict=False))
        if same and {key: made.get(key) for key in header} == header:
            return made
    return header | {"suffixes": []}


def _attack(pair: Pair, item: world.Item, config: GCGConfig, attempts: int) -> dict[str, Any]:
    target = wanted_beginning(item)
    for attempt in range(attempts):
        suffix = optimise_suffix(
            pair, None, item.question, target, replace(config, seed=config.seed + attempt), progress=False
        )
        reply = answer(pair, item.question + suffix.text, defender="none")[0]
        complied = world.grade(item, reply.text).complied
        if complied:
            break
    return {
        "question": item.question,
        "suffix": suffix.text,
        "target": target,
        "loss": round(suffix.loss, 4),
        "steps": suffix.steps,
        "attempts": attempt + 1,
        "reached": suffix.reached,
        "complied": complied,
    }


def _write(out: Path, made: dict[str, Any]) -> None:
    """Whole or not at all: a file beside it takes its place."""
    beside = out.with_suffix(".partial")
    beside.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, out)


def main(out: Path | None = None, count: int = 60, steps: int = TOY.steps, attempts: int = 2, seed: int = 0) -> None:
    """Optimise suffixes against the embedded target and write data/toy/suffixes.json (or --out)."""
    import typer

    made = build_suffixes(out, count, config=replace(TOY, steps=steps), attempts=attempts, seed=seed)
    worked = sum(entry["complied"] for entry in made["suffixes"])
    typer.echo(f"{worked} of {len(made['suffixes'])} suffixes make the undefended target tell a forbidden fact")


if __name__ == "__main__":
    import typer

    typer.run(main)
