"""The portable variant: every pass of every problem on every device, from global memory alone.

The tile depends on what is compiled in and on the device, never on batch, length or padding, so
that a new batch or length finds its kernels compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import (
    ACCUMULATION,
    CYCLES_A_SECOND,
    EXACT,
    MAX_GROUPS,
    PARTIAL,
    WEIGHT_GRADIENT,
    Constants,
    Design,
    Kernel,
    Launch,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    convolution_operands,
    geometry_constants,
    grid,
    kernel_constants,
    launch_partials,
    local_items,
    partials_limit,
    phase_constants,
    scalars,
    sum_partials,
    vector_lanes,
    vector_width,
    weight_gradient_design,
)
from clconv.variants.direct.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "direct"
ERROR_CLASS = EXACT

# Bytes that a CPU's core moves in a cycle, in the small pieces of this variant.
BYTES_A_CYCLE = 2.0
# Positions of one batch element that a share of a weight gradient takes at once.
UNIT_LENGTHS = (64, 2048)


def _common_constants(request: Request, lanes: int) -> Constants:
    """What common.cl.mako needs. The loads and stores of this variant are many and small: where a
    driver has instructions to convert them, integer arithmetic instead takes a compiler seconds."""
    device = request.device
    half_builtins = device.half_builtins or device.native_half
    return kernel_constants(
        replace(device, half_builtins=half_builtins), request.problem.dtype, lanes
    )


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve; only a float64 problem without float64 hardware."""
    if request.problem.dtype == np.float64 and not request.device.fp64:
        return f"{request.device.name} has no float64"
    return None


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit the device's registers, for any pass."""
    if request.pass_ is Pass.FORWARD:
        yield from _forward(request)
    elif request.pass_ is Pass.INPUT_GRADIENT:
        yield from _input_gradient(request)
    elif request.pass_ is Pass.WEIGHT_GRADIENT:
        yield from _weight_gradient(request)
    else:
        yield _bias_gradient(request)


def _registers(request: Request) -> int:
    """Sums that a work-item may keep in registers beside what it loads."""
    if request.device.vector_floats == 1:
        return 16
    # Converting float16 takes some of them.
    wide = request.device.vector_registers == 32 and request.problem.dtype != np.float16
    return 24 if wide else 12


def _tiles(request: Request, channels: int) -> Iterator[tuple[int, int, float]]:
    """(channel tile, vectors, cost of a tap at one position) of the tiles in registers."""
    # With a stride the forward pass gathers its vectors lane by lane.
    gathered = request.pass_ is Pass.FORWARD and request.problem.stride > 1
    for tile in (8, 6, 4, 3, 2, 1):
        for vectors in (4, 3, 2, 1):
            # Four outputs at least, or the loads outweigh the arithmetic.
            lanes = vector_lanes(request.device, request.problem.dtype)
            if tile * vectors > _registers(request) or tile * vectors * lanes < 4:
                continue
            if tile > 1 and tile >= 2 * channels:
                continue
            rounds = -(-channels // tile)
            # Two multiply-adds or two loads a cycle; a tile of few sums waits for its latency.
            width = vector_width(request.device, request.problem.dtype)
            sums = tile * vectors * width
            loads = vectors * (lanes if gathered else width)
            # Inputs come from farther away than weights.
            cycles = max(sums, 8, tile + loads) / 2 + loads + 0.25 * tile
            yield tile, vectors, rounds * cycles / vectors


def _position_tile(request: Request, vectors: int, lanes: int) -> dict[str, int]:
    """How the positions of a work-group lie on its work-items, as the templates name it."""
    # A CPU's work-items walk on through the row; a GPU's interleave, for coalesced reads.
    cpu = request.device.vector_floats > 1
    local = local_items(request.device, 8 if cpu else 64)
    return {
        "local": local,
        "item_step": vectors * lanes if cpu else lanes,
        "vector_step": lanes if cpu else local * lanes,
        "group_step": local * vectors * lanes,
    }


def _forward(request: Request) -> Iterator[Design]:
    problem = request.problem
    index = "int" if problem.weight_count < 2**31 else "long"
    return _convolutions(
        request,
        "forward_direct",
        "out_tile",
        (("weight_index", index),),
        channels=problem.group_out,
        terms=problem.group_in,
        phases=1,
    )


def _input_gradient(request: Request) -> Iterator[Design]:
    problem = request.problem
    return _convolutions(
        request,
        "input_gradient_direct",
        "in_tile",
        (*phase_constants(problem),),
        channels=problem.group_in,
        terms=problem.group_out,
        phases=problem.stride,
    )


def _convolutions(
    request: Request,
    kernel: str,
    tile_name: str,
    constants: Constants,
    *,
    channels: int,
    terms: int,
    phases: int,
) -> Iterator[Design]:
    """The tiles of the forward pass or of the input gradient, which writes `channels` a group,
    each a sum over `terms` channels and the taps, in so many phases."""
    problem = request.problem
    lanes = vector_lanes(request.device, problem.dtype)
    for channel_tile, vectors, cost in _tiles(request, channels):
        tile = {tile_name: channel_tile, "vectors": vectors, "lanes": lanes}
        yield _convolution(
            request,
            tile | _position_tile(request, vectors, lanes),
            kernel,
            (*constants, (tile_name, channel_tile)),
            tiles=-(-channels // channel_tile) * problem.groups * phases,
            cost=cost * problem.groups * terms * problem.kernel_size,
        )


def _convolution(
    request: Request, tile: dict[str, int], name: str, constants: Constants, tiles: int, cost: float
) -> Design:
    """The one kernel of the forward pass or of the input gradient."""
    kernel = Kernel(
        name,
        _common_constants(request, tile["lanes"])
        + geometry_constants(request.problem)
        + constants
        + tuple(
            (name, tile[name]) for name in ("vectors", "item_step", "vector_step", "group_step")
        )
        + (("activation", request.epilogue.activation),),
        convolution_operands(request),
        scalars("batch length out_length pad blocks", sum_names="slope"),
        (tile["local"], 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        blocks = -(-problem.positions(wanted.pass_) // tile["group_step"])
        launch = kernel.launch(
            (grid(blocks) * tile["local"], grid(tiles), grid(problem.batch)),
            batch=problem.batch,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            blocks=blocks,
        )
        return Schedule((launch,))

    # Without the last tile's waste, which would make the choice depend on the length.
    return Design(tile, (kernel,), _seconds(request, cost / tile["lanes"]), schedule)


def _seconds(request: Request, cycles: float, *, overlapped: bool = False) -> float:
    """Modelled, of so many cycles of arithmetic a position: what comes and goes takes its time
    too, beside the arithmetic where that reads on and on, else after it."""
    problem, device = request.problem, request.device
    positions, units = problem.positions(request.pass_), device.compute_units
    if device.vector_floats == 1:
        return problem.batch * positions * cycles / (units * device.lanes * 1e9)
    samples = problem.in_channels * problem.stride + problem.out_channels
    moving: float = samples * problem.dtype.itemsize / BYTES_A_CYCLE
    cycles = max(cycles, moving) if overlapped else cycles + moving
    return problem.batch * positions * cycles / (units * CYCLES_A_SECOND)


def _shares(request: Request, tiles: int, most_bytes: float, share_bytes: int) -> tuple[int, int]:
    """(unit length, units) so many that the shares can keep the device busy, and how many may be.

    Too few weights for the device means many shares; workspace limits them.
    """
    problem, device = request.problem, request.device
    wanted = device.compute_units * (4 if device.vector_floats > 1 else 16 * device.lanes)
    shares = max(1, min(-(-wanted // max(tiles, 1)), int(most_bytes // share_bytes)))
    per_share = -(-problem.batch * problem.out_length // shares)
    low, high = UNIT_LENGTHS
    return min(max(per_share, low), high), shares


def _weight_gradient(request: Request) -> Iterator[Design]:
    problem, device = request.problem, request.device
    lanes = vector_lanes(device, problem.dtype)
    taps = problem.group_in * problem.kernel_size
    for out_tile in (8, 6, 4, 2, 1):
        for tap_tile in (12, 8, 6, 4, 3, 2, 1):
            sums = out_tile * tap_tile
            if sums > _registers(request) or (out_tile > 1 and out_tile >= 2 * problem.group_out):
                continue
            if (tap_tile > 1 and tap_tile >= 2 * taps) or (sums * lanes < 4 <= taps):
                continue
            out_tiles, tap_tiles = -(-problem.group_out // out_tile), -(-taps // tap_tile)
            width = vector_width(device, problem.dtype)
            loads = out_tile * width + tap_tile * (lanes if problem.stride > 1 else width)
            cycles = max(sums * width, 8, loads) / 2 + loads
            yield _weight_gradient_tile(
                request, out_tile, tap_tile, out_tiles * tap_tiles * problem.groups, cycles
            )


def _weight_gradient_tile(
    request: Request, out_tile: int, tap_tile: int, tiles: int, cycles: float
) -> Design:
    device, dtype = request.device, request.problem.dtype
    lanes = vector_lanes(device, dtype)
    # Fewer weights than a work-group has items: its other items take other shares. This choice
    # must not depend on batch or length.
    cpu = device.vector_floats > 1
    local_tiles = local_items(device, 1 if cpu else min(64, 1 << (tiles - 1).bit_length()))
    local_shares = local_items(device, 1 if cpu else max(1, 64 // local_tiles), 1)
    while local_tiles * local_shares > device.max_work_group_size:
        local_shares //= 2
    tile = {
        "out_tile": out_tile,
        "tap_tile": tap_tile,
        "lanes": lanes,
        "local_tiles": local_tiles,
        "local_shares": local_shares,
    }
    kernel = Kernel(
        "weight_gradient_direct",
        _common_constants(request, lanes)
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
        unit_length, shares = _shares(
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

    seconds = _seconds(request, tiles * cycles / lanes, overlapped=True)
    return weight_gradient_design(request, tile, kernel, seconds, schedule)


def _bias_gradient(request: Request) -> Design:
    device = request.device
    channels, dtype = request.problem.out_channels, request.problem.dtype
    lanes = vector_lanes(device, dtype)
    local = local_items(device, 1 if device.vector_floats > 1 else 64)
    kernel = Kernel(
        "bias_gradient_direct",
        _common_constants(request, lanes) + (("items", local),),
        (Operand("y", Layout.ROWS), PARTIAL),
        (
            *scalars("channels out_length"),
            *scalars(long_names="units"),
            *scalars("row_units unit_length"),
        ),
        (local, 1, 1),
    )
    adding = sum_partials(request)

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        share_bytes = channels * accumulator(dtype).itemsize * local
        most = partials_limit(wanted, 0)
        unit_length, parts = _shares(wanted, channels * local, most, share_bytes)
        row_units = -(-problem.out_length // unit_length)
        units = problem.batch * row_units
        parts = min(parts, units, MAX_GROUPS)
        added = launch_partials(adding, problem, channels, parts * local)
        partial = Workspace("partial", accumulator(dtype), max(parts, 1) * channels * local)
        if not parts:
            return Schedule((added,), (partial,))
        launch = kernel.launch(
            (parts * local, grid(channels), 1),
            channels=channels,
            out_length=problem.out_length,
            units=units,
            row_units=row_units,
            unit_length=unit_length,
        )
        return Schedule((launch, added), (partial,))

    tile = {"lanes": lanes, "local": local}
    seconds = _seconds(request, channels / lanes, overlapped=True)
    return Design(tile, (kernel, adding), seconds, schedule)
