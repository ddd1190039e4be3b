"""Programs whose compiler's words go to the log instead of the process's warnings."""

from __future__ import annotations

import logging
from typing import Any

import pyopencl as cl

__all__ = ["binary_of", "program_of_binary", "program_of_source"]

_log = logging.getLogger(__name__)

_Program: Any = cl._cl._Program


class _Quiet(_Program):  # type: ignore[misc]
    """A program that keeps what its compiler says to itself where the build succeeds.

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
    """What the compiler made of a program that was built for one device, whatever others its
    context has, whose places are empty; None where the driver gives nothing."""
    binaries: list[bytes] = program.get_info(cl.program_info.BINARIES)
    return next((one for one in binaries if one), None)
