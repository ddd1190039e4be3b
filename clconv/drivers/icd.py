"""Drivers that pip installed and that the OpenCL loader does not find by itself.

Intel's CPU runtime is one: the .icd file of its package holds a path that is not filled in, in a
folder where no loader looks. `announce` makes a folder with the system's .icd files and a right
one, in clconv's cache, and names it in `OCL_ICD_VENDORS`, which the loader reads when the first
platform is asked for. PoCL's package is found without help.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from clconv import disk, settings
from clconv.errors import to_install

__all__ = ["PLATFORM", "announce", "intel_library"]

_log = logging.getLogger(__name__)

# What pip installs, what that needs but does not ask for, and its platform's name.
PACKAGE, NEEDED = "intel-opencl-rt", "intel-cmplr-lib-rt"
PLATFORM = "Intel(R) OpenCL"
# The driver's file, by `sys.platform`.
LIBRARIES = {"linux": "libintelocl.so", "win32": "intelocl64.dll"}

# Names of clconv's own folders start so; each is for one set of .icd files.
FOLDER = "clconv-icd-"
# How many of them are kept: one for each environment in use.
FOLDERS_KEPT = 32


def intel_library() -> Path | None:
    """The file of Intel's CPU runtime as pip installed it; None where it did not, or not all of
    it."""
    try:
        files = metadata.files(PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return None
    name = LIBRARIES.get(sys.platform)
    found = [path for f in files if f.name == name and (path := Path(str(f.locate()))).is_file()]
    if not found:
        return None
    try:
        metadata.version(NEEDED)
    except metadata.PackageNotFoundError:
        _log.warning(
            "%s is installed without %s, which it needs; both come with %s",
            PACKAGE,
            NEEDED,
            to_install("cpu"),
        )
        return None
    return found[0].resolve()


def announce() -> bool:
    """Names Intel's CPU runtime from pip, beside the system's drivers, in `OCL_ICD_VENDORS`, and on
    Windows in `OCL_ICD_FILENAMES`.

    Whether it did: a value of the user's stays, and so does everything where the system has this
    driver already. Only the first platform query of a process reads the variables.
    """
    given = settings.icd_vendors()
    if given is not None and not Path(given).name.startswith(FOLDER):
        return False
    library = intel_library()
    if library is None:
        return False
    if sys.platform == "win32":  # another loader, which takes files beside those of the registry
        settings.add_icd_file(str(library))
        return True
    texts = _system_icds()
    known = LIBRARIES[sys.platform]
    if any(Path(text.strip()).name.startswith(known) for text in texts.values()):
        return False
    texts["clconv-intel.icd"] = f"{library}\n"
    try:
        folder = _folder(settings.cache_folder() / "icd", texts)
    except OSError as error:
        _log.info("%s keeps no .icd files: %s", settings.cache_folder(), error)
        try:
            folder = _folder(Path(tempfile.mkdtemp(prefix="clconv-")), texts)
        except OSError as again:
            _log.warning("%s cannot be announced to the OpenCL loader: %s", library, again)
            return False
    settings.set_icd_vendors(str(folder))
    return True


def _system_icds() -> dict[str, str]:
    """The texts of the .icd files that the loader reads by itself, by name."""
    found = {}
    for path in sorted(settings.icd_folder().glob("*.icd")):
        try:
            found[path.name] = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            _log.info("%s cannot be read: %s", path, error)
    return found


def _folder(parent: Path, texts: dict[str, str]) -> Path:
    """A folder below `parent` with files of these texts; its name follows from them."""
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]
    folder = parent / f"{FOLDER}{digest}"
    for name, text in texts.items():
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            disk.write(file, text.encode())
    os.utime(folder)  # the least recently used goes first
    disk.trim(parent, FOLDERS_KEPT)
    return folder
