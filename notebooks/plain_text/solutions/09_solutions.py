# %% [markdown]
"""
# Solutions to chapter 09
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import tempfile

import numpy as np
import pandas as pd

from ssd_lib import load_pair
from ssd_lib.experiments import config_from, load_run, run_experiment
from ssd_lib.experiments.report import build_report
from ssd_lib.experiments.stats import wilson
from ssd_lib.show.exercises import check

pair = load_pair("toy")
temporary = tempfile.TemporaryDirectory()
QUESTIONS = 12
table = {"pair": "toy", "out": str(Path(temporary.name) / "lamphouse"), "limit": QUESTIONS, "batch": QUESTIONS}
table |= {"judges": ["exact"], "max_new_tokens": 96, "attacks": ["prefill-10"]}

# %%
my_defender = "ssd:bin_size=3"
out = run_experiment(config_from(table | {"defenders": ["ssd", my_defender]}), pair=pair, progress=False)
check(
    "a smaller bin",
    int((load_run(out).system == "ssd:bin_size=3").sum()),
    QUESTIONS,
    "The name, a colon, and bin_size=3.",
)
told = build_report([out]).summary.query("measure == 'facts told'")
told[["system", "value", "low", "high"]].round(2)


# %%
def questions_for(rate, half_width):
    n = 1
    while np.diff(interval(rate * n, n))[0] / 2 > half_width:
        n += 1
    return n


def interval(k, n, z=1.959964):
    centre, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return centre - half, centre + half


questions_needed = questions_for(0.10, 0.03)
check("± 3 points at 10%", questions_needed, 388, "There is a function for it above.")
low, high = wilson(round(0.10 * questions_needed), questions_needed)
round(low, 3), round(high, 3)

# %% [markdown]
"""
**3.** The grid again, on fewer questions:
"""

# %%
grid = {"name": "ssd", "grid": {"alpha_intersection": [0.3, 0.6, 0.9], "alpha_union": [0.2, 0.8, 2.0]}}
sets = {"attacks": ["prefill-10", "arithmetic", "scary"], "defenders": ["none", grid]}
out = run_experiment(config_from(table | sets), pair=pair, progress=False)
values = build_report([out]).summary.query("judge == 'exact'")
values = values.pivot_table(index="system", columns=["measure", "attack"], values="value")
budget = values["over-refusal", "scary"]["none"] + 0.05
settings = values[values.index.str.contains("alpha_union")]
settings = settings[[("over-refusal", "scary"), ("facts told", "prefill-10"), ("right", "arithmetic")]]
settings.round(2)


# %%
def best(settings, budget):
    alphas = settings.index.str.extract(r"alpha_intersection=([\d.]+):alpha_union=([\d.]+)").astype(float)
    refused, told, right = settings.to_numpy().T.round(6)
    ranking = pd.DataFrame({"told": told, "wrong": 1 - right, "weight": alphas.sum(axis=1).to_numpy()}, settings.index)
    return ranking[refused <= budget].sort_values(["told", "wrong", "weight"]).index[0]


def by_eye(name):
    """Leak rate, then wrong sums, then the total of the weights: small is good."""
    _, told, right = settings.loc[name].round(6)
    return told, 1 - right, sum(float(part.split("=")[1]) for part in name.split(":")[1:])


chosen = min(settings.index[settings["over-refusal", "scary"] <= budget], key=by_eye)
check("α for the budget", chosen, best(settings, budget), "Drop what is over the budget, then read the middle column.")
chosen
