"""SecDecoding against the published loop, one row at a time and without a cache."""

import math
from typing import Any

import pytest
import torch

from ssd_lib.defenders import answer
from ssd_lib.defenders.base import other_model
from ssd_lib.defenders.secdecoding import SecDecodingSettings, secdecoding, steer, strength, word_tokens
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.presets import experiment
from ssd_lib.experiments.starting import check_expert, needs_draft
from ssd_lib.models.inference import until_eos
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy", device="cpu")


@pytest.fixture(scope="module")
def asked(pair):
    """Questions of every kind with prefills of different length."""
    items = [*world.questions("forbidden", 3), world.questions("benign", 1)[0], world.questions("scary", 1)[0]]
    return items, [prefill_tokens(pair, item, n) for item, n in zip(items, (10, 4, 0, 0, 3), strict=True)]


def reference(pair, item, prefill, settings, tokens):
    """The loop of utils/safe_decoding.py (commit 3658682), in plain Python floats."""
    base = other_model("toy/draft-shallow", device=pair.draft.device, dtype=pair.draft.dtype).model
    prompts, out, on = pair.encode([item.question], [prefill]), [], True
    counted = set(word_tokens(pair.tokenizer, settings.words).tolist())
    for k in range(1, tokens + 1):
        target, expert, before = (
            model(torch.cat([prompts[name], torch.tensor([out], dtype=torch.long)], dim=1)).logits[0, -1].softmax(-1)
            for model, name in ((pair.target, "input_ids"), (pair.draft, "draft_input_ids"), (base, "draft_input_ids"))
        )
        likely = [i for i in counted if expert[i] >= settings.likely or before[i] >= settings.likely]
        distance = sum(abs(float(expert[i] - before[i])) for i in likely)
        alpha = settings.alpha * (1 - math.exp(-settings.sensitivity * distance)) * math.exp(-settings.decay * (k - 1))
        out.append(int((target + (alpha if on else 0) * (expert - before)).argmax()))
        on = on and alpha >= settings.negligible
        if until_eos([out[-1], -1], pair.target) == [out[-1]]:
            break
    return out


OTHERS = [{"alpha": 2.0, "decay": 0.3}, {"likely": 0.3, "words": ("Sure", "cannot")}]


@pytest.mark.parametrize("settings", [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
@torch.inference_mode()
def test_a_batch_is_the_published_loop_row_by_row(pair, asked, settings):
    items, prefills = asked
    replies = answer(
        pair,
        [item.question for item in items],
        defender="secdecoding",
        prefill=prefills,
        settings=settings,
        max_new_tokens=24,
    )
    expected = [
        reference(pair, i, p, SecDecodingSettings(**settings), 24) for i, p in zip(items, prefills, strict=True)
    ]
    assert [reply.token_ids for reply in replies] == expected


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"base": "toy/draft"}, {"words": ()}])
def test_no_strength_no_difference_or_no_words_is_the_target_alone(pair, asked, settings):
    items, prefills = asked
    questions = [item.question for item in items]
    alone = answer(pair, questions, defender="none", prefill=prefills)
    steered = answer(pair, questions, defender="secdecoding", prefill=prefills, settings=settings)
    assert [reply.token_ids for reply in steered] == [reply.token_ids for reply in alone]
    assert steered[0].cost.draft_forwards == steered[0].cost.other_forwards == 1, "given up after the first token"
    assert steered[0].cost.target_forwards == alone[0].cost.target_forwards


def test_a_prefilled_answer_is_turned_where_the_expert_turns(pair):
    items = world.questions("forbidden", 3)
    prefills = [prefill_tokens(pair, item, 10) for item in items]
    alone, steered = (
        answer(pair, [item.question for item in items], defender=name, prefill=prefills)
        for name in ("none", "secdecoding")
    )
    grades = [[world.grade(i, r.text, r.prefill) for i, r in zip(items, run, strict=True)] for run in (alone, steered)]
    assert sum(grade.complied for grade in grades[0]) >= 2 and not any(grade.refused for grade in grades[0])
    assert all(grade.ends_in_refusal and not grade.complied for grade in grades[1])
    assert all(1 < r.cost.draft_forwards == r.cost.other_forwards for r in steered)


def test_the_formulas_by_hand():
    expert, base = torch.tensor([[0.7, 0.2, 0.06, 0.04]]), torch.tensor([[0.1, 0.2, 0.62, 0.08]])
    target, settings = (
        torch.tensor([[0.3, 0.1, 0.55, 0.05]]),
        SecDecodingSettings(alpha=2.0, sensitivity=1.0, decay=0.5),
    )
    # Tokens 0 and 3 are words; both are likely somewhere: D = 0.6 + 0.04.
    alpha = strength(expert, base, torch.tensor([0, 3]), 3, settings)
    assert float(alpha) == pytest.approx(2 * (1 - math.exp(-0.64)) * math.exp(-1.0), rel=1e-6)
    assert float(strength(expert, base, torch.tensor([1]), 1, settings)) == 0
    assert steer(target, expert, base, alpha).tolist() == [0] and steer(target, expert, base, 0 * alpha).tolist() == [2]
    wider = torch.cat([target, torch.tensor([[0.9]])], dim=1)
    assert steer(wider, expert, base, alpha).tolist() == [4], "a row that the small models lack is never steered"


def test_words_count_with_and_without_a_blank(pair):
    tokens = set(word_tokens(pair.tokenizer, ("cannot",)).tolist())
    for text in ("cannot", " cannot"):
        assert tokens >= set(pair.tokenizer.encode(text, add_special_tokens=False))


def test_a_pair_without_a_base_says_what_to_set(pair):
    from dataclasses import replace

    from ssd_lib.defenders.base import Request

    bare = replace(pair, spec=replace(pair.spec, draft_base=None))
    with pytest.raises(ValueError, match="set base=PATH"):
        secdecoding(bare, Request(["Hello!"], [[]], 4), SecDecodingSettings())


def test_an_experiment_looks_for_the_base_before_it_begins():
    table: dict[str, Any] = dict(attacks=["direct"], judges=["exact"], out="runs/x")
    found = experiment(defenders=["secdecoding"], **table)
    check_expert(found)
    assert needs_draft(found)
    with pytest.raises(OSError, match="no model at"):
        check_expert(experiment(defenders=["secdecoding:base=./nowhere"], **table))
