"""What the environment says: the only place that reads it, or sets anything there."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

__all__ = [
    "add_icd_file",
    "cache_folder",
    "device_choice",
    "driver_choices",
    "environment",
    "exact_choice",
    "icd_folder",
    "icd_vendors",
    "keep_cpu_workers_apart",
    "progress_choice",
    "pyopencl_choice",
    "set_icd_vendors",
    "shipped_choice",
]

SHIPPED = "CLCONV_SHIPPED"
_NO = ("0", "false", "no", "off")
# Variables of drivers that may change what they build: PoCL's, Mesa's and Intel's.
DRIVER_PREFIXES = ("POCL_", "RUSTICL_", "CL_CONFIG_")


def device_choice() -> str | None:
    """`CLCONV_DEVICE`: the device that `Runtime()` means, in any form it takes."""
    return os.environ.get("CLCONV_DEVICE") or None


def pyopencl_choice() -> str | None:
    """`PYOPENCL_CTX`: pyopencl's own choice of a device."""
    return os.environ.get("PYOPENCL_CTX") or None


def exact_choice() -> bool:
    """`CLCONV_EXACT`: whether runtimes keep to exact variants unless told otherwise."""
    return os.environ.get("CLCONV_EXACT", "").strip().lower() in ("1", "true", "yes", "on")


def shipped_choice() -> bool:
    """`CLCONV_SHIPPED`: whether "auto" uses the tuning records that come with clconv, as it does
    unless told otherwise."""
    return os.environ.get(SHIPPED, "").strip().lower() not in _NO


def progress_choice() -> bool:
    """`CLCONV_PROGRESS`: whether what takes long is shown on a terminal, as it is unless told
    otherwise."""
    return os.environ.get("CLCONV_PROGRESS", "").strip().lower() not in _NO


def driver_choices() -> dict[str, str]:
    """What the environment tells drivers, and may change whether and what they build."""
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith(DRIVER_PREFIXES)}


def environment(shipped: bool | None = None) -> dict[str, str]:
    """All of it, to be changed for a process that is started with it; `shipped` is what
    `shipped_choice` gives there, None for what it gives here."""
    chosen = {} if shipped is None else {SHIPPED: str(int(shipped))}
    return dict(os.environ) | chosen


def icd_vendors() -> str | None:
    """`OCL_ICD_VENDORS`: where the OpenCL loader looks for drivers, in place of its own folder."""
    return os.environ.get("OCL_ICD_VENDORS") or None


def set_icd_vendors(folder: str) -> None:
    """Sets `OCL_ICD_VENDORS` for this process and those that it starts."""
    os.environ["OCL_ICD_VENDORS"] = folder


def add_icd_file(path: str) -> None:
    """Adds a driver to `OCL_ICD_FILENAMES`, which the loader of Windows reads."""
    given = [one for one in os.environ.get("OCL_ICD_FILENAMES", "").split(";") if one]
    if path not in given:
        os.environ["OCL_ICD_FILENAMES"] = ";".join([*given, path])


def icd_folder() -> Path:
    """Where the OpenCL loader looks by itself: `OPENCL_VENDOR_PATH`, else the system's folder."""
    return Path(os.environ.get("OPENCL_VENDOR_PATH") or "/etc/OpenCL/vendors")


def keep_cpu_workers_apart() -> None:
    """Sets `POCL_AFFINITY`, unless it is set: each of PoCL's threads then stays on its own core.

    Linux wakes two of them on one core when the caller still runs on the other, and leaves them
    there for as long as a short kernel takes, which then takes twice as long. It must be set before
    PoCL starts its threads. A process that may not use every core is left alone, since PoCL would
    take cores that it may not.
    """
    if not hasattr(os, "sched_getaffinity"):
        return  # PoCL pins threads on Linux alone
    if os.sched_getaffinity(0) == set(range(os.cpu_count() or 0)):
        os.environ.setdefault("POCL_AFFINITY", "1")


# What decides where the platform's cache folder is.
_HOMES = ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "USERPROFILE")


def cache_folder() -> Path:
    """`CLCONV_CACHE_DIR`, else the platform's cache folder for clconv.

    A user without HOME whom the system does not know has none: the path is then one where no file
    can be made, and not a folder named ~ in the current one.
    """
    variables = ("CLCONV_CACHE_DIR", *_HOMES)
    return _cache_folder(*(os.environ.get(name) for name in variables))


@lru_cache(maxsize=8)
def _cache_folder(chosen: str | None, *_: str | None) -> Path:
    if chosen:
        return Path(chosen)
    import platformdirs  # only where a file is about to be read or written

    nowhere = Path(os.devnull, "clconv")
    try:
        folder = Path(platformdirs.user_cache_dir("clconv", appauthor=False))
    except RuntimeError:  # of newer versions; older ones return a relative path
        return nowhere
    return folder if folder.is_absolute() else nowhere
