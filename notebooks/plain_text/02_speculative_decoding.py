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
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
from checks import check, predict, question, score
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
"""

# %%
predict("02.p1")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def forward_time(model, positions, repeats=15):
    """The fastest of some forwards over that many positions, in seconds of this process's own computing."""
    ids, times = torch.full((1, positions), 7), []
    for _ in range(repeats):
        started = time.process_time()
        with torch.no_grad():
            model(ids)
        times.append(time.process_time() - started)
    return min(times)


took = {positions: forward_time(pair.target, positions) for positions in (1, 2, 4, 8, 64)}
relative = {positions: round(seconds / took[1], 1) for positions, seconds in took.items()}
print("time of a forward over n positions, in forwards over one:", relative)

# %% [markdown]
"""
<details><summary>What happens</summary>

Even this micro-model does several positions for much less than several times the price of one. How flat the row is depends on the
machine and on the model; chapter 10 measures more of it.
</details>

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

One round, on a question where the two models agree at first and then differ:
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


print(f"lossless on {len(prompts)} questions with {len(LOOKAHEADS)} lookaheads")

# %%
predict("02.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
answer, rounds = speculative_decode(pair.target, nonsense, prompts[0], 4)
assert answer == own[0]
print(f"with a nonsense draft: the same answer, at {len(rounds)} target forwards for {len(answer)} tokens")

# %% [markdown]
r"""
<details><summary>What happens</summary>

The nonsense draft saves nothing and changes nothing: a target forward a token, as without it. The draft needs no training to agree with
the target, no calibration, no guarantee of any kind: every one of its guesses is checked before it counts.
</details>

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
whole = {t: np.mean([min(n + 1, t) for _, rounds in runs[t] for n in rounds[:-1]]) for t in LOOKAHEADS}
print("tokens a round without each answer's last round:", {t: round(float(mean), 2) for t, mean in whole.items()})
print("formula:", {t: round(float(tokens_per_round(beta, t)), 2) for t in LOOKAHEADS})

# %% [markdown]
r"""
Benign answers are easy to guess, so each target forward buys several tokens. At a low β the curve flattens early: a longer lookahead
then only makes the draft guess tokens that no round reaches. The measured points lie below the formula. Part of that is
each answer's last round, which is cut off: without it 6.7 of the formula's 6.9 tokens are reached at $T = 8$. Whether the rest is chance, so few
rounds cannot say.

## When is that faster?

A round costs one target forward and $T$ draft forwards. Let $\rho$ be the price of a draft forward, in target forwards. Without
speculation a token costs one target forward, so
$$\text{speed-up} = \frac{1 - \beta^T}{(1 - \beta)\,(1 + \rho T)}.$$
"""


# %%
def speed_up(beta, lookahead, price):
    return tokens_per_round(beta, lookahead) / (1 + price * lookahead)


price = forward_time(pair.draft, 1) / forward_time(pair.target, 4)
print(f"here, a draft forward over a target forward of four positions: ρ is about {price:.2f}")

# %%
predict("02.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
answer, rounds = speculative_decode(pair.target, pair.target, prompts[0], 4)
assert answer == own[0]
print(
    f"draft = target: {sum(rounds)} of {len(answer)} tokens accepted, {len(answer) / len(rounds):.1f} a round,", end=" "
)
print(f"speed-up {speed_up(1, 4, 1):.2f}; at T = 1, 2, 8: {[round(speed_up(1, t, 1), 2) for t in (1, 2, 8)]}")

# %% [markdown]
r"""
<details><summary>What happens</summary>

At $\rho = 1$ and $\beta = 1$ the speed-up is $T / (1 + T)$: always below 1. Agreement alone buys nothing, the draft has to be cheap. (For
SSD such a draft would be useless as well: both distributions are the same, every token matches, and no alarm ever sounds.)
</details>
"""

# %%
predict("02.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
figure, ax = plt.subplots(figsize=(6.5, 3.6))
every = np.arange(1, 21)
for b, style in [(0.3, ":"), (0.6, "--"), (0.9, "-"), (0.95, "-.")]:
    values = [speed_up(b, t, 0.1) for t in every]
    ax.plot(every, values, color="black", linestyle=style, label=f"β = {b}")
    ax.plot(every[np.argmax(values)], max(values), "o", color=plots.COLORS["SSD"])
    print(f"β = {b}: best T = {every[np.argmax(values)]}, speed-up {max(values):.2f}; at T = 3 {values[2]:.2f}")
ax.axhline(1, color="grey", linewidth=0.8)
ax.set(xlabel="lookahead T", ylabel="speed-up", title="Speed-up at ρ = 0.1 (dots: the best lookahead)")
ax.set_xticks(range(2, 21, 2))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
r"""
<details><summary>What happens</summary>

Below the grey line speculation makes decoding *slower*. At a low β guesses beyond the second are a loss; at a high β the best $T$ is large
and the optimum is flat. The paper's $T = 3$ is close to the best for β up to 0.6, and gives away a good part of the speed-up at 0.9 and above.
</details>

Since the output does not depend on $T$, it can be tuned while decoding (`lookahead="auto"`, chapter 10).

**When does one more position pay?** It adds $\beta^T$ tokens for one more draft forward, and this must be more than the rounds earn on average.
With $n$ draft forwards in a round of $T$:
$$\frac{\beta^T}{\rho} > \frac{1 + \beta + \dots + \beta^{T-1}}{1 + \rho n}
\quad\Leftrightarrow\quad \rho < \frac{\beta^T}{1 + \beta + \dots + \beta^{T-1} - n\,\beta^T}.$$
Here $n = T$. It could be $T - 1$, since the target never reads the last proposal; in SSD the draft's opinion is needed at every position,
and chapter 10 shows how the library does with $T - 1$ forwards for one greedy answer on a CPU (in batches, on a GPU and with sampling it is $T$).
"""


# %%
def dearest(beta, lookahead, forwards):
    """The price up to which one more position pays."""
    return beta**lookahead / (tokens_per_round(beta, lookahead) - forwards * beta**lookahead)


for b in (0.3, 0.6, 0.8):
    for saved, name in [(0, "T    "), (1, "T − 1")]:
        limit = dearest(b, 3, 3 - saved)
        for price_, pays in [(0.99 * limit, True), (1.01 * limit, False)]:
            three, four = (tokens_per_round(b, t) / (1 + price_ * (t - saved)) for t in (3, 4))
            assert (four > three) == pays
        print(f"β = {b}, {name} draft forwards a round: T = 4 beats T = 3 up to ρ = {limit:.3f}")

# %% [markdown]
"""
With cheaper rounds the average is higher, so that a further position has to promise *more*. A formula deserves a test: roll dice for many rounds and count.
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
"""

# %%
predict("02.p5")

# %% [markdown]
r"""
<details><summary>What happens</summary>

A proposal is accepted with probability $A = \sum_x \min(p(x), q(x))$ (see the proof). That is 1 only for $p = q$, and 0 only where no
token has a chance in both.
</details>

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
The emitted tokens follow $p$, although 59% of them are the draft's own proposals. Where the draft offers too much of a token (1, 3 and 5), the surplus is
rejected; where it offers too little (0, 2 and 4), the residual makes up for it. The library does the same, row by row:
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
### And T?

The theorem is about one token. For whole answers: given what was emitted before, each token is distributed as the target's $p$ at this place, by
the theorem, whatever $q$ is and wherever in a round the place lies. So an answer has the probability $p(x_1)\,p(x_2 \mid x_1)\,p(x_3 \mid x_1 x_2) \cdots$, in which $T$ does not
occur. To see it, take three tokens, and tables of what follows each of them:
"""

# %%
target_table = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]])
draft_table = np.array([[0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])


def sampled_answer(lookahead, seed, length=3):
    rng, answer = np.random.default_rng(seed), [0]
    while True:
        proposals = []
        for _ in range(lookahead):
            proposals.append(rng.choice(3, p=draft_table[(answer + proposals)[-1]]))
        for x in proposals:
            p, q = target_table[answer[-1]], draft_table[answer[-1]]
            residual = np.maximum(p - q, 0)
            accepted = rng.random() < p[x] / q[x]
            answer.append(x if accepted else rng.choice(3, p=residual / residual.sum()))
            if len(answer) > length:
                return tuple(int(token) for token in answer[1:])
            if not accepted:
                break


# %%
predict("02.p6")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def law(lookahead, length=3):
    """The exact chance of every answer of this decoder: all proposals, all acceptances, all corrections."""
    chances = dict.fromkeys(np.ndindex(*[3] * length), 0.0)

    def emit(answer, proposals, chance):
        if len(answer) > length:
            chances[tuple(answer[1:])] += chance
        elif not proposals:  # a round begins
            for drawn in np.ndindex(*[3] * lookahead):
                path = [answer[-1], *drawn]
                emit(answer, drawn, chance * np.prod([draft_table[a, b] for a, b in pairwise(path)]))
        elif chance > 0:
            p, q, x = target_table[answer[-1]], draft_table[answer[-1]], proposals[0]
            accepted, residual = min(1, p[x] / q[x]), np.maximum(p - q, 0)
            emit([*answer, x], proposals[1:], chance * accepted)
            for token in range(3):
                emit([*answer, token], (), chance * (1 - accepted) * residual[token] / residual.sum())

    emit([0], (), 1.0)
    return chances


exact = {(a, b, c): target_table[0, a] * target_table[a, b] * target_table[b, c] for a, b, c in np.ndindex(3, 3, 3)}
drawn = {t: [sampled_answer(t, seed) for seed in range(500)] for t in (1, 2, 3)}
for t, answers in drawn.items():
    chances = law(t)
    assert all(np.isclose(chances[answer], exact[answer]) for answer in exact)
    equal = np.mean([mine == first for mine, first in zip(answers, drawn[1], strict=True)])
    print(f"T = {t}: all 27 answers are as likely as from the target; with the same seed as at T = 1: {equal:.0%}")

# %% [markdown]
"""
<details><summary>What happens</summary>

The same distribution for every $T$; other answers for most seeds, because a longer round draws more random numbers before it
comes to the same place.
</details>
"""

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

### Exercise 02.1 · easy · 5 minutes
At $\beta = 0.8$ and $T = 3$, how many tokens does a round emit on average?
"""

# %%
average = ...
check("02.1", average)

# %% [markdown]
"""
### Exercise 02.2 · real · 15 minutes
The best lookahead on a real machine, where a target forward takes longer over more positions: `best_lookahead(beta, d, v)`. A draft forward takes `d` seconds, a
target forward over T positions `v[T]`; a round of T takes T draft forwards. Return the T in the dictionary `v` with the most tokens a second, and 0 where
the target without any draft is at least as quick as all of them.
"""


# %%
def best_lookahead(beta, d, v):
    return ...


check("02.2", best_lookahead)

# %% [markdown]
"""
### Exercise 02.3 · find the bug · 15 minutes
This sampler does not emit the target's distribution. Which one does it emit? Return a tensor: the exact probability of every token.
"""

# %%
import inspect

from checks.chapter_02 import suspect_sample

print(inspect.getsource(suspect_sample))


def emitted_by_the_suspect(p, q):
    return ...


check("02.3", emitted_by_the_suspect)

# %% [markdown]
"""
### Exercise 02.4 · open · 20 minutes
A lookahead that follows the text. In 40 texts easy stretches (β = 0.97) and hard ones (β = 0.3) take turns; a draft forward costs 0.1 target forwards.
`next_lookahead(rounds)` gets the rounds of this text so far, as (T, accepted proposals), and returns the next T, from 1 to 16. One point for more speed than
$T = 3$, two for more than the best fixed $T$.
"""


# %%
def next_lookahead(rounds):
    return ...


check("02.4", next_lookahead)

# %% [markdown]
"""
## Takeaways
1. Draft, verify, emit: the target's output at fewer target forwards.
2. Tokens per forward grow with the match ratio and saturate in $T$; a bad draft costs time, never correctness.
3. The sampling rule keeps the target's distribution exactly, for every $T$.

## Questions
"""

# %%
question("02.q1")
question("02.q2")
question("02.q3")
score("02")

# %% [markdown]
"""
To think about: what does a low match ratio tell you, apart from speed?

**Back:** [01 · Shallow alignment](01_shallow_alignment.ipynb). **Next:** [03 · Two distributions](03_two_distributions.ipynb): the
line that SSD changes.
"""
