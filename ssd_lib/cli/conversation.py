"""A conversation of many turns, without the terminal that shows it: what was said, who answers, what the caches hold.

SSD answers through `decoding.Conversation`, so that a turn reads only what is new; every other defender reads the whole
conversation again at each turn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssd_lib.decoding import Conversation
from ssd_lib.defenders import DEFENDERS, Answer, Cost, Request, answer, find_defender, settings_for
from ssd_lib.defenders.base import answers_of
from ssd_lib.defenders.decoding import ssd
from ssd_lib.models.chat import Message, decode_answer, encode_answer
from ssd_lib.models.inference import Pass, without_answers
from ssd_lib.models.pairs import Pair
from ssd_lib.paths import write_whole

CONTEXT = 4096
"""Tokens a conversation holds at most, unless another limit is given: its caches are allocated whole."""


def is_ssd(defender: str) -> bool:
    """Whether this is SSD, published or hardened: it alone has traces, and caches that a conversation can keep."""
    return DEFENDERS[defender].run is ssd


class Listener(Protocol):
    """A streamer that remembers what it was given, so that an answer can be stopped and yet be known."""

    ids: list[int]

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Turn:
    """One answer of a conversation."""

    answer: Answer
    kept: int
    """Tokens of the target's prompt that were still in its cache; the rest is the answer's `cost.prompt_tokens`."""
    end: str = ""
    """Why the answer ended before its end-of-sequence token, if it did."""


class Talk:
    """What was said so far, and how the next question will be answered.

    Args:
        pair: Target and draft.
        defender: Who answers.
        prefill: What the first answer begins with.
        max_new_tokens: Tokens of each answer, at most.
        context: Tokens of prompt and answer together. Default: what both models take, at most `CONTEXT`.
        retracted: Show tokens that were taken back in strips.

    Raises:
        ValueError: For an unknown defender, or a context that a model does not have.
    """

    def __init__(
        self,
        pair: Pair,
        defender: str = "ssd",
        prefill: str = "",
        max_new_tokens: int = 160,
        context: int | None = None,
        retracted: bool = False,
    ):
        limits = [m.config.get_text_config().max_position_embeddings for m in (pair.target, pair.draft)]
        if context is not None and context > min(limits):
            raise ValueError(f"a context of {context} tokens: target and draft hold {limits[0]} and {limits[1]}")
        self.pair, self.defender = pair, find_defender(defender)
        self.context = context or min(CONTEXT, *limits)
        self.prefill, self.max_new_tokens = prefill, max_new_tokens
        self.retracted = retracted
        """Whether strips show what was taken back."""
        self.changed: dict[str, dict[str, Any]] = {}
        """Of each defender: its settings that differ from the pair's."""
        self.messages: list[Message] = []
        self.last: Answer | None = None
        self.asked: tuple[str, str, Any] = ("", "", None)
        """Question, defender and settings of the last answer."""
        self.caches: Conversation | None = None
        self.cached_for = ""
        """Whose settings the caches were made with."""

    @property
    def keeps_caches(self) -> bool:
        """Whether turns are read into caches that stay."""
        return is_ssd(self.defender)

    # -------------------------------------------------------------------------------------------- a turn

    def ask(self, question: str, listener: Listener) -> Turn:
        """The answer to the next question. Ctrl-C stops it: what was said until then is the answer.

        After any error the conversation is as it was before the question.

        Raises:
            KeyboardInterrupt: Where nothing was said yet.
            ValueError: For an empty question or a full context.
            Exception: Whatever the defender raises.
        """
        asked = [*self.messages, {"role": "user", "content": question}]
        given = encode_answer(self.pair.tokenizer, self.prefill)
        (prompt,), (draft_prompt,) = self.pair.prompts([asked], [given])
        prompts = prompt, draft_prompt
        room = self.context - max(map(len, prompts))
        if room < 1:
            raise ValueError(f"the conversation fills its {self.context} tokens: /reset begins a new one")
        limit, started = min(self.max_new_tokens, room), time.perf_counter()
        request = Request([asked], [given], limit, listener)
        try:
            said, kept = self._cached(request, prompts) if self.keeps_caches else (self._anew(request), 0)
            end = ""
            if len(said.token_ids) >= limit and said.token_ids[-1] not in self.pair.tokenizer.all_special_ids:
                end = "cut: the context is full, /reset begins a new one" if limit == room else f"cut at {limit} tokens"
        except KeyboardInterrupt:
            if not listener.ids:
                raise
            said, kept = self._stopped(given, listener.ids, time.perf_counter() - started), 0
            end = "stopped: what was said stays"
        self.messages = [*asked, {"role": "assistant", "content": said.prefill + said.text}]
        self.prefill, self.last = "", said
        settings = settings_for(self.pair, self.defender, self.changed.get(self.defender))
        self.asked = question, self.defender, settings
        return Turn(said, kept, end)

    def _anew(self, request: Request) -> Answer:
        """The answer of a defender that reads the whole conversation."""
        (said,) = answer(
            self.pair,
            request.questions,
            defender=self.defender,
            prefill=request.prefills,
            settings=self.changed.get(self.defender),
            max_new_tokens=request.max_new_tokens,
            streamer=request.streamer,
        )
        return said

    def _cached(self, request: Request, prompts: tuple[list[int], list[int]]) -> tuple[Answer, int]:
        """SSD's answer from the caches of earlier turns, and how many tokens of its prompt they held."""
        if self.caches is None or self.cached_for != self.defender:
            self.cached_for = self.defender
            pair, config = self.pair, settings_for(self.pair, self.defender, self.changed.get(self.defender))
            self.caches = Conversation(
                pair.target, pair.draft, config, context=self.context, vocab_size=pair.vocab_size
            )
        output = self.caches.reply(
            *prompts,
            max_new_tokens=request.max_new_tokens,
            prefilled=len(request.prefills[0]),
            streamer=request.streamer,
            trace=request.trace,
        )
        ids, stats = output.sequences[0].tolist(), output.stats
        read = Pass("target", [0], [ids], [len(prompts[0]) - stats.kept], stats.target_forwards, stats.seconds)
        passes = [read, without_answers("draft", stats.draft_forwards)]
        return answers_of(self.pair, request, [ids], passes, traces=[output.trace])[0], stats.kept

    def _stopped(self, given: list[int], ids: list[int], seconds: float) -> Answer:
        tokenizer = self.pair.tokenizer
        cost = Cost(tokens=len(ids), seconds=seconds)
        return Answer(decode_answer(tokenizer, ids, given), list(ids), str(tokenizer.decode(given)), None, cost)

    # -------------------------------------------------------------------------------------------- commands

    def command(self, line: str) -> str:
        """Do what a line that begins with / says; returns what to show the user.

        Raises:
            ValueError: For a command or a value that does not exist.
            OSError: Where a file cannot be written.
            EOFError: For /quit.
        """
        name, _, rest = line.partition(" ")
        if name not in COMMANDS:
            raise ValueError(
                f"unknown command {name}: /help lists them (put a blank before a question that begins with /)"
            )
        return COMMANDS[name][0](self, rest.strip())

    def help(self, rest: str) -> str:
        width = max(map(len, (usage for _, usage, _ in COMMANDS.values())))
        lines = [f"{usage:{width}}  {does}" for _, usage, does in COMMANDS.values()]
        return "\n".join([*lines, f"{'Ctrl-C':{width}}  stop an answer; what was said stays in the conversation"])

    def reset(self, rest: str) -> str:
        self.messages = []
        return "a new conversation"

    def choose_defender(self, rest: str) -> str:
        if rest:
            self.defender = find_defender(rest)
        keeps = "reads the whole conversation every turn (only ssd and ssd-hardened keep caches)"
        if self.keeps_caches:
            keeps = "keeps its caches"
        return f"{self.defender} answers; it {keeps}" + ("" if rest else f". There are {', '.join(DEFENDERS)}")

    def write_beginning(self, rest: str) -> str:
        self.prefill = rest
        return f"the next answer begins with: {rest}" if rest else "the next answer begins by itself"

    def change(self, rest: str) -> str:
        name, _, raw = rest.replace("=", " ", 1).partition(" ")
        own = self.changed.get(self.defender, {})
        if not rest:
            return f"max_new_tokens={self.max_new_tokens}, {settings_for(self.pair, self.defender, own)}"
        value, name = _value(raw.strip()), name.replace("-", "_")
        if name == "max_new_tokens":
            if type(value) is not int or value < 1:
                raise ValueError(f"max_new_tokens must be a whole number from 1 on, not {value!r}")
            self.max_new_tokens = value
        else:
            try:
                settings_for(self.pair, self.defender, own | {name: value})
            except TypeError as error:
                raise ValueError(f"{name} cannot be {value!r}") from error
            self.changed[self.defender] = own | {name: value}
            self.caches = None  # made anew with these settings
        return f"{name} is {value} from the next answer on"

    def write_trace(self, rest: str) -> str:
        if not rest:
            raise ValueError("/trace PATH: name the HTML file to write")
        if self.last is None or self.last.trace is None:
            raise ValueError("there is no strip to write: only whole answers of ssd have one")
        path = Path(rest).expanduser()
        write_strip(path, self.last, self.pair, *self.asked, self.retracted)
        return f"the strip is in {path}"

    def show_retracted(self, rest: str) -> str:
        self.retracted = not self.retracted
        return f"strips {'show, struck through,' if self.retracted else 'leave out'} what was taken back"

    def quit(self, rest: str) -> str:
        raise EOFError


COMMANDS: dict[str, tuple[Callable[[Talk, str], str], str, str]] = {
    "/help": (Talk.help, "/help", "this list"),
    "/reset": (Talk.reset, "/reset", "forget the conversation; settings stay"),
    "/defender": (Talk.choose_defender, "/defender NAME", "who answers from now on; without NAME: which defenders there are"),
    "/prefill": (Talk.write_beginning, "/prefill TEXT", "what an attacker writes as the beginning of the next answer; without TEXT: nothing"),
    "/set": (Talk.change, "/set NAME VALUE", "max_new_tokens or a setting of the defender, such as alpha_union 0.5; without a name: list all"),
    "/trace": (Talk.write_trace, "/trace PATH", "write the last answer's token strip as HTML"),
    "/retracted": (Talk.show_retracted, "/retracted", "show, struck through, what ssd-hardened took back; again: hide it"),
    "/quit": (Talk.quit, "/quit", "end, as Ctrl-D does"),
}  # fmt: skip
"""For every command: what it does, how it is written, and its line of /help."""


def _value(raw: str) -> Any:
    """JSON where it can be, else text."""
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def write_strip(
    path: Path, said: Answer, pair: Pair, question: str, defender: str, settings: Any, retracted: bool = False
) -> None:
    """An answer that has a trace, as a page of its own; `retracted`: it opens with what was taken back."""
    from ssd_lib.show.page import page

    write_whole(path, page(said, pair.tokenizer, question, defender, vars(settings), retracted))
