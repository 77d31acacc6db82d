"""What an experiment is: one small frozen table, read from Python, TOML or the command line alike.

    out = "runs/grid"
    attacks = ["direct", "prefill-20", { name = "custom", settings = { path = "mine.jsonl" } }]
    limit = 50
    judges = ["exact", "refusal"]
    defenders = ["none", { name = "ssd", grid = { alpha_intersection = [0.3, 0.6], alpha_union = [0.8, 1.5] } }]

    [pair]
    name = "toy"

A set, a defender or a judge is a `Choice`: a name with settings, as one word (`ssd:alpha_union=0.8:lookahead=5`), as a
table, or as a table with a grid, which stands for one choice for every combination. Names are resolved when the table is
read, the published system's spelling included, and settings are checked, so that a mistake costs no model loading.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

from ssd_lib.attacks import find_set
from ssd_lib.attacks.prefilling import check_prefill
from ssd_lib.attacks.registry import check_wording
from ssd_lib.defenders import find_defender, settings_for
from ssd_lib.judges import JUDGES, judge
from ssd_lib.models.loading import Quantization
from ssd_lib.models.pairs import Pair, PairSpec, choose_pair, find_pair
from ssd_lib.settings import Positive, of_kind, settings

Value = str | int | float | bool | tuple | None
SETTING = r':(?=\w+=)(?=(?:[^"]*"[^"]*")*[^"]*$)'
"""Where a setting begins: a colon before a name, with no open quote before it."""


@dataclass(frozen=True)
class Choice:
    """A name with the settings that differ from its defaults."""

    name: str
    settings: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        of_kind("a choice's name", self.name, str)
        pairs = isinstance(self.settings, list | tuple) and all(
            isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[0], str) for each in self.settings
        )
        if not pairs:
            raise TypeError(f"a choice's settings are pairs of a name and a value, not {self.settings!r:.80}")
        frozen = {key: _frozen(value) for key, value in self.settings}
        object.__setattr__(self, "settings", tuple(sorted(frozen.items())))

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read `name:key=value:key=value`; a value is JSON where it can be, else text. In double quotes, `:key=` is text."""
        name, *given = re.split(SETTING, text.strip())
        return cls(name, tuple((key, _value(raw)) for key, raw in (part.split("=", 1) for part in given)))

    @property
    def given(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.settings)

    @property
    def key(self) -> str:
        """The settings as canonical JSON, by which the store distinguishes two settings of one defender."""
        return json.dumps(self.given, sort_keys=True)

    @property
    def label(self) -> str:
        """The choice as one word; `parse` reads it back."""
        return ":".join([self.name, *(f"{key}={_written(value)}" for key, value in self.settings)])


def _frozen(value: Any) -> Value:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return str(value) if isinstance(value, Path) else value


def _value(raw: str) -> Value:
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        return raw
    return raw if isinstance(value, dict) else value


def _written(value: Value) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    read_back = _value(value) == value and '"' not in value and not re.search(SETTING, value)
    return value if read_back else json.dumps(value, ensure_ascii=False)


def read_choices(entries: Iterable[Any], find: Callable[[str], str]) -> tuple[Choice, ...]:
    """The choices of entries (words, or tables with name, settings and grid), names resolved by `find`, none twice."""
    of_kind("a list of choices", entries, Iterable)
    chosen = [choice for entry in ([entries] if isinstance(entries, str) else entries) for choice in _expand(entry)]
    return tuple(dict.fromkeys(replace(choice, name=find(choice.name)) for choice in chosen))


def _expand(entry: Any) -> list[Choice]:
    if isinstance(entry, Choice):
        return [entry]
    if isinstance(entry, str):
        return [Choice.parse(entry)]
    of_kind("an entry", entry, Mapping)
    if not {"name"} <= set(entry) <= {"name", "settings", "grid"}:
        raise ValueError(f"an entry has a name, and may have settings and a grid: {dict(entry)!r}")
    grid = entry.get("grid", {})
    if not all(isinstance(values, list | tuple) for values in grid.values()):
        raise ValueError(f"a grid gives a list for every setting: {dict(grid)!r}")
    points = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    return [Choice(entry["name"], tuple((entry.get("settings", {}) | point).items())) for point in points]


# ------------------------------------------------------------------------------------------------ an experiment


@settings
class PairSettings:
    """Which pair, and how it is loaded; as in `load_pair`. No name: a pair of your own, or "toy" where nothing is given."""

    name: str | None = None
    target: str | None = None
    draft: str | None = None
    target_format: str | None = None
    draft_format: str | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantization: Quantization | None = None

    @property
    def spec(self) -> PairSpec:
        """The pair with its models, templates and settings. Raises ValueError as `choose_pair`."""
        return choose_pair(
            self.name,
            target=self.target,
            draft=self.draft,
            target_format=self.target_format,
            draft_format=self.draft_format,
        )

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
ATTACK_SETTINGS = ("path", "seed", "target_model", "question", "target", "prefill", "from", "limit", "wording")
"""Settings of a set: arguments of `load_set`, in place of the experiment's own, and `from`, who writes a prefill."""


def read_config(path: str | Path, **changes: Any) -> ExperimentConfig:
    """An experiment from a TOML file.

    Args:
        path: The file.
        changes: Keys in place of the file's; those of `pair` one by one.

    Raises:
        ValueError: For TOML that cannot be parsed, an unknown key or name, or a value out of range, naming the file.
        OSError: Where the file cannot be read.
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
    """An experiment from a table of plain values.

    Args:
        table: The keys that the top of this module shows; attacks, defenders and out must be given.
        where: What errors begin with.

    Raises:
        ValueError: For an unknown key or name, or a value out of range.
    """
    of_kind(where, table, Mapping)
    try:
        _known_keys(table, ExperimentConfig, "key")
        missing = [name for name in ("attacks", "defenders", "out") if not table.get(name)]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given")
        finders = {"attacks": lambda name: find_set(name).name, "defenders": find_defender, "judges": find_judge}
        read: dict[str, Any] = {name: read_choices(table.get(name) or (), find) for name, find in finders.items()}
        read |= {"pair": pair_settings(table.get("pair", "toy")), "out": Path(table["out"])}
        return checked(ExperimentConfig(**{**table, **read}))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def find_judge(name: str) -> str:
    """Our name of a judge, in any case. Raises ValueError that lists the names."""
    names = {known.lower(): known for known in JUDGES}
    if name.lower() not in names:
        raise ValueError(f"unknown judge {name!r}: choose one of {', '.join(JUDGES)}")
    return names[name.lower()]


def pair_settings(entry: Any) -> PairSettings:
    """Which pair an entry (a name, a table or the settings) means."""
    table = _as_table(entry)
    _known_keys(table, PairSettings, "key of pair")
    chosen = PairSettings(**table)
    spec, own = chosen.spec, chosen.name is None and chosen.target is not None
    return chosen if own else replace(chosen, name=spec.name)


def _as_table(entry: Any) -> dict[str, Any]:
    if isinstance(entry, PairSettings):
        return asdict(entry)
    if isinstance(entry, str):
        return {"name": entry}
    of_kind("pair", entry, Mapping)
    return dict(entry)


def _known_keys(table: Mapping[str, Any], kind: type, what: str) -> None:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}: the keys are {', '.join(known)}")


# ------------------------------------------------------------------------------------------------ settings


def checked(config: ExperimentConfig) -> ExperimentConfig:
    """Raise ValueError for a setting that does not exist or is out of range. 2 becomes 2.0 where a real number is meant, so that
    both are the same setting."""
    defenders = tuple(dict.fromkeys(_checked_defender(each, config) for each in config.defenders))
    for attack in config.attacks:
        _check_attack(attack.name, attack.given)
    check_judges(config.judges)
    return replace(config, defenders=defenders)


def check_judges(judges: Iterable[Choice]) -> None:
    """Raise ValueError for an option that a judge does not have, or whose value is out of range."""
    for each in judges:
        judge(each.name, [], [], **each.given)  # over nothing


def _checked_defender(defender: Choice, config: ExperimentConfig) -> Choice:
    defender_settings(defender, config)
    defaults = defender_settings(Choice(defender.name), config)
    whole = {key: value for key, value in defender.given.items() if type(value) is int}
    meant = {key: float(value) for key, value in whole.items() if isinstance(getattr(defaults, key), float)}
    return replace(defender, settings=tuple((defender.given | meant).items()))


def _check_attack(name: str, given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(ATTACK_SETTINGS))
    if unknown:
        raise ValueError(f"the set {name!r} has no setting {unknown[0]}: it has {', '.join(ATTACK_SETTINGS)}")
    check_prefill(name, given.get("prefill"), given.get("from"))
    check_wording(find_set(name), given.get("wording"))
    limit = given.get("limit", 1)
    if type(limit) is not int or limit < 1:
        raise ValueError(f"the set {name!r} has limit={limit!r}: it counts items, and is at least 1")


def changed_settings(defender: Choice, config: ExperimentConfig) -> dict[str, Any]:
    """What differs from a defender's defaults in this experiment, as `answer` takes it: the experiment's seed, and the choice's
    own settings, which come first."""
    seed = {"seed": config.seed} if hasattr(_settings_for(config.pair.spec, defender.name), "seed") else {}
    return seed | defender.given


def defender_settings(defender: Choice, config: ExperimentConfig) -> Any:
    """All settings of a defender in this experiment. Raises ValueError for one that it does not have or a value out of range."""
    return _settings_for(config.pair.spec, defender.name, changed_settings(defender, config))


def _settings_for(spec: PairSpec, name: str, changed: Mapping[str, Any] | None = None) -> Any:
    """`settings_for` before the pair is loaded: of a pair, a defender's defaults read `config` alone, which its spec has."""
    return settings_for(cast(Pair, spec), name, changed)
