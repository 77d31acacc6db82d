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

About 25 minutes on a laptop CPU, 40 more if you do the first exercise first (do!). You need chapters 02 to 04.
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
import inspect
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score
from checks.chapter_05 import equal_on, first_difference, micro_models, suspect
from scipy.stats import chi2_contingency, chisquare
from transformers import DynamicCache

from ssd_lib import SSDConfig, load_pair, ssd_generate
from ssd_lib.experiments.card import Condition, measure, prefill_tokens
from ssd_lib.experiments.stats import rates
from ssd_lib.method import composite
from ssd_lib.show import plots
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
### Exercise 05.1 · real · 40 minutes

Try it yourself first: write the decoder now, before you read on. You may take the functions of chapters 02 to 04 (`propose`, `emit`,
`decide`) with you; no cache is needed, a forward over the whole sequence for every token will do. The config's fields are named as in this
book: `config.lookahead`, `config.candidates`, `config.bin_size`, `config.threshold`, `config.threshold_decay`,
`config.alpha_intersection`, `config.alpha_decay`, `config.alpha_floor`, `config.alpha_union`.

Return two lists of the same length: the answer's ids, and for each of them what it was decoded under, `(scheme, threshold, α)`: the scheme
as `"intersection"` or `"union"`, the threshold that its bin will be compared with, the α that $F$ was computed with. The check lays both
beside the library's trace, on pairs of small random models that change the scheme every few tokens and on the embedded pair, and says where they part.
"""


# %%
def my_ssd(target, draft, prompt, draft_prompt, config, max_new_tokens, eos):
    """The answer's ids, and (scheme, threshold, α) of each. `eos` is a set of ids."""
    return ...


check("05.1", my_ssd)

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
    """The answer's ids, what each was decoded under, and which of them matched."""
    answer, states, matches = [], [], []
    state = (False, config.threshold, config.alpha_intersection)
    while True:
        proposals = []
        for _ in range(config.lookahead):
            proposals.append(int(probabilities(draft, draft_prompt + answer + proposals, 1)[0].argmax()))
        seen = answer + proposals[:-1]
        target_probs = probabilities(target, prompt + seen, config.lookahead)
        draft_probs = probabilities(draft, draft_prompt + seen, config.lookahead)
        for p_target, p_draft, proposed in zip(target_probs, draft_probs, proposals, strict=True):
            union, threshold, alpha = state
            alpha = config.alpha_union if union else alpha
            token = emit(p_target, p_draft, union, alpha, config.candidates)
            answer.append(token)
            states.append(("union" if union else "intersection", threshold, alpha))
            matches.append(token == proposed)
            state = switch(state, matches, config)
            if token in eos or len(answer) == max_new_tokens:
                return answer, states, matches
            if token != proposed:
                break


# %% [markdown]
"""
That is the method. What will it do on an attacked question? Commit to an answer, then open the folded cell and run it.
"""

# %%
predict("05.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
answer, _, matches = ssd(pair.target, pair.draft, *prompt_ids(attacked[0], PREFILL), pair.config)
print("question:", attacked[0].question)
print("prefill: ", pair.tokenizer.decode(prefill_tokens(pair, attacked[0], PREFILL)))
print("answer:  ", pair.tokenizer.decode(answer))
print("matches: ", "".join("■" if match else "□" for match in matches))

# %% [markdown]
r"""
<details><summary>What happens</summary>

One bin of mismatches, then nothing but matches: the alarm, the switch, and a refusal that both models finish.
</details>

## Equal to the library

The library keeps a cache, decodes batches and runs on a GPU, but it must compute the same function. To see that, equal tokens are not
enough: at the pair's own settings $\alpha_I$ starts at its floor and never moves, and an answer changes the scheme twice at most, so a decoder
whose scheduler is wrong can give the same tokens on all of them. `first_difference` therefore compares token, scheme, threshold and α
of every line of the trace, under settings in which all of them move (α_U near 0.5, bins of two to four, $\alpha_I$ above and below its floor), and on
random models with ties.
"""

# %%
assert first_difference(ssd) is None
print("tokens, schemes, thresholds and α are equal on", equal_on())

# %%
predict("05.p2")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
short, long = (replace(pair.config, lookahead=T) for T in (1, 6))
one, six = (library(*prompt_ids(*cases[0]), config) for config in (short, long))
assert one.sequences[0].tolist() == six.sequences[0].tolist()
for config in (short, long):
    assert [ssd(pair.target, pair.draft, *prompt_ids(*case), config)[0] for case in cases[:2]] == library_answers(
        cases[:2], config
    )
print(f"the same answer: {one.stats.rounds} rounds with T = 1, {six.stats.rounds} with T = 6")

# %% [markdown]
"""
<details><summary>What happens</summary>

It does not, and chapter 02's induction says why: each token is a function of the prefix and of the scheduler's state, and the state is a
function of the tokens so far. (A token matches if it is the draft's greedy choice *at this position*, which does not depend on the round in
which it was proposed.) Rounds only decide how many tokens one target forward yields.
</details>

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
"""
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
"""

# %%
predict("05.p3")

# %% [markdown]
r"""
<details><summary>What happens</summary>

Nothing: both models read $T$ tokens a round, so both rewind by $T - \text{emitted}$, and three were emitted. The third token was *proposed*, but no model has read it yet. It is the
pending token, with which both begin the next round. The invariant holds without a special case.
</details>
"""


# %%
def likeliest(probs):
    return int(probs.argmax())


def choose_greedy(p_target, p_draft, proposed, union, alpha, config):
    """The emitted token, and whether it matches."""
    token = emit(p_target, p_draft, union, alpha, config.candidates)
    return token, token == proposed


def ssd_cached(
    target, draft, prompt, draft_prompt, config, max_new_tokens=NEW_TOKENS, eos=EOS,
    propose=likeliest, choose=choose_greedy, read=read,
):  # fmt: skip
    caches = DynamicCache(), DynamicCache()
    for model, cache, ids in zip((target, draft), caches, (prompt, draft_prompt), strict=True):
        read(model, cache, ids[:-1])
    answer, states, matches, pending, draft_pending = [], [], [], prompt[-1], draft_prompt[-1]
    state = (False, config.threshold, config.alpha_intersection)
    while True:
        proposals, draft_probs = [], []
        for _ in range(config.lookahead):
            draft_probs.append(read(draft, caches[1], [proposals[-1] if proposals else draft_pending])[0])
            proposals.append(propose(draft_probs[-1]))
        target_probs, emitted = read(target, caches[0], [pending, *proposals[:-1]]), 0
        for p_target, p_draft, proposed in zip(target_probs, draft_probs, proposals, strict=True):
            union, threshold, alpha = state
            alpha = config.alpha_union if union else alpha
            token, matched = choose(p_target, p_draft, proposed, union, alpha, config)
            answer.append(token)
            states.append(("union" if union else "intersection", threshold, alpha))
            matches.append(matched)
            state, emitted = switch(state, matches, config), emitted + 1
            if token in eos or len(answer) == max_new_tokens:
                return answer, states, matches
            if not matched:
                break
        for cache in caches:
            rewind(cache, config.lookahead - emitted)
        pending = draft_pending = answer[-1]


# %% [markdown]
"""
Lay it beside `ssd`: the walk is the same, line by line. What was `probabilities` over everything is now `read` over what is new, and each
round ends with a rewind. The draft reads one token a forward, so its probabilities come for free while it proposes. `propose`, `choose` and
`read` are parameters, because the next part replaces them. Equal again, state by state? And how many positions does the target read with
and without the cache?
"""

# %%
assert first_difference(ssd_cached) is None
models = pair.target, pair.draft
assert [ssd_cached(*models, *prompt_ids(*case), pair.config)[0] for case in cases] == library_answers(
    cases, pair.config
)
print(f"equal on {equal_on()}, and on the tokens of {len(cases)} more answers")

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
2. where greedy decoding takes $\arg\max F$, sampling draws from $F^+$: $F$ over $V$, negative values cut to 0, normalised (where the
   target insists: $P_M$ itself; where no $F$ in $V$ is positive: its best token alone); then, if wanted, only its *nucleus*, the likeliest tokens that hold a share `top_p`;
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
    scores = (p_target + alpha * (p_draft - p_target)).masked_fill(~space, -torch.inf)
    if scores.max() <= 0:  # for α above 1 only
        return torch.zeros_like(p_target).scatter(0, scores.argmax(), 1.0)
    positive = scores.clamp(min=0)
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
"""

# %%
predict("05.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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
    mine, *_ = ssd_cached(*models, *ids, pair.config, **sampling(1.0, seed=0, top_p=1e-6))
    assert mine[:first_bin] == ssd_cached(*models, *ids, pair.config)[0][:first_bin]
for seed in range(3):
    ids, _, matches = ssd_cached(*models, *prompt_ids(attacked[1], PREFILL), pair.config, **sampling(1.0, seed))
    print(f"{''.join('■' if m else '□' for m in matches)[:24]:<24}  …{pair.tokenizer.decode(ids)[:88]}")

# %% [markdown]
"""
(Where □ goes on after the seventh place, the coin of Union fell for the target.)

Second test, the one that counts: is a token distributed as $F^+$? Take one position, draw many times, and compare the counts: ours, and
those of the library's functions, which draw all at once. At τ = 1 these two models are so sure of themselves that there is nothing to see, so we raise it.
"""

# %%
TEMPERATURE, DRAWS = 3.0, 3000
parts = sampling(TEMPERATURE, seed=0)
ids_of = (pair.target, prompt), (pair.draft, draft_prompt)
p_target, p_draft = (parts["read"](model, DynamicCache(), ids)[-1] for model, ids in ids_of)
alpha, c = pair.config.alpha_union, pair.config.candidates
wanted = f_plus(p_target, p_draft, True, alpha, c)

mine = [
    parts["choose"](p_target, p_draft, parts["propose"](p_draft), True, alpha, pair.config)[0] for _ in range(DRAWS)
]
space = composite.union_space(composite.rank_tokens(p_target), composite.rank_tokens(p_draft), c)
scores = composite.composite(p_target, p_draft, torch.tensor(alpha))
f_library = composite.composite_distribution(scores, space, p_target, torch.tensor(False), top_p=1.0)
many, generator = (DRAWS, -1), torch.Generator().manual_seed(0)
proposed = p_draft.multinomial(DRAWS, replacement=True, generator=generator)
drawn, _ = composite.accept_or_resample(f_library.expand(many), p_draft.expand(many), proposed, generator)
theirs = drawn.tolist()


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
counted = {"mine": [mine.count(t) / DRAWS for t in top], "library": [theirs.count(t) / DRAWS for t in top]}
table = pd.DataFrame(shares | counted, index=[repr(pair.tokenizer.decode([t])) for t in top])
print(f"p-values: mine {against(mine):.2f}, library {against(theirs):.2f}")
assert min(against(mine), against(theirs)) > 1e-3
table.round(3)

# %% [markdown]
r"""
Both follow $F^+$, neither $P_M$ nor $P_m$. A p-value below 0.001 would say that they do not. What a single one says depends on luck: even a
perfect sampler falls below 0.05 one time in twenty. So draw often, and read the shares, which have to agree to about
$1/\sqrt{\text{draws}}$, beside the p-value.

Third test: the rounds. Greedy, the answer did not depend on $T$. And sampled?
"""

# %%
predict("05.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
micro = micro_models(8, 0.22)
rows = torch.tensor([[5, 9, 13]] * 1000)
base = SSDConfig(bin_size=2, candidates=3, alpha_union=0.5, do_sample=True, seed=0)


def sampled(config, tokens, draft=micro[1]):
    """Traces of 1000 sampled answers; position, match and scheme of every token."""
    options = {"draft_input_ids": rows, "max_new_tokens": tokens, "trace": True}
    return ssd_generate(micro[0], draft, rows, config=config, **options).trace.to_frame()


frames = {T: sampled(replace(base, lookahead=T), 8) for T in (1, 4)}
first = {T: frame[frame.row == 0].token.tolist() for T, frame in frames.items()}
print("the same seed's first answer: T = 1", first[1], " T = 4", first[4])
law = pd.DataFrame({f"T = {T}": f.groupby("row").match.sum().value_counts() for T, f in frames.items()})
law = law.sort_index().fillna(0).astype(int).T.rename_axis(columns="matches among 8 tokens")
print(f"the same law of the number of matches? p = {chi2_contingency(law.to_numpy()).pvalue:.2f}")
print("share of tokens in Union:", {T: round(float((f.scheme == "union").mean()), 3) for T, f in frames.items()})
law

# %% [markdown]
r"""
<details><summary>What happens</summary>

The answers differ, their distribution does not. The argument is greedy decoding's, one word changed: given the prefix and the scheduler's
state, the pair *(token, match)* has one **law**, whatever round it falls into. The proposal is a draw from $P_m$ after this prefix; it is accepted
with $\min(1, F^+/P_m)$; else the token comes from the rest. None of this mentions $T$. The state is a function of the matches so far, so
by induction over the positions the law of the whole answer, matches and schemes included, is the same for every $T$. (Proposals after a rejection are thrown
away unseen: no later token depends on them.) What does depend on $T$ is in which order the random numbers are used up, and
so which answer belongs to a seed.
</details>

Two border cases show what a match means here. First, the draft *is* the target: what does the scheduler see then?
"""

# %%
predict("05.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
target = micro[0]
always = replace(base, fixed_scheme="intersection", lookahead=1)
for name, config in (("greedy", replace(always, do_sample=False)), ("sampled", always)):
    frame = sampled(config, 1, draft=target)
    print(f"{name}: match ratio of the first token {frame.match.mean():.3f}")
likeliest_three = probabilities(target, rows[0].tolist(), 1)[0].topk(3).values
print(f"mass of the three likeliest tokens: {likeliest_three.sum():.3f}")

# the second case: α_U = 2, a sure target, a draft that is nearly indifferent, c = 2
p_sure = torch.tensor([0.6, 0.34] + [0.01] * 6)
p_flat = torch.tensor([0.132, 0.130] + [0.123] * 6)
print("F of the two tokens of V:", [round(float(f), 3) for f in (p_sure + 2 * (p_flat - p_sure))[:2]])
print("F⁺:", f_plus(p_sure, p_flat, True, 2.0, 2).tolist())

# %% [markdown]
r"""
<details><summary>What happens</summary>

Greedy, equal models always match. Sampled, they do not: the draft proposes from all of $P$, but $F^+$ keeps only $V$, the $c$ likeliest
tokens, and what is proposed outside is rejected. The match ratio is the mass of $V$. With $c = 10$ and a sure model that is nearly 1; at a high temperature it is
not, and a threshold that was right for greedy decoding can raise false alarms.

The second case: with $\alpha_U = 2$, $F = 2P_m - P_M$ is negative wherever the target is more than twice as sure as the draft. Where the draft is almost
indifferent that can be *all* of $V$, and nothing is left to draw from. Then ours and the library's $F^+$ put everything on the best token of $V$, the one that
greedy decoding takes. (With $\alpha \le 1$ it cannot happen: $F$ is an average of two probabilities.)
</details>

## What each part contributes

Take parts away (`fixed_scheme` never switches) and measure safety and utility on the same questions.
"""

# %%
predict("05.p7")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
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

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
frame[frame.group == "forbidden"].groupby("system", sort=False)[
    ["complied", "share_told", "ends_in_refusal"]
].mean().round(2)

# %% [markdown]
"""
<details><summary>What happens</summary>

Intersection alone does not protect: α is small and the target may insist, so the target has its way. Union alone protects at once but puts
the weaker draft in charge of benign answers, too (with so few questions the intervals overlap; data/toy/README.md has more). Switching
takes Intersection's utility and most of Union's safety, and pays with what passes in the first bin. (SSD and Intersection alone stand two answers of
40 below the target, well inside the intervals; that card has SSD's difference over 200 questions.)
</details>

A half-way house: switch as always, but *start* in Union.
"""

# %%
predict("05.p8")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def complied(config):
    """How many answers to the attacked questions leak a fact under these settings."""
    asked = [(item, PREFILL) for item in attacked]
    texts = [pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in library_answers(asked, config)]
    prefills = [pair.tokenizer.decode(prefill_tokens(pair, *case)) for case in asked]
    return sum(world.grade(*each).complied for each in zip(attacked, texts, prefills, strict=True))


for scheme in ("intersection", "union"):
    print(f"started in {scheme}: {complied(replace(pair.config, start_scheme=scheme))} of {len(attacked)} leak a fact")

# %% [markdown]
"""
<details><summary>What happens</summary>

No lag, no leak on these questions. The price is that the draft has its say in the first seven tokens of *every* answer, harmless ones, too; what
that costs depends on the pair, and was not measured here.
</details>

## Exercises

05.1 was the decoder itself, further up. Solutions: [solutions/05_solutions](solutions/05_solutions.ipynb).

### Exercise 05.2 · easy · 5 minutes

How many rounds does an answer take? Write it as a function of the matches (a list of booleans, one a token) and of $T$ alone.
"""


# %%
def rounds_needed(matches, lookahead):
    return ...


check("05.2", rounds_needed)

# %% [markdown]
"""
### Exercise 05.3 · find the bug · 15 minutes

Somebody else wrote `switch`. On every answer of this chapter it gives the library's tokens at the pair's own settings, and still one thing
is wrong with it. Prove it: give a history of matches and the settings to change (such as `{"threshold": 0.7}`; the bin size stays at 7) after which its
state is not the library's.
"""

# %%
print(inspect.getsource(suspect))

history, changes = ..., ...
check("05.3", history, changes)

# %% [markdown]
"""
### Exercise 05.4 · open · 20 minutes

Find settings that leak less: with the same start in Intersection and nothing of hardened switching (chapter 15), at most half of the facts
that the pair's own settings let through, and no fewer benign answers right. The bin keeps its length, too: chapters 00 and 04 have tried that. Change as little as you can, and say why it works. The check measures both on eight
attacked and eight benign questions; one of its two points is for the leak alone.
"""

# %%
my_config = ...  # replace(pair.config, …)
check("05.4", my_config)

# %% [markdown]
"""
## Takeaways
1. SSD is three small parts: two ways to choose a token, an alarm, and speculative rounds.
2. Each token depends on the prefix and the scheduler alone, so any lookahead gives the same answer, sampled the same distribution, and a
   cache only has to be able to go back.
3. Neither scheme suffices alone; switching buys both, at the price of one bin.

## Questions
And one to discuss: if starting in Union is safer, what might it cost on real models?
"""

# %%
question("05.q1")
question("05.q2")
question("05.q3")
question("05.q4")
score("05")

# %% [markdown]
"""
You have rebuilt the method. **Back:** [04 · The match ratio](04_match_ratio.ipynb), or the [start](00_start_here.ipynb).
**Next:** [06 · Attacks](06_attacks.ipynb): what it has to stand up to.
"""
