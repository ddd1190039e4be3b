"""The weight gradient from windows of rows in local memory, in shares of the positions."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import windows
from clconv.variants.base import (
    ACCUMULATION,
    MAX_GROUPS,
    WEIGHT_GRADIENT,
    Design,
    Kernel,
    Launch,
    Request,
    accumulator,
    ceil_div,
    common_constants,
    geometry_constants,
    grid,
    local_items,
    partials_limit,
    scalars,
    weight_gradient_design,
)
from clconv.variants.window.room import FEW_CHANNELS, room

__all__ = ["designs"]

MOST_ITEMS = 256
# Weights of a work-item, and positions of a unit, of a weight gradient.
MOST_WEIGHTS, UNIT_POSITIONS = 8, 256
GROUPS_A_UNIT = 8
# Few lanes are shared by few work-items each, whose sums one work-item adds.
FEW_LANES, SLICES, POSITIONS_A_SLICE = 8, 8, 8


def designs(request: Request) -> Iterator[Design]:
    """A design for each number of taps in a work-item's registers that fits."""
    for each in range(min(MOST_WEIGHTS, request.problem.kernel_size), 0, -1):
        design = _design(request, each)
        if design is not None:
            yield design


def _tile(request: Request, each: int) -> dict[str, int] | None:
    """What a work-group takes, `each` weights a work-item; None where one output channel times one
    input channel does not fit."""
    problem, device = request.problem, request.device
    elements = room(request)
    items = local_items(device, MOST_ITEMS)
    reach = problem.window - 1
    positions = UNIT_POSITIONS
    while positions * problem.stride < reach and positions < 4 * UNIT_POSITIONS:
        positions *= 2
    segment = (positions - 1) * problem.stride + reach + each * problem.dilation
    tap_lanes = ceil_div(problem.kernel_size, each)
    most = items // tap_lanes  # (o,c) of a work-group
    if not most or segment + positions + 1 > elements:
        return None
    # The side with few channels is taken whole, the other as far as work-items and room go.
    few_out = problem.group_out <= problem.group_in
    first = min(problem.group_out if few_out else problem.group_in, most, FEW_CHANNELS)
    if few_out:
        out_part = min(first, (elements - segment) // (positions + 1))
        in_part = min(
            problem.group_in, most // out_part, (elements - out_part * (positions + 1)) // segment
        )
    else:
        in_part = min(first, (elements - positions - 1) // segment)
        out_part = min(
            problem.group_out, most // in_part, (elements - in_part * segment) // (positions + 1)
        )
    used = out_part * in_part * tap_lanes
    if used <= FEW_LANES:
        items = local_items(device, FEW_LANES * SLICES)
    slices = items // used
    # Several positions a work-item and unit, or copying takes longer than summing.
    while positions < POSITIONS_A_SLICE * slices:
        more = 2 * positions * (in_part * problem.stride + out_part)
        if more + in_part * (reach + each * problem.dilation) + out_part > elements:
            break
        positions *= 2
    return {
        "out_part": out_part,
        "in_part": in_part,
        "items": items,
        "each": each,
        "slices": slices,
        "positions": positions,
    }


def _design(request: Request, each: int) -> Design | None:
    """None where not even the smallest fits."""
    problem, tile = request.problem, _tile(request, each)
    if tile is None:
        return None
    items, positions = tile["items"], tile["positions"]
    tasks = ceil_div(problem.group_in, tile["in_part"])
    tasks *= ceil_div(problem.group_out, tile["out_part"]) * problem.groups
    kernel = Kernel(
        "weight_gradient_window",
        common_constants(request, 1) + geometry_constants(request.problem) + tuple(tile.items()),
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
    turns = problem.batch * problem.out_length * tasks * items / tile["slices"]
    cost = windows(request.device, turns, sums=each, reads=1 + each)
    return weight_gradient_design(request, tile | {"lanes": 1}, kernel, cost, schedule)
