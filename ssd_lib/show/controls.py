"""The explorer's controls: question, attack and method. Their values are the settings of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets
from ipywidgets import Layout

from ssd_lib.config import SSDConfig
from ssd_lib.defenders import DEFENDERS
from ssd_lib.models.pairs import Pair
from ssd_lib.show.session import SSD, Settings
from ssd_lib.show.strips import FADED, clip, escape
from ssd_lib.toy.worlds import Item, world_of

QUESTIONS = 6
"""Questions of each group in the picker."""
PREFILL = 40
"""The longest prefill of the slider, as in the paper's table (section 5.2)."""
TOKENS = 80
OWN = "your own text"
COLUMN = "1 1 290px"
"""Beside the answer where there is room, above it where there is not."""
INDENT = 94
"""Pixels in front of every control."""
WIDE = {"description_width": f"{INDENT - 6}px"}
METHOD = ["alpha_intersection", "alpha_union", "threshold", "bin_size", "lookahead", "do_sample"]
SAMPLING = ["temperature", "top_p", "seed"]


def group(title: str, *children: Any, flex: str = "1 1 auto") -> Any:
    """A titled box that shares its row with others, or takes a row of its own where there is no room."""
    head = ipywidgets.HTML(f'<b style="{FADED}">{title}</b>', layout=Layout(margin="0"))
    return ipywidgets.VBox(
        [head, *children],
        layout=Layout(
            flex=flex, min_width="0", padding="1px 6px 3px 6px", margin="2px", border="1px solid rgba(128,128,128,.35)"
        ),
    )


def wide(kind: type, description: str, **traits: Any) -> Any:
    """A control as wide as its group; each has a layout of its own, so that it can be hidden alone."""
    return kind(description=description, layout=Layout(width="auto"), style=WIDE, **traits)


def _text(description: str) -> Any:
    area = wide(ipywidgets.Textarea, description, continuous_update=False)
    area.layout.height = "44px"
    return area


class Controls:
    """The widgets whose values decide the answer, by the names of their settings."""

    def __init__(self, pair: Pair, on_change: Callable[[], None]):
        self.pair = pair
        self.world = world_of(pair)
        groups = ("forbidden", "scary", "benign")
        self.items: dict[str, Item] = {
            _label(item): item for group in groups for item in self.world.questions(group, QUESTIONS)
        }
        self._make()
        self._begin_as(pair.config)
        self._quiet = False
        self._on_change = on_change
        self.picker.observe(self._picked, "value")
        self.reset.on_click(lambda _: self.put(pair.config))
        for control in self.deciding.values():
            control.observe(self._moved, "value")

    def _make(self) -> None:
        self.picker = wide(ipywidgets.Dropdown, "question", options=[*self.items, OWN])
        self.question = _text("its text")
        self.max_new_tokens = wide(ipywidgets.IntSlider, "max. tokens", value=TOKENS, min=8, max=160)
        self.prefill = _text("an answer")
        self.prefill_tokens = wide(ipywidgets.IntSlider, "prefill N", value=0, min=0, max=PREFILL)
        self.cost = ipywidgets.HTML()
        self.defender = wide(ipywidgets.Dropdown, "defender", options=list(DEFENDERS), value="ssd")
        self.alpha_intersection = wide(ipywidgets.FloatSlider, "α_I  (for ∩)", min=0, max=1, step=0.05)
        self.alpha_union = wide(ipywidgets.FloatSlider, "α_U  (for ∪)", min=0, max=3, step=0.05)
        self.threshold = wide(ipywidgets.FloatSlider, "threshold", min=0, max=1, step=0.05)
        self.bin_size = wide(ipywidgets.IntSlider, "bin size b", min=1, max=20)
        self.lookahead = wide(ipywidgets.IntSlider, "lookahead T", value=3, min=1, max=8)
        below = Layout(width="auto", margin=f"2px 0 0 {INDENT}px")
        self.do_sample = ipywidgets.Checkbox(False, description="sampling (off: greedy)", indent=False, layout=below)
        self.temperature = wide(ipywidgets.FloatSlider, "temperature", min=0.1, max=2, step=0.1)
        self.top_p = wide(ipywidgets.FloatSlider, "top-p", min=0.05, max=1, step=0.05)
        self.seed = wide(ipywidgets.BoundedIntText, "seed", min=0, max=2**31 - 1)
        self.reset = ipywidgets.Button(description="the pair’s own settings", layout=below)
        for name, control in {"picker": self.picker, "reset": self.reset, **self.deciding}.items():
            control.add_class("ssd-" + CLASSES.get(name, name.replace("_", "-")))

    def _begin_as(self, config: SSDConfig) -> None:
        """Set the pair's own settings, whose values may lie beyond a slider's usual end."""
        for name in [*METHOD, *SAMPLING]:
            control, value = getattr(self, name), getattr(config, name)
            if isinstance(value, bool | int | float):  # the lookahead may be "auto", the seed None
                if getattr(control, "max", value) < value:
                    control.max = value
                control.value = value

    @property
    def deciding(self) -> dict[str, Any]:
        """The controls that decide the answer, by name."""
        names = ["question", "max_new_tokens", "prefill", "prefill_tokens", "defender", *METHOD, *SAMPLING]
        return {name: getattr(self, name) for name in names}

    @property
    def box(self) -> Any:
        """All controls in one column; what is rarely moved is folded away."""
        rare = [
            self.max_new_tokens,
            self.lookahead,
            self.do_sample,
            *(getattr(self, name) for name in SAMPLING),
            self.cost,
        ]
        more = ipywidgets.Accordion([ipywidgets.VBox(rare)], selected_index=None, layout=Layout(margin="4px 0 0 0"))
        more.set_title(0, "more: length, T, sampling, cost")
        more.add_class("ssd-more")
        sliders = [getattr(self, name) for name in METHOD if name not in ("lookahead", "do_sample")]
        return ipywidgets.VBox(
            [
                group("Question", self.picker, self.question),
                group("Attack: who begins the answer?", self.prefill, self.prefill_tokens),
                group("Method", self.defender, *sliders, self.reset, more),
            ],
            layout=Layout(flex=COLUMN, min_width="0"),
        )

    # -------------------------------------------------------------------------------------------- reading

    @property
    def settings(self) -> Settings:
        """What the controls say now."""
        return Settings(
            question=whole(self.question.value),
            config=self.config,
            prefill=whole(self.prefill.value),
            prefill_tokens=self.prefill_tokens.value,
            defender=self.defender.value,
            max_new_tokens=self.max_new_tokens.value,
        )

    @property
    def config(self) -> SSDConfig:
        """The pair's settings with what the sliders changed. Sliders count in steps, so their values are rounded."""
        read = {name: getattr(self, name).value for name in METHOD + (SAMPLING if self.do_sample.value else [])}
        return replace(self.pair.config, **{k: round(v, 6) if isinstance(v, float) else v for k, v in read.items()})

    @property
    def item(self) -> Item | None:
        """The world's question that is asked, if it is one of its own."""
        return self._item_of(self.settings.question)

    # -------------------------------------------------------------------------------------------- setting

    def put(self, config: SSDConfig | None = None, **values: Any) -> None:
        """Move controls; `on_change` is called once.

        Sliders of real numbers go to their nearest step: a browser would send that back late, and overwrite what was set since.

        Args:
            config: Settings of the method, whose controls are all moved.
            values: Values by the names of controls.

        Raises:
            ValueError: For a name that is no control, and for a value that its control does not take.
        """
        if config is not None:
            values = {name: own for name in METHOD if (own := getattr(config, name)) != "auto"} | values
        unknown = sorted(set(values) - set(self.deciding))
        if unknown:
            raise ValueError(f"the explorer has no control {', '.join(unknown)}: it has {', '.join(self.deciding)}")
        for name, value in values.items():
            offered(name, self.deciding[name], value)
        with self._quietly():
            for name, value in values.items():
                self.deciding[name].value = on_step(self.deciding[name], value)
        self._moved()

    def ask(self, prompt: str | Item, prefill: str | int) -> None:
        """Put a question and an attack into the controls. Raises ValueError for a number of tokens where the question has no answer."""
        item = self._item_of(prompt)
        if isinstance(prefill, str):
            answer = whole(prefill)
            tokens = len(self.pair.tokenizer.encode(answer, add_special_tokens=False)) if answer else 0
        else:
            answer, tokens = item.answer if item is not None else "", prefill
        if tokens and not answer:
            raise ValueError(
                f"prefill={tokens} means tokens of the world's own answer; this prompt has none: pass the text itself"
            )
        with self._quietly():
            self.question.value = item.question if item is not None else whole(str(prompt))
            self.prefill.value = answer
            self.prefill_tokens.max = max(PREFILL, tokens)
            self.prefill_tokens.value = tokens
        self._moved()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Inside, a control that moves is not reported."""
        self._quiet = True
        yield
        self._quiet = False

    def _item_of(self, prompt: str | Item) -> Item | None:
        """The world's question that a prompt is; one that the picker does not have yet is put first."""
        if isinstance(prompt, str):
            return next((item for item in self.items.values() if item.question == prompt), None)
        if _label(prompt) not in self.items:
            self.items = {_label(prompt): prompt, **self.items}
            self.picker.options = [*self.items, OWN]
        return prompt

    def _picked(self, change: Any) -> None:
        """For a question of the world, put in the answer that an attacker would begin."""
        item = self.items.get(change["new"])
        if item is not None and not self._quiet:
            self.put(question=item.question, prefill=item.answer)

    def _moved(self, change: Any = None) -> None:
        if self._quiet:
            return
        ssd, sampling = self.defender.value in SSD, self.do_sample.value
        for name in METHOD:
            getattr(self, name).disabled = not ssd
        for name in SAMPLING:
            getattr(self, name).layout.display = None if sampling and ssd else "none"
        item = self.item
        with self._quietly():
            self.picker.value = _label(item) if item is not None else OWN
        self._describe()
        self._on_change()

    def _describe(self) -> None:
        """What the defender costs."""
        defender = DEFENDERS[self.defender.value]
        self.cost.value = _remark(f"{escape(defender.costs)} ({escape(defender.paper)})")


CLASSES = {
    "question": "prompt",
    "prefill": "prefill-text",
    "prefill_tokens": "prefill",
    "do_sample": "sampling",
    "max_new_tokens": "max-tokens",
}


def _remark(markup: str) -> str:
    """Faded words under a control."""
    return f'<div style="line-height:1.3;margin-left:{INDENT}px;{FADED}">{markup}</div>'


def whole(text: str) -> str:
    """Text that can be encoded: half characters, which a page may send, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _label(item: Item) -> str:
    return clip(f"{item.group} · {item.question}", 72)


def offered(name: str, control: Any, value: Any) -> None:
    """Raise ValueError for a value that a control does not offer; a slider would silently cut it off."""
    low, high, options = (getattr(control, trait, None) for trait in ("min", "max", "options"))
    if options is not None and value not in options:
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(str, options))}")
    if low is not None and not low <= value <= high:
        raise ValueError(f"{name}={value!r} lies outside the slider, {low} to {high}")


def on_step(control: Any, value: Any) -> Any:
    """The value on the nearest step of a slider of real numbers; any other control's as it is."""
    if not isinstance(control, ipywidgets.FloatSlider):
        return value
    return round(control.min + round((value - control.min) / control.step) * control.step, 6)
