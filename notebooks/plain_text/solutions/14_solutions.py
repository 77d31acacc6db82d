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
import torch

from ssd_lib import load_pair
from ssd_lib.show.exercises import check
from ssd_lib.show.explorer import explore
from ssd_lib.toy import world

torch.set_num_threads(1)
pair = load_pair("toy")
third = world.questions("forbidden", 3)[2]
explorer = explore(pair, third)


def tells(n, defender="none", **controls):
    """Facts leaked on the third question after n prefilled tokens."""
    asked = {"question": third.question, "prefill": third.answer, "prefill_tokens": n}
    explorer.set(config=pair.config, defender=defender, **asked | controls)
    return explorer.grade.told


# %% [markdown]
"""
**1.** Move the slider up from 0 until the status line counts a fact. In code, a search that stops at the first one:
"""

# %%
smallest_prefill = 0
while smallest_prefill < 40 and tells(smallest_prefill) == 0:
    smallest_prefill += 1
check(
    "smallest prefill",
    smallest_prefill,
    next((n for n in range(41) if tells(n)), None),
    "Choose the defender none, move the prefill slider up from 0 and watch the status line.",
)
print("smallest prefill:", smallest_prefill)
explorer.static("strip")

# %% [markdown]
"""
**2.** SSD can switch only at the end of a bin, so what counts is whether a fact is finished before the first switch.
"""

# %%
silent_bins = []
for b in range(1, 11):
    if tells(10, "ssd", bin_size=b) == 0:
        silent_bins.append(b)
check(
    "silent bins",
    silent_bins,
    [b for b in range(1, 11) if tells(10, "ssd", bin_size=b) == 0],
    "Move the bin size from 1 to 10; the status line counts the facts.",
)
print("silent bins:", silent_bins)

# %% [markdown]
"""
**3.** Read P_M and P_m of both favourites in the **Token** tab. Here they are read from the trace instead of the page, with
the same formula.
"""

# %%
tells(10, "ssd")
first_union = next(line for line in explorer.run.lines if line["scheme"] == "union")
a, b = first_union["target_top"][0], first_union["draft_top"][0]
P_M = dict(zip(first_union["target_top"], first_union["target_top_probs"], strict=True))
P_m = dict(zip(first_union["draft_top"], first_union["draft_top_probs"], strict=True))
gap_target, gap_draft = P_M[a] - P_M.get(b, 0.0), P_m[b] - P_m.get(a, 0.0)
my_turning_point = gap_target / (gap_target + gap_draft)

# The check: on either side of it, the emitted token is the one or the other.
for alpha, wanted in [(my_turning_point - 0.05, a), (my_turning_point + 0.05, b)]:
    explorer.set(alpha_union=alpha)
    check(f"token at α_U = {alpha:.2f}", explorer.run.lines[first_union["position"]]["token"], wanted, "Look at F.")
explorer.choose(first_union["position"]).static("token")
