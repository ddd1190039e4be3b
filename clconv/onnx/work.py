"""What do nodes on the device compute with? Values, on the host or the device, or still pending."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from clconv.calls.prepared import Derived
from clconv.dtypes import is_computed
from clconv.errors import ProblemError
from clconv.onnx import kernels
from clconv.onnx.graph import Node, scalar
from clconv.onnx.recording import Check, Command, Recorder, Shape, Tensor
from clconv.runtime import Runtime

__all__ = ["OnHost", "Pending", "Value", "Work"]


class OnHost(Exception):
    """Why a node is not computed on the device."""


class Pending(Protocol):
    """What is not queued yet, since nodes that follow may join it."""

    @property
    def shape(self) -> Shape:
        """That of the result."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the result."""

    def finish(self, work: Work, out: Tensor | None = None) -> Tensor:
        """Queues it; the result is written to `out`, if given, which `fits`."""

    def fits(self, out: Tensor) -> bool:
        """Whether it can be written to a tensor of its shape that lies so."""


@dataclass(eq=False)
class Value:
    """A tensor of the model: its values on the host, on the device, or both, or pending.

    `waiting` is one of a node on the host that has not run yet. A `constant` is the same in every
    run with inputs of the same shapes; one `of_shapes` is another in runs with others.
    """

    name: str
    shape: Shape = ()
    dtype: np.dtype[Any] = np.dtype(np.float32)  # noqa: RUF009
    host: Any = None
    tensor: Tensor | None = None
    pending: Pending | None = None
    constant: bool = False
    of_shapes: bool = False
    waiting: bool = False
    derived: Derived = field(default_factory=Derived)

    @classmethod
    def on_host(
        cls, name: str, host: Any, constant: bool = False, of_shapes: bool = False
    ) -> Value:
        """One of a host array, or of a list, which is a sequence."""
        shape, dtype = (), np.dtype(object)
        if isinstance(host, np.ndarray):
            shape, dtype = host.shape, host.dtype
        return cls(name, shape, dtype, host, constant=constant, of_shapes=of_shapes)

    @classmethod
    def of(cls, name: str, result: Tensor | Pending) -> Value:
        """One on the device, or pending."""
        made = cls(name, result.shape, result.dtype)
        if isinstance(result, Tensor):
            made.tensor = result
        else:
            made.pending = result
        return made

    @property
    def is_on_device(self) -> bool:
        """Whether it is there, or will be."""
        return self.tensor is not None or self.pending is not None

    @property
    def is_float(self) -> bool:
        """Whether kernels compute with it."""
        return is_computed(self.dtype)

    @property
    def size(self) -> int:
        """Its elements."""
        return math.prod(self.shape)

    @property
    def number(self) -> float | None:
        """The number that it is in every run, which kernels may have in their text: not one of
        shapes, or each of these would compile another kernel."""
        return scalar(self.host) if self.constant and not self.of_shapes else None


class Work:
    """One run of a model on its runtime: values by name, how often each is still to be read, and
    what the run is recorded with. `kept` has what is computed once for all runs, whatever the
    shapes of their inputs."""

    def __init__(
        self, runtime: Runtime, uses: Mapping[str, int], kept: dict[Hashable, Any]
    ) -> None:
        self.runtime = runtime
        self.recorder = Recorder(runtime)
        self.values: dict[str, Value] = {}
        self.left = dict(uses)
        self._kept = kept
        self._kept_of_shapes: dict[Hashable, Any] = {}
        self.launched: dict[Pending, list[str]] = {}  # the kernels of what was pending

    def once(
        self, what: Hashable, constants: Sequence[Value], make: Callable[[], Sequence[Any]]
    ) -> list[Value]:
        """The constants that `make` computes from others, as host arrays: once for all runs, or
        for this one where those follow from shapes. `what` says all else that they depend on."""
        of_shapes = any(one.of_shapes for one in constants)
        kept = self._kept_of_shapes if of_shapes else self._kept
        key = (what, *constants)  # values are equal only to themselves
        if key not in kept:
            name = " with ".join(one.name for one in constants)
            kept[key] = [Value.on_host(f"part {i} of {name}", one, True, of_shapes)
                         for i, one in enumerate(make())]  # fmt: skip
        found: list[Value] = kept[key]
        return found

    # Values as nodes take them

    def known(self, value: Value | None) -> Any:
        """The array of a value that decides what is to be done; None of one that is left out.
        Later runs check that it is the same. Raises OnHost where it is computed on the device."""
        if value is None:
            return None
        if value.host is None or not isinstance(value.host, np.ndarray):
            raise OnHost(f"{value.name} is not known before the run")
        if not value.constant:
            self.recorder.events.append(Check(value.name, value.host.copy()))
        return value.host

    def tensor(self, value: Value) -> Tensor:
        """A value on the device."""
        if value.tensor is None:
            if value.pending is not None:
                value.tensor = self.finish(value.pending)
                value.pending = None
            elif value.constant:
                value.tensor = self.recorder.constant(value.host)
            else:
                value.tensor = self.recorder.upload(value.name, value.host)
        return value.tensor

    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """Queues what is pending."""
        before = len(self.recorder.events)
        made = pending.finish(self, out)
        self.launched[pending] = launched(self.recorder.events[before:])
        return made

    def dense(self, value: Value) -> Tensor:
        """A value on the device whose elements follow each other."""
        tensor = self.tensor(value)
        if not tensor.is_dense:
            tensor = value.tensor = self.copied(tensor)
        return tensor

    def copied(self, tensor: Tensor) -> Tensor:
        """The same elements, one after the other."""
        if not kernels.fits(tensor.shape, tensor.strides):
            raise OnHost(f"shape {tensor.shape} has too many dimensions for one copy")
        return kernels.copied(self.recorder, tensor)

    def host(self, value: Value) -> Any:
        """A value on the host, an array or a list."""
        if value.is_on_device and value.host is None:
            value.host = self.recorder.download(value.name, self.dense(value))
        return value.host

    def used_once(self, value: Value) -> bool:
        """Whether only the node at hand reads a value any more."""
        return self.left.get(value.name) == 1

    # Checks

    def check(self, *values: Value) -> np.dtype[Any]:
        """The dtype of values that kernels compute with. Raises OnHost."""
        for one in values:
            if not one.is_float:
                raise OnHost(f"{one.name} is {one.dtype}")
            if one.dtype == np.float64 and not self.runtime.info.fp64:
                raise OnHost("the device has no float64")
            if not one.size:
                raise OnHost(f"{one.name} has no elements")
        first, *others = values
        for one in others:
            if one.dtype != first.dtype:
                raise OnHost(f"{one.name} is {one.dtype}, and {first.name} {first.dtype}")
        return first.dtype

    def table(self, numbers: Sequence[int]) -> Tensor:
        """Places as a constant tensor."""
        return self.recorder.constant(np.array(numbers, np.int32))


def launched(events: Sequence[Any]) -> list[str]:
    """The kernels among what was recorded."""
    return [one.kernel.name for one in events if isinstance(one, Command)]


def counted(name: str, axis: int, rank: int) -> int:
    """An axis, which may be negative, counted from 0. Raises ProblemError."""
    if not -rank <= axis < rank:
        raise ProblemError(f"{name} is {axis}, expected an axis of {rank} dimensions")
    return axis % rank


def axis_of(node: Node, rank: int, default: int = 0) -> int:
    """The attribute `axis`, counted from 0. Raises ProblemError."""
    return counted("axis", int(node.attributes.get("axis", default)), rank)
