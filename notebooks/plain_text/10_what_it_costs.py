# %% [markdown]
"""
[← 09](09_results.ipynb) &nbsp; [11 →](11_train_your_own_draft.ipynb) &nbsp; [Glossary](glossary.md)

# 10 · What it costs

**When does a second model make the first one faster, and when slower?**

You will be able to
- read one round of SSD as a timeline,
- predict its speed from three numbers: the match ratio, the cost of a draft step, the cost of a target pass,
- choose the lookahead, stop guessing where it does not pay, and say when SSD slows you down.

About 5 minutes on a laptop CPU. Sources: the cost model of Leviathan et al. 2023, adapted to SSD; the marginal value theorem (Charnov 1976).
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
NEW_TOKENS = 60
LOOKAHEADS = [1, 2, 3, 4, 6, 8]
REPEATS = 5

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from ssd_lib import load_pair
from ssd_lib.decoding import ssd_generate
from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.lookahead import EDGES, MOST, Lookahead, best_lookahead, known_of, tokens_per_round, weights_read
from ssd_lib.decoding.short_products import WAYS, short_products
from ssd_lib.show import plots
from ssd_lib.toy import world

plots.use_book_style()
pair = load_pair(PAIR)
question = world.questions("benign", 1, seed=3)[0].question
prompts = pair.encode([question], [[]])
results = ROOT / "benchmarks" / "results"


def decode(lookahead):
    """One answer of NEW_TOKENS tokens: it goes on after its end, so that every setting does as much."""
    config = replace(pair.config, lookahead=lookahead)
    return ssd_generate(pair.target, pair.draft, **prompts, config=config, max_new_tokens=NEW_TOKENS, eos_token_id=[])


# %% [markdown]
"""
## One round as a timeline

A round asks the draft for T guesses, one forward each, and the target for all T positions in one forward. Then it chooses
tokens: composite, sample space, scheme, match.

**Predict:** which of the three takes longest on a laptop, for a draft with an eighth of the target's weights?
"""

# %%
events = []


def watch(owner, name, label):
    original = getattr(owner, name)

    def timed(self, *args, **kwargs):
        begun = time.perf_counter()
        result = original(self, *args, **kwargs)
        events.append((label(self), begun, time.perf_counter()))
        return result

    setattr(owner, name, timed)
    return lambda: setattr(owner, name, original)


restore = [
    watch(CachedModel, "call", lambda model: "target" if model.model is pair.target else "draft"),
    watch(Decoder, "walk", lambda _: "choose"),
]
decode(3)
events.clear()
decode(3)
for undo in restore:
    undo()
len(events)

# %% [markdown]
"""
The events of three rounds from the middle of the answer:
"""

# %%
starts = [i for i, (label, _, _) in enumerate(events) if label == "target"]
first, last = starts[5], starts[8]
window = events[first + 1 : last + 1]
zero = window[0][1]
rows = {"draft": 2, "target": 1, "choose": 0}
colors = plots.COLORS | {"choose": plots.COLORS["SSD"]}
figure, axis = plt.subplots(figsize=(8, 2.2))
for label, begun, ended in window:
    axis.broken_barh([(1000 * (begun - zero), 1000 * (ended - begun))], (rows[label] - 0.4, 0.8), color=colors[label])
axis.set_yticks(list(rows.values()), list(rows))
axis.set_xlabel("milliseconds");

# %% [markdown]
"""
The draft's steps come one after the other, then one long bar for the target. Choosing takes least: where both models have the
same favourite, it is what both schemes emit, and nothing has to be chosen at all.

Look for rounds with one draft step less than you expect. The target needs only T − 1 guesses to score T positions. The last
position needs the draft's probabilities, too, but only if all guesses before it were accepted; and when the draft takes that step, it
also reads the target's favourite right after it: a pass over two tokens costs what one does. The next round then starts with a guess in hand.
"""

# %%
spent = pd.DataFrame(events, columns=["part", "begun", "ended"])
spent["seconds"] = spent.ended - spent.begun
spent.groupby("part").seconds.agg(["count", "median", "sum"]).assign(share=lambda f: f["sum"] / f["sum"].sum()).round(4)

# %% [markdown]
"""
## How many tokens a round emits

If each guess is accepted with probability $m$, a round over $T$ positions emits one token for certain, a second if the first guess
was accepted, and so on. Ordinary speculative decoding gets its last token for nothing: no guess stands there. In SSD each token
needs both models, so that the last token costs a draft step; reading ahead turns that step into the next round's first.

**Predict:** tokens per round at m = 0.8 and T = 3? And at T = 100?
"""


# %%
def simulated(match_ratio, lookahead, rounds=20_000):
    held = np.random.default_rng(0).random((rounds, lookahead - 1)) < match_ratio
    return 1 + held.cumprod(axis=1).sum(axis=1).mean()


for m, T in [(0.3, 3), (0.8, 3), (0.8, 100), (0.95, 8)]:
    assert abs(simulated(m, T) - tokens_per_round(m, T)) < 0.05
    print(f"m = {m}, T = {T}: {tokens_per_round(m, T):.2f} tokens a round")

# %% [markdown]
"""
However far the draft looks ahead, a round emits at most $1/(1-m)$ tokens on average. At a match ratio of 0.8 that is five.
"""

# %% [markdown]
"""
## What a round costs

A draft step takes $d$ seconds, a target pass over $T$ tokens $v(T)$. Measured here, on this machine, with the
library's short products (more of them below):
"""


# %%
@torch.inference_mode()
def forward_seconds(model, tokens, repeats=12):
    seconds = []
    with short_products(model):
        cached = CachedModel(model, prompts["input_ids"].tolist(), 256)
        cached.cache.show_up_to(128)
        for _ in range(2 * repeats):
            begun = time.perf_counter()
            cached.forward(torch.ones(1, tokens, dtype=torch.long))
            seconds.append(time.perf_counter() - begun)
    return np.median(seconds[repeats:])  # by then the ways of multiplying are chosen


d = forward_seconds(pair.draft, 1)
v = {T: forward_seconds(pair.target, T) for T in LOOKAHEADS}
pd.Series({"draft step": d} | {f"target, {T} tokens": seconds for T, seconds in v.items()}).mul(1000).round(2)

# %% [markdown]
"""
The weights are read once, whether a pass is over one token or over a few: that is why speculation pays at all. How flat the column
is depends on the machine. A pass consists of matrix products of the weights with one column of numbers or with a few, and libraries are
not equally good at all of them.

## Short products

The same product can be computed in several ways. Here are those that the library knows, on a weight matrix of a usual size, in
milliseconds.

**Predict:** is the way that is best for one token best for four, too?
"""

# %%
weight = torch.randn(2048, 1024)


@torch.inference_mode()
def product_seconds(way, tokens, repeats=9):
    x, seconds = torch.randn(1, tokens, 1024), []
    assert torch.allclose(WAYS[way](x, weight, None), x @ weight.T, atol=1e-3), "a way, not another result"
    for _ in range(repeats):
        begun = time.perf_counter()
        WAYS[way](x, weight, None)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


products = pd.DataFrame({way: {T: 1000 * product_seconds(way, T) for T in LOOKAHEADS} for way in WAYS})
products.rename_axis("tokens").round(2)

# %% [markdown]
"""
`as is` is what a linear layer does by itself, `flipped` multiplies with the operands exchanged, `onednn` asks another library. The lowest
number of a row is this machine's best way for so many tokens, and another processor has another table. So the library does not guess: the first
products of each shape and number of tokens take the ways in turn, with a clock, and from then on the quickest is taken
(`ssd_lib.decoding.short_products`; on a CPU only, weights stay as they are, `SSD_SHORT_PRODUCTS=off` leaves it out). They agree up to rounding, as the cell asserts.

Tokens per round over seconds per round is the speed. It is worth building once:
"""


# %%
def predicted_speed(match_ratio, lookahead):
    """Tokens a second of SSD: a draft step a guess, and one where there is none."""
    return tokens_per_round(match_ratio, lookahead) / (max(lookahead - 1, 1) * d + v[lookahead])


measured = {}
for T in LOOKAHEADS:
    runs = [decode(T) for _ in range(REPEATS)]
    rates = [NEW_TOKENS / run.stats.seconds for run in runs]
    measured[T] = (np.median(rates), runs[0].stats.match_ratio, runs[0].sequences[0].tolist())
assert all(tokens == measured[1][2] for _, _, tokens in measured.values()), "T must not change a token"
match_ratio = measured[1][1]
pd.DataFrame(
    {
        "predicted": {T: predicted_speed(match_ratio, T) for T in LOOKAHEADS},
        "measured": {T: rate for T, (rate, _, _) in measured.items()},
    }
).round(0).rename_axis("lookahead")

# %% [markdown]
r"""
The tokens are the same for every T (the cell asserts it): T is free to be chosen for speed alone. The prediction leaves out
reading the prompt and choosing tokens, so it is too high.

## The best lookahead

With $T$ draft steps a round and a constant $v$, tokens$(T)$ / seconds$(T)$ has its maximum where $e^{sT} = 1 + s(T + r)$, with
$s = -\ln m$ and $r = v/d$: a branch of Lambert's W. (Derivation: `docs/lookahead.md`.) (One step
less a round is the same with $r = v/d - 1$.)

**Predict:** does a cheaper draft ask for a longer or a shorter lookahead?
"""

# %%
ratios = np.linspace(0.2, 0.98, 60)
figure, axis = plt.subplots(figsize=(6, 3))
for cost_ratio, style in [(2, "-"), (7, "--"), (30, ":")]:
    axis.plot(
        ratios,
        [best_lookahead(m, cost_ratio) for m in ratios],
        style,
        color=plots.COLORS["SSD"],
        label=f"v/d = {cost_ratio}",
    )
axis.set_xlabel("match ratio")
axis.set_ylabel("best lookahead T*")
axis.set_yscale("log")
axis.legend();

# %%
by_hand = max(np.arange(0.1, 60, 0.01), key=lambda t: (1 - 0.8**t) / (t + 7))
assert abs(by_hand - best_lookahead(0.8, 7)) < 0.02
round(by_hand, 2)

# %% [markdown]
r"""
The curve is the model's; machines have steps, and guesses are not all alike. `lookahead="auto"` is the default, and one controller,
`Lookahead`, does it. For each pair it remembers what rounds cost (`Costs`: a draft step, and a target pass over each T) and how often guesses were
accepted lately. *Before* a round it takes the T that promises most tokens a second: for batches and on a GPU that is all. One row on a CPU can do better: there Python
can look at every guess, so *within* the round the controller is asked after each one whether another is worth its step.

## When to stop guessing

After $g$ guesses, is another one worth its step? Let $A_g$ be the chance that all $g$ are accepted, judged by how sure the draft was of
each, and $R$ the tokens a second of the last rounds. The answer is old: stay as long as what comes next promises more than
the average (the *marginal value theorem*). Go on if there are $n$ more guesses with

$$A_g\,(m + m^2 + \dots + m^n) \;>\; R\,\big(\text{seconds}(g + n) - \text{seconds}(g)\big).$$

**Predict:** which stops sooner, a draft that was sure three times, or one that hesitated once?
"""


# %%
def another(confidences, controller):
    reached, gain, made = 1.0, 0.0, len(confidences)
    for confidence in confidences:
        reached *= controller.acceptance(confidence)  # how often guesses of such a confidence were accepted lately
    seconds = controller.costs  # of a round: positions of the target, draft steps
    for n in range(1, MOST - made):
        gain += reached * controller.match_ratio**n
        if gain > controller.rate() * (seconds(made + n + 1, made + n) - seconds(made + 1, max(made, 1))):
            return True
    return False


# timed=False: nothing is measured, costs follow from the numbers of weights
taught = Lookahead(pair.config, pair.target, pair.draft, [[0]], stepwise=True, timed=False)
for _ in range(40):  # a draft whose sure guesses are accepted and whose hesitant ones mostly are not
    taught.observe([[True, True, False]], positions=4, steps=3, seconds=0.0, confidences=[0.99, 0.98, 0.5])
taught.next(room=MOST)  # a round begins: the rate of the last ones is what another guess is measured against
for confidences in [[], [0.99], [0.99] * 3, [0.99, 0.5], [0.5], [0.99] * 12, [0.5, 0.5]]:
    assert another(confidences, taught) == taught.another(confidences)
    print(f"sure of its guesses {confidences}: {'another' if another(confidences, taught) else 'stop'}")

# %% [markdown]
"""
One hesitation is enough. The decoder learns while it decodes how much a confidence is worth; here is what it has learnt of this
pair after four more answers.
"""

# %%
for _ in range(4):
    auto = decode("auto")
    assert auto.sequences[0].tolist() == measured[1][2]
    chosen = pd.Series([positions for positions, _, _ in auto.stats.schedule])
    print(
        f"{NEW_TOKENS / auto.stats.seconds:4.0f} tokens a second, positions a round {chosen.value_counts().to_dict()}"
    )

# %%
learnt = known_of(pair.target, pair.draft, rows=1)
names = [f"up to {edge:g}" for edge in [*EDGES, 1]]
seen = [share.seen >= 1 for share in learnt.by_confidence]
held = [share.accepted / share.seen if known else 0 for share, known in zip(learnt.by_confidence, seen, strict=True)]
figure, axis = plt.subplots(figsize=(7, 2.6))
axis.bar(names, held, color=plots.COLORS["draft"])
for place, known in enumerate(seen):
    if not known:
        axis.text(place, 0.03, "not seen", ha="center", rotation=90, fontsize=8)
axis.set(xlabel="the draft's confidence in its guess", ylabel="share that held lately", ylim=(0, 1.05));

# %% [markdown]
"""
A sure draft may go on, a hesitant one is stopped. The last guesses count most, so the bars follow the text: under attack a draft
may be sure of a refusal that the target does not (yet) want, and the bars on the right sink until both agree again.
"""

# %% [markdown]
"""
## Beside its peers

`make bench` runs every way to decode in turns, in one process, and keeps the medians. The pair has random weights and a
match ratio that is chosen exactly (`benchmarks.synthetic`): speed depends on shapes and on agreement, not on what is said.
"""

# %%
speed = pd.read_csv(results / "speed.csv")
about = speed.iloc[0]
print(
    f"{about.device}, {about.threads} threads, {about.clock} time, load {about.load_1min}, torch {about.torch}, {about.date}"
)
short = speed[(speed["pair"] == about["pair"]) & (speed["new_tokens"] == about["new_tokens"])]
rates = short.pivot_table(index="match_ratio", columns="peer", values="tokens_per_second")
rates.round(1)

# %%
sys.path.insert(0, str(ROOT))
from benchmarks import plot

plot.speed(speed);

# %% [markdown]
"""
The published loop computes the same tokens, but reads the whole sequence again at every step. Assisted generation is
ordinary speculative decoding with the same draft: it does not need the draft's opinion on every token, and its answer is the target's own.

## When SSD would slow you down

SSD is slower than the target alone when a round's tokens do not pay for the draft.
"""

# %%
against = pd.DataFrame(
    {
        "× generate": rates["ssd_lib"] / rates["target.generate"],
        "× assisted": rates["ssd_lib"] / rates["assisted generation"],
    }
)
against["share of the limit"] = rates["ssd_lib"] / rates["bare forwards"]
against.round(2)

# %% [markdown]
"""
Under attack the match ratio is low, if only for a few bins: protection is paid for where it is used. On harmless text, where
target and draft agree, the same draft pays for itself.

## The roofline

At batch 1 a forward is bound by memory: it cannot take less time than reading its weights.
"""

# %%
block = torch.empty(1 << 27, dtype=torch.uint8)
other = torch.empty_like(block)
other.copy_(block)
seconds = []
for _ in range(5):
    begun = time.perf_counter()
    other.copy_(block)
    seconds.append(time.perf_counter() - begun)
bandwidth = 2 * block.numel() / min(seconds)
bytes_read = {name: 4 * weights_read(model) for name, model in [("target", pair.target), ("draft", pair.draft)]}
print(f"copy: {bandwidth / 1e9:.0f} GB/s")
for name, size in bytes_read.items():
    took = v[1] if name == "target" else d
    print(f"{name}: {size / 1e6:.1f} MB, at least {1000 * size / bandwidth:.2f} ms, measured {1000 * took:.2f} ms")

# %% [markdown]
"""
The embedded pair is so small that Python and the start of each operation take longer than the weights: it is bound by
overhead. A model of 7 B weights in bf16 reads 13 GB a token: there the bandwidth is everything, and on a GPU a round can be
recorded once and replayed (`ssd_generate(…, cuda_graph="auto")`, the default), so that Python has no part in it.

## Longer contexts, larger batches
"""

# %%
scaling = pd.read_csv(results / "scaling.csv")
plot.scaling(scaling);

# %% [markdown]
"""
Left: without the attention products themselves, a token costs little more after thousands of tokens than after 128
(a quarter more on the machine of the benchmarks page), since nothing is read twice. Right: rows share one reading of the weights. Finished rows leave the batch and
waiting prompts take their place (`ssd_generate(…, rows=16)` decodes any number of prompts, 16 at a time).
"""

# %%
parts = pd.read_csv(results / "parts.csv")
parts.pivot_table(index="part", columns="vocabulary", values=["ms_per_round", "share"], sort=False).round(3)

# %% [markdown]
"""
Composite and switching are the price of safety as such: all else is speculative decoding.

## Exercises

**1.** How many tokens does a round emit on average at m = 0.8, T = 3?
"""

# %%
from ssd_lib.show.exercises import check

tokens = ...
check("tokens a round", tokens, 1 + 0.8 + 0.64, "One for certain, one more with 0.8, one more with 0.8 · 0.8.")

# %% [markdown]
"""
**2.** A draft step takes 0.15 of a target pass, and the pass over T tokens takes no longer than over one. How many times as
fast as the target alone is SSD? Count T draft steps a round.
"""


# %%
def speedup(match_ratio, lookahead, draft_cost=0.15):
    return ...


expected = [(1 - m**T) / (1 - m) / (T * 0.15 + 1) for m, T in [(0.3, 3), (0.6, 3), (0.9, 6)]]
got = [speedup(m, T) for m, T in [(0.3, 3), (0.6, 3), (0.9, 6)]]
check("speedup", ... if ... in got else got, expected, "Tokens a round over T · draft_cost + 1 target passes.")

# %% [markdown]
"""
**3.** At which match ratio would SSD with T = 3 break even there? (Use your function; no check.)

## Takeaways
1. Speed is tokens per round over seconds per round; the match ratio bounds the first, the draft's cost the second.
2. The lookahead changes no token, so it can follow the match ratio while decoding.
3. SSD costs what the draft costs: it gains where the models agree, and pays where protection is at work.

## Questions
- When does the draft read ahead in vain, and what does it cost?
- What would a draft with a smaller vocabulary matrix change?
- Which of the costs fall, and which do not, when 16 answers are decoded together?

**Next:** [11_train_your_own_draft](11_train_your_own_draft.ipynb)
"""
