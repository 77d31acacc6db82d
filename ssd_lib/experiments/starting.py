"""Before the first answer: which run this continues, which models it loads, how many rows fit into memory.

Also, what the run records about itself: enough to repeat it, and nothing of the user's environment. Settings, versions, commit,
device and seed are kept; environment variables and keys are not.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from ssd_lib.attacks import AttackSet, find_set, load_set
from ssd_lib.attacks.custom import custom, taken_columns
from ssd_lib.attacks.prefilling import check_targets
from ssd_lib.defenders import DEFENDERS
from ssd_lib.defenders.secdecoding import base_name
from ssd_lib.experiments.config import CHOICES, ExperimentConfig, defender_settings
from ssd_lib.experiments.store import Store
from ssd_lib.models.inference import generation_settings
from ssd_lib.models.loading import adapter_at, load_model, locate
from ssd_lib.models.pairs import Pair, check_template, load_pair
from ssd_lib.paths import REPOSITORY

GROWING = (*CHOICES, "limit")
"""What a later start of the same run may change; everything else decides what a row is."""
PACKAGES = ("ssd_lib", "torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "pandas", "scipy")
SAMPLE = 8
"""How many numbers of every weight go into a fingerprint."""


@dataclass(frozen=True)
class Memory:
    """How a default batch size is found: rows that fit into a share of the free memory, up to a cap for each device."""

    share: float = 0.5
    prompt_tokens: int = 512
    """Assumed length of a prompt; real ones that need more are caught by halving."""
    working_set: float = 2.0
    """Bytes needed for each byte of key-value cache: activations and copies."""
    cap_cpu: int = 25
    cap_gpu: int = 64


def agreed(store: Store, config: ExperimentConfig) -> ExperimentConfig:
    """The config under which a stored run goes on: where it leaves the batch size open, or the draft of a pair that ships none,
    the stored ones are taken. So a run that needed no draft can be extended by a defender that needs one, and the other way
    round.

    Raises:
        ValueError: For a run that differs in what decides its rows, naming the difference.
    """
    stored = store.get("config")
    if stored is None:
        return config
    if config.pair.lacks_draft and config.pair.draft is None:
        config = replace(config, pair=replace(config.pair, draft=stored["pair"]["draft"]))
    config = replace(config, batch=config.batch or stored["batch"])
    before, now = _flat(stored), _flat(config.table())
    if config.pair.lacks_draft and before.get("pair.draft") is None:  # a run that had none, nor needed one, may get one
        del now["pair.draft"]
    lines = [
        f"{name} was {before.get(name)!r}, now {now[name]!r}" for name in sorted(now) if before.get(name) != now[name]
    ]
    if lines:
        raise ValueError(f"{config.out} holds a run with other settings: {'; '.join(lines)}. Choose another out")
    return config


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a row, by name: seed, pair.draft, …"""
    pair = {f"pair.{key}": value for key, value in table["pair"].items()}
    return {name: value for name, value in table.items() if name not in (*GROWING, "pair")} | pair


def load(config: ExperimentConfig) -> Pair:
    """The pair of an experiment, loaded; the target alone where no defender needs the draft and there is none."""
    settings, spec = config.pair, config.pair.spec
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    options: dict[str, Any] = asdict(settings) | {"dtype": dtype}
    if spec.draft or needs_draft(config):
        return load_pair(**options)
    loading = {key: options[key] for key in ("device", "dtype", "quantization")}
    model, tokenizer = load_model(spec.target, **loading)
    check_template(tokenizer, spec, "target")
    return Pair(model, model, tokenizer, tokenizer, spec)


def check_expert(config: ExperimentConfig) -> None:
    """Raise ValueError or OSError, with what to do, where SafeDecoding has no expert, or SecDecoding no base, for the pair."""
    spec = config.pair.spec
    for defender in config.defenders:
        needs, settings = DEFENDERS[defender.name].needs, defender_settings(defender, config)
        if needs == "expert":
            adapter_at(settings.expert or spec.expert)
        elif needs == "base":
            locate(base_name(spec, settings))


def look_into(
    known: AttackSet, path: Any, given: Mapping[str, Any], config: ExperimentConfig
) -> tuple[int, dict[str, str]]:
    """How many items a set has that is here, and of a file of one's own which columns are taken. Raises as `load_set`."""
    mapped = {key: given[key] for key in ("question", "target") if key in given}
    records = load_set(known.name, path=path, target_model=config.pair.spec.name, seed=config.seed, **mapped)
    if isinstance(given.get("prefill"), int) and given.get("from") != "target":
        check_targets(records, given["prefill"], known.name)
    return len(records), taken_columns(known, Path(path), mapped) if known.load is custom and path else {}


def check_files(config: ExperimentConfig) -> None:
    """Raise ValueError or OSError, before a model is loaded, where a file of one's own cannot be read."""
    for attack in config.attacks:
        known, given = find_set(attack.name), attack.given
        path = given.get("path", known.path)
        if path is not None and known.load is custom:
            look_into(known, path, given, config)


def needs_draft(config: ExperimentConfig) -> bool:
    """Whether a defender of the experiment decodes with the draft."""
    return any(DEFENDERS[defender.name].needs in ("draft", "base") for defender in config.defenders)


@dataclass(frozen=True)
class Loaded:
    """What a run needs to know of its pair, in whichever process that is loaded."""

    models: dict[str, str]
    """The fingerprints of target and draft."""
    batch: int
    tokenizer: Any


def loaded_as(pair: Pair, config: ExperimentConfig, memory: Memory = Memory()) -> Loaded:  # noqa: B008 (frozen)
    """A loaded pair's fingerprints, the experiment's batch size or what fits into memory, and the target's tokenizer."""
    models = {"target": fingerprint(pair.target)}
    models |= {} if pair.draft is pair.target else {"draft": fingerprint(pair.draft)}
    return Loaded(models, config.batch or default_batch(pair, config.max_new_tokens, memory), pair.tokenizer)


def settled(store: Store, config: ExperimentConfig, loaded: Loaded) -> ExperimentConfig:
    """Fix the batch size and what the models are at the first start; at a later one, other weights are an error."""
    stored, models = store.get("models") or {}, loaded.models
    changed = [name for name in models if stored.get(name, models[name]) != models[name]]
    if changed:
        raise ValueError(
            f"the weights of the {' and the '.join(changed)} are not those that the run in {config.out} began with: "
            "choose another out"
        )
    config = replace(config, batch=loaded.batch)
    store.set("models", stored | models)
    store.set("config", config.table())
    return config


def default_batch(pair: Pair, max_new_tokens: int, memory: Memory = Memory()) -> int:  # noqa: B008 (frozen)
    """Rows whose key-value caches fit into the free memory of the target's device; at least 1."""
    on_gpu = pair.target.device.type == "cuda"
    free = torch.cuda.mem_get_info(pair.target.device)[0] if on_gpu else psutil.virtual_memory().available
    row = sum(map(cache_bytes_per_token, (pair.target, pair.draft))) * (memory.prompt_tokens + max_new_tokens)
    fits = int(memory.share * free / (memory.working_set * row))
    return max(1, min(fits, memory.cap_gpu if on_gpu else memory.cap_cpu))


def cache_bytes_per_token(model: Any) -> int:
    """Bytes of keys and values for one token: 2 · layers · key-value heads · head size · bytes a number."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


# ------------------------------------------------------------------------------------------------ what a run records of itself


def about_session(config: ExperimentConfig, pair: Pair) -> dict[str, Any]:
    """Settings, those of both models' generation configs, library versions, git commit (None outside of a clone), whether the tree
    had changes, device and seed."""
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
    """A hash of every weight's name, shape and first numbers, which differs between trainings, wherever they are loaded from."""
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
