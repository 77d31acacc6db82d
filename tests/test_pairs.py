"""Pairs: the registry, loading from disk in the real formats, vocabularies that differ."""

import json
import shlex
import sys
import types
from typing import Any

import pytest
import torch
from micro_models import llama2_tokenizer, llama3_tokenizer, save_model
from peft import LoraConfig, get_peft_model

from ssd_lib import defenders, ssd_generate
from ssd_lib.config import SSDConfig
from ssd_lib.defenders import Defender, answer
from ssd_lib.defenders.base import answers_of
from ssd_lib.models import loading
from ssd_lib.models.loading import MODELS, load_model, locate
from ssd_lib.models.pairs import PAIRS, check_vocabularies, choose_pair, find_pair, load_pair


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Micro-models of both families on disk: (target, draft) by family."""
    root = tmp_path_factory.mktemp("models")
    two, three = llama2_tokenizer(), llama3_tokenizer()
    ends = [three.convert_tokens_to_ids(t) for t in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    return {
        "llama2": (save_model(root / "t2", two, 0, 2), save_model(root / "d2", two, 1, 2, hidden=16)),
        "llama3.1_8b": (save_model(root / "t3", three, 2, ends), save_model(root / "d3", three, 3, ends, hidden=16)),
    }


def test_the_registry_holds_the_published_settings():
    settings = {
        name: (s.config.alpha_intersection, s.config.alpha_union, s.config.threshold) for name, s in PAIRS.items()
    }
    assert settings["llama2"] == settings["llama2-13b-chat"] == (0.3, 0.8, 0.6)
    assert settings["vicuna"] == (0.45, 2.0, 0.6)
    assert settings["llama3.1_8b"] == (0.3, 0.8, 0.5)
    assert PAIRS["llama3.1_8b"].draft == "wxk123/llama-3.2-1b-instruct-augmented"
    assert find_pair("Llama2-7B-chat") is PAIRS["llama2"] and find_pair("LLAMA3.1_8B") is PAIRS["llama3.1_8b"]


def test_what_was_never_published_says_how_to_get_it():
    with pytest.raises(ValueError, match="ssd train"):
        load_pair("vicuna")
    unpublished = [name for name, where in MODELS.items() if where is None]
    assert "deep_align_llama2" in unpublished
    with pytest.raises(ValueError, match="not published"):
        load_model("deep_align_llama2")


def test_unknown_pairs_are_named():
    with pytest.raises(ValueError, match="unknown pair 'gpt'"):
        find_pair("gpt")


@pytest.mark.parametrize("name", ["llama2", "llama3.1_8b"])
def test_loading_from_disk_and_decoding_in_the_real_formats(saved, name):
    target, draft = saved[name]
    pair = load_pair(name, target=target, draft=draft, device="cpu")
    assert pair.config == PAIRS[name].config and pair.target.dtype == torch.float32
    prompts: dict[str, Any] = pair.encode(["How do I brew the cordial?", "Hello"], ["Sure", ""])
    output = ssd_generate(pair.target, pair.draft, **prompts, max_new_tokens=12)
    assert len(output.sequences) == 2 and all(1 <= len(s) <= 12 for s in output.sequences)
    for defender in ("none", "draft-only", "ssd"):
        assert len(answer(pair, "Hello", defender=defender, max_new_tokens=5)[0].token_ids) <= 5


def test_an_answer_continues_its_prefill_with_the_space_between(saved, monkeypatch):
    pair = load_pair("llama2", target=saved["llama2"][0], draft=saved["llama2"][1], device="cpu")
    text = "Sure, here is how I brew it"
    ids = pair.tokenizer.encode(text, add_special_tokens=False)

    def says_the_rest(pair, request, settings):
        rest = [ids[len(before) :] for before in request.prefills]
        return answers_of(pair, request, rest, [], replaced=range(len(rest)))

    told = Defender(says_the_rest, "–", "–", lambda pair: None)
    monkeypatch.setitem(defenders.DEFENDERS, "the rest", told)
    prefills = [ids[:cut] for cut in range(1, len(ids))]
    for reply in answer(pair, ["How?"] * len(prefills), defender="the rest", prefill=prefills):
        assert reply.prefill + reply.text == text


def test_target_and_draft_see_their_own_templates_and_the_same_answer(saved):
    pair = load_pair("llama2", target=saved["llama2"][0], draft=saved["llama2"][1], device="cpu")
    prompts = pair.encode(["How?"], ["Sure, here"])
    texts = [str(pair.tokenizer.decode(prompts[name][0])) for name in ("input_ids", "draft_input_ids")]
    assert "[INST] How? [/INST] Sure, here" in texts[0]
    assert "<|user|>" in texts[1] and texts[1].endswith("Sure, here")


def test_several_end_tokens_come_from_the_generation_config(saved):
    pair = load_pair("llama3.1_8b", target=saved["llama3.1_8b"][0], draft=saved["llama3.1_8b"][1], device="cpu")
    assert len(pair.target.generation_config.eos_token_id) == 3


def test_dtype_and_half_precision(saved):
    model, _ = load_model(saved["llama2"][0], device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(saved, monkeypatch, native, expected):
    given: dict[str, Any] = {}

    def from_pretrained(source, **options):
        given.update(options)
        raise InterruptedError

    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading.torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    with pytest.raises(InterruptedError):
        load_model(saved["llama2"][0], quantization="4bit")
    assert given["dtype"] == given["quantization_config"].bnb_4bit_compute_dtype == expected


def test_vocabularies_that_differ_are_refused_with_examples(saved):
    with pytest.raises(ValueError, match=r"tokens differ \(id \d+: target '.*', draft '"):
        load_pair("llama2", target=saved["llama2"][0], draft=saved["llama3.1_8b"][1], device="cpu")
    check_vocabularies(llama2_tokenizer(), llama2_tokenizer())


def test_pickled_weights_are_not_loaded_and_the_error_converts_them(saved, tmp_path, monkeypatch):
    model, tokenizer = load_model(saved["llama2"][0], device="cpu")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="only safetensors are read. Convert a copy once") as error:
        load_model(str(tmp_path), device="cpu")
    command = shlex.split(str(error.value).partition("happen: ")[2].removesuffix(" and pass the new folder"))
    monkeypatch.chdir(tmp_path)
    exec(command[2])  # what the error says to do
    converted, _ = load_model(f"{tmp_path.name}-safe", device="cpu")
    assert torch.equal(*(each.get_parameter("model.embed_tokens.weight") for each in (converted, model)))


def test_a_model_of_the_hub_without_safetensors_says_how_to_convert(monkeypatch):
    said = "x/y does not appear to have a file named model.safetensors and thus cannot be loaded with `safetensors`."

    def from_pretrained(source, **options):
        raise OSError(said)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(
        OSError, match=r"the weights of x/y are pickles.*from_pretrained\('x/y'\).save_pretrained\('y-safe'\)"
    ):
        load_model("x/y", device="cpu")
    said = "We couldn't connect to the Hub to load model.safetensors"
    with pytest.raises(OSError, match="couldn't connect"):
        load_model("x/y", device="cpu")


def test_pickled_adapters_are_not_loaded(saved, tmp_path):
    config = {"base_model_name_or_path": saved["llama2"][0], "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(OSError, match="no adapter_model.safetensors"):
        load_model(str(tmp_path), device="cpu")


def test_only_the_embedded_pair_needs_the_data_folder(saved, monkeypatch):
    monkeypatch.setenv("SSD_DATA", "/nonexistent")
    target, draft = saved["llama2"]
    assert load_pair("llama2", target=target, draft=draft, device="cpu").spec.target == target
    assert locate("tinyllama") == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    with pytest.raises(FileNotFoundError, match="SSD_DATA"):
        load_pair("toy")


def test_a_path_without_a_model_is_not_asked_of_the_hub(tmp_path):
    for path in (tmp_path, tmp_path / "nope", "./nope"):
        with pytest.raises(OSError, match="no model at"):
            locate(str(path))


def test_quantized_weights_go_straight_to_the_device_asked_for(saved, monkeypatch):
    given = {}

    def from_pretrained(source, **options):
        given.update(options)
        raise InterruptedError

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(loading, "_quantized", lambda quantization, compute: quantization)
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    with pytest.raises(InterruptedError):
        load_model(saved["llama2"][0], device="cuda:1", dtype=torch.float16, quantization="8bit")
    assert given["device_map"] == {"": "cuda:1"}


def test_a_repositorys_code_is_not_run(saved, tmp_path):
    _, tokenizer = load_model(saved["llama2"][0], device="cpu")
    tokenizer.save_pretrained(tmp_path)
    code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the repository ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(str(tmp_path), device="cpu")


def test_quantization_without_bitsandbytes_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"ssd_lib\[gpu\]"):
        load_model(saved["llama2"][0], device="cpu", quantization="4bit")
    wrong: Any = "2bit"
    with pytest.raises(ValueError, match="'4bit', '8bit' or None"):
        load_model(saved["llama2"][0], device="cpu", quantization=wrong)


def test_the_toy_adapters_change_the_target():
    prompt = torch.tensor([[1, 3, 100, 4]])
    logits = {name: load_model(name)[0](prompt).logits for name in ("toy/target", "target-base", "target-deep")}
    assert not torch.allclose(logits["toy/target"], logits["target-base"])
    assert not torch.allclose(logits["toy/target"], logits["target-deep"])


def test_an_adapter_brings_its_own_tokenizer_and_resized_rows(saved, tmp_path):
    model, tokenizer = load_model(saved["llama2"][0], device="cpu")
    tokenizer.add_tokens(["<new>"])
    tokenizer.chat_template = "{{ messages[0].content }}"
    model.resize_token_embeddings(len(tokenizer))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path, save_embedding_layers=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = saved["llama2"][0]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(tmp_path)
    loaded, own = load_model(str(tmp_path), device="cpu")
    assert loaded.get_parameter("lm_head.weight").shape[0] == len(tokenizer) == len(own)
    assert own.chat_template == tokenizer.chat_template


def test_an_adapter_that_is_no_lora_is_refused_by_name(saved, tmp_path):
    config = {"base_model_name_or_path": saved["llama2"][0], "peft_type": "IA3"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="IA3"):
        load_model(str(tmp_path), device="cpu")


def test_the_shared_size_is_the_tokenizers(saved):
    pair = load_pair("llama2", target=saved["llama2"][0], draft=saved["llama2"][1], device="cpu")
    size = len(pair.tokenizer)
    pair.target.resize_token_embeddings(size + 64, mean_resizing=False)
    assert pair.vocab_size == size
    pair.draft.resize_token_embeddings(size - 1, mean_resizing=False)
    with pytest.raises(ValueError, match="draft has"):
        _ = pair.vocab_size


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without CUDA")
def test_loading_arguments_are_checked_by_name():
    with pytest.raises(ValueError, match="no CUDA"):
        load_pair("toy", device="cuda")
    wrong: Any = "bf16"
    with pytest.raises(TypeError, match="dtype"):
        load_pair("toy", dtype=wrong)


# ------------------------------------------------------------------------------------------------ a pair of one's own


def test_a_pair_of_ones_own_needs_no_name(saved):
    target, draft = saved["llama3.1_8b"]
    pair = load_pair(target=target, draft=draft, device="cpu")
    assert pair.spec.name == "t3+d3" and pair.config == SSDConfig()
    named = load_pair("llama3.1_8b", target=target, draft=draft, device="cpu")
    assert named.config == PAIRS["llama3.1_8b"].config
    assert pair.prompts(["How?"], ["Sure"]) == named.prompts(["How?"], ["Sure"])


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_missing_template_names_the_argument(saved, role):
    target, draft = saved["llama2"]
    formats: dict[str, Any] = {"target_format": "llama2", "draft_format": "tinyllama"}
    without: dict[str, Any] = {key: value for key, value in formats.items() if key != f"{role}_format"}
    with pytest.raises(
        ValueError, match=f"the {role}'s tokenizer .* has no chat template: pass {role}_format=, one of"
    ):
        load_pair(target=target, draft=draft, device="cpu", **without)
    own = load_pair(target=target, draft=draft, device="cpu", **formats)
    named = load_pair("llama2", target=target, draft=draft, device="cpu")
    assert own.prompts(["How?"]) == named.prompts(["How?"])


def test_a_pair_of_ones_own_is_checked_before_anything_is_loaded():
    given: dict[str, Any]
    for given, reason in [
        ({"draft": "d"}, "needs target=.*toy, smollm2"),
        ({"target": "t"}, "the pair 't' needs draft="),
        ({"target": "t", "draft": "d", "draft_format": "alpaca"}, "draft_format='alpaca': choose one of llama2"),
        ({"name": "nope", "target": "t"}, "unknown pair 'nope'"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_pair(**given)
    assert choose_pair().name == "toy"
    assert choose_pair(target="a/b:big.Q4.gguf", draft="runs/small/").name == "big.Q4+small"
