"""Judging stored answers, later or again, without generating.

Verdicts are kept in a table of their own, keyed (answer, judge, version), so a run can be judged by several judges, by a
judge's next version, and on another machine. A judge is asked only about the records that it can judge, batch by batch; each
batch is written whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm

from ssd_lib.attacks import Record
from ssd_lib.experiments.config import Choice, check_judges, find_judge, read_choices
from ssd_lib.experiments.store import Store, store_file
from ssd_lib.judges import JUDGES, judge
from ssd_lib.settings import of_kind

BATCH = 64
"""Answers judged and written together; a remote judge works on them concurrently."""


def can_judge(name: str, record: Record) -> bool:
    """Whether a judge's verdict on a record means anything: the exact grader, say, knows only the shipped pairs' worlds."""
    return JUDGES[name].applies(record)


def judge_run(
    path: str | Path,
    judges: Iterable[str | Choice],
    *,
    again: bool = False,
    again_unjudged: bool = False,
    progress: bool = True,
) -> None:
    """Judge the answers of a stored run that have no verdict yet.

    Args:
        path: The run's folder or database.
        judges: Names, or `Choice`s that hold a judge's options.
        again: Ask about every answer.
        again_unjudged: Ask again where a judge gave no verdict.
        progress: Show a tqdm bar.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: For an unknown judge or option, or a run that another process is writing.
        RuntimeError: Where a judge needs a key and has none.
        ImportError: Where a package is missing that a judge needs.
    """
    for name, flag in (("again", again), ("again_unjudged", again_unjudged), ("progress", progress)):
        of_kind(name, flag, bool)
    chosen = read_choices(judges, find_judge)
    check_judges(chosen)
    with Store.open(store_file(path).parent) as store:
        for choice in chosen:
            judge_store(store, choice, again=again, again_unjudged=again_unjudged, progress=progress)


def judge_store(
    store: Store, choice: Choice, *, again: bool = False, again_unjudged: bool = False, progress: bool = True
) -> None:
    """Let one judge look at what it has not judged yet in an open store."""
    asked = [
        one
        for one in store.to_judge(choice, again=again, again_unjudged=again_unjudged)
        if can_judge(choice.name, one.record)
    ]
    with tqdm(total=len(asked), desc=f"judge {choice.label}", unit="answer", disable=not progress or not asked) as bar:
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            records, texts = [one.record for one in part], [one.text for one in part]
            verdicts = judge(choice.name, records, texts, **choice.given)
            store.add_verdicts(choice, part, verdicts)
            unjudged = sum(verdict.unjudged is not None for verdict in verdicts)
            bar.set_postfix_str(f"{unjudged} unjudged in the last {len(part)}" if unjudged else "", refresh=False)
            bar.update(len(part))
