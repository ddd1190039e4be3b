"""How are rows of samples moved, added and sent through an activation?

Rows are those of arrays (N, C, L): they may lie anywhere, their samples follow each other. A row's
values do not depend on how it lies, nor on the rows and samples beside it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.elementwise import contiguous
from clconv.planning.profiles import DeviceProfile
from clconv.render import render
from clconv.runtime import Runtime
from clconv.variants.base import (
    MAX_GROUPS,
    Kernel,
    Launch,
    Layout,
    Operand,
    ceil_div,
    kernel_constants,
    local_items,
    scalars,
    vector_lanes,
)

__all__ = ["Rows", "activated", "combine", "rows_of", "summed"]

# Vectors of a row that a work-item of a CPU moves, one after the other.
SPAN = 64


class Rows(NamedTuple):
    """Where the rows of an array lie: a buffer, and places in it in elements."""

    buffer: Any
    offset: int
    batch_stride: int
    channel_stride: int

    def shifted(self, positions: int) -> Rows:
        """The same rows from a later position on."""
        return self._replace(offset=self.offset + positions)


def rows_of(array: cl_array.Array) -> Rows | None:
    """Those of an array (N, C, L), None where its samples do not follow each other."""
    size = array.dtype.itemsize
    batch, channel, position = array.strides
    apart = position != size and array.shape[2] > 1
    if apart or batch % size or channel % size or array.offset % size:
        return None
    return Rows(array.base_data, array.offset // size, batch // size, channel // size)


@lru_cache(maxsize=256)
def _kernel(profile: DeviceProfile, dtype: np.dtype[Any], two: bool, activation: str | None) -> Any:
    """The kernel with its text, how many positions a work-item has, and its group's size."""
    lanes = vector_lanes(profile, dtype)
    span = 1 if lanes == 1 else SPAN
    names = ("x", "z") if two else ("x",)
    local = local_items(profile, 64) if lanes == 1 else 1
    kernel = Kernel(
        "rows",
        (*kernel_constants(profile, dtype, lanes), ("activation", activation), ("span", span)),
        (*(Operand(name, Layout.ROWS) for name in names), Operand("y", Layout.ROWS, written=True)),
        scalars(long_names="count channels positions", sum_names="slope"),
        (local, 1, 1),
    )
    return kernel, render(kernel), lanes * span, local


def combine(
    runtime: Runtime,
    dtype: np.dtype[Any],
    shape: tuple[int, int, int],
    y: Rows,
    x: Rows,
    z: Rows | None = None,
    activation: tuple[str | None, float] = (None, 0.0),
    reads: tuple[cl_array.Array, ...] = (),
    writes: tuple[cl_array.Array, ...] = (),
) -> None:
    """Queues y = activation(x + z) of rows (N, C, L), without z y = activation(x); y may be x or z.

    `reads` and `writes` are arrays that another queue may use.
    """
    batch, channels, positions = shape
    count = batch * channels
    if not count or not positions:
        return
    kernel, source, each, local = _kernel(runtime.profile, dtype, z is not None, activation[0])
    groups = min(ceil_div(positions, each * local), MAX_GROUPS)
    launch = Launch(kernel, (groups * local, min(count, MAX_GROUPS), 1))
    given = (*x, *y) if z is None else (*x, *z, *y)
    values = (*given, count, channels, positions, activation[1])
    command = runtime.programs.kernel(kernel, source), launch, values
    runtime.enqueue((command,), reads, writes)


def _laid(runtime: Runtime, array: cl_array.Array) -> tuple[Rows, cl_array.Array]:
    """An array's rows, or those of a copy of it, and the array that has them."""
    rows = rows_of(array)
    if rows is None:
        array = contiguous(runtime, array)
        rows = rows_of(array)
        assert rows is not None
    return rows, array


def activated(
    runtime: Runtime, x: cl_array.Array, activation: tuple[str | None, float]
) -> cl_array.Array:
    """activation(x) of (N, C, L), queued."""
    result = runtime.empty(x.shape, x.dtype)
    rows, x = _laid(runtime, x)
    to = rows_of(result)
    assert to is not None
    batch, maps, length = x.shape
    combine(
        runtime, x.dtype, (batch, maps, length), to, rows, None, activation, (x,), (result,)
    )  # fmt: skip
    return result


def summed(runtime: Runtime, arrays: list[cl_array.Array]) -> cl_array.Array:
    """The sum of at least one array (N, C, L), from the first to the last, queued."""
    total = arrays[0]
    batch, maps, length = total.shape
    shape = batch, maps, length
    for i, array in enumerate(arrays[1:]):
        x, total = _laid(runtime, total)
        z, array = _laid(runtime, array)
        result = runtime.empty(total.shape, total.dtype) if i == 0 else total
        y = rows_of(result)
        assert y is not None
        combine(runtime, total.dtype, shape, y, x, z, reads=(total, array), writes=(result,))
        total = result
    return total
