# %% [markdown]
"""
# Solutions to chapter 11
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import torch
from checks import check

from ssd_lib.experiments.stats import wilson

# %% [markdown]
"""
**1.** Of 1 … m, all equally likely, m − n lie above n, where m is the smaller of C and the answer's length. The direct share lies at 0.
"""


# %%
def deeper_than(n, direct, C, length):
    deepest = min(C, length)
    return (1 - direct) * max(0, deepest - n) / deepest


check("11.1", deeper_than)

# %% [markdown]
"""
**2.** Average inside each example first, then over the examples. Token i is predicted at place i − 1.
"""


# %%
def loss_of(model, example):
    ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
    logprobs = model(ids[None]).logits[0].float().log_softmax(-1)
    places = (labels != -100).nonzero().flatten()
    return -logprobs[places - 1, labels[places]].mean()


def loss_by_example(model, examples):
    return torch.stack([loss_of(model, example) for example in examples]).mean()


check("11.2", loss_by_example)

# %% [markdown]
"""
**3.** It threw the answers of all lengths together: four good lengths out of five are a good average. Every length must pass by itself.
"""


# %%
def mended_verdict(recovered, refused, least, most):
    lows = [wilson(sum(answers), len(answers))[0] for answers in recovered.values()]
    high = wilson(sum(refused), len(refused))[1]
    return min(lows) >= least and high <= most


check("11.3", mended_verdict)

# %% [markdown]
"""
**4.** For every `n` take the smallest `least` that the bad draft reaches in at most 5% of the tests, and see whether the good one reaches it in
90%. The first `n` that does is the cheapest plan.
"""

# %%
from scipy.stats import binom


def works(n, least):
    return binom.sf(least - 1, n, 0.95) >= 0.9 and binom.sf(least - 1, n, 0.8) <= 0.05


plans = [(n, least) for n in range(1, 121) for least in range(n + 1) if works(n, least)]

# %%
plan = plans[0]
print(plan)
check("11.4", plan)
