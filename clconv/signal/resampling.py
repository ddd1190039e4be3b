"""Other sampling rates: `upfirdn`, `resample_poly` and `decimate` of scipy.signal."""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import Any

import numpy as np
import pyopencl.array as cl_array
import scipy.signal
from numpy.typing import NDArray

from clconv import functional
from clconv.calls.elementwise import add_scaled, convert, extend, host_values, row_statistic
from clconv.calls.layouts import Array
from clconv.errors import ArrayTypeError, ProblemError
from clconv.geometry import Resampling, whole
from clconv.runtime import Runtime
from clconv.signal.arrays import Door, axis_of, copy_all, device_view, rows, sliced
from clconv.signal.asking import ask_scipy, real_dtype
from clconv.signal.numbers import Sums
from clconv.signal.sums import resampled

__all__ = [
    "MODES",
    "decimate",
    "decimating",
    "factor",
    "ratio",
    "resample_poly",
    "resampled_along",
    "upfirdn",
    "window_filter",
]

# How a signal goes on beyond its ends.
MODES = (
    "constant", "wrap", "edge", "smooth", "symmetric", "reflect", "antisymmetric", "antireflect",
    "line",
)  # fmt: skip
# Filters that SciPy designed; it takes longer than some signals.
DESIGNS_KEPT = 64
# What resample_poly may subtract from each row, and add again.
BACKGROUNDS = ("mean", "median", "minimum", "maximum")


def upfirdn(
    h: Any,
    x: Any,
    up: int = 1,
    down: int = 1,
    axis: int = -1,
    mode: str = "constant",
    cval: float = 0,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.upfirdn: up - 1 zeros between samples, an FIR filter, every down-th output.

    No zero is multiplied, and no output computed that is left out.

    Args:
        h: (K,), the filter; with a signal on a device it may be on the host.
        x: an array of any shape.
        up: samples out for each one in, at least 1, before `down`.
        down: which of these stay: every down-th, at least 1.
        axis: the axis of x that is resampled.
        mode: how x goes on beyond its ends: "constant", "edge", "reflect", "symmetric", "wrap",
            "antireflect", "antisymmetric", "line" or "smooth".
        cval: the number beyond the ends in mode "constant".
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of x's shape but for `axis`, of SciPy's length there.

    Raises:
        ProblemError: what SciPy refuses.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> upfirdn([1.0, 1.0, 1.0], np.array([1.0, 2.0, 3.0]), up=3).tolist()
        [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    """
    with Door("upfirdn", runtime, {"x": x}, {"h": h}) as door:
        h, x = door["h"], door["x"]
        if len(h.shape) != 1 or h.size == 0:
            raise ProblemError(f"h has shape {h.shape}, expected (K,), K at least 1")
        up, down = factor("up", up), factor("down", down)
        axis = axis_of(axis, len(x.shape))
        mode = _mode("mode", mode, MODES)
        if x.size == 0:
            return door.of_nothing("h", "x", up=up, down=down, axis=axis, mode=mode, cval=cval)
        of = Resampling(h.shape[0], up, down, 0)
        dtype = np.result_type(h.dtype, x.dtype, np.float32)
        return resampled_along(door, h, axis, of, of.full_length(x.shape[axis]), dtype, mode, cval)


def factor(name: str, value: Any) -> int:
    """A factor as SciPy takes it: what int makes of it."""
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name} is {value!r}, expected an integer") from error
    return whole(name, number, 1)


def _mode(name: str, value: Any, known: tuple[str, ...]) -> str:
    mode = value.lower() if isinstance(value, str) else value
    if mode not in known:
        raise ProblemError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return str(mode)


def resampled_along(
    door: Door,
    h: Array,
    axis: int,
    of: Resampling,
    count: int,
    dtype: np.dtype[Any],
    mode: str,
    cval: Any,
) -> Any:
    """The caller's result of `count` outputs of x along an axis."""
    x, runtime, sums = door["x"], door.runtime, Sums(real_dtype(dtype), None)
    background = mode in BACKGROUNDS
    # A background is found and subtracted in x's own precision, as SciPy does.
    own = real_dtype(x.dtype) if background and x.dtype.kind in "fc" else sums.dtype
    rows_of_x = door.rows_of("x", axis, own)
    signal = rows_of_x.signal
    if background:
        level = _level(runtime, signal, mode)
        signal = _in_dtype(runtime, _shifted(runtime, signal, -1.0, level), sums.dtype)
        y = resampled(runtime, signal, h, of, count, sums)
        y = _shifted(runtime, y, 1.0, _in_dtype(runtime, level, sums.dtype))
    else:
        if mode != "constant" or cval != 0:
            signal, of = _extended(runtime, signal, of, count, mode, cval)
        room = door.room((*signal.shape[:2], count), sums.dtype, dtype)
        y = resampled(runtime, signal, h, of, count, sums, room)
    return door.from_rows(y, rows_of_x, dtype)


def _in_dtype(runtime: Runtime, array: cl_array.Array, dtype: np.dtype[Any]) -> cl_array.Array:
    """The array, or one of the same values in another dtype."""
    return array if array.dtype == dtype else convert(runtime, array, dtype)


def _extended(
    runtime: Runtime, x: cl_array.Array, of: Resampling, count: int, mode: str, cval: Any
) -> tuple[cl_array.Array, Resampling]:
    """x (N, P, L) with what lies beyond its ends, as far as outputs reach, and the resampling of
    that."""
    left, right = of.reach(x.shape[2], count)
    batch, parts, length = x.shape
    try:
        fill = complex(cval)
    except (TypeError, ValueError) as error:
        raise ArrayTypeError(f"cval is {cval!r}, expected a number") from error
    if fill.imag:
        raise ArrayTypeError(f"cval is {cval!r}, expected a real number")
    if parts == 1 or not fill.real or mode != "constant":
        made = extend(runtime, x, (left, right), mode, fill.real)
        return made, of.delayed(left)
    made = runtime.empty((parts, batch, left + length + right), x.dtype)
    for plane, level in ((0, fill.real), (1, 0.0)):
        source = sliced(x, 1, plane, plane + 1)
        place = sliced(made, 0, plane, plane + 1)
        extend(runtime, source, (left, right), mode, level, out=place)
    steps = (made.strides[1], made.strides[0], made.strides[2])
    return device_view(made, (batch, parts, made.shape[2]), steps), of.delayed(left)


def _level(runtime: Runtime, x: cl_array.Array, statistic: str) -> cl_array.Array:
    """(N, P, 1) of x (N, P, L): a number for each row."""
    batch, parts, length = x.shape
    if statistic != "mean":
        if parts > 1:
            raise ProblemError(
                f"padtype is {statistic!r} and x complex: left to scipy.signal.resample_poly"
            )
        return row_statistic(runtime, x, statistic)
    joined = rows(runtime, x, 1)
    channels = device_view(
        joined, (1, *joined.shape), (joined.strides[0] * joined.shape[0], *joined.strides)
    )
    level = functional.conv1d_bias(channels, scale=1 / length, runtime=runtime)
    return device_view(level, (batch, parts, 1))


def _shifted(
    runtime: Runtime, x: cl_array.Array, rate: float, level: cl_array.Array
) -> cl_array.Array:
    """x + rate level, contiguous; x is (N, P, L), the level (N, P, 1) or (N, 1, 1)."""
    shape, whole_x = tuple(x.shape), x
    x = x if level.shape[1] == shape[1] else sliced(x, 1, 0, level.shape[1])
    everywhere = device_view(level, tuple(x.shape), (*level.strides[:2], 0))
    made = runtime.empty(shape, x.dtype)
    copy_all(runtime, whole_x, made)
    add_scaled(runtime, sliced(made, 1, 0, level.shape[1]), rate, everywhere)
    return made


def resample_poly(
    x: Any,
    up: int,
    down: int,
    axis: int = 0,
    window: Any = ("kaiser", 5.0),
    padtype: str = "constant",
    cval: float | None = None,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.resample_poly: a signal at up / down times its sampling rate.

    Args:
        x: an array of any shape.
        up: a whole number of at least 1.
        down: a whole number of at least 1.
        axis: the axis of x that is resampled.
        window: a window's name for scipy.signal.firwin, which designs the filter, or the filter
            itself.
        padtype: how x goes on beyond its ends: a mode of `upfirdn`, or "mean", "median", "minimum"
            or "maximum" of each row.
        cval: what "constant" means; None means 0.
        runtime: None means that of the array's context, with a NumPy array the default one.

    Returns:
        An array of x's shape but for `axis`, where there are ceil(L up / down) samples.

    Raises:
        ProblemError: what SciPy refuses.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> resample_poly(np.ones(400), 2, 3).shape
        (267,)
    """
    with Door("resample_poly", runtime, {"x": x}) as door:
        x = door["x"]
        up, down = ratio(up, down)
        if cval is not None and padtype != "constant":
            raise ProblemError(f"cval is {cval!r} and padtype {padtype!r}, expected 'constant'")
        axis = axis_of(axis, len(x.shape))
        if up == down == 1:
            return _copy(door)
        h = window_filter(window, up, down, x.dtype)
        mode = _mode("padtype", padtype, (*BACKGROUNDS, *MODES))
        if x.size == 0:
            return door.of_nothing(
                "x", up=up, down=down, axis=axis, window=window, padtype=padtype, cval=cval
            )
        of = Resampling(h.shape[0], up, down, (h.shape[0] - 1) // 2)
        with np.errstate(over="ignore"):
            h *= up
        dtype = np.result_type(h.dtype, x.dtype, np.float32)
        count = of.centered_length(x.shape[axis])
        return resampled_along(door, h, axis, of, count, dtype, mode, 0 if cval is None else cval)


def ratio(up: Any, down: Any) -> tuple[int, int]:
    """Both factors without what they have in common. Raises ProblemError."""
    found = []
    for name, value in (("up", up), ("down", down)):
        number = factor(name, value)
        if number != value:
            raise ProblemError(f"{name} is {value!r}, expected an integer")
        found.append(number)
    common = math.gcd(*found)
    return found[0] // common, found[1] // common


def window_filter(window: Any, up: int, down: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The filter, which SciPy designs unless it is given; an array of its own."""
    if isinstance(window, cl_array.Array):
        window = host_values(window)
    if isinstance(window, (list, np.ndarray)):
        h = np.array(window)
        if h.ndim != 1 or h.size == 0:
            raise ProblemError(f"window has shape {h.shape}, expected (K,), K at least 1")
        return h
    rate = max(up, down)
    try:
        h = _designed(window, rate)
    except TypeError:  # which no dictionary can keep
        h = _designed.__wrapped__(window, rate)
    return h.astype(real_dtype(dtype)) if dtype.kind in "fc" else h.copy()


@lru_cache(maxsize=DESIGNS_KEPT)
def _designed(window: Any, rate: int) -> NDArray[Any]:
    return np.asarray(ask_scipy("firwin", 20 * rate + 1, 1.0 / rate, window=window))


def _copy(door: Door) -> Any:
    """What the caller gave, once more."""
    x = door["x"]
    if door.host:
        return x.copy()
    made = door.runtime.empty(x.shape, x.dtype)
    copy_all(door.runtime, x, made)
    return made


def decimate(
    x: Any,
    q: int,
    n: int | None = None,
    ftype: Any = "iir",
    axis: int = -1,
    zero_phase: bool = True,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.decimate with an FIR filter: every q-th sample of a smoothed signal.

    Args:
        x: an array of any shape.
        q: a whole number of at least 1.
        n: the filter's order; None means 20 q.
        ftype: "fir", or a scipy.signal.dlti without poles. SciPy's default, "iir", is left to
            SciPy.
        axis: the axis of x that is decimated.
        zero_phase: whether the filter's delay is undone.
        runtime: None means that of the array's context, with a NumPy array the default one.

    Returns:
        An array of x's shape but for `axis`, where there are ceil(L / q) samples.

    Raises:
        ProblemError: what SciPy refuses, and filters with an infinite impulse response.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> decimate(np.ones(100), 4, ftype="fir").shape
        (25,)
    """
    with Door("decimate", runtime, {"x": x}) as door:
        x = door["x"]
        q = _index("q", q)
        taps = decimating(q, n, ftype, x.dtype)
        axis = axis_of(axis, len(x.shape))
        if zero_phase:
            return resample_poly(x, 1, q, axis, taps, runtime=runtime)
        if x.size == 0:
            return upfirdn(taps, x, 1, q, axis, runtime=runtime)
        of = Resampling(taps.shape[0], 1, whole("q", q, 1), 0)
        count = min(of.centered_length(x.shape[axis]), of.full_length(x.shape[axis]))
        dtype = np.result_type(taps.dtype, x.dtype, np.float32)
        return resampled_along(door, taps, axis, of, count, dtype, "constant", 0)


def _index(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ArrayTypeError(f"{name} is {value!r}, expected an integer") from error


def decimating(q: int, n: Any, ftype: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The filter of a decimation. Raises ProblemError."""
    if isinstance(ftype, scipy.signal.dlti):
        system = ftype.to_tf()
        if system.den.size == 1:
            return np.asarray(system.num / system.den)
        said = "a system with poles"
    elif ftype == "fir":
        order = 20 * q if n is None else _index("n", n)
        kept = dtype if dtype.kind in "fc" and dtype != np.float16 else np.dtype(np.float64)
        h = ask_scipy("firwin", order + 1, 1.0 / whole("q", q, 1), window="hamming")
        return np.asarray(h, real_dtype(kept))
    else:
        said = repr(ftype)
    raise ProblemError(
        f"ftype is {said}, expected 'fir': other filters are left to scipy.signal.decimate"
    )
