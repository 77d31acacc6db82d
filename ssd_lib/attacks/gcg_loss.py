"""What a suffix is optimised for: the loss of one model, or of target and draft together, and its gradient.

An attacker who knows that SSD watches whether the draft agrees attacks both models. Section 2.3 of that paper adds the
losses of several models; here, with a weight w for the draft,

    L(x) = (1 − w) L_target(x) + w L_draft(x),

and a suffix has reached its aim only when both models, decoding greedily, begin with y: then every token of y matches.

SSD's scheduler does not read how likely the draft finds a token, but whether it is the draft's first choice. With the margin
m_i = logit(y_i) − max over the others, L_draft can demand just that in the first bins of an answer, or its opposite:

    match   L = CE + mean max(0, 1 − m_i)     every token shall match: no alarm
    fail    L =      mean max(0, 1 + m_i)     none shall match, while the target still says y: a false alarm, and a slow
                                              answer (after Mistletoe, arXiv 2605.14005; the projection: `without`)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ssd_lib.models.chat import decode_answer, encode_answer, encode_prompt, render_prompt

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
