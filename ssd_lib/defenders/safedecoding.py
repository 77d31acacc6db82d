"""SafeDecoding (Xu et al. 2024, arXiv 2402.08983): an expert steers the first tokens, then the target goes on alone.

The expert is the target with a LoRA adapter that was tuned to refuse. For the first m tokens, with the target's and the
expert's probabilities P_n and P_e,

    V = TopK_n(k) ∩ TopK_e(k), k the smallest with |V| ≥ c          P(x) = P_n(x) + α (P_e(x) − P_n(x))        (section 4)

and argmax P over V is emitted: SSD's Intersection without its second rule, with the expert in the draft's place. Both
models are one batch of one forward, since peft lets every row choose its adapter; the cache of the target's rows is
handed to its own `generate` for the rest.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.defenders.base import Answer, Request, answers_of, target_of
from ssd_lib.method.composite import choose_greedy, composite, intersection_space, rank_tokens
from ssd_lib.models.chat import pad_left
from ssd_lib.models.inference import (
    SHAPING,
    GenerationSettings,
    Pass,
    Rows,
    check_room,
    generation_settings,
    greedy,
    logits_processors,
    padding,
    until_eos,
)
from ssd_lib.models.loading import adapter_at
from ssd_lib.models.pairs import Pair
from ssd_lib.settings import Number, Positive
from ssd_lib.settings import settings as checked

TARGET, EXPERT = "__base__", "expert"  # "__base__" is peft's name for a row without adapter


@checked
class SafeDecodingSettings:
    """The published defaults (exp/defense.py). `expert`: the adapter's folder or Hub id; None: the pair's own."""

    alpha: Number = 3.0
    first_m: Positive = 2
    num_common_tokens: Positive = 5
    top_k: Positive = 10
    """Kept for the published interface, where it bounds a log line alone; the sample space has no upper bound."""
    expert: str | None = None


def safedecoding(pair: Pair, request: Request, settings: SafeDecodingSettings) -> list[Answer]:
    """SafeDecoding, batched and cached; greedy."""
    source = adapter_at(settings.expert or pair.spec.expert)
    prompts = target_of(pair).encode(request.questions, request.prefills)
    rows, lengths = list(range(len(prompts))), list(map(len, prompts))
    check_room("safedecoding's prompt", pair.target, max(lengths), request.max_new_tokens)
    in_force = generation_settings(pair.target, vocab_size=pair.vocab_size)
    ids, mask = (tensor.to(pair.target.device) for tensor in pad_left(prompts, pair.tokenizer.pad_token_id))
    started = time.perf_counter()
    first_m = min(settings.first_m, request.max_new_tokens)
    with expert_on(pair.target, source) as model, torch.inference_mode():
        opening, begun = _steered(model, ids, mask, first_m, settings, in_force, request.max_new_tokens)
    rest = _continued(pair, begun, ids.shape[1], request.max_new_tokens)
    answers = [until_eos(row, pair.target) for row in torch.cat([opening, rest], dim=1).tolist()]
    seconds = time.perf_counter() - started
    target = Pass("target", rows, answers, lengths, first_m + rest.shape[1], seconds)
    expert = Pass("other", rows, [[] for _ in rows], lengths, first_m, 0.0)
    return answers_of(pair, request, answers, [target, expert])


@contextmanager
def expert_on(target: PreTrainedModel, source: str) -> Iterator[PeftModel]:
    """The target with the expert's adapter attached; taken off again afterwards, whatever happens."""
    with warnings.catch_warnings():  # peft asks the model for a name that transformers is about to change
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(target, source, adapter_name=EXPERT, use_safetensors=True).eval()
    try:
        yield model
    finally:
        model.unload()


def _steered(
    model: PeftModel,
    ids: Int[Tensor, "rows length"],
    mask: Int[Tensor, "rows length"],
    first_m: int,
    settings: SafeDecodingSettings,
    in_force: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    max_new_tokens: int | None = None,
) -> tuple[Int[Tensor, "rows m"], Rows]:
    """The first tokens, and the target's rows with them. One forward a token carries both models' rows.

    What the target's generation config does to scores is done to those of both models, before the softmax.
    """
    count, both = ids.shape[0], Rows(model, ids.repeat(2, 1), mask.repeat(2, 1), in_force, max_new_tokens)
    for _ in range(first_m):
        probs = both.probs(adapter_names=[TARGET] * count + [EXPERT] * count)
        both.append(steer(probs[:count], probs[count:], settings).repeat(2).unsqueeze(-1))
    both.keep(range(count))
    return both.ids[:, ids.shape[1] :], both


def steer(
    target_probs: Float[Tensor, "rows vocab"], expert_probs: Float[Tensor, "rows vocab"], settings: SafeDecodingSettings
) -> Int[Tensor, " rows"]:
    """The next token of every row from both models' probabilities."""
    target_ranks, expert_ranks = rank_tokens(target_probs), rank_tokens(expert_probs)
    space, _ = intersection_space(target_ranks, expert_ranks, settings.num_common_tokens)
    alpha = torch.full(target_probs.shape[:-1], settings.alpha, device=target_probs.device)
    scores = composite(target_probs, expert_probs, alpha)
    never = torch.zeros(target_probs.shape[:-1], dtype=torch.bool, device=target_probs.device)
    return choose_greedy(scores, space, target_ranks, never)


def _continued(pair: Pair, begun: Rows, prompt: int, max_new_tokens: int) -> Int[Tensor, "rows rest"]:
    """The target's own greedy continuation of what was begun after `prompt` columns, at most `max_new_tokens` in all.

    The opening counts as answer, not as prompt, for what a generation config says of an answer's length or beginning.
    """
    width = begun.ids.shape[1]
    left = max_new_tokens - (width - prompt)
    if left < 1:
        return begun.ids[:, :0]
    in_force = generation_settings(pair.target, vocab_size=pair.vocab_size)
    asked = {"attention_mask": begun.mask[:, :prompt], "prompt_ids": begun.ids[:, :prompt]}
    process = logits_processors(
        pair.target, in_force, prompt, in_force.eos_token_id, max_new_tokens=max_new_tokens, **asked
    )
    sequences = greedy(
        pair.target,
        begun.ids,
        begun.mask,
        max_new_tokens=left,
        past_key_values=begun.cache,
        pad_token_id=padding(pair.tokenizer),
        logits_processor=process,
        **dict.fromkeys(SHAPING, None),
    )
    return sequences[:, width:]
