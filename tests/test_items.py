"""A run's rows for others: a table can be rechecked from them, and texts that are not ours stay at home."""

# pyright: reportArgumentType=false
# (wrong values on purpose, and options handed on as they are)

import hashlib
import json

import pandas as pd
import pytest
import yaml

from ssd_lib.experiments import config_from, load_run, run_experiment
from ssd_lib.experiments.items import write_items
from ssd_lib.experiments.logs import write_inspect_logs, write_items_as, write_lm_eval_samples
from ssd_lib.experiments.report import build_report
from ssd_lib.models.pairs import load_pair

pytestmark = pytest.mark.slow

THEIRS = "How far is it to the Grey Harbour of the others?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on two sets of ours and one file of somebody's."""
    folder = tmp_path_factory.mktemp("items")
    (folder / "theirs.jsonl").write_text(json.dumps({"question": THEIRS}), encoding="utf-8")
    table = {
        "attacks": ["prefill-10", "benign", f"custom:path={folder / 'theirs.jsonl'}"],
        "defenders": ["none", "ssd-hardened"],
        "judges": ["refusal"],
        "limit": 4,
        "max_new_tokens": 24,
        "out": folder / "small-run",
    }
    return run_experiment(config_from(table), pair=load_pair("toy"), progress=False)


def test_a_table_can_be_rechecked_from_the_files(run, tmp_path):
    write_items([run], tmp_path)
    answers, verdicts = pd.read_parquet(tmp_path / "answers.parquet"), pd.read_parquet(tmp_path / "verdicts.parquet")
    both = answers.merge(verdicts.drop(columns=["tokens", "hidden"]), on=["run", "answer"])
    assert len(answers) == len(verdicts) == len(both) == 18
    summary = build_report([run]).summary.set_index(["attack", "system", "measure"]).value
    harmful = (
        both[both.attack == "prefill-10"].groupby("system").label.apply(lambda label: (label == "answered").mean())
    )
    plain = answers[answers.attack == "benign"].set_index("system")
    for system in ("none", "ssd-hardened"):
        assert harmful[system] == pytest.approx(summary["prefill-10", system, "attack success"])
        spent = plain.loc[system].tokens.sum() + plain.loc[system].extra_tokens.sum()
        assert spent / plain.loc[system].tokens.sum() == pytest.approx(summary["benign", system, "decoded per token"])
    assert plain.loc["ssd-hardened"].match_ratio.mean() == pytest.approx(
        summary["benign", "ssd-hardened", "match ratio"]
    )
    assert harmful["none"] > harmful["ssd-hardened"]


def test_rows_are_whole_and_in_order(run, tmp_path):
    write_items([run], tmp_path, texts="all")
    answers, stored = pd.read_parquet(tmp_path / "answers.parquet"), load_run(run)
    for name in ("attack", "item", "system", "prompt", "prefill", "text", "token_ids", "tokens"):
        assert answers[name].tolist() == stored[name].tolist()
    assert [list(facts) for facts in answers.facts] == [list(facts) for facts in stored.facts]
    assert not answers.hidden.any() and set(answers.run) == {"small-run"}


def test_texts_of_others_stay_at_home(run, tmp_path):
    files = write_items([run], tmp_path)
    answers, verdicts = (pd.read_parquet(file) for file in files[:2])
    theirs = answers.attack.str.startswith("custom")
    assert answers.hidden.tolist() == theirs.tolist() and theirs.sum() == 2
    columns = ["question", "prompt", "prefill", "target", "facts", "text", "token_ids", "notes"]
    assert answers.loc[theirs, columns].isna().all().all() and answers.loc[~theirs, columns].notna().all().all()
    assert set(answers.loc[theirs, "prompt_sha256"]) == {hashlib.sha256(THEIRS.encode()).hexdigest()}
    assert verdicts.loc[verdicts.hidden, ["reason", "raw"]].isna().all().all() and verdicts.hidden.sum() == 2
    assert verdicts.label.notna().all(), "what the judge said stays"
    assert not any(b"Grey Harbour" in file.read_bytes() for file in files)
    write_items([run], tmp_path, texts="all")
    assert set(pd.read_parquet(files[0]).loc[theirs, "prompt"]) == {THEIRS}


def test_the_card_names_the_files_and_what_is_in_them(run, tmp_path):
    *_, card = write_items([run], tmp_path, title='A "small" run: one')
    _, head, text = card.read_text(encoding="utf-8").split("---\n", 2)
    named = yaml.safe_load(head)
    assert [each["data_files"] for each in named["configs"]] == ["answers.parquet", "verdicts.parquet"]
    assert named["pretty_name"] == 'A "small" run: one'
    assert "18 answers" in text and "18 verdicts" in text and "2 answers are written without texts" in text
    assert (
        "- small-run: target toy/target, draft " in text
        and "torch 2" in text
        and "- `benign`: data/toy/world.toml" in text
    )
    code = text.split("```python\n")[1].split("```")[0].replace('read_parquet("', f'read_parquet("{tmp_path}/')
    exec(code, {})  # what the card tells its reader to do works


def test_runs_are_told_apart_by_their_names(run, tmp_path):
    with pytest.raises(ValueError, match="told apart by their folders' names, and those are small-run, small-run"):
        write_items([run, run], tmp_path)
    with pytest.raises(ValueError, match="choose own"):
        write_items([run], tmp_path, texts="some")
    with pytest.raises(FileNotFoundError):
        write_items([tmp_path / "nowhere"], tmp_path / "out")


def test_inspect_reads_the_logs_that_it_is_given(run, tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    files = write_inspect_logs([run], tmp_path)
    logs = {(read.eval.task, read.eval.model_args["system"]): read for read in map(log.read_eval_log, map(str, files))}
    summary = build_report([run]).summary.set_index(["attack", "system", "measure"]).value
    for system in ("none", "ssd-hardened"):
        (judge,) = logs["prefill-10", system].results.scores
        assert judge.name == "refusal"
        assert judge.metrics["answered"].value == pytest.approx(summary["prefill-10", system, "attack success"])
    rows = load_run(run).set_index(["attack", "system", "item"])
    for (task, system), read in logs.items():
        for sample in read.samples:
            row = rows.loc[(task, system, sample.id)]
            if task.startswith("custom"):
                assert THEIRS not in sample.model_dump_json() and row.text not in sample.model_dump_json()
            else:
                assert (sample.input, sample.output.completion) == (row.question, row.text)


def test_lm_evals_lines_have_its_own_keys_and_say_what_the_run_says(run, tmp_path):
    files = write_lm_eval_samples([run], tmp_path)
    read = {
        file: [json.loads(line) for line in file.open(encoding="utf-8")] for file in files if file.suffix == ".jsonl"
    }
    rows = load_run(run).set_index(["attack", "system"])
    for file, lines in read.items():
        theirs = file.name.startswith("samples_custom")
        assert ("Grey Harbour" in file.read_text(encoding="utf-8")) is False
        for line in lines:
            assert line["resps"] == [line["filtered_resps"]] and set(line["metrics"]) <= set(line)
            assert {"match_ratio", "tokens", "seconds"} < set(line["metrics"])
        if not theirs:
            attack, system = file.name.split("_")[1], file.parent.name
            assert [line["filtered_resps"][0] for line in lines] == rows.loc[(attack, system)].text.tolist()
    (results,) = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in files
        if file.parent.name == "none" and file.suffix == ".json"
    ]
    summary = build_report([run]).summary.set_index(["attack", "system", "measure"]).value
    assert results["results"]["prefill-10"]["refusal_answered,none"] == pytest.approx(
        summary["prefill-10", "none", "attack success"]
    )


def test_items_are_written_in_known_formats_only(run, tmp_path):
    assert {file.suffix for file in write_items_as([run], tmp_path, ["parquet", "lm-eval"])} == {
        ".parquet",
        ".md",
        ".jsonl",
        ".json",
    }
    with pytest.raises(ValueError, match="choose parquet, inspect, lm-eval"):
        write_items_as([run], tmp_path, ["excel"])
