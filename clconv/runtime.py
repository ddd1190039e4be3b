"""Where things run: a device's context, queue, memory and programs, and the launches on it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
from numpy.typing import DTypeLike, NDArray

from clconv import progress, settings
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
from clconv.drivers.memory import Memory, check_context, memory_of
from clconv.drivers.programs import HasSources, Programs
from clconv.drivers.registry import Registry
from clconv.drivers.workers import Job, Tell, build_all, is_wide
from clconv.errors import BuildError, DeviceError
from clconv.planning import shipped
from clconv.planning.planner import (
    IN_ROWS,
    Choice,
    KernelPlan,
    LayerChoice,
    Layouts,
    candidates,
    other_of_layer,
)
from clconv.planning.profiles import DeviceProfile
from clconv.planning.profiles import profile as named_profile
from clconv.planning.records import Database, RecordKey
from clconv.problem import Conv1dProblem, Epilogue, Layer, Pass
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

# What a kernel gets for an operand: its buffer, then 64-bit offset and strides in elements.
Argument = tuple[Any, ...]
# What is queued: a kernel of this thread, its launch, and its arguments in order.
Command = tuple[Any, Launch, Sequence[Any]]


@dataclass(frozen=True)
class Prepared:
    """A plan that the device builds, with the OpenCL C of each launch's kernel, those of its
    preparation first, and the plans that other sizes of the layer may take."""

    plan: KernelPlan
    sources: tuple[tuple[Kernel, str], ...]
    others: tuple[KernelPlan, ...] = ()

    @classmethod
    def of(cls, plan: KernelPlan, others: Iterable[KernelPlan]) -> Prepared:
        """A plan's, whose kernels build."""
        launched = (one.kernel for one in (*plan.preparation.launches, *plan.launches))
        return cls(plan, tuple((kernel, render(kernel)) for kernel in launched), tuple(others))


class Runtime:
    """One device made ready: context, in-order queue, memory pool and compiled programs.

    `with runtime:` makes it the default of that block and thread.

    Args:
        device: an index, an id "platform:device", a kind ("gpu", "cpu", "accelerator"), part of a
            name, or a pyopencl Device, Context or CommandQueue; None asks `CLCONV_DEVICE`, then
            `PYOPENCL_CTX`, then takes the first of `devices()` that works.
        workspace_limit: the most bytes that a plan's workspace may have, or None.
        program_cache_size: how many compiled programs are kept.
        exact: True keeps to variants that form the definition's own sums; None means False unless
            `CLCONV_EXACT` is 1.
        profile: a DeviceProfile, or the name of one, to plan for instead of the device's own,
            within the limits that the device has: for tests of a GPU's plans on a CPU.

    Raises:
        DeviceError: no such device or profile, or the device cannot build a small kernel.

    Examples:
        >>> with Runtime() as runtime:
        ...     x = runtime.to_device(np.ones(3, np.float32))
        >>> x.get().tolist()
        [1.0, 1.0, 1.0]
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
            self.info = info_of(chosen)
            own = profile_of(chosen)
            self.profile = own if profile is None else profile.within(own)
            self.memory = Memory(self.queue, self.info.name, own)
        self.device = chosen
        self.records = Database.of(chosen)
        self._handle = self.queue.int_ptr
        self.workspace_limit = workspace_limit
        self.exact = settings.exact_choice() if exact is None else exact
        self.programs = Programs(self.context, chosen, program_cache_size)
        self.recipes: Bounded[Hashable, Any] = Bounded(RECIPES_KEPT)
        self._warned: Bounded[Hashable, bool] = Bounded(REFUSALS_KEPT)
        self._foreign: deque[tuple[Any, tuple[Any, ...]]] = deque()
        self._keeping = threading.Lock()
        self.launches = 0  # kernels queued so far
        _registry.add(self)

    def __repr__(self) -> str:
        return f"<clconv.Runtime on {self.info.name} ({self.info.platform})>"

    def __deepcopy__(self, memo: object) -> Runtime:
        return self  # as a device is

    def __reduce__(self) -> tuple[Any, ...]:
        return default_runtime, ()  # of whoever reads the pickle

    def __enter__(self) -> Runtime:
        check_process()
        _registry.entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _registry.entered.pop()

    # Memory

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
        """An uninitialised device array.

        Args:
            shape: an int, or a sequence of them.
            dtype: any that NumPy has.

        Returns:
            A contiguous `pyopencl.array.Array`.

        Raises:
            ProblemError: no such shape.
            OutOfMemoryError: the device has no room.
        """
        return self.memory.empty(shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> cl_array.Array:
        """A device array of zeros.

        Args:
            shape: an int, or a sequence of them.
            dtype: any that NumPy has.

        Returns:
            A contiguous `pyopencl.array.Array`.

        Raises:
            OutOfMemoryError: the device has no room.
        """
        array = self.empty(shape, dtype)
        self.fill(array, 0)
        return array

    def to_device(self, array: NDArray[Any]) -> cl_array.Array:
        """A device array with the values of a NumPy array.

        Args:
            array: a NumPy array.

        Returns:
            A contiguous `pyopencl.array.Array`.

        Raises:
            OutOfMemoryError: the device has no room.
        """
        host = np.asarray(array)
        device = self.empty(host.shape, host.dtype)
        if host.size:
            with driver_errors(self.info.name, f"take an array of {host.nbytes} bytes"):
                device.set(np.asarray(host, order="C"))
            device.events.clear()  # the values are there already
        return device

    def to_host(self, array: cl_array.Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The values of a device array, once everything queued before has run.

        Args:
            array: a contiguous device array.
            out: a NumPy array that takes them, or None.

        Returns:
            A NumPy array, `out` if given.

        Raises:
            DeviceError: an array of another context, or a device that fails.
            OutOfMemoryError: the device has no room.
        """
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
        """Gives unused memory of the pool back to the device."""
        self.memory.trim()

    def memory_info(self) -> dict[str, int]:
        """Bytes of the device's memory.

        Returns:
            `in_use` by arrays, `held` by the pool for reuse, `device` in all, `largest` single
            allocation.
        """
        return self.memory.info()

    # Planning

    def candidates(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue = Epilogue(),
        variant: str = "auto",
        choice: Choice | None = None,
        exact: bool | None = None,
        kept: bool = False,
        layouts: Layouts = IN_ROWS,
    ) -> Iterator[KernelPlan]:
        """The plans for this device, best first, each made when it is asked for: "auto" starts with
        `choice`, or what the user's tuning found to be the fastest for exactly this problem and
        limit, or what is known of the layer (`known_of`). `kept` says that what is derived from the
        weights is, `layouts` how x and y lie: what was tuned is known of rows alone. Raises
        ProblemError, OutOfMemoryError."""

        tuned = variant == "auto" and layouts == IN_ROWS

        def choices() -> list[Choice]:
            first = [] if choice is None else [choice]
            if not tuned:
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
            of_layer=partial(self.known_of, problem.layer, pass_) if tuned else list,
            exact=self.exact if exact is None else exact,
            kept=kept,
            layouts=layouts,
        )

    def known_of(self, layer: Layer, pass_: Pass) -> list[LayerChoice]:
        """What the tuning records that come with clconv say of a layer on this device, the most
        special first; nothing where the environment turns them off."""
        if not settings.shipped_choice():
            return []
        return shipped.find(self.info.name, self.info.platform, self.profile, layer, pass_)

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
        """Plans again from now on; compiled programs are kept."""
        self.recipes.clear()

    def prepare(self, candidates: Iterable[KernelPlan]) -> Prepared:
        """The first plan whose kernels the device builds. Refusals are remembered and logged.

        The next plan's kernels are built as well where another batch or length of the layer may
        take them. Raises the last BuildError where the device refuses all.
        """
        check_process()
        refused: tuple[KernelPlan, BuildError] | None = None
        plans = iter(candidates)
        for plan in plans:
            if refused is not None:
                self._warn_of_refusal(plan, *refused)
            try:
                for kernel in plan.kernels:
                    self.programs.kernel(kernel, render(kernel))
            except BuildError as error:
                refused = plan, error
            else:
                prepared = Prepared.of(plan, other_of_layer(plan, plans))
                for other in prepared.others:
                    self.make_ready(other)
                return prepared
        raise refused[1] if refused else DeviceError("prepare needs at least one plan")

    def make_ready(self, plan: KernelPlan) -> None:
        """Builds the kernels of a plan that may be needed later."""
        for one in plan.kernels:
            self.programs.finish(one, render(one), self.queue)

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

    def build_all(self, launches: Iterable[Launch], tell: Tell | None = None) -> int:
        """Builds the kernels of launches on all cores, so that queueing them compiles nothing; how
        many there are.

        Processes do it on CPUs, whose drivers compile one program at a time, threads elsewhere.
        `tell` is called with how many are ready and how many there are. Kernels that the device
        refuses are remembered; `prepare` passes over their plans. Raises OutOfMemoryError.
        """
        check_process()
        wide: dict[Kernel, bool] = {}
        for one in launches:
            wide[one.kernel] = wide.get(one.kernel, False) or is_wide(one.global_size)
        jobs = [Job(kernel, render(kernel), its) for kernel, its in wide.items()]
        with progress.bar("building", "kernel", len(jobs)) as shown:

            def tell_all(ready: int, of: int) -> None:
                shown.tell(ready, of)
                if tell is not None:
                    tell(ready, of)

            build_all(self.programs, jobs, self.profile.kind == "cpu", tell_all)
        return len(jobs)

    # Launches

    def kernels(self, prepared: HasSources) -> list[Any]:
        """This thread's kernels of a prepared plan or copy, built if necessary."""
        return [self.programs.kernel(kernel, source) for kernel, source in prepared.sources]

    def allocated(self, workspaces: Iterable[Workspace]) -> dict[str, Any]:
        """A buffer for each workspace, by its name. Raises OutOfMemoryError."""
        return {one.name: self.memory.allocate(one.nbytes) for one in workspaces}

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
        arrays, and later users of the arrays can wait for the last."""
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
            raise self.memory.no_room(f"run {launch.kernel.name}", error) from error
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


# Which runtime

_registry = Registry(Runtime)


def replan() -> None:
    """Lets every runtime plan again: more is known about a device than when its plans were made."""
    for runtime in _registry:
        runtime.forget_plans()


def default_runtime() -> Runtime:
    """The runtime of calls that name none.

    Returns:
        The innermost `with runtime:` of this thread, else one runtime on the default device.

    Raises:
        DeviceError: no device, or one that does not work.

    Examples:
        >>> default_runtime() is default_runtime()
        True
    """
    return _registry.default()


def runtime_of(context: Any) -> Runtime:
    """The runtime of a context: one that is entered, else one that lives, else a new one."""
    return _registry.of(context)
