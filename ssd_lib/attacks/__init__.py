"""Attack sets and benign sets, with one type of record.

    from ssd_lib.attacks import load_set
    records = load_set("prefill-20", limit=50, tokenizer=pair.tokenizer)
    answers = answer(pair, [r.prompt for r in records], prefill=[r.prefill for r in records])

`records` says what a record is and `registry` names every set: those of the shipped pairs' own worlds (`embedded`), the
published ones (`published.toml`, read by `published` through `files`) and a file of your own (`custom`). `prefilling` begins
the answers of any of them. `asking` puts records to a defender, also in several calls; `rap` assembles answers from rankings.
`gcg` optimises a suffix; `suffixes` and `agreeing` search for the suffixes and prefills that ship.
"""

from ssd_lib.attacks.embedded import world_item
from ssd_lib.attacks.records import AttackSet, Group, HubData, Record
from ssd_lib.attacks.registry import SETS, describe, find_set, load_set

__all__ = ["SETS", "AttackSet", "Group", "HubData", "Record", "describe", "find_set", "load_set", "world_item"]
