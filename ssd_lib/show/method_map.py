"""The method as a picture: one round of SSD, and the scheduler as a state machine (arXiv 2508.17739, figure 2, section 4).

Boxes and arrows are data, drawn by one function in the book's colours. Whatever a colour says, a line style and a word say
too, so both figures can be read in grey; their letters stay readable when a page shows them 700 pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ssd_lib.config import SSDConfig
from ssd_lib.show.style import COLORS, LINES

INK = "#333333"
MIDDLE: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
TITLE_SIZE, TEXT_SIZE = 11, 10
"""In points. At 8.4 inches across, a page 700 pixels wide shows a point as 1.2 pixels."""


class Box(NamedTuple):
    """One step: its centre and size in the figure's units, what stands in it, and whose it is (a role of `COLORS`, or "")."""

    x: float
    y: float
    width: float
    height: float
    title: str
    text: str
    role: str = ""


class Arrow(NamedTuple):
    """A line from point to point, ending in an arrow, with a label at `label_at`, where possible on the line itself."""

    points: Sequence[tuple[float, float]]
    label: str = ""
    label_at: tuple[float, float] = (0.0, 0.0)
    upright: bool = False
    """The label is written from bottom to top."""


def method_map(config: SSDConfig = SSDConfig()) -> Figure:  # noqa: B008 (frozen)
    """One round: draft proposes, target verifies, composite in a sample space, emit, match?, bin counter, scheme."""
    proposals = "T tokens" if config.lookahead == "auto" else f"T = {config.lookahead} tokens"
    boxes = [
        Box(14, 89, 24, 15, "Prompt", "and the answer so far"),
        Box(49, 89, 30, 15, "Draft proposes", f"{proposals},\none forward a token → $P_m$", "draft"),
        Box(85, 89, 28, 15, "Target verifies", "all T positions\nin one forward → $P_M$", "target"),
        Box(49, 62, 40, 17, "Composite", "$F = P_M + α\\,(P_m − P_M)$\nover the scheme's sample space V", "SSD"),
        Box(14, 62, 24, 17, "Emit", "argmax F over V, or\nthe target insists", "SSD"),
        Box(14, 36, 24, 13, "Match?", "emitted = proposed?"),
        Box(14, 11, 24, 16, "Bin counter", f"of every b = {config.bin_size} tokens:\nβ = matches / b"),
        Box(48, 11, 24, 16, "Alarm?", f"β < threshold?\n(at first {config.threshold:g})"),
        Box(83, 36, 32, 16, "∩  Intersection", "$Top_M(k) ∩ Top_m(k)$,\n$α_I$: keeps utility", "target"),
        Box(83, 11, 32, 16, "∪  Union", "$Top_M(c) ∪ Top_m(c)$,\n$α_U$: lets refusals in", "draft"),
    ]
    arrows = [
        Arrow([(26, 89), (34, 89)]),
        Arrow([(64, 89), (71, 89)]),
        Arrow([(85, 81.5), (85, 66), (69, 66)], "both models' probabilities", (80, 75)),
        Arrow([(29, 62), (26, 62)]),
        Arrow([(14, 53.5), (14, 42.5)]),
        Arrow([(26, 38), (42, 38), (42, 53.5)], "yes: the next\nposition", (42, 46)),
        Arrow(
            [(2, 36), (-4, 36), (-4, 89), (2, 89)], "no: the round ends,\nboth caches rewind", (-4, 62), upright=True
        ),
        Arrow([(14, 29.5), (14, 19)], "every token", (14, 24.2)),
        Arrow([(26, 11), (36, 11)]),
        Arrow([(60, 14), (63.5, 14), (63.5, 34), (67, 34)], "no", (63.5, 25)),
        Arrow([(60, 8), (67, 8)], "yes", (63.5, 4.9)),
        Arrow([(83, 44), (83, 58), (69, 58)]),
        Arrow([(99, 11), (102, 11), (102, 60.5), (69, 60.5)], "the scheme of the next token", (86, 49.5)),
    ]
    return draw(boxes, arrows, "Speculative Safety-Aware Decoding: a round, and the loop that watches it")


def scheduler_map(config: SSDConfig = SSDConfig()) -> Figure:  # noqa: B008 (frozen)
    """The scheduler as a state machine: two schemes, and what it reads and changes after every full bin."""
    start = f"threshold = {config.threshold:g}, $α_I$ = {config.alpha_intersection:g}"
    decay = f"threshold −= {config.threshold_decay:g} (not below 0)"
    boxes = [
        Box(50, 89, 44, 13, "Start", start),
        Box(22, 50, 34, 22, "∩  Intersection", "scored with $α_I$\nthe target can insist", "target"),
        Box(78, 50, 34, 22, "∪  Union", "scored with $α_U$\nthe draft's own can enter", "draft"),
    ]
    arrows = [
        Arrow([(28, 89), (22, 89), (22, 61)]),
        Arrow([(39, 55), (61, 55)], "β < threshold\nstart values again", (50, 64)),
        Arrow([(61, 45), (39, 45)], "β ≥ threshold\nstart values again", (50, 36)),
        Arrow(
            [(12, 39), (12, 26), (32, 26), (32, 39)],
            f"stays while β ≥ threshold:\n{decay}\n$α_I$ −= {config.alpha_decay:g} (not below {config.alpha_floor:g})",
            (22, 15.5),
        ),
        Arrow([(68, 39), (68, 26), (88, 26), (88, 39)], f"stays while β < threshold:\n{decay}", (78, 18)),
    ]
    return draw(boxes, arrows, f"After every full bin of b = {config.bin_size} emitted tokens", height=4.2)


def draw(boxes: Sequence[Box], arrows: Sequence[Arrow], title: str, height: float = 5.6) -> Figure:
    """Boxes and arrows on a square of 100 × 100 units, 8.4 inches across."""
    figure, axes = plt.subplots(figsize=(8.4, height))
    axes.set(xlim=(-8, 104), ylim=(0, 100), title=title)
    axes.axis("off")
    for arrow in arrows:
        _draw_arrow(axes, arrow)
    for box in boxes:
        _draw_box(axes, box)
    return figure


def _draw_box(axes: Axes, box: Box) -> None:
    color, line = COLORS.get(box.role, INK), LINES.get(box.role, "-")
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    face = to_rgba(color, 0.12) if box.role else "white"
    style = {"boxstyle": "round,pad=0,rounding_size=1.5", "linestyle": line, "linewidth": 1.8, "gid": box.title}
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, facecolor=face, edgecolor=color, **style))
    rise = 2.4 * (box.text.count("\n") + 1)
    axes.text(box.x, box.y + rise, box.title, fontsize=TITLE_SIZE, weight="bold", gid=box.title, **MIDDLE)
    axes.text(box.x, box.y - 2.6, box.text, fontsize=TEXT_SIZE, gid=box.title, **MIDDLE)


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    *way, before, end = arrow.points
    if way:
        x, y = zip(*way, before, strict=True)
        axes.plot(x, y, color=INK, linewidth=1.3, solid_capstyle="round", clip_on=False)
    head = {"arrowstyle": "-|>", "color": INK, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, before, arrowprops=head)
    if arrow.label:
        back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        turned = {"rotation": 90 if arrow.upright else 0, "style": "italic", "bbox": back}
        axes.text(*arrow.label_at, arrow.label, fontsize=TEXT_SIZE, **turned, **MIDDLE)
