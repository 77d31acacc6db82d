"""A draft made worse in steps: by as much as asked for, and the same at every lookahead."""

import torch
from conftest import micro_llama

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.experiments.weaker import add_noise, main
from ssd_lib.models.loading import load_model


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def test_the_noise_has_the_deviation_asked_for_and_comes_from_the_context_alone():
    ids = list(range(3, 23))
    plain, noisy = micro_llama(0, vocab=400), micro_llama(0, vocab=400)
    add_noise(noisy, 2.0)
    noise = logits(noisy, ids) - logits(plain, ids)
    assert abs(noise.std().item() - 2.0) < 0.1
    assert torch.allclose(logits(noisy, ids[:7]), logits(noisy, ids)[:7], atol=1e-4)


def test_answers_do_not_depend_on_the_lookahead():
    target, draft = micro_llama(0), micro_llama(0)
    add_noise(draft, 3.0)
    outputs = [
        ssd_generate(target, draft, [[4, 5, 6], [7, 8]], config=SSDConfig.hardened(lookahead=t), max_new_tokens=30)
        for t in (1, 4)
    ]
    assert [s.tolist() for s in outputs[0].sequences] == [s.tolist() for s in outputs[1].sequences]
    assert outputs[0].stats.match_ratio < 1


def test_a_noisy_draft_is_written_whole_and_loaded_as_it_was(tmp_path):
    main("noise", 1.0, tmp_path / "weak", draft="toy/draft")
    plain, noisy = load_model("toy/draft", device="cpu")[0], load_model(str(tmp_path / "weak"), device="cpu")[0]
    noise = logits(noisy, [5, 9, 11, 40]) - logits(plain, [5, 9, 11, 40])
    assert 0.8 < noise.std().item() < 1.2
    assert torch.equal(*(each.get_parameter("model.embed_tokens.weight") for each in (noisy, plain)))
