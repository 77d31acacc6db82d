"""The CPU tables: peers side by side over the match ratio, context length, batch size, and where a round's time goes.

    python -m benchmarks            everything, about 25 minutes
    python -m benchmarks --quick    micro shapes, a minute: proves the path, measures nothing of interest

Peers take turns within one process, so that a slow moment of the machine meets all of them. Every table is written to
benchmarks/results/ as it is finished.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from tqdm import tqdm

from benchmarks import peers
from benchmarks.peers import Peer, Workload, interleaved, median_and_spread
from ssd_lib import world
from ssd_lib.config import SSDConfig
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.batching import ssd_generate_many
from ssd_lib.decoding.cached_model import CachedModel
from ssd_lib.decoding.rounds import Decoder
from ssd_lib.decoding.stepwise import StepwiseDecoder
from ssd_lib.pairs import load_pair
from ssd_lib.synthetic import BLOCK, PAIRS, set_match_ratio, synthetic_pair, synthetic_prompt

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """What is measured. The defaults take about 25 minutes on two cores that nothing else uses."""

    shapes: str = "120m"
    large_vocabulary: str = "120m-llama3-vocabulary"
    match_ratios: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    published_at: tuple[float, ...] = (0.3, 0.6, 0.8, 1.0)
    prompt: int = 64
    new_tokens: int = 128
    long_answer: int = 512
    long_prompt: int = 256
    embedded_on: int = 400
    repeats: int = 3
    contexts: tuple[int, ...] = (128, 512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    scaling_tokens: int = 128
    scaling_repeats: int = 3


BRIEF = Plan(
    match_ratios=(0.3, 0.5, 0.7, 0.8, 0.9, 1.0),
    published_at=(0.3, 0.8),
    new_tokens=40,
    long_answer=0,
    embedded_on=0,
    repeats=2,
    contexts=(128, 512, 1024, 2048),
    batches=(1, 4, 16),
    scaling_tokens=40,
    scaling_repeats=1,
)
QUICK = Plan(
    shapes="micro",
    large_vocabulary="micro",
    match_ratios=(0.5, 1.0),
    published_at=(0.5,),
    new_tokens=20,
    long_answer=40,
    long_prompt=64,
    embedded_on=80,
    repeats=2,
    contexts=(64, 128),
    batches=(1, 4),
    scaling_tokens=20,
    scaling_repeats=1,
)


def environment(device: str = "cpu") -> dict[str, Any]:
    """What every line of a result was measured with."""
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
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.5g")
    return frame


# ------------------------------------------------------------------------------------------------ peers over the match ratio


PREFILL = "Sure, here is the recipe. Put"
OURS, FIXED, LIMIT = "ssd_lib", "ssd_lib, T = 3", "bare forwards (limit)"
GENERATE, ASSISTED, PUBLISHED = "target.generate", "assisted generation", "published loop"
ASSISTED_FIXED = "assisted generation, T = 2"


def compare(work: Workload, repeats: int, published: bool) -> list[dict[str, Any]]:
    """One workload through all peers; raises AssertionError where tokens differ that must not."""
    schedules: list[tuple[tuple[int, int, int], ...]] = []

    def limit(_: Workload) -> list[int]:
        peers.bare_forwards(work, schedules[-1])
        return []

    def ours(_: Workload) -> list[int]:
        output = peers.run_ours(work, lookahead="auto")
        schedules.append(output.stats.schedule)
        return output.sequences[0].tolist()

    everyone: dict[str, Peer] = {
        OURS: ours,
        FIXED: partial(peers.ours, lookahead=3),
        GENERATE: peers.generate,
        ASSISTED: peers.assisted,
        ASSISTED_FIXED: peers.assisted_fixed,
        LIMIT: limit,
    }
    answers = {name: peer(work) for name, peer in everyone.items()}  # warms up, too
    assert answers[OURS] == answers[FIXED], f"{work.name}: the lookahead changed the tokens"
    assert answers[GENERATE] == answers[ASSISTED] == answers[ASSISTED_FIXED], (
        f"{work.name}: assisted generation changed the tokens"
    )
    seconds = interleaved(work, everyone, {name: repeats for name in everyone})
    if published:
        begun = peers.clock()
        tokens = peers.published(work)
        seconds[PUBLISHED] = [peers.clock() - begun]
        assert tokens == answers[OURS], f"{work.name}: the published loop gives different tokens"
    mean_lookahead = statistics.mean(positions for schedule in schedules[1:] for positions, _, _ in schedule)
    matched = peers.run_ours(work, lookahead=3).stats.match_ratio
    return [line(work, name, values, matched) | {"mean_T": mean_lookahead} for name, values in seconds.items()]


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
        lines += compare(work, 2 if long else plan.repeats, long or ratio in plan.published_at)
        write("speed", lines)
    lines += longer(plan, target, draft)
    lines += embedded(plan)
    return write("speed", lines)


def longer(plan: Plan, target: Any, draft: Any) -> list[dict[str, Any]]:
    """The same behind a longer prompt."""
    set_match_ratio(target, draft, 0.8)
    ids = synthetic_prompt(target.config.vocab_size, plan.long_prompt)
    work = Workload(f"{plan.shapes}, prompt of {plan.long_prompt}", target, draft, ids, plan.new_tokens)
    return compare(work, plan.scaling_repeats, published=True)


def embedded(plan: Plan) -> list[dict[str, Any]]:
    """The embedded pair: whole answers to a question of each group and under an attack, and one that goes on far behind its end."""
    pair = load_pair("toy")
    lines = []
    cases = [(group, "", 0) for group in ("benign", "scary", "forbidden")] + [("forbidden", PREFILL, 0)]
    cases += [("benign", "", plan.embedded_on)] if plan.embedded_on else []
    for group, prefill, on in tqdm(cases, desc="embedded pair", unit="question"):
        prefix = pair.tokenizer.encode(prefill, add_special_tokens=False) if prefill else []
        encoded = pair.encode([world.questions(group, 1, seed=3)[0].question], [prefix])
        assert torch.equal(encoded["input_ids"], encoded["draft_input_ids"])
        whole = ssd_generate(pair.target, pair.draft, **encoded, max_new_tokens=plan.new_tokens).sequences[0]
        name = f"embedded, {group}" + (", prefilled" if prefill else "") + (f", on to {on}" if on else "")
        work = Workload(name, pair.target, pair.draft, encoded["input_ids"], on or len(whole))
        lines += compare(work, 2 if on else 5 * plan.repeats, published=True)
    return lines


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
            name: partial(peers.ours, lookahead="auto", lookup=name == "with lookup")
            for name in ("draft", "with lookup")
        }
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
        """Seconds a token once the prompt has been read: from the first answer token on, but the first round's few."""
        skipped = BLOCK // 4
        return (self.times[-1] - self.times[skipped]) / (len(self.times) - 1 - skipped)


def by_context(plan: Plan, target: Any, draft: Any, context: int) -> dict[str, Any]:
    """Milliseconds a token behind a prompt of this length: ours, generate's, and the part that is attention itself."""
    work = Workload(
        plan.shapes, target, draft, synthetic_prompt(target.config.vocab_size, context), plan.scaling_tokens
    )
    ours, theirs, attention = [], [], []
    for _ in range(plan.scaling_repeats + 1):
        for clocks, peer in ((ours, peers.ours), (theirs, peers.generate)):
            clock = Clock()
            peer(work, streamer=clock)
            clocks.append(1000 * clock.per_token)
    schedule = peers.run_ours(work).stats.schedule
    attention = [1000 * peers.attention_seconds(work, schedule) / work.new_tokens for _ in range(plan.scaling_repeats)]
    result = {"pair": plan.shapes, "context": context, "rows": 1, "new_tokens": work.new_tokens}
    for name, values in (("ours", ours[1:]), ("generate", theirs[1:]), ("attention", attention)):
        result[f"{name}_ms"], result[f"{name}_ms_spread"] = median_and_spread(values)
    return result


def by_batch(plan: Plan, target: Any, draft: Any, rows: int) -> dict[str, Any]:
    """Tokens a second of all rows together; each row starts at another place of the orbit."""
    vocabulary = target.config.vocab_size
    prompts = [synthetic_prompt(vocabulary, plan.prompt, row=row)[0].tolist() for row in range(rows)]
    rates = []
    for _ in range(plan.scaling_repeats + 1):
        begun = peers.clock()
        output = ssd_generate_many(
            target,
            draft,
            prompts,
            config=SSDConfig(lookahead="auto"),
            rows=rows,
            max_new_tokens=plan.scaling_tokens,
            eos_token_id=[],
            trace=False,
        )
        rates.append(output.stats.tokens / (peers.clock() - begun))
    median, spread = median_and_spread(rates[1:])
    shape = {"pair": plan.shapes, "context": plan.prompt, "rows": rows, "new_tokens": plan.scaling_tokens}
    return shape | {"tokens_per_second": median, "spread": spread, "match_ratio": output.stats.match_ratio}


# ------------------------------------------------------------------------------------------------ where a round's time goes


def shares(plan: Plan) -> pd.DataFrame:
    """Milliseconds of a round by part, at two vocabularies."""
    lines = []
    for shapes in tqdm((plan.shapes, plan.large_vocabulary), desc="parts of a round", unit="pair"):
        target, draft = synthetic_pair(shapes, 0.8)
        ids = synthetic_prompt(target.config.vocab_size, plan.prompt)
        work = Workload(shapes, target, draft, ids, plan.scaling_tokens)
        peers.ours(work)
        with timers() as spent:
            stats = peers.run_ours(work).stats
        rounds = stats.rounds
        for part, seconds in parts(spent).items():
            lines.append(
                {
                    "pair": shapes,
                    "vocabulary": PAIRS[shapes][0].vocabulary,
                    "part": part,
                    "ms_per_round": 1000 * seconds / rounds,
                    "share": seconds / spent["round"],
                }
            )
    return write("parts", lines)


def parts(spent: dict[str, float]) -> dict[str, float]:
    """A round as four parts that add up: what is neither a forward nor a choice is the loop's own."""
    choice = spent["decide"] + spent["settle"]
    rest = spent["round"] - spent["draft"] - spent["target"] - choice
    named = {"draft forwards": spent["draft"], "target forward": spent["target"]}
    return named | {"composite and switching": choice, "softmax, masks, host": rest}


class timers:
    """Counts the seconds spent in a round's parts while it is open."""

    def __enter__(self) -> dict[str, float]:
        self.spent: dict[str, float] = defaultdict(float)
        self.originals = [(Decoder, name, getattr(Decoder, name)) for name in ("round", "decide", "settle")]
        self.originals += [(StepwiseDecoder, "round", StepwiseDecoder.round), (CachedModel, "call", CachedModel.call)]
        for owner, name, function in self.originals:
            setattr(owner, name, self._timed(name, function))
        return self.spent

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self.originals:
            setattr(owner, name, function)

    def _timed(self, name: str, function: Any) -> Any:
        sizes: dict[int, str] = {}

        def timed(this: Any, *args: Any, **kwargs: Any) -> Any:
            begun = peers.clock()
            result = function(this, *args, **kwargs)
            part = name
            if name == "call":  # a decoder's target is the model with more layers
                part = sizes.setdefault(
                    id(this.model), "target" if this.model.config.num_hidden_layers > 2 else "draft"
                )
                part = "prompt" if args[0].shape[1] > 16 else part
            self.spent[part] += peers.clock() - begun
            return result

        return timed


# ------------------------------------------------------------------------------------------------ the table


def table(
    speed_frame: pd.DataFrame, scaling_frame: pd.DataFrame, parts_frame: pd.DataFrame, lookup_frame: pd.DataFrame
) -> str:
    """What `make bench` prints: tokens a second, and the five ratios of the project's issue on speed."""
    wide = speed_frame.pivot_table(
        index=["pair", "match_ratio", "new_tokens"], columns="peer", values="tokens_per_second", observed=True
    )
    order = [name for name in (OURS, FIXED, GENERATE, ASSISTED, ASSISTED_FIXED, PUBLISHED, LIMIT) if name in wide]
    wide = wide[order]
    ratios = pd.DataFrame(
        {
            f"× {name}": wide[OURS] / wide[name]
            for name in (PUBLISHED, GENERATE, ASSISTED, ASSISTED_FIXED)
            if name in wide
        }
        | {"share of the limit": wide[OURS] / wide[LIMIT]}
    )
    context = scaling_frame.dropna(subset=["ours_ms"])[["context", "ours_ms", "attention_ms", "generate_ms"]]
    context = context.assign(without_attention_ms=context.ours_ms - context.attention_ms)
    batch = scaling_frame.dropna(subset=["tokens_per_second"])[["rows", "tokens_per_second", "spread"]]
    batch = batch.assign(times_one_row=batch.tokens_per_second / batch.tokens_per_second.iloc[0])
    blocks = [
        ("tokens a second (medians)", wide.round(1)),
        ("ssd_lib against each peer", ratios.round(2)),
        ("milliseconds a token over the context", context.round(2).set_index("context")),
        ("batch", batch.round(2).set_index("rows")),
        ("lookup", lookup_frame.pivot_table(index="pair", columns="peer", values="tokens_per_second").round(1)),
        ("parts of a round", parts_frame.set_index(["vocabulary", "part"])[["ms_per_round", "share"]].round(3)),
    ]
    about = ", ".join(f"{name} {value}" for name, value in environment().items())
    return "\n\n".join([about, *(f"{title}\n{frame.to_string()}" for title, frame in blocks)])


def main(quick: bool = False, only: str = "", brief: bool = False) -> str:
    """Measure, write the CSVs, draw the figures; returns the table. `only`: speed, scaling, parts or lookup, the rest from disk.

    brief: fewer points and tokens, one thread, and the process's own CPU time: for a machine that others use, too.
    """
    from benchmarks.plot import draw

    transformers.utils.logging.set_verbosity_error()
    plan = QUICK if quick else BRIEF if brief else Plan()
    if brief:
        peers.measure_cpu_time()
        torch.set_num_threads(1)
    frames = []
    for name, measure in (("speed", speed), ("scaling", scaling), ("parts", shares), ("lookup", lookup)):
        on_disk = RESULTS / f"{name}.csv"
        frames.append(measure(plan) if only in ("", name) or not on_disk.exists() else pd.read_csv(on_disk))
    if not quick:
        draw(RESULTS)
    return table(*frames)
