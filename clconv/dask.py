"""Signals larger than memory: convolutions and SciPy's filters on dask arrays, chunk by chunk.

Chunks along time get as many samples of their neighbours as their outputs are made of; so results
are those of the whole signal. Nothing is computed before dask is asked for it. Each worker computes
on the device that `CLCONV_DEVICE` names there, else threads take turns on the devices of the
default one's kind. `import clconv` does not import this module.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import functional, settings
from clconv.drivers.discovery import devices
from clconv.errors import ArrayTypeError, ProblemError, missing
from clconv.geometry import Geometry, Padding, Resampling, outputs_in, part_of, whole
from clconv.problem import Conv1dProblem
from clconv.runtime import Runtime, default_runtime
from clconv.signal.arrays import Door, axis_of
from clconv.signal.asking import ask_scipy, scipy_dtype
from clconv.signal.convolving import convolve as convolve_arrays
from clconv.signal.resampling import decimating, factor, ratio, resampled_along, window_filter
from clconv.signal.smoothing import savgol_filter as smooth

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise missing(error, "clconv.dask", dask="dask") from None

__all__ = [
    "conv1d",
    "convolve",
    "correlate",
    "decimate",
    "fftconvolve",
    "lfilter",
    "oaconvolve",
    "resample_poly",
    "savgol_filter",
    "upfirdn",
    "worker_runtime",
]

Array = NDArray[Any]
# What computes outputs of a chunk with its neighbours' samples: the chunk, the resampling from the
# first wanted output on, how many, and where the chunk is among the chunks of each axis.
Compute = Callable[[Array, Resampling, int, tuple[int, ...]], Array]

# Problems are checked for signals of at most so many samples, beyond which kernels have no
# positions: chunks are shorter.
CHECKED = 2**30


# A device for each worker

_runtimes: dict[str, Runtime] = {}
_turns = itertools.count()
_mine = threading.local()
_making = threading.Lock()


def worker_runtime() -> Runtime:
    """The runtime of this thread of a worker.

    Returns:
        The default one where `CLCONV_DEVICE` names a device, or where there is but one of its kind;
        else that of each device in turn.

    Raises:
        DeviceError: no device, or one that does not work.
    """
    first = default_runtime()
    if settings.device_choice() is not None:
        return first
    own = first.info
    ids = [
        one.id
        for one in devices()
        if one.why_not is None and (one.kind, one.platform) == (own.kind, own.platform)
    ]
    if len(ids) < 2:
        return first
    if not hasattr(_mine, "turn"):
        _mine.turn = _worker_number() + next(_turns)
    chosen = ids[_mine.turn % len(ids)]
    with _making:
        if chosen not in _runtimes:
            _runtimes[chosen] = first if chosen == own.id else Runtime(chosen)
    return _runtimes[chosen]


def _worker_number() -> int:
    """Workers of a cluster begin with different devices: by their number, if they have one."""
    try:
        from distributed import get_worker

        name = str(get_worker().name)
    except (ImportError, ValueError):  # threads of this process alone
        return 0
    return int(name) if name.isdigit() else sum(name.encode())


# Chunks


def _by_chunks(
    x: da.Array,
    axis: int,
    of: Resampling,
    count: int,
    dtype: np.dtype[Any],
    compute: Compute,
    other_chunks: Mapping[int, tuple[int, ...]] | None = None,
) -> da.Array:
    """`count` outputs along an axis, those of each chunk computed with its neighbours' samples;
    `other_chunks` are the result's along axes whose lengths change."""
    before, after = of.halo()
    if len(x.chunks[axis]) > 1:
        least = max(before, after, 1)
        x = x.rechunk({axis: da.overlap.ensure_minimum_chunksize(least, x.chunks[axis])})
    samples = [0, *itertools.accumulate(x.chunks[axis])]
    bounds = [*(min(of.outputs_before(start), count) for start in samples[:-1]), count]
    chunks = list(x.chunks)
    chunks[axis] = tuple(last - first for first, last in pairwise(bounds))
    for other, sizes in (other_chunks or {}).items():
        chunks[other] = sizes
    lapped = x
    if len(x.chunks[axis]) > 1:
        depth = {i: (before, after) if i == axis else (0, 0) for i in range(x.ndim)}
        lapped = da.overlap.overlap(x, depth, "none")

    def of_chunk(block: Array, block_info: Any = None) -> Array:
        place = tuple(block_info[0]["chunk-location"])
        here = place[axis]
        outputs = bounds[here + 1] - bounds[here]
        shape = tuple(sizes[i] for sizes, i in zip(chunks, place, strict=True))
        if 0 in shape:
            return np.zeros(shape, dtype)
        start = max(samples[here] - before, 0)
        return compute(block, of.delayed(-start).from_output(bounds[here]), outputs, place)

    meta: Array = np.empty((0,) * x.ndim, dtype)
    return lapped.map_blocks(of_chunk, chunks=tuple(chunks), dtype=dtype, meta=meta)


def _signal(name: str, x: Any) -> da.Array:
    if not isinstance(x, da.Array):
        raise ArrayTypeError(f"{name} is a {type(x).__name__}, expected a dask array")
    if any(n != n for n in x.shape):
        raise ProblemError(f"{name} has shape {x.shape}, expected known lengths")
    return x


def _filter(name: str, h: Any) -> Array:
    """(K,) in memory. Raises ProblemError."""
    if isinstance(h, da.Array):
        raise ArrayTypeError(f"{name} is a dask array, expected one in memory")
    taps = np.asarray(h)
    if taps.ndim != 1 or taps.size == 0:
        raise ProblemError(f"{name} has shape {taps.shape}, expected (K,), K at least 1")
    return taps


def _resampled(
    x: da.Array, axis: int, h: Array, of: Resampling, count: int, dtype: np.dtype[Any]
) -> da.Array:
    """`count` outputs of a filter along an axis, or of a resampling."""

    def compute(block: Array, own: Resampling, outputs: int, place: tuple[int, ...]) -> Array:
        with Door("upfirdn", worker_runtime(), {"x": block}) as door:
            result: Array = resampled_along(door, h, axis, own, outputs, dtype, "constant", 0)
            return result

    return _by_chunks(x, axis, of, count, dtype, compute)


# Convolutions


def conv1d(
    x: da.Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    activation: str | tuple[str, float] | None = None,
    variant: str = "auto",
    exact: bool | None = None,
) -> da.Array:
    """clconv.functional.conv1d on a dask array, in any chunks.

    Chunks along channels stay where each holds whole groups, else a chunk has all channels.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched.
        weight: (Cout, Cin / groups, K), a NumPy array of x's dtype.
        bias: (Cout,), a NumPy array of x's dtype, or None.
        stride: samples from one window to the next, at least 1.
        padding: zeros in samples, as in `clconv.functional.conv1d`; narrower than a window.
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions, a divisor of Cin and Cout.
        activation: as in `clconv.functional.conv1d`.
        variant: "auto", or the name of one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.

    Returns:
        A dask array (N, Cout, Lout), or (Cout, Lout) unbatched.

    Raises:
        ProblemError: shapes and options that no convolution has.

    Examples:
        >>> import dask.array, numpy as np
        >>> x = dask.array.ones((1, 1, 10), chunks=4, dtype=np.float32)
        >>> y = conv1d(x, np.ones((1, 1, 3), np.float32), padding=1)
        >>> y.compute().tolist()
        [[[2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0]]]
    """
    x, weight = _signal("x", x), np.asarray(weight)
    problem = _problem(x, weight, Geometry(stride, padding, dilation, groups))
    geometry = Geometry(problem.stride, problem.pads, problem.dilation, problem.groups)
    inner, outer = problem.group_in, problem.group_out
    axis = x.ndim - 2
    if any(size % inner for size in x.chunks[axis]):
        x = x.rechunk({axis: -1})
    firsts = [0, *itertools.accumulate(size // inner * outer for size in x.chunks[axis])]
    options: dict[str, Any] = {"activation": activation, "variant": variant, "exact": exact}

    def compute(block: Array, own: Resampling, outputs: int, place: tuple[int, ...]) -> Array:
        here = slice(firsts[place[axis]], firsts[place[axis] + 1])
        part = part_of(block.shape[-1], own.kernel_size, own.first, outputs, own.down)
        result: Array = functional.conv1d(
            block[..., part.start : part.stop],
            weight[here],
            None if bias is None else bias[here],
            own.down,
            (part.left, part.right),
            geometry.dilation,
            block.shape[axis] // inner,
            runtime=worker_runtime(),
            **options,
        )
        return result

    of = geometry.as_filter(problem.kernel_size)
    count = geometry.out_length(x.shape[-1], problem.kernel_size)
    outs = tuple(last - first for first, last in pairwise(firsts))
    return _by_chunks(x, x.ndim - 1, of, count, x.dtype, compute, {axis: outs})


def _problem(x: da.Array, weight: Array, given: Geometry) -> Conv1dProblem:
    """The convolution, of at most `CHECKED` samples. Raises ProblemError."""
    if x.ndim not in (2, 3) or weight.ndim != 3 or 0 in x.shape:
        raise ProblemError(
            f"x has shape {x.shape} and weight {weight.shape}, expected (N, Cin, L), or (Cin, L), "
            "and (Cout, Cin / groups, K)"
        )
    batch, channels, length = (1, *x.shape)[-3:]
    short = min(length, CHECKED)
    sizes = (batch, channels, short), weight.shape[0], weight.shape[2]
    problem = Conv1dProblem.of(given, *sizes, dtype=x.dtype)
    if weight.shape != problem.weight_shape or weight.dtype != x.dtype:
        raise ProblemError(
            f"weight is {weight.dtype}{weight.shape}, expected {x.dtype}{problem.weight_shape}"
        )
    if max(problem.pads) >= problem.window > 1:
        raise ProblemError(
            f"padding is {given.padding}, expected less than {problem.window}, a window's samples"
        )
    return problem


def convolve(in1: da.Array, in2: Array, mode: str = "full", method: str = "auto") -> da.Array:
    """scipy.signal.convolve of a dask array with a NumPy array, longer than 1 along one axis alone.

    Args:
        in1: a dask array.
        in2: a NumPy array of as many dimensions.
        mode: "full", "same" or "valid".
        method: "direct" forms the definition's own sums; "auto" and "fft" let the planner choose.

    Returns:
        A dask array; dtypes and whole numbers are as in clconv.signal.convolve.

    Raises:
        ProblemError: what SciPy refuses, and arrays longer than 1 along several axes.

    Examples:
        >>> import dask.array, numpy as np
        >>> convolve(dask.array.arange(5, chunks=2), np.array([1, 1])).compute().tolist()
        [0, 1, 3, 5, 7, 4]
    """
    return _convolved("convolve", in1, in2, mode, method)


def correlate(in1: da.Array, in2: Array, mode: str = "full", method: str = "auto") -> da.Array:
    """scipy.signal.correlate of a dask array with a NumPy array, longer than 1 along one axis.

    Args:
        in1: a dask array.
        in2: a NumPy array of as many dimensions.
        mode: "full", "same" or "valid".
        method: "direct" forms the definition's own sums; "auto" and "fft" let the planner choose.

    Returns:
        A dask array.

    Raises:
        ProblemError: as of `convolve`.

    Examples:
        >>> import dask.array, numpy as np
        >>> correlate(dask.array.arange(5, chunks=2), np.array([0, 1]), "valid").compute().tolist()
        [1, 2, 3, 4]
    """
    return _convolved("correlate", in1, in2, mode, method)


def fftconvolve(in1: da.Array, in2: Array, mode: str = "full", axes: Any = None) -> da.Array:
    """scipy.signal.fftconvolve of a dask array with a NumPy array, longer than 1 along one axis.

    Args:
        in1: a dask array.
        in2: a NumPy array of as many dimensions.
        mode: "full", "same" or "valid".
        axes: has the one to convolve along; None means all.

    Returns:
        A dask array.

    Raises:
        ProblemError: as of `convolve`.

    Examples:
        >>> import dask.array, numpy as np
        >>> x = dask.array.ones((2, 4), chunks=2)
        >>> fftconvolve(x, np.ones((1, 2)), "valid", axes=1).compute().tolist()
        [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    return _by_axes("fftconvolve", in1, in2, mode, axes)


def oaconvolve(in1: da.Array, in2: Array, mode: str = "full", axes: Any = None) -> da.Array:
    """scipy.signal.oaconvolve of a dask array: the same as `fftconvolve`.

    Args:
        in1: a dask array.
        in2: a NumPy array of as many dimensions.
        mode: "full", "same" or "valid".
        axes: has the one to convolve along; None means all.

    Returns:
        A dask array.

    Raises:
        ProblemError: as of `convolve`.

    Examples:
        >>> import dask.array, numpy as np
        >>> oaconvolve(dask.array.ones(4, chunks=2), np.ones(2)).compute().tolist()
        [1.0, 2.0, 2.0, 2.0, 1.0]
    """
    return _by_axes("oaconvolve", in1, in2, mode, axes)


def _by_axes(function: str, in1: Any, in2: Any, mode: str, axes: Any) -> da.Array:
    x, h, axis = _filtered_by(in1, in2, mode)
    if axes is not None:
        several = axes if isinstance(axes, (tuple, list)) else [axes]
        known = [axis_of(one, x.ndim, "axes") for one in several]
        if not known or (h.size > 1 and axis not in known):
            raise ProblemError(f"axes is {axes!r}, expected {axis} among them, where in2 is long")
    dtype = scipy_dtype(function, x.dtype, h.dtype)
    first, count = outputs_in(mode, x.shape[axis], h.size)
    return _resampled(x, axis, h.reshape(-1), Resampling(h.size, 1, 1, first), count, dtype)


def _convolved(function: str, in1: Any, in2: Any, mode: str, method: str) -> da.Array:
    x, h, axis = _filtered_by(in1, in2, mode)
    if method not in ("auto", "direct", "fft"):
        raise ProblemError(f"method is {method!r}, expected 'auto', 'direct' or 'fft'")
    taps = h.reshape(-1)
    if function == "correlate":
        taps = taps[::-1].conj()
    first, count = outputs_in(mode, x.shape[axis], taps.size)
    dtype = np.result_type(x.dtype, h.dtype)
    of = Resampling(taps.size, 1, 1, first)
    if dtype.kind in "fc":
        return _resampled(x, axis, taps, of, count, dtype)
    laid = taps.reshape(h.shape)

    def compute(block: Array, own: Resampling, outputs: int, place: tuple[int, ...]) -> Array:
        whole_one: Array = convolve_arrays(block, laid, runtime=worker_runtime())
        index = [slice(None)] * block.ndim
        index[axis] = slice(own.first, own.first + outputs)
        return whole_one[tuple(index)]

    return _by_chunks(x, axis, of, count, dtype, compute)


def _filtered_by(in1: Any, in2: Any, mode: str) -> tuple[da.Array, Array, int]:
    """Both arrays, and the axis along which the second one is long. Raises ProblemError."""
    x = _signal("in1", in1)
    if isinstance(in2, da.Array):
        raise ArrayTypeError("in2 is a dask array, expected one in memory")
    h = np.asarray(in2)
    along = [i for i, n in enumerate(h.shape) if n > 1] or [h.ndim - 1]
    if h.ndim != x.ndim or not h.size or not h.ndim or len(along) > 1:
        raise ProblemError(
            f"in1 has shape {x.shape} and in2 {h.shape}, expected as many dimensions, and in2 "
            "longer than 1 along one of them"
        )
    if mode not in ("full", "same", "valid"):
        raise ProblemError(f"mode is {mode!r}, expected 'full', 'same' or 'valid'")
    axis = along[0]
    if mode == "valid" and x.shape[axis] < h.size:
        raise ProblemError(
            f"in2 has {h.size} values along axis {axis}, expected at most {x.shape[axis]}, "
            "those of in1, in mode 'valid'"
        )
    return x, h, axis


# Filters


def lfilter(b: Any, a: Any, x: da.Array, axis: int = -1) -> da.Array:
    """scipy.signal.lfilter of a dask array, for filters with a finite impulse response.

    Args:
        b: (K,), the numerator, a NumPy array.
        a: one number, by which b is divided.
        x: a dask array of any shape.
        axis: the axis of x that is filtered along.

    Returns:
        A dask array of x's shape.

    Raises:
        ProblemError: what SciPy refuses, and a denominator of more than one coefficient.

    Examples:
        >>> import dask.array
        >>> lfilter([0.5, 0.5], [1.0], dask.array.arange(4.0, chunks=2)).compute().tolist()
        [0.0, 0.5, 1.5, 2.5]
    """
    x = _signal("x", x)
    taps, divisor = _filter("b", np.atleast_1d(b)), _filter("a", np.atleast_1d(a))
    if divisor.size > 1:
        raise ProblemError(
            f"a has {divisor.size} coefficients, expected one: filters with an infinite impulse "
            "response are left to scipy.signal.lfilter"
        )
    axis = axis_of(axis, x.ndim)
    dtype = np.result_type(taps, divisor, x.dtype)
    scipy_dtype("lfilter", dtype, dtype, dtype, size=1)
    h = taps.astype(dtype) / divisor[0].astype(dtype)
    return _resampled(x, axis, h, Resampling(h.size, 1, 1, 0), x.shape[axis], dtype)


def upfirdn(h: Any, x: da.Array, up: int = 1, down: int = 1, axis: int = -1) -> da.Array:
    """scipy.signal.upfirdn of a dask array, with zeros beyond its ends.

    Args:
        h: (K,), the filter, a NumPy array.
        x: a dask array of any shape.
        up: samples out for each one in, at least 1, before `down`.
        down: which of these stay: every down-th, at least 1.
        axis: the axis of x that is resampled.

    Returns:
        A dask array.

    Raises:
        ProblemError: what SciPy refuses.

    Examples:
        >>> import dask.array
        >>> upfirdn([1.0, 1.0], dask.array.arange(3.0, chunks=2), up=2).compute().tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    """
    x, taps = _signal("x", x), _filter("h", h)
    axis = axis_of(axis, x.ndim)
    of = Resampling(taps.size, factor("up", up), factor("down", down), 0)
    dtype = np.result_type(taps.dtype, x.dtype, np.float32)
    return _resampled(x, axis, taps, of, of.full_length(x.shape[axis]), dtype)


def resample_poly(
    x: da.Array, up: int, down: int, axis: int = 0, window: Any = ("kaiser", 5.0)
) -> da.Array:
    """scipy.signal.resample_poly of a dask array, with zeros beyond its ends.

    Args:
        x: a dask array of any shape.
        up: a whole number of at least 1.
        down: a whole number of at least 1.
        axis: the axis of x that is resampled.
        window: a window's name for scipy.signal.firwin, which designs the filter, or the filter
            itself.

    Returns:
        A dask array with ceil(L up / down) samples along `axis`.

    Raises:
        ProblemError: what SciPy refuses.

    Examples:
        >>> import dask.array
        >>> resample_poly(dask.array.ones(400, chunks=150), 2, 3).shape
        (267,)
    """
    x = _signal("x", x)
    up, down = ratio(up, down)
    axis = axis_of(axis, x.ndim)
    if up == down == 1:
        return x
    h = window_filter(window, up, down, x.dtype)
    of = Resampling(h.size, up, down, (h.size - 1) // 2)
    h *= up
    dtype = np.result_type(h.dtype, x.dtype, np.float32)
    return _resampled(x, axis, h, of, of.centered_length(x.shape[axis]), dtype)


def decimate(
    x: da.Array, q: int, n: int | None = None, ftype: Any = "iir", axis: int = -1
) -> da.Array:
    """scipy.signal.decimate of a dask array by an FIR filter, without delay.

    Args:
        x: a dask array of any shape.
        q: a whole number of at least 1.
        n: the filter's order; None means 20 q.
        ftype: "fir", or a scipy.signal.dlti without poles.
        axis: the axis of x that is decimated.

    Returns:
        A dask array with ceil(L / q) samples along `axis`.

    Raises:
        ProblemError: what SciPy refuses, and filters with an infinite impulse response.

    Examples:
        >>> import dask.array
        >>> decimate(dask.array.ones(100, chunks=30), 4, ftype="fir").shape
        (25,)
    """
    x = _signal("x", x)
    return resample_poly(x, 1, whole("q", q, 1), axis, decimating(q, n, ftype, x.dtype))


# What numpy.pad calls the modes of `savgol_filter`.
PADDING = {"mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}


def savgol_filter(
    x: da.Array,
    window_length: int,
    polyorder: int,
    deriv: int = 0,
    delta: float = 1.0,
    axis: int = -1,
    mode: str = "interp",
    cval: float = 0.0,
) -> da.Array:
    """scipy.signal.savgol_filter of a dask array of real numbers, in every mode.

    Args:
        x: a dask array of any shape.
        window_length: samples of a window.
        polyorder: the polynomial's degree, less than window_length.
        deriv: which derivative of it is taken; 0 means the value.
        delta: the time from a sample to the next, for derivatives.
        axis: the axis of x that is filtered along.
        mode: "interp", "mirror", "constant", "nearest" or "wrap", as in
            `clconv.signal.savgol_filter`.
        cval: the number beyond the ends in mode "constant".

    Returns:
        A dask array of x's shape.

    Raises:
        ProblemError: what SciPy refuses.

    Examples:
        >>> import dask.array
        >>> savgol_filter(dask.array.arange(1.0, 8.0, chunks=3), 5, 2).compute().round(6).tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    x = _signal("x", x)
    if mode != "interp" and mode not in PADDING:
        raise ProblemError(f"mode is {mode!r}, expected one of {', '.join((*PADDING, 'interp'))}")
    if x.dtype.kind == "c":
        raise ProblemError(f"x has dtype {x.dtype}, expected real numbers")
    taps = ask_scipy("savgol_coeffs", window_length, polyorder, deriv=deriv, delta=delta)
    axis = axis_of(axis, x.ndim)
    length, after = x.shape[axis], taps.size // 2
    dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    if mode != "interp":
        width = [(taps.size - 1 - after, after) if i == axis else (0, 0) for i in range(x.ndim)]
        levels = {"constant_values": cval} if mode == "constant" else {}
        padded = da.pad(x.astype(dtype), width, PADDING[mode], **levels)
        of = Resampling(taps.size, 1, 1, taps.size - 1)
        return _resampled(padded, axis, taps, of, length, dtype)
    if taps.size > length:
        raise ProblemError(
            f"window_length is {taps.size}, expected at most {length}, the samples along axis, in "
            "mode 'interp'"
        )
    of = Resampling(taps.size, 1, 1, 2 * after)
    pieces = [_resampled(x, axis, taps, of, length - 2 * after, dtype)]
    if after:
        fit = window_length, polyorder, deriv, delta, axis
        first, last = (
            _window(x, axis, start, taps.size, fit, dtype) for start in (0, length - taps.size)
        )
        pieces = [_part(first, axis, 0, after), *pieces, _part(last, axis, taps.size - after, None)]
    return da.concatenate(pieces, axis)


def _window(
    x: da.Array, axis: int, start: int, taps: int, fit: tuple[Any, ...], dtype: np.dtype[Any]
) -> da.Array:
    """The smoothed samples of one window of x."""

    def smoothed(block: Array) -> Array:
        result: Array = smooth(block, *fit, runtime=worker_runtime())
        return result

    part = _part(x, axis, start, start + taps).rechunk({axis: -1})
    return part.map_blocks(smoothed, dtype=dtype, meta=np.empty((0,) * x.ndim, dtype))


def _part(x: da.Array, axis: int, start: int, stop: int | None) -> da.Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]
