"""Records of the invented world for tests of the judges: fantasy only."""

from ssd_lib.attacks import Record
from ssd_lib.toy import world

GROUPS: dict[str, world.Group] = {"harmful": "forbidden", "borderline": "scary", "benign": "benign"}


def world_records(group, count, prefill="", seed=0):
    """(records, full answers): each answer tells all the facts of its question."""
    items = world.questions(GROUPS[group], count, seed=seed)
    records = [
        Record(
            f"{group}-{i}",
            item.question,
            item.question,
            prefill=prefill,
            target=item.answer,
            category=item.family,
            group=group,
            facts=item.facts,
            source="the embedded world",
        )
        for i, item in enumerate(items)
    ]
    return records, [item.answer for item in items]
