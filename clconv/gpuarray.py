"""Device arrays, with PuzzleLib's interface: `pyopencl.array.Array` on the default runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyopencl.array as cl_array
from numpy.typing import DTypeLike, NDArray

from clconv.calls.elementwise import copy_view
from clconv.errors import ArrayTypeError, ProblemError
from clconv.runtime import check_context, default_runtime, memory_of, runtime_of

__all__ = ["concatenate", "copy", "empty", "to_gpu", "zeros"]


def to_gpu(array: NDArray[Any]) -> cl_array.Array:
    """A device array with the values of a NumPy array, on the default runtime.

    Args:
        array: a NumPy array of any dtype.

    Returns:
        A contiguous `pyopencl.array.Array`.

    Raises:
        OutOfMemoryError: the device has no room.

    Examples:
        >>> import numpy as np
        >>> to_gpu(np.float32([1, 2])).get().tolist()
        [1.0, 2.0]
    """
    return default_runtime().to_device(array)


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
    """An uninitialised device array, on the default runtime.

    Args:
        shape: an int, or a sequence of them.
        dtype: any that NumPy has.

    Returns:
        A contiguous `pyopencl.array.Array`.

    Raises:
        OutOfMemoryError: the device has no room.

    Examples:
        >>> empty((2, 3)).shape
        (2, 3)
    """
    return default_runtime().empty(shape, dtype)


def zeros(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
    """A device array of zeros, on the default runtime.

    Args:
        shape: an int, or a sequence of them.
        dtype: any that NumPy has.

    Returns:
        A contiguous `pyopencl.array.Array`.

    Raises:
        OutOfMemoryError: the device has no room.

    Examples:
        >>> zeros(2).get().tolist()
        [0.0, 0.0]
    """
    return default_runtime().zeros(shape, dtype)


def copy(array: cl_array.Array) -> cl_array.Array:
    """A contiguous copy of a device array, of views too.

    Args:
        array: a `pyopencl.array.Array`.

    Returns:
        One with memory of its own.

    Raises:
        ProblemError: what cannot be copied.
        OutOfMemoryError: the device has no room.

    Examples:
        >>> copy(zeros(4)[::2]).get().tolist()
        [0.0, 0.0]
    """
    if not isinstance(array, cl_array.Array):
        raise ArrayTypeError(f"array is a {type(array).__name__}, expected a device array")
    memory_of("array", array)
    runtime = runtime_of(array.context)
    result = runtime.empty(array.shape, array.dtype)
    copy_view(runtime, array, result)
    return result


def concatenate(arrays: Sequence[cl_array.Array], axis: int = 0) -> cl_array.Array:
    """One array of several, along an axis.

    Args:
        arrays: device arrays of one dtype, and of one shape but for `axis`.
        axis: the axis that they follow one another along.

    Returns:
        A contiguous `pyopencl.array.Array`.

    Raises:
        ProblemError: shapes or dtypes that differ.
        OutOfMemoryError: the device has no room.

    Examples:
        >>> concatenate([zeros(1), zeros(2)]).shape
        (3,)
    """
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
    for i, array in enumerate(arrays):
        memory_of(f"arrays[{i}]", array)
        check_context(f"arrays[{i}]", array, first.context, "arrays[0]")
    runtime = runtime_of(first.context)
    total = sum(a.shape[axis] for a in arrays)
    result = runtime.empty((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)
    start = 0
    for array in arrays:
        copy_view(runtime, array, result, start=start, strides=tuple(result.strides))
        start += array.shape[axis] * result.strides[axis]
    return result
