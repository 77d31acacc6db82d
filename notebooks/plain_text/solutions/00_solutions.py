# %% [markdown]
"""
# Solutions to chapter 00

[← 00 · Start here](../00_start_here.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace

from checks import check

from ssd_lib import load_pair

pair = load_pair("toy")

# %% [markdown]
"""
**1.** The first bin is the first `bin_size` lines; `head` takes fewer where there are fewer.
"""


# %%
def first_bin_matches(trace, bin_size):
    return int(trace.match.head(bin_size).sum())


check("00.1", first_bin_matches)

# %% [markdown]
"""
**2.** The turn is the first token of Union. The first bin must be full before anything can be decided, so it comes at the bin's end at the earliest.
"""


# %%
def shown_before_the_turn(trace):
    positions = trace.position[trace.scheme == "union"]
    turn = positions.min() if len(positions) else len(trace)
    shown = trace[trace.position < turn]
    return "".join(shown.text)


check("00.2", shown_before_the_turn)

# %% [markdown]
"""
**3.** Seven tokens pass before SSD can turn. So stop right before a fact: it is said in them.
"""


# %%
def my_prefill(item):
    return item.answer[: item.answer.index(item.facts[0])].rstrip()


check("00.3", my_prefill)

# %% [markdown]
"""
**4.** The bin's length is what passes before the first decision. Three tokens are enough for this pair, whose models agree on benign
answers nearly always; models that agree less would raise false alarms in bins that small (chapter 04).
"""

# %%
my_config = replace(pair.config, bin_size=3)
check("00.4", my_config)
