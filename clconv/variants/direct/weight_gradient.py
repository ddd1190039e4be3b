"""The weight gradient by the portable variant."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import portable_width
from clconv.variants.base import (
    ACCUMULATION,
    MAX_GROUPS,
    WEIGHT_GRADIENT,
    Design,
    Kernel,
    Launch,
    Request,
    accumulator,
    geometry_constants,
    grid,
    local_items,
    partials_limit,
    scalars,
    vector_lanes,
    weight_gradient_design,
)
from clconv.variants.direct.common import modelled, portable_constants, registers, shares_of, tap

__all__ = ["designs"]


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit the device's registers."""
    problem, device = request.problem, request.device
    lanes = vector_lanes(device, problem.dtype)
    width = portable_width(device)
    taps = problem.group_in * problem.kernel_size
    for out_tile in (8, 6, 4, 2, 1):
        for tap_tile in (12, 8, 6, 4, 3, 2, 1):
            sums = out_tile * tap_tile
            if sums > registers(request) or (out_tile > 1 and out_tile >= 2 * problem.group_out):
                continue
            if (tap_tile > 1 and tap_tile >= 2 * taps) or (sums * lanes < 4 <= taps):
                continue
            out_tiles, tap_tiles = -(-problem.group_out // out_tile), -(-taps // tap_tile)
            loads = out_tile * width + tap_tile * (lanes if problem.stride > 1 else width)
            yield _weight_gradient_tile(
                request, out_tile, tap_tile, out_tiles * tap_tiles * problem.groups, loads
            )


def _local_size(request: Request, tiles: int) -> tuple[int, int]:
    """(tiles, shares) of a work-group."""
    device = request.device
    # Fewer weights than a work-group has items: its other items take other shares. This choice
    # must not depend on batch or length.
    cpu = device.vector_floats > 1
    local_tiles = local_items(device, 1 if cpu else min(64, 1 << (tiles - 1).bit_length()))
    local_shares = local_items(device, 1 if cpu else max(1, 64 // local_tiles), 1)
    while local_tiles * local_shares > device.max_work_group_size:
        local_shares //= 2
    return local_tiles, local_shares


def _weight_gradient_tile(
    request: Request, out_tile: int, tap_tile: int, tiles: int, loads: float
) -> Design:
    device, dtype = request.device, request.problem.dtype
    lanes = vector_lanes(device, dtype)
    local_tiles, local_shares = _local_size(request, tiles)
    tile = {
        "out_tile": out_tile,
        "tap_tile": tap_tile,
        "lanes": lanes,
        "local_tiles": local_tiles,
        "local_shares": local_shares,
    }
    kernel = Kernel(
        "weight_gradient_direct",
        portable_constants(request, lanes)
        + geometry_constants(request.problem)
        + (("out_tile", out_tile), ("tap_tile", tap_tile)),
        WEIGHT_GRADIENT,
        (
            *scalars("length out_length pad"),
            *scalars(long_names="units"),
            *scalars("row_units unit_length shares"),
            *ACCUMULATION,
        ),
        (local_tiles, local_shares, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        problem = wanted.problem
        share_bytes = problem.weight_count * accumulator(dtype).itemsize
        unit_length, shares = shares_of(
            wanted, tiles, partials_limit(wanted, share_bytes), share_bytes
        )
        row_units = -(-problem.out_length // unit_length)
        units = problem.batch * row_units
        shares = min(shares, units, MAX_GROUPS * local_shares)
        if not shares:
            return None, 0
        size = (
            grid(-(-tiles // local_tiles)) * local_tiles,
            -(-shares // local_shares) * local_shares,
            1,
        )
        launch = kernel.launch(
            size,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            units=units,
            row_units=row_units,
            unit_length=unit_length,
            shares=shares,
        )
        return launch, shares

    sums = tap(request, out_tile * tap_tile, 0, loads)
    cost = modelled(request, sums, tiles / lanes, overlapped=True)
    return weight_gradient_design(request, tile, kernel, cost, schedule)
