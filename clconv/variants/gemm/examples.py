"""Tiny problems for the products of matrices: they fill no tile, each named for a path."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "runs from one batch element to the next": Conv1dProblem(3, 5, 9, 6, 3, 1, 1),
    "groups, phases and gaps": Conv1dProblem(2, 12, 13, 10, 4, 3, (2, 4), 2, 2),
    "one column": Conv1dProblem(1, 20, 3, 24, 3),
    "as many columns as a work-group has": Conv1dProblem(8, 12, 4, 10, 4, 3, 0, 1, 2),
    "large tiles": Conv1dProblem(1, 66, 5, 66, 1),
    "16 bits": Conv1dProblem(2, 5, 9, 6, 3, 1, 1, dtype="float16"),
    "64 bits": Conv1dProblem(2, 5, 9, 6, 3, 1, 1, dtype="float64"),
    "a column more": Conv1dProblem(3, 5, 9, 6, 3, 2, (1, 0), 2),
}
