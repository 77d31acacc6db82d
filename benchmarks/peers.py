"""Every way to decode that the benchmark compares, as one function each: (workload) → tokens."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.published import published_loop
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import SSDOutput, lookahead, short_products, ssd_generate
from ssd_lib.decoding.generate import decoding
from ssd_lib.decoding.kv_cache import VISIBLE_STEP, CachedModel
from ssd_lib.decoding.lookahead import weights_read

Schedule = tuple[tuple[int, int, int], ...]
"""`SSDStats.schedule`: of every round, positions that the target scored, draft forwards, and tokens emitted."""

clock: Callable[[], float] = time.perf_counter
"""What every peer is timed with; `measure_cpu_time` replaces it."""


def measure_cpu_time() -> None:
    """Count the seconds that this process computes instead of those that pass: for a shared machine."""
    global clock
    clock = time.process_time


EXPLORED = 4 * len(short_products.WAYS) * short_products.REPEATS
"""Forwards after which the ways of a product must have settled."""

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


# ------------------------------------------------------------------------------------------------ ours


def run_ours(work: Workload, streamer: Any = None, **settings: Any) -> SSDOutput:
    """`ssd_generate`; settings replace those of the workload's config."""
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


_costs: dict[str, Any] = defaultdict(WeakKeyDictionary)


@contextmanager
def own_costs(name: str) -> Iterator[None]:
    """While open, only runs of this name use what the lookahead controller has measured."""
    shared, lookahead._known = lookahead._known, _costs[name]
    try:
        yield
    finally:
        lookahead._known = shared


@contextmanager
def products_as_they_are() -> Iterator[None]:
    """While open, every linear layer computes its product as `nn.Linear` does."""
    before = os.environ.get(short_products.SWITCH)
    os.environ[short_products.SWITCH] = "off"
    try:
        yield
    finally:
        del os.environ[short_products.SWITCH]
        if before is not None:
            os.environ[short_products.SWITCH] = before


def unsettled(*models: PreTrainedModel, tokens: int | None = None) -> int:
    """Kinds of short products in these models whose way is not chosen yet: of all that occurred, or over so many tokens."""
    linear = (layer for model in models for layer in model.modules() if type(layer) is torch.nn.Linear)
    kinds = {(*x.weight.shape, x.weight.dtype, x.bias is None, torch.get_num_threads()) for x in linear}
    known = (each for kind in kinds for each in short_products._kinds.get(kind, {}).items())
    return sum(choice.best is None for count, choice in known if tokens in (None, count))


def settle_products(target: PreTrainedModel, draft: PreTrainedModel, prompts: list[list[int]], most: int = 8) -> None:
    """Let every kind of short product in rounds of up to `most` positions choose its way, before any clock starts."""
    with decoding(target, draft):
        for each in (target, draft):
            model = CachedModel(each, prompts, max(map(len, prompts)) + most)
            for count in range(1, most + 1):
                tokens = torch.zeros(len(prompts), count, dtype=torch.long)
                for _ in range(EXPLORED):
                    model.forward(tokens)
                    if not unsettled(each, tokens=tokens.numel()):
                        break


# ------------------------------------------------------------------------------------------------ the others


def generate(work: Workload, **settings: Any) -> list[int]:
    """The target's own greedy `generate`."""
    target: Any = work.target  # `generate` is a mixin, which the stub of a model does not name
    answer = target.generate(
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

    By default it stops guessing where the draft's favourite has a probability below 0.4, and a synthetic draft's always has.
    """
    settings: Any = work.draft.generation_config
    before: dict[str, Any] = {name: getattr(settings, name, None) for name in FIXED_GUESSES}
    try:
        settings.update(**FIXED_GUESSES)
        return assisted(work)
    finally:
        settings.update(**before)


def published(work: Workload) -> list[int]:
    """The published loop, with the paper's lookahead."""
    return published_loop(work.target, work.draft, work.ids, work.config, work.new_tokens)


# ------------------------------------------------------------------------------------------------ limits


class Bare(NamedTuple):
    """Seconds of nothing but forwards: of reading the prompts, and of the rounds."""

    prompts: float
    rounds: float


def bare_forwards(work: Workload, schedule: Schedule) -> Bare:
    """Nothing but the forwards that these rounds need, draft steps and one target pass each, with the same short products.

    Masks and positions are made outside the clock; the caches grow as they did in the run.
    """
    seconds = 0.0

    def timed(model: CachedModel, count: int) -> None:
        nonlocal seconds
        tokens = torch.zeros(1, count, dtype=torch.long)
        positions = model.cache.prepare(count)
        masks = model.masks(positions, model.cache)
        begun = clock()
        model.call(tokens, masks, positions, model.cache, 0)
        seconds += clock() - begun
        model.cache.advance(count)

    slots = work.ids.shape[1] + work.new_tokens + max(t for t, _, _ in schedule)
    with decoding(work.target, work.draft):
        begun = clock()
        target, draft = (CachedModel(model, work.ids.tolist(), slots) for model in (work.target, work.draft))
        prompts, used = clock() - begun, work.ids.shape[1]
        for positions, steps, emitted in schedule:
            for model in (target, draft):
                model.cache.show_up_to(used + positions)
            for _ in range(steps):
                timed(draft, 1)
            timed(target, positions)
            used += emitted
            for model in (target, draft):
                model.cache.lengths.fill_(used - 1)
    return Bare(prompts, seconds)


def bytes_read(model: PreTrainedModel) -> int:
    """Of weights, in a forward over one token."""
    return weights_read(model) * next(model.parameters()).element_size()


def memory_seconds(work: Workload, schedule: Schedule) -> float:
    """Seconds in which memory delivers the weights that these rounds read: each draft step's and each target pass's."""
    steps = sum(steps for _, steps, _ in schedule)
    weights = steps * bytes_read(work.draft) + len(schedule) * bytes_read(work.target)
    return weights / bandwidth(bytes_read(work.target))


_bandwidth: dict[tuple[int, int], float] = {}


@torch.inference_mode()
def bandwidth(size: int, repeats: int = 5) -> float:
    """Bytes a second at which this many threads read a buffer of `size` bytes: the best of several ways, turns and calls."""
    matrix, vector = torch.ones(max(1, size // 4096), 1024), torch.ones(1024)
    ways: tuple[Callable[[], Any], ...] = (matrix.sum, matrix.amax, lambda: matrix @ vector)
    key, best = (size, torch.get_num_threads()), 0.0
    for _ in range(repeats):
        for way in ways:
            begun = clock()
            way()
            best = max(best, 4 * matrix.numel() / max(clock() - begun, 1e-9))
    _bandwidth[key] = max(best, _bandwidth.get(key, 0.0))
    return _bandwidth[key]


@torch.inference_mode()
def attention_seconds(work: Workload, schedule: Schedule) -> float:
    """Seconds of the attention products alone in these rounds: every layer's keys and values at this context, both models.

    Keys and values lie as in our cache (`RowCache`), heads first, in a store with a little room left after them.
    """
    seconds, context = 0.0, work.ids.shape[1] + work.new_tokens // 2
    context = -(-context // VISIBLE_STEP) * VISIBLE_STEP
    for model, calls in (
        (work.draft, [1] * sum(s for _, s, _ in schedule)),
        (work.target, [t for t, _, _ in schedule]),
    ):
        shape = model.config
        heads, size = shape.num_attention_heads, shape.hidden_size // shape.num_attention_heads
        room = 2, 1, shape.num_key_value_heads, context + work.new_tokens, size
        stores = [torch.randn(room)[..., :context, :] for _ in range(shape.num_hidden_layers)]
        for new in calls:
            query = torch.randn(1, heads, new, size)
            mask = torch.ones(1, 1, new, context, dtype=torch.bool)
            begun = clock()
            for keys, values in stores:
                torch.nn.functional.scaled_dot_product_attention(
                    query, keys, values, attn_mask=mask, enable_gqa=keys.shape[1] != heads
                )
            seconds += clock() - begun
    return seconds


# ------------------------------------------------------------------------------------------------ turns


Peer = Callable[[Workload], list[int]]


def interleaved(work: Workload, peers: dict[str, Peer], repeats: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of every run, the peers taking turns so that a slow moment of the machine affects all of them."""
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
