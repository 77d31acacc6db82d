"""What the evaluation tools share: a loaded pair that answers batches, and what each answer's trace says in a few numbers.

A prompt is what `ssd run` would make of the same question (`Pair.prompts`), so greedy answers are the same, token for token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import SSDOutput, ssd_generate
from ssd_lib.defenders import settings_for
from ssd_lib.method.trace import Trace
from ssd_lib.models.chat import Question, decode_answer, encode_answer
from ssd_lib.models.inference import check_room, eos_ids
from ssd_lib.models.pairs import Pair, load_pair
from ssd_lib.settings import of_kind

LOADING = tuple(signature(load_pair).parameters)[1:]
"""Options of `load_pair`; every other option is a setting of SSD."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": None}


@dataclass(frozen=True)
class Prompt:
    """Both models' token ids of one question, and those of the answer's given beginning, with which they end."""

    target: list[int]
    draft: list[int]
    prefill: list[int]


@dataclass(frozen=True)
class Reply:
    """One answer: its text (before a stop string, if one ended it), its ids, and what became of them."""

    text: str
    token_ids: list[int]
    ended: bool
    """By itself or by a stop string, not by max_new_tokens."""
    matched: int
    retracted: int
    trace: Trace | None = None


class Answerer:
    """A pair with SSD's settings."""

    def __init__(self, pair: Pair, config: SSDConfig):
        self.pair, self.config = pair, config

    @classmethod
    def load(cls, name: str | None, *, hardened: bool = False, **options: Any) -> Answerer:
        """The pair of that name, options of `load_pair` and settings of SSD by name.

        Raises ValueError, OSError and ImportError as `load_pair`, and ValueError for an option that neither knows.
        """
        if not isinstance(hardened, bool):
            raise ValueError(f"hardened is true or false, not {hardened!r}")
        loading = {key: value for key, value in options.items() if key in LOADING and value is not None}
        if isinstance(loading.get("dtype"), str):
            loading["dtype"] = _dtype(loading["dtype"])
        try:
            pair = load_pair(name, **loading)
        except TypeError as error:  # tools read pair=3 as a number
            raise ValueError(str(error)) from error
        changed = {key: value for key, value in options.items() if key not in LOADING}
        return cls(pair, settings_for(pair, "ssd-hardened" if hardened else "ssd", changed))

    def chat(self, question: Question, prefill: str = "") -> Prompt:
        """A question or conversation in both models' chat templates. Raises ValueError as `Pair.prompts`."""
        ids = encode_answer(self.pair.tokenizer, prefill)
        (target,), (draft,) = self.pair.prompts([question], [ids])
        return Prompt(target, draft, ids)

    def check(self, prompt: Prompt, max_new_tokens: int) -> None:
        """Raise ValueError where prompt and answer do not fit into a model's context."""
        for speaker, ids in zip(self.pair.speakers, (prompt.target, prompt.draft), strict=True):
            check_room(f"the {speaker.role}'s prompt", speaker.model, len(ids), max_new_tokens)

    def ask(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        sampling: Mapping[str, Any] | None = None,
        trace: bool = False,
    ) -> list[Reply]:
        """Answer a batch; `sampling` are settings of SSD in the place of its own (`sampled`)."""
        endings = [text for text in stop if text]
        output = ssd_generate(
            self.pair.target,
            self.pair.draft,
            [prompt.target for prompt in prompts],
            draft_input_ids=[prompt.draft for prompt in prompts],
            config=replace(self.config, **sampling or {}),
            max_new_tokens=max_new_tokens,
            prefilled=[len(prompt.prefill) for prompt in prompts],
            vocab_size=self.pair.vocab_size,
            stopping_criteria=[_Ends(self.pair, prompts, endings)] if endings else None,
            trace=trace,
        )
        return [self._reply(row, prompt, output, endings) for row, prompt in enumerate(prompts)]

    def _reply(self, row: int, prompt: Prompt, output: SSDOutput, endings: Sequence[str]) -> Reply:
        ids = output.sequences[row].tolist()
        text, whole = _cut(decode_answer(self.pair.tokenizer, ids, prompt.prefill), endings)
        by_itself = bool(ids) and ids[-1] in eos_ids(self.pair.target.generation_config.eos_token_id)  # pyright: ignore
        trace = None if output.trace is None else output.trace.row(row)
        return Reply(text, ids, by_itself or not whole, output.matched[row], output.retracted[row], trace)


def _dtype(name: str) -> torch.dtype | None:
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


# ------------------------------------------------------------------------------------------------ where an answer ends


def _cut(text: str, endings: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the endings, and whether that is all of it."""
    first = min((place for place in map(text.find, endings) if place >= 0), default=len(text))
    return text[:first], first == len(text)


class _Ends:
    """A stopping criterion: the answer holds one of the endings.

    It is handed prompt and answer as one; the prompt is the longest of the batch's that they begin with. Where that is another
    prompt, longer than the row's own, an ending is seen late, never early.
    """

    def __init__(self, pair: Pair, prompts: Sequence[Prompt], endings: Sequence[str]):
        self.tokenizer, self.endings = pair.tokenizer, endings
        self.prompts = sorted(prompts, key=lambda prompt: len(prompt.target), reverse=True)

    def __call__(self, ids: Tensor, _scores: Any) -> bool:
        text = ids[0].tolist()
        prompt = next(each for each in self.prompts if text[: len(each.target)] == each.target)
        return not _cut(decode_answer(self.tokenizer, text[len(prompt.target) :], prompt.prefill), self.endings)[1]


# ------------------------------------------------------------------------------------------------ sampling, and numbers


def sampled(temperature: Any = None, top_p: Any = None, top_k: Any = None, seed: Any = None) -> dict[str, Any]:
    """SSD's settings for a request that names a temperature (None or 0: greedy) and the cuts that go with it.

    Raises TypeError for what is no number.
    """
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    for name, value in given.items():
        of_kind(name, value, int, NoneType, *([float] if name in ("temperature", "top_p") else []))
    if not temperature:
        return {"do_sample": False}
    return {"do_sample": True} | {name: value for name, value in given.items() if value is not None}


def summary(reply: Reply, config: SSDConfig) -> dict[str, Any]:
    """What an answer's trace says: how many tokens matched, alarms, retractions, tokens decoded for each that was kept."""
    kept = len(reply.token_ids)
    numbers: dict[str, Any] = {
        "match_ratio": reply.matched / kept if kept else None,
        "decoded_per_kept": (kept + reply.retracted) / kept if kept else None,
        "tokens": kept,
        "tokens_taken_back": reply.retracted,
    }
    if reply.trace is not None:
        alarms, retractions = _alarms(reply.trace, config)
        numbers |= {"alarms": alarms, "retractions": retractions}
    return numbers


def _alarms(trace: Trace, config: SSDConfig) -> tuple[int, int]:
    """Bins whose match ratio lay below the threshold (the given beginning's among them), and bins that were taken back.

    A bin that is taken back ends where the next line stands no further on in the answer than the last.
    """
    lines = trace.lines
    if lines.empty or config.fixed_scheme:
        return 0, 0
    goes_back = lines["retracted"] & (lines["position"].shift(-1) <= lines["position"])
    low = (lines["bin_tokens"] == config.bin_size) & (lines["match_ratio"] < lines["threshold"])
    begins_in_union = config.start_scheme == "intersection" and lines["scheme"].iloc[0] == "union"
    return (low | goes_back).tolist().count(True) + begins_in_union, goes_back.tolist().count(True)
