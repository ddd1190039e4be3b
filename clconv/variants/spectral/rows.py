"""The forward pass and the input gradient of one channel a group: tiles of a row side by side."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import Cost
from clconv.problem import Conv1dProblem
from clconv.variants.base import (
    Design,
    Kernel,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    ceil_div,
    convolution_operands,
    scalars,
)
from clconv.variants.spectral.costs import row_cost
from clconv.variants.spectral.kernels import (
    row_sizes,
    transform_constants,
    transformed,
    weight_kernel,
    weight_preparation,
)
from clconv.variants.spectral.tiles import Tiles

__all__ = ["designs", "serves"]

# Work-groups a core, each of which has arrays for its tiles.
GROUPS_A_CORE = 4

SCRATCH = Operand("scratch", Layout.FLAT, True, "SUM", True)


def serves(problem: Conv1dProblem) -> bool:
    """Whether a layer has one channel a group, and no stride."""
    return problem.group_in == problem.group_out == problem.stride == 1


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    for size in row_sizes(request):
        yield _design(Tiles(request, size))


def _design(tiles: Tiles) -> Design:
    request, problem = tiles.request, tiles.problem
    taps = tiles.alone()
    weight = weight_kernel(taps)
    preparation = weight_preparation(taps, weight)
    kernel = Kernel(
        "row_spectral",
        transform_constants(tiles)
        + (
            ("backward", not tiles.forward),
            ("dilation", problem.dilation),
            ("activation", request.epilogue.activation),
        ),
        (SCRATCH, transformed("weight"), *convolution_operands(request)),
        scalars(
            "length positions pad lead groups kernel_size outputs",
            "weight_pitch row_blocks tasks",
            "slope",
        ),
        (1, 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        there = Tiles(wanted, tiles.size)
        blocks = ceil_div(there.row_tiles, tiles.lanes)
        tasks = wanted.problem.batch * problem.groups * tiles.lines * blocks
        if not tasks:
            return Schedule()
        groups = _groups(there, tasks, preparation.workspace_bytes)
        length, positions = wanted.problem.length, wanted.problem.out_length
        if not tiles.forward:
            length, positions = positions, length
        launch = kernel.launch(
            (groups, 1, 1),
            length=length, positions=positions, pad=wanted.problem.pads[0], lead=there.read_lead,
            groups=problem.groups, kernel_size=problem.kernel_size, outputs=tiles.outputs,
            weight_pitch=taps.weight_pitch, row_blocks=blocks, tasks=tasks,
        )  # fmt: skip
        scratch = groups * 2 * tiles.size * tiles.lanes
        return Schedule((launch,), (Workspace("scratch", accumulator(problem.dtype), scratch),))

    def predicted(wanted: Request) -> Cost:
        launches = 1 if wanted.kept else 2
        return row_cost(Tiles(wanted, tiles.size)).launched(launches * wanted.device.launch_seconds)

    numbers = {"size": tiles.size, "vectors": 1, "lanes": tiles.lanes}
    modelled = row_cost(tiles, typical=True)
    return Design(
        numbers, (weight, kernel), modelled, schedule, preparation, predicted, decides=True
    )


def _groups(tiles: Tiles, tasks: int, prepared_bytes: int) -> int:
    """Work-groups, as many as the cores need and the workspaces may have."""
    groups = min(tasks, GROUPS_A_CORE * tiles.request.device.compute_units)
    limit = tiles.request.workspace_limit
    if limit is not None:
        each = 2 * tiles.size * tiles.lanes * tiles.item_bytes
        groups = min(groups, (limit - prepared_bytes) // each)
    return max(groups, 1)
