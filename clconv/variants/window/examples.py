"""Tiny problems that reach every path of the windows' kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "depthwise": Conv1dProblem(2, 3, 21, 3, 3, 1, 1, 1, 3),
    "with a multiplier, strided": Conv1dProblem(2, 4, 23, 8, 4, 3, (2, 4), 2, 4),
    "few channels read": Conv1dProblem(1, 1, 30, 9, 5),
    "few channels written": Conv1dProblem(1, 9, 30, 1, 5, 1, 2),
    "16 bits": Conv1dProblem(1, 1, 30, 3, 5, dtype="float16"),
    "64 bits": Conv1dProblem(1, 1, 30, 3, 5, dtype="float64"),
    "many taps": Conv1dProblem(2, 2, 40, 4, 17, 1, 3, 1, 2),
}
