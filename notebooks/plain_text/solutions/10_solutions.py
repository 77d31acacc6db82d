# %% [markdown]
"""
# Solutions to chapter 10
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import math

from checks import check

# %% [markdown]
"""
**1.** Sums first, then one division: a long round has more positions to lose than a short one.
"""


# %%
def in_vain(schedule):
    positions = sum(scored for scored, _, _ in schedule)
    tokens = sum(emitted for _, _, emitted in schedule)
    return 1 - tokens / positions


check("10.1", in_vain)

# %% [markdown]
r"""
**2.** The sum $1 + m + \dots + m^{T-1}$ grows with $m$ from 1 to $T$, so halving finds where it is as large as the cost; where the cost is
above $T$, nothing helps.
"""


# %%
def break_even(lookahead, steps, draft_cost):
    passes = 1 + steps * draft_cost
    if passes > lookahead:
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(middle**i for i in range(lookahead)) < passes:
            low = middle
        else:
            high = middle
    return high


check("10.2", break_even)
print(f"T = 3: {break_even(3, 2, 0.15):.2f} with two draft steps, {break_even(3, 3, 0.15):.2f} with three")

# %% [markdown]
"""
**3.** It compares seconds, not speeds. A refusal is short, so whatever refuses seems fast, even at the same tokens a second.
"""


# %%
def mended_speedup(ours, theirs):
    def speed(runs):
        return sum(tokens for tokens, _ in runs[1:]) / sum(seconds for _, seconds in runs[1:])

    return speed(ours) / speed(theirs)


check("10.3", mended_speedup)

# %% [markdown]
"""
**4.** The last guess tells which time it is: after one that was accepted, up to seven; after a miss, two. Not a word about how sure the
draft is: under attack it is surest where it is wrong.
"""


# %%
def another_guess(confidences, held):
    return len(confidences) < (7 if held[-1:] == [True] else 2)


check("10.4", another_guess)
