"""The benchmark's own peers: the same tokens, a limit that is one, and a path to the GPU table that runs here."""

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from weakref import WeakKeyDictionary

import pandas as pd
import pytest
import torch
from conftest import micro_llama, perturbed

from benchmarks import cpu, gpu, hardened, parts, peers, products, run, tables
from benchmarks.published import published_loop
from benchmarks.synthetic import synthetic_pair, synthetic_prompt
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import lookahead, short_products, ssd_generate
from ssd_lib.paths import REPOSITORY


@pytest.mark.parametrize("settings", [dict(), dict(candidates=3, alpha_union=2.0, threshold=0.8), dict(lookahead=5)])
def test_the_published_loop_gives_our_tokens(settings):
    target = micro_llama(0, layers=2)
    draft, ids, config = perturbed(target, 1, 0.2), torch.tensor([[3, 9, 4]]), SSDConfig(**settings)
    ours = ssd_generate(target, draft, ids, config=config, max_new_tokens=30, eos_token_id=[], trace=False)
    assert published_loop(target, draft, ids, config, 30) == ours.sequences[0].tolist()


def test_all_peers_agree_on_the_synthetic_pair_and_bare_forwards_are_those_of_the_schedule():
    target, draft = synthetic_pair("micro", 0.6)
    work = peers.Workload("micro", target, draft, synthetic_prompt(512, 8), 20)
    answers = [
        peer(work) for peer in (peers.ours, peers.generate, peers.assisted, peers.assisted_fixed, peers.published)
    ]
    assert all(answer == answers[0] for answer in answers)
    stats = peers.run_ours(work, lookahead=3).stats
    counted = []
    hooks = [m.register_forward_hook(lambda model, *_: counted.append(model)) for m in (target, draft)]
    bare = peers.bare_forwards(work, stats.schedule)
    assert bare.prompts > 0 and bare.rounds > 0
    for hook in hooks:
        hook.remove()
    assert counted.count(target) == stats.target_forwards and counted.count(draft) == stats.draft_forwards


def test_the_memory_limit_counts_the_weights_that_every_round_reads(monkeypatch):
    target, draft = synthetic_pair("micro", 0.6)
    work = peers.Workload("micro", target, draft, synthetic_prompt(512, 8), 20)
    monkeypatch.setattr(peers, "bandwidth", lambda size: 1e6)
    read = [
        4 * (sum(w.numel() for w in m.parameters()) - 512 * 64) for m in (target, draft)
    ]  # but for the lookup table
    assert peers.memory_seconds(work, ((3, 2, 3), (4, 4, 1))) == pytest.approx((2 * read[0] + 6 * read[1]) / 1e6)


def test_our_peers_learn_their_own_costs_and_products_are_left_as_they_are_on_request(monkeypatch):
    target, draft = synthetic_pair("micro", 0.6)
    work = peers.Workload("micro", target, draft, synthetic_prompt(512, 8), 20)
    monkeypatch.setattr(peers, "_costs", defaultdict(WeakKeyDictionary))
    for name in ("one", "other"):
        with peers.own_costs(name):
            peers.ours(work)
            assert lookahead._known is peers._costs[name] and target in peers._costs[name]
    assert peers._costs["one"][target][draft] is not peers._costs["other"][target][draft]
    assert lookahead._known not in peers._costs.values()
    monkeypatch.setattr(short_products, "SMALLEST", 1)
    monkeypatch.setattr(short_products, "_kinds", {})
    with peers.products_as_they_are():
        peers.ours(work)
    assert not short_products._kinds
    peers.settle_products(target, draft, work.ids.tolist(), most=2)
    assert short_products._kinds and not any(peers.unsettled(target, draft, tokens=count) for count in (1, 2))


def test_parts_of_a_loop_add_up():
    target, draft = synthetic_pair("micro", 0.6)
    work = peers.Workload("micro", target, draft, synthetic_prompt(512, 8), 20)
    with parts.timers(target) as spent:
        peers.ours(work)
    each = parts.parts(spent)
    assert sum(each.values()) == pytest.approx(spent["loop"]) and min(each.values()) > 0
    ours = sum(value for name, value in each.items() if not name.endswith("forwards"))
    assert parts.overhead(spent) == pytest.approx(ours / spent["loop"])


def test_the_page_gets_its_tables_between_the_markers(tmp_path):
    names = (tables.OURS, tables.FIXED, tables.GENERATE, tables.ASSISTED, tables.BARE, tables.MEMORY)
    about = dict.fromkeys(tables.ABOUT, "x")
    speed = [
        about | dict(pair="p", match_ratio=0.5, new_tokens=20, peer=n, tokens_per_second=8.0 / (i + 1))
        for i, n in enumerate(names)
    ]
    speed[0]["share_of_memory_limit"] = 0.75
    scaling = [about | dict(context=128, ours_ms=3.0, attention_ms=1.0, generate_ms=4.0)]
    scaling += [about | dict(rows=rows, tokens_per_second=10.0 * rows) for rows in (1, 4)]
    batch = dict(group="scary", rows=25, peer="ssd_lib", tokens=9, rounds=2, ms_per_token=1.0, spread=0.1)
    frames = {
        "products": [about | dict(pair="p", out=2, tokens=1, times_as_fast=1.5, best="flipped") | {"in": 3}],
        "speed": speed,
        "scaling": scaling,
        "parts": [about | dict(part=p, vocabulary=512, ms_per_round=1.0, share=0.5) for p in ("draft forwards", "softmax")],
        "batches": [about | batch | dict(times_generate=1.2, overhead=0.09)],
        "lookup": [about | dict(pair="p", peer="draft", tokens_per_second=5.0)],
        "hardened": [
            about | dict(pair="p", match_ratio=0.5, peer=peer, tokens_per_second=4.0, first_ms=7.0, decoded=9,
                         target_forwards=5, times_published=1.5, first_times_published=1.25)
            for peer in ("published SSD", "hardened SSD")
        ],
    }  # fmt: skip
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- measured: make bench -->\nold\n<!-- end of make bench -->\nafter")
    tables.write_page({name: pd.DataFrame(lines) for name, lines in frames.items()}, page)
    written = page.read_text()
    assert written.startswith("before") and written.endswith("after") and "old" not in written
    assert "| 2.00 | 3.00 | 4.00" not in written and "| p | 0.50 | 20 | 3.00 | 4.00 | 5.00 | 0.75 |" in written
    assert "| hardened SSD | 4.00 | 1.50 | 7.00 | 1.25 | 9 | 5 |" in written
    assert "1.50 flipped" in written and "outside the forwards" in written and "| 0.090 |" in written
    assert "measured: make bench" in tables.PAGE.read_text(), "the committed page has a place for them"


def test_hardened_and_published_take_turns_and_the_worst_case_decodes_all_twice_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "RESULTS", tmp_path)
    monkeypatch.setattr(cpu, "WARM_UPS", 1)
    frame = hardened.hardened(replace(cpu.QUICK, match_ratios=(1.0,), new_tokens=14))
    assert len(frame) == 2 * (1 + len(hardened.WORST))
    ours, published = (frame[frame.peer == name].reset_index() for name in (hardened.HARDENED, hardened.PUBLISHED))
    assert ours.decoded.tolist() == [14, 20, 28] and published.decoded.tolist() == [14] * 3
    assert (ours.first_ms > 0).all() and ours.first_times_published.notna().all()
    assert (tmp_path / "hardened.csv").exists()


def test_the_table_of_short_products_has_every_shape_and_way(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "RESULTS", tmp_path)
    shapes = {
        name: {(out, width) for pair, out, width in products.all_shapes("micro") if pair == name}
        for name in ("micro", "embedded")
    }
    assert shapes["micro"] == {(64, 64), (32, 64), (96, 64), (64, 96), (512, 64)} and len(shapes["embedded"]) > 4
    monkeypatch.setattr(products, "MOST", 2)
    frame = products.products("micro", repeats=1)
    assert len(frame) == len(products.TOKENS) * len(shapes["micro"] | shapes["embedded"])
    taken = frame.apply(lambda line: line[line.best.replace(" ", "_") + "_ms"], axis=1)
    assert (frame.as_is_ms / taken).round(6).equals(frame.times_as_fast.round(6)) and (frame.times_as_fast >= 1).all()
    assert (tmp_path / "products.csv").exists() and products.table(frame).count("1.00 as is") == (
        frame.best == "as is"
    ).sum()


def test_only_known_parts_are_measured():
    with pytest.raises(ValueError, match="only is one of products, speed"):
        run.main(only="everything")


@pytest.mark.slow
def test_a_quick_run_proves_every_path(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "RESULTS", tmp_path)
    text = run.main(quick=True, out=tmp_path)
    assert {path.stem for path in tmp_path.glob("*.csv")} == set(run.PARTS)
    for title in ("Tokens a second", "The embedded pair in batches", "Parts of a round", "Short products"):
        assert title in text


@pytest.mark.slow
def test_the_gpu_script_runs_end_to_end_on_micro_shapes(tmp_path):
    """In a process of its own: run-time shape checks, which the other tests have, cannot be compiled."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--micro", "--device", "cpu", "--out", str(tmp_path / "gpu.csv")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert "waits inside a round: 0" in done.stdout, done.stderr[-2000:]
    frame = pd.read_csv(tmp_path / "gpu.csv")
    wanted = {gpu.ALONE, gpu.OURS, gpu.GENERATE, gpu.ASSISTED, gpu.ASSISTED_FIXED, gpu.STEP_BY_STEP, gpu.COMPILED}
    assert set(frame.peer) == wanted | {gpu.PUBLISHED}
    ours = frame[frame.peer == gpu.OURS]
    assert (ours.match_ratio.round(2) == ours.asked_ratio).all() and (ours.recording_seconds > 0).all()
    assert set(ours.lookahead) == {"auto", "2", "3", "4", "6"} and set(ours.rows) == {1, 2}
