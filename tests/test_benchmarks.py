"""The benchmark's own peers: the same tokens, a limit that is one, and a path to the GPU table that runs here."""

import pandas as pd
import pytest
import torch
from conftest import micro_llama, perturbed

from benchmarks import cpu, gpu, peers, products
from benchmarks.published import published_loop
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.synthetic import synthetic_pair, synthetic_prompt


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
    assert peers.bare_forwards(work, stats.schedule) > 0
    for hook in hooks:
        hook.remove()
    assert counted.count(target) == stats.target_forwards and counted.count(draft) == stats.draft_forwards


def test_parts_of_a_round_add_up():
    target, draft = synthetic_pair("micro", 0.6)
    work = peers.Workload("micro", target, draft, synthetic_prompt(512, 8), 20)
    with cpu.timers() as spent:
        peers.ours(work)
    parts = cpu.parts(spent)
    assert sum(parts.values()) == pytest.approx(spent["round"]) and min(parts.values()) > 0


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


@pytest.mark.slow
def test_the_gpu_script_runs_end_to_end_on_micro_shapes(tmp_path):
    text = gpu.main("micro", "cpu", False, tmp_path / "gpu.csv")
    frame = pd.read_csv(tmp_path / "gpu.csv")
    assert "waits inside a round: 0" in text
    assert set(frame.peer) == {"target alone", "ssd_lib", "published loop"}
    ours = frame[frame.peer == "ssd_lib"]
    assert (ours.match_ratio.round(2) == ours.asked_ratio).all()
