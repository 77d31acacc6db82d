"""The trace: what it holds, that it survives saving, and that hostile tokens cannot break out of it."""

import re
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import micro_llama, perturbed

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.method.trace import COLUMNS, Trace

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202eabc",
    "\x1b[31mred",
    "a\x00b",
    "' onmouseover='x",
    "</span>",
    "&amp;",
    "\n",
    "plain",
]


class HostileTokenizer:
    def decode(self, ids, **kwargs):
        return "".join(HOSTILE[int(i) % len(HOSTILE)] for i in ids)


@pytest.fixture(scope="module")
def output():
    target = micro_llama(0, layers=2)
    prompts = torch.tensor([[3, 4, 5], [6, 7, 8]])
    options: dict[str, Any] = dict(max_new_tokens=30, config=SSDConfig(threshold=0.9), eos_token_id=[], trace=True)
    return ssd_generate(target, perturbed(target, 1, 0.3), prompts, **options)


def test_one_line_a_token_in_order_and_every_column(output):
    frame = output.trace.to_frame()
    assert list(frame.columns) == COLUMNS
    for row, answer in enumerate(output.sequences):
        lines = output.trace.row(row).to_frame()
        assert lines.token.tolist() == answer.tolist()
        assert lines.position.tolist() == list(range(len(answer)))
        assert lines["round"].is_monotonic_increasing
    assert set(frame.scheme) == {"intersection", "union"}


def test_the_numbers_agree_with_each_other(output):
    for line in output.trace.to_frame().to_dict("records"):
        assert line["match"] == (line["token"] == line["proposal"])
        assert line["composite"] == pytest.approx(
            line["target_prob"] + line["alpha"] * (line["draft_prob"] - line["target_prob"]), abs=1e-5
        )
        assert line["draft_top"][0] == line["proposal"]
        assert line["insisted"] or line["token"] == line["space"][0]
        assert line["insisted"] <= (line["scheme"] == "intersection" and line["token"] == line["target_top"][0])
        assert 1 <= line["bin_tokens"] <= 7 and 0 <= line["match_ratio"] <= 1
        assert len(line["space"]) == len(line["space_composite"]) <= 20


def test_match_ratio_is_that_of_the_running_bin(output):
    lines = output.trace.row(0).to_frame()
    for start in range(0, len(lines), 7):
        part = lines.iloc[start : start + 7]
        assert part.match_ratio.tolist() == pytest.approx(part.match.cumsum().div(range(1, len(part) + 1)).tolist())


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_saving_and_loading(output, tmp_path, suffix):
    path = tmp_path / f"trace{suffix}"
    output.trace.save(path)
    pd.testing.assert_frame_equal(Trace.load(path).to_frame(), output.trace.to_frame(), check_dtype=False)


def test_another_suffix_is_refused(output, tmp_path):
    with pytest.raises(ValueError, match="parquet or .json"):
        output.trace.save(tmp_path / "trace.txt")
    with pytest.raises(ValueError, match="parquet or .json"):
        Trace.load(tmp_path / "trace.txt")


def test_hostile_tokens_stay_text(output):
    markup = output.trace.to_html(HostileTokenizer())
    assert set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", markup)) == {"div", "span"}
    for tag in re.findall(r"<span[^>]*>", markup):
        assert re.fullmatch(r'<span style="[^"<>]*"( title="[^"<>]*")?>', tag), tag
    assert "\u202e" not in markup and "\x1b" not in markup and "\x00" not in markup
    text = output.trace.to_text(HostileTokenizer())
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text


def test_what_was_taken_back_stands_in_the_strip_on_request_and_stays_text():
    target = micro_llama(5, layers=2)
    config = SSDConfig(threshold=0.9, retract=True, bin_size=3)
    options: dict[str, Any] = dict(config=config, max_new_tokens=30, eos_token_id=[], trace=True)
    trace: Any = ssd_generate(target, micro_llama(105), [[3, 4, 5]], **options).trace
    taken = trace.lines[trace.lines.retracted]
    assert len(taken) > 3
    shown, hidden = (trace.to_html(HostileTokenizer(), retracted=each) for each in (True, False))
    assert shown.count('class="taken-back"') == len(taken) and "taken" not in hidden
    assert "<script" not in shown and "<img" not in shown
    text = trace.to_text(HostileTokenizer(), retracted=True)
    assert text.count("~") == 2 * len(taken) + 2 and "\x1b" not in text
    assert "~" not in trace.to_text(HostileTokenizer())


def test_the_first_token_stands_behind_what_is_in_front_of_the_answer(output):
    class Pieces:
        def decode(self, ids, **kwargs):
            return " ".join(map(str, ids))

    first = output.trace.row(1).to_frame(Pieces(), before=7)["text"]
    assert first[0].startswith(" ") and not output.trace.row(1).to_frame(Pieces())["text"][0].startswith(" ")


def test_the_strip_displays_itself_and_has_a_plain_twin(output):
    strip = output.trace.show(HostileTokenizer())
    assert strip._repr_html_() == output.trace.to_html(HostileTokenizer())
    assert "∩" in repr(strip) and "∪" in repr(strip)


def test_without_a_trace_nothing_is_recorded():
    target = micro_llama(0)
    assert ssd_generate(target, target, torch.tensor([[3]]), max_new_tokens=3).trace is None
