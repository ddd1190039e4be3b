"""What the environment says: the only place that reads it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "device_choice", "pyopencl_choice"]


def device_choice() -> str | None:
    """`CLCONV_DEVICE`: the device that `Runtime()` means, in any form it takes."""
    return os.environ.get("CLCONV_DEVICE") or None


def pyopencl_choice() -> str | None:
    """`PYOPENCL_CTX`: pyopencl's own choice of a device."""
    return os.environ.get("PYOPENCL_CTX") or None


def cache_folder() -> Path:
    """`CLCONV_CACHE_DIR`, else the platform's cache folder for clconv."""
    chosen = os.environ.get("CLCONV_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs  # only where a file is about to be read or written

    return Path(platformdirs.user_cache_dir("clconv", appauthor=False))
