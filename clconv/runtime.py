"""Where things run: a device's context, queue, memory and programs, and the launches on it."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pyopencl.tools
from numpy.typing import DTypeLike, NDArray

from clconv import settings
from clconv.bounded import Bounded
from clconv.drivers.building import prepare_invoker
from clconv.drivers.discovery import (
    check_process,
    choose,
    driver_errors,
    info_of,
    profile_of,
    require,
)
from clconv.drivers.programs import Programs
from clconv.errors import ArrayTypeError, BuildError, DeviceError, OutOfMemoryError, ProblemError
from clconv.planning.planner import Choice, KernelPlan, candidates
from clconv.planning.profiles import DeviceProfile
from clconv.planning.profiles import profile as named_profile
from clconv.planning.records import Database, RecordKey
from clconv.problem import Conv1dProblem, Epilogue, Pass
from clconv.render import render
from clconv.variants.base import Kernel, Launch, Workspace

__all__ = [
    "Argument",
    "Command",
    "Prepared",
    "Runtime",
    "arguments",
    "check_context",
    "default_runtime",
    "memory_of",
    "replan",
    "runtime_of",
]

_log = logging.getLogger(__name__)

# Refusals that were told.
REFUSALS_KEPT = 1024
# What calls of `clconv.functional` do, by everything that it depends on.
RECIPES_KEPT = 1024
# Arrays without memory, by shape and dtype.
OUTLINES_KEPT = 1024
# Runtimes made for arrays of contexts that no living Runtime has.
ADOPTED_KEPT = 8

# What a kernel gets for an operand: its buffer, then 64-bit offset and strides in elements.
Argument = tuple[Any, ...]
# What is queued: a kernel of this thread, its launch, and its arguments in order.
Command = tuple[Any, Launch, Sequence[Any]]


@dataclass(frozen=True)
class Prepared:
    """A plan that the device builds, with the OpenCL C of each launch's kernel, those of its
    preparation first."""

    plan: KernelPlan
    sources: tuple[tuple[Kernel, str], ...]


class Runtime:
    """One device made ready: context, in-order queue, memory pool and compiled programs.

    `device` is an index, an id "platform:device", a kind ("gpu", "cpu", "accelerator"), part of a
    name, or a pyopencl Device, Context or CommandQueue; None asks `CLCONV_DEVICE`, then
    `PYOPENCL_CTX`, then takes the first of `devices()` that works. `workspace_limit` is the most
    bytes that a plan's workspace may have, `program_cache_size` how many compiled programs are
    kept. With `exact`, which is False unless `CLCONV_EXACT` is 1, calls keep to variants that form
    the definition's own sums. `profile` is a DeviceProfile, or the name of one, to plan for instead
    of the device's own, within the limits that the device has: for tests of a GPU's plans on a CPU.
    Raises DeviceError where there is no such device or profile, or the device cannot build a small
    kernel. `with runtime:` makes it the default of that block and thread.
    """

    def __init__(
        self,
        device: Any = None,
        *,
        workspace_limit: int | None = None,
        program_cache_size: int = 256,
        exact: bool | None = None,
        profile: DeviceProfile | str | None = None,
    ) -> None:
        for name, value, least in (
            ("workspace_limit", workspace_limit, 0),
            ("program_cache_size", program_cache_size, 1),
        ):
            if value is not None and (not isinstance(value, int) or value < least):
                raise DeviceError(f"{name} is {value!r}, expected an integer of at least {least}")
        if not isinstance(exact, bool | None):
            raise DeviceError(f"exact is {exact!r}, expected True, False or None")
        if isinstance(profile, str):
            profile = named_profile(profile)
        if not isinstance(profile, DeviceProfile | None):
            raise DeviceError(
                f"profile is {profile!r}, expected a DeviceProfile or the name of one"
            )
        check_process()
        prepare_invoker()
        queue = None
        if isinstance(device, cl.CommandQueue):
            context, chosen = device.context, device.device
            # Launches rely on the order of the queue; another queue's arrays are waited for.
            if not device.properties & cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE:
                queue = device
        elif isinstance(device, cl.Context):
            context, chosen = device, device.devices[0]
        else:
            chosen = device if isinstance(device, cl.Device) else choose(device)
            context = None
        if isinstance(device, (cl.CommandQueue, cl.Context, cl.Device)):
            require(chosen)
        with driver_errors(chosen.name.strip(), "be made ready"):
            self.context = context or cl.Context([chosen])
            self.queue = queue or cl.CommandQueue(self.context, chosen)
            self._pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(self.queue))
            self.info = info_of(chosen)
            own = profile_of(chosen)
            self.profile = own if profile is None else profile.within(own)
        self.device = chosen
        self.records = _database(chosen)
        self._handle = self.queue.int_ptr
        self.workspace_limit = workspace_limit
        self.exact = settings.exact_choice() if exact is None else exact
        self._allocating = threading.Lock()
        self.programs = Programs(self.context, chosen, program_cache_size)
        self.recipes: Bounded[Hashable, Any] = Bounded(RECIPES_KEPT)
        self._outlines: Bounded[Hashable, cl_array.Array] = Bounded(OUTLINES_KEPT)
        self._warned: Bounded[Hashable, bool] = Bounded(REFUSALS_KEPT)
        self._foreign: deque[tuple[Any, tuple[Any, ...]]] = deque()
        self._keeping = threading.Lock()
        self.launches = 0  # kernels queued so far
        _register(self)

    def __repr__(self) -> str:
        return f"<clconv.Runtime on {self.info.name} ({self.info.platform})>"

    def __deepcopy__(self, memo: object) -> Runtime:
        return self  # as a device is

    def __reduce__(self) -> tuple[Any, ...]:
        return default_runtime, ()  # of whoever reads the pickle

    def __enter__(self) -> Runtime:
        check_process()
        _entered().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _entered().pop()

    # Memory

    def _allocate(self, nbytes: int) -> Any:
        """A device buffer from the pool; OutOfMemoryError with the figures where there is none."""
        check_process()
        nbytes = max(nbytes, 1)
        device = self.profile
        error: cl.Error | None = None
        with self._allocating:
            # What the pool holds goes back before an allocation fails. Some drivers promise memory
            # that they do not have, and fail, or their machine does, when it is used: no runtime
            # takes more than its device has.
            if self._pool.managed_bytes + nbytes > device.global_bytes:
                self._pool.free_held()
            if (
                nbytes <= device.max_alloc_bytes
                and self._pool.active_bytes + nbytes <= device.global_bytes
            ):
                # The pool rounds sizes up, so that the last try is without it.
                for attempt in (self._pool, self._pool, self._unpooled):
                    try:
                        return attempt(nbytes)
                    except cl.MemoryError as refused:
                        error = refused
                        self._pool.free_held()
        raise self._out_of_memory(nbytes) from error

    def _out_of_memory(self, nbytes: int) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"{nbytes} bytes asked for; {self.info.name} allocates at most "
            f"{self.profile.max_alloc_bytes} bytes at once and {self.profile.global_bytes} in all, "
            f"{self._pool.active_bytes} of them in use by this runtime"
        )

    def _unpooled(self, nbytes: int) -> Any:
        return cl.Buffer(self.context, cl.mem_flags.READ_WRITE, nbytes)

    def _no_room(self, doing: str, error: cl.Error) -> OutOfMemoryError:
        """For drivers that find memory only when it is used."""
        return OutOfMemoryError(
            f"{self.info.name} has no room to {doing}: {error}; it has "
            f"{self.profile.global_bytes} bytes, {self._pool.active_bytes} in use here"
        )

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
        """An uninitialised device array. Raises ProblemError, OutOfMemoryError."""
        sizes = shape if isinstance(shape, Sequence) else (shape,)
        try:
            key = tuple(map(index, sizes)), np.dtype(dtype)
        except TypeError as error:
            raise ProblemError(
                f"shape is {shape!r} and dtype {dtype!r}, expected integers and a dtype"
            ) from error
        outline = self._outlines.get(key)
        if outline is None:
            outline = self._outlines.set_default(key, self._outline(*key))
        # The constructor takes longer than a launch; every array but the first is a copy.
        array = cl_array.Array.__new__(cl_array.Array)
        vars(array).update(vars(outline))
        array.base_data = self._allocate(outline.nbytes)
        array.events = []
        return array

    def _outline(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> cl_array.Array:
        """An array but for its memory, whose bytes are no wrapped number."""
        if any(size < 0 for size in shape):
            raise ProblemError(f"shape is {shape}, expected sizes of at least 0")
        if dtype.hasobject:
            raise ProblemError(f"dtype is {dtype}, expected numbers")
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > self.profile.max_alloc_bytes:
            raise self._out_of_memory(nbytes)
        no_memory: Any = False  # None would ask for some
        array = cl_array.Array(self.queue, shape, dtype, data=no_memory, allocator=self._pool)
        array.base_data = None
        _ = array.flags  # found out once for all copies
        return array

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
        """A device array of zeros. Raises OutOfMemoryError."""
        array = self.empty(shape, dtype)
        self.fill(array, 0)
        return array

    def to_device(self, array: NDArray[Any]) -> cl_array.Array:
        """A device array with the values of a NumPy array, contiguous. Raises OutOfMemoryError."""
        host = np.asarray(array)
        device = self.empty(host.shape, host.dtype)
        if host.size:
            with driver_errors(self.info.name, f"take an array of {host.nbytes} bytes"):
                device.set(np.asarray(host, order="C"))
            device.events.clear()  # the values are there already
        return device

    def to_host(self, array: cl_array.Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The values of a contiguous device array as a NumPy array, `out` if given, once everything
        queued before has run. Raises DeviceError, OutOfMemoryError."""
        values = np.empty(array.shape, array.dtype) if out is None else out
        if array.size:
            with driver_errors(self.info.name, f"give an array of {array.nbytes} bytes back"):
                array.get(self.queue, values)
        return values

    def fill(self, array: cl_array.Array, value: float) -> None:
        """Queues filling a contiguous device array, of any dtype, with one value."""
        if array.size == 0:
            return
        pattern = np.array(value, array.dtype)
        buffer: Any = array.base_data
        waits, foreign = self._waits((array,))
        with driver_errors(self.info.name, f"fill an array of {array.nbytes} bytes"):
            event = cl.enqueue_fill_buffer(
                self.queue, buffer, pattern, array.offset, array.nbytes, wait_for=waits
            )
        self._record(event, (array,), foreign)

    def copy(self, source: cl_array.Array, target: cl_array.Array) -> None:
        """Queues copying a contiguous device array to another one of its bytes, in another
        buffer."""
        if source.size == 0:
            return
        memory: tuple[Any, Any] = (target.base_data, source.base_data)
        waits, foreign = self._waits((source, target))
        with driver_errors(self.info.name, f"copy an array of {source.nbytes} bytes"):
            event = cl.enqueue_copy(
                self.queue,
                *memory,
                byte_count=source.nbytes,
                src_offset=source.offset,
                dst_offset=target.offset,
                wait_for=waits,
            )
        self._record(event, (target,), foreign)

    def finish(self) -> None:
        """Waits for everything that was queued."""
        check_process()
        with driver_errors(self.info.name, "finish what was queued"):
            self.queue.finish()
        with self._keeping:
            while self._foreign and _complete(self._foreign[0][0]):
                self._foreign.popleft()

    def trim(self) -> None:
        """Gives memory that the pool holds but nobody uses back to the device."""
        check_process()
        with self._allocating:
            self._pool.free_held()

    def memory_info(self) -> dict[str, int]:
        """Bytes: `in_use` by arrays, `held` by the pool for reuse, `device` in all, `largest`
        single allocation."""
        managed, active = self._pool.managed_bytes, self._pool.active_bytes
        return {
            "in_use": active,
            "held": managed - active,
            "device": self.profile.global_bytes,
            "largest": self.profile.max_alloc_bytes,
        }

    # Planning

    def candidates(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue = Epilogue(),
        variant: str = "auto",
        choice: Choice | None = None,
        exact: bool | None = None,
    ) -> Iterator[KernelPlan]:
        """The plans for this device, best first, each made when it is asked for: "auto" starts with
        `choice`, or what the user's tuning found to be the fastest for exactly this problem and
        limit. Raises ProblemError, OutOfMemoryError."""

        def choices() -> list[Choice]:
            first = [] if choice is None else [choice]
            if variant != "auto":
                return first
            key = RecordKey(problem, pass_, self.workspace_limit)
            return first + self.records.choices(key)

        return candidates(
            problem,
            pass_,
            self.profile,
            epilogue=epilogue,
            variant=variant,
            workspace_limit=self.workspace_limit,
            choices=choices,
            exact=self.exact if exact is None else exact,
        )

    def plans(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue = Epilogue(),
        variant: str = "auto",
    ) -> list[KernelPlan]:
        """All of `candidates`."""
        return list(self.candidates(problem, pass_, epilogue, variant))

    def forget_plans(self) -> None:
        """Plans anew from now on; what is compiled is kept."""
        self.recipes.clear()

    def prepare(self, candidates: Iterable[KernelPlan]) -> Prepared:
        """The first plan whose kernels the device builds. Refusals are remembered and logged.

        Raises the last BuildError where the device refuses all.
        """
        check_process()
        refused: tuple[KernelPlan, BuildError] | None = None
        for plan in candidates:
            if refused is not None:
                self._warn_of_refusal(plan, *refused)
            try:
                for kernel in plan.kernels:
                    self.programs.kernel(kernel, render(kernel))
            except BuildError as error:
                refused = plan, error
            else:
                launched = (one.kernel for one in (*plan.preparation.launches, *plan.launches))
                return Prepared(plan, tuple((kernel, render(kernel)) for kernel in launched))
        raise refused[1] if refused else DeviceError("prepare needs at least one plan")

    def _warn_of_refusal(self, after: KernelPlan, plan: KernelPlan, error: BuildError) -> None:
        """Once for each layer and refusal."""
        refusal = (plan.problem.layer, plan.pass_, plan.epilogue, plan.variant, *plan.tile.items())
        if self._warned.get(refusal) is None:
            self._warned.set_default(refusal, True)
            _log.warning(
                "%s refuses %s %s, trying %s %s: %s",
                self.info.name,
                plan.variant,
                dict(plan.tile),
                after.variant,
                dict(after.tile),
                error,
            )

    # Launches

    def kernels(self, prepared: Prepared) -> list[Any]:
        """This thread's kernels of a prepared plan, built where they are not at hand."""
        return [self.programs.kernel(kernel, source) for kernel, source in prepared.sources]

    def allocated(self, workspaces: Iterable[Workspace]) -> dict[str, Any]:
        """A buffer for each workspace, by its name. Raises OutOfMemoryError."""
        return {one.name: self._allocate(one.nbytes) for one in workspaces}

    def run_one(
        self,
        launch: Launch,
        bound: Mapping[str, Argument],
        numbers: Mapping[str, float],
        reads: Sequence[cl_array.Array],
        writes: Sequence[cl_array.Array],
    ) -> None:
        """Builds and queues one launch that belongs to no plan."""
        check_process()
        kernel = self.programs.kernel(launch.kernel, render(launch.kernel))
        self.enqueue([(kernel, launch, arguments(launch, bound, numbers))], reads, writes)

    def enqueue(
        self,
        commands: Sequence[Command],
        reads: Sequence[cl_array.Array],
        writes: Sequence[cl_array.Array],
    ) -> None:
        """Queues commands of this thread, in order: the first waits for what other queues do to the
        arrays, and who uses the arrays later can wait for the last."""
        launch, event = commands[0][1], None
        try:
            waits, foreign = self._waits((*reads, *writes))
            for kernel, launch, values in commands:
                kernel.set_args(*values)
                event = cl.enqueue_nd_range_kernel(
                    self.queue, kernel, launch.global_size, launch.kernel.local_size, None, waits
                )
                waits = None
                self.launches += 1
        except cl.MemoryError as error:
            raise self._no_room(f"run {launch.kernel.name}", error) from error
        except cl.Error as error:
            raise DeviceError(
                f"{self.info.name} does not run {launch.kernel.name} with global size "
                f"{launch.global_size}, local size {launch.kernel.local_size}: {error}"
            ) from error
        finally:
            if event is not None:
                self._record(event, writes, foreign)

    def _waits(
        self, arrays: Sequence[cl_array.Array]
    ) -> tuple[list[Any] | None, list[cl_array.Array]]:
        """Events that a command must wait for, which the queue's own order does not cover, and the
        arrays of other queues or none."""
        waits = []
        foreign = []
        own = self._handle
        for array in arrays:
            for event in array.events:
                queue: cl.CommandQueue | None = event.command_queue
                if queue is None or queue.int_ptr != own:
                    waits.append(event)
            queue = array.queue
            if queue is not self.queue and (queue is None or queue.int_ptr != own):
                foreign.append(array)
                if array.events and queue is not None:
                    queue.flush()  # or what is waited for might never start
        return waits or None, foreign

    def _record(
        self, event: Any, writes: Sequence[cl_array.Array], foreign: Sequence[cl_array.Array]
    ) -> None:
        """Lets later users of the arrays wait for `event`, and other queues' arrays live until
        then."""
        for array in writes:
            array.events[:] = [event]  # which waited for all that were there before
        if self._foreign:
            with self._keeping:
                while self._foreign and _complete(self._foreign[0][0]):
                    self._foreign.popleft()
        if not foreign:
            return
        for array in foreign:
            if event not in array.events:
                array.events[:] = [e for e in array.events if not _complete(e)] + [event]
        self.queue.flush()  # another queue may wait for it
        self._foreign.append((event, tuple(a.base_data for a in foreign)))


def _database(device: Any) -> Database:
    """The tuning records of a device; other compute units make another one of it."""
    platform, units = device.platform, device.max_compute_units
    # What compiles, and for which processor.
    driver = (device.driver_version, platform.version, device.version)
    return Database(
        f"{device.name.strip()}, {units} units, {platform.name.strip()}",
        ", ".join(text.strip() for text in driver),
    )


def arguments(
    launch: Launch, bound: Mapping[str, Argument], numbers: Mapping[str, Any]
) -> list[Any]:
    """A launch's arguments in order: operands by name, then its scalars, those that the plan leaves
    open from `numbers`."""
    values: list[Any] = []
    for operand in launch.kernel.operands:
        values += bound[operand.name]
    for scalar, known in zip(launch.kernel.scalars, launch.values, strict=True):
        value = numbers.get(scalar.name) if known is None else known
        if value is None:
            raise DeviceError(f"{launch.kernel.name} was given no {scalar.name}")
        values.append(value)
    return values


def _complete(event: Any) -> bool:
    return bool(event.command_execution_status <= cl.command_execution_status.COMPLETE)


def _name(context: Any) -> str:
    return f"context {context.int_ptr:#x} ({', '.join(d.name.strip() for d in context.devices)})"


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
            f"{name} is on {_name(other)}, expected {_name(context)}, the context of {owner}"
        )


# Which runtime

_runtimes: list[weakref.ref[Runtime]] = []
_adopted: Bounded[int, Runtime] = Bounded(ADOPTED_KEPT)
_thread = threading.local()
_default: Runtime | None = None
_default_lock = threading.Lock()
_registering = threading.Lock()


def _register(runtime: Runtime) -> None:
    """Makes a runtime known to `runtime_of`, and forgets those that are gone."""
    global _runtimes
    with _registering:
        # A new list: other threads may be walking over the old one.
        _runtimes = [r for r in _runtimes if r() is not None] + [weakref.ref(runtime)]


def replan() -> None:
    """Lets every runtime plan anew: more is known of a device than when its plans were made."""
    for reference in _runtimes:
        living = reference()
        if living is not None:
            living.forget_plans()


def _outlive_fork() -> None:
    """Lets every runtime outlive a forked child: drivers that take down a context there wait for
    threads which only the parent has."""
    for reference in _runtimes:
        runtime = reference()
        if runtime is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_outlive_fork)


def _entered() -> list[Runtime]:
    stack: list[Runtime] | None = getattr(_thread, "stack", None)
    if stack is None:
        stack = _thread.stack = []
    return stack


def default_runtime() -> Runtime:
    """The innermost `with runtime:` of this thread, else one runtime on the default device."""
    global _default
    check_process()
    if _entered():
        return _entered()[-1]
    if _default is None:
        made = Runtime()  # which may compile, so that nobody waits for a lock meanwhile
        with _default_lock:
            _default = _default or made
    return _default


def runtime_of(context: Any) -> Runtime:
    """The runtime of a context: one that is entered, else one that lives, else a new one."""
    check_process()
    handle = context.int_ptr
    for runtime in reversed(_entered()):
        if runtime.context.int_ptr == handle:
            return runtime
    for reference in _runtimes:
        living = reference()
        if living is not None and living.context.int_ptr == handle:
            return living
    return _adopted.get(handle) or _adopted.set_default(handle, Runtime(context))
