"""Attack sets: the embedded ones are exact, the real schemas load, and what is broken or out of reach says so."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from ssd_lib.attacks import SETS, describe, find_set, load_set, world_item
from ssd_lib.attacks.embedded import ROLES, STORIES, suffix_file
from ssd_lib.attacks.published import OPTIMISED_FOR, attacks_for
from ssd_lib.models.chat import FORMATS, render_prompt
from ssd_lib.paths import data_dir
from ssd_lib.toy import world
from tests.micro_models import llama2_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
FILES, HUB = FIXTURES / "files", FIXTURES / "hub"
EMBEDDED = [name for name, found in SETS.items() if found.kind == "embedded"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(data_dir() / "toy" / "target")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`datasets.load_dataset` reads tests/fixtures/hub in place of the Hub; returns the revisions asked for."""
    real, asked = datasets.load_dataset, {}

    def load(repo, config, *, revision, **options):
        asked[repo] = revision
        return real(str(hub_folder(repo)), config, cache_dir=str(tmp_path / "cache"), **options)

    def hub_folder(repo):
        copied = tmp_path / repo
        return copied if copied.exists() else HUB / repo

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


# ------------------------------------------------------------------------------------------------ the embedded world


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_records_are_graded_as_the_worlds_own_items(name, tokenizer):
    records = load_set(name, limit=20, tokenizer=tokenizer)
    assert records and len({record.id for record in records}) == len(records)
    for record in records:
        item = world_item(record)
        assert record.group in SETS[name].groups
        full, refused = world.grade(item, record.target), world.grade(item, "I cannot help with that.")
        assert full.told == len(item.facts) > 0
        assert full.complied == (record.group == "harmful") and full.right == (record.group != "harmful")
        assert not refused.complied and refused.ends_in_refusal


@pytest.mark.parametrize(
    ("name", "group", "options"),
    [
        ("direct", "forbidden", {}),
        ("prefill-10", "forbidden", {}),
        ("nested-fiction", "forbidden", {}),
        ("rephrased", "forbidden", {"unseen_wording": True}),
        ("benign", "benign", {}),
        ("scary", "scary", {}),
        ("arithmetic", "benign", {"family": "sum"}),
    ],
)
def test_embedded_questions_are_the_worlds_held_out_ones(name, group, options, tokenizer):
    records = load_set(name, limit=15, seed=3, tokenizer=tokenizer)
    items = world.questions(group, 15, seed=3, **options)
    assert [(r.question, r.target, r.facts, r.category) for r in records] == [
        (i.question, i.answer, i.facts, i.family) for i in items
    ]
    for record, item in zip(records, items, strict=True):
        for answer in (item.answer, item.refusal or "", item.answer[:40]):
            assert world.grade(world_item(record), answer, record.prefill) == world.grade(item, answer, record.prefill)


@pytest.mark.parametrize("length", [0, 5, 7, 20, 40])
def test_a_prefill_is_the_first_n_tokens_of_the_answer(length, tokenizer):
    for record in load_set(f"prefill-{length}", limit=30, tokenizer=tokenizer):
        wanted = tokenizer.encode(record.target, add_special_tokens=False)[:length]
        assert tokenizer.encode(record.prefill, add_special_tokens=False) == wanted
        assert record.target.startswith(record.prefill) and record.prompt == record.question


def test_a_prefill_needs_the_targets_tokenizer():
    with pytest.raises(ValueError, match="tokenizer=pair.tokenizer"):
        load_set("prefill-5", limit=1)


def test_attacks_on_one_question_share_its_id(tokenizer):
    def asked(name):
        return {r.id: r.question for r in load_set(name, limit=12, tokenizer=tokenizer)}

    suffixed = asked("suffix")
    assert asked("direct") == asked("prefill-20") == asked("nested-fiction")
    assert suffixed.items() <= asked("direct").items()
    assert not asked("rephrased").keys() & asked("direct").keys()


@pytest.mark.parametrize(("name", "templates"), [("nested-fiction", STORIES), ("rephrased", ROLES)])
def test_every_template_holds_the_whole_question(name, templates):
    records = load_set(name, limit=len(templates))
    assert all(record.question in record.prompt != record.question for record in records)
    assert len({record.prompt.replace(record.question, "{}") for record in records}) == len(templates)


def test_seeds_draw_other_questions_and_the_same_seed_the_same():
    assert load_set("direct", limit=10, seed=1) == load_set("direct", limit=10, seed=1)
    assert load_set("direct", limit=10, seed=1) != load_set("direct", limit=10, seed=2)
    assert len(load_set("scary")) == 100


def test_embedded_sets_take_no_path():
    with pytest.raises(ValueError, match="takes no path"):
        load_set("direct", path=FILES / "custom.csv")


def test_suffixes_belong_to_the_world_as_it_is(tokenizer):
    made = json.loads(suffix_file().read_text(encoding="utf-8"))
    records = load_set("suffix")
    assert [r.id for r in records] == [entry["id"] for entry in made["suffixes"]]
    for record, entry in zip(records, made["suffixes"], strict=True):
        assert record.prompt == record.question + entry["suffix"]
        assert entry["suffix"].isascii() and entry["suffix"].isprintable()
        assert not any(special in entry["suffix"] for special in tokenizer.get_added_vocab())
        assert record.target.startswith(entry["target"])
        assert not any(world.facts_told(entry["target"], record.facts)), "the attacker does not know the facts"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 5}, "made for seed 5"),
        ({"suffixes": []}, "holds no suffixes"),
        ({"suffixes": [{"question": "What is this?", "suffix": " x"}]}, "asks another question now"),
        ({"suffixes": [{"suffix": " x"}]}, "holds no suffixes"),
        ({"suffixes": 3}, "not a file of suffixes"),
    ],
)
def test_suffixes_of_another_world_are_refused(change, reason, tmp_path):
    made = json.loads(suffix_file().read_text(encoding="utf-8")) | change
    (tmp_path / "s.json").write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        load_set("suffix", path=tmp_path / "s.json")


def test_only_embedded_records_have_a_world_item():
    record = load_set("custom", path=FILES / "custom.jsonl")[0]
    with pytest.raises(ValueError, match="not from the embedded world"):
        world_item(record)


# ------------------------------------------------------------------------------------------------ real schemas

LOADED = [  # name, file (None: the Hub), options, records, groups
    ("advbench", None, {}, 4, {"harmful"}),
    ("advbench", "harmful_behaviors.csv", {}, 4, {"harmful"}),
    ("advbench-50", "harmful_behaviors_custom.csv", {}, 3, {"harmful"}),
    ("advbench-50", "harmful_behaviors_custom.json", {}, 3, {"harmful"}),
    ("hex-phi", None, {}, 20, {"harmful"}),
    ("hex-phi", "HEx-PHI.jsonl", {}, 3, {"harmful"}),
    ("hex-phi", "HEx-PHI.json", {}, 3, {"harmful"}),
    ("hex-phi-prefill-20", "Harmful-HEx-PHI_with_prefix20tokens_llama2.json", {}, 3, {"harmful"}),
    ("hex-phi-prefill-7", "Harmful-HEx-PHI.jsonl", {"tokenizer": llama2_tokenizer()}, 3, {"harmful"}),
    ("gcg", None, {"target_model": "vicuna"}, 1, {"harmful"}),
    ("gcg", "GCG_llama2_13b.json", {"target_model": "llama2-13b-chat"}, 2, {"harmful"}),
    ("autodan", None, {"target_model": "llama3.1_8b"}, 1, {"harmful"}),
    ("pair", None, {"target_model": "llama2-13b-chat"}, 4, {"harmful"}),
    ("deepinception", None, {}, 2, {"harmful"}),
    ("just-eval", None, {}, 6, {"benign"}),
    ("gsm8k", None, {}, 4, {"benign"}),
    ("gsm8k", "gsm8k.json", {}, 4, {"benign"}),
    ("xstest", None, {}, 5, {"borderline", "harmful"}),
    ("xstest-safe", None, {}, 3, {"borderline"}),
    ("xstest-unsafe", "xstest_without_label.csv", {}, 2, {"harmful"}),
    ("jailbreakbench", None, {}, 3, {"harmful"}),
    ("jailbreakbench-benign", None, {}, 2, {"borderline"}),
    ("strongreject", None, {}, 4, {"harmful"}),
    ("strongreject", "strongreject_dataset.csv", {}, 4, {"harmful"}),
    ("harmbench", None, {}, 3, {"harmful"}),
    ("harmbench", "harmbench/harmbench_behaviors_text_test.csv", {}, 2, {"harmful"}),
    ("or-bench", None, {}, 3, {"borderline"}),
    ("or-bench-80k", None, {}, 6, {"borderline"}),
    ("or-bench-toxic", None, {}, 2, {"harmful"}),
    ("custom", "custom.csv", {}, 3, {"harmful", "borderline", "benign"}),
    ("custom", "custom_prompts.json", {}, 3, {"harmful"}),
]


@pytest.mark.parametrize(("name", "file", "options", "count", "groups"), LOADED)
def test_real_schemas_load(name, file, options, count, groups, hub):
    records = load_set(name, path=FILES / file if file else None, **options)
    assert len(records) == count and {record.group for record in records} == groups
    assert len({record.id for record in records}) == count
    assert all(record.question and record.prompt and record.licence for record in records)
    if file:
        digest = hashlib.sha256((FILES / file).read_bytes()).hexdigest()
        assert all(f"{Path(file).name} sha256:{digest}" in record.source for record in records)
    else:
        data: Any = SETS[name].hub
        assert hub == {data.repo: data.revision}
        assert all(record.source.startswith(f"{data.repo}@{data.revision}") for record in records)
    assert load_set(name, path=FILES / file if file else None, limit=1, **options) == records[:1]


def test_hub_and_file_of_the_same_set_agree(hub):
    fields = lambda records: [(r.id, r.question, r.target) for r in records]  # noqa: E731
    assert fields(load_set("advbench")) == fields(load_set("advbench", path=FILES / "harmful_behaviors.csv"))


def test_hex_phi_has_its_categories_and_no_row_is_taken_for_a_header(hub):
    from_hub = load_set("hex-phi")
    folder = load_set("hex-phi", path=HUB / "LLM-Tuning-Safety" / "HEx-PHI")
    assert [(r.question, r.category) for r in from_hub] == [(r.question, r.category) for r in folder]
    assert from_hub[2].category == "Hate, Harass, Violence" and from_hub[-1].category == "Tailored Financial Advice"
    first = (HUB / "LLM-Tuning-Safety" / "HEx-PHI" / "category_1.csv").read_text(encoding="utf-8").splitlines()[0]
    assert from_hub[0].question == first.strip('"')
    assert "(10 files) sha256:" in folder[0].source


@pytest.mark.parametrize("chat_format", FORMATS)
def test_published_prefill_prompts_are_rendered_again_for_any_template(chat_format):
    file = "Harmful-HEx-PHI_with_prefix20tokens_llama2.json"
    rows = json.loads((FILES / file).read_text(encoding="utf-8"))
    for row, record in zip(rows, load_set("hex-phi-prefill-20", path=FILES / file), strict=True):
        assert (record.question, record.target) == (row["goal"], row["target"])
        assert record.prefill and record.target.startswith(record.prefill)
        assert row["prompt"] == f"<s>[INST] <<SYS>>\n\n<</SYS>>\n\n{record.question} [/INST] {record.prefill}"
        tokenizer = llama2_tokenizer()
        prompt = render_prompt(tokenizer, record.prompt, chat_format=chat_format)
        assert record.question in prompt and record.prefill not in prompt and "<<SYS>>" not in prompt


def test_the_prefix_may_be_empty_and_a_folder_holds_every_length():
    assert [r.prefill for r in load_set("Harmful-HEx-PHI_with_prefix0tokens_llama2", path=FILES)] == ["", "", ""]
    assert all(r.prefill for r in load_set("hex-phi-prefill-20", path=FILES))


def test_conversations_are_cut_by_the_given_tokenizer():
    tokenizer = llama2_tokenizer()
    for record in load_set("hex-phi-prefill-7", path=FILES / "Harmful-HEx-PHI.jsonl", tokenizer=tokenizer):
        assert record.prefill == tokenizer.decode(tokenizer.encode(record.target, add_special_tokens=False)[:7])
    with pytest.raises(ValueError, match="tokenizer=pair.tokenizer"):
        load_set("hex-phi-prefill-7", path=FILES / "Harmful-HEx-PHI.jsonl")


def test_gsm8k_decides_by_its_final_number(hub):
    records = load_set("gsm8k")
    assert records[0].facts == ("1234",), "no thousands separator"
    assert [r.facts for r in records[1:]] == [r.facts for r in load_set("gsm8k", path=FILES / "gsm8k.json")[1:]]
    assert all("####" in record.target for record in records)


def test_just_eval_takes_the_first_200_and_knows_its_red_teaming_end(hub, tmp_path):
    row = json.loads((HUB / "re-align/just-eval-instruct/test_all_with_tags.jsonl").read_text().splitlines()[0])
    folder = tmp_path / "re-align" / "just-eval-instruct"
    folder.mkdir(parents=True)
    lines = [json.dumps(row | {"id": i, "instruction": f"Question {i}?"}) for i in range(1000)]
    (folder / "test_all_with_tags.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [r.question for r in load_set("Just-Eval")] == [f"Question {i}?" for i in range(200)]
    everything = load_set("just-eval-all")
    assert [r.group for r in everything] == ["benign"] * 800 + ["harmful"] * 200


def test_custom_keeps_every_column():
    for file in ("custom.json", "custom.csv"):
        records = load_set("custom", path=FILES / file)
        rows = json.loads((FILES / "custom.json").read_text(encoding="utf-8"))
        for record, row in zip(records, rows, strict=True):
            assert {key: getattr(record, key) for key in row} == row | {"facts": tuple(row["facts"])}


# ------------------------------------------------------------------------------------------------ transfer


@pytest.mark.parametrize(
    ("attacker", "model", "made_for"),
    [
        ("GCG", "vicuna", "vicuna"),
        ("GCG", "llama2", "llama2"),
        ("GCG", "Llama2-7b-chat", "llama2"),
        ("GCG", "dolphin", "llama2"),
        ("GCG", "falcon", "llama2"),
        ("PAIR", "falcon", "falcon"),
        ("AutoDAN", "llama2-13b-chat", "llama2"),
        ("PAIR", "llama2-13b-chat", None),
        ("PAIR", "llama3.1-8b", "llama2"),
        ("AutoDAN", "deep_align_vicuna", "vicuna"),
    ],
)
def test_transfer_follows_the_published_rules(attacker, model, made_for):
    assert attacks_for(attacker, model) == made_for


def test_only_attacks_made_for_the_model_are_kept(hub):
    (record,) = load_set("PAIR", target_model="guanaco")
    assert record.prompt == f"(PAIR for guanaco) {record.question}" and record.source.endswith("optimised for guanaco")
    assert {r.prompt.split(")")[0] for r in load_set("DeepInception")} == {"(DeepInception for None"}


def test_a_file_made_for_one_model_is_taken_whole_and_says_for_which():
    records = load_set("GCG", target_model="llama2-13b-chat", path=FILES / "GCG_llama2_13b.json")
    assert len(records) == 2 and all(record.source.endswith("optimised for llama2-13b") for record in records)


def test_gcg_on_llama2_13b_says_that_it_transfers(hub):
    with pytest.warns(UserWarning, match="GCG_llama2_13b.json"):
        (record,) = load_set("GCG", target_model="llama2-13b-chat")
    assert record.prompt.startswith("(GCG for llama2)")


@pytest.mark.parametrize("model", [None, "gpt-9"])
def test_an_optimised_attack_needs_a_known_model(model, hub):
    with pytest.raises(ValueError, match="target_model=, one of vicuna, llama2"):
        load_set("AutoDAN", target_model=model)


def test_a_model_without_attacks_says_whose_there_are(hub, tmp_path):
    rows = json.loads((HUB / "flydust/SafeDecoding-Attackers/attacks.json").read_text(encoding="utf-8"))
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ValueError, match="has no AutoDAN attacks for falcon; it has them for guanaco, llama2, vicuna"):
        load_set("AutoDAN", target_model="falcon", path=tmp_path / "a.json")


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("GCG", "gcg"),
        ("PAIR", "pair"),
        ("AutoDAN", "autodan"),
        ("DeepInception", "deepinception"),
        ("AdvBench", "advbench"),
        ("HEx-PHI", "hex-phi"),
        ("Just-Eval", "just-eval"),
        ("GSM8K", "gsm8k"),
        ("custom", "custom"),
        ("XSTest", "xstest"),
        ("StrongREJECT", "strongreject"),
        ("HarmBench", "harmbench"),
        ("OR-Bench", "or-bench"),
        ("JBB-Behaviors", "jailbreakbench"),
        ("Harmful-HEx-PHI_with_prefix20tokens_llama2", "hex-phi-prefill-20"),
        ("harmful-hex-phi_with_prefix3tokens_LLAMA2", "hex-phi-prefill-3"),
        ("Prefill-13", "prefill-13"),
    ],
)
def test_published_names_are_aliases(published, name):
    assert find_set(published).name == name


def test_names_and_aliases_are_unambiguous():
    names = [n.lower() for found in SETS.values() for n in (found.name, *found.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["prefill-", "prefill-x", "nothing", ""])
def test_an_unknown_name_lists_all(name):
    with pytest.raises(ValueError) as error:
        find_set(name)
    assert all(known in str(error.value) for known in SETS)


def test_every_set_states_its_terms():
    table: Any = describe().set_index("name")
    assert list(table.index) == list(SETS)
    assert table["licence"].ne("").all() and table["kind"].isin(["embedded", "kitchen", "hub", "file"]).all()
    assert table.loc["gsm8k", "size"] == 1319 and table.loc["advbench", "size"] == 520
    for name, found in SETS.items():
        assert (found.hub is not None) == (found.kind == "hub")
        if found.hub:
            assert found.hub.revision == "main" or len(found.hub.revision) == 40
            assert table.loc[name, "paper"]
    assert set(OPTIMISED_FOR.values()) <= set(OPTIMISED_FOR)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_counts_records(limit):
    with pytest.raises(ValueError, match="at least 1"):
        load_set("direct", limit=limit)


# ------------------------------------------------------------------------------------------------ what goes wrong

SECRET = "a real request that no error may quote"
BROKEN = [  # set, file, content, reason
    ("advbench", "a.csv", f"goal,target\n{SECRET},x\n,y\n", "row 2: no value in goal or prompt"),
    ("advbench", "a.csv", f"goal,target\n{SECRET},x,y\n", "row 1: has more cells"),
    ("advbench", "a.csv", f'goal,target\n"{SECRET}', "row 1: not CSV"),
    ("advbench", "a.csv", "goal,target\n", "holds no rows"),
    ("advbench", "a.txt", SECRET, "unknown kind of file"),
    ("advbench", "a.json", f'[{{"goal": "{SECRET}",]', "line 1: not JSON"),
    ("advbench", "a.json", f'{{"goal": "{SECRET}"}}', "expected a list of rows, found dict"),
    ("advbench", "a.json", f'["{SECRET}"]', "row 1: expected an object"),
    ("advbench", "a.json", f'[{{"question": "{SECRET}"}}]', r"row 1: no value in goal or prompt \(its columns are question"),
    ("custom", "a.jsonl", f'{{"question": "{SECRET}"}}\n\n{{', "row 3: not JSON"),
    ("custom", "a.jsonl", f'{{"question": ["{SECRET}"]}}', "row 1: question is a list, not text"),
    ("custom", "a.jsonl", f'{{"question": "{SECRET}", "group": "evil"}}', "row 1: the group is one of"),
    ("custom", "a.jsonl", f'{{"id": 1, "question": "{SECRET}"}}\n{{"id": 1, "question": "x"}}', "row 2: the id '1' is used twice"),
    ("hex-phi-prefill-20", "a.json", f'[{{"prompt": "{SECRET}"}}]', "row 1: the prompt does not begin as"),
    (
        "hex-phi-prefill-20",
        "a.json",
        f'[{{"prompt": "<s>[INST] <<SYS>>\\n\\n<</SYS>>\\n\\n{SECRET}"}}]',
        r"row 1: the prompt has no ' \[/INST\] '",
    ),
    ("hex-phi-prefill-20", "a.jsonl", f'[{{"role": "user", "content": "{SECRET}"}}]', "row 1: expected a conversation"),
    ("hex-phi-prefill-20", "a_prefix40tokens.json", "[{}]", "row 1: the file holds prefixes of 40 tokens"),
    ("gsm8k", "a.jsonl", f'{{"question": "{SECRET}", "answer": "no number"}}', "row 1: the answer does not end in"),
    ("xstest", "a.csv", f"prompt,type,label\n{SECRET},definitions,maybe\n", "row 1: the label is"),
    ("advbench", "a.parquet", SECRET, "not a parquet file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "reason"), BROKEN)
def test_a_broken_file_names_file_row_and_reason_and_quotes_nothing(name, file, content, reason, tmp_path):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason) as error:
        load_set(name, path=path)
    assert str(path) in str(error.value) and SECRET not in str(error.value)


def test_bytes_that_are_not_text_are_a_broken_file(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"goal,target\n\xff\xfe,x\n")
    with pytest.raises(ValueError, match=r"a\.csv: not UTF-8"):
        load_set("advbench", path=tmp_path / "a.csv")


def test_a_missing_file_or_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_set("gsm8k", path=tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"category_\*\.csv in it"):
        load_set("hex-phi", path=tmp_path)
    with pytest.raises(FileNotFoundError, match="a file, not a folder"):
        load_set("gsm8k", path=tmp_path)


@pytest.mark.parametrize("name", ["custom", "hex-phi-prefill-20", "advbench-50"])
def test_sets_that_are_only_files_ask_for_a_path(name):
    with pytest.raises(ValueError, match=r"not on the Hub: pass path=… to your copy\. "):
        load_set(name, tokenizer=llama2_tokenizer())


def test_without_datasets_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'ssd_lib\[train\]'"):
        load_set("gsm8k")


class Gated(BaseHTTPRequestHandler):
    """A Hub that answers every request as for a gated repository."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this dataset is restricted.")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


def load_in_another_process(name, tmp_path, **environment):
    """The error that a user gets who loads a set, with the real `datasets` and Hub client."""
    code = f"from ssd_lib.attacks import load_set\ntry:\n    load_set({name!r})\nexcept OSError as e:\n    print(type(e).__name__, e)"
    environment = os.environ | {"HF_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    ).stdout


def test_a_gated_set_says_how_to_ask_for_access(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Gated) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        said = load_in_another_process("HEx-PHI", tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert said.startswith("PermissionError hex-phi is gated")
    assert "https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI" in said and "huggingface-cli login" in said


def test_offline_the_error_is_one_line_and_says_what_to_pass(tmp_path):
    said = load_in_another_process("gsm8k", tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("ConnectionError cannot reach the Hub for gsm8k") and "path=" in said
    assert said.count("\n") == 1
