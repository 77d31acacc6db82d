"""What a generation config or the caller of `generate` asks for: honoured as `generate` does it, or refused by name."""

import json
from typing import Any, cast

import pytest
import torch
from conftest import micro_llama, perturbed
from micro_models import llama3_tokenizer, save_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_custom_generate, ssd_generate
from ssd_lib.defenders import answer
from ssd_lib.models.loading import load_model
from ssd_lib.models.pairs import load_pair

NEW = 18
SHAPING = [
    dict(repetition_penalty=1.5),
    dict(no_repeat_ngram_size=2),
    dict(bad_words_ids=[[8], [15, 15]]),
    dict(suppress_tokens=[3, 4, 8]),
    dict(begin_suppress_tokens=[15, 7]),
    dict(min_new_tokens=10, eos_token_id=22),
    dict(min_length=14, eos_token_id=15),
    dict(forced_eos_token_id=2),
    dict(sequence_bias=[[[6], 4.0]]),
    dict(exponential_decay_length_penalty=[4, 1.4]),
    dict(repetition_penalty=1.3, no_repeat_ngram_size=3, suppress_tokens=[11]),
]


@pytest.fixture
def model():
    return micro_llama(3, layers=2)


PROMPTS = torch.tensor([[0, 0, 5, 7, 9], [4, 6, 5, 7, 11]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def answers(rows, ends=(2,)):
    """Rows of `generate` without their prompts and without what stands after an end."""
    cut = []
    for row in rows[:, PROMPTS.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        cut.append(row[: end + 1])
    return cut


@pytest.mark.parametrize("asked", SHAPING, ids=lambda asked: "+".join(asked))
@pytest.mark.parametrize("lookahead", [3, "auto"])
def test_a_draft_that_is_the_target_gives_what_generate_gives(model, asked, lookahead):
    options, ends = dict(attention_mask=MASK, max_new_tokens=NEW, **asked), (asked.get("eos_token_id", 2),)
    expected = answers(model.generate(PROMPTS, do_sample=False, **options), ends)
    ssd = dict(custom_generate=ssd_custom_generate, draft=model, ssd_config=SSDConfig(lookahead=lookahead))
    # `generate` counts the padding of a batch into `min_length`; a row alone has none
    rows = [1] if "min_length" in asked else [0, 1]
    assert [answers(model.generate(PROMPTS, **options, **ssd), ends)[row] for row in rows] == [
        expected[row] for row in rows
    ]
    plain = dict(attention_mask=MASK, max_new_tokens=NEW, do_sample=False, eos_token_id=ends[0])
    plain = answers(model.generate(PROMPTS, **plain), ends)
    assert expected != plain, "the option changes nothing here: the test says nothing"


@pytest.mark.parametrize("asked", SHAPING[:3], ids=lambda asked: "+".join(asked))
def test_a_model_s_own_generation_config_is_in_force(model, asked):
    model.generation_config.update(**asked)
    expected = answers(model.generate(PROMPTS, attention_mask=MASK, max_new_tokens=NEW, do_sample=False))
    output = ssd_generate(model, model, PROMPTS, attention_mask=MASK, max_new_tokens=NEW)
    assert [sequence.tolist() for sequence in output.sequences] == expected


def test_processors_work_on_both_models_and_a_batch_equals_its_rows(model):
    draft = perturbed(model, 1, 0.2)
    model.generation_config.update(repetition_penalty=1.4)
    config = SSDConfig(candidates=5, bin_size=4, lookahead=4)
    prompts = [[5, 7, 9], [4, 6, 5, 7, 11], [8]]
    options: dict[str, Any] = dict(config=config, max_new_tokens=NEW, trace=True)
    together: Any = ssd_generate(model, draft, prompts, rows=2, **options)
    for row, prompt in enumerate(prompts):
        alone = ssd_generate(model, draft, [prompt], **{**options, "trace": False})
        assert torch.equal(together.sequences[row], alone.sequences[0])
    first = together.trace.row(1).frame.iloc[0]
    with torch.no_grad():
        for tested, prob in ((model, first.target_prob), (draft, first.draft_prob)):
            scores = tested(torch.tensor([prompts[1]])).logits[0, -1]
            seen = torch.tensor(sorted(set(prompts[1])))
            scores[seen] = torch.where(scores[seen] > 0, scores[seen] / 1.4, scores[seen] * 1.4)
            assert prob == pytest.approx(float(scores.softmax(-1)[first.token]), abs=1e-5)


class Never(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


def test_the_caller_s_own_processors_are_honoured(model):
    options = dict(attention_mask=MASK, max_new_tokens=NEW)
    first = answers(model.generate(PROMPTS, do_sample=False, **options))[0][0]
    own = LogitsProcessorList([Never(first)])
    expected = answers(model.generate(PROMPTS, do_sample=False, logits_processor=own, **options))
    ssd = dict(custom_generate=ssd_custom_generate, draft=model)
    assert answers(model.generate(PROMPTS, logits_processor=own, **options, **ssd)) == expected
    assert expected[0][0] != first


@pytest.mark.parametrize(
    "asked",
    [
        dict(num_beams=3),
        dict(num_return_sequences=2, do_sample=True),
        dict(guidance_scale=1.5),
        dict(return_dict_in_generate=True),
        dict(output_scores=True, return_dict_in_generate=True),
        dict(do_sample=True, min_p=0.2),
        dict(do_sample=True, typical_p=0.5),
        dict(do_sample=True, epsilon_cutoff=0.1),
    ],
    ids=lambda asked: "+".join(asked),
)
def test_what_cannot_be_honoured_is_refused_by_name(model, asked):
    options = dict(attention_mask=MASK, max_new_tokens=4, custom_generate=ssd_custom_generate, draft=model)
    with pytest.raises(ValueError, match=next(name for name in asked if name != "do_sample")):
        model.generate(PROMPTS, **options, **asked)


def test_sampling_options_without_sampling_are_passed_over_as_generate_does(model):
    model.generation_config.update(temperature=0.7, top_p=0.8, top_k=20)  # as Qwen2.5's file says, with do_sample off
    options = dict(attention_mask=MASK, max_new_tokens=NEW)
    expected = answers(model.generate(PROMPTS, do_sample=False, **options))
    assert answers(model.generate(PROMPTS, **options, custom_generate=ssd_custom_generate, draft=model)) == expected


def test_generate_s_sampling_reaches_the_composite(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ssd_lib.decoding.generate.ssd_generate",
        lambda *args, config, **options: seen.append(config) or ssd_generate(*args, config=config, **options),
    )
    options = dict(attention_mask=MASK, max_new_tokens=6, custom_generate=ssd_custom_generate, draft=model)
    model.generate(PROMPTS, do_sample=True, temperature=5.0, top_k=7, top_p=0.9, **options)
    assert (seen[0].do_sample, seen[0].temperature, seen[0].top_k, seen[0].top_p) == (True, 5.0, 7, 0.9)
    torch.manual_seed(0)
    hot = [
        model.generate(PROMPTS[1:], do_sample=True, temperature=50.0, top_k=0, **options | dict(attention_mask=None))
        for _ in range(8)
    ]
    assert len({tuple(row) for out in hot for row in answers(out)}) > 4, "temperature 50 gives one answer"
    own = SSDConfig(do_sample=True, temperature=0.5, seed=1)
    model.generate(PROMPTS, do_sample=True, temperature=5.0, ssd_config=own, **options)
    assert seen[-1] == own


def test_stop_strings_and_max_time_go_through_transformers_criteria(model):
    class Words:
        """The little of a tokenizer that StopStringCriteria needs."""

        def get_vocab(self):
            return {f"t{i} ": i for i in range(24)}

        def __len__(self):
            return 24

        def decode(self, ids, **_):
            return "".join(f"t{int(i)} " for i in torch.as_tensor(ids).reshape(-1))

    free = answers(model.generate(PROMPTS[1:], max_new_tokens=NEW, do_sample=False))[0]
    third = free[2]
    options = dict(max_new_tokens=NEW, custom_generate=ssd_custom_generate, draft=model)
    stopped = answers(model.generate(PROMPTS[1:], max_time=0.0, **options))[0]
    assert stopped == free[:1]
    from transformers import StoppingCriteria, StoppingCriteriaList

    class At(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return input_ids[:, -1] == third

    stopped = answers(model.generate(PROMPTS[1:], stopping_criteria=StoppingCriteriaList([At()]), **options))[0]
    assert stopped == free[: free.index(third) + 1]


def test_a_run_records_what_was_in_force(model, tmp_path):
    from ssd_lib.models.inference import generation_settings

    model.generation_config.update(repetition_penalty=1.3, temperature=0.7)
    settings = generation_settings(model)
    assert json.loads(json.dumps(settings.in_force)) == {"repetition_penalty": 1.3}
    assert generation_settings(model, GenerationConfig()).in_force == {}


# ------------------------------------------------------------------------------------------------ models as they come


@pytest.mark.parametrize("who", ["target", "draft", "both"])
def test_a_model_in_training_mode_is_decoded_in_evaluation_mode_which_is_given_back(model, who):
    torch.manual_seed(0)
    draft = perturbed(model, 1, 0.2)
    for each in (model, draft):
        for layer in each.model.layers:
            layer.self_attn.attention_dropout = 0.6
    expected = ssd_generate(model, draft, [[5, 7, 9]], max_new_tokens=NEW, eos_token_id=[]).sequences[0]
    trained = {"target": [model], "draft": [draft], "both": [model, draft]}[who]
    for each in trained:
        each.train()
        each.lm_head.eval()  # modes may be mixed within a model
    again = ssd_generate(model, draft, [[5, 7, 9]], max_new_tokens=NEW, eos_token_id=[]).sequences[0]
    assert torch.equal(again, expected)
    for each in trained:
        assert each.training and each.model.training and not each.lm_head.training


def test_embeddings_padded_to_different_sizes_are_decoded_over_the_shared_tokens():
    target, wide = micro_llama(3, vocab=40, layers=2), micro_llama(4, vocab=32)
    with torch.no_grad():  # ids without a token are what both like best
        target.lm_head.weight[30:] = 3 * target.lm_head.weight[5]
        wide.lm_head.weight[30:] = 3 * wide.lm_head.weight[7]
    options: dict[str, Any] = dict(max_new_tokens=NEW, eos_token_id=[])
    with pytest.raises(ValueError, match="vocab_size"):
        ssd_generate(target, wide, [[5, 7, 9]], **options)
    for config in (SSDConfig(), SSDConfig(start_scheme="union"), SSDConfig(do_sample=True, seed=0, temperature=3.0)):
        for prompts in ([[5, 7, 9]], [[5, 7, 9], [4]]):
            output = ssd_generate(target, wide, prompts, vocab_size=30, config=config, **options)
            assert all(max(sequence) < 30 for sequence in (s.tolist() for s in output.sequences))


def test_no_defender_emits_an_id_without_a_token(tmp_path):
    """One tokenizer, embeddings padded to different sizes, as Qwen2.5's: everything answers over the shared tokens."""
    tokenizer = llama3_tokenizer()
    tokens, folders = len(tokenizer), {}
    for name, rows, seed in (("target", 512, 0), ("draft", 448, 1)):
        folders[name] = save_model(tmp_path / name, tokenizer, seed, [tokenizer.eos_token_id])
        padded, _ = load_model(folders[name])
        padded.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():  # untied, so that only the ids without a token are pushed up
            padded.lm_head.weight = torch.nn.Parameter(padded.lm_head.weight.clone())
            padded.lm_head.weight[tokens:] = 9 * padded.lm_head.weight[70]
        padded.config.tie_word_embeddings = False
        padded.save_pretrained(folders[name])
    pair = load_pair("llama3.1_8b", **folders)
    assert pair.vocab_size == tokens < 448
    for defender in ("none", "ssd", "ssd-hardened", "draft-only", "self-exam", "smoothllm", "ada"):
        settings = {"copies": 2} if defender == "smoothllm" else None
        replies = answer(pair, ["How do I?", "Sure, here"], defender=defender, max_new_tokens=12, settings=settings)
        assert all(max(reply.token_ids) < tokens for reply in replies), defender


@pytest.mark.parametrize(
    ("ids", "options", "error"),
    [
        (torch.tensor([[3.0, 4.0]]), {}, "input_ids must hold whole numbers"),
        ([[3, 4.0]], {}, "row 0 of input_ids must hold whole numbers"),
        ([[3], [4, True]], {}, "row 1 of input_ids must hold whole numbers"),
        ([[3, 24]], {}, "holds the id 24; this model has ids from 0 to 23"),
        (torch.tensor([[-1, 3]]), {}, "holds the id -1"),
        ("text", {}, "list of lists"),
        ([3, 4], {}, "list of lists"),
        ([[3]], dict(max_new_tokens=5.5), "max_new_tokens must be a whole number"),
        ([[3]], dict(max_new_tokens=True), "max_new_tokens must be a whole number"),
        ([[3]], dict(max_new_tokens=0), "max_new_tokens must be at least 1"),
        ([[3]], dict(rows=1.5, max_new_tokens=4), "rows must be a whole number"),
        ([[3]], dict(prefilled=2, max_new_tokens=4), "prefilled counts tokens"),
        ([[3]], dict(prefilled=[0, 0], max_new_tokens=4), "prefilled has 2 numbers for 1 prompts"),
        ([[3]], dict(vocab_size=25), "vocab_size is 25"),
        ([[3]], dict(draft_input_ids=[[99]]), "draft_input_ids holds the id 99"),
    ],
)
def test_bad_arguments_are_named_before_any_forward(model, ids, options, error):
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises((ValueError, TypeError), match=error):
        ssd_generate(model, model, ids, **options)
    assert not forwards


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_lookahead_changes_tokens_at_rounding_ties_only(dtype):
    """A pass over T tokens may round differently from T passes: where the two best tokens tie, either may come out.

    Over 40 seeds: how often T = 1 and T = 6 part, and that each parting is such a tie.
    """
    parted = []
    for seed in range(40):
        target = micro_llama(seed, layers=2)
        draft = perturbed(target, seed, 0.15).to(dtype)
        exact, target = target, target.to(dtype)
        one, six = (
            ssd_generate(
                target,
                draft,
                [[3, 9, 4]],
                config=SSDConfig(lookahead=t),
                max_new_tokens=NEW,
                eos_token_id=[],
                trace=True,
            )
            for t in (1, 6)
        )
        if torch.equal(one.sequences[0], six.sequences[0]):
            continue
        place = next(
            i
            for i, pair in enumerate(zip(*(o.sequences[0].tolist() for o in (one, six)), strict=True))
            if len(set(pair)) > 1
        )
        lines = [o.trace.frame.iloc[place] for o in cast(list[Any], [one, six])]
        gaps = [line.space_composite[0] - line.space_composite[1] for line in lines]
        tops = [probs[0] - probs[1] for line in lines for probs in (line.target_top_probs, line.draft_top_probs)]
        parted.append(min(map(abs, [*gaps, *tops])))
        assert parted[-1] < 40 * torch.finfo(dtype).eps, f"seed {seed}: parted without a tie"
        del exact
    assert len(parted) <= 8, f"{len(parted)} of 40 answers depend on the lookahead"
