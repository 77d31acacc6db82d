"""What a paper's table would cost on large GPUs, reckoned from shapes: nothing here is measured.

    python -m benchmarks reckon       writes the table of docs/scale.md

Decoding reads weights and keys and values from memory, and does little arithmetic for each byte. One pass of a model with
W bytes of weights over t tokens of each of B rows, with L tokens of context and k bytes of keys and values a token, takes

    pass(t) = max((W + B L k) / (η · bandwidth),  W B t / (μ · arithmetic))        (a 2-byte weight is multiplied and added once)

An undefended answer of n tokens takes n passes of the target. An SSD round of T guesses takes T draft passes and one target
pass over T tokens, and emits E(T) = (1 − m^T) / (1 − m) tokens of a row with match ratio m, so the answer takes

    n / E(T) · (T · pass_draft(1) + pass_target(T)),        T the best of 1 to `MOST`
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from benchmarks.synthetic import Shape
from ssd_lib.attacks import find_set
from ssd_lib.decoding.lookahead import MOST
from ssd_lib.defenders import find_defender, settings_for
from ssd_lib.experiments.presets import PRESETS
from ssd_lib.experiments.report import markdown, put_measured
from ssd_lib.experiments.shards import part_of
from ssd_lib.experiments.starting import Memory
from ssd_lib.models.pairs import Pair, find_pair
from ssd_lib.paths import REPOSITORY

COMMAND = "python -m benchmarks reckon"
PAGE = REPOSITORY / "docs" / "scale.md"
WEIGHT_BYTES = 2  # bfloat16
TINYLLAMA = Shape(2048, 22, 32, 4, 5632, 32000)
MODELS: dict[str, tuple[Shape, Shape]] = {
    "llama2 (7B), TinyLlama 1.1B": (Shape(4096, 32, 32, 32, 11008, 32000), TINYLLAMA),
    "llama2-13b-chat, TinyLlama 1.1B": (Shape(5120, 40, 40, 40, 13824, 32000), TINYLLAMA),
    "vicuna (7B), TinyLlama 1.1B": (Shape(4096, 32, 32, 32, 11008, 32000), TINYLLAMA),
    "llama3.1_8b, Llama-3.2-1B": (Shape(4096, 32, 32, 8, 14336, 128256), Shape(2048, 16, 32, 8, 8192, 128256)),
}
"""Target and draft of the paper's pairs (arXiv 2508.17739, section 5.1), by the models' own configs."""


@dataclass(frozen=True)
class Machine:
    """One GPU: what its maker says, and what is assumed to be reached of it."""

    name: str = "A100 SXM 80 GB"
    bandwidth: float = 2.039e12
    """Bytes a second (NVIDIA's data sheet)."""
    arithmetic: float = 312e12
    """bfloat16 operations a second, without sparsity (the same)."""
    memory: float = 80e9
    reached_bandwidth: float = 0.6
    """η, assumed: transformers without fused kernels."""
    reached_arithmetic: float = 0.4
    """μ, assumed."""


@dataclass(frozen=True)
class Assumed:
    """What depends on the answers."""

    match_ratio: float = 0.8
    prompt: int = 512
    answer: int = 300
    """Tokens until the longest answer of a batch ends; the other column has the preset's limit."""
    size: int = 50
    """Of sets whose size is not known before they are loaded."""
    gpus: int = 8


def weights(shape: Shape) -> int:
    """Weights that a pass multiplies: attention, feed-forward, norms and output matrix, without the lookup table."""
    head = shape.hidden // shape.heads
    attention = 2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.kv_heads * head
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    return shape.layers * layer + shape.hidden + shape.vocabulary * shape.hidden


def cache_bytes(shape: Shape) -> int:
    """Bytes of keys and values for one token."""
    return 2 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads) * WEIGHT_BYTES


def rows(target: Shape, draft: Shape, limit: int, machine: Machine, memory: Memory = Memory()) -> int:  # noqa: B008
    """Rows decoded together, as `default_batch` of ssd_lib.experiments finds them."""
    free = machine.memory - WEIGHT_BYTES * (weights(target) + weights(draft))
    row = (cache_bytes(target) + cache_bytes(draft)) * (memory.prompt_tokens + limit)
    return max(1, min(memory.cap_gpu, int(memory.share * free / (memory.working_set * row))))


def seconds_a_pass(shape: Shape, tokens: int, batch: int, context: float, machine: Machine) -> float:
    """One forward over `tokens` tokens of each row."""
    read = WEIGHT_BYTES * weights(shape) + batch * context * cache_bytes(shape)
    work = 2 * weights(shape) * batch * tokens
    return max(
        read / (machine.reached_bandwidth * machine.bandwidth), work / (machine.reached_arithmetic * machine.arithmetic)
    )


def seconds_a_token(pair: tuple[Shape, Shape], batch: int, context: float, machine: Machine, match: float) -> float:
    """SSD's time for each token of a row, at the best number of guesses."""
    target, draft = pair
    step = seconds_a_pass(draft, 1, batch, context, machine)
    return min(
        (guesses * step + seconds_a_pass(target, guesses, batch, context, machine))
        / sum(match**place for place in range(guesses))
        for guesses in range(1, MOST + 1)
    )


def written_besides(name: str) -> int:
    """Tokens that the target writes for a defence, or reads one by one with a second model, besides its answer."""
    settings: Any = settings_for(cast(Pair, find_pair("llama2")), name)  # the defaults: no model is loaded
    extra = {"paraphrase": "max_tokens", "self-exam": "reply_tokens", "safedecoding": "first_m"}
    return getattr(settings, extra[name]) if name in extra else 0


def seconds_a_batch(
    pair: tuple[Shape, Shape], defender: str, batch: int, tokens: int, machine: Machine, assumed: Assumed
) -> float:
    """Prompts read and answers written, for one batch."""
    target, draft = pair
    context = assumed.prompt + tokens / 2
    reading = seconds_a_pass(target, assumed.prompt, batch, assumed.prompt, machine)
    if defender == "ssd":
        reading += seconds_a_pass(draft, assumed.prompt, batch, assumed.prompt, machine)
        return reading + tokens * seconds_a_token(pair, batch, context, machine, assumed.match_ratio)
    if defender == "self-exam":  # the examiner reads the answer
        reading += seconds_a_pass(target, assumed.prompt + tokens, batch, context, machine)
    return reading + (tokens + written_besides(defender)) * seconds_a_pass(target, 1, batch, context, machine)


def line(preset: str, models: str, machine: Machine, assumed: Assumed) -> dict[str, Any]:
    """One preset on one pair: GPU hours, and hours of the slowest of the parts that `--shard` cuts."""
    chosen, pair = PRESETS[preset], MODELS[models]
    batch = rows(*pair, chosen.max_new_tokens, machine)
    answers = sum(_size(name, assumed) for name in chosen.attacks) * len(chosen.defenders)
    found: dict[str, Any] = {"preset": preset, "pair": models, "rows a batch": batch, "answers": answers}
    few, most = (
        _parts(preset, pair, batch, tokens, machine, assumed) for tokens in (assumed.answer, chosen.max_new_tokens)
    )
    found[f"GPU hours, {assumed.answer} tokens"] = sum(few) / 3600
    found[f"GPU hours, {chosen.max_new_tokens} tokens"] = sum(most) / 3600
    found[f"hours on {assumed.gpus}"] = max(most) / 3600
    return found | {"answers a second": answers / max(few)}


def _parts(
    preset: str, pair: tuple[Shape, Shape], batch: int, tokens: int, machine: Machine, assumed: Assumed
) -> list[float]:
    """Seconds of each shard."""
    parts = [0.0] * assumed.gpus
    for place, (attack, defender) in _jobs(preset):
        spent = seconds_a_batch(pair, defender, batch, tokens, machine, assumed)
        for each in range(math.ceil(_size(attack, assumed) / batch)):
            parts[part_of(*place, each, assumed.gpus) - 1] += spent
    return parts


def _size(attack: str, assumed: Assumed) -> int:
    return find_set(attack).size or assumed.size


def _jobs(preset: str) -> Iterator[tuple[tuple[int, int], tuple[str, str]]]:
    for a, attack in enumerate(PRESETS[preset].attacks):
        for d, defender in enumerate(PRESETS[preset].defenders):
            yield (a, d), (attack, find_defender(defender))


def table(machine: Machine = Machine(), assumed: Assumed = Assumed()) -> pd.DataFrame:  # noqa: B008
    """Every paper preset on every pair."""
    paper = [name for name in PRESETS if name.startswith("paper-")]
    return pd.DataFrame([line(preset, models, machine, assumed) for models in MODELS for preset in paper])


def main() -> str:
    """Write the table into docs/scale.md; returns it as text."""
    machine, assumed = Machine(), Assumed()
    frame = table(machine, assumed)
    said = (
        f"Reckoned, not measured: {assumed.gpus} × {machine.name}, {machine.reached_bandwidth:.0%} of its bandwidth and "
        f"{machine.reached_arithmetic:.0%} of its arithmetic reached, bfloat16, match ratio {assumed.match_ratio}, prompts of "
        f"{assumed.prompt} tokens; the longest answer of a batch has {assumed.answer} tokens, or as many as are allowed. Hours on "
        f"{assumed.gpus} are those of the slowest shard, at the longest answers; answers a second those of all shards together, "
        f"at {assumed.answer} tokens."
    )
    numbers = frame.select_dtypes("float").columns
    shown = frame.assign(**{name: frame[name].map("{:.2g}".format) for name in numbers})
    put_measured(PAGE, COMMAND, f"{said}\n\n{markdown(shown)}")
    return f"{said}\n\n{shown.to_string(index=False)}"
