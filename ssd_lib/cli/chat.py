"""`ssd chat`: how an answer came about, token by token; without a question, a conversation of many turns.

Answers go to stdout, everything else to stderr, so that a pipe carries answers alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ssd_lib.cli.common import (
    Draft,
    DraftFormat,
    Target,
    TargetFormat,
    app,
    fail,
    given,
    one_line,
    plain,
    quiet_libraries,
)

if TYPE_CHECKING:
    from ssd_lib.cli.conversation import Talk, Turn
    from ssd_lib.defenders import Answer
    from ssd_lib.method.trace import Trace
    from ssd_lib.models.pairs import Pair

TOKEN_STYLES = {"matched": "blue", "corrected": "bold red underline", "insisted": "italic yellow"}
GIVEN = "bright_black"
"""What an attacker wrote."""
ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="The question; without one, a conversation.")] = None,
    pair: Annotated[
        str | None,
        typer.Option(help="toy, llama2, llama2-13b-chat, vicuna or llama3.1_8b; none: --target and --draft, else toy."),
    ] = None,
    defender: Annotated[str, typer.Option(help="ssd, none, self-exam, …")] = "ssd",
    prefill: Annotated[str, typer.Option(help="What an attacker wrote as the beginning of the (first) answer.")] = "",
    target: Target = None,
    draft: Draft = None,
    target_format: TargetFormat = None,
    draft_format: DraftFormat = None,
    alpha_intersection: Annotated[float | None, typer.Option(help="α_I; default: the pair's.")] = None,
    alpha_union: Annotated[float | None, typer.Option(help="α_U; default: the pair's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Match ratio below which Union begins.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 160,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that a conversation holds; default: what both models hold, at most 4096."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a page about the answer, token by token, here (SSD, one question).")
    ] = None,
    retracted: Annotated[
        bool, typer.Option("--retracted", help="Show, struck through, what ssd-hardened took back.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an answer on stdout.")] = False,
) -> None:
    """Ask one question and see, token by token, how the answer came about; or, without one, talk: /help lists commands."""
    try:
        from ssd_lib.cli.conversation import Talk, write_strip
        from ssd_lib.defenders import answer, find_defender, settings_for
        from ssd_lib.models.pairs import load_pair

        quiet_libraries()
        defender = find_defender(defender)
        _check_shown(trace, retracted, prompt, defender)
        loaded = load_pair(pair, target=target, draft=draft, target_format=target_format, draft_format=draft_format)
        changed = given(alpha_intersection=alpha_intersection, alpha_union=alpha_union, threshold=threshold)
        loaded = loaded.with_config(replace(loaded.config, **changed))
        screen = _Screen(loaded, as_json)
        if prompt is None:
            talk = Talk(loaded, defender, prefill, max_new_tokens, context, retracted)
            return _converse(talk, screen)
        stream = screen.stream(prefill)
        live = stream if screen.live else None
        (reply,) = answer(
            loaded, prompt, defender=defender, prefill=prefill, max_new_tokens=max_new_tokens, streamer=live
        )
        if trace is not None:
            write_strip(trace, reply, loaded, prompt, defender, settings_for(loaded, defender), retracted)
    except ERRORS as error:
        fail(error)
    screen.show(reply, stream, retracted=retracted)


def _check_shown(trace: Path | None, retracted: bool, prompt: str | None, defender: str) -> None:
    """Raise ValueError, before anything is loaded, where --trace could write or --retracted show nothing."""
    from ssd_lib.cli.conversation import is_ssd

    traced = is_ssd(defender)
    if retracted and prompt is not None and not traced:
        raise ValueError(f"--retracted shows what ssd-hardened took back; the defender {defender!r} has no trace")
    if trace is None:
        return
    if prompt is None:
        raise ValueError("--trace belongs to one question: in a conversation, /trace PATH writes the last strip")
    if not traced:
        raise ValueError(f"--trace shows how SSD decodes; the defender {defender!r} has no trace")
    if not trace.parent.is_dir():
        raise ValueError(f"--trace: there is no folder {trace.parent}")
    if trace.is_dir():
        raise ValueError(f"--trace names the HTML file to write; {trace} is a folder")


# ------------------------------------------------------------------------------------------------ many turns


def _converse(talk: Talk, screen: _Screen) -> None:
    """Turns and commands, one a line, until the input ends; Ctrl-C twice in a row at the prompt ends, too."""
    typed = screen.live and sys.stdin.isatty()
    if typed:
        screen.note(f"{talk.pair.spec.name}, {talk.defender} answers: /help lists commands, Ctrl-D ends")
    read, interrupted = _reader(typed), False
    while True:
        try:
            line = read().rstrip("\n")
            interrupted = False
            if line.startswith("/"):
                screen.note(talk.command(line))
            elif line.strip():
                _turn(talk, screen, line.strip())
        except (EOFError, KeyboardInterrupt) as end:
            if typed:
                screen.note("")
            if interrupted or not typed or isinstance(end, EOFError):
                return
            interrupted = True
            screen.note("Ctrl-C again ends")
        except BrokenPipeError:
            raise
        except (*ERRORS, RuntimeError, TypeError) as error:  # no memory left, a setting of the wrong kind
            screen.error(error)


def _turn(talk: Talk, screen: _Screen, question: str) -> None:
    stream = screen.stream(talk.prefill)
    try:
        with closing(stream):
            turn = talk.ask(question, stream)
    except KeyboardInterrupt:
        screen.note("stopped before the first word: the question is taken back")
        return
    screen.show(turn.answer, stream, turn, retracted=talk.retracted)


def _reader(typed: bool) -> Callable[[], str]:
    """Reads the next line, at a terminal with line editing and history. Raises EOFError at the end."""
    if typed:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401
        return partial(input, "> ")

    def read() -> str:
        if line := sys.stdin.readline():
            return line
        raise EOFError

    sys.stdin.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    return read


# ------------------------------------------------------------------------------------------------ what is shown


class _Screen:
    """Where answers and notes go. `live`: stdout is a terminal, on which answers grow."""

    def __init__(self, pair: Pair, as_json: bool):
        self.pair, self.as_json = pair, as_json
        self.live = not as_json and sys.stdout.isatty()
        self.console, self.notes = Console(), Console(stderr=True)
        self.explained = False

    def note(self, text: str) -> None:
        self.notes.print(Text(plain(text), style=GIVEN), soft_wrap=True)

    def error(self, error: Exception) -> None:
        """One line on stderr; in JSON an object of its own, so that every question has one."""
        if self.as_json:
            typer.echo(json.dumps({"error": one_line(error)}))
        self.notes.print(Text(f"ssd: {one_line(error)}"), soft_wrap=True)

    def stream(self, prefill: str) -> _Stream:
        return _Stream(self.pair, prefill, self.console if self.live else None)

    def show(self, answer: Answer, stream: _Stream, turn: Turn | None = None, *, retracted: bool = False) -> None:
        """The answer, unless the stream showed it; at a terminal also how each token came about, and what it cost.

        With `retracted`, tokens that were taken back are among them, struck through; in a pipe the notes hold the strip.
        """
        if self.as_json:
            more = {} if turn is None else {"kept_tokens": turn.kept, "end": turn.end}
            typer.echo(json.dumps(_object(answer) | more))
            return
        if not self.live:
            typer.echo(plain(answer.prefill + answer.text))
        elif not stream.ids:
            whole = Text().append(plain(answer.prefill), style=GIVEN).append(plain(answer.text))
            self.console.print(whole, soft_wrap=True)
        if self.live and answer.trace is not None:
            self.console.print(_coloured(answer, self.pair, legend=not self.explained, retracted=retracted))
            self.explained = True
        elif retracted and answer.trace is not None:
            self.note(answer.trace.to_text(self.pair.tokenizer, retracted=True))
        if self.live or turn is not None:
            self.note(_status(answer, turn))


class _Stream:
    """Remembers the answer, and prints it as it grows; the prompt comes first and is skipped.

    A token's text depends on its neighbours (a space, a character in several bytes), so the answer is decoded as a
    whole and what is new is printed, once its last character is complete.
    """

    def __init__(self, pair: Pair, prefill: str = "", console: Console | None = None):
        self.pair, self.prefill, self.console = pair, prefill, console
        self.prompt: list[int] | None = None
        self.ids: list[int] = []
        self.printed = ""
        self.ended = False

    def put(self, value: Any) -> None:
        ids = value.reshape(-1).tolist()
        if self.prompt is None:
            self.prompt = ids
            self._show(Text(plain(self.prefill), style=GIVEN))
            return
        self.ids += ids
        self._print(hold=True)

    def end(self) -> None:
        self._print(hold=False)
        self._show(Text("\n"))
        self.ended = True

    def close(self) -> None:
        """End the line that an interruption or an error left open."""
        if self.prompt is not None and not self.ended:
            self.end()

    def _print(self, hold: bool) -> None:
        from ssd_lib.models.chat import decode_answer

        if self.console is None:
            return
        text = decode_answer(self.pair.tokenizer, self.ids, self.prompt or [])
        if not (hold and text.endswith("\ufffd")):
            self._show(Text(plain(text[len(self.printed) :])))
            self.printed = text

    def _show(self, text: Text) -> None:
        if self.console is not None:
            self.console.print(text, end="", soft_wrap=True)


def _object(answer: Answer) -> dict[str, Any]:
    """An answer as JSON holds it."""
    ratio = None if answer.trace is None else _match_ratio(answer.trace)
    return {"answer": answer.text, "prefill": answer.prefill, "match_ratio": ratio, **asdict(answer.cost)}


def _match_ratio(trace: Trace) -> float:
    return float(trace.frame["match"].to_numpy().mean())


def _status(answer: Answer, turn: Turn | None = None) -> str:
    """What an answer cost, in one line."""
    cost = answer.cost
    words = [f"{cost.tokens} token{'s' * (cost.tokens != 1)}"]
    if (trace := answer.trace) is not None:
        rounds, taken_back = trace.frame["round"].max() + 1, len(trace.lines) - len(trace)
        words = [f"match ratio {_match_ratio(trace):.2f}", f"{words[0]} in {rounds} rounds"]
        words += [f"{taken_back} taken back"] * bool(taken_back)
    words.append(f"{cost.tokens / max(cost.seconds, 1e-9):.0f} tokens a second")
    if cost.prompt_tokens:
        words.append(f"{cost.prompt_tokens} prompt tokens read" + (f", {turn.kept} kept" if turn else ""))
    return " · ".join([*words, *([turn.end] if turn and turn.end else [])])


def _coloured(answer: Answer, pair: Pair, *, legend: bool = True, retracted: bool = False) -> Text:
    """The answer again, coloured by how each token came about; Union reversed, what was taken back struck through."""
    from ssd_lib.show.strips import tokens

    assert answer.trace is not None
    before = pair.tokenizer.encode(answer.prefill, add_special_tokens=False)
    frame = answer.trace.to_frame(pair.tokenizer, retracted=retracted, before=before[-1] if before else None)
    strip = Text("\n").append(plain(answer.prefill), style=GIVEN)
    for token in tokens(frame.to_dict("records")):
        marks = " reverse" * token.union + " strike" * token.retracted
        strip.append(token.text, style=TOKEN_STYLES[token.how] + marks)
    if legend:
        strip.append("\n")
        more = [("prefill", GIVEN)] * bool(before) + [("taken back", "strike")] * retracted
        for name, style in [*TOKEN_STYLES.items(), ("Union", "reverse"), *more]:
            strip.append("  ").append(name, style=style)
    return strip
