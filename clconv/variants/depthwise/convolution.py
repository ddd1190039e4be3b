"""The forward pass and the input gradient of one input channel a group: rows read in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.dtypes import is_bfloat16
from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import (
    Design,
    Kernel,
    Request,
    Schedule,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    grouped_taps,
    scalars,
    vector_lanes,
)

__all__ = ["STRIP_POSITIONS", "designs"]

# Positions that are staged at once, where rows are staged.
STRIP_POSITIONS = 512
# Positions of a segment at least, where a row is shared.
LEAST_SEGMENT = 2048
# Uses of an element of bfloat16 that is widened for each, at most.
MOST_SHIFTS = 8
# Tasks a core, where there is enough work.
TASKS_A_CORE = 8


def designs(request: Request) -> Iterator[Design]:
    """A design for some numbers of vectors in registers."""
    lanes = vector_lanes(request.device, request.problem.dtype)
    tap_stride, most = grouped_taps(lanes, request.problem.dilation, request.problem.kernel_size)
    for group in sorted({1, most}, reverse=True):
        for vectors in (8, 4, 2):
            if vectors + group + 2 <= request.device.vector_registers:
                yield _design(request, lanes, vectors, tap_stride, group)


def _in_place(problem: Conv1dProblem, forward: bool) -> bool:
    """Whether rows are read where they are, converted for every use. Of 16 bits a copy that is
    converted once costs less, unless uses are few and the conversion is a shift."""
    if is_bfloat16(problem.dtype):
        uses = problem.kernel_size * (problem.group_out if forward else 1)
        return uses <= MOST_SHIFTS
    return problem.dtype != np.float16 or problem.kernel_size == 1


def _design(request: Request, lanes: int, vectors: int, tap_stride: int, group: int) -> Design:
    problem, device = request.problem, request.device
    forward = request.pass_ is Pass.FORWARD
    channels = problem.out_channels if forward else problem.in_channels
    direct = _in_place(problem, forward)
    kernel = Kernel(
        "convolution_depthwise",
        common_constants(request, lanes)
        + (
            ("backward", not forward),
            ("channels", channels),
            ("kernel_size", problem.kernel_size),
            ("dilation", problem.dilation),
            ("multiplier", problem.group_out),
            ("vectors", vectors),
            ("tap_group", group),
            ("tap_stride", tap_stride),
            ("strip_positions", STRIP_POSITIONS),
            ("direct", direct),
            ("activation", request.epilogue.activation),
        ),
        convolution_operands(request),
        (
            *scalars("length out_length lead"),
            *scalars(long_names="rows task_rows"),
            *scalars("segment segments"),
            *scalars(long_names="tasks", sum_names="slope"),
        ),
        (1, 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        positions, left = problem.positions(wanted.pass_), problem.pads[0]
        rows = problem.batch * channels
        wanted_tasks = TASKS_A_CORE * device.compute_units
        segments = max(1, min(ceil_div(wanted_tasks, max(rows, 1)), positions // LEAST_SEGMENT))
        segment = ceil_div(ceil_div(positions, segments), lanes) * lanes
        segments = ceil_div(positions, segment)
        task_rows = max(1, rows // wanted_tasks) if segments == 1 else 1
        tasks = ceil_div(rows, task_rows) * segments
        launch = kernel.launch(
            (grid(tasks), 1, 1),
            length=problem.length,
            out_length=problem.out_length,
            lead=left if forward else problem.window - 1 - left,
            rows=rows,
            task_rows=task_rows,
            segment=segment,
            segments=segments,
            tasks=tasks,
        )
        return Schedule((launch,))

    tile = {"vectors": vectors, "lanes": lanes, "tap_group": group}
    return Design(tile, (kernel,), _cost(request, channels, lanes, vectors, group), schedule)


def _cost(request: Request, channels: int, lanes: int, vectors: int, group: int) -> Cost:
    """Loads of x and weights, or sums, or memory; then the stores."""
    problem, core = request.problem, cost.core(request.device)
    taps = problem.kernel_size * core.width
    loads = (vectors + group - 1 + group) / (vectors * group)
    written = problem.batch * channels * problem.positions(request.pass_) / lanes
    tally = Tally(stores=written * cost.IN_PLACE_STORE * core.width * (1 + 1 / vectors))
    tally.overlapped(
        {"arithmetic": taps * cost.IN_PLACE_SUM},
        {"loads": taps * loads / 2},
        {"memory": lanes * problem.dtype.itemsize * 2 / cost.IN_PLACE_BYTES},
        times=written,
    )
    return tally.cost(core.cycle)
