"""What is compiled into the kernels of transforms, and how much is transformed at a time?"""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import LINE_BYTES
from clconv.variants.base import (
    Constants,
    Kernel,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    ceil_div,
    common_constants,
    grid,
    scalars,
)
from clconv.variants.spectral.tiles import Tiles
from clconv.variants.spectral.transforms import LARGE_SIZES, SIZES, butterfly

__all__ = [
    "PRODUCT_SCALARS",
    "REAL_POINTS",
    "product_constants",
    "product_numbers",
    "row_sizes",
    "sizes",
    "transform_constants",
    "transform_kernel",
    "transformed",
    "turns",
    "weight_kernel",
    "weight_preparation",
    "where",
    "workspaces",
]

# Samples of a tile at most, for each of its taps: larger ones save little more. Those of a weight
# gradient make as many sums for each weight.
MOST_TILE, MOST_WEIGHT_TILE = 32, 6
# The transformed tiles of a turn may take so many times the bytes of the arrays, but at least and
# at most so many bytes, which the last-level cache holds.
WORKSPACE_SHARE = 4
LEAST_TURN_BYTES, TURN_BYTES = 256 << 10, 8 << 20
# The first point's two parts are real numbers of their own.
REAL_POINTS = 1


def sizes(request: Request) -> list[int]:
    """The tiles that are worth trying: at least a third of the samples are results, larger tiles
    would save little more, and what they need fits into local memory."""
    tiles = [Tiles(request, size) for size in SIZES]
    most = MOST_WEIGHT_TILE if tiles[0].gradient else MOST_TILE
    return [
        one.size
        for one in tiles
        if 3 * one.outputs >= one.size
        and (one.size <= most * one.taps or one.size == SIZES[0])
        and one.local_bytes <= request.device.local_bytes
    ]


def row_sizes(request: Request) -> list[int]:
    """The same of the tiles of single rows, whose arrays are in global memory: larger ones, too."""
    tiles = [Tiles(request, size) for size in (*SIZES, *LARGE_SIZES)]
    return [
        one.size
        for one in tiles
        if 3 * one.outputs >= one.size
        and (one.size <= MOST_TILE * one.taps or one.size == SIZES[0])
        and one.alone().weight_local_bytes <= request.device.local_bytes
    ]


def transformed(name: str) -> Operand:
    """The workspace for the transforms of an array."""
    return Operand(f"transformed_{name}", Layout.FLAT, True, "SUM", True)


def product_constants(tiles: Tiles) -> Constants:
    """Of the kernels of products."""
    return (*common_constants(tiles.request, tiles.lanes), ("vectors", tiles.vectors))


# Channels are numbers of a launch, so that layers which differ by them alone share kernels.
PRODUCT_SCALARS = "blocks line_blocks last terms groups panels"


def product_numbers(tiles: Tiles) -> dict[str, int]:
    """How channels lie in what the kernels of products read and write."""
    return {
        "blocks": tiles.x_blocks,
        "line_blocks": tiles.x_blocks // tiles.read_phases,
        "last": (tiles.channels - 1) % tiles.lanes + 1,
        "terms": tiles.terms,
        "groups": tiles.problem.groups,
        "panels": tiles.panels,
        "weight_pitch": tiles.weight_pitch,
    }


def transform_constants(tiles: Tiles) -> Constants:
    """Of all kernels that transform."""
    return (
        *common_constants(tiles.request, tiles.lanes),
        ("transform", tiles.transform),
        ("butterfly", butterfly),
    )


def transform_kernel(tiles: Tiles, source: str, step: int, taken: int | None = None) -> Kernel:
    """The kernel that transforms tiles of an array; their first `taken` samples alone, and
    conjugate, if that is given."""
    return Kernel(
        "transform_spectral",
        transform_constants(tiles)
        + (
            ("source", source),
            ("step", step),
            ("together", tiles.together(step)),
            ("lines", tiles.lines),
            ("taken", tiles.size if taken is None else taken),
            ("conjugate", taken is not None),
        ),
        (Operand(source, Layout.ROWS), transformed(source)),
        scalars(
            "length lead row_tiles channels groups blocks line_blocks outputs",
            "tile_first tiles point_pitch tasks",
        ),
        (1, 1, 1),
    )


def weight_kernel(tiles: Tiles) -> Kernel:
    """The kernel that transforms weights."""
    return Kernel(
        "weight_spectral",
        transform_constants(tiles)
        + (
            ("backward", not tiles.forward),
            ("kernel_size", tiles.problem.kernel_size),
            ("stride", tiles.problem.stride),
            ("read_phases", tiles.read_phases),
            ("write_phases", tiles.write_phases),
            ("taps", tiles.taps),
            ("vectors", tiles.vectors),
        ),
        (Operand("weight", Layout.FLAT), transformed("weight")),
        scalars("channels written groups line_blocks panels", "weight_pitch tasks"),
        (1, 1, 1),
    )


def weight_preparation(tiles: Tiles, kernel: Kernel) -> Schedule:
    """Its launch, and the transformed weights."""
    tasks = tiles.problem.groups * tiles.panels * tiles.terms
    count = tiles.transform.points * tiles.weight_pitch
    sums = accumulator(tiles.problem.dtype)
    return Schedule(
        (
            kernel.launch(
                (grid(tasks), 1, 1),
                channels=tiles.channels, written=tiles.written, groups=tiles.problem.groups,
                line_blocks=ceil_div(tiles.written, tiles.lanes), panels=tiles.panels,
                weight_pitch=tiles.weight_pitch, tasks=tasks,
            ),
        ),
        (Workspace("transformed_weight", sums, count),),
    )  # fmt: skip


def turns(tiles: Tiles, other_bytes: int) -> Iterator[tuple[int, int]]:
    """Which places of tiles are transformed at a time: the first, and how many. `other_bytes` are
    those of other workspaces."""
    problem, request = tiles.problem, tiles.request
    places = problem.batch * tiles.row_tiles
    if not places:
        return
    arrays = problem.batch * (
        problem.in_channels * problem.length + problem.out_channels * problem.out_length
    )
    most = WORKSPACE_SHARE * (arrays + problem.weight_count) * tiles.item_bytes
    most = min(max(most, LEAST_TURN_BYTES), TURN_BYTES)
    if request.workspace_limit is not None:
        most = min(most, request.workspace_limit - other_bytes)
    # Less what the pitches of x and y add, two lines a point each at most.
    turn = max(1, min((most - 2 * tiles.size * LINE_BYTES) // tiles.place_bytes, places))
    turn = ceil_div(places, ceil_div(places, turn))
    for first in range(0, places, turn):
        yield first, min(turn, places - first)


def workspaces(tiles: Tiles, places: int) -> tuple[Workspace, Workspace]:
    """Those of the transformed tiles of so many places."""
    sums, points = accumulator(tiles.problem.dtype), tiles.transform.points
    count = places * tiles.lines
    return (
        Workspace("transformed_x", sums, points * tiles.pitch(tiles.x_blocks, count)),
        Workspace("transformed_y", sums, points * tiles.pitch(tiles.y_blocks, count)),
    )


def where(tiles: Tiles, first: int, places: int, channels: int, blocks: int) -> dict[str, int]:
    """The numbers that say which tiles a launch transforms, from or to so many channels (of a
    group and phase) and vectors of them."""
    return {
        "row_tiles": tiles.row_tiles, "tile_first": first, "tiles": places * tiles.lines,
        "outputs": tiles.outputs, "groups": tiles.problem.groups,
        "line_blocks": ceil_div(channels, tiles.lanes), "blocks": blocks,
    }  # fmt: skip
