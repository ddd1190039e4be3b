"""How far may a result be from the true one? Checks for tests, without a tolerance to tune.

Exact: on small integers the sums of a dtype are exact in any order, so results must equal the
reference, rounded once for float16 and bfloat16. Rounding: on any data a sum of t terms, in any
order, is off by at most gamma * the sum of the terms' magnitudes, gamma = t u / (1 - t u) with u
the unit roundoff of the sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
section 4.2).

A layer of your own is computed again in float64, and compared:

>>> import numpy as np
>>> from clconv import testing
>>> rng = np.random.default_rng(0)
>>> x = testing.integers(rng, (2, 3, 50), np.float32)
>>> y = x + x[:, :, ::-1]  # what a layer made of it
>>> true = x.astype(np.float64)
>>> testing.assert_exact(y, true + true[:, :, ::-1])

A convolution's pass is evaluated here, from its problem and its arrays by name: x, weight,
grad_output, bias, residual, old.

>>> from clconv import Conv1dProblem, functional
>>> weight = testing.normals(rng, (4, 3, 5), np.float32)
>>> y = functional.conv1d(x, weight, stride=2)
>>> problem = Conv1dProblem(2, 3, 50, 4, 5, stride=2)
>>> testing.assert_right(y, problem, "forward", {"x": x, "weight": weight})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clconv import reference
from clconv.dtypes import accumulator, dtype_of, is_bfloat16, is_floating, is_short
from clconv.problem import Conv1dProblem, Epilogue, Pass

__all__ = [
    "LARGEST_INTEGER",
    "assert_exact",
    "assert_right",
    "assert_within_bound",
    "evaluate",
    "gamma",
    "integers",
    "normals",
    "outside",
    "rounded_to",
    "rounding_bound",
    "sum_bound",
    "sums_are_exact",
    "unit_roundoff",
]

Array = NDArray[Any]
Arrays = Mapping[str, Any]

LARGEST_INTEGER = 4
# NumPy's finfo knows no bfloat16: half the distance from 1 to the next number, and the largest.
BFLOAT16_ROUNDOFF = 2.0**-8
BFLOAT16_MOST = (2 - 2.0**-7) * 2.0**127
# Scale and momentum multiply, and add what was there.
UPDATE_TERMS = 3


class Activation(NamedTuple):
    """What an activation does to an error, and what error it adds."""

    lipschitz: float
    ulps: float  # of the result: the builtin's limit and the arithmetic around it
    roundoffs: float = 0.0  # absolute


# The limits of the OpenCL specification ("Relative error as ULPs"): exp 3, tanh 5, erfc 16,
# division 2.5 (correctly rounded in float64); every + - * is half an ulp. gelu multiplies the
# argument of erfc by a rounded constant, which costs up to 0.6 u. leaky_relu rounds slope and
# product; its Lipschitz constant is at least the slope.
ACTIVATIONS = {
    None: Activation(1, 0),
    "relu": Activation(1, 0),
    "leaky_relu": Activation(1, 2),
    "sigmoid": Activation(0.25, 3 + 0.5 + 2.5),
    "tanh": Activation(1, 5),
    "gelu": Activation(1.13, 16 + 1, 1),
    "silu": Activation(1.1, 3 + 0.5 + 2.5),
}
# Activations whose results on integers are exact; for leaky_relu with a slope such as 0.25.
PIECEWISE = (None, "relu", "leaky_relu")
# exp overflows where silu is still this many smallest normal numbers.
UNDERFLOWS = 1024
# The reference's own error: sigmoid, gelu and silu add to 1 what may be close to -1.
REFERENCE_ROUNDOFFS = 4
# What each pass reads, beside what follows its sums.
OPERANDS = {
    Pass.FORWARD: ("x", "weight"),
    Pass.INPUT_GRADIENT: ("weight", "grad_output"),
    Pass.WEIGHT_GRADIENT: ("x", "grad_output"),
    Pass.BIAS_GRADIENT: ("grad_output",),
}


def _sums_dtype(dtype: Any) -> np.dtype[Any]:
    """What sums are kept in: float32 for dtypes of 16 bits."""
    return accumulator(dtype_of(dtype))


def _reference_dtype(dtype: Any) -> np.dtype[Any]:
    """What the reference sums in: long double for float64, where there is one."""
    return np.dtype(np.longdouble if dtype_of(dtype) == np.float64 else np.float64)


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next number of a dtype.

    Args:
        dtype: a floating-point one.

    Returns:
        A number, 2**-24 of float32.

    Examples:
        >>> unit_roundoff(np.float32) == 2**-24
        True
    """
    dtype = dtype_of(dtype)
    return BFLOAT16_ROUNDOFF if is_bfloat16(dtype) else float(np.finfo(dtype).eps) / 2


def rounded_to(values: Array, dtype: Any) -> Array:
    """Wider floating-point values in a dtype, rounded once, to nearest even.

    Args:
        values: a NumPy array.
        dtype: a floating-point one, bfloat16 too.

    Returns:
        A NumPy array of that dtype.

    Examples:
        >>> rounded_to(np.float64([1 + 2**-11, 1 + 2**-11 + 2**-30]), np.float16).tolist()
        [1.0, 1.0009765625]
    """
    dtype = dtype_of(dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # as NaN is to ml_dtypes
        if not is_bfloat16(dtype) or values.dtype.itemsize <= 4:
            return values.astype(dtype)
        # To float32 by rounding to odd, so that the rounding that follows is the only one that
        # counts: NumPy's own way from float64 rounds twice.
        near = values.astype(np.float32)
        wide = near.astype(values.dtype)
        inexact = np.isfinite(near) & (wide != values)
        bits = near.view(np.uint32) - (inexact & (np.abs(wide) > np.abs(values))) | inexact
        odd: Array = bits.astype(np.uint32).view(np.float32)
        return odd.astype(dtype)


def gamma(terms: int, dtype: Any) -> float:
    """The largest relative error of a sum of products in any order.

    It is relative to the sum of the products' magnitudes (Higham, 2002, section 4.2).

    Args:
        terms: how many products are summed.
        dtype: what they are summed in.

    Returns:
        t u / (1 - t u) for t terms and the unit roundoff u.

    Raises:
        ValueError: a negative number of terms, or so many that there is no bound.

    Examples:
        >>> gamma(3, np.float32) == 3 * 2**-24 / (1 - 3 * 2**-24)
        True
    """
    error = terms * unit_roundoff(dtype)
    if not 0 <= error < 1:
        most = f"expected 0 to {int(1 / unit_roundoff(dtype)) - 1}"
        raise ValueError(f"terms is {terms}, {most} for a bound in {dtype_of(dtype)}")
    return error / (1 - error)


# Data


def integers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, largest: int = LARGEST_INTEGER
) -> Array:
    """Whole numbers in -largest … largest: data of exact checks.

    Args:
        rng: NumPy's generator.
        shape: a tuple of ints.
        dtype: a floating-point one.
        largest: a whole number.

    Returns:
        A NumPy array.

    Examples:
        >>> x = integers(np.random.default_rng(0), (2, 3), np.float32)
        >>> bool((abs(x) <= 4).all())
        True
    """
    return rng.integers(-largest, largest + 1, shape).astype(dtype_of(dtype))


def normals(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normally distributed numbers: data of checks against the rounding bound.

    Args:
        rng: NumPy's generator.
        shape: a tuple of ints.
        dtype: a floating-point one.

    Returns:
        A NumPy array.

    Examples:
        >>> normals(np.random.default_rng(0), (2, 3), np.float16).dtype
        dtype('float16')
    """
    return rng.standard_normal(shape).astype(dtype_of(dtype))


# A convolution's pass


def _operands(
    problem: Conv1dProblem, pass_: Pass | str, arrays: Arrays, momentum: float
) -> tuple[Pass, dict[str, Array]]:
    """The pass, and its arrays on the host. Raises ProblemError, ValueError."""
    pass_ = Pass.of(pass_)
    found = {name: _host(array) for name, array in arrays.items()}
    needed = (*OPERANDS[pass_], *(("old",) if momentum else ()))
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(f"arrays has no {', '.join(missing)}, expected {', '.join(needed)}")
    shapes: dict[str, tuple[int, ...]] = {
        "x": problem.input_shape, "weight": problem.weight_shape,
        "grad_output": problem.output_shape,
    }  # fmt: skip
    shapes = {name: shapes[name] for name in OPERANDS[pass_]} | _after_the_sums(problem, pass_)
    for name, shape in shapes.items():
        if name in found and found[name].shape != shape:
            raise ValueError(f"{name} has shape {found[name].shape}, expected {shape}")
    return pass_, {name: found[name] for name in shapes if name in found}


def _after_the_sums(problem: Conv1dProblem, pass_: Pass) -> dict[str, tuple[int, ...]]:
    """The shapes of what may be added to a pass's sums."""
    if pass_ is Pass.WEIGHT_GRADIENT:
        return {"old": problem.weight_shape}
    if pass_ is Pass.BIAS_GRADIENT:
        return {"old": (problem.out_channels,)}
    result = problem.output_shape if pass_ is Pass.FORWARD else problem.input_shape
    return {"bias": (result[1],), "residual": result, "old": result}


def _convolve(problem: Conv1dProblem, pass_: Pass, arrays: Arrays) -> Array:
    kind = _reference_dtype(problem.dtype)
    if pass_ is Pass.FORWARD:
        return reference.conv1d(problem, arrays["x"], arrays["weight"], accumulate=kind)
    if pass_ is Pass.INPUT_GRADIENT:
        return reference.input_gradient(problem, arrays["weight"], arrays["grad_output"], kind)
    if pass_ is Pass.WEIGHT_GRADIENT:
        return reference.weight_gradient(problem, arrays["x"], arrays["grad_output"], kind)
    return reference.bias_gradient(arrays["grad_output"], kind)


def _sum(
    problem: Conv1dProblem, pass_: Pass, arrays: Arrays, scale: float, momentum: float
) -> Array:
    """What comes before an activation: with momentum 0 what was there before does not count."""
    value = _convolve(problem, pass_, arrays)
    if "bias" in arrays:
        value = value + arrays["bias"].astype(value.dtype).reshape(1, -1, 1)
    if "residual" in arrays:
        value = value + arrays["residual"].astype(value.dtype)
    value = value * scale
    if momentum:
        value = value + momentum * arrays["old"].astype(value.dtype)
    return value


def evaluate(
    problem: Conv1dProblem,
    pass_: Pass | str,
    arrays: Arrays,
    *,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
) -> Array:
    """The true result of a pass, in float64 (long double for float64).

    It is activation(scale * (sum + bias + residual) + momentum * old). An input gradient with bias,
    residual or activation is a transposed convolution's result.

    Args:
        problem: what was computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        arrays: "x" (N, Cin, L), "weight" (Cout, Cin / groups, K), "grad_output" (N, Cout, Lout), as
            far as the pass reads them, all of `problem.dtype`. Forward and input gradient add a
            "bias" (C,) and a "residual", shaped as the result, where they are in it; "old" are the
            values before.
        activation: None, or as in `clconv.functional.conv1d`.
        scale: a number that sums are multiplied by.
        momentum: a number that the old values are multiplied by.

    Returns:
        A NumPy array.

    Raises:
        ProblemError: an unknown pass or activation.
        ValueError: an array that is missing or has another shape.
    """
    pass_, arrays = _operands(problem, pass_, arrays, momentum)
    value = _sum(problem, pass_, arrays, scale, momentum)
    name, slope = Epilogue.parse_activation(activation)
    return value if name is None else reference.activate(name, value, slope)


def sums_are_exact(
    problem: Conv1dProblem,
    pass_: Pass | str,
    *,
    scale: float = 1.0,
    momentum: float = 0.0,
    largest: int = LARGEST_INTEGER,
) -> bool:
    """Whether a pass's sums of integers are exact in any order.

    Args:
        problem: what was computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        scale: 0, or a power of two of at least 1/4; of others sums are not exact.
        momentum: the same.
        largest: the integers are in -largest … largest.

    Returns:
        True or False.
    """
    products = largest**2 * problem.terms(Pass.of(pass_)) + 2 * largest
    most = products * max(1, abs(scale)) + largest * abs(momentum)
    return 4 * most < 1 / unit_roundoff(_sums_dtype(problem.dtype))


def sum_bound(expected: Array, magnitudes: Array, terms: int, dtype: Any) -> Array:
    """How far sums in a dtype may be from the true ones, value by value.

    Sums are float32's for float16 and bfloat16, and rounded once more.

    Args:
        expected: the true sums, in float64, or for float64 in long double; where there is none,
            their own rounding is counted.
        magnitudes: the same sums of the products' magnitudes.
        terms: how many products each has.
        dtype: that of the result.

    Returns:
        A NumPy array.

    Raises:
        ValueError: too many terms for a bound.

    Examples:
        >>> bound = sum_bound(np.float64([0.0]), np.float64([2.0]), 3, np.float32)
        >>> bool(bound[0] >= 2 * gamma(3, np.float32))
        True
    """
    return _rounded(_sums(magnitudes, terms, dtype), expected, dtype)


def _sums(magnitudes: Array, terms: int, dtype: Any, scale: float = 1.0) -> Array:
    """`sum_bound` before the sums are rounded to 16 bits."""
    sums = _sums_dtype(dtype)
    # Where products are flushed to zero they are off by less than the smallest normal number.
    flushed = terms * max(1, abs(scale)) * float(np.finfo(sums).tiny)
    bound: Array = gamma(terms, sums) * magnitudes + flushed
    # The reference rounds as much where it sums in the same dtype.
    return 2 * bound if _reference_dtype(dtype).itemsize == dtype_of(dtype).itemsize else bound


def _rounded(bound: Array, values: Array, dtype: Any) -> Array:
    """The bound of values that are rounded to a dtype from what their sums are kept in."""
    dtype = dtype_of(dtype)
    if not is_short(dtype):
        return bound
    # Among float16's denormals a value is off by half of the smallest; those of bfloat16 are
    # float32's, which devices may flush to zero.
    least = float(np.finfo(np.float32).tiny) if is_bfloat16(dtype) else 2.0**-25
    half = unit_roundoff(dtype)
    return bound * (1 + half) + half * abs(values) + least


def rounding_bound(
    problem: Conv1dProblem,
    pass_: Pass | str,
    arrays: Arrays,
    *,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    exact: bool = False,
    sums: Callable[[Arrays], Any] | None = None,
) -> Array:
    """How far each value of a pass may be from `evaluate`'s, whose arguments it takes.

    Args:
        problem: what was computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        arrays: as of `evaluate`.
        activation: None, or as in `clconv.functional.conv1d`.
        scale: a number that sums are multiplied by.
        momentum: a number that the old values are multiplied by.
        exact: whether the sums are known to be exact, so that only what follows them is rounded.
        sums: a plan's `sums_bound`, which bounds sums that are not formed as in the definition.

    Returns:
        A NumPy array of the result's shape.

    Raises:
        ProblemError: an unknown pass or activation.
        ValueError: an array that is missing or has another shape, too many terms for a bound.
    """
    pass_, arrays = _operands(problem, pass_, arrays, momentum)
    dtype = problem.dtype
    terms = sum(name in arrays for name in ("bias", "residual"))
    if scale != 1 or momentum:
        terms += UPDATE_TERMS
    if sums is None:
        terms += problem.terms(pass_)
    magnitudes = _sum(
        problem, pass_, {n: abs(a) for n, a in arrays.items()}, abs(scale), abs(momentum)
    )
    bound = np.zeros_like(magnitudes) if exact else _sums(magnitudes, terms, dtype, scale)
    if sums is not None:
        bound = bound + abs(scale) * sums({n: arrays[n] for n in OPERANDS[pass_]})
    name, slope = Epilogue.parse_activation(activation)
    if name is None and not is_short(dtype):
        return bound
    before = _sum(problem, pass_, arrays, scale, momentum)
    after = before if name is None else reference.activate(name, before, slope)
    if name is not None:
        one = ACTIVATIONS[name]
        bound = (
            max(one.lipschitz, slope if name == "leaky_relu" else 0) * bound
            + unit_roundoff(_sums_dtype(dtype)) * (2 * one.ulps * abs(after) + one.roundoffs)
            + UNDERFLOWS * float(np.finfo(_sums_dtype(dtype)).tiny)
            + REFERENCE_ROUNDOFFS * unit_roundoff(np.float64) * (1 + abs(before))
        )
    return _rounded(bound, after, dtype)


# Checks


def _host(array: Any) -> Array:
    """A host array of a host or device array."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _compared(result: Any, expected: Any, what: str) -> tuple[Array, Array]:
    """Both on the host, `expected` in float64 or wider."""
    result, expected = _host(result), _host(expected)
    expected = expected.astype(np.result_type(expected, np.float64), copy=False)
    if not is_floating(result.dtype):
        raise AssertionError(f"{what} has dtype {result.dtype}, expected a floating-point one")
    if result.shape != expected.shape:
        raise AssertionError(f"{what} has shape {result.shape}, expected {expected.shape}")
    return result, expected


def _report(result: Array, expected: Array, wrong: Array, what: str, bound: Array | None) -> None:
    if not wrong.any():
        return
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(wrong, np.abs(result.astype(expected.dtype) - expected), -1)
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    place = ", ".join(str(int(i)) for i in worst)
    limit = "" if bound is None else f" ± {float(bound[worst]):.3g}"
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.size} values are wrong, most of all [{place}] of "
        f"{result.shape}: {result[worst]!s}, expected {expected[worst]!s}{limit}"
    )


def assert_exact(result: Any, expected: Any, what: str = "result") -> None:
    """Checks that a result is the expected one, rounded once to the result's dtype.

    NaN equals NaN.

    Args:
        result: a host or device array of a floating-point dtype.
        expected: one of the same shape.
        what: what the error calls the result.

    Raises:
        AssertionError: begins with `what` and names the value that is farthest off.

    Examples:
        >>> assert_exact(np.float32([1, 2, 4]), [1, 2, 3], "y")
        Traceback (most recent call last):
        AssertionError: y: 1 of 3 values are wrong, most of all [2] of (3,): 4.0, expected 3.0
    """
    result, expected = _compared(result, expected, what)
    rounded = rounded_to(expected, result.dtype)
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    _report(result, rounded, ~same, what, None)


def outside(result: Array, expected: Array, bound: Array) -> Array:
    """Where |result - expected| <= bound does not hold.

    A NaN is wrong; an infinity is right where `expected` is beyond the numbers of the result's
    dtype by the bound.

    Args:
        result: a host array.
        expected: one of the same shape.
        bound: one of the same shape.

    Returns:
        An array of bools, True where a value is wrong.

    Examples:
        >>> outside(np.float32([1, 4]), np.float64([1, 3.5]), np.float64([0, 0.25])).tolist()
        [False, True]
    """
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(result - expected) <= bound)
    most = BFLOAT16_MOST if is_bfloat16(result.dtype) else float(np.finfo(result.dtype).max)
    beyond = np.abs(expected) + bound >= most
    infinite = np.isinf(result) & (np.sign(result) == np.sign(expected)) & beyond
    found: Array = wrong & ~infinite
    return found


def assert_within_bound(result: Any, expected: Any, bound: Any, what: str = "result") -> None:
    """Checks that |result - expected| <= bound everywhere, which a NaN never is.

    An infinity is right where `expected` is beyond the dtype's numbers by that bound.

    Args:
        result: a host or device array of a floating-point dtype.
        expected: one of the same shape.
        bound: a number or an array that broadcasts to that shape, as `sum_bound` and
            `rounding_bound` give it.
        what: what the error calls the result.

    Raises:
        AssertionError: begins with `what` and names the value that is farthest off.

    Examples:
        >>> assert_within_bound(np.float32([1, 4]), [1, 3.5], 0.5)
        >>> assert_within_bound(np.float32(4), 3, 0.5, "y")
        Traceback (most recent call last):
        AssertionError: y: 1 of 1 values are wrong, most of all [] of (): 4.0, expected 3.0 ± 0.5
    """
    result, expected = _compared(result, expected, what)
    bound = np.broadcast_to(_host(bound), expected.shape)
    _report(result, expected, outside(result, expected, bound), what, bound)


def assert_right(
    result: Any,
    problem: Conv1dProblem,
    pass_: Pass | str,
    arrays: Arrays,
    what: str = "result",
    *,
    largest: int = 0,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    positions: int | None = None,
    sums: Callable[[Arrays], Any] | None = None,
) -> None:
    """Checks the result of a convolution's pass, by the check that its data allow.

    That is the exact one where the arrays are few enough integers in -largest … largest (and scale
    and momentum powers of two of at least 1/4), else the rounding bound; with `sums` always the
    bound.

    Args:
        result: a host or device array.
        problem: what was computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        arrays: as of `evaluate`.
        what: what the error calls the result.
        largest: the integers' greatest magnitude; 0 where they are none.
        activation: None, or as in `clconv.functional.conv1d`.
        scale: a number that sums are multiplied by.
        momentum: a number that the old values are multiplied by.
        positions: how many of the last dimension the result has, None for all.
        sums: a plan's `sums_bound`, or None.

    Raises:
        AssertionError: as the checks do.
        ProblemError: an unknown pass or activation.
        ValueError: an array that is missing or has another shape, too many terms for a bound.
    """
    update: dict[str, float] = {"scale": scale, "momentum": momentum}
    exact = sums is None and largest > 0
    exact = exact and sums_are_exact(problem, pass_, largest=largest, **update)
    name, slope = Epilogue.parse_activation(activation)
    expected = evaluate(problem, pass_, arrays, activation=activation, **update)[..., :positions]
    if exact and name in PIECEWISE and (name != "leaky_relu" or slope == 0.25):
        assert_exact(result, expected, what)
        return
    bound = rounding_bound(
        problem, pass_, arrays, activation=activation, exact=exact, sums=sums, **update
    )
    assert_within_bound(result, expected, bound[..., :positions], what)
