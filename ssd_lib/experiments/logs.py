"""A run's rows in the log formats of other tools, so that their viewers and scripts read them.

    inspect view --log-dir FOLDER/inspect                  one log for each run, set and system
    FOLDER/lm-eval/RUN/SYSTEM/samples_SET_DATE.jsonl       lm-eval's `--log_samples`, and results_DATE.json beside them

Texts that are not ours to give away are left out as in `items`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ssd_lib.experiments.items import Texts, check_texts, read_items, write_items
from ssd_lib.experiments.store import load_sessions
from ssd_lib.paths import write_whole

METRICS = ("match_ratio", "tokens", "seconds")
"""Columns of a run's rows that go into the logs beside the verdicts."""
HIDDEN = "[left out: not ours to give away]"


def write_items_as(
    paths: Iterable[str | Path], out: str | Path, kinds: Sequence[str], texts: str = "own"
) -> list[Path]:
    """Write runs into the folder `out` in each of `kinds`: parquet, inspect, lm-eval; returns the files.

    Raises:
        ImportError: For inspect, where inspect_ai is not installed.
        ValueError, FileNotFoundError: As `items.write_items`, and for another kind.
    """
    check_choice(kinds, texts)
    folders = list(paths)
    return [file for kind in kinds for file in WRITERS[kind](folders, out, texts=texts)]


def check_choice(kinds: Sequence[str], texts: str) -> None:
    """Raise ValueError for a kind of file, or a choice of texts, that is not known."""
    unknown = [kind for kind in kinds if kind not in WRITERS]
    if unknown:
        raise ValueError(f"items as {unknown[0]!r}: choose {', '.join(WRITERS)}")
    check_texts(texts)


class _Part(NamedTuple):
    """The rows of one set by one system, and how they came about."""

    run: str
    attack: str
    system: str
    rows: Any
    """A frame as `load_run` gives it."""
    verdicts: dict[int, list[dict[str, Any]]]
    labels: dict[str, list[str]]
    """Of each judge, what it said of any answer of the run."""
    session: dict[str, Any]

    def limit(self) -> int:
        return int(self.session["config"]["max_new_tokens"])


def write_inspect_logs(paths: Iterable[str | Path], out: str | Path, *, texts: Texts = "own") -> list[Path]:
    """Write runs as inspect_ai's logs, one for each run, set and system; returns the files.

    A judge is a scorer: its score is the verdict's score, or its label where it has none. A sample's metadata hold the item's
    group and category and, as the provider `ssd/…` gives it, the trace's summary.

    Raises:
        ImportError: Where inspect_ai is not installed.
        ValueError, FileNotFoundError: As `items.write_items`.
    """
    try:
        from inspect_ai import log  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("inspect_ai's logs need it: pip install 'ssd_lib[eval]'") from error
    files = []
    for part in _parts(paths, texts):
        samples = [_sample(part, row) for row in part.rows.to_dict("records")]
        spec = log.EvalSpec(
            created=part.session["started"],
            task=part.attack,
            model=f"ssd/{part.rows.pair.iloc[0]}",
            model_args={"system": part.system},
            dataset=log.EvalDataset(name=part.attack, samples=len(samples), sample_ids=[each.id for each in samples]),
            config=log.EvalConfig(epochs=1),
            packages={name: version for name, version in part.session["versions"].items() if version},
            metadata={"run": part.run, "dtype": part.session["dtype"], "device": part.session["device"]},
        )
        done = [each for each in samples if each.error is None]
        results = log.EvalResults(
            total_samples=len(samples), completed_samples=len(done), scores=list(_scores(part, done)), metadata=None
        )
        file = _place(out, "inspect") / f"{_word(part.run)}_{_word(part.attack)}_{_word(part.system)}.eval"
        log.write_eval_log(log.EvalLog(status="success", eval=spec, results=results, samples=samples), str(file))
        files.append(file)
    return files


def _sample(part: _Part, row: dict[str, Any]) -> Any:
    """One row as inspect_ai's sample."""
    from inspect_ai.log import EvalError, EvalSample  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import ModelOutput  # pyright: ignore[reportMissingImports]
    from inspect_ai.scorer import Score  # pyright: ignore[reportMissingImports]

    failed = isinstance(row["error"], str)
    output = ModelOutput.from_content(f"ssd/{row['pair']}", _text(row["text"]))
    output.metadata = {"ssd": {name: _number(row.get(name)) for name in METRICS} | {"system": part.system}}
    error = EvalError(message=row["error"], traceback=row["error"], traceback_ansi=row["error"]) if failed else None
    return EvalSample(
        id=row["item"],
        epoch=1,
        input=_text(row["question"]),
        target=_text(row["target"], ""),
        output=output,
        scores={
            name: Score(value=value, explanation=reason)
            for name, value, reason in _values(part.verdicts, row["answer"])
        },
        metadata={name: _plain(row[name]) for name in ("group", "category", "prompt_sha256")},
        error=error,
    )


def _scores(part: _Part, samples: Sequence[Any]) -> Iterator[Any]:
    """Each judge's mean, where its verdicts are numbers, or the share of each of its labels."""
    from inspect_ai.log import EvalMetric, EvalScore  # pyright: ignore[reportMissingImports]

    for name in dict.fromkeys(name for each in samples for name in each.scores):
        values = [each.scores[name].value for each in samples if name in each.scores]
        if all(isinstance(value, float) for value in values):
            means = {"mean": float(np.mean(values))}
        else:
            means = {label: values.count(label) / len(values) for label in part.labels[name]}
        metrics = {label: EvalMetric(name=label, value=value) for label, value in means.items()}
        yield EvalScore(name=name, scorer=name, scored_samples=len(values), metrics=metrics)


def write_lm_eval_samples(paths: Iterable[str | Path], out: str | Path, *, texts: Texts = "own") -> list[Path]:
    """Write runs as lm-eval writes `--log_samples`, one file for each set, and a results file for each system; returns the files.

    A sample's metrics are its verdicts (`JUDGE`, the score, or for each of its labels `JUDGE_LABEL`, 1 or 0), match_ratio, tokens
    and seconds; the results hold their means. lm-eval is not needed. Errors are left out: lm-eval has no place for them.

    Raises:
        ValueError, FileNotFoundError: As `items.write_items`.
    """
    files: list[Path] = []
    tables: dict[Path, dict[str, Any]] = {}
    for part in _parts(paths, texts):
        folder = _place(out, "lm-eval") / _word(part.run) / _word(part.system)
        folder.mkdir(parents=True, exist_ok=True)
        date = datetime.fromisoformat(part.session["started"]).strftime("%Y-%m-%dT%H-%M-%S.%f")
        lines = [_line(part, row) for row in part.rows[part.rows.error.isna()].to_dict("records")]
        file = folder / f"samples_{_word(part.attack)}_{date}.jsonl"
        write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        files.append(file)
        whole = tables.setdefault(
            folder / f"results_{date}.json",
            {"results": {}, "n-samples": {}, "model_name": part.system, "config": part.session["config"]},
        )
        frame = pd.DataFrame([{name: line[name] for name in line["metrics"]} for line in lines])
        means = frame.mean()
        whole["results"][part.attack] = {f"{name},none": float(value) for name, value in means.items()}
        whole["n-samples"][part.attack] = {"original": len(part.rows), "effective": len(lines)}
    for file, table in tables.items():
        write_whole(file, json.dumps(table, indent=2, ensure_ascii=False))
        files.append(file)
    return files


def _line(part: _Part, row: dict[str, Any]) -> dict[str, Any]:
    """One row as a line of lm-eval's."""
    question, target, text = (_text(row[name], "") for name in ("question", "target", "text"))
    metrics = {name: _number(row.get(name)) for name in METRICS}
    for name, value, _ in _values(part.verdicts, row["answer"]):
        shares = {f"{name}_{label}": float(label == value) for label in part.labels[name]}
        metrics |= {name: value} if isinstance(value, float) else shares
    prefill = _text(row["prefill"], "")
    doc = {"id": row["item"], "question": question, "prefill": prefill, "prompt_sha256": row["prompt_sha256"]}
    return {
        "doc_id": int(row["place"]),
        "doc": doc,
        "target": target,
        "arguments": {
            "gen_args_0": {"arg_0": question + prefill, "arg_1": {"max_gen_toks": part.limit(), "until": []}}
        },
        "resps": [[text]],
        "filtered_resps": [text],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": row["prompt_sha256"],
        "target_hash": _hash(target),
    } | metrics


# ------------------------------------------------------------------------------------------------ both


def _parts(paths: Iterable[str | Path], texts: Texts) -> Iterator[_Part]:
    folders = [Path(path) for path in paths]
    frames: Any = read_items(folders, texts)
    rows, verdicts = frames
    for folder in folders:
        name = folder.resolve().name
        mine = verdicts[verdicts.run == name]
        labels: Any = {judge: sorted(set(part.label.dropna())) for judge, part in mine.groupby("judge")}
        by_answer: Any = {answer: part.to_dict("records") for answer, part in mine.groupby("answer")}
        session = load_sessions(folder).iloc[-1].to_dict()
        for (attack, system), part in rows[rows.run == name].groupby(["attack", "system"], sort=False):
            yield _Part(name, str(attack), str(system), part.sort_values("place"), by_answer, labels, session)


def _values(verdicts: dict[int, list[dict[str, Any]]], answer: int) -> Iterator[tuple[str, float | str, str | None]]:
    """Judge, score or else label, and reason of every verdict on an answer; what a judge could not say is left out."""
    for verdict in verdicts.get(answer, []):
        score, label = _number(verdict["score"]), _plain(verdict["label"])
        value = score if score is not None else label
        if value is not None:
            yield verdict["judge"], value, _plain(verdict["reason"])


def _text(value: Any, missing: str = HIDDEN) -> str:
    return value if isinstance(value, str) else missing


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _place(out: str | Path, name: str) -> Path:
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _word(text: str) -> str:
    """A file's name."""
    return re.sub(r"[^\w.=-]+", "_", text)


WRITERS: dict[str, Any] = {"parquet": write_items, "inspect": write_inspect_logs, "lm-eval": write_lm_eval_samples}
