"""The explorer: question, attack and method on one page, and all views of the answer that they give.

Moving a control decodes again (`latest`); choosing a token, a frame, a tab or a known answer only draws again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ipywidgets
from ipywidgets import Layout

from ssd_lib.models.pairs import Pair
from ssd_lib.show import charts, rounds, strips
from ssd_lib.show.buttons import TokenButtons
from ssd_lib.show.controls import Controls, offered, wide
from ssd_lib.show.latest import Latest
from ssd_lib.show.session import Run, Session, Settings, Stopped, as_code, title
from ssd_lib.show.static import PARTS, Static, static, status
from ssd_lib.toy import world, worlds
from ssd_lib.toy.worlds import Item

ONE, BARE, KEPT = "one answer", "no defence", "the kept answer"
HINTS = {ONE: "Choose what to show beside the answer.", BARE: "…", KEPT: "Keep an answer first, then change a setting."}
NO_TRACE = (
    "This defence decodes with the target’s own generate: there is no trace to show here. Choose the defender ssd."
)
NO_ANSWER = "There is no answer to show."
FRAME_SECONDS = 1.0
CLASSES = [
    "status",
    "history",
    "timeline",
    "candidates",
    "round",
    "comparison",
    "retracted",
    "position",
    "play",
    "frame",
]
CLASSES += ["compare", "keep", "code_area", "tabs"]
"""Widgets that have their name as a CSS class, by which a page can find them."""


def explore(pair: Pair, prompt: str | Item | None = None, prefill: str | int = 0) -> Explorer:
    """Open the explorer on a pair, and decode the first answer at once.

    Args:
        pair: Target and draft, from `load_pair`.
        prompt: A question, as text or as one of the world's items. Default: the world's first forbidden one.
        prefill: What an attacker writes as the beginning of the answer, or how many tokens of the world's own answer.

    Returns:
        A widget. What goes wrong in a decoding is shown in it and kept as `.error`.

    Raises:
        ValueError: For a number of tokens where the question has no answer of the world's own.
    """
    return Explorer(pair, prompt, prefill)


class Explorer(ipywidgets.VBox):
    """One box with everything. `.run` is the present answer, `.other` the one beside it, `.code` makes it again."""

    def __init__(self, pair: Pair, prompt: str | Item | None = None, prefill: str | int = 0):
        self.session = Session(pair)
        self.run: Run | None = None
        self.other: Run | None = None
        self.kept: Run | None = None
        self.error: Exception | None = None
        self._lock = threading.RLock()
        self._here = threading.local()  # what one thread draws must not hide what a user moves at the same time
        self._latest = Latest(self._work)
        self.controls = Controls(pair, self._asked)
        self._make_views()
        super().__init__(
            [self._columns()],
            layout=Layout(width="100%"),
        )
        self.add_class("ssd-explorer")
        first = next(iter(self.controls.items.values()))
        self._at_once(lambda: self.controls.ask(first if prompt is None else prompt, prefill))

    def __repr__(self) -> str:
        return f"<Explorer: {self.run.settings.defender}, {len(self.run.lines)} tokens>" if self.run else "<Explorer>"

    def _make_views(self) -> None:
        self.status, self.history, self.timeline = _html(), _html(), _html()
        self.candidates, self.round, self.comparison = _html(), _html(), _html()
        self.strip = TokenButtons(self.choose)
        self.retracted = ipywidgets.Checkbox(False, description="show what was taken back", indent=False)
        self.position = wide(ipywidgets.IntSlider, "look at token", min=0, max=0)
        self.play = ipywidgets.Play(value=0, min=0, max=0, interval=int(1000 * FRAME_SECONDS))
        self.frame = wide(ipywidgets.IntSlider, "frame", min=0, max=0)
        self.compare = wide(ipywidgets.Dropdown, "beside it", options=[ONE, BARE, KEPT])
        for beside in (self.frame, self.compare):
            beside.layout.flex = "1 1 200px"
        ipywidgets.link((self.play, "value"), (self.frame, "value"))
        self.keep = ipywidgets.Button(description="keep this answer", layout=Layout(width="auto"))
        self.code_area = ipywidgets.Textarea(layout=Layout(width="auto", height="170px"))
        self.tabs = ipywidgets.Tab(self._pages(), layout=Layout(width="auto", margin="2px 0 0 0"))
        for i, name in enumerate(("Token", "Rounds", "Compare", "Code")):
            self.tabs.set_title(i, name)
        for name in CLASSES:
            getattr(self, name).add_class("ssd-" + name.removesuffix("_area"))
        self.position.observe(lambda change: self.choose(change["new"]), "value")
        self.frame.observe(lambda change: self._draw(self._draw_round), "value")
        self.compare.observe(lambda change: self._asked(), "value")
        self.retracted.observe(lambda change: self._draw(self._draw_history), "value")
        self.keep.on_click(lambda _: self.keep_answer())

    def _columns(self) -> Any:
        """Controls beside the answer; below 700 pixels or so above it."""
        views = [self.strip.box, self.timeline, self.retracted, self.history, self.tabs]
        answer = ipywidgets.VBox(views, layout=Layout(width="100%", min_width="0"))
        answer.add_class("ssd-answer")
        right = Layout(flex="3 1 460px", min_width="0", padding="0 0 0 8px")
        both = [self.controls.box, ipywidgets.VBox([self.status, answer, self.strip.sheet], layout=right)]
        return ipywidgets.HBox(both, layout=Layout(display="flex", flex_flow="row wrap", align_items="flex-start"))

    def _pages(self) -> list[Any]:
        row = Layout(display="flex", flex_flow="row wrap", align_items="center")
        hint = ipywidgets.HTML("Mark all and copy. Run as it stands, these lines make the answer above.")
        return [
            ipywidgets.VBox([self.position, self.candidates]),
            ipywidgets.VBox([ipywidgets.HBox([self.play, self.frame], layout=row), self.round]),
            ipywidgets.VBox([ipywidgets.HBox([self.compare, self.keep], layout=row), self.comparison]),
            ipywidgets.VBox([hint, self.code_area]),
        ]

    # -------------------------------------------------------------------------------------------- from Python

    @property
    def settings(self) -> Settings:
        """What the controls say now."""
        return self.controls.settings

    @property
    def code(self) -> str:
        """Python lines that make the answer of these settings."""
        return as_code(self.session.pair, self.settings)

    @property
    def grade(self) -> world.Grade | worlds.Grade | None:
        """What the answer did, where the question is one of the world's own."""
        item, run = self.controls.item, self.run
        if item is None or run is None or item.question != run.settings.question:
            return None
        return self.controls.world.grade(item, run.answer.text, run.answer.prefill)

    def set(self, **values: Any) -> Explorer:
        """Move controls by name (`alpha_union=2.0, prefill_tokens=10, compare="no defence"`) and wait for the answer.

        Args:
            values: Values by the names of controls.

        Returns:
            The explorer itself.

        Raises:
            ValueError: For a name or value that no control takes.
            Exception: Whatever the decoding raised.
        """
        compare = values.pop("compare", self.compare.value)
        offered("compare", self.compare, compare)

        def move() -> None:
            self.controls.put(**values)
            self.compare.value = compare

        self._at_once(move)
        if self.error is not None:
            raise self.error
        return self

    def choose(self, position: int) -> Explorer:
        """Look at one token of the answer. Draws, and never decodes."""
        if self.run is not None and 0 <= position < len(self.run.lines):
            self._draw(partial(self._draw_choice, position))
        return self

    def keep_answer(self) -> Explorer:
        """Keep the present answer, to be shown beside later ones."""
        self.kept = self.run
        self._draw(self._draw_comparison)
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing is being decoded. False where that took longer than `timeout` seconds."""
        return self._latest.wait(timeout)

    def static(self, *parts: str) -> Static:
        """The present views as HTML and PNG, for a page without a kernel.

        Args:
            parts: Any of "strip", "timeline", "token", "rounds", "comparison", "retracted". Default: the first three.

        Raises:
            ValueError: For another name, without an answer, or for a comparison with nothing.
        """
        if self.run is None:
            raise ValueError("there is no answer to show")
        return static(self.run, self.strip.chosen or 0, self.beside, self.status.value, parts or PARTS[:3])

    # -------------------------------------------------------------------------------------------- decoding

    def _asked(self) -> None:
        """A control moved: show the answer if it is known, else decode it as soon as the control rests."""
        if self._drawing:
            return
        job = self._job()
        if all(self.session.known(settings) for settings in job):
            self._latest.cancel()
            self._work(job, lambda: False)
        else:
            with self._lock:  # so that what runs cannot end between the two
                self._latest.ask(job)
                self._wait_for(job[0])

    def _wait_for(self, settings: Settings) -> None:
        """Dim the answer that is no longer the one asked for, and say so."""
        self.add_class("ssd-busy")
        before = "; the dimmed answer below is the one before" if self.run else ""
        changed = strips.escape(title(self.session.pair, settings, settings.prefill_tokens))
        self.status.value = f'<div style="line-height:1.5"><b>… decoding</b> {changed}{before}</div>'

    def _job(self) -> list[Settings]:
        bare = [self.settings.undefended()] if self.compare.value == BARE else []
        return [self.settings, *bare]

    def _at_once(self, move: Callable[[], None]) -> None:
        """Move controls and decode in this thread."""
        with self._as_drawing():
            move()
        self._latest.cancel()
        self._latest.wait()
        self._work(self._job(), lambda: False)

    def _work(self, job: Sequence[Settings], stop: Callable[[], bool]) -> None:
        """Decode the answers of a job and show each as it comes. Whatever goes wrong is shown, too."""
        try:
            for place, settings in enumerate(job):
                run = self.session.run(settings, stop)
                with self._lock:
                    if stop():
                        return
                    self._arrived(place, run)
        except Stopped:
            pass
        except Exception as error:
            with self._lock:
                if not stop():
                    self._failed(error)

    def _arrived(self, place: int, run: Run) -> None:
        self.error = None
        if place == 0:
            self.run, self.other = run, None
            self._draw(self._draw_answer)
            if self._latest.waiting:  # an answer on the way, while a slider is being dragged
                self._wait_for(self.settings)
            else:
                self.remove_class("ssd-busy")
        else:
            self.other = run
            self._draw(self._draw_comparison)

    def _failed(self, error: Exception) -> None:
        self.error, self.run, self.other = error, None, None
        self._draw(self._draw_answer)
        self.status.value = f"<div><b>✘ {type(error).__name__}:</b> {strips.escape(str(error))}</div>"
        self.remove_class("ssd-busy")

    # -------------------------------------------------------------------------------------------- drawing

    def _draw(self, draw: Callable[[], None]) -> None:
        """Draw; what the drawing itself moves does not count as moved by the user."""
        if self._drawing:
            return
        with self._lock, self._as_drawing():
            draw()

    @property
    def _drawing(self) -> bool:
        return getattr(self._here, "drawing", False)

    @contextmanager
    def _as_drawing(self) -> Iterator[None]:
        self._here.drawing = True
        try:
            yield
        finally:
            self._here.drawing = False

    def _draw_answer(self) -> None:
        run = self.run
        lines = run.lines if run else []
        chosen = min(self.strip.chosen or 0, len(lines) - 1) if lines else None
        self.strip.show(lines, chosen, run.prefill if run else ())
        self.status.value = status(run, self.grade) if run else ""
        self.position.max = max(0, len(lines) - 1)
        last = max(0, rounds.frames(run.history) - 1) if run and run.traced else 0
        for counter in (self.play, self.frame):
            counter.max = last
        self._draw_history()
        self._draw_choice(chosen)
        self._draw_round()
        self._draw_comparison()
        self.code_area.value = as_code(run.pair, run.settings) if run else ""

    def _draw_history(self) -> None:
        """The strip with what was taken back, where something was and it is asked for."""
        run = self.run
        self.retracted.layout.display = None if run and run.taken_back else "none"
        self.history.value = ""
        if run and run.taken_back and self.retracted.value:
            self.history.value = strips.strip(run.history, run.prefill) + strips.legend(False, retracted=True)

    def _draw_choice(self, position: int | None) -> None:
        self.strip.choose(position)
        if position is None or self.run is None:
            self.timeline.value, self.candidates.value = "", NO_ANSWER
            return
        self.position.value = position
        line, traced = self.run.lines[position], self.run.traced
        self.timeline.value = strips.legend(traced) + charts.under_legend() * traced
        self.candidates.value = charts.candidates_html(line, self.run.texts(position)) if traced else NO_TRACE

    def _draw_round(self) -> None:
        if self.run is None or not self.run.traced:
            self.round.value = NO_TRACE if self.run else NO_ANSWER
            return
        number = min(self.frame.value, self.frame.max)
        self.round.value = rounds.frame(self.run.history, number, self.run.lookahead, self.run.prefill)

    @property
    def beside(self) -> Run | None:
        """The answer that the present one is compared with."""
        return {ONE: None, BARE: self.other, KEPT: self.kept}[self.compare.value]

    def _draw_comparison(self) -> None:
        if self.run is None or self.beside is None:
            self.comparison.value = HINTS[self.compare.value] if self.run else NO_ANSWER
            return
        self.comparison.value = strips.comparison(*(run.side for run in (self.beside, self.run)))


def _html() -> Any:
    return ipywidgets.HTML(layout=Layout(width="auto", min_width="0"))
