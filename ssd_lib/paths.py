"""Where the data is, in a clone and in an installed wheel: one answer for every module; and files that are written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
SAYS_FULL = ("No space left", "os error 28", "os error 27", "os error 122", "PytorchStreamWriter failed writing")
"""What safetensors, tokenizers and torch say of it, which raise errors of their own."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Errors inside that mean a full disk say so, and what was not written.

    Raises:
        OSError: On a full disk, a quota or a limit on the size of files.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if not full and not any(words in str(error) for words in SAYS_FULL):
            raise
        raise OSError(
            f"the disk is full: {path} was not written, and what stood there before is kept. Make room in "
            f"{path.parent}, then run the same command again"
        ) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` when the block ends well and is removed when it does not: whoever reads
    `path` finds the old file or the whole new one.

    Raises:
        OSError: As `room_for`, and where the folder cannot be written.
    """
    path = Path(path).resolve()  # a link stays one
    beside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with room_for(path):
            yield beside
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) by `replacing`."""
    with replacing(path) as file:
        if isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        else:
            file.write_bytes(content)
