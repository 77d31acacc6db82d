"""Where the data is, in a clone and in an installed wheel: one answer for every module."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent


def data_dir() -> Path:
    """The folder `data/`: $SSD_DATA, else the one inside an installed wheel, else the repository's.

    Raises:
        FileNotFoundError: Where there is none.
    """
    inside = PACKAGE / "data"
    path = Path(os.environ.get("SSD_DATA") or (inside if inside.is_dir() else REPOSITORY / "data"))
    if not path.is_dir():
        raise FileNotFoundError(f"no data folder at {path}: clone the repository, or set SSD_DATA to its data/ folder")
    return path


def cache_dir() -> Path:
    """The user's cache folder of this library, for what can be made again (set SSD_CACHE to use another one)."""
    return Path(os.environ.get("SSD_CACHE") or user_cache_path("ssd_lib"))
