"""The sums of all filters: which convolutions give outputs of a filter, and of a resampling?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyopencl.array as cl_array

from clconv import functional
from clconv.calls.elementwise import add_scaled, fill, interleave
from clconv.calls.layouts import Array
from clconv.geometry import PhaseBlock, Resampling, part_of
from clconv.planning.cost import CALL_PRODUCTS
from clconv.runtime import Runtime
from clconv.signal import long
from clconv.signal.arrays import copy_all, device_view, is_complex, planes, rows, sliced, whole_copy
from clconv.signal.long import convolve_rows
from clconv.signal.numbers import Sums
from clconv.signal.phases import resample_rows, serves

__all__ = ["filtered", "is_long", "outputs", "resampled", "weights"]

# Phases of a resampling share windows, with at most so many zeros beside each tap. A call for each
# phase multiplies none, but reads the signal as often as there are phases.
ZEROS_PER_TAP = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0)


def weights(
    runtime: Runtime, h: Array, parts: int, sums: Sums, conjugate: bool = False
) -> cl_array.Array:
    """The weights of a convolution by real or complex filters.

    h: (G, K), in the order of taps that conv1d has; any strides, on host or device.
    parts: 2 for a complex signal, whose planes are input channels, where h is complex, too; else 1.
    Returns (G P, parts, K), P being 2 where h is complex: real and imaginary part of each result.
    """
    own = planes(runtime, h, sums.dtype)
    count, sides, taps = own.shape
    if sides == 1:
        return whole_copy(runtime, own)
    if parts == 1 and not conjugate:
        return device_view(own, (count * 2, 1, taps))
    real, imaginary = sliced(own, 1, 0, 1), sliced(own, 1, 1, 2)
    negative = runtime.zeros((count, 1, taps), sums.dtype)
    add_scaled(runtime, negative, -1.0, imaginary)
    if conjugate:
        imaginary, negative = negative, imaginary
    made = runtime.empty((count, 2, parts, taps), sums.dtype)
    # re = x_re h_re - x_im h_im, im = x_re h_im + x_im h_re.
    pieces = ((real, negative), (imaginary, real))
    for row, both in enumerate(pieces):
        for column, piece in enumerate(both[:parts]):
            place = sliced(sliced(made, 1, row, row + 1), 2, column, column + 1)
            copy_all(runtime, piece, device_view(place, (count, 1, taps), _without(place, 1)))
    return device_view(made, (count * 2, parts, taps))


def _without(array: cl_array.Array, axis: int) -> tuple[int, ...]:
    """Strides without those of an axis."""
    return tuple(step for i, step in enumerate(array.strides) if i != axis)


def outputs(
    runtime: Runtime,
    x: cl_array.Array,
    weight: cl_array.Array,
    first: int,
    count: int,
    sums: Sums,
    *,
    step: int = 1,
    groups: int = 1,
    out: cl_array.Array | None = None,
) -> cl_array.Array:
    """Outputs `first`, `first` + step, … of the full convolution of x (N, C, L), by weights whose
    last tap is the filter's first; (N, Cout, count)."""
    part = part_of(x.shape[2], weight.shape[2], first, count, step)
    if part.is_empty or count < 1:
        shape = (x.shape[0], weight.shape[0], max(count, 0))
        nothing = runtime.empty(shape, sums.dtype) if out is None else out
        fill(runtime, nothing, 0)
        return nothing
    if step == groups == 1 and is_long(runtime, weight.shape[2], count, sums):
        return _long_outputs(runtime, x, weight, first, count, sums, out)
    y: cl_array.Array = functional.conv1d(
        sliced(x, 2, part.start, part.stop),
        weight,
        stride=step,
        padding=(part.left, part.right),
        groups=groups,
        out=out,
        runtime=runtime,
        exact=sums.exact,
    )
    return y


def is_long(runtime: Runtime, taps: int, count: int, sums: Sums) -> bool:
    """Whether a filter has more taps than the planner's variants transform, and its sums need not
    be the definition's own."""
    exact = runtime.exact if sums.exact is None else sums.exact
    return not exact and long.serves(runtime.profile, sums.dtype, taps, count)


def _long_outputs(
    runtime: Runtime,
    x: cl_array.Array,
    weight: cl_array.Array,
    first: int,
    count: int,
    sums: Sums,
    out: cl_array.Array | None,
) -> cl_array.Array:
    """What `outputs` gives, one pair of channels after the other."""
    y = runtime.empty((x.shape[0], weight.shape[0], count), sums.dtype) if out is None else out
    for channel in range(weight.shape[0]):
        target = _channel(y, channel)
        for source in range(weight.shape[1]):
            taps = sliced(sliced(weight, 0, channel, channel + 1), 1, source, source + 1)
            taps = device_view(taps, (weight.shape[2],))
            part = runtime.empty((x.shape[0], count), sums.dtype) if source else target
            convolve_rows(runtime, _channel(x, source), taps, weight.shape[2] - 1 - first, part)
            if source:
                add_scaled(runtime, target, 1.0, part)
    return y


def _channel(x: cl_array.Array, channel: int) -> cl_array.Array:
    """One channel of x (N, C, L), (N, L)."""
    one = sliced(x, 1, channel, channel + 1)
    return device_view(one, (x.shape[0], x.shape[2]), _without(one, 1))


def filtered(
    runtime: Runtime,
    x: cl_array.Array,
    h: Array,
    first: int,
    count: int,
    sums: Sums,
    *,
    step: int = 1,
    reverse: bool = True,
    out: cl_array.Array | None = None,
) -> cl_array.Array:
    """Outputs of a filter of every row: (N, P', count) of x (N, P, L), P' being 2 where x or h is
    complex.

    h: (K,), on host or device. Without `reverse` its last tap meets the latest sample. `out` is
    contiguous, and of no complex result.
    """
    taps = h.shape[0]
    row = sliced(h, 0, 0, taps, -1 if reverse else 1)
    batch, parts, _ = x.shape
    if not is_complex(h):
        weight = weights(runtime, _as_row(row), 1, sums)
        own = None if out is None else device_view(out, (batch * parts, 1, count))
        apart = _apart(runtime, x)
        y = outputs(runtime, apart, weight, first, count, sums, step=step, out=own)
        return device_view(y, (batch, parts, count))
    weight = weights(runtime, _as_row(row), parts, sums)
    return outputs(runtime, x, weight, first, count, sums, step=step)


def _as_row(h: Array) -> Array:
    """(K,) as (1, K)."""
    if isinstance(h, np.ndarray):
        return h[None]
    return device_view(h, (1, *h.shape), (h.dtype.itemsize, *h.strides))


def _apart(runtime: Runtime, x: cl_array.Array) -> cl_array.Array:
    """(N, P, L) as (N P, 1, L): planes that do not meet."""
    joined = rows(runtime, x, 1)
    return device_view(joined, (joined.shape[0], 1, joined.shape[1]), _with_one(joined))


def _with_one(array: cl_array.Array) -> tuple[int, int, int]:
    return array.strides[0], array.dtype.itemsize, array.strides[1]


# Resampling


def resampled(
    runtime: Runtime,
    x: cl_array.Array,
    h: Array,
    of: Resampling,
    count: int,
    sums: Sums,
    out: cl_array.Array | None = None,
) -> cl_array.Array:
    """`count` outputs of a resampling of every row, (N, P', count) of x (N, P, L); h is (K,). `out`
    is contiguous, and of no complex result."""
    taps, of = of.reduced()
    if of.kernel_size < 1:
        parts = 2 if is_complex(h) else x.shape[1]
        nothing = runtime.empty((x.shape[0], parts, count), sums.dtype) if out is None else out
        fill(runtime, nothing, 0)
        return nothing
    h = sliced_by(h, taps)
    if of.up == 1:
        return filtered(runtime, x, h, of.first, count, sums, step=of.down, out=out)
    if of.down == 1 and not is_complex(h):
        left, right, beyond = of.cropped(x.shape[2], count)
        if beyond < of.up:
            return _interpolated(runtime, x, h, of, (left, right, beyond), sums, out)
    if isinstance(h, np.ndarray) and not is_complex(h) and serves(runtime.profile, of, sums.dtype):
        batch, parts, length = x.shape
        y = runtime.empty((batch, parts, count), sums.dtype) if out is None else out
        rows_of_x = device_view(
            (apart := _apart(runtime, x)), (batch * parts, length), _without(apart, 1)
        )
        resample_rows(
            runtime, rows_of_x, h.astype(sums.dtype), of, device_view(y, (batch * parts, count))
        )
        return y
    return _by_phases(runtime, x, h, of, count, sums, out)


def sliced_by(h: Array, taps: slice) -> Array:
    """Some taps of h (K,), a view."""
    if isinstance(h, np.ndarray):
        return h[taps]
    found = range(*taps.indices(h.shape[0]))
    step = h.strides[0]
    return device_view(h, (len(found),), (step * found.step,), found.start * step)


def _interpolated(
    runtime: Runtime,
    x: cl_array.Array,
    h: Array,
    of: Resampling,
    crop: tuple[int, int, int],
    sums: Sums,
    out: cl_array.Array | None,
) -> cl_array.Array:
    """Outputs without decimation, by a transposed convolution: its kernels interleave phases."""
    left, right, beyond = crop
    batch, parts, _ = x.shape
    if out is not None:
        out = device_view(out, (batch * parts, 1, out.shape[2]))
    y = functional.conv_transpose1d(
        _apart(runtime, x),
        weights(runtime, _as_row(h), 1, sums),
        stride=of.up,
        padding=(left, right),
        output_padding=beyond,
        out=out,
        runtime=runtime,
        exact=sums.exact,
    )
    return device_view(y, (batch, parts, y.shape[2]))


def _by_phases(
    runtime: Runtime,
    x: cl_array.Array,
    h: Array,
    of: Resampling,
    count: int,
    sums: Sums,
    out: cl_array.Array | None,
) -> cl_array.Array:
    """A convolution for each block of phases, whose results are interleaved."""
    batch, parts, _ = x.shape
    sides = 2 if is_complex(h) else 1
    if sides == 1:
        x = _apart(runtime, x)
    y = runtime.empty((batch, max(parts, sides), count), sums.dtype) if out is None else out
    for block in _blocks(of, batch * parts * count):
        rest = count - block.first
        if rest < 1:
            break
        weight = weights(runtime, _block_taps(runtime, h, block), x.shape[1], sums)
        each = -(-rest // of.up)
        part = outputs(runtime, x, weight, block.last_sample, each, sums, step=of.down)
        # (N, phases P', each), the planes of x being in N where h is real.
        phases = len(block.taps)
        for side in range(sides):
            steps = part.strides[0], sides * part.strides[1], part.strides[2]
            source = device_view(part, (part.shape[0], phases, each), steps, side * part.strides[1])
            target = device_view(
                y, (part.shape[0], count), (sides * y.strides[1], y.strides[2]),
                side * y.strides[1],
            )  # fmt: skip
            interleave(runtime, source, target, of.up, block.first)
    return y


@lru_cache(maxsize=256)
def _all_blocks(of: Resampling, most_zeros: float) -> tuple[PhaseBlock, ...]:
    return tuple(of.blocks(most_zeros))


def _blocks(of: Resampling, count: int) -> tuple[PhaseBlock, ...]:
    """The division of phases that takes the least time for so many outputs of all rows."""

    def cost(blocks: tuple[PhaseBlock, ...]) -> float:
        products = sum(block.products for block in blocks)
        return products * count / of.up + len(blocks) * CALL_PRODUCTS

    return min((_all_blocks(of, zeros) for zeros in ZEROS_PER_TAP), key=cost)


def _block_taps(runtime: Runtime, h: Array, block: PhaseBlock) -> Array:
    """(phases, K) of a block: the taps of each phase where its windows have them, else 0."""
    shape = (len(block.taps), block.kernel_size)
    host = isinstance(h, np.ndarray)
    made = np.zeros(shape, h.dtype) if host else runtime.zeros(shape, h.dtype)
    for phase, (taps, stop) in enumerate(zip(block.taps, block.stops, strict=True)):
        if isinstance(h, np.ndarray):
            own = h[taps]
            made[phase, stop - own.shape[0] : stop] = own[::-1]
            continue
        own = sliced_by(h, taps)
        count = own.shape[0]
        row = sliced(sliced(made, 0, phase, phase + 1), 1, stop - count, stop)
        if count:
            copy_all(runtime, _as_row(sliced(own, 0, 0, count, -1)), row)
    return made
