# %% [markdown]
"""
[← 09](09_results.ipynb) &nbsp; [11 →](11_train_your_own_draft.ipynb) &nbsp; [Glossary](glossary.md)

# 10 · What it costs

**When does a second model make the first one faster, and when slower?**

You will be able to
- read one round of SSD as a timeline,
- predict its speed from three numbers: the match ratio, the cost of a draft step, the cost of a target pass, and say what the prediction leaves out,
- choose the lookahead, stop guessing where it does not pay, and say when SSD slows you down.

About 5 minutes on a laptop CPU. Times differ from machine to machine and from run to run: the text speaks of ratios. Sources: the cost model of Leviathan et al. 2023, adapted to SSD; the marginal value theorem (Charnov 1976).
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
QUESTIONS = 8  # of a kind, for controllers

# %%
import time
from dataclasses import replace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score

from ssd_lib import load_pair
from ssd_lib.decoding import loop, ssd_generate
from ssd_lib.decoding.decoder import Decoder
from ssd_lib.decoding.kv_cache import CachedModel
from ssd_lib.decoding.lookahead import MOST, Costs, Lookahead, best_lookahead, tokens_per_round, weights_read
from ssd_lib.decoding.short_products import WAYS, short_products
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.stats import wilson
from ssd_lib.show import plots
from ssd_lib.toy import world

plots.use_book_style()
pair = load_pair(PAIR)
on_cpu = pair.target.device.type == "cpu"
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
# On a CPU the process's own time is measured: other work on the machine would disturb a wall clock.
clock = time.process_time if on_cpu else time.perf_counter
asked = world.questions("benign", 1, seed=3)[0].question
prompts = pair.encode([asked], [[]])
results = ROOT / "benchmarks" / "results"


def decode(lookahead):
    """One answer of NEW_TOKENS tokens: it goes on after its end, so that every setting does as much."""
    config = replace(pair.config, lookahead=lookahead)
    return ssd_generate(pair.target, pair.draft, **prompts, config=config, max_new_tokens=NEW_TOKENS, eos_token_id=[])


# %% [markdown]
"""
## One round as a timeline

A round over $T$ positions asks the draft for guesses, one forward each, and the target for all positions in one forward. Then it
*chooses* tokens: composite, sample space, scheme, match. Here a clock is put around these three, for one answer with T = 3.
"""

# %%
events = []


def watch(owner, name, label):
    original = getattr(owner, name)

    def timed(self, *args, **kwargs):
        begun = clock()
        result = original(self, *args, **kwargs)
        events.append((label(self), begun, clock()))
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

# %%
predict("10.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
axis.set_xlabel("milliseconds")
plt.show()

spent = pd.DataFrame(events, columns=["part", "begun", "ended"])
spent["seconds"] = spent.ended - spent.begun
parts = spent.groupby("part").seconds.agg(["count", "median", "sum"])
rounds = (spent.part == "target").sum() - 1  # one pass reads the prompt
choosing = parts["sum"]["choose"] / rounds
drafted = (spent.part == "draft").sum() - 1
print(f"{rounds} rounds, {drafted / rounds:.2f} draft steps a round")
parts.assign(share=lambda f: f["sum"] / f["sum"].sum())[["count", "share"]].round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

Three rounds from the middle of the answer, and the sums over all of it. The draft's steps come one after the other, then one long bar for
the target. Choosing takes least: where both models have the same favourite, it is what both schemes emit, and nothing has to be chosen
at all.

About two draft steps a round, though up to three tokens are emitted. T − 1 guesses let the target score T positions. The last
position needs the draft's probabilities, too, but only if all guesses before it were accepted; and when the draft takes that step, it
also reads the target's favourite right after it (a pass over two tokens costs what one does). The next round then begins with a guess in
hand: the step taken is a step saved.
</details>

So the number of draft steps a round, $n(T)$, depends on how it is decoded:

| | draft steps $n(T)$ |
|---|---|
| batches, sampling, every round on a GPU | $T$ |
| one greedy row on a CPU (this chapter) | $T - 1$; at $T = 1$ about ½ |

On a GPU each look at a guess would be a wait, and many rows seldom stop at the same guess; so these cases take $T$.
"""

# %% [markdown]
r"""
## How many tokens a round emits

If each guess is accepted with probability $m$, a round over $T$ positions emits one token for certain, a second if the first guess
was accepted, and so on.

$$\text{tokens}(T) = 1 + m + \dots + m^{T-1} = \frac{1 - m^T}{1 - m}.$$

(Ordinary speculative decoding gets one more for nothing, after its last guess. In SSD each token needs both models.)
"""

# %%
predict("10.p2")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def simulated(match_ratio, lookahead, rounds=20_000):
    held = np.random.default_rng(0).random((rounds, lookahead - 1)) < match_ratio
    return 1 + held.cumprod(axis=1).sum(axis=1).mean()


for m, T in [(0.3, 3), (0.8, 3), (0.8, 100), (0.95, 8)]:
    assert abs(simulated(m, T) - tokens_per_round(m, T)) < 0.05
    print(f"m = {m}, T = {T}: {tokens_per_round(m, T):.2f} tokens a round")

# %% [markdown]
"""
<details><summary>What happens</summary>

However far the draft looks ahead, a round emits at most $1/(1-m)$ tokens on average. At a match ratio of 0.8 that is five: looking
far ahead is no cure for a low match ratio. (The cell rolls dice and compares.)
</details>
"""

# %% [markdown]
"""
## What a round costs

A draft step takes $d$ seconds, a target pass over $T$ tokens $v(T)$. Measured here, as multiples of a draft step:
"""


# %%
@torch.inference_mode()
def forward_seconds(tokens, repeats=20):
    """Medians of a draft step and of a target pass over so many tokens, in turns as in a round."""
    seconds = {pair.draft: [], pair.target: []}
    with short_products(pair.target), short_products(pair.draft):
        models = [(CachedModel(model, prompts["input_ids"].tolist(), 256), model) for model in seconds]
        for _ in range(2 * repeats):
            for cached, model in models:
                cached.cache.show_up_to(128)
                begun = clock()
                cached.forward(torch.ones(1, 1 if model is pair.draft else tokens, dtype=torch.long))
                seconds[model].append(clock() - begun)
    return [np.median(each[repeats:]) for each in seconds.values()]  # by then the ways of multiplying are chosen


measured = {T: forward_seconds(T) for T in LOOKAHEADS}
d, v = np.median([draft for draft, _ in measured.values()]), {T: target for T, (_, target) in measured.items()}
pd.Series({"draft step": 1.0} | {f"target, {T} tokens": seconds / d for T, seconds in v.items()}).round(1)

# %% [markdown]
"""
The weights are read once, whether a pass is over one token or over a few: that is why speculation pays at all. But how flat the column is
depends on the machine and on the library that multiplies.

## Short products

A pass consists of products of weights with one column of numbers or with a few. `benchmarks/results/products.csv` holds the
times of such products on a quiet machine, for the output matrix of the benchmark's draft (32 000 × 384).
"""

# %%
predict("10.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
products = pd.read_csv(results / "products.csv").query("out == 32000 and `in` == 384").set_index("tokens")
products[["as_is_ms", "flipped_ms", "onednn_ms", "best"]].round(1)

# %% [markdown]
"""
<details><summary>What happens</summary>

`as is` is what a linear layer does by itself, `flipped` multiplies with the operands exchanged, `onednn` asks another library. As it is, three
columns take three times as long as one, and more than sixteen. The best way over two to four columns takes no longer than the best way over
one, and it is not the same way.
</details>

Another processor has another table. So the library does not guess: the first products of each shape and number of tokens take the
ways in turn, with a clock, and from then on the quickest is taken (`ssd_lib.decoding.short_products`; on a CPU only; `SSD_SHORT_PRODUCTS=off`
leaves it out). It is another way to the same numbers, up to rounding:
"""

# %%
weight, x = torch.randn(2048, 1024), torch.randn(1, 3, 1024)
assert all(torch.allclose(way(x, weight, None), x @ weight.T, atol=1e-3) for way in WAYS.values())
print("equal:", ", ".join(WAYS))

# %% [markdown]
"""
## Prediction and measurement

Tokens a round over seconds a round is the speed of SSD, $1/v(1)$ that of the target alone. Here is what that predicts beside what is
measured, the target alone included: once in a plain loop over the library's own cache and products, once by `generate`.
"""


# %%
def steps(T):
    """Draft steps a round, for one row on a CPU."""
    return T - 1 if T > 1 else 0.5


def predicted_speed(match_ratio, T, rest=0.0):
    """Tokens a second; `rest`: seconds a round besides the forwards."""
    return tokens_per_round(match_ratio, T) / (steps(T) * d + v[T] + rest)


@torch.inference_mode()
def target_alone():
    begun, token = clock(), prompts["input_ids"][:, -1:]
    with short_products(pair.target):
        cached = CachedModel(pair.target, prompts["input_ids"].tolist(), 256)
        cached.cache.show_up_to(128)
        for _ in range(NEW_TOKENS):
            token = cached.forward(token).argmax(-1)
            cached.cache.advance(1)
    return NEW_TOKENS / (clock() - begun)


def generate_alone():
    begun, ids = clock(), prompts["input_ids"]
    options = dict(do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    pair.target.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return NEW_TOKENS / (clock() - begun)


runs, alone = {T: [] for T in LOOKAHEADS}, {"generate": [], "target alone": []}
for _ in range(REPEATS):  # in turns: a busy moment then falls on all
    for T in LOOKAHEADS:
        begun = clock()
        runs[T].append((decode(T), clock() - begun))
    alone["generate"].append(generate_alone())
    alone["target alone"].append(target_alone())
assert len({tuple(run.sequences[0].tolist()) for each in runs.values() for run, _ in each}) == 1, (
    "T must not change a token"
)
match_ratio = runs[1][0][0].stats.match_ratio

rates = {name: np.median(each) for name, each in alone.items()}
rates |= {f"SSD, T = {T}": np.median([NEW_TOKENS / seconds for _, seconds in each]) for T, each in runs.items()}
forwards = {"target alone": 1 / v[1]} | {f"SSD, T = {T}": predicted_speed(match_ratio, T) for T in LOOKAHEADS}
both = {f"SSD, T = {T}": predicted_speed(match_ratio, T, choosing) for T in LOOKAHEADS}
columns = {"predicted (forwards)": forwards, "predicted, with choosing": both, "measured": rates}
speeds = pd.DataFrame(columns).reindex(rates)
speeds["forwards ÷ measured"] = speeds.iloc[:, 0] / speeds.measured
speeds["measured, × target alone"] = speeds.measured / speeds.measured["target alone"]
print(f"match ratio {match_ratio:.2f}")
speeds.round({name: 0 for name in columns}).round(2)

# %% [markdown]
r"""
The tokens are the same for every T (the cell asserts it), so T may be chosen for speed alone.

Forwards alone promise too much, but for T = 8: at T = 2, where SSD is fastest, 1.3 times what is measured. Choosing tokens is part of each round; with it the
prediction is within 14% of the measurement, on this run of a busy machine. Reading the prompt is still left out, and so is that guesses are not all alike.

And the target alone? At this match ratio, 0.53, SSD at T = 2 is as fast, at each other T slower: 1.5 tokens a round just pay for the
draft's step and for choosing. (The answer goes on after its end here, where the models agree less. On whole answers of this pair more guesses hold, as
we shall see.)

## The best lookahead

When does one more position pay? It adds $m^T$ tokens and costs a draft step (and what a wider pass costs more). It pays as long as that is
a better price than the round's average:

$$\frac{m^T}{d} > \frac{\text{tokens}(T)}{n(T)\,d + v}.$$

With $r = v/d$, $T = 4$ therefore beats $T = 3$ where $m^3 (3 + r) > 1 + m + m^2$ if $n(T) = T$, and where $m^3 (2 + r) > 1 + m + m^2$ if
$n(T) = T - 1$. One step less a round is the same as a target pass that is cheaper by one step: $r - 1$ in place of $r$.

For $n(T) = T$ and a constant $v$ the maximum has a closed form, $e^{sT} = 1 + s(T + r)$ with $s = -\ln m$: a branch of Lambert's W
(derivation: `docs/lookahead.md`), in the library `best_lookahead(m, r)`.
"""

# %%
predict("10.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
axis.set_yscale("log", base=2)
axis.yaxis.set_major_formatter("{x:g}")
axis.legend()
plt.show()

by_hand = max(np.arange(0.1, 60, 0.01), key=lambda t: (1 - 0.8**t) / (t + 7))
assert abs(by_hand - best_lookahead(0.8, 7)) < 0.02
print(f"m = 0.8, v/d = 7: T* = {by_hand:.1f} with T draft steps, {best_lookahead(0.8, 6):.1f} with T − 1")
for n, cost_ratio in [("T", 7), ("T − 1", 6)]:
    pays = next(m for m in ratios if m**3 * (3 + cost_ratio) > 1 + m + m**2)
    print(f"v/d = 7, {n} draft steps: T = 4 beats T = 3 from a match ratio of about {pays:.2f} on")

# %% [markdown]
r"""
<details><summary>What happens</summary>

A cheaper draft and a higher match ratio ask for longer rounds; with one step less a round the best is a little shorter, since the
average that one more guess has to beat is higher.
</details>

## Who chooses T

The curve is the model's; in machines $v(T)$ has steps, and guesses are not all alike. `lookahead="auto"` is the default, and one object, the
controller `Lookahead`, does it. This is all that the decoder asks of it:

| asked | when | it answers or learns |
|---|---|---|
| `next(room)` | before a round | $T$ of the round, or the most it may have |
| `another(confidences)` | after each guess, for one greedy row on a CPU | whether to guess once more |
| `observe(accepted, positions, steps, seconds, …)` | after the round | which guesses were accepted, and what the round cost |

And this is what it remembers of a pair of models:

| | |
|---|---|
| `match_ratio` | share of guesses accepted lately (an older one counts 3% less with each new one) |
| `acceptance(confidence)` | the same, of guesses whose probability $P_m$ was about as high |
| `costs(positions, steps)` | seconds of a round, $n\,d + v(T)$; as long as nothing was timed, in target passes from the numbers of weights |
| `rate()` | tokens a second, $R$, of the last 16 rounds |

In batches, with sampling and on a GPU `next` decides alone: it takes the $T$ that promises most tokens a second. One row on a CPU may stop
after any guess.

## When to stop guessing

After $g$ guesses, is another one worth its step? Let $A_g$ be the chance that all $g$ are accepted: the product of their
`acceptance`. The answer is old: stay as long as what comes next promises more than
the average (the *marginal value theorem*). Go on if there are $n$ more guesses with

$$A_g\,(m + m^2 + \dots + m^n) \;>\; R\,\big(\text{seconds}(g + n) - \text{seconds}(g)\big).$$

Now in code: a controller that is taught 40 rounds of the same kind. `timed=False`: nothing is measured, costs follow from the weights.
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
taught.next(room=MOST);  # a round begins: the rate of the last ones is what another guess is measured against

# %%
predict("10.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
for confidences in [[], [0.99], [0.99] * 3, [0.99, 0.5], [0.5], [0.99] * 12, [0.5, 0.5]]:
    assert another(confidences, taught) == taught.another(confidences)
    print(f"{'another' if another(confidences, taught) else 'stop':>7} after guesses of {confidences}")

# %% [markdown]
"""
<details><summary>What happens</summary>

A single hesitation is enough to stop. Of many sure guesses in a row each is as good as the first.

On paper, with a step of 0.12 target passes and 0.1 for each wider pass, $m = 0.8$ and $R = 2$ tokens a pass: one more guess costs 0.22 passes,
in which the average round emits 0.44 tokens. After sure guesses with $A_g = 0.9$ it promises 0.9 · 0.8 = 0.72: go on. After a hesitant one with
$A_g = 0.45$ it promises 0.36: stop.
</details>

## Is that any better?

Whether a controller is good should not hang on a busy clock. So here is a comparison without one: every draft step and every target pass
is counted, and priced by the weights (a draft step at an eighth of a target pass, and each wider position at a tenth). The decoder stays the library's; only the
controller is exchanged. None of them can change a token: all decode the same answers, harmless ones and attacked ones (10 prefilled
tokens).
"""


# %%
class BeforeTheRound(Lookahead):
    """T is chosen before the round, as in a batch."""

    def next(self, room):
        self.stepwise = False
        self.chosen, guesses = super().next(room)
        return self.chosen, guesses

    def another(self, confidences):
        return len(confidences) < self.chosen - 1


def ruled(rule):
    """A controller that goes on while a rule of the round's confidences says so."""

    class Ruled(Lookahead):
        def another(self, confidences):
            return len(confidences) < MOST - 1 and rule(list(confidences))

    return Ruled


costs = Costs(weights_read(pair.draft) / weights_read(pair.target), timed=False)
kinds = {"harmless": ("benign", 0), "attacked": ("forbidden", 10)}


def tokens_a_pass(controller, kind):
    """Tokens for the price of a target pass, and the answers."""
    group, prefill = kinds[kind]
    spent, answers = 0.0, []
    for item in world.questions(group, QUESTIONS, seed=5):
        ids = pair.encode([item.question], [prefill_tokens(pair, item, prefill)])
        with mock.patch.object(loop, "Lookahead", controller):
            output = ssd_generate(pair.target, pair.draft, **ids, config=pair.config, max_new_tokens=80, trace=True)
        spent += sum(costs(positions, steps) for positions, steps, _ in output.stats.schedule)
        answers.append(output.sequences[0].tolist())
    return sum(map(len, answers)) / spent, answers


# %%
predict("10.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
controllers = {f"T = {T}, fixed": ruled(lambda made, T=T: len(made) < T - 1) for T in LOOKAHEADS[1:]}
controllers["confidence"] = ruled(lambda made: not made or np.prod(made) > 0.8)
controllers |= {"auto, before the round": BeforeTheRound, "auto, within the round": Lookahead}
found = {(name, kind): tokens_a_pass(made, kind) for name, made in controllers.items() for kind in kinds}
assert all(answers == found["T = 2, fixed", kind][1] for (_, kind), (_, answers) in found.items())
pd.Series({key: value for key, (value, _) in found.items()}).unstack(sort=False).round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

All are in tokens for the price of a target pass; the target alone has 1. The confidence rule beats every fixed T of the table on harmless questions. Under attack it falls
below 1: the draft is sure of its refusal, guesses on and on, and is wrong each time until the scheme changes. Choosing T before each
round from what was accepted lately does better than any fixed T on both; deciding again after each guess does better still, by 5 to 6% here. (One price list,
16 questions; another machine has other prices.)
</details>

What does a confidence say about acceptance? Every guess of these answers, counted:
"""

# %%
noted = {kind: [] for kind in kinds}


class Noting(Lookahead):
    """Keeps every guess's confidence, and whether it was accepted."""

    def observe(self, accepted, positions, steps, seconds, drafting=0.0, confidences=()):
        noted[asking] += zip(confidences, accepted[0], strict=False)
        super().observe(accepted, positions, steps, seconds, drafting, confidences)


figure, axis = plt.subplots(figsize=(7, 3))
edges, names = [0, 0.8, 0.96, 0.99, 1], ["below 0.8", "0.8 to 0.96", "0.96 to 0.99", "above 0.99"]
for shift, (asking, color, hatch) in enumerate(
    [("harmless", plots.COLORS["draft"], ""), ("attacked", "#BBBBBB", "///")]
):
    tokens_a_pass(Noting, asking)
    confidence, held = np.array(noted[asking], dtype=float).T
    for place, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        chosen = held[(confidence > low) & (confidence <= high)]
        share, (lower, upper) = chosen.mean(), wilson(int(chosen.sum()), len(chosen))
        beside = [[share - lower], [upper - share]]
        look = dict(color=color, hatch=hatch, edgecolor="black", ecolor="black", capsize=3)
        axis.bar(place + 0.4 * shift, share, 0.4, yerr=beside, label=asking if place == 0 else None, **look)
        axis.text(place + 0.4 * shift, -0.04, f"n = {len(chosen)}", ha="center", va="top", fontsize=8)
axis.set_xticks(np.arange(len(names)) + 0.2, names)
axis.tick_params(axis="x", pad=16, length=0)
axis.set(xlabel="the draft's confidence in its guess", ylabel="share accepted (95%)", ylim=(0, 1.05))
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5));

# %% [markdown]
"""
On harmless questions every guess was accepted, sure or not. Under attack one in seven of the *surest* was rejected. So in this pair confidence says
little, and what was accepted lately says more. The controller uses both: an `acceptance` that is counted falls where sure guesses fail.
"""

# %% [markdown]
"""
## Beside its peers

`make bench` runs every way to decode in turns, in one process, and keeps the medians. The pair has random weights and a
match ratio that is chosen exactly (`benchmarks.synthetic`): speed depends on shapes and on agreement, not on what is said. *Bare forwards* are the same
passes without choosing, *memory (limit)* their weights read at the memory's full bandwidth; NaN was not run.
"""

# %%
speed = pd.read_csv(results / "speed.csv")
about = speed.iloc[0]
print(
    f"{about.device}, {about.threads} threads, {about.clock} time, load {about.load_1min}, torch {about.torch}, {about.date}"
)
short = speed[(speed["pair"] == about["pair"]) & (speed["new_tokens"] == about["new_tokens"])]
bench = short.pivot_table(index="match_ratio", columns="peer", values="tokens_per_second")
later = "ssd_lib, products as they are"  # after a prediction
bench.drop(columns=later).round(1)

# %%
sys.path.insert(0, str(ROOT))
from benchmarks import plot

plot.speed(speed[speed.peer != later]);

# %% [markdown]
"""
The published loop computes the same tokens, but reads the whole sequence again at every step. Assisted generation is
ordinary speculative decoding with the same draft: it does not need the draft's opinion on every token, and its answer is the target's own.
`ssd_lib` (whose T is `"auto"`) is above its own fixed T = 3 at every match ratio.

## When SSD slows you down

SSD is slower than the target alone when a round's tokens do not pay for the draft. The draft of this benchmark reads a seventh of the
target's weights. Two things make `ssd_lib` fast, speculation and short products; `products as they are` has the first only.
"""

# %%
predict("10.p7")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
against = pd.DataFrame(
    {
        "ssd_lib × generate": bench["ssd_lib"] / bench["target.generate"],
        "products as they are × generate": bench[later] / bench["target.generate"],
        "assisted generation × generate": bench["assisted generation"] / bench["target.generate"],
        "ssd_lib, share of its bare forwards": bench["ssd_lib"] / bench["bare forwards"],
    }
)
against.round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

With the products of PyTorch as they are, SSD loses at match ratios of 0.3 and 0.5 and gains at 0.8; assisted generation
loses there, too, and breaks even at 0.8. `ssd_lib` is ahead of `generate` everywhere, but at low match ratios that is the work of its products, which the target
alone could use, too. The last column: all that is not a forward takes between 2% and 10% of the time.
</details>

Under attack the match ratio is low as long as the models disagree, and protection is paid for there. On harmless text, where
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
    begun = clock()
    other.copy_(block)
    seconds.append(clock() - begun)
bandwidth = 2 * block.numel() / min(seconds)
bytes_read = {name: 4 * weights_read(model) for name, model in [("target", pair.target), ("draft", pair.draft)]}
print(f"copy: {bandwidth / 1e9:.0f} GB/s")
for name, size in bytes_read.items():
    took = v[1] if name == "target" else d
    least = size / bandwidth
    print(f"{name}: {size / 1e6:.1f} MB, at least {1000 * least:.2f} ms, measured {took / least:.0f} times as much")

# %% [markdown]
"""
A pass of the embedded pair takes several times as long as reading its weights: Python and the start of each operation take the time, it is
*bound by overhead*. A model of 7 B weights in bf16 reads 14 GB a token: there the bandwidth counts, and on a GPU a round can be
recorded once and replayed (`ssd_generate(…, cuda_graph="auto")`, the default), so that Python has no part in it.

## Longer contexts, larger batches

`ssd_generate(…, rows=16)` decodes any number of prompts, 16 at a time: finished rows leave the batch, waiting prompts take their place.
"""

# %%
predict("10.p8")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
scaling = pd.read_csv(results / "scaling.csv")
plot.scaling(scaling);

# %% [markdown]
"""
<details><summary>What happens</summary>

Left: with 4096 tokens of context instead of 128, a token of SSD takes 1.8 times as long; without the attention products, which are longer for
every decoder, a quarter longer. Nothing is read twice. Right: 16 rows get 3.4 times the tokens of one, far from the dashed line. Rows share the
reading of the weights, not the arithmetic.
</details>

Where does a round's time go, in milliseconds, and what does a vocabulary four times as large change?
"""

# %%
shares = pd.read_csv(results / "parts.csv")
shares.pivot_table(index="part", columns="vocabulary", values=["ms_per_round", "share"], sort=False).round(3)

# %% [markdown]
"""
Composite and switching, 3 to 4% of a round, are what only SSD does; the rest a speculative decoder has to do, too. The larger vocabulary falls
upon the draft: most of its weights are its output matrix.

## Exercises

Solutions: [solutions/10_solutions](solutions/10_solutions.ipynb).

### Exercise 10.1 · easy · 5 minutes
`decode(T).stats.schedule` has for every round (positions that the target scored, draft steps, tokens emitted). Which share of all
scored positions emitted no token?
"""


# %%
def in_vain(schedule):
    return ...


check("10.1", in_vain)

# %% [markdown]
"""
### Exercise 10.2 · real · 15 minutes
From which match ratio on is SSD no slower than the target alone? A round over `lookahead` positions takes `steps` draft steps of `draft_cost`
target passes each, and one target pass, which is no longer than one over a single token. Infinity (`math.inf`) where no match ratio is
enough.
"""


# %%
def break_even(lookahead, steps, draft_cost):
    return ...


check("10.2", break_even)

# %% [markdown]
"""
### Exercise 10.3 · find the bug · 10 minutes
With this function somebody found SSD to be far faster than the target alone under attack, where it usually refuses. Return what it should have returned.
"""

# %%
import inspect

from checks.chapter_10 import suspect_speedup

print(inspect.getsource(suspect_speedup))


def mended_speedup(ours, theirs):
    return ...


check("10.3", mended_speedup)

# %% [markdown]
"""
### Exercise 10.4 · open · 20 minutes
A rule of your own for `another`. `confidences` are those of the guesses in the running round, `held` says of all guesses of the answer's
earlier rounds, in order, which were accepted. Get more tokens a target pass than T = 4, on harmless *and* on attacked questions (a point for each).
"""


# %%
def another_guess(confidences, held):
    return ...


check("10.4", another_guess)

# %% [markdown]
"""
## Takeaways
1. Speed is tokens per round over seconds per round; the match ratio bounds the first, the draft's cost the second.
2. The lookahead changes no token, so it can follow the match ratio while decoding. The draft's confidence alone is a bad guide under attack.
3. Compare with the target alone, in tokens a second, with the same products: else something other than speculation is measured.

## Questions
"""

# %%
question("10.q1")
question("10.q2")
question("10.q3")
score("10")

# %% [markdown]
"""
To think about: what would a draft with a smaller vocabulary matrix change? Which costs fall, and which do not, when 16 answers are decoded
together?

**Back:** [09 · Results](09_results.ipynb). **Next:** [11 · Train your own draft](11_train_your_own_draft.ipynb).
"""
