"""The forward pass and the input gradient by the portable variant."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning import cost
from clconv.planning.cost import Cost, Sums
from clconv.problem import Pass
from clconv.variants.base import (
    Constants,
    Design,
    Kernel,
    Request,
    Schedule,
    convolution_operands,
    geometry_constants,
    grid,
    local_items,
    phase_constants,
    scalars,
    vector_lanes,
)
from clconv.variants.direct.common import modelled, portable_constants, registers, tap

__all__ = ["designs"]


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit the device's registers."""
    forward = request.pass_ is Pass.FORWARD
    return _forward(request) if forward else _input_gradient(request)


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
    taps = problem.groups * terms * problem.kernel_size
    for channel_tile, vectors, sums in _tiles(request, channels):
        rounds = -(-channels // channel_tile)
        # Without the last tile's waste, which would make the choice depend on the length.
        tile = {tile_name: channel_tile, "vectors": vectors, "lanes": lanes}
        yield _convolution(
            request,
            tile | _position_tile(request, vectors, lanes),
            kernel,
            (*constants, (tile_name, channel_tile)),
            tiles=rounds * problem.groups * phases,
            price=modelled(request, sums, taps * rounds / (vectors * lanes)),
        )


def _convolution(
    request: Request, tile: dict[str, int], name: str, constants: Constants, tiles: int, price: Cost
) -> Design:
    """The one kernel of the forward pass or of the input gradient."""
    kernel = Kernel(
        name,
        portable_constants(request, tile["lanes"])
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

    return Design(tile, (kernel,), price, schedule)


def _tiles(request: Request, channels: int) -> Iterator[tuple[int, int, Sums]]:
    """(channel tile, vectors, what a tap takes) of the tiles in registers."""
    # With a stride the forward pass gathers its vectors lane by lane.
    gathered = request.pass_ is Pass.FORWARD and request.problem.stride > 1
    lanes = vector_lanes(request.device, request.problem.dtype)
    width = cost.portable_width(request.device)
    most = registers(request)
    for tile in (8, 6, 4, 3, 2, 1):
        for vectors in (4, 3, 2, 1):
            # Four outputs at least, or the loads outweigh the arithmetic.
            if tile * vectors > most or tile * vectors * lanes < 4:
                continue
            if tile > 1 and tile >= 2 * channels:
                continue
            loads = vectors * (lanes if gathered else width)
            yield tile, vectors, tap(request, tile * vectors, tile, loads)


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
