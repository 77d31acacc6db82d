# %% [markdown]
"""
[← 02](02_speculative_decoding.ipynb) &nbsp; [04 →](04_match_ratio.ipynb) &nbsp; [Glossary](glossary.md)

# 03 · Two distributions

**Given what both models want to say next, which token should be emitted?**

You will be able to
- build the two sample spaces, Intersection and Union, by hand and in code,
- say when the target *insists*,
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

from ssd_lib import load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.stats import wilson
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
def both_models(item, told):
    """P_M and P_m of the next token after a question and the first `told` tokens of its answer."""
    prompts = pair.encode([item.question], [prefill_tokens(pair, item, told)])
    with torch.no_grad():
        target = pair.target(prompts["input_ids"]).logits[0, -1].float().softmax(-1)
        draft = pair.draft(prompts["draft_input_ids"]).logits[0, -1].float().softmax(-1)
    return target, draft


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
**Predict:** take $c = 3$. How large must $k$ become, and which words are in $V$ then?
"""

# %%
for k in range(1, 7):
    shared = set(top_k(small_target, k)) & set(top_k(small_draft, k))
    lists = [", ".join(words[t] for t in top_k(probs, k)) for probs in (small_target, small_draft)]
    print(
        f"k = {k}   target: {lists[0]:<28} draft: {lists[1]:<28} shared: {', '.join(words[t] for t in sorted(shared))}"
    )

# %% [markdown]
"""
At $k = 6$ two words came in at once, so $V$ holds four words, not three: $c$ is a lower bound.

There is a shortcut. A token is in the intersection as soon as $k$ passes the *worse* of its two ranks. So $k$ is simply the $c$-th smallest
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
Now real opinions, over a few thousand tokens and with $c = 10$: benign answers and attacked ones, many positions each.

**Predict:** is $k$ larger where the models agree or where they disagree?
"""

# %%
places = {
    "benign answers": [both_models(item, n) for item in world.questions("benign", QUESTIONS) for n in (2, 5)],
    "attacked answers": [both_models(item, n) for item in world.questions("forbidden", QUESTIONS) for n in (10, 13)],
}


def rank_all(probs):
    """`rank` for a large vocabulary: a stable sort keeps the lower id first."""
    return probs.sort(descending=True, stable=True).indices.argsort() + 1


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

# %% [markdown]
"""
Perhaps not what you expected. $k$ is far above $c$ even where both models agree, and it varies from place to place (shaded: the middle
half). Two confident models agree or disagree in their *first* choice; beyond it their lists are mostly noise, and $k$ only says how far
into this noise common ground is found. So $k$ is no alarm. What counts is whether the target's *first* choice is in the draft's top $k$,
and that is the next rule.

## The target insists

If the target's favourite is *not* in the draft's top $k$, the target **insists**: its favourite is emitted as it is, without any score
(rule 2; in code, the *target fallback*).

Why? The intersection holds only words that the draft finds plausible, and the draft is small: it may never have heard of the
right answer. A draft that does not know a fact must not be able to forbid it.

**Predict:** does the target insist in the eight-word example?
"""


# %%
def insists(target, draft, c):
    return top_k(target, 1)[0] not in top_k(draft, smallest_k(target, draft, c))


print("draft's top 6:", [words[t] for t in top_k(small_draft, 6)], "| insists:", insists(small_target, small_draft, 3))

# %% [markdown]
"""
"go" is in the draft's last place, so it is emitted, whatever α is. How often does that happen in answers of the real pair? Along whole
benign and forbidden answers, position by position:
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
Where both models know what to say, the rule hardly ever acts. It is a safety net for *utility*: a name or a number that the small model has
never learned still gets out. But compare the second line. A forbidden word that the draft would never say is, for this rule, just another
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
The union has between $c$ (both lists are the same) and $2c$ tokens (they have nothing in common). It is small and honest: everything that
one of the two models seriously considers, and nothing else. Why not simply let *all* tokens compete? Because far down both lists there are
thousands of tokens with tiny probabilities; with α above 1 (see below), tiny differences between them would begin to count.

## The composite

Both schemes score the tokens of $V$ with
$$F(x) = P_M(x) + \alpha\,\bigl(P_m(x) - P_M(x)\bigr)$$
and emit the best. Start at the target's opinion and walk towards the draft's: $\alpha = 0$ is the target, $\alpha = 1$ the draft. The paper's
settings for Llama-2: $\alpha_I = 0.3$ in Intersection, $\alpha_U = 0.8$ in Union. For Vicuna it uses $\alpha_U = 2$: *beyond* the draft.

**Predict:** which word wins among all eight at α = 0, 0.3, 0.8, 1 and 2? Can $F$ leave the interval from 0 to 1?
"""


# %%
def composite(target, draft, alpha):
    return target + alpha * (draft - target)


scores = pd.DataFrame({f"α = {a}": composite(small_target, small_draft, a) for a in (0, 0.3, 0.8, 1, 2)}, index=words)
scores.style.format("{:.2f}").highlight_max(axis=0, props="font-weight:bold;text-decoration:underline")

# %% [markdown]
r"""
Every column sums to 1, but above α = 1 some scores are negative: $F$ is a score then, not a probability. And look at the last column. At α
= 2 the winner is *neither* model's favourite. It is the word that the draft likes so much **more than the target** does:
$F = P_m + (\alpha - 1)(P_m - P_M)$ rewards the difference itself. Chapter 01's picture in one formula: what deep alignment added is
amplified, and what both models have in common is discounted.
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
ax.legend(frameon=False, loc="lower left", ncols=2)
plt.show()

# %% [markdown]
"""
Each word moves on a straight line from $P_M$ (left edge) through $P_m$ (at α = 1) and on. The highest line wins. Going from left to right, the
winner changes twice: from the target's favourite to the draft's, and, in the shaded part, to the word with the steepest rise.

## One token, all rules

Put together, one function of both opinions, the scheme and α. It is the part of SSD that replaces "the target's own token" in chapter 02:
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


for place, (target_probs, draft_probs) in opinions.items():
    for scheme, alpha in [("intersection", 0.3), ("union", 0.8)]:
        token = emit(target_probs, draft_probs, scheme, alpha)
        print(f"{place:>8}, {scheme:>12}: {pair.tokenizer.decode([token])!r}")

# %% [markdown]
"""
Under attack the same two opinions give two different tokens: one scheme goes on, the other refuses. On the benign answer both say the same.

Is it what the library does? `ssd_lib.method.composite` works on whole batches at once; on many positions, benign and attacked:
"""

# %%
from ssd_lib.method.composite import choose_greedy, intersection_space, rank_tokens, target_fallback, union_space
from ssd_lib.method.composite import composite as library_composite


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

# %% [markdown]
"""
## Three positions, side by side

**Predict:** SSD has turned back and written two refusing words. What does the *target* want now?
"""


# %%
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


turned = prefill_tokens(pair, attacked, PREFILL) + pair.tokenizer.encode(" I cannot", add_special_tokens=False)
prompts = pair.encode([attacked.question], [turned])
with torch.no_grad():
    after = [
        m(prompts[k]).logits[0, -1].softmax(-1)
        for m, k in ((pair.target, "input_ids"), (pair.draft, "draft_input_ids"))
    ]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True)
bars(axes[0], *opinions["benign"], "intersection", 0.3, "Benign, Intersection")
bars(axes[1], *opinions["attacked"], "union", 0.8, "Attacked, Union")
bars(axes[2], *after, "intersection", 0.3, "After the turn, Intersection")
for ax in axes[1:]:
    ax.set_ylabel("")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
plots.save(figure, "two_distributions.png")
plt.show()

# %% [markdown]
r"""
Left: both agree, α hardly matters. Middle: they disagree entirely; in Union the draft's refusal wins. Right: two refusing
words later *both* want to go on refusing, so SSD can return to Intersection and still end cleanly. (Pale bars: outside $V$.)

## Where the choice changes hands

Two lines $F(a)$ and $F(b)$, of the target's favourite $a$ and the draft's favourite $b$, cross where
$$\alpha^* = \frac{P_M(a) - P_M(b)}{\bigl(P_M(a) - P_M(b)\bigr) + \bigl(P_m(b) - P_m(a)\bigr)}.$$
**Predict:** where does $\alpha^*$ lie for two models that are both quite sure?
"""


# %%
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
With two confident, opposed models the hand-over sits near one half. That is why the two defaults do what their schemes are
for: $\alpha_I = 0.3$ leaves the target in charge, $\alpha_U = 0.8$ hands over.

## Exercises

Solutions: [solutions/03_solutions](solutions/03_solutions.ipynb).

**1.** $P_M(a)=0.7$, $P_M(b)=0.1$, $P_m(a)=0.05$, $P_m(b)=0.85$. At which α do they tie?
"""

# %%
from ssd_lib.show.exercises import check

tie = ...
check(
    "α*",
    tie,
    0.6 / (0.6 + 0.8),
    "The target's gap P_M(a) − P_M(b) over the sum of both gaps; the draft's is P_m(b) − P_m(a).",
)

# %% [markdown]
"""
**2.** The smallest $k$ for $c = 3$, when the target ranks the tokens 0, 1, 2, 3, 4, 5 in this order and the draft in the order
5, 4, 3, 2, 1, 0?
"""

# %%
smallest = ...
check("k", smallest, 5, "For each token take the worse of its two ranks (counted from 1); sort; take the third.")

# %% [markdown]
"""
**3.** Write `space_size`: how many tokens are in the Intersection space? (Not always $c$: remember the eight words.)
"""


# %%
def space_size(target, draft, c):
    return ...


for opinion, c in [((small_target, small_draft), 3), ((small_target, small_draft), 4), (opinions["attacked"], 10)]:
    space, _ = intersection_space(rank_tokens(opinion[0]), rank_tokens(opinion[1]), c)
    check(
        f"size of the Intersection space, {len(opinion[0])} tokens, c = {c}",
        space_size(*opinion, c),
        int(space.sum()),
        "Find k with smallest_k, then count the tokens that stand in both models' top_k(k).",
    )

# %% [markdown]
r"""
## Takeaways
1. Intersection picks among tokens that both find plausible; the target can insist.
2. Union adds the draft's own candidates, so that a refusal can enter.
3. α decides who wins a disagreement: with confident models the hand-over is near one half, and above 1 the difference itself is rewarded.

## Questions
- Why is $\alpha_U = 0.8$ safer than $\alpha_I = 0.3$, and what does it cost?
- When can $F(x)$ be negative, and why is that no problem for an argmax?
- Why does a benign answer suffer little from Intersection?

**Back:** [02 · Speculative decoding](02_speculative_decoding.ipynb). **Next:** [04 · The match ratio](04_match_ratio.ipynb): which
scheme holds, and when.
"""
