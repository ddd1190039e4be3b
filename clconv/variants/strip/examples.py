"""Tiny problems that reach every path of the strips' kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "groups and remainders": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2),
    "phases and uneven padding": Conv1dProblem(1, 2, 23, 3, 4, 3, (2, 4), 2),
    "rows of a stride": Conv1dProblem(1, 2, 130, 3, 4, 3),
    "a row for each tap": Conv1dProblem(1, 2, 90, 3, 3, 1, 40, 40),
    "several term blocks": Conv1dProblem(1, 18, 27, 3, 16),
    "several term blocks in phases": Conv1dProblem(1, 3, 20, 18, 3, 2, 1),
    "groups of taps": Conv1dProblem(1, 2, 40, 1, 17, 1, 4),
    "groups of taps, depthwise": Conv1dProblem(1, 2, 80, 2, 18, 1, 9, 1, 2),
    "several rows a task": Conv1dProblem(5, 2, 6, 5, 2),
    "vectors of channels": Conv1dProblem(1, 19, 21, 10, 3, 1, 1),
    "16 bits": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2, dtype="float16"),
    "64 bits": Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2, dtype="float64"),
}
