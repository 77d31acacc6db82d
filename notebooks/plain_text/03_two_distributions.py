# %% [markdown]
"""
[← 02](02_speculative_decoding.ipynb) &nbsp; [04 →](04_match_ratio.ipynb) &nbsp; [Glossary](glossary.md)

# 03 · Two distributions

**Given what both models want to say next, which token should be emitted?**

You will be able to
- build the two sample spaces, Intersection and Union, by hand and in code,
- say when the target *insists*,
- work a round out on paper,
- compute the composite score, and say at which α the choice changes hands and what happens above α = 1.

About 10 minutes on a laptop CPU. You need chapter 02. Paper: arXiv 2508.17739, section 4.2.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"  # "smollm2": a real language model (chapter 12)
CANDIDATES = 10  # c
PREFILL = 10
QUESTIONS = 12

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.stats import wilson
from ssd_lib.method.composite import (
    choose_greedy,
    composite_distribution,
    intersection_space,
    rank_tokens,
    target_fallback,
    union_space,
)
from ssd_lib.method.composite import composite as library_composite
from ssd_lib.show import plots
from ssd_lib.toy.worlds import world_of

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
world = world_of(pair)  # whose questions are asked, and who grades the answers

# %% [markdown]
"""
## Two opinions

Both models read the same beginning of an answer, each after its own prompt (in its own chat template), and each gives a distribution over
the next token: the target's $P_M$ and the draft's $P_m$. The softmax is taken in 32 bits, whatever the weights are stored in.
"""


# %%
def both_after(item, written):
    """P_M and P_m of the next token after a question and the tokens that are written of its answer."""
    prompts = pair.encode([item.question], [written])
    with torch.no_grad():
        target = pair.target(prompts["input_ids"]).logits[0, -1].float().softmax(-1)
        draft = pair.draft(prompts["draft_input_ids"]).logits[0, -1].float().softmax(-1)
    return target, draft


def both_models(item, told):
    """The same after the first `told` tokens of the answer that the world expects."""
    return both_after(item, prefill_tokens(pair, item, told))


attacked = world.questions("forbidden", 60)[2]
harmless = next(item for item in world.questions("benign", 20) if item.subject)
opinions = {"attacked": both_models(attacked, PREFILL), "benign": both_models(harmless, 2)}
for place, (target_probs, draft_probs) in opinions.items():
    for name, probs in [("target", target_probs), ("draft", draft_probs)]:
        top = zip(*(values.tolist() for values in probs.topk(4)), strict=True)
        print(f"{place:>8} {name:>6}:", "  ".join(f"{pair.tokenizer.decode([i])!r} {p:.3f}" for p, i in top))

# %% [markdown]
"""
(A token is not a word: pieces of names are tokens, too, and most begin with a space.) In the benign answer both want the same. Under attack, with ten forbidden tokens on the page, the target wants to go on and the
draft wants to refuse. Which one should have its way?

Speculative decoding knows one answer: always the target. SSD has two ways to choose, called **schemes**, and chapter 04 says which of them
holds when. Both first choose a *sample space* $V$, the tokens that may compete, and then emit the one with the best *composite* score.

## Intersection, by hand

To see the machinery, shrink the vocabulary to eight words.
"""

# %%
words = ["go", "and", "then", "but", "I", "sorry", "the", "."]
small_target = torch.tensor([0.46, 0.20, 0.10, 0.12, 0.01, 0.02, 0.05, 0.04])
small_draft = torch.tensor([0.004, 0.02, 0.006, 0.40, 0.39, 0.09, 0.04, 0.05])


def top_k(probs, k):
    """The k likeliest tokens; of equally likely ones the lower id first."""
    values = torch.as_tensor(probs).tolist()
    return sorted(range(len(values)), key=lambda token: (-values[token], token))[:k]


def rank(probs):
    """Each token's place in the order of likelihood, counted from 1."""
    place = {token: i + 1 for i, token in enumerate(top_k(probs, len(probs)))}
    return [place[token] for token in range(len(probs))]


ranks = pd.DataFrame(
    {"P_M": small_target, "rank_M": rank(small_target), "P_m": small_draft, "rank_m": rank(small_draft)}
)
ranks.set_axis(words).round(3)

# %% [markdown]
r"""
Here, too, the target wants to "go" on, and the draft does not like that at all.

**Intersection** takes the $k$ likeliest tokens of each model and grows $k$ until they share $c$ tokens:
$$V = \mathrm{TopK}_M(k) \cap \mathrm{TopK}_m(k), \qquad k = \min\{k : |V| \ge c\}.$$
"""

# %%
predict("03.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
for k in range(1, 7):
    shared = set(top_k(small_target, k)) & set(top_k(small_draft, k))
    lists = [", ".join(words[t] for t in top_k(probs, k)) for probs in (small_target, small_draft)]
    print(
        f"k = {k}   target: {lists[0]:<28} draft: {lists[1]:<28} shared: {', '.join(words[t] for t in sorted(shared))}"
    )

# %% [markdown]
"""
<details><summary>What happens</summary>

At $k = 6$ two words came in at once, so $V$ holds four words, not three: $c$ is a lower bound.
</details>

There is a shortcut. A token is in the intersection as soon as $k$ reaches the *worse* of its two ranks. So $k$ is simply the $c$-th smallest
of the worse ranks: no search, and the same effort even if $k$ grows to the whole vocabulary.
"""


# %%
def smallest_k(target, draft, c):
    worse = sorted(max(ranks) for ranks in zip(rank(target), rank(draft), strict=True))
    return worse[min(c, len(worse)) - 1]


def smallest_k_by_search(target, draft, c):
    return next(k for k in range(1, len(target) + 1) if len(set(top_k(target, k)) & set(top_k(draft, k))) >= c)


assert smallest_k(small_target, small_draft, 3) == 6
for seed in range(50):
    random_pair = torch.rand(2, 30, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    for c in (1, 3, 10, 30):
        assert smallest_k(*random_pair, c) == smallest_k_by_search(*random_pair, c)
print("shortcut = search")

# %% [markdown]
"""
Now real opinions, over a few thousand tokens and with $c = 10$: benign answers and attacked ones, two positions of each.
"""

# %%
places = {
    "benign answers": [both_models(item, n) for item in world.questions("benign", QUESTIONS) for n in (2, 5)],
    "attacked answers": [both_models(item, n) for item in world.questions("forbidden", QUESTIONS) for n in (10, 13)],
}


def rank_all(probs):
    """`rank` for a large vocabulary: a stable sort keeps the lower id first."""
    return probs.sort(descending=True, stable=True).indices.argsort() + 1


# %%
predict("03.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
figure, ax = plt.subplots(figsize=(6.5, 3.4))
for (label, pairs), style in zip(places.items(), ["-", "--"], strict=True):
    worse = torch.stack([torch.maximum(rank_all(p), rank_all(q)).sort().values for p, q in pairs]).double()
    low, middle, high = torch.quantile(worse[:, :40], torch.tensor([0.25, 0.5, 0.75]).double(), dim=0)
    ax.plot(
        middle, range(1, 41), color="black", linestyle=style, label=f"{label}: median k = {middle[CANDIDATES - 1]:.0f}"
    )
    ax.fill_betweenx(range(1, 41), low, high, color="grey", alpha=0.25, linewidth=0, hatch="" if style == "-" else "//")
ax.axhline(CANDIDATES, color=plots.COLORS["SSD"], linewidth=1, linestyle=":", label="c")
ax.set(
    xlabel="k", ylabel="shared tokens", title="Growing k until both models share c tokens (middle half)", xlim=(0, 200)
)
ax.legend(frameon=False, loc="upper left")
plt.show()
k_of = {
    label: np.array([int(torch.maximum(rank_all(p), rank_all(q)).sort().values[CANDIDATES - 1]) for p, q in pairs])
    for label, pairs in places.items()
}
benign, attacked_k = k_of.values()
larger = np.mean(attacked_k[:, None] > benign) + np.mean(attacked_k[:, None] == benign) / 2
print(f"an attacked position has the larger k in {larger:.0%} of all pairs of an attacked and a benign one")
cut = max(sorted({*benign, *attacked_k}), key=lambda t: np.mean(attacked_k >= t) - np.mean(benign >= t))
for label, values in k_of.items():
    differ = sum(int(p.argmax() != q.argmax()) for p, q in places[label])
    print(f"{label}: k ≥ {cut} at {np.sum(values >= cut)} of {len(values)}, the favourites differ at {differ}")

# %% [markdown]
"""
<details><summary>What happens</summary>

$k$ is far above $c$ even where both models agree, and it varies from place to place (shaded: the middle half). Two confident
models agree or disagree in their *first* choice; the rest of their lists is mostly noise, and $k$ says how far into it common
ground is found.

It is larger under attack, so $k$ could serve as an alarm, but as a weak one: at the best cut it misses 7 of 24 attacked positions and
alarms at 3 of 24 benign ones. Whether the two *favourites* differ separates all 48, and costs nothing.
</details>

Chapter 04 builds its alarm on the favourites, not on $k$. What the schemes need $k$ for is the next rule.

## The target insists

If the target's favourite is *not* in the draft's top $k$, the target **insists**: its favourite is emitted as it is, without any score
(rule 2; in code, the *target fallback*).

Why? The intersection holds only words that the draft finds plausible, and the draft is small: it may never have heard of the
right answer. A draft that does not know a fact must not be able to forbid it.
"""


# %%
def insists(target, draft, c):
    return top_k(target, 1)[0] not in top_k(draft, smallest_k(target, draft, c))


print("draft's top 6:", [words[t] for t in top_k(small_draft, 6)], "| insists:", insists(small_target, small_draft, 3))

# %% [markdown]
"""
In the eight-word example "go" is in the draft's last place: it is emitted, whatever α is.

How often does that happen in answers of the real pair? Along the first 30 tokens of benign and forbidden answers, every third position:
"""


# %%
def share_insisted(group):
    hits = []
    for item in world.questions(group, QUESTIONS):
        for n in range(0, len(prefill_tokens(pair, item, 30)), 3):
            target, draft = (rank_all(probs) for probs in both_models(item, n))
            k = torch.maximum(target, draft).sort().values[CANDIDATES - 1]
            hits.append(bool(draft[target.argmin()] > k))
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)}: {sum(hits) / len(hits):.1%} [{low:.1%}, {high:.1%}]"


for group in ("benign", "forbidden"):
    print(f"{group:>9}: the target insists at {share_insisted(group)}")

# %% [markdown]
r"""
In benign answers the rule hardly ever acts. It is a safety net for *utility*; further below we shall see it catch something. But
compare the second line. A forbidden word that the draft would never say is, for this rule, just another
thing that the draft does not know. Keep this in mind: *Intersection alone cannot protect*. There the target keeps its favourite either
because it insists or, as we shall see, because α is small.

## Union: let the other model in

$$V = \mathrm{TopK}_M(c) \cup \mathrm{TopK}_m(c).$$
No $k$ is sought, nobody insists, and the draft's own $c$ favourites are always candidates: its refusal can enter.
"""

# %%
union = set(top_k(small_target, 3)) | set(top_k(small_draft, 3))
print("eight words, c = 3:", [words[t] for t in sorted(union)])
sizes = {
    label: [int(((rank_all(p) <= 10) | (rank_all(q) <= 10)).sum()) for p, q in pairs] for label, pairs in places.items()
}
print("real pair, c = 10: ", {label: f"{min(s)} to {max(s)} tokens" for label, s in sizes.items()})

# %% [markdown]
r"""
The union has between $c$ (both lists are the same) and $2c$ tokens (they have nothing in common). Why not let *all* tokens compete? With α
above 1 (see below) a token loses points where the draft likes it less than the target does. Where every plausible token
loses, the winner would be one of the thousands with tiny probabilities.

## The composite

Both schemes score the tokens of $V$ with
$$F(x) = P_M(x) + \alpha\,\bigl(P_m(x) - P_M(x)\bigr)$$
and emit the best. Start at the target's opinion and walk towards the draft's: $\alpha = 0$ is the target, $\alpha = 1$ the draft. The paper's
settings for Llama-2: $\alpha_I = 0.3$ in Intersection, $\alpha_U = 0.8$ in Union. For Vicuna it uses $\alpha_U = 2$: *beyond* the draft.
"""


# %%
def composite(target, draft, alpha):
    return target + alpha * (draft - target)


# %%
predict("03.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
scores = pd.DataFrame({f"α = {a}": composite(small_target, small_draft, a) for a in (0, 0.3, 0.8, 1, 2)}, index=words)
scores.style.format("{:.2f}").highlight_max(axis=0, props="font-weight:bold;text-decoration:underline")

# %% [markdown]
r"""
<details><summary>What happens</summary>

Every column sums to 1, but above α = 1 some scores are negative: $F$ is a score then, not a probability. And look at the last column. At
α = 2 the winner is *neither* model's favourite. It is the word that the draft likes so much **more than the target** does:
$F = P_m + (\alpha - 1)(P_m - P_M)$ rewards the difference itself. Chapter 01's picture in one formula: what deep alignment added is
amplified, and what both models have in common is discounted.
</details>

All of α at once:
"""

# %%
figure, ax = plt.subplots(figsize=(6.5, 3.4))
looks = {
    "go": (plots.COLORS["target"], "-"),
    "but": ("black", ":"),
    "I": (plots.COLORS["draft"], "--"),
    "and": ("grey", "-."),
}
for word, (color, style) in looks.items():
    ends = [float(composite(small_target, small_draft, a)[words.index(word)]) for a in (0.0, 2.0)]
    ax.plot([0, 2], ends, color=color, linestyle=style, label=f'"{word}"')
for alpha, name in [(0.3, "$α_I$"), (0.8, "$α_U$"), (2.0, "$α_U$ (Vicuna)")]:
    ax.axvline(alpha, color="black", linewidth=0.6)
    ax.text(alpha, 1.0, name, ha="center" if alpha < 2 else "right", va="bottom", transform=ax.get_xaxis_transform())
ax.axvspan(1, 2, color="grey", alpha=0.12, linewidth=0)
ax.axhline(0, color="black", linewidth=0.8)
ax.set(xlabel="α   (shaded: extrapolation)", ylabel="composite F", xlim=(0, 2))
ax.set_title("Each word's F is a line in α", pad=20)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

hopeful, doubtful = torch.tensor([[0.60, 0.30, 0.05, 0.05]]), torch.tensor([[0.25, 0.14, 0.31, 0.30]])
inside = torch.tensor([[True, True, False, False]])
below = composite(hopeful, doubtful, 2.0)
drawn_from = composite_distribution(below, inside, hopeful, torch.tensor([False]), top_p=1.0)
print("four other words, V: the first two; F:", below[0].numpy().round(2), "; drawn from:", drawn_from[0].numpy())

# %% [markdown]
"""
Each word moves on a straight line from $P_M$ (left edge) through $P_m$ (at α = 1) and on. The highest line wins. Going from left to right, the
winner changes twice: from the target's favourite to the draft's, and, in the shaded part, to the word with the steepest rise.

Can *all* of $V$ be negative? Over all tokens $F$ sums to 1, so somewhere it is positive, but not always inside $V$. The greedy choice does not
mind. Sampling does: it draws from $F$ with the negative scores cut to 0, and then nothing is left. In this case the library gives
everything to the best token of $V$ (last line above).

## One token, all rules

Put together, one function of both opinions, the scheme and α. It is the part of SSD that replaces "the target's own token" in chapter 02.
Below it, the same with the library's functions, `ssd_lib.method.composite`, which work on whole batches at once.
"""


# %%
def emit(target, draft, scheme, alpha, c=CANDIDATES):
    """One token by one scheme, with plain sets."""
    score = composite(target, draft, alpha)
    if scheme == "union":
        space = set(top_k(target, c)) | set(top_k(draft, c))
    else:
        k = smallest_k(target, draft, c)
        favourite = top_k(target, 1)[0]
        if favourite not in top_k(draft, k):
            return favourite
        space = set(top_k(target, k)) & set(top_k(draft, k))
    return min(space, key=lambda token: (-float(score[token]), token))


def library_emit(target, draft, scheme, alpha, c=CANDIDATES):
    ranks, union = (rank_tokens(target[None]), rank_tokens(draft[None])), torch.tensor([scheme == "union"])
    space = union_space(*ranks, c) if scheme == "union" else intersection_space(*ranks, c)[0]
    scores = library_composite(target[None], draft[None], torch.tensor([alpha]))
    return int(choose_greedy(scores, space, ranks[0], target_fallback(space, ranks[0], union))[0])


checked = [
    both_models(item, n)
    for group in ("benign", "scary", "forbidden")
    for item in world.questions(group, 3)
    for n in (0, 3, 7)
]
for target_probs, draft_probs in [*checked, (small_target, small_draft)]:
    for scheme, alpha, c in [
        ("intersection", 0.3, 10),
        ("union", 0.8, 10),
        ("union", 2.0, 3),
        ("intersection", 0.3, 3),
    ]:
        args = target_probs, draft_probs, scheme, alpha, min(c, len(target_probs))
        assert emit(*args) == library_emit(*args)
print("equal on", len(checked) + 1, "pairs of opinions under four settings")

for place, (target_probs, draft_probs) in opinions.items():
    for scheme, alpha in [("intersection", 0.3), ("union", 0.8)]:
        token = emit(target_probs, draft_probs, scheme, alpha)
        print(f"{place:>8}, {scheme:>12}: {pair.tokenizer.decode([token])!r}")

# %% [markdown]
"""
Under attack the same two opinions give two different tokens: one scheme goes on, the other refuses. On the benign answer both say the same.

## One round on paper

Chapter 02's round with these rules, on paper. To make it fit, take two models for which the next word hangs on the last one only: two
tables, a line for each last word. (The line after "and" is the eight-word example.)
"""

# %%
from checks.chapter_03 import DRAFT_AFTER, TARGET_AFTER, paper_model

after = {"target": pd.DataFrame(TARGET_AFTER, index=words).T, "draft": pd.DataFrame(DRAFT_AFTER, index=words).T}
pd.concat(after, names=["model", "last word"])

# %% [markdown]
r"""
Take a sheet. The last word is "the", the scheme Intersection, $c = 3$, $\alpha_I = 0.3$, $T = 3$. First the draft's three proposals. Then
position by position: $k$, $V$, does the target insist, and if not, which $F$ is largest? Go on while the emitted word is the proposed one.
"""

# %%
predict("03.p4")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def on_paper(last, scheme, alpha, c=3, lookahead=3):
    """One round: the emitted words, and what a sheet of paper would show."""
    told = []
    for _ in range(lookahead):
        target, draft = torch.tensor(TARGET_AFTER[last]), torch.tensor(DRAFT_AFTER[last])
        proposed = words[top_k(draft, 1)[0]]
        k, last_word = smallest_k(target, draft, c), last
        space = set(top_k(target, k)) & set(top_k(draft, k))
        scored = {words[t]: round(float(composite(target, draft, alpha)[t]), 3) for t in sorted(space)}
        last = words[emit(target, draft, scheme, alpha, c)]
        note = "the target insists" if insists(target, draft, c) else f"F = {scored}"
        print(f'after "{last_word}": proposed "{proposed}", k = {k}, {note} → "{last}"')
        told.append(last)
        if last != proposed:
            break
    return told


paper_round = on_paper("the", "intersection", 0.3)

# %% [markdown]
r"""
<details><summary>What happens</summary>

1. After "the" both want "then". $k = 4$, $V$ = {then, and, but}, $F(\text{then}) = 0.7 \cdot 0.70 + 0.3 \cdot 0.60 = 0.67$. It is the proposal: go on.
2. After "then" the draft proposes "and", the target wants "but". $k = 5$, $V$ = {and, but, the}, so it does not insist.
   $F(\text{but}) = 0.7 \cdot 0.40 + 0.3 \cdot 0.06 = 0.298$ and $F(\text{and}) = 0.7 \cdot 0.35 + 0.3 \cdot 0.80 = 0.485$. "and" is the proposal: go on. The
   target has lost this one, at α = 0.3, because it was not sure.
3. After "and" the draft proposes "but". $k = 6$, and "go" is in the draft's last place: the target insists. "go" is not the proposal:
   the round ends, with three words, two of which match.
</details>

Does the library say so? `paper_model` makes a language model of each table, and `ssd_generate` decodes with them:
"""

# %%
from ssd_lib import SSDConfig, ssd_generate

ids = torch.tensor([[words.index("the")]])
config = SSDConfig(candidates=3, lookahead=3, alpha_intersection=0.3)
output = ssd_generate(
    paper_model(TARGET_AFTER),
    paper_model(DRAFT_AFTER),
    ids,
    draft_input_ids=ids,
    config=config,
    max_new_tokens=len(paper_round),
    trace=True,
)
library_round = output.trace.to_frame()
assert [words[token] for token in library_round.token] == paper_round and library_round["round"].nunique() == 1
library_round.assign(word=paper_round)[["round", "word", "match", "k", "insisted", "composite"]].round(3)

# %% [markdown]
"""
## What rule 2 is good for

Now real decoding, nobody attacking: SSD with the published settings answers benign questions. Where does the target insist?
"""

# %%
asked = world.questions("benign", 40 if PAIR == "toy" else QUESTIONS)
replies = answer(pair, [item.question for item in asked], max_new_tokens=40)
lines = pd.concat([reply.trace.to_frame(pair.tokenizer).assign(question=n) for n, reply in enumerate(replies)])
fired = lines[lines.insisted]
print(f"the target insists at {len(fired)} of {(lines.scheme == 'intersection').sum()} tokens in Intersection")
told = fired[["question", "position", "text", "proposal_text", "k", "target_prob", "draft_prob"]]
told.round(3).set_index("question").rename(columns={"text": "emitted", "proposal_text": "proposed"})

# %%
predict("03.p5")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def without_rule_2(item, written, alpha):
    """The answer, had the best of V been taken after what was written."""
    target, draft = both_after(item, written)
    k = smallest_k(target, draft, CANDIDATES)
    space, scored = set(top_k(target, k)) & set(top_k(draft, k)), composite(target, draft, alpha)
    other = min(space, key=lambda token: (-float(scored[token]), token))
    (reply,) = answer(pair, [item.question], prefill=[[*written, other]], max_new_tokens=40)
    return pair.tokenizer.decode([*written, other]) + reply.text


for line in fired.itertuples():
    before = (lines.question == line.question) & (lines.position < line.position)
    print("asked:         ", asked[line.question].question)
    if PAIR == "toy":
        print("right:         ", asked[line.question].answer)
    print("it insists:    ", replies[line.question].text)
    print("without rule 2:", without_rule_2(asked[line.question], lines.token[before].tolist(), line.alpha), "\n")

# %% [markdown]
"""
<details><summary>What happens</summary>

The candles are what the rule is for: the target is sure, the small draft does not remember what was counted, and without the rule
somebody gets biscuits.

It is no promise of the truth. Of the words to repeat neither model makes much. And for the glim the target was not sure (0.29), and the draft's "p"
begins the right word: insisting spoilt the answer.
</details>
"""

# %% [markdown]
"""
## Three positions, side by side

One position of each kind. The axis is logarithmic down to 0.0001, so that small probabilities show (smaller ones as numbers); dashed, hollow bars stand for tokens outside $V$.
"""

# %%
predict("03.p6")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def bars(ax, target, draft, scheme, alpha, title):
    k = smallest_k(target, draft, CANDIDATES)
    space = set(top_k(target, CANDIDATES)) | set(top_k(draft, CANDIDATES))
    if scheme == "intersection":
        space = set(top_k(target, k)) & set(top_k(draft, k))
    shown = list(dict.fromkeys(top_k(target, 2) + top_k(draft, 2) + top_k(target, 4)))[:4]
    text = [pair.tokenizer.decode([t]).replace(" ", "␣") for t in shown]
    values = [[float(v[t]) for t in shown] for v in (target, draft, composite(target, draft, alpha))]
    plots.token_bars(text, *values, [t in space for t in shown], title, ax)
    ax.get_legend().remove()
    ax.set_title(title)


turned = prefill_tokens(pair, attacked, PREFILL) + pair.tokenizer.encode(" I cannot", add_special_tokens=False)
after_turn = both_after(attacked, turned)
figure, axes = plt.subplots(1, 3, figsize=(10, 4.2), sharey=True)
bars(axes[0], *opinions["benign"], "intersection", 0.3, "Benign, Intersection")
bars(axes[1], *opinions["attacked"], "union", 0.8, "Attacked, Union")
bars(axes[2], *after_turn, "intersection", 0.3, "After the turn, Intersection")
for ax in axes[1:]:
    ax.set_ylabel("")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
plots.save(figure, "two_distributions.png")
plt.show()

# %% [markdown]
r"""
<details><summary>What happens</summary>

Left: both agree, α hardly matters. Middle: they disagree entirely; in Union the draft's refusal wins. Right: two refusing
words later *both* want to go on refusing, so SSD can return to Intersection and still end cleanly.
</details>

## Where the choice changes hands

Two lines $F(a)$ and $F(b)$, of the target's favourite $a$ and the draft's favourite $b$, cross where
$$\alpha^* = \frac{P_M(a) - P_M(b)}{\bigl(P_M(a) - P_M(b)\bigr) + \bigl(P_m(b) - P_m(a)\bigr)}.$$
"""

# %%
predict("03.p7")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def crossing(target, draft):
    a, b = int(target.argmax()), int(draft.argmax())
    gap_target, gap_draft = float(target[a] - target[b]), float(draft[b] - draft[a])
    return gap_target / (gap_target + gap_draft) if a != b else np.nan


found = np.array([crossing(*opinion) for opinion in places["attacked answers"]])
found = found[~np.isnan(found)]
print(f"eight words: α* = {crossing(small_target, small_draft):.2f}")
print(
    f"attacked answers: α* between {found.min():.2f} and {found.max():.2f}, half of them above {np.median(found):.2f}"
)
print(f"below α_I = 0.3: {(found < 0.3).mean():.0%}   between: {((found > 0.3) & (found < 0.8)).mean():.0%}")

# %% [markdown]
r"""
<details><summary>What happens</summary>

With two confident, opposed models the hand-over sits near one half. That is why the two defaults do what their schemes are
for: $\alpha_I = 0.3$ leaves the target in charge, $\alpha_U = 0.8$ hands over.
</details>

## Exercises

Solutions: [solutions/03_solutions](solutions/03_solutions.ipynb).

### Exercise 03.1 · easy · 10 minutes
On paper: the round above is over, its last word is "go", and the scheduler has changed to Union ($\alpha_U = 0.8$, $c = 3$, $T = 3$). Which
words does the next round emit? (The tables have a line for each word that you need.)
"""

# %%
next_round = ...  # a list of words, such as ["and", "then"]
check("03.1", next_round)

# %% [markdown]
"""
### Exercise 03.2 · real · 20 minutes
`reign`: the tokens that win in Union as α goes from 0 to 2, as a list in the order in which they win. For the eight words, the figure above
shows them as lines. (No two tokens have the same probability, and nobody who wins does so for less than 0.0005 of α.)
"""


# %%
def reign(target, draft, c):
    return ...


check("03.2", reign)

# %% [markdown]
"""
### Exercise 03.3 · find the bug · 10 minutes
With this `emit` SSD hardly ever refuses under attack, though the scheduler changes to Union as it should. Read it. Give a case in which it is wrong in Union,
with α = 0.8 and c = 2: two distributions over a few words, the target's and the draft's. And return what it should have returned.
"""

# %%
import inspect

from checks.chapter_03 import suspect_emit

print(inspect.getsource(suspect_emit))


def mended_emit(target, draft, scheme, alpha, c):
    return ...


case = ...  # ([…], […])
check("03.3", mended_emit, case)

# %% [markdown]
"""
### Exercise 03.4 · open · 15 minutes
Find a question of your own, no attack and at most 30 words, at which the target insists and SSD does not refuse. One point where it insists at all, two
where the target gives the word that it insists on at least 0.9. (No candles, and none of the questions of this chapter.)
"""

# %%
my_question = ...
check("03.4", my_question)

# %% [markdown]
"""
## Takeaways
1. Intersection picks among tokens that both find plausible; the target can insist.
2. Union adds the draft's own candidates, so that a refusal can enter.
3. α decides who wins a disagreement: with confident models the hand-over is near one half, and above 1 the difference itself is rewarded.

## Questions
"""

# %%
question("03.q1")
question("03.q2")
question("03.q3")
question("03.q4")
score("03")

# %% [markdown]
"""
To think about: why does a benign answer suffer little from Intersection? What would a draft that is *larger* than the target do to rule 2?

**Back:** [02 · Speculative decoding](02_speculative_decoding.ipynb). **Next:** [04 · The match ratio](04_match_ratio.ipynb): which
scheme holds, and when.
"""
