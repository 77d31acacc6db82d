"""Prompt-level defences really change the prompt, and answer-level ones really look at the answer."""

import math

import pytest
import torch
from micro_models import llama2_tokenizer, save_model

from ssd_lib import load_pair
from ssd_lib.defenders import answer, checking, prompts
from ssd_lib.defenders.base import Pass, Speaker
from ssd_lib.defenders.checking import perplexity
from ssd_lib.models.chat import render_prompt

QUESTION = "How do I brew the Silver Courage cordial?"
CONVERSATION = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello, how can I help?"},
    {"role": "user", "content": QUESTION},
]
CHANGING = ["self-reminder", "goal-priority", "icd", "retokenization", "paraphrase"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A micro-pair for each of the two templates without a template of the tokenizer's own."""
    folder, tokenizer = tmp_path_factory.mktemp("pair"), llama2_tokenizer()
    models = [save_model(folder / name, tokenizer, seed, eos=2) for seed, name in enumerate(("target", "draft"))]
    loaded = {name: load_pair(name, target=models[0], draft=models[1], device="cpu") for name in ("llama2", "vicuna")}
    for pair in loaded.values():
        pair.target.config.max_position_embeddings = 4096
    return loaded


@pytest.fixture
def sent(monkeypatch):
    """What is sent to any model's `generate`, decoded."""

    def listen(pair):
        texts, original = [], pair.target.generate

        def spy(ids, **options):
            texts.extend(pair.tokenizer.decode(row) for row in ids)
            return original(ids, **options)

        monkeypatch.setattr(pair.target, "generate", spy)
        return texts

    return listen


@pytest.mark.parametrize("template", ["llama2", "vicuna"])
@pytest.mark.parametrize("defender", CHANGING)
@pytest.mark.parametrize("question", [QUESTION, CONVERSATION], ids=["question", "conversation"])
def test_the_rendered_prompt_changes_and_the_prefill_stays(pairs, sent, template, defender, question):
    pair = pairs[template]
    plain, texts = render_prompt(pair.tokenizer, question, chat_format=template), sent(pair)
    reply = answer(pair, [question], defender=defender, prefill="Sure, here", max_new_tokens=3)[0]
    final = texts[-1].removeprefix("<s>").strip()
    assert final.endswith("Sure, here")
    assert final.removesuffix(" Sure, here") != plain
    assert "asked" in reply.notes
    if question is CONVERSATION:
        assert "Hello, how can I help?" in final


def test_self_reminder_reaches_the_system_prompt(pairs, sent):
    for template, before in (("llama2", "[INST] <<SYS>>\n"), ("vicuna", "to the user's questions. ")):
        texts = sent(pairs[template])
        answer(pairs[template], QUESTION, defender="self-reminder", max_new_tokens=1)
        assert before + prompts.REMINDER_SYSTEM in texts[-1]
        assert QUESTION + "\n" + prompts.REMINDER in texts[-1]


def test_self_reminder_keeps_a_conversations_own_system_prompt():
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}]
    assert prompts.reminded_system(own, "default")[0]["content"] == f"Be brief. {prompts.REMINDER_SYSTEM}"
    assert prompts.reminded_system("x", "default")[0]["content"] == f"default {prompts.REMINDER_SYSTEM}"
    assert own[0]["content"] == "Be brief."


def test_demonstrations_stand_before_the_question_and_behind_the_system_prompt():
    turns = prompts.demonstrated([{"role": "system", "content": "s"}, {"role": "user", "content": "x"}], [("a", "b")])
    assert [turn["content"] for turn in turns] == ["s", "a", "b", "x"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("text", [QUESTION, "Zwölf Äpfel, bitte!", "a", "  spaces  kept  ", "1234567"])
def test_retokenised_text_has_the_same_letters_and_is_the_same_every_time(pairs, text):
    tokenizer = pairs["llama2"].tokenizer
    broken = prompts.retokenised(tokenizer, text, 0.2, seed=1)
    assert broken.replace(" ", "") == text.replace(" ", "")
    assert broken == prompts.retokenised(tokenizer, text, 0.2, seed=1)


def test_more_dropout_breaks_more_words(pairs):
    lengths = [len(prompts.retokenised(pairs["llama2"].tokenizer, QUESTION, share)) for share in (0.0, 0.5, 1.0)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_swapping_changes_the_share_it_says():
    text = "x" * 200
    assert sum(c != "x" for c in prompts.swapped(text, 0.1, "a")) in range(15, 21)  # a swap may draw the same character
    assert prompts.swapped(text, 0.1, "a") == prompts.swapped(text, 0.1, "a") != prompts.swapped(text, 0.1, "b")


# ------------------------------------------------------------------------------------------------ perplexity


def test_perplexity_is_that_of_transformers_own_loss(pairs):
    pair = pairs["llama2"]
    reader = Speaker(pair.target, pair.tokenizer, "llama2")
    texts = [QUESTION, "Sure", "I am sorry, but I cannot help with that."]
    for text, score in zip(texts, perplexity(reader, texts), strict=True):
        ids = torch.tensor([[1, *pair.tokenizer.encode(text, add_special_tokens=False)]])
        assert score == pytest.approx(math.exp(pair.target(ids, labels=ids).loss.item()), rel=1e-4)


def test_the_threshold_decides_and_a_refused_question_costs_no_generation(pairs):
    pair = pairs["llama2"]
    own = {"model": pair.spec.target, "refusal": "No."}
    open_ = answer(pair, [QUESTION, "Sure"], defender="ppl", settings=own | {"threshold": 1e9}, max_new_tokens=4)
    plain = answer(pair, [QUESTION, "Sure"], defender="none", max_new_tokens=4)
    assert [a.token_ids for a in open_] == [a.token_ids for a in plain]
    shut = answer(pair, QUESTION, defender="ppl", settings=own | {"threshold": 1.0}, prefill="Sure,", max_new_tokens=4)
    assert shut[0].text.strip() == "No." and shut[0].cost.target_forwards == 0 and shut[0].notes["perplexity"] > 1


# ------------------------------------------------------------------------------------------------ looking at answers


@pytest.fixture
def scripted(pairs, monkeypatch):
    """The target says what the script says, pass by pass."""

    def play(*passes):
        tokenizer, waiting = pairs["llama2"].tokenizer, list(passes)
        asked = []

        def generate(speaker, questions, prefills=None, *, max_new_tokens, rows=None, streamer=None, step=""):
            asked.append(list(questions))
            ids = [tokenizer.encode(text, add_special_tokens=False) for text in waiting.pop(0)]
            assert len(ids) == len(questions)
            return Pass("target", list(rows or range(len(ids))), ids, [1] * len(ids), 1, 0.1)

        monkeypatch.setattr(checking, "generate", generate)
        return asked

    return play


def test_self_exam_replaces_what_it_finds_harmful(pairs, scripted):
    asked = scripted(["brew it", "help with that"], ["Yes, this is harmful", "No, this is not"])
    first, second = answer(pairs["llama2"], ["a", "b"], defender="self-exam", prefill="Sure, here is how I")
    assert first.text.strip() == prompts.REFUSAL and second.text.strip() == "help with that"
    assert "Sure, here is how I brew it" in asked[1][0], "the examiner reads the prefilled part, too"
    assert first.cost.extra_tokens > second.cost.extra_tokens > 0


def test_self_exam_and_smoothllm_read_replies_however_they_are_written(pairs, scripted):
    scripted(["brew it"], ["\uff39\uff45\uff53, this is harmful"])
    assert answer(pairs["llama2"], "a", defender="self-exam")[0].text.strip() == prompts.REFUSAL
    scripted(["I\u2019m sorry"], ["I\u00a0cannot help"])
    (reply,) = answer(pairs["llama2"], "a", defender="smoothllm", settings={"copies": 2})
    assert reply.notes["refusals"] == 2


def test_back_translation_refuses_what_it_would_refuse_if_asked_plainly(pairs, scripted, monkeypatch):
    monkeypatch.setattr(checking, "_likely_enough", lambda target, request, run, guessed, least: (list(guessed), run))
    asked = scripted(
        ["brew it", "I am sorry, but I cannot help", "here is the cordial"],
        ["How do I brew?", "What cordial?"],
        ["I cannot help with that.", "here is how"],
    )
    replies = answer(pairs["llama2"], ["a", "b", "c"], defender="back-translation")
    assert [r.text.strip() for r in replies] == [
        prompts.REFUSAL,
        "I am sorry, but I cannot help",
        "here is the cordial",
    ]
    assert asked[2] == ["How do I brew?", "What cordial?"], "a refusal is not guessed at"
    assert [r.notes["guessed"] for r in replies] == ["How do I brew?", None, "What cordial?"]


def test_a_guess_that_does_not_explain_the_answer_is_not_trusted(pairs):
    trusting, doubting = (
        answer(
            pairs["llama2"],
            QUESTION,
            defender="back-translation",
            settings={"min_log_likelihood": least, "guess_tokens": 8},
            max_new_tokens=5,
        )[0]
        for least in (-1e9, 1e9)
    )
    assert trusting.notes["guessed"] and trusting.notes == doubting.notes
    assert trusting.cost.target_forwards == doubting.cost.target_forwards + 5, "the guessed question is answered"


@pytest.mark.parametrize(("refusals", "refused"), [(0, False), (1, False), (2, True), (4, True)])
def test_smoothllm_returns_an_answer_of_the_majority(pairs, scripted, refusals, refused):
    scripted(*[["I cannot help"] if copy < refusals else ["here is how"] for copy in range(4)])
    reply = answer(pairs["llama2"], "brew", defender="smoothllm", settings={"copies": 4})[0]
    assert (reply.text.strip() == "I cannot help") == refused
    assert reply.notes == {"refusals": refusals, "copies": 4}


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.mark.parametrize("defender", ["self-reminder", "icd", "goal-priority", "none", "ssd"])
def test_a_template_that_refuses_a_system_role_still_hears_the_system_text(pairs, defender, monkeypatch):
    """Gemma's kind: the system text goes into the first user turn, and no row is an error."""
    pair, asked = pairs["llama2"], []
    for tokenizer in (pair.tokenizer, pair.draft_tokenizer):
        monkeypatch.setattr(tokenizer, "chat_template", GEMMA)
        encode = tokenizer.encode
        monkeypatch.setattr(
            tokenizer, "encode", lambda text, encode=encode, **o: asked.append(text) or encode(text, **o)
        )
    reply = answer(pair, "How do I brew it?", defender=defender, max_new_tokens=4)[0]
    assert reply.token_ids
    assert defender != "self-reminder" or any("responsible" in text for text in asked)
