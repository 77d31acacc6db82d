"""Do two models belong together? Chapter 12's checks, on configurations and tokenizers alone: no weights are loaded.

SSD mixes two distributions over one vocabulary, and two templates stand before one answer. Where either is wrong, everything
still runs and the numbers are nonsense; so look before the first result.

    examine(target="models/big", draft="models/small")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from huggingface_hub import list_repo_files
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ssd_lib.experiments.starting import cache_bytes_per_token
from ssd_lib.models.chat import FORMATS, encode_answer, encode_prompt, vocabulary_size
from ssd_lib.models.inference import generation_settings
from ssd_lib.models.loading import base_of_adapter, how_to_convert, local_source, read_tokenizer
from ssd_lib.models.pairs import PairSpec, check_template, check_vocabularies, choose_pair

Outcome = Literal["ok", "look", "fault"]
"""As it should be; works, but should be known; cannot work."""
QUESTION, ANSWER = "How do I brew the cordial?", "Sure, here is how. First"
BYTES = {"32 bits": 4.0, "16 bits": 2.0, "8 bits": 1.0, "4 bits": 0.5 + 4 / 64}
"""Bytes of a weight in a layer's matrix; in 4 bits bitsandbytes adds a scale of 4 bytes for every 64 weights."""
ROWS, TOKENS = 8, 1024
"""Answers decoded together, and tokens of each, whose caches are counted."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    target: str
    draft: str
    verdict: Outcome = "ok"
    advice: str = ""


def _both(check: str, cells: Sequence[str], verdict: Outcome = "ok", advice: str = "") -> Finding:
    """A line about both models, the target's cell first."""
    target, draft = cells
    return Finding(check, target, draft, verdict, advice)


def _of(check: str, role: str, cell: str, verdict: Outcome, advice: str) -> Finding:
    """A line about one model."""
    return _both(check, (cell, "") if role == "target" else ("", cell), verdict, advice)


@dataclass(frozen=True)
class Side:
    """One model of the pair without its weights: shapes on the meta device, tokenizer, template and generation config."""

    role: str
    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat_format: str | None

    @property
    def prompt(self) -> list[int]:
        return encode_prompt(self.tokenizer, QUESTION, chat_format=self.chat_format)

    @property
    def rows(self) -> int:
        """Ids that it has logits for."""
        head: Any = self.model.get_output_embeddings()
        return self.model.config.get_text_config().vocab_size if head is None else head.weight.shape[0]

    @property
    def ends(self) -> set[int]:
        """Ids that end an answer."""
        return set(generation_settings(self.model).eos_token_id)

    @property
    def turn_end(self) -> list[int]:
        """What the template writes after an answer."""
        template = None if self.tokenizer.chat_template else FORMATS[self.chat_format or ""].template
        turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        rendered = str(self.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
        return self.tokenizer.encode(rendered.rpartition(ANSWER)[2], add_special_tokens=False)

    def words(self, ids: set[int] | list[int]) -> str:
        return " ".join(map(str, self.tokenizer.convert_ids_to_tokens(sorted(ids)))) or "none"


def examine(name: str | None = None, **models: str | None) -> list[Finding]:
    """Every check of a pair, in the order in which faults should be mended.

    Args:
        name: Of a registered pair.
        models: The arguments target, draft, target_format and draft_format, as for `choose_pair`.

    Raises:
        ValueError: For an unknown pair, or where target or draft is missing.
        OSError: As transformers does offline.
    """
    spec = choose_pair(name, **models)
    if spec.draft is None:
        raise ValueError(f"the pair {spec.name!r} needs draft=…: {spec.note}")
    sides, faults = [], []
    for role in ("target", "draft"):
        try:
            sides.append(read_side(spec, role))
        except (OSError, ValueError, ImportError) as error:
            faults.append(_of("can be read", role, "no", "fault", " ".join(str(error).split())))
    if faults:
        return faults
    target, draft = sides
    return [
        *_weights(target, draft),
        *_vocabulary(target, draft),
        *_templates(target, draft),
        *_ends(target, draft),
        *_generation(target, draft),
        _window(target, draft),
        *_memory(target, draft),
    ]


def read_side(spec: PairSpec, role: str) -> Side:
    """Read a model's configuration and tokenizer. Raises OSError or ValueError as `load_model`, or without a template."""
    name = getattr(spec, role)
    source = local_source(name)
    base = base_of_adapter(source)
    tokenizer = read_tokenizer(source, base)
    check_template(tokenizer, spec, role)
    config = AutoConfig.from_pretrained(base or source)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    try:
        model.generation_config = GenerationConfig.from_pretrained(base or source)
    except OSError:  # none saved: made of the model's config
        model.generation_config = GenerationConfig.from_model_config(config)
    return Side(role, base or source, model, tokenizer, getattr(spec, f"{role}_format"))


# ------------------------------------------------------------------------------------------------ what they are


def _weights(*sides: Side) -> Iterator[Finding]:
    """Kinds and sizes, and whether the weights can be read: safetensors, not pickles alone."""
    cells = [f"{type(side.model).__name__}, {side.model.num_parameters() / 1e6:,.0f} M parameters" for side in sides]
    yield _both("model", cells)
    for side in sides:
        if _pickles(side.source):
            yield _of("weights", side.role, "pickles", "fault", how_to_convert(side.source))


def _pickles(source: str) -> bool:
    """Whether a model has pickled weights and no safetensors; False where the Hub cannot be asked."""
    try:
        files = [path.name for path in Path(source).iterdir()] if Path(source).is_dir() else list_repo_files(source)
    except Exception:  # noqa: BLE001 (offline, most of all)
        return False
    return not any(name.endswith(".safetensors") for name in files) and any(name.endswith(".bin") for name in files)


def _vocabulary(target: Side, draft: Side) -> Iterator[Finding]:
    """One vocabulary, id by id, with a row of logits for every token."""
    sides = (target, draft)
    sizes, rows = [vocabulary_size(side.tokenizer) for side in sides], [side.rows for side in sides]
    different = ""
    try:
        check_vocabularies(target.tokenizer, draft.tokenizer)
    except ValueError as error:
        different = str(error)
    yield _both("vocabulary", [f"{size:,} tokens" for size in sizes], "fault" if different else "ok", different)
    short = [side.role for side, row, size in zip(sides, rows, sizes, strict=True) if row < size]
    advice = f"the {' and the '.join(short)} cannot say every token: resize its embeddings" if short else ""
    yield _both("rows of logits", [f"{row:,}" for row in rows], "fault" if short else "ok", advice)
    ids = [encode_answer(side.tokenizer, ANSWER) for side in sides]
    cells, advice = ["same ids"] * 2, ""
    if ids[0] != ids[1]:
        cells = [f"{len(each)} ids" for each in ids]
        advice = "they cut a text differently: give prefills as token ids"
    elif target.tokenizer.decode(ids[0]) != ANSWER:
        advice = "a text changes when it is encoded and decoded"
    yield _both("an answer's ids", cells, "look" if advice else "ok", advice)


# ------------------------------------------------------------------------------------------------ how they are asked


def _templates(*sides: Side) -> Iterator[Finding]:
    """Each has a template that holds the question, and begins with BOS once at most."""
    cells = ["its own" if side.tokenizer.chat_template else str(side.chat_format) for side in sides]
    yield _both("chat template", cells)
    for side in sides:
        bos, prompt = side.tokenizer.bos_token_id, side.prompt
        if QUESTION not in side.tokenizer.decode(prompt):
            yield _of("chat template", side.role, "loses the question", "fault", "the question is not in the prompt")
        if bos is not None and prompt[:2] == [bos, bos]:  # further on it may open every turn, as SmolLM2's does
            yield _of("chat template", side.role, "BOS twice", "look", "the prompt begins with BOS once, or without")


def _ends(target: Side, draft: Side) -> Iterator[Finding]:
    """Both end an answer with the same tokens, and with what the template ends it with."""
    try:
        ends = [side.ends for side in (target, draft)]
    except ValueError:  # `_generation` says why
        return
    cells = [side.words(each) for side, each in zip((target, draft), ends, strict=True)]
    verdict, advice = "ok", ""
    if not all(ends):
        verdict, advice = "fault", "no answer will ever end: set eos_token_id in its generation_config.json"
    elif ends[0] != ends[1]:
        verdict, advice = "look", "the draft should end an answer as the target does"
    yield _both("end tokens", cells, verdict, advice)
    for side, each in zip((target, draft), ends, strict=True):
        if each and not each & set(side.turn_end):
            advice = f"the {side.role}'s template ends an answer without any of its end tokens: answers may run on"
            yield _of("end of a turn", side.role, side.words(side.turn_end), "look", advice)


def _generation(*sides: Side) -> Iterator[Finding]:
    """What of their generation configs is in force; an option that cannot be honoured is a fault."""
    cells, in_force, refused = [], False, ""
    for side in sides:
        try:
            found = generation_settings(side.model).in_force
            cells.append(", ".join(f"{name}={value}" for name, value in found.items()) or "greedy")
            in_force = in_force or bool(found)
        except ValueError as error:
            cells.append("refused")
            refused = str(error)
    advice = refused or ("in force while decoding greedily" if in_force else "")
    yield _both("generation settings", cells, "fault" if refused else "look" if in_force else "ok", advice)


# ------------------------------------------------------------------------------------------------ whether they fit


def _window(target: Side, draft: Side) -> Finding:
    """Prompt and answer must fit into both contexts."""
    sizes = [side.model.config.get_text_config().max_position_embeddings for side in (target, draft)]
    cells = [f"{size:,} tokens" for size in sizes]
    if sizes[1] < sizes[0]:
        return _both("window", cells, "look", f"prompt and answer are cut off at the draft's {sizes[1]:,} tokens")
    return _both("window", cells)


def _memory(target: Side, draft: Side) -> Iterator[Finding]:
    """Weights and caches against what this machine has free; a CPU computes in 32 bits, a draft is never quantized."""
    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    caches = ROWS * TOKENS * sum(cache_bytes_per_token(side.model) for side in (target, draft))
    for bits in BYTES if not on_gpu else ("16 bits", "8 bits", "4 bits"):
        theirs = "32 bits" if bits == "32 bits" else "16 bits"
        sizes = [weight_bytes(target.model, bits), weight_bytes(draft.model, theirs)]
        total = sum(sizes) + caches * (2 if bits == "32 bits" else 1)
        fits = total <= free
        advice = f"with {ROWS} answers of {TOKENS} tokens {_gib(total)}, here {_gib(free)} free"
        cells = _gib(sizes[0]), f"{_gib(sizes[1])}{'' if theirs == bits else f' ({theirs})'}"
        yield _both(f"memory, {bits}", cells, "ok" if fits else "look", advice)


def weight_bytes(model: Any, bits: str) -> float:
    """Bytes of a model's weights: bitsandbytes shrinks the matrices inside the layers and leaves the rest in 16 bits."""
    head = model.get_output_embeddings()
    linear = (module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head)
    inside = sum(module.weight.numel() for module in linear)
    rest = 4 if bits == "32 bits" else 2
    return rest * (model.num_parameters() - inside) + BYTES[bits] * inside


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
