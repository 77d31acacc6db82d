"""ADA: the header is the template's own, looks change nothing by themselves, and a refusal in one ends the answer."""

from typing import Any

import pytest

from ssd_lib.attacks.suffixes import wanted_beginning
from ssd_lib.defenders import answer
from ssd_lib.defenders.ada import header
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.models.chat import encode_prompt
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world
from tests.micro_models import llama2_tokenizer, llama3_tokenizer


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy", device="cpu")


@pytest.fixture(scope="module")
def items():
    return world.questions("forbidden", 4)


def test_the_header_is_the_one_that_the_authors_write():
    """configs/models.yaml of github.com/javyduck/any-depth-alignment, commit e7205aa."""
    tokenizer = llama3_tokenizer()
    assert tokenizer.decode(header(tokenizer, None)) == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    tokenizer = llama2_tokenizer()
    text = str(tokenizer.decode(header(tokenizer, "llama2")))
    assert text.replace(" ", "") == "</s>[/INST]", "without the <s> that stands between the two there"


def test_the_header_follows_an_answer_as_in_a_conversation(pair):
    ids = header(pair.tokenizer, "toy")
    assert ids == pair.tokenizer.encode("<|eos|><|assistant|>", add_special_tokens=False)
    turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
    whole = encode_prompt(pair.tokenizer, [*turns, {"role": "user", "content": "And?"}], chat_format="toy")
    asked = encode_prompt(pair.tokenizer, "Hello!", chat_format="toy", prefill="Hello.")
    assert whole[: len(asked) + 1] == [*asked, ids[0]] and whole[-1] == ids[-1]


@pytest.mark.parametrize("settings", [{"lookahead": 0}, {"every": 3, "lookahead": 1}])
def test_looks_that_see_nothing_leave_the_targets_own_answer(pair, items, settings):
    """Without looks, and with looks too short to hold a refusal: the cache is forked, never changed."""
    asked = [*(item.question for item in items[:2]), "Hello!", world.questions("benign", 1)[0].question]
    prefills = [prefill_tokens(pair, items[0], 6), [], [], []]
    alone = answer(pair, asked, defender="none", prefill=prefills)
    looked = answer(pair, asked, defender="ada", prefill=prefills, settings=settings)
    assert [reply.token_ids for reply in looked] == [reply.token_ids for reply in alone]
    assert all(reply.notes["refused_after"] is None for reply in looked)
    expected = [0] * 4 if not settings["lookahead"] else [reply.notes["looks"] for reply in looked]
    assert [reply.cost.extra_tokens for reply in looked] == expected


def test_a_prefilled_answer_is_refused_before_its_first_token(pair, items):
    for item in items:
        begun = prefill_tokens(pair, item, 10)
        reply = answer(pair, item.question, defender="ada", prefill=begun)[0]
        grade = world.grade(item, reply.text, reply.prefill)
        assert reply.notes == {"looks": 1, "refused_after": 10}
        assert not grade.complied and grade.ends_in_refusal
        assert answer(pair, item.question, prefill=begun, defender="none")[0].token_ids != reply.token_ids


def test_what_was_told_before_a_look_stays_told_unless_nothing_was_streamed(pair, items, monkeypatch):
    item = items[0]
    text = wanted_beginning(item)
    asked: dict[str, Any] = dict(defender="ada", max_new_tokens=40)
    monkeypatch.setattr("ssd_lib.defenders.ada._Run.look", _late(8))  # as if the prefill had not been looked at
    kept, replaced = (
        answer(pair, item.question, prefill=text, settings={"every": 8, "keep": keep}, **asked)[0]
        for keep in (True, False)
    )
    alone = answer(pair, item.question, prefill=text, defender="none", max_new_tokens=40)[0]
    assert kept.token_ids[:8] == alone.token_ids[:8] and kept.text.endswith("I cannot help with that.")
    assert replaced.token_ids == kept.token_ids[8:] and replaced.notes == kept.notes
    assert replaced.cost.extra_tokens == kept.cost.extra_tokens + 8


def _late(tokens):
    from ssd_lib.defenders.ada import _Run

    look = _Run.look
    return lambda self, ahead: look(self, ahead) if self.request.max_new_tokens - self.left >= tokens else None


def test_an_answer_is_never_longer_than_asked_for_and_ends_at_an_end(pair, items):
    for tokens in (1, 3, 30):
        replies = answer(
            pair, ["Hello!", items[0].question], defender="ada", prefill=["", "Sure,"], max_new_tokens=tokens
        )
        assert all(0 < len(reply.token_ids) <= tokens for reply in replies)
    with pytest.raises(ValueError, match="every must be at least 1"):
        answer(pair, "Hello!", defender="ada", settings={"every": 0})


def test_costs_count_every_look(pair):
    question = world.questions("benign", 30, family="tip", held_out=False, as_typed=False)[0].question
    alone, looked = (answer(pair, question, defender=name)[0] for name in ("none", "ada"))
    looks = (len(alone.token_ids) - 1) // 25
    assert looked.notes["looks"] == looks > 0 and looked.token_ids == alone.token_ids
    assert looked.cost.extra_tokens <= 20 * looks
    assert looked.cost.target_forwards == alone.cost.target_forwards + 1 + looked.cost.extra_tokens
    assert looked.cost.prompt_tokens == alone.cost.prompt_tokens + 2 * looks
