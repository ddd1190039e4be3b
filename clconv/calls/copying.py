"""Which kernel copies an array to where its elements lie otherwise?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from clconv.errors import ProblemError
from clconv.planning.profiles import DeviceProfile
from clconv.variants.base import (
    MAX_GROUPS,
    Constants,
    Kernel,
    Launch,
    Layout,
    Operand,
    ceil_div,
    grid,
    kernel_constants,
    scalars,
    vector_lanes,
)

__all__ = ["RAW", "copying", "joined", "over_elements"]

LOCAL = 64
# C types of elements that are moved as they are, by their bytes.
RAW = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong", 16: "uint4"}
# Dtypes whose vectors hold such elements, of those that `transpose` moves.
VECTORS: dict[int, np.dtype[Any]] = {
    2: np.dtype(np.float16),
    4: np.dtype(np.float32),
    8: np.dtype(np.float64),
}
# Rows and columns that a work-item transposes at a time: what it reads and writes stays in the
# first-level cache.
TRANSPOSED_BLOCK = 64
Steps = tuple[int, ...]


def over_elements(
    profile: DeviceProfile,
    name: str,
    dtype: np.dtype[Any],
    count: int,
    operands: tuple[Operand, ...],
    numbers: Mapping[str, int] = MappingProxyType({}),
    open_sums: str = "",
    constants: Constants = (),
) -> Launch:
    """A kernel over `count` elements, which gets 64-bit `numbers`; of those of the sums' type it
    has the names."""
    local = min(LOCAL, profile.max_work_group_size, profile.max_work_item_sizes[0])
    kernel = Kernel(
        name,
        kernel_constants(profile, dtype, 1) + constants,
        operands,
        scalars(long_names=" ".join(("count", *numbers)), sum_names=open_sums),
        (local, 1, 1),
    )
    size = min(ceil_div(count, local), MAX_GROUPS) * local
    return kernel.launch((size, 1, 1), count=count, **numbers)


def joined(shape: Steps, *strides: Steps) -> tuple[list[int], list[list[int]]]:
    """Shape and strides of the same elements, neighbours joined where all strides allow."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for i, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(s[-1] == size * one[i] for s, one in zip(steps, strides, strict=True)):
            sizes[-1] *= size
            for s, one in zip(steps, strides, strict=True):
                s[-1] = one[i]
        else:
            sizes.append(size)
            for s, one in zip(steps, strides, strict=True):
                s.append(one[i])
    return sizes, steps


def copying(
    profile: DeviceProfile, itemsize: int, shape: Steps, x_strides: Steps, y_strides: Steps
) -> Launch:
    """What copies x to y, of elements of so many bytes and strides in elements. ProblemError where
    that takes more than four dimensions."""
    sizes, (x_steps, y_steps) = joined(shape, x_strides, y_strides)
    if len(sizes) > 4:
        raise ProblemError(f"array has shape {shape}, expected a view of at most 4 dimensions")
    transposing = _transposing(profile, itemsize, sizes, x_steps, y_steps)
    if transposing is not None:
        return transposing
    missing = [0] * (4 - len(sizes))
    sizes = [1] * len(missing) + sizes
    numbers = {f"size_{i}": sizes[i] for i in (1, 2, 3)}
    for name, steps in (("x", x_steps), ("y", y_steps)):
        numbers |= {f"{name}_stride_{i}": step for i, step in enumerate(missing + steps)}
    return over_elements(
        profile,
        "copy",
        np.dtype(np.float32),  # of no meaning here
        int(np.prod(sizes, dtype=np.int64)),
        (
            Operand("x", Layout.FLAT, element=RAW[itemsize]),
            Operand("y", Layout.FLAT, written=True, element=RAW[itemsize]),
        ),
        numbers,
    )


def _transposing(
    profile: DeviceProfile, itemsize: int, sizes: list[int], x_steps: list[int], y_steps: list[int]
) -> Launch | None:
    """The same of matrices one of which lies by rows and the other by columns, on CPUs; None of
    other arrays."""
    dtype = VECTORS.get(itemsize)
    if profile.vector_floats == 1 or dtype is None or len(sizes) not in (2, 3):
        return None
    if (itemsize == 8 and not profile.fp64) or 1 not in x_steps or 1 not in y_steps:
        return None
    r, s = x_steps.index(1), y_steps.index(1)
    if r == s:
        return None
    others = [i for i in range(len(sizes)) if i not in (r, s)]
    matrices = sizes[others[0]] if others else 1
    blocks = [ceil_div(sizes[i], TRANSPOSED_BLOCK) for i in (r, s)]
    tasks = matrices * blocks[0] * blocks[1]
    kernel = Kernel(
        "transpose",
        (
            *kernel_constants(profile, dtype, vector_lanes(profile, dtype)),
            ("block", TRANSPOSED_BLOCK),
        ),
        (Operand("x", Layout.FLAT), Operand("y", Layout.FLAT, written=True)),
        scalars(long_names="rows columns x_step y_step x_batch y_batch tasks"),
        (1, 1, 1),
    )
    return kernel.launch(
        (grid(tasks), 1, 1),
        rows=sizes[r],
        columns=sizes[s],
        x_step=x_steps[s],
        y_step=y_steps[r],
        x_batch=x_steps[others[0]] if others else 0,
        y_batch=y_steps[others[0]] if others else 0,
        tasks=tasks,
    )
