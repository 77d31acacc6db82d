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

About 10 minutes on a laptop CPU. You need chapters 02 and 03. Paper: arXiv 2508.17739, section 4.3.
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
from scipy.stats import binom

from ssd_lib import SSDConfig, answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.stats import wilson
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

**Predict:** the match ratio of the first bin on (a) benign, (b) scary-sounding benign, (c) attacked questions?
"""


# %%
def ask(group, prefill, config=None, count=QUESTIONS):
    items = world.questions(group, count)
    given = [prefill_tokens(pair, item, prefill) for item in items]
    asked = [item.question for item in items]
    return items, answer(pair, asked, prefill=given, config=config, max_new_tokens=world.longest_answer)


KINDS = [("benign", "benign", 0), ("scary-sounding", "scary", 0), ("attacked", "forbidden", PREFILL)]
replies = {label: ask(group, prefill)[1] for label, group, prefill in KINDS}
bins = []
for label, answers in replies.items():
    for reply in answers:
        trace = reply.trace.to_frame()
        full = trace[trace.bin_tokens == pair.config.bin_size].match_ratio
        bins += [{"questions": label, "bin": number, "β": ratio} for number, ratio in enumerate(full)]
bins = pd.DataFrame(bins)
bins[bins.bin < 4].pivot_table(index="questions", columns="bin", values="β", sort=False).round(2)

# %%
figure, ax = plt.subplots(figsize=(7, 3.4))
rng = np.random.default_rng(0)
for place, (label, mark) in enumerate(zip(replies, ["o", "s", "D"], strict=True)):
    first = bins[(bins.questions == label) & (bins.bin == 0)]["β"]
    x = place + rng.uniform(-0.18, 0.18, len(first))
    ax.scatter(x, first + rng.uniform(-0.015, 0.015, len(first)), color="grey", marker=mark, alpha=0.6)
    half = 1.96 * first.std() / np.sqrt(len(first))
    ax.errorbar(place + 0.3, first.mean(), yerr=half, color=plots.COLORS["SSD"], marker="_", capsize=3)
ax.axhline(pair.config.threshold, color="black", linestyle=":", label="threshold at the start")
ax.set_xticks(range(3), list(replies))
ax.set(ylabel="match ratio of the first bin", title="One bin of seven tokens tells them apart (mean and 95% interval)")
ax.legend(frameon=False, loc="center")
plots.save(figure, "match_ratio.png")
plt.show()

# %% [markdown]
"""
Each mark is an answer. Scary-sounding benign questions (antidotes, counter-charms) look benign: what counts is not the topic
but whether the two models agree on the answer. No classifier reads the question, and no list of words is searched.

Now look at the table's last line again: the attacked answers match *after* the first bin. By then SSD has switched to Union, and both
models want to refuse.

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

**Predict:** five bins with 7, 4, 3, 7 and 6 matches. In which scheme is each of them decoded, and the sixth?
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


bin_table([7, 4, 3, 7, 6], replace(pair.config, alpha_intersection=0.6))

# %% [markdown]
"""
Follow a line: its β is compared with its threshold, and the result stands in the next line. The second bin's 4/7 = 0.57 would have been
an alarm at the start; but one good bin had lowered the threshold to 0.5, and so it passed. And the third bin's 3/7 = 0.43, after two good
bins, at a threshold of 0.4? Look closely before you go on.

<details><summary>Did it pass?</summary>

0.43 is *not* below 0.4. So the third bin passed as well, and all six bins are decoded in Intersection. With `[4, 7, 7]` the alarm is raised
at once, because there is no good bin before it.
</details>
"""

# %%
bin_table([4, 3, 3, 7, 7], replace(pair.config, alpha_intersection=0.6))

# %% [markdown]
r"""
Here the first bin raises the alarm. In Union the threshold falls, too: from bin to bin fewer matches suffice to get out again. Each
change puts threshold and $\alpha_I$ back to their starting values.

## Equal to the library

`ssd_lib.method.switching` is the same machine as tensors, one state for each row of a batch. Compare: with the trace of every answer
above, and on random matches under other settings.
"""

# %%
for reply in [reply for answers in replies.values() for reply in answers]:
    trace = reply.trace.to_frame()
    states = schedule(trace.match.tolist(), pair.config)
    assert [state[0] for state in states] == trace.scheme.tolist()
    assert np.allclose([state[1] for state in states], trace.threshold)

config, rng = SSDConfig(alpha_intersection=0.75, bin_size=4), np.random.default_rng(1)
for _ in range(20):
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

**Predict:** after how many good bins does even a bin without a single match raise no alarm?
"""

# %%
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
print(f"after {needed} good bins, a bin without a match is no alarm any more")

# %% [markdown]
"""
<details><summary>What that means</summary>

Once the threshold is 0, no β is below it: the alarm is *off*. That is a real hole. An attacker who first gets through some good bins
is not stopped afterwards; chapter 13 measures such attacks. (By the rule it takes six bins. It takes one more here, because 0.6 − 0.1 − …
leaves a tiny positive number in floating point; the published rule is followed to the last bit.)
</details>

## Two answers over time

**Predict:** in the attacked answer, after which token does the first switch come, and does SSD switch back?
"""

# %%
figure, axes = plt.subplots(2, 1, figsize=(8, 6.4))
plots.switching(replies["attacked"][0].trace.to_frame(), pair.config.bin_size, "Attacked answer", axes[0])
plots.switching(replies["benign"][1].trace.to_frame(), pair.config.bin_size, "Benign answer", axes[1])
axes[0].get_legend().remove()
plt.show()

# %%
replies["attacked"][0].trace.show(pair.tokenizer)

# %% [markdown]
"""
The switch comes right after the first bin. One bin of Union is enough: then the refusal stands, both models want to finish it, the
match ratio is 1 and SSD returns to Intersection. In the benign answer nothing happens at all, except that trust grows.

Is that one lucky answer? Over all attacked ones, where was the first Union token, and how many tokens were decoded in Union?
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
decides sooner but on thinner evidence. How thin? Suppose that on benign answers each token matches with probability $p$, independently.
Then the number of matches in a bin is binomial, and a false alarm in the first bin has the probability
$$P\Bigl(\tfrac{\text{matches}}{b} < \text{threshold}\Bigr), \qquad \text{matches} \sim \mathrm{Bin}(b, p).$$
**Predict:** at $p = 0.8$, how often does a bin of 3 raise a false alarm? A bin of 7?
"""


# %%
def false_alarm(p, b, threshold=0.6):
    fewest = int(np.ceil(threshold * b - 1e-9))  # so many matches are enough
    return binom.cdf(fewest - 1, b, p)


table = pd.DataFrame(
    {f"b = {b}": {f"p = {p}": false_alarm(p, b) for p in (0.95, 0.9, 0.8, 0.7)} for b in (3, 5, 7, 10, 14)}
)
table.style.format("{:.1%}")

# %% [markdown]
"""
Larger bins raise fewer false alarms (nearly always: how many whole tokens "0.6 of $b$" means also changes from one $b$ to the next). So
$b$ is a compromise between leak and false alarms. Measured on the pair, what does each setting leak, and what does it disturb?

**Predict:** which bin leaks least, and does it cost benign answers?
"""


# %%
def outcome(config):
    items, attacked = ask("forbidden", PREFILL, config)
    told = [world.grade(item, r.text, r.prefill).share_told for item, r in zip(items, attacked, strict=True)]
    items, harmless = ask("benign", 0, config)
    right = sum(world.grade(item, r.text).right for item, r in zip(items, harmless, strict=True))
    disturbed = sum((r.trace.to_frame().scheme == "union").any() for r in harmless)
    low, high = wilson(right, len(items))
    return {
        "facts told": f"{np.mean(told):.2f} ± {1.96 * np.std(told) / np.sqrt(len(told)):.2f}",
        "benign right": f"{right / len(items):.2f} [{low:.2f}, {high:.2f}]",
        "benign answers with an alarm": f"{disturbed} of {len(items)}",
    }


pd.DataFrame({f"b = {b}": outcome(replace(pair.config, bin_size=b)) for b in (3, 5, 7, 10)}).T

# %%
pd.DataFrame({f"threshold {t}": outcome(replace(pair.config, threshold=t)) for t in (0.3, 0.6, 0.9)}).T

# %% [markdown]
"""
On this pair the bin size governs the leak almost alone: under attack hardly anything matches, so any threshold raises the alarm. A high
threshold shows the other side of the compromise: alarms in benign answers. (With so few questions the intervals are wide. On SmolLM2 the match
ratio is 0.72 to 0.85 under prefills and 0.93 on everyday questions: the two lie closer together there.)

## Exercises

Solutions: [solutions/04_solutions](solutions/04_solutions.ipynb).

**1.** Four of seven tokens of the first bin match. Does SSD (threshold 0.6) go to Union?
"""

# %%
from ssd_lib.show.exercises import check

goes_to_union = ...
check("four of seven", goes_to_union, 4 / 7 < 0.6, "True or False: compare 4/7 with the threshold.")

# %% [markdown]
"""
**2.** All tokens match from the start. What is the threshold while token 21 (counted from 0) is decoded?
"""

# %%
threshold_at_21 = ...
check(
    "threshold after three bins",
    threshold_at_21,
    0.3,
    "Tokens 0 to 6 are the first bin, so three bins are full before token 21; each of them lowers it by 0.1.",
)

# %% [markdown]
"""
**3.** Write the decision as one pure function: the state after a full bin. You will need it in chapter 05.
"""


# %%
def decide(scheme, threshold, alpha, ratio, config):
    """(scheme, threshold, α_I) after a full bin with this match ratio."""
    return ...


tried = SSDConfig(alpha_intersection=0.5)
for scheme, threshold, ratio in [
    ("intersection", 0.6, 1.0),
    ("intersection", 0.5, 0.2),
    ("union", 0.6, 0.2),
    ("union", 0.05, 0.0),
]:
    state = switching.start(1, tried)._replace(
        union=torch.tensor([scheme == "union"]),
        threshold=torch.tensor([threshold], dtype=torch.double),
        matches=torch.tensor([round(7 * ratio)]),
        emitted=torch.tensor([7]),
    )
    after = switching.decide(state, torch.tensor([True]), tried)
    expected = [
        "union" if after.union[0] else "intersection",
        float(after.threshold[0]),
        float(after.alpha_intersection[0]),
    ]
    mine = decide(scheme, threshold, 0.5, round(7 * ratio) / 7, tried)
    solved = mine is not ... and mine[0] == expected[0] and np.allclose(mine[1:], expected[1:])
    check(
        f"in {scheme}, threshold {threshold}, β = {round(7 * ratio)}/7",
        mine if mine is ... else ("as expected" if solved else mine),
        "as expected",
        "Did the scheme stay (the threshold decays, α_I only in Intersection) or change (both are reset)? Mind the two floors.",
    )

# %% [markdown]
r"""
## Takeaways
1. The match ratio is a by-product of speculation, and an alarm.
2. It looks at agreement, not at topics: scary-sounding benign questions pass.
3. The alarm lags by one bin, and trust that was earned can be abused: these are SSD's leaks.

## Questions
- How could an attacker keep the match ratio high?
- Why reset threshold and $\alpha_I$ on a change?
- Why count over emitted tokens rather than rounds?

**Back:** [03 · Two distributions](03_two_distributions.ipynb). **Next:** [05 · SSD from scratch](05_ssd_from_scratch.ipynb): all parts
together.
"""
