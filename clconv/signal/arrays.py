"""How do the arrays of a call come to the device, and its result back to where they were?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array
from numpy.typing import NDArray

from clconv.calls.elementwise import convert, copy_view
from clconv.calls.host import HostArrays
from clconv.calls.layouts import Array, Layout, Shape
from clconv.errors import ArrayTypeError, ProblemError
from clconv.runtime import Runtime, check_context, default_runtime, memory_of, runtime_of
from clconv.signal.asking import ask_scipy, real_dtype

__all__ = [
    "Door",
    "Rows",
    "along",
    "axis_of",
    "copy_all",
    "device_view",
    "is_complex",
    "permuted",
    "planes",
    "rows",
    "sliced",
    "whole_copy",
]

# What numbers clconv.signal takes.
KINDS = "biufc"
WIDEST = {"b": 1, "i": 8, "u": 8, "f": 8, "c": 16}


class Rows(NamedTuple):
    """A signal (N, P, L) on the device, P being 2 for real and imaginary parts; the lengths that N
    is the product of, and which dimensions of the caller's array these are, then L."""

    signal: cl_array.Array
    lead: Shape
    order: tuple[int, ...]


class Door:
    """The arrays of one call by their names: all on the host, or all on one device.

    Filters (`coefficients`) may be on the host where signals are on the device. `function` is
    SciPy's name, for errors. What is computed from the arrays is in a `with` statement: after it no
    kernel uses NumPy's memory.
    """

    def __init__(
        self,
        function: str,
        runtime: Runtime | None,
        signals: dict[str, Any],
        coefficients: dict[str, Any] | None = None,
    ) -> None:
        self.function = function
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ArrayTypeError(f"runtime is {runtime!r}, expected a clconv.Runtime or None")
        on_device = {n: isinstance(a, cl_array.Array) for n, a in signals.items()}
        self.host = not any(on_device.values())
        filters = coefficients or {}
        if self.host:
            on_device |= {n: isinstance(a, cl_array.Array) for n, a in filters.items()}
        if any(on_device.values()) and not all(on_device.values()):
            which = ", ".join(
                f"{name} is a {'device' if there else 'NumPy'} array"
                for name, there in on_device.items()
            )
            raise ArrayTypeError(f"{which}; expected all of one kind")
        self.arrays = {n: self._known(n, a) for n, a in (signals | filters).items()}
        there = [(n, a) for n, a in self.arrays.items() if isinstance(a, cl_array.Array)]
        if runtime is None:
            runtime = default_runtime() if self.host else runtime_of(there[0][1].context)
        self.runtime = runtime
        for name, array in there:
            check_context(name, array, runtime.context, runtime)
            memory_of(name, array)
        self._memory = HostArrays(runtime)

    def __enter__(self) -> Door:
        self._memory.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._memory.__exit__(kind, error, traceback)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def _known(self, name: str, array: Any) -> Array:
        """The array itself, or what NumPy makes of it. Raises ProblemError."""
        if not isinstance(array, cl_array.Array):
            try:
                array = np.asarray(array)
            except ValueError as error:  # of ragged lists
                raise ProblemError(f"{name} is no array: {error}") from error
        dtype = array.dtype
        if dtype.kind not in KINDS or dtype.itemsize > WIDEST[dtype.kind]:
            raise ProblemError(
                f"{name} has dtype {dtype}, expected bool, integers, or floating-point or complex "
                f"numbers of at most 64 bits each; scipy.signal.{self.function} may take it"
            )
        if not dtype.isnative:
            array = array.astype(dtype.newbyteorder("="))
        return array

    def of_nothing(self, *names: str, **options: Any) -> Any:
        """What SciPy gives for arrays without values, and refuses; those named, in order, then
        options, which may name arrays, too."""

        def hollow(name: str) -> NDArray[Any]:
            return np.zeros(self.arrays[name].shape, self.arrays[name].dtype)

        options = {
            name: hollow(name) if name in self.arrays else option
            for name, option in options.items()
        }
        made = ask_scipy(self.function, *map(hollow, names), **options)
        if self.host:
            return made
        if isinstance(made, tuple):
            return tuple(map(self.runtime.to_device, made))
        return self.runtime.to_device(made)

    def rows_of(self, name: str, axis: int, dtype: Any) -> Rows:
        """A signal as rows of an axis, in a floating-point dtype."""
        view, order = along(self.arrays[name], axis)
        parts = self.planes(view, np.dtype(dtype))
        return Rows(rows(self.runtime, parts, 2), tuple(parts.shape[:-2]), order)

    def planes(self, signal: Array, dtype: np.dtype[Any], at: int = -2) -> cl_array.Array:
        """`planes` of a signal, or of a view of one, whose values may be NumPy's own."""
        if isinstance(signal, np.ndarray):
            signal = self._memory.read(signal, strided=True)
        return planes(self.runtime, signal, dtype, at)

    def room(self, shape: Shape, sums: np.dtype[Any], dtype: Any) -> cl_array.Array | None:
        """A contiguous array for sums in the memory of the caller's result; None where that is no
        NumPy array, or has another dtype."""
        if not self.host or sums != np.dtype(dtype):
            return None
        return self._memory.write(shape, sums)

    def from_rows(self, y: cl_array.Array, of: Rows, dtype: Any) -> Array:
        """What the caller gets of results (N, P, L) of rows; imaginary parts that were not
        computed are 0."""
        dtype = np.dtype(dtype)
        batch, parts, length = y.shape
        if dtype.kind == "c" and parts == 1:
            made = self.runtime.zeros((batch, 2, length), y.dtype)
            copy_all(self.runtime, y, sliced(made, 1, 0, 1))
            y, parts = made, 2
        y = whole_copy(self.runtime, y)
        return self.result(y, (*of.lead, parts, length), dtype, of.order)

    def result(
        self,
        y: cl_array.Array,
        shape: Shape,
        dtype: np.dtype[Any],
        order: Sequence[int],
        plane_at: int = -2,
    ) -> Array:
        """What the caller gets of what was computed.

        y: contiguous, with the result's dimensions in the order `order` and, at `plane_at` of
            `shape`, one for real and imaginary parts, which a real result has once.
        shape: that of `y`. dtype: the result's.
        """
        plane_at %= len(shape)
        real = real_dtype(dtype)
        if y.dtype != real:
            y = convert(self.runtime, y, real)
        lies = Layout.contiguous(shape, real)
        own = shape[:plane_at] + shape[plane_at + 1 :]
        steps = lies.strides[:plane_at] + lies.strides[plane_at + 1 :]
        # The host moves dimensions without touching a value.
        final = tuple(range(len(own))) if self.host else tuple(order)
        straight = final == tuple(range(len(own)))
        if dtype.kind != "c" and straight:
            made = device_view(y, own)
        else:
            sizes = [0] * len(own)
            for position, axis in enumerate(final):
                sizes[axis] = own[position]
            room = self.room(tuple(sizes), dtype, dtype)
            made = self.runtime.empty(tuple(sizes), dtype) if room is None else room
            into = tuple(made.strides[axis] for axis in final)
            for plane in range(shape[plane_at]):
                part = device_view(y, own, steps, plane * lies.strides[plane_at])
                place = device_view(made, own, into, plane * real.itemsize, real)
                copy_all(self.runtime, part, place)
        if not self.host:
            return made
        values = self._memory.values(made).reshape(made.shape)
        return values if straight and _is_sorted(order) else values.transpose(np.argsort(order))


def _is_sorted(order: Sequence[int]) -> bool:
    return list(order) == sorted(order)


def is_complex(array: Array) -> bool:
    """Whether an array has real and imaginary parts."""
    return bool(array.dtype.kind == "c")


def axis_of(axis: Any, dimensions: int, name: str = "axis") -> int:
    """An axis counted from the first one. Raises ProblemError."""
    try:
        number = axis.__index__()
    except AttributeError:
        raise ProblemError(f"{name} is {axis!r}, expected an integer") from None
    if not -dimensions <= number < dimensions:
        raise ProblemError(
            f"{name} is {number}, expected {-dimensions} to {dimensions - 1} for an array of "
            f"{dimensions} dimensions"
        )
    return int(number % dimensions)


# Views, of host and device arrays


def device_view(
    array: cl_array.Array,
    shape: Shape,
    strides: Shape | None = None,
    start: int = 0,
    dtype: Any = None,
) -> cl_array.Array:
    """A view of a device array, `start` bytes further on; contiguous unless strides are given."""
    kind = array.dtype if dtype is None else np.dtype(dtype)
    if strides is None:
        strides = Layout.contiguous(shape, kind).strides
    # The constructor takes longer than a small kernel.
    view = cl_array.Array.__new__(cl_array.Array)
    vars(view).update(vars(_outline(shape, strides, kind)))
    view.queue, view.context = array.queue, array.context
    view.allocator, view.base_data = array.allocator, array.base_data
    view.offset, view.events = array.offset + start, array.events
    return view


@lru_cache(maxsize=1024)
def _outline(shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> cl_array.Array:
    """An array but for its memory."""
    array = cl_array.Array(None, shape, dtype, data=0, strides=strides)
    assert array.flags is not None  # found out now, and kept
    return array


def along(array: Array, axis: int) -> tuple[Array, tuple[int, ...]]:
    """A view with an axis as the last one, and the order of the dimensions then."""
    order = (*(i for i in range(len(array.shape)) if i != axis), axis)
    return permuted(array, order), order


def permuted(array: Array, order: Sequence[int]) -> Array:
    """A view with the dimensions in this order."""
    if isinstance(array, np.ndarray):
        return array.transpose(order)
    shape = tuple(array.shape[axis] for axis in order)
    return device_view(array, shape, tuple(array.strides[axis] for axis in order))


def sliced(array: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
    """A view of the elements from `start` to before `stop` along an axis; with step -1 the same
    ones in reverse order."""
    count = stop - start
    if isinstance(array, np.ndarray):
        index = [slice(None)] * array.ndim
        index[axis] = slice(start, stop)
        view = array[tuple(index)]
        return np.flip(view, axis) if step < 0 else view
    shape, strides = list(array.shape), list(array.strides)
    first = (start if step > 0 or not count else stop - 1) * strides[axis]
    shape[axis], strides[axis] = count, step * strides[axis]
    return device_view(array, tuple(shape), tuple(strides), first)


# Copies on the device

# The most dimensions that one launch copies.
COPIED_AT_ONCE = 4


def copy_all(runtime: Runtime, source: cl_array.Array, target: cl_array.Array) -> None:
    """Queues copying an array of any number of dimensions to one of its shape and dtype."""
    if len(source.shape) <= COPIED_AT_ONCE:
        copy_view(runtime, source, target)
        return
    axis = min(range(len(source.shape)), key=lambda i: source.shape[i])
    rest = tuple(i for i in range(len(source.shape)) if i != axis)
    for place in range(source.shape[axis]):
        parts = [sliced(one, axis, place, place + 1) for one in (source, target)]
        first, second = (
            device_view(one, tuple(one.shape[i] for i in rest), tuple(one.strides[i] for i in rest))
            for one in parts
        )
        copy_all(runtime, first, second)


def whole_copy(runtime: Runtime, array: cl_array.Array) -> cl_array.Array:
    """The array itself, or a contiguous copy of a view of any number of dimensions, queued."""
    if array.flags.c_contiguous:
        return array
    copied = runtime.empty(array.shape, array.dtype)
    copy_all(runtime, array, copied)
    return copied


def planes(runtime: Runtime, array: Array, dtype: np.dtype[Any], at: int = -2) -> cl_array.Array:
    """The real parts, and the imaginary ones of complex numbers, side by side on the device.

    array: (…, L), a host or device array, or a view of one.
    dtype: floating point, that of the result.
    at: where the result (…, P, L) has the dimension of parts, counted as in it.
    """
    if isinstance(array, np.ndarray):
        array = runtime.to_device(array)
    shape = tuple(array.shape)
    at %= len(shape) + 1
    if is_complex(array):
        real = real_dtype(array.dtype)
        parts = runtime.empty((*shape[:at], 2, *shape[at:]), real)
        steps = parts.strides[:at] + parts.strides[at + 1 :]
        for plane in (0, 1):
            source = device_view(array, shape, array.strides, plane * real.itemsize, real)
            copy_all(runtime, source, device_view(parts, shape, steps, plane * parts.strides[at]))
    else:
        strides = (*array.strides[:at], array.dtype.itemsize, *array.strides[at:])
        parts = device_view(array, (*shape[:at], 1, *shape[at:]), strides)
    if parts.dtype != dtype:
        parts = convert(runtime, whole_copy(runtime, parts), dtype)
    return parts


def rows(runtime: Runtime, array: cl_array.Array, kept: int) -> cl_array.Array:
    """The array with all dimensions but the last `kept` as one: a view, or a copy where they do
    not lie so."""
    shape, strides = tuple(array.shape), tuple(array.strides)
    cut = len(shape) - kept
    count = math.prod(shape[:cut])
    step = strides[cut - 1] if cut else 0
    leading = [(n, s) for n, s in zip(shape[:cut], strides[:cut], strict=True) if n != 1]
    if leading:
        step = leading[-1][1]
    even = all(outer == size * inner for (_, outer), (size, inner) in pairwise(leading))
    if even:
        return device_view(array, (count, *shape[cut:]), (step, *strides[cut:]))
    return device_view(whole_copy(runtime, array), (count, *shape[cut:]))
