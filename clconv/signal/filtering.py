"""FIR filters along one axis: `lfilter` and `filtfilt` of scipy.signal."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.elementwise import add_scaled, convert, extend, host_values
from clconv.calls.layouts import Array
from clconv.errors import ProblemError
from clconv.geometry import reached_by, whole
from clconv.runtime import Runtime
from clconv.signal.arrays import Door, along, axis_of, copy_all, device_view, planes, rows, sliced
from clconv.signal.asking import ask_scipy, real_dtype, scipy_dtype
from clconv.signal.numbers import Sums
from clconv.signal.sums import filtered

__all__ = ["filtfilt", "lfilter"]

# What filtfilt's extensions are called in `extend`.
EXTENSIONS = {"odd": "odd", "even": "reflect", "constant": "edge"}


def lfilter(
    b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None, *, runtime: Runtime | None = None
) -> Any:
    """scipy.signal.lfilter for filters with a finite impulse response.

    Args:
        b: (K,), the numerator; with a signal on a device it may be on the host.
        a: one number, by which b is divided.
        x: an array of any shape.
        axis: the axis of x that is filtered along.
        zi: None, or the filter's state before the first sample: of x's shape with K - 1 along
            `axis`, or 1 along others; it may be on the host, too.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        y, of x's shape; with `zi` (y, zf), zf being the state after the last sample.

    Raises:
        ProblemError: what SciPy refuses, and a denominator of more than one coefficient.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> lfilter([0.5, 0.5], [1.0], np.array([2.0, 4.0, 6.0])).tolist()
        [1.0, 3.0, 5.0]
    """
    states = {} if zi is None else {"zi": zi}
    with Door("lfilter", runtime, {"x": x}, {"b": b, "a": a, **states}) as door:
        b, x = _numerator(door), door["x"]
        axis = axis_of(axis, len(x.shape))
        taps, length = b.shape[0], x.shape[axis]
        state_shape = (*x.shape[:axis], taps - 1, *x.shape[axis + 1 :])
        if zi is not None:
            _check_state(door["zi"], state_shape, axis)
        dtype = np.result_type(*(door[name].dtype for name in ("b", "a", "x", *states)))
        scipy_dtype("lfilter", dtype, dtype, dtype, size=1)
        if x.size == 0:
            return door.of_nothing("b", "a", "x", axis=axis, **({"zi": "zi"} if states else {}))
        b = _divided(door, b, dtype)
        sums = Sums(real_dtype(dtype), None)
        of = door.rows_of("x", axis, sums.dtype)
        if zi is None:
            room = door.room(of.signal.shape, sums.dtype, dtype)
            y = filtered(door.runtime, of.signal, b, 0, length, sums, out=room)
            return door.from_rows(y, of, dtype)
        count = reached_by(length, taps, 1)
        y = filtered(door.runtime, of.signal, b, 0, count, sums)
        if dtype.kind == "c" and y.shape[1] == 1:
            y = _with_imaginary(door.runtime, y)
        _add_state(door, y, state_shape, axis, sums)
        pieces = (sliced(y, 2, 0, length), sliced(y, 2, length, count))
        return tuple(door.from_rows(piece, of, dtype) for piece in pieces)


def _numerator(door: Door) -> Array:
    """b as (K,); both coefficients are checked. Raises ProblemError."""
    for name in ("b", "a"):
        array = door[name]
        if len(array.shape) > 1 or array.size == 0:
            raise ProblemError(f"{name} has shape {array.shape}, expected (K,), K at least 1")
    if door["a"].size > 1:
        raise ProblemError(
            f"a has {door['a'].size} coefficients, expected one: filters with an infinite impulse "
            f"response are left to scipy.signal.{door.function}"
        )
    b = door["b"]
    return b if b.shape else b.reshape(1)


def _divided(door: Door, b: Array, dtype: np.dtype[Any]) -> Array:
    """b / a in the dtype of the result, as SciPy has it; a filter on a device is read back where
    it must be divided."""
    a, b = ((one if isinstance(one, np.ndarray) else host_values(one)) for one in (door["a"], b))
    if a.reshape(-1)[0] == 1:
        return door["b"].reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Array = b.astype(dtype) / a.reshape(-1)[0].astype(dtype)
    return quotient


def _check_state(zi: Array, expected: tuple[int, ...], axis: int) -> None:
    """ProblemError unless zi has the shape of a state, or 1 along axes where it is the same."""
    shape = tuple(zi.shape)
    fits = len(shape) == len(expected) and all(
        n == m or (n == 1 and i != axis)
        for i, (n, m) in enumerate(zip(shape, expected, strict=True))
    )
    if not fits:
        raise ProblemError(f"zi has shape {shape}, expected {expected}")


def _with_imaginary(runtime: Runtime, y: cl_array.Array) -> cl_array.Array:
    """(N, 2, L) of real numbers (N, 1, L)."""
    made = runtime.zeros((y.shape[0], 2, y.shape[2]), y.dtype)
    copy_all(runtime, y, sliced(made, 1, 0, 1))
    return made


def _add_state(
    door: Door, y: cl_array.Array, shape: tuple[int, ...], axis: int, sums: Sums
) -> None:
    """Adds the state, of this shape, to the first outputs of y (N, P, count)."""
    zi = door["zi"]
    if 0 in shape:
        return
    if isinstance(zi, np.ndarray):
        zi = door.runtime.to_device(zi)
    steps = tuple(0 if n == 1 else step for n, step in zip(zi.shape, zi.strides, strict=True))
    state, _ = along(device_view(zi, shape, steps), axis)
    state = rows(door.runtime, planes(door.runtime, state, sums.dtype), 2)
    place = sliced(sliced(y, 1, 0, state.shape[1]), 2, 0, state.shape[2])
    add_scaled(door.runtime, place, 1.0, state)


def filtfilt(
    b: Any,
    a: Any,
    x: Any,
    axis: int = -1,
    padtype: str | None = "odd",
    padlen: int | None = None,
    method: str = "pad",
    irlen: int | None = None,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.filtfilt for filters with a finite impulse response: forward, then backward.

    Args:
        b: (K,), the numerator; with a signal on a device it may be on the host.
        a: one number, by which b is divided.
        x: an array of any shape, longer than `padlen` along `axis`.
        axis: the axis of x that is filtered along.
        padtype: "odd", "even", "constant" or None: how x is extended at both ends.
        padlen: samples of the extension; None means 3 K.
        method: "pad"; "gust" is left to SciPy.
        irlen: of "gust" alone, and not looked at.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of x's shape.

    Raises:
        ProblemError: what SciPy refuses, a denominator of more than one coefficient, and "gust".
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> filtfilt([0.5, 0.5], [1.0], np.arange(8.0)).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    with Door("filtfilt", runtime, {"x": x}, {"b": b, "a": a}) as door:
        if method not in ("pad", "gust"):
            raise ProblemError(f"method is {method!r}, expected 'pad'")
        if method == "gust":
            raise ProblemError(
                "method is 'gust', expected 'pad': it is left to scipy.signal.filtfilt"
            )
        b, x = _numerator(door), door["x"]
        axis = axis_of(axis, len(x.shape))
        before, length = b.shape[0] - 1, x.shape[axis]
        edge = _extension(padtype, padlen, b.shape[0], length)
        dtype = _filtfilt_dtype(b.dtype, door["a"].dtype, x.dtype, min(b.shape[0], 2))
        if x.size == 0:
            return door.of_nothing(
                "b", "a", "x", axis=axis, padtype=padtype, padlen=padlen, method=method
            )
        b = _divided(door, b, np.result_type(b.dtype, door["a"].dtype, np.float32))
        sums = Sums(real_dtype(dtype), None)
        # Extended in x's own precision, as SciPy does.
        of = door.rows_of("x", axis, real_dtype(x.dtype) if x.dtype.kind in "fc" else sums.dtype)
        reached = min(before, edge)  # no output needs more of the extension
        signal = of.signal
        if reached and padtype is not None:
            signal = extend(door.runtime, signal, (reached, reached), EXTENSIONS[padtype])
        if signal.dtype != sums.dtype:
            signal = convert(door.runtime, signal, sums.dtype)
        room = door.room((*signal.shape[:2], length), sums.dtype, dtype)
        y = _both_ways(door.runtime, signal, b, before, length, reached, sums, room)
        return door.from_rows(y, of, dtype)


def _both_ways(
    runtime: Runtime,
    signal: cl_array.Array,
    b: Array,
    before: int,
    length: int,
    reached: int,
    sums: Sums,
    out: cl_array.Array | None,
) -> cl_array.Array:
    """Forward, then backward, of a signal that was extended by `reached` samples at each end. Both
    filters start in the state that their first sample would have brought, had it always been
    there: so it is repeated as often as they reach further."""
    if before > reached:
        signal = extend(runtime, signal, (before - reached, 0), "edge")
    y = filtered(runtime, signal, b, before, length + reached, sums)
    if before > reached:
        y = extend(runtime, y, (0, before - reached), "edge")
    return filtered(runtime, y, b, before, length, sums, reverse=False, out=out)


def _extension(padtype: Any, padlen: Any, taps: int, length: int) -> int:
    """Samples by which x is extended at each end. Raises ProblemError."""
    if padtype is not None and padtype not in EXTENSIONS:
        raise ProblemError(f"padtype is {padtype!r}, expected 'even', 'odd', 'constant' or None")
    if padtype is None:
        edge = 0
    elif padlen is None:
        edge = 3 * taps
    else:
        edge = max(whole("padlen", padlen, -(2**31)), 0)
    if length <= edge:
        raise ProblemError(f"x has {length} samples along axis, expected more than padlen, {edge}")
    return edge


@lru_cache(maxsize=64)
def _filtfilt_dtype(
    b: np.dtype[Any], a: np.dtype[Any], x: np.dtype[Any], taps: int
) -> np.dtype[Any]:
    """That of SciPy's result, for so many taps. Raises ProblemError where SciPy has none."""
    arrays = np.ones(taps, b), np.ones(1, a), np.ones(8, x)
    dtype: np.dtype[Any] = ask_scipy("filtfilt", *arrays).dtype
    return dtype
