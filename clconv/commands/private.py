"""What of a text tells who and where somebody is? It is taken out of what may be published."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Private", "machine", "memory_bytes"]

# A path of Unix or of Windows, wherever it stands in a text, also right behind an option's letter.
PATH = re.compile(
    r"(?:(?<![\w./])|(?<=(?<!\w)-[A-Z]))(?:file:/+|[A-Za-z]:[\\/]|\\\\(?=\w)|~?/(?!/))"
    r"[^\s'\"<>|:,;()]+"
)
# Names that may be of a person or of a machine, and say nothing where they are of all.
COMMON = frozenset(("localhost", "root", "user"))
# Members with clconv's own words.
OWN = frozenset(("error_class", "layer", "pass", "schema", "title", "variant", "variants"))


class Private:
    """Takes out of texts the names of user and machine, and paths."""

    def __init__(self) -> None:
        found = {_asked(getpass.getuser), _asked(socket.gethostname), _asked(platform.node)}
        found |= {name.partition(".")[0] for name in found}
        found -= COMMON
        self._names = sorted(filter(None, found), key=len, reverse=True)
        # Before names are looked for: folders with spaces, of which PATH finds the beginning.
        places = (Path.home, Path.cwd, tempfile.gettempdir, lambda: sys.prefix)
        folders = {str(_asked(place)) for place in places} - {"", os.sep}
        self._folders = sorted(folders, key=len, reverse=True)

    def text(self, text: str) -> str:
        """A text without them."""
        for folder in self._folders:
            text = text.replace(folder, "/folder")
        text = PATH.sub("…", text)
        for name in self._names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text, flags=re.IGNORECASE)
        return text

    def clean(self, value: Any) -> Any:
        """The same of every text in JSON's objects and lists."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: one if key in OWN else self.clean(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(one) for one in value]
        return value


def _asked(what: Callable[[], object]) -> str:
    """What the system says, "" where it does not know."""
    try:
        return str(what())
    except (KeyError, OSError, RuntimeError, ImportError):
        return ""


def machine() -> dict[str, Any]:
    """The computer, without anything that tells whose it is."""
    # Of the kernel's name only the numbers: who built it may have added more.
    release = re.match(r"[\d.]*", platform.release())
    return {
        "system": f"{platform.system()} {release[0] if release else ''}".strip(),
        "distribution": _distribution(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "python": platform.python_version(),
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return found[1] if found else platform.processor()


def memory_bytes() -> int | None:
    """What the machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
