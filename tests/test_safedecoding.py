"""SafeDecoding against a plain reference: sets, no cache, one model at a time."""

from typing import Any, cast

import pytest
import torch
from conftest import micro_llama
from peft import LoraConfig, PeftModel, get_peft_model

from ssd_lib.defenders.safedecoding import SafeDecodingSettings, _continued, _steered, expert_on, steer
from ssd_lib.models.inference import generation_settings, until_eos

LENGTHS = (3, 7, 5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A target, and the folder of an adapter that moves it visibly."""
    target, folder = micro_llama(3, vocab=40, layers=2), tmp_path_factory.mktemp("expert")
    adapted = get_peft_model(micro_llama(3, vocab=40, layers=2), LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return target, str(folder)


def prompts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 40, (n,), generator=generator) for n in LENGTHS]
    width = max(LENGTHS)
    ids = torch.stack([torch.cat([torch.zeros(width - len(row), dtype=torch.long), row]) for row in rows])
    mask = torch.stack([torch.tensor([0] * (width - len(row)) + [1] * len(row)) for row in rows])
    return rows, ids, mask


def reference(target, expert, row, settings):
    """The published loop, one row: whole sequences, Python sets."""
    ids, out = row.tolist(), []
    for _ in range(settings.first_m):
        with torch.no_grad():
            p, q = (m(torch.tensor([ids])).logits[0, -1].softmax(-1) for m in (target, expert))
        first, second = (torch.argsort(x, descending=True).tolist() for x in (p, q))
        k = settings.num_common_tokens
        while len(set(first[:k]) & set(second[:k])) < settings.num_common_tokens:
            k += 1
        space = set(first[:k]) & set(second[:k])
        token = max(space, key=lambda t: float(p[t] + settings.alpha * (q[t] - p[t])))
        ids.append(token)
        out.append(token)
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_the_opening_is_the_published_loops(models, seed, alpha):
    target, folder = models
    settings = SafeDecodingSettings(alpha=alpha, first_m=4)
    rows, ids, mask = prompts(seed)
    merged = PeftModel.from_pretrained(micro_llama(3, vocab=40, layers=2), folder).merge_and_unload().eval()
    with expert_on(target, folder) as model, torch.inference_mode():
        opening, _ = _steered(model, ids, mask, 4, settings)
    assert opening.tolist() == [reference(target, merged, row, settings) for row in rows]


def test_the_rest_is_the_targets_own_continuation(models):
    target, folder = models
    rows, ids, mask = prompts()

    class Pair:
        tokenizer = type("Tokenizer", (), {"pad_token_id": 0, "eos_token_id": 2})
        target = models[0]
        vocab_size = models[0].config.vocab_size

    with expert_on(target, folder) as model, torch.inference_mode():
        opening, begun = _steered(model, ids, mask, 2, SafeDecodingSettings())
    rest = _continued(cast(Any, Pair), begun, ids.shape[1], 14)
    for row, start, got in zip(rows, opening, rest, strict=True):
        alone = torch.cat([row, start]).unsqueeze(0)
        expected = target.generate(alone, do_sample=False, max_new_tokens=12)[0, alone.shape[1] :].tolist()
        assert got.tolist()[: len(expected)] == expected


def test_no_steering_is_the_target(models):
    target, folder = models
    rows, ids, mask = prompts(4)
    with expert_on(target, folder) as model, torch.inference_mode():
        opening, _ = _steered(model, ids, mask, 3, SafeDecodingSettings(alpha=0.0, num_common_tokens=40))
    for row, got in zip(rows, opening, strict=True):
        expected = target.generate(row.unsqueeze(0), do_sample=False, max_new_tokens=3)[0, len(row) :]
        assert got.tolist()[: len(expected)] == expected.tolist()


def test_steering_needs_a_token_that_both_models_rank_high():
    target, expert = torch.tensor([[0.6, 0.3, 0.08, 0.02]]), torch.tensor([[0.02, 0.08, 0.3, 0.6]])
    one = SafeDecodingSettings(alpha=3.0, num_common_tokens=1)
    # Smallest k with a common token is 3: {0, 1, 2} and {3, 2, 1} share 1 and 2; P is −0.36 and 0.74 there.
    assert steer(target, expert, one).tolist() == [2]
    everything = SafeDecodingSettings(alpha=3.0, num_common_tokens=4)
    assert steer(target, expert, everything).tolist() == [3]


def test_the_expert_comes_off_even_after_an_error(models):
    target, folder = models
    before = [name for name, _ in target.named_modules()]
    with pytest.raises(RuntimeError, match="boom"), expert_on(target, folder):
        raise RuntimeError("boom")
    assert [name for name, _ in target.named_modules()] == before


def test_a_pair_without_an_expert_says_how_to_get_one():
    from ssd_lib.models.loading import adapter_at

    with pytest.raises(ValueError, match="ssd train --expert"):
        adapter_at(None)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 8},
        {"begin_suppress_tokens": [5, 9]},
    ],
)
def test_without_steering_it_is_generate_under_the_targets_generation_config(models, monkeypatch, options):
    target, folder = models
    for name, value in options.items():
        monkeypatch.setattr(target.generation_config, name, value)
    rows, ids, mask = prompts(4)

    class Pair:
        tokenizer = type("Tokenizer", (), {"pad_token_id": 0, "eos_token_id": 2})
        target = models[0]
        vocab_size = models[0].config.vocab_size

    settings = SafeDecodingSettings(alpha=0.0, num_common_tokens=40)
    with expert_on(target, folder) as model, torch.inference_mode():
        opening, begun = _steered(model, ids, mask, 3, settings, generation_settings(target), 14)
    rest = _continued(cast(Any, Pair), begun, ids.shape[1], 14)
    expected = target.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=14, pad_token_id=0)
    answers = [until_eos(row, target) for row in torch.cat([opening, rest], 1).tolist()]
    assert answers == [until_eos(row, target) for row in expected[:, ids.shape[1] :].tolist()]
