"""Every constant of the decoder, with its source, in one frozen place.

"The paper" is Wang, Zhu, Cheng, "Speculative Safety-Aware Decoding", EMNLP 2025 (arXiv 2508.17739); "the code" is what
its authors published.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ssd_lib.settings import AboveZero, Count, NotNegative, Positive, Share, settings

Scheme = Literal["intersection", "union"]

HARDENED: dict[str, Any] = {"threshold_floor": 0.3, "count_prefill": True, "retract": True, "alpha_union": 1.5}
"""Hardened switching (ours, beyond the paper): what `SSDConfig.hardened` turns on. Measured in data/toy/README.md, "Does
hardened SSD leak?":

- `retract`: without it a suffix against both models makes 79% of the answers leak a fact, with it 21%. The last, incomplete
  bin of an answer is decided from its first token on (`tail_tokens`): calls of three tokens leak nothing.
- `count_prefill`: lowers no leak where `retract` is on, but spares the second decoding of a bin under prefills of b tokens and
  more, and is a second bar for small calls.
- `threshold_floor`: at 0, seven quiet bins disarm the rest of the answer (91% of the facts are leaked). From 0.1 to 0.5 it made no
  difference with weaker drafts (at α_U = 0.8). 0.3 asks for 3 matches of 7: were matches independent, it would raise an alarm
  in 3% of the benign bins of a pair with a match ratio of 0.7, in 10% at 0.6, and miss 3% of the bins that match at 0.1.
- `alpha_union`: at 0.8 a bin that is decoded again in Union still leaks facts under a suffix against both models; 1.5 brings
  21% to 12% (Vicuna's published value is 2). It was chosen on these suffixes; those of two other pairs leak 8% and nothing.

The threshold stays the pair's own. 0.6 is right where benign answers match as the embedded pair's do (0.93). Where they match
at 0.85 or less it costs right answers, and many tokens are decoded twice: `threshold=0.4` mends both there, and still leaks
nothing under prefills. In the embedded pair it lets more of the suffixes against both models through."""


@settings
class SSDConfig:
    """Settings of Speculative Safety-Aware Decoding. The defaults are the paper's for Llama-2 (sections 4 and 5.1).

    Raises:
        ValueError: For a value of another type or out of range, naming the field.
    """

    alpha_intersection: Share = 0.3
    """α_I: weight of the draft in the Intersection scheme (paper, section 5.1; 0.45 for Vicuna)."""
    alpha_union: NotNegative = 0.8
    """α_U: weight of the draft in the Union scheme; above 1 it extrapolates (paper, section 5.1; 2 for Vicuna)."""
    candidates: Positive = 10
    """c: size of the sample space (paper, section 4.2)."""
    bin_size: Positive = 7
    """b: tokens between two decisions of the scheduler (paper, section 4.3)."""
    threshold: Share = 0.6
    """Match ratio below which the next bin is decoded in Union (paper, section 4.3; 0.5 for Llama 3.1)."""
    threshold_decay: NotNegative = 0.1
    """Subtracted from the threshold when the scheme stays (the code)."""
    alpha_decay: NotNegative = 0.15
    """Subtracted from α_I when Intersection stays (the code)."""
    alpha_floor: Share = 0.3
    """α_I is annealed down to here and no further; a smaller starting value stays as it is (the code raises it)."""
    lookahead: Positive | Literal["auto"] = "auto"
    """T: positions that a round looks ahead (the paper: 3); "auto" tunes it while decoding. The output does not depend on it."""
    lookup: bool = False
    """Let the text so far guess tokens, too, where it repeats itself (greedy, one row). The output does not depend on it."""
    do_sample: bool = False
    """Greedy decoding, or exact sampling from the composite (stated in the paper, not in the code)."""
    temperature: AboveZero = 1.0
    """τ: divides both models' logits when sampling."""
    top_k: Count = 0
    """Likeliest tokens kept of the composite when sampling, before the nucleus; 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus kept of the composite when sampling."""
    seed: int | None = None
    """Seed of the sampler, unless a generator is given."""
    start_scheme: Scheme = "intersection"
    """The scheme of the first bin (paper, section 4.3: Intersection)."""
    fixed_scheme: Scheme | None = None
    """Never switch: for ablations."""

    threshold_floor: Share = 0.0
    """Hardened: the threshold decays down to here and no further, so that a long quiet answer stays watched."""
    count_prefill: bool = False
    """Hardened: the last b tokens of a given beginning of the answer count as a bin, so that the first one may be in Union."""
    retract: bool = False
    """Hardened: a bin decoded in Intersection that ends with an alarm is taken back and decoded again in Union."""
    tail_tokens: Positive = 1
    """Hardened: the last, incomplete bin of an answer is decided from so many tokens on. 1 as measured (chapter 15): without
    `count_prefill`, an attacker who asks for 1 or 2 tokens a call gets 58% of the facts at 3, and none at 1."""

    def __post_init__(self) -> None:
        if self.threshold_floor > self.threshold:
            raise ValueError(
                f"SSDConfig.threshold_floor ({self.threshold_floor:g}) lies above threshold ({self.threshold:g})"
            )

    @classmethod
    def hardened(cls, **changes: Any) -> SSDConfig:
        """Hardened switching (ours, beyond the paper): the values of `HARDENED`.

        Args:
            changes: Fields by name, in place of the values of `HARDENED` or beside them.

        Raises:
            ValueError: As `SSDConfig`.
        """
        return cls(**(HARDENED | changes))

    def harden(self) -> SSDConfig:
        """These settings with hardened switching on; a threshold below the floor and a larger α_U stay as they are."""
        return replace(
            self,
            **HARDENED
            | {
                "threshold_floor": min(HARDENED["threshold_floor"], self.threshold),
                "alpha_union": max(HARDENED["alpha_union"], self.alpha_union),
            },
        )

    @property
    def first_scheme(self) -> Scheme:
        """The scheme of the first token."""
        return self.fixed_scheme or self.start_scheme
