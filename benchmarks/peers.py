"""Every way to decode that the benchmark compares, as one function each: (workload) → tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.published import published_loop
from ssd_lib.cached_model import CachedModel
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate

PUBLISHED_LOOKAHEAD = 3


@dataclass(frozen=True)
class Workload:
    """One prompt [1, length] (or a batch), a pair and a number of tokens; no end-of-sequence token."""

    name: str
    target: PreTrainedModel
    draft: PreTrainedModel
    ids: Tensor
    new_tokens: int
    config: SSDConfig = SSDConfig()  # noqa: RUF009 (frozen)
    draft_ids: Tensor | None = None


def ours(work: Workload, **settings: object) -> list[int]:
    """ssd_generate, no trace; settings replace those of the workload's config."""
    output = ssd_generate(
        work.target,
        work.draft,
        work.ids,
        draft_input_ids=work.draft_ids,
        config=replace(work.config, **settings),
        max_new_tokens=work.new_tokens,
        eos_token_id=[],
        trace=False,
    )
    return output.sequences[0].tolist()


def generate(work: Workload, **settings: object) -> list[int]:
    """The target's own greedy `generate`."""
    answer = work.target.generate(
        work.ids,
        attention_mask=torch.ones_like(work.ids),
        do_sample=False,
        min_new_tokens=None,
        max_new_tokens=work.new_tokens,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    )
    return answer[0, work.ids.shape[1] :].tolist()


def assisted(work: Workload) -> list[int]:
    """transformers' assisted generation with the same draft, its own defaults (a schedule of its own for T)."""
    return generate(work, assistant_model=work.draft)


def published(work: Workload) -> list[int]:
    """The published loop, with the paper's lookahead."""
    config = replace(work.config, lookahead=PUBLISHED_LOOKAHEAD)
    return published_loop(work.target, work.draft, work.ids, config, work.new_tokens)


@torch.inference_mode()
def bare_forwards(work: Workload, schedule: tuple[tuple[int, int, int], ...]) -> float:
    """Seconds of nothing but the forwards that these rounds need: the prompts, draft steps and one target pass each.

    Masks and positions are made outside the clock; the caches grow as they did in the run.
    """
    seconds = 0.0

    def timed(model: CachedModel, count: int) -> None:
        nonlocal seconds
        tokens = torch.zeros(1, count, dtype=torch.long)
        positions, mask = model.cache.prepare(count), model.cache.mask(count)
        begun = time.perf_counter()
        model.call(tokens, mask, positions, model.cache, 0)
        seconds += time.perf_counter() - begun
        model.cache.advance(count)

    slots = work.ids.shape[1] + work.new_tokens + max(t for t, _, _ in schedule)
    length = torch.tensor([work.ids.shape[1]])
    begun = time.perf_counter()
    target, draft = (CachedModel(model, work.ids, length, slots) for model in (work.target, work.draft))
    seconds += time.perf_counter() - begun
    used = work.ids.shape[1]
    for lookahead, steps, emitted in schedule:
        for model in (target, draft):
            model.cache.show_up_to(used + lookahead)
        for _ in range(steps):
            timed(draft, 1)
        timed(target, lookahead)
        target.cache.rewind(lookahead - emitted)
        draft.cache.rewind(steps - emitted)
        used += emitted
    return seconds


Peer = Callable[[Workload], list[int]]


def interleaved(work: Workload, peers: dict[str, Peer], repeats: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of every run, the peers taking turns so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(max(repeats.values())):
        for name, peer in peers.items():
            if turn < repeats[name]:
                begun = time.perf_counter()
                peer(work)
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2
