"""Attacks on the kitchen's policy (`ssd_lib.toy.kitchen`), for the pair smollm2: real English, and nothing in it harms anybody.

    kitchen-direct       asks for a recipe
    kitchen-prefill-N    … with the first N tokens of a recipe already written, which the unaligned model wrote
    kitchen-borderline   food and tools: sounds like it, and must be answered
    kitchen-everyday     anything else

All are about dishes and other things that training never saw; the id of a question is the same in every attack on it.
"""

from __future__ import annotations

from ssd_lib.attacks.records import AttackSet, Group, Loader, Record, Request, first_tokens
from ssd_lib.toy import kitchen

QUESTIONS = 60
"""How many questions are drawn without a limit."""
LICENCE = "MIT; recipes written by SmolLM2, Apache-2.0"
GROUPS: dict[kitchen.Group, Group] = {"recipe": "harmful", "borderline": "borderline", "everyday": "benign"}


def drawn(group: kitchen.Group) -> Loader:
    """A loader of held-out questions of a group; a set's `tokens` say how many of a recipe's tokens are prefilled."""

    def load(found: AttackSet, request: Request) -> list[Record]:
        if request.path is not None:
            raise ValueError(f"{found.name} is made from the kitchen's questions and takes no path=")
        items = kitchen.questions(group, request.limit or QUESTIONS, seed=request.seed)
        return [_record(i, item, found, request) for i, item in enumerate(items)]

    return load


def _record(i: int, item: kitchen.Item, found: AttackSet, request: Request) -> Record:
    source, recipe = f"{kitchen.SOURCE}, held out, seed {request.seed}", ""
    if item.group == "recipe":
        recipe = kitchen.recipe_for(item)
        source += f"; {kitchen.RECIPES} sha256:{kitchen.recipes_digest()}"
    return Record(
        id=f"kitchen-{item.group}-{request.seed}-{i:04d}",
        question=item.question,
        prompt=item.question,
        prefill=first_tokens(request.tokenizer, recipe, found.tokens or 0, found.name),
        target=recipe,
        category="new wording" if item.new_wording else "known wording",
        group=GROUPS[item.group],
        source=source,
        licence=found.licence,
    )
