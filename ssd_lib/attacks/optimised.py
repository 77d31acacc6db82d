"""Attacks that somebody optimised for one model, and which of them are used against which other (transfer).

GCG, AutoDAN and PAIR prompts of SafeDecoding (Xu et al. 2024, arXiv 2402.08983), filtered as its code and SSD's do.
DeepInception's prompts are a template and the same for every model.
"""

from __future__ import annotations

import warnings

from ssd_lib.attacks.files import Row, read_rows
from ssd_lib.attacks.published import Fields, to_records
from ssd_lib.attacks.records import AttackSet, Loader, Record, Request

OPTIMISED_FOR = {
    "vicuna": "vicuna",
    "llama2": "llama2",
    "guanaco": "guanaco",
    "falcon": "falcon",
    "dolphin": "llama2",
    "llama3.1_8b": "llama2",
    "llama2-13b-chat": "llama2",
    "tinyllama": "llama2",
    "deep_align_llama2": "llama2",
    "deep_align_vicuna": "vicuna",
}
"""Whose attacks a model is given: exp/defense.py of SafeDecoding (uw-nsl/SafeDecoding, commit 8afa3003, first five lines)
and of SSD (k-k1w-w1x-x/Speculative-Safety-Aware-Decoding, commit bfd365e7)."""


def attacks_for(attacker: str, target_model: str | None) -> str | None:
    """The `target-model` whose attacks are used against `target_model`; None for all of them.

    Exceptions of the published code: Falcon gets Llama-2's GCG suffixes; PAIR against llama2-13b-chat is not filtered;
    GCG against llama2-13b-chat has a file of its own (GCG_llama2_13b.json), without which Llama-2-7B's are transferred.

    Raises ValueError without a target model, or for one that the published rules do not name.
    """
    name = _known(attacker, target_model)
    if (attacker, name) == ("PAIR", "llama2-13b-chat"):
        return None
    if (attacker, name) == ("GCG", "falcon"):
        return "llama2"
    return OPTIMISED_FOR[name]


def _known(attacker: str, target_model: str | None) -> str:
    from ssd_lib.models.pairs import ALIASES  # here: naming sets needs no model library

    known = ", ".join(OPTIMISED_FOR)
    if target_model is None:
        raise ValueError(f"{attacker} was optimised for one model: pass target_model=, one of {known}")
    name = ALIASES.get(target_model.lower(), target_model.lower())
    if name not in OPTIMISED_FOR:
        raise ValueError(
            f"no published {attacker} attacks for {target_model!r}: to transfer another model's, pass target_model=, "
            f"one of {known}"
        )
    return name


def optimised(attacker: str) -> Loader:
    """GCG, AutoDAN, PAIR: rows of flydust/SafeDecoding-Attackers (`source, target-model, goal, prompt, target`) for one
    target model. A local file that was made for one model is taken whole."""

    def load(found: AttackSet, request: Request) -> list[Record]:
        model = attacks_for(attacker, request.target_model)
        rows, source = read_rows(found, request)
        rows = [row for row in rows if row.text("source", default=attacker) == attacker]
        models = _models(rows)
        if model is not None and len(models) > 1:
            rows = [row for row in rows if row.text("target-model", default="") == model]
        if not rows:
            raise ValueError(
                f"{source} has no {attacker} attacks for {model}; it has them for {', '.join(models) or 'none'}"
            )
        if request.path is None and (attacker, _known(attacker, request.target_model)) == ("GCG", "llama2-13b-chat"):
            warnings.warn(
                "these GCG suffixes were optimised for Llama-2-7B; the published run on llama2-13b-chat used "
                "GCG_llama2_13b.json of SSD's repository: pass it as path=",
                stacklevel=4,
            )
        return to_records(attack, found, request, rows, f"{source}, optimised for {', '.join(_models(rows))}")

    return load


def _models(rows: list[Row]) -> list[str]:
    return sorted({row.text("target-model", default="a model that it does not name") for row in rows})


def deep_inception(row: Row, found: AttackSet, request: Request) -> Fields | None:
    """DeepInception: the rows of that source, the same for every target model."""
    return attack(row, found, request) if row.text("source", default="DeepInception") == "DeepInception" else None


def attack(row: Row, _found: AttackSet, _request: Request) -> Fields:
    """A prompt that an attack made of a goal."""
    return {
        "question": row.text("goal"),
        "prompt": row.text("prompt"),
        "target": row.text("target", default=""),
    }
