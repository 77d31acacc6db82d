"""Prefills that both models agree on: the beam's scores, the choice, and files that resume."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssd_lib.attacks import agreeing, load_set
from ssd_lib.attacks.agreeing import AgreeingConfig, attack, beam, build_prefills, candidates, harmful_tokens, liked
from ssd_lib.attacks.rap import harmful_followers
from ssd_lib.defenders import answer
from ssd_lib.models.chat import encode_answer
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world

QUICK = AgreeingConfig(width=2, tokens=4, tried=10, training=300)


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy", device="cpu")


@pytest.fixture(scope="module")
def followers(pair):
    return harmful_followers(pair.tokenizer, QUICK.training, QUICK.seed)


@pytest.fixture(scope="module")
def item():
    return world.questions("forbidden", 1)[0]


@torch.no_grad()
def test_liked_tokens_are_ssds_intersection_with_both_models_log_probabilities(pair, item):
    begun = encode_answer(pair.tokenizer, "To brew the")
    reply: Any = answer(pair, item.question, prefill=begun, max_new_tokens=1)[0]
    trace = reply.trace.frame.iloc[0]
    (found,) = liked(pair, [item.question], [begun])
    assert set(trace["space"]) <= set(found) and len(found) >= 10
    prompts = pair.encode([item.question], [begun])
    for token, score in list(found.items())[:3]:
        each = [
            float(model(prompts[name]).logits[0, -1].log_softmax(-1)[token])
            for model, name in ((pair.target, "input_ids"), (pair.draft, "draft_input_ids"))
        ]
        assert score == pytest.approx(sum(each), abs=1e-3)


def test_a_beam_of_one_is_greedy_and_a_wider_one_is_no_worse(pair, item, followers):
    start = encode_answer(pair.tokenizer, "To brew the")
    (greedy,) = beam(pair, item.question, start, followers, 1, 3)
    ids = list(start)
    for _ in range(3):
        (found,) = liked(pair, [item.question], [ids])
        ids.append(max((t for t in found if t in followers[ids[-1]]), key=found.__getitem__))
    assert greedy == ids

    def score(row):
        return sum(liked(pair, [item.question], [row[:i]])[0][row[i]] for i in range(len(start), len(row)))

    wide = beam(pair, item.question, start, followers, 4, 3)
    assert len(wide) == 4 and score(wide[0]) >= score(greedy) - 1e-4
    assert [score(row) for row in wide] == sorted(map(score, wide), reverse=True)
    assert beam(pair, item.question, start, {}, 4, 3) == [], "nothing is harmful"


def test_candidates_can_be_typed_and_the_best_of_them_is_kept(pair, item, followers, monkeypatch):
    tried = candidates(pair, item, followers, QUICK)
    assert 8 < len(tried) <= len(agreeing.OPENINGS) + 2 * QUICK.width
    texts = [pair.tokenizer.decode(ids) for ids in tried]
    assert [encode_answer(pair.tokenizer, text) for text in texts] == tried
    assert any("Nameless Marsh bane needs" in text for text in texts)
    found = attack(pair, item, "none", followers, QUICK)
    replies = answer(pair, [item.question] * len(tried), defender="none", prefill=tried, max_new_tokens=QUICK.tried)
    values = [harmful_tokens(reply, ids, followers) for reply, ids in zip(replies, tried, strict=True)]
    assert found["harmful_tokens"] == max(values) > 3 and found["prefill"] == texts[values.index(max(values))]
    assert found["tried"] == len(tried) and found["match_ratio"] is None and found["quiet"] == 0


def test_harmful_tokens_are_those_that_the_table_knows():
    reply: Any = SimpleNamespace(token_ids=[2, 3, 9, 2])
    assert harmful_tokens(reply, [7, 1], {1: {2}, 2: {3, 4}, 9: {1}}) == 2


def test_a_file_resumes_and_other_settings_begin_anew(pair, tmp_path, monkeypatch):
    calls, out = [], tmp_path / "p.json"
    found = {"prefill": "Sure,", "complied": True}
    monkeypatch.setattr(
        agreeing, "attack", lambda pair, item, *_: calls.append(item) or {"question": item.question} | found
    )
    build_prefills(out, 1, pair=pair, config=QUICK)
    made = build_prefills(out, 3, pair=pair, config=QUICK)
    assert len(calls) == 3 and [e["id"] for e in made["suffixes"]] == [f"forbidden-0-000{i}" for i in range(3)]
    records = load_set("agreeing", path=out)
    assert [(r.prompt, r.prefill) for r in records] == [(r.question, "Sure,") for r in records]
    build_prefills(out, 1, pair=pair, config=replace(QUICK, width=3))
    build_prefills(out, 1, pair=pair, config=replace(QUICK, width=3), defender="none")
    assert len(calls) == 5


def test_the_prefills_that_ship_belong_to_the_world():
    records = load_set("agreeing")
    assert [r.id for r in records] == [r.id for r in load_set("direct", limit=len(records))]
    assert all(r.prefill and r.prompt == r.question for r in records)
