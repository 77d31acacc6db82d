"""What the evaluation tools share: the answers of `answer`, stop strings, and a trace in a few numbers."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
# (wrong values on purpose, and options handed on as they are)

import copy
from dataclasses import replace

import pytest

from ssd_lib.attacks import load_set
from ssd_lib.defenders import answer
from ssd_lib.models.pairs import load_pair
from ssd_lib.tools.answerer import Answerer, sampled, summary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def hardened(pair):
    return Answerer(pair, pair.config.harden())


@pytest.fixture(scope="module")
def records(pair):
    return [r for name in ("prefill-10", "suffix", "benign") for r in load_set(name, tokenizer=pair.tokenizer, limit=3)]


def test_answers_are_those_of_the_defenders(pair, hardened, records):
    for answerer, defender in ((Answerer(pair, pair.config), "ssd"), (hardened, "ssd-hardened")):
        replies = answerer.ask([answerer.chat(r.prompt, r.prefill) for r in records], max_new_tokens=40)
        expected = answer(pair, [r.prompt for r in records], defender=defender, prefill=[r.prefill for r in records],
                          max_new_tokens=40, trace=False)  # fmt: skip
        assert [reply.token_ids for reply in replies] == [each.token_ids for each in expected]
        assert [reply.text for reply in replies] == [each.text for each in expected]
        assert {reply.ended for reply in replies} == {True, False}
        assert [reply.ended for reply in replies] == [
            ids[-1] == pair.tokenizer.eos_token_id for ids in (r.token_ids for r in replies)
        ]


def test_each_model_is_spoken_to_in_its_own_template(pair, records):
    other = copy.deepcopy(pair.draft_tokenizer)
    other.chat_template = "Well: " + str(other.chat_template)
    answerer = Answerer(replace(pair, draft_tokenizer=other), pair.config)
    prompts = [answerer.chat(r.prompt, r.prefill) for r in records]
    assert all(len(prompt.draft) > len(prompt.target) for prompt in prompts)
    expected = answer(
        answerer.pair, [r.prompt for r in records], prefill=[r.prefill for r in records], max_new_tokens=30
    )
    assert [reply.token_ids for reply in answerer.ask(prompts, max_new_tokens=30)] == [e.token_ids for e in expected]
    plain = answer(pair, [r.prompt for r in records], prefill=[r.prefill for r in records], max_new_tokens=30)
    assert [each.token_ids for each in plain] != [each.token_ids for each in expected], "the draft's prompt matters"


def test_a_stop_string_ends_the_answer_where_it_stands(hardened, records):
    prompts = [hardened.chat(r.prompt, r.prefill) for r in records]
    whole = hardened.ask(prompts, max_new_tokens=40)
    stopped = hardened.ask(prompts, max_new_tokens=40, stop=[" that", "", ", "])
    for one, other in zip(stopped, whole, strict=True):
        assert one.text == other.text.split(" that")[0].split(", ")[0]
        assert one.token_ids == other.token_ids[: len(one.token_ids)], "nothing else changes"
        assert one.ended or one.text == other.text
    cut = [(one, other) for one, other in zip(stopped, whole, strict=True) if one.text != other.text]
    assert len(cut) >= 5 and all(len(one.token_ids) < len(other.token_ids) for one, other in cut), (
        "and no token is decoded in vain"
    )


def test_a_stop_string_in_the_prompt_is_not_in_the_answer(pair):
    """Of two prompts one is the beginning of the other's prompt and answer: the answer still ends by its own text."""
    answerer = Answerer(pair, pair.config)
    short = answerer.chat("How far is it to Quorrin?")
    (alone,) = answerer.ask([short], max_new_tokens=8)
    longer = type(short)(short.target + alone.token_ids[:3], short.draft + alone.token_ids[:3], [])
    first, second = pair.tokenizer.decode(alone.token_ids[:1]), pair.tokenizer.decode(alone.token_ids[5:6])
    for stop in (first, second):
        one, other = answerer.ask([short, longer], max_new_tokens=8, stop=[stop])
        assert one.text == alone.text.split(stop)[0]
        assert other.text == answerer.ask([longer], max_new_tokens=8)[0].text.split(stop)[0]


def test_the_numbers_are_those_of_a_walk_through_the_trace(hardened, pair, records):
    seen = {"alarms": 0, "retractions": 0}
    for answerer in (hardened, Answerer(pair, pair.config)):
        prompts = [answerer.chat(r.prompt, r.prefill) for r in records]
        for reply in answerer.ask(prompts, max_new_tokens=60, trace=True):
            said = summary(reply, answerer.config)
            expected = walk(reply.trace.lines.to_dict("records"), answerer.config.bin_size)
            assert (said["alarms"], said["retractions"]) == expected
            assert said["tokens_taken_back"] == reply.trace.lines.retracted.sum()
            assert said["match_ratio"] == pytest.approx(reply.trace.frame.match.mean())
            assert said["decoded_per_kept"] == pytest.approx(len(reply.trace.lines) / len(reply.trace.frame))
            seen = {name: count + said[name] for name, count in seen.items()}
    assert seen["alarms"] > seen["retractions"] > 0


def walk(lines, size):
    """Alarms and retractions, token by token: a line further back than the answer's end means that a bin was taken back."""
    alarms, retractions, matches, standing = int(lines[0]["scheme"] == "union"), 0, [], 0
    decided = True
    for line in lines:
        if line["position"] < standing:
            retractions += 1
            alarms += not decided  # a full bin's alarm is counted already
            del matches[line["position"] :]
        matches[line["position"] :] = [line["match"]]
        standing = line["position"] + 1
        decided = standing % size == 0 and sum(matches[-size:]) / size < line["threshold"]
        alarms += decided
    return alarms, retractions


def test_an_option_is_one_of_loading_or_a_setting():
    with pytest.raises(ValueError, match="no setting alpha_onion: it has alpha_intersection"):
        Answerer.load("toy", alpha_onion=1)
    with pytest.raises(ValueError, match="hardened is true or false, not 'yes'"):
        Answerer.load("toy", hardened="yes")
    with pytest.raises(ValueError, match="dtype='int8': choose one of float32"):
        Answerer.load("toy", dtype="int8")
    chosen = Answerer.load("toy", hardened=True, threshold=0.4, dtype="float32", device=None).config
    assert chosen.retract and chosen.threshold == 0.4


def test_a_question_that_does_not_fit_is_refused_before_it_is_asked(hardened):
    with pytest.raises(ValueError, match="the target's prompt"):
        hardened.check(hardened.chat("How far is it to Quorrin? " * 80), 160)


def test_sampling_is_asked_for_by_a_temperature(hardened, records):
    assert sampled(0.0, top_p=0.9) == sampled() == {"do_sample": False}
    prompts = [hardened.chat(records[-1].prompt)]
    texts = {
        seed: hardened.ask(prompts, max_new_tokens=30, sampling=sampled(3.0, seed=seed))[0].text for seed in range(4)
    }
    again = hardened.ask(prompts, max_new_tokens=30, sampling=sampled(3.0, seed=0))[0].text
    assert again == texts[0] and len(set(texts.values())) > 1
