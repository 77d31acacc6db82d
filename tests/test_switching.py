"""The scheduler against a few lines of plain Python, and the rules one by one."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from ssd_lib.config import SSDConfig
from ssd_lib.method import switching


def plain(matches, config):
    """The state after every token, as (union, threshold, alpha_i)."""
    union, threshold, alpha_i, states = config.first_scheme == "union", config.threshold, config.alpha_intersection, []
    for n in range(1, len(matches) + 1):
        if n % config.bin_size == 0:
            next_union = sum(matches[n - config.bin_size : n]) / config.bin_size < threshold
            if config.fixed_scheme:
                next_union = union
            if next_union == union:
                threshold = max(threshold - config.threshold_decay, 0)
                if not union:
                    alpha_i = min(alpha_i, max(alpha_i - config.alpha_decay, config.alpha_floor))
            else:
                threshold, alpha_i = config.threshold, config.alpha_intersection
            union = next_union
        states.append((union, threshold, alpha_i))
    return states


configs = st.builds(
    SSDConfig,
    alpha_intersection=st.sampled_from([0.1, 0.3, 0.45, 0.8, 1.0]),
    bin_size=st.integers(1, 7),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0]),
    threshold_decay=st.sampled_from([0.0, 0.1, 0.3]),
    start_scheme=st.sampled_from(["intersection", "union"]),
    fixed_scheme=st.sampled_from([None, None, "union", "intersection"]),
)


@given(configs, st.lists(st.booleans(), min_size=1, max_size=40))
def test_equals_plain_python(config, matches):
    state = switching.start(1, config)
    for matched, (union, threshold, alpha_i) in zip(matches, plain(matches, config), strict=True):
        state = switching.update(state, torch.tensor([matched]), torch.tensor([True]), config)
        assert bool(state.union[0]) == union
        assert float(state.threshold[0]) == pytest.approx(threshold, abs=1e-12)
        assert float(state.alpha_intersection[0]) == pytest.approx(alpha_i, abs=1e-12)


@given(configs, st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25))
def test_rows_do_not_touch_each_other_and_inactive_rows_stay(config, steps):
    together = switching.start(2, config)
    alone = [switching.start(1, config), switching.start(1, config)]
    for active_second, matched in steps:
        active = torch.tensor([True, active_second])
        together = switching.update(together, torch.tensor([matched, matched]), active, config)
        for row in range(2):
            if active[row]:
                alone[row] = switching.update(alone[row], torch.tensor([matched]), torch.tensor([True]), config)
    for row in range(2):
        for whole, part in zip(together, alone[row], strict=True):
            assert whole[row] == part[0]


def run(matches, config):
    state = switching.start(1, config)
    for matched in matches:
        state = switching.update(state, torch.tensor([bool(matched)]), torch.tensor([True]), config)
    return state


def test_a_low_match_ratio_turns_to_union_and_a_high_one_back():
    config = SSDConfig()
    assert not run([0] * 6, config).union
    assert run([0] * 7, config).union
    assert not run([0] * 7 + [1] * 7, config).union


def test_four_of_seven_is_below_the_first_threshold_but_not_below_the_second():
    config = SSDConfig()
    four = [1, 1, 1, 1, 0, 0, 0]
    assert run(four, config).union
    assert not run([1] * 7 + four, config).union


def test_alpha_is_annealed_to_the_floor_and_a_smaller_one_is_never_raised():
    config = SSDConfig(alpha_intersection=0.8)
    assert [round(float(run([1] * n, config).alpha_intersection), 2) for n in (7, 14, 21, 28, 35)] == [
        0.65,
        0.5,
        0.35,
        0.3,
        0.3,
    ]
    assert float(run([1] * 35, replace(config, alpha_intersection=0.1)).alpha_intersection) == pytest.approx(0.1)


def test_a_change_of_scheme_resets_threshold_and_alpha():
    config = SSDConfig(alpha_intersection=0.8)
    state = run([1] * 14 + [0] * 7, config)
    assert state.union and float(state.threshold) == 0.6 and float(state.alpha_intersection) == pytest.approx(0.8)


def test_running_match_ratio_counts_the_bin_so_far():
    config = SSDConfig(bin_size=4)
    assert float(switching.running_match_ratio(run([1, 0, 1], config), config)) == pytest.approx(2 / 3)
    assert float(switching.running_match_ratio(run([1, 0, 1, 1], config), config)) == pytest.approx(3 / 4)
    assert float(switching.running_match_ratio(run([1, 0, 1, 1, 0], config), config)) == 0
