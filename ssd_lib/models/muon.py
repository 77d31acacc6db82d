"""Muon for the matrices inside the layers, AdamW for the rest, as one optimiser."""

from __future__ import annotations

from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside the layers, AdamW for embeddings and norms, as one optimiser.

    Muon (Jordan et al. 2024; `torch.optim.Muon`) needs about half of AdamW's steps when a small model is trained from
    nothing, which is what keeps the embedded pair's recipe under an hour on two cores.
    """

    def __init__(self, model: torch.nn.Module, learning_rate: float, weight_decay: float):
        inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
        chosen = {id(p) for p in inside}
        outside = [p for p in model.parameters() if id(p) not in chosen]
        muon = torch.optim.Muon(inside, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(outside, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
        self.parts = (muon, adamw)
        super().__init__([{"params": inside}, {"params": outside}], {"lr": learning_rate})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts], "state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
