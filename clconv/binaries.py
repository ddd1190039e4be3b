"""Compiled programs on disk, for drivers that keep none themselves.

One file a key: a header with the SHA-256 of the rest, then the driver's binary. A file is written
under a temporary name and renamed, so that no reader sees half of it and no writer waits for
another; what does not match its checksum is a miss.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

from clconv import settings

__all__ = ["key", "load", "store"]

MAGIC = b"clconv binary 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size
# The folder is trimmed to this many files, the least recently written first.
FILES_KEPT = 4096

_log = logging.getLogger(__name__)


def key(*parts: str) -> str:
    """A file name for everything that a build depends on."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return digest.hexdigest()


def _folder() -> Path:
    return settings.cache_folder() / "binaries"


def load(name: str) -> bytes | None:
    """The binary of this key; None where there is none that can be read whole."""
    path = _folder() / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read, building anew: %s", path, error)
        return None
    header = len(MAGIC) + DIGEST_BYTES
    binary = content[header:]
    if content[:header] != MAGIC + hashlib.sha256(binary).digest():
        _log.warning("%s is damaged or of another version, building anew", path)
        return None
    return binary


def store(name: str, binary: bytes) -> None:
    """Keeps a binary; a folder that cannot be written is a warning, not an error."""
    folder = _folder()
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(binary).digest() + binary)
        os.replace(temporary, folder / name)
        _trim(folder)
    except OSError as error:
        _log.warning("%s keeps no binaries: %s", folder, error)
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)  # where it was not renamed


def _trim(folder: Path) -> None:
    names = os.listdir(folder)
    if len(names) <= FILES_KEPT:
        return
    oldest = sorted(names, key=lambda name: _written(folder / name))
    for one in oldest[: len(names) - FILES_KEPT]:
        (folder / one).unlink(missing_ok=True)


def _written(path: Path) -> float:
    """When a file was written; 0 where another process has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
