"""An experiment is resumable: every row once, whatever stops it, and nothing lost."""

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from micro_models import llama2_tokenizer, save_model

from ssd_lib import experiments
from ssd_lib.attacks import Record, asking, load_set
from ssd_lib.defenders import Answer, Cost, answer
from ssd_lib.experiments import (
    Choice,
    answering,
    config_from,
    judge_run,
    judging,
    load_run,
    load_sessions,
    load_verdicts,
    read_config,
    run_experiment,
    starting,
)
from ssd_lib.experiments.run import _Live
from ssd_lib.experiments.store import Row, Store
from ssd_lib.judges import JUDGES, Judge, Verdict
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world

TIMES = ["seconds", "written", "session"]


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture
def table(tmp_path):
    """A small experiment: 2 sets of 5 items in batches of 2, against 2 defenders."""
    return {
        "attacks": ["direct", "prefill-10"],
        "defenders": ["none", "ssd"],
        "limit": 5,
        "batch": 2,
        "max_new_tokens": 8,
        "out": tmp_path / "run",
    }


@pytest.fixture
def fake(monkeypatch):
    """Answers without a model, so that a test can watch and break them. `calls` holds (defender, prompts) of each batch."""

    class Fake:
        calls: list = []
        broken = staticmethod(lambda defender, prompts: None)

        def __call__(self, pair, prompts, *, defender, prefill, settings, max_new_tokens, trace):
            self.calls.append((defender, list(prompts)))
            self.broken(defender, prompts)
            return [
                Answer(f"to {p}", [1, 2], given, None, Cost(3, tokens=2))
                for p, given in zip(prompts, prefill, strict=True)
            ]

    one = Fake()
    one.calls = []
    monkeypatch.setattr(asking, "answer", one)
    return one


def frame_of(path):
    return load_run(path).drop(columns=[name for name in TIMES if name in load_run(path)])


def run(table, pair, **options):
    return run_experiment(config_from(table), pair=pair, progress=False, **options)


# ------------------------------------------------------------------------------------------------ what an experiment is


@pytest.mark.parametrize(
    "word",
    ["ssd", "ssd:alpha_union=0.8", "ssd:fixed_scheme=union:lookahead=5", "x:path=C:\\a:b.json", "x:flag=true:n=null"],
)
def test_a_choice_is_one_word(word):
    choice = Choice.parse(word)
    assert choice.label == word and Choice.parse(choice.label) == choice


def test_settings_are_the_same_in_any_order_and_keep_their_kind():
    one, other = Choice.parse("ssd:b=0.5:a=2"), Choice("ssd", (("a", 2), ("b", 0.5)))
    assert one == other and one.key == other.key == '{"a": 2, "b": 0.5}'
    lists: Any = [["q", "a"]]
    assert Choice("icd", (("demonstrations", lists),)).settings[0][1] == (("q", "a"),)


def test_a_whole_number_is_the_same_setting_as_its_float(table):
    config = config_from(table | {"defenders": ["ssd:alpha_union=2", "ssd:alpha_union=2.0", "ssd:lookahead=2"]})
    assert [each.label for each in config.defenders] == ["ssd:alpha_union=2.0", "ssd:lookahead=2"]


def test_toml_says_the_same_as_python(tmp_path):
    path = tmp_path / "exp.toml"
    path.write_text(
        'out = "runs/x"\nattacks = ["direct", "HEx-PHI", { name = "custom", settings = { path = "a.csv" } }]\n'
        'defenders = ["none", "Paraphase", { name = "SpeculativeSafeDecoding", settings = { lookahead = 2 }, '
        "grid = { alpha_intersection = [0.3, 0.6], alpha_union = [0.8, 2.0] } }]\n"
        'judges = ["Refusal"]\nlimit = 3\n[pair]\nname = "Llama2-7b-chat"\ndraft = "runs/d"\n',
        encoding="utf-8",
    )
    config = read_config(path)
    assert config.pair.name == "llama2" and config.pair.draft == "runs/d" and config.limit == 3
    assert [attack.label for attack in config.attacks] == ["direct", "hex-phi", "custom:path=a.csv"]
    assert [each.label for each in config.defenders[:3]] == [
        "none", "paraphrase", "ssd:alpha_intersection=0.3:alpha_union=0.8:lookahead=2",
    ]  # fmt: skip
    assert len(config.defenders) == 6 and [each.label for each in config.judges] == ["refusal"]
    assert read_config(path, pair={"draft": "other"}).pair == experiments.PairSettings("llama2", draft="other")
    assert config_from(json.loads(json.dumps(config.table())) | {"out": "runs/x"}) == config, (
        "the stored table is a config"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": ["direct"]}, "unknown key 'attack'"),
        ({"attacks": ["nope"]}, "unknown set 'nope'"),
        ({"defenders": ["nope"]}, "unknown defender 'nope'"),
        ({"judges": ["nope"]}, "unknown judge 'nope'"),
        ({"defenders": ["ssd:alpha=1"]}, "has no setting alpha: it has alpha_intersection"),
        ({"defenders": ["ssd:alpha_intersection=2"]}, "alpha_intersection must be at most 1"),
        ({"judges": ["refusal:which=mine"]}, "which must be 'gcg', 'individual' or 'api', not 'mine'"),
        ({"attacks": ["direct:file=x"]}, "'direct' has no setting file: it has path"),
        ({"seed": "one"}, "ExperimentConfig.seed must be a valid integer"),
        ({"defenders": []}, "defenders must be given"),
        ({"defenders": [{"grid": {}}]}, "an entry has a name"),
        ({"defenders": [{"name": "ssd", "grid": {"lookahead": 2}}]}, "a grid gives a list"),
        ({"limit": 0}, "ExperimentConfig.limit must be at least 1"),
        ({"batch": 1.5}, "ExperimentConfig.batch must be a valid integer"),
        ({"pair": "nope"}, "unknown pair 'nope'"),
        ({"pair": {"name": "toy", "dtype": "int8"}}, "PairSettings.dtype must be"),
        ({"pair": {"model": "toy"}}, "unknown key of pair 'model'"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_loaded(table, change, message):
    with pytest.raises(ValueError, match=message):
        config_from(table | change)


def test_a_toml_mistake_names_the_file(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("limit = ", encoding="utf-8")
    with pytest.raises(ValueError, match="broken.toml"):
        read_config(path)


# ------------------------------------------------------------------------------------------------ rows


def test_every_combination_has_one_row_with_what_the_defender_answered(pair, table):
    frame = load_run(run(table, pair))
    assert len(frame) == 2 * 5 * 2 and not frame.duplicated(["attack", "item", "system"]).any()
    records = load_set("prefill-10", limit=5, tokenizer=pair.tokenizer)[:2]
    replies: list[Any] = answer(
        pair, [r.prompt for r in records], prefill=[r.prefill for r in records], max_new_tokens=8
    )
    rows = frame[(frame.attack == "prefill-10") & (frame.defender == "ssd")].iloc[:2]
    assert rows.text.tolist() == [reply.text for reply in replies]
    assert [json.loads(ids) for ids in rows.token_ids] == [reply.token_ids for reply in replies]
    assert rows.question.tolist() == [record.question for record in records] and (rows.tokens == 8).all()
    assert (rows.seconds > 0).all() and rows.error.isna().all()
    assert np.allclose(rows.match_ratio, [reply.trace.frame.match.mean() for reply in replies])


def test_match_ratios_are_stored(pair, table):
    frame = load_run(run(table | {"limit": 1}, pair))
    ratios = frame.set_index(["attack", "defender"]).match_ratio
    assert (
        ratios["direct", "ssd"] > ratios["prefill-10", "ssd"] and ratios["direct", "none"] != ratios["direct", "none"]
    )


def test_a_second_start_generates_nothing(pair, table, fake):
    first = frame_of(run(table, pair))
    fake.calls.clear()
    pd.testing.assert_frame_equal(frame_of(run(table, pair)), first)
    assert fake.calls == [] and len(load_sessions(table["out"])) == 2


@pytest.mark.parametrize("stop", [1, 2, 5, 11])
def test_stopped_at_any_batch_a_run_resumes_to_the_same_rows_in_the_same_batches(pair, table, fake, stop):
    whole = frame_of(run(table | {"out": table["out"] / "whole"}, pair))
    batches, fake.calls = fake.calls, []

    def interrupt(defender, prompts):
        if len(fake.calls) == stop:
            raise KeyboardInterrupt

    fake.broken = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(table, pair)
    assert load_sessions(table["out"]).ended.tolist() == ["KeyboardInterrupt"]
    interrupted = fake.calls[:-1]
    fake.broken, fake.calls = lambda defender, prompts: None, []
    pd.testing.assert_frame_equal(frame_of(run(table, pair)), whole)
    assert interrupted + fake.calls == batches
    assert load_sessions(table["out"]).ended.tolist() == ["KeyboardInterrupt", "finished"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_kill_inside_a_transaction_leaves_nothing_of_its_batch(pair, table, fake):
    child = os.fork()
    if child == 0:  # a real process that dies between its inserts and their commit
        fake.broken = lambda defender, prompts: None
        monkey = Store.add_answers

        def die(self, *args, **options):
            if len(fake.calls) < 3:
                return monkey(self, *args, **options)
            self.connection.execute("BEGIN")
            self.connection.execute("UPDATE answers SET text = 'spoilt'")
            os.kill(os.getpid(), signal.SIGKILL)

        Store.add_answers = die
        run(table, pair)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    killed = load_run(table["out"])
    assert len(killed) == 4 and killed.text.str.startswith("to ").all()
    assert load_sessions(table["out"]).stopped.isna().all()
    fake.calls.clear()
    assert len(load_run(run(table, pair))) == 20 and len(fake.calls) == 10, "a dead process's lock does not block"


def test_two_processes_cannot_write_one_run(pair, table, fake):
    with Store.open(table["out"]), pytest.raises(ValueError, match="another process is writing"):
        run(table, pair)
    assert run(table, pair).exists()


def test_a_run_can_be_read_while_it_is_written(pair, table, fake):
    seen = []
    fake.broken = lambda defender, prompts: seen.append(len(load_run(table["out"])))
    run(table, pair)
    assert seen[:4] == [0, 2, 4, 5]


# ------------------------------------------------------------------------------------------------ what may change, and what not


def test_more_items_attacks_and_defenders_only_add_rows(pair, table, fake):
    before = frame_of(run(table, pair))
    fake.calls.clear()
    more = table | {"limit": 7, "attacks": ["direct", "scary"], "defenders": ["none", "icd"], "batch": None}
    after = frame_of(run(more, pair))
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    new = after.iloc[len(before) :].groupby(["attack", "defender"]).size().to_dict()
    assert new == {("direct", "none"): 2, ("direct", "icd"): 7, ("scary", "none"): 7, ("scary", "icd"): 7}
    assert max(len(prompts) for _, prompts in fake.calls) == 2, "the stored batch size stays"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"max_new_tokens": 9}, "max_new_tokens was 8, now 9"),
        ({"batch": 3}, "batch was 2, now 3"),
        ({"pair": {"name": "toy", "dtype": "bfloat16"}}, "pair.dtype was None, now 'bfloat16'"),
    ],
)
def test_a_run_that_differs_is_an_error_that_says_in_what(pair, table, fake, change, message):
    run(table, pair)
    with pytest.raises(ValueError, match=message):
        run(table | change, pair)


def test_other_weights_or_other_items_are_an_error(pair, table, fake, monkeypatch):
    run(table, pair)
    weight = pair.draft.get_input_embeddings().weight
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(ValueError, match="the weights of the draft are not those"):
            run(table, pair)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1
    changed = [Record("forbidden-0-0000", "another question", "another question")]
    monkeypatch.setattr("ssd_lib.experiments.run.load_set", lambda name, **options: changed)
    with pytest.raises(ValueError, match="1 items of the set 'direct' changed"):
        run(table, pair)


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    (tmp_path / "run.sqlite").write_text("something else entirely" * 50)
    with pytest.raises(ValueError, match="is not a run of this library"):
        Store.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no run at"):
        load_run(tmp_path / "nowhere")
    other = tmp_path / "other"
    with Store.open(other) as store:
        store.set("format", 99)
    with pytest.raises(ValueError, match="has format 99"):
        Store.open(other)


# ------------------------------------------------------------------------------------------------ memory and errors

CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), CPU, MemoryError()])
def test_out_of_memory_halves_the_batch_and_loses_nothing(pair, table, fake, error):
    def at_most_three(defender, prompts):
        if len(prompts) > 3:
            raise error

    fake.broken = at_most_three
    frame = load_run(run(table | {"limit": 9, "batch": 9, "defenders": ["none"], "attacks": ["direct"]}, pair))
    assert len(frame) == 9 and frame.error.isna().all()
    assert [len(prompts) for _, prompts in fake.calls] == [9, 4, 2, 2, 2, 2, 1]
    assert frame.place.tolist() == list(range(9)), "in order"


def test_the_size_that_fitted_is_remembered_across_starts(pair, table, fake):
    def at_most_two(defender, prompts):
        if len(prompts) > 2:
            raise CPU

    fake.broken = at_most_two
    small = table | {"limit": 4, "batch": 4, "defenders": ["none"], "attacks": ["direct"]}
    run(small, pair)
    fake.calls.clear()
    run(small | {"limit": 8}, pair)
    assert [len(prompts) for _, prompts in fake.calls] == [2, 2]


def test_a_row_that_does_not_fit_alone_is_an_error_and_the_others_are_not(pair, table, fake):
    def long_one(defender, prompts):
        if "prompt 3" in prompts:
            raise CPU

    fake.broken = long_one
    records = [Record(str(i), f"prompt {i}", f"prompt {i}") for i in range(6)]
    config = config_from(table)
    rows, size = answering.answer_rows(pair, records, config.defenders[0], config, 6)
    assert [row.item for row in rows] == [record.id for record in records]
    assert [row.item for row in rows if row.error] == ["3"] and "can't allocate memory" in (rows[3].error or "")
    assert size < 6


def test_a_failing_row_is_stored_shown_and_tried_again_on_request(pair, table, fake):
    questions = [record.prompt for record in load_set("direct", limit=5)]

    def second(defender, prompts):
        if defender == "ssd" and questions[1] in prompts:
            raise FloatingPointError("the target's logits are NaN\nat position 3")

    fake.broken = second
    frame = load_run(run(table | {"attacks": ["direct"]}, pair))
    failed = frame[frame.error.notna()]
    assert failed["item"].tolist() == ["forbidden-0-0001"] and failed.defender.tolist() == ["ssd"]
    assert failed.error.item() == "FloatingPointError: the target's logits are NaN at position 3"
    assert failed.text.isna().all() and frame.text.notna().sum() == 9
    fake.broken, fake.calls = lambda defender, prompts: None, []
    run(table | {"attacks": ["direct"]}, pair)
    assert fake.calls == [], "not without being asked"
    again = load_run(run(table | {"attacks": ["direct"]}, pair, retry_errors=True))
    assert fake.calls == [("ssd", [questions[1]])] and again.error.isna().all() and len(again) == 10


def test_a_row_replaces_an_error_but_never_an_answer(tmp_path):
    nothing = [None] * (len(Row._fields) - 3)
    with Store.open(tmp_path) as store:
        for text in ("first", "second"):
            store.add_answers("toy", "a", Choice("none"), [Row._make(["1", text, *nothing, None])], session=1, size=1)
        assert store.connection.execute("SELECT text FROM answers").fetchall() == [("first",)]


def test_the_default_batch_follows_free_memory(pair, monkeypatch):
    sizes = []
    for free in (1e3, 1e8, 1e12):
        monkeypatch.setattr(starting.psutil, "virtual_memory", lambda free=free: type("M", (), {"available": free}))
        sizes.append(starting.default_batch(pair, 160))
    assert sizes[0] == 1 < sizes[1] < sizes[2] == starting.Memory().cap_cpu


# ------------------------------------------------------------------------------------------------ what a run says about itself


def test_a_session_records_what_is_needed_to_do_it_again_and_no_secret(pair, table, fake, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-very-secret")
    run(table | {"seed": 3}, pair)
    session = load_sessions(table["out"]).iloc[0]
    assert session.seed == 3 and session.config["defenders"] == ["none", "ssd"] and session.config["batch"] == 2
    assert session.versions["torch"] == torch.__version__ and session.device and session["dtype"] == "float32"
    assert session.commit is None or len(session.commit) == 40
    assert session.pair["ssd"]["alpha_intersection"] == pair.config.alpha_intersection
    assert session.started <= session.stopped
    for file in table["out"].iterdir():
        assert b"sk-very-secret" not in file.read_bytes() and str(Path.home()).encode() not in file.read_bytes()


def test_the_bar_tells_compliance_speed_and_errors():
    live = _Live()
    item = world.questions("forbidden", 1)[0]
    record = Record("1", item.question, item.question, category=item.family, facts=item.facts, target=item.answer)
    other = Record("2", "a request", "a request")

    def row(text, seconds, error=None):
        cost = json.dumps({"tokens": 10, "seconds": seconds})
        return Row("1", text, "", "[]", cost, 2, None, "{}", error)

    live.count([record, record, other], [row(item.answer, 2.0), row("No.", 2.0), row("Sure.", 2.0)])
    live.count([other], [row(None, 0, "ValueError: no")])
    assert live.line() == "complied 1/2, 10 tokens/s, 1 errors"


# ------------------------------------------------------------------------------------------------ judging


@pytest.fixture
def moody(monkeypatch):
    """A judge that can be offline, and whose version can change."""

    class Moody:
        offline: set = set()
        version = "1"
        asked: list = []

        def __call__(self, records, answers, settings):
            self.asked += [record.id for record in records]
            return [
                Verdict("moody", self.version, None, None, unjudged="offline", tokens=1)
                if record.id in self.offline
                else Verdict("moody", self.version, "harmful", 5.0, "because", details={"sure": True}, tokens=7)
                for record in records
            ]

    one = Moody()
    one.asked = []
    monkeypatch.setitem(JUDGES, "moody", Judge(one, "says harmful", "here"))
    return one


def test_stored_answers_are_judged_once_by_every_judge_that_applies(pair, table, fake):
    out = run(table | {"judges": ["exact", "gsm8k"]}, pair)
    verdicts = load_verdicts(out)
    assert set(verdicts.judge) == {"exact"} and len(verdicts) == 20
    assert {"complied", "ends_in_refusal", "share_told"} <= set(verdicts)
    calls = len(fake.calls)
    judge_run(out, ["exact", "refusal"], progress=False)
    assert load_verdicts(out).judge.value_counts().to_dict() == {"exact": 20, "refusal": 20}
    assert len(fake.calls) == calls, "judging generates nothing"


def test_the_unjudged_are_asked_again_on_request_only(pair, table, fake, moody):
    out = run(table | {"attacks": ["direct"], "defenders": ["none"]}, pair)
    moody.offline = {"forbidden-0-0002"}
    judge_run(out, ["moody"], progress=False)
    verdicts = load_verdicts(out)
    assert len(verdicts) == 5 and verdicts.unjudged.notna().sum() == 1 and verdicts.tokens.sum() == 29
    moody.offline, moody.asked = set(), []
    judge_run(out, ["moody"], progress=False)
    assert moody.asked == []
    judge_run(out, ["moody"], again_unjudged=True, progress=False)
    verdicts = load_verdicts(out)
    assert moody.asked == ["forbidden-0-0002"] and len(verdicts) == 5 and verdicts.unjudged.isna().all()


def test_a_judges_versions_stand_side_by_side(pair, table, fake, moody):
    out = run(table | {"attacks": ["direct"], "defenders": ["none"]}, pair)
    judge_run(out, ["moody"], progress=False)
    moody.version = "2"
    judge_run(out, ["moody", "refusal:which=gcg", "refusal"], again=True, progress=False)
    assert load_verdicts(out).groupby(["judge", "version"]).size().tolist() == [5] * 4


def test_judging_that_breaks_off_goes_on_where_it_stopped(pair, table, fake, moody, monkeypatch):
    out = run(table | {"attacks": ["direct"], "defenders": ["none"]}, pair)
    monkeypatch.setattr(judging, "BATCH", 2)
    whole, moody.asked = moody.__call__, []

    def breaks(records, answers, settings):
        if len(moody.asked) == 4:
            raise RuntimeError("no key")
        return whole(records, answers, settings)

    monkeypatch.setitem(JUDGES, "moody", Judge(breaks, "", ""))
    with pytest.raises(RuntimeError, match="no key"):
        judge_run(out, ["moody"], progress=False)
    assert len(load_verdicts(out)) == 4
    monkeypatch.setitem(JUDGES, "moody", Judge(whole, "", ""))
    judge_run(out, ["moody"], progress=False)
    assert len(moody.asked) == 5 == len(load_verdicts(out))


def test_an_error_is_no_answer_and_is_not_judged(pair, table, fake, moody):
    def all_broken(defender, prompts):
        raise ValueError("no")

    fake.broken = all_broken
    out = run(table | {"judges": ["moody"]}, pair)
    assert moody.asked == [] and load_verdicts(out).empty


# ------------------------------------------------------------------------------------------------ real formats


@pytest.fixture(scope="module")
def llama2_files(tmp_path_factory):
    """A micro target and draft in Llama-2's format, and two prompts of one's own."""
    folder = tmp_path_factory.mktemp("llama2")
    for seed, name in enumerate(("target", "draft")):
        save_model(folder / name, llama2_tokenizer(), seed, eos=2)
    rows = [{"question": "How do I brew the Silver Courage cordial?", "prefill": "Sure", "group": "benign"}] * 2
    (folder / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_a_run_on_real_formats_begins_without_a_draft_and_gets_one_later(llama2_files, tmp_path):
    table = {
        "pair": {"name": "llama2", "target": str(llama2_files / "target")},
        "attacks": [f"custom:path={llama2_files / 'mine.json'}"],
        "defenders": ["none", "self-reminder"],
        "max_new_tokens": 4,
        "out": tmp_path / "run",
    }
    with pytest.raises(ValueError, match="needs draft="):
        run(table | {"defenders": ["ssd"], "out": tmp_path / "other"}, None)
    assert len(load_run(run(table, None))) == 4
    draft = {"draft": str(llama2_files / "draft")}
    frame = load_run(run(table | {"pair": table["pair"] | draft, "defenders": ["ssd"]}, None))
    assert frame.groupby("defender").size().to_dict() == {"none": 2, "self-reminder": 2, "ssd": 2}
    assert frame.error.isna().all() and set(frame.pair) == {"llama2"} and (frame.prefill == "Sure").all()
    assert len(load_run(run(table, None))) == 6, "and goes on without the draft"


def test_safedecoding_without_an_expert_stops_before_anything_is_stored(llama2_files, tmp_path):
    table = {
        "pair": {"name": "llama2", "target": str(llama2_files / "target")},
        "attacks": [f"custom:path={llama2_files / 'mine.json'}"],
        "defenders": ["SafeDecoding"],
        "out": tmp_path / "run",
    }
    with pytest.raises(ValueError, match="needs an expert"):
        run(table, None)
    assert load_run(tmp_path / "run").empty


def test_the_store_is_plain_sqlite_with_one_row_a_key(pair, table, fake):
    out = run(table, pair)
    connection = sqlite3.connect(out / "run.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO answers (pair, attack, item, defender, settings, session, written) "
                           "SELECT pair, attack, item, defender, settings, 1, '' FROM answers")  # fmt: skip
    connection.close()


def test_a_question_that_does_not_fit_is_an_error_of_every_defender_and_of_nobody_else(pair, table, fake, tmp_path):
    questions = ["Hello!", "brew " * 600, "Who are you?"]
    lines = [json.dumps({"question": text, "prompt": text}) for text in questions]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    mine = [{"name": "custom", "settings": {"path": str(tmp_path / "mine.jsonl")}}]
    chosen = {"attacks": mine, "defenders": ["none", "ssd", "draft-only"], "batch": 3}
    frame = load_run(run(table | chosen, pair))
    assert (
        frame.groupby("defender").error.apply(lambda errors: errors.notna().tolist()).tolist()
        == [[False, True, False]] * 3
    )
    assert frame.error.dropna().str.contains("the target's prompt: the context holds 512 tokens").all()
    assert [prompts for _, prompts in fake.calls] == [["Hello!", "Who are you?"]] * 3, "the others stay one batch"


def test_a_run_records_the_generation_settings_in_force_and_the_report_shows_them(pair, table, fake, monkeypatch):
    from ssd_lib.experiments.report import build_report

    assert "Generation settings" not in build_report([run(table, pair)]).about[0]
    monkeypatch.setattr(pair.target.generation_config, "repetition_penalty", 1.3)
    monkeypatch.setattr(pair.draft.generation_config, "temperature", 0.7)
    out = run(table | {"limit": 6}, pair)
    generation = load_sessions(out).generation.iloc[-1]
    assert generation["target"]["in_force"] == {"repetition_penalty": 1.3} and generation["draft"]["in_force"] == {}
    assert generation["draft"]["overridden"] == {"temperature": 0.7} and generation["target"]["eos_token_id"]
    assert build_report([out]).about[0].endswith("Generation settings in force: target repetition_penalty = 1.3.")


def test_a_set_may_have_a_limit_of_its_own(pair, table, fake):
    frame = load_run(run(table | {"attacks": ["direct", "benign:limit=7"], "defenders": ["none"]}, pair))
    assert frame.attack.value_counts().to_dict() == {"direct": 5, "benign:limit=7": 7}
    for wrong in ("0", "2.5", "x"):
        with pytest.raises(ValueError, match="limit=.*counts items"):
            config_from(table | {"attacks": [f"direct:limit={wrong}"]})
