"""For GPUs, few channels a group: windows of rows in local memory, one launch for all groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import (
    ACCUMULATION,
    EXACT,
    MAX_GROUPS,
    WEIGHT_GRADIENT,
    Design,
    Kernel,
    Launch,
    Request,
    Schedule,
    accumulator,
    ceil_div,
    common_constants,
    comparable,
    convolution_operands,
    geometry_constants,
    grid,
    local_items,
    partials_limit,
    phase_constants,
    scalars,
    weight_gradient_design,
)
from clconv.variants.window.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "window"
ERROR_CLASS = EXACT

# Channels a group, read or written, of which products of matrices would waste most of a tile.
FEW_CHANNELS = 4
# Local memory that a work-group takes at most, so that a compute unit holds several.
MOST_LOCAL_BYTES = 16 << 10
# (channels written, positions) of a work-item.
TILES = ((4, 4), (8, 4), (4, 8), (2, 4), (1, 8), (1, 4))
# The same of work-items whose positions are neighbours, and the fewest taps for which that pays:
# their stores do not coalesce.
SLIDING_TILES, MANY_TAPS = ((4, 7), (2, 7), (1, 7)), 16
MOST_ITEMS = 256
# Channels written that a work-group computes from one copy of its windows.
MOST_PART = 32
# Weights of a work-item, and positions of a unit, of a weight gradient.
MOST_WEIGHTS, UNIT_POSITIONS = 8, 256
GROUPS_A_UNIT = 8
# Few lanes are shared by few work-items each, whose sums one work-item adds.
FEW_LANES, SLICES, POSITIONS_A_SLICE = 8, 8, 8

# As shares of a multiply-add: what a read from local memory costs, and a turn of the tap loop.
LOCAL_READ, LOOP = 4.0, 4.0


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: no GPU, many channels, windows too wide for local memory."""
    problem, device = request.problem, request.device
    if device.vector_floats > 1:
        return f"it is for GPUs, {device.name} has vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients on their own"
    if min(problem.group_in, problem.group_out) > FEW_CHANNELS:
        return (
            f"a group has {problem.group_in} input and {problem.group_out} output channels, "
            f"expected at most {FEW_CHANNELS} of either"
        )
    if not any(True for _ in designs(request)):
        return (
            f"a window of {problem.window} samples with stride {problem.stride} does not fit "
            f"{_room(request)} elements of local memory"
        )
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of a work-item that fits local memory."""
    if request.pass_ is Pass.WEIGHT_GRADIENT:
        yield from _weight_gradients(request)
        return
    problem = request.problem
    rows = problem.group_out if request.pass_ is Pass.FORWARD else problem.group_in
    tiles = [(tile, each, False) for tile, each in TILES]
    if problem.stride == problem.dilation == 1 and problem.kernel_size >= MANY_TAPS:
        tiles += [(tile, each, True) for tile, each in SLIDING_TILES]
    for tile, each, sliding in tiles:
        if tile > 1 and tile >= 2 * rows:
            continue
        design = _convolution(request, tile, each, sliding)
        if design is not None:
            yield design


def _room(request: Request) -> int:
    """Elements of local memory that a work-group may take."""
    most = min(request.device.local_bytes // 2, MOST_LOCAL_BYTES)
    return most // accumulator(request.problem.dtype).itemsize


def _convolution(request: Request, tile: int, each: int, sliding: bool) -> Design | None:
    """None where one channel's window and weights do not fit."""
    problem = request.problem
    forward = request.pass_ is Pass.FORWARD
    rows, channels = problem.group_out, problem.group_in
    if not forward:
        rows, channels = channels, rows
    reach = problem.window - 1
    found = None
    for wanted in (64, 128, 256):
        items = local_items(request.device, wanted)
        # A work-item's positions are of one phase.
        step = items if forward else items // problem.stride * problem.stride
        if not step:
            continue
        positions = step * each
        if forward:
            segment, seen = (positions - 1) * problem.stride + reach + 1, positions * problem.stride
        else:
            segment = (positions - 1) // problem.stride + ceil_div(reach, problem.stride) + 2
            seen = positions
        block = min(channels, _room(request) // (segment + tile * problem.kernel_size))
        if block:
            found = items, positions, block
        # No element is read more than twice.
        if not block or reach <= seen:
            break
    if found is None:
        return None
    items, positions, block = found
    part = (
        min(ceil_div(rows, tile), max(1, MOST_PART // tile)) * tile if block == channels else tile
    )
    parts = ceil_div(rows, part) * problem.groups
    kernel = Kernel(
        "convolution_window",
        common_constants(request, 1)
        + geometry_constants(request.problem)
        + (
            ("backward", not forward),
            *phase_constants(problem),
            ("tile", tile),
            ("part", part),
            ("block", block),
            ("each", each),
            ("sliding", sliding),
            ("items", items),
            ("positions", positions),
            ("activation", request.epilogue.activation),
        ),
        convolution_operands(request),
        scalars("batch length out_length pad blocks", sum_names="slope"),
        (items, 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        blocks = ceil_div(
            problem.out_length if forward else problem.length + problem.pads[0] % problem.stride,
            positions,
        )
        launch = kernel.launch(
            (grid(blocks) * items, grid(parts), grid(problem.batch)),
            batch=problem.batch,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            blocks=blocks,
        )
        return Schedule((launch,))

    numbers = {
        "tile": tile, "part": part, "block": block, "each": each, "items": items,
        "positions": positions, "sliding": int(sliding), "lanes": 1,
    }  # fmt: skip
    # Of whole tiles. The memory's bandwidth limits the portable variant as well.
    sums = tile * each
    a_turn = max(sums, LOCAL_READ * (tile + (1 if sliding else each)))
    a_turn += LOOP / each if sliding else LOOP
    taps = channels * (problem.kernel_size if forward else problem.kernel_size / problem.stride)
    products = problem.groups * ceil_div(rows, tile) * tile * taps * a_turn / sums
    count = problem.out_length if forward else problem.phase_positions * problem.stride
    a_position = comparable(request.device, 2 * products / request.device.peak_flops)
    return Design(numbers, (kernel,), problem.batch * count * a_position, schedule)


def _weight_gradients(request: Request) -> Iterator[Design]:
    """A design for each number of taps in a work-item's registers that fits."""
    for each in range(min(MOST_WEIGHTS, request.problem.kernel_size), 0, -1):
        design = _weight_gradient(request, each)
        if design is not None:
            yield design


def _weight_gradient(request: Request, each: int) -> Design | None:
    """None where one output channel times one input channel does not fit."""
    problem, device = request.problem, request.device
    room = _room(request)
    items = local_items(device, MOST_ITEMS)
    reach = problem.window - 1
    positions = UNIT_POSITIONS
    while positions * problem.stride < reach and positions < 4 * UNIT_POSITIONS:
        positions *= 2
    segment = (positions - 1) * problem.stride + reach + each * problem.dilation
    tap_lanes = ceil_div(problem.kernel_size, each)
    most = items // tap_lanes  # (o,c) of a work-group
    if not most or segment + positions + 1 > room:
        return None
    # The side with few channels is taken whole, the other as far as work-items and room go.
    few_out = problem.group_out <= problem.group_in
    first = min(problem.group_out if few_out else problem.group_in, most, FEW_CHANNELS)
    if few_out:
        out_part = min(first, (room - segment) // (positions + 1))
        in_part = min(
            problem.group_in, most // out_part, (room - out_part * (positions + 1)) // segment
        )
    else:
        in_part = min(first, (room - positions - 1) // segment)
        out_part = min(
            problem.group_out, most // in_part, (room - in_part * segment) // (positions + 1)
        )
    used = out_part * in_part * tap_lanes
    if used <= FEW_LANES:
        items = local_items(device, FEW_LANES * SLICES)
    slices = items // used
    # Several positions a work-item and unit, or copying takes longer than summing.
    while positions < POSITIONS_A_SLICE * slices:
        more = 2 * positions * (in_part * problem.stride + out_part)
        if more + in_part * (reach + each * problem.dilation) + out_part > room:
            break
        positions *= 2
    tasks = ceil_div(problem.group_in, in_part) * ceil_div(problem.group_out, out_part)
    tasks *= problem.groups
    numbers = {
        "out_part": out_part,
        "in_part": in_part,
        "items": items,
        "each": each,
        "slices": slices,
        "positions": positions,
    }
    kernel = Kernel(
        "weight_gradient_window",
        common_constants(request, 1) + geometry_constants(request.problem) + tuple(numbers.items()),
        WEIGHT_GRADIENT,
        (
            *scalars("length out_length pad"),
            *scalars(long_names="units"),
            *scalars("row_units shares"),
            *ACCUMULATION,
        ),
        (items, 1, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        problem = wanted.problem
        share_bytes = problem.weight_count * accumulator(problem.dtype).itemsize
        row_units = ceil_div(problem.out_length, positions)
        units = problem.batch * row_units
        if not units:
            return None, 0
        many = ceil_div(GROUPS_A_UNIT * wanted.device.compute_units, tasks)
        most_shares = int(partials_limit(wanted, share_bytes) // share_bytes)
        shares = min(max(1, min(many, most_shares)), units, MAX_GROUPS)
        launch = kernel.launch(
            (grid(tasks) * items, shares, 1),
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            units=units,
            row_units=row_units,
            shares=shares,
        )
        return launch, shares

    # A turn reads one element of y and some of x.
    products = tasks * items / slices * (LOCAL_READ * (1 + each) + LOOP)
    a_position = comparable(device, 2 * products / device.peak_flops)
    seconds = problem.batch * problem.out_length * a_position
    return weight_gradient_design(request, numbers | {"lanes": 1}, kernel, seconds, schedule)
