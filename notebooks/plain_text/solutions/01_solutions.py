# %% [markdown]
"""
# Solutions to chapter 01

[← 01 · Shallow alignment](../01_shallow_alignment.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import numpy as np
from checks import check

# %% [markdown]
"""
**1.** Sums over both axes; NaN is left out.
"""


# %%
def share_of_first(kl, n):
    return np.nansum(kl[:, :n]) / np.nansum(kl)


check("01.1", share_of_first)

# %% [markdown]
"""
**2.** The expectation of a mixture is the mixture of the expectations; the direct examples add nothing.
"""


# %%
def mean_depth(direct_share, max_depth, harmful_length):
    deepest = min(max_depth, harmful_length)
    return (1 - direct_share) * (1 + deepest) / 2


check("01.2", mean_depth)

# %% [markdown]
"""
**3.** The labels held the harmful tokens: the model was rewarded for writing them. `harmful[:k]` of a shorter list is the whole list, so
what is masked has to be counted from what was given.
"""

# %%
IGNORED = -100


def mended_example(question, harmful, refusal, k):
    given = question + harmful[:k]
    return {"input_ids": given + refusal, "labels": [IGNORED] * len(given) + refusal}


wrong_labels = [3, 4]
check("01.3", mended_example, wrong_labels)

# %% [markdown]
"""
**4.** A promise is enough. The words need not be those of the answer: any beginning that is not a refusal skips what alignment has changed.
"""

# %%
my_words = "Here is how:"
check("01.4", my_words)
