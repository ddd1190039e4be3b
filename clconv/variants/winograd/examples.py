"""Tiny problems that reach every path of the Winograd kernels, each named for one."""

from __future__ import annotations

from clconv.problem import Conv1dProblem

__all__ = ["EXAMPLES"]

# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
EXAMPLES = {
    "rows of whole vectors": Conv1dProblem(1, 5, 150, 10, 3, 1, 1),
    "short rows": Conv1dProblem(5, 4, 21, 9, 3, 1, (2, 1)),
    "two taps": Conv1dProblem(1, 4, 200, 5, 2, 1, (0, 3)),
    "groups": Conv1dProblem(2, 8, 70, 18, 3, 1, 1, 1, 2),
    "dilated": Conv1dProblem(2, 4, 90, 5, 3, 1, 3, 3),
    "dilated by more than a vector": Conv1dProblem(2, 4, 170, 4, 2, 1, (20, 0), 20),
    "lines side by side": Conv1dProblem(1, 4, 300, 5, 3, 1, 16, 32),
    "strided": Conv1dProblem(2, 4, 301, 9, 3, 2, 1),
    "five taps, strided": Conv1dProblem(1, 4, 90, 5, 5, 2, 2),
    "phases": Conv1dProblem(1, 5, 300, 9, 4, 2, 1),
    "phases, short rows": Conv1dProblem(5, 4, 22, 6, 4, 2, (2, 0)),
    "phases, odd taps": Conv1dProblem(2, 6, 151, 5, 5, 2, (1, 2)),
    "phases, groups": Conv1dProblem(2, 18, 70, 8, 6, 2, 2, 1, 2),
    "phases, 16 bits": Conv1dProblem(1, 5, 150, 4, 4, 2, 1, dtype="float16"),
    "phases, 64 bits": Conv1dProblem(1, 5, 90, 4, 4, 2, 1, dtype="float64"),
    "phases, samples in global memory": Conv1dProblem(1, 4, 6, 800, 4, 2, 1),
    "16 bits": Conv1dProblem(1, 4, 90, 5, 3, 1, 1, dtype="float16"),
    "64 bits": Conv1dProblem(1, 4, 90, 5, 3, 1, 1, dtype="float64"),
    "samples in global memory": Conv1dProblem(1, 800, 5, 4, 3, 1, 1),
}
