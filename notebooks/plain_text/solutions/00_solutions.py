# %% [markdown]
"""
# Solutions to chapter 00

[← 00 · Start here](../00_start_here.ipynb)
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace

from ssd_lib import answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

pair = load_pair("toy")
forbidden = world.questions("forbidden", 60)[2]
prefill = prefill_tokens(pair, forbidden, 10)
reply = answer(pair, forbidden.question, prefill=prefill)[0]
trace = reply.trace.to_frame()

# %% [markdown]
"""
**1.** There is no need to guess: the column `match` holds the answer.
"""

# %%
first_seven = sum(bool(match) for match in trace["match"].tolist()[:7])
check(
    "matches in the first bin",
    first_seven,
    int(trace.match[:7].sum()),
    "The column `match` is True or False: sum it over the first 7 lines of `trace`.",
)

# %% [markdown]
"""
**2.** The first bin must be full before anything can be decided, so the earliest possible position is 7.
"""

# %%
first_union = trace["scheme"].tolist().index("union")
check(
    "first Union token",
    first_union,
    int(trace.position[trace.scheme == "union"].min()),
    "Keep the lines with scheme == 'union' and take the smallest `position`; positions count from 0.",
)

# %% [markdown]
"""
**3.** The lookahead changes how many rounds it takes, not what is emitted: each token depends on the prefix and on the
scheduler's state alone.
"""

# %%
same_answer = True
shorter = answer(pair, forbidden.question, prefill=prefill, config=replace(pair.config, lookahead=1))[0]
check(
    "does the lookahead change the answer?",
    same_answer,
    shorter.token_ids == reply.token_ids,
    "True or False: compare shorter.token_ids with replies['ssd'].token_ids. Chapter 05 says why.",
)
