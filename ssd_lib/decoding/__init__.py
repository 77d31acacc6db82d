"""Speculative Safety-Aware Decoding (arXiv 2508.17739, section 4): the loop, and what makes it fast.

generate       the public call: from prompts to answers, trace and cost; the same inside transformers' `generate`
rounds, stepwise   one round: propose, verify, walk, settle; the same for one row on a CPU, with no step in vain
cached_model, shortlist   a model that goes on from its cache; both models' best candidates without a full sort
inputs, host, recording   checks before any forward; the part that needs values on the host; the trace
lookahead, patience, pace, proposers   how far to guess, before a round and within it; guesses from the context
conversation, batching    turns that read nothing twice; many prompts through a few rows
graphs         a round as one CUDA graph
"""

from ssd_lib.decoding.batching import ssd_generate_many
from ssd_lib.decoding.conversation import Conversation
from ssd_lib.decoding.generate import SSDOutput, SSDStats, ssd_custom_generate, ssd_generate

__all__ = ["Conversation", "SSDOutput", "SSDStats", "ssd_custom_generate", "ssd_generate", "ssd_generate_many"]
