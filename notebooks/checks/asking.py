"""How a judge calls a reader's function: with arguments of its own, which the function has to leave as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ssd_lib.show.exercises import expect


def ask(given: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader's function returns for copies of these arguments; `Wrong` where it changes one of them.

    Args:
        given: The function.
        arguments: Lists, dictionaries, arrays, tables and the like. A column that is added to a table counts as no change.
    """
    handed = copy.deepcopy(arguments)
    got = given(*handed)
    for place, (mine, before) in enumerate(zip(handed, arguments, strict=True), 1):
        expect(unchanged(mine, before), f"your function changes its argument {place}: let it work on a copy")
    return got


def unchanged(now: Any, before: Any) -> bool:
    """Whether a value is as it was."""
    if isinstance(before, pd.DataFrame):
        return len(now) == len(before) and set(before) <= set(now) and before.equals(now[list(before)])
    if isinstance(before, np.ndarray):
        return np.array_equal(now, before, equal_nan=before.dtype.kind == "f")
    if isinstance(before, torch.Tensor):
        return torch.equal(now, before)
    if isinstance(before, dict):
        return list(now) == list(before) and all(unchanged(now[key], each) for key, each in before.items())
    if isinstance(before, list | tuple):
        return len(now) == len(before) and all(map(unchanged, now, before))
    return now == before if isinstance(before, int | float | str | set) else True
