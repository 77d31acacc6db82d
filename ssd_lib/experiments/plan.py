"""What an experiment would run, found out without a network and without loading a model: `ssd run --dry-run`.

Models, data sets, templates and settings are resolved as far as that is possible on this machine; what is missing for a
real run is a warning, not an error. One prompt is rendered as both models would read it, with a question of the embedded
world in the place of a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ssd_lib.attacks import AttackSet, find_set
from ssd_lib.attacks.files import files_of_package
from ssd_lib.experiments.config import Choice, ExperimentConfig, defender_settings
from ssd_lib.experiments.starting import check_expert, look_into, needs_draft
from ssd_lib.models.chat import render_prompt
from ssd_lib.models.gguf import is_gguf
from ssd_lib.models.loading import locate
from ssd_lib.models.pairs import PairSpec, check_template
from ssd_lib.settings import of_kind
from ssd_lib.toy import world

HERE, CACHED, MISSING, TO_DOWNLOAD = "on this machine", "in the cache", "missing", "to be downloaded from the Hub"
CLIP = 240
"""Characters of a sample prompt and of a defender's settings that are shown."""


@dataclass(frozen=True)
class Model:
    """One model of the pair: where it is, and the sample prompt as it reads it."""

    role: str
    source: str
    where: str
    template: str
    prompt: str


@dataclass(frozen=True)
class Plan:
    """What would run."""

    config: ExperimentConfig
    models: tuple[Model, ...]
    sets: tuple[str, ...]
    defenders: tuple[str, ...]
    generations: int
    """Answers over all sets and defenders; without those of sets whose size is not known before they are loaded."""
    at_least: bool
    """Whether there are such sets."""
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The plan as lines for a terminal."""
        count = f"{self.generations}{' and those of sets of unknown size' if self.at_least else ''}"
        lines = [f"pair        {self.config.pair.spec.name}"]
        for model in self.models:
            lines += [
                f"{model.role:<11} {model.source} ({model.where})",
                f"            {model.template}: {model.prompt}",
            ]
        lines += [f"attack set  {line}" for line in self.sets]
        lines += [f"defender    {line}" for line in self.defenders]
        lines += [f"judge       {judge.label}" for judge in self.config.judges]
        lines += [f"answers     {count}, at most {self.config.max_new_tokens} tokens each, seed {self.config.seed}"]
        lines += [f"out         {self.config.out}"]
        return "\n".join([*lines, *(f"warning: {line}" for line in self.warnings)])


def plan(config: ExperimentConfig) -> Plan:
    """Resolve an experiment without running it. What would stop it is in `warnings`."""
    of_kind("config", config, ExperimentConfig)
    spec, warnings = config.pair.spec, []
    models_ = tuple(_models(config, spec, warnings))
    sets = [_describe_set(attack, config, warnings) for attack in config.attacks]
    defenders = tuple(_describe_defender(each, config) for each in config.defenders)
    try:
        check_expert(config)
    except (ValueError, OSError) as error:
        warnings.append(str(error))
    sizes = [size for size, _ in sets]
    total = sum(size or 0 for size in sizes) * len(defenders)
    return Plan(config, models_, tuple(line for _, line in sets), defenders, total, None in sizes, tuple(warnings))


# ------------------------------------------------------------------------------------------------ models and templates


def _models(config: ExperimentConfig, spec: PairSpec, warnings: list[str]) -> Iterator[Model]:
    yield _model("target", spec.target, spec.target_format, spec, warnings)
    if spec.draft is not None:
        yield _model("draft", spec.draft, spec.draft_format, spec, warnings)
    elif needs_draft(config):
        warnings.append(f"--draft PATH is missing: {spec.note}")


def _model(role: str, source: str, chat_format: str | None, spec: PairSpec, warnings: list[str]) -> Model:
    where = _where(source)
    if where == MISSING:
        warnings.append(f"there is no {role} at {source} yet" + (f": {spec.note}" if role == "draft" else ""))
    tokenizer = _tokenizer(source, chat_format, where)
    if tokenizer is None:
        return Model(role, source, where, "template of its own, if it has one", "(not read yet)")
    try:
        check_template(tokenizer, spec, role)
    except ValueError as error:
        warnings.append(str(error))
        return Model(role, source, where, "no template", "(none)")
    template = "template of its own" if tokenizer.chat_template else f"template {chat_format}"
    question = world.questions("forbidden", 1)[0].question
    prompt = render_prompt(tokenizer, question, chat_format=chat_format)
    return Model(role, source, where, template, _clip(prompt))


def _where(source: str) -> str:
    """Whether a model is on this machine; asks no network."""
    try:
        place = locate(source)
    except (OSError, ValueError):
        return MISSING
    if Path(place).exists():
        return HERE
    if is_gguf(place):
        return TO_DOWNLOAD
    return CACHED if isinstance(try_to_load_from_cache(place, "config.json"), str) else TO_DOWNLOAD


@cache
def _tokenizer(source: str, chat_format: str | None, where: str) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer where it is on this machine, else a stand-in with the special tokens of a known format."""
    if where in (HERE, CACHED) and not is_gguf(source):  # which is long to read
        try:
            return AutoTokenizer.from_pretrained(locate(source), local_files_only=True)
        except (OSError, ValueError):  # only part of the model is cached
            pass
    if chat_format is None:
        return None
    bos, eos = ("<|begin_of_text|>", "<|eot_id|>") if chat_format == "llama3" else ("<s>", "</s>")
    nothing = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=nothing, bos_token=bos, eos_token=eos)


def _clip(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= CLIP else f"{line[:CLIP]} …"


# ------------------------------------------------------------------------------------------------ data sets and defenders


def _describe_set(attack: Choice, config: ExperimentConfig, warnings: list[str]) -> tuple[int | None, str]:
    """How many items would be asked (None if unknown), and a line about the set."""
    known, given = find_set(attack.name), attack.given
    packaged, path, limit = files_of_package(known), given.get("path", known.path), given.get("limit", config.limit)
    size, where = known.size, str(path)
    if path is not None or (known.kind == "embedded" and size is None):
        size, taken = _look_into(known, path, config, given, warnings)
        where += taken
    elif known.kind == "file":
        warnings.append(f"{attack.name} is a file: give {attack.name}:path=FILE, or --data FOLDER. {known.note}")
    elif known.hub is not None and known.hub.gated and not packaged:
        warnings.append(f"{attack.name} is gated: ask once for access at {known.hub.page}")
    if limit is not None and size is not None:
        size = limit if known.kind in ("embedded", "kitchen") and known.size else min(size, limit)
    if path is None:
        where = f"{known.hub.repo}@{known.hub.revision[:10]}" if known.hub else known.kind
        where = f"the package that holds {packaged[0].name}" if packaged else where
    if given.get("from") == "target":
        where += f", {given['prefill']} tokens by the target first"
    return size, f"{attack.label}: {'unknown' if size is None else size} items, {where}, licence {known.licence}"


def _look_into(
    known: AttackSet, path: Any, config: ExperimentConfig, given: dict[str, Any], warnings: list[str]
) -> tuple[int | None, str]:
    """How many items a local copy has, or a set that ships, and of a file of one's own which columns are taken; the set's
    own number, and a warning, where it cannot be read."""
    try:
        count, columns = look_into(known, path, given, config)
        return count, "".join(f", {key} from {column!r}" for key, column in columns.items())
    except (OSError, ValueError) as error:
        warnings.append(f"{error}. {known.note}".strip())
        return known.size, ""


def _describe_defender(choice: Choice, config: ExperimentConfig) -> str:
    settings = defender_settings(choice, config)
    if settings is None:
        return choice.label
    return f"{choice.label} ({_clip(', '.join(f'{name}={value}' for name, value in vars(settings).items()))})"
