"""Any decoder-only family is decoded as its own `generate` does it, or refused by name before a forward.

The draft is the target, so that SSD's answer is the target's greedy one. The whole survey, over every family that transformers
maps to a causal language model, is in the slow tier.
"""

from typing import Any

import pytest
import torch
from families import NOT_MICRO, micro_model, sharp_model
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.replay import record
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.generate import ssd_generate
from ssd_lib.decoding.inputs import check_supported
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.models.inference import BEYOND, context_of

LENGTHS, NEW = (20, 5, 13), 12  # windows are of 8
SERVED = (
    "llama mistral gemma2 gemma3_text gemma3n_text qwen2 phi3 cohere2 gpt_oss llama4_text deepseek_v3 gpt2 opt gpt_neox"
)
ROPE = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[4.0] * 4)


def decode(model, prompts):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = SSDConfig(lookahead=3)
    output = ssd_generate(model, model, ids, attention_mask=mask, config=config, max_new_tokens=NEW, eos_token_id=[])
    return [answer.tolist() for answer in output.sequences]


def equals_generate(name, **own):
    model, prompts, answers = sharp_model(name, LENGTHS, NEW, **own)
    assert [decode(model, [prompt])[0] for prompt in prompts] == answers
    assert decode(model, prompts) == answers
    return model


def refused(model, message):
    model.register_forward_pre_hook(lambda *_: pytest.fail("the check came after a forward"))
    with pytest.raises(ValueError, match=message) as error:
        decode(model, [[3, 4, 5]])
    assert type(model).__name__ in str(error.value) and model.config.model_type in str(error.value)


@pytest.mark.parametrize("name", SERVED.split())
def test_single_and_ragged_rows_equal_generate(name):
    equals_generate(name)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "llama4_text"])
def test_masks_that_are_added_see_the_same_windows(name):
    equals_generate(name, attn_implementation="eager")


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("mamba", {}, "state that is no key/value cache"),
        ("rwkv", {}, "state that is no key/value cache"),
        ("jamba", {}, "state that is no key/value cache"),
        ("qwen3_next", {}, "state that is no key/value cache"),
        ("lfm2", {}, "LinearAttentionLayer"),
        ("deepseek_v32", {}, "DynamicIndexedLayer"),
        ("bloom", {}, "takes no `position_ids`"),
        ("mpt", {}, "takes no `position_ids`"),
        ("bart", {}, "takes no `position_ids`"),
        ("openai-gpt", {}, "takes no `past_key_values`"),
        ("falcon", dict(alibi=True), "alibi"),
        ("gpt_neo", {}, "causal mask of its own"),
        ("bert", {}, "attends to both sides"),
        ("rembert", {}, "attends to both sides"),
        ("roberta", dict(is_decoder=True), "counts positions from its padding index"),
        ("llama", dict(attn_implementation="flex_attention"), "'flex_attention', which takes no explicit mask"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name_before_any_forward(name, own, message):
    refused(micro_model(name, **own), message)


def test_an_unknown_type_of_layer_is_refused():
    model = micro_model("qwen3")
    model.config.layer_types = ["full_attention", "some_new_attention"]
    refused(model, "layers of the type 'some_new_attention'")


def test_the_role_is_named():
    with pytest.raises(ValueError, match="the draft cannot be decoded: MambaForCausalLM"):
        check_supported("draft", micro_model("mamba"))


@pytest.mark.parametrize("name", ["mistral", "llama4_text"])
def test_long_prompts_are_read_in_chunks_through_a_window(name, monkeypatch):
    model, prompts, answers = sharp_model(name, (50, 33), NEW)
    monkeypatch.setattr("ssd_lib.decoding.kv_cache.CHUNK", 16)
    assert decode(model, prompts) == answers


def seen_masks(model, visible):
    """The masks of one forward of the model, with so many slots visible."""
    seen = []
    cached = CachedModel(model, [[3, 4, 5]], 128)
    cached.cache.show_up_to(visible)
    hook = model.register_forward_pre_hook(lambda m, a, k: seen.append(k["attention_mask"]), with_kwargs=True)
    cached.forward(torch.tensor([[6]]))
    hook.remove()
    return seen[0]


def test_a_window_costs_a_mask_only_where_it_hides_something():
    wide, narrow = micro_model("gemma2", sliding_window=64), micro_model("gemma2", sliding_window=8)
    masks = seen_masks(wide, 64)
    assert masks["sliding_attention"] is masks["full_attention"]
    masks = seen_masks(narrow, 64)
    assert masks["sliding_attention"] is not masks["full_attention"]
    assert isinstance(seen_masks(micro_model("mistral"), 64), torch.Tensor)


@pytest.mark.parametrize("name", ["mistral", "llama4_text", "deepseek_v3"])
@torch.inference_mode()
def test_a_recorded_forward_follows_the_lengths(name):
    model = micro_model(name)
    rows = torch.tensor([[3, 9, 4, 17, 8, 21, 30, 6, 12, 40, 5, 7], [8, 8, 21, 6, 2, 9, 50, 33, 4, 3, 60, 11]])
    cached = CachedModel(model, [rows[0, :8].tolist(), rows[1, :4].tolist()], 64)  # read but for the last tokens
    tokens = rows[[0, 1], [7, 3]].unsqueeze(-1).clone()
    cached.forward(tokens)  # allocates
    logits = []
    recording = record(lambda: logits.append(cached.forward(tokens)))
    for step in (1, 2, 3):
        cached.cache.advance(1)
        tokens.copy_(rows[[0, 1], [7 + step, 3 + step]].unsqueeze(-1))
        recording.replay()
    for row, length in enumerate((11, 7)):
        expected = model(rows[row : row + 1, :length]).logits[0, -1].float()
        torch.testing.assert_close(logits[0][row, -1], expected, atol=1e-4, rtol=1e-3)


def test_long_rotary_embeddings_hold_a_model_to_its_original_context():
    own: dict[str, Any] = dict(max_position_embeddings=256, original_max_position_embeddings=64, sliding_window=None)
    model = micro_model("phi3", rope_parameters=ROPE | dict(original_max_position_embeddings=64), **own)
    assert context_of(model) == 64 - BEYOND
    with pytest.raises(ValueError, match="context holds 32 tokens"):
        decode(model, [list(range(3, 30))])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_family_equals_generate_or_is_refused_by_name(name):
    if name in NOT_MICRO:
        pytest.skip(f"no micro-model: {NOT_MICRO[name]}")
    model = micro_model(name)
    try:
        check_supported("target", model)
    except ValueError as refusal:
        refused(model, str(refusal).partition("(")[0])
    else:
        equals_generate(name)
