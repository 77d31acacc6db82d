"""Chapter 12: bits of a quantized weight, answers that fit beside a pair, a runner that goes on, pairs that are none."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from checks.asking import ask
from ssd_lib import load_pair
from ssd_lib.models.chat import FORMATS
from ssd_lib.models.pairs import Pair
from ssd_lib.show.exercises import Wrong, exercise, expect, same


@exercise(
    "12.1",
    "easy",
    5,
    "Four bits are a weight's own. What is stored beside them is shared: by how many weights?",
    "A byte for each block, and four bytes for 256 blocks: count both, in bits, for one weight.",
)
def bits_of_a_weight(given: Callable[..., Any]) -> None:
    """`given(block, double)`: bits of one weight with its share of the scales."""
    for block in (64, 32, 128):
        same(given(block, False), 4 + 32 / block, f"bits of a weight in blocks of {block}")
    for block in (64, 256):
        wanted = 4 + 8 / block + 32 / (256 * block)
        same(given(block, True), wanted, f"bits of a weight in blocks of {block} with quantized scales")


SHAPES = {  # vocabulary, hidden, inner, layers, heads, key-value heads, one matrix for both ends
    "Llama-2-7B, Vicuna-7B": (32000, 4096, 11008, 32, 32, 32, False),
    "Llama-2-13B": (32000, 5120, 13824, 40, 40, 40, False),
    "Llama-3.1-8B": (128256, 4096, 14336, 32, 32, 8, False),
    "TinyLlama-1.1B": (32000, 2048, 5632, 22, 32, 4, False),
    "Llama-3.2-1B": (128256, 2048, 8192, 16, 32, 8, True),
}
BYTES = {"16 bits": 2.0, "8 bits": 1.0, "4 bits": 0.5625}


def weights(name: str, bits: str) -> float:
    """Bytes of a model's parameters, from its shape alone."""
    vocabulary, hidden, inner, layers, heads, kv_heads, tied = SHAPES[name]
    inside = layers * (2 * hidden**2 + 2 * hidden * (hidden // heads) * kv_heads + 3 * hidden * inner)
    outside = vocabulary * hidden * (1 if tied else 2) + (2 * layers + 1) * hidden
    return 2 * outside + BYTES[bits] * inside


def row(name: str, tokens: int) -> int:
    """Bytes of the keys and values of one answer."""
    _, hidden, _, layers, heads, kv_heads, _ = SHAPES[name]
    return 2 * layers * kv_heads * (hidden // heads) * 2 * tokens


@exercise(
    "12.2",
    "real",
    15,
    "What do both models leave free? And what does one answer take in both caches?",
    "The draft stays in 16 bits. GiB are 2³⁰ bytes. And what if not even the weights fit?",
)
def answers_that_fit(given: Callable[..., Any]) -> None:
    """`given(target, draft, bits, tokens, gib, spare)`: how many answers fit beside the two models."""
    asked = [
        ("Llama-2-7B, Vicuna-7B", "TinyLlama-1.1B", "4 bits", 1024, 15.0, 2.0),
        ("Llama-3.1-8B", "Llama-3.2-1B", "4 bits", 1024, 15.0, 2.0),
        ("Llama-3.1-8B", "Llama-3.2-1B", "8 bits", 700, 22.5, 1.0),
        ("Llama-2-13B", "TinyLlama-1.1B", "16 bits", 256, 39.5, 3.0),
        ("Llama-2-7B, Vicuna-7B", "TinyLlama-1.1B", "8 bits", 4096, 15.0, 0.0),
        ("Llama-2-13B", "TinyLlama-1.1B", "16 bits", 1024, 15.0, 2.0),
        ("Llama-3.1-8B", "Llama-3.2-1B", "4 bits", 1, 15.0, 2.0),
    ]
    for target, draft, bits, tokens, gib, spare in asked:
        left = (gib - spare) * 2**30 - weights(target, bits) - weights(draft, "16 bits")
        wanted = max(0, int(left // (row(target, tokens) + row(draft, tokens))))
        where = f"{target} in {bits}, {tokens} tokens each, {gib} GiB with {spare} spare"
        same(given(target, draft, bits, tokens, gib, spare), wanted, f"the number of answers ({where})")


def suspect_resume(planned: list[tuple[str, int, str]], lines: list[str]) -> list[tuple[str, int, str]]:
    """What is left to generate: the plan without what the store's lines hold."""
    done = []
    for line in lines:
        row = json.loads(line)
        done.append((row["attack"], row["item"]))
    return [key for key in planned if key[:2] not in done]


@exercise(
    "12.3",
    "find the bug",
    10,
    "What makes an answer this one and no other? Compare with the columns of the plan.",
    "`json.loads` raises json.JSONDecodeError for half a line: what does such a line count for?",
)
def what_is_left(given: Callable[..., Any]) -> None:
    """`given(planned, lines)`: what is left to generate, in the order of the plan."""
    planned = [(a, n, name) for a in ("prefill-1", "prefill-11") for name in ("none", "ssd") for n in (1, 11, 2)]
    texts = ["I'm sorry", "", 'It said {"attack": "prefill-1", "item": 1, "defender": "ssd"}']
    lines = [
        json.dumps({"attack": a, "item": n, "defender": d, "text": texts[place % 3]})
        for place, (a, n, d) in enumerate(planned)
    ]
    shuffled = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    mixed = random.Random(0).sample(range(12), 7)
    old = json.dumps({"attack": "gcg", "item": 0, "defender": "ssd", "text": "of an older plan"})
    cases: list[tuple[str, list[str], set[int]]] = [
        ("nothing is stored", [], set()),
        ("the first six answers are stored", lines[:6], set(range(6))),
        ("all is stored", lines, set(range(12))),
        ("seven answers are stored, in another order", [lines[n] for n in mixed], set(mixed)),
        ("an answer is stored that is not in the plan", [old, *lines[:2]], {0, 1}),
        ("the last line is cut in half", [*lines[:4], lines[4][:25]], set(range(4))),
        ("the last line holds one character", [*lines[6:9], "{"], {6, 7, 8}),
        ("the last line is cut before its bracket", [*lines[:2], lines[2][:-1]], {0, 1}),
        ("a line was cut, and the run went on", [*lines[:2], lines[2][:30], *lines[3:6]], {0, 1, 3, 4, 5}),
        ("the lines end with a new line", [f"{line}\n" for line in lines[:3]], {0, 1, 2}),
        ("the lines name the text first", shuffled[3:7], {3, 4, 5, 6}),
    ]
    for name, stored, done in cases:
        wanted = [key for n, key in enumerate(planned) if n not in done]
        found = ask(given, planned, stored)
        expect(isinstance(found, list | tuple), f"where {name}, you return {type(found).__name__}, not a list")
        found = list(found)
        for key in planned:
            expect(found.count(key) <= 1, f"where {name}, {key} is generated more than once")
            expect(key in found or key not in wanted, f"where {name}, {key} is never generated")
            expect(key in wanted or key not in found, f"where {name}, {key} is generated again")
        same(found, wanted, f"what is left where {name}, in the plan's order,")


def respelt(tokenizer: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """A copy of a tokenizer, changed as JSON."""
    new = copy.deepcopy(tokenizer)
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    change(written)
    new._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(written))
    return new


def exchange(written: dict[str, Any]) -> None:
    """Two common tokens change places."""
    vocabulary = written["model"]["vocab"]
    one, other = list(vocabulary)[400:402]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def small_letters(written: dict[str, Any]) -> None:
    """The same vocabulary, read after lower-casing."""
    written["normalizer"] = {"type": "Lowercase"}


def with_template(tokenizer: Any, template: str | None) -> Any:
    new = copy.deepcopy(tokenizer)
    new.chat_template = template
    return new


@cache
def pairs() -> list[tuple[str, Pair, bool]]:
    """What to ask about: a description, two models, and whether they belong together."""
    toy = load_pair("toy", device="cpu")
    spec = replace(toy.spec, target_format="llama2", draft_format="tinyllama")
    target, draft = FORMATS["llama2"].template, FORMATS["tinyllama"].template
    mine, its = with_template(toy.tokenizer, target), with_template(toy.draft_tokenizer, draft)
    good = replace(toy, spec=spec, tokenizer=mine, draft_tokenizer=its)
    other_end = copy.copy(toy.draft)
    other_end.generation_config = copy.deepcopy(toy.draft.generation_config)
    other_end.generation_config.eos_token_id = 5
    shape = LlamaConfig(
        vocab_size=2040, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    narrow = LlamaForCausalLM(shape)
    narrow.generation_config = toy.draft.generation_config
    bare = replace(good, tokenizer=with_template(mine, None), draft_tokenizer=with_template(its, None))
    unnamed = replace(toy, spec=replace(toy.spec, target_format=None, draft_format=None))
    return [
        ("with a template each, as their formats have it", good, True),
        ("with one template for both, as in one family", toy, True),
        ("with templates that have no format's name", unnamed, True),
        ("without templates of their own, where the formats take their place", bare, True),
        ("whose draft wears the target's template", replace(good, draft_tokenizer=with_template(its, target)), False),
        ("whose target wears the draft's template", replace(good, tokenizer=with_template(mine, draft)), False),
        ("of whose draft two tokens have changed places", replace(good, draft_tokenizer=respelt(its, exchange)), False),
        ("whose draft reads small letters only", replace(good, draft_tokenizer=respelt(its, small_letters)), False),
        ("whose draft ends an answer with another token", replace(good, draft=other_end), False),
        ("whose draft has fewer rows of logits than tokens", replace(good, draft=narrow), False),
    ]


@exercise(
    "12.4",
    "open",
    20,
    "Begin with the lines of `belongs`. Which of them accuses a good pair, and what could it ask in place of that?",
    "A pair's `spec` names the formats that its prompts must have. The cell after `belongs` compares a prompt with its format.",
    of=2,
)
def suspicious(given: Callable[..., Any]) -> str:
    """`given(pair)`: True where the two models do not belong together."""
    said = [(name, bool(given(pair)), fine) for name, pair, fine in pairs()]
    accused = [name for name, found, fine in said if found and fine]
    missed = [name for name, found, fine in said if not found and not fine]
    caught = sum(not fine for *_, fine in said) - len(missed)
    points = round(2 * max(0, caught - len(accused)) / (caught + len(missed)), 2)
    if accused:
        raise Wrong(f"{len(accused)} of 4 good pairs are accused: one {accused[0]}", points=points)
    if missed:
        raise Wrong(f"{len(missed)} of 6 broken pairs pass: one {missed[0]}", points=points)
    return "6 of 6 broken pairs are found, and no good one is accused"
