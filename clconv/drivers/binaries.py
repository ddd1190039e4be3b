"""Compiled programs on disk, for drivers that keep none themselves.

One file a key: a header with the SHA-256 of the rest, then the driver's binary. What does not match
its checksum is a miss.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from clconv import disk, settings

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
    try:
        disk.write(folder / name, MAGIC + hashlib.sha256(binary).digest() + binary)
        disk.trim(folder, FILES_KEPT)
    except OSError as error:
        _log.warning("%s keeps no binaries: %s", folder, error)
