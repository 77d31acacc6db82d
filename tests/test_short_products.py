"""Another way to compute a short product: the same up to rounding, only where it may be, and gone after decoding."""

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import perturbed
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import short_products as module
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.short_products import AS_IS, LONGEST, SMALLEST, WAYS, FastestWay, short_products

WIDE = 256  # WIDE × WIDE weights are just large enough for a choice


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_kinds", {})
    monkeypatch.delenv(module.SWITCH, raising=False)


def replaced(model):
    return [name for name, layer in model.named_modules() if "forward" in layer.__dict__]


def llama(seed=0):
    torch.manual_seed(seed)
    shape: dict[str, Any] = dict(vocab_size=WIDE, hidden_size=WIDE, intermediate_size=2 * WIDE, num_hidden_layers=2)
    config = LlamaConfig(**shape, num_attention_heads=4, initializer_range=0.2, tie_word_embeddings=False)
    return LlamaForCausalLM(config).eval()


# ------------------------------------------------------------------------------------------------ the ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 3), (4, 2), (4, 1)])
def test_all_ways_are_equal_up_to_rounding(dtype, bias, shape):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias, dtype=dtype), torch.randn(*shape, 24, dtype=dtype)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    tried = 0
    with torch.inference_mode():
        for name, way in WAYS.items():
            try:
                found = way(x, layer.weight, layer.bias)
            except (RuntimeError, AttributeError):
                assert name == "onednn"  # the one that a build, a dtype or a processor may lack
                continue
            tried += 1
            assert found.shape == exact.shape and found.dtype == dtype and found.is_contiguous()
            torch.testing.assert_close(
                found.double(),
                exact,
                atol=8 * torch.finfo(dtype).eps,
                rtol=2 ** -(6 if dtype is torch.bfloat16 else 20),
            )
    assert tried >= 2


# ------------------------------------------------------------------------------------------------ the choice


def choice_of(monkeypatch, seconds):
    """A choice between ways that take so many seconds (None: not on offer), after enough products; and how often each ran."""
    now, ran = [0.0], []

    def way(name):
        def run(x, weight, bias):
            ran.append(name)
            if seconds[name] is None:
                raise RuntimeError("no such kernel")
            # The first run builds something; later ones meet another program now and then.
            now[0] += seconds[name] + 9.0 * (ran.count(name) == 1) + 5.0 * (ran.count(name) % 3 == 0)
            return F.linear(x, weight, bias)

        return run

    monkeypatch.setattr(module, "WAYS", {name: way(name) for name in seconds})
    monkeypatch.setattr(module.time, "thread_time", lambda: now[0])
    choice, x, weight = FastestWay(), torch.randn(2, 3), torch.randn(4, 3)
    for _ in range(4 * len(seconds)):
        assert torch.equal((choice.best or choice)(x, weight, None), F.linear(x, weight))
    assert choice.best is not None
    measured = list(ran)
    choice.best(x, weight, None)
    return ran[-1], measured


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ((1.2, 0.7), "b"),
        ((0.6, 0.7), "a"),
        ((1.2, 1.1), AS_IS),
        ((0.97, 0.98), AS_IS),
        ((None, 0.7), "b"),
        ((None, None), AS_IS),
    ],
)
def test_the_quickest_way_is_kept_and_a_tie_keeps_the_layer_as_it_is(monkeypatch, others, best):
    kept, _ = choice_of(monkeypatch, {AS_IS: 1.0, "a": others[0], "b": others[1]})
    assert kept == best


def test_a_hopeless_way_is_tried_once_and_ways_take_turns(monkeypatch):
    kept, ran = choice_of(monkeypatch, {AS_IS: 1.0, "a": 7.0, "b": 0.8})
    assert kept == "b" and ran.count("a") == 2  # one to warm up
    assert all(first != second for first, second in pairwise(ran[:8]))


def test_what_is_wrong_with_the_product_itself_is_still_said():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        FastestWay()(torch.randn(2, 3), torch.randn(4, 5), None)


def test_every_number_of_tokens_has_its_own_choice_which_layers_share():
    model = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(3)))
    with torch.inference_mode(), short_products(model):
        for tokens in (1, 3, LONGEST, LONGEST + 1):
            x = torch.randn(tokens, WIDE)
            for _ in range(5):
                torch.testing.assert_close(
                    model(x),
                    F.linear(F.linear(F.linear(x, *of(model[0])), *of(model[1])), *of(model[2])),
                    atol=1e-5,
                    rtol=1e-4,
                )
    (choices,) = module._kinds.values()
    assert set(choices) == {1, 3, LONGEST}
    assert all(choice.best is not None for choice in choices.values())
    assert all(max(map(len, choice.seconds.values())) <= 1 + module.REPEATS for choice in choices.values())


def of(layer: Any):
    return layer.weight, layer.bias


# ------------------------------------------------------------------------------------------------ which layers, and for how long


class Quantised(nn.Linear):
    pass


class Packed(torch.Tensor):
    """A weight that is more than its numbers, as torchao's are."""


def test_only_plain_layers_on_a_cpu_are_replaced():
    layers: dict[str, Any] = {
        name: nn.Linear(WIDE, WIDE) for name in ("plain", "patched", "packed", "integers", "turned")
    }
    layers["patched"].forward = lambda x: x
    layers["packed"].weight = nn.Parameter(torch.randn(WIDE, WIDE).as_subclass(Packed))
    layers["integers"].weight = nn.Parameter(torch.ones(WIDE, WIDE, dtype=torch.int8), requires_grad=False)
    layers["turned"].weight = nn.Parameter(torch.randn(WIDE, WIDE).T)
    layers |= {"small": nn.Linear(WIDE, SMALLEST // WIDE - 1), "quantised": Quantised(WIDE, WIDE)}
    layers |= {"elsewhere": nn.Linear(WIDE, WIDE, device="meta")}
    model = nn.ModuleDict(layers)
    mine = layers["patched"].forward
    with short_products(model):
        assert replaced(model) == ["plain", "patched"]
        assert layers["patched"].forward is mine
    assert replaced(model) == ["patched"] and layers["patched"].forward is mine


def test_a_compiled_model_is_left_alone():
    by_method, by_function = nn.Sequential(nn.Linear(WIDE, WIDE)), nn.Sequential(nn.Linear(WIDE, WIDE))
    by_method.compile(backend="eager")
    compiled: Any = torch.compile(by_function, backend="eager")
    with short_products(by_method, compiled):
        assert not replaced(by_method) and not replaced(by_function)


def test_the_environment_switches_it_off(monkeypatch):
    monkeypatch.setenv(module.SWITCH, "off")
    model = llama()
    with short_products(model):
        assert not replaced(model)


def test_layers_are_given_back_whatever_happens_and_only_by_whom_took_them():
    model, other = llama(), llama(1)
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    with pytest.raises(KeyError), short_products(model, other):
        with short_products(model, model):
            inside = replaced(model)
        assert replaced(model) == inside and len(inside) == 2 * 7 + 1, "the inner one takes nothing of the outer one's"
        assert replaced(other)
        raise KeyError
    assert not replaced(model) and not replaced(other)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    with short_products(model):
        assert replaced(model) == inside


def test_gradients_and_autocast_see_the_plain_layer():
    layer, x = nn.Linear(WIDE, WIDE), torch.randn(2, WIDE)
    with short_products(layer):
        layer(x).sum().backward()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert all(not choices for choices in module._kinds.values())
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(WIDE, WIDE))


def test_adapters_keep_their_part():
    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    ids = torch.arange(3, 6).unsqueeze(0)
    with torch.inference_mode():
        expected = model.eval()(ids).logits
        with model.disable_adapter():
            bare = model(ids).logits
        with short_products(model):
            assert any(name.endswith("q_proj.base_layer") for name in replaced(model))
            for _ in range(9):
                torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-3)
                with model.disable_adapter():
                    torch.testing.assert_close(model(ids).logits, bare, atol=1e-4, rtol=1e-3)
    assert (expected - bare).abs().max() > 0.01


def test_threads_may_decode_with_one_model_at_once():
    model, x, failed = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)), torch.randn(3, WIDE), []
    with torch.inference_mode():
        expected = model(x)

    def work():
        try:
            for _ in range(30):
                with torch.inference_mode(), short_products(model):
                    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)
        except Exception as error:  # noqa: BLE001 (reported below)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not replaced(model)


# ------------------------------------------------------------------------------------------------ decoding


def test_decoding_gives_the_same_tokens_by_any_way(monkeypatch):
    target = llama()
    draft = perturbed(target, 0, 0.1)
    ids, many = torch.tensor([[3, 5, 8, 9]]), [[3, 5, 8, 9], [7, 2], [100, 44, 6]]

    def answers(lookahead):
        config = SSDConfig(candidates=5, lookahead=lookahead)
        one = ssd_generate(target, draft, ids, config=config, max_new_tokens=24, eos_token_id=[]).sequences
        return [
            s.tolist()
            for s in one
            + ssd_generate(target, draft, many, config=config, max_new_tokens=24, eos_token_id=[]).sequences
        ]

    monkeypatch.setenv(module.SWITCH, "off")
    plain = answers(3)
    assert not module._kinds
    monkeypatch.delenv(module.SWITCH)
    for name in (AS_IS, "flipped"):
        monkeypatch.setattr(module, "WAYS", {AS_IS: WAYS[name]})
        monkeypatch.setattr(module, "_kinds", {})
        assert all(answers(lookahead) == plain for lookahead in (1, 3, "auto")), name
        assert any(choices for choices in module._kinds.values()), "nothing was computed another way"
    assert not replaced(target) and not replaced(draft)
