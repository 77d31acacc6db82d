"""GCG: a suffix that makes a model begin the answer which it was trained to refuse.

Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models" (arXiv 2307.15043), section 2
and algorithm 1. For a question with suffix x and the beginning y of the wanted answer, the loss is

    L(x) = − (1/H) Σ_i log p(y_i | question, x, y_<i)                                                     (their eq. 2)

A step takes the gradient of L with respect to the one-hot vector of every suffix token, keeps the k tokens with the
largest negative gradient at each place, replaces one random place by one of them in B copies, computes L of all copies
exactly and goes on with the best. Two conditions keep the attack one that can be *typed*: special and unprintable tokens
are never proposed, and a copy counts only if its text, in the rendered prompt, is encoded to the same tokens again.

`nanogcg` 0.3.0 was tried instead: it asks for transformers ≤ 4.47, indexes its prefix cache as transformers 5 does not
allow, drops the embedded template's BOS and may propose its header tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.chat import decode_answer, encode_answer, encode_prompt, render_prompt
from ssd_lib.pairs import Pair


@dataclass(frozen=True)
class GCGConfig:
    """Settings. Defaults are those of Zou et al. (section 3: 500 steps, B = 512, k = 256, a suffix of 20 "!")."""

    steps: int = 500
    candidates: int = 512
    top_k: int = 256
    start: str = " !" * 20
    batch: int = 512
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


class Problem:
    """One question, one wanted beginning: the loss of suffixes and its gradient.

    The prompt is cut at the suffix: what stands before it is computed once and cached. Raises ValueError where the
    start is not encoded on its own (the tokenizer merges it with what stands beside it).
    """

    MARK = "⟨suffix⟩"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        question: str,
        target_text: str,
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
        """Tokens before, in and behind the suffix, by where their text stands: pieces encoded alone may differ."""
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

    def typed(self, suffixes: Int[Tensor, "rows length"]) -> Bool[Tensor, " rows"]:
        """Whether each suffix, typed as text behind the question, comes back as the same tokens."""
        ids = suffixes.tolist()
        texts = [self.text(row) for row in ids]
        encoded = self.tokenizer(
            [self.before_text + text + self.after_text for text in texts], add_special_tokens=False
        )["input_ids"]
        wanted = [[*self.before[self.bos_count :], *row, *self.after] for row in ids]
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

    def gradient(self, suffix: Sequence[int]) -> Float[Tensor, "length vocab"]:
        """∂L/∂(one-hot): the gradient of the embeddings, times the embedding matrix."""
        embeddings = self.embed(torch.tensor([list(suffix)], device=self.device)).detach().requires_grad_()
        loss = self.loss(self.logits(embeddings)).sum()
        return torch.autograd.grad(loss, embeddings)[0][0].float() @ self.embed.weight.detach().float().T

    @torch.no_grad()
    def best(self, suffixes: Int[Tensor, "rows length"], batch: int) -> tuple[float, list[int], bool]:
        """(loss, tokens, whether greedy decoding begins with the target) of the suffix with the lowest loss."""
        losses, reached = [], []
        for part in suffixes.to(self.device).split(batch):
            logits = self.logits(self.embed(part))
            losses.append(self.loss(logits))
            reached.append((logits.argmax(dim=-1) == torch.tensor(self.target, device=self.device)).all(dim=1))
        found = torch.cat(losses)
        i = int(found.argmin())
        return float(found[i]), suffixes[i].tolist(), bool(torch.cat(reached)[i])


def banned_tokens(tokenizer: PreTrainedTokenizerBase, vocab: int) -> Bool[Tensor, " vocab"]:
    """Tokens that a suffix never holds: special ones, rows of the embedding without a token, unprintable and non-ASCII."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())  # pyright: ignore[reportOptionalCall]
    texts = tokenizer.batch_decode([[i] for i in range(min(vocab, len(tokenizer)))])
    allowed = [
        i not in special and text.isascii() and text.isprintable() and text != "" for i, text in enumerate(texts)
    ]
    return ~torch.tensor(allowed + [False] * (vocab - len(allowed)))


def propose(
    suffix: Sequence[int],
    gradient: Float[Tensor, "length vocab"],
    banned: Bool[Tensor, " vocab"],
    config: GCGConfig,
    generator: torch.Generator,
) -> Int[Tensor, "candidates length"]:
    """Copies of the suffix with one random place replaced by one of its k most promising tokens (algorithm 1)."""
    k = min(config.top_k, int((~banned).sum()))
    promising = (-gradient.masked_fill(banned, torch.inf)).topk(k, dim=1).indices.cpu()
    rows = torch.arange(config.candidates)
    places = torch.randint(len(suffix), (config.candidates,), generator=generator)
    picks = torch.randint(k, (config.candidates,), generator=generator)
    proposed = torch.tensor(list(suffix)).repeat(config.candidates, 1)
    proposed[rows, places] = promising[places, picks]
    return proposed


def optimise_suffix(
    pair_or_model: Pair | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    question: str,
    target_text: str,
    config: GCGConfig = GCGConfig(),
    *,
    chat_format: str | None = None,
    progress: bool = True,
) -> Suffix:
    """Optimise a suffix for one question against a pair's target (its tokenizer and template are taken) or a model.

    target_text is the beginning of the wanted answer ("Sure, here is …"). Returns the best suffix of all steps.

    Raises ValueError for an empty target text, a model without its tokenizer, or a start that the tokenizer merges.
    """
    if isinstance(pair_or_model, Pair):
        pair = pair_or_model
        model, tokenizer, chat_format = pair.target, pair.tokenizer, pair.spec.target_format
    else:
        model = pair_or_model
    if tokenizer is None:
        raise ValueError("a model alone needs tokenizer=")
    if not target_text:
        raise ValueError("target_text is empty: give the beginning of the answer that the attack aims for")
    problem = Problem(model, tokenizer, question, target_text, config.start, chat_format)
    return _descend(problem, config, progress)


def _descend(problem: Problem, config: GCGConfig, progress: bool) -> Suffix:
    generator = torch.Generator().manual_seed(config.seed)
    loss, current, reached = problem.best(torch.tensor([problem.start]), config.batch)
    found, history = Suffix(problem.text(current), loss, 0, reached), [loss]
    for step in tqdm(range(1, config.steps + 1), desc="GCG", unit="step", disable=not progress, leave=False):
        if config.stop_early and found.reached:
            break
        proposed = propose(current, problem.gradient(current), problem.banned, config, generator)
        proposed = proposed[problem.typed(proposed)]
        if len(proposed) == 0:
            continue
        loss, current, reached = problem.best(proposed, config.batch)
        history.append(loss)
        if (not reached, loss) < (not found.reached, found.loss):
            found = Suffix(problem.text(current), loss, step, reached)
    return replace(found, loss_history=history)
