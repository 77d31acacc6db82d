"""RAP: the first harmful token of a ranking, back where there is none, and through any defender."""

from typing import Any

import pytest

from ssd_lib.attacks import load_set, world_item
from ssd_lib.attacks.asking import ask
from ssd_lib.attacks.rap import Assembled, RAPConfig, assemble, harmful_followers, next_logits, ranking, seen, step
from ssd_lib.defenders import answer
from ssd_lib.defenders.base import draft_of, target_of
from ssd_lib.models.chat import encode_answer
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world

EOS = 99


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy", device="cpu")


def test_steps_take_the_first_harmful_token_and_go_back_where_there_is_none():
    row, followers = Assembled([1]), {1: {2, 3}, 2: {4}, 3: {3, EOS}}
    for top, ids in [
        ([7, 3, 2], [3]),  # 7 is the refusal; 3 stands before 2
        ([7, 8], []),  # nothing harmful after 3: taken back
        ([7, 3, 2], [2]),  # and the next after it in the ranking
        ([5, 6], []),
        ([7, 3, 2], []),  # after 2 nothing is left, and nothing to take back
    ]:
        step(row, top, followers, EOS)
        assert row.ids == ids
    assert row.ended and (row.steps, row.taken_back) == (5, 2)


def test_no_token_three_times_and_the_end_is_an_end():
    row, followers = Assembled([1]), {1: {3}, 3: {3, EOS}}
    for _ in range(3):
        step(row, [3, EOS], followers, EOS)
    assert row.ids == [3, 3] and row.ended and row.taken_back == 0


def test_the_table_knows_forbidden_answers_and_no_refusal(pair):
    followers = harmful_followers(pair.tokenizer, 400, 0)
    item = next(i for i in world.questions("forbidden", 5, held_out=False) if i.family == "bane")
    ids = encode_answer(pair.tokenizer, item.answer)
    known = [after in followers.get(before, ()) for before, after in zip(ids, ids[1:], strict=False)]
    assert sum(known) > 0.9 * len(known)
    dot, refusal = encode_answer(pair.tokenizer, "smile.")[-1], encode_answer(pair.tokenizer, " I am sorry")[0]
    assert refusal not in followers[dot] and pair.tokenizer.eos_token_id in followers[dot]
    assert followers is harmful_followers(pair.tokenizer, 400, 0)


def test_with_everything_harmful_the_target_is_assembled_as_it_answers(pair, monkeypatch):
    """Law: who takes the first token of the target's ranking gets the target's greedy answer."""

    class Anything(dict):
        def get(self, *_):
            return range(10**6)

    monkeypatch.setattr("ssd_lib.attacks.rap.harmful_followers", lambda *_: Anything())
    questions = [world.questions("benign", 1)[0].question, "Hello!"]
    begun = [[], encode_answer(pair.tokenizer, "To")]
    rows = assemble(pair, seen(pair, "none", None, []), questions, begun, RAPConfig(steps=12))
    for row, question, prefill in zip(rows, questions, begun, strict=True):
        alone = answer(pair, question, defender="none", prefill=prefill, max_new_tokens=12)[0].token_ids
        assert row.ids == [i for i in alone if i != pair.tokenizer.eos_token_id]
    top = ranking(target_of(pair), questions, begun)
    assert [row.ids[0] for row in rows] == [row[0] for row in top]


def test_what_ssd_shows_is_its_sample_space_with_its_choice_first(pair):
    question, begun = world.questions("forbidden", 1)[0].question, encode_answer(pair.tokenizer, "To brew the")
    calls = []
    for scheme in ("intersection", "union"):
        settings = {"fixed_scheme": scheme}
        (top,) = seen(pair, "ssd", settings, calls)([question], [begun])
        said = answer(pair, question, prefill=begun, settings=settings, max_new_tokens=1)[0].token_ids
        assert top[0] == said[0] and 10 <= len(top) <= 20
    assert len(calls) == 2


def test_where_the_target_insists_its_own_ranking_is_shown(pair):
    items, settings = world.questions("forbidden", 12), {"fixed_scheme": "intersection"}
    questions = [item.question for item in items]
    begun = [encode_answer(pair.tokenizer, item.answer)[:10] for item in items]
    replies: Any = answer(pair, questions, prefill=begun, settings=settings, max_new_tokens=1, trace=True)
    lines = [reply.trace.frame.iloc[0] for reply in replies]
    tops, rankings = seen(pair, "ssd", settings, [])(questions, begun), ranking(target_of(pair), questions, begun)
    assert {bool(line["insisted"]) for line in lines} == {True, False}
    for line, top, own in zip(lines, tops, rankings, strict=True):
        assert top[0] == line["token"] and (top == own[:10] if line["insisted"] else top == list(line["space"]))


def test_beyond_the_draft_nothing_that_the_target_alone_likes_is_shown(pair):
    """F = P_M + α (P_m − P_M) is positive where P_m > (α − 1)/α P_M: with α ≤ 1 everywhere, with α = 2 from half of P_M on."""
    item = world.questions("forbidden", 1)[0]
    begun = encode_answer(pair.tokenizer, item.answer)[:10]
    probs = [next_logits(who(pair), [item.question], [begun]).softmax(-1)[0] for who in (target_of, draft_of)]
    for alpha in (0.8, 2.0):
        settings = {"fixed_scheme": "union", "alpha_union": alpha}
        (top,) = seen(pair, "ssd", settings, [])([item.question], [begun])
        target, draft = (each[top] for each in probs)
        assert (target + alpha * (draft - target) > 0).all()
        assert (int(probs[0].argmax()) in top) == (alpha <= 1), "the target's favourite, which the draft does not want"


def test_the_target_tells_what_is_assembled_from_its_ranking_and_a_defence_without_one_shows_one_token(pair):
    records = load_set("rap", limit=2, tokenizer=pair.tokenizer)
    assert all(record.top_k == 20 and record.prefill for record in records)
    replies = ask(pair, records, defender="none", max_new_tokens=60)
    for record, reply in zip(records, replies, strict=True):
        assert world.grade(world_item(record), reply.text, reply.prefill).complied
        assert len(reply.token_ids) <= reply.notes["looks"] <= 60 and reply.cost.tokens == 0
    shown = ask(pair, records, defender="ada", max_new_tokens=6)
    assert all(reply.token_ids == [] and reply.notes["looks"] == 1 for reply in shown), "it shows the refusal only"
    assert all(reply.notes["calls"] == 1 and reply.cost.target_forwards > 0 for reply in shown)
