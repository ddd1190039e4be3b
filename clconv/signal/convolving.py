"""Two arrays, convolved or correlated: `convolve` and its kin of scipy.signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from clconv.calls.layouts import Array
from clconv.errors import ArrayTypeError, ProblemError
from clconv.problem import Pass
from clconv.runtime import Runtime
from clconv.signal.arrays import Door, axis_of
from clconv.signal.asking import ask_scipy, real_dtype, scipy_dtype
from clconv.signal.numbers import Sums
from clconv.signal.shaped import Pair, convolved, pair_of
from clconv.signal.sums import is_long

__all__ = ["choose_conv_method", "convolve", "correlate", "fftconvolve", "oaconvolve"]

MODES = ("full", "same", "valid")
METHODS = ("auto", "direct", "fft")
# How often `measure` times each method.
TIMES = 3


def convolve(
    in1: Any, in2: Any, mode: str = "full", method: str = "auto", *, runtime: Runtime | None = None
) -> Any:
    """scipy.signal.convolve: the convolution of two arrays of as many dimensions.

    They may be longer than 1 both along two axes; along others one of them has length 1. Whole
    numbers come out exact whatever the method.

    Args:
        in1: an array.
        in2: an array of as many dimensions.
        mode: "full", "same" (in1's shape, from the middle) or "valid" (where they meet in full).
        method: "direct" forms the definition's own sums; "auto" and "fft" let the planner choose.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of SciPy's shape and dtype.

    Raises:
        ProblemError: what SciPy refuses, and sums of whole numbers that might exceed 2**53, or
            2**24 on devices without float64.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> convolve(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5])).tolist()
        [0.0, 1.0, 2.5, 4.0, 1.5]
    """
    return _of_two("convolve", in1, in2, mode, method, False, runtime)


def correlate(
    in1: Any, in2: Any, mode: str = "full", method: str = "auto", *, runtime: Runtime | None = None
) -> Any:
    """scipy.signal.correlate: the cross-correlation of two arrays, the second one conjugated.

    Args:
        in1: an array.
        in2: an array of as many dimensions.
        mode: "full", "same" (in1's shape, from the middle) or "valid" (where they meet in full).
        method: "direct" forms the definition's own sums; "auto" and "fft" let the planner choose.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of SciPy's shape and dtype.

    Raises:
        ProblemError: as of `convolve`.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> correlate(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5])).tolist()
        [0.5, 2.0, 3.5, 3.0, 0.0]
    """
    return _of_two("correlate", in1, in2, mode, method, True, runtime)


def fftconvolve(
    in1: Any,
    in2: Any,
    mode: str = "full",
    axes: int | Sequence[int] | None = None,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.fftconvolve: convolves along some axes; along others the arrays broadcast.

    The planner chooses how: Fourier transforms only where they are faster.

    Args:
        in1: an array.
        in2: an array of as many dimensions.
        mode: "full", "same" (in1's shape, from the middle) or "valid" (where they meet in full).
        axes: those to convolve along; None means all. Two of them at most may be longer than 1 in
            both arrays.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of SciPy's shape and dtype.

    Raises:
        ProblemError: as of `convolve`.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> fftconvolve(np.ones((2, 3)), np.array([[1.0, 1.0], [0.0, 2.0]]), axes=1).tolist()
        [[1.0, 2.0, 2.0, 1.0], [0.0, 2.0, 2.0, 2.0]]
    """
    return _by_axes("fftconvolve", in1, in2, mode, axes, runtime)


def oaconvolve(
    in1: Any,
    in2: Any,
    mode: str = "full",
    axes: int | Sequence[int] | None = None,
    *,
    runtime: Runtime | None = None,
) -> Any:
    """scipy.signal.oaconvolve: the same as `fftconvolve`.

    Args:
        in1: an array.
        in2: an array of as many dimensions.
        mode: "full", "same" (in1's shape, from the middle) or "valid" (where they meet in full).
        axes: those to convolve along; None means all.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of SciPy's shape and dtype.

    Raises:
        ProblemError: as of `convolve`.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> oaconvolve(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0]), mode="valid").tolist()
        [3.0, 5.0]
    """
    return _by_axes("oaconvolve", in1, in2, mode, axes, runtime)


def choose_conv_method(
    in1: Any, in2: Any, mode: str = "full", measure: bool = False, *, runtime: Runtime | None = None
) -> Any:
    """scipy.signal.choose_conv_method: how `convolve` computes these arrays.

    Args:
        in1: an array.
        in2: an array of as many dimensions.
        mode: "full", "same" (in1's shape, from the middle) or "valid" (where they meet in full).
        measure: whether both ways are timed now.
        runtime: None means that of the arrays' context, with NumPy arrays the default one.

    Returns:
        "direct" where `convolve` forms the definition's own sums of these arrays, else "fft"; with
        `measure` whichever is faster now, and a dictionary of the seconds of both.

    Raises:
        ProblemError: arrays that cannot be convolved.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> choose_conv_method(np.ones(100, np.float32), np.ones(3, np.float32))
        'direct'
    """
    if measure:
        times = {
            method: _seconds(partial(convolve, in1, in2, mode, method, runtime=runtime))
            for method in ("fft", "direct")
        }
        return ("fft" if times["fft"] < times["direct"] else "direct"), times
    door, pair = _pair("convolve", in1, in2, mode, None, False, runtime)
    dtype = np.result_type(door["in1"].dtype, door["in2"].dtype)
    if pair is None or dtype.kind not in "fc":
        return "direct"
    problem = pair.problem(real_dtype(dtype))
    sums = Sums(problem.dtype, None)
    if problem.groups == 1 and is_long(door.runtime, problem.kernel_size, problem.out_length, sums):
        return "fft"
    plan = next(door.runtime.candidates(problem, Pass.FORWARD))
    return "direct" if plan.error_class == "exact" else "fft"


def _seconds(call: Callable[[], Any]) -> float:
    """The least of a few calls, the first of which does not count."""
    call()
    times = []
    for _ in range(TIMES):
        start = perf_counter()
        result = call()
        if not isinstance(result, np.ndarray):
            result.finish()
        times.append(perf_counter() - start)
    return min(times)


def _of_two(
    function: str,
    in1: Any,
    in2: Any,
    mode: str,
    method: str,
    flipped: bool,
    runtime: Runtime | None,
) -> Any:
    door, pair = _pair(function, in1, in2, mode, None, flipped, runtime)
    if method not in METHODS:
        raise ProblemError(f"method is {method!r}, expected 'auto', 'direct' or 'fft'")
    if pair is None:
        return door.of_nothing("in1", "in2", mode=mode, method=method)
    dtypes = door["in1"].dtype, door["in2"].dtype
    dtype = np.result_type(*dtypes)
    shorter = mode == "same" and door["in1"].size < door["in2"].size
    if method != "fft" and (len(door["in1"].shape) > 1 or shorter):
        _check_direct(function, door["in1"], door["in2"], mode, method)
    exact = True if method == "direct" else None
    with door:
        return _scalar(door, convolved(door, pair, dtype, exact))


def _check_direct(function: str, in1: Array, in2: Array, mode: str, method: str) -> None:
    """ProblemError where SciPy sums directly, and has no sums of such dtypes."""
    try:
        scipy_dtype(function, in1.dtype, in2.dtype, dimensions=2, method="direct")
    except ProblemError:
        # "auto" depends on the shapes alone, of floating-point arrays.
        hollow = (np.broadcast_to(np.zeros((), one.dtype), one.shape) for one in (in1, in2))
        if method == "direct" or ask_scipy("choose_conv_method", *hollow, mode=mode) == "direct":
            raise


def _by_axes(
    function: str, in1: Any, in2: Any, mode: str, axes: Any, runtime: Runtime | None
) -> Any:
    door, pair = _pair(function, in1, in2, mode, axes, False, runtime)
    if pair is None:
        return door.of_nothing("in1", "in2", mode=mode, axes=axes)
    dtypes = door["in1"].dtype, door["in2"].dtype
    # Without an axis to convolve along it is a product.
    dtype = scipy_dtype(function, *dtypes) if pair.along else np.result_type(*dtypes)
    with door:
        return _scalar(door, convolved(door, pair, dtype, None))


def _scalar(door: Door, result: Array) -> Any:
    """The product of two numbers as a number."""
    if door["in1"].shape:
        return result
    return result.reshape(())[()] if door.host else result.reshape(())


def _pair(
    function: str, in1: Any, in2: Any, mode: str, axes: Any, flipped: bool, runtime: Runtime | None
) -> tuple[Door, Pair | None]:
    """The arrays, and how they meet; None where one has no values. Raises ProblemError."""
    door = Door(function, runtime, {"in1": in1, "in2": in2})
    first, second = door["in1"], door["in2"]
    if len(first.shape) != len(second.shape):
        raise ProblemError(
            f"in1 has {len(first.shape)} dimensions and in2 {len(second.shape)}, expected as many"
        )
    if not isinstance(mode, str) or mode not in MODES:
        raise ProblemError(f"mode is {mode!r}, expected 'full', 'same' or 'valid'")
    if first.size == 0 or second.size == 0:
        return door, None
    if not first.shape:
        first, second = first.reshape(1), second.reshape(1)
        axes = None
    own = _axes(axes, len(first.shape))
    named = function in ("fftconvolve", "oaconvolve")
    return door, pair_of(function, first, second, mode, own, flipped, named)


def _axes(axes: Any, dimensions: int) -> tuple[int, ...]:
    """The axes in order. Raises ProblemError."""
    if axes is None:
        return tuple(range(dimensions))
    several = [axes] if isinstance(axes, (int, np.integer)) else axes
    try:
        found = [axis_of(axis, dimensions, "axes") for axis in several]
    except TypeError as error:
        raise ArrayTypeError(f"axes is {axes!r}, expected integers") from error
    if not found:
        raise ProblemError("axes is empty, expected at least one axis")
    if len(set(found)) < len(found):
        raise ProblemError(f"axes is {axes!r}, expected each axis once")
    return tuple(sorted(found))
