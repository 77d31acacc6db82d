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
import json

import numpy as np
import torch
from checks import check
from transformers import LlamaConfig, LlamaForCausalLM

from ssd_lib.models.chat import encode_answer, encode_prompt
from ssd_lib.models.pairs import check_vocabularies


def llama(vocab, hidden, inner, layers, heads, kv_heads, tied=False):
    return LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
    )  # fmt: skip


SHAPES = {
    "Llama-2-7B, Vicuna-7B": llama(32000, 4096, 11008, 32, 32, 32),
    "Llama-2-13B": llama(32000, 5120, 13824, 40, 40, 40),
    "Llama-3.1-8B": llama(128256, 4096, 14336, 32, 32, 8),
    "TinyLlama-1.1B": llama(32000, 2048, 5632, 22, 32, 4),
    "Llama-3.2-1B": llama(128256, 2048, 8192, 16, 32, 8, tied=True),
}
BYTES = {"16 bits": 2.0, "8 bits": 1.0, "4 bits": 0.5 + 4 / 64}


def counted(config):
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    inside = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    return sum(p.numel() for p in model.parameters()), inside


counts = {name: counted(config) for name, config in SHAPES.items()}

# %% [markdown]
"""
**1.** 4.5 bits for blocks of 64, 4.127 with quantized scales: double quantization saves a third of a bit, 8% of the layer matrices.
"""


# %%
def bits_of_a_weight(block, double):
    scale = 8 + 32 / 256 if double else 32
    return 4 + scale / block


check("12.1", bits_of_a_weight)

# %% [markdown]
"""
**2.** What the weights leave free, over what one answer needs in both caches. Where nothing is left, none fits.
"""


# %%
def weight_bytes(name, bits):
    everything, inside = counts[name]
    return 2 * (everything - inside) + BYTES[bits] * inside


def cache_bytes(config, tokens):
    head = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * 2 * tokens


def answers_that_fit(target, draft, bits, tokens, gib, spare):
    free = (gib - spare) * 2**30 - weight_bytes(target, bits) - weight_bytes(draft, "16 bits")
    one = sum(cache_bytes(SHAPES[name], tokens) for name in (target, draft))
    return max(0, int(free // one))


check("12.2", answers_that_fit)

# %% [markdown]
"""
**3.** An answer is named by all three: with attack and item alone, an undefended answer stands for SSD's. And half a line is no answer.
"""


# %%
def mended_resume(planned, lines):
    done = set()
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        done.add((row["attack"], row["item"], row["defender"]))
    return [key for key in planned if key not in done]


check("12.3", mended_resume)

# %% [markdown]
"""
**4.** A prompt is not compared with the other model's, but with what its own format writes (BOS apart). Where a pair names no format, or a tokenizer has no
template, there is nothing to compare.
"""

# %%
TEXT = "Sure, here is how. First"


def wears_another(tokenizer, name):
    """Whether a tokenizer's template writes something else than the format of that name."""
    if name is None or tokenizer.chat_template is None:
        return False
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    own = encode_prompt(tokenizer, "How do I brew it?")
    ours = encode_prompt(bare, "How do I brew it?", chat_format=name)
    return ours not in (own, [tokenizer.bos_token_id, *own])


def suspicious(pair):
    tokenizers, models = [pair.tokenizer, pair.draft_tokenizer], [pair.target, pair.draft]
    try:
        check_vocabularies(*tokenizers)
    except ValueError:
        return True
    answers = [encode_answer(tokenizer, TEXT) for tokenizer in tokenizers]
    ends = [set(np.atleast_1d(model.generation_config.eos_token_id)) for model in models]
    rows = [model.get_output_embeddings().out_features for model in models]
    formats = [pair.spec.target_format, pair.spec.draft_format]
    return (
        answers[0] != answers[1]
        or ends[0] != ends[1]
        or min(rows) < len(pair.tokenizer)
        or any(wears_another(*each) for each in zip(tokenizers, formats, strict=True))
    )


check("12.4", suspicious)
