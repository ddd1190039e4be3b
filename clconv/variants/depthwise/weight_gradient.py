"""The weight gradient of one input channel a group: rows in local memory, sums in registers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.variants.base import (
    Design,
    Kernel,
    Launch,
    Request,
    accumulator,
    ceil_div,
    common_constants,
    gradient_arguments,
    grid,
    grouped_taps,
    partials_limit,
    scalars,
    share_sums,
    vector_lanes,
    weight_gradient_design,
)

__all__ = ["UNIT", "designs", "local_bytes"]

# Positions of a unit at most: x and y of it stay in the first-level cache.
UNIT = 512
# Taps that are summed at once, if these are all.
MOST_TAPS = 12
# Tasks a core, where there are positions enough for shares.
TASKS_A_CORE = 4


def local_bytes(request: Request) -> int:
    """Local memory of a work-group."""
    problem = request.problem
    lanes = vector_lanes(request.device, problem.dtype)
    elements = 2 * UNIT + problem.window + 64 + problem.kernel_size * lanes
    return elements * accumulator(problem.dtype).itemsize


def designs(request: Request) -> Iterator[Design]:
    """Taps side by side, and groups of them that are a whole vector apart."""
    problem = request.problem
    lanes = vector_lanes(request.device, problem.dtype)
    tap_stride, most = grouped_taps(lanes, problem.dilation, problem.kernel_size)
    registers = request.device.vector_registers
    for group in range(most, 0, -1):
        sides = {1, 2, 4, 8}
        if group == 1 and problem.kernel_size <= MOST_TAPS:
            sides.add(problem.kernel_size)
        for taps in sorted(sides, reverse=True):
            # Besides the sums there are the vectors of y, and one of x.
            fits = taps * group + group + 2 <= registers or taps == group == 1
            if fits and taps <= problem.kernel_size and (group == 1 or tap_stride % taps == 0):
                yield _design(request, lanes, tap_stride, taps, group)


def _design(request: Request, lanes: int, tap_stride: int, taps: int, group: int) -> Design:
    problem, device = request.problem, request.device
    single = min(4, problem.kernel_size) if group > 1 else taps
    tile = {"taps": taps, "lanes": lanes, "tap_group": group}
    kernel = Kernel(
        "weight_gradient_depthwise",
        common_constants(request, lanes)
        + (
            ("multiplier", problem.group_out),
            ("channels", problem.out_channels),
            ("kernel_size", problem.kernel_size),
            ("dilation", problem.dilation),
            ("unit", UNIT),
            ("taps", taps),
            ("tap_group", group),
            ("tap_stride", tap_stride),
            ("single", single),
            ("in_place", _in_place(request, taps, group)),
        ),
        *gradient_arguments(
            request, scalars("length out_length pad chunk chunks", "units shares tasks")
        ),
        (1, 1, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        problem = wanted.problem
        if not problem.batch:
            return None, 0
        pieces = ceil_div(problem.out_length, UNIT)
        chunk = ceil_div(ceil_div(problem.out_length, pieces), lanes) * lanes
        chunks = ceil_div(problem.out_length, chunk)
        units = problem.batch * chunks
        sums = share_sums(problem, wanted.epilogue.bias)
        share_bytes = sums * accumulator(problem.dtype).itemsize
        many = ceil_div(TASKS_A_CORE * device.compute_units, problem.out_channels)
        most = max(1, int(partials_limit(wanted, share_bytes) // share_bytes))
        shares = min(many, most, units)
        tasks = problem.out_channels * shares
        launch = kernel.launch(
            (grid(tasks), 1, 1),
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            chunk=chunk,
            chunks=chunks,
            units=units,
            shares=shares,
            tasks=tasks,
        )
        return launch, shares

    modelled = _cost(request, lanes, tap_stride, taps, group, single)
    return weight_gradient_design(request, tile, kernel, modelled, schedule)


def _in_place(request: Request, taps: int, group: int) -> bool:
    """Whether x and y are read where they are: each of y is read once then. Where it takes no
    conversion at every tap."""
    problem = request.problem
    return taps == problem.kernel_size and group == 1 and problem.dtype != np.float16


def _cost(
    request: Request, lanes: int, tap_stride: int, taps: int, group: int, single: int
) -> Cost:
    """Without what depends on how positions fill units."""
    problem, core = request.problem, cost.core(request.device)
    block = tap_stride * group
    grouped = problem.kernel_size // block * block if group > 1 else 0
    rest = problem.kernel_size - grouped
    vectors = problem.batch * problem.out_channels * problem.out_length / lanes
    tally = Tally(stores=vectors * problem.kernel_size * cost.ROWS_KEEP * lanes / UNIT)
    for times, side, groups in (
        (grouped, taps, group), (rest // single * single, single, 1), (rest % single, 1, 1),
    ):  # fmt: skip
        if times:
            tally.sums(core.in_place(side, groups), vectors * times)
    if not _in_place(request, taps, group):
        tally.add("staging", vectors * 2 * cost.ROWS_STAGE * core.width)
    return tally.cost(core.cycle)
