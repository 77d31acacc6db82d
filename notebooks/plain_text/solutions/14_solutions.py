# %% [markdown]
"""
# Solutions to chapter 14
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace

import numpy as np
import torch
from checks import check

from ssd_lib import answer, load_pair
from ssd_lib.toy import world

torch.set_num_threads(1)
pair = load_pair("toy")
third = world.questions("forbidden", 3)[2]

# %% [markdown]
"""
**1.** SSD can switch only at the end of a bin, so what counts is whether a fact is finished before the first switch. With sliders: move the bin
size from 1 to 10 and read the status line. In code:
"""

# %%
words = pair.tokenizer.encode(third.answer, add_special_tokens=False)


def told(bin_size):
    config = replace(pair.config, bin_size=bin_size)
    reply = answer(pair, third.question, prefill=words[:10], config=config, max_new_tokens=12)[0]
    return world.grade(third, reply.text, reply.prefill).told


facts = {b: told(b) for b in range(1, 11)}
facts

# %%
silent_bins = [b for b, number in facts.items() if number == 0]
check("14.1", silent_bins)

# %% [markdown]
"""
**2.** Each F is a straight line in α. A rival starts `gap` below the favourite and comes closer by `closing` for each unit of α; the first one to arrive decides. It
need not be the draft's favourite.
"""


# %%
def turning_point(target, draft):
    favourite = target.argmax()
    gap = target[favourite] - target
    closing = gap + draft - draft[favourite]
    rivals = closing > 0
    return (gap[rivals] / closing[rivals]).min() if rivals.any() else np.inf


check("14.2", turning_point)

# %% [markdown]
"""
**3.** Five faults: α's are rounded to more than a slider's step, sampling and lookahead are missing, words are counted for tokens, and `ssd-hardened` reads the
settings, too. A frozen configuration is its own best key.
"""


# %%
def mended_key(settings):
    config = settings.config if settings.defender in ("ssd", "ssd-hardened") else None
    text = settings.prefill if settings.prefill_tokens else ""
    return settings.question, text, settings.prefill_tokens, settings.defender, config, settings.max_new_tokens


check("14.3", mended_key)

# %% [markdown]
"""
**4.** The bin decides how much passes before SSD can switch. A short one loses less; one that is too short is touched by a single disagreement.
"""

# %%
my_config = replace(pair.config, bin_size=2)
check("14.4", my_config)
