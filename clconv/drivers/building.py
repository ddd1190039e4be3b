"""How programs are built: quietly, and from another text where a driver's own cache is damaged."""

from __future__ import annotations

import ctypes
import importlib
import logging
import sqlite3
from functools import lru_cache
from typing import Any

import pyopencl as cl

__all__ = [
    "binary_of",
    "built",
    "has_kernel",
    "prepare_invoker",
    "program_of_binary",
    "program_of_source",
]

_log = logging.getLogger(__name__)

# What follows a source that is built a second time: caches overlook comments.
ANEW = "\ntypedef int BUILT_ANEW;\n"

_Program: Any = cl._cl._Program


class _Quiet(_Program):  # type: ignore[misc]
    """A program that hides the compiler's messages if the build succeeds.

    pyopencl makes a warning of it, always the same. Some drivers say something in every build, and
    filters of warnings belong to the process, not to a library.
    """

    _built = False

    def _build(self, *arguments: Any, **named: Any) -> Any:
        result = super()._build(*arguments, **named)
        self._built = True
        return result

    def _get_build_logs(self) -> Any:
        logs = super()._get_build_logs()
        if not self._built:
            return logs  # they belong to the error
        for device, text in logs:
            if text and text.strip():
                _log.debug("the compiler of %s says: %s", device.name.strip(), text.strip())
        return []


def _quiet(program: Any, *source: Any) -> Any:
    program._prg = _Quiet(*source)
    return program


def program_of_source(context: Any, source: str) -> Any:
    """A program of OpenCL C, yet to be built."""
    return _quiet(cl.Program(context, source), context, source)


def program_of_binary(context: Any, device: Any, binary: bytes) -> Any:
    """A program of what `binary_of` gave for this device, yet to be built."""
    made = (context, [device], [binary])
    return _quiet(cl.Program(*made), *made)


def binary_of(program: Any) -> bytes | None:
    """The binary of a program that was built for one device of its context; None where the driver
    gives none."""
    binaries: list[bytes] = program.get_info(cl.program_info.BINARIES)
    return next((one for one in binaries if one), None)


@lru_cache(maxsize=1)
def prepare_invoker() -> None:
    """Lets pyopencl make kernels where it can write nothing: it keeps what calls them in a database
    in the user's cache folder, and fails where there can be none, or no such user."""
    try:
        importlib.import_module("pyopencl.invoker")
    except (OSError, RuntimeError, sqlite3.Error) as error:
        _log.warning("pyopencl keeps no cache: %s", error)
        vars(cl)["_PYOPENCL_NO_CACHE"] = True
        importlib.import_module("pyopencl.invoker")


def has_kernel(program: Any, name: str) -> bool:
    """Whether a built program has the kernel of this name."""
    return name in program.kernel_names.split(";")


def built(context: Any, device: Any, source: str, kernel: str, options: tuple[str, ...]) -> Any:
    """The program of an OpenCL C source, built for one device; None where the driver leaves its
    kernel out. Raises pyopencl's errors."""
    # A driver whose own cache is damaged builds programs without their kernels. It has nothing
    # kept of another text.
    for text in (source, source + ANEW):
        program = program_of_source(context, text)
        program.build(list(options), [device], cache_dir=False)
        if has_kernel(program, kernel):
            return program
        _log.warning("%s built %s without its kernel", device.name.strip(), kernel)
        _never_release(context)
    return None


def _never_release(context: Any) -> None:
    """PoCL 3.0 stops the process where a context is released that had a program without kernels."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
