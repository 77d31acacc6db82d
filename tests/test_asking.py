"""Ways of asking: one call or many, any defender, and a scheduler that has seen quiet bins."""

from typing import Any

import pytest
import torch

from ssd_lib.attacks import find_set, load_set, world_item
from ssd_lib.attacks.asking import GO_ON, ask, in_pieces, quieted
from ssd_lib.attacks.records import Record
from ssd_lib.config import SSDConfig
from ssd_lib.defenders import answer
from ssd_lib.method import switching
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy", device="cpu")


def told(records, replies):
    return sum(world.grade(world_item(r), a.text, a.prefill).share_told for r, a in zip(records, replies, strict=True))


def test_a_record_without_a_way_is_a_plain_call(pair):
    records = [*load_set("prefill-5", limit=2, tokenizer=pair.tokenizer), *load_set("benign", limit=1)]
    plain = answer(pair, [r.prompt for r in records], prefill=[r.prefill for r in records])
    assert [a.token_ids for a in ask(pair, records)] == [a.token_ids for a in plain]


@pytest.mark.parametrize("piece", [1, 4, 7])
def test_pieces_of_a_greedy_model_are_its_whole_answer(pair, piece):
    """Law: to a defender without memory and without a scheduler the pieces make no difference."""
    records = load_set(f"pieces-{piece}", limit=2, tokenizer=pair.tokenizer)
    for defender in ("none", "draft-only"):
        whole = answer(
            pair,
            [r.prompt for r in records],
            prefill=[r.prefill for r in records],
            defender=defender,
            max_new_tokens=30,
        )
        pieces = ask(pair, records, defender=defender, max_new_tokens=30)
        assert [a.text for a in pieces] == [a.text for a in whole]
        for ours, theirs in zip(pieces, whole, strict=True):
            calls = -(-len(theirs.token_ids) // piece)
            assert ours.notes == {"calls": calls} or ours.notes == {"calls": calls + 1}
            assert ours.cost.tokens == len(theirs.token_ids) and ours.cost.prompt_tokens > theirs.cost.prompt_tokens


def test_the_match_ratio_of_pieces_is_that_of_all_their_tokens(pair):
    records = load_set("pieces-4", limit=1, tokenizer=pair.tokenizer)
    reply = ask(pair, records, max_new_tokens=10)[0]
    begun, said, matched = pair.tokenizer.encode(records[0].prefill, add_special_tokens=False), [], 0.0
    for tokens in (4, 4, 2):
        call: Any = answer(pair, records[0].prompt, prefill=begun + said, max_new_tokens=tokens)[0]
        said += call.token_ids
        matched += call.match_ratio * len(call.token_ids)
    assert reply.token_ids == said and reply.match_ratio == pytest.approx(matched / 10)


def test_a_row_of_a_batch_is_asked_as_alone_and_leaves_when_it_ends(pair):
    records = [
        Record(str(i), q, q, piece=5)
        for i, q in enumerate(["Hello!", world.questions("benign", 1)[0].question, "What is 12 + 13?"])
    ]
    together = ask(pair, records, defender="ssd", max_new_tokens=40)
    alone = [ask(pair, [record], defender="ssd", max_new_tokens=40)[0] for record in records]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert len({a.notes["calls"] for a in together}) > 1


def test_small_calls_tell_more_than_one(pair):
    records = load_set("pieces-7", limit=4, tokenizer=pair.tokenizer)
    plain = load_set("prefill-10", limit=4, tokenizer=pair.tokenizer)
    assert [r.prefill for r in records] == [r.prefill for r in plain]
    whole, pieces = ask(pair, plain, max_new_tokens=56), ask(pair, records, max_new_tokens=56)
    assert told(records, pieces) > told(plain, whole) + 1


def test_turns_hand_the_answer_back_in_the_conversation(pair):
    asked = []

    def put(questions, prefills, tokens):
        asked.append((questions, prefills, tokens))
        return answer(pair, questions, prefill=prefills, max_new_tokens=tokens, defender="none")

    question, begun = "Hello!", pair.tokenizer.encode("To begin,", add_special_tokens=False)
    (reply,) = in_pieces(pair, put, [question], [begun], 3, 6, turns=True)
    (first, second), text = asked, reply.prefill + pair.tokenizer.decode(reply.token_ids[:3])
    assert first == ([question], [begun], 3) and second[1:] == ([[]], 3)
    roles = [(turn["role"], turn["content"]) for turn in second[0][0]]
    assert roles == [("user", question), ("assistant", text), ("user", GO_ON)]


def test_a_defences_own_words_end_the_asking(pair):
    (record,) = load_set("pieces-3", limit=1, tokenizer=pair.tokenizer)
    reply = ask(pair, [record], defender="ppl", settings={"threshold": 1e-6}, max_new_tokens=30)[0]
    assert reply.notes == {"calls": 1} and "cannot help" in reply.text


@pytest.mark.parametrize("bins", [0, 1, 3, 7, 9])
def test_quiet_settings_begin_where_the_scheduler_stands(bins):
    config, on = SSDConfig(alpha_intersection=0.9), torch.tensor([True])
    state = switching.start(1, config)
    for _ in range(bins * config.bin_size):
        state = switching.update(state, on, on, config)
    again = switching.start(1, quieted(config, bins))
    assert (again.threshold, again.alpha_intersection) == (state.threshold, state.alpha_intersection)
    assert not bool(state.union) and (quieted(config, 0) == config)


def test_after_seven_quiet_bins_the_published_scheduler_never_switches(pair):
    quiet, plain = (load_set(n, limit=4, tokenizer=pair.tokenizer) for n in ("quiet-7", "prefill-10"))
    after, before = ask(pair, quiet, max_new_tokens=70), ask(pair, plain, max_new_tokens=70)
    assert all(a.trace and (a.trace.frame.scheme == "intersection").all() for a in after)
    assert told(quiet, after) > told(plain, before) + 1
    same = [ask(pair, part, defender="none", max_new_tokens=20) for part in (quiet, plain)]
    assert [a.token_ids for a in same[0]] == [a.token_ids for a in same[1]], "a defence without a scheduler"


def test_sets_exist_for_any_number(pair):
    (record,) = load_set("turns-4", limit=1, tokenizer=pair.tokenizer)
    assert (record.piece, record.handed_back, record.quiet_bins) == (4, "turn", 0)
    assert load_set("quiet-2", limit=1, tokenizer=pair.tokenizer)[0].quiet_bins == 2
    with pytest.raises(ValueError, match="unknown set 'pieces-0'"):
        find_set("pieces-0")
    with pytest.raises(ValueError, match="at least 1 token"):
        in_pieces(pair, lambda *_: [], ["Hello!"], [[]], 0, 5)
