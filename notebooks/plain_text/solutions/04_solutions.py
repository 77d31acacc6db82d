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
from checks import check
from scipy.stats import binom

from ssd_lib import SSDConfig

# %% [markdown]
"""
### Exercise 04.1

| bin | decoded in | threshold | α_I | β | |
| --- | --- | --- | --- | --- | --- |
| 1 | Intersection | 0.6 | 0.75 | 7/7 | stays: both decay |
| 2 | Intersection | 0.5 | 0.60 | 4/7 = 0.57 | stays: both decay |
| 3 | Intersection | 0.4 | 0.45 | 2/7 = 0.29 | alarm: both reset |
| 4 | Union | 0.6 | 0.75 | 7/7 | back: both reset |
| 5 | Intersection | 0.6 | 0.75 | 6/7 | stays: both decay |
| 6 | Intersection | 0.5 | 0.60 | | |
"""

# %%
sixth_bin = ("intersection", 0.5, 0.6)
check("04.1", sixth_bin)

# %% [markdown]
r"""
### Exercise 04.2

A change of scheme resets both. Where the scheme stays, the threshold falls, and $\alpha_I$ too, but only in Intersection, and never upwards.
"""


# %%
def decide(scheme, threshold, alpha, ratio, config):
    following = "union" if ratio < threshold else "intersection"
    if following != scheme:
        return following, config.threshold, config.alpha_intersection
    if scheme == "intersection":
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return scheme, max(threshold - config.threshold_decay, 0), alpha


check("04.2", decide)

# %% [markdown]
"""
### Exercise 04.3

Give each bin just what its threshold asks for: 5, 4, 3, 3, 2, 1, then once more 1 (the threshold is not quite 0 yet: 0.6 − 0.1 − … = 2.8e-17), then nothing for ever.
"""


# %%
def cheapest(bins, config):
    matches, threshold = [], config.threshold
    for _ in range(bins):
        needed = next(n for n in range(config.bin_size + 1) if n / config.bin_size >= threshold)
        matches += [True] * needed + [False] * (config.bin_size - needed)
        threshold = max(threshold - config.threshold_decay, 0)
    return matches


matches = cheapest(10, SSDConfig())
check("04.3", matches)

# %% [markdown]
"""
### Exercise 04.4

Try every number of matches that may be just enough, the smallest bin first. Where tokens do not match independently, matches come in runs: a bin then holds less evidence than its
length suggests, both errors are larger than computed here, and they have to be measured.
"""


# %%
def errors(b, enough):
    """False alarms on benign first bins, and missed attacks, if this many matches are just enough."""
    return binom.cdf(enough - 1, b, 0.85), binom.sf(enough - 1, b, 0.4)


found = [(b, n / b) for b in range(1, 40) for n in range(1, b + 1) if np.max(errors(b, n)) <= 0.05]
bin_size, threshold = found[0]
check("04.4", bin_size, threshold)
