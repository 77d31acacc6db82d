"""`ssd doctor`: each fault of a pair has a line, and a pair without one passes."""

import json
import re
from pathlib import Path

import pytest
import torch
from micro_models import llama2_tokenizer, llama3_tokenizer, save_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from ssd_lib.cli import app
from ssd_lib.experiments import doctor
from ssd_lib.experiments.doctor import examine, weight_bytes
from ssd_lib.models.loading import load_model

runner = CliRunner()


@pytest.fixture
def saved(tmp_path):
    """A target and a draft of Llama 3's kind, to be spoiled."""
    tokenizer = llama3_tokenizer()
    return [save_model(tmp_path / name, tokenizer, seed, [4]) for seed, name in enumerate(("target", "draft"))]


def change(folder, file, **changes):
    path = Path(folder) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lines(target, draft, **more):
    """The lines that are not ok: verdict and advice by check."""
    found = examine(target=target, draft=draft, **more)
    return {f.check: (f.verdict, f.advice) for f in found if f.verdict != "ok" and not f.check.startswith("memory")}


def test_a_pair_without_a_fault_passes(saved):
    assert lines(*saved) == {}
    result = runner.invoke(app, ["doctor", "--target", saved[0], "--draft", saved[1]])
    assert result.exit_code == 0 and "fault" not in result.output
    checks = (
        "vocabulary|end tokens|chat template|generation settings|window|memory, 16 bits|memory, 8 bits|memory, 4 bits"
    )
    assert all(check in result.output for check in checks.split("|"))


def test_no_weight_is_read(saved, monkeypatch):
    for folder in saved:
        (Path(folder) / "model.safetensors").write_bytes(b"")
    assert lines(*saved) == {}


def spoil_vocabulary(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def spoil_template(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ bos_token }}{{ bos_token }}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def spoil_weights(folder):
    (Path(folder) / "model.safetensors").rename(Path(folder) / "pytorch_model.bin")


SPOILED = [
    (spoil_vocabulary, {"vocabulary": "fault", "rows of logits": "fault"}, "tokens differ|resize"),
    (spoil_template, {"chat template": "look", "end of a turn": "look"}, "begins with BOS once|run on"),
    (spoil_weights, {"weights": "fault"}, "Convert a copy once"),
    (lambda f: change(f, "generation_config.json", eos_token_id=[1]), {"end tokens": "look", "end of a turn": "look"}, "as the target does|run on"),
    (lambda f: change(f, "generation_config.json", eos_token_id=None), {"end tokens": "fault"}, "ever end"),
    (lambda f: change(f, "generation_config.json", repetition_penalty=1.2), {"generation settings": "look"}, "in force"),
    (lambda f: change(f, "generation_config.json", guidance_scale=2.0), {"generation settings": "fault"}, "cannot be honoured"),
    (lambda f: change(f, "config.json", max_position_embeddings=128), {"window": "look"}, "draft's 128 tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "verdicts", "advice"), SPOILED)
def test_every_fault_has_its_line(saved, spoil, verdicts, advice):
    spoil(saved[1])
    found = lines(*saved)
    assert {check: verdict for check, (verdict, _) in found.items()} == verdicts
    for (_, said), wanted in zip(found.values(), advice.split("|"), strict=False):
        assert re.search(wanted, said)
    result = runner.invoke(app, ["doctor", "--target", saved[0], "--draft", saved[1]])
    assert result.exit_code == ("fault" in verdicts.values())
    assert ("[kind.from_pretrained" in result.output) == ("weights" in verdicts), "no markup of the table"


def test_a_template_that_loses_the_question_is_a_fault(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved[0])
    tokenizer.chat_template = "{% for m in messages %}<|start_header_id|>{{ m.role }}{% endfor %}<|eot_id|>"
    tokenizer.save_pretrained(saved[0])
    assert lines(*saved)["chat template"] == ("fault", "the question is not in the prompt")


def test_what_cannot_be_read_is_a_fault_of_its_own(saved, tmp_path):
    two = save_model(tmp_path / "two", llama2_tokenizer(), 0, [2])
    found = {f.target or f.draft: f for f in examine(target=two, draft="./nonexistent.gguf")}
    (finding,) = found.values()
    assert finding.verdict == "fault" and len(examine(target=two, draft="./nonexistent.gguf")) == 2
    advice = " ".join(f.advice for f in examine(target=two, draft="./nonexistent.gguf"))
    assert "pass target_format=" in advice and "no GGUF file at ./nonexistent.gguf" in advice
    assert lines(two, two, target_format="llama2", draft_format="tinyllama").keys() <= {"end of a turn"}


def test_mistakes_of_the_user_are_one_line():
    for args, message in [(["--target", "x"], "needs draft="), (["--pair", "nope"], "unknown pair 'nope'")]:
        result = runner.invoke(app, ["doctor", *args])
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1


def test_the_embedded_pair_and_an_adapter_on_its_target_pass():
    assert {f.verdict for f in examine("toy")} <= {"ok", "look"}
    assert lines("toy/target", "toy/target-deep").keys() <= {"end of a turn"}


def test_memory_is_what_chapter_12_counts(saved):
    with torch.device("meta"):
        shape = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
        model = LlamaForCausalLM(shape)
    assert weight_bytes(model, "16 bits") == 2 * 6_738_415_616  # as published
    inside = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert weight_bytes(model, "4 bits") == 2 * (6_738_415_616 - inside) + 0.5625 * inside
    small, _ = load_model(saved[0], device="cpu")
    assert weight_bytes(small, "32 bits") == sum(p.nbytes for p in small.parameters())


def test_what_does_not_fit_is_said(saved, monkeypatch):
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: replace_available(1024))
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    memory = [f for f in examine(target=saved[0], draft=saved[1]) if f.check.startswith("memory")]
    assert len(memory) == 4 and {f.verdict for f in memory} == {"look"} and "0.00 GiB free" in memory[0].advice


def replace_available(size):
    return type("Memory", (), {"available": size})
