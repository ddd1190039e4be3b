"""How does a recorded run go again with other values? Memory is planned, and arguments set."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyopencl as cl

from clconv.drivers.discovery import driver_errors
from clconv.drivers.memory import OVER_HOST
from clconv.onnx.recording import Check, Command, Download, Event, HostRun, ShapeCheck, Upload
from clconv.runtime import Runtime

__all__ = ["Changed", "Program", "Scratch"]

# Tensors begin at multiples of this many bytes: a line of any cache.
ALIGNMENT = 256
Span = tuple[int, int]  # the first and the last event that uses a tensor


# What a driver may still use that failed to say when it is done.
_kept: list[list[Any]] = []


class Changed(Exception):
    """A host array is not as it was in the run that was recorded."""


class Scratch:
    """Memory that the programs of one model share, one page or more; it only grows."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.pages: list[Any] = []
        self._sizes: list[int] = []
        self.version = 0

    def reserve(self, sizes: Sequence[int]) -> None:
        """Makes room for pages of so many bytes. Raises OutOfMemoryError."""
        for i, size in enumerate(sizes):
            if i < len(self._sizes) and self._sizes[i] >= size:
                continue
            self.version += 1
            if i < len(self._sizes):
                self.pages[i] = None  # goes back before more is asked for
                self._sizes[i] = 0
            else:
                self.pages.append(None)
                self._sizes.append(0)
            self.pages[i] = self._runtime.memory.allocate(size)
            self._sizes[i] = size


def _lent(events: Sequence[Event]) -> frozenset[int]:
    """Storages of uploads that only kernels read: they may lie in the host arrays themselves."""
    lent = {one.storage for one in events if isinstance(one, Upload) and 0 not in one.shape}
    downloads = {one.storage for one in events if isinstance(one, Download) and one.buffer is None}
    return frozenset(lent - downloads)


def _spans(events: Sequence[Event], lent: frozenset[int]) -> dict[int, Span]:
    """When each storage is used, those of `lent` left out."""
    spans: dict[int, Span] = {}
    for i, event in enumerate(events):
        used: list[int] = []
        if isinstance(event, Command):
            used = [place.storage for place in event.places]
        elif isinstance(event, Upload) or (isinstance(event, Download) and event.buffer is None):
            used = [event.storage]
        for number in used:
            if number in lent:
                continue
            spans[number] = spans.get(number, (i, i))[0], i
    return spans


def _placed(
    spans: Mapping[int, Span], sizes: Mapping[int, int], most: int
) -> tuple[dict[int, tuple[int, int]], list[int]]:
    """(page, offset) of each storage, and the size of each page: the largest first, each at the
    first place that no other one has at the same time."""
    there: list[tuple[int, int, int, int]] = []  # page, offset, end, storage
    found: dict[int, tuple[int, int]] = {}
    pages: list[int] = []
    for number in sorted(spans, key=lambda one: (-sizes[one], one)):
        size = -(-max(sizes[number], 1) // ALIGNMENT) * ALIGNMENT
        first, last = spans[number]
        for page in itertools.count():
            offset = 0
            for its_page, start, end, other in sorted(there):
                begin, stop = spans[other]
                if its_page != page or stop < first or last < begin:
                    continue
                if offset + size <= start:
                    break
                offset = max(offset, end)
            if offset == 0 or offset + size <= most:
                break
        there.append((page, offset, offset + size, number))
        found[number] = page, offset
        pages += [0] * (page + 1 - len(pages))
        pages[page] = max(pages[page], offset + size)
    return found, pages


def _last_uses(events: Sequence[Event], outputs: Sequence[str]) -> list[list[str]]:
    """The host arrays that no event after each one needs."""
    last: dict[str, int] = {}
    for i, event in enumerate(events):
        if isinstance(event, HostRun):
            last |= dict.fromkeys((*event.inputs, *event.outputs), i)
        elif isinstance(event, (Upload, Download, Check, ShapeCheck)):
            last[event.key] = i
    drops: list[list[str]] = [[] for _ in events]
    for name, i in last.items():
        if name not in outputs:
            drops[i].append(name)
    return drops


class Program:
    """A run of a model for inputs of certain shapes, as recorded."""

    def __init__(
        self,
        runtime: Runtime,
        scratch: Scratch,
        events: Sequence[Event],
        sizes: Mapping[int, int],
        outputs: Sequence[str],
    ) -> None:
        self._runtime = runtime
        self._scratch = scratch
        self._events = events
        self._drops = _last_uses(events, outputs)
        most = runtime.profile.max_alloc_bytes
        # Where the device reads the host's memory itself nothing is copied there.
        self._lent = _lent(events) if runtime.memory.shares_host else frozenset()
        self._readers: dict[int, list[tuple[Any, int]]] = {}
        self._borrowed: list[Any] = []  # host arrays that the device reads
        self._at, self._pages = _placed(_spans(events, self._lent), sizes, most)
        self._version = -1
        self._steps: list[Any] = []
        downloads = [i for i, one in enumerate(events) if isinstance(one, Download)]
        self._last_download = max(downloads, default=-1)
        commands = [i for i, one in enumerate(events) if isinstance(one, Command)]
        self._ends_waited = max(commands, default=-1) < self._last_download

    @property
    def nbytes(self) -> int:
        """Of the memory that its tensors share."""
        return sum(self._pages)

    def run(self, host: dict[str, Any]) -> None:
        """Runs with the arrays of `host`, by name, and puts those that it gives there. Raises
        Changed, DeviceError, and what nodes raise."""
        if self._version != self._scratch.version or not self._steps:
            self._bind()
        held: list[Any] = []  # what the device may still use
        try:
            self._queue(host, held)
        except BaseException as error:
            self._let_go(held)
            if not isinstance(error, cl.Error):
                raise
            with driver_errors(self._runtime.info.name, "run a model"):
                raise
        self._borrowed.clear()

    def _queue(self, host: dict[str, Any], held: list[Any]) -> None:
        queue, enqueue = self._runtime.queue, cl.enqueue_nd_range_kernel
        for step in self._steps:
            if type(step) is list:
                for kernel, global_size, local_size in step:
                    enqueue(queue, kernel, global_size, local_size)
                self._runtime.launches += len(step)
            else:
                held.append(step(host))
        if self._lent and not self._ends_waited:
            queue.finish()

    def _let_go(self, held: list[Any]) -> None:
        """Waits after a failure; where that fails too what is held is kept for ever, since the
        device may still use it."""
        held += self._borrowed
        self._borrowed.clear()
        _kept.append(held)
        self._runtime.queue.finish()
        _kept.remove(held)

    def _bind(self) -> None:
        """Gives each launch a kernel object of its own, with all arguments."""
        self._scratch.reserve(self._pages)
        self._version = self._scratch.version
        self._readers = {number: [] for number in self._lent}
        steps: list[Any] = []
        for i, event in enumerate(self._events):
            if isinstance(event, Command):
                if not steps or type(steps[-1]) is not list:
                    steps.append([])
                steps[-1].append(self._bound(event))
            else:
                steps.append(self._step(event, i))
        self._steps = steps

    def _bound(self, event: Command) -> tuple[Any, Any, Any]:
        kernel = self._runtime.programs.own_kernel(event.kernel, event.source)
        values = list(event.values)
        for argument, storage, start, itemsize in event.places:
            if storage in self._lent:  # another buffer in each run
                values[argument + 1] = start
                self._readers[storage].append((kernel, argument))
                continue
            page, offset = self._at[storage]
            values[argument : argument + 2] = self._scratch.pages[page], offset // itemsize + start
        kernel.set_args(*values)
        return kernel, event.launch.global_size, event.launch.kernel.local_size

    def _step(self, event: Event, i: int) -> Any:
        """What an event that is no command does with the host's arrays."""
        drops = self._drops[i]
        queue = self._runtime.queue
        if isinstance(event, Upload) and event.storage in self._lent:
            readers = self._readers[event.storage]
            return _lending(self._runtime.context, event, readers, self._borrowed, drops)
        if isinstance(event, Upload):
            page, offset = self._at[event.storage]
            return _uploading(queue, event, self._scratch.pages[page], offset, drops)
        if isinstance(event, Download):
            buffer, start = event.buffer, event.start
            if buffer is None:
                page, offset = self._at[event.storage]
                buffer, start = self._scratch.pages[page], offset + start
            waits = i == self._last_download or not isinstance(self._events[i + 1], Download)
            return _downloading(queue, event, buffer, start, waits)
        if isinstance(event, ShapeCheck):
            return _checking_shape(event, drops)
        if isinstance(event, Check):
            return _checking(event, drops)
        assert isinstance(event, HostRun)
        return _hosting(self._runtime, event, drops)


def _uploading(queue: Any, event: Upload, buffer: Any, offset: int, drops: list[str]) -> Any:
    key, _, shape, dtype = event

    def step(host: dict[str, Any]) -> Any:
        array = host[key]
        if array.shape != shape or array.dtype != dtype:
            raise Changed(key)
        array = np.ascontiguousarray(array)
        made = None
        if array.nbytes:
            made = cl.enqueue_copy(queue, buffer, array, dst_offset=offset, is_blocking=False)
        for name in drops:
            del host[name]
        return made

    return step


def _lending(
    context: Any,
    event: Upload,
    readers: Sequence[tuple[Any, int]],
    others: list[Any],
    drops: list[str],
) -> Any:
    """The kernels of `readers` get a buffer over the host array's own memory; `others` are those
    lent so far."""
    key, _, shape, dtype = event

    def step(host: dict[str, Any]) -> Any:
        array = host[key]
        if array.shape != shape or array.dtype != dtype:
            raise Changed(key)
        flags = array.flags
        fit = flags.c_contiguous and flags.aligned and flags.writeable
        # OpenCL promises nothing of buffers that overlap, and drivers might write to any.
        if not fit or any(np.may_share_memory(array, one) for one in others):
            array = array.copy()
        others.append(array)
        buffer = cl.Buffer(context, OVER_HOST, hostbuf=array)
        for kernel, argument in readers:
            kernel.set_arg(argument, buffer)
        for name in drops:
            del host[name]
        return buffer

    return step


def _downloading(queue: Any, event: Download, buffer: Any, start: int, waits: bool) -> Any:
    key, _, _, shape, dtype, _ = event

    def step(host: dict[str, Any]) -> Any:
        array = host[key] = np.empty(shape, dtype)
        if not array.nbytes:
            return None
        return cl.enqueue_copy(queue, array, buffer, src_offset=start, is_blocking=waits)

    return step


def _checking_shape(event: ShapeCheck, drops: list[str]) -> Any:
    key, shape = event

    def step(host: dict[str, Any]) -> None:
        if host[key].shape != shape:
            raise Changed(key)
        for name in drops:
            del host[name]

    return step


def _checking(event: Check, drops: list[str]) -> Any:
    key, value = event

    def step(host: dict[str, Any]) -> None:
        array = host[key]
        if array.dtype != value.dtype or not np.array_equal(array, value):
            raise Changed(key)
        for name in drops:
            del host[name]

    return step


def _hosting(runtime: Runtime, event: HostRun, drops: list[str]) -> Any:
    run, inputs, outputs = event

    def step(host: dict[str, Any]) -> None:
        with runtime:  # for convolutions of subgraphs
            results = run(*[host[name] for name in inputs])
        host.update(zip(outputs, results, strict=True))
        for name in drops:
            del host[name]

    return step
