"""The published algorithm's loop, reimplemented plainly: no KV cache, one prompt, Python sets to find the sample space.

It computes docs/contract.md's greedy decoder, so its tokens must equal ours (the benchmark asserts it). It reuses nothing:
every forward reads the whole sequence again, as the authors' code does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig

LOOKAHEAD = 3  # the paper's T


def next_probabilities(model: PreTrainedModel, ids: Tensor, count: int) -> Tensor:
    """Probabilities after each of the last `count` tokens, by a forward over the whole sequence."""
    return model(ids, use_cache=False).logits[0, -count:].float().softmax(-1)


def intersection(target_order: list[int], draft_order: list[int], wanted: int) -> tuple[set[int], int]:
    """TopK ∩ TopK for the smallest k that gives `wanted` tokens, found by growing both sets."""
    from_target, from_draft = set(), set()
    for k, (first, second) in enumerate(zip(target_order, draft_order, strict=True), start=1):
        from_target.add(first)
        from_draft.add(second)
        shared = from_target & from_draft
        if len(shared) >= wanted:
            return shared, k
    return from_target & from_draft, len(target_order)


def choose(target_probs: Tensor, draft_probs: Tensor, union: bool, alpha: float, config: SSDConfig) -> int:
    """The next token by the current scheme."""
    first, second = (p.sort(descending=True, stable=True).indices.tolist() for p in (target_probs, draft_probs))
    orders = first, second
    if union:
        space = set(orders[0][: config.candidates]) | set(orders[1][: config.candidates])
    else:
        space, k = intersection(*orders, config.candidates)
        if orders[0][0] not in set(orders[1][:k]):
            return orders[0][0]
    tokens = torch.tensor(sorted(space))
    score = target_probs[tokens] + alpha * (draft_probs[tokens] - target_probs[tokens])
    return int(tokens[score.argmax()])


@torch.inference_mode()
def published_loop(
    target: PreTrainedModel, draft: PreTrainedModel, ids: Tensor, config: SSDConfig, max_new_tokens: int
) -> list[int]:
    """Greedy SSD on one prompt [1, length] without an end-of-sequence token; returns `max_new_tokens` tokens."""
    union, threshold, alpha_i = config.first_scheme == "union", config.threshold, config.alpha_intersection
    answer: list[int] = []
    matches: list[bool] = []
    while len(answer) < max_new_tokens:
        sequence, draft_probs = ids, []
        for _ in range(LOOKAHEAD):
            draft_probs.append(next_probabilities(draft, sequence, 1)[0])
            sequence = torch.cat([sequence, draft_probs[-1].argmax().view(1, 1)], dim=1)
        target_probs = next_probabilities(target, sequence[:, :-1], LOOKAHEAD)
        for t in range(LOOKAHEAD):
            alpha = config.alpha_union if union else alpha_i
            token = choose(target_probs[t], draft_probs[t], union, alpha, config)
            matched = token == int(draft_probs[t].argmax())
            answer.append(token)
            matches.append(matched)
            ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
            if len(matches) % config.bin_size == 0:
                wants_union = sum(matches[-config.bin_size :]) / config.bin_size < threshold
                if wants_union != union:
                    threshold, alpha_i = config.threshold, config.alpha_intersection
                else:
                    threshold = max(threshold - config.threshold_decay, 0.0)
                    if not union:
                        alpha_i = min(alpha_i, max(alpha_i - config.alpha_decay, config.alpha_floor))
                union = wants_union
            if not matched or len(answer) == max_new_tokens:
                break
    return answer
