"""Tiny problems that reach every path of the pointwise kernel, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "rows that end in a place": Conv1dProblem(2, 6, 150, 10, 1, 1, 0, 1, 2),
    "rows end to end": Conv1dProblem(5, 6, 7, 10, 1, 1, 0, 1, 2),
    "rows longer than a vector, end to end": Conv1dProblem(3, 2, 37, 3, 1),
    "padding": Conv1dProblem(2, 3, 70, 9, 1, 1, (3, 2)),
    "several term blocks": Conv1dProblem(2, 800, 5, 2, 1),
    "64 bits": Conv1dProblem(2, 6, 75, 10, 1, 1, 0, 1, 2, dtype="float64"),
}
