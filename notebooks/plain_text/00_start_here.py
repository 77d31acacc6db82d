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

About 10 minutes on a laptop CPU; nothing is downloaded.
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
import pandas as pd
import torch

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

**Predict:** which of the three refuse when they are simply asked?
"""

# %%
forbidden = first_turned(pair, world.questions("forbidden", 60)[2:10], 10)
print("question:", forbidden.question, "\n")
for defender in ["none", "draft-only", "ssd"]:
    print(
        f"{defender:>10}: {answer(pair, forbidden.question, defender=defender, max_new_tokens=world.longest_answer)[0].text}\n"
    )

# %% [markdown]
"""
All of them do. The target *is* aligned, if you let it begin its own answer.

## The attack

Many systems let the caller write the beginning of the answer. A **prefilling attack** uses that: it starts the
forbidden answer and lets the model continue.

**Predict:** the attacker writes ten tokens. Which of the three still refuse?
"""

# %%
prefill = prefill_tokens(pair, forbidden, 10)
print("the attacker writes:", repr(pair.tokenizer.decode(prefill)), "\n")
attack = dict(prefill=prefill, max_new_tokens=world.longest_answer)
replies = {d: answer(pair, forbidden.question, defender=d, **attack)[0] for d in ["none", "draft-only", "ssd"]}
for defender, reply in replies.items():
    print(f"{defender:>10}: …{reply.text[:170]}\n")

# %% [markdown]
"""
<details><summary>What happened</summary>

The target gives in: its alignment lived in the first tokens, and those were taken from it (chapter 01). The draft
refuses even here. SSD begins like the target and then *turns back*: in the
middle of a sentence it leaves the forbidden text and begins to refuse.
</details>

## Round by round

Where does it turn back, and why there? SSD works in **rounds**: the draft proposes $T = 3$ tokens, the target scores them, and the
round ends at the first emitted token that is not the proposed one. The trace remembers all of it.

**Predict:** how many tokens does a round emit while target and draft disagree, and how many when they agree?
"""

# %%
trace = replies["ssd"].trace.to_frame(pair.tokenizer)
for number, rows in list(trace.groupby("round"))[:10]:
    marks = "".join("■" if match else "□" for match in rows.match)
    proposed, emitted = "".join(rows.proposal_text), "".join(rows.text)
    print(f"round {number:>2}  {rows.scheme.iloc[0]:>12}   draft: {proposed:<22} emitted: {emitted:<22} {marks}")

# %% [markdown]
"""
■ is a match, □ a mismatch. Look at the second column first: the scheme changes between two rounds. Before that the draft says the same
thing again and again (it wants to begin a refusal, wherever the answer stands), the target goes its own way, and every round ends
after one token; what the draft had proposed after it is thrown away and not shown. After the change the rounds are full: both models
want to finish the refusal.

So disagreement costs speed. That is the idea of SSD in one sentence: *what makes speculation slow is also an alarm*.

## Token by token

The same answer as a strip. Hover over a token for the details.
"""

# %%
replies["ssd"].trace.show(pair.tokenizer)

# %% [markdown]
"""
Underlined tokens *match* what the draft proposed; bold ones are *corrected*; in italics the *target insists* (chapter 03). Shaded
tokens were decoded in the **Union** scheme, which lets the draft's refusal in; the others in **Intersection**, which keeps the
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

**Predict:** will SSD leak *nothing*, or something before it turns back?
"""

# %%
conditions = [Condition("forbidden", n) for n in PREFILL_LENGTHS]
frame = measure(pair, systems=["target alone", "SSD"], conditions=conditions, questions=QUESTIONS)
frame.groupby(["system", "prefill"], sort=False)[
    ["complied", "ends_in_refusal", "share_told", "match_ratio"]
].mean().round(2)

# %%
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
Left: the target alone complies under every prefill; SSD does so much less often, but still sometimes, because seven tokens pass before
it can know. Right: every SSD answer *ends* in a refusal. A refusal phrase alone overstates safety, so this book always shows
both, and, as a third number, the *facts told*: how much has leaked.
"""

# %%
told = frame.pivot_table(index="system", columns="prefill", values="share_told", sort=False)
told.style.format("{:.0%}").set_caption("mean share of the forbidden facts that were told")

# %% [markdown]
"""
Why does SSD leak anything at all? It shows a bin before it has decided about it. *Hardened* SSD (chapter 15) decides first: a bin that
raises the alarm is taken back and decoded again before anybody has seen it. One question, five tokens written by the attacker, three
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
And what does it cost? Benign questions, right answers with their interval, and tokens per second on this machine (a ratio
within one run).

**Predict:** which of the three answers benign questions worst?
"""

# %%
benign = measure(
    pair, systems=["target alone", "draft alone", "SSD"], conditions=[Condition("benign")], questions=QUESTIONS
)
summary = rates(benign, "right", ["system"]).set_index("system")[["rate", "low", "high"]]
total = benign.groupby("system", sort=False)[["tokens", "seconds"]].sum()
speed = total.tokens / total.seconds
summary.assign(relative_speed=speed / speed["target alone"]).round(2)

# %% [markdown]
"""
SSD stays near the target's correctness. The draft alone gets fewer answers right (24 questions are too few to be sure of it; the results page, with more, agrees), and that is why one does not simply use the draft.
(These models are so small that speed says little; chapter 10 measures it properly.)

## Exercises

All three are about `trace`, the table of the attacked answer above. A check cell says whether you are right; its hint says
what to try. Solutions: [solutions/00_solutions](solutions/00_solutions.ipynb).

**1.** How many of the first seven tokens of SSD's attacked answer matched the draft's proposal?
"""

# %%
from ssd_lib.show.exercises import check

first_seven = ...
check(
    "matches in the first bin",
    first_seven,
    int(trace.match[:7].sum()),
    "The column `match` is True or False: sum it over the first 7 lines of `trace`.",
)

# %% [markdown]
"""
**2.** At which answer position does SSD first decode in Union?
"""

# %%
first_union = ...
check(
    "first Union token",
    first_union,
    int(trace.position[trace.scheme == "union"].min()),
    "Keep the lines with scheme == 'union' and take the smallest `position`; positions count from 0.",
)

# %% [markdown]
"""
**3.** Let the draft propose one token a round instead of three (`config=replace(pair.config, lookahead=1)`). Is the answer still the
same, token for token? Predict first, then compare `token_ids`.
"""

# %%
same_answer = ...
shorter = answer(pair, forbidden.question, **attack, config=replace(pair.config, lookahead=1))[0]
check(
    "does the lookahead change the answer?",
    same_answer,
    shorter.token_ids == replies["ssd"].token_ids,
    "True or False: compare shorter.token_ids with replies['ssd'].token_ids. Chapter 05 says why.",
)

# %% [markdown]
"""
## Takeaways
1. A prefilled answer switches off alignment that lives in the first tokens.
2. SSD lets a small, deeply aligned draft turn the answer back, and otherwise leaves the target alone.
3. It turns back after about one bin of seven tokens: what has leaked by then is part of the result.

## Questions
- Why might a refusal phrase in an answer not mean that the answer is safe?
- What would happen with a draft that is not deeply aligned?
- What would an attacker who knows SSD try?

Every term of this book stands in the [glossary](glossary.md).

**Next:** [01 · Shallow alignment](01_shallow_alignment.ipynb): where in an answer a refusal lives.
"""
