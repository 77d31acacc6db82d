"""GCG: a suffix that makes a model begin an answer which it was trained to refuse.

Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models" (arXiv 2307.15043), section 2
and algorithm 1. For a question with suffix x and the beginning y of the wanted answer, the loss is

    L(x) = − (1/H) Σ_i log p(y_i | question, x, y_<i)                                                     (their eq. 2)

A step takes the gradient of L with respect to the one-hot vector of every suffix token, keeps the k tokens with the
largest negative gradient at each place, replaces one random place by one of them in B copies, computes L of all copies
exactly and goes on with the best. Two conditions keep the attack one that can be *typed*: special and unprintable tokens
are never proposed, and a copy counts only if its text, in the rendered prompt, is encoded to the same tokens again.

An attacker who knows that SSD watches whether the draft agrees attacks both models. Section 2.3 of that paper adds the
losses of several models; here, with a weight w for the draft,

    L(x) = (1 − w) L_target(x) + w L_draft(x),

and a suffix has reached its aim only when both models, decoding greedily, begin with y: then every token of y matches.

SSD's scheduler does not read how likely the draft finds a token, but whether it is the draft's first choice. With the margin
m_i = logit(y_i) − max over the others, L_draft can demand just that in the first bins of an answer, or its opposite:

    match   L = CE + mean max(0, 1 − m_i)     every token shall match: no alarm
    fail    L =      mean max(0, 1 + m_i)     none shall match, while the target still says y: a false alarm, and a slow
                                              answer (after Mistletoe, arXiv 2605.14005; the projection: `without`)

`nanogcg` 0.3.0 was tried instead: it asks for transformers ≤ 4.47, indexes its prefix cache as transformers 5 does not
allow, drops the embedded template's BOS and may propose its header tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.defenders import answer
from ssd_lib.models.chat import decode_answer, encode_answer, encode_prompt, render_prompt
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import Count, Positive, settings

Suffixes = Int[Tensor, "rows length"]
Gradient = Float[Tensor, "length vocab"]


class Problem:
    """One question, one wanted beginning: the loss of suffixes and its gradient.

    The prompt is cut at the suffix: what stands before it is computed once and cached.

    Raises:
        ValueError: Where the start is not encoded on its own (the tokenizer merges it with the text beside it).
    """

    MARK = "⟨suffix⟩"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        question: str,
        target_text: str | Sequence[int],
        start: str,
        chat_format: str | None = None,
    ):
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.embed: Any = model.get_input_embeddings()
        rendered = render_prompt(tokenizer, question + self.MARK, chat_format=chat_format)
        self.before_text, self.after_text = rendered.split(self.MARK)
        before, self.start, self.after = self._cut(start)
        whole = encode_prompt(tokenizer, question + start, chat_format=chat_format)
        bos = whole[:1] if whole[0] != before[0] else []  # a rendered prompt comes without it
        self.before, self.bos_count = [*bos, *before], len(bos)
        if not self.start or not self.typed(torch.tensor([self.start]))[0]:
            raise ValueError(f"this tokenizer merges {start!r} with the text around it: choose another start=")
        self.target = encode_answer(tokenizer, target_text)
        self.banned = banned_tokens(tokenizer, self.embed.weight.shape[0]).to(self.device)
        self.tail = torch.tensor([self.after + self.target], device=self.device)
        self.cache = self._prefix_cache()

    def _cut(self, start: str) -> tuple[list[int], list[int], list[int]]:
        """Tokens before, in and after the suffix, by where their text stands: pieces encoded alone may differ."""
        text = self.before_text + start + self.after_text
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        begin, end = len(self.before_text), len(self.before_text + start)
        first, last = sum(stop <= begin for _, stop in spans), sum(stop <= end for _, stop in spans)
        return ids[:first], ids[first:last], ids[last:]

    @torch.no_grad()
    def _prefix_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        self.model(torch.tensor([self.before], device=self.device), past_key_values=cache, use_cache=True)
        return cache

    def text(self, suffix: Sequence[int]) -> str:
        return decode_answer(self.tokenizer, suffix, self.before)

    def typed(self, suffixes: Suffixes) -> Bool[Tensor, " rows"]:
        """Whether each suffix, typed as text after the question, comes back as the same tokens."""
        texts = [self.text(row) for row in suffixes.tolist()]
        prompts = [self.before_text + text + self.after_text for text in texts]
        encoded = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        wanted = [[*self.before[self.bos_count :], *row, *self.after] for row in suffixes.tolist()]
        # A template may trim a turn's end.
        return torch.tensor([a == b and t == t.rstrip() for a, b, t in zip(encoded, wanted, texts, strict=True)])

    def logits(self, embeddings: Float[Tensor, "rows length width"]) -> Float[Tensor, "rows target vocab"]:
        """What the model predicts at the places of the target text, for suffixes given as embeddings."""
        rows = embeddings.shape[0]
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        tail = self.embed(self.tail).expand(rows, -1, -1)
        output = self.model(inputs_embeds=torch.cat([embeddings, tail], dim=1), past_key_values=cache, use_cache=True)
        return output.logits[:, -len(self.target) - 1 : -1].float()

    def loss(self, logits: Float[Tensor, "rows target vocab"]) -> Float[Tensor, " rows"]:
        target = torch.tensor(self.target, device=logits.device).expand(logits.shape[0], -1)
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(dim=1)

    def reached(self, greedy: Bool[Tensor, "rows target"]) -> Bool[Tensor, " rows"]:
        """Whether a suffix did what it is for, from where the target text is the greedy choice."""
        return greedy.all(dim=1)

    def gradient(self, suffix: Sequence[int]) -> Gradient:
        """∂L/∂(one-hot): the gradient of the embeddings, times the embedding matrix."""
        embeddings = self.embed(torch.tensor([list(suffix)], device=self.device)).detach().requires_grad_()
        loss = self.loss(self.logits(embeddings)).sum()
        return torch.autograd.grad(loss, embeddings)[0][0].float() @ self.embed.weight.detach().float().T

    @torch.no_grad()
    def weigh(self, suffixes: Suffixes, batch: int) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The loss of every suffix, and whether greedy decoding begins with the target text; both on the CPU."""
        losses, reached = [], []
        for part in suffixes.to(self.device).split(batch):
            logits = self.logits(self.embed(part))
            losses.append(self.loss(logits))
            reached.append(self.reached(logits.argmax(dim=-1) == torch.tensor(self.target, device=self.device)))
        return torch.cat(losses).cpu(), torch.cat(reached).cpu()

    def margins(self, logits: Float[Tensor, "rows target vocab"]) -> Float[Tensor, "rows target"]:
        """By how much each token's logit in the target text exceeds the best other one; negative where it is lower."""
        places = torch.tensor(self.target, device=logits.device).expand(logits.shape[0], -1).unsqueeze(-1)
        others = logits.scatter(-1, places, -torch.inf).amax(dim=-1)
        return logits.gather(-1, places).squeeze(-1) - others


class MatchingProblem(Problem):
    """A draft that is to propose the first `tokens` of the target text itself."""

    tokens = 0

    def loss(self, logits: Float[Tensor, "rows target vocab"]) -> Float[Tensor, " rows"]:
        missing = F.relu(1 - self.margins(logits)[:, : self.tokens])
        return super().loss(logits) + missing.mean(dim=1)


class FailingProblem(Problem):
    """A draft that is to propose none of the target text; reached when no bin of it has a match ratio of `threshold`."""

    bin_size, threshold = 7, 0.6

    def loss(self, logits: Float[Tensor, "rows target vocab"]) -> Float[Tensor, " rows"]:
        return F.relu(1 + self.margins(logits)).mean(dim=1)

    def reached(self, greedy: Bool[Tensor, "rows target"]) -> Bool[Tensor, " rows"]:
        bins = [part for part in greedy.split(self.bin_size, dim=1) if part.shape[1] == self.bin_size]
        shares = torch.stack([part.float().mean(dim=1) for part in bins or [greedy]])
        return (shares < self.threshold).all(dim=0)


def banned_tokens(tokenizer: PreTrainedTokenizerBase, vocab: int) -> Bool[Tensor, " vocab"]:
    """Tokens that a suffix never holds: special ones, rows of the embedding without a token, unprintable and non-ASCII."""
    added: dict[str, int] = tokenizer.get_added_vocab()  # pyright: ignore[reportOptionalCall, reportCallIssue]: no stub
    special = set(tokenizer.all_special_ids) | set(added.values())
    texts = tokenizer.batch_decode([[i] for i in range(min(vocab, len(tokenizer)))])
    typed = [i not in special and text.isascii() and text.isprintable() and text != "" for i, text in enumerate(texts)]
    return ~torch.tensor(typed + [False] * (vocab - len(typed)))


# ------------------------------------------------------------------------------------------------ both models at once


class JointProblem:
    """The same question for target and draft: L = (1 − w) L_target + w L_draft; reached when both have reached theirs.

    A suffix is tokens of the vocabulary that both models share; `project` takes the draft's gradient `without` the target's.

    Raises:
        ValueError: For a weight outside 0 … 1, or where the two tokenizers encode the start differently.
    """

    def __init__(self, target: Problem, draft: Problem, draft_weight: float, project: bool = False):
        if not 0 <= draft_weight <= 1:
            raise ValueError(f"draft_weight must lie between 0 and 1, not {draft_weight!r}")
        if target.start != draft.start:
            raise ValueError("the two tokenizers encode the start differently: choose another start=")
        self.parts, self.project = ((target, 1 - draft_weight), (draft, draft_weight)), project
        self.start, self.text = target.start, target.text
        self.banned = target.banned | shaped_like(draft.banned, target.banned)

    def typed(self, suffixes: Suffixes) -> Bool[Tensor, " rows"]:
        """Whether each suffix comes back as the same tokens in both prompts."""
        (target, _), (draft, _) = self.parts
        return target.typed(suffixes) & draft.typed(suffixes)

    def gradient(self, suffix: Sequence[int]) -> Gradient:
        """The weighted sum of both gradients, or the draft's without the target's (`project`), on the target's device."""
        (target, kept), (draft, weight) = self.parts
        ours = target.gradient(suffix)
        theirs = shaped_like(draft.gradient(suffix), ours)
        return without(theirs, ours) if self.project else kept * ours + weight * theirs

    def weigh(self, suffixes: Suffixes, batch: int) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The weighted loss of every suffix, and whether it did what it is for with both models."""
        (target, kept), (draft, weight) = self.parts
        (ours, begins), (theirs, agrees) = target.weigh(suffixes, batch), draft.weigh(suffixes, batch)
        return kept * ours + weight * theirs, begins & agrees


def without(gradient: Gradient, kept: Gradient) -> Gradient:
    """A gradient less its part along another one, so that a small step leaves the other's loss as it is:

        g = g_draft − (⟨g_draft, g_target⟩ / (‖g_target‖² + ε)) g_target

    This is Mistletoe's "null-space projection". The paper itself could not be read, but summaries of it: from the gradient of a
    rejection loss, the part along the gradient of a loss of semantic preservation is subtracted; then follows a discrete search,
    with a veto on suffixes whose KL divergence from the target's clean answer is too large. Not confirmed: ε, and the space. Here
    it is that of the one-hot vectors of the whole suffix, the only space that two models with embeddings of their own share. The
    search still takes the lowest joint loss, in which the target's loss stands in place of the veto.
    """
    return gradient - (gradient * kept).sum() / (kept.square().sum() + EPSILON) * kept


EPSILON = 1e-12  # finite where the target's loss is flat: nothing is subtracted then


def shaped_like(values: Tensor, pattern: Tensor) -> Tensor:
    """On the pattern's device, with as many columns: a model's embedding may have more rows than the vocabulary."""
    width = pattern.shape[-1]
    return F.pad(values.to(pattern.device)[..., :width], (0, max(0, width - values.shape[-1])))


# ------------------------------------------------------------------------------------------------ the search

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
