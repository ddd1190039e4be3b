"""A transposed convolution as the input gradient of a convolution, by PyTorch's formula.

The tests' own derivation, so that a fault in clconv's shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clconv import Conv1dProblem


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


def extended(array: np.ndarray, length: int) -> np.ndarray:
    """(N, C, L) with zeros behind, up to `length` positions."""
    return np.pad(array, ((0, 0), (0, 0), (0, length - array.shape[2])))
