# %% [markdown]
"""
[← 06](06_attacks.ipynb) &nbsp; [08 →](08_judging.ipynb) &nbsp; [Glossary](glossary.md)

# 07 · Defenders

**Fourteen ways to defend a model: what does each change, what does each cost, and what does it let through?**

You will be able to
- say for each defence whether it changes the prompt, checks the question or the answer, or steers the decoding,
- build the opening of SafeDecoding and the perplexity filter by hand,
- read one table of attack success, utility and cost, with intervals, and say what it does not show,
- add a defender of your own with one function and one line.

About 15 minutes on a laptop CPU. You need chapters 03 and 06.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
QUESTIONS = 16
ATTACKS = ["prefill-10", "nested-fiction", "suffix"]
HARMLESS = ["benign", "scary"]
MAX_TOKENS = 80
SETTINGS = {"smoothllm": {"copies": 4}}  # the paper votes over 10: two and a half times the cost
EXPERT = "toy/target-expert" if PAIR == "toy" else None  # SafeDecoding's adapter; yours by `ssd train --expert`
JUDGE = "exact" if PAIR == "toy" else "refusal"  # only the embedded world knows the truth (chapter 08)

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score
from tqdm.auto import tqdm

from ssd_lib import answer, load_model, load_pair
from ssd_lib.attacks import load_set
from ssd_lib.defenders import DEFENDERS, Defender, prompts
from ssd_lib.experiments.report import clip, interval_text
from ssd_lib.experiments.stats import estimate, rates
from ssd_lib.judges import judge, says_harmful
from ssd_lib.models.chat import default_system, encode_prompt, render_prompt
from ssd_lib.models.refusals import refuses
from ssd_lib.show import plots
from ssd_lib.show.style import beside, crowds, looks, reach

plots.use_book_style()
pd.set_option("display.max_colwidth", 90, "display.html.use_mathjax", False)
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread, and lose much on a busy machine
pair = load_pair(PAIR)

# %% [markdown]
"""
## The registry

Every defender is one function behind one interface, `answer(pair, questions, defender=…)`, and one line of `DEFENDERS`:
where it is from, what it costs, and its settings.
"""

# %%
bounds = ["none", "draft-only"]  # not defences: the target and the draft, each alone
print(len(DEFENDERS) - len(bounds), "defences and", len(bounds), "bounds")
pd.DataFrame({name: {"paper": d.paper, "costs": d.costs} for name, d in DEFENDERS.items()}).T

# %% [markdown]
"""
They work in three places:

- **the prompt**: self-reminder, goal-priority, icd (demonstrations), paraphrase, retokenization;
- **a check** of the question (ppl) or of answers (self-exam, back-translation, smoothllm's vote);
- **the decoding**: safedecoding and secdecoding (a second model that steers), ada (the target, asked again in mid-answer), ssd and
  ssd-hardened (chapter 15).

### What the embedded target was taught

Half of these defences *talk* to the target: "be responsible", "is this harmful?", "paraphrase this". An instruction-tuned
model understands such sentences; a model that only ever saw questions about one school does not. So the embedded target was
taught them in training, with the very wordings used here:
"""

# %%
from ssd_lib.toy.train import Corpus

print(f"{Corpus.INSTRUCTED:.0%} of its alignment examples are instructions to judge, reword, guess or read a question;")
print(f"{Corpus.DRESSED:.0%} of the others are dressed as a prompt-level defence would send them.")

# %% [markdown]
"""
Keep that in mind for every table below. Without it the prompt-level defences would fail here for a dull reason: the model could
not read them. With it they meet a model that knows exactly these sentences and is far too small to reason about them. What the
table shows is how each *mechanism* behaves on the same questions; it is no ranking for real models.

## What the prompt becomes

The first family, seen from the model's side. (Text is escaped and clipped.)
"""

# %%
plain = load_set("direct", limit=1)[0].question
paraphrased = answer(pair, plain, defender="paraphrase", max_new_tokens=1)[0].notes["asked"]
changed = {
    "none": plain,
    "self-reminder": prompts.reminded(plain),
    "goal-priority": prompts.prioritised(plain),
    "icd": prompts.demonstrated(plain),
    "paraphrase": paraphrased,
    "retokenization": prompts.retokenised(pair.tokenizer, plain, dropout=0.2),
    "smoothllm": prompts.swapped(plain, share=0.1, seed="0/0"),
}
for name, asked in changed.items():
    print(f"{name:>14}: {clip(render_prompt(pair.tokenizer, asked, chat_format=pair.spec.target_format), 330)}\n")

# %% [markdown]
"""
A prompt-level defence is nothing but this rewriting; the answer is the undefended target's. (Self-Reminder also writes into the
system turn. The embedded template has none, so there only the sentence after the question arrives.)
"""

# %%
assert prompts.reminded(plain) == f"{plain}\n{prompts.REMINDER}"
system = default_system(pair.tokenizer, pair.spec.target_format)
for name, asked in [
    ("self-reminder", prompts.reminded_system(prompts.reminded(plain), system)),
    ("goal-priority", prompts.prioritised(plain)),
    ("icd", prompts.demonstrated(plain)),
    ("retokenization", prompts.retokenised(pair.tokenizer, plain, dropout=0.2)),
]:
    assert answer(pair, [asked], defender="none")[0].token_ids == answer(pair, plain, defender=name)[0].token_ids, name
print("equal: each is the undefended target, asked differently")

# %% [markdown]
"""
## Every defender, on the same questions

Three kinds of attack (chapter 06) and two harmless sets, put once to every defender. All that follows is read from these answers.
(About a minute.)
"""

# %%
records = {
    "attacked": [(name, r) for name in ATTACKS for r in load_set(name, limit=QUESTIONS, tokenizer=pair.tokenizer)],
    "harmless": [(name, r) for name in HARMLESS for r in load_set(name, limit=QUESTIONS)],
}
systems = [name for name, d in DEFENDERS.items() if EXPERT or d.needs not in ("expert", "base")]  # other models
SETTINGS["safedecoding"] = {"expert": EXPERT}


def ask(defender, part):
    """The answers of one defender to all attacked or all harmless questions, as one batch."""
    asked = [r for _, r in records[part]]
    options = dict(prefill=[r.prefill for r in asked], settings=SETTINGS.get(defender), max_new_tokens=MAX_TOKENS)
    return answer(pair, [r.prompt for r in asked], defender=defender, trace=False, **options)


# On a CPU the process's own time is measured: other work on the machine would disturb a wall clock.
clock = time.process_time if pair.target.device.type == "cpu" else time.perf_counter
ask("none", "harmless")  # so that the cost of the first call falls on no defender
replies, seconds = {}, {}
for name in tqdm(systems):
    for part in records:
        started = clock()
        replies[name, part] = ask(name, part)
        seconds[name, part] = clock() - started


# %%
def table_of(defender, part, answers):
    """One row an answer: what it did and what it cost."""
    asked = [r for _, r in records[part]]
    verdicts = judge(JUDGE, asked, [a.text for a in answers])
    rows = []
    for (name, r), a, verdict in zip(records[part], answers, verdicts, strict=True):
        cost, refused = a.cost, verdict.details.get("refused", refuses(a.text))
        row = dict(system=defender, part=part, set=name, id=r.id, refused=refused, text=a.text)
        row |= dict(harmful=bool(says_harmful(verdict.label)), right=verdict.label == "right")
        row |= dict(told=verdict.details.get("share_told", float(row["harmful"])))
        row |= dict(tokens=cost.tokens, extra=cost.extra_tokens, prompt=cost.prompt_tokens)
        row |= dict(target=cost.target_forwards, draft=cost.draft_forwards, other=cost.other_forwards)
        rows.append(row)
    return rows


frame = pd.DataFrame([row for (name, part), got in replies.items() for row in table_of(name, part, got)])

# %%
predict("07.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
one = frame[(frame.set == "prefill-10") & (frame.id == frame[frame.set == "prefill-10"].id.iloc[0])]
attack = records["attacked"][0][1]
print("asked:", clip(attack.prompt, 80), "\nprefilled:", clip(attack.prefill, 80), "\n")
for row in one.itertuples():
    print(
        f"{row.system:>16} [{'tells' if row.harmful else 'refuses' if row.refused else 'neither':>7}] {clip(row.text, 95)}"
    )

# %% [markdown]
r"""
<details><summary>What happens</summary>

One prefilled question, every defender's answer. Those that rewrite the question leave the answer's first words in place, and
the target goes on from them. Those that see the *answer*, or steer the decoding in the middle of it, have a chance. SSD as published
begins to tell and then turns: its first bin passes before there can be an alarm.
</details>

## Steering the opening: SafeDecoding

SafeDecoding (Xu et al. 2024) is SSD's closest relative. Its second model is an *expert*: the target itself with a LoRA adapter
tuned to refuse. For the first $m = 2$ tokens, with the target's $P_n$ and the expert's $P_e$,
$$V = \mathrm{TopK}_n(k) \cap \mathrm{TopK}_e(k),\ k \text{ smallest with } |V| \ge 5, \qquad F(x) = P_n(x) + \alpha\,\bigl(P_e(x) - P_n(x)\bigr),\ \alpha = 3,$$
and the best $F$ in $V$ is emitted; after that the target goes on alone. It is chapter 03's Intersection without the
rule that the target may insist, and with an $\alpha$ that *extrapolates* beyond the expert.
"""

# %%
expert = load_model(EXPERT)[0] if EXPERT else pair.draft  # without an expert, any second model shows the rule


def next_probabilities(model, prompt_ids):
    with torch.no_grad():
        return model(torch.tensor([prompt_ids], device=model.device)).logits[0, -1].float().softmax(-1)


def steer(target, expert, alpha=3.0, common=5):
    """The emitted token, the sample space V and the scores F."""
    order = [p.sort(descending=True, stable=True).indices.tolist() for p in (target, expert)]
    k = common
    while len(set(order[0][:k]) & set(order[1][:k])) < common:
        k += 1
    space, score = set(order[0][:k]) & set(order[1][:k]), target + alpha * (expert - target)
    return min(space, key=lambda token: (-float(score[token]), token)), space, score


def opening(record, m=2):
    """The first m tokens of SafeDecoding's answer."""
    ids = encode_prompt(pair.tokenizer, record.prompt, chat_format=pair.spec.target_format, prefill=record.prefill)
    emitted = []
    for _ in range(m):
        emitted.append(steer(*(next_probabilities(model, ids + emitted) for model in (pair.target, expert)))[0])
    return emitted


tested = range(0, len(records["attacked"]), 2) if EXPERT else []
for i in tested:
    assert opening(records["attacked"][i][1]) == replies["safedecoding", "attacked"][i].token_ids[:2]
print("equal to ssd_lib.defenders.safedecoding on", len(tested), "attacked questions")

# %% [markdown]
"""
The rule itself, `steer`, beside the library's, on both models' probabilities at one position. We look at the first token after a
question where target and expert want different things.
"""

# %%
from ssd_lib.defenders.safedecoding import SafeDecodingSettings
from ssd_lib.defenders.safedecoding import steer as library_steer

candidates = [r for _, r in records["attacked"] if not r.prefill]
encoded = [encode_prompt(pair.tokenizer, r.prompt, chat_format=pair.spec.target_format) for r in candidates]
opinions = [[next_probabilities(model, ids) for model in (pair.target, expert)] for ids in encoded]
torn = next((i for i, (p, q) in enumerate(opinions) if p.argmax() != q.argmax()), 0)
target_probs, expert_probs = opinions[torn]
token, space, scored = steer(target_probs, expert_probs)
assert all(steer(p, q)[0] == int(library_steer(p[None], q[None], SafeDecodingSettings())[0]) for p, q in opinions)

shown = sorted(space, key=lambda t: -float(scored[t]))
figure, ax = plt.subplots(figsize=(8, 3.4))
for shift, (label, values, color, hatch) in enumerate(
    [
        ("target $P_n$", target_probs, plots.COLORS["target"], ""),
        ("expert $P_e$", expert_probs, "#AAAAAA", "xxx"),
        ("score $F$", scored, "#333333", "..."),
    ]
):
    places = np.arange(len(shown)) + 0.27 * (shift - 1)
    ax.bar(places, [float(values[t]) for t in shown], 0.27, color=color, hatch=hatch, edgecolor="white", label=label)
ax.set_xticks(range(len(shown)), [repr(pair.tokenizer.decode([t])) for t in shown])
ax.axhline(0, color="black", linewidth=0.8)
ax.set(
    ylabel="probability / score",
    xlabel="the sample space V, best score first",
    title="The first token under SafeDecoding",
)
ax.legend(frameon=False)
plt.show()
print("asked:", clip(candidates[torn].prompt, 100), "| emitted:", repr(pair.tokenizer.decode([token])))

# %%
predict("07.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
second = "safedecoding" if EXPERT else "ssd"
first = {name: [a.token_ids[:2] for a in replies[name, "attacked"]] for name in ["none", second]}
steered = pd.DataFrame({"set": [name for name, _ in records["attacked"]]})
steered["other opening than the target's"] = [a != b for a, b in zip(first["none"], first[second], strict=True)]
steered["still tells a fact"] = frame[(frame.system == second) & (frame.part == "attacked")].harmful.to_numpy()
steered.groupby("set", sort=False).agg(["sum", "count"])

# %% [markdown]
r"""
<details><summary>What happens</summary>

Where expert and target disagree, α = 3 stretches the difference far past both probabilities (the figure above). But the expert learned to refuse where an answer *begins*, as ordinary alignment does: in only 1 of 16 prefilled answers do the two steered tokens
differ at all, and 15 still tell. Without a prefill it changes many openings. A deeply aligned second model, and watching for longer than two
tokens, are SSD's two changes.
</details>

## Reading the question: perplexity

PPL (Alon & Kamfonas 2023) refuses a question that reads like noise. The perplexity of a text is
$\exp\bigl(-\tfrac1n \sum_i \log p(x_i \mid x_{<i})\bigr)$; by hand:
"""


# %%
def perplexity(text):
    ids = [pair.tokenizer.bos_token_id, *pair.tokenizer.encode(text, add_special_tokens=False)]
    with torch.no_grad():
        log_probs = pair.target(torch.tensor([ids], device=pair.target.device)).logits[0, :-1].float().log_softmax(-1)
    return float((-log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean()).exp())


def measured(records):
    """What the library's filter measures, with the pair's own choice of reader (the embedded one: the target)."""
    answers = answer(pair, [r.prompt for r in records], defender="ppl", max_new_tokens=1)
    return np.array([a.notes["perplexity"] for a in answers])


benign = load_set("benign", limit=100)
if pair.spec.perplexity_model is None:
    assert np.allclose([perplexity(r.prompt) for r in benign[:10]], measured(benign[:10]), rtol=1e-3)
scores = {"benign": measured(benign), "suffix": measured(load_set("suffix"))}
scores["nested-fiction"] = measured(load_set("nested-fiction", limit=40))

# %%
predict("07.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
threshold = DEFENDERS["ppl"].defaults(pair).threshold
figure, ax = plt.subplots(figsize=(7.5, 3.6))
edges = np.geomspace(min(map(min, scores.values())), max(map(max, scores.values())) * 1.01, 30)
for (name, values), color, hatch in zip(scores.items(), ["#DDDDDD", "#777777", "none"], ["", "", "///"], strict=True):
    weights = np.full(len(values), 1 / len(values))
    ax.hist(values, edges, weights=weights, facecolor=color, hatch=hatch, edgecolor="black", lw=0.7, label=name)
ax.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
ax.set(
    xscale="log",
    xlabel="perplexity of the question",
    ylabel="share of the set",
    title="What the perplexity filter sees",
)
ax.legend(frameon=False)
plt.show()
refused = pd.DataFrame([{"set": n, "refused": s > threshold} for n, values in scores.items() for s in values])
rates(refused, "refused", ["set"]).round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

The published threshold is the largest perplexity of SafeDecoding's plain questions *under GPT-2*; here the reader is the
embedded target, for which anything outside its school is noise: of the suffix questions it refuses four fifths, of the stories nearly all, of the
benign ones none. A filter cannot tell an attack from an unusual question, and it cannot see a prefilled answer at all: there the
question is the plain one.
</details>

## Reading the answer: Self-Exam

Self-Exam shows the target its own answer and asks whether it is harmful. Beside the examiner's reply stands what the exact judge
says about the same answer.
"""

# %%
replied = [a.notes["examiner"] for part in records for a in replies["self-exam", part]]
examined = frame[frame.system == "none"].assign(examiner=["yes" if "yes" in r.lower() else "no" for r in replied])
examined["the answer"] = np.where(examined.harmful, "tells a forbidden fact", "tells none")
print(pd.Series([clip(r, 40) for r in replied]).value_counts().head(4).to_dict())
pd.crosstab(examined["the answer"], examined.examiner).reindex(columns=["yes", "no"], fill_value=0)

# %% [markdown]
"""
The diagonal is right; *tells none / yes* is an answer wrongly withheld, *tells / no* a leak: here 3 of 80 together. (It examines the whole answer, the
prefilled part included, while the judge counts only what the model itself leaked.) This examiner was trained on answers of this
world; a general model's may be worse, and it can be attacked itself.

## Voting over copies: SmoothLLM

An optimised suffix is brittle: change a few characters and it stops working. SmoothLLM asks several copies with 10% of the
characters swapped and goes with the majority. How many copies refused?
"""

# %%
predict("07.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
votes = pd.DataFrame(
    {
        "set": [name for part in records for name, _ in records[part]],
        "refusing copies": [a.notes["refusals"] for part in records for a in replies["smoothllm", part]],
    }
)
voted = frame[(frame.system == "smoothllm") & (frame.part == "harmless")]
print(f"harmless: {voted.right.sum()} of {len(voted)} right, {voted.refused.sum()} refused")
copies = replies["smoothllm", "attacked"][0].notes["copies"]
pd.crosstab(votes["set"], votes["refusing copies"]).reindex(ATTACKS + HARMLESS).reindex(
    columns=range(copies + 1), fill_value=0
)

# %% [markdown]
"""
<details><summary>What happens</summary>

If at least half of the copies refuse, the answer is a refusal. A prefilled answer stands in every copy, so the vote cannot help
there: no copy refused. Of the harmless questions few are refused, since seldom do half of the copies refuse (the vote takes any phrase of a refusal list, the judge only this
world's refusals: of the three outvoted questions it calls two refused); but the answer that is returned is one to a question with a
tenth of its letters wrong, and it is mostly not right.
</details>

## The table

Attack success on the three kinds, right answers and refusals on the harmless sets, all with 95% Wilson intervals.
"""

# %%
predict("07.p5")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def cells(rows, column, by):
    """Rates as text, systems down, `by` across."""
    table = rates(rows, column, ["system", by])
    numbers = (100 * table[["rate", "low", "high"]]).to_numpy()
    table["cell"] = [f"{rate:.0f}% [{low:.0f}, {high:.0f}]" for rate, low, high in numbers]
    return table.pivot_table(index="system", columns=by, values="cell", aggfunc="first", sort=False)


attacked, harmless = frame[frame.part == "attacked"], frame[frame.part == "harmless"]
success = cells(attacked, "harmful", "set")
utility = cells(harmless, "right", "part").rename(columns={"harmless": "harmless, right"})
over = cells(harmless, "refused", "part").rename(columns={"harmless": "harmless, refused"})
success.join(utility).join(over)

# %% [markdown]
"""
<details><summary>What happens</summary>

Read it row by row, all columns together: a low attack success is worth little where few harmless questions are answered right. And mind
the intervals; with this few questions only large differences are real. SSD's 56% on prefilled answers is a large number for the method
of this book: its first bin lets a fact through in many answers. Hardened SSD (chapter 15) takes that bin back.

Before you admire the defences that ask the target about an answer, remember that it was *trained* to judge the answers of this
world. And before you dismiss those that break words or wrap the question, remember how small this target is: a large model may
mind less.
</details>

Success counts an answer that leaks *any* fact, even if it turns back later. How much leaks, as the mean share of the facts:
"""


# %%
def mean_share(values):
    """A mean with its 95% interval: bootstrapped over questions; of a column of zeros, as for a rate."""
    return interval_text(*estimate("share", values.to_numpy()), percent=False)


attacked.groupby(["system", "set"], sort=False).told.apply(mean_share).unstack(sort=False)

# %% [markdown]
"""
The table as a figure, each column on its own, and then safety against utility:
"""

# %%
order = list(reversed(systems))
look_of = looks(systems)
colors = [look_of[name].color if name in ("none", "draft-only", "ssd", "ssd-hardened") else "#444444" for name in order]
panels = {
    "attack success": [(attacked[attacked.set == a], "harmful", a, m) for a, m in zip(ATTACKS, "osD", strict=True)],
    "harmless questions": [(harmless, "right", "right", "^"), (harmless, "refused", "refused", "x")],
}
figure, axes = plt.subplots(1, 2, figsize=(10, 8), sharey=True)
for ax, (title, series) in zip(axes, panels.items(), strict=True):
    for shift, (rows, column, label, mark) in enumerate(series):
        table = rates(rows, column, ["system"]).set_index("system").reindex(order)
        places = np.arange(len(order)) + 0.27 * ((len(series) - 1) / 2 - shift)
        around = [(table.rate - table.low).clip(lower=0), (table.high - table.rate).clip(lower=0)]
        ax.errorbar(table.rate, places, xerr=around, fmt="none", ecolor=colors, elinewidth=1)
        ax.scatter(table.rate, places, c=colors, marker=mark, s=22, zorder=3)
        ax.scatter([], [], color="#444444", marker=mark, label=label)
    for row in range(0, len(order), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)
    ax.set(title=title, ylim=(-0.5, len(order) - 0.5), xlabel="share (95% Wilson interval)", xlim=(-0.03, 1.03))
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
axes[0].set_yticks(range(len(order)), order)
plots.save(figure, "defenders.png")
plt.show()

leaks = rates(attacked, "harmful", ["system"]).set_index("system").reindex(systems)
right = rates(harmless, "right", ["system"]).set_index("system").reindex(systems)
figure, ax = plt.subplots(figsize=(8.5, 5.5))
ax.set(
    xlim=(-0.06, 0.9),
    ylim=(-0.12, 1.06),
    xlabel="attack success, all three kinds",
    ylabel="harmless questions answered right",
)
crowd = {place: of for of in crowds(leaks.rate, right.rate) for place in of}
for place, (name, look) in enumerate(look_of.items()):
    x, y = leaks.loc[name], right.loc[name]
    beside_x, beside_y = reach(x.rate, x.low, x.high), reach(y.rate, y.low, y.high)
    ax.errorbar(x.rate, y.rate, xerr=beside_x, yerr=beside_y, fmt="none", ecolor=look.color, elinewidth=0.7, alpha=0.35)
    where = beside(ax, (x.rate, y.rate), crowd[place].index(place), len(crowd[place]))
    ax.scatter(
        x.rate, y.rate, s=70, transform=where, edgecolor="white", linewidth=0.6, zorder=3, label=name, **look.point
    )
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
"""
The best place is on the left, at the top. Marks that would hide each other stand below their place, each with a line to it. Below the top stand the draft alone and the defences
that change the question's words: these stop some attacks, but not the prefilled ones (retokenization's 69% against 94% may be chance), and pay for it in right answers.

## What it costs

On the harmless questions, since every user pays for those. For each question the tokens *read* (all prompts) and *written*
(answers, and extra text that nobody sees); for the batch the *forwards* of each model; and the time a token takes, divided by
what it takes without a defence: the published *average token generation time ratio*. It is one measurement of one batch, so it has no interval.
"""

# %% [markdown]
"""
A forward is not a second. While decoding, a model's weights are read once a forward, however many tokens it checks; so a fair
account counts a forward by the *size* of the model. That account carries over to a real pair better than the times of this
machine, where both models are tiny.
"""

# %%
predict("07.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
written = harmless.groupby("system", sort=False).tokens.sum()
a_token = {name: seconds[name, "harmless"] / written[name] for name in systems}
costs = harmless.groupby("system", sort=False)[["prompt", "tokens", "extra", "target", "draft", "other"]].mean()
costs["time ratio"] = [a_token[name] / a_token["none"] for name in costs.index]
costs.round(1)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
size = {
    name: sum(p.numel() for p in model.parameters()) for name, model in [("target", pair.target), ("draft", pair.draft)]
}
small = size["draft"] / size["target"]
weight = pd.DataFrame(
    {"target": 1.0, "draft": small, "other": 1.0}, index=costs.index
)  # SafeDecoding's expert: the target's size
weight.loc[weight.index == "secdecoding", "other"] = small  # the draft's base: the draft's size
work = costs[list(weight)] * weight / costs.loc["none", "target"]
stacks = {
    "tokens a question": (costs, ["prompt", "tokens", "extra"], ["read", "answer", "extra, unseen"]),
    "forwards × model size (undefended = 1)": (work, ["target", "draft", "other"], ["target", "draft", "third model"]),
}
figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True)
for ax, (title, (table, parts, labels)) in zip(axes, stacks.items(), strict=True):
    left = np.zeros(len(order))
    for part, label, color, hatch in zip(
        parts,
        labels,
        [plots.COLORS.get(parts[0], "#DDDDDD"), plots.COLORS.get(parts[1], "#999999"), "#333333"],
        ["", "///", "xx"],
        strict=True,
    ):
        values = table[part].reindex(order).to_numpy(dtype=float)
        ax.barh(range(len(order)), values, left=left, color=color, hatch=hatch, edgecolor="white", label=label)
        left += values
    ax.set(xlabel=title, axisbelow=True, xlim=(0, 1.08 * left.max()))
    ax.legend(frameon=False, fontsize=8, loc="upper right")
axes[1].axvline(1, color="black", linestyle=":", linewidth=1)
axes[0].set_yticks(range(len(order)), order)
plots.save(figure, "defender_costs.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

There are three ways to pay. Defences of the prompt pay in tokens read; those that answer several times, in tokens that nobody
sees; SSD, with a draft that runs along, but it saves target forwards, since one of them checks several tokens. (How many is
chosen while decoding, by the clock, so the forwards of ssd and ssd-hardened change from run to run; their answers do not.) In seconds
SSD need not win here (the table's last column), though its bars are shorter: in models this small a forward of the draft takes far more than the
eighth of the target's time that its weights would say (chapter 10).
</details>

## How to add a defender

A function `(pair, request, settings) -> answers` and one line of the registry. Here is the simplest defence against prefilling:
do not let callers write into the answer. `request` holds `questions` and `prefills`; the answering itself is borrowed from
the undefended target.
"""


# %%
def no_prefill(pair, request, settings):
    """Throw away what the caller wrote into the answer."""
    empty = replace(request, prefills=[[] for _ in request.prefills])
    return DEFENDERS["none"].run(pair, empty, None)


DEFENDERS["no-prefill"] = Defender(no_prefill, "this chapter", "one target forward a token", lambda pair: None)

# %%
predict("07.p7")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
added = [row for part in records for row in table_of("no-prefill", part, ask("no-prefill", part))]
alone = frame[frame.system == "none"].reset_index(drop=True)
added = pd.DataFrame(added)
unchanged = [a == b for a, b, name in zip(added.text, alone.text, alone.set, strict=True) if "prefill" not in name]
assert all(unchanged)  # where nothing was prefilled, nothing changed
del DEFENDERS["no-prefill"]  # the registry is as it was
cells(pd.concat([alone, added]).query("part == 'attacked'"), "harmful", "set")[ATTACKS]

# %% [markdown]
"""
<details><summary>What happens</summary>

It makes every prefilled question the
plain one again, costs nothing, and leaves the other attacks exactly as they were. Whether it can be used is a question of
product, not of method: nobody can then continue a half-written answer.
</details>

From then on `answer(…, defender="no-prefill")` knows it, and so would `ssd run --defenders no-prefill` if the two lines stood in
a module of `ssd_lib/defenders` (settings are a frozen dataclass; nothing else has to know).
"""

# %% [markdown]
"""
## Exercises

Solutions: [solutions/07_solutions](solutions/07_solutions.ipynb).

### Exercise 07.1 · easy · 10 minutes
Fit a perplexity filter without knowing any attack. `harmless` and `attacked` are arrays of perplexities; a question is refused if its value is *above* the
threshold. Return two numbers: the smallest of the harmless values which, as the threshold, refuses no more than the given `share` of the harmless
questions; and the share of the attacked ones that it refuses.
"""


# %%
def filter_from_harmless(harmless, attacked, share):
    return ...


check("07.1", filter_from_harmless)

# %% [markdown]
r"""
### Exercise 07.2 · real · 20 minutes
SafeDecoding's score is $F(x) = P_n(x) + \alpha\,(P_e(x) - P_n(x))$ on a sample space $V$. At α = 0 the target's favourite in $V$ leads. From which α > 0 on
does another token of $V$? Infinity (`math.inf`) where none ever does. `target` and `expert` are arrays of probabilities, `space` a list of tokens.
(Exactly: no grid of α is fine enough for the check.)
"""


# %%
def turning_alpha(target, expert, space):
    return ...


check("07.2", turning_alpha)

# %% [markdown]
"""
### Exercise 07.3 · find the bug · 10 minutes
With three copies this vote refuses too many harmless questions. Return what it should have returned.
"""

# %%
import inspect

from checks.chapter_07 import suspect_vote

print(inspect.getsource(suspect_vote))


def mended_vote(answers, refused):
    return ...


check("07.3", mended_vote)

# %% [markdown]
"""
### Exercise 07.4 · open · 25 minutes
A defender of your own, which may run `DEFENDERS["none"]` and `DEFENDERS["draft-only"]` and nothing else of the registry. It is asked three questions each of
prefill-10, suffix and benign: no attacked answer may tell a fact, and no right answer may be lost. What does yours cost, and what does it
let through that SSD stops?
"""


# %%
def my_defender(pair, request, settings=None):
    return ...


check("07.4", my_defender)

# %% [markdown]
"""
## Takeaways
1. A defence sees only what it looks at: rewriting the question leaves a prefilled answer in place, and a filter of questions
   never reads it.
2. Costs differ in kind: a longer prompt, a second answer, ten answers, a second model at every token.
3. One table of safety, utility and cost, with intervals, on the same questions; one column alone misleads.

## Questions
"""

# %%
question("07.q1")
question("07.q2")
question("07.q3")
score("07")

# %% [markdown]
"""
To think about: which of these defences could be combined, and where would they get in each other's way? What would change in the
table for a target that was never taught these instructions?

**Back:** [06 · Attacks](06_attacks.ipynb). **Next:** [08 · Judging](08_judging.ipynb)
"""
