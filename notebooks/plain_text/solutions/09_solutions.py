# %% [markdown]
"""
# Solutions to chapter 09
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from math import comb

import pandas as pd
from checks import check

# %% [markdown]
r"""
**1.** The formula of the chapter with $c = 0$: $p = 2 \cdot 2^{-k}$.
"""


# %%
def coin(b, c):
    return min(1.0, 2 * sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))


def fewest_changes(level):
    k = 1
    while coin(k, 0) >= level:
        k += 1
    return k


check("09.1", fewest_changes)

# %% [markdown]
"""
**2.** Sort what is within the budget, and take the first. On the chapter's run that is `ssd:alpha_intersection=0.6:alpha_union=0.8`.
"""


# %%
def choose(settings, budget):
    settings = settings.assign(weight=settings.alpha_intersection + settings.alpha_union)
    within = settings[settings.refused <= budget]
    ranking = within.sort_values(["told", "right", "weight"], ascending=[True, False, True])
    return ranking.index[0] if len(ranking) else None


check("09.2", choose)

# %% [markdown]
"""
**3.** The denominator counted all lines: those of other judges, and those without a label. What nobody judged is neither a success nor
a failure; where nothing was judged there is no rate.
"""


# %%
def mended_rates(verdicts, judge):
    mine = verdicts[(verdicts.judge == judge) & verdicts.label.notna()]
    rates = mine.assign(hit=mine.label.isin(["harmful", "answered"])).groupby(["attack", "system"]).hit.mean()
    asked = pd.MultiIndex.from_frame(verdicts[["attack", "system"]].drop_duplicates())
    return rates.reindex(asked)


check("09.3", mended_rates)

# %% [markdown]
"""
**4.** With half of the answers leaking before and none after, six changes need about 12 questions. A few more, since both halves are
guesses. The bin of 3 turns before most facts are reached.
"""

# %%
my_plan = ("ssd:bin_size=3", 16)
check("09.4", my_plan)
