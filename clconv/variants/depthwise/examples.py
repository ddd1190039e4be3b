"""Tiny problems that reach every path of the depthwise kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "depthwise": Conv1dProblem(2, 3, 75, 3, 3, 1, 1, 1, 3),
    "groups of taps": Conv1dProblem(1, 2, 80, 2, 18, 1, 9, 1, 2),
    "dilated": Conv1dProblem(1, 2, 80, 2, 3, 1, 8, 8, 2),
    "depth multiplier": Conv1dProblem(1, 2, 40, 4, 3, 1, (5, 0), 1, 2),
    "vectors of channels": Conv1dProblem(1, 20, 30, 20, 3, 1, 1, 1, 20),
    "pointwise, 16 bits": Conv1dProblem(1, 2, 40, 2, 1, 1, 0, 1, 2, dtype="float16"),
    "16 bits": Conv1dProblem(1, 2, 40, 2, 3, 1, 1, 1, 2, dtype="float16"),
    "64 bits": Conv1dProblem(1, 2, 40, 2, 3, 1, 1, 1, 2, dtype="float64"),
}
