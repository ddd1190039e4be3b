"""The specification: every pass in float64 NumPy, written to be obviously right.

Nothing here is fast. Tests, tools and the tuner compare with it. `accumulate` is the dtype of the
sums: np.longdouble gives a reference for float64 results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv.problem import Conv1dProblem

__all__ = [
    "activate",
    "activation_derivative",
    "bias_gradient",
    "conv1d",
    "input_gradient",
    "weight_gradient",
]

Array = NDArray[Any]


def _windows(problem: Conv1dProblem, padded: Array, k: int) -> Array:
    """What tap k sees at each output position, of a padded (N, C, L) array: a view."""
    first = k * problem.dilation
    return padded[
        :, :, first : first + (problem.out_length - 1) * problem.stride + 1 : problem.stride
    ]


def _grouped(array: Array, groups: int) -> Array:
    """(N, C, L) as (N, groups, C / groups, L)."""
    return array.reshape(array.shape[0], groups, array.shape[1] // groups, array.shape[2])


def _pad(problem: Conv1dProblem, x: Array, accumulate: Any) -> Array:
    return np.pad(np.asarray(x, accumulate), ((0, 0), (0, 0), problem.pads))


def conv1d(
    problem: Conv1dProblem,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    accumulate: Any = np.float64,
) -> Array:
    """(N, Cout, Lout) of x (N, Cin, L), weight (Cout, Cin / groups, K), bias (Cout,)."""
    padded = _pad(problem, x, accumulate)
    w = np.asarray(weight, accumulate).reshape(
        problem.groups, problem.group_out, -1, problem.kernel_size
    )
    y = np.zeros((problem.batch, problem.groups, problem.group_out, problem.out_length), accumulate)
    for k in range(problem.kernel_size):
        seen = _grouped(_windows(problem, padded, k), problem.groups)
        y += np.einsum("goc,ngcq->ngoq", w[..., k], seen)
    y = y.reshape(problem.output_shape)
    if bias is not None:
        y = y + np.asarray(bias, accumulate).reshape(1, -1, 1)
    return y


def input_gradient(
    problem: Conv1dProblem, weight: Array, grad_output: Array, accumulate: Any = np.float64
) -> Array:
    """(N, Cin, L) of weight and grad_output (N, Cout, Lout): 0 where no window reached."""
    left, right = problem.pads
    padded = np.zeros(
        (problem.batch, problem.in_channels, left + problem.length + right), accumulate
    )
    w = np.asarray(weight, accumulate).reshape(
        problem.groups, problem.group_out, -1, problem.kernel_size
    )
    gy = _grouped(np.asarray(grad_output, accumulate), problem.groups)
    for k in range(problem.kernel_size):
        reached = np.einsum("goc,ngoq->ngcq", w[..., k], gy)
        _windows(problem, padded, k)[...] += reached.reshape(
            problem.batch, problem.in_channels, problem.out_length
        )
    return padded[:, :, left : left + problem.length]


def weight_gradient(
    problem: Conv1dProblem, x: Array, grad_output: Array, accumulate: Any = np.float64
) -> Array:
    """(Cout, Cin / groups, K) of x (N, Cin, L) and grad_output (N, Cout, Lout)."""
    padded = _pad(problem, x, accumulate)
    gy = _grouped(np.asarray(grad_output, accumulate), problem.groups)
    gw = np.zeros(
        (problem.groups, problem.group_out, problem.group_in, problem.kernel_size), accumulate
    )
    for k in range(problem.kernel_size):
        seen = _grouped(_windows(problem, padded, k), problem.groups)
        gw[..., k] = np.einsum("ngoq,ngcq->goc", gy, seen)
    return gw.reshape(problem.weight_shape)


def bias_gradient(grad_output: Array, accumulate: Any = np.float64) -> Array:
    """(Cout,): the sum over batch and positions of grad_output (N, Cout, Lout)."""
    total: Array = np.asarray(grad_output, accumulate).sum(axis=(0, 2))
    return total


def _erf(v: Array) -> Array:
    return np.array([math.erf(one) for one in v.ravel()], np.float64).reshape(v.shape)


def _sigmoid(v: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * v)))  # which overflows nowhere


def activate(name: str | None, v: Array, slope: float = 0.01) -> Array:
    """The activation of this name, in float64."""
    v = np.asarray(v, np.float64)
    results: dict[str | None, Callable[[], Array]] = {
        None: lambda: v,
        "relu": lambda: np.where(v < 0, 0.0, v),  # keeps NaN
        "leaky_relu": lambda: np.where(v < 0, slope * v, v),
        "sigmoid": lambda: _sigmoid(v),
        "tanh": lambda: np.tanh(v),
        "gelu": lambda: 0.5 * v * (1 + _erf(v / math.sqrt(2))),
        "silu": lambda: v * _sigmoid(v),
    }
    return np.asarray(results[name]())


def activation_derivative(name: str | None, v: Array, slope: float = 0.01) -> Array:
    """The activation's derivative at v (before the activation), in float64."""
    v = np.asarray(v, np.float64)
    s = _sigmoid(v)
    results: dict[str | None, Callable[[], Array]] = {
        None: lambda: np.ones_like(v),
        "relu": lambda: np.where(v > 0, 1.0, 0.0),
        "leaky_relu": lambda: np.where(v > 0, 1.0, slope),
        "sigmoid": lambda: s * (1 - s),
        "tanh": lambda: 1 - np.tanh(v) ** 2,
        "gelu": lambda: (
            0.5 * (1 + _erf(v / math.sqrt(2))) + v * np.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)
        ),
        "silu": lambda: s * (1 + v * (1 - s)),
    }
    return np.asarray(results[name]())
