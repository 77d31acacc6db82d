# %% [markdown]
"""
# Solutions to chapter 04

[← 04 · The match ratio](../04_match_ratio.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import numpy as np
import torch

from ssd_lib import SSDConfig
from ssd_lib.method import switching
from ssd_lib.show.exercises import check

# %% [markdown]
"""
**1.** Yes: 4/7 = 0.571 is below 0.6.
"""

# %%
goes_to_union = True
check("four of seven", goes_to_union, 4 / 7 < 0.6, "True or False: compare 4/7 with the threshold.")

# %% [markdown]
"""
**2.** Three full bins, three decays.
"""

# %%
threshold_at_21 = 0.6 - 3 * 0.1
check(
    "threshold after three bins",
    threshold_at_21,
    0.3,
    "Tokens 0 to 6 are the first bin, so three bins are full before token 21; each of them lowers it by 0.1.",
)

# %% [markdown]
r"""
**3.** A change of scheme resets both. Where the scheme stays, the threshold falls, and $\alpha_I$ too, but only in
Intersection.
"""


# %%
def decide(scheme, threshold, alpha, ratio, config):
    following = "union" if ratio < threshold else "intersection"
    if following != scheme:
        return following, config.threshold, config.alpha_intersection
    if scheme == "intersection":
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return scheme, max(threshold - config.threshold_decay, 0), alpha


tried = SSDConfig(alpha_intersection=0.5)
for scheme, threshold, ratio in [
    ("intersection", 0.6, 1.0),
    ("intersection", 0.5, 0.2),
    ("union", 0.6, 0.2),
    ("union", 0.05, 0.0),
]:
    state = switching.start(1, tried)._replace(
        union=torch.tensor([scheme == "union"]),
        threshold=torch.tensor([threshold], dtype=torch.double),
        matches=torch.tensor([round(7 * ratio)]),
        emitted=torch.tensor([7]),
    )
    after = switching.decide(state, torch.tensor([True]), tried)
    expected = [
        "union" if after.union[0] else "intersection",
        float(after.threshold[0]),
        float(after.alpha_intersection[0]),
    ]
    mine = decide(scheme, threshold, 0.5, round(7 * ratio) / 7, tried)
    solved = mine is not ... and mine[0] == expected[0] and np.allclose(mine[1:], expected[1:])
    check(
        f"in {scheme}, threshold {threshold}, β = {round(7 * ratio)}/7",
        mine if mine is ... else ("as expected" if solved else mine),
        "as expected",
        "Did the scheme stay (the threshold decays, α_I only in Intersection) or change (both are reset)? Mind the two floors.",
    )
