"""Peers side by side over match ratio, context length and batch size, and guesses from the text so far.

Peers take turns within one process, so that a slow moment of the machine affects all of them. Every table is written to
benchmarks/results/ as it is finished. `run` calls this; `parts` says where the time goes.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from tqdm import tqdm

from benchmarks import peers
from benchmarks.peers import Peer, Workload, interleaved, median_and_spread
from benchmarks.synthetic import BLOCK, set_match_ratio, synthetic_pair, synthetic_prompt
from ssd_lib.decoding import ssd_generate
from ssd_lib.models.pairs import load_pair
from ssd_lib.toy import world

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """What is measured. The defaults take about 15 minutes on two cores that nothing else uses."""

    shapes: str = "120m"
    large_vocabulary: str = "120m-llama3-vocabulary"
    match_ratios: tuple[float, ...] = (0.3, 0.5, 0.8, 1.0)
    as_is_at: tuple[float, ...] = (0.3, 0.5, 0.8)
    published_at: tuple[float, ...] = (0.3, 0.8)
    prompt: int = 64
    new_tokens: int = 80
    long_answer: int = 160
    long_prompt: int = 256
    embedded_on: int = 400
    embedded_batch: int = 25
    repeats: int = 3
    contexts: tuple[int, ...] = (128, 1024, 4096)
    batches: tuple[int, ...] = (1, 4, 16)
    scaling_tokens: int = 60
    scaling_repeats: int = 2
    products_repeats: int = 4


BRIEF = Plan(
    match_ratios=(0.3, 0.5, 0.8, 1.0),
    published_at=(0.3,),
    new_tokens=40,
    long_answer=0,
    embedded_on=0,
    repeats=2,
    contexts=(128, 512, 1024, 2048),
    batches=(1, 4, 16),
    scaling_tokens=40,
    scaling_repeats=1,
    products_repeats=2,
)
QUICK = Plan(
    shapes="micro",
    large_vocabulary="micro",
    match_ratios=(0.5, 1.0),
    as_is_at=(0.5,),
    published_at=(0.5,),
    new_tokens=20,
    long_answer=40,
    long_prompt=64,
    embedded_on=60,
    embedded_batch=4,
    repeats=1,
    contexts=(64, 128),
    batches=(1, 4),
    scaling_tokens=20,
    scaling_repeats=1,
    products_repeats=1,
)


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware, written into every line of a result."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "clock": "wall" if peers.clock is time.perf_counter else "process",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(name: str, lines: list[dict[str, Any]]) -> pd.DataFrame:
    """One CSV of results/, every line with its environment."""
    frame = pd.DataFrame([environment() | line for line in lines])
    RESULTS.mkdir(parents=True, exist_ok=True)
    frame.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.5g")
    return frame


# ------------------------------------------------------------------------------------------------ peers over the match ratio


KEPT = 100_000_000  # bytes of weights that may stay in a processor's cache
WARM_UPS = 6  # runs, at most, until every kind of product has chosen its way; rare ones stay unsettled
PREFILL = "Sure, here is the recipe. Put"
OURS, FIXED, AS_IS = "ssd_lib", "ssd_lib, T = 3", "ssd_lib, products as they are"
BARE, MEMORY = "bare forwards", "memory (limit)"
GENERATE, ASSISTED, PUBLISHED = "target.generate", "assisted generation", "published loop"
ASSISTED_FIXED = "assisted generation, T = 2"


def compare(work: Workload, repeats: int, published: bool, as_is: bool = False) -> list[dict[str, Any]]:
    """One workload through all peers; raises AssertionError where tokens differ that must not."""
    schedules: list[peers.Schedule] = []

    def bare(_: Workload) -> list[int]:
        bares.append(peers.bare_forwards(work, schedules[-1]))
        return []

    def ours(_: Workload) -> list[int]:
        output = run_own(OURS, work)
        schedules.append(output.stats.schedule)
        return output.sequences[0].tolist()

    def products_as_they_are(_: Workload) -> list[int]:
        with peers.products_as_they_are():
            return own_tokens(AS_IS, work)

    everyone: dict[str, Peer] = {
        OURS: ours,
        FIXED: partial(own_tokens, FIXED, lookahead=3),
        **({AS_IS: products_as_they_are} if as_is else {}),
        GENERATE: peers.generate,
        ASSISTED: peers.assisted,
        ASSISTED_FIXED: peers.assisted_fixed,
        BARE: bare,
    }
    bares: list[peers.Bare] = []
    warm_up(work)
    answers = {name: peer(work) for name, peer in everyone.items()}
    check(work, answers)
    schedules.clear()
    bares.clear()
    seconds = interleaved(work, everyone, {name: repeats for name in everyone})
    if published:
        begun = peers.clock()
        tokens = peers.published(work)
        seconds[PUBLISHED] = [peers.clock() - begun]
        assert tokens == answers[OURS], f"{work.name}: the published loop gives different tokens"
    mean_lookahead = statistics.mean(positions for schedule in schedules for positions, _, _ in schedule)
    matched = run_own(FIXED, work, lookahead=3).stats.match_ratio
    lines = [line(work, name, values, matched) | {"mean_T": mean_lookahead} for name, values in seconds.items()]
    return [*lines, of_memory(work, lines[0], seconds[OURS], schedules, bares, matched)]


def run_own(name: str, work: Workload, **settings: Any) -> Any:
    """`peers.run_ours`, with the costs that this peer alone has measured."""
    with peers.own_costs(name):
        return peers.run_ours(work, **settings)


def warm_up(work: Workload) -> None:
    """Run until every kind of short product that occurs has chosen its way."""
    peers.settle_products(work.target, work.draft, work.ids.tolist())
    for _ in range(WARM_UPS):
        run_own(OURS, work)
        if not peers.unsettled(work.target, work.draft):
            break


def check(work: Workload, answers: dict[str, list[int]]) -> None:
    """Raises AssertionError where peers gave different tokens that must give the same."""
    own = [answers[name] for name in (OURS, FIXED, AS_IS) if name in answers]
    assert all(answer == own[0] for answer in own), f"{work.name}: the lookahead or the products changed the tokens"
    others = answers[GENERATE], answers[ASSISTED], answers[ASSISTED_FIXED]
    assert others[0] == others[1] == others[2], f"{work.name}: assisted generation changed the tokens"


def of_memory(
    work: Workload,
    ours: dict[str, Any],
    seconds: list[float],
    schedules: list[peers.Schedule],
    bares: list[peers.Bare],
    match_ratio: float,
) -> dict[str, Any]:
    """The line of the memory's limit: the prompts as they are read, then every round's weights at measured bandwidth.

    Our own line gets `share_of_memory_limit`: the time that memory needs over the time that rounds took, without the prompts;
    not where the weights are so small that they fit into a processor's cache.
    """
    size = peers.bytes_read(work.target)
    least = [peers.memory_seconds(work, schedule) for schedule in schedules]
    prompts = statistics.median(bare.prompts for bare in bares)
    shares = [limit / (spent - prompts) for limit, spent in zip(least, seconds, strict=True)]
    ours["share_of_memory_limit"] = statistics.median(shares) if size > KEPT else float("nan")
    limit = line(work, MEMORY, [prompts + each for each in least], match_ratio)
    return limit | {"GB_per_s": peers.bandwidth(size) / 1e9}


def line(work: Workload, name: str, seconds: list[float], match_ratio: float) -> dict[str, Any]:
    """One line of the table: tokens a second, median and half the interquartile range."""
    rates = [work.new_tokens / each for each in seconds]
    median, spread = median_and_spread(rates)
    return {
        "pair": work.name,
        "peer": name,
        "match_ratio": round(match_ratio, 3),
        "new_tokens": work.new_tokens,
        "prompt": work.ids.shape[1],
        "tokens_per_second": median,
        "spread": spread,
        "repeats": len(seconds),
    }


def speed(plan: Plan) -> pd.DataFrame:
    """All peers over the match ratio on the synthetic pair, a long answer, and the embedded pair on its own questions."""
    lines = []
    target, draft = synthetic_pair(plan.shapes)
    ids = synthetic_prompt(target.config.vocab_size, plan.prompt)
    works = [(ratio, plan.new_tokens) for ratio in plan.match_ratios] + [(0.8, plan.long_answer)] * (
        plan.long_answer > 0
    )
    for ratio, tokens in tqdm(works, desc="speed", unit="workload"):
        set_match_ratio(target, draft, ratio)
        work = Workload(plan.shapes, target, draft, ids, tokens)
        long = tokens != plan.new_tokens
        lines += compare(work, 1 if long else plan.repeats, ratio in plan.published_at, ratio in plan.as_is_at)
        write("speed", lines)
    lines += longer(plan, target, draft)
    lines += embedded(plan)
    return write("speed", lines)


def longer(plan: Plan, target: Any, draft: Any) -> list[dict[str, Any]]:
    """The same after a longer prompt."""
    set_match_ratio(target, draft, 0.8)
    ids = synthetic_prompt(target.config.vocab_size, plan.long_prompt)
    work = Workload(f"{plan.shapes}, prompt of {plan.long_prompt}", target, draft, ids, plan.new_tokens)
    return compare(work, plan.scaling_repeats, published=True)


def embedded(plan: Plan) -> list[dict[str, Any]]:
    """The embedded pair: whole answers to a question of each group and under an attack, and one that goes on far past its end."""
    pair = load_pair("toy")
    lines = []
    cases: list[tuple[world.Group, str, int]] = [("benign", "", 0), ("scary", "", 0), ("forbidden", "", 0)]
    cases.append(("forbidden", PREFILL, 0))
    if plan.embedded_on:
        cases.append(("benign", "", plan.embedded_on))
    for group, prefill, on in tqdm(cases, desc="embedded pair", unit="question"):
        prefix = pair.tokenizer.encode(prefill, add_special_tokens=False) if prefill else []
        encoded: dict[str, Any] = pair.encode([world.questions(group, 1, seed=3)[0].question], [prefix])
        assert torch.equal(encoded["input_ids"], encoded["draft_input_ids"])
        whole = ssd_generate(pair.target, pair.draft, **encoded, max_new_tokens=plan.new_tokens).sequences[0]
        name = f"embedded, {group}" + (", prefilled" if prefill else "") + (f", on to {on}" if on else "")
        work = Workload(name, pair.target, pair.draft, encoded["input_ids"], on or len(whole))
        lines += compare(work, plan.scaling_repeats if on else 3 * plan.repeats, published=True)
    return lines


def own_tokens(name: str, work: Workload, **settings: Any) -> list[int]:
    """The tokens of `run_own`."""
    return run_own(name, work, **settings).sequences[0].tolist()


def lookup(plan: Plan) -> pd.DataFrame:
    """Guesses from the text so far, against the draft's alone: on copied text, on sums and repetitions, on plain questions."""
    pair = load_pair("toy")
    target, draft = synthetic_pair(plan.shapes, 0.8)
    orbit = synthetic_prompt(target.config.vocab_size, target.config.vocab_size)[0].roll(1)
    copied = torch.cat([orbit[: plan.new_tokens + 20], orbit[:5]]).unsqueeze(0)
    works = [Workload(f"{plan.shapes}, copied text", target, draft, copied, plan.new_tokens)]
    for family in ("sum", "repeat", "sort"):
        question = world.questions("benign", 1, seed=3, family=family)[0].question
        ids = pair.encode([question], [[]])["input_ids"]
        works.append(Workload(f"embedded, {family}", pair.target, pair.draft, ids, plan.new_tokens))
    plain = synthetic_prompt(target.config.vocab_size, plan.prompt)
    works.append(Workload(f"{plan.shapes}, nothing repeats", target, draft, plain, plan.new_tokens))
    lines = []
    for work in tqdm(works, desc="lookup", unit="workload"):
        everyone: dict[str, Peer] = {
            name: partial(own_tokens, name, lookup=name == "with lookup") for name in ("draft", "with lookup")
        }
        warm_up(work)
        answers = [peer(work) for peer in everyone.values()]
        assert answers[0] == answers[1], f"{work.name}: lookup changed the tokens"
        seconds = interleaved(work, everyone, dict.fromkeys(everyone, plan.repeats))
        matched = peers.run_ours(work).stats.match_ratio
        lines += [line(work, name, values, matched) for name, values in seconds.items()]
    return write("lookup", lines)


# ------------------------------------------------------------------------------------------------ context and batch


def scaling(plan: Plan) -> pd.DataFrame:
    """Seconds a token over the context, attention apart, and tokens a second over the batch."""
    target, draft = synthetic_pair(plan.shapes, 0.8)
    lines = [by_context(plan, target, draft, context) for context in tqdm(plan.contexts, desc="context", unit="length")]
    lines += [by_batch(plan, target, draft, rows) for rows in tqdm(plan.batches, desc="batch", unit="size")]
    return write("scaling", lines)


class Clock:
    """A streamer that notes when tokens arrive; its first event is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(peers.clock())

    def end(self) -> None:
        pass

    @property
    def per_token(self) -> float:
        """Seconds a token after the prompt and the first round's tokens."""
        skipped = BLOCK // 4
        return (self.times[-1] - self.times[skipped]) / (len(self.times) - 1 - skipped)


def by_context(plan: Plan, target: Any, draft: Any, context: int) -> dict[str, Any]:
    """Milliseconds a token after a prompt of this length: ours, generate's, and the part that is attention itself."""
    work = Workload(
        plan.shapes, target, draft, synthetic_prompt(target.config.vocab_size, context), plan.scaling_tokens
    )
    warm_up(replace(work, ids=synthetic_prompt(target.config.vocab_size, plan.prompt)))
    ours, theirs, schedules = [], [], []
    for _ in range(plan.scaling_repeats):
        clock = Clock()
        schedules.append(run_own(OURS, work, streamer=clock).stats.schedule)
        ours.append(1000 * clock.per_token)
        clock = Clock()
        peers.generate(work, streamer=clock)
        theirs.append(1000 * clock.per_token)
    attention = [1000 * peers.attention_seconds(work, schedule) / work.new_tokens for schedule in schedules]
    result = {"pair": plan.shapes, "context": context, "rows": 1, "new_tokens": work.new_tokens}
    for name, values in (("ours", ours), ("generate", theirs), ("attention", attention)):
        result[f"{name}_ms"], result[f"{name}_ms_spread"] = median_and_spread(values)
    return result


def by_batch(plan: Plan, target: Any, draft: Any, rows: int) -> dict[str, Any]:
    """Tokens a second of all rows together; each row starts at another place of the orbit."""
    vocabulary = target.config.vocab_size
    prompts = [synthetic_prompt(vocabulary, plan.prompt, row=row)[0].tolist() for row in range(rows)]
    peers.settle_products(target, draft, prompts)
    rates = []
    for _ in range(plan.scaling_repeats + 1):
        begun = peers.clock()
        with peers.own_costs(OURS):
            output = ssd_generate(target, draft, prompts, max_new_tokens=plan.scaling_tokens, eos_token_id=[])
        rates.append(output.stats.tokens / (peers.clock() - begun))
    median, spread = median_and_spread(rates[1:])
    shape = {"pair": plan.shapes, "context": plan.prompt, "rows": rows, "new_tokens": plan.scaling_tokens}
    return shape | {"tokens_per_second": median, "spread": spread, "match_ratio": output.stats.match_ratio}
