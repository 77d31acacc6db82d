"""Figures: every function draws what it is given, and nothing that computes imports what draws."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

matplotlib.use("Agg")

from ssd_lib import plots  # noqa: E402
from ssd_lib.evaluation import rates  # noqa: E402

LIBRARY = Path(plots.__file__).parent


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


def test_rates_by_prefill_draws_one_line_a_system_with_intervals():
    frame = pd.DataFrame(
        [{"system": s, "prefill": n, "told": n > 0} for s in ("target alone", "SSD") for n in (0, 5) for _ in range(9)]
    )
    figure = plots.rates_by_prefill(rates(frame, "told", ["system", "prefill"]), "share")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["target alone", "SSD"]
    assert axes.get_xlabel() and axes.get_ylabel() == "share"


def test_token_bars_grey_what_is_outside_the_sample_space():
    figure = plots.token_bars(["a", "b"], [0.9, 0.1], [0.2, 0.8], [0.69, 0.31], [True, False])
    alphas = [patch.get_alpha() for patch in figure.axes[0].patches]
    assert alphas == [1.0, 0.3] * 3


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
    assert len(plots.switching(trace, bin_size=2).axes[0].patches) == 2


def test_lines_with_bands_and_saving(tmp_path, monkeypatch):
    figure = plots.lines_with_bands({"target": np.random.default_rng(0).random((5, 7))}, "x", "y")
    assert isinstance(figure, Figure)
    monkeypatch.setattr(plots, "REPOSITORY", tmp_path)
    assert plots.save(figure, "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("system", "role"),
    [("target alone", "target"), ("draft alone", "draft"), ("SSD, Union only", "SSD"), ("other", "SSD")],
)
def test_roles_have_one_colour(system, role):
    assert plots.role(system) == role


ORDER = [
    "paths",
    "config",
    "composite",
    "switching",
    "kv_cache",
    "trace",
    "decoding",
    "chat",
    "pairs",
    "defenders",
    "world",
    "training",
    "toy_pair",
    "evaluation",
    "plots",
    "exercises",
    "cli",
]


def test_imports_run_one_way_and_nothing_that_computes_draws():
    assert {path.stem for path in LIBRARY.glob("*.py")} == {*ORDER, "__init__"}
    for path in LIBRARY.glob("*.py"):
        if path.stem == "__init__":
            continue
        source = path.read_text(encoding="utf-8")
        used = set(re.findall(r"from ssd_lib\.(\w+) import", source)) | {
            name for names in re.findall(r"from ssd_lib import ([\w, ]+)", source) for name in names.split(", ")
        }
        later = [name for name in used if name in ORDER and ORDER.index(name) > ORDER.index(path.stem)]
        assert not later, f"{path.name} imports {later}"
        assert path.stem == "plots" or "matplotlib" not in source
