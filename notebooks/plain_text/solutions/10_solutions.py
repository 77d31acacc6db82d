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
from ssd_lib.show.exercises import check

# %%
tokens = 1 + 0.8 + 0.8 * 0.8
check("tokens a round", tokens, 1 + 0.8 + 0.64, "One for certain, one more with 0.8, one more with 0.8 · 0.8.")


# %%
def speedup(match_ratio, lookahead, draft_cost=0.15):
    tokens = (1 - match_ratio**lookahead) / (1 - match_ratio)
    return tokens / (lookahead * draft_cost + 1)


expected = [(1 - m**T) / (1 - m) / (T * 0.15 + 1) for m, T in [(0.3, 3), (0.6, 3), (0.9, 6)]]
got = [speedup(m, T) for m, T in [(0.3, 3), (0.6, 3), (0.9, 6)]]
check("speedup", ... if ... in got else got, expected, "Tokens a round over T · draft_cost + 1 target passes.")

# %%
low, high = 0.01, 0.99
for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if speedup(middle, 3) < 1 else (low, middle)
assert abs(speedup(high, 3) - 1) < 1e-6
round(high, 3)

# %% [markdown]
"""
**3.** At 1 + m + m² = 1.45, that is m = 0.337.
"""
