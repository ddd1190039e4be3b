"""The forward pass and the input gradient of arrays whose channels lie side by side: lanes are
channels."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.problem import Conv1dProblem, Pass
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

# Taps that are read in place at most; with more of them a strip costs less than reading x again.
MOST_DIRECT = 8
# Vectors of channels that a work-item owns at most, whose lines of memory follow one another, where
# x is read in place, and where it is copied.
DIRECT_BLOCK, MOST_BLOCK = 64, 4
# Positions of a work-item at least, in turn, where x is read in place.
DIRECT_CHUNK = 64
# Bytes of a strip, which the first-level cache holds, and its positions where a window is wide.
STRIP_BYTES, LEAST_CHUNK = 24 << 10, 64
# Positions of a segment at least, where a row is shared; and tasks a core, where there is enough
# work.
LEAST_SEGMENT, TASKS_A_CORE = 256, 8
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
    vector = vector_lanes(request.device, problem.dtype) * accumulator(problem.dtype).itemsize
    if problem.kernel_size <= MOST_DIRECT:
        return None
    wanted = (_strip(problem, LEAST_CHUNK) + problem.kernel_size) * vector
    if wanted > request.device.local_bytes // 2:
        return (
            f"a window and its weights take {wanted} bytes, expected half of "
            f"{request.device.local_bytes} at most"
        )
    return None


def _strip(problem: Conv1dProblem, chunk: int) -> int:
    """Vectors of x for so many positions."""
    return problem.window + (chunk - 1) * problem.stride


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


def _blocking(request: Request) -> tuple[int, int]:
    """(vectors of channels, positions that a strip serves) of a work-item."""
    problem = request.problem
    lanes = vector_lanes(request.device, problem.dtype)
    vector = lanes * accumulator(problem.dtype).itemsize
    if problem.kernel_size <= MOST_DIRECT:
        room = request.device.local_bytes // 4 // (problem.kernel_size * vector)
        return max(1, min(DIRECT_BLOCK, room, ceil_div(problem.in_channels, lanes))), DIRECT_CHUNK
    for block in range(min(MOST_BLOCK, ceil_div(problem.in_channels, lanes)), 0, -1):
        room = STRIP_BYTES // (block * vector)
        chunk = (room - problem.window) // problem.stride // 8 * 8
        if chunk >= LEAST_CHUNK and chunk * problem.stride >= problem.window:
            return block, chunk
    # A window so wide that the strip leaves the first-level cache.
    room = request.device.local_bytes // 2 // vector - problem.kernel_size
    chunk = (room - problem.window) // problem.stride // 8 * 8
    wide = max(LEAST_CHUNK, ceil_div(2 * problem.window, 8 * problem.stride) * 8)
    return 1, max(min(chunk, wide), LEAST_CHUNK)


def _design(request: Request, vectors: int, group: int) -> Design:
    problem, device = request.problem, request.device
    forward = request.pass_ is Pass.FORWARD
    block, chunk = _blocking(request)
    lanes = vector_lanes(device, problem.dtype)
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
            ("chunk", chunk),
            ("vectors", vectors),
            ("tap_group", group),
            ("direct", problem.kernel_size <= MOST_DIRECT),
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
        segment = ceil_div(ceil_div(positions, segments), chunk) * chunk
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

    tile = {"vectors": vectors, "lanes": lanes, "tap_group": group, "block": block, "chunk": chunk}
    return Design(tile, (kernel,), _cost(request, lanes, vectors, group, chunk), schedule)


def _cost(request: Request, lanes: int, vectors: int, group: int, chunk: int) -> Cost:
    """Sums, or loads of the strip and of weights, or memory; then the copy and the stores."""
    problem, core = request.problem, cost.core(request.device)
    taps = problem.kernel_size * core.width
    loads = (vectors + group - 1 + group) / (vectors * group)
    positions = problem.batch * problem.positions(request.pass_)
    written = positions * ceil_div(problem.in_channels, lanes)
    staged = _strip(problem, chunk) / chunk
    tally = Tally(
        staging=written * staged * cost.CHANNELS_STAGE * core.width,
        stores=written * cost.IN_PLACE_STORE * core.width,
    )
    tally.overlapped(
        {"arithmetic": taps * cost.IN_PLACE_SUM},
        {"loads": taps * loads / 2},
        {"memory": lanes * problem.dtype.itemsize * 2 / cost.IN_PLACE_BYTES},
        times=written,
    )
    return tally.cost(core.cycle)
