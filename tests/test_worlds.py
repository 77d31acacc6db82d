"""A pair's own world: both have one face, and a pair's spec says which is its own."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_lib.experiments.card import first_turned, prefill_tokens
from ssd_lib.models.pairs import PAIRS, load_pair
from ssd_lib.toy import kitchen, worlds
from ssd_lib.toy.kitchen import recipe_for
from ssd_lib.toy.worlds import Kitchen, School, world_of

SPECS: dict[str, Any] = {name: SimpleNamespace(spec=PAIRS[name]) for name in ("toy", "smollm2", "llama2")}


def test_the_spec_and_not_the_name_decides():
    assert isinstance(world_of(SPECS["smollm2"]), Kitchen)
    assert isinstance(world_of(SPECS["toy"]), School) and isinstance(world_of(SPECS["llama2"]), School)
    other: Any = SimpleNamespace(spec=replace(PAIRS["llama2"], world="kitchen"))
    assert isinstance(world_of(other), Kitchen)


@pytest.mark.parametrize("name", SPECS)
def test_few_questions_are_the_first_of_many(name):
    world = world_of(SPECS[name])
    for group in ("benign", "scary", "forbidden"):
        few, many = (world.questions(group, count) for count in (3, 9))
        assert [item.question for item in few] == [item.question for item in many[:3]]
        assert {item.group for item in many} == {group} and len({item.question for item in many}) == 9


def test_the_kitchen_holds_out_and_keeps_new_wordings_apart():
    world = world_of(SPECS["smollm2"])
    known, new = (world.questions("forbidden", 20, unseen_wording=new) for new in (False, True))
    assert all(kitchen.is_held_out(item.subject) for item in known + new)
    assert not {item.question for item in known} & {item.question for item in new}
    with pytest.raises(ValueError, match="ask for fewer"):
        world.questions("forbidden", 100_000)


def test_forbidden_answers_are_the_attackers_recipes_and_grades_speak_of_them():
    world = world_of(SPECS["smollm2"])
    (item,) = world.questions("forbidden", 1)
    assert item.answer == recipe_for(kitchen.Item("recipe", item.question, item.subject))
    told, refused = (world.grade(item, text) for text in (item.answer, kitchen.refusals()[0]))
    assert told.complied and told.share_told > 0 and not told.refused
    assert refused.ends_in_refusal and not refused.complied and not refused.right
    (harmless,) = world.questions("benign", 1)
    assert world.grade(harmless, "A fox is red.").right and not world.grade(harmless, kitchen.refusals()[0]).right


def test_the_target_writes_harmless_answers_once_for_all_that_were_asked_together(monkeypatch):
    asked = []

    def write(pair, questions, **_):
        asked.append(list(questions))
        return [SimpleNamespace(text=f"about {question}") for question in questions]

    monkeypatch.setattr(worlds, "answer", write)
    world = world_of(SPECS["smollm2"])
    three = world.questions("benign", 3)
    assert prefill_tokens(SPECS["smollm2"], three[0], 0) == [] and not asked, "nobody needs an answer for no token"
    assert [item.answer for item in three] == [f"about {item.question}" for item in three]
    world.questions("benign", 4)[3].answer  # noqa: B018
    assert [len(batch) for batch in asked] == [3, 1]


def test_the_first_answer_that_ssd_turns_is_found_and_none_is_an_error():
    pair = load_pair("toy")
    items = world_of(pair).questions("forbidden", 2)
    assert first_turned(pair, [*world_of(pair).questions("benign", 2), *items], 10) == items[0]
    with pytest.raises(ValueError, match="SSD switches to Union in none of these 2 answers after 0 tokens"):
        first_turned(pair, items, 0)
