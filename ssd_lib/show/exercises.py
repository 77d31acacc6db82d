"""Check cells of the book: they say whether an exercise is solved, and what to try if it is not.

In a chapter an unsolved exercise only prints its hint; with SSD_STRICT_CHECKS=1, as the solutions are run, it raises.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def check(name: str, got: Any, expected: Any, hint: str) -> None:
    """Compare the answer to an exercise with what is expected, and print whether it is right.

    Args:
        name: Of the exercise.
        got: The reader's answer; `...` counts as not solved yet.
        expected: The right answer. Numbers and arrays are compared to 1e-4.
        hint: Printed where the answer is missing or wrong.

    Raises:
        AssertionError: Where it is missing or wrong and SSD_STRICT_CHECKS=1 is set.
    """
    if got is ...:
        message = f"… {name}: not solved yet. {hint}"
    elif _equal(got, expected):
        print(f"✔ {name}")
        return
    else:
        message = f"✘ {name}: {got!r} is not right. {hint}"
    if os.environ.get("SSD_STRICT_CHECKS") == "1":
        raise AssertionError(message)
    print(message)


def _equal(got: Any, expected: Any) -> bool:
    try:
        return bool(np.allclose(np.asarray(got, float), np.asarray(expected, float), atol=1e-4))
    except (TypeError, ValueError):
        return bool(got == expected)
