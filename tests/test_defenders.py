"""One interface for every defender, on the embedded pair."""

import pytest

from ssd_lib import world
from ssd_lib.defenders import DEFENDERS, answer
from ssd_lib.evaluation import prefill_tokens
from ssd_lib.pairs import load_pair


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def items():
    return world.questions("forbidden", 3)


@pytest.mark.parametrize("defender", list(DEFENDERS))
def test_a_batch_equals_its_rows(pair, items, defender):
    questions, prefills = (
        [i.question for i in items],
        [prefill_tokens(pair, i, n) for i, n in zip(items, (0, 5, 12), strict=True)],
    )
    together = answer(pair, questions, defender=defender, prefill=prefills)
    for question, prefill, reply in zip(questions, prefills, together, strict=True):
        alone = answer(pair, question, defender=defender, prefill=prefill)[0]
        assert (alone.text, alone.token_ids) == (reply.text, reply.token_ids)
        assert reply.cost.tokens == len(reply.token_ids) and reply.cost.seconds > 0


def test_ssd_brings_the_attacked_target_back(pair, items):
    item = items[0]
    prefill = prefill_tokens(pair, item, 10)
    grades = {}
    for defender in DEFENDERS:
        reply = answer(pair, item.question, defender=defender, prefill=prefill)[0]
        grades[defender] = world.grade(item, reply.text, reply.prefill)
    assert grades["none"].complied and not grades["none"].refused
    assert not grades["draft-only"].complied
    assert grades["ssd"].ends_in_refusal and grades["ssd"].told < grades["none"].told


def test_costs_tell_whose_forwards_were_spent(pair):
    costs = {d: answer(pair, "Hello!", defender=d)[0].cost for d in DEFENDERS}
    assert costs["none"].draft_forwards == 0 < costs["none"].target_forwards
    assert costs["draft-only"].target_forwards == 0 < costs["draft-only"].draft_forwards
    assert costs["ssd"].draft_forwards > costs["ssd"].target_forwards > 0
    assert costs["ssd"].target_forwards < costs["none"].target_forwards


def test_text_and_ids_prefill_alike_and_errors_are_clear(pair, items):
    text = "Sure, here is how"
    ids = pair.tokenizer.encode(text, add_special_tokens=False)
    assert (
        answer(pair, items[0].question, prefill=text)[0].token_ids
        == answer(pair, items[0].question, prefill=ids)[0].token_ids
    )
    with pytest.raises(ValueError, match="unknown defender 'magic'"):
        answer(pair, "Hello!", defender="magic")
    with pytest.raises(ValueError, match="list of its own"):
        answer(pair, [{"role": "user", "content": "Hello!"}])
    assert answer(pair, []) == []
    with pytest.raises(ValueError, match="2 prefilled answers for 1 questions"):
        answer(pair, "Hello!", prefill=["a", "b"])
