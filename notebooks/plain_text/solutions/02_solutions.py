# %% [markdown]
"""
# Solutions to chapter 02

[← 02 · Speculative decoding](../02_speculative_decoding.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import torch
from checks import check

# %% [markdown]
"""
**1.** The first position is always reached, the second with probability β, the third with β².
"""

# %%
average = 1 + 0.8 + 0.8**2
check("02.1", average)

# %% [markdown]
"""
**2.** The sum in place of the formula needs no exception for β = 1.
"""


# %%
def best_lookahead(beta, d, v):
    def speed(lookahead):
        return sum(beta**t for t in range(lookahead)) / (lookahead * d + v[lookahead])

    best = max(v, key=speed)
    return best if speed(best) > 1 / v[1] else 0


check("02.2", best_lookahead)

# %% [markdown]
r"""
**3.** Corrections are drawn from $p$ in place of the residual. A token comes by acceptance with $\min(p, q)$, and as a correction with $(1 - A)\,p$: what
the draft likes too much keeps part of its surplus.
"""


# %%
def emitted_by_the_suspect(p, q):
    accepted = torch.minimum(p, q)
    return accepted + (1 - accepted.sum()) * p


check("02.3", emitted_by_the_suspect)

# %% [markdown]
"""
**4.** Double after a round without rejection, fall back after one. Chapter 10 does better: it estimates β and knows the costs.
"""


# %%
def next_lookahead(rounds):
    if not rounds:
        return 3
    last, accepted = rounds[-1]
    if accepted == last:
        return min(16, 2 * last)
    return max(2, accepted + 1)


check("02.4", next_lookahead)
