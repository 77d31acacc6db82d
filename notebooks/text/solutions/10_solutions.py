# %% [markdown]
"""
# Solutions to chapter 10
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
