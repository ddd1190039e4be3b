"""Smoothing by polynomials: `savgol_filter` of scipy.signal."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyopencl.array as cl_array
from numpy.typing import NDArray

from clconv.calls.elementwise import extend
from clconv.errors import ProblemError
from clconv.runtime import Runtime
from clconv.signal.arrays import Door, axis_of, copy_all, device_view, sliced
from clconv.signal.asking import ask_scipy
from clconv.signal.numbers import Sums
from clconv.signal.sums import filtered, outputs

__all__ = ["savgol_filter"]

# What SciPy's modes are called in scipy.signal.upfirdn.
EXTENSIONS = {"mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}
MODES = (*EXTENSIONS, "interp")


def savgol_filter(
    x: Any,
    window_length: int,
    polyorder: int,
    deriv: int = 0,
    delta: float = 1.0,
    axis: int = -1,
    mode: str = "interp",
    cval: float = 0.0,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.savgol_filter: a polynomial is fitted to the samples around each one.

    The method is that of Savitzky and Golay, Analytical Chemistry 36, 1964.

    Args:
        x: an array of any shape; float32 and float64 keep their dtype, others become float64.
        window_length: samples of a window.
        polyorder: the polynomial's degree, less than window_length.
        deriv: which derivative of it is taken; 0 means the value.
        delta: the time from a sample to the next, for derivatives.
        axis: the axis of x that is filtered along.
        mode: "interp", which evaluates the first and last windows' polynomials at the ends, or how
            x goes on there: "mirror", "constant", "nearest" or "wrap".
        cval: the number beyond the ends in mode "constant".
        runtime: None means that of the array's context, with a NumPy array the default one.

    Returns:
        An array of x's shape.

    Raises:
        ProblemError: what SciPy refuses.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> savgol_filter(np.arange(1.0, 8.0) ** 2, 5, 2).round(6).tolist()
        [1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0]
    """
    if mode not in MODES:
        raise ProblemError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    with Door("savgol_filter", runtime, {"x": x}) as door:
        x, runtime = door["x"], door.runtime
        coefficients = ask_scipy(
            "savgol_coeffs", window_length, polyorder, deriv=deriv, delta=delta
        )
        axis = axis_of(axis, len(x.shape))
        taps, length = coefficients.shape[0], x.shape[axis]
        if mode == "interp" and taps > length:
            raise ProblemError(
                f"window_length is {taps}, expected at most {length}, the samples along axis, in "
                "mode 'interp'"
            )
        if x.size == 0:
            return door.of_nothing(
                "x", window_length=taps, polyorder=polyorder, deriv=deriv, delta=delta, axis=axis,
                mode=mode, cval=cval,
            )  # fmt: skip
        if x.dtype.kind == "c":
            raise ProblemError(f"x has dtype {x.dtype}, expected real numbers")
        dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        sums = Sums(dtype, None)
        of = door.rows_of("x", axis, dtype)
        room = door.room(of.signal.shape, dtype, dtype)
        # A window of an even number of samples has one more of them behind the output's own.
        after = taps // 2
        if mode == "interp":
            y = filtered(runtime, of.signal, coefficients, after, length, sums, out=room)
            _interpolate_ends(runtime, of.signal, y, taps, (polyorder, deriv, delta), sums)
        else:
            signal = extend(runtime, of.signal, (taps - 1 - after, after), EXTENSIONS[mode], cval)
            y = filtered(runtime, signal, coefficients, taps - 1, length, sums, out=room)
        return door.from_rows(y, of, dtype)


def _interpolate_ends(
    runtime: Runtime,
    x: cl_array.Array,
    y: cl_array.Array,
    taps: int,
    fit: tuple[int, int, float],
    sums: Sums,
) -> None:
    """Writes what the polynomials of the first and last windows are at the first and last outputs
    of y (N, 1, L)."""
    half, length = taps // 2, x.shape[2]
    order, deriv, delta = fit
    for start, places in ((0, range(half)), (length - taps, range(taps - half, taps))):
        if not places:
            return
        # The value at each place is a sum over the window.
        rows_of = _fitted(taps, order, deriv, delta, tuple(places))
        weight = runtime.to_device(rows_of[:, None].astype(sums.dtype))
        window = sliced(x, 2, start, start + taps)
        ends = outputs(runtime, window, weight, taps - 1, 1, sums)
        copy_all(runtime, _turned(ends), sliced(y, 2, start + places[0], start + places[0] + half))


@lru_cache(maxsize=64)
def _fitted(
    taps: int, order: int, deriv: int, delta: float, places: tuple[int, ...]
) -> NDArray[np.float64]:
    """(places, K): what gives the polynomial's values there from the samples of a window."""
    return np.stack(
        [
            ask_scipy("savgol_coeffs", taps, order, deriv, delta, pos=place, use="dot")
            for place in places
        ]
    )


def _turned(ends: cl_array.Array) -> cl_array.Array:
    """(N, places, 1) as (N, 1, places)."""
    batch, places, _ = ends.shape
    return device_view(ends, (batch, 1, places))
