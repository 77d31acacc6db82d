"""ADA, any-depth alignment (Zhang et al., ICLR 2026, arXiv 2510.18081): the assistant's header again, in mid-answer.

A model that was taught to refuse with its first tokens has tied the refusal to the header that stands before them. Written
again after d tokens of an answer, at any depth, the header brings the refusal back. ADA-RK, "rethinking", is the form
that needs no training, and no draft:

    after every 25 tokens of an answer:   prompt, answer so far, end of turn, header   →   20 tokens, greedy
    where these 20 hold a refusal, the answer stops, and a refusal takes its place

A look ahead is a fork of the cache: it reads the header and nothing else again. ADA-LP, the paper's stronger form, reads a
trained linear probe at the header instead; it is not built here, since it needs hidden states of thousands of answers.

Confirmed in the authors' code (github.com/javyduck/any-depth-alignment, commit e7205aa): the header with the end of turn
before it, 25 and 20 tokens, matching strings of a refusal, a canned refusal (its demonstration server). Not confirmed in
the paper's text, and chosen here: an attacker's prefill is looked at before the first token (their sweep truncates a
forced answer at d and looks there), what was written before a look stays, since it was streamed, and the strings are
`refusals.REFUSALS`, where theirs are tuned to each model.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ssd_lib.defenders import prompts
from ssd_lib.defenders.base import Answer, Request, answers_of, said_instead, target_of
from ssd_lib.models.chat import FORMATS, pad_left
from ssd_lib.models.inference import Pass, Rows, Speaker, stops_of
from ssd_lib.models.pairs import Pair
from ssd_lib.models.refusals import refuses
from ssd_lib.settings import Count, Positive, settings


@settings
class AnyDepthSettings:
    """The defaults of the authors' code (`ada/rethink/generate.py`)."""

    every: Positive = 25
    """Tokens between two looks."""
    lookahead: Count = 20
    """Tokens of a look; 0 never looks: the target alone."""
    keep: bool = True
    """What stands before the refusal stays; False: the refusal replaces the whole answer, which then must not be streamed."""
    refusal: str = prompts.REFUSAL


def any_depth_alignment(pair: Pair, request: Request, settings: AnyDepthSettings) -> list[Answer]:
    """ADA-RK, batched; greedy."""
    started = time.perf_counter()
    run = _Run(target_of(pair), request)
    while run.rows and run.left:
        if settings.lookahead:
            run.look(settings.lookahead)
        run.go_on(settings.every)
    ids = list(run.answers)
    for row in run.refused:
        said = said_instead(pair, settings.refusal, request.prefills[row] or run.answers[row])
        ids[row] = ((run.answers[row] if settings.keep else []) + said)[: request.max_new_tokens]
    passes = [Pass("target", run.all, ids, run.lengths, run.forwards, time.perf_counter() - started), *run.looks]
    if not settings.keep:  # written, and in no answer
        refused = sorted(run.refused)
        passes.append(Pass("target", refused, [run.answers[row] for row in refused], [0] * len(refused), 0, 0.0))
    notes = [{"looks": run.looked[row], "refused_after": run.refused.get(row)} for row in run.all]
    return answers_of(pair, request, ids, passes, notes=notes)


def header(tokenizer: PreTrainedTokenizerBase, chat_format: str | None) -> list[int]:
    """The end of an assistant's turn and the header of the next one, as the chat template writes them.

    Where a template has no header of its own (Llama-2's kind) it is what ends the question, as in the authors' code; that
    has a beginning-of-sequence token between the two for Llama-2, which is left out here.
    """
    template = None if tokenizer.chat_template is not None else FORMATS[chat_format or ""].template
    render: Any = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False)
    asked, said = {"role": "user", "content": "⟨question⟩"}, {"role": "assistant", "content": "⟨answer⟩"}
    end, again = (render([asked, said], add_generation_prompt=more).split("⟨answer⟩")[-1] for more in (False, True))
    if end == again:
        again += render([asked], add_generation_prompt=True).split("⟨question⟩")[-1]
    return list(tokenizer.encode(again, add_special_tokens=False))


class _Run:
    """Rows that are decoded in step over one cache; a row that has ended or is refused leaves."""

    def __init__(self, speaker: Speaker, request: Request):
        self.speaker, self.request, self.left = speaker, request, request.max_new_tokens
        prompts = speaker.encode(request.questions, request.prefills)
        self.all, self.lengths = list(range(len(prompts))), list(map(len, prompts))
        self.rows, self.answers, self.looked = list(self.all), [[] for _ in prompts], [0] * len(prompts)
        self.refused: dict[int, int] = {}
        """Row → tokens of its answer, prefilled ones included, after which it was refused."""
        self.looks: list[Pass] = []
        ids, mask = pad_left(prompts, speaker.tokenizer.pad_token_id)
        self.header = torch.tensor([header(speaker.tokenizer, speaker.chat_format)])
        self.text = Rows(speaker.model, ids[:, :-1], mask[:, :-1])
        self.text.logits()  # reads the prompts once, for the looks as well
        self.text.append(ids[:, -1:])
        self.forwards, self.stops = 1, stops_of(speaker.model)

    def look(self, tokens: int) -> None:
        """Write the header after the rows that have begun an answer, and drop those that refuse after it."""
        begun = [i for i, row in enumerate(self.rows) if self.request.prefills[row] or self.answers[row]]
        if not begun:
            return
        seen, fork = [self.rows[i] for i in begun], self.text.fork(begun)
        fork.append(self.header.expand(len(begun), -1))
        said = fork.greedy(self.speaker.tokenizer, tokens)
        read = [self.header.shape[1]] * len(seen)
        self.looks.append(Pass(self.speaker.role, seen, said, read, max(map(len, said)), 0.0))
        for row, text in zip(seen, self.speaker.tokenizer.batch_decode(said, skip_special_tokens=True), strict=True):
            self.looked[row] += 1
            if refuses(text):
                self.refused[row] = len(self.request.prefills[row]) + len(self.answers[row])
        self._keep([i for i, row in enumerate(self.rows) if row not in self.refused])

    def go_on(self, tokens: int) -> None:
        """Decode the next tokens of the rows that are left."""
        if not self.rows:
            return
        said = self.text.greedy(self.speaker.tokenizer, tokens := min(tokens, self.left))
        self.forwards, self.left = self.forwards + max(map(len, said)), self.left - tokens
        for row, ids in zip(self.rows, said, strict=True):
            self.answers[row] += ids
        on = [i for i, ids in enumerate(said) if len(ids) == tokens and ids[-1] not in self.stops]
        self._keep(on)
        self.text.append(torch.tensor([said[i] for i in on], dtype=torch.long).reshape(len(on), tokens))

    def _keep(self, places: list[int]) -> None:
        self.rows = [self.rows[i] for i in places]
        self.text.keep(places)
