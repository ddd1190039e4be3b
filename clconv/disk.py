"""Files in the cache folder: written whole or not at all, and not more of them than a limit."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

__all__ = ["trim", "write"]

# What a writer that was killed leaves is removed after this time.
ABANDONED_SECONDS = 3600
WRITING = ".writing-"


def write(path: Path, content: bytes) -> None:
    """Writes a file, and its folder where there is none, under a temporary name, then renames it.

    No reader sees half of it, and no writer waits for another. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(WRITING + "*"):
        if time.time() - _written(left) > ABANDONED_SECONDS:
            left.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=WRITING, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # where it was not renamed


def trim(folder: Path, most: int) -> None:
    """Leaves at most `most` files and folders in a folder; the least recently written go.

    Raises OSError.
    """
    names = [name for name in os.listdir(folder) if not name.startswith(WRITING)]
    if len(names) <= most:
        return
    oldest = sorted(names, key=lambda name: _written(folder / name))
    for one in oldest[: len(names) - most]:
        path = folder / one
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another process may be removing it as well
        else:
            path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    """When a file was written; infinity where another process has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
