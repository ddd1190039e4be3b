"""Is anything written beside a buffer? A runtime whose buffers have guard zones on both sides.

Guards, and a buffer that nobody has written yet, are NaN in every dtype: who reads them computes
what is not right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyopencl as cl

from clconv import Runtime
from clconv.drivers.memory import Memory
from clconv.planning.profiles import DeviceProfile, profile

GUARD_BYTES = 4096
GUARD = np.uint8(0xFF)


class GuardedMemory(Memory):
    """Memory whose buffers have guard zones, and come from no pool: they are no larger than asked
    for."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.queue, runtime.info.name, runtime.profile)
        self.guarded: list[tuple[cl.Buffer, int]] = []
        self.host_guarded: list[np.ndarray[Any, Any]] = []

    def allocate(self, nbytes: int) -> cl.Buffer:
        nbytes = max(nbytes, 1)
        size = nbytes + 2 * GUARD_BYTES
        whole = cl.Buffer(self.queue.context, cl.mem_flags.READ_WRITE, size)
        cl.enqueue_fill_buffer(self.queue, whole, GUARD, 0, size)
        part = whole.get_sub_region(GUARD_BYTES, nbytes)
        self.guarded.append((whole, nbytes))
        return part

    def host_empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        whole = np.full(nbytes + 2 * GUARD_BYTES, GUARD)
        self.host_guarded.append(whole)
        return whole[GUARD_BYTES : GUARD_BYTES + nbytes].view(dtype).reshape(shape)


class GuardedRuntime(Runtime):
    """A runtime that sees what is written beside its buffers."""

    memory: GuardedMemory

    def __init__(self, device: Any = None) -> None:
        super().__init__(device)
        self.memory = GuardedMemory(self)

    def check_guards(self) -> None:
        """AssertionError where anything was written outside a buffer since the last check."""
        self.finish()
        for whole, nbytes in self.memory.guarded:
            content = np.empty(nbytes + 2 * GUARD_BYTES, np.uint8)
            cl.enqueue_copy(self.queue, content, whole)
            _check(content)
        for content in self.memory.host_guarded:
            _check(content)
        self.memory.guarded.clear()
        self.memory.host_guarded.clear()


def _check(content: np.ndarray[Any, Any]) -> None:
    assert (content[:GUARD_BYTES] == GUARD).all(), "written before a buffer"
    assert (content[-GUARD_BYTES:] == GUARD).all(), "written behind a buffer"


def limited(name: str, own: DeviceProfile) -> DeviceProfile:
    """The profile of this name, in what a device with the profile `own` can run."""
    return profile(name).within(own)
