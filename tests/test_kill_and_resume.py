"""Killed for real, twenty times at random moments, and resumed: the store equals that of a run that was left alone.

Every start is a process of its own, forked from this one so that models need not be loaded again, that runs the real
experiment on the embedded pair and writes the real store; it is ended by SIGKILL, which no process can catch.
"""

import os
import random
import signal
import time

import pandas as pd
import pytest

from ssd_lib.experiments import config_from, load_run, load_sessions, load_verdicts, run_experiment
from ssd_lib.models.pairs import load_pair

pytestmark = pytest.mark.slow
KILLS, SEED = 20, 0
TIMES = ["seconds", "written", "session"]
TABLE = {
    "attacks": ["prefill-10", "scary"],
    "defenders": ["none", "ssd:lookahead=3", "self-exam"],  # "auto" goes by the clock: other rounds, the same tokens
    "limit": 6,
    "batch": 1,
    "max_new_tokens": 24,
    "judges": ["exact", "refusal"],
}


def start(out, pair):
    """Run the experiment in a child process; returns its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run_experiment(config_from(TABLE | {"out": out}), pair=pair, progress=False)
            status = 0
        finally:
            os._exit(status)
    return child


def finish(child):
    assert os.waitpid(child, 0)[1] == 0, "an undisturbed start ends well"


def killed(child, delay):
    """Kill the child after `delay` seconds; False where it had finished before."""
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def contents(out):
    answers, verdicts = load_run(out), load_verdicts(out).drop(columns="written")
    return answers.drop(columns=TIMES), verdicts


def test_killed_twenty_times_a_run_loses_nothing_and_doubles_nothing(tmp_path):
    pair, rng = load_pair("toy"), random.Random(SEED)
    began = time.monotonic()
    finish(start(tmp_path / "whole", pair))
    a_kill = (time.monotonic() - began) / KILLS
    whole = contents(tmp_path / "whole")
    assert len(whole[0]) == 36 and len(whole[1]) == 72

    kills, progress, runs = 0, [], [tmp_path / "run0"]
    while kills < KILLS:
        if killed(start(runs[-1], pair), rng.uniform(0, 3) * a_kill):
            kills += 1
            progress.append(rows_of(runs[-1]))
        else:  # it was quicker than the kills: begin another run for the rest of them
            runs.append(tmp_path / f"run{len(runs)}")
    for out in runs:
        finish(start(out, pair))
        for found, expected in zip(contents(out), whole, strict=True):
            pd.testing.assert_frame_equal(found, expected)
        assert load_sessions(out).ended.iloc[-1] == "finished"
    assert len({rows for rows in progress if 0 < rows < 36}) >= 5, f"kills landed in the middle of the work: {progress}"


def rows_of(out):
    try:
        return len(load_run(out))
    except (FileNotFoundError, ValueError):  # killed before the tables were made
        return 0
