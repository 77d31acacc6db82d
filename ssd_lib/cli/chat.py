"""`ssd chat`: one question, and token by token how its answer came about."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ssd_lib.cli.common import app, fail, plain, quiet_libraries

if TYPE_CHECKING:
    from ssd_lib.pairs import Pair
    from ssd_lib.trace import Trace

TOKEN_STYLES = {"matched": "blue", "corrected": "bold red underline", "insisted": "italic yellow"}


@app.command()
def chat(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    pair: Annotated[str, typer.Option(help="toy, llama2, llama2-13b-chat, vicuna or llama3.1_8b.")] = "toy",
    defender: Annotated[str, typer.Option(help="ssd, none, self-exam, …")] = "ssd",
    prefill: Annotated[str, typer.Option(help="What an attacker wrote as the beginning of the answer.")] = "",
    target: Annotated[str | None, typer.Option(help="Another target: Hub id or path.")] = None,
    draft: Annotated[str | None, typer.Option(help="Another draft: Hub id or path.")] = None,
    alpha_intersection: Annotated[float | None, typer.Option(help="α_I; default: the pair's.")] = None,
    alpha_union: Annotated[float | None, typer.Option(help="α_U; default: the pair's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Match ratio below which Union begins.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 160,
    trace: Annotated[Path | None, typer.Option(help="Write the token strip as HTML here (SSD only).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Ask one question and see, token by token, how the answer came about."""
    try:
        from ssd_lib.defenders import answer
        from ssd_lib.pairs import load_pair

        quiet_libraries()
        if trace is not None and not trace.parent.is_dir():
            raise ValueError(f"--trace: there is no folder {trace.parent}")
        loaded = load_pair(pair, target=target, draft=draft)
        given = {"alpha_intersection": alpha_intersection, "alpha_union": alpha_union, "threshold": threshold}
        config = replace(loaded.config, **{name: value for name, value in given.items() if value is not None})
        live = not as_json and sys.stdout.isatty()
        streamer = _Stream(loaded) if live else None
        reply = answer(
            loaded,
            prompt,
            defender=defender,
            prefill=prefill,
            config=config,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
        )[0]
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        fail(error)
    if trace is not None:
        if reply.trace is None:
            fail(ValueError(f"--trace shows how SSD decodes; the defender {defender!r} has no trace"))
        trace.write_text(
            f"<!doctype html><meta charset=utf-8>{reply.trace.to_html(loaded.tokenizer)}", encoding="utf-8"
        )
    if as_json:
        ratio = None if reply.trace is None else float(reply.trace.frame["match"].mean())
        typer.echo(
            json.dumps({"answer": reply.text, "prefill": reply.prefill, "match_ratio": ratio, **asdict(reply.cost)})
        )
    elif live and reply.trace is not None:
        Console().print(_coloured(reply.trace, loaded))
    elif not live:
        typer.echo(plain(reply.text))


class _Stream:
    """Prints the answer as it grows; the prompt comes first and is skipped.

    A token's text depends on its neighbours (a space, a character in several bytes), so the answer is decoded as a
    whole and what is new is printed, once its last character is complete.
    """

    def __init__(self, pair: Pair):
        self.pair, self.console = pair, Console()
        self.prompt: list[int] | None = None
        self.ids: list[int] = []
        self.printed = ""

    def put(self, value: Any) -> None:
        if self.prompt is None:
            self.prompt = value.reshape(-1).tolist()
            return
        self.ids += value.reshape(-1).tolist()
        self._print(hold=True)

    def end(self) -> None:
        self._print(hold=False)
        self.console.print()

    def _print(self, hold: bool) -> None:
        from ssd_lib.chat import decode_answer

        text = decode_answer(self.pair.tokenizer, self.ids, self.prompt or [])
        if not (hold and text.endswith("\ufffd")):
            self.console.print(Text(plain(text[len(self.printed) :])), end="")
            self.printed = text


def _coloured(trace: Trace, pair: Pair) -> Text:
    """The answer again, coloured by how each token came about; Union reversed."""
    from ssd_lib.trace import kind

    strip = Text("\n")
    for line in trace.to_frame(pair.tokenizer).to_dict("records"):
        style = TOKEN_STYLES[kind(line)] + (" reverse" if line["scheme"] == "union" else "")
        strip.append(line["text"], style=style)
    strip.append("\n")
    for name, style in [*TOKEN_STYLES.items(), ("Union", "reverse")]:
        strip.append(f"  {name}", style=style)
    ratio = trace.frame["match"].mean()
    return strip.append(f"   match ratio {ratio:.2f}, {len(trace)} tokens in {trace.frame['round'].max() + 1} rounds")
