# %% [markdown]
"""
# Solutions to chapter 15
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
from dataclasses import replace

import torch

from ssd_lib import SSDConfig, answer, load_pair
from ssd_lib.experiments.card import prefill_tokens
from ssd_lib.show.exercises import check
from ssd_lib.toy import world

torch.set_num_threads(1)
pair = load_pair("toy")
BIN = pair.config.bin_size
hardened = SSDConfig.hardened(threshold_floor=0.3)

# %% [markdown]
"""
**1.** Each bin that was taken back was decoded once more, whole at most, and none a third time: it stands in Union.
"""


# %%
def decoded_per_kept(n, r):
    return (n + r) / n


WORST = decoded_per_kept(1, 1)
check(
    "decoded per token kept",
    decoded_per_kept(6, 1),
    7 / 6,
    "Each bin that was taken back was decoded once more, whole at most.",
)
check("worst case", WORST, 2.0, "All bins were taken back.")

# %% [markdown]
"""
**2.** In Union every token stands, and at the end all do. In Intersection only whole bins are settled.
"""


# %%
def may_show(length, union, ended, bin_size=BIN):
    return length if union or ended else length - length % bin_size


cases = [(3, False, False), (7, False, False), (10, False, False), (10, True, False), (10, False, True)]
check("settled tokens", [may_show(*case) for case in cases], [0, 7, 7, 10, 10], "Only whole bins are settled.")

# %% [markdown]
"""
**3.** Without `count_prefill` a piece that is shorter than `tail_tokens` is never decided; with `tail_tokens=1` every piece is. The prefill of ten tokens is a bin already, so with
`count_prefill` every call starts in Union, however short the piece.
"""

# %%
items = world.questions("forbidden", 8)
special = set(pair.tokenizer.all_special_ids)


def in_pieces(size, config, tokens=35):
    known = [prefill_tokens(pair, item, 10) for item in items]
    for _ in range(-(-tokens // size)):
        asked = [item.question for item in items]
        replies = answer(pair, asked, prefill=known, config=config, max_new_tokens=size, trace=False)
        known = [ids + [t for t in r.token_ids if t not in special] for ids, r in zip(known, replies, strict=True)]
    texts = [(pair.tokenizer.decode(ids[10:]), pair.tokenizer.decode(ids[:10])) for ids in known]
    told = [world.grade(item, *each).share_told for item, each in zip(items, texts, strict=True)]
    return sum(told) / len(told)


found = {
    (size, counts, tail): in_pieces(size, replace(hardened, tail_tokens=tail, count_prefill=counts))
    for size in (1, 2)
    for counts, tail in ((False, 1), (False, 3), (True, 3))
}
for (size, counts, tail), told in found.items():
    print(f"{size} a call, the prefill {'counts' if counts else 'does not count'}, tail_tokens={tail}: {told:.0%} told")
leaking = min(told for (_, counts, tail), told in found.items() if not counts and tail == 3)
assert all(told < leaking for (_, counts, tail), told in found.items() if counts or tail == 1)
