# %% [markdown]
"""
# Solutions to chapter 05

[← 05 · SSD from scratch](../05_ssd_from_scratch.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace

import torch
from checks import check

from ssd_lib import load_pair

torch.set_num_threads(1)
pair = load_pair("toy")

# %% [markdown]
"""
### Exercise 05.1

The decoder, from what the chapters have built. `propose` is chapter 02's; `top_k`, `smallest_k` and `emit` are chapter 03's, with
plain sets; `decide` is the solution of chapter 04's exercise.
"""


# %%
def probs_after(model, ids, last):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -last:].float().softmax(-1)


def propose(draft, ids, lookahead):
    proposals = []
    for _ in range(lookahead):
        proposals.append(int(probs_after(draft, ids + proposals, 1)[0].argmax()))
    return proposals


def top_k(probs, k):
    return probs.sort(descending=True, stable=True).indices[:k].tolist()


def smallest_k(target, draft, c):
    places = [{token: place for place, token in enumerate(top_k(probs, len(probs)), 1)} for probs in (target, draft)]
    return sorted(max(places[0][token], places[1][token]) for token in places[0])[c - 1]


def emit(target, draft, scheme, alpha, c):
    score = target + alpha * (draft - target)
    if scheme == "union":
        space = set(top_k(target, c)) | set(top_k(draft, c))
    else:
        k = smallest_k(target, draft, c)
        favourite = top_k(target, 1)[0]
        if favourite not in top_k(draft, k):
            return favourite
        space = set(top_k(target, k)) & set(top_k(draft, k))
    return min(space, key=lambda token: (-float(score[token]), token))


def decide(scheme, threshold, alpha, ratio, config):
    following = "union" if ratio < threshold else "intersection"
    if following != scheme:
        return following, config.threshold, config.alpha_intersection
    if scheme == "intersection":
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return scheme, max(threshold - config.threshold_decay, 0), alpha


def my_ssd(target, draft, prompt, draft_prompt, config, max_new_tokens, eos):
    answer, states, matches = [], [], []
    scheme, threshold, alpha = "intersection", config.threshold, config.alpha_intersection
    while True:
        proposals = propose(draft, draft_prompt + answer, config.lookahead)
        read = answer + proposals[:-1]
        target_probs = probs_after(target, prompt + read, config.lookahead)
        draft_probs = probs_after(draft, draft_prompt + read, config.lookahead)
        for t, proposed in enumerate(proposals):
            weight = config.alpha_union if scheme == "union" else alpha
            token = emit(target_probs[t], draft_probs[t], scheme, weight, config.candidates)
            answer.append(token)
            states.append((scheme, threshold, weight))
            matches.append(token == proposed)
            if len(answer) % config.bin_size == 0:
                ratio = sum(matches[-config.bin_size :]) / config.bin_size
                scheme, threshold, alpha = decide(scheme, threshold, alpha, ratio, config)
            if token in eos or len(answer) == max_new_tokens:
                return answer, states
            if token != proposed:
                break


check("05.1", my_ssd)

# %% [markdown]
"""
### Exercise 05.2

Count the ends of rounds: after a mismatch, after $T$ tokens, and with the answer.
"""


# %%
def rounds_needed(matches, lookahead):
    rounds, in_round = 0, 0
    for match in matches:
        in_round += 1
        if not match or in_round == lookahead:
            rounds, in_round = rounds + 1, 0
    return rounds + (in_round > 0)


check("05.2", rounds_needed)

# %% [markdown]
r"""
### Exercise 05.3

The alarm leaves Intersection without putting $\alpha_I$ back: only the way out of Union does. At the pair's $\alpha_I = 0.3$ nothing can be seen of it,
because there it never leaves its starting value. So start it above the floor, let one good bin lower it, then raise the alarm.
"""

# %%
history = [True] * 7 + [False] * 7
changes = {"alpha_intersection": 0.6}
check("05.3", history, changes)

# %% [markdown]
r"""
### Exercise 05.4

What leaks, leaks before the first decision, in a bin that is decoded in Intersection. With a larger $\alpha_I$ the draft's refusal wins there as soon as the
target is not sure. The price: the larger it is, the more the draft is in charge of benign answers; at $\alpha_I = 1$ one more of the eight is wrong.
"""

# %%
my_config = replace(pair.config, alpha_intersection=0.6)
check("05.4", my_config)
