"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the loop, and what makes it fast.

generate          the public calls: prompts to answers, a conversation, inside transformers' `generate`
loop              the one loop over rounds and prompts; output buffers
decoder, results  one round, and what comes of it: tensors, plain values, lines of the trace
cuda_graph        a round as a recorded CUDA graph
lookahead         the controller: how far to guess, before a round and within it
kv_cache          a model that goes on from its own cache, which can go back
short_products    the quickest way to a short matrix product on a CPU
inputs            checks before any forward; logits processors
"""

from ssd_lib.decoding.generate import Conversation, ssd_custom_generate, ssd_generate
from ssd_lib.decoding.loop import SSDOutput, SSDStats

__all__ = ["Conversation", "SSDOutput", "SSDStats", "ssd_custom_generate", "ssd_generate"]
