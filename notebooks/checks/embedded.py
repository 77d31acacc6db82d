"""The embedded pair that judges ask: loaded once, whatever chapters ask for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ssd_lib import load_pair
from ssd_lib.models.pairs import Pair


@cache
def embedded(lookahead: int | None = None) -> Pair:
    """The embedded pair, in its own settings or with a lookahead that does not tune itself (it changes no token)."""
    if lookahead is None:
        return load_pair("toy")
    pair = embedded()
    return pair.with_config(replace(pair.config, lookahead=lookahead))
