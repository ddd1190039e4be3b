"""Which convolutions of rows are the convolution of two arrays of any shape?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.layouts import Array, Shape
from clconv.errors import ProblemError
from clconv.geometry import Part, outputs_in, part_of
from clconv.problem import Conv1dProblem
from clconv.runtime import Runtime
from clconv.signal.arrays import (
    Door,
    copy_all,
    device_view,
    is_complex,
    permuted,
    rows,
    sliced,
    whole_copy,
)
from clconv.signal.numbers import Sums, sums_of
from clconv.signal.sums import outputs, weights

__all__ = ["Pair", "convolved", "pair_of"]

# Outputs along an axis: the first one of the full convolution, and how many.
Range = tuple[int, int]


class Pair(NamedTuple):
    """Two arrays as a signal and a filter, and what each dimension is to them.

    batch: the filter has length 1 there. grouped: each place of the signal has a filter of its
    own. spread: the signal has length 1. along: both are convolved, along the last one of these in
    rows. `x` and `h` lie as the caller's arrays, but for places that are left out; reversed
    dimensions of x have already been turned. h is to be multiplied with its dimensions `turned`
    reversed.
    """

    x: Array
    h: Array
    batch: tuple[int, ...]
    grouped: tuple[int, ...]
    spread: tuple[int, ...]
    along: tuple[int, ...]
    ranges: dict[int, Range]
    turned: frozenset[int]
    conjugate: bool

    def elements(self, dimensions: tuple[int, ...], array: Array) -> int:
        """Elements of an array along some dimensions."""
        return math.prod(array.shape[i] for i in dimensions)

    @property
    def taps(self) -> int:
        """Products of each sum."""
        return self.elements(self.along, self.h)

    def problem(self, dtype: np.dtype[Any]) -> Conv1dProblem:
        """The convolution of rows that most of the work is."""
        if not self.along:
            return Conv1dProblem(1, 1, 1, 1, 1, dtype=dtype)
        *outer, row = self.along
        parts = 2 if is_complex(self.x) and is_complex(self.h) else 1
        apart = 2 if is_complex(self.x) and parts == 1 else 1
        groups = self.elements(self.grouped, self.h)
        batch = self.elements(self.batch, self.x) * apart
        channels = groups * parts
        if outer:
            batch, channels = self.ranges[outer[0]][1], self.h.shape[outer[0]] * parts
        results = groups * self.elements(self.spread, self.h) * (2 if is_complex(self.h) else 1)
        taps, length = self.h.shape[row], self.x.shape[row]
        part = part_of(length, taps, *self.ranges[row])
        return Conv1dProblem(
            batch,
            channels,
            part.stop - part.start,
            results,
            taps,
            padding=(part.left, part.right),
            groups=1 if outer else groups,
            dtype=dtype,
        )


def pair_of(
    function: str,
    in1: Array,
    in2: Array,
    mode: str,
    axes: tuple[int, ...],
    flipped: bool,
    broadcast: bool,
) -> Pair:
    """How two arrays meet; a `flipped` second one is reversed and conjugated. With `broadcast`
    they may be of different lengths where one has length 1. Raises ProblemError."""
    shape1, shape2 = tuple(in1.shape), tuple(in2.shape)
    everywhere = range(len(shape1))
    along = tuple(i for i in axes if shape1[i] != 1 and shape2[i] != 1)
    strange = [
        i for i in everywhere if i not in along and 1 not in (shape1[i], shape2[i])
        and shape1[i] != shape2[i]
    ]  # fmt: skip
    if strange:
        raise ProblemError(
            f"in1 has shape {shape1} and in2 {shape2}, expected the same lengths, or 1, along axes "
            f"that are not in axes ({', '.join(map(str, strange))})"
        )
    turned_first = False
    if mode == "valid" and _is_swapped(shape1, shape2, along if broadcast else tuple(everywhere)):
        in1, in2, turned_first = in2, in1, flipped
    turned_second = flipped and not turned_first
    if mode == "same":
        in2 = _middle(in1, in2, turned_second)
    ranges = {i: outputs_in(mode, in1.shape[i], in2.shape[i]) for i in along}
    x, h, turn_x, turn_h = in1, in2, turned_first, turned_second
    if _is_filter_first(x, h, along, turn_x, turn_h):
        x, h, turn_x, turn_h = h, x, turn_h, turn_x
    for i in everywhere if turn_x else ():
        x = sliced(x, i, 0, x.shape[i], -1)
    others = [i for i in everywhere if i not in along]
    pair = Pair(
        x,
        h,
        tuple(i for i in others if h.shape[i] == 1),
        tuple(i for i in others if h.shape[i] > 1 and x.shape[i] > 1),
        tuple(i for i in others if h.shape[i] > 1 and x.shape[i] == 1),
        along,
        ranges,
        frozenset(i for i in everywhere if turn_h != (i in along)),
        turn_h,
    )
    if len(along) > 2 or (len(along) == 2 and (pair.grouped or pair.spread)):
        raise ProblemError(
            f"in1 has shape {shape1} and in2 {shape2}, which is a convolution along "
            f"{len(along)} axes; expected one, or two and a second array of length 1 along others: "
            f"more is left to scipy.signal.{function}"
        )
    return pair


def _is_filter_first(
    x: Array, h: Array, along: tuple[int, ...], turn_x: bool, turn_h: bool
) -> bool:
    """Whether x is the better filter: the shorter one, since convolution commutes. What is
    conjugated must be the filter."""
    longer = math.prod(h.shape[i] for i in along) > math.prod(x.shape[i] for i in along)
    if len(along) > 1:  # rows that share a filter are the signal's
        others = [i for i in range(len(x.shape)) if i not in along]
        x_rows, h_rows = (max((a.shape[i] for i in others), default=1) for a in (x, h))
        longer = h_rows > 1 or (longer and x_rows == 1)
    return (longer and not (turn_h and is_complex(h))) or (turn_x and is_complex(x))


def _is_swapped(shape1: Shape, shape2: Shape, axes: tuple[int, ...]) -> bool:
    """Whether the second array is the larger one along all axes, for mode "valid". Raises
    ProblemError where neither is."""
    if all(shape1[i] >= shape2[i] for i in axes):
        return False
    if all(shape2[i] >= shape1[i] for i in axes):
        return True
    raise ProblemError(
        f"in1 has shape {shape1} and in2 {shape2}, expected one that is at least as large as the "
        "other along every axis for mode 'valid'"
    )


def _middle(in1: Array, in2: Array, turned: bool) -> Array:
    """in2 with only its middle where in1, whose shape the result has, is of length 1."""
    for i, (one, two) in enumerate(zip(in1.shape, in2.shape, strict=True)):
        if one == 1 and two > 1:
            middle = (two - 1) // 2
            place = two - 1 - middle if turned else middle
            in2 = sliced(in2, i, place, place + 1)
    return in2


def convolved(door: Door, pair: Pair, dtype: np.dtype[Any], exact: bool | None) -> Array:
    """The caller's result."""
    h = pair.h
    for i in pair.turned:
        h = sliced(h, i, 0, h.shape[i], -1)
    h = permuted(h, (*pair.batch, *pair.grouped, *pair.spread, *pair.along))
    sums = sums_of(door.runtime, dtype, pair.x, h, pair.taps)
    sums = Sums(sums.dtype, exact if sums.exact is None else sums.exact)
    if len(pair.along) == 2:
        return _in_planes(door, pair, h, dtype, sums)
    return _in_rows(door, pair, h, dtype, sums)


def _filters(runtime: Runtime, h: Array, taps: int) -> Array:
    """(…, K) as (G, K)."""
    if isinstance(h, np.ndarray):
        return h.reshape(-1, taps)
    if h.shape and h.shape[-1] == taps:
        return rows(runtime, h, 1)
    joined = whole_copy(runtime, h)  # along no axis, each number is a filter
    return device_view(joined, (h.size // taps, taps))


def _in_rows(door: Door, pair: Pair, h: Array, dtype: np.dtype[Any], sums: Sums) -> Array:
    """The result of a convolution along one axis, or none."""
    runtime, x = door.runtime, pair.x
    leading = (*pair.batch, *pair.spread)
    order_of_x = (*leading, *pair.grouped, *pair.along)
    signal = permuted(x, order_of_x)
    if not pair.along:  # a row of one sample each
        signal = signal.reshape(*signal.shape, 1) if door.host else _with_one(signal)
    apart = is_complex(x) and not is_complex(h)
    signal = door.planes(signal, sums.dtype, len(leading) if apart else -2)
    batch = pair.elements(pair.batch, x)
    groups = pair.elements(pair.grouped, pair.h)
    parts = 2 if is_complex(x) else 1
    length = signal.shape[-1]
    if not pair.grouped:
        kept = 1 if apart else 2
        joined = rows(runtime, signal, kept)
        if apart:
            joined = device_view(
                joined, (batch * parts, 1, length), (joined.strides[0], sums.dtype.itemsize,
                                                     joined.strides[1])
            )  # fmt: skip
        signal = joined
    else:
        shape = (batch * parts, groups, length) if apart else (batch, groups * parts, length)
        signal = device_view(whole_copy(runtime, signal), shape)
    weight = weights(
        runtime, _filters(runtime, h, pair.taps), 1 if apart else parts, sums, pair.conjugate
    )
    first, count = pair.ranges[pair.along[0]] if pair.along else (0, 1)
    room = door.room((signal.shape[0], weight.shape[0], count), sums.dtype, dtype)
    y = outputs(runtime, signal, weight, first, count, sums, groups=groups, out=room)
    sizes = [
        *(x.shape[i] for i in pair.batch),
        *(pair.h.shape[i] for i in (*pair.grouped, *pair.spread)),
    ]
    order = (*pair.batch, *pair.grouped, *pair.spread, *pair.along)
    result_parts = 2 if dtype.kind == "c" else 1
    if pair.along:
        sizes.append(count)
    at = len(pair.batch) if apart else len(order) - len(pair.along)
    shape = (*sizes[:at], result_parts, *sizes[at:])
    return door.result(y, shape, dtype, order, at)


def _with_one(array: cl_array.Array) -> cl_array.Array:
    """A device array with a last dimension of length 1."""
    size = array.dtype.itemsize
    return device_view(array, (*array.shape, 1), (*array.strides, size))


def _in_planes(door: Door, pair: Pair, h: Array, dtype: np.dtype[Any], sums: Sums) -> Array:
    """The result of a convolution along two axes: in rows, summed over the filter's rows as over
    channels. The rows that windows share are read in place."""
    runtime, x = door.runtime, pair.x
    down, row = pair.along
    order = (*pair.batch, down, row)
    apart = is_complex(x) and not is_complex(h)
    at = len(pair.batch) if apart else len(order) - 1
    signal = door.planes(permuted(x, order), sums.dtype, at)
    parts = 1 if apart else signal.shape[-2]
    # (N, rows, P, L), planes that do not meet being in N.
    if apart:
        steps = (*signal.strides[:-1], sums.dtype.itemsize, signal.strides[-1])
        signal = device_view(signal, (*signal.shape[:-1], 1, signal.shape[-1]), steps)
    tall, wide = h.shape[-2:]
    first, count = pair.ranges[down]
    signal = _between_zeros(
        runtime, rows(runtime, signal, 3), part_of(x.shape[down], tall, first, count)
    )
    filters = _filters(runtime, h, wide)
    by_row = weights(runtime, filters, parts, sums, pair.conjugate)  # (rows P', P, K)
    sides = by_row.shape[0] // tall
    by_row = device_view(by_row, (tall, sides, parts, wide))
    weight = device_view(whole_copy(runtime, permuted(by_row, (1, 0, 2, 3))),
                         (sides, tall * parts, wide))  # fmt: skip
    start, length = pair.ranges[row]
    shape = (signal.shape[0], count, sides, length)
    room = door.room(shape, sums.dtype, dtype)
    y = runtime.empty(shape, sums.dtype) if room is None else room
    for place in range(signal.shape[0]):
        one = sliced(signal, 0, place, place + 1)
        windows = device_view(
            one, (count, tall * parts, one.shape[3]),
            (one.strides[1], one.strides[2] if parts > 1 else one.strides[1], one.strides[3]),
        )  # fmt: skip
        own = sliced(y, 0, place, place + 1)
        own = device_view(own, (count, sides, length))
        outputs(runtime, windows, weight, start, length, sums, out=own)
    sizes = (*(x.shape[i] for i in pair.batch), count, length)
    result_parts = 2 if dtype.kind == "c" else 1
    return door.result(y, (*sizes[:at], result_parts, *sizes[at:]), dtype, order, at)


def _between_zeros(runtime: Runtime, x: cl_array.Array, part: Part) -> cl_array.Array:
    """(N, rows, P, L), contiguous: some rows of x, and zeros before and after them."""
    used = sliced(x, 1, part.start, part.stop)
    if not part.left and not part.right:
        return whole_copy(runtime, used)
    batch, count, parts, length = used.shape
    made = runtime.zeros((batch, part.left + count + part.right, parts, length), x.dtype)
    copy_all(runtime, used, sliced(made, 1, part.left, part.left + count))
    return made
