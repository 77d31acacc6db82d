"""Experiments by name, and a command for everything that the published system says was tested.

    ssd run --preset paper-prefill --pair llama2 --draft ./runs/tinyllama/deep --data ./datasets

The published README (github.com/k-k1w-w1x-x/Speculative-Safety-Aware-Decoding) runs one (model, attacker, defender) a
command; a preset runs a whole comparison, no defence included, because a rate or a time means little alone. Answers
are greedy, at most 1024 tokens long, seed 0, as published (`exp/defense.py`). α_I and α_U come with the pair.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from ssd_lib.attacks import find_set
from ssd_lib.defenders import DEFENDERS
from ssd_lib.experiments.config import Choice, ExperimentConfig, checked, config_from, pair_settings, read_config
from ssd_lib.experiments.report import markdown
from ssd_lib.models.pairs import find_pair
from ssd_lib.paths import data_dir, write_whole
from ssd_lib.settings import of_kind

PUBLISHED_MAX_NEW_TOKENS = 1024
PUBLISHED_PREFILLS = (0, 5, 10, 20, 40)
PUBLISHED_MODELS = ("llama2-13b-chat", "llama2", "vicuna", "llama3.1_8b")
PUBLISHED_ATTACKERS = (
    "GCG",
    "AutoDAN",
    "PAIR",
    "DeepInception",
    *(f"Harmful-HEx-PHI_with_prefix{n}tokens_llama2" for n in PUBLISHED_PREFILLS),
    "AdvBench",
    "HEx-PHI",
    "XSTest",
    "Just-Eval",
    "gsm8k",
    "custom",
)
PUBLISHED_DEFENDERS = (
    "SpeculativeSafeDecoding",
    "SafeDecoding",
    "Self-Exam",
    "ICD",
    "Paraphrase",
    "PPL",
    "Retokenization",
    "Self-Reminder",
    "defense_off",
)
"""As the published README and `exp/defense.py` spell them; the README's `Paraphase` is accepted too."""

DRAFT, EXPERT, DATA = "./runs/tinyllama/deep", "./runs/expert/expert/adapter", "./datasets"
"""Where the lines below look for the deeply aligned TinyLlama and SafeDecoding's adapter, which you train, and for sets that
are files (the folder `datasets` of the published repository): put your own paths there."""


@dataclass(frozen=True)
class Preset:
    """An experiment by name: keys of `ExperimentConfig`."""

    about: str
    attacks: Sequence[str]
    defenders: Sequence[str]
    judges: Sequence[str]
    max_new_tokens: int = PUBLISHED_MAX_NEW_TOKENS
    limit: int | None = None
    pair: str | None = None

    def table(self) -> dict[str, Any]:
        """The preset as a table for `config_from`."""
        return {name: value for name, value in vars(self).items() if name != "about" and value is not None}


def _read() -> dict[str, Preset]:
    """The presets of presets.toml; one without defenders is for every defender there is."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: Preset(**{"defenders": tuple(DEFENDERS)} | table) for name, table in tables.items()}


PRESETS: dict[str, Preset] = _read()


def experiment(
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    ssd: Mapping[str, Any] | None = None,
    expert: str | None = None,
    data: str | Path | None = None,
    **given: Any,
) -> ExperimentConfig:
    """An experiment from a preset, from a TOML file, or from nothing but what is given.

    Args:
        preset: A name of `PRESETS`.
        config: A TOML file, in place of a preset.
        ssd: Settings (α_I, …) for every SSD that names none of its own.
        expert: SafeDecoding's adapter, where SafeDecoding names none of its own.
        data: A folder for every set that is a file, or was searched for, and names no path.
        given: Keys of `ExperimentConfig` in place of those of the preset or file, of `pair` key by key; None leaves a key as it
            is.

    Raises:
        ValueError: For an unknown preset, for both a preset and a file, and as `config_from`.
    """
    of_kind("preset", preset, str, NoneType)
    of_kind("ssd", ssd, Mapping, NoneType)
    of_kind("expert", expert, str, NoneType)
    of_kind("data", data, str, Path, NoneType)
    if preset is not None and config is not None:
        raise ValueError("give a preset or a config file, not both")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    given = {name: value for name, value in given.items() if value is not None}
    if config is not None:
        chosen = read_config(config, **given)
    else:
        table = (PRESETS[preset].table() if preset else {}) | given
        chosen = config_from({"out": _default_out(table, preset)} | table)
    plain = {
        Choice("ssd"): Choice("ssd", tuple((ssd or {}).items())),
        Choice("safedecoding"): Choice("safedecoding", (("expert", expert),) if expert else ()),
    }
    attacks = chosen.attacks if data is None else tuple(_from_folder(attack, str(data)) for attack in chosen.attacks)
    defenders = tuple(plain.get(defender, defender) for defender in chosen.defenders)
    return checked(replace(chosen, attacks=attacks, defenders=defenders))


def _default_out(table: Mapping[str, Any], preset: str | None) -> str:
    name = pair_settings(table.get("pair", "toy")).spec.name
    return f"runs/{preset}-{name}" if preset else f"runs/{name}"


def _from_folder(attack: Choice, folder: str) -> Choice:
    known = find_set(attack.name)
    lone = known.kind != "hub" and known.file_pattern and "path" not in attack.given
    return replace(attack, settings=(*attack.settings, ("path", folder))) if lone else attack


# ------------------------------------------------------------------------------------------------ the published system, line by line


def published_commands() -> pd.DataFrame:
    """The six commands of the published README and ours: columns model, attacker, command."""
    rows = [
        {
            "model": model,
            "attacker": PRESETS[preset].attacks[0],
            "command": f"ssd run --preset {preset} --pair {model}{_draft(model)}{_data(PRESETS[preset].attacks[0])}",
        }
        for preset in ("paper-prefill", "paper-gsm8k")
        for model in ("llama2-13b-chat", "llama2", "vicuna")
    ]
    return pd.DataFrame(rows)


def published_matrix() -> pd.DataFrame:
    """Every model × attacker × defender that the published system says was tested, and the line that runs it here.

    The published `AdvBench` is the 50-row subset.

    Returns:
        Columns model, attacker, defender (published spellings) and command, in which `DRAFT`, `EXPERT` and `DATA` stand where a
        path of yours is needed.
    """
    rows = [
        {
            "model": model,
            "attacker": attacker,
            "defender": defender,
            "command": f"ssd run --pair {model} --attacks {_attack(attacker)}{_data(attacker)}{_defence(defender, model)} "
            f"--judges {_judges(attacker)} --max-new-tokens {PUBLISHED_MAX_NEW_TOKENS} --out runs/{model}",
        }
        for model in PUBLISHED_MODELS
        for attacker in PUBLISHED_ATTACKERS
        for defender in PUBLISHED_DEFENDERS
    ]
    return pd.DataFrame(rows)


def _attack(attacker: str) -> str:
    return {"AdvBench": "advbench-50", "custom": f"custom:path={DATA}/custom_prompts.json"}.get(attacker, attacker)


def _data(attacker: str) -> str:
    known = find_set(_attack(attacker).split(":")[0])
    return f" --data {DATA}" if known.kind == "file" and known.file_pattern else ""


def _judges(attacker: str) -> str:
    return "gsm8k" if attacker == "gsm8k" else "refusal"


def _defence(defender: str, model: str) -> str:
    if defender == "defense_off":
        return " --defense_off"
    settings = f":expert={EXPERT}" if defender == "SafeDecoding" else ""
    return f" --defenders {defender}{settings}" + (_draft(model) if defender == "SpeculativeSafeDecoding" else "")


def _draft(model: str) -> str:
    return "" if find_pair(model).draft else f" --draft {DRAFT}"


def published_page() -> str:
    """`published_matrix` as the page data/published_commands.md."""
    table = published_matrix().assign(command=lambda frame: "`" + frame.command + "`")
    return (
        "# Every line of the published system, here\n\n"
        "Written by `make results`. A line runs one (model, attacker, defender); the presets in the "
        f"README run many at once. Put your own paths in the place of `{DRAFT}`, `{EXPERT}` and `{DATA}`; add `--dry-run` to "
        "see what would run.\n\n" + markdown(table) + "\n"
    )


def write_published_page() -> None:
    """Write `published_page` to data/published_commands.md."""
    write_whole(data_dir() / "published_commands.md", published_page())
