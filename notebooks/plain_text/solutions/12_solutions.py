# %% [markdown]
"""
# Solutions to chapter 12
"""

# %%
import os  # Setup, the same in every notebook: uses the repository around it.

ROOT = next((up for up in (".", "..", "../..", "ssd") if os.path.isdir(f"{up}/ssd_lib")), None)
assert ROOT, "This notebook needs the repository around it: download all of it, and open notebooks/ there."
# %run {ROOT or "ssd"}/notebooks/prepare.py

# %%
import copy
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ssd_lib import load_pair
from ssd_lib.models.chat import FORMATS, encode_prompt
from ssd_lib.show.exercises import check


def llama(vocab, hidden, inner, layers, heads, kv_heads, tied=False):
    return LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
    )  # fmt: skip


SHAPES = {
    "Llama-2-7B, Vicuna-7B": llama(32000, 4096, 11008, 32, 32, 32),
    "Llama-3.1-8B": llama(128256, 4096, 14336, 32, 32, 8),
    "TinyLlama-1.1B": llama(32000, 2048, 5632, 22, 32, 4),
    "Llama-3.2-1B": llama(128256, 2048, 8192, 16, 32, 8, tied=True),
}
PAIR_SHAPES = {
    "llama2": ("Llama-2-7B, Vicuna-7B", "TinyLlama-1.1B"),
    "llama3.1_8b": ("Llama-3.1-8B", "Llama-3.2-1B"),
}

# %% [markdown]
"""
**1.** Keys and values, 32 layers, 8 heads of 128 numbers, two bytes each: 128 KiB a token.
"""

# %%
one_token = 2 * 32 * 8 * 128 * 2


def cache_bytes(config, tokens):
    head = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * 2 * tokens


check(
    "bytes of a token",
    one_token,
    cache_bytes(SHAPES["Llama-3.1-8B"], 1),
    "2 · layers · key-value heads · head size · 2 bytes.",
)

# %% [markdown]
"""
**2.** What the weights leave free, over what one row needs in both caches.
"""


# %%
def weight_bytes(name, layer_bytes):
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPES[name])
    inside = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    return 2 * (sum(p.numel() for p in model.parameters()) - inside) + layer_bytes * inside


def rows_that_fit(pair, gib=15.0, spare=2.0):
    target, draft = PAIR_SHAPES[pair]
    free = (gib - spare) * 2**30 - weight_bytes(target, 0.5 + 4 / 64) - weight_bytes(draft, 2)
    return int(free // sum(cache_bytes(SHAPES[name], 1024) for name in (target, draft)))


got = [rows_that_fit("llama2"), rows_that_fit("llama3.1_8b")]
for (target, draft), rows in zip(PAIR_SHAPES.values(), got, strict=True):
    weights = weight_bytes(target, 0.5625) + weight_bytes(draft, 2)
    row = cache_bytes(SHAPES[target], 1024) + cache_bytes(SHAPES[draft], 1024)
    fits = weights + rows * row <= 13 * 2**30 < weights + (rows + 1) * row
    check(
        f"{rows} rows fit beside {target}, one more does not",
        fits,
        True,
        "(free − weights) // (both caches of one row).",
    )

# %% [markdown]
"""
**3.** With the target's template the draft reads the target's prompt, so the line about templates is the one that fails. Shown here on the embedded
pair, whose draft is given Llama-2's template.
"""

# %%
pair = load_pair("toy", device="cpu")
target_reads, draft_reads = copy.deepcopy(pair.tokenizer), copy.deepcopy(pair.draft_tokenizer)
target_reads.chat_template = FORMATS["llama2"].template
draft_reads.chat_template = FORMATS["tinyllama"].template
good = replace(pair, tokenizer=target_reads, draft_tokenizer=draft_reads)
broken = replace(good, draft_tokenizer=target_reads)


def belongs(pair, question="How do I brew the cordial?"):
    """The line of the chapter's `belongs` that this is about."""
    prompts = [encode_prompt(t, question) for t in (pair.tokenizer, pair.draft_tokenizer)]
    return {"each prompt holds the question in its own template": prompts[0] != prompts[1]}


assert all(belongs(good).values())
caught_by = "each prompt holds the question in its own template"
check(
    "the line that catches it",
    caught_by,
    next(name for name, holds in belongs(broken).items() if not holds),
    "Call belongs(broken) and look for the False.",
)
