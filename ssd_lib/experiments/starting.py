"""Before the first answer: which run this continues, which models it loads, how many rows fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from ssd_lib.attacks import AttackSet, find_set, load_set
from ssd_lib.attacks.custom import custom, taken_columns
from ssd_lib.attacks.prefilling import check_targets
from ssd_lib.defenders import DEFENDERS
from ssd_lib.defenders.secdecoding import base_name
from ssd_lib.experiments.about import fingerprint
from ssd_lib.experiments.config import ExperimentConfig, continued, defender_settings, differences
from ssd_lib.experiments.store import Store
from ssd_lib.models.loading import adapter_at, load_model, locate
from ssd_lib.models.pairs import Pair, check_template, load_pair


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
    """The config as a stored run continues under it; a run that differs in what decides its rows is an error."""
    stored = store.get("config")
    if stored is None:
        return config
    config = continued(stored, config)
    lines = differences(stored, config)
    if lines:
        raise ValueError(f"{config.out} holds a run with other settings: {'; '.join(lines)}. Choose another out")
    return config


def load(config: ExperimentConfig) -> Pair:
    """The pair of an experiment, loaded; the target alone where no defender needs the draft and none is to be had."""
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
        needs = DEFENDERS[defender.name].needs
        if needs == "expert":
            adapter_at(defender_settings(defender, config, spec).expert or spec.expert)
        elif needs == "base":
            locate(base_name(spec, defender_settings(defender, config, spec)))


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
        known, given = find_set(attack.name), dict(attack.settings)
        path = given.get("path", known.path)
        if path is not None and known.load is custom:
            look_into(known, path, given, config)


def needs_draft(config: ExperimentConfig) -> bool:
    """Whether a defender of the experiment decodes with the draft."""
    return any(DEFENDERS[defender.name].needs in ("draft", "base") for defender in config.defenders)


def settled(store: Store, config: ExperimentConfig, pair: Pair) -> ExperimentConfig:
    """Fix the batch size and what the models are at the first start; at a later one, other weights are an error."""
    models = {"target": fingerprint(pair.target)}
    models |= {} if pair.draft is pair.target else {"draft": fingerprint(pair.draft)}
    stored = store.get("models") or {}
    changed = [name for name in models if stored.get(name, models[name]) != models[name]]
    if changed:
        raise ValueError(
            f"the weights of the {' and the '.join(changed)} are not those that the run in {config.out} began with: "
            "choose another out"
        )
    config = replace(config, batch=config.batch or default_batch(pair, config.max_new_tokens))
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
