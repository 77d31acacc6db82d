"""A question with options that a reader commits to, once: buttons where a kernel is, plain text elsewhere.

The page that is committed names question and options, never the right one: that stays in the chapter's TOML file.
"""

from __future__ import annotations

import html
import re
from typing import Any

import ipywidgets
from ipywidgets import Layout

from ssd_lib.show.exercises import Result, record

NEXT = {"prediction": " Now open the folded cell below and run it.", "question": ""}
TITLES = {"prediction": "Your prediction", "question": "Question"}


def letters(options: list[str]) -> dict[str, str]:
    """Options by their letters: a, b, c, …"""
    return {chr(ord("a") + place): option for place, option in enumerate(options)}


class Quiz(ipywidgets.VBox):
    """One question. `commit` takes the answer; where the answer is in already, it is shown."""

    def __init__(self, result: Result, entry: dict[str, Any]):
        self.result, self.entry = result, entry
        self.options = letters(entry["options"])
        labels = [(f"{letter}) {plain(option)}", letter) for letter, option in self.options.items()]
        self.head = ipywidgets.HTML(f"<b>{TITLES[result.kind]}:</b> {marked(entry['ask'])}")
        self.radio = ipywidgets.RadioButtons(options=labels, value=None, layout=Layout(width="max-content"))
        self.button = ipywidgets.Button(description="commit", disabled=True)
        self.said = ipywidgets.HTML()
        super().__init__([self.head, self.radio, self.button, self.said])
        self.add_class("ssd-quiz")
        self.radio.observe(lambda change: setattr(self.button, "disabled", not change["new"]), "value")
        self.button.on_click(lambda _: self.commit(str(self.radio.value)))
        if result.tries:
            self._close()

    def commit(self, answer: str) -> None:
        """Take an answer. Only the first one counts.

        Args:
            answer: The letter of an option.

        Raises:
            ValueError: For another letter.
        """
        if answer not in self.options:
            raise ValueError(f"{self.result.name}: {answer!r} is no option: choose of {', '.join(self.options)}")
        if not self.result.tries:
            right, result = self.entry["right"], self.result
            result.tries, result.passed = 1, answer == right
            result.points = int(result.passed)
            result.message = f"{answer} is right." if result.passed else f"{answer} is wrong, it is {right}."
            record(result)
        self._close()

    def _close(self) -> None:
        mark = "✔" if self.result.passed else "✘"
        why = marked(f"{mark} {self.result.message} {self.entry['why']}{NEXT[self.result.kind]}")
        self.said.value = why
        self.radio.disabled = self.button.disabled = True

    @property
    def text(self) -> str:
        """Question and options, and the verdict where the reader has committed."""
        lines = [f"{TITLES[self.result.kind]} {self.result.name}: {plain(self.entry['ask'])}"]
        lines += [f"  {letter}) {plain(option)}" for letter, option in self.options.items()]
        return "\n".join([*lines, *([self._verdict] if self.result.tries else [])])

    @property
    def markup(self) -> str:
        """The same as HTML that needs no styles."""
        head = f"<b>{TITLES[self.result.kind]}:</b> {marked(self.entry['ask'])}"
        options = "".join(f"<li>{letter}) {marked(option)}</li>" for letter, option in self.options.items())
        said = f"<p>{html.escape(self._verdict)}</p>" if self.result.tries else ""
        return f'<div class="ssd-quiz"><p>{head}</p><ul style="list-style:none">{options}</ul>{said}</div>'

    @property
    def _verdict(self) -> str:
        return f"{'✔' if self.result.passed else '✘'} {self.result.message} {plain(self.entry['why'])}"

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for pages without a kernel what it asks."""
        found = super()._repr_mimebundle_(**options)
        return {**(found or {}), "text/plain": self.text, "text/html": self.markup}


def plain(text: str) -> str:
    """A text without its backticks."""
    return text.replace("`", "")


def marked(text: str) -> str:
    """A text as HTML: escaped, `code` in its element."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
