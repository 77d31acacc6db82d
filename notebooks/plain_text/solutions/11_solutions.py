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
import numpy as np
import torch

from ssd_lib.experiments.stats import wilson
from ssd_lib.models.chat import encode_answer, encode_prompt
from ssd_lib.models.loading import load_model
from ssd_lib.models.training import supervised_example
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

torch.set_num_threads(1)

# %% [markdown]
"""
**1.** Of $1 … C$, all equally likely, $C − n$ lie above $n$; the direct share lies at 0.
"""


# %%
def deeper_than(n, direct, C):
    return (1 - direct) * max(0, C - n) / C


got = [deeper_than(n, 0.5, 100) for n in (0, 20, 100)]
check("deeper than n", got, [0.5, 0.4, 0.0], "Of 1 … C, C − n lie above n.")

# %% [markdown]
"""
**2.** With $n$ of $n$ the lower end is $n / (n + z^2)$, $z = 1.96$; it exceeds 95% from $19 z^2 ≈ 73$ questions on.
"""

# %%
fewest = next(n for n in range(1, 1000) if wilson(n, n)[0] > 0.95)
enough = wilson(fewest, fewest)[0] > 0.95 >= wilson(fewest - 1, fewest - 1)[0]
check("questions needed", enough, True, "Try wilson(n, n)[0] for growing n.")
print(fewest)

# %% [markdown]
"""
**3.** Average inside each example first. Half of the batch are short refusals, half benign answers.
"""

# %%
start, tokenizer = load_model("draft-shallow", device="cpu", dtype=torch.float32)
batch = []
for item in world.questions("forbidden", 4, held_out=False) + world.questions("benign", 4, held_out=False):
    learned = encode_answer(tokenizer, item.refusal or item.answer) + [tokenizer.eos_token_id]
    batch.append(supervised_example(encode_prompt(tokenizer, item.question, chat_format="toy"), [], learned))


def recovery_loss(model, examples):
    """Mean negative log-likelihood of all learned tokens of some examples, as built in the chapter."""
    losses = []
    for example in examples:
        ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
        logprobs = model(ids[None]).logits[0].float().log_softmax(-1)
        places = (labels != -100).nonzero().flatten()
        losses.append(-logprobs[places - 1, labels[places]])
    return torch.cat(losses).mean()


def loss_by_example(model, examples):
    return torch.stack([recovery_loss(model, [example]) for example in examples]).mean()


with torch.no_grad():
    got = loss_by_example(start, batch)
    each = [start(torch.tensor([e["input_ids"]]), labels=torch.tensor([e["labels"]])).loss.item() for e in batch]
    print(f"by example {got:.4f}, by token {recovery_loss(start, batch):.4f}")
check("every example the same", float(got), float(np.mean(each)), "Average recovery_loss(model, [example]).")
