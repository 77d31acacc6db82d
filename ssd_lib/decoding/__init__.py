"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the loop, and what makes it fast.

generate, custom_generate   the public calls: prompts to answers, a conversation, inside transformers' `generate`
loop                        the one loop over rounds, and what needs values on the host
decoder, stepwise           one round; the same for one row on a CPU, with no step in vain
cuda_graph                  a round as a recorded CUDA graph
lookahead                   how far to guess, before a round and within it
cached_model, shortlist     a model that goes on from its cache; both models' best candidates without a full sort
inputs, processors, recording   checks before any forward; logits processors; the trace
"""

from ssd_lib.decoding.custom_generate import ssd_custom_generate
from ssd_lib.decoding.generate import Conversation, SSDOutput, SSDStats, ssd_generate

__all__ = ["Conversation", "SSDOutput", "SSDStats", "ssd_custom_generate", "ssd_generate"]
