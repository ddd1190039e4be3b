"""What does one run of a model do on the device? Its commands, as they are queued."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from clconv.calls.draft import Copy, Filling, Gap, Recipe, Step
from clconv.calls.prepared import Derived
from clconv.drivers.discovery import driver_errors
from clconv.render import render
from clconv.runtime import Argument, Runtime, arguments
from clconv.variants.base import Kernel, Launch, Workspace

__all__ = ["Command", "Download", "HostRun", "Recorder", "Storage", "Tensor", "Upload"]

Shape = tuple[int, ...]


@dataclass(eq=False)
class Storage:
    """Memory of a tensor, while it is recorded: a buffer that goes back to the pool when nothing
    refers to it any more. That of constants stays, others are planned anew for later runs."""

    number: int
    nbytes: int
    buffer: Any
    constant: bool


class Tensor(NamedTuple):
    """A device tensor: where it starts in its storage, and its strides, in elements."""

    storage: Storage
    start: int
    shape: Shape
    strides: Shape
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize

    @property
    def is_dense(self) -> bool:
        """Whether its elements follow each other."""
        ideal = dense_strides(self.shape)
        steps = zip(self.shape, self.strides, ideal, strict=True)
        return all(n == 1 or a == b for n, a, b in steps)

    def view(self, shape: Shape) -> Tensor:
        """The same elements, which follow each other, in another shape."""
        return self._replace(shape=shape, strides=dense_strides(shape))

    def part(self, axis: int, start: int, count: int, step: int = 1) -> Tensor:
        """A slice along an axis."""
        shape = (*self.shape[:axis], count, *self.shape[axis + 1 :])
        each = self.strides[axis]  # elements from one to the next
        strides = (*self.strides[:axis], each * step, *self.strides[axis + 1 :])
        return self._replace(start=self.start + start * each, shape=shape, strides=strides)


def dense_strides(shape: Shape) -> Shape:
    """Strides, in elements, of a tensor whose elements follow each other."""
    steps = [1]
    for size in shape[:0:-1]:
        steps.append(steps[-1] * max(size, 1))
    return tuple(steps[::-1]) if shape else ()


class Place(NamedTuple):
    """Where an argument's buffer goes, with what comes after it, its start in elements."""

    argument: int
    storage: int
    start: int
    itemsize: int


class Command(NamedTuple):
    """A launch; `values` has the buffers of constants, `places` says where the others go."""

    kernel: Kernel
    source: str
    launch: Launch
    values: tuple[Any, ...]
    places: tuple[Place, ...]


class Upload(NamedTuple):
    """A host array to the device; one of another shape or dtype makes the record useless."""

    key: str
    storage: int
    shape: Shape
    dtype: np.dtype[Any]


class Download(NamedTuple):
    """A tensor, whose elements follow each other, to the host."""

    key: str
    storage: int
    start: int  # bytes
    shape: Shape
    dtype: np.dtype[Any]
    buffer: Any  # of a constant


class HostRun(NamedTuple):
    """Nodes on the host; `run` takes and gives arrays in the order of the names."""

    run: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Check(NamedTuple):
    """A host array that decided about the record: another one makes it useless."""

    key: str
    value: Any


class ShapeCheck(NamedTuple):
    """The shape of a host array that decided about the record: another one makes it useless."""

    key: str
    shape: Shape


Event = Command | Upload | Download | HostRun | Check | ShapeCheck


class Recorder:
    """Queues commands and keeps what they were."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.events: list[Event] = []
        self.sizes: dict[int, int] = {}  # bytes of each storage that is no constant

    # Memory

    def empty(self, shape: Shape, dtype: np.dtype[Any], constant: bool = False) -> Tensor:
        """A tensor whose elements follow each other."""
        nbytes = math.prod(shape) * dtype.itemsize
        storage = Storage(len(self.sizes), nbytes, self.runtime.memory.allocate(nbytes), constant)
        if not constant:
            self.sizes[storage.number] = nbytes
        return Tensor(storage, 0, shape, dense_strides(shape), dtype)

    def constant(self, array: Any) -> Tensor:
        """A tensor of values that stay."""
        host = np.ascontiguousarray(array)
        made = self.empty(array.shape, array.dtype, constant=True)
        self._write(made, host)
        return made

    def upload(self, key: str, array: Any) -> Tensor:
        """A tensor of a host array's values."""
        made = self.empty(array.shape, array.dtype)
        self._write(made, np.ascontiguousarray(array))
        self.events.append(Upload(key, made.storage.number, array.shape, array.dtype))
        return made

    def _write(self, tensor: Tensor, host: Any) -> None:
        if host.nbytes:
            with driver_errors(self.runtime.info.name, f"take an array of {host.nbytes} bytes"):
                cl.enqueue_copy(self.runtime.queue, tensor.storage.buffer, host)

    def download(self, key: str, tensor: Tensor) -> Any:
        """The values of a tensor whose elements follow each other."""
        storage, start = tensor.storage, tensor.start * tensor.dtype.itemsize
        host = np.empty(tensor.shape, tensor.dtype)
        if host.nbytes:
            with driver_errors(self.runtime.info.name, f"give {host.nbytes} bytes back"):
                cl.enqueue_copy(self.runtime.queue, host, storage.buffer, src_offset=start)
        buffer = storage.buffer if storage.constant else None
        self.events.append(Download(key, storage.number, start, tensor.shape, tensor.dtype, buffer))
        return host

    # Launches

    def launch(
        self,
        launch: Launch,
        operands: Mapping[str, Tensor],
        numbers: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Queues a launch whose operands are flat."""
        bound: dict[str, Argument] = {name: (Gap(name), 0) for name in operands}
        values = arguments(launch, bound, numbers)
        gaps = [(i, one.name) for i, one in enumerate(values) if isinstance(one, Gap)]
        source = render(launch.kernel)
        self._command(launch, source, values, gaps, operands)

    def follow(self, recipe: Recipe, operands: dict[str, Tensor], derived: Derived | None) -> None:
        """Queues a recipe of `clconv.calls`; what it derives from weights is kept in `derived`, or
        derived each time."""
        there = operands | self._workspaces(recipe.copied)
        for step in recipe.steps:
            plan = step.prepared.plan
            sources = [source for _, source in step.prepared.sources]
            own = dict(there)
            known: Mapping[str, Any] = {}
            self._copy(step.before, own)
            if step.preparation and derived is not None:
                known = self._derive(step, own, derived)
            elif step.preparation:
                own |= self._workspaces(plan.preparation.workspaces)
                self._fill(step.preparation, sources, own, known)
            own |= self._workspaces(plan.schedule.workspaces)
            self._fill(step.launches, sources[len(step.preparation) :], own, known)
            self._copy(step.after, own)

    def _copy(self, copies: Sequence[Copy], operands: Mapping[str, Tensor]) -> None:
        for copy in copies:
            self._fill(copy.launches, [source for _, source in copy.sources], operands, {})

    def _workspaces(self, workspaces: Sequence[Workspace]) -> dict[str, Tensor]:
        return {one.name: self.empty((one.count,), one.dtype) for one in workspaces}

    def _derive(
        self, step: Step, operands: Mapping[str, Tensor], derived: Derived
    ) -> Mapping[str, Any]:
        """What a plan derives from constant weights: now, once."""
        preparation = step.prepared.plan.preparation
        made = derived.get(preparation)
        if made is None:
            made = self.runtime.allocated(preparation.workspaces)
            commands = []
            kernels = self.runtime.kernels(step.prepared)
            for kernel, filling in zip(kernels, step.preparation, strict=False):
                values = list(filling.arguments)
                for i, name in filling.buffers:
                    tensor = operands.get(name)
                    values[i : i + 2] = (
                        (made[name], 0) if tensor is None else (tensor.storage.buffer, tensor.start)
                    )
                commands.append((kernel, filling.launch, values))
            self.runtime.enqueue(commands, (), ())
            derived.keep(preparation, made)
        return made

    def _fill(
        self,
        fillings: Sequence[Filling],
        sources: Sequence[str],
        operands: Mapping[str, Tensor],
        known: Mapping[str, Any],
    ) -> None:
        """Queues launches; of a name that is `known` the buffer stays in later runs."""
        for filling, source in zip(fillings, sources, strict=False):
            values = list(filling.arguments)
            for i, name in filling.buffers:
                if name in known:
                    values[i : i + 2] = known[name], 0
            gaps = [one for one in filling.buffers if one[1] not in known]
            self._command(filling.launch, source, values, gaps, operands)

    def _command(
        self,
        launch: Launch,
        source: str,
        values: list[Any],
        gaps: Sequence[tuple[int, str]],
        operands: Mapping[str, Tensor],
    ) -> None:
        places = []
        now = list(values)
        for i, name in gaps:
            storage, start, *_, dtype = operands[name]
            now[i : i + 2] = storage.buffer, start
            if storage.constant:
                values[i : i + 2] = storage.buffer, start
            else:
                values[i] = None
                places.append(Place(i, storage.number, start, dtype.itemsize))
        kernel = self.runtime.programs.kernel(launch.kernel, source)
        self.runtime.enqueue([(kernel, launch, now)], (), ())
        self.events.append(Command(launch.kernel, source, launch, tuple(values), tuple(places)))
