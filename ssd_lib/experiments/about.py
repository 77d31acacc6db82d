"""What a run records about itself: enough to do it again, and nothing of the user's environment.

Settings, versions, commit, device and seed are kept; environment variables and keys are not.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from transformers import PreTrainedModel

from ssd_lib.experiments.config import ExperimentConfig
from ssd_lib.models.inference import generation_settings
from ssd_lib.models.pairs import Pair
from ssd_lib.paths import REPOSITORY

PACKAGES = ("ssd_lib", "torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "pandas", "scipy")
SAMPLE = 8
"""Numbers of every weight that go into a fingerprint."""


def about_session(config: ExperimentConfig, pair: Pair) -> dict[str, Any]:
    """Settings, those of both models' generation configs, library versions, git commit (None outside of a clone) and whether the tree had changes, device, seed."""
    models = {"target": pair.target} | ({} if pair.draft is pair.target else {"draft": pair.draft})
    return {
        "config": config.table(),
        "pair": {"target": pair.spec.target, "draft": pair.spec.draft, "ssd": asdict(pair.config)},
        "generation": {role: asdict(generation_settings(model)) for role, model in models.items()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "device": _device(pair.target),
        "dtype": str(pair.target.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": config.seed,
    }


def fingerprint(model: PreTrainedModel) -> str:
    """A hash of every weight's name, shape and first numbers: tells one training from another, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if not weight.is_meta:  # offloaded
            digest.update(str(weight.reshape(-1)[:SAMPLE].tolist()).encode())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(REPOSITORY), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _device(model: PreTrainedModel) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{platform.processor() or platform.machine()} ({platform.system()})"
