"""Named problems, each there for one reason."""

from __future__ import annotations

from clconv import Conv1dProblem

# name: batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
_TABLE = {
    "one of everything": (1, 1, 1, 1, 1, 1, 0, 1, 1),
    "page example": (1, 1, 10, 2, 2, 1, 0, 1, 1),
    "several tiles and a remainder in every direction": (3, 5, 300, 11, 3, 1, 1, 1, 1),
    "few taps, tiles that follow one another": (2, 2, 420, 25, 3, 1, 1, 1, 1),
    "one output position": (2, 3, 7, 4, 7, 1, 0, 1, 1),
    "one output position of many": (2, 3, 9, 4, 4, 9, 0, 1, 1),
    "pointwise": (2, 8, 70, 12, 1, 1, 0, 1, 1),
    "pointwise, strided": (2, 8, 70, 12, 1, 3, 0, 1, 1),
    "stride does not divide": (2, 3, 50, 4, 4, 3, 2, 1, 1),
    "stride wider than the window": (2, 3, 50, 4, 2, 5, 0, 1, 1),
    "stride and dilation share a factor": (2, 3, 60, 4, 5, 4, 3, 2, 1),
    "stride and dilation are equal": (1, 2, 60, 3, 5, 3, 3, 3, 1),
    "stride and dilation are coprime": (2, 2, 61, 3, 6, 3, 4, 4, 1),
    "stride without taps in some phases": (1, 2, 64, 3, 3, 6, 1, 4, 1),
    "dilation wider than a tile": (1, 2, 700, 3, 3, 1, 300, 300, 1),
    "depthwise": (2, 9, 130, 9, 5, 1, 2, 1, 9),
    "depthwise, strided": (2, 9, 130, 9, 5, 2, 2, 1, 9),
    "depth multiplier": (2, 4, 66, 12, 3, 1, 1, 1, 4),
    "two groups of odd sizes": (2, 6, 90, 10, 3, 1, 0, 1, 2),
    "groups with few outputs": (2, 12, 90, 4, 3, 2, 1, 1, 4),
    "padding wider than the input": (2, 2, 5, 3, 3, 1, 11, 1, 1),
    "padding on the left alone": (2, 2, 33, 3, 4, 1, (3, 0), 1, 1),
    "padding on the right alone": (2, 2, 33, 3, 4, 2, (0, 5), 1, 1),
    "padding wider than the window": (1, 2, 20, 2, 3, 2, (7, 6), 1, 1),
    "same with an even kernel": (2, 3, 40, 3, 4, 1, "same", 3, 1),
    "last samples reach no window": (2, 3, 23, 4, 3, 4, 0, 1, 1),
    "long kernel": (1, 1, 400, 1, 201, 1, 100, 1, 1),
    "long kernel over many channels": (1, 37, 150, 5, 101, 1, 20, 1, 1),
    "many channels": (1, 70, 20, 33, 3, 1, 1, 1, 1),
    "large batch of short sequences": (71, 3, 4, 5, 3, 1, 1, 1, 1),
    "no batch": (0, 3, 12, 4, 3, 1, 1, 1, 1),
}

PROBLEMS = {name: Conv1dProblem(*fields) for name, fields in _TABLE.items()}
