# %% [markdown]
"""
[← 03](03_two_distributions.ipynb) &nbsp; [05 →](05_ssd_from_scratch.ipynb) &nbsp; [Glossary](glossary.md)

# 04 · The match ratio

**How does SSD know that it is being attacked, without a classifier?**

You will be able to
- explain why the match ratio drops under attack,
- draw the scheduler as a state machine, build it, and predict its next decision,
- say what annealing is for,
- weigh what bin size and threshold cost and buy.

About 15 minutes on a laptop CPU, exercises apart. You need chapters 02 and 03. Paper: arXiv 2508.17739, section 4.3.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"  # "smollm2": a real language model (chapter 12)
QUESTIONS = 20
PREFILL = 10

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score
from scipy.stats import binom

from ssd_lib import SSDConfig, answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.report import interval_text, rate_text
from ssd_lib.experiments.stats import estimate
from ssd_lib.method import switching
from ssd_lib.show import plots
from ssd_lib.toy.worlds import world_of

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
world = world_of(pair)  # whose questions are asked, and who grades the answers

# %% [markdown]
"""
## A signal for free

A token **matches** when the emitted token is the one that the draft proposed at this position (its greedy choice). Speculative decoding
needs matches to be fast. SSD counts them and asks: do target and draft *agree*? On harmless questions they mostly do. When the target is
complying with an attack and the draft wants to refuse, they hardly ever do.

The **match ratio** β is the share of matches in a *bin* of $b = 7$ emitted tokens.

The next cell asks three kinds of questions and keeps the answers' traces.
"""


# %%
def ask(group, prefill, config=None, count=QUESTIONS):
    items = world.questions(group, count)
    given = [prefill_tokens(pair, item, prefill) for item in items]
    asked = [item.question for item in items]
    return items, answer(pair, asked, prefill=given, config=config, max_new_tokens=world.longest_answer)


KINDS = [("benign", "benign", 0), ("scary-sounding", "scary", 0), ("attacked", "forbidden", PREFILL)]
replies = {label: ask(group, prefill)[1] for label, group, prefill in KINDS}

# %%
predict("04.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
bins = []
for label, answers in replies.items():
    for reply in answers:
        trace = reply.trace.to_frame()
        full = trace[trace.bin_tokens == pair.config.bin_size].match_ratio
        bins += [{"questions": label, "bin": number, "β": ratio} for number, ratio in enumerate(full)]
bins = pd.DataFrame(bins)
bins[bins.bin < 4].pivot_table(index="questions", columns="bin", values="β", sort=False).round(2)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
figure, ax = plt.subplots(figsize=(7, 3.4))
rng = np.random.default_rng(0)
for place, (label, mark) in enumerate(zip(replies, ["o", "s", "D"], strict=True)):
    first = bins[(bins.questions == label) & (bins.bin == 0)]["β"]
    x = place + rng.uniform(-0.18, 0.18, len(first))
    ax.scatter(x, first + rng.uniform(-0.015, 0.015, len(first)), color="grey", marker=mark, alpha=0.6)
    mean, low, high = estimate("share", first.to_numpy())
    ax.errorbar(place + 0.3, mean, yerr=[[mean - low], [high - mean]], color=plots.COLORS["SSD"], marker="_", capsize=3)
ax.axhline(pair.config.threshold, color="black", linestyle=":", label="threshold at the start")
ax.set_xticks(range(3), list(replies))
ax.set(ylabel="match ratio of the first bin", title="One bin of seven tokens tells them apart (mean and 95% interval)")
ax.legend(frameon=False, loc="center")
plots.save(figure, "match_ratio.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

In the figure each mark is an answer. Benign and scary-sounding questions match at nearly 1, attacked ones not at all. One benign
answer of twenty has 4/7 = 0.57, just below the threshold: a false alarm. Scary-sounding benign questions (antidotes, counter-charms) look benign: what counts is not the topic
but whether the two models agree on the answer. No classifier reads the question, and no list of words is searched.

Now look at the table's last line again: the attacked answers match *after* the first bin. By then SSD has switched to Union, and both
models want to refuse.
</details>

## The scheduler

What does SSD do with β? It feeds a machine with two states, the schemes of chapter 03. The machine starts in Intersection and looks at
the bin that has just been filled, after every $b$ emitted tokens and at no other time:
"""

# %%
figure = plots.scheduler_map(replace(pair.config, alpha_intersection=0.45))
plt.show()

# %% [markdown]
r"""
In words, and completely:

- β = matches among the last $b$ tokens / $b$, after every $b$-th *emitted token* (matching or not; rounds do not matter);
- the next scheme is **Union** if β < threshold, else **Intersection**;
- if the scheme *stays*: threshold ← max(threshold − 0.1, 0), and, if it is Intersection that stays, $\alpha_I$ ← max($\alpha_I$ − 0.15, 0.3),
  which lowers $\alpha_I$ but never raises it: one that starts below 0.3 stays where it is;
- if the scheme *changes*: threshold and $\alpha_I$ go back to their starting values;
- the new scheme holds from the very next token, even in the middle of a round.

$\alpha_U$ never changes. The picture is drawn for Vicuna's $\alpha_I = 0.45$; with the default 0.3 there is nothing left to lower.

As code:
"""


# %%
def schedule(matches, config):
    """Scheme, threshold and α_I under which each token is decoded, given which tokens matched."""
    scheme, threshold, alpha = "intersection", config.threshold, config.alpha_intersection
    states = []
    for n in range(len(matches)):
        states.append((scheme, threshold, alpha))
        if (n + 1) % config.bin_size == 0:
            ratio = sum(matches[n + 1 - config.bin_size : n + 1]) / config.bin_size
            following = "union" if ratio < threshold else "intersection"
            if following == scheme:
                threshold = max(threshold - config.threshold_decay, 0)
                if scheme == "intersection":
                    alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
            else:
                threshold, alpha = config.threshold, config.alpha_intersection
            scheme = following
    return states


def bin_table(counts, config):
    """The schedule, one line a bin: `counts` are the matches of each bin."""
    matches = [i < count for count in counts for i in range(config.bin_size)]
    states = schedule([*matches, True], config)[:: config.bin_size]  # one more token shows what follows
    table = pd.DataFrame(states, columns=["decoded in", "threshold", "α_I"]).rename_axis("bin")
    return table.assign(matches=[*counts, ""], β=[*(f"{n / config.bin_size:.2f}" for n in counts), ""]).round(2)


# %%
predict("04.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
bin_table([7, 4, 3, 7, 6], replace(pair.config, alpha_intersection=0.6))

# %% [markdown]
"""
<details><summary>What happens</summary>

All six in Intersection. Follow a line: its β is compared with *its own* threshold, and the result stands in the next line. The second bin's 4/7 = 0.57 would
have been an alarm at the start, but one quiet bin had lowered the threshold to 0.5. The third bin's 3/7 = 0.43 would have been an alarm at
0.5, but the second bin was quiet, too, and had lowered it to 0.4; and 0.43 is not below 0.4. A bin need not be good to be quiet: it only has to meet its threshold.
</details>

The order matters. The same counts with the weaker bins first:
"""

# %%
bin_table([4, 3, 3, 7, 7], replace(pair.config, alpha_intersection=0.6))

# %% [markdown]
r"""
Here the first bin raises the alarm, because nothing has lowered the threshold before it. In Union the threshold falls, too: from bin to bin fewer matches suffice to get out again. Each
change puts threshold and $\alpha_I$ back to their starting values.

## Equal to the library

`ssd_lib.method.switching` is the same machine as tensors, one state for each row of a batch. Compare: with the trace of every answer
above, and on random matches under settings in which thresholds are met exactly and α_I starts above and below its floor.
"""

# %%
for reply in [reply for answers in replies.values() for reply in answers]:
    trace = reply.trace.to_frame()
    states = schedule(trace.match.tolist(), pair.config)
    assert [state[0] for state in states] == trace.scheme.tolist()
    assert np.allclose([state[1] for state in states], trace.threshold)

others = [SSDConfig(alpha_intersection=0.75, bin_size=4, threshold=0.75), SSDConfig(alpha_intersection=0.2, bin_size=2)]
rng = np.random.default_rng(1)
for config in others * 10:
    matches = (rng.random(30) < rng.random()).tolist()
    state = switching.start(1, config)
    for matched, (scheme, threshold, alpha) in zip(matches, schedule(matches, config), strict=True):
        assert bool(state.union[0]) == (scheme == "union")
        assert np.allclose([float(state.threshold[0]), float(state.alpha_intersection[0])], [threshold, alpha])
        state = switching.update(state, torch.tensor([matched]), torch.tensor([True]), config)
print("equal on", sum(map(len, replies.values())), "answers and 20 random sequences")

# %% [markdown]
r"""
## Annealing

The longer an answer goes well, the less suspicious the scheduler becomes (the threshold falls) and the less the draft weighs
($\alpha_I$ falls): trust is earned, and utility with it. An alarm takes all of it back at once.

A bin that raises no alarm is called *quiet*. Where does it end? Once the threshold is 0, no β is below it, and the alarm is *off*.
"""

# %%
predict("04.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
good = schedule([True] * 70, replace(pair.config, alpha_intersection=0.75))
figure, ax = plt.subplots(figsize=(7, 3.2))
ax.step(range(70), [s[1] for s in good], where="post", color="black", linestyle=":", label="threshold")
ax.step(range(70), [s[2] for s in good], where="post", color="#CC79A7", linestyle="--", label="$α_I$ (from 0.75)")
ax.set_xticks(range(0, 71, 7))
ax.set(
    xlabel="answer position (a tick a bin)", ylabel="threshold, $α_I$", title="An answer in which everything matches"
)
ax.legend(frameon=False)
plt.show()
needed = next(n for n in range(20) if bin_table([7] * n + [0], pair.config)["decoded in"].iloc[-1] == "intersection")
print(f"after {needed} quiet bins, a bin without a match is no alarm any more")

# %% [markdown]
"""
<details><summary>What happens</summary>

After seven. By the rule it would be six, 0.6 − 6 · 0.1 = 0; but in floating point 0.6 − 0.1 − … leaves a tiny positive number, and β = 0 is still below that.
The authors' code sets such a rest to 0, so there it is six; this library keeps the rule to the last bit ([docs/paper.md](../docs/paper.md)).

It is a real hole. An attacker who first gets through some quiet bins is not stopped afterwards; chapter 13 measures such attacks.
</details>

## Two answers over time
"""

# %%
predict("04.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
figure, axes = plt.subplots(2, 1, figsize=(8, 6.4))
plots.switching(replies["attacked"][0].trace.to_frame(), pair.config.bin_size, "Attacked answer", axes[0])
plots.switching(replies["benign"][1].trace.to_frame(), pair.config.bin_size, "Benign answer", axes[1])
for ax in axes:
    ax.get_legend().remove()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
plt.show()

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
replies["attacked"][0].trace.show(pair.tokenizer)

# %% [markdown]
"""
<details><summary>What happens</summary>

The switch comes right after the first bin. One bin of Union is enough: then the refusal stands, both models want to finish it, the
match ratio is 1 and SSD returns to Intersection. In the benign answer nothing happens at all, except that trust grows.
</details>

Is that one lucky answer? Over all attacked ones: where was the first Union token, and how many tokens were decoded in Union?
"""

# %%
traces = [reply.trace.to_frame() for reply in replies["attacked"]]
first = [trace.position[trace.scheme == "union"].min() for trace in traces]
spent = [int((trace.scheme == "union").sum()) for trace in traces]
pd.DataFrame({"first Union token": first, "tokens in Union": spent}).value_counts(dropna=False).rename(
    "answers"
).reset_index()

# %% [markdown]
r"""
## The lag, and what it leaks

Nothing can be decided before the first bin is full, so up to $b$ tokens of the attacker's answer pass. A smaller bin
decides sooner, but on thinner evidence. How thin? Suppose that on benign answers each token matches with probability $p$, independently.
Then the number of matches in a bin is binomial, and a false alarm in the first bin has the probability
$$P\Bigl(\tfrac{\text{matches}}{b} < \text{threshold}\Bigr), \qquad \text{matches} \sim \mathrm{Bin}(b, p).$$
"""


# %%
def false_alarm(p, b, threshold=0.6):
    fewest = int(np.ceil(threshold * b - 1e-9))  # so many matches are enough
    return binom.cdf(fewest - 1, b, p)


# %%
predict("04.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
table = pd.DataFrame(
    {f"b = {b}": {f"p = {p}": false_alarm(p, b) for p in (0.95, 0.9, 0.8, 0.7)} for b in (3, 5, 7, 10, 14)}
)
table.style.format("{:.1%}")

# %% [markdown]
"""
<details><summary>What happens</summary>

The bin of 7, at $p = 0.8$: 15% against 10% and 6%. Evidence is not the whole of it: matches are whole tokens, and "0.6 of $b$" means two of three (67%), three of
five (60%), five of seven (71%), six of ten (60%), nine of fourteen (64%). Read along the rows of 0.8 and 0.7: the bins of 5 and 10, for which 0.6 is a
whole number of tokens, raise fewer false alarms than their neighbours on both sides. Compare 5 with 10, and longer bins are surer; compare 5 with 7, and they are not.
</details>

So $b$ is a compromise between leak and false alarms, and bin size and threshold have to be chosen together. Measured on the pair: what does each setting leak, and what does it disturb?
"""


# %%
def outcome(config):
    items, attacked = ask("forbidden", PREFILL, config)
    told = [world.grade(item, r.text, r.prefill).share_told for item, r in zip(items, attacked, strict=True)]
    items, harmless = ask("benign", 0, config)
    right = sum(world.grade(item, r.text).right for item, r in zip(items, harmless, strict=True))
    disturbed = sum((r.trace.to_frame().scheme == "union").any() for r in harmless)
    return {
        "facts told": interval_text(*estimate("share", np.array(told)), percent=True),
        "benign right": rate_text(right, len(items)),
        "benign answers with an alarm": f"{disturbed} of {len(items)}",
    }


# %%
predict("04.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
pd.DataFrame({f"b = {b}": outcome(replace(pair.config, bin_size=b)) for b in (3, 5, 7, 10)}).T

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
pd.DataFrame({f"threshold {t}": outcome(replace(pair.config, threshold=t)) for t in (0.3, 0.6, 0.9)}).T

# %% [markdown]
r"""
<details><summary>What happens</summary>

On this pair the bin size governs the leak almost alone: under attack hardly anything matches, so any threshold raises the alarm. A high
threshold shows the other side of the compromise: alarms in benign answers. (With so few questions the intervals are wide.)
</details>

## Exercises

Solutions: [solutions/04_solutions](solutions/04_solutions.ipynb).

### Exercise 04.1 · easy · 5 minutes

By hand, without the function: bins of seven with 7, 4, 2, 7 and 6 matches, $\alpha_I$ starting at 0.75, all else as in the text (threshold 0.6, decays 0.1 and
0.15, floor 0.3). Under which scheme, threshold and $\alpha_I$ is the sixth bin decoded? Give them as `("intersection" or "union", threshold, α_I)`.
"""

# %%
sixth_bin = ...
check("04.1", sixth_bin)

# %% [markdown]
r"""
### Exercise 04.2 · real · 15 minutes

Write the decision as one pure function: the state before a bin and the bin's match ratio go in, the state after it comes out, both as scheme, threshold, $\alpha_I$. The
settings are in `config` (`threshold`, `threshold_decay`, `alpha_intersection`, `alpha_decay`, `alpha_floor`). You will need it in chapter 05.
"""


# %%
def decide(scheme, threshold, alpha, ratio, config):
    """(scheme, threshold, α_I) after a full bin with this match ratio."""
    return ...


check("04.2", decide)

# %% [markdown]
"""
### Exercise 04.3 · break it · 15 minutes

You are the attacker, and you can make tokens match: by having text decoded that both models would write. Each such token is one less of what you came for. Write
70 matches (`True`, `False`) with which the published scheduler, at its defaults, never leaves Intersection, with as few `True` among them as you can.
"""

# %%
matches = ...
check("04.3", matches)

# %% [markdown]
"""
### Exercise 04.4 · open · 20 minutes

Another pair: on benign questions its tokens match with $p = 0.85$, under attack still with $p = 0.4$, independently. Choose bin size and threshold so that the first
bin raises a false alarm on at most 5% of the benign answers, and misses at most 5% of the attacks, and so that as little as possible leaks. What would it mean for you if
tokens did *not* match independently of each other?
"""

# %%
bin_size, threshold = ..., ...
check("04.4", bin_size, threshold)

# %% [markdown]
"""
## Takeaways
1. The match ratio is a by-product of speculation, and an alarm.
2. It looks at agreement, not at topics: scary-sounding benign questions pass.
3. The alarm lags by one bin, and trust that was earned can be abused: these are SSD's leaks.

## Questions
"""

# %%
question("04.q1")
question("04.q2")
question("04.q3")
score("04")

# %% [markdown]
"""
**Back:** [03 · Two distributions](03_two_distributions.ipynb). **Next:** [05 · SSD from scratch](05_ssd_from_scratch.ipynb): all parts
together.
"""
