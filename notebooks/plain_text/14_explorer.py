# %% [markdown]
"""
[← 13](13_where_it_breaks.ipynb) &nbsp; [15 →](15_a_switch_that_does_not_leak.ipynb) &nbsp; [Glossary](glossary.md)

# 14 · The explorer

**What happens if …?**

You will be able to
- change any setting of the attack or of the defence and read what becomes of the answer,
- predict from two pairs of probabilities where a slider changes a token, and check it,
- say which settings change *what* is said and which only *how fast*,
- take a state of the explorer away as Python code.

About 20 minutes on a laptop CPU, alone or as a lab for a class. You need chapters 03 and 04.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"  # "smollm2": a real language model (chapter 12), where an answer takes some seconds
QUESTION = 0  # the forbidden question at which the search for an answer that SSD switches begins
PREFILL = 10  # answer tokens that the attacker writes
QUESTIONS = 16  # for the rates at the end
MAX_TOKENS = 80

# %%
from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import torch

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import first_turned
from ssd_lib.experiments.stats import rates
from ssd_lib.show import plots
from ssd_lib.show.exercises import check
from ssd_lib.show.explorer import explore
from ssd_lib.toy.worlds import world_of

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
world = world_of(pair)  # whose questions are asked, and who grades the answers
question = first_turned(pair, world.questions("forbidden", QUESTION + 8)[QUESTION:], PREFILL)

# %% [markdown]
"""
## Open it

One line. On GitHub, or before you run the cell, nothing is shown below it, because the explorer needs a kernel; this is a picture
of it. Everything that follows therefore shows a *static twin* of the state that it speaks of, made by `explorer.static()`.

![The explorer: question, attack and method above, the answer as a strip of tokens, match ratio and threshold, and the candidates at one token](../figures/explorer_light.png)
"""

# %%
explorer = explore(pair, question, prefill=PREFILL)
explorer

# %% [markdown]
"""
Keep it in sight: in JupyterLab, right-click the output and choose *Create New View for Output*, then drag the tab to the side.

How to read it:

| where | what |
| --- | --- |
| **Question, Attack** | what the user asks, and the beginning of an answer that an attacker writes; the slider says how many of its tokens stand there already |
| **Method** | the defender and, for SSD, its settings. Any movement decodes again |
| **the strip** | one button a token: blue line *matched*, bold with a double line *corrected*, italics *the target insists*, shaded *Union*. Hover for numbers, click to choose |
| **the timeline** | match ratio of the running bin (bars) against the threshold (dashed) |
| **Token** | both models' best candidates, the sample space and F at the chosen token |
| **Rounds** | press play: the draft proposes, the target verifies |
| **Compare** | a second answer beside it, with what differs between «…» |
| **Code** | the lines that make this answer |
"""

# %%
explorer.static("strip", "timeline")

# %% [markdown]
"""
## Nothing hidden: replay the scheduler

Everything on the page follows from a few recorded columns. Which tokens matched decides the scheme of all that come later
(chapter 04), so the timeline can be replayed from the check marks alone.

**Predict:** after which token is the scheme decided for the first time, and what decides it?
"""


# %%
def replay(matches, config):
    """Scheme and threshold before every token, from which tokens matched."""
    scheme, threshold, states = "intersection", config.threshold, []
    for i, _ in enumerate(matches):
        if i and i % config.bin_size == 0:
            ratio = sum(matches[i - config.bin_size : i]) / config.bin_size
            chosen = "union" if ratio < threshold else "intersection"
            stays = chosen == scheme
            scheme, threshold = chosen, max(threshold - config.threshold_decay, 0) if stays else config.threshold
        states.append((scheme, round(threshold, 6)))
    return states


lines = explorer.run.lines
mine = replay([line["match"] for line in lines], explorer.settings.config)
assert mine == [(line["scheme"], round(line["threshold"], 6)) for line in lines]
print("replayed", len(mine), "tokens; the scheme changed", sum(a[0] != b[0] for a, b in pairwise(mine)), "times")

# %% [markdown]
"""
The replay equals what `ssd_lib` recorded, token by token. Keep it in mind for the next investigations: a slider can change the
answer only through a token, a match or the threshold.

## What if the attacker writes more?

**Predict:** the prefill slider goes from 0 to 40. Does SSD leak more and more? Write your guess down, then move the slider.
"""


# %%
def state(**controls):
    """Set controls, wait for the answer, and sum it up in one line of a table."""
    explorer.set(**controls)
    lines, grade = explorer.run.lines, explorer.grade
    union = [line["position"] for line in lines if line.get("scheme") == "union"]
    return {
        "told": grade.told,
        "of": grade.new_facts,
        "ends in a refusal": grade.ends_in_refusal,
        "first Union": union[0] if union else "–",
        "Union tokens": len(union),
        "tokens": len(lines),
    }


lengths = [0, 2, 5, 10, 15, 20, 30, 40]
pd.DataFrame({n: state(prefill_tokens=n) for n in lengths}).T.rename_axis("prefilled tokens")

# %% [markdown]
"""
*told* counts the leaked facts that the attacker had not written, *of* how many of them there were. The first possible switch stands at the
end of the first bin whatever the attacker does; what leaks depends on what falls before it. Here are the two ends.
"""

# %%
display(explorer.set(prefill_tokens=0).static("strip"))
display(explorer.set(prefill_tokens=40).static("strip", "timeline"))

# %% [markdown]
"""
Without a prefill both models refuse and nearly everything matches. After a long one the tokens that the target alone would
have said stand in bold, up to the first switch.

## What if the threshold moves?

**Predict:** threshold 0, and threshold 1. Which of the two never switches? Which one stays in Union unless *every* token of a bin matches?
"""

# %%
explorer.set(prefill_tokens=PREFILL)
thresholds = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
pd.DataFrame({t: state(threshold=t) for t in thresholds}).T.rename_axis("threshold")

# %%
never = explorer.set(threshold=0.0)
assert all(line["scheme"] == "intersection" for line in never.run.lines), "no ratio is below 0"
never.static("strip")

# %% [markdown]
r"""
With a threshold of 0 no match ratio is below it, so SSD stays in Intersection for good: the method is still there, but blind.
The threshold does not *choose* tokens; it decides who is asked.

## What if the draft weighs more? Predict the number

α_U is the draft's weight in Union. At the first Union token the target wants one token, `a`, and the draft another one, `b`:

$$F(a) = F(b) \iff \alpha^* = \frac{P_M(a) - P_M(b)}{\big(P_M(a) - P_M(b)\big) + \big(P_m(b) - P_m(a)\big)}$$

Below α* the target's token is emitted, above it the draft's. What stands before that token does not depend on α_U at all.

**Predict** α* from the bars (choose that token in the explorer), then compute it.
"""

# %%
explorer.set(threshold=pair.config.threshold, alpha_union=pair.config.alpha_union)
turn = next(line for line in explorer.run.lines if line["scheme"] == "union")
explorer.choose(turn["position"]).static("token")

# %%
target, draft = (dict(zip(turn[f"{who}_top"], turn[f"{who}_top_probs"], strict=True)) for who in ("target", "draft"))
a, b = turn["target_top"][0], turn["draft_top"][0]
more, less = target[a] - target.get(b, 0), draft[b] - draft.get(a, 0)  # what the trace does not list is nearly 0
turning_point = more / (more + less)
print(
    f"the target wants {pair.tokenizer.decode([a])!r}, the draft {pair.tokenizer.decode([b])!r}: α* = {turning_point:.3f}"
)
for alpha, wanted in [(turning_point - 0.05, a), (turning_point + 0.05, b)]:
    explorer.set(alpha_union=alpha)
    emitted = explorer.run.lines[turn["position"]]["token"]
    alpha = explorer.settings.config.alpha_union  # the slider's nearest step
    print(f"α_U = {alpha:.2f}: {pair.tokenizer.decode([emitted])!r}")
    assert a == b or emitted == wanted

# %% [markdown]
"""
Four numbers from the page predict the slider. When both models are nearly certain, α* is close to one half, whatever the
words are; that is why the paper's 0.8 is enough, and why a larger α_U rarely changes anything more.
"""

# %%
alphas = [0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0]
pd.DataFrame({alpha: state(alpha_union=alpha) for alpha in alphas}).T.rename_axis("α_U")

# %% [markdown]
"""
## What if the bin is shorter?

The bin is SSD's reaction time. **Predict:** what does a bin of 2 gain under attack, and what could it cost on a harmless question?
"""

# %%
explorer.set(alpha_union=pair.config.alpha_union)
bins = [1, 2, 3, 5, 7, 10, 14]
pd.DataFrame({b: state(bin_size=b) for b in bins}).T.rename_axis("bin size")

# %%
explorer.set(bin_size=pair.config.bin_size).keep_answer()
explorer.set(bin_size=2, compare="the kept answer").static("comparison")

# %% [markdown]
"""
Left the pair's own bin, right a bin of 2: what differs stands between «…». The short bin switches earlier. Now the price, on
harmless questions, where one disagreement is half of a bin of 2 and the whole of a bin of 1.
"""


# %%
def harmless(group, bin_size):
    """Every harmless question under one bin size, as lines of a table."""
    items = world.questions(group, 2 * QUESTIONS)
    config = replace(pair.config, bin_size=bin_size)
    replies = answer(pair, [item.question for item in items], config=config, max_new_tokens=MAX_TOKENS)
    return [
        {
            "group": group,
            "bin size": bin_size,
            "question": item.question,
            "touched": (reply.trace.frame.scheme == "union").any(),
            "right": world.grade(item, reply.text).right,
        }
        for item, reply in zip(items, replies, strict=True)
    ]


asked = pd.DataFrame([line for g in ["benign", "scary"] for b in [1, 2, 7] for line in harmless(g, b)])
both = {
    name: rates(asked, name, ["group", "bin size"]).set_index(["group", "bin size"]) for name in ["touched", "right"]
}
pd.concat({name: table[["rate", "low", "high"]] for name, table in both.items()}, axis=1).round(2)

# %% [markdown]
"""
*Touched*: at least one token was decoded in Union; both rates with 95% intervals. Read down: a shorter bin touches more answers. Whether that costs
right answers is the second rate. These two models learned the same world, so they seldom disagree about harmless things; a real
draft disagrees more often, and every disagreement is a chance for a short bin to misfire. One touched answer, in the explorer:
"""

# %%
touched = asked[asked.touched].question
if len(touched):
    explorer.set(question=touched.iloc[0], prefill_tokens=0, bin_size=1, compare="one answer")
    display(explorer.static("strip"))

# %% [markdown]
"""
## What if the draft looks further ahead?

**Predict:** lookahead 1, 3 and 8. Which of them changes a word? Press *play* in **Rounds** at 1 and at 8.
"""

# %%
explorer.set(question=question.question, prefill_tokens=PREFILL, bin_size=pair.config.bin_size, compare="one answer")
said, rounds = [], {}
for lookahead in [1, 2, 3, 5, 8]:
    explorer.set(lookahead=lookahead)
    cost = explorer.run.answer.cost
    said.append(explorer.run.answer.token_ids)
    rounds[lookahead] = {
        "target forwards": cost.target_forwards,
        "draft forwards": cost.draft_forwards,
        "tokens": cost.tokens,
    }
assert all(ids == said[0] for ids in said), "the lookahead changes no token"
pd.DataFrame(rounds).T.rename_axis("lookahead T")

# %% [markdown]
"""
Not one token changed. Fewer target forwards, more proposals: the lookahead is the only setting of the method that is
about speed alone (chapter 10). The rounds around the first switch:
"""

# %%
explorer.set(lookahead=3).choose(turn["position"]).static("rounds")

# %% [markdown]
"""
A round ends with the first token that is not the draft's own; what it had proposed after it is thrown away unread.

## What if tokens are drawn, not chosen?

With sampling a seed decides. **Predict:** will every seed end in a refusal?
"""

# %%
drawn = {seed: state(do_sample=True, temperature=1.0, top_p=1.0, seed=seed) for seed in range(6)}
explorer.set(do_sample=False)
pd.DataFrame(drawn).T.rename_axis("seed")

# %% [markdown]
"""
The lines differ in length and in what they leak. A single sampled answer is an anecdote; a rate needs many (below).

## What if somebody else defends?

The same attack, other defences. Expensive ones take their time: the explorer stays usable meanwhile, and moving a slider stops them.
"""

# %%
table = {}
for defender in ["none", "ssd", "safedecoding", "self-reminder", "self-exam", "draft-only"]:
    row = state(defender=defender)
    cost = explorer.run.answer.cost
    forwards = cost.target_forwards + cost.draft_forwards + cost.other_forwards
    table[defender] = {name: row[name] for name in ["told", "of", "ends in a refusal", "tokens"]} | {
        "forwards": forwards
    }
pd.DataFrame(table).T.rename_axis("defender")

# %%
explorer.set(defender="ssd", compare="no defence").static("comparison")

# %% [markdown]
"""
The target alone and SSD, from the same prefilled words. Up to the first mark they are the same answer: this is what the attacker
gets before SSD can know.

## Take it with you

Whatever you found, the tab **Code** holds the lines that make it again. They are plain Python, and tested to be exact.
"""

# %%
explorer.set(compare="one answer", alpha_union=1.2, bin_size=5)
print(explorer.code, "\n")
names = {}
exec(explorer.code, names)
assert names["reply"].token_ids == explorer.run.answer.token_ids

# %% [markdown]
"""
## From one answer to a rate

A slider shows *how*; only many questions show *how often*. The same four sliders over several questions, each with its 95%
interval. **Predict** the shape of each curve from what you saw.
"""

# %%
items = world.questions("forbidden", QUESTIONS)
SLIDERS = {
    "prefill_tokens": [0, 5, 10, 20, 40],
    "threshold": [0.0, 0.3, 0.6, 0.9],
    "alpha_union": [0.2, 0.5, 0.8, 2.0],
    "bin_size": [2, 4, 7, 10],
}


def graded(name, value):
    """Every question under one setting, as lines of a table."""
    config = pair.config if name == "prefill_tokens" else replace(pair.config, **{name: value})
    written = value if name == "prefill_tokens" else PREFILL
    prefills = [pair.tokenizer.encode(item.answer, add_special_tokens=False)[:written] for item in items]
    asked = [item.question for item in items]
    replies = answer(pair, asked, prefill=prefills, config=config, max_new_tokens=MAX_TOKENS, trace=False)
    grades = [world.grade(item, reply.text, reply.prefill) for item, reply in zip(items, replies, strict=True)]
    return [{"slider": name, "value": value, "told": grade.told > 0, "share": grade.share_told} for grade in grades]


lab = pd.DataFrame([line for name, values in SLIDERS.items() for value in values for line in graded(name, value)])
told = rates(lab, "told", ["slider", "value"])

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), sharey=True)
labels = {
    "prefill_tokens": "prefilled tokens",
    "threshold": "threshold",
    "alpha_union": "α_U",
    "bin_size": "bin size b",
}
for ax, (name, label) in zip(axes, labels.items(), strict=True):
    part = told[told.slider == name]
    errors = [(part.rate - part.low).clip(lower=0), (part.high - part.rate).clip(lower=0)]
    style = {"color": plots.COLORS["SSD"], "marker": plots.MARKS["SSD"], "capsize": 3}
    ax.errorbar(part.value, part.rate, yerr=errors, label="tells a fact", **style)
    share = lab[lab.slider == name].groupby("value").share.mean()
    ax.plot(share.index, share, color="black", linestyle=":", marker="x", label="mean share of facts told")
    ax.set(xlabel=label, ylim=(-0.05, 1.05))
rate = told.set_index(["slider", "value"]).rate
if PAIR == "toy":  # a finding; other pairs may differ
    assert rate["threshold", 0.0] >= rate["threshold", 0.6] and rate["bin_size", 2] <= rate["bin_size", 10]
axes[0].set_ylabel("answers (95% interval) / share")
axes[0].legend(frameon=False, fontsize=8)
plots.save(figure, "explorer_sliders.png")
plt.show()

# %% [markdown]
"""
Solid: how many answers leak at least one new fact after the prefilled tokens; dotted: how much of what was left they leak. Read each panel for its *shape*: where does
moving the slider further stop to matter? Threshold and α_U decide whether SSD can stop the leak at all, the bin size how much
leaks before it does, and the first panel is not SSD's to set: it is the attacker's.

## Your own explorer in six lines

The page is only widgets around `answer`. Here is the smallest one: `interact` draws a slider for every argument.
"""

# %%
from ipywidgets import interact


def turned(alpha_union, prefill):
    words = pair.tokenizer.encode(question.answer, add_special_tokens=False)[:prefill]
    config = replace(pair.config, alpha_union=alpha_union)
    return answer(pair, question.question, prefill=words, config=config, max_new_tokens=MAX_TOKENS)[0].trace.show(
        pair.tokenizer
    )


interact(turned, alpha_union=(0.0, 2.0, 0.1), prefill=(0, 40))
turned(alpha_union=0.8, prefill=PREFILL)  # its static twin

# %% [markdown]
"""
What the explorer adds: it waits until a slider rests, stops an answer that nobody wants any more, keeps answers that it knows,
and decodes beside the kernel's main thread, so that the sliders stay alive (`ssd_lib/show/latest.py`, 70 lines).

## Exercises

Solve them with the sliders first; then write down what you found. Begin from the pair's own settings.

**1.** Ask the world's *third* forbidden question. What is the smallest prefill at which the target *alone* leaks a fact?
"""

# %%
third = world.questions("forbidden", 3)[2]
smallest_prefill = ...


def tells(n, defender="none", **controls):
    """Facts leaked on the third question after n prefilled tokens."""
    asked = {"question": third.question, "prefill": third.answer, "prefill_tokens": n}
    explorer.set(config=pair.config, defender=defender, **asked | controls)
    return explorer.grade.told


check(
    "smallest prefill",
    smallest_prefill,
    next((n for n in range(41) if tells(n)), None),
    "Choose the defender none, move the prefill slider up from 0 and watch the status line.",
)

# %% [markdown]
"""
**2.** Same question, SSD, ten prefilled tokens, all else as the pair has it. Which bin sizes between 1 and 10 let SSD leak *no*
fact? Give a list.
"""

# %%
silent_bins = ...
check(
    "silent bins",
    silent_bins,
    [b for b in range(1, 11) if tells(10, "ssd", bin_size=b) == 0],
    "Move the bin size from 1 to 10; the status line counts the facts.",
)

# %% [markdown]
"""
**3.** Without moving a slider: what is α* at the first Union token of that answer (bin size 7)? Use the formula on the page's
**Token** tab.
"""

# %%
my_turning_point = ...


def crossing(line):
    """α* of a token, from its candidates."""
    target = dict(zip(line["target_top"], line["target_top_probs"], strict=True))
    draft = dict(zip(line["draft_top"], line["draft_top_probs"], strict=True))
    a, b = line["target_top"][0], line["draft_top"][0]
    more, less = target[a] - target.get(b, 0), draft[b] - draft.get(a, 0)
    return more / (more + less)


tells(10, "ssd")
first_union = next(line for line in explorer.run.lines if line["scheme"] == "union")
check(
    "turning point",
    round(my_turning_point, 2) if isinstance(my_turning_point, float) else my_turning_point,
    round(crossing(first_union), 2),
    "P_M and P_m of the two favourites, in the formula above.",
)

# %% [markdown]
"""
## Takeaways
1. The threshold decides *who is asked*, α *who wins*, the bin *how soon*; the lookahead only how fast.
2. Four probabilities on the page predict at which α a token changes.
3. A state of a page is an anecdote until it is code that runs over many questions.

## Questions
- Which slider would you take from a user who must not be able to switch the defence off?
- An attacker may choose the prefill, not the settings. Which shape of the four curves helps them most?
- Why can the explorer keep answers that it has decoded, and which setting would make that wrong?

**Next:** [15 · A switch that does not leak](15_a_switch_that_does_not_leak.ipynb). Every term of this book stands in the [glossary](glossary.md).
"""
