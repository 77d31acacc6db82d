"""SSD inside lm-eval and inspect_ai: the answers of `ssd run`, their logs read back, and what they refuse.

Needs the extra `eval`, and a reinstall after it changed (`pip install -e .`): both tools find us by a name in pyproject.toml.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false
# pyright: reportGeneralTypeIssues=false, reportTypedDictNotRequiredAccess=false, reportOptionalIterable=false, reportOptionalMemberAccess=false
# (an extra that `make` installs for the long tier only; where it is there, its unions of everything are not ours to narrow)

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_lib.attacks import load_set
from ssd_lib.experiments import config_from, load_run, run_experiment
from ssd_lib.models.pairs import load_pair

pytest.importorskip("lm_eval")
pytest.importorskip("inspect_ai")
pytestmark = pytest.mark.slow

SETS, LIMIT, TOKENS = ("direct", "prefill-10", "suffix", "benign"), 3, 100
TASK = """
task: ssd_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{target}}}}"
gen_prefix: prefill
generation_kwargs: {kwargs}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def rows(pair):
    sets = {name: load_set(name, tokenizer=pair.tokenizer, limit=LIMIT) for name in SETS}
    return [
        {"id": f"{name}/{r.id}", "question": r.prompt, "prefill": r.prefill, "target": r.target}
        for name, records in sets.items()
        for r in records
    ]


@pytest.fixture(scope="module")
def of_ssd_run(pair, tmp_path_factory):
    """The answers of `ssd run`, by defender and question."""
    table = {"attacks": list(SETS), "defenders": ["ssd", "ssd-hardened"], "limit": LIMIT, "max_new_tokens": TOKENS}
    frame = load_run(
        run_experiment(config_from(table | {"out": tmp_path_factory.mktemp("run")}), pair=pair, progress=False)
    )
    return {
        name: dict(zip(part.attack + "/" + part.item, part.text, strict=True))
        for name, part in frame.groupby("defender")
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a test's task lies; neither tool goes to the network."""
    for name, value in {"HF_DATASETS_CACHE": str(tmp_path / "datasets"), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def write_task(folder, rows, *, kind="generate_until", metric="exact_match", **kwargs):
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    kwargs = {"until": [], "max_gen_toks": TOKENS} | kwargs
    text = TASK.format(rows=data, kind=kind, metric=metric, kwargs=json.dumps(kwargs))
    (folder / "ssd_questions.yaml").write_text(text, encoding="utf-8")


def with_lm_eval(folder, model_args, batch_size=4, chat=True):
    """The task through lm-eval's Python interface: its results, and the texts by question."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    import ssd_lib.tools.lm_eval_model  # noqa: F401 (registers the model)

    found = simple_evaluate(
        model="ssd",
        model_args=model_args,
        tasks=["ssd_questions"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        batch_size=batch_size,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
    )
    return found, {each["doc"]["id"]: each["resps"][0][0] for each in found["samples"]["ssd_questions"]}


def with_inspect(folder, rows, model_args=None, model="ssd/toy", **config):
    """The same questions through inspect_ai: its log, read back from the file."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser
    from inspect_ai.scorer import includes

    def turns(row):
        begun = [ChatMessageAssistant(content=row["prefill"])] if row["prefill"] else []
        return [ChatMessageUser(content=row["question"]), *begun]

    samples = [Sample(id=row["id"], input=turns(row), target=row["target"]) for row in rows]
    options = {"max_tokens": TOKENS} | config
    (log,) = eval(
        Task(dataset=samples, scorer=includes()),
        model=model,
        model_args=model_args or {},
        log_dir=str(folder / "logs"),
        display="none",
        **options,
    )
    return read_eval_log(log.location)


# ------------------------------------------------------------------------------------------------ the same answers


@pytest.mark.parametrize("hardened", [False, True])
def test_all_three_give_the_same_answers(hardened, rows, of_ssd_run, folder):
    expected = of_ssd_run["ssd-hardened" if hardened else "ssd"]
    assert len(expected) == len(rows) and of_ssd_run["ssd"] != of_ssd_run["ssd-hardened"]
    write_task(folder, rows)
    found, texts = with_lm_eval(folder, {"pair": "toy", "hardened": hardened})
    assert texts == expected
    log = with_inspect(folder, rows, {"hardened": hardened})
    assert log.status == "success" and {s.id: s.output.completion for s in log.samples} == expected

    numbers = [sample.output.metadata["ssd"] for sample in log.samples]
    kept, taken_back = (sum(each[name] for each in numbers) for name in ("tokens", "tokens_taken_back"))
    assert (taken_back > 0) is hardened and sum(each["alarms"] for each in numbers) > 0
    assert found["config"]["ssd_answers"] == len(rows) and found["config"]["ssd_hardened"] is hardened
    assert found["config"]["ssd_decoded_per_kept"] == pytest.approx(1 + taken_back / kept)
    matched = sum(each["match_ratio"] * each["tokens"] for each in numbers)
    assert found["config"]["ssd_match_ratio"] == pytest.approx(matched / kept)


# ------------------------------------------------------------------------------------------------ lm-eval


def command(folder, *more, model_args="pair=toy,hardened=true"):
    """`ssd-lm-eval` as a user types it."""
    program = Path(sys.executable).with_name("ssd-lm-eval")
    typed = [program, "--model", "ssd", "--model_args", model_args, "--apply_chat_template"]
    typed += ["--include_path", folder, "--tasks", "ssd_questions", *more]
    return subprocess.run(list(map(str, typed)), capture_output=True, text=True, env=os.environ, cwd=folder)


def test_the_command_line_of_lm_eval(rows, of_ssd_run, folder):
    write_task(folder, rows)
    done = command(folder, "--batch_size", 4, "--log_samples", "--output_path", folder / "out")
    assert done.returncode == 0 and "exact_match" in done.stdout, done.stderr
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert {line["doc"]["id"]: line["resps"][0][0] for line in lines} == of_ssd_run["ssd-hardened"]


def test_log_likelihood_tasks_are_refused_with_the_reason(rows, folder):
    write_task(folder, rows, kind="loglikelihood", metric="acc")
    done = command(folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ssd-lm-eval: the model ssd has no log-likelihoods") and "generate_until" in said


def test_rolling_log_likelihoods_are_refused_too():
    from ssd_lib.tools.lm_eval_model import SSDLM

    with pytest.raises(ValueError, match="no log-likelihoods"):
        SSDLM("toy").loglikelihood_rolling([])


def test_a_task_says_where_an_answer_ends(rows, of_ssd_run, folder):
    write_task(folder, rows, until=[". ", " that"])
    _, texts = with_lm_eval(folder, {"pair": "toy"})
    assert texts == {name: text.split(". ")[0].split(" that")[0] for name, text in of_ssd_run["ssd"].items()}
    assert texts != of_ssd_run["ssd"]


def test_without_a_chat_template_both_models_read_the_text_as_it_stands(pair, rows, folder):
    from ssd_lib import ssd_generate

    write_task(folder, [row for row in rows if not row["prefill"]])
    _, texts = with_lm_eval(folder, {"pair": "toy"}, batch_size=2, chat=False)
    for row in rows:
        if not row["prefill"]:
            ids = pair.tokenizer.encode(row["question"])
            raw = ssd_generate(
                pair.target, pair.draft, [ids], config=pair.config, max_new_tokens=TOKENS, vocab_size=pair.vocab_size
            )
            assert texts[row["id"]] == pair.tokenizer.decode(raw.sequences[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("model_args", "task", "said"),
    [
        ({"pair": "toy", "pretrained": "gpt2"}, {}, "takes no pretrained="),
        ({"pair": "toy", "alpha_onion": 1}, {}, "no setting alpha_onion"),
        ({"pair": "tory"}, {}, "unknown pair 'tory'"),
        ({"pair": 3}, {}, "the pair's name is a value of the type str"),
        ({"pair": "toy", "device": "gpu"}, {}, "device='gpu' is none"),
        ({"pair": "toy"}, {"max_gen_toks": "few"}, "generation_kwargs .* cannot be read"),
        ({"pair": "toy"}, {"num_beams": 2}, "num_beams=2, which SSD does not know"),
        ({"pair": "toy"}, {"max_gen_toks": 510}, "question 0 of 12: the target's prompt"),
        ({"pair": "toy"}, {"batch_size": "auto"}, "batch_size='auto'"),
    ],
)
def test_lm_eval_is_told_what_ssd_cannot_do(model_args, task, said, rows, folder, monkeypatch):
    from ssd_lib.tools import answerer

    monkeypatch.setattr(answerer.Answerer, "ask", lambda *_, **__: pytest.fail("nothing may be decoded before"))
    size = task.pop("batch_size", 1)
    write_task(folder, rows, **task)
    with pytest.raises(ValueError, match=said):
        with_lm_eval(folder, model_args, batch_size=size)


def test_sampling_follows_the_seed(rows, folder):
    def texts(seed):
        write_task(folder, rows[-2:], do_sample=True, temperature=3.0, seed=seed)
        return with_lm_eval(folder, {"pair": "toy"})[1]

    assert texts(1) == texts(1) != texts(2)


# ------------------------------------------------------------------------------------------------ inspect_ai


def test_questions_that_wait_become_a_batch(rows, of_ssd_run, folder, monkeypatch):
    from ssd_lib.tools.inspect_provider import SSDAPI

    sizes, ask = [], SSDAPI._ask
    monkeypatch.setattr(
        SSDAPI, "_ask", lambda self, prompts, *more: sizes.append(len(prompts)) or ask(self, prompts, *more)
    )
    log = with_inspect(folder, rows, {"batch": 5}, epochs=2)
    assert sum(sizes) == 2 * len(rows) and max(sizes) == 5
    assert all(s.output.completion == of_ssd_run["ssd"][s.id] for s in log.samples) and len(log.samples) == 2 * len(
        rows
    )


def test_the_log_says_how_an_answer_ended(rows, of_ssd_run, folder):
    log = with_inspect(folder, rows[-1:], stop_seqs=[" with "])
    (sample,) = log.samples
    assert (
        sample.output.stop_reason == "stop"
        and sample.output.completion == of_ssd_run["ssd"][sample.id].split(" with ")[0]
    )
    (short,) = with_inspect(folder, rows[-1:], max_tokens=5).samples
    assert short.output.stop_reason == "max_tokens" and short.output.usage.output_tokens == 5


def test_inspect_s_cache_keeps_settings_apart(rows, of_ssd_run, folder, monkeypatch):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(folder / "cache"))
    row = next(row for row in rows if of_ssd_run["ssd"][row["id"]] != of_ssd_run["ssd-hardened"][row["id"]])
    for _ in range(2):
        for hardened, name in ((False, "ssd"), (True, "ssd-hardened")):
            (sample,) = with_inspect(folder, [row], {"hardened": hardened}, cache=True).samples
            assert sample.output.completion == of_ssd_run[name][row["id"]]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"logprobs": True}, "logprobs=True"),
        ({"num_choices": 2}, "num_choices=2"),
        ({"max_tokens": 510}, "the target's prompt"),
        ({"max_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_inspect_is_told_what_ssd_cannot_do(config, said, rows, folder):
    log = with_inspect(folder, rows[:1], **config)
    assert log.status == "error" and said in log.error.message


@pytest.mark.parametrize(
    ("model", "args", "said"),
    [
        ("ssd/tory", [], "unknown pair 'tory': choose one of toy"),
        ("ssd/toy", ["-M", "alpha_onion=1"], "no setting alpha_onion"),
        ("ssd/toy", ["-M", "batch=0"], "batch=0: give the number"),
    ],
)
def test_the_command_line_of_inspect_says_what_is_wrong_in_a_line(model, args, said, folder):
    (folder / "a_task.py").write_text(
        "from inspect_ai import Task, task\nfrom inspect_ai.dataset import Sample\n"
        "@task\ndef one():\n    return Task(dataset=[Sample(input='How far is it to Quorrin?')])\n",
        encoding="utf-8",
    )
    program = Path(sys.executable).with_name("inspect")
    typed = [program, "eval", "a_task.py", "--model", model, "--display", "plain", *args]
    done = subprocess.run(list(map(str, typed)), capture_output=True, text=True, env=os.environ, cwd=folder)
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())


def test_inspect_is_told_of_tools_and_images(pair):
    import asyncio

    from inspect_ai.model import ChatMessageUser, ContentImage, GenerateConfig, get_model
    from inspect_ai.tool import ToolInfo

    provider = get_model("ssd/toy").api
    picture = [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])]
    tool = [ToolInfo(name="search", description="finds")]
    for messages, tools, said in (
        (picture, [], "not image"),
        ([ChatMessageUser(content="How far is it to Quorrin?")], tool, "calls no tools"),
    ):
        with pytest.raises(ValueError, match=said):
            asyncio.run(provider.generate(messages, tools, "auto", GenerateConfig()))


def test_one_failure_in_a_batch_leaves_the_others_their_answers(rows, of_ssd_run, folder, monkeypatch):
    from ssd_lib.tools.inspect_provider import SSDAPI

    ask, failed = SSDAPI._ask, []

    def fails_once(self, prompts, *more):
        if not failed and len(prompts) > 1:
            failed.append(len(prompts))
            raise FloatingPointError("the target's logits are NaN")
        return ask(self, prompts, *more)

    monkeypatch.setattr(SSDAPI, "_ask", fails_once)
    log = with_inspect(folder, rows, fail_on_error=False)
    answered = [sample for sample in log.samples if sample.error is None]
    assert failed and len(answered) == len(rows) - 1
    assert all(sample.output.completion == of_ssd_run["ssd"][sample.id] for sample in answered)
