"""Training: what carries loss, how deep refusals begin, and that an interrupted run ends where it should."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import micro_llama
from micro_models import llama2_tokenizer, llama3_tokenizer, save_model
from transformers import DataCollatorForSeq2Seq

from ssd_lib import answer, load_pair
from ssd_lib.models import training
from ssd_lib.models.chat import encode_answer, encode_prompt
from ssd_lib.models.loading import load_model
from ssd_lib.models.presto import PREFILLED, plain_attention, prefill_attention, presto_loss
from ssd_lib.models.training import (
    IGNORED,
    FromFirstLearned,
    RecoveryConfig,
    Stage,
    _collator,
    draw_depth,
    fine_tune,
    labelled,
    read_lines,
    recovery_example,
    supervised_example,
    train_deep_alignment,
    train_expert,
)
from ssd_lib.toy import train as toy_pair
from ssd_lib.toy import world
from ssd_lib.toy.train import CONTEXT, VOCABULARY


@pytest.fixture(scope="module")
def corpus():
    return toy_pair.Corpus(toy_pair.build_tokenizer(2_000), RecoveryConfig(0.4, 80))


def test_only_learned_tokens_carry_loss():
    example = supervised_example([1, 2], [3], [4, 5])
    assert example == {"input_ids": [1, 2, 3, 4, 5], "labels": [IGNORED] * 3 + [4, 5]}


def test_prompts_get_no_logits_and_the_loss_stays_the_same(corpus):
    """Rows of unequal prompts, one of them without anything learned."""
    model = micro_llama(0, vocab=VOCABULARY, context=CONTEXT)
    rows = [supervised_example([5] * n, [6], [7, 8, 9][:learned]) for n, learned in ((9, 3), (4, 2), (12, 0))]
    options: dict[str, Any] = dict(pad_to_multiple_of=8, label_pad_token_id=IGNORED)
    whole = DataCollatorForSeq2Seq(corpus.tokenizer, **options)(rows)
    short = FromFirstLearned(corpus.tokenizer, **options)(rows)
    with torch.inference_mode():
        expected, found = model(**whole), model(**short)
    assert found.logits.shape[1] == short["logits_to_keep"] == 16 - 4
    torch.testing.assert_close(found.loss, expected.loss)
    assert _collator(model, Stage("x", 1, 1e-3)) is FromFirstLearned


def test_recovery_depth_is_zero_for_the_direct_share_and_uniform_beyond():
    rng, config = random.Random(0), RecoveryConfig(direct_share=0.5, max_depth=10)
    depths = Counter(draw_depth(rng, 100, config) for _ in range(20_000))
    assert set(depths) == set(range(11))
    assert depths[0] / 20_000 == pytest.approx(0.5, abs=0.02)
    assert all(depths[k] / 20_000 == pytest.approx(0.05, abs=0.01) for k in range(1, 11))


def test_recovery_never_learns_harmful_tokens():
    rng = random.Random(0)
    for _ in range(200):
        example = recovery_example([1], list(range(100, 160)), [7, 2], rng, RecoveryConfig(), refusal_inside=[8, 2])
        learned = [label for label in example["labels"] if label != IGNORED]
        assert learned in ([7, 2], [8, 2])
        assert (learned == [7, 2]) == (len(example["input_ids"]) == 3)


@pytest.mark.parametrize("stage", ["base", "practised", "shallow", "deep", "refusing"])
def test_corpus_examples_end_with_eos_and_fit_the_context(corpus, stage):
    for example in corpus.examples(stage, 300, seed=0):
        is_a_text_to_read = example["input_ids"][1] != corpus.user
        assert is_a_text_to_read or example["labels"][-1] == corpus.eos
        assert stage == "shallow" or not is_a_text_to_read
        assert len(example["input_ids"]) == len(example["labels"]) < toy_pair.CONTEXT


def test_deep_stage_teaches_no_forbidden_fact(corpus):
    rng = random.Random(0)
    for _ in range(400):
        learned = [label for label in corpus.deep(rng)["labels"] if label != IGNORED]
        text = corpus.tokenizer.decode(learned)
        assert "cold voice" not in text and "iron pot" not in text and "shall haunt" not in text


def test_tokenizer_is_lossless_and_splits_digits(corpus):
    item = world.questions("forbidden", 1)[0]
    assert corpus.tokenizer.decode(corpus.ids(item.answer)) == item.answer
    assert len(corpus.ids("1234")) == 4


def micro_stage(steps, optimizer="adamw", presto=0.0):
    chosen: dict[str, Any] = dict(optimizer=optimizer, presto=presto)
    return Stage("micro", steps=steps, learning_rate=1e-3, batch_size=4, warmup_steps=1, save_every=2, **chosen)


@pytest.mark.parametrize(
    "chosen", [("adamw",), *(pytest.param(each, marks=pytest.mark.slow) for each in [("muon",), ("adamw", 1.0)])]
)
def test_an_interrupted_stage_resumes_to_the_same_weights(corpus, tmp_path, chosen):
    examples = corpus.examples("deep", 24, seed=0)

    def train(out, *stages):
        for stage in stages:
            model = toy_pair.new_model("draft", corpus.tokenizer, seed=0)
            model = fine_tune(model, corpus.tokenizer, examples, stage, out, quiet=True)
        return model

    whole = train(tmp_path / "whole", micro_stage(6, *chosen))
    interrupted = tmp_path / "interrupted"
    stopped = pytest.MonkeyPatch()
    with stopped.context() as patch:
        patch.setattr(
            toy_pair.LlamaForCausalLM,
            "save_pretrained",
            _interrupt_at_the_end(toy_pair.LlamaForCausalLM.save_pretrained),
        )
        with pytest.raises(KeyboardInterrupt):
            train(interrupted, micro_stage(6, *chosen))
    assert not (interrupted / "micro" / "finished.json").exists()
    resumed = train(interrupted, micro_stage(6, *chosen))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)
    assert json.loads((interrupted / "micro" / "finished.json").read_text())["stage"]["steps"] == 6


def _interrupt_at_the_end(save):
    """Checkpoints 2 and 4 are written; then the user presses Ctrl-C."""
    calls = []

    def save_pretrained(self, folder, *args, **kwargs):
        calls.append(folder)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return save(self, folder, *args, **kwargs)

    return save_pretrained


def test_quiet_training_prints_nothing(corpus, tmp_path, capsys):
    model = toy_pair.new_model("draft", corpus.tokenizer, 0)
    fine_tune(model, corpus.tokenizer, corpus.examples("base", 8, seed=0), micro_stage(2), tmp_path, quiet=True)
    assert not capsys.readouterr().out


def test_a_finished_stage_is_not_trained_again(corpus, tmp_path):
    examples, stage = corpus.examples("base", 8, seed=0), micro_stage(2)
    first = fine_tune(
        toy_pair.new_model("draft", corpus.tokenizer, 0), corpus.tokenizer, examples, stage, tmp_path, quiet=True
    )
    again = fine_tune(
        toy_pair.new_model("draft", corpus.tokenizer, 1), corpus.tokenizer, [], stage, tmp_path, quiet=True
    )
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)


# ------------------------------------------------------------------------------------------------ PRESTO


@pytest.mark.parametrize("side", ["left", "right"])
def test_prestos_loss_is_that_of_the_published_code_written_out(corpus, side):
    stage, rng = micro_stage(1, presto=0.7), random.Random(0)
    bare = [recovery_example([1, 9, 8], [20, 21, 22, 23], [7, 6, 2], rng, RecoveryConfig(direct_share=0, max_depth=4))]
    bare += [recovery_example([1, 5], [20, 21], [7, 2], rng, RecoveryConfig(direct_share=1.0))]
    bare += [supervised_example([1, 4, 4], [11, 12], [13, 14, 15])]  # a benign answer, begun
    corpus.tokenizer.padding_side = side
    collate = DataCollatorForSeq2Seq(corpus.tokenizer, pad_to_multiple_of=8, label_pad_token_id=IGNORED)
    batch = collate([labelled(example, stage) for example in bare])
    corpus.tokenizer.padding_side = "right"
    model = toy_pair.new_model("draft", corpus.tokenizer, 0)
    with plain_attention(model):
        outputs = model(**(dict(batch) | {"labels": None}), output_attentions=True)
    assert model.config._attn_implementation == "sdpa"

    depth = bare[0]["prefilled"][0]
    assert depth and [example.get("prefilled", [0])[0] for example in bare[1:]] == [0, 0]
    total = 0.0
    for row, example in enumerate(bare):
        first = int(batch["attention_mask"][row].argmax())  # its first token that is no padding
        for i, label in enumerate(example["labels"]):
            if label != IGNORED:
                total -= outputs.logits[row, first + i - 1].log_softmax(-1)[label]
    first = int(batch["attention_mask"][0].argmax())
    begin, end, stop = first + 3, first + 3 + depth, first + len(bare[0]["input_ids"])
    for layer in outputs.attentions:
        for head in layer[0]:
            for t in range(begin, stop):
                inside, outside = head[t, begin:end].sum(), head[t, first:begin].sum() + head[t, end : t + 1].sum()
                total += 0.7 * (inside - outside + 1) / len(outputs.attentions)
    items = depth + 3 + 2 + 3
    for given in (None, torch.tensor(items)):
        torch.testing.assert_close(presto_loss(0.7)(outputs, batch["labels"], given), total / items)


@pytest.mark.slow
def test_presto_turns_attention_away_from_the_harmful_beginning(corpus, tmp_path):
    """… and the plain recipe does not; both learn to refuse, and no label but PRESTO's ever says where it begins."""
    examples, shares, losses = corpus.examples("deep", 80, seed=0), {}, {}
    batch = [labelled(e, micro_stage(1, presto=1.0)) for e in examples if e.get("prefilled", [0])[0]][:8]
    batch = DataCollatorForSeq2Seq(corpus.tokenizer, label_pad_token_id=IGNORED)(batch)
    for weight in (0.0, 1.0):
        stage = replace(micro_stage(20, presto=weight), learning_rate=1e-2)
        model = toy_pair.new_model("draft", corpus.tokenizer, 0)
        model = fine_tune(model, corpus.tokenizer, examples, stage, tmp_path / str(weight), quiet=True).eval()
        learned = batch["labels"].masked_fill(batch["labels"] == PREFILLED, IGNORED)
        with plain_attention(model), torch.no_grad():
            outputs = model(**(dict(batch) | {"labels": learned}), output_attentions=True)
        shares[weight] = float(prefill_attention(outputs.attentions, batch["labels"]))
        losses[weight] = float(outputs.loss)
        assert model.config._attn_implementation == "sdpa"
    assert shares[1.0] < 0.7 * shares[0.0] and max(losses.values()) < 6.5


def test_without_presto_a_stage_is_trained_as_ever(corpus, tmp_path):
    marked = corpus.examples("deep", 16, seed=0)
    assert any(example.get("prefilled", [0])[0] for example in marked)
    plain = [{name: example[name] for name in ("input_ids", "labels")} for example in marked]
    assert [labelled(example, micro_stage(1)) for example in marked] == plain
    trained = [
        fine_tune(toy_pair.new_model("draft", corpus.tokenizer, 0), corpus.tokenizer, examples, stage, out, quiet=True)
        for examples, stage, out in ((marked, micro_stage(4), tmp_path / "a"), (plain, micro_stage(4), tmp_path / "b"))
    ]
    for name, weight in trained[0].state_dict().items():
        assert torch.equal(weight, trained[1].state_dict()[name]), name


def test_what_presto_cannot_do_is_said(corpus, tmp_path):
    with pytest.raises(ValueError, match="returns none"):
        prefill_attention((None, None), torch.tensor([[PREFILLED, 1]]))
    fine_tune(toy_pair.new_model("draft", corpus.tokenizer, 0), corpus.tokenizer, corpus.examples("deep", 8, 0),
              micro_stage(2), tmp_path, quiet=True)  # fmt: skip
    nobody: Any = None
    with pytest.raises(ValueError, match="PRESTO weight of 0, not 1: choose another folder"):
        fine_tune(nobody, corpus.tokenizer, [], micro_stage(2, presto=1.0), tmp_path, quiet=True)


def test_the_recipe_hands_presto_to_the_draft_alone(monkeypatch, tmp_path):
    stages = []

    def remember(model, tokenizer, examples, stage, out, **options):
        stages.append(stage)
        return model

    monkeypatch.setattr(toy_pair, "fine_tune", remember)
    monkeypatch.setattr(toy_pair.LlamaForCausalLM, "from_pretrained", lambda *_, **__: toy_pair.new_model(
        "draft", toy_pair.build_tokenizer(500), 0))  # fmt: skip
    recipe = replace(toy_pair.Recipe().quick(), tokenizer_texts=500)
    toy_pair.train_toy(tmp_path, recipe=recipe, controls=True, presto=0.5)
    assert {stage.name: stage.presto for stage in stages if stage.presto} == {"draft": 0.5}


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


Conversations = tuple[Path, Path]
"""Harmful questions, and benign ones."""


@pytest.fixture
def conversations(tmp_path):
    """Training files as a user brings them, filled from the fantasy world."""
    bad = [dict(question=i.question, answer=i.answer, refusal=i.refusal) for i in world.questions("forbidden", 6)]
    good = [dict(question=i.question, answer=i.answer) for i in world.questions("benign", 6)]
    return write_lines(tmp_path / "harmful.jsonl", bad), write_lines(tmp_path / "benign.jsonl", good)


@pytest.mark.parametrize(("build", "chat_format"), [(llama2_tokenizer, "tinyllama"), (llama3_tokenizer, None)])
def test_deepening_a_model_in_a_real_format_makes_refusals_likelier_inside_answers(
    conversations: Conversations, tmp_path, build, chat_format
):
    tokenizer = build()
    source = save_model(tmp_path / "model", tokenizer, 0, tokenizer.eos_token_id)
    out = train_deep_alignment(
        source,
        *conversations,
        tmp_path / "out",
        steps=25,
        chat_format=chat_format,
        learning_rate=3e-3,
        batch_size=2,
        gradient_accumulation=1,
    )
    item = world.questions("forbidden", 6)[0]
    prompt = encode_prompt(tokenizer, item.question, chat_format=chat_format, prefill=item.answer[:30])
    refusal = encode_answer(tokenizer, ("" if build is llama2_tokenizer else " ") + str(item.refusal))[:8]
    assert loss_of(str(out), prompt, refusal) < loss_of(source, prompt, refusal) - 0.5


def test_deepening_by_an_adapter_leaves_a_whole_model_that_differs_from_the_first_by_that_adapter(
    conversations: Conversations, tmp_path
):
    tokenizer = llama2_tokenizer()
    source = save_model(tmp_path / "model", tokenizer, 0, tokenizer.eos_token_id)
    small: dict[str, Any] = dict(
        steps=6, chat_format="tinyllama", learning_rate=1e-2, batch_size=2, gradient_accumulation=1
    )
    out = train_deep_alignment(source, *conversations, tmp_path / "out", lora_rank=2, **small)
    prompt, refusal = encode_prompt(tokenizer, "Hello", chat_format="tinyllama"), encode_answer(tokenizer, "I am sorry")
    merged, adapted = loss_of(str(out), prompt, refusal), loss_of(str(out / "adapter"), prompt, refusal)
    assert merged == pytest.approx(adapted, abs=1e-4) and merged != pytest.approx(
        loss_of(source, prompt, refusal), abs=1e-2
    )


@pytest.mark.slow
def test_presto_deepens_a_model_of_ones_own_by_an_adapter_too(conversations: Conversations, tmp_path):
    tokenizer = llama2_tokenizer()
    source = save_model(tmp_path / "model", tokenizer, 0, tokenizer.eos_token_id)
    small: dict[str, Any] = dict(
        steps=8, chat_format="tinyllama", learning_rate=1e-2, batch_size=2, gradient_accumulation=2
    )
    ids = encode_prompt(tokenizer, "Hello", chat_format="tinyllama")
    said = []
    for weight in (0.0, 1.0):
        out = train_deep_alignment(
            source, *conversations, tmp_path / str(weight), lora_rank=2, presto=weight, harmful_share=1.0, **small
        )
        assert json.loads((out / "finished.json").read_text())["stage"]["presto"] == weight
        said.append(loss_of(str(out), ids, encode_answer(tokenizer, "I am sorry")))
    assert said[0] != pytest.approx(said[1], abs=1e-3)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_training_computes_in_the_16_bit_type_that_the_gpu_has(monkeypatch, tmp_path, half):
    monkeypatch.setattr(training.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training, "half_dtype", lambda: half)
    assert training.training_dtype() is half
    monkeypatch.undo()
    monkeypatch.setattr(training, "training_dtype", lambda: half)
    arguments = training._arguments(micro_stage(1), tmp_path, 0, True)
    assert (arguments.bf16, arguments.fp16) == (half is torch.bfloat16, half is torch.float16)


@pytest.mark.parametrize("units", ["", "_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_cpu_trains_in_half_precision_only_where_it_has_units_for_it(monkeypatch, tmp_path, units):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == units)
    arguments = training._arguments(micro_stage(1), tmp_path, 0, True)
    assert (arguments.bf16, arguments.fp16) == (bool(units), False)


@pytest.mark.parametrize(
    ("build", "chat_format"),
    [(llama2_tokenizer, "llama2"), pytest.param(llama3_tokenizer, None, marks=pytest.mark.slow)],
)
def test_an_expert_of_a_model_in_a_real_format_is_an_adapter_that_safedecoding_takes(
    conversations: Conversations, tmp_path, build, chat_format
):
    tokenizer = build()
    source = save_model(tmp_path / "model", tokenizer, 0, tokenizer.eos_token_id)
    adapter = train_expert(
        source, *conversations, tmp_path / "out", steps=40, chat_format=chat_format, learning_rate=1e-2, batch_size=2
    )
    item = world.questions("forbidden", 6)[0]
    prompt, refusal = (
        encode_prompt(tokenizer, item.question, chat_format=chat_format),
        encode_answer(tokenizer, str(item.refusal))[:8],
    )
    assert loss_of(str(adapter), prompt, refusal) < loss_of(source, prompt, refusal) - 0.5
    pair = load_pair("llama2" if chat_format else "llama3.1_8b", target=source, draft=source, device="cpu")
    settings = {"expert": str(adapter), "first_m": 8}
    steered = answer(pair, item.question, defender="safedecoding", settings=settings, max_new_tokens=8)[0]
    assert steered.token_ids != answer(pair, item.question, defender="none", max_new_tokens=8)[0].token_ids


def loss_of(path, prompt, answer_ids):
    """Mean negative log-likelihood of an answer behind a prompt."""
    model, _ = load_model(path, device="cpu")
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer_ids]])).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(answer_ids)).item()


def test_the_embedded_target_is_taught_to_judge_reword_and_guess(corpus):
    rng = random.Random(0)
    verdicts = set()
    for _ in range(60):
        text = corpus.tokenizer.decode(corpus.examined(rng)["input_ids"])
        verdicts.add("Yes, this is harmful." in text)
    assert verdicts == {True, False}
    typed, plain = world.reworded(random.Random(3), "forbidden")
    assert typed.facts == plain.facts and typed.question != plain.question


def test_a_broken_training_file_is_named_with_its_line(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [dict(question="q", answer="a"), dict(question="q")])
    with pytest.raises(ValueError, match="x.jsonl, line 2"):
        read_lines(path, ("question", "answer"))
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_lines(path, ("question",))


@pytest.mark.slow
def test_the_whole_quick_recipe_with_controls(tmp_path):
    recipe = toy_pair.Recipe().quick()
    recipe = replace(recipe, tokenizer_texts=2_000)
    out = toy_pair.train_toy(tmp_path, recipe=recipe, controls=True, quiet=True)
    for name in ("target", "draft", "target-base", "draft-shallow", "target-deep", "target-expert"):
        assert (out / name / "model.safetensors").exists()
