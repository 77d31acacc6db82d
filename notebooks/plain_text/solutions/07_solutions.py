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
from dataclasses import replace

import numpy as np
import torch

from ssd_lib import answer, load_model, load_pair
from ssd_lib.attacks import load_set
from ssd_lib.defenders import DEFENDERS, Defender
from ssd_lib.defenders.safedecoding import SafeDecodingSettings
from ssd_lib.defenders.safedecoding import steer as library_steer
from ssd_lib.models.chat import encode_prompt
from ssd_lib.models.refusals import refuses
from ssd_lib.show.exercises import check

QUESTIONS, MAX_TOKENS = 16, 80
torch.set_num_threads(1)
pair = load_pair("toy")
expert, _ = load_model(pair.spec.expert)


# %%
def next_probabilities(model, prompt_ids):
    with torch.no_grad():
        return model(torch.tensor([prompt_ids])).logits[0, -1].float().softmax(-1)


def steer(target, expert, alpha=3.0, common=5):
    order = [p.sort(descending=True, stable=True).indices.tolist() for p in (target, expert)]
    k = common
    while len(set(order[0][:k]) & set(order[1][:k])) < common:
        k += 1
    space, score = set(order[0][:k]) & set(order[1][:k]), target + alpha * (expert - target)
    return min(space, key=lambda token: (-float(score[token]), token)), space, score


candidates = [r for name in ["nested-fiction", "suffix"] for r in load_set(name, limit=QUESTIONS)]
encoded = [encode_prompt(pair.tokenizer, r.prompt, chat_format=pair.spec.target_format) for r in candidates]
opinions = [[next_probabilities(model, ids) for model in (pair.target, expert)] for ids in encoded]
torn = next((i for i, (p, q) in enumerate(opinions) if p.argmax() != q.argmax()), 0)
target_probs, expert_probs = opinions[torn]

# %%
grid = [round(0.05 * i, 2) for i in range(61)]
favourite = int(target_probs.argmax())
smallest_alpha = next((a for a in grid if steer(target_probs, expert_probs, alpha=a)[0] != favourite), None)
flips = [
    alpha
    for alpha in grid
    if int(library_steer(target_probs[None], expert_probs[None], SafeDecodingSettings(alpha=alpha))[0])
    != int(target_probs.argmax())
]
check(
    "smallest α",
    smallest_alpha,
    min(flips, default=None),
    "steer(target_probs, expert_probs, alpha=…) for every α of the grid.",
)
print("α =", smallest_alpha)

# %% [markdown]
"""
It is chapter 03's crossing, rounded up to the grid. The published α = 3 goes far beyond it.
"""


# %%
def measured(records):
    return np.array(
        [a.notes["perplexity"] for a in answer(pair, [r.prompt for r in records], defender="ppl", max_new_tokens=1)]
    )


scores = {"benign": measured(load_set("benign", limit=100)), "suffix": measured(load_set("suffix"))}
my_threshold = np.quantile(scores["benign"], 0.95)
caught = (scores["suffix"] > my_threshold).mean()
fitted = np.quantile(scores["benign"], 0.95)
check("threshold", my_threshold, fitted, "np.quantile(scores['benign'], …)")
check(
    "suffix questions refused",
    caught,
    (scores["suffix"] > fitted).mean(),
    "The mean of scores['suffix'] > my_threshold.",
)
print(f"threshold {my_threshold:.1f}; {caught:.0%} of {len(scores['suffix'])} suffix questions refused")

# %% [markdown]
"""
A threshold from harmless data needs no attack to be known, and one can say beforehand what it costs: 5% of such questions.
"""

# %%
records = {
    "attacked": [("prefill-10", r) for r in load_set("prefill-10", limit=QUESTIONS, tokenizer=pair.tokenizer)],
    "harmless": [(name, r) for name in ["benign", "scary"] for r in load_set(name, limit=QUESTIONS)],
}


def ask(defender, part):
    asked = [r for _, r in records[part]]
    options = dict(prefill=[r.prefill for r in asked], max_new_tokens=MAX_TOKENS)
    return answer(pair, [r.prompt for r in asked], defender=defender, trace=False, **options)


replies = {(name, "harmless"): ask(name, "harmless") for name in ["none", "draft-only"]}


# %%
def gatekeeper(pair, request, settings=None):
    bare = replace(request, prefills=[[] for _ in request.prefills])
    opinions = DEFENDERS["draft-only"].run(pair, bare, None)
    answers = DEFENDERS["none"].run(pair, request, None)
    return [opinion if refuses(opinion.text) else answered for opinion, answered in zip(opinions, answers, strict=True)]


def behaviour(defender):
    """(prefilled questions refused, harmless questions answered as the target or refused as the draft does)"""
    DEFENDERS["mine"] = Defender(defender, "mine", "?", lambda pair: None)
    try:
        got = {part: ask("mine", part) for part in records}
    finally:
        del DEFENDERS["mine"]
    if any(answers is ... for answers in got.values()):
        return ...
    prefilled = [a for (name, _), a in zip(records["attacked"], got["attacked"], strict=True) if name == "prefill-10"]
    both = zip(got["harmless"], replies["none", "harmless"], replies["draft-only", "harmless"], strict=True)
    same = sum(mine.text == (draft if refuses(draft.text) else target).text for mine, target, draft in both)
    return sum(refuses(a.text) for a in prefilled), same


expected = (QUESTIONS, len(records["harmless"]))
hint = "DEFENDERS['draft-only'].run(pair, replace(request, prefills=…), None), then pick row by row."
check("gatekeeper", behaviour(gatekeeper), expected, hint)

# %% [markdown]
"""
It costs a whole answer of the draft before the first token can be shown. (The costs in these answers are of one pass each; a real one
would add them up.) It judges the *question* only: whoever hides the purpose of a question from the draft, by a story or a suffix
that also fools it, passes, and nothing watches the answer. SSD asks the draft at every token.
"""
