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
import torch

from ssd_lib.method.composite import intersection_space, rank_tokens
from ssd_lib.show.exercises import check

small_target = torch.tensor([0.46, 0.20, 0.10, 0.12, 0.01, 0.02, 0.05, 0.04])
small_draft = torch.tensor([0.004, 0.02, 0.006, 0.40, 0.39, 0.09, 0.04, 0.05])

# %% [markdown]
"""
**1.** Both gaps from the four numbers.
"""

# %%
tie = (0.7 - 0.1) / ((0.7 - 0.1) + (0.85 - 0.05))
check(
    "α*",
    tie,
    0.6 / (0.6 + 0.8),
    "The target's gap P_M(a) − P_M(b) over the sum of both gaps; the draft's is P_m(b) − P_m(a).",
)

# %% [markdown]
"""
**2.** Token $i$ has the ranks $i + 1$ and $6 - i$; the worse ones are 6, 5, 4, 4, 5, 6.
"""

# %%
smallest = sorted(max(place + 1, 6 - place) for place in range(6))[2]
check("k", smallest, 5, "For each token take the worse of its two ranks (counted from 1); sort; take the third.")

# %% [markdown]
"""
**3.** Count the tokens whose worse rank is at most $k$: it is $c$, or more where several come in at the same $k$.
"""


# %%
def space_size(target, draft, c):
    worse = torch.maximum(
        *(probs.sort(descending=True, stable=True).indices.argsort() + 1 for probs in (target, draft))
    )
    k = worse.sort().values[min(c, len(worse)) - 1]
    return int((worse <= k).sum())


random_pair = torch.rand(2, 500, generator=torch.Generator().manual_seed(0)).softmax(-1)
for opinion, c in [
    ((small_target, small_draft), 3),
    ((small_target, small_draft), 4),
    (random_pair, 10),
    (random_pair, 900),
]:
    space, _ = intersection_space(rank_tokens(opinion[0]), rank_tokens(opinion[1]), c)
    check(
        f"size of the Intersection space, {len(opinion[0])} tokens, c = {c}",
        space_size(*opinion, c),
        int(space.sum()),
        "Find k with smallest_k, then count the tokens that stand in both models' top_k(k).",
    )
