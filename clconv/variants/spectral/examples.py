"""Tiny problems that reach every path of the spectral kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "several tiles": Conv1dProblem(2, 3, 75, 3, 5, 1, 2),
    "whole vectors": Conv1dProblem(1, 16, 20, 17, 5, 1, 2),
    "dilated": Conv1dProblem(1, 2, 80, 3, 5, 1, 6, 3),
    "dilated, lines apart": Conv1dProblem(1, 2, 600, 2, 5, 1, 6, 130),
    "strided": Conv1dProblem(1, 2, 60, 3, 11, 2, 5),
    "one channel a group": Conv1dProblem(2, 3, 260, 3, 6, 1, 2, 1, 3),
    "one channel, dilated": Conv1dProblem(1, 1, 150, 1, 9, 1, (3, 20), 4),
    "groups": Conv1dProblem(1, 4, 40, 6, 6, 1, (5, 0), 1, 2),
    "16 bits": Conv1dProblem(1, 2, 40, 2, 7, 1, 1, dtype="float16"),
    "64 bits": Conv1dProblem(1, 2, 40, 2, 7, 1, 1, dtype="float64"),
}
