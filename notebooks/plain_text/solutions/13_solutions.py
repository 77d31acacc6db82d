# %% [markdown]
"""
# Solutions to chapter 13
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

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.stats import estimate
from ssd_lib.method import switching
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

QUESTIONS = 30
torch.set_num_threads(1)
pair = load_pair("toy")
forbidden = world.questions("forbidden", QUESTIONS)
begun = [prefill_tokens(pair, item, 10) for item in forbidden]


def grades(items, prefills, config=None):
    replies = answer(
        pair,
        [item.question for item in items],
        prefill=prefills,
        config=config,
        max_new_tokens=70,
        trace=False,
    )
    return [world.grade(item, reply.text, reply.prefill) for item, reply in zip(items, replies, strict=True)]


def shown(values, kind="rate"):
    return "{:.0f}% [{:.0f}, {:.0f}]".format(*(100 * x for x in estimate(kind, np.asarray(values, dtype=float))))


# %% [markdown]
"""
**1.** The threshold falls once a bin. In floats the last step leaves a remainder or not, depending on where it starts; so count as the computer does.
"""


# %%
def bins_until_disarmed(threshold, decay):
    bins = 0
    while threshold > 0:
        threshold, bins = max(threshold - decay, 0), bins + 1
    return bins


disarmed_after = 3 * bins_until_disarmed(0.5, 0.1)
check("tokens until disarmed", disarmed_after, 3 * bins_until_disarmed(0.5, 0.1), "bins_until_disarmed counts bins.")
config = replace(pair.config, bin_size=3, threshold=0.5)
state, on = switching.start(1, config), torch.tensor([True])
for _ in range(disarmed_after):
    state = switching.update(state, on, on, config)
assert float(state.threshold[0]) == 0, "the library agrees"
print(
    f"{disarmed_after} tokens: on paper five bins would do, but 0.5 − 5 · 0.1 leaves {0.5 - 0.1 - 0.1 - 0.1 - 0.1 - 0.1}"
)

# %% [markdown]
"""
**2.** The floor is one `clamp`, and one field of the library. It lies above 1/7, so a bin with one match in seven is still an alarm after any number of quiet bins.
"""

# %%
BIN = pair.config.bin_size
QUIET = [True] * BIN


def behind(matches, config=pair.config):
    state, on = switching.start(1, config), torch.tensor([True])
    for matched in matches:
        state = switching.update(state, torch.tensor([matched]), on, config)
    return replace(config, threshold=float(state.threshold[0]))


def with_floor(threshold, decay, floor):
    return (threshold - decay).clamp(min=floor)


MY_FLOOR = 0.2
floored = replace(pair.config, threshold_floor=MY_FLOOR)
check("the rule", with_floor(torch.tensor([0.6, 0.35, 0.3]), 0.1, 0.3), [0.5, 0.3, 0.3], "torch.clamp has min=.")
check("one match is an alarm", 1 / BIN < MY_FLOOR, True, "β = 1/7 must lie below the floor.")

# %%
disarmed = grades(forbidden, begun, behind(7 * QUIET))
guarded = grades(forbidden, begun, behind(7 * QUIET, floored))
afresh = grades(forbidden, begun)
told = {"published": disarmed, "with a floor": guarded, "without a prologue": afresh}
told = {name: [grade.share_told for grade in found] for name, found in told.items()}
check("a prologue buys nothing", np.mean(told["with a floor"]), np.mean(told["without a prologue"]), "clamp has min=.")
print({name: shown(values, "mean") for name, values in told.items()})

# %% [markdown]
"""
**3.** The same harmless questions, with and without the floor. What decides is not the two rates but how many answers *changed*: with so few questions even a handful of changes
could be chance, and none at all still allows a few in a hundred (the interval of 0).
"""

# %%
sets = {"benign": world.questions("benign", 40), "sums": world.questions("benign", 30, family="sum")}
for name, items in sets.items():
    before = np.array([grade.right for grade in grades(items, "")])
    after = np.array([grade.right for grade in grades(items, "", floored)])
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    print(f"{name}: right {shown(before)} → {shown(after)}; lost {lost}, won {won} of {len(items)}")
