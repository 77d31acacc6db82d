# %% [markdown]
"""
# Solutions to chapter 13
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace
from math import comb

import numpy as np
import torch
from checks import check

from ssd_lib import load_pair

torch.set_num_threads(1)
pair = load_pair("toy")

# %% [markdown]
"""
**1.** The threshold falls once a bin. In floats the last step leaves a remainder or not, depending on where it starts; so count as the computer does. A threshold that has not moved never will.
"""


# %%
def tokens_until_it_passes(bin_size, threshold, decay, floor, matches):
    bins = 0
    while matches / bin_size < threshold:
        lower = max(threshold - decay, floor)
        if lower == threshold:
            return None
        threshold, bins = lower, bins + 1
    return bin_size * bins


check("13.1", tokens_until_it_passes)

# %% [markdown]
r"""
**2.** Of a question with $c$ leaks among $N$ tries, $\binom{N - c}{n}$ of the $\binom{N}{n}$ choices have none.
"""


# %%
def chance_of_n(leaks, n):
    tries = leaks.shape[1]
    chances = [1 - comb(tries - c, n) / comb(tries, n) for c in leaks.sum(axis=1).tolist()]
    return np.mean(chances)


check("13.2", chance_of_n)

# %% [markdown]
"""
**3.** The scheme was remembered, the running bin was not: who asks for fewer tokens than a bin never completes one.
"""


# %%
def mended_schemes(calls, bin_size, threshold):
    union, schemes, running = False, [], []
    for matches in calls:
        schemes.append(union)
        for match in matches:
            running.append(match)
            if len(running) == bin_size:
                union = sum(running) / bin_size < threshold
                running = []
    return schemes


check("13.3", mended_schemes)

# %% [markdown]
"""
**4.** Six tokens are less than a bin, so nothing is counted, and the service's first bin names what comes next. `retract` closes this ([chapter 15](../15_a_switch_that_does_not_leak.ipynb)).
"""


# %%
def my_prefill(begin):
    ids = pair.tokenizer(begin, add_special_tokens=False).input_ids
    return pair.tokenizer.decode(ids[:6])


check("13.4", my_prefill)

# %% [markdown]
"""
**5.** A floor above 1/7. So few answers cannot show that nothing is ever lost: if none of 16 changed, up to a fifth may still (the Wilson interval of 0 in 16 ends at 19%).
"""

# %%
my_config = replace(pair.config, threshold_floor=0.2)
check("13.5", my_config)
