# %% [markdown]
"""
[← 04](04_match_ratio.ipynb) &nbsp; [06 →](06_attacks.ipynb) &nbsp; [Glossary](glossary.md)

# 05 · SSD from scratch

**Can you write the whole method in sixty lines?**

You will be able to
- implement Speculative Safety-Aware Decoding in plain PyTorch and prove it equal to the library,
- give it a cache that can go back, and say what that saves,
- extend it to sampling, and test that the distribution is right,
- say what each part contributes, by taking it away.

About 20 minutes on a laptop CPU, longer if you do the first exercise first (do!). You need chapters 02 to 04.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
QUESTIONS = 12
PREFILL = 10
NEW_TOKENS = 120

# %%
from dataclasses import replace
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import chisquare
from transformers import DynamicCache

from ssd_lib import SSDConfig, load_pair, ssd_generate
from ssd_lib.experiments.card import Condition, measure, prefill_tokens
from ssd_lib.experiments.stats import rates
from ssd_lib.show import plots
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
pair = pair.with_config(
    replace(pair.config, lookahead=3)
)  # rounds of three, as in the paper; chapter 10 lets the library choose
EOS = set(np.atleast_1d(pair.target.generation_config.eos_token_id).tolist())

# %% [markdown]
r"""
## The contract

Everything that the chapters so far have said, on one page. A decoder that does this *is* SSD.

**Prompts.** Target and draft read the same question, each in its own chat template (`prompt`, `draft_prompt`: lists of ids), and after it
the same answer. Probabilities are softmax in 32 bits.

**A round** (chapter 02). The draft proposes $T$ tokens, greedily. The target scores these $T$ positions. Walk along the positions: emit a
token by the current scheme; if it is the proposed one it *matches*, and the walk goes on; if not, it is emitted all the same and the round ends.

**One token** (chapter 03). $F = P_M + \alpha (P_m - P_M)$.
*Intersection*: $k$ is the smallest with $|\mathrm{TopK}_M(k) \cap \mathrm{TopK}_m(k)| \ge c$; if the target's favourite is not in $\mathrm{TopK}_m(k)$, emit
it; else the best $F$ in the intersection, with $\alpha_I$.
*Union*: the best $F$ in $\mathrm{TopK}_M(c) \cup \mathrm{TopK}_m(c)$, with $\alpha_U$. Ties go to the lower id.

**The scheduler** (chapter 04). It begins in Intersection. After every $b$-th *emitted* token: β = matches among the last $b$, over $b$. Next
scheme: Union if β < threshold, else Intersection, from the very next token, inside the round too. Scheme unchanged: threshold ← max(threshold
− 0.1, 0), and in Intersection $\alpha_I$ ← max($\alpha_I$ − 0.15, 0.3) but never raised. Changed: both back to their starting values.

**The end.** Stop after an end-of-sequence token (it belongs to the answer; there may be several such ids), or after `max_new_tokens`.
"""


# %%
def prompt_ids(item, prefill):
    """The target's and the draft's prompt of a question, with the first `prefill` answer tokens after both."""
    ids = pair.encode([item.question], [prefill_tokens(pair, item, prefill)])
    return ids["input_ids"][0].tolist(), ids["draft_input_ids"][0].tolist()


def library(prompt, draft_prompt, config, **options):
    """What ssd_lib does with one prompt, with its trace."""
    ids, draft_ids = torch.tensor([prompt]), torch.tensor([draft_prompt])
    options = {"max_new_tokens": NEW_TOKENS, "trace": True} | options
    return ssd_generate(pair.target, pair.draft, ids, draft_input_ids=draft_ids, config=config, **options)


def library_answers(cases, config):
    """The same for many prompts in one batch: a list of ids for each."""
    prompts = pair.encode([item.question for item, _ in cases], [prefill_tokens(pair, *case) for case in cases])
    output = ssd_generate(pair.target, pair.draft, **prompts, config=config, max_new_tokens=NEW_TOKENS)
    return [sequence.tolist() for sequence in output.sequences]


attacked = world.questions("forbidden", QUESTIONS)
cases = [(item, PREFILL) for item in attacked]
cases += [(item, 0) for group in world.GROUPS for item in world.questions(group, 4)]

# %% [markdown]
"""
## Try it yourself first: exercise 1

Write it now, before you read on. You may take the functions of chapters 02 to 04 (`propose`, `emit`, `decide`) with you; no cache is
needed, a forward over the whole sequence for every token will do. The config's fields are named as in this book: `config.lookahead`,
`config.candidates`, `config.bin_size`, `config.threshold`, `config.threshold_decay`, `config.alpha_intersection`, `config.alpha_decay`,
`config.alpha_floor`, `config.alpha_union`.

The check compares eight answers under two settings with the library and tells you where the first difference is.
"""


# %%
def my_ssd(target, draft, prompt, draft_prompt, config, max_new_tokens, eos):
    """The ids of the answer, as a list. `eos` is a set of ids."""
    return ...


def first_difference(decoder):
    """ "equal", or where and how the decoder differs from the library."""
    wary = replace(pair.config, bin_size=4, lookahead=6, threshold=0.8, alpha_intersection=0.75)
    for number, (case, config) in enumerate((case, c) for case in cases[:2] + cases[-2:] for c in (pair.config, wary)):
        mine = decoder(pair.target, pair.draft, *prompt_ids(*case), config, 60, EOS)
        if mine is ...:
            return ...
        lines = library(*prompt_ids(*case), config, max_new_tokens=60).trace.to_frame()
        for position, (got, wanted) in enumerate(zip_longest(mine, lines.token)):
            if got != wanted:
                line = lines.iloc[min(position, len(lines) - 1)]
                return f"answer {number}: token {position} is {got}, not {wanted} ({line.scheme}, α {line.alpha:.2f}, k {line.k})"
    return "equal"


check(
    "your decoder",
    first_difference(my_ssd),
    "equal",
    "Token 0 wrong: look at the prompts and at `emit`. The first token of a bin wrong: the scheduler, did the new scheme hold at once? "
    "A later one: did the round end at the mismatch? At the end: EOS belongs to the answer.",
)

# %% [markdown]
"""
Now one way to do it, in three parts.

## Part one: one token

From chapter 03, a little shorter: a stable sort keeps the lower id first, and $k$ grows until enough is shared.
"""


# %%
def probabilities(model, ids, last):
    """Next-token probabilities after each of the last positions of ids: [last, vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -last:].float().softmax(-1)


def sample_space(target, draft, union, c):
    """The tokens that may be emitted; None where the target insists."""
    ranks = [
        probs.sort(descending=True, stable=True).indices.argsort() for probs in (target, draft)
    ]  # 0 is the likeliest
    if union:
        return (ranks[0] < c) | (ranks[1] < c)
    worse = torch.maximum(*ranks)
    space = worse <= worse.sort().values[c - 1]
    return space if space[ranks[0].argmin()] else None


def emit(target, draft, union, alpha, c):
    space = sample_space(target, draft, union, c)
    if space is None:
        return int(target.argmax())
    return int((target + alpha * (draft - target)).masked_fill(~space, -torch.inf).argmax())


# %% [markdown]
"""
The target insists when its favourite is outside the *draft's* top $k$. In the code: outside the intersection. That is the same, because
the favourite is always inside the target's own top $k$.

## Part two: the scheduler

From chapter 04. `matches` holds the whole history. Inside a bin the state is handed back as it came; after each full bin it changes. It is
a pure function: the same history always gives the same state, and nothing else is remembered anywhere.
"""


# %%
def switch(state, matches, config):
    """(union, threshold, α_I) after one more token."""
    union, threshold, alpha = state
    if len(matches) % config.bin_size:
        return state
    ratio = sum(matches[-config.bin_size :]) / config.bin_size
    if (ratio < threshold) != union:
        return ratio < threshold, config.threshold, config.alpha_intersection
    if not union:
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return union, max(threshold - config.threshold_decay, 0), alpha


# %% [markdown]
"""
## Part three: rounds

From chapter 02, with one line changed: `token = emit(…)` stands where the target's own token stood. Three details are easy to get wrong.
Both models read the answer so far and the first $T-1$ proposals; their last $T$ rows are the opinions *about* the $T$ proposals. The
state is looked up again for every position, because the scheme may change inside a round. And the draft's probabilities are needed at all
of these positions, not only its proposals.
"""


# %%
def ssd(target, draft, prompt, draft_prompt, config, max_new_tokens=NEW_TOKENS, eos=EOS):
    answer, matches = [], []
    state = (False, config.threshold, config.alpha_intersection)
    while True:
        proposals = []
        for _ in range(config.lookahead):
            proposals.append(int(probabilities(draft, draft_prompt + answer + proposals, 1)[0].argmax()))
        seen = answer + proposals[:-1]
        target_probs = probabilities(target, prompt + seen, config.lookahead)
        draft_probs = probabilities(draft, draft_prompt + seen, config.lookahead)
        for p_target, p_draft, proposed in zip(target_probs, draft_probs, proposals, strict=True):
            union, _, alpha = state
            token = emit(p_target, p_draft, union, config.alpha_union if union else alpha, config.candidates)
            answer.append(token)
            matches.append(token == proposed)
            state = switch(state, matches, config)
            if token in eos or len(answer) == max_new_tokens:
                return answer, matches
            if token != proposed:
                break


# %% [markdown]
"""
That is the method. **Predict:** on an attacked question, how will the matches be spread?
"""

# %%
answer, matches = ssd(pair.target, pair.draft, *prompt_ids(attacked[0], PREFILL), pair.config)
print("question:", attacked[0].question)
print("prefill: ", pair.tokenizer.decode(prefill_tokens(pair, attacked[0], PREFILL)))
print("answer:  ", pair.tokenizer.decode(answer))
print("matches: ", "".join("■" if match else "□" for match in matches))

# %% [markdown]
"""
One bin of mismatches, then nothing but matches: the alarm, the switch, and a refusal that both models finish.

## Equal to the library

The library keeps a cache, decodes batches and runs on a GPU, but it must compute the same function. Here under four settings, among them
other lookaheads.

**Predict:** does the lookahead $T$ change the answer?
"""

# %%
settings = [
    pair.config,
    replace(pair.config, lookahead=1),
    replace(pair.config, lookahead=6, alpha_union=2.0, alpha_intersection=0.45),
    SSDConfig(lookahead=3, candidates=5, bin_size=3, threshold=0.8),
]
chosen = cases[:2] + cases[-3:]
for config in settings:
    mine = [ssd(pair.target, pair.draft, *prompt_ids(*case), config)[0] for case in chosen]
    assert mine == library_answers(chosen, config)
one, three = (library(*prompt_ids(*cases[0]), c) for c in (settings[1], settings[0]))
assert one.sequences[0].tolist() == three.sequences[0].tolist()
print(
    f"equal on {len(settings) * len(chosen)} answers; T = 1 takes {one.stats.rounds} rounds, T = 3 {three.stats.rounds}, for the same answer"
)

# %% [markdown]
"""
It does not, and chapter 02's induction says why: each token is a function of the prefix and of the scheduler's state, and the state is a
function of the tokens so far. (A token matches if it is the draft's greedy choice *at this position*, which does not depend on the round in
which it was proposed.) Rounds only decide how many tokens one target forward yields.

## Part four: a cache that can go back

Our decoder reads the whole sequence again for every token. A key-value cache keeps what a model has read, so that a forward only
reads what is new. The catch: a round writes $T$ tokens into both caches, and some of them are rejected. They have to go.
"""


# %%
def read(model, cache, tokens):
    """Read these tokens after what the cache holds; the probabilities after each of them: [tokens, vocabulary]."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0]
    return logits.float().softmax(-1)


def rewind(cache, rejected):
    """Forget the last `rejected` tokens: cut them off every layer's keys and values [rows, heads, positions, size]."""
    for layer in cache.layers:
        kept = layer.keys.shape[2] - rejected
        layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]


prompt, draft_prompt = prompt_ids(attacked[0], PREFILL)
cache = DynamicCache()
straight = read(pair.target, cache, prompt)[-1]
rewind(cache, 1)
read(pair.target, cache, [11, 12, 13])  # a detour …
rewind(cache, 3)  # … taken back
assert torch.allclose(read(pair.target, cache, prompt[-1:])[-1], straight, atol=1e-5)
print("the detour left no mark; the cache holds", cache.get_seq_length(), "of", len(prompt), "tokens")

# %% [markdown]
r"""
What makes the bookkeeping simple is one **invariant**: *between rounds both caches hold everything but the last emitted token*, the **pending**
one. A round with $T = 3$ that emits two tokens, $a$ (matched) and $c$ (instead of the proposal $b$):

```
before     cache: … x                 pending: y
draft      reads  y a b               proposes a b d
target     reads  y a b               scores the positions of a, b, d
walk       emits  a c                 c ≠ b: the round ends
rewind     cache: … x y a | b         3 read − 2 emitted = 1 rejected
after      cache: … x y a             pending: c
```

Both models read the same number of tokens, $T$, so both rewind by $T - \text{emitted}$. **Predict:** how much is rewound when all three
are accepted?
"""


# %%
def likeliest(probs):
    return int(probs.argmax())


def choose_greedy(p_target, p_draft, proposed, union, alpha, config):
    """The emitted token, and whether it matches."""
    token = emit(p_target, p_draft, union, alpha, config.candidates)
    return token, token == proposed


def ssd_cached(prompt, draft_prompt, config, propose=likeliest, choose=choose_greedy, read=read):
    models, caches = (pair.target, pair.draft), (DynamicCache(), DynamicCache())
    for model, cache, ids in zip(models, caches, (prompt, draft_prompt), strict=True):
        read(model, cache, ids[:-1])
    answer, matches, pending, draft_pending = [], [], prompt[-1], draft_prompt[-1]
    state = (False, config.threshold, config.alpha_intersection)
    while True:
        proposals, draft_probs = [], []
        for _ in range(config.lookahead):
            draft_probs.append(read(pair.draft, caches[1], [proposals[-1] if proposals else draft_pending])[0])
            proposals.append(propose(draft_probs[-1]))
        target_probs, emitted = read(pair.target, caches[0], [pending, *proposals[:-1]]), 0
        for p_target, p_draft, proposed in zip(target_probs, draft_probs, proposals, strict=True):
            union, _, alpha = state
            token, matched = choose(p_target, p_draft, proposed, union, config.alpha_union if union else alpha, config)
            answer.append(token)
            matches.append(matched)
            state, emitted = switch(state, matches, config), emitted + 1
            if token in EOS or len(answer) == NEW_TOKENS:
                return answer, matches
            if not matched:
                break
        for cache in caches:
            rewind(cache, config.lookahead - emitted)
        pending = draft_pending = answer[-1]


# %% [markdown]
"""
Lay it beside `ssd`: the walk is the same, line by line. What was `probabilities` over everything is now `read` over what is new, and each
round ends with a rewind. The draft reads one token a forward, so its probabilities come for free while it proposes. `propose`, `choose` and
`read` are parameters, because the next part replaces them. Equal again, on all prompts? And how many positions does the target read with
and without the cache?
"""

# %%
for config in (settings[0], settings[2]):
    assert [ssd_cached(*prompt_ids(*case), config)[0] for case in cases] == library_answers(cases, config)
print(f"equal on {2 * len(cases)} answers")

rounds = (
    library(prompt, draft_prompt, pair.config).trace.to_frame().groupby("round").position.min()
)  # where each begins
T, read_before = pair.config.lookahead, len(prompt) - 1
print(
    "positions that the target reads for one answer, without a cache:", sum(read_before + start + T for start in rounds)
)
print("with it:", read_before + T * len(rounds))

# %% [markdown]
r"""
The factor grows with the length of the answer: without a cache the work is quadratic in it, with one it is linear. Not a single token has
changed.

The library goes one step further. In a *batch* every row rejects a different number of tokens, and a cut like ours would tear the rows
apart. Its cache keeps one length a row, so that a rejection is a subtraction, `length -= rejected`, for all rows at once
(`ssd_lib/decoding/kv_cache.py`, chapter 10).

## Part five: sampling

So far every token was the best one. The paper also describes SSD with a temperature τ (its published code is greedy only). Three changes:

1. both models' logits are divided by τ before the softmax; ranks, $k$ and $V$ come from these;
2. where greedy decoding takes $\arg\max F$, sampling draws from $F^+$: $F$ over $V$, negative values cut to 0, normalised (and where the
   target insists, from $P_M$ itself); then, if wanted, only its *nucleus*, the likeliest tokens that hold a share `top_p`;
3. the draft *samples* its proposal $x \sim P_m$, and chapter 02's rule decides: accept with probability $\min(1, F^+(x)/P_m(x))$, else draw
   from $\mathrm{norm}(\max(F^+ - P_m, 0))$. A token **matches** when the proposal was accepted.
"""


# %%
def nucleus(probs, top_p):
    ordered, order = probs.sort(descending=True, stable=True)
    kept = ordered.masked_fill(ordered.cumsum(0) - ordered >= top_p, 0)  # the likeliest token always stays
    return torch.zeros_like(probs).scatter(0, order, kept / kept.sum())


def f_plus(p_target, p_draft, union, alpha, c, top_p=1.0):
    """The distribution that SSD samples from."""
    space = sample_space(p_target, p_draft, union, c)
    if space is None:
        return nucleus(p_target, top_p)
    positive = (p_target + alpha * (p_draft - p_target)).clamp(min=0).masked_fill(~space, 0)
    return nucleus(positive / positive.sum(), top_p)


def sampling(temperature, seed, top_p=1.0):
    """The three parts of the decoder that sampling exchanges."""
    generator = torch.Generator().manual_seed(seed)

    def draw(probs):
        return int(torch.multinomial(probs, 1, generator=generator))

    def read_warm(model, cache, tokens):
        return (read(model, cache, tokens).log() / temperature).softmax(-1)

    def choose(p_target, p_draft, proposed, union, alpha, config):
        wanted = f_plus(p_target, p_draft, union, alpha, config.candidates, top_p)
        if torch.rand(1, generator=generator) < wanted[proposed] / p_draft[proposed]:
            return proposed, True
        return draw((wanted - p_draft).clamp(min=0)), False

    return {"propose": draw, "choose": choose, "read": read_warm}


# %% [markdown]
"""
The loop itself has not changed at all. (`log` of a softmax gives the logits back up to a constant, which the next softmax ignores.)

**Predict:** with one model, τ → 0 is greedy decoding. Is it here, too? Think of two sure, opposed models in Union.
"""

# %%
prompt, draft_prompt = prompt_ids(attacked[0], PREFILL)
for temperature in (1.0, 0.3, 0.1):
    reading = sampling(temperature, seed=0)["read"]
    pairs = (pair.target, prompt), (pair.draft, draft_prompt)
    p_target, p_draft = (reading(model, DynamicCache(), ids)[-1] for model, ids in pairs)
    wanted = f_plus(p_target, p_draft, True, pair.config.alpha_union, pair.config.candidates)
    chances = f"target's favourite {wanted[p_target.argmax()]:.3f}, draft's {wanted[p_draft.argmax()]:.3f}"
    print(f"τ = {temperature}: F⁺ of the {chances}")

# %% [markdown]
"""
<details><summary>What happens</summary>

Each model becomes sure of its favourite, but $F^+$ does not become sure of one: it stays a mixture, with weight α for the draft's
favourite and 1 − α for the target's. SSD at a low temperature still tosses this coin wherever the models disagree; in Union the
forbidden word has one chance in five. What makes it greedy is a vanishing *nucleus*: `top_p` → 0
keeps only the best token of $F^+$.
</details>

First test, therefore: with a vanishing nucleus the first bin is the greedy one, whatever the draft happened to propose. (After it the two
may part: matches are counted against *sampled* proposals now.) Then a look at three sampled answers.
"""

# %%
first_bin = pair.config.bin_size
for case in cases[:2] + cases[-2:]:
    ids = prompt_ids(*case)
    mine, _ = ssd_cached(*ids, pair.config, **sampling(1.0, seed=0, top_p=1e-6))
    assert mine[:first_bin] == ssd_cached(*ids, pair.config)[0][:first_bin]
for seed in range(3):
    ids, matches = ssd_cached(*prompt_ids(attacked[1], PREFILL), pair.config, **sampling(1.0, seed))
    print(f"{''.join('■' if m else '□' for m in matches)[:24]:<24}  …{pair.tokenizer.decode(ids)[:88]}")

# %% [markdown]
"""
Second test, the one that counts: is a token distributed as $F^+$? Take one position, draw many times, and compare the counts; ours and the
library's. At τ = 1 these two models are so sure of themselves that there is nothing to see, so we raise it.
"""

# %%
TEMPERATURE, DRAWS = 3.0, 800
warm = replace(pair.config, do_sample=True, temperature=TEMPERATURE, start_scheme="union", lookahead=1, seed=0)
parts = sampling(TEMPERATURE, seed=0)
p_target, p_draft = (
    parts["read"](m, DynamicCache(), i)[-1] for m, i in ((pair.target, prompt), (pair.draft, draft_prompt))
)
wanted = f_plus(p_target, p_draft, True, warm.alpha_union, warm.candidates)

mine = [
    parts["choose"](p_target, p_draft, parts["propose"](p_draft), True, warm.alpha_union, warm)[0] for _ in range(DRAWS)
]
rows = torch.tensor([prompt] * DRAWS), torch.tensor([draft_prompt] * DRAWS)
output = ssd_generate(pair.target, pair.draft, rows[0], draft_input_ids=rows[1], config=warm, max_new_tokens=1)
theirs = [int(sequence[0]) for sequence in output.sequences]


# %%
def against(tokens):
    """Chi-square p-value of drawn tokens against F⁺; tokens that are too rare to count stand together."""
    seen = torch.tensor(tokens).bincount(minlength=len(wanted)).double()
    often = wanted * len(tokens) >= 5
    observed = torch.cat([seen[often], seen[~often].sum()[None]])
    expected = torch.cat([wanted[often], wanted[~often].sum()[None]]).double() * len(tokens)
    filled = expected > 0
    assert observed[~filled].sum() == 0, "a token outside the sample space was drawn"
    return chisquare(observed[filled], expected[filled] * observed.sum() / expected[filled].sum()).pvalue


top = wanted.topk(6).indices.tolist()
shares = {"F⁺": wanted[top], "P_M": p_target[top], "P_m": p_draft[top]}
drawn = {"mine": [mine.count(t) / DRAWS for t in top], "library": [theirs.count(t) / DRAWS for t in top]}
table = pd.DataFrame(shares | drawn, index=[repr(pair.tokenizer.decode([t])) for t in top])
print(f"p-values: mine {against(mine):.2f}, library {against(theirs):.2f}")
assert min(against(mine), against(theirs)) > 1e-3
table.round(3)

# %% [markdown]
"""
Both follow $F^+$, neither $P_M$ nor $P_m$. (A p-value below 0.001 would say that they do not. One in twenty lies below 0.05 by chance alone.)

## What each part contributes

Take parts away (`fixed_scheme` never switches) and measure safety and utility on the same questions.

**Predict:** is Union alone safer than SSD? Then why have Intersection at all?
"""

# %%
names = ["target alone", "SSD", "SSD, Intersection only", "SSD, Union only"]
frame = measure(pair, systems=names, conditions=[Condition("forbidden", PREFILL), Condition("benign")], questions=20)
attack = rates(frame[frame.group == "forbidden"], "complied", ["system"]).set_index("system")
utility = rates(frame[frame.group == "benign"], "right", ["system"]).set_index("system")
marks = dict(zip(names, [("o", "full", 6), ("D", "full", 8), ("s", "none", 14), ("v", "full", 9)], strict=True))
figure, ax = plt.subplots(figsize=(7, 3.8))
for name, (mark, fill, size) in marks.items():
    a, u = attack.loc[name], utility.loc[name]
    across, up = ([[max(0, r.rate - r.low)], [max(0, r.high - r.rate)]] for r in (a, u))
    look = {"marker": mark, "fillstyle": fill, "markersize": size, "color": plots.COLORS[plots.role(name)]}
    ax.errorbar(a.rate, u.rate, xerr=across, yerr=up, capsize=3, alpha=0.9, label=name, **look)
ax.set(
    xlabel="complies under attack (95% interval)",
    ylabel="benign answers right",
    title="Up and left is better",
    xlim=(-0.08, 1.08),
)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.save(figure, "from_scratch.png")
plt.show()

# %%
frame[frame.group == "forbidden"].groupby("system", sort=False)[
    ["complied", "share_told", "ends_in_refusal", "clean_refusal"]
].mean().round(2)

# %% [markdown]
"""
Intersection alone does not protect: α is small and the target may insist, so the target has its way. Union alone protects at once but puts
the weaker draft in charge of benign answers, too (with so few questions the intervals overlap; data/toy/README.md has more). Switching
takes Intersection's utility and most of Union's safety, and pays with what passes in the first bin.

## Exercises

Exercise 1 was the decoder itself, further up. Solutions: [solutions/05_solutions](solutions/05_solutions.ipynb).

**2.** How many rounds does an answer take? Write it as a function of the matches and of $T$ alone.
"""


# %%
def rounds_needed(matches, lookahead):
    return ...


for lookahead in (1, 3, 6):
    config = replace(pair.config, lookahead=lookahead)
    ids = prompt_ids(attacked[0], PREFILL)
    check(
        f"rounds at T = {lookahead}",
        rounds_needed(ssd_cached(*ids, config)[1], lookahead),
        library(*ids, config).stats.rounds,
        "A round ends behind a mismatch, behind T tokens, or with the answer: walk over `matches` and count the ends.",
    )

# %% [markdown]
"""
**3.** Start in Union instead (`start_scheme="union"`). How many answers to the attacked questions now leak a forbidden fact? Predict, then
count.
"""


# %%
def complied(config):
    """How many answers to the attacked questions leak a fact under these settings."""
    asked = [(item, PREFILL) for item in attacked]
    texts = [pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in library_answers(asked, config)]
    prefills = [pair.tokenizer.decode(prefill_tokens(pair, *case)) for case in asked]
    return sum(world.grade(*each).complied for each in zip(attacked, texts, prefills, strict=True))


started_in_union = ...
check(
    "starting in Union",
    started_in_union,
    complied(replace(pair.config, start_scheme="union")),
    "Call `complied` with replace(pair.config, start_scheme='union'); compare with complied(pair.config).",
)

# %% [markdown]
"""
## Takeaways
1. SSD is three small parts: two ways to choose a token, an alarm, and speculative rounds.
2. Each token depends on the prefix and the scheduler alone, so any lookahead gives the same answer, and a
   cache only has to be able to go back.
3. Neither scheme suffices alone; switching buys both, at the price of one bin.

## Questions
- What would the cache have to do if two answers were decoded in one batch?
- With sampling, is a low match ratio still a sign of disagreement? What else lowers it?
- If starting in Union is safer, what might it cost on real models?

You have rebuilt the method. **Back:** [04 · The match ratio](04_match_ratio.ipynb), or the [start](00_start_here.ipynb).
**Next:** [06 · Attacks](06_attacks.ipynb): what it has to stand up to.
"""
