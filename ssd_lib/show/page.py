"""One answer of SSD as an HTML page of its own: what was asked, how it was answered, and the match ratio over the answer.

No script, nothing from elsewhere, light or dark as the reader's browser is; every text is escaped.
"""

from __future__ import annotations

from typing import Any

from ssd_lib.defenders import Answer
from ssd_lib.method.trace import TAKEN_BACK, Decodes
from ssd_lib.show import charts, strips

STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem}"
    "h1{font-size:1.25rem}h2{font-size:1.05rem;margin:1.4rem 0 .3rem}dt{opacity:.65;float:left;clear:left;width:9rem}dd{margin:0 0 .3rem 9rem;overflow-wrap:anywhere}"
    f"#show:not(:checked)~div .{TAKEN_BACK}{{display:none}}"
)
TOGGLE = "<input type=checkbox id=show{}><label for=show> show what was taken back</label>"
"""Above a strip: shows and hides what was taken back, without a script."""


def page(
    said: Answer, tokenizer: Decodes, question: str, defender: str, settings: dict[str, Any], opened: bool = False
) -> str:
    """An answer that has a trace as a whole page.

    Args:
        said: The answer.
        tokenizer: Of the pair.
        question: What was asked.
        defender: Who answered.
        settings: Of the defender, by name; what is None is left out.
        opened: The page begins with what was taken back in view.
    """
    assert said.trace is not None
    lines = said.trace.to_frame(tokenizer).to_dict("records")
    taken_back = len(said.trace.lines) - len(said.trace)
    toggle = TOGGLE.format(" checked" * opened) if taken_back else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
        f"<title>{strips.escape(strips.clip(question))}</title><style>{STYLE}</style>"
        f"<h1>{strips.escape(question)}</h1>{_facts(said, lines, taken_back, defender, settings)}"
        f"<h2>The answer, token by token</h2>{toggle}{_strip(said, tokenizer, bool(taken_back))}"
        f"<h2>The match ratio over the answer</h2>{charts.timeline(lines)}</html>"
    )


def _facts(said: Answer, lines: list[Any], taken_back: int, defender: str, settings: dict[str, Any]) -> str:
    """What was asked, with what settings, and what came of it."""
    matched = sum(line["match"] for line in lines)
    outcome = f"{matched} of {len(lines)} tokens matched ({matched / max(len(lines), 1):.2f}), {said.cost.target_forwards} target forwards"
    chosen = " · ".join(f"{name} = {value}" for name, value in settings.items() if value is not None)
    facts = {
        "prefilled": said.prefill or "nothing: the models began the answer",
        "defender": defender,
        "settings": chosen,
        "outcome": outcome + f", {taken_back} taken back" * bool(taken_back),
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{strips.escape(text)}</dd>' for name, text in facts.items())}</dl>"


def _strip(said: Answer, tokenizer: Decodes, taken_back: bool) -> str:
    """The trace's own strip, after what was prefilled."""
    assert said.trace is not None
    markup = said.trace.to_html(tokenizer, retracted=taken_back)
    if not said.prefill:
        return markup
    written = f'<span style="{strips.FADED}" title="written by the attacker">{strips.isolated(strips.visible(said.prefill))}</span> ‖ '
    return markup.replace(">", f">{written}", 1)
