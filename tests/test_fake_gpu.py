"""A whole round on a pretended GPU: shapes only, but a host sync or a forgotten CPU tensor raises."""

import pytest
import torch
from conftest import micro_llama, perturbed
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from ssd_lib import decoding, switching
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import CachedModel, Decoder, Recorder, ssd_generate

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
LLAMA2_7B = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
TINYLLAMA = dict(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
)


class IndexingByOps(TorchFunctionMode):
    """Python indexing as plain operators: `tensor[…]` itself asks for a CUDA device guard, which a CPU build lacks."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.__getitem__:
            return self.get(*args)
        if function is torch.Tensor.__setitem__:
            return self.set(*args)
        return function(*args, **(kwargs or {}))

    def get(self, tensor, index):
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in [i for i in index if not isinstance(i, torch.Tensor)]:
            at = next(n for n, i in enumerate(index) if i is Ellipsis)
            missing = tensor.ndim - sum(i is not None for i in index) + 1
            index = (*index[:at], *[slice(None)] * missing, *index[at + 1 :])
        dim, gathered = 0, []
        for i in index:
            if isinstance(i, torch.Tensor):
                gathered, dim = [*gathered, (dim, i)], dim + 1
            elif i is None:
                tensor, dim = tensor.unsqueeze(dim), dim + 1
            elif isinstance(i, int):
                tensor = tensor.select(dim, i)
            else:
                tensor = torch.ops.aten.slice.Tensor(tensor, dim, i.start, i.stop, i.step or 1)
                dim += 1
        if gathered:
            indices = [dict(gathered).get(n) for n in range(dim)]
            tensor = torch.ops.aten.index.Tensor(tensor, indices)
        return tensor

    def set(self, tensor, index, value):
        assert all(isinstance(i, torch.Tensor) or i == slice(None) for i in index)
        torch.ops.aten.index_put_(tensor, [i if isinstance(i, torch.Tensor) else None for i in index], value)


def fake_llama(shape, dtype):
    """A Llama without weights' values; random initialisation does not exist on a pretended device."""
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty(weight.shape, dtype=dtype), requires_grad=False))
    return model


def one_round(target_shape, draft_shape, dtype, config, rows=3, length=9):
    """Everything between the first forward and the round's one wait, on a fake `cuda`."""
    with FakeTensorMode(), torch.inference_mode(), no_init_weights(), torch.device("cuda"), IndexingByOps():
        models = [fake_llama(shape, dtype) for shape in (target_shape, draft_shape)]
        prompts = torch.ones(rows, length, dtype=torch.long)
        lengths = torch.full((rows,), length)
        target, draft = (CachedModel(model, prompts, lengths, 64) for model in models)
        decoder = Decoder(
            target=target,
            draft=draft,
            config=config,
            eos=torch.tensor([2]),
            max_new_tokens=20,
            generator=None,
            pending=prompts[:, -1],
            draft_pending=prompts[:, -1],
            switch=switching.start(rows, config, "cuda"),
            finished=torch.zeros(rows, dtype=torch.bool),
        )
        emitted = decoder.round(Recorder(config))
        assert emitted.tokens.shape == (rows, config.lookahead) and emitted.tokens.device.type == "cuda"
        assert decoder.finished.device.type == decoder.switch.threshold.device.type == "cuda"
        return emitted


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_round_neither_waits_for_the_host_nor_mixes_devices(dtype, sampling):
    one_round(SMALL, SMALL, dtype, SSDConfig(do_sample=sampling, top_p=0.9 if sampling else 1.0))


def test_a_round_at_the_shapes_of_llama2_and_tinyllama():
    one_round(LLAMA2_7B, TINYLLAMA, torch.bfloat16, SSDConfig())


def test_this_test_can_fail(monkeypatch):
    settle = decoding.Decoder.settle

    def waits(self, tokens, valid):
        if bool(valid.all()):
            settle(self, tokens, valid)

    monkeypatch.setattr(decoding.Decoder, "settle", waits)
    with pytest.raises(DataDependentOutputException):
        one_round(SMALL, SMALL, torch.bfloat16, SSDConfig())


@pytest.mark.gpu
def test_cpu_and_gpu_give_the_same_tokens():
    target = micro_llama(0, layers=2)
    draft, prompt = perturbed(target, 1, 0.2), torch.tensor([[3, 4, 5]])
    on_cpu = ssd_generate(target, draft, prompt, max_new_tokens=24)
    on_gpu = ssd_generate(target.cuda(), draft.cuda(), prompt.cuda(), max_new_tokens=24)
    assert on_cpu.sequences[0].tolist() == on_gpu.sequences[0].tolist()
