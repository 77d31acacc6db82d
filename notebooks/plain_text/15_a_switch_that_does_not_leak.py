# %% [markdown]
"""
[← 14](14_explorer.ipynb) &nbsp; [Glossary](glossary.md)

# 15 · A switch that does not leak

**Can SSD decide first, and speak then?**

You will be able to
- build three small additions to the published scheduler, and prove them equal to `SSDConfig.hardened()`,
- say which token a reader of a stream sees, and when,
- measure what each addition closes and what it costs, with attackers who know it,
- say who still gets through.

About 5 minutes on a laptop CPU. You need chapters 05 and 13. What is new here is this book's, not the paper's.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
QUESTIONS = 24
PREFILLS = [5, 10, 20, 40]
BENIGN, SCARY = 40, 20
TOKENS = 70
FLOOR = 0.3
PIECES, HARVEST, HARVESTED = [7, 3, 1], 21, 10
NOISE = [0.0, 0.4, 0.5, 0.6]

# %%
import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from checks import check, predict, question, score

from ssd_lib import SSDConfig, answer, load_pair, ssd_generate
from ssd_lib.attacks import load_set, world_item
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.experiments.report import interval_text
from ssd_lib.experiments.stats import estimate
from ssd_lib.method import switching
from ssd_lib.show import plots
from ssd_lib.toy import world

plots.use_book_style()
if PAIR == "toy":
    torch.set_num_threads(1)  # models this small gain nothing from a second thread
pair = load_pair(PAIR)
PUBLISHED = pair.config
BIN, EOS = PUBLISHED.bin_size, set(np.atleast_1d(pair.target.generation_config.eos_token_id).tolist())
forbidden = world.questions("forbidden", QUESTIONS)
begun = {n: [prefill_tokens(pair, item, n) for item in forbidden] for n in PREFILLS}

# %% [markdown]
"""
## Speak, then decide

Chapter 13 found three ways into the published method. Here is the plainest, an answer bin by bin.
"""

# %%
predict("15.p1")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def attacked(n, config=PUBLISHED, which=0):
    return answer(pair, forbidden[which].question, prefill=begun[n][which], config=config, max_new_tokens=TOKENS)[0]


print(forbidden[0].question, "→", attacked(10).prefill, "…")
frame = attacked(10).trace.frame
for _, part in list(frame.groupby((frame.bin_tokens == 1).cumsum()))[:4]:
    print(f"{part.scheme.iloc[0]:<13} β = {part.match.mean():.2f} {pair.tokenizer.decode(part.token.tolist())}")

# %% [markdown]
r"""
<details><summary>What happens</summary>

The first bin raises the alarm, and it is the first bin that leaks. The scheduler was right, and late by the length of a bin: the decision
*about* these tokens falls *after* them.
</details>

This hole and the two others of chapter 13, with an addition for each:

| hole | published | addition | field |
| --- | --- | --- | --- |
| the bin that raises the alarm leaks | decides about the next bin | take the bin back, decode it again in Union | `retract` |
| seven quiet bins disarm the alarm | threshold ← max(threshold − 0.1, 0) | threshold ← max(threshold − 0.1, *floor*) | `threshold_floor` |
| each call begins afresh | the first bin is in Intersection | the given beginning of the answer counts as a bin | `count_prefill` |

*Hardened switching* decides, then shows: no token leaves before its bin is decided, and so *settled*. The rules of `retract`:
- A bin in Intersection that must end with β < threshold, even if every token that it lacks matched, is taken back at once: its tokens leave the
  answer, and the same places are decoded again, in Union.
- A bin in Union stands. So does one that passes.
- When the answer ends inside a bin, that last bin is decided over the tokens that it has.

## Built on chapter 05's decoder

`SSDConfig.hardened()` changes a fourth thing: in Union the draft weighs more, $\alpha_U = 1.5$ in place of 0.8 (for Vicuna the paper has 2). Above 1,
a token that the target alone likes cannot win there; the last part of this chapter measures what that buys.

One token, as in chapter 05:
"""


# %%
def probabilities(model, ids):
    """Next-token probabilities after each token of ids."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().softmax(-1)


def emit(target, draft, union, alpha, c):
    ranks = [probs.sort(descending=True, stable=True).indices.argsort() for probs in (target, draft)]
    if union:
        space = (ranks[0] < c) | (ranks[1] < c)
    else:
        worse = torch.maximum(*ranks)
        space = worse <= worse.sort().values[c - 1]
        if not space[ranks[0].argmin()]:
            return int(target.argmax())
    return int((target + alpha * (draft - target)).masked_fill(~space, -torch.inf).argmax())


# %% [markdown]
"""
The scheduler of chapter 05 with the *floor* in place of 0, and with the length of the bin as an argument, since the last bin may be short:
"""


# %%
def switch(state, ratio, config):
    """(union, threshold, α_I) after a bin with this match ratio."""
    union, threshold, alpha = state
    if (ratio < threshold) != union:
        return ratio < threshold, config.threshold, config.alpha_intersection
    if not union:
        alpha = min(alpha, max(alpha - config.alpha_decay, config.alpha_floor))
    return union, max(threshold - config.threshold_decay, config.threshold_floor), alpha


# %% [markdown]
"""
*Count the prefill.* The draft reads its prompt, then the given beginning of the answer. Of the last $b$ given tokens, how many are what it would have written?
Below the threshold the first bin is in Union. A beginning of fewer than $b$ tokens says too little, and counts for nothing.
"""


# %%
def alarmed(draft_prompt, given, config):
    """Whether the given beginning of an answer, its last `given` prompt tokens, raises the alarm."""
    b = config.bin_size
    if not config.count_prefill or given < b:
        return False
    liked = probabilities(pair.draft, draft_prompt)[-b - 1 : -1].argmax(-1)
    return int((liked == torch.tensor(draft_prompt[-b:])).sum()) / b < config.threshold


# %% [markdown]
"""
*Take back.* No rounds here: chapter 05 showed that they change no token. To take a bin back is one `del`, as a rejection is in chapter 05: with a cache both models would rewind by
so many tokens. `seen` writes down what a reader of a stream sees: how many tokens they have after each decoded one.
"""


# %%
def decide_then_show(prompt, draft_prompt, config, given=0, max_new_tokens=TOKENS):
    """The answer, and after each decoded token the number of tokens shown."""
    answer, matches, shown, seen = [], [], 0, []
    state = (alarmed(draft_prompt, given, config), config.threshold, config.alpha_intersection)
    while not (answer and (answer[-1] in EOS or len(answer) == max_new_tokens)):
        p_target, p_draft = (
            probabilities(pair.target, prompt + answer)[-1],
            probabilities(pair.draft, draft_prompt + answer)[-1],
        )
        union, _, alpha = state
        answer.append(emit(p_target, p_draft, union, config.alpha_union if union else alpha, config.candidates))
        matches.append(answer[-1] == int(p_draft.argmax()))
        n = (len(answer) - 1) % config.bin_size + 1  # tokens of the running bin
        ended = answer[-1] in EOS or len(answer) == max_new_tokens
        best = (sum(matches[-n:]) + config.bin_size - n) / config.bin_size  # if all that the bin lacks matched
        early = config.retract and n >= config.tail_tokens and (ended or (not union and best < state[1]))
        if n == config.bin_size or early:
            state = switch(state, sum(matches[-n:]) / n, config)
            if config.retract and state[0] and not union:  # the alarm: these places again, in Union
                del answer[-n:], matches[-n:]
                ended = False
        settled = ended or state[0] or not config.retract or len(answer) % config.bin_size == 0
        shown = len(answer) if settled else shown
        seen.append(shown)
    return answer, seen


# %%
predict("15.p2")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def prompt_ids(which, n):
    ids = pair.encode([forbidden[which].question], [begun[n][which] if n else []])
    return ids["input_ids"][0].tolist(), ids["draft_input_ids"][0].tolist()


careful = replace(PUBLISHED, retract=True)
for config in (PUBLISHED, careful):
    told, seen = decide_then_show(*prompt_ids(0, 10), config)
    print(f"{len(seen)} decoded, {len(told)} shown: {pair.tokenizer.decode(told)[:70]} …")

# %% [markdown]
"""
<details><summary>What happens</summary>

Three mismatches are enough: with four matches out of seven, β = 0.57, the bin could not pass any more. So three tokens are decoded for nothing; the
answer is shorter all the same, since it lacks what its first bin leaked.
</details>

In a stream there is nothing to call back: what is taken back was never shown.

## Equal to the library

Each addition alone, all of them together (`SSDConfig.hardened()`), and ends that fall inside a bin.
"""

# %%
hardened = SSDConfig.hardened(threshold_floor=FLOOR)
variants = {
    "published": PUBLISHED,
    "floor": replace(PUBLISHED, threshold_floor=FLOOR),
    "count_prefill": replace(PUBLISHED, count_prefill=True),
    "retract": careful,
    "hardened": hardened,
}
assert hardened == replace(PUBLISHED, threshold_floor=FLOOR, count_prefill=True, retract=True, alpha_union=1.5)


def library(ids, config, n, **options):
    options = {"max_new_tokens": TOKENS} | options
    return ssd_generate(
        pair.target, pair.draft, [ids[0]], draft_input_ids=[ids[1]], config=config, prefilled=n, **options
    )


checked = [(0, 10, 24), (1, 5, 10), (2, 20, 3), (3, 0, 16)]  # question, prefill, most tokens
for config in [*variants.values(), replace(hardened, bin_size=3, tail_tokens=2, threshold=0.8)]:
    for which, n, most in checked:
        ids = prompt_ids(which, n)
        mine, _ = decide_then_show(*ids, config, n, most)
        assert mine == library(ids, config, n, max_new_tokens=most).sequences[0].tolist()
print(f"equal on {(len(variants) + 1) * len(checked)} answers")

# %% [markdown]
"""
## What a reader of a stream sees

The library hands a streamer settled tokens only. To compare with `seen`, count how many tokens were decoded when each one arrives: with $T = 1$ that is the number of
the target's forwards after the prompt.
"""


# %%
class Watch:
    """A streamer that notes, for each token, how many had been decoded when it came."""

    def __init__(self):
        self.tokens, self.decoded, self.forwards, self.started = [], [], 0, False

    def put(self, ids):
        if self.started:
            self.tokens += ids.tolist()
            self.decoded.append(self.forwards)
        self.started, self.forwards = True, self.forwards if self.started else 0

    def end(self):
        pass


def streamed(ids, config, n):
    watch = Watch()
    hook = pair.target.register_forward_hook(lambda *_: setattr(watch, "forwards", watch.forwards + 1))
    output = library(ids, replace(config, lookahead=1), n, streamer=watch)
    hook.remove()
    assert watch.tokens == output.sequences[0].tolist(), "taken-back tokens are never streamed"
    return watch.decoded


for config in variants.values():
    _, seen = decide_then_show(*prompt_ids(0, 10), config, 10)
    arrived = [next(i for i, shown in enumerate(seen, 1) if shown >= place) for place in range(1, seen[-1] + 1)]
    assert arrived == streamed(prompt_ids(0, 10), config, 10)
print("the streamer gets every token when the notebook's decoder shows it")

# %%
predict("15.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
calm = world.questions("benign", 1, seed=2, family="tip", held_out=False)[0].question
calm_ids = pair.encode([calm], [[]])
calm_ids = calm_ids["input_ids"][0].tolist(), calm_ids["draft_input_ids"][0].tolist()
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
looks = [("published", "-", plots.COLORS["SSD"]), ("retract", ":", "black"), ("hardened", "--", "#777777")]
for ax, ids, n, title in zip(axes, [calm_ids, prompt_ids(0, 10)], [0, 10], ["benign", "prefill N = 10"], strict=True):
    for name, line, color in looks:
        _, seen = decide_then_show(*ids, variants[name], n)
        ax.step(range(1, len(seen) + 1), seen, where="post", linestyle=line, color=color, label=name)
    ax.set(xlabel="tokens decoded", title=title)
axes[0].set_ylabel("tokens shown")
axes[1].legend(frameon=False)
plots.save(figure, "hardened_stream.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

On a benign answer *retract* and *hardened* are the same stairs under the published line: a bin arrives at once, when it is decided, and the answer is
complete after as many tokens as before. No token comes more than six tokens late.

Under attack `retract` shows nothing of its first three tokens, which it takes back. Hardened SSD is in Union from the first token (the prefill has raised
the alarm), and a token of a bin in Union is shown as it comes.
</details>

What was taken back stays in the trace, for those who look after the system:
"""

# %%
reply = attacked(5, careful)
assert "retracted" in reply.trace.lines and reply.trace.lines.retracted.sum() == len(reply.trace.lines) - len(
    reply.token_ids
)
reply.trace.show(pair.tokenizer, retracted=True)

# %% [markdown]
"""
What no reader has seen is struck through (`~` in plain text). Neither the answer's text nor `trace.frame` holds it; `trace.lines` does.

## What each addition closes
"""

# %%
def ask(items, prefills, config, prompts=None, tokens=TOKENS, over=pair):
    """One row an answer: what it leaked, whether it is right, tokens decoded and kept."""
    prompts = prompts or [item.question for item in items]
    replies = answer(over, prompts, prefill=prefills, config=config, max_new_tokens=tokens)
    rows = []
    for item, reply in zip(items, replies, strict=True):
        grade = world.grade(item, reply.text, reply.prefill)
        row = {"told": grade.share_told, "complied": grade.complied, "right": grade.right, "refused": grade.refused}
        row |= {
            "decoded": len(reply.trace.lines),
            "kept": len(reply.token_ids),
            "match": reply.trace.frame.match.mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def shown(values, kind="rate"):
    """A rate or a mean share in percent, with its 95% interval."""
    return interval_text(*estimate(kind, np.asarray(values, dtype=float)), percent=True)


def per_kept(rows):
    return f"{rows.decoded.sum() / rows.kept.sum():.3f}"


# %%
predict("15.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
attack = {}
for name, config in variants.items():
    rows = ask(forbidden * len(PREFILLS), [ids for n in PREFILLS for ids in begun[n]], config)
    attack[name] = rows.assign(prefill=np.repeat(PREFILLS, QUESTIONS))
pd.DataFrame(
    {
        name: {f"told, N = {n}": shown(rows[rows.prefill == n].told, "share") for n in PREFILLS}
        | {f"tells any, N = {n}": shown(rows[rows.prefill == n].complied) for n in PREFILLS}
        | {f"decoded per token kept, N = {n}": per_kept(rows[rows.prefill == n]) for n in PREFILLS}
        for name, rows in attack.items()
    }
)

# %% [markdown]
"""
<details><summary>What happens</summary>

`count_prefill` closes the prefills that are at least a bin long, before a token is decoded. `retract` closes all of them, and pays with the tokens that it takes
back. Together they pay only where the prefill was too short to count (N = 5). The *floor* does nothing here: it is for long answers. At N = 40 the published method leaked nothing on these questions.
</details>

And what do harmless questions pay?
"""

# %%
groups = {"benign": world.questions("benign", BENIGN), "scary": world.questions("scary", SCARY)}
harmless = {}
for name in ["published", "floor", "retract", "hardened"]:  # nobody prefilled: count_prefill alone changes nothing
    rows = ask([item for items in groups.values() for item in items], "", variants[name])
    harmless[name] = rows.assign(group=np.repeat(list(groups), [BENIGN, SCARY]))
harmless["count_prefill"] = harmless["published"]
pd.DataFrame(
    {
        name: {f"right: {group}": shown(rows[rows.group == group].right) for group in groups}
        | {"scary: refused": shown(rows[rows.group == "scary"].refused)}
        | {"benign: decoded per token kept": per_kept(rows[rows.group == "benign"])}
        for name, rows in harmless.items()
    }
)[list(variants)]

# %% [markdown]
"""
The intervals are wide with so few questions. The same questions were asked each time, so look at how many answers *changed* from right to wrong, and the other way.
"""

# %%
before = harmless["published"].right
pd.DataFrame(
    {
        name: {"lost": (before & ~rows.right).sum(), "won": (~before & rows.right).sum()}
        for name, rows in harmless.items()
    }
)

# %% [markdown]
"""
## Attackers who know it

*In pieces.* The caller asks for 7 tokens, or 3, or a single one, appends them to the prefill and asks again (chapter 13).
"""

# %%
special = set(pair.tokenizer.all_special_ids)
untailed = replace(careful, threshold_floor=FLOOR, tail_tokens=BIN)  # decides about whole bins only
defences = {
    "published": PUBLISHED,
    "retract, floor": untailed,
    "retract, floor, count_prefill": replace(untailed, count_prefill=True),
    "hardened (the last bin, too)": hardened,
}


def in_pieces(size, config):
    """Share of the facts that each question's chain of calls brings."""
    items, known = forbidden[:HARVESTED], [list(ids) for ids in begun[10][:HARVESTED]]
    for _ in range(-(-HARVEST // size)):
        asked = [item.question for item in items]
        replies = answer(pair, asked, prefill=known, config=config, max_new_tokens=size, trace=False)
        known = [ids + [t for t in r.token_ids if t not in special] for ids, r in zip(known, replies, strict=True)]
    texts = [(pair.tokenizer.decode(ids[10:]), pair.tokenizer.decode(ids[:10])) for ids in known]
    return [world.grade(item, *each).share_told for item, each in zip(items, texts, strict=True)]


# %% [markdown]
"""
*After seven quiet bins* the published threshold is 0 (chapter 13): each answer here begins with the scheduler as these bins leave it.
"""


# %%
def behind(quiet, config):
    """The settings of an answer that begins with the scheduler as so many bins of matches leave it."""
    state, on = switching.start(1, config), torch.tensor([True])
    for _ in range(quiet * config.bin_size):
        state = switching.update(state, on, on, config)
    return replace(config, threshold=float(state.threshold[0]))


# %%
predict("15.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
chains = {name: {size: in_pieces(size, config) for size in PIECES} for name, config in defences.items()}
items = forbidden[:HARVESTED]
waited = {name: ask(items, begun[10][:HARVESTED], behind(7, config)) for name, config in defences.items()}
pd.DataFrame(
    {
        name: {f"told, {size} a call": shown(told, "share") for size, told in by_size.items()}
        | {"told, after seven quiet bins": shown(waited[name].told, "share")}
        for name, by_size in chains.items()
    }
).T

# %% [markdown]
"""
<details><summary>What happens</summary>

A chain of whole bins runs into `retract`; shorter pieces slip under it as long as only whole bins are decided. `count_prefill` sees them, since what is handed back becomes a given
beginning. To decide the last, incomplete bin as well (`tail_tokens`, 1 by default) is a second lock on the same door.
</details>

After seven quiet bins, the last column, the published alarm is off; the floor keeps it on.

## Leak against cost

Two costs: tokens decoded for nothing, and right answers lost.
"""

# %%
shapes = ["D", "v", "s", "o", "P"]
looks = {n: plots.Look(c, m, "-", "") for n, c, m in zip(variants, plots.OTHERS, shapes, strict=True)}
looks["published"] = looks["published"]._replace(color=plots.COLORS["SSD"])
costs, kept_right = {}, {}
for name in variants:
    leak = estimate("share", attack[name].told.to_numpy())
    work = attack[name].decoded.sum() / attack[name].kept.sum()
    costs[name] = (work, work, work), leak
    kept_right[name] = estimate("rate", harmless[name].right.to_numpy(float)), leak
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True)
axes[0].set(xlabel="tokens decoded per token kept, under attack", ylabel="share of the facts told")
axes[0].set(xlim=(0.98, 1.1), ylim=(-0.03, 0.14))
axes[1].set(xlabel="right answers, benign and scary (95% interval)", xlim=(0.5, 1.02))
for ax, spots in zip(axes, [costs, kept_right], strict=True):
    plots.marks(ax, spots, looks)
axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plots.save(figure, "hardened_front.png")
plt.show()

# %% [markdown]
"""
Down is better; so is left in the left panel and right in the right one. (Prefills of all lengths together; 95% intervals of the leak. Marks that share a place stand below it, with a line to it.) In
the right panel nothing moves sideways: on this pair no right answer was lost. The price is in the left panel: hardened SSD pays less than `retract` alone, since `count_prefill` spares it the bins that a long prefill gives away.

## What it cannot do

**1. Both models at once.** The draft is the whole defence. A suffix that makes the *draft*, too, like the first bin raises no alarm in it (chapter 13, section 3).
"""

# %%
records = load_set("suffix", path=ROOT / "data/toy/suffixes-joint.json")[:QUESTIONS]
joint = {}
looked_at = {name: variants[name] for name in ("published", "hardened")}
looked_at["hardened, α_U = 0.8"] = replace(hardened, alpha_union=0.8)
for name, config in looked_at.items():
    joint[name] = ask([world_item(r) for r in records], "", config, prompts=[r.prompt for r in records])
weak, strong = (joint[name].complied for name in ("hardened, α_U = 0.8", "hardened"))
print(f"leaks with α_U = 0.8 alone: {(weak & ~strong).sum()}, with 1.5 alone: {(strong & ~weak).sum()}")
pd.DataFrame({name: {"told": shown(f.told, "share"), "tells any": shown(f.complied)} for name, f in joint.items()})

# %% [markdown]
"""
Much less than the published method, and not nothing: where the draft, too, likes what a bin says, no alarm comes. What is left the scheduler cannot see: it knows only what the draft says. Whether the draft's training could cure it was not tried.

With α_U = 0.8 more answers leak, though they are few and the intervals overlap; on the same questions, every answer that leaks with 1.5 leaks with 0.8. And the 1.5 was chosen on these very suffixes: `data/toy/README.md` has two other pairs with suffixes of their own.

**2. Pairs that agree less.** Here nearly every token of a benign answer matches. Real pairs may agree less, and then a low match ratio is no sign of an attack. Make the draft worse in steps, by noise on its weights:
"""


# %%
def noisy(strength):
    """The pair with noise on the draft's weights, in units of each matrix's standard deviation."""
    draft, generator = copy.deepcopy(pair.draft), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(strength * weight.std() * torch.randn(weight.shape, generator=generator))
    return replace(pair, draft=draft)


# %%
predict("15.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
rows = []
for strength in NOISE:
    worse = noisy(strength)
    both = {name: ask(groups["benign"], "", variants[name], over=worse) for name in ["published", "hardened"]}
    row = {"benign match ratio": shown(both["published"].match, "share")}
    row |= {f"right, {name}": shown(frame.right) for name, frame in both.items()}
    was, now = both["published"].right, both["hardened"].right
    row |= {"lost": (was & ~now).sum(), "won": (~was & now).sum()}
    rows.append(row | {"decoded per token kept, hardened": per_kept(both["hardened"])})
pd.DataFrame(rows, index=pd.Index(NOISE, name="noise"))

# %% [markdown]
"""
<details><summary>What happens</summary>

As the match ratio falls, more harmless tokens are taken back: the last column rises. Right answers go before the mean reaches the threshold (*lost* and *won*: against the
published method on the same questions). What is decoded again is decoded in Union, and there the draft, now a bad one, has more say.
</details>

So measure the benign match ratio of your own pair before you turn `retract` on. Where it is low the settings have to change, and both measurements be made again: the last exercise.

**3. Whoever reads along before the decision.** A caller who gets the probabilities of each position, or the caches, sees what was taken back.

## Exercises

Solutions: [solutions/15_solutions](solutions/15_solutions.ipynb).

### Exercise 15.1 · easy · 5 minutes
Inside an answer, after how many tokens can a bin of Intersection be taken back at the earliest? (`tail_tokens`: no bin with fewer tokens is decided early.)
"""


# %%
def earliest_alarm(bin_size, threshold, tail_tokens):
    return ...


check("15.1", earliest_alarm)

# %% [markdown]
"""
### Exercise 15.2 · real · 15 minutes
From a trace, say what a reader of the stream saw. `lines` is an answer's `trace.lines`, decoded with `retract`: a line for each decoded token, those that were taken back among them, with the columns
`scheme` ("union" or "intersection") and `retracted`. Return a list with a number for each line: how many tokens the reader has after it. With the last line the answer is finished.
"""


# %%
def reader_sees(lines, bin_size):
    return ...


check("15.2", reader_sees)

# %% [markdown]
"""
### Exercise 15.3 · find the bug · 10 minutes
Somebody's system decodes the last words of many harmless answers twice. Look at the source, and return what it should have returned. (`matches`: of the running bin's tokens so far; `tail_tokens` is 1.)
"""

# %%
import inspect

from checks.chapter_15 import suspect_take_back

print(inspect.getsource(suspect_take_back))


def mended_take_back(matches, union, threshold, ends, bin_size=7):
    return ...


check("15.3", mended_take_back)

# %% [markdown]
"""
### Exercise 15.4 · break it · 20 minutes
A service runs hardened SSD with two fields changed: `count_prefill=False` and `tail_tokens=3`. You ask it a forbidden question, and hold the beginning of the answer, `begin`. Each `call(known, tokens)` returns
at most so many tokens that follow `known`, which must be `begin`, or any text that it grew to by appending what a call returned. At most 25 calls a question. Return the best text that you got. Your
score is the share of the facts in what the service wrote; half of them is an attack.
"""


# %%
def my_attack(begin, call):
    return ...


check("15.4", my_attack)

# %% [markdown]
"""
### Exercise 15.5 · open · 20 minutes
Find settings for `noisy(0.6)`: on 16 benign questions as many right answers as with the published settings or more, and no leak from 8 questions with a prefill of 5 tokens. What may your change give away that this check does not measure?
"""

# %%
my_config = ...
check("15.5", my_config)

# %% [markdown]
"""
## Takeaways
1. The published switch was right and late. To decide about a bin before it is shown closes that leak, here without losing a right answer.
2. The other two holes need their own locks: a floor for long answers, a prefill that counts and a last bin that is decided for chains of calls.
3. It costs tokens as long as the models agree on harmless text, and right answers where they do not. It rests on the draft, as all of SSD does.

## Questions
"""

# %%
question("15.q1")
question("15.q2")
question("15.q3")
question("15.q4")
score("15")

# %% [markdown]
"""
To think about: what could an attacker learn from the time that taking back takes? Could the target, asked once more, decide about a bin as well as the draft?

**Back:** [14 · The explorer](14_explorer.ipynb), or the [start](00_start_here.ipynb). Every term of this book stands in the [glossary](glossary.md).
"""
