"""What an experiment is: one small frozen table, read from Python, TOML or the command line alike.

    out = "runs/grid"
    attacks = ["direct", "prefill-20", { name = "custom", settings = { path = "mine.jsonl" } }]
    limit = 50
    judges = ["exact", "refusal"]
    defenders = ["none", { name = "ssd", grid = { alpha_intersection = [0.3, 0.6], alpha_union = [0.8, 1.5] } }]

    [pair]
    name = "toy"

Names are resolved when the table is read, the published system's spelling included, and settings are checked, so that a
mistake costs no model loading.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from ssd_lib.attacks import find_set
from ssd_lib.attacks.prefilling import check_prefill
from ssd_lib.defenders import find_defender, settings_for
from ssd_lib.experiments.choice import Choice, read_choices
from ssd_lib.judges import JUDGES, judge
from ssd_lib.models.loading import Quantization
from ssd_lib.models.pairs import Pair, PairSpec, choose_pair, find_pair
from ssd_lib.settings import Positive, settings

Dtype = Literal["float32", "bfloat16", "float16"]
ATTACK_SETTINGS = ("path", "seed", "target_model", "question", "target", "prefill", "from", "limit")
"""What a choice says of a set: arguments of `load_set`, in the place of the experiment's own, and who writes a prefill."""


@settings
class PairSettings:
    """Which pair, and how it is loaded; as in `load_pair`. No name: a pair of your own, or "toy" where nothing is given."""

    name: str | None = None
    target: str | None = None
    draft: str | None = None
    target_format: str | None = None
    draft_format: str | None = None
    device: str | None = None
    dtype: Dtype | None = None
    quantization: Quantization | None = None

    @property
    def spec(self) -> PairSpec:
        """The pair with its models, templates and settings. Raises ValueError as `choose_pair`."""
        names = ("name", "target", "draft", "target_format", "draft_format")
        return choose_pair(**{name: getattr(self, name) for name in names})

    @property
    def lacks_draft(self) -> bool:
        """Whether it is a registered pair without a draft: a run may begin without one and get it later."""
        return self.name is not None and find_pair(self.name).draft is None


@settings
class ExperimentConfig:
    """One experiment. Build it with `config_from` or `read_config`, which resolve names and check values."""

    pair: PairSettings
    attacks: tuple[Choice, ...]
    defenders: tuple[Choice, ...]
    out: Path
    limit: Positive | None = None
    """Items of each set; default: the whole of a real set, the set's own number for the embedded ones."""
    max_new_tokens: Positive = 160
    batch: Positive | None = None
    """Rows decoded together; default: what the device's memory holds. Fixed when a run starts."""
    seed: int = 0
    judges: tuple[Choice, ...] = ()

    def table(self) -> dict[str, Any]:
        """The config as plain values that JSON holds, as the store keeps it."""
        choices = {name: [choice.label for choice in getattr(self, name)] for name in CHOICES}
        return {name: value for name, value in asdict(self).items() if name != "out"} | choices


CHOICES = ("attacks", "defenders", "judges")
GROWING = ("attacks", "defenders", "judges", "limit")
"""What a later start of the same run may change; everything else decides what a row is."""


def differences(stored: Mapping[str, Any], config: ExperimentConfig) -> list[str]:
    """What a start, `continued`, would change about the rows of a stored run, one line each. A run that had no draft, nor
    needed one, may get one."""
    now, lines = config.table(), []
    for name in now.keys() - set(GROWING):
        pairs = {f"pair.{key}": (stored[name].get(key), now[name][key]) for key in now[name]} if name == "pair" else {}
        for what, (before, after) in (pairs or {name: (stored[name], now[name])}).items():
            first_draft = what == "pair.draft" and before is None and config.pair.lacks_draft
            if before != after and not first_draft:
                lines.append(f"{what} was {before!r}, now {after!r}")
    return sorted(lines)


def continued(stored: Mapping[str, Any], config: ExperimentConfig) -> ExperimentConfig:
    """The config with what it leaves open as it was stored: the batch size, and a draft where the pair ships none.

    So a run that needed no draft can be extended by a defender that does, and the other way round.
    """
    pair, batch = config.pair, config.batch or stored["batch"]
    if pair.lacks_draft and pair.draft is None:
        pair = replace(pair, draft=stored["pair"]["draft"])
    return replace(config, pair=pair, batch=batch)


# ------------------------------------------------------------------------------------------------ reading a table


def read_config(path: str | Path, **changes: Any) -> ExperimentConfig:
    """An experiment from a TOML file; `changes` replace its keys, those of `pair` one by one.

    Raises ValueError, naming the file, for TOML that cannot be parsed, an unknown key or name, or a value out of range.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    if "pair" in table and "pair" in changes:
        changes["pair"] = _as_table(table["pair"]) | _as_table(changes["pair"])
    return config_from(table | changes, where=str(path))


def config_from(table: Mapping[str, Any], where: str = "the experiment") -> ExperimentConfig:
    """An experiment from a table of plain values; see the top of this module for its keys.

    Raises ValueError, beginning with `where`, for an unknown key or name or a value out of range.
    """
    try:
        _known_keys(table, ExperimentConfig, "key")
        missing = [name for name in ("attacks", "defenders", "out") if not table.get(name)]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given")
        finders = {"attacks": _attack, "defenders": find_defender, "judges": find_judge}
        chosen = {name: read_choices(table.get(name) or (), find) for name, find in finders.items()}
        rest = {name: value for name, value in table.items() if name not in (*CHOICES, "pair", "out")}
        config = ExperimentConfig(
            pair=pair_settings(table.get("pair", "toy")), out=Path(table["out"]), **chosen, **rest
        )
        config = _check_settings(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return config


def _check_settings(config: ExperimentConfig) -> ExperimentConfig:
    """Raise ValueError for a setting that does not exist or is out of range; 2 becomes 2.0 where a number is meant, so that
    both are the same setting."""
    spec, defenders = config.pair.spec, []
    for defender in config.defenders:
        defender_settings(defender, config, spec)
        defaults = settings_for(spec, defender.name)
        whole = {key: value for key, value in defender.settings if type(value) is int}
        meant = {key: float(value) for key, value in whole.items() if isinstance(getattr(defaults, key), float)}
        defenders.append(replace(defender, settings=tuple((dict(defender.settings) | meant).items())))
    for attack in config.attacks:
        unknown = sorted({key for key, _ in attack.settings} - set(ATTACK_SETTINGS))
        if unknown:
            raise ValueError(
                f"the set {attack.name!r} has no setting {unknown[0]}: it has {', '.join(ATTACK_SETTINGS)}"
            )
        given = dict(attack.settings)
        check_prefill(attack.name, given.get("prefill"), given.get("from"))
        limit = given.get("limit", 1)
        if type(limit) is not int or limit < 1:
            raise ValueError(f"the set {attack.name!r} has limit={limit!r}: it counts items, and is at least 1")
    for each in config.judges:
        judge(each.name, [], [], **dict(each.settings))  # over nothing: checks the options
    return replace(config, defenders=tuple(dict.fromkeys(defenders)))


def defender_settings(defender: Choice, config: ExperimentConfig, pair: Pair | PairSpec) -> Any:
    """All settings of a defender in this experiment: its defaults for the pair, its seed the experiment's, its own on top.

    Raises ValueError for a setting that it does not have or a value out of range.
    """
    defaults = settings_for(pair, defender.name)
    seed = {"seed": config.seed} if hasattr(defaults, "seed") else {}
    return settings_for(pair, defender.name, seed | dict(defender.settings))


def find_judge(name: str) -> str:
    """Our name of a judge, in any case. Raises ValueError that lists the names."""
    names = {known.lower(): known for known in JUDGES}
    if name.lower() not in names:
        raise ValueError(f"unknown judge {name!r}: choose one of {', '.join(JUDGES)}")
    return names[name.lower()]


def _attack(name: str) -> str:
    return find_set(name).name


def pair_settings(entry: Any) -> PairSettings:
    table = _as_table(entry)
    _known_keys(table, PairSettings, "key of pair")
    chosen = PairSettings(**table)
    spec, own = chosen.spec, chosen.name is None and chosen.target is not None
    return chosen if own else replace(chosen, name=spec.name)


def _as_table(entry: Any) -> dict[str, Any]:
    if isinstance(entry, PairSettings):
        return asdict(entry)
    return {"name": entry} if isinstance(entry, str) else dict(entry)


def _known_keys(table: Mapping[str, Any], kind: type, what: str) -> None:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}: the keys are {', '.join(known)}")
