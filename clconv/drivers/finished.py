"""Which kernels has the driver finished, down to machine code, and does it still keep them?

Some drivers finish a kernel at its first launch, and keep that in a cache of their own, whose names
nobody else knows. A note in clconv's cache folder, one file a key, has the paths of what a launch
loaded from there. A note whose files are gone is none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from clconv import disk, settings

__all__ = ["is_finished", "loaded", "note"]

# The folder is trimmed to this many notes, the least recently written first.
NOTES_KEPT = 4096
MAPS = Path("/proc/self/maps")

_log = logging.getLogger(__name__)


def _path(key: str) -> Path:
    return settings.cache_folder() / "finished" / key


def loaded(name: str) -> frozenset[str]:
    """The files of this name that are mapped into this process, as Linux tells; none elsewhere."""
    if not MAPS.exists():
        return frozenset()
    lines = MAPS.read_text(errors="surrogateescape").splitlines()
    paths = (line.split(maxsplit=5)[5] for line in lines if line.endswith(f"/{name}"))
    return frozenset(paths)


def note(key: str, paths: Iterable[str]) -> None:
    """Notes what a launch loaded; a folder that cannot be written is a message, not an error."""
    path = _path(key)
    content = "\n".join(sorted(paths)).encode(errors="surrogateescape")
    try:
        disk.write(path, content)
        disk.trim(path.parent, NOTES_KEPT)
    except OSError as error:
        _log.info("%s keeps no notes of kernels: %s", path.parent, error)


def is_finished(key: str) -> bool:
    """Whether a launch of this key was noted, and all that it loaded is still there."""
    try:
        paths = _path(key).read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError:  # no note, or none that can be read
        return False
    return all(Path(one).is_file() for one in paths)
