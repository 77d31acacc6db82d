"""Experiments by name, and one line for everything that the published system says was tested.

    ssd run --preset paper-prefill --pair llama2 --draft ./runs/deep-tinyllama --data ./datasets

The published README (github.com/k-k1w-w1x-x/Speculative-Safety-Aware-Decoding) runs one (model, attacker, defender) a
command; a preset runs a whole comparison, with no defence beside it, because a rate or a time means little alone. Answers
are greedy, at most 1024 tokens long, seed 0, as published (`exp/defense.py`). α_I and α_U come with the pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_lib.attacks import SETS, find_set
from ssd_lib.defenders import DEFENDERS
from ssd_lib.experiments.choice import Choice
from ssd_lib.experiments.config import ExperimentConfig, config_from, pair_settings, read_config
from ssd_lib.experiments.evaluation import markdown
from ssd_lib.models.pairs import find_pair
from ssd_lib.paths import data_dir

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

DRAFT, EXPERT, DATA = "./runs/deep-tinyllama", "./runs/expert/expert/adapter", "./datasets"
"""Where the lines below look for the deeply aligned TinyLlama and SafeDecoding's adapter, which you train, and for sets that
are files (the folder `datasets` of the published repository): put your own paths there."""


@dataclass(frozen=True)
class Preset:
    """An experiment by name; what it leaves open (pair, out) is given when it is run, and anything can be changed."""

    about: str
    attacks: tuple[str, ...]
    defenders: tuple[str, ...]
    judges: tuple[str, ...]
    max_new_tokens: int = PUBLISHED_MAX_NEW_TOKENS
    limit: int | None = None
    pair: str | None = None

    def table(self) -> dict[str, Any]:
        """The preset as a table for `config_from`."""
        names = ("attacks", "defenders", "judges", "max_new_tokens", "limit", "pair")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


KNOWING = (
    "suffix-joint",
    "suffix-match",
    "agreeing",
    "rap",
    "quiet-7",
    "pieces-1",
    "pieces-3",
    "pieces-7",
    "turns-7",
    "slow",
)
"""Attacks by somebody who knows SSD. Most ask many times for one answer, so they have a preset of their own."""

SWEPT = (
    "prefill-10:limit=24",
    "quiet-7:limit=24",
    "suffix-joint",
    "pieces-3:limit=12",
    "benign:limit=48",
    "scary:limit=24",
)
"""Small cells that between them show what each part of hardened switching is for."""


def _embedded() -> tuple[str, ...]:
    return tuple(name for name, known in SETS.items() if known.kind == "embedded" and name not in KNOWING)


PRESETS: dict[str, Preset] = {
    "paper-prefill": Preset(
        "published commands 1 to 3: HEx-PHI with 20 answer tokens prefilled",
        ("Harmful-HEx-PHI_with_prefix20tokens_llama2",),
        ("none", "ssd"),
        ("refusal",),
    ),
    "paper-gsm8k": Preset("published commands 4 to 6: GSM8K", ("gsm8k",), ("none", "ssd"), ("gsm8k", "refusal")),
    "paper-prefills": Preset(
        "attack success against the number of prefilled tokens",
        tuple(f"Harmful-HEx-PHI_with_prefix{n}tokens_llama2" for n in PUBLISHED_PREFILLS),
        ("none", "ssd"),
        ("refusal",),
    ),
    "paper-attacks": Preset(
        "every published attacker against every published defender",
        (
            "GCG",
            "AutoDAN",
            "PAIR",
            "DeepInception",
            "Harmful-HEx-PHI_with_prefix20tokens_llama2",
            "advbench-50",
            "HEx-PHI",
        ),
        tuple(reversed(PUBLISHED_DEFENDERS)),
        ("refusal",),
    ),
    "paper-utility": Preset(
        "Just-Eval's first 200, GSM8K and XSTest with every published defender (Just-Eval's judge: `ssd judge`)",
        ("Just-Eval", "gsm8k", "XSTest"),
        tuple(reversed(PUBLISHED_DEFENDERS)),
        ("gsm8k", "refusal"),
    ),
    "embedded": Preset(
        "every defender against every attack and benign set of the embedded world, 50 items each",
        _embedded(),
        tuple(DEFENDERS),
        ("exact", "refusal"),
        max_new_tokens=160,
        limit=50,
    ),
    "knowing": Preset(
        "attackers who know SSD: agreeing prefills, joint suffixes, rankings, quiet bins, small calls, a failing draft",
        ("prefill-10", *KNOWING, "benign"),
        ("none", "ssd", "ssd-hardened", "draft-only", "ada", "secdecoding"),
        ("exact", "refusal"),
        max_new_tokens=100,
        limit=24,
    ),
    "hardened": Preset(
        "published and hardened SSD under prefills, suffixes and attackers who know the scheduler, and on what must be answered",
        (
            *(f"prefill-{tokens}" for tokens in PUBLISHED_PREFILLS[1:]),
            "suffix",
            "suffix-joint",
            "quiet-7",
            "pieces-7",
            "pieces-3:limit=24",
            "pieces-1:limit=12",
            "turns-7:limit=24",
            "turns-3:limit=12",
            "benign:limit=200",
            "scary",
            "arithmetic",
        ),
        ("none", "ssd", "ssd-hardened", "draft-only"),
        ("exact",),
        max_new_tokens=160,
    ),
    "hardened-sweep": Preset(
        "each addition of hardened SSD left out, its floors, bins and tails, beside published SSD of the same bins and other defences",
        SWEPT,
        (
            "none",
            "ssd",
            "ssd-hardened",
            *(f"ssd-hardened:{part}=false" for part in ("retract", "count_prefill")),
            *(f"ssd-hardened:threshold_floor={floor}" for floor in (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
            "ssd-hardened:count_prefill=false:threshold_floor=0",
            "ssd-hardened:count_prefill=false:tail_tokens=7",
            *(f"ssd-hardened:threshold={threshold}" for threshold in (0.3, 0.4, 0.5)),
            *(f"ssd-hardened:alpha_union={weight}" for weight in (0.8, 2)),
            *(f"ssd-hardened:tail_tokens={tokens}" for tokens in (3, 7)),
            *(f"{name}:bin_size={tokens}" for tokens in (3, 5, 10, 14) for name in ("ssd", "ssd-hardened")),
            "ssd:fixed_scheme=union",
            "safedecoding",
            "none:model=toy/target-deep",
        ),
        ("exact",),
        max_new_tokens=100,
    ),
    "hardened-agreement": Preset(
        "published and hardened SSD with a draft that agrees less (--draft): additions, floors, thresholds and bins",
        ("prefill-5:limit=24", "prefill-10:limit=24", "benign:limit=48", "scary:limit=24"),
        (
            "draft-only",
            "ssd",
            "ssd-hardened",
            "ssd-hardened:retract=false",
            *(f"ssd-hardened:threshold_floor={floor}" for floor in (0, 0.2, 0.5)),
            "ssd-hardened:threshold=0.4",
            "ssd-hardened:alpha_union=0.8",
            *(f"ssd-hardened:bin_size={tokens}" for tokens in (5, 14)),
            "ssd:fixed_scheme=union",
        ),
        ("exact",),
        max_new_tokens=100,
    ),
    "smollm2": Preset(
        "a real language model: recipes asked for, directly and under prefills, and what must be answered",
        (
            "kitchen-direct",
            *(f"kitchen-prefill-{n}" for n in PUBLISHED_PREFILLS[1:]),
            "kitchen-borderline",
            "kitchen-everyday",
        ),
        ("none", "draft-only", "ssd", "ssd-hardened", "safedecoding", "self-exam", "self-reminder", "icd"),
        ("exact",),
        max_new_tokens=60,
        limit=40,
        pair="smollm2",
    ),
}


def experiment(
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    ssd: Mapping[str, Any] | None = None,
    expert: str | None = None,
    data: str | Path | None = None,
    **given: Any,
) -> ExperimentConfig:
    """An experiment from a preset or a TOML file, or from nothing, with what is `given` on top.

    given: keys of `ExperimentConfig`; those that are None are left as they are, and of `pair` those keys only.
    ssd: settings (α_I, …) for every SSD that names none of its own. expert: SafeDecoding's adapter, likewise. data: a
    folder for every set that is a file, or was searched for, and names no path.

    Raises ValueError for an unknown preset, for both a preset and a file, and as `config_from` does.
    """
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
    if data is not None:
        chosen = replace(chosen, attacks=tuple(_from_folder(attack, str(data)) for attack in chosen.attacks))
    chosen = _with_settings(chosen, "ssd", ssd or {})
    return _with_settings(chosen, "safedecoding", {"expert": expert} if expert else {})


def _default_out(table: Mapping[str, Any], preset: str | None) -> str:
    name = pair_settings(table.get("pair", "toy")).spec.name
    return f"runs/{preset}-{name}" if preset else f"runs/{name}"


def _from_folder(attack: Choice, folder: str) -> Choice:
    known = find_set(attack.name)
    lone = known.kind != "hub" and known.file_pattern and "path" not in dict(attack.settings)
    return replace(attack, settings=(*attack.settings, ("path", folder))) if lone else attack


def _with_settings(config: ExperimentConfig, defender: str, settings: Mapping[str, Any]) -> ExperimentConfig:
    """Give settings to a defender wherever it stands without any."""
    if not settings:
        return config
    given = Choice(defender, tuple(settings.items()))
    defenders = tuple(given if each == Choice(defender) else each for each in config.defenders)
    return config_from(vars(config) | {"defenders": defenders})


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

    Columns model, attacker, defender (published spellings), command. `DRAFT`, `EXPERT` and `DATA` stand where a path of
    yours is needed. The published `AdvBench` is the 50-row subset.
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
    (data_dir() / "published_commands.md").write_text(published_page(), encoding="utf-8")
