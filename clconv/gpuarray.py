"""Device arrays, PuzzleLib's way: `pyopencl.array.Array` on the default runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyopencl.array as cl_array
from numpy.typing import DTypeLike, NDArray

from clconv.elementwise import contiguous, contiguous_copy
from clconv.errors import ArrayTypeError, ProblemError
from clconv.runtime import default_runtime, runtime_of

__all__ = ["concatenate", "copy", "empty", "to_gpu", "zeros"]


def to_gpu(array: NDArray[Any]) -> cl_array.Array:
    """A device array with the values of a NumPy array. Raises OutOfMemoryError."""
    return default_runtime().to_device(array)


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
    """An uninitialised device array. Raises OutOfMemoryError."""
    return default_runtime().empty(shape, dtype)


def zeros(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
    """A device array of zeros. Raises OutOfMemoryError."""
    return default_runtime().zeros(shape, dtype)


def _strided(array: cl_array.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, strides) with three dimensions."""
    if array.flags.c_contiguous:
        return (1, 1, array.size), (0, 0, array.dtype.itemsize)
    if len(array.shape) > 3:
        raise ProblemError(
            f"array has shape {array.shape}, expected at most 3 dimensions in a view"
        )
    missing = 3 - len(array.shape)
    return (1,) * missing + tuple(array.shape), (0,) * missing + tuple(array.strides)


def copy(array: cl_array.Array) -> cl_array.Array:
    """A contiguous copy, of views too. Raises ProblemError, OutOfMemoryError."""
    if not isinstance(array, cl_array.Array):
        raise ArrayTypeError(f"array is a {type(array).__name__}, expected a device array")
    runtime = runtime_of(array.context)
    result = runtime.empty(array.shape, array.dtype)
    contiguous_copy(runtime, array, *_strided(array), result)
    return result


def concatenate(arrays: Sequence[cl_array.Array], axis: int = 0) -> cl_array.Array:
    """One array of several along an axis. Raises ProblemError where shapes or dtypes differ."""
    if not arrays:
        raise ProblemError("arrays is empty, expected at least one array")
    first = arrays[0]
    for i, array in enumerate(arrays):
        if not isinstance(array, cl_array.Array):
            raise ArrayTypeError(
                f"arrays[{i}] is a {type(array).__name__}, expected a device array"
            )
        if array.dtype != first.dtype:
            raise ProblemError(f"arrays[{i}] has dtype {array.dtype}, expected {first.dtype}")
    dimensions = len(first.shape)
    if not -dimensions <= axis < dimensions:
        raise ProblemError(f"axis is {axis}, expected one of {dimensions} dimensions")
    axis %= dimensions
    for i, array in enumerate(arrays):
        expected = first.shape[:axis] + array.shape[axis : axis + 1] + first.shape[axis + 1 :]
        if tuple(array.shape) != tuple(expected):
            raise ProblemError(f"arrays[{i}] has shape {array.shape}, expected {expected}")
    runtime = runtime_of(first.context)
    outer = int(np.prod(first.shape[:axis], dtype=np.int64))
    total = sum(a.shape[axis] for a in arrays)
    shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    result = runtime.empty(shape, first.dtype)
    inner = int(np.prod(first.shape[axis + 1 :], dtype=np.int64)) * first.dtype.itemsize
    start = 0
    for array in arrays:
        width = array.shape[axis] * inner
        if outer and width:
            source = contiguous(runtime, array)
            runtime.copy_block(source, result, outer, width, total * inner, start)
        start += width
    return result
