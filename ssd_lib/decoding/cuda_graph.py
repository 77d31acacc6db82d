"""A whole round as one recorded CUDA graph: thousands of kernel launches become one.

On a GPU a round of two transformers is some thousand kernels of a few microseconds each; launching them one by one from
Python takes longer than they run. A CUDA graph records the launches once and repeats them with one call. It repeats exactly
what was recorded, on the same memory: so shapes must be fixed (a static cache, all of its slots visible, a fixed T), nothing
may wait for the CPU, and whatever changes between rounds must change in place. The decoder keeps all three rules; this module
does the rest: record, replay, and the one transfer.

Each lookahead has two graphs of its own, recorded when it is first asked for: the first scores and decides; the second
settles, once the CPU has seen that the heads of the lists were deep enough. Where they were not, that round is decided again
step by step. Rows that are finished stay in the batch, masked. Greedy only: recorded random numbers would repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.results import Decision, Emitted, Scored, packed, unpack
from ssd_lib.method.composite import DEPTHS

DEPTH = 256  # how deep a recorded round seeks sample spaces: its shapes are fixed
WARM_UP = 3  # runs before recording: libraries allocate and choose kernels at their first calls
PAYS_AFTER = 8  # rounds of a call that are run step by step first: a recording costs as much as a few of them

Graph = bool | Literal["auto"]


class Replayable(Protocol):
    """What a recording gives back."""

    def replay(self) -> None: ...


def record(run: Callable[[], object]) -> Replayable:
    """Record the launches of `run` as a CUDA graph (PyTorch's own)."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def hindrance(decoder: Decoder) -> str | None:
    """Why this decoder's rounds cannot be recorded; None if they can."""
    devices = [model.device for model in (decoder.target, decoder.draft)]
    if any(device.type != "cuda" for device in devices):
        return "both models must be on a CUDA device"
    if devices[0] != devices[1]:
        return f"both models must be on one device, not on {devices[0]} and {devices[1]}"
    for model in (decoder.target.model, decoder.draft.model):
        if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
            return f"{type(model).__name__} is spread over several devices"
    if decoder.config.do_sample:
        return "a recorded round is greedy, and do_sample is on"
    if decoder.processors is not None:
        return "logits processors run in Python on the host"
    for model in (decoder.target.model, decoder.draft.model):
        rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
        if rope.get("rope_type") in ("dynamic", "longrope"):
            return f"{type(model).__name__} looks at its positions on the host ({rope['rope_type']} rotary embeddings)"
    return None


def record_after(decoder: Decoder, graph: Graph) -> int | None:
    """After how many rounds they are recorded; None for never. Raises ValueError for a recording that is impossible."""
    if graph not in (True, False, "auto"):
        raise ValueError(f"cuda_graph must be True, False or 'auto', not {graph!r}")
    why_not = hindrance(decoder) if graph else None
    if graph is True and why_not:
        raise ValueError(f"cuda_graph=True, but {why_not}: leave it at 'auto'")
    if not graph or why_not:
        return None
    return 0 if graph is True else PAYS_AFTER


class Recording(NamedTuple):
    """The two graphs of one lookahead, and the tensors that they write."""

    deciding: Replayable
    settling: Replayable
    scored: Scored
    decision: Decision
    line: Tensor


class RecordedRounds:
    """Rounds of a decoder by replay; `round` gives what `Decoder.round` would."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.recordings: dict[int, Recording] = {}

    def round(self, lookahead: int) -> list[Emitted]:
        """At least one and at most `lookahead` tokens for every row that is not finished."""
        decoder = self.decoder
        if lookahead not in self.recordings:
            self.recordings[lookahead] = self._record(lookahead)
        now = self.recordings[lookahead]
        now.deciding.replay()
        decoder.target.forwards += 1
        decoder.draft.forwards += lookahead
        decoder.positions = decoder.steps = lookahead
        emitted = unpack(now.line.tolist())  # the round's only wait
        if any(row.short for row in emitted):
            emitted = decoder.walk(now.scored, [depth for depth in DEPTHS if depth > DEPTH])
        else:
            decoder.record(now.scored, now.decision)
            now.settling.replay()
        decoder.rounds += 1
        return emitted

    def _record(self, lookahead: int) -> Recording:
        """Record both halves of a round; the decoder's state is as before afterwards."""
        decoder = self.decoder
        caches = [model.cache for model in (decoder.target, decoder.draft)]
        for cache in caches:
            cache.show_up_to(cache.slots)
        state = [*(cache.lengths for cache in caches), decoder.pending, decoder.before_bin]
        state += [*decoder.switch, decoder.finished]
        saved, forwards = [values.clone() for values in state], (decoder.target.forwards, decoder.draft.forwards)
        made: dict[str, tuple[Scored, Decision, Tensor]] = {}

        def decide() -> None:
            scored = decoder.score(lookahead)
            decision = decoder.decide(scored, DEPTH)
            made["last"] = scored, decision, packed(scored, decision)

        def settle() -> None:
            decoder.settle(made["last"][1])

        def undo() -> None:
            for values, before in zip(state, saved, strict=True):
                values.copy_(before)

        for _ in range(WARM_UP):
            decide()
            settle()
            undo()
        recordings = record(decide), record(settle)
        undo()
        decoder.target.forwards, decoder.draft.forwards = forwards
        return Recording(*recordings, *made["last"])
