"""A whole round on a pretended accelerator: shapes only, but a host sync or a forgotten CPU tensor raises.

It stays pretended for all of a process, and changes forks and random numbers there: test_fake_gpu.py gives this file one of its own.

The device is PyTorch's Python-backed `privateuseone`, since a CPU build of torch refuses even to index a fake `cuda`
tensor; what is proved, no wait and one device, is the same.
"""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import decoder
from ssd_lib.decoding.cuda_graph import DEPTH
from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.results import Recorder, packed
from ssd_lib.method import switching
from ssd_lib.method.composite import DEPTHS

_setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended:0")

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
LLAMA2_7B = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
TINYLLAMA = LLAMA2_7B | dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_key_value_heads=4)
TWO = dict(num_hidden_layers=2)


def pretended_llama(shape, dtype, attention):
    """A Llama without values, on the pretended device."""
    with no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**(shape | {"attn_implementation": attention}))).eval()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=dtype, device=DEVICE)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE))
    return model


def one_round(target_shape, draft_shape, dtype, config, rows=3, length=9, attention="sdpa", depth=DEPTH, guessed=False):
    """Everything of a round but its one wait, the transfer of `packed`."""
    with FakeTensorMode(), torch.inference_mode():
        target, draft = (
            CachedModel(pretended_llama(shape, dtype, attention), [[1] * length] * rows, 64)
            for shape in (target_shape, draft_shape)
        )
        made = Decoder(
            target=target,
            draft=draft,
            config=config,
            eos=torch.full((1,), 2, device=DEVICE),
            max_new_tokens=20,
            vocab=target_shape["vocab_size"],
            pending=torch.ones(2, rows, dtype=torch.long, device=DEVICE),
            switch=switching.start(rows, config, DEVICE),
            finished=torch.zeros(rows, dtype=torch.bool, device=DEVICE),
            recorder=Recorder(config),
            prompt_indices=list(range(rows)),
        )
        guesses = torch.ones(rows, config.lookahead, dtype=torch.long, device=DEVICE) if guessed else None
        scored = made.score(config.lookahead, guesses)
        decision = made.decide(scored, depth)
        line = packed(scored, decision)
        made.record(scored, decision)
        made.settle(decision)
        assert line.shape == (rows, 2 * config.lookahead + 3)
        parts = (line, *scored, *decision.choice[:4], decision.alive, decision.back, *made.switch, made.finished)
        assert all(part.device == DEVICE for part in (*parts, made.pending, made.before_bin))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_round_neither_waits_for_the_host_nor_mixes_devices(dtype, sampling, attention, hardened):
    rules: dict[str, Any] = dict(lookahead=3, do_sample=sampling, top_p=0.9 if sampling else 1.0)
    config = (SSDConfig.hardened if hardened else SSDConfig)(**rules)
    one_round(SMALL, SMALL, dtype, config, attention=attention)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_round_at_the_shapes_of_llama2_and_tinyllama(depth):
    """All layers once; how deep the heads are does not concern the layers."""
    shapes = (LLAMA2_7B, TINYLLAMA) if depth == DEPTHS[0] else (LLAMA2_7B | TWO, TINYLLAMA | TWO)
    one_round(*shapes, torch.bfloat16, SSDConfig(lookahead=3), depth=depth)


def test_a_round_with_given_guesses():
    one_round(SMALL, SMALL, torch.bfloat16, SSDConfig(lookahead=3), guessed=True)


def test_a_wait_for_the_host_would_be_noticed(monkeypatch):
    def waits(self, decision):
        return bool(decision.alive.all())

    monkeypatch.setattr(decoder.Decoder, "settle", waits)
    with pytest.raises(DataDependentOutputException):
        one_round(SMALL, SMALL, torch.bfloat16, SSDConfig(lookahead=3))


def test_a_forgotten_cpu_tensor_would_be_noticed(monkeypatch):
    def forgets(self, decision):
        zeros = torch.zeros(decision.choice.tokens.shape[0], dtype=torch.long)
        self.pending[0] = torch.where(decision.alive.any(dim=1), decision.choice.tokens[:, 0], zeros)

    monkeypatch.setattr(decoder.Decoder, "settle", forgets)
    with pytest.raises(FakeTensorDeviceMismatchError):
        one_round(SMALL, SMALL, torch.bfloat16, SSDConfig(lookahead=3))
