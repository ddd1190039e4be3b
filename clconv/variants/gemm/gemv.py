"""The products of gemm.py where they have few columns: then reading the weights is all the work.

No variant of its own: batch and length decide which of the two kernels runs, and may not decide
what is compiled. So every design of gemm.py has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clconv.planning.cost import Blocks, Cost
from clconv.planning.cost import few_columns as priced
from clconv.problem import Pass
from clconv.variants.base import (
    Kernel,
    Launch,
    Request,
    accumulator,
    ceil_div,
    common_constants,
    convolution_operands,
    geometry_constants,
    grid,
    local_items,
    phase_constants,
    scalars,
)

NAME = "convolution_gemv"

# Columns that a work-group computes from one reading of its weights; more are further work-groups.
COLUMNS = 8
# Columns of a launch, which kernels count in 32 bits.
MOST_COLUMNS = 2**30
MOST_ITEMS = 256
# Channels written of a work-item: each weight that more of them share with an element of the input
# saves a read of that, but fewer make more work-groups.
EACH = (2, 1)
# Neighbouring weights that the input gradient reads at once, with the channels of a work-item.
LANES = ((64, 2), (32, 2), (32, 1), (16, 1))
# Work-groups a compute unit at least, where there are channels enough.
GROUPS_A_UNIT = 2
# Local memory of a work-group at most, and sums of a forward pass that are added by one work-item.
MOST_LOCAL_BYTES, FOLD = 16 << 10, 16

# Registers of a work-item, estimated.
REGISTERS = 96


@dataclass(frozen=True)
class Tile:
    """How the weights of a work-group lie on its work-items.

    A lane is one of `channel_lanes` channels c with one of the taps k, all neighbours in memory.
    Each of its `slices` work-items has `each` channels written; slices share out the channels o of
    the input gradient. `fold` sums of a row and column are left after the first step of adding.
    """

    items: int
    channel_lanes: int
    slices: int
    each: int
    fold: int

    def local_bytes(self, item_bytes: int) -> int:
        """Local memory of a work-group: a row's sums of all work-items, all rows' folded ones."""
        return COLUMNS * (self.items + self.each * self.fold) * item_bytes


def _rows(request: Request) -> int:
    """Channels written of a group."""
    problem = request.problem
    return problem.group_out if request.pass_ is Pass.FORWARD else problem.group_in


def _part(request: Request, tile: Tile) -> int:
    """Channels written of a work-group."""
    return tile.each * (1 if request.pass_ is Pass.FORWARD else tile.channel_lanes)


def _tasks(request: Request, tile: Tile) -> int:
    """Work-groups for one block of columns."""
    return ceil_div(_rows(request), _part(request, tile)) * request.problem.groups


def _fetch_count(request: Request, tile: Tile) -> int:
    """Turns whose elements a work-item fetches at once, where there is one column."""
    return max(1, request.device.fetch_together // (tile.each + 1))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _forward(request: Request) -> Iterator[Tile]:
    """The lanes of a work-group share out the terms."""
    problem, device = request.problem, request.device
    terms = problem.group_in * problem.kernel_size
    items = local_items(device, min(MOST_ITEMS, max(_power_of_two(terms), device.lanes)))
    channel_lanes = min(items // problem.kernel_size, problem.group_in)
    if channel_lanes:
        for each in EACH:
            yield Tile(items, channel_lanes, 1, each, min(FOLD, items))


def _input_gradient(request: Request) -> Iterator[Tile]:
    """A work-group has all taps of its channels, and its slices share out the terms."""
    problem, device = request.problem, request.device
    for wanted, each in LANES:
        most = max(1, wanted // problem.kernel_size)
        # Parts of equal size, or much of the last one would be missing channels.
        parts = ceil_div(problem.group_in, each * most)
        channel_lanes = ceil_div(problem.group_in, each * parts)
        lanes = channel_lanes * problem.kernel_size
        terms = lanes * problem.group_out
        items = local_items(device, min(MOST_ITEMS, max(_power_of_two(terms), device.lanes)))
        slices = min(items // lanes, problem.group_out)
        if slices:
            yield Tile(items, channel_lanes, slices, each, lanes)


def tile(request: Request) -> Tile | None:
    """The first that fills the device, or else makes most work-groups; None where none fits local
    memory, or taps are more than work-items."""
    problem, device = request.problem, request.device
    room = min(device.local_bytes, MOST_LOCAL_BYTES)
    item_bytes = accumulator(problem.dtype).itemsize
    found = None
    tiles = _forward(request) if request.pass_ is Pass.FORWARD else _input_gradient(request)
    for one in tiles:
        results = _part(request, one) * COLUMNS * problem.stride
        if one.local_bytes(item_bytes) > room or results >= 2**31:
            continue
        found = one
        if _tasks(request, one) >= GROUPS_A_UNIT * device.compute_units:
            break
    return found


def columns(request: Request) -> int:
    """Positions of the whole batch; the input gradient has as many in each of its phases."""
    return request.problem.batch * request.problem.positions(request.pass_)


def cost(request: Request, tile: Tile) -> Cost:
    """Modelled, for the request's columns."""
    problem, device = request.problem, request.device
    blocks = ceil_div(columns(request), COLUMNS)
    seen = 1 if columns(request) == 1 else COLUMNS
    forward = request.pass_ is Pass.FORWARD
    channels = problem.group_in if forward else problem.group_out
    turns = ceil_div(channels, tile.channel_lanes if forward else tile.slices)
    resident = min(device.unit_items, device.unit_registers // REGISTERS) // tile.items
    resident = max(1, min(resident, device.unit_groups))
    at_once = _fetch_count(request, tile) if seen == 1 else 1
    groups = _tasks(request, tile) * blocks
    work = Blocks(turns, tile.each, seen, at_once, blocks, groups, tile.items, resident)
    return priced(device, work, problem.weight_count * problem.dtype.itemsize)


def kernel(request: Request, tile: Tile) -> Kernel:
    """The one kernel of the forward pass or of the input gradient."""
    problem = request.problem
    return Kernel(
        NAME,
        common_constants(request, 1)
        + geometry_constants(problem)
        + (
            ("backward", request.pass_ is not Pass.FORWARD),
            *phase_constants(problem),
            ("weight_index", "int" if problem.weight_count < 2**31 else "long"),
            ("activation", request.epilogue.activation),
            ("columns", COLUMNS),
            ("fetch_count", _fetch_count(request, tile)),
            ("items", tile.items),
            ("channel_lanes", tile.channel_lanes),
            ("slices", tile.slices),
            ("each", tile.each),
            ("fold", tile.fold),
        ),
        convolution_operands(request),
        scalars("length out_length pad positions all_columns", sum_names="slope"),
        (tile.items, 1, 1),
    )


def launch(request: Request, tile: Tile, kernel: Kernel) -> Launch:
    """The kernel for a request's columns, at most MOST_COLUMNS."""
    problem = request.problem
    blocks = ceil_div(columns(request), COLUMNS)
    return kernel.launch(
        (grid(_tasks(request, tile)) * tile.items, grid(blocks), 1),
        length=problem.length,
        out_length=problem.out_length,
        pad=problem.pads[0],
        positions=problem.positions(request.pass_),
        all_columns=columns(request),
    )
