# %% [markdown]
"""
# Solutions to chapter 01

[← 01 · Shallow alignment](../01_shallow_alignment.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import numpy as np
import torch

from ssd_lib import load_model, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

pair = load_pair("toy")
base, _ = load_model("target-base")


def log_probs(model, item):
    prompt = pair.encode([item.question])["input_ids"][0].tolist()
    told = prefill_tokens(pair, item, 45)
    with torch.no_grad():
        return model(torch.tensor([prompt + told])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


pairs = [(log_probs(pair.target, item), log_probs(base, item)) for item in world.questions("forbidden", 30)]
kl_target = np.stack([(p.exp() * (p - q)).sum(-1).numpy() for p, q in pairs])

# %% [markdown]
"""
**1.** First over the questions, then over the positions; the order does not matter.
"""

# %%
by_position = kl_target.sum(axis=0)
share_of_first_five = by_position[:5].sum() / by_position.sum()
check(
    "share of the divergence in the first five positions",
    share_of_first_five,
    kl_target[:, :5].sum() / kl_target.sum(),
    "kl_target is [questions, positions]: divide the sum over the columns 0 to 4 by the sum over all. A number below 1.",
)

# %% [markdown]
"""
**2.** The expectation of a mixture is the mixture of the expectations.
"""

# %%
expected_depth = 0.5 * 0 + 0.5 * sum(range(1, 101)) / 100
check("expected depth", expected_depth, 0.5 * 50.5, "The mean of 1 … 100 is 50.5 (not 50); half of the draws are 0.")

# %% [markdown]
"""
**3.** `harmful[:k]` of a shorter list is the whole list. (That is why the library draws $k$ only up to the answer's length.)
"""

# %%
from ssd_lib.models.presto import IGNORED
from ssd_lib.models.training import supervised_example


def without_loss(question_length, harmful_length, k):
    return question_length + min(k, harmful_length)


for lengths in [(12, 45, 0), (12, 45, 6), (12, 4, 6)]:
    built = supervised_example([0] * lengths[0], ([1] * lengths[1])[: lengths[2]], [2] * 5)
    check(
        f"positions without loss {lengths}",
        without_loss(*lengths),
        built["labels"].count(IGNORED),
        "The question's tokens and the given part of the harmful answer, which is at most as long as that answer.",
    )
