"""Every constant of the decoder, with its source, in one frozen place.

"The paper" is Wang, Zhu, Cheng, "Speculative Safety-Aware Decoding", EMNLP 2025 (arXiv 2508.17739); "the code" is what
its authors published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Scheme = Literal["intersection", "union"]


@dataclass(frozen=True)
class SSDConfig:
    """Settings of Speculative Safety-Aware Decoding. The defaults are the paper's for Llama-2.

    Raises ValueError for a value out of range.
    """

    alpha_intersection: float = 0.3
    """α_I: weight of the draft in the Intersection scheme (paper, section 5.1; 0.45 for Vicuna)."""
    alpha_union: float = 0.8
    """α_U: weight of the draft in the Union scheme; above 1 it extrapolates (paper, section 5.1; 2 for Vicuna)."""
    candidates: int = 10
    """c: size of the sample space (paper, section 4.2)."""
    bin_size: int = 7
    """b: tokens between two decisions of the scheduler (paper, section 4.3)."""
    threshold: float = 0.6
    """Match ratio below which the next bin is decoded in Union (paper, section 4.3; 0.5 for Llama 3.1)."""
    threshold_decay: float = 0.1
    """Subtracted from the threshold when the scheme stays (the code)."""
    alpha_decay: float = 0.15
    """Subtracted from α_I when Intersection stays (the code)."""
    alpha_floor: float = 0.3
    """α_I is annealed down to here and no further; a smaller starting value stays as it is (the code raises it)."""
    lookahead: int | Literal["auto"] = "auto"
    """T: positions that a round looks ahead (the paper: 3); "auto" tunes it while decoding. The output does not depend on it."""
    lookup: bool = False
    """Let the text so far guess tokens, too, where it repeats itself (greedy, one row). The output does not depend on it."""
    do_sample: bool = False
    """Greedy decoding, or exact sampling from the composite (stated in the paper, not in the code)."""
    temperature: float = 1.0
    """τ: divides both models' logits when sampling."""
    top_p: float = 1.0
    """Nucleus kept of the composite when sampling."""
    seed: int | None = None
    """Seed of the sampler, unless a generator is given."""
    start_scheme: Scheme = "intersection"
    """The scheme of the first bin (paper, section 4.3: Intersection)."""
    fixed_scheme: Scheme | None = None
    """Never switch: for ablations."""

    def __post_init__(self) -> None:
        unit, positive = (0.0, 1.0), (0.0, math.inf)
        for name, (low, high) in {
            "alpha_intersection": unit,
            "alpha_union": positive,
            "threshold": unit,
            "threshold_decay": positive,
            "alpha_decay": positive,
            "alpha_floor": unit,
            "top_p": unit,
            "temperature": positive,
        }.items():
            value = getattr(self, name)
            if not low <= value <= high or (value == 0 and name in ("top_p", "temperature")) or math.isinf(value):
                raise ValueError(f"SSDConfig.{name} must lie between {low:g} and {high:g}, not {value!r}")
        for name in ("candidates", "bin_size", "lookahead"):
            value = getattr(self, name)
            if not (name == "lookahead" and value == "auto") and (isinstance(value, str) or value < 1):
                choice = " or 'auto'" if name == "lookahead" else ""
                raise ValueError(f"SSDConfig.{name} must be at least 1{choice}, not {value!r}")
        for name in ("start_scheme", "fixed_scheme"):
            if getattr(self, name) not in ("intersection", "union", None):
                raise ValueError(f"SSDConfig.{name} must be 'intersection' or 'union', not {getattr(self, name)!r}")

    @property
    def first_scheme(self) -> Scheme:
        """The scheme of the first token."""
        return self.fixed_scheme or self.start_scheme
