"""Speculative Safety-Aware Decoding (EMNLP 2025, arXiv 2508.17739), to learn, explore and use.

from ssd_lib import load_pair, answer
pair = load_pair("toy")
print(answer(pair, "How do I cast the Floating Kettle glim?")[0].text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_lib.config import SSDConfig as SSDConfig
    from ssd_lib.decoding import SSDOutput as SSDOutput
    from ssd_lib.decoding import ssd_custom_generate as ssd_custom_generate
    from ssd_lib.decoding import ssd_generate as ssd_generate
    from ssd_lib.defenders import answer as answer
    from ssd_lib.method.trace import Trace as Trace
    from ssd_lib.models.loading import load_model as load_model
    from ssd_lib.models.pairs import Pair as Pair
    from ssd_lib.models.pairs import load_pair as load_pair

# Loaded at first use: `import ssd_lib` and `ssd --help` stay quick.
_HOMES = {
    "SSDConfig": "config",
    "SSDOutput": "decoding",
    "ssd_generate": "decoding",
    "ssd_custom_generate": "decoding",
    "Trace": "method.trace",
    "Pair": "models.pairs",
    "load_pair": "models.pairs",
    "load_model": "models.loading",
    "answer": "defenders",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssd_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ssd_lib.{_HOMES[name]}"), name)
