"""Where the time of decoding goes: the two models' forwards, and everything that is ours besides.

The clock runs over the whole loop (`Loop.run`); prompts of the first rows are read before. The time inside the two models
(`CachedModel.call`: nothing but `model(…)`) is subtracted; the rest is choosing, switching and book-keeping: masks, softmax,
sample spaces, the scheduler, the lookahead controller, lists of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel

from benchmarks import peers
from benchmarks.cpu import OURS, Plan, run_own, warm_up, write
from benchmarks.peers import Workload, median_and_spread
from benchmarks.synthetic import PAIRS, synthetic_pair, synthetic_prompt
from ssd_lib.decoding import SSDOutput, ssd_generate
from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.loop import Loop
from ssd_lib.models.inference import greedy, padding, until_eos
from ssd_lib.models.pairs import Pair, load_pair
from ssd_lib.toy import world

GROUPS = ("forbidden", "scary", "benign")
SINGLE = "ssd_lib, T = 1"
GENERATE = "target.generate, batched"


@contextmanager
def timers(target: PreTrainedModel) -> Iterator[dict[str, float]]:
    """While open, counts the seconds of loops, and of their parts: draft, target, softmax and choice."""
    spent: dict[str, float] = defaultdict(float)
    inside = [False]

    def timed(function: Any, name: str | None) -> Callable[..., Any]:
        def run(this: Any, *args: Any, **kwargs: Any) -> Any:
            if not inside[0]:  # a first prompt
                return function(this, *args, **kwargs)
            begun = peers.clock()
            try:
                return function(this, *args, **kwargs)
            finally:
                part = name or ("target" if this.model is target else "draft")
                spent[part] += peers.clock() - begun

        return run

    def loop(function: Any) -> Callable[..., Any]:
        def run(this: Any, *args: Any, **kwargs: Any) -> Any:
            inside[0], begun = True, peers.clock()
            try:
                return function(this, *args, **kwargs)
            finally:
                inside[0] = False
                spent["loop"] += peers.clock() - begun

        return run

    methods = [(CachedModel, "call", None), (Decoder, "probabilities", "softmax")]
    methods += [(Decoder, "decide", "choice"), (Decoder, "settle", "choice")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in ((Loop, "run"), *(m[:2] for m in methods))]
    try:
        for owner, name, part in methods:
            setattr(owner, name, timed(getattr(owner, name), part))
        Loop.run = loop(Loop.run)
        yield spent
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def parts(spent: dict[str, float]) -> dict[str, float]:
    """A loop as five parts that add up: what is neither a forward, nor softmax, nor a choice is book-keeping."""
    rest = spent["loop"] - spent["draft"] - spent["target"] - spent["softmax"] - spent["choice"]
    named = {"draft forwards": spent["draft"], "target forwards": spent["target"]}
    return named | {"softmax": spent["softmax"], "composite and switching": spent["choice"], "book-keeping": rest}


def overhead(spent: dict[str, float]) -> float:
    """The share of a loop outside both models' forwards."""
    return 1 - (spent["draft"] + spent["target"]) / spent["loop"]


# ------------------------------------------------------------------------------------------------ one row


def shares(plan: Plan) -> pd.DataFrame:
    """Milliseconds of a round by part, one row, at two vocabularies: medians over the runs."""
    lines = []
    for shapes in tqdm((plan.shapes, plan.large_vocabulary), desc="parts of a round", unit="pair"):
        target, draft = synthetic_pair(shapes, 0.8)
        ids = synthetic_prompt(target.config.vocab_size, plan.prompt)
        work = Workload(shapes, target, draft, ids, plan.scaling_tokens)
        warm_up(work)
        runs = []
        for _ in range(plan.repeats):
            with timers(target) as spent:
                rounds = run_own(OURS, work).stats.rounds
            runs.append({name: (1000 * each / rounds, each / spent["loop"]) for name, each in parts(spent).items()})
        for part in runs[0]:
            milliseconds, share = (median_and_spread([run[part][i] for run in runs])[0] for i in (0, 1))
            shape = {"pair": shapes, "vocabulary": PAIRS[shapes][0].vocabulary, "part": part}
            lines.append(shape | {"ms_per_round": milliseconds, "share": share})
    return write("parts", lines)


# ------------------------------------------------------------------------------------------------ a batch of the embedded pair


def batches(plan: Plan) -> pd.DataFrame:
    """The embedded pair answers a batch of each group: cost a token beside the target's own batched generate, and its parts."""
    pair, lines = load_pair("toy"), []
    for group in tqdm(GROUPS, desc="embedded batches", unit="group"):
        lines += of_group(plan, pair, group)
    return write("batches", lines)


def of_group(plan: Plan, pair: Pair, group: Any) -> list[dict[str, Any]]:
    """Three lines: ours with lookaheads of the controller's choice, with T = 1, and generate; taking turns."""
    questions = [item.question for item in world.questions(group, plan.embedded_batch, seed=5)]
    prompts = pair.prompts(questions)
    peers.settle_products(pair.target, pair.draft, list(prompts[0]))
    everyone: dict[str, Callable[[], tuple[int, dict[str, float]]]] = {
        OURS: lambda: ours(pair, prompts, plan.new_tokens, "auto"),
        SINGLE: lambda: ours(pair, prompts, plan.new_tokens, 1),
        GENERATE: lambda: generate(pair, questions, plan.new_tokens),
    }
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(2 + 2 * plan.repeats):
        for name, run in everyone.items():
            begun = peers.clock()
            tokens, spent = run()
            milliseconds = 1000 * (peers.clock() - begun) / tokens
            runs[name].append({"tokens": tokens, "ms_per_token": milliseconds} | spent)
    lines = []
    for name, values in runs.items():
        frame = pd.DataFrame(values[2:])
        line = {"pair": "embedded", "group": group, "rows": len(questions), "peer": name} | frame.median().to_dict()
        lines.append(line | {"spread": median_and_spread(frame["ms_per_token"].tolist())[1]})
    for line in lines:
        line["times_generate"] = line["ms_per_token"] / lines[-1]["ms_per_token"]
    return lines


def ours(
    pair: Pair, prompts: Sequence[list[list[int]]], new_tokens: int, lookahead: Any
) -> tuple[int, dict[str, float]]:
    """Tokens of the answers, and shares of the loop."""
    output: SSDOutput
    with peers.own_costs(f"{OURS}, {lookahead}"), timers(pair.target) as spent:
        config = replace(pair.config, lookahead=lookahead)
        output = ssd_generate(
            pair.target, pair.draft, prompts[0], draft_input_ids=prompts[1], config=config, max_new_tokens=new_tokens
        )
    rounds = output.stats.rounds
    named = {f"{name.replace(' ', '_')}_ms_per_round": 1000 * each / rounds for name, each in parts(spent).items()}
    return output.stats.tokens, named | {"overhead": overhead(spent), "rounds": rounds}


def generate(pair: Pair, questions: Sequence[str], new_tokens: int) -> tuple[int, dict[str, float]]:
    """Tokens of the target's own greedy answers, each counted up to its end."""
    encoded = pair.encode(questions)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    made = greedy(pair.target, ids, mask, max_new_tokens=new_tokens, pad_token_id=padding(pair.tokenizer))
    return sum(len(until_eos(row, pair.target)) for row in made[:, ids.shape[1] :].tolist()), {}
