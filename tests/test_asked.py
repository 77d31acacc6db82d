"""What a caller of `generate` gives beside a generation config: honoured as `generate` does it, or refused in one line."""

# pyright: reportArgumentType=false
# (wrong values on purpose)

import pytest
import torch
from conftest import micro_llama, perturbed
from families import micro_model
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, TemperatureLogitsWarper, TopKLogitsWarper

from ssd_lib.decoding import ssd_custom_generate, ssd_generate
from ssd_lib.decoding.in_transformers import generate

PROMPTS = torch.tensor([[0, 0, 5, 7, 9], [4, 6, 5, 7, 11]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def model():
    return micro_llama(3, layers=2)


def ssd(model, **options):
    options = dict(attention_mask=MASK, max_new_tokens=9, custom_generate=ssd_custom_generate, draft=model) | options
    return model.generate(PROMPTS, **options)


def plain(model, **options):
    return model.generate(PROMPTS, **dict(attention_mask=MASK, max_new_tokens=9, do_sample=False) | options)


def test_criteria_of_the_caller_for_length_and_end_take_the_config_s_place(model):
    free = plain(model, eos_token_id=[])[:, 5:].tolist()
    for own in (MaxLengthCriteria(8), MaxLengthCriteria(17), EosTokenCriteria(free[1][3])):
        expected = plain(model, stopping_criteria=[own])
        got = ssd(model, stopping_criteria=[own])
        assert got.tolist() == expected.tolist() != plain(model).tolist()


def test_a_temperature_or_a_cut_as_a_processor_is_refused_with_its_option(model):
    for warper, option in ((TemperatureLogitsWarper(0.1), "temperature="), (TopKLogitsWarper(1), "top_k=")):
        with pytest.raises(
            ValueError, match=f"cannot honour {type(warper).__name__} as a logits processor: give {option}"
        ):
            ssd(model, do_sample=True, logits_processor=LogitsProcessorList([warper]))
    assert ssd(model, do_sample=True, temperature=0.7, top_k=1).tolist() == plain(model).tolist()


def test_without_end_and_padding_ids_a_batch_is_padded_with_zeros(model):
    config = GenerationConfig(max_new_tokens=9, eos_token_id=None, pad_token_id=None)
    model = micro_llama(3, layers=2)
    model.generation_config = config

    def short(ids, *_):
        return ids.shape[1] > 5

    out = ssd(model, stopping_criteria=[short], generation_config=config, max_new_tokens=None)
    assert out.shape == (2, 8) and out[1, 6:].tolist() == [0, 0]


def filled(model):
    cache = DynamicCache(config=model.config)
    model(PROMPTS, past_key_values=cache)
    return cache


INPUTS = {
    "embeddings": (lambda m: dict(inputs_embeds=m.get_input_embeddings()(PROMPTS)), "cannot take inputs_embeds"),
    "positions": (lambda _: dict(position_ids=torch.arange(3, 8).expand(2, 5)), "leave position_ids out"),
    "a filled cache": (lambda m: dict(past_key_values=filled(m)), "cannot go on with past_key_values"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_would_be_passed_over_are_refused(model, case):
    given, said = INPUTS[case]
    with pytest.raises(ValueError, match=said):
        ssd(model, **given(model))


def test_inputs_that_say_what_ssd_does_anyway_are_taken(model):
    expected = ssd(model).tolist()
    counted = (MASK.cumsum(1) - 1).clamp(min=0)
    assert ssd(model, position_ids=counted).tolist() == expected
    assert ssd(model, past_key_values=DynamicCache(config=model.config)).tolist() == expected


def test_an_image_is_refused_and_text_beside_it_is_not():
    model = micro_model("gemma3")
    size = model.config.vision_config.image_size
    options = dict(custom_generate=ssd_custom_generate, draft=model, max_new_tokens=3)
    assert model.generate(PROMPTS[1:], **options, token_type_ids=torch.zeros_like(PROMPTS[1:])).shape == (1, 8)
    for seen in (dict(token_type_ids=torch.ones_like(PROMPTS[1:])), dict(pixel_values=torch.zeros(1, 3, size, size))):
        with pytest.raises(ValueError, match=f"cannot take {next(iter(seen))}"):
            ssd_custom_generate(
                model, PROMPTS[1:], generation_config=GenerationConfig(max_length=8), draft=model, **seen
            )


def test_a_draft_without_a_head_or_with_fewer_ids_is_refused_before_any_forward(model):
    with pytest.raises(ValueError, match="has no output layer: load it with AutoModelForCausalLM"):
        ssd_generate(model, perturbed(model, 1, 0.1).model, [[4, 5]], max_new_tokens=3)
    small = micro_llama(3, vocab=8, layers=2)
    with pytest.raises(ValueError, match="row 0 of input_ids, read by the draft, holds the id 9"):
        ssd_generate(model, small, [[4, 9]], max_new_tokens=3, vocab_size=8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([3], "a logits processor is a function of ids and scores, not 3"),
        ([lambda ids, scores: scores[:, :5]], r"must return scores of the shape \[1, 24\], not \[1, 5\]"),
        ([lambda ids, scores: None], "must return scores of the shape .* not None"),
    ],
)
def test_processors_that_give_no_scores_are_refused(model, given, said):
    with pytest.raises((ValueError, TypeError), match=said):
        ssd(model, logits_processor=LogitsProcessorList(given))


def test_a_table_is_no_generation_config(model):
    with pytest.raises(TypeError, match="generation_config is a value of the type GenerationConfig"):
        generate(PROMPTS, model=model, draft=model, generation_config={"max_new_tokens": 4})
