"""The answer as a row of buttons, one a token: click one to look at it.

Buttons are reused from answer to answer, and those that look alike share one style and one layout, so that little more than the
words of a new answer is sent to the page. Their lines and shades are those of the static strip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import ipywidgets

from ssd_lib.method.trace import STYLES, UNION
from ssd_lib.show.charts import UNDER, under, under_css
from ssd_lib.show.strips import Token, TraceLine, details, tokens

EDGE = {how: style.split(";")[0].removeprefix("border-bottom:") for how, style in STYLES.items()}
SHADE = UNION.split(";")[0].removeprefix("background:")
NONE = "2px solid transparent"
GIVEN = "#808080"
"""Of what an attacker wrote: grey on light and on dark."""
SHEET = (
    f".ssd-explorer .ssd-under{{overflow:visible;position:relative;margin-bottom:{UNDER + 8}px!important}}"
    f".ssd-explorer .ssd-under::after{{content:'';position:absolute;left:-1px;right:-1px;top:calc(100% + 6px);height:{UNDER}px;"
    "background-repeat:no-repeat;background-color:rgba(128,128,128,.13)}"
    ".ssd-explorer .ssd-strip{max-height:340px;overflow-y:auto}"
    ".ssd-explorer .ssd-given:disabled{opacity:1}"
    ".ssd-explorer .ssd-tabs .widget-tab-contents{padding:2px 12px}"
    ".ssd-explorer .ssd-answer{transition:opacity .15s}"
    ".ssd-explorer.ssd-busy .ssd-answer{opacity:.35}"
)
"""A page without this style sheet shows the same answer, without its bars."""


def known(widget: type, **traits: Any) -> Any:
    """A widget with those of the traits that this version of ipywidgets has (Colab ships an older one)."""
    return widget(**{name: value for name, value in traits.items() if name in widget.class_trait_names()})


@cache
def _style(how: str, union: bool) -> Any:
    return known(
        ipywidgets.ButtonStyle,
        button_color=SHADE if union else "transparent",
        font_weight="bold" if how == "corrected" else "normal",
        font_style="italic" if how == "insisted" else "normal",
        font_family="monospace",
    )


@cache
def _given_style() -> Any:
    style = dict(button_color="transparent", text_color=GIVEN, font_style="italic", font_family="monospace")
    return known(ipywidgets.ButtonStyle, **style)


@cache
def _layout(how: str, glued: bool, chosen: bool) -> Any:
    """A line below shows how the token was emitted, a frame that it is chosen, a gap before it a space."""
    frame = "2px solid currentColor" if chosen else NONE
    edges = {"border_top": frame, "border_left": frame, "border_right": frame, "border_bottom": EDGE.get(how, NONE)}
    if "border_bottom" not in ipywidgets.Layout.class_trait_names():
        edges = {"border": frame if chosen else EDGE.get(how, NONE)}
    left = "0" if glued else "6px"
    return ipywidgets.Layout(
        width="auto", min_width="8px", height="26px", padding="0 1px", margin=f"2px 0 2px {left}", **edges
    )


def _layout_of(token: Token, chosen: bool) -> Any:
    return _layout(token.how, not token.text[:1].isspace(), chosen)


class TokenButtons:
    """A box of buttons. `on_choose(position)` is called for a click."""

    def __init__(self, on_choose: Callable[[int], object]):
        self.box = ipywidgets.Box(
            layout=ipywidgets.Layout(display="flex", flex_flow="row wrap", align_items="flex-start")
        )
        self.box.add_class("ssd-strip")
        self.sheet = ipywidgets.HTML(layout=ipywidgets.Layout(display="none"))
        self.chosen: int | None = None
        self._on_choose = on_choose
        self._buttons: list[Any] = []
        self._tokens: Sequence[Token] = ()
        self._given: list[Any] = []

    @property
    def buttons(self) -> list[Any]:
        """The buttons of the present answer."""
        return self._buttons[: len(self._tokens)]

    def show(self, lines: Sequence[TraceLine], chosen: int | None, prefill: Sequence[str] = ()) -> None:
        """Show an answer after what the attacker wrote, one of its tokens chosen."""
        self._tokens, classes = tokens(lines), under(lines)
        self.sheet.value = f"<style>{SHEET}{under_css(classes)}</style>"
        while len(self._buttons) < len(lines):
            self._buttons.append(self._button(len(self._buttons)))
        self._frame(None)
        for button, token, below in zip(self._buttons, self._tokens, classes, strict=False):
            with button.hold_sync():
                button.description = token.text.strip() or "␣"
                button.tooltip = details(token.line)
                button.style = _style(token.how, token.union)
                button.layout = _layout_of(token, False)
                button._dom_classes = ("ssd-token", *below.split())
        shown = [*self._written(prefill), *self.buttons]
        if list(self.box.children) != shown:
            self.box.children = shown
        self.choose(chosen)

    def _written(self, prefill: Sequence[str]) -> list[Any]:
        """What the attacker wrote, in grey; not to be clicked."""
        pieces = [*prefill, " ‖"] if prefill else []
        while len(self._given) < len(pieces):
            button = ipywidgets.Button(disabled=True, style=_given_style(), tooltip="written by the attacker")
            button.add_class("ssd-given")
            self._given.append(button)
        for button, piece in zip(self._given, pieces, strict=False):
            button.description = piece.strip() or "␣"
            button.layout = _layout("untraced", not piece[:1].isspace(), False)
        return self._given[: len(pieces)]

    def choose(self, position: int | None) -> None:
        """Frame one token."""
        if position != self.chosen:
            self._frame(position)

    def _frame(self, position: int | None) -> None:
        for place, chosen in ((self.chosen, False), (position, True)):
            if place is not None and place < len(self._tokens):
                button = self._buttons[place]
                button.layout = _layout_of(self._tokens[place], chosen)
                (button.add_class if chosen else button.remove_class)("ssd-chosen")
        self.chosen = position

    def _button(self, position: int) -> Any:
        button = ipywidgets.Button(layout=_layout("untraced", False, False), style=_style("untraced", False))
        button.add_class("ssd-token")
        button.on_click(lambda _: self._on_choose(position))
        return button
