"""A whole round as one recorded CUDA graph: thousands of kernel launches become one.

On a GPU a round of two transformers is some thousand kernels of a few microseconds each; launching them one by one from
Python takes longer than they run. A CUDA graph records the launches once and repeats them with one call. It repeats exactly
what was recorded, on the same memory: so shapes must be fixed (a static cache, all of its slots visible, a fixed T), nothing
may wait for the host, and whatever changes between rounds must change in place. The decoder keeps all three rules; here is
what is left to do: record, replay, and the one transfer.

Two graphs: the first scores and decides; the second settles, once the host has seen that the heads of the lists were deep
enough. Where they were not, that round is decided again step by step. Greedy only: recorded random numbers would repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.rounds import Decoder, Emitted, packed, unpack
from ssd_lib.decoding.shortlist import DEPTHS

DEPTH = 256  # how deep a recorded round seeks sample spaces: its shapes are fixed
WARM_UP = 3  # runs before recording: libraries allocate and choose kernels at their first calls


class Replayable(Protocol):
    """What a recording gives back."""

    def replay(self) -> None: ...


def record_cuda(run: Callable[[], object]) -> Replayable:
    """Record the launches of `run` as a CUDA graph (PyTorch's own)."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


class RoundGraph:
    """A decoder's round with this lookahead, recorded. The decoder then uses it for every round.

    record: records a function's work for replay; another one than CUDA's serves to test the rules without a GPU.

    Raises ValueError for a sampling decoder, one whose models are on several devices, or caches without room for a round.
    """

    def __init__(
        self, decoder: Decoder, lookahead: int, record: Callable[[Callable[[], object]], Replayable] = record_cuda
    ):
        if decoder.config.do_sample:
            raise ValueError("a recorded round is greedy: set SSDConfig.do_sample to False, or decode without a graph")
        if decoder.target.device != decoder.draft.device:
            raise ValueError(f"one device for both models: {decoder.target.device} and {decoder.draft.device}")
        self.decoder, self.lookahead = decoder, lookahead
        for model in (decoder.target, decoder.draft):
            if int(model.cache.lengths.max()) + lookahead > model.cache.slots:
                raise ValueError(f"the cache holds {model.cache.slots} slots, too few for its prompt and one round")
            model.cache.show_up_to(model.cache.slots)
        state = [decoder.target.cache.lengths, decoder.draft.cache.lengths, decoder.pending, decoder.draft_pending]
        state += [*decoder.switch, decoder.finished]
        saved = [values.clone() for values in state]

        def undo() -> None:
            for values, before in zip(state, saved, strict=True):
                values.copy_(before)

        forwards = decoder.target.forwards, decoder.draft.forwards
        for _ in range(WARM_UP):
            self._decide()
            self._settle()
            undo()
        self.deciding = record(self._decide)
        self.settling = record(self._settle)
        undo()
        decoder.target.forwards, decoder.draft.forwards = forwards
        decoder.graph = self

    def _decide(self) -> None:
        self.scored = self.decoder.score(self.lookahead)
        self.decision = self.decoder.decide(self.scored, DEPTH)
        self.line = packed(self.scored, self.decision)

    def _settle(self) -> None:
        self.decoder.settle(self.decision)

    def round(self, recorder: Recorder | None) -> list[Emitted]:
        """Replay: at least one and at most `lookahead` tokens for every row that is not finished."""
        decoder = self.decoder
        self.deciding.replay()
        decoder.target.forwards += 1
        decoder.draft.forwards += self.lookahead
        emitted = unpack(self.line.tolist())  # the round's only wait
        if any(row.short for row in emitted):
            return decoder.walk(self.scored, recorder, [depth for depth in DEPTHS if depth > DEPTH])
        if recorder is not None:
            recorder.add(self.scored, self.decision, decoder.rounds, decoder.owners)
        self.settling.replay()
        return emitted
