"""What the library itself does to whole arrays on the device, for every dtype and stride."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.runtime import Argument, Runtime
from clconv.variants.base import MAX_GROUPS, Constants, Launch, Layout, Operand, Scalar

__all__ = ["activation_gradient", "add_scaled", "contiguous", "contiguous_copy", "convert", "flat"]

LOCAL = 64


def _launch(
    runtime: Runtime,
    kernel: str,
    dtype: np.dtype[Any],
    count: int,
    operands: tuple[Operand, ...],
    scalars: tuple[Scalar, ...],
    constants: Constants = (),
) -> Launch:
    local = min(LOCAL, runtime.profile.max_work_group_size, runtime.profile.max_work_item_sizes[0])
    return Launch(
        kernel,
        (("dtype", dtype.name), ("lanes", 1), ("half_builtins", runtime.profile.half_builtins))
        + constants,
        operands,
        (Scalar("count", "long", count), *scalars),
        (min(-(-count // local), MAX_GROUPS) * local, 1, 1),
        (local, 1, 1),
    )


def flat(array: cl_array.Array) -> Argument:
    """Kernel arguments of a contiguous array."""
    return array.base_data, array.offset // array.dtype.itemsize


def contiguous_copy(
    runtime: Runtime,
    array: cl_array.Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    result: cl_array.Array,
) -> None:
    """Queues copying an array, seen as 3-D with strides in bytes, to a contiguous one."""
    if array.size == 0:
        return
    size = array.dtype.itemsize
    launch = _launch(
        runtime,
        "copy",
        array.dtype,
        array.size,
        (Operand("x", Layout.ROWS), Operand("y", Layout.FLAT, written=True)),
        (
            Scalar("size_1", "long", shape[1]),
            Scalar("size_2", "long", shape[2]),
            Scalar("x_stride", "long", strides[2] // size),
        ),
    )
    source = (array.base_data, array.offset // size, strides[0] // size, strides[1] // size)
    runtime.run_one(launch, {"x": source, "y": flat(result)}, {}, (array,), (result,))


def add_scaled(
    runtime: Runtime, target: cl_array.Array, rate: float, source: cl_array.Array
) -> None:
    """Queues `target += rate * source`, of contiguous arrays of one shape and dtype."""
    if target.size == 0:
        return
    launch = _launch(
        runtime,
        "update",
        target.dtype,
        target.size,
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        (Scalar("rate", "SUM"),),
    )
    runtime.run_one(
        launch, {"x": flat(source), "y": flat(target)}, {"rate": rate}, (source,), (target,)
    )


def contiguous(runtime: Runtime, array: cl_array.Array) -> cl_array.Array:
    """The array itself, or a contiguous copy of a view of at most three dimensions, queued."""
    if array.flags.c_contiguous:
        return array
    copied = runtime.empty(array.shape, array.dtype)
    missing = 3 - len(array.shape)
    shape = (1,) * missing + tuple(array.shape)
    strides = (0,) * missing + tuple(array.strides)
    contiguous_copy(runtime, array, shape, strides, copied)
    return copied


_C_TYPES = {"float16": "ushort", "float32": "float", "float64": "double"}


def convert(runtime: Runtime, array: cl_array.Array, dtype: Any) -> cl_array.Array:
    """A contiguous array of the same values in another dtype, rounded to nearest even, queued."""
    source, target = array.dtype, np.dtype(dtype)
    result = runtime.empty(array.shape, target)
    if array.size == 0:
        return result
    # What is smaller in memory decides which loads and stores the kernel needs.
    narrow = min(source, target, key=lambda d: d.itemsize)
    launch = _launch(
        runtime,
        "convert",
        narrow,
        array.size,
        (
            Operand("x", Layout.FLAT, element=_C_TYPES[source.name]),
            Operand("y", Layout.FLAT, written=True, element=_C_TYPES[target.name]),
        ),
        (),
        (("source", source.name), ("target", target.name)),
    )
    runtime.run_one(launch, {"x": flat(array), "y": flat(result)}, {}, (array,), (result,))
    return result


def activation_gradient(
    runtime: Runtime, name: str, slope: float, saved: cl_array.Array, grad: cl_array.Array
) -> cl_array.Array:
    """The gradient before an activation, queued: `grad` times the derivative found from `saved`,
    the activation's result or, for gelu and silu, its argument."""
    result = runtime.empty(grad.shape, grad.dtype)
    if grad.size == 0:
        return result
    grad = contiguous(runtime, grad)
    launch = _launch(
        runtime,
        "activation_gradient",
        grad.dtype,
        grad.size,
        (
            Operand("x", Layout.FLAT),
            Operand("saved", Layout.FLAT),
            Operand("y", Layout.FLAT, written=True),
        ),
        (Scalar("slope", "SUM"),),
        (("activation", name),),
    )
    bound = {"x": flat(grad), "saved": flat(saved), "y": flat(result)}
    runtime.run_one(launch, bound, {"slope": slope}, (grad, saved), (result,))
    return result


def pad(
    runtime: Runtime, x: cl_array.Array, pads: tuple[int, int], mode: str, fill: float
) -> cl_array.Array:
    """(N, C, left + L + right) of x (N, C, L), queued; modes as in Pad1D."""
    batch, channels, length = x.shape
    result = runtime.empty((batch, channels, length + sum(pads)), x.dtype)
    _pad(
        runtime,
        "pad",
        mode,
        contiguous(runtime, x),
        result,
        length,
        pads,
        (Scalar("fill", "SUM"),),
        {"fill": fill},
    )
    return result


def pad_gradient(
    runtime: Runtime, grad: cl_array.Array, pads: tuple[int, int], mode: str
) -> cl_array.Array:
    """The gradient of x, (N, C, L), of the gradient of its padded form, queued."""
    batch, channels, padded = grad.shape
    length = padded - sum(pads)
    result = runtime.empty((batch, channels, length), grad.dtype)
    _pad(runtime, "pad_gradient", mode, contiguous(runtime, grad), result, length, pads, (), {})
    return result


def _pad(
    runtime: Runtime,
    kernel: str,
    mode: str,
    source: cl_array.Array,
    result: cl_array.Array,
    length: int,
    pads: tuple[int, int],
    scalars: tuple[Scalar, ...],
    numbers: dict[str, float],
) -> None:
    if result.size == 0:
        return
    launch = _launch(
        runtime,
        kernel,
        result.dtype,
        result.size,
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        (
            Scalar("length", "long", length),
            Scalar("padded", "long", length + sum(pads)),
            Scalar("left", "long", pads[0]),
            Scalar("right", "long", pads[1]),
            *scalars,
        ),
        (("mode", mode),),
    )
    runtime.run_one(launch, {"x": flat(source), "y": flat(result)}, numbers, (source,), (result,))
