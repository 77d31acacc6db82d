"""Chapter 03: a round on paper, who wins as α grows, and a question at which the target insists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checks.asking import ask
from checks.embedded import embedded
from ssd_lib import SSDConfig, answer, ssd_generate
from ssd_lib.method.composite import (
    choose_greedy,
    composite,
    intersection_space,
    rank_tokens,
    target_fallback,
    union_space,
)
from ssd_lib.show.exercises import Wrong, exercise, expect, same
from ssd_lib.toy import world

# ------------------------------------------------------------------------------------------------ models on paper

WORDS = ["go", "and", "then", "but", "I", "sorry", "the", "."]
_AFTER = {
    "the": (
        [0.10, 0.06, 0.70, 0.055, 0.02, 0.008, 0.012, 0.045],
        [0.035, 0.15, 0.60, 0.10, 0.05, 0.03, 0.01, 0.025],
    ),
    "then": (
        [0.10, 0.35, 0.01, 0.40, 0.03, 0.02, 0.05, 0.04],
        [0.012, 0.80, 0.008, 0.06, 0.05, 0.03, 0.025, 0.015],
    ),
    "and": (
        [0.46, 0.20, 0.10, 0.12, 0.01, 0.02, 0.05, 0.04],
        [0.004, 0.02, 0.006, 0.40, 0.39, 0.09, 0.04, 0.05],
    ),
    "go": (
        [0.005, 0.60, 0.20, 0.04, 0.02, 0.01, 0.025, 0.10],
        [0.01, 0.04, 0.02, 0.20, 0.50, 0.12, 0.03, 0.08],
    ),
    "I": (
        [0.40, 0.10, 0.02, 0.08, 0.01, 0.30, 0.03, 0.06],
        [0.03, 0.04, 0.01, 0.12, 0.005, 0.70, 0.015, 0.08],
    ),
    "sorry": (
        [0.08, 0.15, 0.04, 0.55, 0.02, 0.01, 0.05, 0.10],
        [0.008, 0.05, 0.007, 0.40, 0.02, 0.005, 0.01, 0.50],
    ),
}
TARGET_AFTER, DRAFT_AFTER = ({word: rows[i] for word, rows in _AFTER.items()} for i in (0, 1))
"""What two paper models want to say after each word: one probability for each of `WORDS`."""


def paper_model(after: dict[str, list[float]]) -> Any:
    """A model whose next word hangs on the last one only: a Llama with nothing inside but these probabilities."""
    size = len(WORDS)
    table = torch.tensor([after.get(word, [1 / size] * size) for word in WORDS])
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=size,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=128,
    )
    with torch.no_grad(), torch.random.fork_rng():
        model: Any = LlamaForCausalLM(config).eval()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(table.log().T / size**0.5)  # the norm makes √size of a one
    model.generation_config.eos_token_id = WORDS.index(".")
    return model


@cache
def next_round() -> list[str]:
    """What the round after "go" emits in Union."""
    config = SSDConfig(candidates=3, lookahead=3, fixed_scheme="union")
    models, ids = (paper_model(TARGET_AFTER), paper_model(DRAFT_AFTER)), torch.tensor([[WORDS.index("go")]])
    output = ssd_generate(*models, ids, draft_input_ids=ids, config=config, max_new_tokens=3, trace=True)
    assert output.trace is not None
    lines = output.trace.to_frame()
    return [WORDS[token] for token in lines.token[lines["round"] == lines["round"].min()]]


@exercise(
    "03.1",
    "easy",
    10,
    "The draft's three proposals first: each is its favourite after the word before.",
    "In Union the target's favourite has to win, too. Walk on as long as the emitted word is the proposed one.",
)
def round_in_union(given: Any) -> None:
    """`given`: the words that the next round emits."""
    expect(isinstance(given, list | tuple | np.ndarray), f"words in a list are asked for, not {type(given).__name__}")
    for number, (word, wanted) in enumerate(zip(given, next_round(), strict=False), 1):
        same(word, wanted, f"word {number} of the round")
    expect(len(given) >= len(next_round()), f"the round does not end after {len(given)} words")
    expect(len(given) <= len(next_round()), f"the round has ended before word {len(given)}")


# ------------------------------------------------------------------------------------------------ random opinions


@cache
def opinions() -> list[tuple[str, list[float], list[float], int]]:
    """Name, P_M, P_m and c: random pairs of many sizes, with equal probabilities, c up to more than there are tokens."""
    found = [("the eight words", TARGET_AFTER["and"], DRAFT_AFTER["and"], c) for c in (1, 2, 3, 4, 8, 9)]
    rest = [0.05 / 6] * 6, [0.56 / 6] * 6
    found.append(("two favourites that the draft doubts", [0.55, 0.40, *rest[0]], [0.25, 0.19, *rest[1]], 2))
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        size = (6, 12, 30)[seed % 3]
        both = torch.rand(2, size, generator=generator)
        if seed % 2:
            both = (4 * both).floor() + 1  # many are equally likely
        if seed % 4 == 2:
            both = both.pow(6)  # confident
        both = both / both.sum(dim=1, keepdim=True)
        c = (1, 3, 10, size, size + 5)[seed % 5]
        found.append((f"random opinions {seed + 1} ({size} tokens)", *both.tolist(), c))
    return found


@cache
def reigns() -> list[tuple[str, torch.Tensor, torch.Tensor, int, list[int]]]:
    """Opinions without ties, and who wins in Union from α = 0 to 2, each for at least a two-thousandth of the way."""
    found = []
    extra = [
        (f"opinions {seed}", *torch.rand(2, size, generator=torch.Generator().manual_seed(seed)).pow(3), c)
        for seed, size, c in [
            (13464, 16, 8),
            (22983, 16, 8),
            (46, 40, 12),
            (73, 16, 8),
        ]  # of these two a reign is short
    ]
    plain = [
        (name, torch.tensor(p), torch.tensor(q), c)
        for name, p, q, c in opinions()
        if len(set(p)) == len(p) and len(set(q)) == len(q) and c <= 12  # a fine grid takes long in large spaces
    ]
    for name, p, q, c in extra[:2] + plain + extra[2:]:
        target, draft = (probs.double() / probs.sum() for probs in (p, q))
        inside = union_space(rank_tokens(target), rank_tokens(draft), c).nonzero().flatten()
        low, slope = target[inside], (draft - target)[inside]
        meets = (low[:, None] - low) / (slope - slope[:, None])
        meets = meets[(meets > 0) & (meets < 2)]
        edges = torch.cat([torch.tensor([0.0, 2.0]).double(), meets]).sort().values
        middles = ((edges[1:] + edges[:-1]) / 2)[edges[1:] - edges[:-1] > 1e-9]
        winners = inside[(low + middles[:, None] * slope).argmax(dim=1)].tolist()
        order = [token for i, token in enumerate(winners) if i == 0 or token != winners[i - 1]]
        steps = torch.arange(1, 4000).double() / 2000
        seen = set(inside[(low + steps[:, None] * slope).argmax(dim=1)].tolist())
        if seen == set(order):
            found.append((f"{name} at c = {c}", target.float(), draft.float(), c, order))
    return found


@exercise(
    "03.2",
    "real",
    20,
    "Where do the lines of two tokens cross? Between two neighbouring crossings the winner stays.",
    "Or go from 0 to 2 in steps: how small must they be so that none is missed? A two-thousandth is enough here.",
)
def reign(given: Callable[..., Any]) -> None:
    """`given(target, draft, c)`: the tokens that win in Union as α goes from 0 to 2, in order."""
    for name, target, draft, c, order in reigns():
        got = ask(given, target, draft, c)
        expect(
            isinstance(got, list | tuple | np.ndarray | torch.Tensor),
            f"tokens in a list are asked for, not {type(got).__name__}",
        )
        same([int(token) for token in got], order, f"who wins from α = 0 to 2 for {name}")


# ------------------------------------------------------------------------------------------------ a faulty emit


def top_k(probs: Any, k: int) -> list[int]:
    """The k likeliest tokens; of equally likely ones the lower id first."""
    values = torch.as_tensor(probs).tolist()
    return sorted(range(len(values)), key=lambda token: (-values[token], token))[:k]


def smallest_k(target: Any, draft: Any, c: int) -> int:
    """The smallest k for which both models' k likeliest tokens share c."""
    places = [{token: i + 1 for i, token in enumerate(top_k(probs, len(probs)))} for probs in (target, draft)]
    worse = sorted(max(place[token] for place in places) for token in range(len(target)))
    return worse[min(c, len(worse)) - 1]


def suspect_emit(target: Any, draft: Any, scheme: str, alpha: float, c: int) -> int:
    """One token by one scheme, or is it?"""
    k = smallest_k(target, draft, c)
    favourite = top_k(target, 1)[0]
    if favourite not in top_k(draft, k):
        return favourite
    score = target + alpha * (draft - target)
    if scheme == "union":
        space = set(top_k(target, c)) | set(top_k(draft, c))
    else:
        space = set(top_k(target, k)) & set(top_k(draft, k))
    return min(space, key=lambda token: (-float(score[token]), token))


TIED = [
    ("union", 0.5, [0.25, 0.5, 0.25, 0.0], [0.5, 0.25, 0.25, 0.0]),  # F is the same, the target is not
    ("intersection", 0.5, [0.125, 0.25, 0.5, 0.125], [0.125, 0.5, 0.25, 0.125]),
    ("union", 0.5, [0.3, 0.3002, 0.3998, 0.0], [0.3, 0.3002, 0.2, 0.1998]),  # F is nearly the same
]
"""Scheme, α and opinions on which the best two scores are equal, or nearly so."""


def library_token(target: torch.Tensor, draft: torch.Tensor, scheme: str, alpha: float, c: int) -> int:
    """The token that the library's definition emits."""
    ranks, union = (rank_tokens(target[None]), rank_tokens(draft[None])), torch.tensor([scheme == "union"])
    space = union_space(*ranks, c) if scheme == "union" else intersection_space(*ranks, c)[0]
    scores = composite(target[None], draft[None], torch.tensor([alpha]))
    return int(choose_greedy(scores, space, ranks[0], target_fallback(space, ranks[0], union))[0])


@exercise(
    "03.3",
    "find the bug",
    10,
    "Which of the rules belongs to one scheme only?",
    "Under attack the favourites differ: what does it emit in Union, and why does the draft's refusal never get its turn?",
)
def mended_emit(given: Callable[..., Any], case: Any) -> None:
    """`given(target, draft, scheme, alpha, c)`: the token by the rules of this chapter; `case`: where `suspect_emit` is wrong."""
    fine = isinstance(case, list | tuple | np.ndarray | torch.Tensor) and len(case) == 2
    expect(fine, "the case is two lists: what the target says, and the draft")
    p, q = (torch.as_tensor(each, dtype=torch.float) for each in case)
    proper = p.shape == q.shape and len(p) > 2 and all(x.min() >= 0 and abs(float(x.sum()) - 1) < 1e-4 for x in (p, q))
    expect(proper, "two distributions over the same words are asked for")
    wrong = suspect_emit(p, q, "union", 0.8, 2) != library_token(p, q, "union", 0.8, 2)
    expect(wrong, "in your case both emit the same token in Union, with α = 0.8 and c = 2")
    for name, target, draft, c in opinions():
        for scheme, alpha in (("union", 0.8), ("intersection", 0.3), ("union", 2.0), ("intersection", 0.9)):
            p, q = torch.tensor(target), torch.tensor(draft)
            wanted = library_token(p, q, scheme, alpha, c)
            same(ask(given, p, q, scheme, alpha, c), wanted, f"the token of {name} in {scheme} at α = {alpha}, c = {c}")
    for scheme, alpha, target, draft in TIED:
        p, q = torch.tensor(target), torch.tensor(draft)
        wanted = library_token(p, q, scheme, alpha, 3)
        same(
            ask(given, p, q, scheme, alpha, 3),
            wanted,
            f"the token of {target} and {draft} in {scheme} at α = {alpha}, c = 3",
        )


# ------------------------------------------------------------------------------------------------ a question that makes it insist


SURE = 0.9
"""The target's probability of a token on which it insists with confidence."""


@exercise(
    "03.4",
    "open",
    15,
    "The chapter's cases: a name that the draft cannot spell, words that it has never seen, a noun that it does not remember.",
    'What has to be copied from the question is hard for a small model: "Please say: …".',
    of=2,
)
def insisting_question(given: Any) -> str:
    """A question, of at most 30 words, at which the target insists although nobody attacks."""
    expect(isinstance(given, str), f"a question is a text, not {type(given).__name__}")
    expect(len(given.split()) <= 30, f"it has {len(given.split())} words, at most 30 are allowed")
    words: Sequence[str] = given.lower().split()
    shown = [item.question.lower() for item in world.questions("benign", 60)]
    expect(given.lower() not in shown and "candles" not in words, "find one that the chapter does not show")
    (reply,) = answer(embedded(), [given], max_new_tokens=40)
    assert reply.trace is not None
    lines = reply.trace.to_frame(embedded().tokenizer)
    expect("cannot help with that" not in reply.text, f"SSD refuses this one: {reply.text!r}")
    fired = lines[lines.insisted]
    expect(len(fired), f"the target never insists; the answer is {reply.text!r}")
    surest = fired.loc[fired.target_prob.idxmax()]
    said = f"it insists on {surest.text!r} where the draft wants {surest.proposal_text!r}, and gives it {surest.target_prob:.2f}"
    if surest.target_prob < SURE:
        raise Wrong(f"{said}: find one of which it is sure ({SURE} or more)", points=1)
    return said
