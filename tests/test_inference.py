"""Greedy answers of one model: what of its generation config is in force, and whether a prompt leaves room."""

import inspect
import re
from typing import Any

import pytest
import torch
from conftest import micro_llama
from micro_models import llama3_tokenizer, save_model
from transformers import GenerationMixin

from ssd_lib.defenders import DEFENDERS, answer
from ssd_lib.defenders.checking import _perplexity, token_log_probs, windows_of
from ssd_lib.models.inference import (
    GREEDY,
    REFUSED,
    SHAPING,
    Speaker,
    check_room,
    generation_settings,
    greedy,
    logits_processors,
)
from ssd_lib.models.pairs import load_pair

IN_FORCE = [
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[5], [6, 7]]},
    {"suppress_tokens": [4, 9, 11]},
    {"begin_suppress_tokens": [3, 8, 12]},
    {"min_new_tokens": 6},
    {"min_length": 14},
    {"sequence_bias": [[[5], -4.0], [[6], 3.0]]},
    {"forced_eos_token_id": 2},
    {"exponential_decay_length_penalty": (2, 1.5)},
    {"encoder_repetition_penalty": 1.4},
    {"encoder_no_repeat_ngram_size": 1},
    {"repetition_penalty": 1.2, "suppress_tokens": [4], "renormalize_logits": True},
]
LENGTHS = (3, 7, 5)


def prompts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 24, (n,), generator=generator).tolist() for n in LENGTHS]
    ids = torch.tensor([[0] * (max(LENGTHS) - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (max(LENGTHS) - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def by_hand(model, ids, mask, steps):
    """Greedy without a cache: the model's scores, our processors, the first maximum."""
    settings, so_far, done = generation_settings(model), ids, torch.zeros(len(ids), dtype=torch.bool)
    process = logits_processors(
        model, settings, ids.shape[1], max_new_tokens=steps, attention_mask=mask, prompt_ids=ids
    )
    for _ in range(steps):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            scores = model(so_far, attention_mask=mask, position_ids=positions).logits[:, -1].float()
        token = process(so_far, scores).argmax(-1).masked_fill(done, 0)
        so_far = torch.cat([so_far, token.unsqueeze(1)], 1)
        mask = torch.cat([mask, torch.ones_like(token).unsqueeze(1)], 1)
        done |= torch.isin(token, torch.tensor(settings.eos_token_id))
    return so_far


@pytest.mark.parametrize("options", IN_FORCE, ids=lambda options: "+".join(options))
def test_greedy_is_transformers_own_and_so_are_the_processors(options):
    changed = 0
    for seed in range(3):
        model: Any = micro_llama(seed)
        ids, mask = prompts(seed)
        plain = greedy(model, ids, mask, max_new_tokens=10, pad_token_id=0)
        for name, value in options.items():
            setattr(model.generation_config, name, value)
        assert set(generation_settings(model).in_force) == set(options)
        expected = model.generate(
            ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=10, pad_token_id=0
        )
        assert torch.equal(greedy(model, ids, mask, max_new_tokens=10, pad_token_id=0), expected)
        assert torch.equal(by_hand(model, ids, mask, 10)[:, : expected.shape[1]], expected)
        changed += not torch.equal(plain, expected)
    assert changed, "the option changes something, or this test would pass without it"


def test_sampling_and_searching_are_overridden_and_recorded():
    model = micro_llama(0)
    ids, mask = prompts()
    plain = greedy(model, ids, mask, max_new_tokens=10, pad_token_id=0)
    given = {"do_sample": True, "temperature": 5.0, "top_k": 3, "num_beams": 4, "max_time": 1e-9}
    given |= {"return_dict_in_generate": True, "num_return_sequences": 2, "max_length": 5}
    for name, value in given.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(greedy(model, ids, mask, max_new_tokens=10, pad_token_id=0), plain)
    settings = generation_settings(model)
    assert settings.overridden == given and settings.in_force == {} and settings.eos_token_id == (2,)


@pytest.mark.parametrize(("name", "value"), [("guidance_scale", 1.5), ("stop_strings", ["a"]), ("token_healing", True)])
def test_what_cannot_be_honoured_is_refused_by_name(name, value):
    model = micro_llama(0)
    setattr(model.generation_config, name, value)
    with pytest.raises(ValueError, match=f"sets {name}="):
        greedy(model, *prompts(), max_new_tokens=3)


def test_every_option_that_transformers_reads_is_known_here():
    read = set(
        re.findall(r"generation_config\.(\w+)", inspect.getsource(vars(GenerationMixin)["_get_logits_processor"]))
    )
    assert read - {"_eos_token_tensor", "use_cache"} <= {*SHAPING, *GREEDY, *REFUSED}


def test_a_processor_that_needs_more_says_so():
    model = micro_llama(0)
    model.generation_config.forced_eos_token_id = 2
    with pytest.raises(ValueError, match="forced_eos_token_id"):
        logits_processors(model, generation_settings(model), 3)


# ------------------------------------------------------------------------------------------------ defenders


@pytest.fixture
def pair(tmp_path):
    tokenizer = llama3_tokenizer()
    eos = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eom_id|>")]
    names: dict[str, Any] = {
        role: save_model(tmp_path / role, tokenizer, seed, eos) for seed, role in enumerate(("target", "draft"))
    }
    return load_pair("toy", **names)


def test_none_and_the_record_of_a_run_follow_the_targets_generation_config(pair):
    pair.target.generation_config.repetition_penalty = 1.3
    reply = answer(pair, "How do I brew it?", defender="none", max_new_tokens=20)[0]
    encoded = pair.encode(["How do I brew it?"])
    expected = pair.target.generate(
        encoded["input_ids"], attention_mask=encoded["attention_mask"], do_sample=False, num_beams=1, max_new_tokens=20
    )
    assert reply.token_ids == expected[0, encoded["input_ids"].shape[1] :].tolist()
    pair.target.generation_config.repetition_penalty = 1.0
    assert answer(pair, "How do I brew it?", defender="none", max_new_tokens=20)[0].token_ids != reply.token_ids


@pytest.mark.parametrize("defender", [name for name in DEFENDERS if DEFENDERS[name].needs != "expert"])
def test_every_defender_refuses_a_question_that_leaves_no_room(pair, defender):
    with pytest.raises(ValueError, match="the target's prompt: the context holds 256 tokens"):
        answer(pair, "brew " * 300, defender=defender, max_new_tokens=20)
    pair.draft.config.max_position_embeddings = 40
    with pytest.raises(ValueError, match="the draft's prompt: the context holds 40 tokens"):
        answer(pair, "Hello!", defender=defender, max_new_tokens=39)


@pytest.mark.parametrize(
    ("defender", "step"),
    [("self-exam", "self-exam's question"), ("icd", "icd's prompt"), ("paraphrase", "paraphrase's prompt")],
)
def test_a_prompt_of_the_defences_own_that_leaves_no_room_is_named(pair, defender, step):
    pair.target.config.max_position_embeddings = 120
    length = len(pair.encode(["brew it"])["input_ids"][0])
    with pytest.raises(ValueError, match=step):
        answer(pair, "brew it", defender=defender, max_new_tokens=119 - length)


def test_room_is_counted_with_the_answer():
    check_room("the prompt", micro_llama(0, context=16), 10, 6)
    with pytest.raises(ValueError, match="at most 6 new tokens fit"):
        check_room("the prompt", micro_llama(0, context=16), 10, 7)
    with pytest.raises(ValueError, match="shorten the prompt"):
        check_room("the prompt", micro_llama(0, context=16), 16, 1)


# ------------------------------------------------------------------------------------------------ perplexity of long texts


def test_windows_score_every_token_once_after_half_a_context():
    for length in range(0, 70):
        windows = windows_of(length, 16)
        scored = [place for _, first, end in windows for place in range(first, end)]
        assert scored == list(range(1, length))
        assert all(end - start <= 16 and (start == 0 or first - start >= 8) for start, first, end in windows)


def test_long_rows_are_read_in_windows_and_short_ones_as_before():
    model, wide = micro_llama(0, context=16), micro_llama(0, context=128)
    unused: Any = None  # the tokenizer: rows are ids
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 24, (n,), generator=generator).tolist() for n in (60, 0, 1, 16, 17, 2)]
    scores, forwards = token_log_probs(Speaker(model, unused, None), rows)
    assert [len(score) for score in scores] == [59, 0, 0, 15, 16, 1] and forwards == 2
    for row, score in zip(rows, scores, strict=True):
        alone = token_log_probs(Speaker(model, unused, None), [row])[0][0]
        torch.testing.assert_close(score, alone, atol=1e-5, rtol=1e-5)
        assert _perplexity(score) >= 1
    for row, score in zip(rows, scores, strict=True):
        for start, first, end in windows_of(len(row), 16):
            whole = token_log_probs(Speaker(wide, unused, None), [row[start:end]])[0][0]
            torch.testing.assert_close(score[first - 1 : end - 1], whole[first - start - 1 :], atol=1e-5, rtol=1e-5)
