"""How far may a result be from the true one? Two checks, without a tolerance to tune.

Exact: on small integers the sums of a dtype are exact in any order, so results must equal the
reference, rounded once for float16. Rounding: on any data a sum of t terms, in any order, is off
by at most gamma * the sum of the terms' magnitudes, gamma = t u / (1 - t u) with u the unit
roundoff of the sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2).

A pass is asked for with its arrays by name: x, weight, grad_output, bias, residual, old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clconv import Conv1dProblem, Epilogue, Pass, reference

Array = NDArray[Any]
Arrays = Mapping[str, Array]

LARGEST_INTEGER = 4
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


def sums_dtype(dtype: Any) -> np.dtype[Any]:
    """What sums are kept in: float32 for float16."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def reference_dtype(dtype: Any) -> np.dtype[Any]:
    """What the reference sums in: long double for float64, where there is one."""
    return np.dtype(np.longdouble if np.dtype(dtype) == np.float64 else np.float64)


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next number."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(terms: int, dtype: Any) -> float:
    """The relative error of a sum of that many products in any order, at most."""
    error = terms * unit_roundoff(dtype)
    if error >= 1:
        raise ValueError(f"{terms} terms are too many for a bound in {np.dtype(dtype)}")
    return error / (1 - error)


def integers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, largest: int = LARGEST_INTEGER
) -> Array:
    """Whole numbers in -largest … largest."""
    return rng.integers(-largest, largest + 1, shape).astype(dtype)


def normals(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normally distributed numbers."""
    return rng.standard_normal(shape).astype(dtype)


def _convolve(problem: Conv1dProblem, pass_: Pass, arrays: Arrays) -> Array:
    kind = reference_dtype(problem.dtype)
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
    pass_: Pass,
    arrays: Arrays,
    *,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
) -> Array:
    """The true result of a pass in the reference's dtype, of `problem.dtype`'s arrays.

    An input gradient with bias, residual or activation is a transposed convolution's result.
    """
    value = _sum(problem, pass_, arrays, scale, momentum)
    name, slope = Epilogue.parse_activation(activation)
    return value if name is None else reference.activate(name, value, slope)


def sums_are_exact(
    problem: Conv1dProblem,
    pass_: Pass,
    *,
    scale: float = 1.0,
    momentum: float = 0.0,
    largest: int = LARGEST_INTEGER,
) -> bool:
    """Whether sums of integers in -largest … largest are exact in any order.

    Scale and momentum must be 0 or powers of two of at least 1/4.
    """
    products = largest**2 * problem.terms(pass_) + 2 * largest
    most = products * max(1, abs(scale)) + largest * abs(momentum)
    return 4 * most < 1 / unit_roundoff(sums_dtype(problem.dtype))


def rounding_bound(
    problem: Conv1dProblem,
    pass_: Pass,
    arrays: Arrays,
    *,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    exact: bool = False,
) -> Array:
    """How far each value may be from `evaluate`'s; `exact` where the sums are known to be."""
    dtype, sums = problem.dtype, sums_dtype(problem.dtype)
    tiny = float(np.finfo(sums).tiny)
    terms = problem.terms(pass_) + sum(name in arrays for name in ("bias", "residual"))
    if scale != 1 or momentum:
        terms += UPDATE_TERMS
    magnitudes = _sum(
        problem, pass_, {n: abs(a) for n, a in arrays.items()}, abs(scale), abs(momentum)
    )
    bound = np.zeros_like(magnitudes)
    if not exact:
        # Where products are flushed to zero they are off by less than the smallest normal number.
        bound = gamma(terms, sums) * magnitudes + terms * max(1, abs(scale)) * tiny
        if reference_dtype(dtype).itemsize == np.dtype(dtype).itemsize:
            bound = 2 * bound  # the reference rounds as much
    name, slope = Epilogue.parse_activation(activation)
    if name is None and dtype != np.float16:
        return bound
    before = _sum(problem, pass_, arrays, scale, momentum)
    after = before if name is None else reference.activate(name, before, slope)
    if name is not None:
        one = ACTIVATIONS[name]
        bound = (
            max(one.lipschitz, slope if name == "leaky_relu" else 0) * bound
            + unit_roundoff(sums) * (2 * one.ulps * abs(after) + one.roundoffs)
            + UNDERFLOWS * tiny
            + REFERENCE_ROUNDOFFS * unit_roundoff(np.float64) * (1 + abs(before))
        )
    if dtype == np.float16:
        # The result is rounded to float16; among its denormals by half of the smallest.
        half = unit_roundoff(np.float16)
        bound = bound * (1 + half) + half * abs(after) + 2.0**-25
    return bound


def _report(result: Array, expected: Array, wrong: Array, what: str, bound: Array | None) -> None:
    if not wrong.any():
        return
    error = np.where(wrong, np.abs(result.astype(expected.dtype) - expected), -1)
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    place = ", ".join(str(int(i)) for i in worst)
    limit = "" if bound is None else f" ± {float(bound[worst]):.3g}"
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.size} values are wrong, most of all [{place}] of "
        f"{result.shape}: {result[worst]!s}, expected {expected[worst]!s}{limit}"
    )


def _check_kind(result: Array, expected: Array, what: str) -> None:
    if result.shape != expected.shape:
        raise AssertionError(f"{what} has shape {result.shape}, expected {expected.shape}")


def assert_exact(result: Array, expected: Array, what: str = "result") -> None:
    """AssertionError unless `result` is `expected`, rounded once to the result's dtype."""
    _check_kind(result, expected, what)
    with np.errstate(over="ignore"):
        rounded = expected.astype(result.dtype)
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    _report(result, rounded, ~same, what, None)


def assert_within(result: Array, expected: Array, bound: Array, what: str = "result") -> None:
    """AssertionError unless |result - expected| <= bound everywhere; a NaN never is.

    An infinity is right where `expected` is beyond the dtype's numbers by that bound.
    """
    _check_kind(result, expected, what)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(result.astype(expected.dtype) - expected) <= bound)
    beyond = np.abs(expected) + bound >= float(np.finfo(result.dtype).max)
    wrong &= ~(np.isinf(result) & (np.sign(result) == np.sign(expected)) & beyond)
    _report(result, expected, wrong, what, bound)


def assert_right(
    result: Array,
    problem: Conv1dProblem,
    pass_: Pass,
    arrays: Arrays,
    what: str = "result",
    *,
    largest: int = 0,
    activation: Any = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    positions: int | None = None,
) -> None:
    """AssertionError unless `result` passes the check for its data.

    That is the exact one where the arrays are integers in -largest … largest, few enough (and
    scale and momentum powers of two of at least 1/4), else the rounding one. `positions` is how
    many of the last dimension the result has, None for all.
    """
    update: dict[str, float] = {"scale": scale, "momentum": momentum}
    exact = largest > 0 and sums_are_exact(problem, pass_, largest=largest, **update)
    name, slope = Epilogue.parse_activation(activation)
    expected = evaluate(problem, pass_, arrays, activation=activation, **update)[..., :positions]
    if exact and name in PIECEWISE and (name != "leaky_relu" or slope == 0.25):
        assert_exact(result, expected, what)
        return
    bound = rounding_bound(problem, pass_, arrays, activation=activation, exact=exact, **update)
    assert_within(result, expected, bound[..., :positions], what)


def transposed_problem(
    x_shape: tuple[int, int, int],
    weight_shape: tuple[int, int, int],
    stride: int,
    padding: tuple[int, int],
    output_padding: int,
    dilation: int,
    groups: int,
    dtype: Any,
) -> Conv1dProblem:
    """The convolution whose input gradient a transposed convolution is, by PyTorch's formula for
    the length of its result. It may have more output positions than x; see `extended`."""
    batch, in_channels, length = x_shape
    reached = (length - 1) * stride + dilation * (weight_shape[2] - 1) + 1
    out_length = reached - sum(padding) + output_padding
    problem = Conv1dProblem(
        batch, weight_shape[1] * groups, out_length, in_channels, weight_shape[2], stride,
        (padding[0], max(0, reached - padding[0] - out_length)), dilation, groups, dtype,
    )  # fmt: skip
    assert problem.out_length >= length, (problem, length)
    return problem


def extended(array: Array, length: int) -> Array:
    """(N, C, L) with zeros behind, up to `length` positions."""
    return np.pad(array, ((0, 0), (0, 0), (0, length - array.shape[2])))
