"""How do kernels reach the memory of NumPy arrays? It is borrowed for a call, or copied."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
from numpy.typing import NDArray

from clconv.calls.layouts import Shape
from clconv.drivers.discovery import driver_errors
from clconv.runtime import Runtime

__all__ = ["HostArrays"]

# Bytes from an array's first to its last for each of its own, at most: drivers may copy all of
# them, and a device takes so many at once.
MOST_GAPS = 4
# Results are mapped as bytes.
_BYTE = np.dtype(np.uint8)

# The calls whose kernels may still use the memory of their arrays.
_held: set[HostArrays] = set()


class HostArrays:
    """The NumPy arrays of one call as device arrays, in place where the device shares memory.

    There each is a buffer over the array's own memory, made for this call: OpenCL promises nothing
    about memory that the host writes while a buffer over it exists, and nothing about buffers that
    overlap, so that one of these is copied. Elsewhere values are copied to the device, and results
    back. Used in a `with` statement: after it, also if it raised, no kernel uses the memory.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.in_place = runtime.memory.shares_host
        self._spans: list[tuple[int, int]] = []
        self._borrowed: list[NDArray[Any]] = []
        # By the number of their buffer, which is kept, since another might get that number.
        self._results: dict[int, tuple[cl_array.Array, NDArray[Any]]] = {}
        self._waited = False

    def __enter__(self) -> HostArrays:
        _held.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits unless a result was waited for. If that fails, or is interrupted, the memory is
        kept for ever, since the device may still use it."""
        if self._borrowed and (kind is not None or not self._waited):
            self.runtime.finish()
        _held.discard(self)

    def read(self, array: NDArray[Any], *, strided: bool = False) -> cl_array.Array:
        """The values of a NumPy array on the device: contiguous, or in its own rows if it may be
        `strided` and their elements follow each other. Raises OutOfMemoryError."""
        in_rows = strided and array.ndim > 0 and array.strides[-1] == array.itemsize
        values = array if in_rows else np.asarray(array, order="C")
        # Memory that cannot be written is not given to drivers, which might.
        if self.in_place and values.size and values.flags.writeable:
            borrowed = self._over(values)
            if borrowed is not None:
                return borrowed
        return self.runtime.to_device(values)

    def write(
        self,
        shape: Shape,
        dtype: np.dtype[Any],
        out: NDArray[Any] | None = None,
        *,
        counts: bool = False,
    ) -> cl_array.Array:
        """A contiguous array for results, in the memory of `out` if that is given and contiguous,
        with the values of `out` if these `counts`. Raises OutOfMemoryError."""
        if self.in_place and 0 not in shape:
            self.runtime.memory.check_size(shape, dtype)
            if out is not None and out.flags.c_contiguous:
                values = out
            else:
                values = self.runtime.memory.host_empty(shape, dtype)
                if counts and out is not None:
                    values[...] = out
            borrowed = self._over(values)
            if borrowed is not None:
                self._results[_number(borrowed)] = borrowed, values
                return borrowed
        if counts and out is not None:
            return self.runtime.to_device(out)
        return self.runtime.empty(shape, dtype)

    def values(self, result: cl_array.Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The values of a contiguous array, all of it if `write` gave it, in NumPy's memory, once
        everything queued before has run: in `out` if that is given, of any strides. Raises
        DeviceError, OutOfMemoryError."""
        runtime: Runtime = self.runtime
        buffer: Any = result.base_data
        known = self._results.get(_number(result)) if self._results and result.size else None
        self._waited = True
        if known is None:
            if out is None or out.flags.c_contiguous:
                return runtime.to_host(result, out)
            out[...] = runtime.to_host(result)
            return out
        values = known[1]
        with driver_errors(runtime.info.name, f"give an array of {result.nbytes} bytes back"):
            # Mapping is what shows a buffer's content to the host.
            mapped, _ = cl.enqueue_map_buffer(
                runtime.queue, buffer, cl.map_flags.READ, 0, (values.nbytes,), _BYTE
            )
            mapped.base.release(runtime.queue)
        if out is None or values is out:
            return values
        out[...] = values
        return out

    def _over(self, values: NDArray[Any]) -> cl_array.Array | None:
        """A device array over a NumPy array's memory; None where that is not allowed."""
        size = values.dtype.itemsize
        address = values.ctypes.data
        reached = [(n - 1) * step for n, step in zip(values.shape, values.strides, strict=True)]
        begin = address + sum(step for step in reached if step < 0)
        end = address + sum(step for step in reached if step > 0) + size
        if address % size or any(step % size for step in values.strides):
            return None
        if any(begin < other_end and other < end for other, other_end in self._spans):
            return None
        if end - begin > MOST_GAPS * values.nbytes:
            return None
        self._spans.append((begin, end))
        self._borrowed.append(values)
        memory = (ctypes.c_byte * (end - begin)).from_address(begin)
        array = self.runtime.memory.over(memory, values.shape, values.dtype)
        if values.flags.c_contiguous:
            return array
        return cl_array.Array(
            self.runtime.queue,
            values.shape,
            values.dtype,
            data=array.base_data,
            offset=address - begin,
            strides=values.strides,
        )


def _number(array: cl_array.Array) -> int:
    """That of its buffer."""
    buffer: Any = array.base_data
    return int(buffer.int_ptr)
