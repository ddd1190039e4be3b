"""Which shapes and strides do the arrays of a call have, and do two of them share bytes?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array

from clconv.runtime import memory_of

__all__ = ["Array", "Layout", "Shape", "exchanged", "share_bytes", "three_dimensions"]

Array = Any  # numpy.ndarray or pyopencl.array.Array
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an array lies; strides in bytes."""

    shape: Shape
    strides: Shape
    dtype: np.dtype[Any]

    @classmethod
    def contiguous(cls, shape: Shape, dtype: np.dtype[Any]) -> Layout:
        """That of an array whose elements follow each other."""
        steps = [dtype.itemsize]
        for size in shape[:0:-1]:
            steps.append(steps[-1] * max(size, 1))
        return cls(shape, tuple(steps[::-1]) if shape else (), dtype)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other; one alone along a dimension may lie anywhere."""
        ideal = self.contiguous(self.shape, self.dtype).strides
        steps = zip(self.shape, self.strides, ideal, strict=True)
        return 0 in self.shape or all(n == 1 or a == b for n, a, b in steps)

    @property
    def has_own_places(self) -> bool:
        """Whether no two elements share a place: the steps along each dimension pass over all that
        the dimensions of smaller steps reach, as in every view that slices and transposes make."""
        if 0 in self.shape:
            return True
        reached = self.dtype.itemsize
        pairs = zip(map(abs, self.strides), self.shape, strict=True)
        for step, size in sorted(pair for pair in pairs if pair[1] > 1):
            if step < reached:
                return False
            reached += (size - 1) * step
        return True

    @property
    def exchanged(self) -> Layout:
        """That of the same array with its last two dimensions exchanged."""
        return Layout(exchanged(self.shape), exchanged(self.strides), self.dtype)


def exchanged(sizes: Shape) -> Shape:
    """(N, C, L) as (N, L, C) and back, also without N; others stay."""
    return (*sizes[:-2], *sizes[:-3:-1])


def three_dimensions(sizes: Shape) -> tuple[int, int, int]:
    """(C, L) gets a batch of one."""
    return (1, *sizes)[-3:]  # type: ignore[return-value]


class Addresses:
    """The addresses of a device array, as an object that NumPy can compare with another."""

    def __init__(self, array: cl_array.Array) -> None:
        # Never read: only the pattern of addresses counts. A buffer may start anywhere but at 0.
        start = array.base_data.svm_ptr if isinstance(array.base_data, cl.SVMPointer) else 4096
        self.__array_interface__ = {
            "version": 3,
            "data": (start + array.offset, True),
            "typestr": array.dtype.str,
            "shape": tuple(array.shape),
            "strides": tuple(array.strides),
        }


def share_bytes(a: Array, b: Array) -> bool:
    if isinstance(a, np.ndarray):
        return np.shares_memory(a, b)
    if a.size == 0 or b.size == 0 or memory_of("a", a) != memory_of("b", b):
        return False
    return np.shares_memory(np.asarray(Addresses(a)), np.asarray(Addresses(b)))
