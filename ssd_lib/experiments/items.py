"""A run's rows for others, so that they can recheck a table: two Parquet files and a dataset card, a folder that the Hub shows.

    answers.parquet     one line an answer: what was asked of whom, the answer, what it cost
    verdicts.parquet    one line a verdict: joined on `run` and `answer`
    README.md           what they hold, how it came about, under which terms

Questions of the worlds that ship here are anybody's to read. Those of other sets belong to their authors, some behind a form,
and the answers to them may do harm: such rows are written without their texts (`hidden`), with the prompt's hash, by which
whoever has the set can find the question again. `texts="all"` writes them too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from ssd_lib.attacks import find_set
from ssd_lib.experiments.config import Choice
from ssd_lib.experiments.report import about_of
from ssd_lib.experiments.store import load_run, load_verdicts
from ssd_lib.method.trace import visible
from ssd_lib.paths import replacing, write_whole

Texts = Literal["own", "all"]
ANSWERS, VERDICTS, CARD = "answers.parquet", "verdicts.parquet", "README.md"
OF_ANSWERS = ("question", "prompt", "prefill", "target", "facts", "text", "token_ids", "notes")
OF_VERDICTS = ("reason", "raw")
"""Columns that hold what was asked, answered, or quoted of either."""
OWN = ("embedded", "kitchen")
"""Kinds of the sets whose texts ship with this repository."""

CARD_TEXT = """---
pretty_name: {quoted}
tags: [safety, speculative-decoding]
configs:
  - config_name: answers
    data_files: {answers}
    default: true
  - config_name: verdicts
    data_files: {verdicts}
---
# {title}

{count} answers to the sets {sets} by {systems}, and {verdicts_count} verdicts on them by {judges}.
Made with `ssd_lib` (Speculative Safety-Aware Decoding, arXiv 2508.17739).

`answers` has one line an answer, `verdicts` one line a verdict; they join on `run` and `answer`. A rate of a report is a mean over
such lines:

```python
import pandas as pd
answers, verdicts = pd.read_parquet("{answers}"), pd.read_parquet("{verdicts}")
both = answers.merge(verdicts.drop(columns="tokens"), on=["run", "answer"])
both.groupby(["attack", "system", "judge"]).label.value_counts(normalize=True)
```

{hidden}

## How they came about

{about}

## Terms

{terms}
"""
HIDDEN = (
    "{count} answers are written without texts (`hidden`): their questions belong to others, and the answers may do harm. "
    "`prompt_sha256` is the hash of the prompt in UTF-8."
)
NONE_HIDDEN = (
    "Every answer is written with its texts. **Answers to harmful requests may be harmful**; read them as such."
)


def write_items(paths: Iterable[str | Path], out: str | Path, *, texts: Texts = "own", title: str = "") -> list[Path]:
    """Write the rows and verdicts of one run or several, and a card, into the folder `out`; returns the files.

    Args:
        texts: "own" writes the texts of the worlds that ship here alone, "all" every text.
        title: of the card; default: the runs' names.

    Raises:
        ValueError: for another value of `texts`, or two runs of one name; FileNotFoundError where there is no run.
    """
    folders = [Path(path) for path in paths]
    rows, verdicts = read_items(folders, texts)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in {ANSWERS: rows, VERDICTS: verdicts}.items():
        with replacing(out / name) as file:
            table.to_parquet(file, index=False)
    write_whole(out / CARD, _card(rows, verdicts, title or ", ".join(rows.run.unique()), about_of(folders)))
    return [out / ANSWERS, out / VERDICTS, out / CARD]


def read_items(paths: Iterable[str | Path], texts: Texts = "own") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and verdicts of runs as `load_run` and `load_verdicts` give them, with the columns run and hidden, rows with
    prompt_sha256 too; where a row is hidden, its texts are None. Arguments and errors as for `write_items`."""
    check_texts(texts)
    folders = [Path(path) for path in paths]
    names = [folder.resolve().name for folder in folders]
    if not folders or len(set(names)) < len(names):
        raise ValueError(f"the runs are told apart by their folders' names, and those are {', '.join(names) or 'none'}")
    rows = _joined([load_run(folder).assign(run=name) for folder, name in zip(folders, names, strict=True)])
    verdicts = _joined([load_verdicts(folder).assign(run=name) for folder, name in zip(folders, names, strict=True)])
    hashes = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in rows.prompt]
    rows = rows.assign(prompt_sha256=hashes, hidden=_hidden(rows, texts))
    key = verdicts[["run", "answer"]].merge(rows[["run", "answer", "hidden"]], how="left")
    verdicts = verdicts.assign(hidden=key.hidden.astype(bool).to_numpy())
    return _without(rows, OF_ANSWERS), _without(verdicts, OF_VERDICTS)


def check_texts(texts: str) -> None:
    """Raise ValueError for another value than "own" and "all"."""
    if texts not in get_args(Texts):
        raise ValueError(f"texts={texts!r}: choose own (of the worlds that ship here) or all")


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _hidden(rows: pd.DataFrame, texts: Texts) -> list[bool]:
    """Which rows are written without their texts."""
    own = {label: texts == "all" or _is_own(label) for label in rows.attack.unique()}
    return [not own[label] for label in rows.attack]


def _is_own(label: str) -> bool:
    """Whether a set's texts ship here; a set that is a file of the user's own is theirs."""
    try:
        return find_set(Choice.parse(label).name).kind in OWN
    except ValueError:
        return False


def _without(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    known = [name for name in columns if name in frame]
    return frame.assign(**{name: frame[name].astype(object).mask(frame.hidden, None) for name in known})


# ------------------------------------------------------------------------------------------------ the card


def _card(rows: pd.DataFrame, verdicts: pd.DataFrame, title: str, about: Sequence[str]) -> str:
    hidden = int(rows.hidden.sum())
    return CARD_TEXT.format(
        title=" ".join(title.split()),
        quoted=json.dumps(title, ensure_ascii=False),
        answers=ANSWERS,
        verdicts=VERDICTS,
        count=len(rows),
        verdicts_count=len(verdicts),
        sets=_names(rows.attack),
        systems=_names(rows.system),
        judges=_names(verdicts.judge) or "no judge",
        hidden=HIDDEN.format(count=hidden) if hidden else NONE_HIDDEN,
        about="\n".join(f"- {visible(line)}" for line in about),
        terms="\n".join(_terms(rows)),
    )


def _names(values: pd.Series) -> str:
    return ", ".join(f"`{visible(name)}`" for name in values.unique())


def _terms(rows: pd.DataFrame) -> Iterable[str]:
    """One line a set: where it is from and under which licence."""
    for attack, part in rows.groupby("attack", sort=False):
        sources, licences = ("; ".join(filter(None, map(str, part[name].unique()))) for name in ("source", "licence"))
        yield f"- `{visible(str(attack))}`: {sources or 'source unknown'}; {licences or 'licence unknown'}"
