"""Tiny problems that reach every path of the portable kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "groups and remainders": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2),
    "phases and uneven padding": Conv1dProblem(1, 2, 23, 3, 4, 3, (2, 4), 2),
    "depth multiplier": Conv1dProblem(1, 2, 40, 4, 3, 1, (5, 0), 1, 2),
    "16 bits": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2, dtype="float16"),
    "64 bits": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2, dtype="float64"),
}
