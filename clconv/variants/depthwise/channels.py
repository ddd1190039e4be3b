"""The forward pass and the input gradient of arrays whose channels lie side by side: lanes are
channels."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.problem import Pass
from clconv.variants.base import (
    Design,
    Kernel,
    Request,
    Schedule,
    accumulator,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    scalars,
    vector_lanes,
)

__all__ = ["designs", "refusal"]

# Vectors of channels that a work-item owns at most, and positions of its segment at least: lines of
# memory follow one another in long pieces, and weights are turned once for all of them.
MOST_BLOCK, LEAST_SEGMENT = 64, 256
# Tasks a core, where there is enough work.
TASKS_A_CORE = 8
# Taps that go together at most.
MOST_TAPS = 4


def refusal(request: Request) -> str | None:
    """Why lanes cannot be channels: several channels a group, a stride of the input gradient, or no
    room in local memory."""
    problem = request.problem
    if problem.group_in > 1 or problem.group_out > 1:
        return (
            f"a group has {problem.group_in} input and {problem.group_out} output channels, "
            "expected 1 of each where channels lie side by side"
        )
    if request.pass_ is Pass.WEIGHT_GRADIENT:
        return "its weight gradient takes contiguous positions"
    if request.pass_ is Pass.INPUT_GRADIENT and problem.stride > 1:
        return f"stride is {problem.stride}, expected 1 for this pass"
    if not _room(request):
        return f"kernel_size is {problem.kernel_size}, whose weights do not fit into local memory"
    return None


def _room(request: Request) -> int:
    """Vectors of channels whose weights fit into local memory."""
    problem = request.problem
    vector = vector_lanes(request.device, problem.dtype) * accumulator(problem.dtype).itemsize
    return request.device.local_bytes // 4 // (problem.kernel_size * vector)


def designs(request: Request) -> Iterator[Design]:
    """A design for some numbers of positions in registers."""
    problem = request.problem
    most = 1
    if problem.stride == problem.dilation == 1:
        most = min(MOST_TAPS, problem.kernel_size)
    for group in sorted({1, most}, reverse=True):
        for vectors in (8, 4):
            if vectors + group + 2 <= request.device.vector_registers:
                yield _design(request, vectors, group)


def _design(request: Request, vectors: int, group: int) -> Design:
    problem, device = request.problem, request.device
    forward = request.pass_ is Pass.FORWARD
    lanes = vector_lanes(device, problem.dtype)
    block = min(MOST_BLOCK, _room(request), ceil_div(problem.in_channels, lanes))
    channel_blocks = ceil_div(problem.in_channels, block * lanes)
    kernel = Kernel(
        "channels_depthwise",
        common_constants(request, lanes)
        + (
            ("backward", not forward),
            ("channels", problem.in_channels),
            ("kernel_size", problem.kernel_size),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("block", block),
            ("vectors", vectors),
            ("tap_group", group),
            ("activation", request.epilogue.activation),
        ),
        convolution_operands(request),
        (
            *scalars("length out_length lead channel_blocks segment_positions segments"),
            *scalars(long_names="tasks", sum_names="slope"),
        ),
        (1, 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        positions, left = problem.positions(wanted.pass_), problem.pads[0]
        rows = problem.batch * channel_blocks
        most = TASKS_A_CORE * device.compute_units
        segments = max(1, min(ceil_div(most, max(rows, 1)), positions // LEAST_SEGMENT))
        segment = ceil_div(ceil_div(positions, segments), vectors) * vectors
        segments = ceil_div(positions, segment)
        tasks = rows * segments
        launch = kernel.launch(
            (grid(tasks), 1, 1),
            length=problem.length,
            out_length=problem.out_length,
            lead=left if forward else problem.window - 1 - left,
            channel_blocks=channel_blocks,
            segment_positions=segment,
            segments=segments,
            tasks=tasks,
        )
        return Schedule((launch,))

    tile = {"vectors": vectors, "lanes": lanes, "tap_group": group, "block": block}
    return Design(tile, (kernel,), _cost(request, lanes, vectors, group), schedule)


def _cost(request: Request, lanes: int, vectors: int, group: int) -> Cost:
    """Sums, or loads of x and weights, or memory; then the stores."""
    problem, core = request.problem, cost.core(request.device)
    taps = problem.kernel_size * core.width
    loads = (vectors + group - 1 + group) / (vectors * group)
    positions = problem.batch * problem.positions(request.pass_)
    written = positions * ceil_div(problem.in_channels, lanes)
    tally = Tally(stores=written * cost.IN_PLACE_STORE * core.width)
    tally.overlapped(
        {"arithmetic": taps * cost.IN_PLACE_SUM},
        {"loads": taps * loads / 2},
        {"memory": lanes * problem.dtype.itemsize * 2 / cost.IN_PLACE_BYTES},
        times=written,
    )
    return tally.cost(core.cycle)
