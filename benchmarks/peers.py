"""Every way to decode that the benchmark compares, as one function each: (workload) → tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.published import published_loop
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import SSDOutput, ssd_generate
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.kv_cache import VISIBLE_STEP

clock: Callable[[], float] = time.perf_counter
"""What every peer is timed with; `measure_cpu_time` replaces it."""


def measure_cpu_time() -> None:
    """Count the seconds that this process computes instead of those that pass: on a machine that others use, too."""
    global clock
    clock = time.process_time


FIXED_GUESSES = {
    "num_assistant_tokens": 2,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.0,
}


@dataclass(frozen=True)
class Workload:
    """One prompt [1, length], a pair and a number of tokens; no end-of-sequence token."""

    name: str
    target: PreTrainedModel
    draft: PreTrainedModel
    ids: Tensor
    new_tokens: int
    config: SSDConfig = SSDConfig()  # noqa: RUF009 (frozen)


def run_ours(work: Workload, streamer: Any = None, **settings: Any) -> SSDOutput:
    """ssd_generate without a trace; settings replace those of the workload's config."""
    return ssd_generate(
        work.target,
        work.draft,
        work.ids,
        config=replace(work.config, **settings),
        max_new_tokens=work.new_tokens,
        eos_token_id=[],
        streamer=streamer,
    )


def ours(work: Workload, streamer: Any = None, **settings: Any) -> list[int]:
    """The tokens of `run_ours`."""
    return run_ours(work, streamer, **settings).sequences[0].tolist()


def generate(work: Workload, **settings: Any) -> list[int]:
    """The target's own greedy `generate`."""
    answer = work.target.generate(
        work.ids,
        attention_mask=torch.ones_like(work.ids),
        do_sample=False,
        max_new_tokens=work.new_tokens,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    )
    return answer[0, work.ids.shape[1] :].tolist()


def assisted(work: Workload) -> list[int]:
    """transformers' assisted generation with the same draft, its own defaults (a schedule of its own for T)."""
    return generate(work, assistant_model=work.draft)


def assisted_fixed(work: Workload) -> list[int]:
    """Assisted generation with the best fixed number of guesses for the CPU at hand, whatever the draft's confidence.

    By default it stops guessing where the draft's favourite has less than 0.4, which a synthetic draft's never has.
    """
    settings = work.draft.generation_config
    before = {name: getattr(settings, name, None) for name in FIXED_GUESSES}
    try:
        settings.update(**FIXED_GUESSES)
        return assisted(work)
    finally:
        settings.update(**before)


def published(work: Workload) -> list[int]:
    """The published loop, with the paper's lookahead."""
    return published_loop(work.target, work.draft, work.ids, work.config, work.new_tokens)


@torch.inference_mode()
def bare_forwards(work: Workload, schedule: tuple[tuple[int, int, int], ...]) -> float:
    """Seconds of nothing but the forwards that these rounds need: the prompts, draft steps and one target pass each.

    Masks and positions are made outside the clock; the caches grow as they did in the run.
    """
    seconds = 0.0

    def timed(model: CachedModel, count: int) -> None:
        nonlocal seconds
        tokens = torch.zeros(1, count, dtype=torch.long)
        positions = model.cache.prepare(count)
        mask = model.cache.mask(positions)
        begun = clock()
        model.call(tokens, mask, positions, model.cache, 0)
        seconds += clock() - begun
        model.cache.advance(count)

    slots = work.ids.shape[1] + work.new_tokens + max(t for t, _, _ in schedule)
    length = torch.tensor([work.ids.shape[1]])
    begun = clock()
    target, draft = (CachedModel(model, work.ids, length, slots) for model in (work.target, work.draft))
    seconds += clock() - begun
    used = work.ids.shape[1]
    for lookahead, steps, emitted in schedule:
        for model in (target, draft):
            model.cache.show_up_to(used + lookahead)
        for _ in range(steps):
            timed(draft, 1)
        timed(target, lookahead)
        used += emitted
        for model in (target, draft):
            model.cache.lengths.fill_(used - 1)
    return seconds


@torch.inference_mode()
def attention_seconds(work: Workload, schedule: tuple[tuple[int, int, int], ...]) -> float:
    """Seconds of the attention products alone in these rounds: every layer's keys and values at this context, both models.

    Keys and values lie as in our cache (`RowCache`: slots before heads), since that decides how fast they are read.
    """
    seconds, context = 0.0, work.ids.shape[1] + work.new_tokens // 2
    context = -(-context // VISIBLE_STEP) * VISIBLE_STEP
    for model, calls in (
        (work.draft, [1] * sum(s for _, s, _ in schedule)),
        (work.target, [t for t, _, _ in schedule]),
    ):
        shape = model.config
        size = shape.hidden_size // shape.num_attention_heads
        lines = 2, 1, context, shape.num_attention_heads, size
        stores = [torch.randn(lines).transpose(2, 3) for _ in range(shape.num_hidden_layers)]
        for new in calls:
            query = torch.randn(1, shape.num_attention_heads, new, size)
            mask = torch.ones(1, 1, new, context, dtype=torch.bool)
            begun = clock()
            for keys, values in stores:
                torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            seconds += clock() - begun
    return seconds


Peer = Callable[[Workload], list[int]]


def interleaved(work: Workload, peers: dict[str, Peer], repeats: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of every run, the peers taking turns so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(max(repeats.values())):
        for name, peer in peers.items():
            if turn < repeats[name]:
                begun = clock()
                peer(work)
                seconds[name].append(clock() - begun)
    return seconds


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2
