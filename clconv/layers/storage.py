"""What every format of files shares: names, checks, errors, files that are replaced whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.elementwise import convert, copy_view, host_values
from clconv.dtypes import BFLOAT16, is_bfloat16, is_computed
from clconv.errors import ClconvError, ModuleError
from clconv.runtime import runtime_of

__all__ = [
    "FILE_ERRORS",
    "Slot",
    "Stored",
    "check_attribute",
    "is_path",
    "modules",
    "replacing",
    "said_by",
    "set_values",
    "values_of",
]

# What the libraries raise for files that are no such files, damaged ones, or full disks.
FILE_ERRORS = (OSError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)

# The least number that rounds to float16's infinity.
HALF_OVERFLOW = 65520


class Slot(NamedTuple):
    """An array of a module, on the device or a NumPy array, with its names in a file."""

    names: list[str]
    array: Any


class Stored(NamedTuple):
    """An array in a file. `dtype` is NumPy's, or the file's word for one that NumPy lacks, which
    "bfloat16" is."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], Any]  # a NumPy array, of bfloat16 one of its bits


def modules(module: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The module and what it contains, with paths: "", ".0", ".0.conv"."""
    yield path, module
    for inner in getattr(module, "graph", ()):
        yield from modules(inner, f"{path}.{inner.name}")


def values_of(array: Any) -> Any:
    """NumPy's array of the values of a device array or of one of its own."""
    return host_values(array) if isinstance(array, cl_array.Array) else array


def check_attribute(name: str, value: Any) -> None:
    """ModuleError unless an attribute is an array."""
    if not isinstance(value, (cl_array.Array, np.ndarray)):
        raise ModuleError(f"attribute {name} is a {type(value).__name__}, expected an array")


@contextmanager
def said_by(name: str, what: str) -> Iterator[None]:
    """Errors of files, as a ModuleError that says what failed; the device's stay as they are."""
    try:
        yield
    except ClconvError as error:
        if not isinstance(error, ModuleError):
            raise
        raise ModuleError(f"Module {name} {what} error: {error}") from error
    except FILE_ERRORS as error:
        raise ModuleError(f"Module {name} {what} error: {error}") from error


@contextmanager
def replacing(path: Any) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def is_path(value: Any) -> bool:
    """Whether a value names a file."""
    return isinstance(value, (str, os.PathLike))


def _can_take(target: np.dtype[Any], dtype: Any) -> bool:
    """Whether an array of dtype `target` takes the values of a file's."""
    if is_computed(target) and isinstance(dtype, str):
        return dtype == BFLOAT16
    if not isinstance(dtype, np.dtype):
        return False
    both = is_computed(dtype) and is_computed(target)
    return dtype == target or (both and np.can_cast(dtype, target))


def _of_bits(bits: Any, target: np.dtype[Any]) -> Any:
    """The values of bfloat16's bits: themselves where these are wanted, else float32."""
    if is_bfloat16(target):
        return bits.view(target)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def set_values(slots: list[tuple[Slot, Stored]]) -> None:
    """Gives arrays the values of a file: all are checked, read and on the device before the first
    changes."""
    for slot, stored in slots:
        if stored.shape != tuple(slot.array.shape):
            raise ModuleError(
                f"{stored.name} has shape {stored.shape}, expected {tuple(slot.array.shape)}"
            )
        target = slot.array.dtype
        if not _can_take(target, stored.dtype):
            raise ModuleError(
                f"{stored.name} has dtype {stored.dtype}, expected {target}, or a narrower float"
            )
    ready = []
    for slot, stored in slots:
        values = stored.read()
        if stored.dtype == BFLOAT16:
            values = _of_bits(values, slot.array.dtype)
        if stored.dtype == BFLOAT16 and slot.array.dtype == np.float16:
            largest = np.abs(values[np.isfinite(values)]).max(initial=0)
            if largest >= HALF_OVERFLOW:
                raise ModuleError(
                    f"{stored.name} has a value of {largest:g}, expected what float16 can hold"
                )
        if isinstance(slot.array, cl_array.Array):
            runtime = runtime_of(slot.array.context)
            values = runtime.to_device(values)
            if values.dtype != slot.array.dtype:
                values = convert(runtime, values, slot.array.dtype)
        ready.append((slot.array, values))
    for array, values in ready:
        if isinstance(array, cl_array.Array):
            copy_view(runtime_of(array.context), values, array)
        else:
            np.copyto(array, values)
