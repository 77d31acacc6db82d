"""SecDecoding (Wang et al., Findings of EMNLP 2025, 1118): a small expert and its small base steer the target.

The expert is the base after safety tuning, so what tuning changed about the next token is P_e − P_b, and that is added to
the target's own probabilities:

    F(x) = P_M(x) + α_k (P_e(x) − P_b(x))          α_k = α · (1 − e^(−γD)) · e^(−β(k−1))

for the k-th token. D = Σ |P_e(x) − P_b(x)| over the tokens that are likely in either small model (p ≥ 0.05) and belong to
the words of refusing or agreeing: no difference there, no steering. argmax F is emitted, over the whole vocabulary. Once
α_k is practically 0 the target goes on alone for good, which on harmless questions is after one token.

This is SSD's composite with the draft as expert, but measured against the draft's own base instead of the target, and without
a scheduler: the strength follows the two small models and decays with k.

Confirmed in the authors' code (github.com/lddis666/SecDecoding, commit 3658682, `utils/safe_decoding.py`): the formulas,
every default below, the end of steering, the plain sum in D (the paper's text could not be read beside it). Ours: the
words, since theirs (130 of them, some joined by a missing comma) are encoded without the blank before them; and no
speculation, which there changes the time and not the tokens, so costs are those of the plain loop.
The embedded pair ships no draft without any alignment: its shallowly aligned control is the base there.
"""

from __future__ import annotations

import time

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ssd_lib.defenders.base import Answer, Request, answers_of, other_model
from ssd_lib.models.chat import encode_answer
from ssd_lib.models.inference import Pass, Rows, generation_settings, stops_of, until_eos
from ssd_lib.models.pairs import Pair, PairSpec, check_vocabularies
from ssd_lib.models.refusals import REFUSALS
from ssd_lib.settings import NotNegative, Share
from ssd_lib.settings import settings as checked

AGREEING = ("Sure", "sure", "Here", "here", "To", "Certainly", "Of course", "can", "help", "provide", "write", "First")
"""How an answer begins that does not refuse: the published list holds such words beside those of refusals."""


@checked
class SecDecodingSettings:
    """The defaults of the authors' code."""

    alpha: NotNegative = 10.0
    """α: the strength of the first token; 0 is the target alone."""
    sensitivity: NotNegative = 10.0
    """γ: how soon a difference between the small models counts in full."""
    decay: NotNegative = 0.05
    """β: how fast the strength falls with the answer's length."""
    likely: Share = 0.05
    """Only tokens with this probability in either small model count in D."""
    negligible: Share = 1e-6
    """α_k below which the target goes on alone."""
    words: tuple[str, ...] = (*REFUSALS["individual"], *AGREEING)
    """Their tokens, with and without a blank before them, count in D."""
    base: str | None = None
    """The expert before its safety tuning: a name, folder or Hub id; None: the pair's own."""


def secdecoding(pair: Pair, request: Request, settings: SecDecodingSettings) -> list[Answer]:
    """SecDecoding, batched and cached; greedy. The pair's draft is the expert.

    Raises:
        ValueError: Where no base is known for the pair, or the base has another vocabulary.
    """
    base = other_model(base_name(pair.spec, settings), device=pair.draft.device, dtype=pair.draft.dtype)
    check_vocabularies(pair.draft_tokenizer, base.tokenizer)
    prompts = pair.encode(request.questions, request.prefills)
    started, in_force = time.perf_counter(), generation_settings(pair.target, vocab_size=pair.vocab_size)
    # What the target's generation config asks of scores is asked of all three models, in view of their own ids.
    target, expert, before = (
        Rows(model, prompts[f"{whose}input_ids"], prompts[f"{whose}attention_mask"], in_force, request.max_new_tokens)
        for model, whose in ((pair.target, ""), (pair.draft, "draft_"), (base.model, "draft_"))
    )
    steered = _steered(pair, target, expert, before, request.max_new_tokens, settings)
    rest = _alone(pair, target, steered, request.max_new_tokens - steered.shape[1])
    ids = [until_eos(row, pair.target) + more for row, more in zip(steered.tolist(), rest, strict=True)]
    rows, none, seconds = list(range(len(ids))), [[] for _ in ids], time.perf_counter() - started
    lengths, small = (prompts[name].sum(dim=1).tolist() for name in ("attention_mask", "draft_attention_mask"))
    steps = steered.shape[1]
    passes = [
        Pass("target", rows, ids, lengths, steps + max(map(len, rest)), seconds),
        Pass("draft", rows, none, small, steps, 0.0),
        Pass("other", rows, none, small, steps, 0.0),
    ]
    return answers_of(pair, request, ids, passes)


def base_name(spec: PairSpec, settings: SecDecodingSettings) -> str:
    """Which model is the base. Raises ValueError, with what to do, where none is known."""
    name = settings.base or spec.draft_base
    if name is None:
        raise ValueError(
            f"SecDecoding needs the small model that the draft was before its safety tuning, and the pair {spec.name!r} "
            "names none: set base=PATH or a Hub id"
        )
    return name


@torch.inference_mode()
def _steered(
    pair: Pair, target: Rows, expert: Rows, base: Rows, max_new_tokens: int, settings: SecDecodingSettings
) -> Int[Tensor, "rows k"]:
    """Tokens until no row is steered any more, or all have ended; what ended rows go on to write is not read."""
    words, prompt = word_tokens(pair.tokenizer, settings.words), target.ids.shape[1]
    stops = torch.tensor(sorted(stops_of(pair.target)), dtype=torch.long, device=target.ids.device)
    on = torch.ones(target.ids.shape[0], dtype=torch.bool, device=target.ids.device)
    for step in range(1, max_new_tokens + 1):
        probs = [model.probs().to(on.device) for model in (target, expert, base)]
        alpha = strength(*probs[1:], words, step, settings).masked_fill(~on, 0)
        token = steer(*probs, alpha)
        for model in (target, expert, base):
            model.append(token.unsqueeze(-1))
        on = on & (alpha >= settings.negligible) & ~torch.isin(token, stops)
        if not on.any():
            break
    return target.ids[:, prompt:]


def steer(
    target: Float[Tensor, "rows vocab"],
    expert: Float[Tensor, "rows small"],
    base: Float[Tensor, "rows small"],
    alpha: Float[Tensor, " rows"],
) -> Int[Tensor, " rows"]:
    """argmax F; an embedding may have rows that another model's lacks, and only what all share is steered."""
    width = min(probs.shape[-1] for probs in (target, expert, base))
    scores = target.clone()
    scores[:, :width] += alpha.to(target.dtype).unsqueeze(-1) * (expert[:, :width] - base[:, :width])
    return scores.argmax(dim=-1)


def strength(
    expert: Float[Tensor, "rows vocab"],
    base: Float[Tensor, "rows vocab"],
    words: Int[Tensor, " words"],
    step: int,
    settings: SecDecodingSettings,
) -> Float[Tensor, " rows"]:
    """α_k of every row for its `step`-th token (from 1)."""
    ours, theirs = (probs[:, words.to(probs.device)] for probs in (expert, base))
    counted: Bool[Tensor, "rows words"] = (ours >= settings.likely) | (theirs >= settings.likely)
    distance = (ours - theirs).abs().masked_fill(~counted, 0).sum(dim=-1).double()
    grown = 1 - torch.exp(-settings.sensitivity * distance)
    return settings.alpha * grown * torch.exp(torch.tensor(-settings.decay * (step - 1), dtype=torch.float64))


def word_tokens(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> Int[Tensor, " words"]:
    """Every token of these words, as they stand at the beginning of a text and after a blank."""
    forms = [before + word for word in words for before in ("", " ")]
    return torch.tensor(sorted({i for form in forms for i in encode_answer(tokenizer, form)}), dtype=torch.long)


def _alone(pair: Pair, target: Rows, steered: Tensor, max_new_tokens: int) -> list[list[int]]:
    """The target's own greedy continuation of each row that has not ended, over what stands in its cache."""
    stops = stops_of(pair.target)
    rest: list[list[int]] = [[] for _ in steered]
    going = [i for i, row in enumerate(steered.tolist()) if stops.isdisjoint(row)]
    if max_new_tokens > 0 and going:
        target.keep(going)
        for i, more in zip(going, target.greedy(pair.tokenizer, max_new_tokens), strict=True):
            rest[i] = more
    return rest
