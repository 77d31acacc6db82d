"""Shared fixtures: run-time shape checks for the pure core, one thread, seeded micro-models.

torch and transformers are imported where they are used: xdist's controller reads this file, too, and runs no test.
"""

from typing import Any

import hypothesis
import jaxtyping
import pytest

Models = tuple[Any, Any]
"""A target and a draft, as `*pair` is unpacked."""

# Before anything imports the library: every shape annotation of the core is checked at run time. A function within a function
# would be compiled anew at each call (2 ms, as long as a forward): the core has none.
SHAPES_CHECKED = [
    "ssd_lib.method.composite",
    "ssd_lib.method.switching",
    "ssd_lib.decoding.kv_cache",
    "ssd_lib.decoding.inputs",
    "ssd_lib.decoding.results",
    "ssd_lib.decoding.decoder",
    "ssd_lib.models.chat",
]
jaxtyping.install_import_hook(SHAPES_CHECKED, "beartype.beartype")

hypothesis.settings.register_profile("any load", deadline=None)  # no test may depend on how busy the machine is
hypothesis.settings.load_profile("any load")


@pytest.fixture
def shapes_unchecked(monkeypatch):
    """For sweeps over many cases: checks take a third of a micro-model's time, and smaller tests run the same code with them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def pytest_collection_modifyitems(items):
    import torch

    torch.set_num_threads(1)
    without_gpu = pytest.mark.skip(reason="no GPU here")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(without_gpu)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for the tests of a file."""
    from tests.browser import chromium

    with chromium() as opened:
        yield opened


def micro_llama(seed, vocab=24, layers=1, sharpness=8.0, kv_heads=2, context=128):
    """A random Llama whose next-token distributions are far from flat (its output matrix is scaled up)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=sharpness / 32)
    return model


def perturbed(model, seed, amount):
    """A copy whose weights moved by `amount` of their size: its match ratio with the original falls from 1 towards 0."""
    import torch

    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in copy.parameters():
            weight.add_(amount * weight.std().nan_to_num(0.0) * torch.randn(weight.shape, generator=generator))
    return copy


def perturbed_pairs():
    """Three pairs of target and draft, from nearly always to seldom agreeing."""
    pairs = []
    for seed, amount in [(0, 0.02), (1, 0.15), (2, 0.4)]:
        target = micro_llama(seed, layers=2)
        pairs.append((target, perturbed(target, seed, amount)))
    return pairs


class Collect:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value.reshape(-1).tolist())

    def end(self):
        self.ended = True
