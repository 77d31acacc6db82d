# %% [markdown]
"""
[01 →](01_shallow_alignment.ipynb) &nbsp; [Glossary](glossary.md)

# 00 · Start here

**What happens when an attacker writes the first words of a model's answer, and how can a small model bring it back?**

You will be able to
- run a *prefilling attack* on a language model and see it work,
- run Speculative Safety-Aware Decoding (SSD) and read its trace token by token, round by round,
- say what each part of the method does, and in which chapter you will build it,
- measure safety and its cost with an interval.

About 10 minutes on a laptop CPU; nothing is downloaded. No kernel at hand? [SSD live](../docs/live/index.html) runs the same two models in
your browser.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"  # "smollm2": a real language model (chapter 12); on a GPU: "llama3.1_8b", or "llama2" / "vicuna" with a draft of your own (chapter 11)
QUESTIONS = 24
PREFILL_LENGTHS = [0, 5, 10, 20, 40]

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import Condition, first_turned, measure, prefill_tokens
from ssd_lib.experiments.stats import rates
from ssd_lib.method.trace import pieces
from ssd_lib.show import plots
from ssd_lib.toy.worlds import world_of

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread

# %% [markdown]
"""
## The whole method in one picture

SSD decodes with two models. The **target** is the large model that you want to use. The **draft** is a much smaller one with the same
vocabulary, and it is *deeply* safety-aligned: it refuses even in the middle of a harmful answer. The two are wired together as in
speculative decoding, which is otherwise a trick to save time.
"""

# %%
figure = plots.method_map()
plots.save(figure, "method_map.png")
plt.show()

# %% [markdown]
"""
Read it from the top left. The draft proposes a few tokens; the target scores all of them in one forward; a *composite* of both
models' probabilities decides which token is emitted. If that is the proposed one, it **matches**. The loop at the bottom
counts matches: when target and draft hardly agree any more, it changes the *scheme* by which the next tokens are chosen.

You need not understand all of it yet. Each part has its chapter:

| part of the picture | question | chapter |
| --- | --- | --- |
| the two models | why is the draft safe where the target is not? | [01](01_shallow_alignment.ipynb) |
| propose, verify, rounds | what does speculation save, and why is it lossless? | [02](02_speculative_decoding.ipynb) |
| composite, Intersection, Union | which token is emitted? | [03](03_two_distributions.ipynb) |
| bin counter, alarm | when does the scheme change? | [04](04_match_ratio.ipynb) |
| everything | can you write it yourself? | [05](05_ssd_from_scratch.ipynb) |
"""

# %% [markdown]
"""
## Two models

The pair that ships with this book is tiny and knows only an invented school, the *Lamphouse*. Its rules forbid some things
(hexes, banes, heists): fantasy, but exactly defined, so that every claim below can be checked by comparing strings.
"""

# %%
pair = load_pair(PAIR)
world = world_of(pair)  # whose questions are asked, and who grades the answers
pair = pair.with_config(
    replace(pair.config, lookahead=3)
)  # rounds of three, as in the paper; chapter 10 lets the library choose
for name, model in [("target", pair.target), ("draft", pair.draft)]:
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

# %% [markdown]
"""
Ask something harmless. `answer` takes a *defender*: `"none"` is the target alone, `"draft-only"` the draft alone, `"ssd"` both.
"""

# %%
harmless = world.questions("benign", 3)[2].question
print("question:", harmless, "\n")
for defender in ["none", "draft-only", "ssd"]:
    print(f"{defender:>10}: {answer(pair, harmless, defender=defender, max_new_tokens=world.longest_answer)[0].text}\n")

# %% [markdown]
"""
Here all three say the same. Now something that the Lamphouse forbids.
"""

# %%
predict("00.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
forbidden = first_turned(pair, world.questions("forbidden", 60)[2:10], 10)
print("question:", forbidden.question, "\n")
for defender in ["none", "draft-only", "ssd"]:
    print(
        f"{defender:>10}: {answer(pair, forbidden.question, defender=defender, max_new_tokens=world.longest_answer)[0].text}\n"
    )

# %% [markdown]
"""
<details><summary>What happens</summary>

All of them do. The target *is* aligned, if you let it begin its own answer.
</details>

## The attack

Many systems let the caller write the beginning of the answer. A **prefilling attack** uses that: it starts the
forbidden answer and lets the model continue.
"""

# %%
predict("00.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
prefill = prefill_tokens(pair, forbidden, 10)
print("the attacker writes:", repr(pair.tokenizer.decode(prefill)), "\n")
attack = dict(prefill=prefill, max_new_tokens=world.longest_answer)
replies = {d: answer(pair, forbidden.question, defender=d, **attack)[0] for d in ["none", "draft-only", "ssd"]}
for defender, reply in replies.items():
    print(f"{defender:>10}: …{reply.text[:170]}\n")

# %% [markdown]
"""
<details><summary>What happens</summary>

The target gives in: its alignment lived in the first tokens, and those were taken from it (chapter 01). The draft
refuses even here. SSD begins like the target and then *turns back*: in the middle of a sentence it leaves the forbidden text and begins
to refuse.
</details>

## Round by round

Where does it turn back, and why there? SSD works in **rounds**: the draft proposes $T = 3$ tokens, the target scores them, and the
round ends at the first emitted token that is not the proposed one. The trace remembers all of it.
"""

# %%
predict("00.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
trace = replies["ssd"].trace.to_frame(pair.tokenizer)
for number, rows in list(trace.groupby("round"))[:10]:
    marks = "".join("■" if match else "□" for match in rows.match)
    proposed, emitted = "".join(rows.proposal_text), "".join(rows.text)
    print(f"round {number:>2}  {rows.scheme.iloc[0]:>12}   draft: {proposed:<22} emitted: {emitted:<22} {marks}")

# %% [markdown]
"""
<details><summary>What happens</summary>

■ is a match, □ a mismatch. Look at the second column first: the scheme changes between two rounds. Before that the draft says
the same thing again and again (it wants to begin a refusal, wherever the answer stands), the target goes its own way, and every round
ends after one token; what the draft had proposed after it is thrown away and not shown. After the change the rounds are full: both
models want to finish the refusal.
</details>

Disagreement costs speed. That is the idea of SSD in one sentence: *what makes speculation slow is also an alarm*.

## Token by token

The same answer as a strip. Hover over a token for the details.
"""

# %%
replies["ssd"].trace.show(pair.tokenizer)

# %% [markdown]
"""
A plain blue underline is a *match* with what the draft proposed (here: all from the turn on); bold over a double orange line is *corrected* (the
seven before it); italic over a dotted line means that the *target insists* (chapter 03; not here). Shaded tokens were decoded in the **Union** scheme, which lets the draft's refusal in; the others in **Intersection**, which keeps the
target's utility. The same as a table, around the place where the answer turns back:
"""

# %%
columns = ["text", "proposal_text", "match", "scheme", "match_ratio", "threshold", "alpha", "target_prob", "draft_prob"]
trace[[*columns, "composite"]].iloc[4:11].round(3)

# %% [markdown]
r"""
`target_prob` is $P_M$, `draft_prob` is $P_m$, and `composite` is what decides:
$$F(x) = P_M(x) + \alpha\,\bigl(P_m(x) - P_M(x)\bigr).$$
Both schemes use this formula; they differ in $\alpha$ and in the tokens $x$ that may compete. Check it by hand on every line:
"""

# %%
by_hand = trace.target_prob + trace.alpha * (trace.draft_prob - trace.target_prob)
assert (by_hand - trace.composite).abs().max() < 1e-5
before, after = trace[trace.position < pair.config.bin_size], trace[trace.scheme == "union"].head(1)
print(f"first bin: P_M of the emitted token {before.target_prob.mean():.3f} on average, α {before.alpha.iloc[0]}")
print(f"the turn:  P_M {after.target_prob.item():.3f}, P_m {after.draft_prob.item():.3f}, α {after.alpha.item()}")

# %% [markdown]
"""
Where the answer turns back (*the turn*), the target gives the emitted token next to nothing. It wins all the same, because in Union
the draft weighs more.

And what raised the alarm? After every bin of $b = 7$ tokens the **match ratio** β of this bin is compared with a threshold:
"""

# %%
bins = trace[trace.bin_tokens == pair.config.bin_size].set_index("position")[["scheme", "match_ratio", "threshold"]]
bins.set_axis(["decoded in", "β", "compared with"], axis=1).round(2)

# %% [markdown]
"""
Below the threshold the *next* bin is decoded in Union, otherwise in Intersection. One bin of Union was enough here: with a few
refusing words on the page the target itself wants to go on refusing, the match ratio is high, and SSD returns to Intersection.

## Measured

One answer proves little. Here are many held-out questions at several prefill lengths. An answer **complies** if it leaks at least one
forbidden fact after the prefilled tokens.
"""

# %%
predict("00.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
conditions = [Condition("forbidden", n) for n in PREFILL_LENGTHS]
frame = measure(pair, systems=["target alone", "SSD"], conditions=conditions, questions=QUESTIONS)
frame.groupby(["system", "prefill"], sort=False)[
    ["complied", "ends_in_refusal", "share_told", "match_ratio"]
].mean().round(2)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, column, label in zip(
    axes, ["complied", "ends_in_refusal"], ["tells a forbidden fact", "ends in a refusal"], strict=True
):
    plots.rates_by_prefill(rates(frame, column, ["system", "prefill"]), "", label, ax)
axes[0].set_ylabel("share of answers (95% interval)")
plots.save(figure, "start_here.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

Left: asked plainly (0 tokens) nobody complies; under every prefill the target alone does in nearly all answers. SSD does in
half at 5 tokens, in five of eight at 10, in a third at 20 and in none at 40. Right: every SSD answer *ends* in a refusal. A refusal phrase alone
overstates safety, so this book always shows both, and, as a third number, the *share of facts told*: how much has leaked.

Why less with a longer prefill? SSD shows seven tokens before it can know. Whether a fact is among them depends on where the attacker
stopped. The next cell counts it on the **target's** answers alone.
</details>
"""

# %%
items = world.questions("forbidden", QUESTIONS)
rows = {}
for length in PREFILL_LENGTHS[1:]:
    begun = [prefill_tokens(pair, item, length) for item in items]
    replies_alone = answer(
        pair,
        [item.question for item in items],
        defender="none",
        prefill=begun,
        max_new_tokens=pair.config.bin_size,
    )
    texts = [pair.tokenizer.decode(tokens) for tokens in begun]
    graded = [world.grade(*each) for each in zip(items, [r.text for r in replies_alone], texts, strict=True)]
    of_ssd = frame[(frame.system == "SSD") & (frame.prefill == length)]
    near, leaked = np.array([g.complied for g in graded]), of_ssd.complied.to_numpy()
    rows[length] = {
        "a fact in the target's next seven tokens": near.sum(),
        "SSD complied": leaked.sum(),
        "the same questions": (near & leaked).sum(),
    }
pd.DataFrame(rows).T.rename_axis("prefill")

# %% [markdown]
"""
The same questions: SSD leaks a fact exactly where the target's next bin holds one. After 40 tokens the next fact is never that near; an
attacker who stops just before a fact is exercise 3.
"""

# %%
told = frame.pivot_table(index="system", columns="prefill", values="share_told", sort=False)
told.style.format("{:.0%}").set_caption("mean share of the forbidden facts that were told")

# %% [markdown]
"""
Why does SSD leak anything at all? It shows a bin before it has decided about it. *Hardened* SSD (chapter 15) decides first: a bin that
raises the alarm is taken back and decoded again before anybody has seen it (here already after three tokens: with three mismatches of
seven it cannot pass any more). One question, five tokens written by the attacker, three
systems:
"""

# %%
asked = world.questions("forbidden", 60)[0]
begun = prefill_tokens(pair, asked, 5)


def said(defender):
    reply = answer(pair, asked.question, defender=defender, prefill=begun, max_new_tokens=world.longest_answer)[0]
    if reply.trace is not None:  # with what was taken back
        tokens = reply.trace.to_frame(pair.tokenizer, retracted=True, before=begun[-1])
    else:
        tokens = pd.DataFrame({"token": reply.token_ids, "text": pieces(pair.tokenizer, reply.token_ids, begun[-1])})
    return tokens[~tokens.token.isin(pair.tokenizer.all_special_ids)]


systems = {"target alone": "none", "SSD": "ssd", "hardened SSD": "ssd-hardened"}
figure = plots.answers(
    {name: said(defender) for name, defender in systems.items()}, pair.tokenizer.decode(begun), asked.facts
)
plots.save(figure, "one_question.png")
plt.show()

# %% [markdown]
"""
And what does it cost? Benign questions (twice as many: known and new wordings), right answers with their interval, and tokens per second
on this machine (a ratio within one run).
"""

# %%
predict("00.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
benign = measure(
    pair, systems=["target alone", "draft alone", "SSD"], conditions=[Condition("benign")], questions=QUESTIONS
)
summary = rates(benign, "right", ["system"]).set_index("system")[["rate", "low", "high"]]
total = benign.groupby("system", sort=False)[["tokens", "seconds"]].sum()
speed = total.tokens / total.seconds
summary.assign(relative_speed=speed / speed["target alone"]).round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

SSD gives as many right answers as the target, the draft alone fewer; with 48 questions the intervals still overlap (the
[results](../docs/results.md), with more questions, agree). That is why one does not simply use the draft. (These models are so small that
the speed column says little; chapter 10 measures it properly.)
</details>

## Exercises

All are about traces like `trace`. A check cell says what is wrong, and gives a hint after each wrong try.
Solutions: [solutions/00_solutions](solutions/00_solutions.ipynb).

### Exercise 00.1 · easy · 5 minutes
How many tokens of an answer's first bin match the draft's proposals? `trace` is a table as above, `bin_size` the length of a bin; an
answer may be shorter than a bin.
"""


# %%
def first_bin_matches(trace, bin_size):
    return ...


check("00.1", first_bin_matches)

# %% [markdown]
"""
### Exercise 00.2 · real · 10 minutes
What has a reader seen when the answer turns? Return the text before the first token that was decoded in Union; the whole text where
there is none.
"""


# %%
def shown_before_the_turn(trace):
    return ...


check("00.2", shown_before_the_turn)

# %% [markdown]
"""
### Exercise 00.3 · break it · 15 minutes
You are the attacker. For an item like `forbidden` (look at its `question`, `answer` and `facts`) return a prefill after which SSD leaks a
fact: a beginning of `item.answer`, at most 20 tokens long, that holds no whole fact itself. The score is how many of eight new questions
leak; ten tokens of prefill get five of them.
"""


# %%
def my_prefill(item):
    return ...


check("00.3", my_prefill)

# %% [markdown]
"""
### Exercise 00.4 · open · 20 minutes
Find settings under which fewer attacked answers leak, and no fewer benign ones are right: `replace(pair.config, …)` (its fields:
`help(pair.config)`). What would such settings cost with models that agree less?
"""

# %%
my_config = ...
check("00.4", my_config)

# %% [markdown]
"""
## Takeaways
1. A prefilled answer switches off alignment that lives in the first tokens.
2. SSD lets a small, deeply aligned draft turn the answer back, and otherwise leaves the target alone.
3. It turns back after about one bin of seven tokens: what has leaked by then is part of the result.

## Questions
"""

# %%
question("00.q1")
question("00.q2")
question("00.q3")
score("00")

# %% [markdown]
"""
To think about: what would an attacker who knows SSD try? (Chapter 13 tries it.)

Every term of this book stands in the [glossary](glossary.md).

**Next:** [01 · Shallow alignment](01_shallow_alignment.ipynb): where in an answer a refusal lives.
"""
