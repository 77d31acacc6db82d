"""The laws of the decoder, on seeded micro-models."""

import random
from dataclasses import replace
from typing import Any, cast
from unittest import mock

import pytest
import torch
from conftest import Collect, micro_llama, perturbed
from jaxtyping import TypeCheckError
from oracle import decode
from transformers import StoppingCriteria, TextStreamer

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import Conversation, ssd_custom_generate, ssd_generate

NEW = 24


@pytest.fixture(scope="module")
def pairs():
    """Pairs from identical to unrelated."""
    made = []
    for seed, amount in [(0, 0.0), (1, 0.05), (2, 0.15), (3, 0.3), (4, 0.6), (5, None)]:
        target = micro_llama(seed, layers=2)
        made.append((target, micro_llama(100 + seed) if amount is None else perturbed(target, seed, amount)))
    return made


def random_config(rng):
    return SSDConfig(
        alpha_intersection=rng.choice([0.0, 0.1, 0.3, 0.45, 0.6, 0.9, 1.0]),
        alpha_union=rng.choice([0.0, 0.55, 0.8, 1.0, 2.0, 3.5]),
        candidates=rng.choice([1, 2, 3, 5, 10, 24, 99]),
        bin_size=rng.choice([1, 2, 3, 5, 7]),
        threshold=rng.choice([0.0, 0.3, 0.5, 0.6, 0.8, 1.0]),
        lookahead=rng.choice([1, 2, 3, 4, 6]),
        start_scheme=rng.choice(["intersection", "intersection", "union"]),
    )


def random_prompt(rng, longest=9):
    return [rng.randrange(3, 24) for _ in range(rng.randint(1, longest))]


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("cases", [40, pytest.param(250, marks=pytest.mark.slow)])
def test_equals_the_plain_python_oracle_on_random_settings(pairs, cases):
    rng = random.Random(0)
    seen = {"union": 0, "insisted": 0, "changed": 0, "eos": 0, "annealed": 0, "k is all": 0}
    ratios = []
    for case in range(cases):
        target, draft = pairs[case % len(pairs)]
        config, prompt = random_config(rng), random_prompt(rng)
        draft_prompt = prompt if rng.random() < 0.6 else random_prompt(rng)
        eos = set(rng.sample(range(24), rng.choice([0, 1, 1, 3])))
        expected, events, narrowest = decode(target, draft, prompt, draft_prompt, config, NEW, eos)
        if narrowest < 1e-5:
            continue
        output: Any = ssd_generate(
            target,
            draft,
            torch.tensor([prompt]),
            draft_input_ids=torch.tensor([draft_prompt]),
            config=config,
            max_new_tokens=NEW,
            eos_token_id=sorted(eos),
            trace=True,
        )
        assert output.sequences[0].tolist() == expected, (case, config)
        frame = output.trace.to_frame()
        recorded = list(zip(frame.scheme, frame.match, frame.insisted, frame.threshold, strict=True))
        assert recorded == [(s, m, i, pytest.approx(t)) for s, m, i, _, t, *_ in events], (case, config)
        assert [k or None for k in frame.k] == [e[3] for e in events]
        schemes = [event[0] for event in events]
        ratios.append(output.stats.match_ratio)
        seen["union"] += "union" in schemes
        seen["changed"] += len(set(schemes)) > 1
        seen["insisted"] += any(event[2] for event in events)
        seen["eos"] += expected[-1] in eos
        seen["annealed"] += len({event[5] for event in events}) > 1
        seen["k is all"] += any(event[3] == 24 for event in events)
    assert len(ratios) >= 0.8 * cases
    assert min(seen.values()) >= cases // 17, f"the settings do not exercise everything: {seen}"
    assert min(ratios) < 0.2 and max(ratios) == 1 and sum(0.2 < r < 0.9 for r in ratios) > cases // 7


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("lookaheads", [(1, 2, 3, 8), pytest.param(range(1, 9), marks=pytest.mark.slow)])
def test_the_output_does_not_depend_on_the_lookahead(pairs, lookaheads):
    rng = random.Random(1)
    for target, draft in pairs:
        prompt, config = torch.tensor([random_prompt(rng)]), random_config(rng)
        outputs: Any = [
            ssd_generate(target, draft, prompt, config=replace(config, lookahead=t), max_new_tokens=NEW, trace=True)
            for t in lookaheads
        ]
        assert all(torch.equal(output.sequences[0], outputs[0].sequences[0]) for output in outputs)
        columns = ["token", "match", "scheme", "k", "threshold", "alpha", "match_ratio", "insisted"]
        assert all(output.trace.to_frame()[columns].equals(outputs[0].trace.to_frame()[columns]) for output in outputs)


def ragged(prompts):
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


@pytest.mark.usefixtures("shapes_unchecked")
def test_every_row_of_a_ragged_batch_equals_that_row_alone(pairs):
    rng = random.Random(2)
    for target, draft in pairs[1:]:
        config = random_config(rng)
        prompts, draft_prompts = ([random_prompt(rng, 12) for _ in range(5)] for _ in range(2))
        (ids, mask), (draft_ids, draft_mask) = ragged(prompts), ragged(draft_prompts)
        together: Any = ssd_generate(
            target,
            draft,
            ids,
            attention_mask=mask,
            draft_input_ids=draft_ids,
            draft_attention_mask=draft_mask,
            config=config,
            max_new_tokens=NEW,
            trace=True,
        )
        for row, (prompt, draft_prompt) in enumerate(zip(prompts, draft_prompts, strict=True)):
            alone: Any = ssd_generate(
                target,
                draft,
                torch.tensor([prompt]),
                draft_input_ids=torch.tensor([draft_prompt]),
                config=config,
                max_new_tokens=NEW,
                trace=True,
            )
            assert torch.equal(together.sequences[row], alone.sequences[0])
            assert together.trace.row(row).to_frame()["scheme"].tolist() == alone.trace.to_frame()["scheme"].tolist()


def greedy(model, prompt):
    return model.generate(prompt, do_sample=False, max_new_tokens=NEW, attention_mask=torch.ones_like(prompt))[
        0, prompt.shape[1] :
    ]


def test_union_with_alpha_zero_over_the_whole_vocabulary_is_the_target(pairs):
    config = SSDConfig(alpha_union=0.0, candidates=24, fixed_scheme="union")
    for target, draft in pairs:
        prompt = torch.tensor([[5, 7, 11]])
        assert torch.equal(
            ssd_generate(target, draft, prompt, config=config, max_new_tokens=NEW).sequences[0], greedy(target, prompt)
        )


def test_a_draft_that_is_the_target_always_matches(pairs):
    target, _ = pairs[3]
    for config in (SSDConfig(lookahead=3), SSDConfig(lookahead=3, alpha_union=2.0, start_scheme="union")):
        output = ssd_generate(target, target, torch.tensor([[4, 9]]), config=config, max_new_tokens=NEW)
        assert output.stats.match_ratio == 1
        assert torch.equal(output.sequences[0], greedy(target, torch.tensor([[4, 9]])))
        assert output.stats.rounds == -(-len(output.sequences[0]) // int(config.lookahead))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_and_both_attentions_run(dtype, attention):
    target, draft = micro_llama(7, layers=2).to(dtype), micro_llama(8).to(dtype)
    for model in (target, draft):
        model.set_attn_implementation(attention)
    ids, mask = ragged([[3, 4, 5, 6], [7]])
    output = ssd_generate(target, draft, ids, attention_mask=mask, max_new_tokens=9, eos_token_id=[])
    assert [len(s) for s in output.sequences] == [9, 9]


def test_eager_and_sdpa_agree(pairs):
    target, draft = pairs[3]
    outputs = []
    for attention in ("eager", "sdpa"):
        target.set_attn_implementation(attention), draft.set_attn_implementation(attention)
        outputs.append(ssd_generate(target, draft, torch.tensor([[3, 4, 5]]), max_new_tokens=NEW).sequences[0])
    assert torch.equal(*outputs)


def test_every_end_of_sequence_id_of_the_generation_config_ends_an_answer(pairs):
    target, draft = pairs[2]
    free = (
        ssd_generate(target, draft, torch.tensor([[6, 5]]), max_new_tokens=NEW, eos_token_id=[]).sequences[0].tolist()
    )
    third = free[3]
    before = target.generation_config.eos_token_id
    target.generation_config.eos_token_id = [23, third] if third != 23 else [22, third]
    try:
        output = ssd_generate(target, draft, torch.tensor([[6, 5]]), max_new_tokens=NEW)
    finally:
        target.generation_config.eos_token_id = before
    answer = output.sequences[0].tolist()
    assert answer[-1] in (third, 23, 22) and len(answer) <= free.index(third) + 1


# ------------------------------------------------------------------------------------------------ streaming and generate


def test_a_streamer_gets_the_prompt_and_then_every_token(pairs):
    streamer, (target, draft) = Collect(), pairs[1]
    output = ssd_generate(target, draft, torch.tensor([[3, 8]]), max_new_tokens=NEW, streamer=streamer)
    assert streamer.parts[0] == [3, 8] and streamer.ended
    assert [t for part in streamer.parts[1:] for t in part] == output.sequences[0].tolist()


def test_a_streamer_for_many_rows_is_refused(pairs):
    target, draft = pairs[1]
    with pytest.raises(ValueError, match="one row"):
        ssd_generate(target, draft, torch.tensor([[3], [4]]), max_new_tokens=4, streamer=Collect())


class StopAt(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.tensor([input_ids.shape[1] >= self.length])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stopping_criteria": "stop"}, "stopping_criteria is a value of the type list or tuple, not 'stop'"),
        ({"stopping_criteria": [StopAt(6), None]}, "a stopping criterion is a function of ids and scores, not None"),
        ({"streamer": "out"}, "streamer has the methods put and end .*, unlike 'out'"),
    ],
)
def test_who_cannot_be_told_is_refused_before_any_forward(pairs, wrong, says):
    target, draft = pairs[0]
    with (
        pytest.raises(TypeError, match=says),
        mock.patch("ssd_lib.decoding.generate.CachedModel", side_effect=AssertionError),
    ):
        ssd_generate(target, draft, [[3, 4]], max_new_tokens=4, **wrong)
    with pytest.raises(TypeError, match=says):
        Conversation(target, draft).reply([3, 4], max_new_tokens=4, **wrong)


def test_stopping_criteria_are_asked_after_every_token(pairs):
    target, draft = pairs[0]
    options: dict[str, Any] = dict(max_new_tokens=NEW, eos_token_id=[], stopping_criteria=[StopAt(6)], trace=True)
    output: Any = ssd_generate(target, draft, torch.tensor([[3, 8]]), **options)
    assert len(output.sequences[0]) == 4 == len(output.trace)


def test_inside_transformers_generate(pairs):
    rng = random.Random(5)
    (target, draft), prompts = pairs[2], [random_prompt(rng) for _ in range(3)]
    ids, mask = ragged(prompts)
    own = ssd_generate(target, draft, ids, attention_mask=mask, max_new_tokens=NEW)
    out = target.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        custom_generate=ssd_custom_generate,
        draft=draft,
        ssd_config=SSDConfig(),
    )
    for row, answer in enumerate(own.sequences):
        assert torch.equal(out[row, ids.shape[1] :][: len(answer)], answer)
        assert (out[row, ids.shape[1] + len(answer) :] == 0).all()
    streamer = Collect()
    target.generate(
        ids[:1],
        attention_mask=mask[:1],
        max_new_tokens=NEW,
        custom_generate=ssd_custom_generate,
        draft=draft,
        ssd_streamer=streamer,
    )
    assert [t for part in streamer.parts[1:] for t in part] == own.sequences[0].tolist()
    with pytest.raises(ValueError, match="draft model"):
        target.generate(ids, attention_mask=mask, max_new_tokens=2, custom_generate=ssd_custom_generate)


def test_text_streamer_of_transformers_works(pairs, capsys):
    class Words:
        def decode(self, ids, **kwargs):
            return "".join(f"t{int(i)} " for i in torch.as_tensor(ids).reshape(-1))

    (target, draft), words = pairs[1], cast(Any, Words())
    streamer = TextStreamer(words, skip_prompt=True)
    output = ssd_generate(target, draft, torch.tensor([[3, 8]]), max_new_tokens=5, eos_token_id=[], streamer=streamer)
    assert capsys.readouterr().out.split() == [f"t{i}" for i in output.sequences[0].tolist()]


# ------------------------------------------------------------------------------------------------ bad input


def refused(message, *args, error: Any = ValueError, **kwargs):
    target, draft = args[:2]
    forwards = []
    hooks = [m.register_forward_hook(lambda *_: forwards.append(1)) for m in (target, draft)]
    with pytest.raises(error, match=message):
        ssd_generate(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    if error is not FloatingPointError:
        assert not forwards, "the check came after a forward"


def test_bad_input_is_refused_before_any_forward(pairs):
    target, draft = pairs[1]
    ids = torch.tensor([[3, 4], [5, 6]])
    refused("24 tokens, the draft 30", target, micro_llama(0, vocab=30), ids)
    refused("rows length|rows, length", target, draft, torch.tensor([3, 4]), error=(ValueError, TypeCheckError))
    refused("row 1 of input_ids is an empty prompt", target, draft, ids, attention_mask=torch.tensor([[1, 1], [0, 0]]))
    refused("padded on the left", target, draft, ids, attention_mask=torch.tensor([[1, 1], [1, 0]]))
    refused("must agree", target, draft, ids, attention_mask=torch.ones(1, 2))
    refused("2 and 1 rows", target, draft, ids, draft_input_ids=ids[:1])
    refused("at most 126 new tokens fit", target, draft, ids, max_new_tokens=200)
    refused("at least 1", target, draft, ids, max_new_tokens=0)
    refused("the draft: the context holds 16", target, micro_llama(0, context=16), ids, max_new_tokens=40)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(alpha_intersection=1.5),
        dict(alpha_intersection=-0.1),
        dict(alpha_union=-1.0),
        dict(alpha_union=float("nan")),
        dict(threshold=1.2),
        dict(temperature=0.0),
        dict(top_p=0.0),
        dict(candidates=0),
        dict(bin_size=0),
        dict(lookahead=0),
        dict(fixed_scheme="both"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SSDConfig(**wrong)


@pytest.mark.parametrize("role", ["target", "draft"])
def test_nan_logits_are_named_with_model_row_and_position(role):
    models = {"target": micro_llama(1), "draft": micro_llama(1)}
    ids = torch.tensor([[3, 4], [5, 6]])
    free = ssd_generate(models["target"], models["draft"], ids, max_new_tokens=8, eos_token_id=[])
    poisoned = free.sequences[1][2]  # whoever reads it as a prefix token fails at the next position
    with torch.no_grad():
        models[role].model.embed_tokens.weight[poisoned] = float("nan")
    position, row = min(
        (s.tolist().index(poisoned) + 1, row) for row, s in enumerate(free.sequences) if poisoned in s.tolist()
    )
    message = f"{role}'s logits are NaN at answer position {position} of row {row}"
    config = SSDConfig(lookahead=1)
    refused(message, *models.values(), ids, error=FloatingPointError, config=config, max_new_tokens=8, eos_token_id=[])


def test_an_interruption_leaves_the_models_usable(pairs):
    class Interrupt(Collect):
        def put(self, value):
            super().put(value)
            if len(self.parts) == 4:
                raise KeyboardInterrupt

    (target, draft), prompt = pairs[1], torch.tensor([[3, 8]])
    before = ssd_generate(target, draft, prompt, max_new_tokens=NEW).sequences[0]
    with pytest.raises(KeyboardInterrupt):
        ssd_generate(target, draft, prompt, max_new_tokens=NEW, eos_token_id=[], streamer=Interrupt())
    assert torch.equal(ssd_generate(target, draft, prompt, max_new_tokens=NEW).sequences[0], before)
