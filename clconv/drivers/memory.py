"""How much memory does a device have, and how is it allocated? A pool, its limits, arrays."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Hashable, Sequence
from operator import index
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pyopencl.tools
from numpy.typing import DTypeLike, NDArray

from clconv.bounded import Bounded
from clconv.drivers.discovery import check_process
from clconv.dtypes import dtype_of
from clconv.errors import ArrayTypeError, DeviceError, OutOfMemoryError, ProblemError
from clconv.planning.profiles import DeviceProfile

__all__ = ["Memory", "check_context", "memory_of"]

# Arrays without memory, by shape and dtype.
OUTLINES_KEPT = 1024
# Of buffers over the host's memory, be it read or written: Intel's runtime copies all of it for a
# buffer that is said to be read only.
OVER_HOST = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR


class Memory:
    """The memory of a queue's device, named `name`, of which no more is taken than `limits` has."""

    def __init__(self, queue: cl.CommandQueue, name: str, limits: DeviceProfile) -> None:
        self.queue = queue
        self.pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(queue))
        self._name = name
        self._limits = limits
        self._allocating = threading.Lock()
        # Whether the device reads and writes the host's memory itself.
        self.shares_host = bool(queue.device.host_unified_memory)
        self.outlines: Bounded[Hashable, cl_array.Array] = Bounded(OUTLINES_KEPT)

    def allocate(self, nbytes: int) -> Any:
        """A device buffer from the pool; OutOfMemoryError with the figures where there is none."""
        check_process()
        nbytes = max(nbytes, 1)
        limits = self._limits
        error: cl.Error | None = None
        with self._allocating:
            # What the pool holds goes back before an allocation fails. Some drivers promise memory
            # that they do not have, and fail, or their machine does, when it is used: no runtime
            # takes more than its device has.
            if self.pool.managed_bytes + nbytes > limits.global_bytes:
                self.pool.free_held()
            if (
                nbytes <= limits.max_alloc_bytes
                and self.pool.active_bytes + nbytes <= limits.global_bytes
            ):
                # The pool rounds sizes up, so that the last try is without it.
                for attempt in (self.pool, self.pool, self._unpooled):
                    try:
                        return attempt(nbytes)
                    except cl.MemoryError as refused:
                        error = refused
                        self.pool.free_held()
        raise self._out_of_memory(nbytes) from error

    def _out_of_memory(self, nbytes: int) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"{nbytes} bytes asked for; {self._name} allocates at most "
            f"{self._limits.max_alloc_bytes} bytes at once and {self._limits.global_bytes} in all, "
            f"{self.pool.active_bytes} of them in use by this runtime"
        )

    def _unpooled(self, nbytes: int) -> Any:
        return cl.Buffer(self.queue.context, cl.mem_flags.READ_WRITE, nbytes)

    def no_room(self, doing: str, error: cl.Error) -> OutOfMemoryError:
        """For drivers that find memory only when it is used."""
        return OutOfMemoryError(
            f"{self._name} has no room to {doing}: {error}; it has "
            f"{self._limits.global_bytes} bytes, {self.pool.active_bytes} in use here"
        )

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> cl_array.Array:
        """An uninitialised device array. Raises ProblemError, OutOfMemoryError."""
        sizes = shape if type(shape) is tuple or isinstance(shape, Sequence) else (shape,)
        try:
            key = tuple(map(index, sizes)), dtype_of(dtype)
        except TypeError as error:
            raise ProblemError(
                f"shape is {shape!r} and dtype {dtype!r}, expected integers and a dtype"
            ) from error
        array = self._outlined(key)
        array.base_data = self.allocate(array.nbytes)
        return array

    def over(
        self, memory: ctypes.Array[ctypes.c_byte], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> cl_array.Array:
        """A contiguous array at the beginning of the host's memory, which must live as long. Raises
        OutOfMemoryError."""
        array = self._outlined((shape, dtype))
        try:
            array.base_data = cl.Buffer(self.queue.context, OVER_HOST, hostbuf=memory)
        except (cl.MemoryError, cl.LogicError) as error:
            raise self._out_of_memory(len(memory)) from error
        return array

    def _outlined(self, key: tuple[tuple[int, ...], np.dtype[Any]]) -> cl_array.Array:
        """A new array but for its memory."""
        outline = self.outlines.get(key)
        if outline is None:
            outline = self.outlines.set_default(key, self._outline(*key))
        # The constructor takes longer than a launch; every array but the first is a copy.
        array = cl_array.Array.__new__(cl_array.Array)
        vars(array).update(vars(outline))
        array.events = []
        return array

    def _outline(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> cl_array.Array:
        """An array but for its memory, whose bytes are no wrapped number."""
        if any(size < 0 for size in shape):
            raise ProblemError(f"shape is {shape}, expected sizes of at least 0")
        if dtype.hasobject:
            raise ProblemError(f"dtype is {dtype}, expected numbers")
        self.check_size(shape, dtype)
        no_memory: Any = False  # None would ask for some
        array = cl_array.Array(self.queue, shape, dtype, data=no_memory, allocator=self.pool)
        array.base_data = None
        _ = array.flags  # found out once for all copies
        return array

    def check_size(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """OutOfMemoryError where no array may be as large."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > self._limits.max_alloc_bytes:
            raise self._out_of_memory(nbytes)

    def host_empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised NumPy array for results."""
        return np.empty(shape, dtype)

    def trim(self) -> None:
        """Gives unused memory of the pool back to the device."""
        check_process()
        with self._allocating:
            self.pool.free_held()

    def info(self) -> dict[str, int]:
        """Bytes: `in_use` by arrays, `held` by the pool for reuse, `device` in all, `largest`
        single allocation."""
        managed, active = self.pool.managed_bytes, self.pool.active_bytes
        return {
            "in_use": active,
            "held": managed - active,
            "device": self._limits.global_bytes,
            "largest": self._limits.max_alloc_bytes,
        }


# Whose memory an array has


def memory_of(name: str, array: cl_array.Array) -> int:
    """Equal numbers for arrays that may share bytes: their buffer's, and 0 for all in shared
    virtual memory, where addresses tell. ArrayTypeError for arrays without such memory."""
    base: Any = array.base_data
    if isinstance(base, cl.SVMPointer) or array.nbytes == 0:  # an empty array needs no memory
        return 0
    if isinstance(base, cl.MemoryObjectHolder) and not isinstance(base, cl.Image):
        return int(base.int_ptr)
    raise ArrayTypeError(
        f"{name} has memory of type {type(base).__qualname__}, expected a pyopencl.Buffer or "
        "shared virtual memory"
    )


def check_context(name: str, array: cl_array.Array, context: Any, owner: object) -> None:
    """DeviceError that names both contexts unless the array is of this one, `owner`'s."""
    other: Any = array.context
    if other.int_ptr != context.int_ptr:
        raise DeviceError(
            f"{name} is on {_name(other)}, expected {_name(context)}, the context of {owner}: each "
            "Runtime has its own; one has to make both arrays, and .get() brings one to the host"
        )


def _name(context: Any) -> str:
    return f"context {context.int_ptr:#x} ({', '.join(d.name.strip() for d in context.devices)})"
