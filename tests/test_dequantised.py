"""GGUF files: dequantised once into the user's cache, and never half."""

import hashlib
import json
import os
from pathlib import Path

import gguf
import pytest
import torch
from micro_models import llama2_tokenizer, llama3_tokenizer, save_model, write_gguf

from ssd_lib.models import gguf as module
from ssd_lib.models.gguf import RECORD, dequantised
from ssd_lib.models.loading import load_model
from ssd_lib.models.pairs import load_pair


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A micro-Llama in safetensors: its folder, itself and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, llama3_tokenizer(), 5, [4], inner=64)
    return (str(folder), *load_model(str(folder), device="cpu"))


def test_a_gguf_file_is_the_model_that_it_was_made_of(saved, tmp_path, cache):
    _, model, tokenizer = saved
    file = write_gguf(tmp_path / "micro.gguf", model, tokenizer)
    llama2_tokenizer().save_pretrained(tmp_path)  # what lies beside the file is not of it
    loaded, own = load_model(file, device="cpu")
    assert own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
    text = "How do I brew the cordial?"
    assert own.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    ids = torch.tensor([own.encode(text)])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    about = json.loads((folder / RECORD).read_text())
    assert about["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest() and about["dtype"] == "torch.float32"


def test_quantised_weights_are_gguf_s_own_to_16_bits(saved, tmp_path):
    _, model, tokenizer = saved
    file = write_gguf(tmp_path / "micro.gguf", model, tokenizer, "Q8_0")
    loaded, _ = load_model(file, device="cpu")
    embedding = next(t for t in gguf.GGUFReader(file).tensors if t.name == "token_embd.weight")
    exact = torch.from_numpy(gguf.dequantize(embedding.data, embedding.tensor_type).copy())
    weight = loaded.get_input_embeddings().weight
    assert not torch.equal(exact, model.get_input_embeddings().weight), "the fixture is quantised"
    torch.testing.assert_close(weight, exact, rtol=2**-11, atol=1e-7)
    assert json.loads((dequantised(file) / RECORD).read_text())["dtype"] == "torch.float16"


def test_a_file_is_converted_once_and_its_successor_anew(saved, tmp_path, monkeypatch):
    _, model, tokenizer = saved
    file = write_gguf(tmp_path / "micro.gguf", model, tokenizer)
    read, calls = module._read, []
    monkeypatch.setattr(module, "_read", lambda *where: calls.append(where) or read(*where))
    assert dequantised(file) == dequantised(file) and len(calls) == 1
    first = dequantised(file)
    write_gguf(file, model, tokenizer, "Q8_0")
    assert dequantised(file) != first and len(calls) == 2


def test_a_conversion_that_is_cut_off_leaves_nothing(saved, tmp_path, cache, monkeypatch):
    file = write_gguf(tmp_path / "micro.gguf", *saved[1:])
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dequantised(file)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_pair_of_a_gguf_target_and_an_adapter_on_it(saved, tmp_path):
    from peft import LoraConfig, get_peft_model

    file = write_gguf(tmp_path / "micro.gguf", *saved[1:])
    model, _ = load_model(file, device="cpu")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "../micro.gguf"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    pair = load_pair(target=file, draft=str(tmp_path / "adapter"), device="cpu")
    prompts = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(pair.draft(prompts).logits, pair.target(prompts).logits)


def test_what_cannot_be_read_says_so(saved, tmp_path, cache, monkeypatch):
    file = write_gguf(tmp_path / "micro.gguf", *saved[1:])
    whole = Path(file).read_bytes()
    cases = {
        "cut.gguf": whole[: len(whole) // 2],
        "other.gguf": whole.replace(b"llama", b"zebra"),
        "text.gguf": b"no model at all, only text",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=f"cannot read the GGUF file .*{name}.*safetensors"):
            load_model(str(tmp_path / name), device="cpu")
    with pytest.raises(OSError, match="no GGUF file at .*nope.gguf"):
        load_model(str(tmp_path / "nope.gguf"), device="cpu")
    with pytest.raises(OSError, match="join them first"):
        load_model(str(tmp_path / "x-00001-of-00002.gguf"), device="cpu")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_weights_that_a_file_lacks_are_not_made_up(saved, tmp_path):
    _, model, tokenizer = saved
    kept = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}

    class Partial:
        config = model.config

        def state_dict(self):
            return kept

    file = write_gguf(tmp_path / "micro.gguf", Partial(), tokenizer)
    with pytest.raises(OSError, match="no weights for model.layers.1.mlp.up_proj"):
        load_model(file, device="cpu")


def test_a_file_of_the_hub_is_named_by_its_repository(saved, tmp_path, monkeypatch):
    file, asked = write_gguf(tmp_path / "micro.gguf", *saved[1:]), []
    monkeypatch.setattr(module, "hf_hub_download", lambda *where: asked.append(where) or file)
    load_model("someone/micro-GGUF:micro.Q8_0.gguf", device="cpu")
    assert asked == [("someone/micro-GGUF", "micro.Q8_0.gguf")]


def test_without_the_package_it_says_what_to_install(saved, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "micro.gguf", *saved[1:])
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ImportError, match=r"ssd_lib\[gguf\]"):
        load_model(file, device="cpu")
