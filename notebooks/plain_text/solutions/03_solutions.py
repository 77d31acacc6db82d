# %% [markdown]
"""
# Solutions to chapter 03

[← 03 · Two distributions](../03_two_distributions.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from checks import check


# %%
def top_k(probs, k):
    values = probs.tolist()
    return sorted(range(len(values)), key=lambda token: (-values[token], token))[:k]


def worse_ranks(target, draft):
    first, second = ({token: i + 1 for i, token in enumerate(top_k(probs, len(probs)))} for probs in (target, draft))
    return [max(first[token], second[token]) for token in range(len(target))]


# %% [markdown]
"""
**1.** The draft proposes "I", then "sorry", then ".". After "go": F(I) = 0.2 · 0.02 + 0.8 · 0.50 = 0.404 is the largest. After "I": F(sorry) = 0.06 + 0.56 =
0.62. After "sorry": F(but) = 0.11 + 0.32 = 0.43 just beats F(.) = 0.02 + 0.40 = 0.42, so the proposal fails.
"""

# %%
next_round = ["I", "sorry", "but"]
check("03.1", next_round)

# %% [markdown]
"""
**2.** From each winner, the next one is whoever overtakes first: the nearest crossing with a steeper line.
"""


# %%
def reign(target, draft, c):
    space = sorted(set(top_k(target, c)) | set(top_k(draft, c)))
    low, slope = target.tolist(), (draft - target).tolist()
    alpha, winners = 0.0, [max(space, key=lambda token: (low[token], slope[token]))]
    while True:
        now = winners[-1]
        steeper = [token for token in space if slope[token] > slope[now]]
        meets = [((low[now] - low[token]) / (slope[token] - slope[now]), -slope[token], token) for token in steeper]
        meets = [meet for meet in meets if alpha <= meet[0] < 2]
        if not meets:
            return winners
        alpha, _, token = min(meets)
        winners.append(token)


check("03.2", reign)

# %% [markdown]
"""
**3.** Rule 2 belongs to Intersection. In Union it let the target have its favourite whenever the draft did not list it: under attack, nearly
always.
"""


# %%
def mended_emit(target, draft, scheme, alpha, c):
    score = target + alpha * (draft - target)
    if scheme == "union":
        space = set(top_k(target, c)) | set(top_k(draft, c))
    else:
        worse = worse_ranks(target, draft)
        k = sorted(worse)[min(c, len(worse)) - 1]
        favourite = top_k(target, 1)[0]
        if favourite not in top_k(draft, k):
            return favourite
        space = {token for token, rank in enumerate(worse) if rank <= k}
    return min(space, key=lambda token: (-float(score[token]), token))


case = ([0.7, 0.2, 0.1, 0.0], [0.0, 0.3, 0.6, 0.1])
check("03.3", mended_emit, case)

# %% [markdown]
"""
**4.** Words that the draft has never seen have to be copied letter by letter; in the middle of one the target is sure, the draft is not.
"""

# %%
my_question = "Please say: zebra quantum Berlin"
check("03.4", my_question)
