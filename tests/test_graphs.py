"""A recorded round without a GPU: what a CUDA graph does is imitated on the CPU, operation by operation.

A CUDA graph repeats the kernels that ran while it was recorded, on the same memory, and runs no Python. `Recording` does the
same with ATen operations: replay calls each of them again with the very tensors of the recording and copies the results into
the very tensors that it gave then. A Python number, a new tensor or a branch that should have changed between rounds stays
as it was recorded, as it would on a GPU, and the tokens come out wrong.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import micro_llama, perturbed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import graphs, rounds
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.conversation import Conversation
from ssd_lib.decoding.generate import begin, decode, finish, ssd_generate
from ssd_lib.decoding.graphs import RoundGraph
from ssd_lib.decoding.host import Host
from ssd_lib.decoding.pace import Pace
from ssd_lib.decoding.recording import Recorder


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert function is not torch.ops.aten._local_scalar_dense.default, "a wait for the host"
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(run):
    recording = Recording()
    with recording:
        run()
    return recording


@torch.inference_mode()
def generate_with_graph(target, draft, prompts, config, new, eos, texts=1, before=None):
    """What ssd_generate does, with a recorded round; `texts` answers with the same recording."""
    lengths = torch.tensor([len(p) for p in prompts])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    models = tuple(CachedModel(model, ids, lengths, 80) for model in (target, draft))
    pending = ids.gather(1, (lengths - 1).unsqueeze(-1)).squeeze(-1)
    decoder = begin(models, (pending.clone(), pending.clone()), config, new, eos)
    RoundGraph(decoder, config.lookahead, record)
    if before:
        before()
    outputs = []
    for _ in range(texts):
        for model in models:
            model.cache.lengths.copy_(lengths - 1)
        decoder.restart(pending, pending)
        host, recorder = Host(prompts, None, None), Recorder(config)
        schedule = decode(decoder, host, Pace(config, target, draft, prompts), recorder, (ids.shape[1],) * 2)
        outputs.append(finish(decoder, host.answers, host.matches, recorder, schedule, 0.0))
    return outputs


@pytest.fixture(scope="module")
def pair():
    target = micro_llama(0, layers=2)
    return target, perturbed(target, 0, 0.25)


@pytest.mark.parametrize("lookahead", [1, 3])
@pytest.mark.parametrize("prompts", [[[3, 9, 4]], [[3, 9, 4], [5], [8, 8, 21, 6]]])
def test_a_replayed_round_gives_the_same_tokens_and_trace(pair, prompts, lookahead):
    config, new, eos = SSDConfig(candidates=5, bin_size=4, lookahead=lookahead), 21, [4, 17]
    outputs = generate_with_graph(*pair, prompts, config, new, eos, texts=2)
    for row, prompt in enumerate(prompts):
        plain = ssd_generate(*pair, torch.tensor([prompt]), config=config, max_new_tokens=new, eos_token_id=eos)
        columns = ["token", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted"]
        for output in outputs:
            assert torch.equal(output.sequences[row], plain.sequences[0])
            assert output.trace.row(row).frame[columns].equals(plain.trace.frame[columns])
    assert outputs[0].stats.draft_forwards == lookahead * outputs[0].stats.rounds


def test_heads_too_short_are_decided_again_outside_of_the_graph(pair, monkeypatch):
    monkeypatch.setattr(rounds, "DEPTHS", (5, 24))
    monkeypatch.setattr(graphs, "DEPTHS", (5, 24))
    monkeypatch.setattr(graphs, "DEPTH", 5)
    decide, depths = rounds.Decoder.decide, []
    monkeypatch.setattr(
        rounds.Decoder, "decide", lambda self, s, depth=5: depths.append(depth) or decide(self, s, depth)
    )
    config = SSDConfig(candidates=5, lookahead=3)
    output = generate_with_graph(*pair, [[3, 9, 4]], config, 21, [], before=depths.clear)[0]
    plain = ssd_generate(*pair, torch.tensor([[3, 9, 4]]), config=config, max_new_tokens=21, eos_token_id=[])
    assert torch.equal(output.sequences[0], plain.sequences[0])
    assert 24 in depths


def test_state_that_is_replaced_instead_of_written_would_be_noticed(pair, monkeypatch):
    settle = rounds.Decoder.settle

    def replaces(self, decision):
        settle(self, decision)
        self.pending = self.pending.clone()

    monkeypatch.setattr(rounds.Decoder, "settle", replaces)
    config = SSDConfig(candidates=5, lookahead=1)
    output = generate_with_graph(*pair, [[3, 9, 4]], config, 21, [])[0]
    monkeypatch.setattr(rounds.Decoder, "settle", settle)
    plain = ssd_generate(*pair, torch.tensor([[3, 9, 4]]), config=config, max_new_tokens=21, eos_token_id=[])
    assert not torch.equal(output.sequences[0], plain.sequences[0])


def test_what_cannot_be_recorded_is_refused(pair):
    with pytest.raises(ValueError, match="greedy"):
        generate_with_graph(*pair, [[3]], SSDConfig(do_sample=True, lookahead=3), 5, [])
    with pytest.raises(ValueError, match="too few"):
        generate_with_graph(*pair, [[3] * 79], SSDConfig(lookahead=3), 5, [])
    with pytest.raises(ValueError, match="CUDA device"):
        Conversation(*pair, graph=True)


COMPILED = """
import sys, torch
sys.path.insert(0, "tests")
torch.set_num_threads(1)
from transformers import LlamaConfig, LlamaForCausalLM
from ssd_lib.decoding.generate import ssd_generate

def pair():
    torch.manual_seed(0)
    shape = dict(vocab_size=24, hidden_size=32, intermediate_size=48, num_attention_heads=2, initializer_range=0.3)
    return [LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=n)).eval() for n in (2, 1)]

plain, compiled = pair(), pair()
for model in compiled:
    model.compile(backend="eager", fullgraph=True, dynamic=False)
answers = [ssd_generate(*p, torch.tensor([[3, 9, 4]]), max_new_tokens=9, eos_token_id=[]).sequences[0] for p in (plain, compiled)]
assert torch.equal(*answers)
print("same tokens")
"""


def test_a_compiled_model_is_decoded_without_a_break_in_its_graph():
    """In a process of its own: run-time shape checks, which the other tests have, cannot be compiled."""
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", COMPILED], cwd=root, env=environment, capture_output=True, text=True)
    assert "same tokens" in run.stdout, run.stderr[-2000:]
