"""For CPUs, one input channel a group: rows read in place, vectors of positions in registers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import (
    CYCLES_A_SECOND,
    EXACT,
    Design,
    Kernel,
    Request,
    Schedule,
    accumulator,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    grouped_taps,
    scalars,
    vector_lanes,
    vector_width,
)
from clconv.variants.depthwise import weight_gradient
from clconv.variants.depthwise.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "depthwise"
ERROR_CLASS = EXACT

# Positions that are staged at once, where rows are staged.
STRIP_POSITIONS = 512
# Positions of a segment at least, where a row is shared.
LEAST_SEGMENT = 2048
# Tasks a core, where there is enough work.
TASKS_A_CORE = 8
# Taps are kept beside the sums.
MOST_TAPS = 4096
# Bytes of a row that come and go in a cycle; cycles of a vector's load and store, and of a sum.
BYTES_A_CYCLE, VECTOR_CYCLES, SUM_CYCLES = 4.0, 4.0, 0.57


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: not a CPU, more input channels, a stride, too wide a window."""
    problem, device = request.problem, request.device
    if device.vector_floats == 1:
        return f"it is for CPUs, {device.name} has no vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients of their own"
    if problem.group_in > 1:
        return f"a group has {problem.group_in} input channels, expected 1"
    if request.pass_ is Pass.INPUT_GRADIENT and problem.group_out > 1:
        return f"a group has {problem.group_out} output channels, expected 1 for this pass"
    if problem.stride > 1:
        return f"stride is {problem.stride}, expected 1"
    if problem.kernel_size > MOST_TAPS:
        return f"kernel_size is {problem.kernel_size}, expected at most {MOST_TAPS}"
    room = device.local_bytes // 2 // accumulator(problem.dtype).itemsize
    if STRIP_POSITIONS + problem.window + 64 > room:
        return f"the window is {problem.window} samples wide, local memory has room for {room}"
    wanted = weight_gradient.local_bytes(request)
    if request.pass_ is Pass.WEIGHT_GRADIENT and wanted > device.local_bytes // 2:
        return f"the taps' sums take {wanted} bytes, expected half of {device.local_bytes} at most"
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for some numbers of vectors in registers."""
    if request.pass_ is Pass.WEIGHT_GRADIENT:
        yield from weight_gradient.designs(request)
        return
    lanes = vector_lanes(request.device, request.problem.dtype)
    tap_stride, most = grouped_taps(lanes, request.problem.dilation, request.problem.kernel_size)
    for group in sorted({1, most}, reverse=True):
        for vectors in (8, 4, 2):
            if vectors + group + 2 <= request.device.vector_registers:
                yield _design(request, lanes, vectors, tap_stride, group)


def _design(request: Request, lanes: int, vectors: int, tap_stride: int, group: int) -> Design:
    problem, device = request.problem, request.device
    forward = request.pass_ is Pass.FORWARD
    channels = problem.out_channels if forward else problem.in_channels
    # Converting 16 bits at every tap costs more than a copy that is converted once.
    direct = problem.dtype != np.float16 or problem.kernel_size == 1
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
    # Loads of x and weights, or sums, or memory.
    taps = problem.kernel_size
    width = vector_width(device, problem.dtype)
    loads = (vectors + group - 1 + group) / (vectors * group)
    cycles = max(
        taps * max(loads / 2, SUM_CYCLES) * width,
        lanes * problem.dtype.itemsize * 2 / BYTES_A_CYCLE,
    )
    a_vector = cycles + VECTOR_CYCLES * width * (1 + 1 / vectors)
    vectors_written = problem.batch * channels * problem.positions(request.pass_) / lanes
    seconds = vectors_written * a_vector / (device.compute_units * CYCLES_A_SECOND)
    return Design(tile, (kernel,), seconds, schedule)
