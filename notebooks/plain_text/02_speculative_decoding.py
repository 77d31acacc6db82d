# %% [markdown]
"""
[← 01](01_shallow_alignment.ipynb) &nbsp; [03 →](03_two_distributions.ipynb) &nbsp; [Glossary](glossary.md)

# 02 · Speculative decoding

**How can a small model make a large one faster without changing a single token?**

You will be able to
- build draft, verify and emit in a few lines and show that they are lossless,
- say how many tokens a target forward buys, when that makes decoding faster, and when slower,
- state the acceptance rule for sampling, prove it, and check it to the last digit.

About 10 minutes on a laptop CPU. SSD (chapters 03 to 05) changes one line of what you build here.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
NEW_TOKENS = 40
LOOKAHEADS = [1, 2, 3, 4, 6, 8]

# %%
import time
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import chisquare

from ssd_lib import load_pair
from ssd_lib.experiments.stats import wilson
from ssd_lib.show import plots
from ssd_lib.toy import world

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
prompts = [pair.encode([item.question])["input_ids"] for item in world.questions("benign", 12)]
eos = pair.tokenizer.eos_token_id

# %% [markdown]
"""
## The idea

A decoder writes one token a forward, and for every token it reads *all* its weights from memory. On a large model that reading takes
most of the time; the arithmetic for one position is a trifle beside it. So a forward that scores four positions costs hardly
more than one that scores a single one.

**Predict:** on the embedded target and this CPU, how much longer does a forward over 8 positions take than one over 1? Over 64?
"""


# %%
def forward_time(model, positions, repeats=15):
    """The fastest of some forwards over that many positions, in seconds of this process's own computing."""
    ids, times = torch.full((1, positions), 7), []
    for _ in range(repeats):
        started = time.process_time()
        with torch.no_grad():
            model(ids)
        times.append(time.process_time() - started)
    return min(times)


one = forward_time(pair.target, 1)
relative = {positions: round(forward_time(pair.target, positions) / one, 1) for positions in (1, 2, 4, 8, 64)}
print("time of a forward over n positions, in forwards over one:", relative)

# %% [markdown]
"""
Even this micro-model does several positions for much less than several times the price of one. On a GPU, where reading the weights takes most of the time, the ratios should be
closer to 1 still; nobody has measured that here.

Speculative decoding (Leviathan et al. 2023, Chen et al. 2023) uses that. A cheap **draft** guesses the next $T$ tokens ($T$ is the
**lookahead**), one forward each; the **target** scores all of them in *one* forward; tokens are accepted as long as they are what the
target itself would have emitted.
"""


# %%
def propose(draft, ids, lookahead):
    """The draft's greedy continuation, one forward a token."""
    proposals = []
    for _ in range(lookahead):
        so_far = torch.cat([ids, torch.tensor([proposals], dtype=torch.long)], dim=1)
        with torch.no_grad():
            proposals.append(int(draft(so_far).logits[0, -1].argmax()))
    return proposals


def verify(target, ids, proposals):
    """What the target would emit at each proposed position: one forward for all of them."""
    read = torch.cat([ids, torch.tensor([proposals[:-1]], dtype=torch.long)], dim=1)
    with torch.no_grad():
        return target(read).logits[0, -len(proposals) :].argmax(-1).tolist()


# %% [markdown]
"""
Mind the off-by-one in `verify`: the logits at a position say what comes *after* it. So the target reads the prefix and the first
$T-1$ proposals, and its last $T$ logits judge all $T$ of them.

One round, on a question where the two models agree at first and then differ. **Predict:** how many of eight proposals will the
target accept?
"""

# %%
for ids in prompts:
    proposals = propose(pair.draft, ids, 8)
    wanted = verify(pair.target, ids, proposals)
    if proposals[0] == wanted[0] and proposals != wanted:
        break
for proposed, token in zip(proposals, wanted, strict=True):
    verdict = "accept" if proposed == token else "correct and stop"
    print(
        f"draft {pair.tokenizer.decode([proposed])!r:>14}   target {pair.tokenizer.decode([token])!r:>14}   {verdict}"
    )
    if proposed != token:
        break

# %% [markdown]
"""
After the first mismatch the target's tokens were computed for a prefix that never came to be, so the round ends there. The round is
not wasted: the target's own token is emitted at the mismatch. Every round emits at least one token, and at most $T$.
"""


# %%
def speculative_decode(target, draft, ids, lookahead, new_tokens=NEW_TOKENS):
    """Greedy speculative decoding; returns the answer and, for every round, how many proposals were accepted."""
    answer, rounds = [], []
    while True:
        so_far = torch.cat([ids, torch.tensor([answer], dtype=torch.long)], dim=1)
        proposals = propose(draft, so_far, lookahead)
        rounds.append(0)
        for proposed, token in zip(proposals, verify(target, so_far, proposals), strict=True):
            answer.append(token)
            rounds[-1] += token == proposed
            if token == eos or len(answer) == new_tokens:
                return answer, rounds
            if token != proposed:
                break


# %% [markdown]
"""
## Lossless

**The claim:** the output is the target's own greedy answer, whatever the draft and whatever $T$.

*Why.* By induction over the tokens. Suppose that the answer so far is the target's own. The next emitted token is always the target's
choice at this position (`wanted` above). That was computed after the right prefix, because the walk only gets here if every earlier
proposal of the round was accepted, that is, *equal* to what was emitted. So the next token is the target's own, too. The draft decides
how many tokens a round emits, never which.

**Predict:** would the claim survive a draft that proposes nonsense?
"""


# %%
def own_answer(ids):
    return pair.target.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS)[0, ids.shape[1] :].tolist()


own = [own_answer(ids) for ids in prompts]
runs = {t: [speculative_decode(pair.target, pair.draft, ids, t) for ids in prompts] for t in LOOKAHEADS}
for lookahead in LOOKAHEADS:
    assert [answer for answer, _ in runs[lookahead]] == own


def nonsense(ids):
    """A draft that always proposes what the draft finds *least* likely."""
    return SimpleNamespace(logits=-pair.draft(ids).logits)


answer, rounds = speculative_decode(pair.target, nonsense, prompts[0], 4)
assert answer == own[0]
print(f"lossless on {len(prompts)} questions with {len(LOOKAHEADS)} lookaheads;", end=" ")
print(f"with a nonsense draft, too, at {len(rounds)} target forwards for {len(answer)} tokens")

# %% [markdown]
r"""
The nonsense draft saves nothing and changes nothing: a target forward a token, as without it. This is worth a pause. The draft needs
no training to agree with the target, no calibration, no guarantee of any kind: it may be wrong as often as it likes, because every one
of its guesses is checked before it counts.

## What a target forward buys

Let $\beta$ be the chance that a proposal is accepted, given that the round has got to it: the **acceptance rate** (SSD calls the same
thing *match ratio*). A round reaches its position $t$ (counted from 0) only if $t$ proposals before it were accepted. If these chances
are independent, that happens with probability $\beta^t$, and each position that is reached emits one token:
$$\mathbb{E}[\text{tokens per round}] = 1 + \beta + \beta^2 + \dots + \beta^{T-1} = \frac{1 - \beta^T}{1 - \beta}.$$
(Many texts write $T+1$: there a further *bonus* token follows when all are accepted. SSD scores exactly the $T$ positions, so this book
counts without it.)

Is the chance the same at every position of a round? Of the rounds that get to a position, the share that is accepted there:
"""

# %%
rounds = np.concatenate([rounds[:-1] for _, rounds in runs[8]])  # the last round may have been cut off
lines = []
for t in range(8):
    reached, accepted = int((rounds >= t).sum()), int((rounds > t).sum())
    low, high = wilson(accepted, reached)
    lines.append(f"position {t}: {accepted} of {reached} accepted, {accepted / reached:.2f} [{low:.2f}, {high:.2f}]")
print("\n".join(lines))
beta = sum(sum(rounds) for _, rounds in runs[1]) / sum(len(answer) for answer, _ in runs[1])
print(f"β over all tokens: {beta:.3f}")

# %% [markdown]
"""
Roughly the same everywhere, as far as so few rounds can show. So the formula should fit what was measured, with the measured β in it:
"""


# %%
def tokens_per_round(beta, lookahead):
    return lookahead if beta == 1 else (1 - beta**lookahead) / (1 - beta)


per_forward = np.array([[len(answer) / len(rounds) for answer, rounds in runs[t]] for t in LOOKAHEADS])
half = 1.96 * per_forward.std(axis=1) / np.sqrt(len(prompts))
figure, ax = plt.subplots(figsize=(6.5, 3.6))
measured = {"color": plots.COLORS["target"], "marker": plots.MARKS["target"], "capsize": 3}
ax.errorbar(LOOKAHEADS, per_forward.mean(axis=1), yerr=half, label="measured on the pair (95%)", **measured)
for b, style in [(0.5, ":"), (0.8, "--"), (beta, "-")]:
    ax.plot(
        LOOKAHEADS, [tokens_per_round(b, t) for t in LOOKAHEADS], "k", ls=style, lw=1, label=f"formula, β = {b:.2f}"
    )
ax.set(xlabel="lookahead T", ylabel="tokens per target forward", title="What a target forward buys")
ax.legend(frameon=False)
plots.save(figure, "speculative_decoding.png")
plt.show()

# %% [markdown]
r"""
Benign answers are easy to guess, so each target forward buys several tokens. At a low β the curve flattens early: a longer lookahead
then only makes the draft guess tokens that no round reaches. (The measured points stay below the formula because answers end: the last
round of each is cut off.)

## When is that faster?

A round costs one target forward and $T$ draft forwards. Let $\rho$ be the price of a draft forward, in target forwards. Without
speculation a token costs one target forward, so
$$\text{speed-up} = \frac{1 - \beta^T}{(1 - \beta)\,(1 + \rho T)}.$$
**Predict:** at $\rho = 0.1$, which lookahead is best for $\beta = 0.9$? For $\beta = 0.3$?
"""


# %%
def speed_up(beta, lookahead, price):
    return tokens_per_round(beta, lookahead) / (1 + price * lookahead)


price = forward_time(pair.draft, 1) / forward_time(pair.target, 4)
print(f"here ρ is about {price:.2f}")
figure, ax = plt.subplots(figsize=(6.5, 3.6))
every = np.arange(1, 13)
for b, style in [(0.3, ":"), (0.6, "--"), (0.9, "-"), (0.98, "-.")]:
    values = [speed_up(b, t, 0.1) for t in every]
    ax.plot(every, values, color="black", linestyle=style, label=f"β = {b}")
    ax.plot(every[np.argmax(values)], max(values), "o", color=plots.COLORS["SSD"])
ax.axhline(1, color="grey", linewidth=0.8)
ax.set(xlabel="lookahead T", ylabel="speed-up", title="Speed-up at ρ = 0.1 (dots: the best lookahead)")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
"""
Below the grey line speculation makes decoding *slower*. At a low β every further guess is a loss; at a high β the best $T$ is large
and the optimum is flat. The paper's $T = 3$ is a cautious middle. And since the output does not depend on $T$, it can be tuned while
decoding (`lookahead="auto"`, chapter 10).

A formula deserves a test: roll dice for many rounds and count.
"""


# %%
def simulated(beta, lookahead, price, count=40_000):
    hits = np.random.default_rng(0).random((count, lookahead)) < beta
    emitted = 1 + np.cumprod(hits[:, :-1], axis=1).sum(axis=1)  # each accepted proposal lets the next position emit
    return emitted.mean() / (1 + price * lookahead)


for b, t in [(0.3, 3), (0.8, 3), (0.9, 8)]:
    assert abs(simulated(b, t, 0.1) - speed_up(b, t, 0.1)) < 0.02
print(f"formula {speed_up(0.8, 3, 0.1):.3f}, simulated {simulated(0.8, 3, 0.1):.3f}")

# %% [markdown]
r"""
## Sampling

When the target *samples* from $p$, "equal to the target's token" makes no sense: it has no single token. The rule becomes

1. the draft samples a proposal, $x \sim q$;
2. accept it with probability $\min\bigl(1, p(x)/q(x)\bigr)$;
3. otherwise draw from the **residual** $r = \mathrm{norm}\bigl(\max(p - q, 0)\bigr)$ instead.

**Predict:** what must $p$ and $q$ look like for every proposal to be accepted? For none?

**Theorem.** The emitted token is distributed exactly as $p$.

*Proof.* A token $x$ is emitted by acceptance with probability $q(x)\min(1, p(x)/q(x)) = \min(p(x), q(x))$. Acceptance of anything has
probability $\sum_y \min(p(y), q(y)) =: A$, so a correction has probability $1 - A$.
And $\sum_y \max(p(y) - q(y), 0) = \sum_y p(y) - \min(p(y), q(y)) = 1 - A$
as well: the residual's norm is just the probability of needing it. Together
$$\min(p(x), q(x)) + (1 - A)\,\frac{\max(p(x) - q(x), 0)}{1 - A} = p(x). \qquad\blacksquare$$

Nothing in it asks what $p$ and $q$ are. So it can be checked without any dice: write down the distribution of the emitted token and
compare, for random pairs of distributions and for the real opinions of our two models.
"""


# %%
def emitted_distribution(p, q):
    """The exact distribution of the token that the rule emits: accepted mass and corrected mass."""
    accepted = torch.minimum(p, q)
    residual = (p - q).clamp(min=0)
    return accepted + (1 - accepted.sum(-1, keepdim=True)) * residual / residual.sum(-1, keepdim=True)


generator = torch.Generator().manual_seed(0)
p, q = torch.rand(2, 1000, 50, generator=generator, dtype=torch.float64).pow(4).log().softmax(-1)
assert torch.allclose(emitted_distribution(p, q), p)
with torch.no_grad():
    real_p, real_q = (m(prompts[0]).logits[0].double().softmax(-1) for m in (pair.target, pair.draft))
assert torch.allclose(emitted_distribution(real_p, real_q), real_p)
print("exact for 1000 random pairs and for both models at", len(real_p), "positions")

# %% [markdown]
"""
And with dice, as a decoder does it: draw many tokens and count them.
"""

# %%
p = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04])
q = torch.tensor([0.10, 0.45, 0.05, 0.25, 0.05, 0.10])


def speculative_sample(p, q, count, generator):
    x = torch.multinomial(q, count, replacement=True, generator=generator)
    accepted = torch.rand(count, generator=generator) < p[x] / q[x]
    corrected = torch.multinomial((p - q).clamp(min=0), count, replacement=True, generator=generator)
    return torch.where(accepted, x, corrected), accepted


tokens, accepted = speculative_sample(p, q, 20_000, torch.Generator().manual_seed(0))
print(f"accepted {accepted.float().mean():.3f}; the theory says A = Σ min(p, q) = {torch.minimum(p, q).sum():.3f}")

# %%
observed = tokens.bincount(minlength=6).double()
fit = chisquare(observed, p.double() * len(tokens)).pvalue
figure, ax = plt.subplots(figsize=(6.5, 3.2))
shares = [("target", "target p", p), ("draft", "draft q", q), ("SSD", "emitted", observed / observed.sum())]
for shift, (name, label, values) in enumerate(shares):
    look = {"color": plots.COLORS[name], "hatch": plots.HATCHES[name], "edgecolor": "white"}
    ax.bar(np.arange(6) + 0.27 * (shift - 1), values, 0.27, label=label, **look)
ax.set(xlabel="token", ylabel="probability", title=f"Emitted as the target would (chi-square p-value {fit:.2f})")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
"""
The emitted tokens follow $p$, although most were proposed by $q$. Where the draft offers too much of a token (1 and 3), the surplus is
rejected; where it offers too little (0 and 2), the residual makes up for it. The library does the same, row by row:
"""

# %%
from ssd_lib.method.composite import accept_or_resample

rows = 20_000
proposal = torch.multinomial(q, rows, replacement=True, generator=torch.Generator().manual_seed(1))
emitted, _ = accept_or_resample(p.expand(rows, 6), q.expand(rows, 6), proposal, torch.Generator().manual_seed(2))
fit = chisquare(emitted.bincount(minlength=6).double(), p.double() * rows).pvalue
assert fit > 1e-3
print(f"ssd_lib.method.composite.accept_or_resample: chi-square p-value {fit:.2f}")

# %% [markdown]
r"""
## What SSD will change

Here the target alone decides which token is right. In SSD the *current scheme* decides, from both models' distributions (chapter
03); the accept test becomes "equals the token that the scheme emits". The induction above still holds word for word, with "the
target's own token" replaced by "the scheme's token": the output does not depend on $T$.

One thing is lost, and one gained. The output is no longer the target's own: that is the purpose. And a low acceptance rate, here
only a nuisance, becomes the alarm (chapter 04).

## Exercises

Solutions: [solutions/02_solutions](solutions/02_solutions.ipynb).

**1.** At $\beta = 0.8$ and $T = 3$, how many tokens does a round emit on average?
"""

# %%
from ssd_lib.show.exercises import check

average = ...
check(
    "tokens per round",
    average,
    (1 - 0.8**3) / 0.2,
    "1 + β + β²: the first position is always reached, the third only if two proposals were accepted.",
)

# %% [markdown]
r"""
**2.** The acceptance rate of the sampling rule is $\sum_x \min(p(x), q(x))$. What is it for `p` and its reverse, `p.flip(0)`?
"""

# %%
acceptance = ...
check(
    "acceptance of the reversed draft",
    acceptance,
    torch.minimum(p, p.flip(0)).sum(),
    "torch.minimum compares two tensors position by position; sum what it gives.",
)

# %% [markdown]
"""
**3.** Write the function that finds the best lookahead between 1 and `longest` for an acceptance rate and a price of the draft.
"""


# %%
def best_lookahead(beta, price, longest=16):
    return ...


for beta_, price_ in [(0.9, 0.1), (0.3, 0.1), (0.6, 0.02)]:
    check(
        f"best lookahead at β = {beta_}, ρ = {price_}",
        best_lookahead(beta_, price_),
        1 + int(np.argmax([speed_up(beta_, t, price_) for t in range(1, 17)])),
        "Call speed_up for each T from 1 to `longest` and return the T (not the speed-up) where it is largest.",
    )

# %% [markdown]
"""
## Takeaways
1. Draft, verify, emit: the target's output at fewer target forwards.
2. Tokens per forward grow with the match ratio and saturate in $T$; a bad draft costs time, never correctness.
3. The sampling rule keeps the target's distribution exactly.

## Questions
- Why does the output not depend on $T$, and what does?
- When does a longer lookahead make decoding slower?
- What does a low match ratio tell you, apart from speed?

**Back:** [01 · Shallow alignment](01_shallow_alignment.ipynb). **Next:** [03 · Two distributions](03_two_distributions.ipynb): the
line that SSD changes.
"""
