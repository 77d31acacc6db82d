# %% [markdown]
"""
# Solutions to chapter 15
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

from ssd_lib import SSDConfig, load_pair

torch.set_num_threads(1)
pair = load_pair("toy")
hardened = SSDConfig.hardened(threshold_floor=0.3)

# %% [markdown]
"""
**1.** The alarm is certain when even matches only, in all places that are left, would not reach the threshold.
"""


# %%
def earliest_alarm(bin_size, threshold, tail_tokens):
    certain = next(n for n in range(1, bin_size + 1) if (bin_size - n) / bin_size < threshold)
    return max(certain, tail_tokens)


check("15.1", earliest_alarm)

# %% [markdown]
"""
**2.** In Union every token stands, and at the end all do; in Intersection only whole bins are settled. A line that was taken back adds nothing: the
number of kept tokens is then a whole number of bins, all of them shown already.
"""


# %%
def reader_sees(lines, bin_size):
    kept, shown, seen = 0, 0, []
    for place, line in enumerate(lines.itertuples()):
        kept += not line.retracted
        ended = place == len(lines) - 1
        if line.scheme == "union" or kept % bin_size == 0 or ended:
            shown = kept
        seen.append(shown)
    return seen


check("15.2", reader_sees)

# %% [markdown]
"""
**3.** The last bin has fewer tokens, and was still divided by seven: an answer that ended after three matches had β = 3/7, an alarm. In whole bins, and where
the alarm is certain early, both ways of counting say the same.
"""


# %%
def mended_take_back(matches, union, threshold, ends, bin_size=7):
    n, good = len(matches), sum(matches)
    best = (good + bin_size - n) / bin_size
    decided = ends or n == bin_size or best < threshold
    if not union and decided and good / n < threshold:
        return n
    return 0


check("15.3", mended_take_back)

# %% [markdown]
"""
**4.** A piece of one or two tokens is never decided, and without `count_prefill` the next call does not look at what it is handed. Either lock alone stops this attack: `tail_tokens=1`
decides about each piece, and `count_prefill` starts in Union after this prefill.
"""


# %%
def my_attack(begin, call):
    known = begin
    for _ in range(21):
        known += call(known, 1)
    return known


check("15.4", my_attack)

# %% [markdown]
"""
**5.** A lower threshold: a harmless bin needs three matches of seven in place of five, and in a forbidden one hardly anything matches. A larger bin (10) does it, too. What a lower
threshold lets pass under other attacks, such as the suffixes, is not measured by this.
"""

# %%
my_config = replace(hardened, threshold=0.4)
check("15.5", my_config)
