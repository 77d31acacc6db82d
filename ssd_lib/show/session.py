"""One answer of the explorer: its settings, what decoding them gives, and the Python lines that do the same.

Settings are frozen, so an answer is decoded once and kept: going back to a setting costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from ssd_lib.config import SSDConfig
from ssd_lib.defenders import Answer, answer
from ssd_lib.method.trace import pieces
from ssd_lib.models.pairs import PAIRS, Pair, PairSpec, choose_pair
from ssd_lib.show.strips import Side, TraceLine
from ssd_lib.show.style import ALPHAS

KEPT = 64
"""Answers that are remembered."""


SHORT = {
    **ALPHAS,
    "threshold": "threshold",
    "bin_size": "b",
    "do_sample": "sampling",
    "temperature": "τ",
    "top_p": "top-p",
    "seed": "seed",
}
"""Settings that change tokens, and their short names."""


class Stopped(Exception):
    """This answer is not wanted any more."""


SSD = ("ssd", "ssd-hardened")
"""The defenders that the sliders of the method set."""


@dataclass(frozen=True)
class Settings:
    """What decides an answer. An attacker writes the first `prefill_tokens` tokens of the answer `prefill`."""

    question: str
    config: SSDConfig
    prefill: str = ""
    prefill_tokens: int = 0
    defender: str = "ssd"
    max_new_tokens: int = 80

    def normal(self) -> Settings:
        """The same answer's settings without those that do not affect it, so that it is decoded only once."""
        config = self.config if self.defender in SSD else SSDConfig()
        return replace(self, config=config, prefill=self.prefill if self.prefill_tokens else "")

    def undefended(self) -> Settings:
        """The same attack on the target alone."""
        return replace(self, defender="none").normal()


@dataclass(frozen=True)
class Run:
    """A decoded answer, ready to be drawn."""

    settings: Settings
    answer: Answer
    lines: list[TraceLine]
    """One a token: the trace's columns, `text` and `proposal_text`; without a trace position, token and text only."""
    history: list[TraceLine]
    """The same with the tokens that were taken back, where they came."""
    prefill: list[str]
    """The visible text of the prefilled tokens."""
    pair: Pair

    @property
    def traced(self) -> bool:
        return self.answer.trace is not None

    @property
    def lookahead(self) -> int:
        """Proposals of a round; 0 where they are counted anew each round."""
        lookahead = self.settings.config.lookahead
        return 0 if lookahead == "auto" else lookahead

    @property
    def taken_back(self) -> int:
        """How many tokens were taken back."""
        return len(self.history) - len(self.lines)

    @property
    def title(self) -> str:
        """What was done, in a few words."""
        return title(self.pair, self.settings, len(self.prefill))

    @property
    def side(self) -> Side:
        """Title, lines and prefill: one side of a comparison."""
        return self.title, self.lines, self.prefill

    def texts(self, position: int) -> dict[int, str]:
        """The visible text of every candidate at a token, as it would stand there."""
        line = self.lines[position]
        ids = dict.fromkeys([line["token"], line["proposal"], *line["target_top"], *line["draft_top"], *line["space"]])
        before = [*written(self.pair, self.settings), *self.answer.token_ids[:position]]
        return {token: pieces(self.pair.tokenizer, [token], before[-1] if before else None)[0] for token in ids}


def title(pair: Pair, settings: Settings, prefilled: int) -> str:
    """Settings in a few words: the defender, what differs from the pair's own settings, how many tokens are prefilled."""
    config, own = settings.config, pair.config
    words = ["no defence" if settings.defender == "none" else settings.defender]
    for name, short in SHORT.items() if settings.defender in SSD else ():
        value = getattr(config, name)
        if value != getattr(own, name):
            words.append(short if value is True else f"{short} {value:g}")
    return " · ".join([*words, f"{prefilled} tokens prefilled"])


def written(pair: Pair, settings: Settings) -> list[int]:
    """What the attacker writes, as token ids."""
    return pair.tokenizer.encode(settings.prefill, add_special_tokens=False)[: settings.prefill_tokens]


def decode(pair: Pair, settings: Settings, stop: Callable[[], bool] = lambda: False) -> Run:
    """Decode one answer.

    Args:
        pair: Target and draft.
        settings: What decides the answer.
        stop: Asked before every forward.

    Raises:
        Stopped: Where `stop` says yes.
        Exception: Whatever the defender raises.
    """
    prefill = written(pair, settings)
    with stoppable([pair.target, pair.draft], stop):
        (found,) = answer(
            pair,
            settings.question,
            prefill=prefill,
            defender=settings.defender,
            config=settings.config if settings.defender in SSD else None,
            max_new_tokens=settings.max_new_tokens,
        )
    history = _lines(pair, found, prefill[-1] if prefill else None)
    lines = [line for line in history if not line.get("retracted")]
    return Run(settings, found, lines, history, pieces(pair.tokenizer, prefill), pair)


def _lines(pair: Pair, found: Answer, before: int | None) -> list[TraceLine]:
    """An answer's tokens with their texts, those that were taken back among them. `before`: the token in front of it."""
    if found.trace is not None:
        return found.trace.to_frame(pair.tokenizer, retracted=True, before=before).to_dict("records")
    texts = pieces(pair.tokenizer, found.token_ids, before)
    columns = zip(range(len(texts)), found.token_ids, texts, strict=True)
    return [{"position": position, "token": token, "text": text} for position, token, text in columns]


@contextmanager
def stoppable(models: Sequence[PreTrainedModel], stop: Callable[[], bool]) -> Iterator[None]:
    """Inside, each forward of these models in this thread raises Stopped once `stop()` is true.

    For one answer a streamer would be enough; a defence that answers several times takes none, but also runs forwards.
    """
    here = threading.get_ident()

    def ask(*_: Any) -> None:
        if threading.get_ident() == here and stop():
            raise Stopped

    hooks = [model.get_input_embeddings().register_forward_pre_hook(ask) for model in models]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Session:
    """A pair and the answers that it has given."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.decoded = 0
        """How many answers were decoded, not remembered."""
        self._runs: dict[Settings, Run] = {}

    def known(self, settings: Settings) -> Run | None:
        return self._runs.get(settings.normal())

    def run(self, settings: Settings, stop: Callable[[], bool] = lambda: False) -> Run:
        """The answer to these settings, decoded unless it is known. Raises as `decode`."""
        found = self.known(settings)
        if found is None:
            self.decoded += 1
            found = decode(self.pair, settings, stop)
            self._runs[settings.normal()] = found
            if len(self._runs) > KEPT:
                self._runs.pop(next(iter(self._runs)))
        return replace(found, settings=settings)


# ------------------------------------------------------------------------------------------------ as code


def as_code(pair: Pair, settings: Settings) -> str:
    """Python lines that make the same answer, as `reply`."""
    loading = _loading(pair)
    prefill_lines, prefill = _prefilling(pair, settings)
    config_lines, config = _changing(pair, settings)
    defender = [f"defender={settings.defender!r}"] if settings.defender != "ssd" else []
    arguments = ["pair", repr(settings.question), *prefill, *defender, *config]
    arguments.append(f"max_new_tokens={settings.max_new_tokens}")
    lines = ["from dataclasses import replace", ""] if config else []
    lines += [f"from ssd_lib import answer{', load_pair' if loading else ''}", ""]
    lines += [*loading, *prefill_lines, *config_lines, "reply = answer(", *(f"    {each}," for each in arguments)]
    return "\n".join([*lines, ")[0]", "print(reply.text)"])


def _prefilling(pair: Pair, settings: Settings) -> tuple[list[str], list[str]]:
    """Lines and arguments for what the attacker writes."""
    if not (ids := written(pair, settings)):
        return [], []
    text = str(pair.tokenizer.decode(ids))
    if settings.prefill.startswith(text) and pair.tokenizer.encode(text, add_special_tokens=False) == ids:
        return [], [f"prefill={text!r}"]
    # the cut falls inside a word, which alone would be other tokens
    line = f"written = pair.tokenizer.encode({settings.prefill!r}, add_special_tokens=False)"
    return [line], [f"prefill=written[:{settings.prefill_tokens}]"]


def _changing(pair: Pair, settings: Settings) -> tuple[list[str], list[str]]:
    """Lines and arguments for what differs from the pair's own settings."""
    own = vars(pair.config)
    changed = [f"{name}={value!r}" for name, value in vars(settings.config).items() if value != own[name]]
    if settings.defender not in SSD or not changed:
        return [], []
    return [f"config = replace(pair.config, {', '.join(changed)})"], ["config=config"]


def _loading(pair: Pair) -> list[str]:
    """The line that loads a pair; nothing for a pair that was put together by hand."""
    known = PAIRS.get(pair.spec.name)
    if known is None and replace(pair.spec, config=SSDConfig()) != choose_pair(**_given(pair, None)):
        return []
    own = [f"{key}={value!r}" for key, value in _given(pair, known).items()]
    return [f"pair = load_pair({', '.join([repr(pair.spec.name)] * (known is not None) + own)})"]


def _given(pair: Pair, known: PairSpec | None) -> dict[str, Any]:
    """What `load_pair` is given beside the name: what differs from the registered pair."""
    names = ("target", "draft", "target_format", "draft_format")
    return {name: value for name in names if (value := getattr(pair.spec, name)) != getattr(known, name, None)}
