"""ADA, any-depth alignment (Zhang et al., ICLR 2026, arXiv 2510.18081): the assistant's header again, in mid-answer.

A model that was taught to refuse with its first tokens has tied the refusal to the header that stands before them. Put in
once more after d tokens of an answer, however deep, the header brings the refusal back. ADA-RK, "rethinking", is the form
that needs no training, and no draft:

    after every 25 tokens of an answer:   prompt, answer so far, end of turn, header   →   20 tokens, greedy
    where these 20 hold a refusal the answer stops, and a refusal is said in its place

A look ahead is a fork of the cache: it reads the header and nothing else again. ADA-LP, the paper's stronger form, reads a
trained linear probe at the header instead; it is not built here, since it needs hidden states of thousands of answers.

Confirmed in the authors' code (github.com/javyduck/any-depth-alignment, commit e7205aa): the header with the end of turn
before it, 25 and 20 tokens, matching strings of a refusal, a canned refusal (its demonstration server). Not confirmed in
the paper's text, and chosen here: an attacker's prefill is looked at before the first token (their sweep truncates a
forced answer at d and looks there), what was told before a look stays told, since it was streamed, and the strings are
`refusals.REFUSALS`, where theirs are tuned to each model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from ssd_lib.defenders import prompts
from ssd_lib.defenders.base import Answer, Request, answers_of, said_instead, target_of
from ssd_lib.models.chat import FORMATS, encode_prompt, pad_left, vocabulary_size
from ssd_lib.models.inference import Pass, Speaker, greedy, padding, until_eos
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
    """ADA-RK, batched; greedy. Raises ValueError for settings that count no tokens."""
    if settings.every < 1 or settings.lookahead < 0:
        raise ValueError(f"ada needs every ≥ 1 and lookahead ≥ 0, not {settings.every} and {settings.lookahead}")
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
    thrown = [] if settings.keep else [run.written("target", sorted(run.refused))]
    passes = [
        Pass("target", run.all, ids, run.lengths, run.forwards, time.perf_counter() - started),
        *thrown,
        *run.looks,
    ]
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


@dataclass
class _Run:
    """Rows that are decoded in step over one cache; a row that has ended or is refused leaves."""

    speaker: Speaker
    request: Request
    refused: dict[int, int] = field(default_factory=dict)
    """Row → tokens of its answer, prefilled ones included, after which it was refused."""
    looks: list[Pass] = field(default_factory=list)
    forwards: int = 1

    def __post_init__(self) -> None:
        tokenizer = self.speaker.tokenizer
        encoded = [
            encode_prompt(tokenizer, question, chat_format=self.speaker.chat_format, prefill=prefill)
            for question, prefill in zip(self.request.questions, self.request.prefills, strict=True)
        ]
        device = self.speaker.model.get_input_embeddings().weight.device
        self.ids, self.mask = (part.to(device) for part in pad_left(encoded, tokenizer.pad_token_id))
        self.header = torch.tensor([header(tokenizer, self.speaker.chat_format)], device=device)
        self.all, self.lengths, self.left = list(range(len(encoded))), [*map(len, encoded)], self.request.max_new_tokens
        self.rows, self.answers, self.looked = list(self.all), [[] for _ in encoded], [0] * len(encoded)
        self.cache = self._read()

    @torch.inference_mode()
    def _read(self) -> DynamicCache:
        """One forward over all prompts but their last token."""
        model: Any = self.speaker.model
        cache, mask = DynamicCache(config=model.config), self.mask[:, :-1]
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        model(
            input_ids=self.ids[:, :-1], attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )
        return cache

    def look(self, tokens: int) -> None:
        """Put the header in for the rows that have begun an answer, and let those go that refuse after it."""
        begun = [i for i, row in enumerate(self.rows) if self.request.prefills[row] or self.answers[row]]
        if not begun:
            return
        fork, chosen = copy.deepcopy(self.cache), torch.tensor(begun, device=self.ids.device)
        fork.batch_select_indices(chosen)
        ids = torch.cat([self.ids[chosen], self.header.expand(len(begun), -1)], dim=1)
        mask = torch.nn.functional.pad(self.mask[chosen], (0, self.header.shape[1]), value=1)
        said, seen = self._generate(ids, mask, fork, tokens), [self.rows[i] for i in begun]
        self.looks.append(
            Pass(self.speaker.role, seen, said, [self.header.shape[1]] * len(seen), max(map(len, said)), 0.0)
        )
        for row, text in zip(seen, self.speaker.tokenizer.batch_decode(said, skip_special_tokens=True), strict=True):
            self.looked[row] += 1
            if refuses(text):
                self.refused[row] = len(self.request.prefills[row]) + len(self.answers[row])
        self._keep([i for i, row in enumerate(self.rows) if row not in self.refused])

    def go_on(self, tokens: int) -> None:
        """The next tokens of the rows that are left."""
        if not self.rows:
            return
        said = self._generate(self.ids, self.mask, self.cache, tokens := min(tokens, self.left))
        self.forwards, self.left = self.forwards + max(map(len, said)), self.left - tokens
        for row, ids in zip(self.rows, said, strict=True):
            self.answers[row] += ids
        on = [i for i, ids in enumerate(said) if len(ids) == tokens and not self._ended(ids)]
        self._keep(on)
        new = torch.tensor([said[i] for i in on], dtype=torch.long, device=self.ids.device).reshape(len(on), tokens)
        self.ids = torch.cat([self.ids, new], dim=1)
        self.mask = torch.nn.functional.pad(self.mask, (0, tokens), value=1)

    def _ended(self, ids: Sequence[int]) -> bool:
        """Whether the last token ends the answer: a token more would be cut."""
        return len(until_eos([*ids, ids[-1]], self.speaker.model)) == len(ids)

    def _keep(self, places: list[int]) -> None:
        chosen = torch.tensor(places, dtype=torch.long, device=self.ids.device)
        self.rows, self.ids, self.mask = [self.rows[i] for i in places], self.ids[chosen], self.mask[chosen]
        self.cache.batch_select_indices(chosen)

    @torch.inference_mode()
    def _generate(self, ids: Tensor, mask: Tensor, cache: DynamicCache, tokens: int) -> list[list[int]]:
        """The model's own greedy tokens after what stands in the cache."""
        model, tokenizer = self.speaker.model, self.speaker.tokenizer
        options = dict(past_key_values=cache, pad_token_id=padding(tokenizer), vocab_size=vocabulary_size(tokenizer))
        sequences = greedy(model, ids, mask, max_new_tokens=tokens, **options)
        return [until_eos(row, model) for row in sequences[:, ids.shape[1] :].tolist()]

    def written(self, role: str, rows: list[int]) -> Pass:
        """What these rows wrote that no answer holds."""
        return Pass(role, rows, [self.answers[row] for row in rows], [0] * len(rows), 0, 0.0)
