"""A run cut into shards and merged equals that of one process, row for row, and nothing that does not fit is merged."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from itertools import product

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ssd_lib.attacks import Record
from ssd_lib.cli import app
from ssd_lib.experiments import (
    Shard,
    config_from,
    judge_run,
    load_run,
    load_sessions,
    load_verdicts,
    merge_runs,
    run_experiment,
)
from ssd_lib.experiments.report import build_report, report_markdown
from ssd_lib.experiments.store import Store
from ssd_lib.models.pairs import load_pair

runner = CliRunner()
TIMES = ["seconds", "written", "session"]
TABLE = {
    "attacks": ["prefill-10", "scary:wording=unseen"],
    "defenders": ["none", "ssd:lookahead=3"],  # "auto" goes by the clock: other forwards, the same tokens
    "limit": 5,
    "batch": 2,
    "max_new_tokens": 6,
    "judges": ["exact", "refusal"],
}


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory):
    """The whole run in one process, and beside it the same in three shards."""
    folder = tmp_path_factory.mktemp("made")
    run(folder / "whole", pair)
    for number in (1, 2, 3):
        run(folder / "cut", pair, Shard(number, 3))
    return folder


@pytest.fixture
def cut(made, tmp_path):
    """A copy of the shards that a test may spoil."""
    return [shutil.copytree(each, tmp_path / "cut" / each.name) for each in sorted((made / "cut").iterdir())]


def run(out, pair, shard=None, **changes):
    return run_experiment(config_from(TABLE | {"out": out} | changes), pair=pair, progress=False, shard=shard)


def contents(out):
    return load_run(out).drop(columns=TIMES), load_verdicts(out).drop(columns="written")


def assert_same(out, whole):
    for found, expected in zip(contents(out), contents(whole), strict=True):
        pd.testing.assert_frame_equal(found, expected)


def change(folder, statement, *values):
    """Make a store say something else, as if it had been written so."""
    with Store.open(folder) as store, store.connection:
        assert store.connection.execute(statement, values).rowcount


def told(folder, name, value=None):
    """What the run's table says under a name; with a value, it says that from now on."""
    connection = sqlite3.connect(folder / "run.sqlite")
    (found,) = connection.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
    connection.close()
    if value is not None:
        change(folder, "UPDATE run SET value = ? WHERE name = ?", json.dumps(value), name)
    return json.loads(found)


# ------------------------------------------------------------------------------------------------ the cut


@given(st.integers(1, 9), st.integers(1, 5), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 6))
def test_parts_are_whole_batches_and_each_has_its_share_of_every_set_and_defender(parts, batch, sizes, defenders):
    sets = [[Record(f"{place}", "?", "harmful", "x") for place in range(size)] for size in sizes]
    for attack, defender in product(range(len(sets)), range(defenders)):
        records = sets[attack]
        shares = [Shard(i + 1, parts).items(attack, defender, records, batch) for i in range(parts)]
        assert sum(map(len, shares)) == len(records) and set().union(*shares) == {each.id for each in records}
        batches = [{int(item) // batch for item in share} for share in shares]
        assert sum(map(len, batches)) == -(-len(records) // batch), "no batch is cut"
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        longer = Shard(1, parts).items(attack, defender, records + [Record("new", "?", "harmful", "x")], batch)
        assert shares[0] == longer - {"new"}, "more items move no batch"


def test_sets_of_one_batch_are_spread_over_parts_too():
    records = [Record("0", "?", "harmful", "x")]
    had = Counter(
        (part, defender)
        for part, attack, defender in product(range(1, 5), range(8), range(4))
        if Shard(part, 4).items(attack, defender, records, 8)
    )
    assert set(had.values()) == {2} and len(had) == 16, "each of 4 parts asks each of 4 defenders 2 of 8 sets"


def test_a_shard_is_read_from_a_word():
    assert Shard.parse(" 2/8 ") == Shard(2, 8) and str(Shard(2, 8)) == "2/8"
    for text in ("0/8", "9/8", "1/0", "2", "2/8/9", "a/b", "", "-1/2", "1/-2"):
        with pytest.raises(ValueError, match="a shard is"):
            Shard.parse(text)


def array(task, first, last, count, step=1):
    values = dict(ID=task, MIN=first, MAX=last, COUNT=count, STEP=step)
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_slurm_says_which_part_a_task_is():
    assert Shard.parse("slurm", array(3, 0, 7, 8)) == Shard(4, 8)
    assert Shard.parse("SLURM", array(3, 1, 8, 8)) == Shard(3, 8)
    assert Shard.parse("slurm", array(4, 0, 6, 4, step=2)) == Shard(3, 4)
    assert {Shard.parse("slurm", array(i, 1, 5, 5)) for i in range(1, 6)} == {Shard(i, 5) for i in range(1, 6)}


@pytest.mark.parametrize("environ", [array(3, 3, 3, 1), array(3, 3, 7, 5), array(7, 0, 7, 3), array(1, 1, 1, 1)])
def test_a_part_of_an_array_is_not_taken_for_the_whole(environ):
    with pytest.raises(ValueError, match="begins at 0 or 1 and leaves nothing out"):
        Shard.parse("slurm", environ)
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID is set"):
        Shard.parse("slurm", {})


# ------------------------------------------------------------------------------------------------ one shard


def test_a_shard_needs_a_batch_size(tmp_path, pair):
    with pytest.raises(ValueError, match=r"a shard needs batch \(--batch N\)"):
        run(tmp_path, pair, Shard(1, 2), batch=None)


def test_a_folder_keeps_its_shard(cut, pair, tmp_path):
    run(cut[0], pair, Shard(1, 3))
    run(cut[0].parent, pair, Shard(1, 3), batch=None)  # the stored one
    assert len(load_sessions(cut[0])) == 3
    with pytest.raises(ValueError, match="is the folder of shard 1/3, not of 2/3"):
        run(cut[0], pair, Shard(2, 3))
    with pytest.raises(ValueError, match="holds shards of 3, and this is 1/2"):
        run(cut[0].parent, pair, Shard(1, 2))
    with pytest.raises(ValueError, match="holds shard 1/3, not the whole run: choose another out, or join"):
        run(cut[0], pair)
    moved = cut[0].rename(tmp_path / "shard-2-of-3")
    with pytest.raises(ValueError, match="holds shard 1/3, not shard 2/3"):
        run(moved, pair, Shard(2, 3))


def test_a_whole_run_is_no_shard(made, tmp_path, pair):
    folder = shutil.copytree(made / "whole", tmp_path / "shard-1-of-2")
    with pytest.raises(ValueError, match="holds a whole run, not shard 1/2"):
        run(folder, pair, Shard(1, 2))
    with pytest.raises(ValueError, match="is no shard"):
        merge_runs(tmp_path / "out", [folder])


# ------------------------------------------------------------------------------------------------ merging


def test_merged_shards_equal_one_process_and_merging_again_changes_nothing(made, cut, tmp_path):
    merged = merge_runs(tmp_path / "out", reversed(cut))
    assert merged.answers == 20 and merged.missing == ()
    assert_same(tmp_path / "out", made / "whole")
    before, sessions = load_run(tmp_path / "out"), load_sessions(tmp_path / "out")
    assert sessions.shard.tolist() == ["1/3", "2/3", "3/3"]
    where = dict(zip(sessions.id, sessions.shard, strict=True))
    for folder, name in zip(cut, ("1/3", "2/3", "3/3"), strict=True):
        items = load_run(folder)[["attack", "item", "defender"]]
        assert set(before.merge(items).session.map(where)) == {name}, "an answer keeps its start"
    merge_runs(tmp_path / "out", cut)
    pd.testing.assert_frame_equal(load_run(tmp_path / "out"), before)
    pd.testing.assert_frame_equal(load_sessions(tmp_path / "out"), sessions)
    assert told(tmp_path / "out", "config") == told(made / "whole", "config")


def test_the_report_of_merged_shards_is_that_of_one_process(made, cut, tmp_path):
    merge_runs(tmp_path / "out", cut)
    merged, whole = build_report([tmp_path / "out"]), build_report([made / "whole"])
    counted, expected = (report.summary.query("judge != 'clock'").drop(columns="pair") for report in (merged, whole))
    assert len(counted) > 8
    pd.testing.assert_frame_equal(counted, expected)
    assert "3 starts" in report_markdown(merged)


def test_shards_come_one_by_one_and_missing_ones_are_named(made, cut, tmp_path, pair):
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"shard 1/3 is missing: \d rows, the first: set .*; shard 3/3 is missing.*--partial"
    ):
        merge_runs(out, [cut[1]])
    assert not out.exists(), "what is refused leaves nothing"
    out.mkdir()
    (out / "run.toml").touch()
    with pytest.raises(ValueError, match="shard 1/3 is missing"):
        merge_runs(out, [cut[1]])
    assert [path.name for path in out.iterdir()] == ["run.toml"], "but what was there before"
    first = merge_runs(out, [cut[1]], partial=True)
    assert [line.split(":")[0] for line in first.missing] == ["shard 1/3 is missing", "shard 3/3 is missing"]
    assert first.answers == len(load_run(cut[1]))
    judge_run(out, ["refusal:which=gcg"], progress=False)
    own = load_verdicts(out)
    with pytest.raises(ValueError, match="shard 3/3 is missing"):
        merge_runs(out, [cut[0]])
    assert len(load_run(out)) == first.answers
    merge_runs(out, [cut[0], cut[2]])
    answers, verdicts = contents(out)
    pd.testing.assert_frame_equal(answers, contents(made / "whole")[0])
    assert (verdicts.options == '{"which": "gcg"}').sum() == (own.options == '{"which": "gcg"}').sum() == first.answers


def test_a_partial_merge_is_resumed_and_takes_its_shards_later(made, cut, tmp_path, pair):
    merge_runs(tmp_path / "out", cut[:2], partial=True)
    run(tmp_path / "out", pair)
    answers, whole = (
        load_run(folder).drop(columns=["answer", *TIMES]) for folder in (tmp_path / "out", made / "whole")
    )
    order = ["attack", "defender", "place"]
    for frame in (answers, whole):
        frame.sort_values(by=order, inplace=True, ignore_index=True)
    pd.testing.assert_frame_equal(answers, whole)
    merge_runs(tmp_path / "out", cut)
    assert_same(tmp_path / "out", made / "whole")
    run(tmp_path / "out", pair)
    assert_same(tmp_path / "out", made / "whole")


def test_a_shard_that_is_not_finished_is_named(cut, tmp_path):
    change(cut[1], "DELETE FROM verdicts WHERE answer = (SELECT max(id) FROM answers)")
    change(cut[1], "DELETE FROM answers WHERE id = (SELECT max(id) FROM answers)")
    with pytest.raises(
        ValueError, match=r"shard 2/3 \(.*shard-2-of-3\) is not finished: it lacks 1 rows, the first: set 'scary"
    ):
        merge_runs(tmp_path / "out", cut)


def test_shards_grow_and_what_was_merged_grows_with_them(cut, tmp_path, pair):
    more = {"limit": 7, "attacks": [*TABLE["attacks"], "direct"], "defenders": [*TABLE["defenders"], "self-reminder"]}
    merge_runs(tmp_path / "out", cut)
    for number, folder in enumerate(cut, 1):
        kept = set(load_run(folder).item)
        run(folder.parent, pair, Shard(number, 3), **more)
        assert kept <= set(load_run(folder).item)
    merged = merge_runs(tmp_path / "out", cut)
    assert merged.answers == sum(len(load_run(folder)) for folder in cut) == 3 * 7 * 3, "no row was done twice"
    assert told(tmp_path / "out", "config")["limit"] == 7


def test_an_answer_takes_the_place_of_an_error(made, cut, tmp_path):
    change(cut[0], "DELETE FROM verdicts WHERE answer = 1")
    change(cut[0], "UPDATE answers SET error = 'ValueError: x', text = NULL, cost = NULL WHERE id = 1")
    merge_runs(tmp_path / "out", cut)
    assert load_run(tmp_path / "out").error.notna().sum() == 1
    merge_runs(tmp_path / "out", [made / "cut" / "shard-1-of-3"])
    assert_same(tmp_path / "out", made / "whole")
    merge_runs(tmp_path / "out", cut)  # and an error never an answer's
    assert_same(tmp_path / "out", made / "whole")


def test_other_answers_to_one_question_are_refused(made, cut, tmp_path):
    merge_runs(tmp_path / "out", cut)
    change(cut[0], "UPDATE answers SET text = 'another' WHERE id = 1")
    with pytest.raises(
        ValueError,
        match="other answers to 1 questions .* set 'prefill-10', defender 'none', item '.*', which differs in text",
    ):
        merge_runs(tmp_path / "out", cut)
    assert_same(tmp_path / "out", made / "whole")


def test_other_items_are_refused(cut, tmp_path):
    record = "json_set(record, '$.question', 'another')"
    change(cut[2], f"UPDATE items SET record = {record} WHERE attack = 'prefill-10' AND place = 4")
    with pytest.raises(
        ValueError, match=r"shard-3-of-3: the item '.*' of the set 'prefill-10' is another one there, in question"
    ):
        merge_runs(tmp_path / "out", cut)


def test_other_settings_weights_and_cuts_are_refused(cut, tmp_path):
    config = told(cut[1], "config")
    told(cut[1], "config", config | {"seed": 7})
    with pytest.raises(ValueError, match="shards of different runs: seed is 0 and 7"):
        merge_runs(tmp_path / "out", cut)
    told(cut[1], "config", config | {"defenders": config["defenders"][::-1]})
    with pytest.raises(ValueError, match="shards of different runs: defenders is"):
        merge_runs(tmp_path / "out", cut)
    told(cut[1], "config", config)
    models = told(cut[1], "models")
    told(cut[1], "models", models | {"draft": "other"})
    with pytest.raises(ValueError, match="other weights of the draft"):
        merge_runs(tmp_path / "out", cut)
    told(cut[1], "models", models)
    told(cut[1], "shard", "2/4")
    with pytest.raises(ValueError, match="is shard 1/3, .* is 2/4: they are of different cuts"):
        merge_runs(tmp_path / "out", cut)


def test_which_gpu_a_shard_was_on_does_not_matter(made, cut, tmp_path):
    for number, folder in enumerate(cut):
        config = told(folder, "config")
        told(folder, "config", config | {"pair": config["pair"] | {"device": f"cuda:{number}"}})
    merge_runs(tmp_path / "out", cut)
    assert_same(tmp_path / "out", made / "whole")


def test_out_must_be_the_same_run_and_no_shard(made, cut, tmp_path, pair):
    other = run(tmp_path / "other", pair, max_new_tokens=5, limit=1)
    with pytest.raises(ValueError, match="different runs: max_new_tokens is 5 and 6"):
        merge_runs(other, cut)
    with pytest.raises(ValueError, match="is shard 1/3 itself"):
        merge_runs(cut[0], cut)
    whole = shutil.copytree(made / "whole", tmp_path / "whole")
    merge_runs(whole, cut)
    assert_same(whole, made / "whole")


def test_what_is_no_store_is_one_line(tmp_path, cut):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.sqlite").write_bytes(b"no database at all" * 100)
    for folder, message in (
        (tmp_path / "bad", "is not a run of this library"),
        (tmp_path / "none", "there is no run at"),
    ):
        result = runner.invoke(app, ["merge", str(tmp_path / "out"), str(cut[0]), str(folder)])
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shard", "3/2"], "a shard is one of the parts 1/2 to 2/2, not 3/2"),
        (["--shard", "two"], "a shard is i/n, such as 2/8"),
        (["--shard", "slurm"], "is for tasks of a SLURM array"),
        (["--shard", "1/2"], "a shard needs batch (--batch N)"),
    ],
)
def test_mistakes_are_one_line(args, message, tmp_path, monkeypatch):
    for name in array(1, 1, 1, 1):
        monkeypatch.delenv(name, raising=False)
    result = runner.invoke(app, ["run", "--attacks", "direct", "--defenders", "none", "--out", str(tmp_path), *args])
    assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1


def test_shards_by_slurm_merged_and_reported(tmp_path, monkeypatch):
    settings = "--attacks prefill-10 --defenders none --limit 4 --batch 2 --max-new-tokens 4 --judges exact"
    command = ["run", *settings.split(), "--out", str(tmp_path / "out"), "--shard", "slurm"]
    for task in (0, 1):
        for name, value in array(task, 0, 1, 2).items():
            monkeypatch.setenv(name, value)
        result = runner.invoke(app, command)
        folder = tmp_path / "out" / f"shard-{task + 1}-of-2"
        assert result.exit_code == 0 and f"2 answers in {folder}; next: ssd merge" in result.stdout
    plan = runner.invoke(app, [*command, "--dry-run"]).stdout
    assert plan.endswith(f"shard       2/2 of these answers, in {folder}\n")
    merged = runner.invoke(app, ["merge", *map(str, [tmp_path / "out", *sorted((tmp_path / "out").glob("shard-*"))])])
    assert merged.exit_code == 0 and "4 answers in" in merged.stdout
    assert "prefill-10 (n = 4)" in runner.invoke(app, ["report", str(tmp_path / "out")]).stdout


def test_an_array_without_a_shard_is_told_so(tmp_path, monkeypatch):
    for name, value in array(3, 1, 8, 8).items():
        monkeypatch.setenv(name, value)
    args = [
        "--attacks",
        "direct",
        "--defenders",
        "none",
        "--limit",
        "1",
        "--max-new-tokens",
        "2",
        "--out",
        str(tmp_path),
    ]
    result = runner.invoke(app, ["run", *args])
    assert result.exit_code == 0
    assert "task 3 of a SLURM array of 8 does the whole run; --shard slurm would do its part" in result.stderr


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.slow
def test_merging_killed_at_any_moment_leaves_out_as_it_was_and_ends_well(made, cut, tmp_path):
    out, rng = tmp_path / "out", random.Random(0)
    merge_runs(out, cut[:1], partial=True)
    before, kills = contents(out), 0
    for _ in range(40):
        child = os.fork()
        if child == 0:
            merge_runs(out, cut)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            assert_same(out, made / "whole")
            break
        found, kills = contents(out), kills + 1
        expected = before if len(found[0]) == len(before[0]) else contents(made / "whole")
        for one, other in zip(found, expected, strict=True):
            pd.testing.assert_frame_equal(one, other)
    assert kills
    merge_runs(out, cut)
    assert_same(out, made / "whole")
