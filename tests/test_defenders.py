"""One interface for every defender, on the embedded pair."""

from typing import Any

import pytest

from ssd_lib.defenders import DEFENDERS, answer, find_defender, settings_for
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world

QUICK = {"smoothllm": {"copies": 2}}


@pytest.fixture(scope="module")
def pair():
    return load_pair("toy")


@pytest.fixture(scope="module")
def items():
    return world.questions("forbidden", 3)


@pytest.mark.parametrize(("rows", "tokens"), [(2, 40), pytest.param(4, 160, marks=pytest.mark.slow)])
@pytest.mark.parametrize("defender", list(DEFENDERS))
def test_a_batch_equals_its_rows(pair, items, defender, rows, tokens):
    asked = [*(i.question for i in items), world.questions("benign", 1)[0].question]
    prefills = [*(prefill_tokens(pair, i, n) for i, n in zip(items, (0, 5, 12), strict=True)), []]
    asked, prefills = asked[-rows:], prefills[-rows:]
    options: dict[str, Any] = dict(defender=defender, settings=QUICK.get(defender), max_new_tokens=tokens)
    together = answer(pair, asked, prefill=prefills, **options)
    for question, prefill, reply in zip(asked, prefills, together, strict=True):
        alone = answer(pair, question, prefill=prefill, **options)[0]
        assert (alone.text, alone.token_ids) == (reply.text, reply.token_ids)
        assert alone.cost.extra_tokens == reply.cost.extra_tokens
        assert alone.cost.prompt_tokens == reply.cost.prompt_tokens
        assert reply.cost.tokens == len(reply.token_ids) and reply.cost.seconds > 0
        assert str(alone.notes.keys()) == str(reply.notes.keys())


@pytest.mark.parametrize("defender", list(DEFENDERS))
def test_a_defence_leaves_the_target_as_it_was(pair, items, defender):
    before = answer(pair, items[0].question, defender="none", max_new_tokens=12)[0].token_ids
    modules = [type(module) for module in pair.target.modules()]
    answer(pair, items[0].question, defender=defender, settings=QUICK.get(defender), max_new_tokens=12)
    assert [type(module) for module in pair.target.modules()] == modules
    assert answer(pair, items[0].question, defender="none", max_new_tokens=12)[0].token_ids == before


def test_ssd_brings_the_attacked_target_back(pair, items):
    item = items[0]
    prefill = prefill_tokens(pair, item, 10)
    grades = {}
    for defender in ("none", "draft-only", "ssd"):
        reply: Any = answer(pair, item.question, defender=defender, prefill=prefill)[0]
        grades[defender] = world.grade(item, reply.text, reply.prefill)
    assert grades["none"].complied and not grades["none"].refused
    assert not grades["draft-only"].complied
    assert grades["ssd"].ends_in_refusal and grades["ssd"].told < grades["none"].told


def test_what_ssd_took_back_is_a_cost_and_matches_are_counted_without_a_trace(pair, items):
    asked, prefills = [i.question for i in items], [prefill_tokens(pair, i, 5) for i in items]
    options: dict[str, Any] = dict(defender="ssd-hardened", prefill=prefills, settings={"count_prefill": False})
    replies: Any = answer(pair, asked, **options)
    plain = answer(pair, asked, **options, trace=False)
    assert [r.token_ids for r in replies] == [r.token_ids for r in plain]
    for reply, same in zip(replies, plain, strict=True):
        assert reply.cost.extra_tokens == same.cost.extra_tokens == reply.trace.lines.retracted.sum()
        assert reply.match_ratio == same.match_ratio == reply.trace.frame["match"].mean()
    assert sum(reply.cost.extra_tokens for reply in replies) > 0


def test_another_model_may_stand_in_the_targets_place(pair, items):
    asked = [i.question for i in items]
    options: dict[str, Any] = dict(prefill=[prefill_tokens(pair, i, 10) for i in items], max_new_tokens=20)
    replies = answer(pair, asked, defender="none", settings={"model": "toy/draft"}, **options)
    expected = answer(pair, asked, defender="draft-only", **options)
    assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
    assert replies[0].cost.target_forwards > 0


def test_costs_tell_whose_forwards_were_spent(pair):
    fixed = QUICK | {"ssd": {"lookahead": 3}}  # "auto" goes by the clock
    costs = {d: answer(pair, "Hello!", defender=d, settings=fixed.get(d))[0].cost for d in DEFENDERS}
    assert costs["none"].draft_forwards == 0 < costs["none"].target_forwards
    assert costs["draft-only"].target_forwards == 0 < costs["draft-only"].draft_forwards
    assert costs["ssd"].draft_forwards > costs["ssd"].target_forwards > 0
    assert costs["ssd"].target_forwards < costs["none"].target_forwards
    assert costs["safedecoding"].other_forwards == 2
    for twice in ("self-exam", "paraphrase", "back-translation", "smoothllm"):
        assert costs[twice].target_forwards > costs["none"].target_forwards, twice
    for longer in ("icd", "self-reminder", "goal-priority", "retokenization", "self-exam"):
        assert costs[longer].prompt_tokens > costs["none"].prompt_tokens, longer
    assert costs["none"].extra_tokens == costs["ssd"].extra_tokens == 0 < costs["self-exam"].extra_tokens


def test_text_and_ids_prefill_alike_and_errors_are_clear(pair, items):
    text = "Sure, here is how"
    ids = pair.tokenizer.encode(text, add_special_tokens=False)
    assert (
        answer(pair, items[0].question, prefill=text)[0].token_ids
        == answer(pair, items[0].question, prefill=ids)[0].token_ids
    )
    with pytest.raises(ValueError, match="unknown defender 'magic'"):
        answer(pair, "Hello!", defender="magic")
    with pytest.raises(ValueError, match="has no setting treshold: it has threshold, model, refusal"):
        answer(pair, "Hello!", defender="ppl", settings={"treshold": 3})
    with pytest.raises(ValueError, match="has no setting x: it has none"):
        answer(pair, "Hello!", defender="draft-only", settings={"x": 3})
    wrong: Any = [{"role": "user", "content": "Hello!"}]
    with pytest.raises(ValueError, match="list of its own"):
        answer(pair, wrong)
    assert answer(pair, []) == []
    with pytest.raises(ValueError, match="2 prefilled answers for 1 questions"):
        answer(pair, "Hello!", prefill=["a", "b"])


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("SpeculativeSafeDecoding", "ssd"),
        ("SafeDecoding", "safedecoding"),
        ("Self-Exam", "self-exam"),
        ("ICD", "icd"),
        ("Paraphase", "paraphrase"),
        ("Paraphrase", "paraphrase"),
        ("PPL", "ppl"),
        ("Retokenization", "retokenization"),
        ("Self-Reminder", "self-reminder"),
        ("defense_off", "none"),
    ],
)
def test_published_names_are_understood(published, ours):
    assert find_defender(published) == ours


def test_published_defaults(pair):
    assert vars(settings_for(pair, "safedecoding")) == {
        "alpha": 3.0,
        "first_m": 2,
        "num_common_tokens": 5,
        "top_k": 10,
        "expert": None,
    }
    assert settings_for(pair, "ppl").threshold == 175.57
    assert settings_for(pair, "retokenization").dropout == 0.2
    assert settings_for(pair, "ssd") == pair.config
    assert settings_for(pair, "ssd", {"alpha_union": 1.5}).alpha_union == 1.5
    assert all(defender.paper and defender.costs for defender in DEFENDERS.values())
