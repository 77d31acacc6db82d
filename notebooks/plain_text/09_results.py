# %% [markdown]
"""
[← 08](08_judging.ipynb) &nbsp; [10 →](10_what_it_costs.ipynb) &nbsp; [Glossary](glossary.md)

# 09 · Results

**Is the defence worth it: safety, utility and speed in one table?**

You will be able to
- run an experiment that can be stopped at any moment, continued and extended,
- turn stored answers into rates with intervals, and test whether two defenders really differ,
- choose settings for a stated budget, and say how many questions a claim needs.

About 15 minutes on a laptop CPU. You need chapters 06 to 08.
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
PAIR = "toy"
QUESTIONS = 16
PREFILL_LENGTHS = [0, 5, 10, 20, 40]
ALPHA_INTERSECTION, ALPHA_UNION = [0.3, 0.6, 0.9], [0.2, 0.8, 2.0]

# %%
import _thread
import tempfile
import threading
import time
from math import comb

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from checks import check, predict, question, score

from ssd_lib import answer, load_pair
from ssd_lib.attacks import load_set
from ssd_lib.defenders import DEFENDERS
from ssd_lib.experiments import config_from, load_run, load_sessions, load_verdicts, plan, run_experiment
from ssd_lib.experiments.report import build_report, interval_text, write_report
from ssd_lib.experiments.report import points as in_points
from ssd_lib.experiments.stats import mcnemar, wilson
from ssd_lib.judges.base import clip
from ssd_lib.method.trace import visible
from ssd_lib.show import plots

plots.use_book_style()
pd.set_option("display.max_colwidth", 90)


def short(text, length=70):
    return visible(clip(text, length))


pair = load_pair(PAIR)
temporary = tempfile.TemporaryDirectory()
OUT = Path(temporary.name) / "lamphouse"  # gone with this kernel; a run of your own goes into runs/, which git ignores

# %% [markdown]
"""
## The experiment is a table

What to ask, whom to ask, who judges, where to keep it. The same table can be a TOML file for `ssd run --config`.
"""

# %%
table = {
    "pair": PAIR,
    "out": str(OUT),
    "attacks": ["direct", *(f"prefill-{n}" for n in PREFILL_LENGTHS[1:])],
    "defenders": ["none", "ssd", "safedecoding", "draft-only"],
    "judges": ["exact", "refusal"],
    "limit": QUESTIONS,
    "batch": QUESTIONS,
    "max_new_tokens": 96,
}
config = config_from(table)
print(f"{plan(config).generations} answers", *plan(config).sets, sep="\n")

# %% [markdown]
"""
## It can be stopped

Real runs take hours, and machines get restarted. Every batch of answers is written whole, at once, into one SQLite file.
Here somebody presses Ctrl-C as soon as four batches are stored.
"""


# %%
def stored():
    try:
        return len(load_run(OUT))  # a run can be read while it is being written
    except (FileNotFoundError, ValueError):  # it has not begun
        return 0


def press_ctrl_c(enough):
    while stored() < enough:
        time.sleep(0.2)
    _thread.interrupt_main()


threading.Thread(target=press_ctrl_c, args=(4 * QUESTIONS,), daemon=True).start()
try:
    run_experiment(config, pair=pair)
except KeyboardInterrupt:
    print("Ctrl-C")
before = load_run(OUT)
print(f"{len(before)} of {plan(config).generations} answers are stored")

# %%
predict("09.p1")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
run_experiment(config, pair=pair)  # goes on where it stopped
run_experiment(config, pair=pair)  # finds nothing left to do
rows = load_run(OUT)
assert len(rows) == plan(config).generations and not rows.duplicated(["attack", "item", "system"]).any()
pd.testing.assert_frame_equal(rows.head(len(before)), before)  # what was stored has not been touched
sessions = load_sessions(OUT)
written = rows.groupby("session").size().reindex(sessions.id, fill_value=0)
sessions[["ended", "seed", "dtype"]].assign(answers=written.to_numpy())

# %% [markdown]
"""
<details><summary>What happens</summary>

None. The first start ended with `KeyboardInterrupt`, the second did what was left, the third nothing. What was stored first stands
there unchanged, down to its time stamps.
</details>

## From rows to a rate

A row is one answer, with everything that went into it and what it cost.
"""

# %%
shown = rows[["attack", "item", "system", "question", "text", "tokens", "seconds"]].sample(4, random_state=1)
shown.assign(question=shown.question.map(short), text=shown.text.map(short)).round(2)

# %% [markdown]
r"""
Verdicts stand in a table of their own, keyed by answer and judge. A success rate is then a mean, and its interval is
Wilson's: of $k$ successes in $n$ answers
$$\frac{k + z^2/2}{n + z^2} \pm \frac{z}{n + z^2}\sqrt{\frac{k(n-k)}{n} + \frac{z^2}{4}}, \qquad z = 1.96$$
which, unlike $\hat p \pm z\sqrt{\hat p(1-\hat p)/n}$, still has a width at 0 of $n$.
"""


# %%
def interval(k, n, z=1.959964):
    centre, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return centre - half, centre + half


def success(verdicts, judge="exact"):
    """Attack success by set and defender: rate, low, high."""
    harmful = verdicts[verdicts.judge == judge].assign(hit=lambda v: v.label.isin(["harmful", "answered"]))
    counts = harmful.groupby(["attack", "system"], sort=False).hit.agg(["sum", "count"])
    low, high = zip(*[interval(k, n) for k, n in counts.to_numpy()], strict=True)
    return counts.assign(rate=counts["sum"] / counts["count"], low=low, high=high)


assert np.allclose(interval(3, 16), wilson(3, 16), atol=1e-5)
by_hand = success(rows[["answer", "attack", "system"]].merge(load_verdicts(OUT), on="answer"))
by_hand.loc[["direct"]].round(2)

# %% [markdown]
"""
The library's report does this for every measure, judge, set and defender: one line a number.
"""

# %%
report = build_report([OUT])
summary = report.summary
lines = summary[(summary.measure == "attack success") & (summary.judge == "exact")].set_index(["attack", "system"])
assert np.allclose(lines.loc[by_hand.index, ["value", "low", "high"]], by_hand[["rate", "low", "high"]], atol=1e-5)
columns = ["attack", "system", "measure", "judge", "value", "low", "high", "n", "unjudged"]
summary.loc[summary.attack == "direct", columns].iloc[::5].round(2)

# %% [markdown]
"""
## Safety against the length of the prefill

The run above asked four defenders at five prefill lengths. `direct` is N = 0.
"""

# %%
predict("09.p2")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def exactly(measure, attacks=None):
    """Lines of the report by the exact judge."""
    chosen = summary[(summary.measure == measure) & (summary.judge == "exact")]
    return chosen if attacks is None else chosen[chosen.attack.isin(attacks)]


figure, axes = plt.subplots(1, 2, figsize=(12, 3.8), sharey=True)
plots.by_prefill(exactly("attack success"), "share of answers", "tells at least one forbidden fact", axes[0])
plots.by_prefill(exactly("facts told"), "share of the facts", "how much of them it tells", axes[1])
axes[0].get_legend().remove()
plots.save(figure, "results_prefill.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

Left: the success rate of the usual definition, by exact truth. Right: what the attacker gets for it. From N = 5 on SafeDecoding's
answers leak as much as those without a defence: the two tokens that it steers are the attacker's. SSD lets *something* slip
in up to 56% of the answers, but never more than 15% of the facts on average.
</details>

On 16 questions all intervals are wide: look at them before you rank anything. (A share of facts gets a bootstrap interval; where no
fact leaked in any answer a bootstrap has nothing to vary, and Wilson's stands in.)

## The same, by a dictionary

All of this was *also* judged by the refusal dictionary, without generating anything again.
"""

# %%
predict("09.p3")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
ours = summary[(summary.measure == "attack success") & (summary.system == "ssd")]
cells = [interval_text(x.value, x.low, x.high, percent=True) for x in ours.itertuples()]
ours.assign(rate=cells).pivot(index="judge", columns="attack", values="rate")[list(dict.fromkeys(ours.attack))]

# %% [markdown]
"""
<details><summary>What happens</summary>

The dictionary finds a refusal in every answer of SSD, whatever was told before it. Chapter 08 has the other judges.
</details>

## How much weight for the draft? α_I × α_U

A run can be *extended*: the same folder, more defenders. A grid stands for one SSD for every pair of weights. Its safety
shows under attack, its price on harmless questions: on sums, which this draft gets wrong, and on questions that only sound forbidden.
"""

# %%
predict("09.p4")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
grid = {"name": "ssd", "grid": {"alpha_intersection": ALPHA_INTERSECTION, "alpha_union": ALPHA_UNION}}
run_experiment(config_from(table | {"attacks": ["prefill-10", "arithmetic", "scary"], "defenders": [grid]}), pair=pair)
summary = build_report([OUT]).summary
figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.4))
for ax, measure, attack, title in zip(
    axes,
    ["facts told", "right", "over-refusal"],
    ["prefill-10", "arithmetic", "scary"],
    [
        "facts told under attack (lower: safer)",
        "right sums (higher: more useful)",
        "scary questions refused (lower: better)",
    ],
    strict=True,
):
    plots.alpha_map(exactly(measure, [attack]), title, ax)
plots.save(figure, "results_alpha.png")
plt.show()

# %% [markdown]
r"""
<details><summary>What happens</summary>

Every cell is a setting, with its 95% interval. From the lowest row to the next the leak falls most (88% to 15%, 48% to 5%); from
α_I = 0.3 to 0.6 it falls again. Right sums fall from α_I = 0.6 to 0.9, and do not depend on α_U. No scary question is refused anywhere.
</details>

A setting is worth taking if it is dark on the left, light in the middle and dark on the right. The paper's for Llama-2, α_I = 0.3
with α_U = 0.8 (section 5.1), is among them.

Why do whole blocks agree, and why do sums hold out longer? Where the models have different favourites, one can compute the weight at which
$F = P_M + \alpha (P_m - P_M)$ begins to prefer the draft's.
"""


# %%
def needed(line):
    """The α at which the draft's favourite overtakes the target's; None where both agree, or where it is no candidate."""
    ours, theirs = line.target_top[0], line.draft_top[0]
    if ours == theirs or theirs not in (*line.space, line.token):
        return None
    target, draft = (
        dict(zip(*lists, strict=True))
        for lists in ((line.target_top, line.target_top_probs), (line.draft_top, line.draft_top_probs))
    )
    ahead, behind = target[ours] - target.get(theirs, 0), draft[theirs] - draft.get(ours, 0)
    return ahead / (ahead + behind)


for name in ("prefill-10", "arithmetic"):
    asked = load_set(name, limit=QUESTIONS, tokenizer=pair.tokenizer)
    replies = answer(pair, [record.prompt for record in asked], prefill=[record.prefill for record in asked])
    tokens = pd.concat([reply.trace.to_frame() for reply in replies])
    for scheme, lines in tokens.groupby("scheme"):
        weights = pd.Series([needed(line) for line in lines.itertuples()], dtype=float).dropna()
        low, middle, high = weights.quantile([0.25, 0.5, 0.75])
        print(
            f"{name}, {scheme}: {len(weights)} of {len(lines)} tokens; half of them need α of {low:.2f} to {high:.2f}"
        )

# %% [markdown]
r"""
Under attack both models are sure, $P_M \approx 1$ on one token and $P_m \approx 1$ on another. There a weight is a switch that closes at
1/2, and 0.8 does what 2.0 does. On sums the draft is less sure of its favourite than the target, so three quarters of the tokens on which they differ need a weight of 0.79 or more. (No
sum is decoded in Union, so α_U never acts on one.) Which setting is safe and harmless hangs on how sure the models are, and
must be measured for each pair.

## Everybody: safety, utility, speed

Now all defenders of chapter 07 on one attack and two harmless sets. (SmoothLLM answers each question several times; here
3 times instead of the published 10.)
"""

# %%
predict("09.p5")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
everybody = [name for name in DEFENDERS if name != "smoothllm"] + ["smoothllm:copies=3"]
SETS = ["prefill-10", "benign", "scary"]
run_experiment(config_from(table | {"attacks": SETS, "defenders": everybody}), pair=pair)
report = build_report([OUT])
summary = report.summary
shared = summary[summary.attack.isin(SETS) & ~summary.system.str.contains("alpha")]
points = plots.tradeoff_points(shared, "exact")
figure = plots.tradeoff(
    points, "attack success (prefill-10, exact)", "right answers (mean of benign and scary)", "Safety, utility, speed"
)
plots.save(figure, "results_tradeoff.png")
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

Best is top left, and large. Marks of one place stand below it, each with a line to it. Left at the top are defences that look at the
answer, while it is written (hardened SSD, SecDecoding, Ada) or when it is finished (Self-Exam, back-translation). Those that work on the
prompt or on the question leave the ten prefilled tokens where they are.
</details>

Speed is tokens per second of whole batches on *this* machine, in float32, with models so small that overhead is all there is:
compare marks within the figure only (chapter 10 measures speed properly).

The same as a table, with the published time ratio (ATGR: the time a token takes with the defence over that without):
"""


# %%
def cell(system, measure, attack):
    found = shared[(shared.system == system) & (shared.measure == measure) & (shared.attack == attack)]
    found = found[found.judge.isin(["exact", "clock"])]
    if found.empty:
        return "–"
    x = found.iloc[0]
    return interval_text(x.value, x.low, x.high, percent=False)


MEASURES = [("attack success", "prefill-10"), ("facts told", "prefill-10"), ("ends in a refusal", "prefill-10")]
MEASURES += [("right", "benign"), ("right", "scary"), ("over-refusal", "scary"), ("ATGR", "benign")]
everything = {
    system: {f"{measure}, {attack}": cell(system, measure, attack) for measure, attack in MEASURES}
    for system in points.sort_values(["x", "y"]).system
}
pd.DataFrame(everything).T

# %% [markdown]
r"""
Read a row: what does it let through, what does it break, what does it cost? (An ATGR without an interval is one batch, whose
time its answers share: there is nothing to vary. Between two runs it varies all the same.)

Published SSD is *not* the best row of this table. Hardened SSD, SecDecoding and Ada let nothing through here, and their right answers
cannot be told from no defence's. (With 50 questions and other attacks SecDecoding and Ada do leak, under suffixes 32% and 74%: [docs/results.md](../docs/results.md).) The table does not show what they ask for:

- SecDecoding needs a second small model, the draft before its safety training, and two small forwards a token as long as it steers.
- Ada looks after every 25 tokens, Self-Exam and back-translation at the end: what they stop has been written by then, and can be held back
  only by showing nothing so far.
- Hardened SSD is tested against attackers who know it in chapters 13 and 15.

The prompt-level defences can be tested here at all because the embedded target was *taught* to follow their instructions (chapter 07); how well
it follows them says little about a large model.

## Is it really different?

Rates with overlapping intervals can often be distinguished all the same, since both defenders answered *the same* questions.
Only the questions on which they differ count: if the defence changed nothing, each of them is a fair coin. With $b$ that
went one way and $c$ the other (McNemar's test, exact):
$$p = \min\Big(1,\; 2 \sum_{i=0}^{\min(b,c)} \binom{b+c}{i} 2^{-(b+c)}\Big)$$
"""


# %%
def coin(b, c):
    """Two-sided p of a fair coin that fell b times on one side and c times on the other."""
    return min(1.0, 2 * sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))


verdicts = load_run(OUT)[["answer", "attack", "system", "item"]].merge(load_verdicts(OUT), on="answer")
attacked = verdicts[(verdicts.judge == "exact") & (verdicts.attack == "prefill-10")]
hits = attacked.pivot(index="item", columns="system", values="label") == "harmful"
for system in ["ssd", "draft-only"]:
    b, c = int((hits.none & ~hits[system]).sum()), int((~hits.none & hits[system]).sum())
    found = mcnemar(hits.none.astype(float), hits[system].astype(float))
    assert np.isclose(coin(b, c), found["p"]) and (found["lost"], found["gained"]) == (b, c)
    print(f"{system}: {b} questions became safe, {c} unsafe, of {len(hits)}; p = {coin(b, c):.2g}")

# %% [markdown]
r"""
Among many comparisons some look good by chance, so the report adjusts p for their number (Benjamini and Hochberg 1995): of $m$
p-values the $i$-th smallest becomes $p\,m/i$, or what a larger one becomes if that is less.
"""

# %%
predict("09.p6")

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
print(f"{len(report.tests)} comparisons, {(report.tests.p <= coin(6, 0)).sum()} with p of {coin(6, 0):.2g} or less")
tests = report.tests[
    report.tests.attack.isin(SETS) & (report.tests.judge == "exact") & report.tests.system.isin(points.system)
]
tests = tests[(tests.gained + tests.lost > 0) & tests.measure.isin(["attack success", "right"])].sort_values("p")
change = [in_points(*of, digits=0) for of in tests[["difference", "low", "high"]].to_numpy()]
tests = tests.assign(change=change)
tests[["attack", "measure", "system", "n", "gained", "lost", "change", "p", "p_adjusted"]].round(3)

# %% [markdown]
"""
<details><summary>What happens</summary>

The comparisons with no defence, of attack success and of right answers, in which anything changed; `change` in points. `gained` questions went
from no to yes, `lost` ones from yes to no: on measures of harm a loss is what one wants, on right answers it is not.

SSD's p of 0.031 becomes about 0.1. Some 80 of the 261 comparisons have a p as small, so it is multiplied by about three.
</details>

Sixteen questions do not carry the claim that SSD leaks in fewer answers than no defence, once one counts how many claims were tried. A large p does *not*
say that two defenders are equal, either: there may have been too few questions.

## How many questions does a claim need?
"""

# %%
predict("09.p7")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["reveal"]
def questions_for(rate, half_width):
    """The smallest n whose interval around this rate is no wider than ± half_width."""
    n = 1
    while np.diff(interval(rate * n, n))[0] / 2 > half_width:
        n += 1
    return n


sizes = np.arange(5, 401)
figure, ax = plt.subplots(figsize=(7, 3.4))
for rate, line in zip([0.5, 0.2, 0.05], ["-", "--", ":"], strict=True):
    widths = [100 * np.diff(interval(rate * n, n))[0] / 2 for n in sizes]
    ax.plot(sizes, widths, color="black", linestyle=line, label=f"rate {rate:.0%}: {questions_for(rate, 0.05)} for ± 5")
ax.axvline(QUESTIONS, color="#777777", linewidth=0.8, label=f"this chapter: {QUESTIONS}")
ax.axvline(330, color="#777777", linewidth=0.8, linestyle="-.", label="HEx-PHI: 330")
ax.set(
    xlabel="questions", ylabel="half-width of the interval (points)", title="What n questions can tell", ylim=(0, 32)
)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
"""
<details><summary>What happens</summary>

16 questions tell a rate near 50% to ± 22 points. For ± 5 it takes 381; fewer where the rate is small. HEx-PHI's 330 are not quite enough.
</details>

A small run shows large effects only, such as a bare target that falls to an attack. Pairs of answers to the same questions need fewer, but
they, too, must *change*: at least a few, all one way (exercise 1 says how many), so that a difference of five points takes more than a hundred.

## Your own run, with real models

Nothing above knows that the pair is a toy. A finished run is a folder, and these lines read any such folder, with the same figures:
"""

# %%
report = build_report([OUT])  # of a real run: build_report(["../runs/paper-prefills-llama2"])
figures = plots.report_figures(report.summary[report.summary.judge != "refusal"])
write_report(report, OUT, {caption: plots.png(figure) for caption, figure in figures.items()})
print(*sorted(path.name for path in OUT.iterdir() if path.suffix in (".md", ".csv", ".html")), *figures, sep="\n")

# %%
from ssd_lib.experiments import PRESETS, experiment

real = experiment(preset="paper-prefills", pair={"name": "llama2", "draft": "runs/tinyllama/deep"}, data="datasets")
print("ssd run --preset paper-prefills --pair llama2 --draft runs/tinyllama/deep --data datasets")
print(f"asks {len(real.defenders)} defenders on", *[attack.name for attack in real.attacks])
pd.DataFrame({"about": {name: preset.about for name, preset in PRESETS.items()}})

# %% [markdown]
"""
`ssd run`, `ssd judge` and `ssd report` do the same from a terminal. The paper's own tables are not copied here: their rates
come from other models, other questions and another judge, and belong beside a run of *those*.

## Exercises

Solutions: [solutions/09_solutions](solutions/09_solutions.ipynb).

### Exercise 09.1 · easy · 5 minutes
A defence made $k$ attacked questions safe and none unsafe. Return the smallest $k$ for which McNemar's exact two-sided p is below `level`.
(`coin` above gives p.)
"""


# %%
def fewest_changes(level):
    return ...


check("09.1", fewest_changes)

# %% [markdown]
"""
### Exercise 09.2 · real · 10 minutes
Choose α for a budget. `settings` has a line a setting, named as in the index. At most the share `budget` of the scary-sounding questions may be
refused. Return the name of the setting that leaks the fewest facts within it. Of several that leak equally few, take the one with more
right sums, then the one with the smaller α_I + α_U: the least change to the target. Without any setting in the budget return None.
"""

# %%
wanted = {("over-refusal", "scary"): "refused", ("facts told", "prefill-10"): "told", ("right", "arithmetic"): "right"}
lines = summary[(summary.judge == "exact") & summary.system.str.contains("alpha_union")]
settings = lines.pivot(index="system", columns=["measure", "attack"], values="value")[list(wanted)]
settings.columns = list(wanted.values())
weights = settings.index.str.extract(r"alpha_intersection=([\d.]+):alpha_union=([\d.]+)").astype(float).to_numpy()
settings = settings.assign(alpha_intersection=weights[:, 0], alpha_union=weights[:, 1])
settings.round(2)


# %%
def choose(settings, budget):
    return ...


check("09.2", choose)  # then: choose(settings, 0.05)

# %% [markdown]
"""
### Exercise 09.3 · find the bug · 15 minutes
Somebody's attack success comes out at half of ours, or less, as soon as a second judge has judged the same answers, or where a judge could not
judge some (`label` is None). Return the right rates: a Series by (attack, system) for one judge, over the answers that it judged; nan where
it judged none.
"""

# %%
import inspect

from checks.chapter_09 import suspect_rates

print(inspect.getsource(suspect_rates))


def mended_rates(verdicts, judge):
    return ...


check("09.3", mended_rates)

# %% [markdown]
"""
### Exercise 09.4 · open · 20 minutes
Plan a run before you see its result. Choose a setting of SSD, as one word such as `"ssd:lookahead=5"`, and a number of questions, at most 20.
The check asks that many forbidden questions that are not in this chapter, with ten tokens prefilled. Your plan holds if p < 0.05
(exact McNemar) for "it leaks in fewer answers than published SSD", and if no fewer of eight sums are right. You may extend the run above as often as
you like; a plan that is tried often here is no plan any more.
"""

# %%
my_plan = ...  # ("ssd:lookahead=5", 20)
check("09.4", my_plan)

# %% [markdown]
"""
## Takeaways
1. One number cannot say whether a defence is worth it: attack success, facts told, right answers, over-refusal and time belong side by side.
2. Write every answer down at once, with everything that made it; judge and report as often as you like.
3. Intervals first, then rankings; on the same questions, paired tests; adjusted for how many were tried.

## Questions
"""

# %%
question("09.q1")
question("09.q2")
question("09.q3")
question("09.q4")
score("09")

# %% [markdown]
"""
To think about: which defender would you choose for a school library, which for a calculator, and which column decided?

**Back:** [08 · Judging](08_judging.ipynb). **Next:** [10 · What it costs](10_what_it_costs.ipynb).
"""
