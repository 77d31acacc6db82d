"""Figures: every function draws what it is given, and nothing that computes imports what draws."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import HTMLFormatter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

matplotlib.use("Agg")

from ssd_lib import SSDConfig, paths
from ssd_lib.defenders import DEFENDERS  # noqa: E402
from ssd_lib.experiments.stats import rates  # noqa: E402
from ssd_lib.show import method_map, plots, style  # noqa: E402

LIBRARY = Path(paths.__file__).parent


@pytest.fixture(autouse=True)
def close_figures():
    yield
    style.plt.close("all")


def test_rates_by_prefill_draws_one_line_a_system_with_intervals():
    frame = pd.DataFrame(
        [{"system": s, "prefill": n, "told": n > 0} for s in ("target alone", "SSD") for n in (0, 5) for _ in range(9)]
    )
    figure = plots.rates_by_prefill(rates(frame, "told", ["system", "prefill"]), "share")
    axes = figure.axes[0]
    legend: Any = axes.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["target alone", "SSD"]
    assert axes.get_xlabel() and axes.get_ylabel() == "share"


def test_every_defender_has_a_look_of_its_own():
    found = style.looks(DEFENDERS).values()
    assert len({str(look.mark) for look in found}) == len(DEFENDERS), "shape alone tells them apart, without colour"
    assert len({str(look.mark) for look in found} & set(style.MARKS.values())) == 4, (
        "the book's own belong to nobody else"
    )
    assert all(MarkerStyle(look.mark).is_filled() for look in found), "a mark of edges alone is white on white"


def test_tables_scroll_where_a_window_is_too_narrow():
    formatter = HTMLFormatter()
    style.scroll_tables(formatter)
    frame = pd.DataFrame({"<b>": ["<i>"]})
    for table in (frame, frame.style.format(escape="html")):
        shown: Any = formatter(table)
        assert shown.startswith('<div style="width:0;min-width:100%;overflow-x:auto">') and shown.endswith("</div>")
        assert "&lt;i&gt;" in shown and shown.count("<table") == 1
    assert formatter(3) is None


@pytest.mark.parametrize("places", [[0, 5, 10, 20, 40], [0, 10], [0, 1, 2], [3]])
def test_marks_stand_beside_their_place_and_nowhere_else(places):
    for count in (1, 2, 5, 16):
        moved = style.offsets(places, count)
        gap = min(np.diff(places), default=1)
        assert len(moved) == count and abs(moved.sum()) < 1e-9 and np.ptp(moved) <= 0.4 * gap
        if len(places) > 1:
            assert np.abs(moved).max() <= 0.015 * (max(places) - min(places))


def test_a_line_over_prefills_keeps_its_systems_at_their_length():
    lines = pd.DataFrame([line(s, a) for s in ("none", "ssd", "icd", "ada") for a in ("direct", "prefill-10")])
    lines = pd.concat([lines, pd.DataFrame([line("ppl", "prefill-10")])])
    axes = plots.by_prefill(lines, "rate").axes[0]
    assert len(axes.containers) == 4, "one length alone is no line"
    drawn: Any
    for drawn in axes.containers:
        assert np.allclose(drawn.lines[0].get_xdata(), [0, 10], atol=0.2)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "10"]


def test_small_bars_can_be_seen_and_those_outside_the_sample_space_are_hollow():
    figure = plots.token_bars(["a", "b"], [0.9, 0.002], [0.2, 0.8], [0.69, -0.31], [True, False])
    axes = figure.axes[0]
    figure.canvas.draw()
    heights = [bar.get_window_extent().height for bar in axes.patches]
    assert min(heights) > 0.1 * max(heights), "0.002 beside 0.9"
    hollow = [to_rgb(bar.get_facecolor()) == (1, 1, 1) for bar in axes.patches]
    assert hollow == [False, True] * 3
    edges = {to_rgb(bar.get_edgecolor()) for bar, empty in zip(axes.patches, hollow, strict=True) if empty}
    assert edges == {to_rgb(plots.COLORS[name]) for name in ("target", "draft", "SSD")}
    assert [text.get_text() for text in axes.texts] == ["0.9", "0.002", "0.2", "0.8", "0.69", "-0.31"]
    assert axes.get_xticklabels()[1].get_text() == "b\n(outside V)"


def test_nats_are_read_as_probabilities():
    figure = plots.lines_with_bands({"target": np.ones((3, 2)) * [0, 10 * np.log(10)]}, "n", "nats")
    plots.read_as_probabilities(figure.axes[0])
    figure.canvas.draw()
    digits = figure.axes[0].child_axes[0]
    nats = figure.axes[0].get_ylim()
    assert np.allclose(np.array(digits.get_ylim()) * np.log(10), nats)
    assert "$10^{-9}$" in [tick.get_text() for tick in digits.get_yticklabels()]


def test_switching_shades_union():
    trace = pd.DataFrame(
        {
            "position": range(4),
            "bin_tokens": [1, 2, 1, 2],
            "match_ratio": [0.0, 0.0, 1.0, 1.0],
            "threshold": [0.6] * 4,
            "alpha": [0.3, 0.3, 0.8, 0.8],
            "scheme": ["intersection"] * 2 + ["union"] * 2,
            "match": [False, False, True, True],
        }
    )
    axes = plots.switching(trace, bin_size=2).axes[0]
    shade: Any = axes.patches[0]
    assert len(axes.patches) == 1
    assert (shade.get_x(), shade.get_width()) == (1.5, 2), "one run of two tokens"
    bins: Any = axes.collections[0]
    assert [segment[:, 1].tolist() for segment in bins.get_segments()] == [[0, 0], [1, 1]], (
        "one β a bin, joined by nothing"
    )


def test_answers_mark_what_is_told_and_what_was_taken_back():
    said = pd.DataFrame({"text": [" red", " $root$", " blue", " root"]})
    traced = said.assign(scheme=["intersection"] * 2 + ["union"] * 2, retracted=[True] * 2 + [False] * 2)
    figure = plots.answers(
        {"target alone": said, "hardened SSD": traced}, "Take", ["red", "blue  root", "BLUE"], columns=12
    )
    axes = figure.axes[0]
    drawn = [text.get_text() for text in axes.texts]
    key = ["written", "by", "the", "attacker", "forbidden", "fact", "Union", "taken", "back"]
    words = ["Take", "red", "$root$", "blue", "root"]
    assert [word for word in drawn if word not in ("target alone", "hardened SSD")] == [*words, *words, *key]
    yellow, green = (
        sum(patch.get_facecolor()[:3] == to_rgb(color) for patch in axes.patches)
        for color in (plots.LEAKED, plots.COLORS["draft"])
    )
    assert yellow == 2 + 1 + 1 and green >= 2, "red and blue, and after the first was taken back blue alone; the key"
    assert len(axes.lines) == 2 + 1, "two lines of what was taken back, and the key"


def test_long_words_are_broken_and_no_line_is_too_long():
    letters = [(letter, set()) for letter in "a bb " + 30 * "c" + " dd"]
    lines = ["".join(letter for letter, _ in line) for line in plots._lines(letters, 10)]
    assert lines == ["a bb", 10 * "c", 10 * "c", 10 * "c", "dd"]


def test_lines_with_bands_and_saving(tmp_path, monkeypatch):
    figure = plots.lines_with_bands({"target": np.random.default_rng(0).random((5, 7))}, "x", "y")
    assert isinstance(figure, Figure)
    monkeypatch.setattr(style, "REPOSITORY", tmp_path)
    assert plots.save(figure, "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("system", "role"),
    [
        ("target alone", "target"),
        ("draft alone", "draft"),
        ("SSD, Union only", "SSD"),
        ("hardened SSD", "hardened SSD"),
        ("other", "SSD"),
    ],
)
def test_roles_have_one_colour(system, role):
    assert plots.role(system) == role


# ------------------------------------------------------------------------------------------------ experiments


def line(system, attack="direct", measure="attack success", judge="exact", value=0.5, low=0.3, high=0.7, pair="toy"):
    return dict(pair=pair, attack=attack, system=system, measure=measure, judge=judge, value=value, low=low, high=high)


GRID = [f"ssd:alpha_intersection={a}:alpha_union={b}" for a in (0.3, 0.6) for b in (0.8, 2)]
SYSTEMS = ["none", "ssd", "ssd-hardened", "draft-only", *(f"other{i}" for i in range(9))]


def test_every_defender_looks_different_and_none_ssd_and_draft_as_in_the_book():
    looks = plots.looks([*SYSTEMS, *GRID])
    assert looks["none"].color == plots.COLORS["target"] and looks["draft-only"].color == plots.COLORS["draft"]
    assert looks["ssd"].mark == plots.MARKS["SSD"]
    assert {looks[system].color for system in GRID} == {plots.COLORS["SSD"]}
    assert looks["ssd-hardened"].color == plots.COLORS["hardened SSD"] != plots.COLORS["SSD"]
    assert len({look[:2] for look in looks.values()}) == len(looks), "colour and mark tell two defenders apart"


def test_bars_stand_at_their_values_with_their_intervals():
    lines = pd.DataFrame([line(s, a, value=v) for s, v in (("none", 0.75), ("ssd", 0.5)) for a in ("x", "y")])
    axes = plots.bars(lines, "rate").axes[0]
    heights = [bar.get_height() for container in axes.containers[::2] for bar in container]
    assert heights == [0.75, 0.75, 0.5, 0.5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["x", "y"]
    tops: Any = axes.collections
    assert sum(len(drawn.get_segments()) for drawn in tops) == 4 + 4, "tops, so that 0 is seen, and intervals"
    bars = tops[1]
    spans = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert np.allclose(spans, [[0.3, 0.75], [0.3, 0.75]]), "an interval never leaves its value"


def test_lines_by_prefill_leave_out_what_is_no_prefill():
    lines = pd.DataFrame([line("none", a) for a in ("direct", "prefill-5", "prefill-40", "nested-fiction")])
    axes = plots.by_prefill(lines, "rate").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "5", "40"]
    assert np.size(axes.lines[0].get_xdata()) == 3


def test_the_map_puts_each_setting_where_it_belongs():
    lines = pd.DataFrame([line(system, value=i / 4) for i, system in enumerate(GRID)])
    axes = plots.alpha_map(lines, "direct").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.3", "0.6"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["2", "0.8"]
    texts = {text.get_position(): text.get_text().split("\n")[0] for text in axes.texts}
    assert texts == {(0, 1): "0%", (0, 0): "25%", (1, 1): "50%", (1, 0): "75%"}


def test_a_report_is_drawn_from_what_its_summary_holds():
    lines = [line(s, a) for s in ("none", "ssd", *GRID) for a in ("direct", "prefill-5")]
    lines += [line(s, "benign", "right", value=0.9) for s in ("none", "ssd")]
    lines += [line(s, "benign", "tokens per second", "clock", 100) for s in ("none", "ssd")]
    figures = plots.report_figures(pd.DataFrame(lines))
    assert [caption.split(" (")[0] for caption in figures] == [
        "Attack success with 95% Wilson intervals",
        "Attack success against prefilled tokens",
        "Attack success over α_I and α_U",
        "Safety against utility against speed",
    ]
    assert all(plots.png(figure).startswith(b"\x89PNG") for figure in figures.values())
    assert not plots.report_figures(pd.DataFrame(lines[-4:])), "without an attack there is nothing to draw"


def test_a_front_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no defender was asked forbidden questions and benign ones"):
        plots.front(pd.DataFrame([line("none", "direct", measure="facts told")]))


def test_the_front_draws_every_defender_where_it_leaks_and_what_it_costs():
    values = {"none": (0.9, 0.8), "ssd": (0.2, 0.8), "ssd-hardened": (0.0, 0.75)}
    lines = []
    for system, (leak, right) in values.items():
        lines += [line(system, attack, "facts told", value=leak, low=leak, high=leak) for attack in ("x", "y")]
        lines += [line(system, "benign", "right", value=right, low=right, high=right)]
        lines += [line(system, attack, "target forwards per token", "clock", 10) for attack in ("x", "benign")]
    lines += [line("none", "z", "facts told", value=0)]  # not asked of all: does not count
    lines += [line("other", "z", "facts told", value=0)]  # was asked nothing else: is not drawn
    axes = plots.front(pd.DataFrame(lines)).axes
    assert len(axes) == 2 and axes[0].get_ylabel() == "facts told, mean over attacks"
    drawn = [np.array(mark.get_xydata())[0].tolist() for mark in axes[0].lines if mark.get_label() in values]
    assert np.allclose(drawn, [(right, leak) for leak, right in values.values()])


def test_marks_in_one_place_stand_apart_with_a_line_to_it():
    spots = {"none": (0.9, 0.9), "ppl": (0.9, 0.9), "icd": (0.91, 0.9), "ssd": (0.2, 0.8), "ada": (0.9, 0.5)}
    frame = pd.DataFrame(
        [dict(system=s, x=x, x_low=x, x_high=x, y=y, y_low=y, y_high=y, speed=9.0) for s, (x, y) in spots.items()]
    )
    figure = plots.tradeoff(frame, "x", "y")
    figure.canvas.draw()
    axes = figure.axes[0]
    marks = [drawn for drawn in axes.collections if str(drawn.get_label()).endswith("tokens/s)")]
    centres = np.array([mark.get_offset_transform().transform(mark.get_offsets())[0] for mark in marks])
    apart = np.hypot(*(centres[:, None] - centres[None]).T)[~np.eye(len(marks), dtype=bool)]
    assert len(marks) == len(spots) and apart.min() > 10, "no mark lies on another"
    texts: Any = axes.texts
    lines = [text for text in texts if text.arrow_patch is not None]
    assert len(lines) == 3 and {text.xy for text in lines} == {(0.9, 0.9), (0.91, 0.9)}
    assert style.crowds([0, 1, 0.02, 5], [0, 0, 0, 5]) == [[0, 2], [1], [3]]


def test_the_interval_of_a_mean_over_sets_is_narrower_than_that_of_one():
    points = plots.tradeoff_points(
        pd.DataFrame(
            [line("ssd", a) for a in ("x", "y", "z", "w")]
            + [line("ssd", "benign", "right", value=0.9, low=0.8, high=0.95)]
            + [line("ssd", "benign", "tokens per second", "clock", 100)]
        ),
        "exact",
    ).iloc[0]
    assert points.x == pytest.approx(0.5) and points.x - points.x_low == pytest.approx(0.1)
    assert (points.y, points.y_low, points.y_high) == pytest.approx((0.9, 0.8, 0.95))


# ------------------------------------------------------------------------------------------------ the method


MAPS = [plots.method_map, plots.scheduler_map]


@pytest.mark.parametrize("drawn", MAPS)
def test_every_word_of_the_map_can_be_read(drawn):
    plots.use_book_style()
    figure = drawn()
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = {patch.get_gid(): patch.get_window_extent() for patch in axes.patches if patch.get_gid()}
    words = [(text.get_gid(), text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text()]
    for i, (home, word, extent) in enumerate(words):
        inside = boxes[home] if home else figure.bbox
        assert inside.x0 <= extent.x0 and extent.x1 <= inside.x1, f"{word!r} is cut off"
        assert inside.y0 <= extent.y0 and extent.y1 <= inside.y1, f"{word!r} is cut off"
        for _, other, where in words[i + 1 :]:
            assert not extent.overlaps(where), f"{word!r} lies on {other!r}"
        if home is None:
            assert not any(extent.overlaps(box) for box in boxes.values()), f"{word!r} lies on a box"
    across = figure.get_figwidth() * 72
    assert all(text.get_fontsize() * 700 / across >= 11 for text in axes.texts), "too small at 700 pixels"


@pytest.mark.parametrize("drawn", MAPS)
def test_every_arrow_of_the_map_leads_from_box_to_box(drawn, monkeypatch):
    given = {}
    monkeypatch.setattr(method_map, "draw", lambda boxes, arrows, *rest, **more: given.update(b=boxes, a=arrows))
    drawn()

    def touched(x, y):
        near = [(abs(x - b.x) - b.width / 2, abs(y - b.y) - b.height / 2, b.title) for b in given["b"]]
        return [title for dx, dy, title in near if max(dx, dy) == pytest.approx(0)]

    ways = {(*touched(*arrow.points[0]), *touched(*arrow.points[-1])) for arrow in given["a"]}
    assert all(len(way) == 2 for way in ways), ways
    assert {box.title for box in given["b"]} == {title for way in ways for title in way}, "a box without an arrow"


def test_the_map_shows_the_settings_it_is_given():
    config = SSDConfig(lookahead=5, bin_size=9, threshold=0.45, alpha_decay=0.07)
    shown = "".join(text.get_text() for drawn in MAPS for text in drawn(config).axes[0].texts)
    assert all(word in shown for word in ("T = 5", "b = 9", "at first 0.45", "−= 0.07"))


# ------------------------------------------------------------------------------------------------ imports


def test_the_tradeoff_counts_only_sets_that_every_defender_answered():
    line = dict(pair="toy", group="harmful", judge="exact", low=0.0, high=1.0, n=9, unjudged=0, errors=0)
    rows = [
        line | dict(system=system, attack=attack, measure=measure, value=value)
        for system, attack, value in (("none", "a", 1.0), ("none", "b", 0.0), ("ssd", "a", 0.5))
        for measure in ("attack success", "right", "tokens per second")
    ]
    points = plots.tradeoff_points(pd.DataFrame(rows), "exact").set_index("system")
    assert points.x.to_dict() == points.y.to_dict() == {"none": 1.0, "ssd": 0.5}
