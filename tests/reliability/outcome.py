"""What a part of `python -m tests.reliability` hands back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """The figures of one part.

    Args:
        tried: Cases that were run.
        failures: One line for each case that failed, with the seed that repeats it.
        facts: What the page tells of this part.
    """

    tried: int
    failures: list[str] = field(default_factory=list)
    facts: dict[str, float | int | str] = field(default_factory=dict)
