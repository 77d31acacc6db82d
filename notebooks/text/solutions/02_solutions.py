# %% [markdown]
"""
# Solutions to chapter 02

[← 02 · Speculative decoding](../02_speculative_decoding.ipynb)
"""

# %%
# Setup: the same in every chapter. In Colab it fetches the book; elsewhere it finds the repository around it.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

IN_COLAB = importlib.util.find_spec("google") is not None and importlib.util.find_spec("google.colab") is not None
ROOT = next((folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "ssd_lib").is_dir()), None)
if ROOT is None:
    ROOT = Path.cwd() / "ssd"
    repository = os.environ.get("SSD_REPOSITORY", "https://github.com/OWNER/ssd")
    subprocess.run(["git", "clone", "--depth", "1", repository, str(ROOT)], check=True)
    if IN_COLAB:  # torch is there already and must not be replaced
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "jaxtyping", "peft", "transformers>=5"], check=True
        )
sys.path.insert(0, str(ROOT))

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
**3.** At a low β guessing more never pays; at a cheap draft it pays long.
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
