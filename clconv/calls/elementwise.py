"""What the library itself does to whole arrays on the device, for every dtype and stride."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
from numpy.typing import NDArray

from clconv.calls.copying import RAW, copying, over_elements
from clconv.dtypes import dtype_of, is_bfloat16, is_floating
from clconv.errors import ProblemError
from clconv.runtime import Argument, Runtime, memory_of, runtime_of
from clconv.variants.base import Kernel, Layout, Operand, kernel_constants, scalars

__all__ = [
    "activation_gradient",
    "add_scaled",
    "contiguous",
    "convert",
    "converted_by",
    "copy_view",
    "extend",
    "fill",
    "fingerprint",
    "flat",
    "host_values",
    "interleave",
    "pad",
    "pad_gradient",
    "row_statistic",
]


def flat(array: cl_array.Array) -> Argument:
    """Kernel arguments of a contiguous array."""
    return array.base_data, _start(array)


def _start(array: cl_array.Array) -> int:
    """Where an array begins in its memory, in elements."""
    memory_of("array", array)
    size = array.dtype.itemsize
    if array.offset % size:
        raise ProblemError(
            f"array starts at byte {array.offset} of its buffer, expected a multiple of {size}"
        )
    return int(array.offset // size)


def host_values(array: cl_array.Array) -> NDArray[Any]:
    """An array's values in NumPy's memory, of those too that pyopencl's `get` refuses: views, and
    arrays of shared virtual memory or without a queue."""
    if not _whole(array) or array.queue is None:
        runtime = runtime_of(array.context)
        copied = runtime.empty(array.shape, array.dtype)
        copy_view(runtime, array, copied)
        array = copied
    result: NDArray[Any] = array.get()
    return result


Strides = tuple[int, ...]
# Words that a work-item takes in a step, and shares of them a core.
FINGERPRINT_BLOCK, SHARES_A_CORE = 64, 4


def fingerprint(runtime: Runtime, buffer: Any, nbytes: int, itemsize: int) -> bytes:
    """What tells the content of a buffer from what it was: another for each change of one element,
    and all but certainly for any. Waits until it is known."""
    words = nbytes // itemsize
    blocks = words // FINGERPRINT_BLOCK
    count = max(1, min(blocks, SHARES_A_CORE * runtime.profile.compute_units))
    word, lane = RAW[itemsize], "ulong" if itemsize == 8 else "uint"
    kernel = Kernel(
        "fingerprint",
        (*kernel_constants(runtime.profile, np.dtype(np.float32), 1), ("word", word)),
        (
            Operand("words", Layout.FLAT, element=word),
            Operand("states", Layout.FLAT, written=True, element=lane),
        ),
        scalars(long_names="count length share"),
        (1, 1, 1),
    )
    launch = kernel.launch((count, 1, 1), count=count, length=words, share=max(blocks // count, 1))
    states = runtime.empty(count * FINGERPRINT_BLOCK, f"u{8 if itemsize == 8 else 4}")
    runtime.run_one(launch, {"words": (buffer, 0), "states": flat(states)}, {}, (), (states,))
    return runtime.to_host(states).tobytes()


def _whole(array: cl_array.Array) -> bool:
    """Whether an array is one piece of a buffer, which drivers copy and fill fastest."""
    return bool(array.flags.c_contiguous) and not isinstance(array.base_data, cl.SVMPointer)


def copy_view(
    runtime: Runtime,
    source: cl_array.Array,
    target: cl_array.Array,
    *,
    start: int = 0,
    strides: Strides | None = None,
) -> None:
    """Queues copying an array to one of its shape and dtype; both may be views.

    `start` and `strides`, in bytes, place the elements in `target`'s buffer otherwise than its own.
    """
    if source.size == 0:
        return
    apart = memory_of("array", source) != memory_of("array", target)
    if apart and strides is None and _whole(source) and _whole(target):
        runtime.copy(source, target)
        return
    size = source.dtype.itemsize
    if size not in RAW:
        raise ProblemError(f"array has dtype {source.dtype}, expected elements of 1 to 16 bytes")
    places = (source.strides, target.strides if strides is None else strides)
    if any(step % size for steps in places for step in steps):
        raise ProblemError(f"array has strides {places}, expected multiples of {size} bytes")
    steps = [tuple(step // size for step in one) for one in places]
    launch = copying(runtime.profile, size, tuple(source.shape), *steps)
    y = (target.base_data, _start(target) + start // size)
    runtime.run_one(launch, {"x": flat(source), "y": y}, {}, (source,), (target,))


def contiguous(runtime: Runtime, array: cl_array.Array) -> cl_array.Array:
    """The array itself, or a contiguous copy of a view, queued."""
    if array.flags.c_contiguous:
        return array
    copied = runtime.empty(array.shape, array.dtype)
    copy_view(runtime, array, copied)
    return copied


def fill(runtime: Runtime, array: cl_array.Array, value: float) -> None:
    """Queues filling an array, or a view, with one value."""
    if _whole(array):
        runtime.fill(array, value)
        return
    one = runtime.empty(1, array.dtype)
    runtime.fill(one, value)
    everywhere = cl_array.Array(
        runtime.queue, array.shape, array.dtype, data=one.base_data, strides=(0,) * len(array.shape)
    )
    copy_view(runtime, everywhere, array)


def add_scaled(
    runtime: Runtime, target: cl_array.Array, rate: float, source: cl_array.Array
) -> None:
    """Queues `target += rate * source`, of arrays or views of one shape and dtype."""
    if target.size == 0:
        return
    launch = over_elements(
        runtime.profile,
        "update",
        target.dtype,
        target.size,
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        open_sums="rate",
    )
    x, y = contiguous(runtime, source), contiguous(runtime, target)
    runtime.run_one(launch, {"x": flat(x), "y": flat(y)}, {"rate": rate}, (x,), (y,))
    if y is not target:
        copy_view(runtime, y, target)


_C_TYPES = {
    "float16": "ushort", "bfloat16": "ushort", "float32": "float", "float64": "double",
    "bool": "uchar",
    "int8": "char", "int16": "short", "int32": "int", "int64": "long",
    "uint8": "uchar", "uint16": "ushort", "uint32": "uint", "uint64": "ulong",
}  # fmt: skip


def converted_by(source: np.dtype[Any], target: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype whose loads and stores the kernel `convert` needs: the smaller in memory of those
    that have a point. Those of bfloat16 it can have beside others."""
    floating = [one for one in (source, target) if is_floating(one)]
    return min(floating, key=lambda one: (one.itemsize, is_bfloat16(one)))


def convert(runtime: Runtime, array: cl_array.Array, dtype: Any) -> cl_array.Array:
    """A contiguous array of the same values in another dtype, queued: rounded to nearest even, or
    of whole numbers what integers keep of them, their last bits. One of the dtypes is a
    floating-point one."""
    source, target = array.dtype, dtype_of(dtype)
    result = runtime.empty(array.shape, target)
    if array.size == 0:
        return result
    array = contiguous(runtime, array)
    launch = over_elements(
        runtime.profile,
        "convert",
        converted_by(source, target),
        array.size,
        (
            Operand("x", Layout.FLAT, element=_C_TYPES[source.name]),
            Operand("y", Layout.FLAT, written=True, element=_C_TYPES[target.name]),
        ),
        constants=(("source", source.name), ("target", target.name)),
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
    launch = over_elements(
        runtime.profile,
        "activation_gradient",
        grad.dtype,
        grad.size,
        (
            Operand("x", Layout.FLAT),
            Operand("saved", Layout.FLAT),
            Operand("y", Layout.FLAT, written=True),
        ),
        open_sums="slope",
        constants=(("activation", name),),
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
    _pad(runtime, "pad", mode, contiguous(runtime, x), result, length, pads, {"fill": fill})
    return result


def pad_gradient(
    runtime: Runtime, grad: cl_array.Array, pads: tuple[int, int], mode: str
) -> cl_array.Array:
    """The gradient of x, (N, C, L), of the gradient of its padded form, queued."""
    batch, channels, padded = grad.shape
    length = padded - sum(pads)
    result = runtime.empty((batch, channels, length), grad.dtype)
    _pad(runtime, "pad_gradient", mode, contiguous(runtime, grad), result, length, pads, {})
    return result


def extend(
    runtime: Runtime,
    x: cl_array.Array,
    pads: tuple[int, int],
    mode: str,
    fill: float = 0.0,
    *,
    out: cl_array.Array | None = None,
) -> cl_array.Array:
    """(…, left + L + right) of x (…, L), queued, by as many samples as are wanted; the modes are
    those of scipy.signal.upfirdn, and "odd" for less samples than there are."""
    *rows, length = x.shape
    result = runtime.empty((*rows, length + sum(pads)), x.dtype) if out is None else out
    _pad(runtime, "extend", mode, contiguous(runtime, x), result, length, pads, {"fill": fill})
    return result


# Positions of all rows that a work-item of `interleave` moves.
MOVED_TOGETHER = 64


def interleave(
    runtime: Runtime, x: cl_array.Array, y: cl_array.Array, every: int, first: int
) -> None:
    """Queues y[n, first + c + i every] = x[n, c, i] as far as y (N, L) goes; x is (N, C, P). Rows
    and channels may lie anywhere, their elements follow each other."""
    batch, channels, positions = x.shape
    chunks = -(-positions // MOVED_TOGETHER)
    if not batch or not chunks:
        return
    size = x.dtype.itemsize
    numbers = {
        "chunks": chunks, "channels": channels, "positions": positions, "length": y.shape[1],
        "every": every, "first": first, "x_batch": x.strides[0] // size,
        "x_channel": x.strides[1] // size, "y_batch": y.strides[0] // size,
    }  # fmt: skip
    launch = over_elements(
        runtime.profile,
        "interleave",
        np.dtype(np.float32),  # of no meaning here
        batch * chunks,
        (
            Operand("x", Layout.FLAT, element=RAW[size]),
            Operand("y", Layout.FLAT, written=True, element=RAW[size]),
        ),
        numbers,
        constants=(("chunk", MOVED_TOGETHER),),
    )
    runtime.run_one(launch, {"x": flat(x), "y": flat(y)}, {}, (x,), (y,))


def row_statistic(runtime: Runtime, x: cl_array.Array, statistic: str) -> cl_array.Array:
    """(…, 1) of x (…, L), queued: the "minimum", "maximum" or "median" of each row."""
    *rows, length = x.shape
    result = runtime.empty((*rows, 1), x.dtype)
    if result.size == 0:
        return result
    launch = over_elements(
        runtime.profile,
        "row_statistic",
        x.dtype,
        result.size,
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        {"length": length},
        constants=(("statistic", statistic),),
    )
    x = contiguous(runtime, x)
    runtime.run_one(launch, {"x": flat(x), "y": flat(result)}, {}, (x,), (result,))
    return result


def _pad(
    runtime: Runtime,
    kernel: str,
    mode: str,
    source: cl_array.Array,
    result: cl_array.Array,
    length: int,
    pads: tuple[int, int],
    sums: dict[str, float],
) -> None:
    if result.size == 0:
        return
    launch = over_elements(
        runtime.profile,
        kernel,
        result.dtype,
        result.size,
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        {"length": length, "padded": length + sum(pads), "left": pads[0], "right": pads[1]},
        " ".join(sums),
        (("mode", mode),),
    )
    runtime.run_one(launch, {"x": flat(source), "y": flat(result)}, sums, (source,), (result,))
