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
import numpy as np
import torch

from ssd_lib.show.exercises import check

p = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04])


def speed_up(beta, lookahead, price):
    return sum(beta**t for t in range(lookahead)) / (1 + price * lookahead)


# %% [markdown]
"""
**1.** The first position is always reached, the second with probability β, the third with β².
"""

# %%
average = 1 + 0.8 + 0.8**2
check(
    "tokens per round",
    average,
    (1 - 0.8**3) / 0.2,
    "1 + β + β²: the first position is always reached, the third only if two proposals were accepted.",
)

# %% [markdown]
"""
**2.** The same without torch.
"""

# %%
acceptance = sum(min(a, b) for a, b in zip(p.tolist(), p.flip(0).tolist(), strict=True))
check(
    "acceptance of the reversed draft",
    acceptance,
    torch.minimum(p, p.flip(0)).sum(),
    "torch.minimum compares two tensors position by position; sum what it gives.",
)

# %% [markdown]
"""
**3.** At a low β guessing further never pays; with a cheap draft it pays longer.
"""


# %%
def best_lookahead(beta, price, longest=16):
    return max(range(1, longest + 1), key=lambda lookahead: speed_up(beta, lookahead, price))


for beta_, price_ in [(0.9, 0.1), (0.3, 0.1), (0.6, 0.02)]:
    check(
        f"best lookahead at β = {beta_}, ρ = {price_}",
        best_lookahead(beta_, price_),
        1 + int(np.argmax([speed_up(beta_, t, price_) for t in range(1, 17)])),
        "Call speed_up for each T from 1 to `longest` and return the T (not the speed-up) where it is largest.",
    )
