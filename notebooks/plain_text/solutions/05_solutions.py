# %% [markdown]
"""
# Solutions to chapter 05

[← 05 · SSD from scratch](../05_ssd_from_scratch.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace
from itertools import zip_longest

import torch

from ssd_lib import answer, load_pair, ssd_generate
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

torch.set_num_threads(1)
pair = load_pair("toy")
pair = pair.with_config(replace(pair.config, lookahead=3))
attacked = world.questions("forbidden", 12)
EOS = {pair.tokenizer.eos_token_id}


def prompt_ids(item, prefill):
    ids = pair.encode([item.question], [prefill_tokens(pair, item, prefill)])
    return ids["input_ids"][0].tolist(), ids["draft_input_ids"][0].tolist()


def library(prompt, draft_prompt, config, **options):
    ids, draft_ids = torch.tensor([prompt]), torch.tensor([draft_prompt])
    return ssd_generate(pair.target, pair.draft, ids, draft_input_ids=draft_ids, config=config, **options)


# %% [markdown]
"""
**1.** The decoder, from what the chapters have built. `propose` is chapter 02's; `top_k`, `smallest_k` and `emit` are chapter 03's, with
plain sets; `decide` is the solution of chapter 04's third exercise.
"""


# %%
def probs_after(model, ids, last):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -last:].float().softmax(-1)


def propose(draft, ids, lookahead):
    proposals = []
    for _ in range(lookahead):
        proposals.append(int(probs_after(draft, ids + proposals, 1)[0].argmax()))
    return proposals


def top_k(probs, k):
    return probs.sort(descending=True, stable=True).indices[:k].tolist()


def smallest_k(target, draft, c):
    places = [{token: place for place, token in enumerate(top_k(probs, len(probs)), 1)} for probs in (target, draft)]
    return sorted(max(places[0][token], places[1][token]) for token in places[0])[c - 1]


def emit(target, draft, scheme, alpha, c):
    score = target + alpha * (draft - target)
    if scheme == "union":
        space = set(top_k(target, c)) | set(top_k(draft, c))
    else:
        k = smallest_k(target, draft, c)
        favourite = top_k(target, 1)[0]
        if favourite not in top_k(draft, k):
            return favourite
        space = set(top_k(target, k)) & set(top_k(draft, k))
    return min(space, key=lambda token: (-float(score[token]), token))


def decide(scheme, threshold, alpha, ratio, config):
    following = "union" if ratio < threshold else "intersection"
    if following != scheme:
        return following, config.threshold, config.alpha_intersection
    if scheme == "intersection":
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return scheme, max(threshold - config.threshold_decay, 0), alpha


def my_ssd(target, draft, prompt, draft_prompt, config, max_new_tokens, eos):
    answer, matches = [], []
    scheme, threshold, alpha = "intersection", config.threshold, config.alpha_intersection
    while True:
        proposals = propose(draft, draft_prompt + answer, config.lookahead)
        read = answer + proposals[:-1]
        target_probs = probs_after(target, prompt + read, config.lookahead)
        draft_probs = probs_after(draft, draft_prompt + read, config.lookahead)
        for t, proposed in enumerate(proposals):
            weight = config.alpha_union if scheme == "union" else alpha
            token = emit(target_probs[t], draft_probs[t], scheme, weight, config.candidates)
            answer.append(token)
            matches.append(token == proposed)
            if len(answer) % config.bin_size == 0:
                ratio = sum(matches[-config.bin_size :]) / config.bin_size
                scheme, threshold, alpha = decide(scheme, threshold, alpha, ratio, config)
            if token in eos or len(answer) == max_new_tokens:
                return answer
            if token != proposed:
                break


# %%
cases = [(item, 10) for item in attacked[:2]] + [(item, 0) for item in world.questions("forbidden", 2)]
wary = replace(pair.config, bin_size=4, lookahead=6, threshold=0.8, alpha_intersection=0.75)


def first_difference(decoder):
    for number, (case, config) in enumerate((case, c) for case in cases for c in (pair.config, wary)):
        mine = decoder(pair.target, pair.draft, *prompt_ids(*case), config, 60, EOS)
        wanted = library(*prompt_ids(*case), config, max_new_tokens=60).sequences[0].tolist()
        for position, (a, b) in enumerate(zip_longest(mine, wanted)):
            if a != b:
                return f"answer {number}: token {position} is {a}, not {b}"
    return "equal"


check("your decoder", first_difference(my_ssd), "equal", "Compare with the contract, rule by rule.")

# %% [markdown]
"""
**2.** Count the ends of rounds.
"""


# %%
def rounds_needed(matches, lookahead):
    rounds, in_round = 0, 0
    for match in matches:
        in_round += 1
        if not match or in_round == lookahead:
            rounds, in_round = rounds + 1, 0
    return rounds + (in_round > 0)


for lookahead in (1, 3, 6):
    config = replace(pair.config, lookahead=lookahead)
    output = library(*prompt_ids(attacked[0], 10), config, max_new_tokens=120, trace=True)
    check(
        f"rounds at T = {lookahead}",
        rounds_needed(output.trace.to_frame().match.tolist(), lookahead),
        output.stats.rounds,
        "A round ends behind a mismatch, behind T tokens, or with the answer: walk over `matches` and count the ends.",
    )

# %% [markdown]
"""
**3.** Starting in Union leaves no lag: the draft's refusal can enter with the first token.
"""


# %%
def complied(config):
    prefills = [prefill_tokens(pair, item, 10) for item in attacked]
    replies = answer(pair, [item.question for item in attacked], prefill=prefills, config=config)
    return sum(world.grade(item, r.text, r.prefill).complied for item, r in zip(attacked, replies, strict=True))


def complied_one_by_one(config):
    outs = [library(*prompt_ids(item, 10), config, max_new_tokens=160).sequences[0] for item in attacked]
    told = [pair.tokenizer.decode(prefill_tokens(pair, item, 10)) for item in attacked]
    texts = [pair.tokenizer.decode(out, skip_special_tokens=True) for out in outs]
    return sum(world.grade(*each).complied for each in zip(attacked, texts, told, strict=True))


started_in_union = complied(replace(pair.config, start_scheme="union"))
check(
    "starting in Union",
    started_in_union,
    complied_one_by_one(replace(pair.config, start_scheme="union")),
    "Call `complied` with replace(pair.config, start_scheme='union'); compare with complied(pair.config).",
)
assert started_in_union <= complied(pair.config)
