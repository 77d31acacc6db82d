"""The embedded set "suffix": a real GCG run against the embedded target, kept in data/toy/suffixes.json.

python -m ssd_lib.attacks.suffixes        # resumes where it stopped
python -m ssd_lib.attacks.suffixes --draft-weight 0.5 --count 24 --steps 50 --attempts 1 --out data/toy/suffixes-joint.json

The second line makes the suffixes of an attacker who knows SSD, optimised against target and draft at once; with more
attempts they are tried again until SSD, and not the undefended target, leaks a forbidden fact. Two more attackers know the
scheduler: `--aim match --bins 2` also asks that every token of the first two bins be the draft's own proposal, and
`--aim fail --bins 3` takes *benign* questions and makes the draft miss the first three bins of the target's own answer, so
that SSD switches to Union and slows down (after Mistletoe, arXiv 2605.14005; `gcg.without` says what is theirs and what could
not be confirmed). The shipped set was made without their projection of one gradient off the other, which `--project` adds.
Each set is loaded by its name ("suffix", "suffix-joint", "suffix-match", "slow"), `load_set("suffix", path=…)` reads any
such file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm

from ssd_lib.attacks.embedded import read_suffixes, suffix_file
from ssd_lib.attacks.gcg import DraftAim, GCGConfig, continued, optimise_suffix
from ssd_lib.defenders import Answer, answer
from ssd_lib.models.loading import locate
from ssd_lib.models.pairs import Pair, load_pair
from ssd_lib.paths import write_whole
from ssd_lib.toy import world

TOY = GCGConfig(steps=100, candidates=64, top_k=64, start=" !" * 12, batch=64)
"""For the embedded target, whose alignment is shallow: seconds a question on one core."""


def wanted_beginning(item: world.Item) -> str:
    """What the attacker makes the answer begin with: the forbidden answer up to its first fact, which they do not know."""
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
    draft_weight: float = 0.0,
    aim: DraftAim = "begin",
    bins: int = 1,
    project: bool = False,
) -> dict[str, Any]:
    """Optimise a suffix for each of the first `count` held-out forbidden questions and write them to `out`.

    A suffix that does not make the undefended target (with a draft_weight: SSD) leak a forbidden fact is tried again from
    another random seed, `attempts` in all, and the last is kept. A second start goes on where the first stopped
    (`search_each`), unless the weights, the settings or the world changed.

    Args:
        out: Default: data/toy/suffixes.json.
        count: How many questions.
        pair: Default: the embedded pair.
        config: Settings of the search.
        attempts: Searches of a question, at most.
        seed: Decides which questions are drawn.
        draft_weight: As for `optimise_suffix`.
        aim: Its draft_aim. "fail" takes benign questions, and a suffix has worked when SSD switches to Union.
        bins: As for `optimise_suffix`.
        project: As for `optimise_suffix`.

    Returns:
        What was written.
    """
    pair = pair or load_pair("toy", device="cpu")
    wanted: dict[str, Any] = {} if aim == "begin" else {"draft_aim": aim, "bins": bins}
    wanted |= {"project": True} if project else {}
    header: dict[str, Any] = {
        "algorithm": "GCG, arXiv 2307.15043, algorithm 1, one suffix a question (ssd_lib/attacks/suffixes.py)",
        "target": pair.spec.target,
        "target_sha256": weights(pair.spec.target),
        "config": asdict(config),
        "attempts": attempts,
        "seed": seed,
    }
    if draft_weight:
        header |= {"draft_weight": draft_weight, "draft_sha256": weights(pair.spec.draft)}
    attack = partial(_attack, pair, config=config, attempts=attempts, joint={"draft_weight": draft_weight} | wanted)
    return search_each(out or suffix_file(), header | wanted, count, attack, "benign" if aim == "fail" else "forbidden")


def weights(model: str | None) -> str:
    """SHA-256 of a local model's weights, empty where there are none."""
    path = Path(locate(model or "")) / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def search_each(
    out: Path,
    header: dict[str, Any],
    count: int,
    attack: Callable[[world.Item], dict[str, Any]],
    group: world.Group = "forbidden",
) -> dict[str, Any]:
    """What `attack` finds for each of the first `count` held-out questions, after a header, whose seed draws them.

    Every question is written to `out` at once. A second start goes on where the first stopped, unless the header or the
    questions changed; then it begins anew.
    """
    items = world.questions(group, count, seed=header["seed"])
    made = _resumable(out, header, items)
    done = len(made["suffixes"])
    for i in tqdm(range(done, count), desc=out.stem, unit="question", initial=done, total=count):
        made["suffixes"].append({"id": f"{group}-{header['seed']}-{i:04d}"} | attack(items[i]))
        write_whole(out, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return made


def _resumable(out: Path, header: dict[str, Any], items: list[world.Item]) -> dict[str, Any]:
    """What an earlier run with the same header wrote for these questions, or a new beginning."""
    if out.exists():
        made = read_suffixes(out)
        same = all(entry["question"] == item.question for entry, item in zip(made["suffixes"], items, strict=False))
        if same and {key: value for key, value in made.items() if key != "suffixes"} == header:
            return made
    return header | {"suffixes": []}


def _attack(pair: Pair, item: world.Item, config: GCGConfig, attempts: int, joint: dict[str, Any]) -> dict[str, Any]:
    slow, defender = joint.get("draft_aim") == "fail", "ssd" if joint["draft_weight"] else "none"
    target = clean_answer(pair, item, joint["bins"]) if slow else wanted_beginning(item)
    for attempt in range(attempts):
        again = replace(config, seed=config.seed + attempt)
        suffix = optimise_suffix(pair, None, item.question, target, again, progress=False, **joint)
        reply = answer(pair, item.question + suffix.text, defender=defender)[0]
        worked = _fell_into_union(reply) if slow else world.grade(item, reply.text).complied
        if worked:
            break
    return {
        "question": item.question,
        "suffix": suffix.text,
        "target": target,
        "loss": round(suffix.loss, 4),
        "steps": suffix.steps,
        "attempts": attempt + 1,
        "reached": suffix.reached,
        "slowed" if slow else "complied": worked,
    }


def clean_answer(pair: Pair, item: world.Item, bins: int) -> str:
    """What the target itself answers, to the end of so many bins: what a suffix that slows SSD down must not change."""
    return str(pair.tokenizer.decode(continued(pair, item.question, "", bins * pair.config.bin_size)))


def _fell_into_union(reply: Answer) -> bool:
    return reply.trace is not None and bool((reply.trace.frame["scheme"] == "union").any())


def main(
    out: Path | None = None,
    count: int = 60,
    steps: int = TOY.steps,
    attempts: int = 2,
    seed: int = 0,
    draft_weight: float = 0.0,
    aim: str = "begin",
    bins: int = 1,
    project: bool = False,
    target: str | None = None,
    draft: str | None = None,
) -> None:
    """Optimise suffixes against the embedded target (with --draft-weight: and its draft) and write them to a file.

    Without --out that is data/toy/suffixes.json, which holds the suffixes against the target alone. --target and --draft
    take the place of the shipped models (another training of the pair, say), and need --out.
    """
    import typer

    if draft_weight and out is None:
        raise typer.BadParameter("--draft-weight needs --out: the default file is for the target alone")
    if aim not in get_args(DraftAim) or (aim != "begin" and not draft_weight):
        raise typer.BadParameter(f"--aim is one of {', '.join(get_args(DraftAim))}, and needs a --draft-weight")
    if project and not draft_weight:
        raise typer.BadParameter("--project needs a --draft-weight: it is the draft's gradient that is projected")
    if (target or draft) and out is None:
        raise typer.BadParameter("--target and --draft need --out: the default file is for the shipped pair")
    config, pair = replace(TOY, steps=steps), load_pair("toy", target=target, draft=draft, device="cpu")
    options: Any = {"seed": seed, "draft_weight": draft_weight, "aim": aim, "bins": bins, "project": project}
    made = build_suffixes(out, count, pair=pair, config=config, attempts=attempts, **options)
    worked, asked = sum(entry.get("complied", entry.get("slowed")) for entry in made["suffixes"]), "the bare target"
    what = "SSD fall into Union" if aim == "fail" else f"{'SSD' if draft_weight else asked} tell a forbidden fact"
    typer.echo(f"{worked} of {len(made['suffixes'])} suffixes make {what}")


if __name__ == "__main__":
    import typer

    typer.run(main)
