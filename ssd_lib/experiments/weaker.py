"""Drafts that agree less with their target, in steps: what hardened switching is worth where match ratios are lower.

    python -m ssd_lib.experiments.weaker noise 2.0 runs/weak/noise-2      # noise on the shipped draft's logits
    python -m ssd_lib.experiments.weaker steps 300 runs/weak/steps-300    # a draft with fewer base steps
    ssd run --preset hardened-agreement --pair toy --draft runs/weak/noise-2 --out runs/noise-2

The noise is a fixed random map of the last hidden state, added to the output matrix: logits are what they were plus noise of
the given standard deviation. It is a function of the context alone, so an answer depends neither on lookahead nor on batch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ssd_lib.models.loading import load_model
from ssd_lib.toy.train import Recipe, train_toy


@torch.no_grad()
def add_noise(model: PreTrainedModel, deviation: float, seed: int = 0) -> None:
    """Give the model an output matrix of its own, so that its logits carry noise of about this standard deviation.

    After the last normalisation a hidden state has the length of that layer's weight w, so entries of deviation / |w| do it.
    """
    body: Any = model.get_decoder()
    head: Any = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(head.weight.shape, generator=generator).to(head.weight)
    head.weight = torch.nn.Parameter(head.weight + noise * deviation / body.norm.weight.norm())
    model.config.tie_word_embeddings = False


def main(kind: Literal["noise", "steps"], amount: float, out: Path, draft: str = "toy/draft", seed: int = 0) -> None:
    """Write a weaker draft: NOISE of a standard deviation on a draft's logits, or one trained with fewer base STEPS."""
    if kind == "noise":
        model, tokenizer = load_model(draft, device="cpu")
        add_noise(model, amount, seed)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    else:
        recipe = Recipe()
        recipe = replace(recipe, draft_base=replace(recipe.draft_base, steps=int(amount)))
        train_toy(out, seed=seed, draft_only=True, recipe=recipe)


if __name__ == "__main__":
    import typer

    typer.run(main)
