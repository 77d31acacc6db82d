"""Experiments: pair × attack sets × defenders, every answer stored, resumable, judged and queried.

    from ssd_lib.experiments import config_from, run_experiment, load_run
    config = config_from({"attacks": ["direct", "prefill-20"], "defenders": ["none", "ssd"], "limit": 20, "out": "runs/x"})
    frame = load_run(run_experiment(config))

`config` says what an experiment is, `presets` names some, `plan` finds out what one would do. `run` does it: `starting`, then
`answering` batch by batch into the `store`, whose answers `judging` judges; `shards` cuts it into parts for many machines,
`merging` joins them. `summary` makes numbers of them with `stats`,
`report` tables and files, `pages` the tables of Markdown pages; `card` is the embedded pair's model card. The life of one
answer, drawn: docs/architecture.md.
"""

from ssd_lib.experiments.config import Choice, ExperimentConfig, PairSettings, config_from, read_config
from ssd_lib.experiments.judging import judge_run
from ssd_lib.experiments.merging import Merged, merge_runs
from ssd_lib.experiments.plan import Plan, plan
from ssd_lib.experiments.presets import PRESETS, experiment, published_commands, published_matrix
from ssd_lib.experiments.run import run_experiment
from ssd_lib.experiments.shards import Shard
from ssd_lib.experiments.store import load_run, load_sessions, load_verdicts

__all__ = [
    "PRESETS",
    "Choice",
    "ExperimentConfig",
    "Merged",
    "PairSettings",
    "Plan",
    "Shard",
    "config_from",
    "experiment",
    "judge_run",
    "load_run",
    "load_sessions",
    "load_verdicts",
    "merge_runs",
    "plan",
    "published_commands",
    "published_matrix",
    "read_config",
    "run_experiment",
]
