"""GCG: a suffix that makes a model begin an answer which it was trained to refuse.

Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models" (arXiv 2307.15043), section 2
and algorithm 1. For a question with suffix x and the beginning y of the wanted answer, the loss is

    L(x) = − (1/H) Σ_i log p(y_i | question, x, y_<i)                                                     (their eq. 2)

A step takes the gradient of L with respect to the one-hot vector of every suffix token, keeps the k tokens with the
largest negative gradient at each place, replaces one random place by one of them in B copies, computes L of all copies
exactly and goes on with the best. Two conditions keep the attack one that can be *typed*: special and unprintable tokens
are never proposed, and a copy counts only if its text, in the rendered prompt, is encoded to the same tokens again.

Losses for attacks on target and draft at once stand in `gcg_loss`.

`nanogcg` 0.3.0 was tried instead: it asks for transformers ≤ 4.47, indexes its prefix cache as transformers 5 does not
allow, drops the embedded template's BOS and may propose its header tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.attacks.gcg_loss import FailingProblem, Gradient, JointProblem, MatchingProblem, Problem, Suffixes
from ssd_lib.defenders import answer
from ssd_lib.models.chat import encode_answer
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import Count, Positive, settings

DraftAim = Literal["begin", "match", "fail"]
"""What a joint suffix is to make the draft do: begin with the text as well, propose its first bins, or miss them."""


@settings
class GCGConfig:
    """Settings. Defaults are those of Zou et al. (section 3: 500 steps, B = 512, k = 256, a suffix of 20 "!")."""

    steps: Count = 500
    candidates: Positive = 512
    top_k: Positive = 256
    start: str = " !" * 20
    batch: Positive = 512
    """Candidates a forward; lower it where memory is short."""
    stop_early: bool = True
    """Stop when greedy decoding would begin with the whole target text."""
    seed: int = 0


@dataclass(frozen=True)
class Suffix:
    """The best suffix of a run: `question + text` is the attack. `reached`: greedy decoding begins with the target."""

    text: str
    loss: float
    steps: int
    reached: bool
    loss_history: list[float] = field(default_factory=list)


def propose(
    suffix: Sequence[int],
    gradient: Gradient,
    banned: Bool[Tensor, " vocab"],
    config: GCGConfig,
    generator: torch.Generator,
) -> Suffixes:
    """Copies of the suffix with one random place replaced by one of its k most promising tokens (algorithm 1)."""
    k = min(config.top_k, int((~banned).sum()))
    promising = (-gradient.masked_fill(banned, torch.inf)).topk(k, dim=1).indices.cpu()
    rows = torch.arange(config.candidates)
    places = torch.randint(len(suffix), (config.candidates,), generator=generator)
    picks = torch.randint(k, (config.candidates,), generator=generator)
    proposed = torch.tensor(list(suffix)).repeat(config.candidates, 1)
    proposed[rows, places] = promising[places, picks]
    return proposed


def best(problem: Problem | JointProblem, suffixes: Suffixes, batch: int) -> tuple[float, list[int], bool]:
    """(loss, tokens, whether greedy decoding begins with the target) of the suffix with the lowest loss."""
    losses, reached = problem.weigh(suffixes, batch)
    i = int(losses.argmin())
    return float(losses[i]), suffixes[i].tolist(), bool(reached[i])


def optimise_suffix(
    pair_or_model: Pair | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    question: str,
    target_text: str | Sequence[int],
    config: GCGConfig = GCGConfig(),  # noqa: B008 (frozen)
    *,
    chat_format: str | None = None,
    draft_weight: float = 0.0,
    draft_aim: DraftAim = "begin",
    bins: int = 1,
    project: bool = False,
    progress: bool = True,
) -> Suffix:
    """Optimise a suffix for one question (Zou et al. 2023, algorithm 1).

    Args:
        pair_or_model: A pair, whose target is attacked with its own tokenizer and template, or a model.
        tokenizer: Of a model; None for a pair.
        question: What the suffix is appended to.
        target_text: The beginning of the wanted answer ("Sure, here is …"), as text or token ids.
        config: Settings of the search.
        chat_format: Of a model: a known chat template, for a tokenizer without one of its own.
        draft_weight: The weight w of the draft in the joint loss of a pair's target and draft; 0 attacks the target alone.
        draft_aim: What the draft is to do.
        bins: How many bins of the scheduler are to match ("match") or fail ("fail"): the target itself continues the text to
            their end.
        project: Let the draft's gradient, `without` the target's, choose the tokens that are tried.
        progress: Show a tqdm bar.

    Raises:
        ValueError: For an empty target text, a model without its tokenizer, a start that the tokenizer merges, a
            draft_weight outside 0 … 1 or without a pair, or project without a draft_weight.
    """
    if not target_text:
        raise ValueError("target_text is empty: give the beginning of the answer that the attack aims for")
    if project and not draft_weight:
        raise ValueError("project needs a draft_weight: there is no other gradient to project off")
    asked = question, target_text, config.start
    if isinstance(pair_or_model, Pair):
        problem = _against_pair(pair_or_model, asked, draft_weight, draft_aim, bins, project)
    elif tokenizer is None:
        raise ValueError("a model alone needs tokenizer=")
    elif draft_weight:
        raise ValueError("draft_weight needs a pair: a model alone has no draft")
    else:
        problem = Problem(pair_or_model, tokenizer, *asked, chat_format)
    return _descend(problem, config, progress)


def _against_pair(
    pair: Pair,
    asked: tuple[str, str | Sequence[int], str],
    draft_weight: float,
    aim: DraftAim,
    bins: int,
    project: bool,
) -> Problem | JointProblem:
    """The target's problem, joined with the draft's where that has a weight."""
    question, text, start = asked
    tokens = bins * pair.config.bin_size
    if draft_weight and aim == "match":
        text = continued(pair, question, text, tokens)
    target = Problem(pair.target, pair.tokenizer, question, text, start, pair.spec.target_format)
    if not draft_weight:
        return target
    kind = {"begin": Problem, "match": MatchingProblem, "fail": FailingProblem}[aim]
    draft = kind(pair.draft, pair.draft_tokenizer, question, text, start, pair.spec.draft_format)
    if isinstance(draft, MatchingProblem):
        draft.tokens = tokens
    if isinstance(draft, FailingProblem):
        draft.bin_size, draft.threshold = pair.config.bin_size, pair.config.threshold
    return JointProblem(target, draft, draft_weight, project)


def continued(pair: Pair, question: str, text: str | Sequence[int], tokens: int) -> list[int]:
    """The text's ids, continued by the undefended target to at least so many tokens or its end, which is left out."""
    ids = encode_answer(pair.tokenizer, text)
    missing = tokens - len(ids)
    if missing < 1:
        return ids
    more = answer(pair, question, defender="none", prefill=ids, max_new_tokens=missing)[0].token_ids
    return ids + [token for token in more if token not in pair.tokenizer.all_special_ids]


def _descend(problem: Problem | JointProblem, config: GCGConfig, progress: bool) -> Suffix:
    generator = torch.Generator().manual_seed(config.seed)
    loss, current, reached = best(problem, torch.tensor([problem.start]), config.batch)
    found, history = Suffix(problem.text(current), loss, 0, reached), [loss]
    for step in tqdm(range(1, config.steps + 1), desc="GCG", unit="step", disable=not progress, leave=False):
        if config.stop_early and found.reached:
            break
        proposed = propose(current, problem.gradient(current), problem.banned, config, generator)
        proposed = proposed[problem.typed(proposed)]
        if len(proposed) == 0:
            continue
        loss, current, reached = best(problem, proposed, config.batch)
        history.append(loss)
        if (not reached, loss) < (not found.reached, found.loss):
            found = Suffix(problem.text(current), loss, step, reached)
    return replace(found, loss_history=history)
