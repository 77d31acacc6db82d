"""The GPU table: SSD with a recorded round against an equally recorded target, the published loop, and memory bandwidth.

    python -m benchmarks.gpu                         Llama-2-7B and TinyLlama shapes, bf16, random weights, on a CUDA device
    python -m benchmarks.gpu --micro --device cpu    micro shapes through the same code, step by step instead of recorded

The limit is set by memory: a round reads the draft's weights T times and the target's once, so it takes at least
(T · draft bytes + target bytes) / bandwidth, with the bandwidth of a large copy on the same device, measured here.
Not run on a GPU yet: see README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ssd_lib.decoding.graphs import DEPTH, RoundGraph, record_cuda
from ssd_lib.decoding.host import Host
from ssd_lib.decoding.pace import Pace
from ssd_lib.decoding.rounds import Decoder
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.cpu import RESULTS, environment
from benchmarks.peers import median_and_spread
from benchmarks.published import published_loop
from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.generate import begin, decode, last_tokens
from ssd_lib.decoding.lookahead import weights_read
from ssd_lib.synthetic import set_match_ratio, synthetic_pair, synthetic_prompt

LOOKAHEADS = (2, 3, 4, 6)
COPY_BYTES = 1 << 30


def now(device: torch.device) -> float:
    """Seconds, once everything launched has run."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bandwidth(device: torch.device, size: int = COPY_BYTES) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        begun = now(device)
        target.copy_(source)
        seconds.append(now(device) - begun)
    return 2 * size / min(seconds)


def step_by_step(run: Callable[[], object]) -> Any:
    """Stands in for a CUDA graph where there is none: replay is running again."""

    class Again:
        def replay(self) -> None:
            run()

    return Again()


# ------------------------------------------------------------------------------------------------ what is timed


class Ours:
    """SSD over a static cache with a recorded round, as a conversation uses it: recorded once, replayed for every answer."""

    def __init__(self, target: PreTrainedModel, draft: PreTrainedModel, ids: Tensor, new_tokens: int, lookahead: int):
        self.ids, self.prompts = ids, ids.tolist()
        self.lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
        config, slots = SSDConfig(lookahead=lookahead), ids.shape[1] + new_tokens + lookahead
        models = CachedModel(target, ids, self.lengths, slots), CachedModel(draft, ids, self.lengths, slots)
        pending = last_tokens(ids, self.lengths), last_tokens(ids, self.lengths)
        self.decoder = begin(models, pending, config, new_tokens, [])
        cuda = ids.device.type == "cuda"
        RoundGraph(self.decoder, lookahead, record_cuda if cuda else step_by_step)

    @torch.inference_mode()
    def __call__(self) -> tuple[list[list[int]], int, float]:
        """Answers, rounds, and the match ratio; prompts are in the cache already."""
        decoder: Decoder = self.decoder
        for model in (decoder.target, decoder.draft):
            model.cache.lengths.copy_(self.lengths - 1)
        decoder.restart(last_tokens(self.ids, self.lengths), last_tokens(self.ids, self.lengths))
        host = Host(self.prompts, None, None)
        pace = Pace(decoder.config, decoder.target.model, decoder.draft.model, self.prompts)
        schedule = decode(decoder, host, pace, None, (self.ids.shape[1], self.ids.shape[1]))
        return host.answers, len(schedule), host.matches / sum(map(len, host.answers))


class TargetAlone:
    """Greedy decoding of the target alone over the same cache, its step recorded in the same way."""

    def __init__(self, target: PreTrainedModel, ids: Tensor, new_tokens: int):
        self.ids, self.new_tokens = ids, new_tokens
        self.lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
        self.model = CachedModel(target, ids, self.lengths, ids.shape[1] + new_tokens + 1)
        self.model.cache.show_up_to(self.model.cache.slots)
        self.token = last_tokens(ids, self.lengths).unsqueeze(-1)
        self.out = torch.zeros(ids.shape[0], new_tokens, dtype=torch.long, device=ids.device)
        self.place = torch.zeros(1, dtype=torch.long, device=ids.device)
        self._reset()
        self._step()
        self.graph = (record_cuda if ids.device.type == "cuda" else step_by_step)(self._step)

    def _reset(self) -> None:
        self.model.cache.lengths.copy_(self.lengths - 1)
        self.token.copy_(last_tokens(self.ids, self.lengths).unsqueeze(-1))
        self.place.zero_()

    def _step(self) -> None:
        self.token.copy_(self.model.forward(self.token).argmax(dim=-1))
        self.model.cache.advance(1)
        self.out.index_copy_(1, self.place, self.token)
        self.place += 1

    @torch.inference_mode()
    def __call__(self) -> list[list[int]]:
        """The answers; prompts are in the cache already."""
        self._reset()
        for _ in range(self.new_tokens):
            self.graph.replay()
        return self.out.tolist()


def timed(run: Callable[[], Any], device: torch.device, repeats: int) -> tuple[Any, list[float]]:
    """The last result and the seconds of every run but the first, which warms up."""
    seconds: list[float] = []
    result: Any = None
    for _ in range(repeats + 1):
        begun = now(device)
        result = run()
        seconds.append(now(device) - begun)
    return result, seconds[1:]


# ------------------------------------------------------------------------------------------------ the run


@torch.inference_mode()
def measure(
    shapes: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    match_ratios: tuple[float, ...],
    batches: tuple[int, ...],
    new_tokens: int,
    prompt: int,
    repeats: int,
    compiled: bool,
) -> pd.DataFrame:
    """One line for each match ratio, lookahead and batch, and for the target alone; see the columns."""
    plain = synthetic_pair(shapes, 0.8, dtype=dtype, device=device)
    target, draft = (torch.compile(model, dynamic=False) for model in plain) if compiled else plain
    vocabulary = plain[0].config.vocab_size
    bytes_read = [weights_read(model) * next(model.parameters()).element_size() for model in plain]
    speed, lines = bandwidth(device, COPY_BYTES if device.type == "cuda" else 1 << 24), []
    for ratio in match_ratios:
        set_match_ratio(*plain, ratio)
        for rows in batches if ratio == match_ratios[-1] else batches[:1]:
            ids = prompts(vocabulary, prompt, rows).to(device)
            answers, seconds = timed(TargetAlone(target, ids, new_tokens), device, repeats)
            alone, spread = median_and_spread([rows * new_tokens / s for s in seconds])
            shape = {"shapes": shapes, "dtype": str(dtype).removeprefix("torch."), "rows": rows, "asked_ratio": ratio}
            lines.append(shape | {"peer": "target alone", "tokens_per_second": alone, "spread": spread})
            for lookahead in LOOKAHEADS:
                ours = Ours(target, draft, ids, new_tokens, lookahead)
                (tokens, rounds, matched), seconds = timed(ours, device, repeats)
                assert tokens == answers, "the synthetic target's tokens are SSD's, whatever the draft proposes"
                rate, spread = median_and_spread([rows * new_tokens / s for s in seconds])
                least = (lookahead * bytes_read[1] + bytes_read[0]) / speed
                lines.append(
                    shape
                    | {"peer": "ssd_lib", "lookahead": lookahead, "match_ratio": matched, "rounds": rounds}
                    | {"tokens_per_second": rate, "spread": spread, "times_target_alone": rate / alone}
                    | {
                        "ms_per_round": 1000 * min(seconds) / rounds,
                        "share_of_bandwidth_limit": least * rounds / min(seconds),
                    }
                )
                del ours
    lines.append(published(plain, prompts(vocabulary, prompt, 1).to(device), new_tokens, device, shapes))
    return pd.DataFrame([environment(device.type) | {"copy_GB_per_s": speed / 1e9} | line for line in lines])


def prompts(vocabulary: int, length: int, rows: int) -> Tensor:
    """One prompt a row, each ending where a block of the orbit begins."""
    return torch.cat([synthetic_prompt(vocabulary, length, row=row) for row in range(rows)])


def published(
    pair: tuple[PreTrainedModel, PreTrainedModel], ids: Tensor, new_tokens: int, device: torch.device, shapes: str
) -> dict[str, Any]:
    """The published loop, once: it needs no warm-up to be slow."""
    begun = now(device)
    published_loop(*pair, ids, SSDConfig(), new_tokens)
    return {
        "shapes": shapes,
        "rows": 1,
        "peer": "published loop",
        "tokens_per_second": new_tokens / (now(device) - begun),
    }


def waits_in_a_round(shapes: str, device: torch.device, dtype: torch.dtype) -> int:
    """Synchronisations between host and device in one step-by-step round but for its last transfer, by the profiler."""
    target, draft = synthetic_pair(shapes, 0.8, dtype=dtype, device=device)
    ids = prompts(target.config.vocab_size, 16, 1).to(device)
    lengths = torch.full((1,), 16, device=device)
    with torch.inference_mode():
        models = CachedModel(target, ids, lengths, 64), CachedModel(draft, ids, lengths, 64)
        decoder = begin(models, (last_tokens(ids, lengths), last_tokens(ids, lengths)), SSDConfig(), 40, [])
        for _ in range(2):  # the first one warms up
            now(device)
            with torch.profiler.profile() as profile:
                decoder.settle(decoder.decide(decoder.score(3), DEPTH))
    names = [event.name for event in profile.events()]
    return sum(("Synchronize" in name and "Device" not in name) or "_local_scalar" in name for name in names)


def main(shapes: str, device: str, compiled: bool, out: Path) -> str:
    """Measure, write the CSV, return the table."""
    where, cuda = torch.device(device), device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    frame = measure(
        shapes,
        where,
        dtype,
        match_ratios=(0.5, 0.6, 0.7, 0.9, 1.0, 0.8) if cuda else (0.5, 0.8),
        batches=(1, 8, 32) if cuda else (1, 2),
        new_tokens=200 if cuda else 20,
        prompt=128 if cuda else 16,
        repeats=5 if cuda else 1,
        compiled=compiled,
    )
    waits = waits_in_a_round(shapes, where, dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, float_format="%.5g")
    columns = [
        "peer",
        "rows",
        "asked_ratio",
        "lookahead",
        "tokens_per_second",
        "spread",
        "times_target_alone",
        "share_of_bandwidth_limit",
    ]
    return f"{frame[columns].round(3).to_string(index=False)}\n\nwaits inside a round: {waits}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--micro", action="store_true", help="micro shapes instead of Llama-2-7B and TinyLlama")
    parser.add_argument("--compile", action="store_true", help="torch.compile both models before recording")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.csv")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: add --micro --device cpu to run micro shapes through the same code")
    print(main("micro" if given.micro else "llama2-7b", given.device, given.compile, given.out))
