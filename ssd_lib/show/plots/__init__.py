"""Figures of the book: readable in grey and colour-blind safe, with an interval on every rate.

Every function takes data frames or plain arrays and returns a matplotlib figure; none loads a model. `style` holds colours and
marks, `answer_text` and `decoding` draw single answers, `experiments` draws a report, `method` draws the method itself.
"""

from ssd_lib.show.plots.answer_text import answers
from ssd_lib.show.plots.decoding import lines_with_bands, rates_by_prefill, switching, token_bars
from ssd_lib.show.plots.experiments import alpha_map, bars, by_prefill, front, report_figures, tradeoff, tradeoff_points
from ssd_lib.show.plots.method import method_map, scheduler_map
from ssd_lib.show.plots.style import COLORS, HATCHES, LINES, MARKS, Look, looks, png, role, save, use_book_style

__all__ = [
    "COLORS",
    "HATCHES",
    "LINES",
    "MARKS",
    "Look",
    "alpha_map",
    "answers",
    "bars",
    "by_prefill",
    "front",
    "lines_with_bands",
    "looks",
    "method_map",
    "png",
    "rates_by_prefill",
    "report_figures",
    "role",
    "save",
    "scheduler_map",
    "switching",
    "token_bars",
    "tradeoff",
    "tradeoff_points",
    "use_book_style",
]
