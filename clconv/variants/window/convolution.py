"""The forward pass and the input gradient from windows of rows in local memory."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import Cost, windows
from clconv.problem import Pass
from clconv.variants.base import (
    Design,
    Kernel,
    Request,
    Schedule,
    ceil_div,
    common_constants,
    convolution_operands,
    geometry_constants,
    grid,
    local_items,
    phase_constants,
    scalars,
)
from clconv.variants.window.room import room

__all__ = ["designs"]

# (channels written, positions) of a work-item.
TILES = ((4, 4), (8, 4), (4, 8), (2, 4), (1, 8), (1, 4))
# The same of work-items whose positions are neighbours, and the fewest taps for which that pays:
# their stores do not coalesce.
SLIDING_TILES, MANY_TAPS = ((4, 7), (2, 7), (1, 7)), 16
# Channels written that a work-group computes from one copy of its windows.
MOST_PART = 32


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of a work-item that fits local memory."""
    problem = request.problem
    rows = problem.group_out if request.pass_ is Pass.FORWARD else problem.group_in
    tiles = [(tile, each, False) for tile, each in TILES]
    if problem.stride == problem.dilation == 1 and problem.kernel_size >= MANY_TAPS:
        tiles += [(tile, each, True) for tile, each in SLIDING_TILES]
    for tile, each, sliding in tiles:
        if tile > 1 and tile >= 2 * rows:
            continue
        design = _design(request, tile, each, sliding)
        if design is not None:
            yield design


def _window(request: Request, tile: int, each: int, channels: int) -> tuple[int, int, int] | None:
    """(work-items, positions, channels at once) of a work-group; None where one channel's window
    and weights do not fit."""
    problem = request.problem
    forward = request.pass_ is Pass.FORWARD
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
        block = min(channels, room(request) // (segment + tile * problem.kernel_size))
        if block:
            found = items, positions, block
        # No element is read more than twice.
        if not block or reach <= seen:
            break
    return found


def _design(request: Request, tile: int, each: int, sliding: bool) -> Design | None:
    """None where one channel's window and weights do not fit."""
    problem = request.problem
    forward = request.pass_ is Pass.FORWARD
    rows, channels = problem.group_out, problem.group_in
    if not forward:
        rows, channels = channels, rows
    found = _window(request, tile, each, channels)
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
    return Design(numbers, (kernel,), _cost(request, tile, each, sliding), schedule)


def _cost(request: Request, tile: int, each: int, sliding: bool) -> Cost:
    """Of whole tiles."""
    problem = request.problem
    taps: float
    if request.pass_ is Pass.FORWARD:
        rows, taps = problem.group_out, problem.group_in * problem.kernel_size
        count = problem.out_length
    else:
        rows, taps = problem.group_in, problem.group_out * problem.kernel_size / problem.stride
        count = problem.phase_positions * problem.stride
    turns = problem.batch * count * problem.groups * ceil_div(rows, tile) * taps / each
    # A sliding work-item takes a tap for each of its positions in a turn of the loop.
    reads, loop = (tile + 1, 1 / each) if sliding else (tile + each, 1.0)
    return windows(request.device, turns, sums=tile * each, reads=reads, loop=loop)
