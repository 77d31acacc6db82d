"""Experiments: pair × attack sets × defenders, every answer stored, resumable, judged and queried.

    from ssd_lib.experiments import config_from, run_experiment, load_run
    config = config_from({"attacks": ["direct", "prefill-20"], "defenders": ["none", "ssd"], "limit": 20, "out": "runs/x"})
    frame = load_run(run_experiment(config))

`config` is what an experiment is, made of `choice`s; `run` does it (`starting`, then `answering` batch by batch) into a
`store`; `frames` reads that back and `judging` judges it; `presets` names experiments, `plan` tells what one would do, and
`about` is what a run records of itself.
"""

from ssd_lib.experiments.choice import Choice
from ssd_lib.experiments.config import ExperimentConfig, PairSettings, config_from, read_config
from ssd_lib.experiments.frames import load_run, load_sessions, load_verdicts
from ssd_lib.experiments.judging import judge_run
from ssd_lib.experiments.plan import Plan, plan
from ssd_lib.experiments.presets import PRESETS, experiment, published_commands, published_matrix
from ssd_lib.experiments.run import run_experiment

__all__ = [
    "PRESETS",
    "Choice",
    "ExperimentConfig",
    "PairSettings",
    "Plan",
    "config_from",
    "experiment",
    "judge_run",
    "load_run",
    "load_sessions",
    "load_verdicts",
    "plan",
    "published_commands",
    "published_matrix",
    "read_config",
    "run_experiment",
]
