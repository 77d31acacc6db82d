"""What inspect_ai imports to learn that there is a provider `ssd`: it looks at every package's entry point, so nothing is loaded here."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi  # pyright: ignore[reportMissingImports]


@modelapi(name="ssd")
def ssd() -> Any:
    """`--model ssd/PAIR`."""
    from ssd_lib.tools.inspect_provider import SSDAPI

    return SSDAPI
