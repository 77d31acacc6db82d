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
from checks import check, predict, question, score

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import first_turned
from ssd_lib.experiments.stats import rates
from ssd_lib.show import plots
from ssd_lib.show.explorer import explore
from ssd_lib.toy.worlds import world_of

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
world = world_of(pair)  # whose questions are asked, and who grades the answers
victim = first_turned(pair, world.questions("forbidden", QUESTION + 8)[QUESTION:], PREFILL)

# %% [markdown]
"""
## Open it

One line. On GitHub, or before you run the cell, nothing is shown below it, because the explorer needs a kernel; this is a picture
of it. Everything that follows therefore shows a *static twin* of the state that it speaks of, made by `explorer.static()`.

![The explorer: question, attack and method at the left, the answer at the right](../figures/explorer_light.png)
"""

# %%
explorer = explore(pair, victim, prefill=PREFILL)
explorer

# %% [markdown]
"""
Keep it in sight: in JupyterLab, right-click the output and choose *Create New View for Output*, then drag the tab to the side.

How to read it:

| where | what |
| --- | --- |
| **Question, Attack** | what the user asks, and the beginning of an answer that an attacker writes; the slider says how many of its tokens stand there already |
| **Method** | the defender and, for SSD, its settings. Any movement decodes again; rarely moved ones under *more* |
| **the strip** | in grey what the attacker wrote, then one button a token: blue line *matched*, bold with a double line *corrected*, italics *the target insists*, shaded *Union*. Hover for numbers, click to choose |
| **under each token** | match ratio of the running bin (bar; full where the bin ends) against the threshold (dashed) |
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
The replay equals what `ssd_lib` recorded, token by token. So a setting can change the scheme in two ways only: through a token that
matches or does not, or through the threshold and the bins themselves.

## What if the attacker writes more?

The prefill slider goes from 0 to 40. `state` moves it and counts.
"""

# %%
predict("14.p1")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
<details><summary>What happens</summary>

*told* counts the leaked facts that the attacker had not written, *of* how many of them there were. Without a prefill both models
refuse, and nothing is told. With one, the first possible switch stands at the end of the first bin, whatever its length; what leaks is what
falls before it. After 30 tokens only one fact is left, and it is not finished in time.
</details>

Here are the two ends.
"""

# %%
display(explorer.set(prefill_tokens=0).static("strip"))
display(explorer.set(prefill_tokens=40).static("strip", "timeline"))

# %% [markdown]
"""
Without a prefill everything matches. After the long one nothing in the first bin does (match ratio 0.00): the target corrects the
draft (bold), or insists on its own token (italics), up to the first switch.

## What if the threshold moves?

The threshold goes from 0 to 1, with ten prefilled tokens again.
"""

# %%
predict("14.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
explorer.set(prefill_tokens=PREFILL)
thresholds = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
display(pd.DataFrame({t: state(threshold=t) for t in thresholds}).T.rename_axis("threshold"))

never = explorer.set(threshold=0.0)
assert all(line["scheme"] == "intersection" for line in never.run.lines), "no ratio is below 0"
never.static("strip")

# %% [markdown]
r"""
<details><summary>What happens</summary>

No match ratio lies below 0, so SSD stays in Intersection for good: the method is still there, but blind. Every other threshold sees the
same here: the first bin matches at 0.00 (alarm), the bin in Union at 1.00 (not below 1 either: back), and so do all later ones. A threshold matters where
match ratios lie between; those of this answer lie at the ends.
</details>

The threshold does not *choose* tokens; it decides who is asked.

## What if the draft weighs more?

α_U is the draft's weight in Union. At the first Union token the target wants one token, `a`, and the draft another one, `b`:

$$F(a) = F(b) \iff \alpha^* = \frac{P_M(a) - P_M(b)}{\big(P_M(a) - P_M(b)\big) + \big(P_m(b) - P_m(a)\big)}$$

Below α* the target's token is emitted, above it the draft's. What stands before that token does not depend on α_U at all.

Here is that token. Read its bars.
"""

# %%
explorer.set(threshold=pair.config.threshold, alpha_union=pair.config.alpha_union)
turn = next(line for line in explorer.run.lines if line["scheme"] == "union")
explorer.choose(turn["position"]).static("token")

# %%
predict("14.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
<details><summary>What happens</summary>

Four numbers from the page predict the slider. Where both models are nearly certain of different tokens, all four are nearly 0 or 1, and α* is
close to one half, whatever the words are.
</details>

The same token decides what the whole answer becomes:
"""

# %%
alphas = [0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0]
pd.DataFrame({alpha: state(alpha_union=alpha) for alpha in alphas}).T.rename_axis("α_U")

# %% [markdown]
"""
Between 0.25 and 0.5 the refusal sets in; from there to 3 no row changes. (0.5 lies just above this α*, which is rounded. Elsewhere the models may be less certain: the
paper takes 0.8 for Llama-2, and 2 for Vicuna.)

## What if the bin is shorter?

The bin is SSD's reaction time.
"""

# %%
explorer.set(alpha_union=pair.config.alpha_union)
bins = [1, 2, 3, 5, 7, 10, 14]
display(pd.DataFrame({b: state(bin_size=b) for b in bins}).T.rename_axis("bin size"))

explorer.set(bin_size=pair.config.bin_size).keep_answer()
explorer.set(bin_size=2, compare="the kept answer").static("comparison")

# %% [markdown]
"""
First the pair's own bin, then a bin of 2: what differs stands between «…». The short bin switches earlier, and nothing is told. Now the price, on
harmless questions, where one disagreement is half of a bin of 2 and the whole of a bin of 1. Below, *touched* means that at least one token was decoded in
Union; both rates come with 95% intervals. *Scary* questions are harmless, but sound like forbidden ones.
"""

# %%
predict("14.p4")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
<details><summary>What happens</summary>

A bin of 1 touches 19% of the benign answers, one of 7 touches 3%: six of 32 questions against one, so the intervals still overlap. Between 2 and 7 the difference is one question. And in each group as
many answers are right under every bin: in Union a harmless answer is still an answer. These two models learned the same world, so they
seldom disagree about harmless things; a pair that disagrees more often would be touched more often, too.
</details>

One touched answer, in the explorer:
"""

# %%
touched = asked[asked.touched].question
if len(touched):
    explorer.set(question=touched.iloc[0], prefill_tokens=0, bin_size=1, compare="one answer")
    display(explorer.static("strip"))

# %% [markdown]
"""
## What if the draft looks further ahead?

Lookahead 1, 3 and 8. (In the explorer: *more*, then press *play* in **Rounds** at 1 and at 8.)
"""

# %%
predict("14.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
explorer.set(question=victim.question, prefill_tokens=PREFILL, bin_size=pair.config.bin_size, compare="one answer")
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
<details><summary>What happens</summary>

Not one token changed; the assertion in the cell says so. Fewer target forwards, more draft forwards: the lookahead is about speed
alone (chapter 10).
</details>

The rounds around the first switch:
"""

# %%
explorer.set(lookahead=3).choose(turn["position"]).static("rounds")

# %% [markdown]
"""
A round ends with the first token that is not the draft's own; what it had proposed after it is thrown away unread.

## What if tokens are drawn, not chosen?

With sampling a seed decides. The same state under six seeds:
"""

# %%
drawn = {seed: state(do_sample=True, temperature=1.0, top_p=1.0, seed=seed) for seed in range(6)}
explorer.set(do_sample=False)
pd.DataFrame(drawn).T.rename_axis("seed")

# %% [markdown]
"""
*told* is 0 or 1, three lines never reach Union, and one does not end in a refusal. A single sampled answer is an anecdote; a rate needs
many (below).

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
display(pd.DataFrame(table).T.rename_axis("defender"))

explorer.set(defender="ssd", compare="no defence").static("comparison")

# %% [markdown]
"""
The target alone and SSD, from the same prefilled words. Up to the first mark they are the same answer: this is what the attacker
gets before SSD can know. And the table: with this attack on this
question two other defences leak all that there was, two leak nothing. One question ranks nobody; chapter 09 asks many.

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
interval.
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
Solid: how many answers leak at least one fact that was not prefilled; dotted: what share of those facts. With 16 questions the intervals are
wide: read the *shape*. Threshold and α_U work like switches: SSD stops the answer or it does not, and moving them further changes nothing. The bin size is a dial: it
decides how much leaks before. The first panel is not SSD's to set, it is the attacker's: it rises, and falls again, since whoever writes more leaves less to be told.

## Your own explorer in six lines

The page is only widgets around `answer`. Here is the smallest one: `interact` draws a slider for every argument.
"""

# %%
from ipywidgets import interact


def turned(alpha_union, prefill):
    words = pair.tokenizer.encode(victim.answer, add_special_tokens=False)[:prefill]
    config = replace(pair.config, alpha_union=alpha_union)
    return answer(pair, victim.question, prefill=words, config=config, max_new_tokens=MAX_TOKENS)[0].trace.show(
        pair.tokenizer
    )


interact(turned, alpha_union=(0.0, 2.0, 0.1), prefill=(0, 40))
turned(alpha_union=0.8, prefill=PREFILL)  # its static twin

# %% [markdown]
"""
What the explorer adds: it waits until a slider rests, stops an answer that nobody wants any more, keeps answers that it knows,
and decodes beside the kernel's main thread, so that the sliders stay alive (`ssd_lib/show/latest.py`, 70 lines).

## Exercises

Solutions: [solutions/14_solutions](solutions/14_solutions.ipynb). Two of them want the explorer: this puts the world's *third* forbidden question in.
"""

# %%
third = world.questions("forbidden", 3)[2]
explorer.set(question=third.question, prefill=third.answer, prefill_tokens=10, config=pair.config).static("strip")

# %% [markdown]
"""
### Exercise 14.1 · easy · 5 minutes
With this question, ten prefilled tokens and the pair's other settings: which bin sizes from 1 to 10 let SSD tell *no* fact? Give a list.
"""

# %%
silent_bins = ...
check("14.1", silent_bins)

# %% [markdown]
"""
### Exercise 14.2 · real · 15 minutes
The formula for α* knows two tokens. Let there be many: `target` and `draft` are arrays with both models' probabilities of the same tokens, F is their mixture
$(1 - α) P_M + α P_m$. Return the smallest α ≥ 0 at which *any* other token's F reaches that of the target's favourite, and `float("inf")` where no α does. α may lie above 1.
"""


# %%
def turning_point(target, draft):
    return ...


check("14.2", turning_point)

# %% [markdown]
"""
### Exercise 14.3 · find the bug · 15 minutes
The explorer remembers answers by a key made of its settings. Somebody's page shows old answers after some sliders are moved. Read its key, and return a right one:

- different keys where the page may show another answer, or other rounds (lookahead);
- the same key where it cannot: settings of the method under a defender other than `ssd` and `ssd-hardened`, or an attacker's text of which no
  token is prefilled.

`explorer.settings` is what the function gets.
"""

# %%
import inspect

from checks.chapter_14 import suspect_key

print(inspect.getsource(suspect_key))


def mended_key(settings):
    return ...


check("14.3", mended_key)

# %% [markdown]
"""
### Exercise 14.4 · open · 20 minutes
Now you defend, and the attacker chooses last: six new forbidden questions, each attacked with 5, 10 and 20 prefilled tokens; it counts as lost if *any* of
the three tells a fact. Twelve new benign questions count as harmed if a token is decoded in Union. Find a greedy `SSDConfig` with as few lost and harmed questions, added up, as you
can: fewer than under the pair's own settings gives 1 point of 3, at most half as many all 3.
"""

# %%
my_config = ...  # such as replace(pair.config, threshold=0.5)
check("14.4", my_config)

# %% [markdown]
"""
## Takeaways
1. The threshold decides *who is asked*, α *who wins*, the bin *how soon*; the lookahead only how fast.
2. Four probabilities on the page predict at which α a token changes.
3. A state of a page is an anecdote until it is code that runs over many questions.

## Questions
"""

# %%
question("14.q1")
question("14.q2")
question("14.q3")
score("14")

# %% [markdown]
"""
To think about: which slider would you take from a user who must not be able to switch the defence off?

**Next:** [15 · A switch that does not leak](15_a_switch_that_does_not_leak.ipynb). Every term of this book stands in the [glossary](glossary.md).
"""
