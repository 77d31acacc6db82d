# %% [markdown]
"""
# Solutions to chapter 07

[← 07 · Defenders](../07_defenders.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import math
from dataclasses import replace

import numpy as np
from checks import check

from ssd_lib.defenders import DEFENDERS
from ssd_lib.models.refusals import refuses

# %% [markdown]
"""
**1.** A threshold from harmless data needs no attack to be known, and what it costs is known beforehand: at most that share of such questions.
"""


# %%
def filter_from_harmless(harmless, attacked, share):
    threshold = min(value for value in harmless if np.mean(harmless > value) <= share)
    return threshold, np.mean(attacked > threshold)


check("07.1", filter_from_harmless)

# %% [markdown]
"""
**2.** Each score is a straight line in α. The target's favourite of V leads at α = 0; another token overtakes it where the lines cross, if
its line is steeper.
"""


# %%
def turning_alpha(target, expert, space):
    first = max(space, key=lambda token: target[token])
    crossings = []
    for token in space:
        gain = (expert[token] - target[token]) - (expert[first] - target[first])
        if gain > 0:
            crossings.append((target[first] - target[token]) / gain)
    return min(crossings, default=math.inf)


check("07.2", turning_alpha)

# %% [markdown]
"""
**3.** `len(refused) // 2` rounds down: of three copies a single refusal was "half".
"""


# %%
def mended_vote(answers, refused):
    refuse = 2 * sum(refused) >= len(refused)
    return next(text for text, no in zip(answers, refused, strict=True) if no == refuse)


check("07.3", mended_vote)

# %% [markdown]
"""
**4.** A gatekeeper: the draft reads the bare question, and if it refuses, so does the system. It costs a whole answer of the draft before
the first token can be shown, and it judges the *question* only: whoever hides the purpose of a question from the draft passes, and
nothing watches the answer. SSD asks the draft at every token.
"""


# %%
def my_defender(pair, request, settings=None):
    bare = replace(request, prefills=[[] for _ in request.prefills])
    opinions = DEFENDERS["draft-only"].run(pair, bare, None)
    replies = DEFENDERS["none"].run(pair, request, None)
    return [opinion if refuses(opinion.text) else reply for opinion, reply in zip(opinions, replies, strict=True)]


check("07.4", my_defender)
