"""A conversation that reads nothing twice.

Every turn's prompt begins with the turns before it, whose keys and values both caches still hold. A reply keeps the longest
beginning that the new prompt shares with what was read, forgets the rest (one number a model) and reads only what is new.
So an edited or regenerated turn costs no more than what changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.generate import SSDOutput, begin, decode, finish
from ssd_lib.decoding.graphs import RoundGraph
from ssd_lib.decoding.host import Host
from ssd_lib.decoding.inputs import check_models, check_room
from ssd_lib.decoding.lookahead import FIRST
from ssd_lib.decoding.pace import Pace, longest_lookahead
from ssd_lib.decoding.recording import Recorder
from ssd_lib.decoding.rounds import Decoder
from ssd_lib.decoding.stepwise import StepwiseDecoder


class Conversation:
    """Both models with the caches of one conversation of at most `context` tokens a model.

    graph: on a CUDA device, record a round once and replay it for every reply (`graphs`; the lookahead is then fixed).

    Raises ValueError for vocabularies that differ, and for a graph without a CUDA device.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        draft: PreTrainedModel,
        config: SSDConfig = SSDConfig(),  # noqa: B008 (frozen)
        *,
        context: int = 4096,
        graph: bool = False,
    ):
        check_models(target, draft)
        self.target, self.draft, self.config, self.context = target, draft, config, context
        if graph and target.get_input_embeddings().weight.device.type != "cuda":
            raise ValueError("graph=True records a CUDA graph: move both models to a CUDA device, or leave it out")
        self.graph = graph
        self.models: tuple[CachedModel, CachedModel] | None = None
        self.decoder: Decoder | None = None
        self.known: tuple[list[int], list[int]] = ([], [])
        """What each model's cache holds."""

    @torch.inference_mode()
    def reply(
        self,
        prompt: Sequence[int],
        draft_prompt: Sequence[int] | None = None,
        *,
        max_new_tokens: int = 256,
        eos_token_id: int | Sequence[int] | None = None,
        streamer: Any = None,
        trace: bool = True,
    ) -> SSDOutput:
        """Answer the whole conversation so far, `prompt` (token ids) for the target and `draft_prompt` for the draft.

        Greedy replies equal those of `ssd_generate`. The stats count this turn's forwards alone.

        Raises ValueError for an empty prompt, or one that does not fit the context together with `max_new_tokens`.
        """
        prompts = [list(prompt), list(prompt if draft_prompt is None else draft_prompt)]
        for name, model, ids in zip(("target", "draft"), (self.target, self.draft), prompts, strict=True):
            check_room(name, model, len(ids), max_new_tokens)
            if not 0 < len(ids) <= self.context - max_new_tokens:
                raise ValueError(
                    f"the {name}'s prompt has {len(ids)} tokens; this conversation holds 1 to {self.context} with the "
                    f"{max_new_tokens} new ones: shorten it, or make Conversation(context=…) larger"
                )
        started = time.perf_counter()
        models, self.known = self._read(prompts), ([], [])  # an interruption leaves nothing half known
        device = self.target.get_input_embeddings().weight.device
        pending = torch.tensor([prompts[0][-1]], device=device), torch.tensor([prompts[1][-1]], device=device)
        decoder = self._decoder(models, pending, max_new_tokens, eos_token_id)
        host = Host([prompts[0]], streamer, None)
        recorder = Recorder(self.config) if trace else None
        stepwise = isinstance(decoder, StepwiseDecoder)
        pace = Pace(self.config, self.target, self.draft, [prompts[0]], stepwise=stepwise, timed=not trace)
        schedule = decode(decoder, host, pace, recorder, (len(prompts[0]), len(prompts[1])))
        self.known = (prompts[0] + host.answers[0][:-1], prompts[1] + host.answers[0][:-1])
        return finish(decoder, host.answers, host.matches, recorder, schedule, started)

    def _read(self, prompts: list[list[int]]) -> tuple[CachedModel, CachedModel]:
        """Both models with all of their prompts but the last token in the cache; only what is new is read."""
        if self.models is None:
            slots = self.context + longest_lookahead(self.config)
            first, second = (
                CachedModel(model, torch.tensor([ids]), torch.tensor([len(ids)]), slots)
                for model, ids in zip((self.target, self.draft), prompts, strict=True)
            )
            self.models = (first, second)
            return self.models
        for model, ids, known in zip(self.models, prompts, self.known, strict=True):
            model.forwards = 0
            model.replace_row(0, ids, kept=_shared(known, ids[:-1]))
        return self.models

    def _decoder(
        self,
        models: tuple[CachedModel, CachedModel],
        pending: tuple[Tensor, Tensor],
        max_new_tokens: int,
        eos_token_id: int | Sequence[int] | None,
    ) -> Decoder:
        """A decoder before its first round: a new one, or the last one with its recorded round where that still fits."""
        decoder = begin(models, pending, self.config, max_new_tokens, eos_token_id)
        if not self.graph:
            return decoder
        last = self.decoder
        fits = last is not None and last.max_new_tokens == max_new_tokens and torch.equal(last.eos, decoder.eos)
        if last is None or not fits:
            lookahead = FIRST if self.config.lookahead == "auto" else self.config.lookahead
            RoundGraph(decoder, lookahead)
            self.decoder = last = decoder
        last.restart(*pending)
        return last


def _shared(known: list[int], ids: list[int]) -> int:
    """The length of the beginning that two texts share."""
    for place, (one, other) in enumerate(zip(known, ids, strict=False)):
        if one != other:
            return place
    return min(len(known), len(ids))
