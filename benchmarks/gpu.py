"""The GPU table: the public call with recorded rounds, beside equally recorded and compiled peers, and memory bandwidth.

    python -m benchmarks.gpu                         Llama-2-7B and TinyLlama shapes, bf16, random weights, on a CUDA device
    python -m benchmarks.gpu --micro --device cpu    micro shapes through the same code; recordings are imitated (replay.py)

Memory sets the limit: a round reads the draft's weights at each of its steps and the target's once, so it takes at least
(steps · draft bytes + target bytes) / bandwidth, with the bandwidth of a large read on the same device, measured here.
Prompts are read and graphs recorded before the clock starts; what a recording costs has a column of its own.
Not run on a GPU yet: see README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from benchmarks import peers
from benchmarks.cpu import ASSISTED, ASSISTED_FIXED, GENERATE, OURS, PUBLISHED, RESULTS, environment
from benchmarks.peers import Workload, median_and_spread, own_costs
from benchmarks.replay import as_if_on_cuda
from benchmarks.synthetic import set_match_ratio, synthetic_pair, synthetic_prompt
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import SSDOutput, cuda_graph, ssd_generate
from ssd_lib.decoding.generate import decoding
from ssd_lib.decoding.kv_cache import CachedModel, RowCache
from ssd_lib.decoding.loop import Loop

Lookahead = int | Literal["auto"]
LOOKAHEADS: tuple[Lookahead, ...] = ("auto", 2, 3, 4, 6)
Pair = tuple[PreTrainedModel, PreTrainedModel]
ALONE, STEP_BY_STEP, COMPILED = "target alone, recorded", "ssd_lib, step by step", "ssd_lib, reduce-overhead"
READ_BYTES = 1 << 30
PROFILED = 4  # the round whose waits are counted: earlier ones record and warm up
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    shapes: str = "llama2-7b"
    match_ratios: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.9, 1.0, 0.8)
    """All batches are measured at the last one."""
    batches: tuple[int, ...] = (1, 8, 32)
    new_tokens: int = 200
    prompt: int = 128
    repeats: int = 5


MICRO = Plan("micro", match_ratios=(0.5, 0.8), batches=(1, 2), new_tokens=20, prompt=16, repeats=1)


def now(device: torch.device) -> float:
    """Seconds, once everything launched has run."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second of a large read."""
    buffer, seconds = torch.ones(size // 4, device=device), []
    for _ in range(10):
        begun = now(device)
        buffer.sum()
        seconds.append(now(device) - begun)
    return size / min(seconds)


# ------------------------------------------------------------------------------------------------ what is timed


class Ours:
    """The public call; seconds of its loop, and of these what recordings took."""

    def __init__(self, pair: Pair, ids: Tensor, new_tokens: int, lookahead: Lookahead, recorded: bool = True):
        self.pair, self.ids, self.new_tokens, self.recorded = pair, ids, new_tokens, recorded
        self.config, self.name = SSDConfig(lookahead=lookahead), f"{lookahead}, {len(ids)} rows, {recorded}"
        self.output: SSDOutput | None = None

    def __call__(self) -> tuple[float, float]:
        options: dict[str, Any] = dict(config=self.config, max_new_tokens=self.new_tokens, eos_token_id=[])
        with loop_clock(self.ids.device) as spent, own_costs(self.name):
            self.output = ssd_generate(*self.pair, self.ids, cuda_graph=self.recorded, **options)
        return spent["loop"], spent["recording"]

    @property
    def answers(self) -> list[list[int]]:
        """Of the last call."""
        assert self.output is not None
        return [answer.tolist() for answer in self.output.sequences]


@contextmanager
def loop_clock(device: torch.device) -> Iterator[dict[str, float]]:
    """While open, counts the seconds of rounds without the prompts, and those of recordings."""
    spent = {"loop": 0.0, "recording": 0.0}
    originals = Loop.run, cuda_graph.RecordedRounds._record

    def timed(function: Callable[..., Any], part: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = now(device)
            result = function(*args, **kwargs)
            spent[part] += now(device) - begun
            return result

        return run

    try:
        Loop.run, cuda_graph.RecordedRounds._record = timed(originals[0], "loop"), timed(originals[1], "recording")
        yield spent
    finally:
        Loop.run, cuda_graph.RecordedRounds._record = originals


class TargetAlone:
    """Greedy decoding of the target alone over the same cache, its step recorded in the same way."""

    def __init__(self, target: PreTrainedModel, ids: Tensor, new_tokens: int):
        self.ids, self.new_tokens, device = ids, new_tokens, ids.device
        with decoding(target):
            self.model = CachedModel(target, ids.tolist(), ids.shape[1] + new_tokens + 1)
            self.model.cache.show_up_to(self.model.cache.slots)
            self.token = ids[:, -1:].clone()
            self.out = torch.zeros(ids.shape[0], new_tokens, dtype=torch.long, device=device)
            self.place = torch.zeros(1, dtype=torch.long, device=device)
            for _ in range(cuda_graph.WARM_UP):
                self._step()
                self._reset()
            self.graph = cuda_graph.record(self._step)

    def _reset(self) -> None:
        self.model.cache.lengths.fill_(self.ids.shape[1] - 1)
        self.token.copy_(self.ids[:, -1:])
        self.place.zero_()

    def _step(self) -> None:
        self.token.copy_(self.model.forward(self.token).argmax(dim=-1))
        self.model.cache.advance(1)
        self.out.index_copy_(1, self.place, self.token)
        self.place += 1

    def __call__(self) -> tuple[float, float]:
        with torch.inference_mode():
            self._reset()
            begun = now(self.ids.device)
            for _ in range(self.new_tokens):
                self.graph.replay()
            return now(self.ids.device) - begun, 0.0

    @property
    def answers(self) -> list[list[int]]:
        """Of the last call."""
        return self.out.tolist()


class Prompted:
    """A peer of transformers or the published loop, less the seconds in which it reads the prompt and emits one token."""

    def __init__(self, peer: Callable[[Workload], list[int]], work: Workload):
        self.peer, self.work = peer, work
        self.first = replace(work, new_tokens=1)
        self.answers: list[list[int]] = []

    def __call__(self) -> tuple[float, float]:
        device = self.work.ids.device
        begun = now(device)
        self.peer(self.first)
        between = now(device)
        self.answers = [self.peer(self.work)]
        seconds = now(device) - between - (between - begun)
        return seconds * self.work.new_tokens / (self.work.new_tokens - 1), 0.0


@contextmanager
def compiled(pair: Pair, device: torch.device) -> Iterator[None]:
    """While open, both models are compiled with mode="reduce-overhead" over a static cache; on a CPU by a graph-only backend.

    That mode makes CUDA graphs of its own. It needs fixed shapes, all slots visible, and a mark on keys and values that they stay
    where they are: without it, they are copied at every call.
    """
    kind: Any = CachedModel
    saved = RowCache.show_up_to, kind.__init__

    def initialize(self: CachedModel, *args: Any) -> None:
        saved[1](self, *args)
        for layer in self.cache.row_layers:
            for values in (layer.keys, layer.values):
                torch._dynamo.mark_static_address(values)

    options: dict[str, Any] = dict(mode="reduce-overhead") if device.type == "cuda" else dict(backend="eager")
    try:
        RowCache.show_up_to = lambda self, used: setattr(self, "visible", self.slots)
        kind.__init__ = initialize
        for model in pair:
            model.compile(dynamic=False, **options)
        yield
    finally:
        RowCache.show_up_to, kind.__init__ = saved
        for model in pair:
            model._compiled_call_impl = None
        torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ the run


class Table:
    """Lines of one run, one a peer."""

    def __init__(self, plan: Plan, pair: Pair, device: torch.device):
        self.plan, self.pair, self.device = plan, pair, device
        self.speed = bandwidth(device, READ_BYTES if device.type == "cuda" else 1 << 24)
        self.lines: list[dict[str, Any]] = []

    def add(self, peer: str, run: Any, rows: int, ratio: float, **more: Any) -> list[list[int]]:
        """Warm up, time, and append the peer's line; returns its answers."""
        run()
        seconds = [run() for _ in range(self.plan.repeats)]
        tokens, steady = rows * self.plan.new_tokens, [loop - recording for loop, recording in seconds]
        rate, spread = median_and_spread([tokens / each for each in steady])
        line = {"shapes": self.plan.shapes, "peer": peer, "rows": rows, "asked_ratio": ratio} | more
        line |= {"tokens_per_second": rate, "spread": spread, "recording_seconds": max(r for _, r in seconds)}
        line["tokens_per_second_with_recording"] = median_and_spread([tokens / loop for loop, _ in seconds])[0]
        if isinstance(run, Ours) and run.output is not None:
            stats = run.output.stats
            line |= {"match_ratio": stats.match_ratio, "rounds": stats.rounds}
            line["mean_T"] = sum(positions for positions, _, _ in stats.schedule) / stats.rounds
            line["ms_per_round"] = 1000 * min(steady) / stats.rounds
            line["share_of_bandwidth_limit"] = self.least(stats.schedule) / steady[-1]
        elif isinstance(run, TargetAlone):
            least = self.plan.new_tokens * peers.bytes_read(self.pair[0]) / self.speed
            line["share_of_bandwidth_limit"] = least / min(steady)
        self.lines.append(line)
        return run.answers

    def least(self, schedule: peers.Schedule) -> float:
        """Seconds in which memory delivers what these rounds read."""
        target, draft = (peers.bytes_read(model) for model in self.pair)
        return (len(schedule) * target + sum(steps for _, steps, _ in schedule) * draft) / self.speed

    def frame(self) -> pd.DataFrame:
        """All lines, those of ours and the compiled one against the target alone of the same ratio and rows."""
        about = environment(self.device.type) | {"read_GB_per_s": self.speed / 1e9}
        frame = pd.DataFrame([about | line for line in self.lines])
        alone = frame[frame["peer"] == ALONE].set_index(["asked_ratio", "rows"])["tokens_per_second"]
        keys = pd.MultiIndex.from_frame(frame.loc[:, ["asked_ratio", "rows"]])
        return frame.assign(times_target_alone=frame["tokens_per_second"].to_numpy() / alone.reindex(keys).to_numpy())


def measure(plan: Plan, device: torch.device, dtype: torch.dtype) -> pd.DataFrame:
    """Every peer at every match ratio and batch: see the columns. Raises AssertionError where tokens differ."""
    pair = synthetic_pair(plan.shapes, 0.8, dtype=dtype, device=device)
    table, vocabulary = Table(plan, pair, device), pair[0].config.vocab_size
    for ratio in tqdm(plan.match_ratios, desc="match ratio", unit="ratio"):
        set_match_ratio(*pair, ratio)
        last = ratio == plan.match_ratios[-1]
        for rows in plan.batches if last else plan.batches[:1]:
            ids = prompts(vocabulary, plan.prompt, rows).to(device)
            expected = table.add(ALONE, TargetAlone(pair[0], ids, plan.new_tokens), rows, ratio)
            for lookahead in LOOKAHEADS if rows == plan.batches[0] else LOOKAHEADS[:2]:
                given = table.add(OURS, Ours(pair, ids, plan.new_tokens, lookahead), rows, ratio, lookahead=lookahead)
                assert given == expected, "the synthetic target's tokens are SSD's, whatever the draft proposes"
        one = Workload(plan.shapes, *pair, prompts(vocabulary, plan.prompt, 1).to(device), plan.new_tokens)
        table.add(GENERATE, Prompted(peers.generate, one), 1, ratio)
        table.add(ASSISTED, Prompted(peers.assisted, one), 1, ratio)
        table.add(ASSISTED_FIXED, Prompted(peers.assisted_fixed, one), 1, ratio)
    table.add(STEP_BY_STEP, Ours(pair, one.ids, plan.new_tokens, 3, recorded=False), 1, ratio, lookahead=3)
    with compiled(pair, device):
        table.add(COMPILED, Ours(pair, one.ids, plan.new_tokens, 3, recorded=False), 1, ratio, lookahead=3)
    table.lines.append(published(one, plan, ratio, device))
    return table.frame()


def prompts(vocabulary: int, length: int, rows: int) -> Tensor:
    """One prompt a row, each ending where a block of the orbit begins."""
    return torch.cat([synthetic_prompt(vocabulary, length, row=row) for row in range(rows)])


def published(work: Workload, plan: Plan, ratio: float, device: torch.device) -> dict[str, Any]:
    """The published loop, run once, without a warm-up."""
    begun = now(device)
    peers.published(work)
    rate = plan.new_tokens / (now(device) - begun)
    return {"shapes": plan.shapes, "peer": PUBLISHED, "rows": 1, "asked_ratio": ratio, "tokens_per_second": rate}


def waits_in_a_round(pair: Pair, ids: Tensor) -> int:
    """Synchronisations of host and device in one recorded round of the public call, beyond its one transfer, by the profiler."""
    round_of, counted = cuda_graph.RecordedRounds.round, []

    def profiled(self: Any, lookahead: int) -> Any:
        if self.decoder.rounds != PROFILED:
            return round_of(self, lookahead)
        now(ids.device)
        with torch.profiler.profile() as profile:
            emitted = round_of(self, lookahead)
        events = list(profile.events() or [])
        counted.append(sum(event.name in WAITS for event in events))
        return emitted

    try:
        cuda_graph.RecordedRounds.round = profiled
        config = SSDConfig(lookahead=3)
        ssd_generate(*pair, ids, config=config, max_new_tokens=40, eos_token_id=[], cuda_graph=True)
    finally:
        cuda_graph.RecordedRounds.round = round_of
    transfers = int(ids.device.type == "cuda")  # where the host waits for the emitted tokens
    return counted[0] - transfers


def main(plan: Plan, device: str, out: Path) -> str:
    """Measure, write the CSV, return the table."""
    where = torch.device(device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with nullcontext() if device == "cuda" else as_if_on_cuda():
        frame = measure(plan, where, dtype)
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False, float_format="%.5g")
        pair = synthetic_pair(plan.shapes, 0.8, dtype=dtype, device=where)
        waits = waits_in_a_round(pair, prompts(pair[0].config.vocab_size, 16, 1).to(where))
    columns = ["peer", "rows", "asked_ratio", "lookahead", "mean_T", "tokens_per_second", "spread", "recording_seconds"]
    columns += ["tokens_per_second_with_recording", "times_target_alone", "share_of_bandwidth_limit"]
    return f"{frame[columns].round(3).to_string(index=False)}\n\nwaits inside a round: {waits}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--micro", action="store_true", help="micro shapes instead of Llama-2-7B and TinyLlama")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.csv")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: add --micro --device cpu to run micro shapes through the same code")
    print(main(MICRO if given.micro else Plan(), given.device, given.out))
