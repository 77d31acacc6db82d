"""A recorded round without a GPU: what a CUDA graph does is imitated on the CPU, operation by operation.

A CUDA graph repeats the kernels that ran while it was recorded, on the same memory, and runs no Python. `Recording` does the
same with ATen operations: replay calls each of them again with the very tensors of the recording and copies the results into
the very tensors that it gave then. A Python number, a new tensor or a branch that should have changed between rounds stays
as it was recorded, as it would on a GPU, and the tokens come out wrong.
"""

from typing import Any

import pytest
import torch
from conftest import Models, micro_llama, perturbed

from benchmarks.replay import as_if_on_cuda, record
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import Conversation, cuda_graph, decoder, ssd_generate
from ssd_lib.decoding.lookahead import RECORDED


@pytest.fixture
def replayed(monkeypatch):
    """The public call on the CPU as if it were a CUDA device: its rounds are recorded and replayed."""
    recordings = []
    with as_if_on_cuda(), monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "record", lambda run: recordings.append(record(run)) or recordings[-1])
        yield recordings


@pytest.fixture(scope="module")
def pair():
    target = micro_llama(0, layers=2)
    return target, perturbed(target, 0, 0.25)


COLUMNS = ["token", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted", "retracted"]


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("lookahead", [1, 3, "auto"])
@pytest.mark.parametrize("prompts", [[[3, 9, 4]], [[3, 9, 4], [5], [8, 8, 21, 6]]])
def test_replayed_rounds_give_the_same_tokens_and_trace(pair: Models, prompts, lookahead, hardened, replayed):
    config = (SSDConfig.hardened if hardened else SSDConfig)(candidates=5, bin_size=4, lookahead=lookahead)
    options: dict[str, Any] = dict(config=config, max_new_tokens=21, eos_token_id=[4, 17], trace=True)
    output: Any = ssd_generate(*pair, prompts, cuda_graph=True, **options)
    assert replayed
    for row, prompt in enumerate(prompts):
        plain: Any = ssd_generate(*pair, [prompt], cuda_graph=False, **options)
        assert torch.equal(output.sequences[row], plain.sequences[0])
        assert output.trace.row(row).lines[COLUMNS].equals(plain.trace.lines[COLUMNS])
    if lookahead != "auto":
        assert {positions for positions, _, _ in output.stats.schedule} == {lookahead}
    else:
        assert {positions for positions, _, _ in output.stats.schedule} <= set(RECORDED)


def test_waiting_prompts_enter_a_recorded_batch(pair: Models, replayed):
    prompts = [[3, 9, 4], [5], [8, 8, 21, 6], [7, 7], [11, 3]]
    options: dict[str, Any] = dict(
        config=SSDConfig(candidates=5, bin_size=4, lookahead=3), max_new_tokens=21, eos_token_id=[4, 17]
    )
    output = ssd_generate(*pair, prompts, rows=2, cuda_graph=True, **options)
    assert len(replayed) == 2, "one lookahead, recorded once: what scores and decides, and what settles"
    for sequence, prompt in zip(output.sequences, prompts, strict=True):
        assert torch.equal(sequence, ssd_generate(*pair, [prompt], cuda_graph=False, **options).sequences[0])


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_conversation_replays_and_so_does_auto_once_it_pays(pair: Models, replayed):
    options: dict[str, Any] = dict(max_new_tokens=40, eos_token_id=[])
    talk = Conversation(*pair, SSDConfig(candidates=5), context=90)
    for prompt in ([3, 9, 4], [3, 9, 4, 8, 8]):
        replayed.clear()
        plain = ssd_generate(*pair, [prompt], config=SSDConfig(candidates=5), cuda_graph=False, **options)
        assert not replayed
        assert torch.equal(talk.reply(prompt, **options).sequences[0], plain.sequences[0]) and replayed
    replayed.clear()
    ssd_generate(*pair, [[3]], config=SSDConfig(lookahead=3), max_new_tokens=5, eos_token_id=[])
    assert not replayed, "a short answer is over before a recording has paid"


def test_heads_too_short_are_decided_again_outside_of_the_graph(pair: Models, replayed, monkeypatch):
    config = SSDConfig(candidates=5, lookahead=3)
    options: dict[str, Any] = dict(config=config, max_new_tokens=21, eos_token_id=[])
    plain = ssd_generate(*pair, [[3, 9, 4]], cuda_graph=False, **options)
    monkeypatch.setattr(cuda_graph, "DEPTHS", (5, 24))
    monkeypatch.setattr(cuda_graph, "DEPTH", 5)
    decide, depths = decoder.Decoder.decide, []
    monkeypatch.setattr(
        decoder.Decoder, "decide", lambda self, s, depth: depths.append(depth) or decide(self, s, depth)
    )
    output = ssd_generate(*pair, [[3, 9, 4]], cuda_graph=True, **options)
    assert torch.equal(output.sequences[0], plain.sequences[0])
    assert 24 in depths


def test_state_that_is_replaced_instead_of_written_would_be_noticed(pair: Models, replayed, monkeypatch):
    options: dict[str, Any] = dict(config=SSDConfig(candidates=5, lookahead=2), max_new_tokens=21, eos_token_id=[])
    plain = ssd_generate(*pair, [[3, 9, 4]], cuda_graph=False, **options)
    settle = decoder.Decoder.settle

    def replaces(self, decision):
        settle(self, decision)
        self.pending = self.pending.clone()

    monkeypatch.setattr(decoder.Decoder, "settle", replaces)
    output = ssd_generate(*pair, [[3, 9, 4]], cuda_graph=True, **options)
    assert not torch.equal(output.sequences[0], plain.sequences[0])


def test_what_cannot_be_recorded_is_refused_where_it_is_asked_for(pair: Models, monkeypatch):
    with pytest.raises(ValueError, match="CUDA device"):
        ssd_generate(*pair, [[3]], max_new_tokens=5, cuda_graph=True)
    wrong: Any = "yes"
    with pytest.raises(ValueError, match="cuda_graph must be"):
        ssd_generate(*pair, [[3]], max_new_tokens=5, cuda_graph=wrong)
    device = type("Device", (), {"type": "cuda"})()
    cached = type("M", (), {"device": device, "model": pair[0]})
    fake = dict(target=cached, draft=cached, processors=None)

    def pretended(**changes) -> Any:
        return type("Decoder", (), fake | changes)

    for changes, why in [
        (dict(config=SSDConfig(do_sample=True)), "greedy"),
        (dict(config=SSDConfig(), processors=object()), "processors"),
        (dict(config=SSDConfig(), draft=type("M", (), {"device": type("D", (), {"type": "cuda"})()})), "one device"),
    ]:
        assert why in str(cuda_graph.hindrance(pretended(**changes)))
    assert cuda_graph.hindrance(pretended(config=SSDConfig())) is None


@pytest.mark.usefixtures("shapes_unchecked")  # they cannot be compiled
@pytest.mark.slow
def test_a_compiled_model_is_decoded_without_a_break_in_its_graph():
    plain, compiled = ([micro_llama(0, layers=2), micro_llama(1)] for _ in range(2))
    for model in compiled:
        model.compile(backend="eager", fullgraph=True, dynamic=False)
    options: dict[str, Any] = dict(config=SSDConfig(lookahead=2), max_new_tokens=6, eos_token_id=[])
    answers = [ssd_generate(target, draft, [[3, 9, 4]], **options).sequences[0] for target, draft in (plain, compiled)]
    assert torch.equal(*answers)


@pytest.mark.gpu
def test_cpu_and_gpu_give_the_same_tokens():
    target: Any = micro_llama(0, layers=2)
    draft, prompt = perturbed(target, 1, 0.2), torch.tensor([[3, 4, 5]])
    on_cpu = ssd_generate(target, draft, prompt, max_new_tokens=24)
    on_gpu = ssd_generate(target.cuda(), draft.cuda(), prompt.cuda(), max_new_tokens=24)
    assert on_cpu.sequences[0].tolist() == on_gpu.sequences[0].tolist()
