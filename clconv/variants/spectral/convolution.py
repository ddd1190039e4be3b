"""The forward pass and the input gradient by tiles: kernels, and how the work is cut."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import Cost
from clconv.variants.base import (
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
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    scalars,
)
from clconv.variants.spectral.costs import cost_of
from clconv.variants.spectral.tiles import Tiles
from clconv.variants.spectral.transforms import SIZES, butterfly

__all__ = ["designs", "sizes"]

# Samples of a tile at most, for each of its taps.
MOST_TILE = 32
# The workspaces may take so many times the bytes of the arrays, and the transformed tiles of a turn
# so many bytes, which the last-level cache holds.
WORKSPACE_SHARE = 4
TURN_BYTES = 12 << 20
# Tasks a core, where there is enough work.
TASKS_A_CORE = 8
# The first point's two parts are real numbers of their own.
REAL_POINTS = 1

TRANSFORMED_X = Operand("transformed_x", Layout.FLAT, True, "SUM", True)
TRANSFORMED_Y = Operand("transformed_y", Layout.FLAT, True, "SUM", True)
TRANSFORMED_WEIGHT = Operand("transformed_weight", Layout.FLAT, True, "SUM", True)


def sizes(request: Request) -> list[int]:
    """The tiles that are worth trying: at least a third of the samples are results, larger tiles
    would save little more, and what they need fits into local memory."""
    found = []
    for size in SIZES:
        tiles = Tiles(request, size)
        if not size / MOST_TILE <= tiles.taps <= size * 2 // 3 + 1:
            continue
        if tiles.local_bytes <= request.device.local_bytes:
            found.append(size)
    return found


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    for size in sizes(request):
        yield _design(Tiles(request, size))


class Kernels:
    """The four kernels of a design."""

    def __init__(self, tiles: Tiles) -> None:
        request = tiles.request
        self.tiles = tiles
        self.weight = Kernel(
            "weight_spectral",
            self._constants(True),
            (Operand("weight", Layout.FLAT), TRANSFORMED_WEIGHT),
            scalars(long_names="tasks"),
            (1, 1, 1),
        )
        self.transform = Kernel(
            "transform_spectral",
            self._constants(True)
            + (
                ("step", tiles.read_step),
                ("together", tiles.together(tiles.read_step)),
                ("blocks", tiles.x_blocks),
            ),
            (Operand("x", Layout.ROWS), TRANSFORMED_X),
            scalars("length lead row_tiles", "tile_first tiles point_pitch tasks"),
            (1, 1, 1),
        )
        self.products = Kernel(
            "products_spectral",
            self._constants(False)
            + (
                ("blocks", tiles.x_blocks),
                ("line_blocks", tiles.x_blocks // tiles.read_phases),
                ("last", (tiles.channels - 1) % tiles.lanes + 1),
                ("terms", tiles.terms),
                ("tile_rows", tiles.tile_rows),
            ),
            (TRANSFORMED_X, TRANSFORMED_WEIGHT, TRANSFORMED_Y),
            scalars("parts real_points", "tiles part_tiles x_pitch y_pitch tasks"),
            (1, 1, 1),
        )
        self.inverse = Kernel(
            "inverse_spectral",
            self._constants(True)
            + (
                ("step", tiles.write_step),
                ("together", tiles.together(tiles.write_step)),
                ("blocks", tiles.y_blocks),
                ("dilation", tiles.problem.dilation),
                ("activation", request.epilogue.activation),
            ),
            (TRANSFORMED_Y, *convolution_operands(request)),
            scalars(
                "length positions pad lead row_tiles", "tile_first tiles point_pitch tasks", "slope"
            ),
            (1, 1, 1),
        )

    def _constants(self, transforming: bool) -> Constants:
        tiles, problem = self.tiles, self.tiles.problem
        common = (
            *common_constants(tiles.request, tiles.lanes),
            ("groups", problem.groups),
            ("vectors", tiles.vectors),
            ("panels", tiles.panels),
        )
        if not transforming:
            return (*common, ("point_pitch", tiles.weight_pitch))
        return (
            *common,
            ("transform", tiles.transform),
            ("butterfly", butterfly),
            ("backward", not tiles.forward),
            ("channels", tiles.channels),
            ("written", tiles.written),
            ("read_phases", tiles.read_phases),
            ("write_phases", tiles.write_phases),
            ("lines", tiles.lines),
            ("taps", tiles.taps),
            ("outputs", tiles.outputs),
            ("kernel_size", problem.kernel_size),
            ("stride", problem.stride),
            ("point_pitch", tiles.weight_pitch),
        )

    def all(self) -> tuple[Kernel, ...]:
        """In the order in which they run."""
        return self.weight, self.transform, self.products, self.inverse


def _design(tiles: Tiles) -> Design:
    kernels = Kernels(tiles)
    sums = accumulator(tiles.problem.dtype)
    tasks = tiles.problem.groups * tiles.panels * tiles.terms
    preparation = Schedule(
        (kernels.weight.launch((grid(tasks), 1, 1), tasks=tasks),),
        (Workspace("transformed_weight", sums, tiles.transform.points * tiles.weight_pitch),),
    )

    def schedule(wanted: Request) -> Schedule:
        return _schedule(kernels, Tiles(wanted, tiles.size), preparation.workspace_bytes)

    def predicted(wanted: Request) -> Cost:
        there = Tiles(wanted, tiles.size)
        places = wanted.problem.batch * there.row_tiles
        turns = ceil_div(places, _turn(there, preparation.workspace_bytes))
        launches = 3 * turns + (0 if wanted.kept else 1)
        return cost_of(there).launched(launches * wanted.device.launch_seconds)

    tile = {"size": tiles.size, "vectors": tiles.vectors, "lanes": tiles.lanes}
    return Design(
        tile, kernels.all(), cost_of(tiles), schedule, preparation, predicted, decides=True
    )


def _schedule(kernels: Kernels, tiles: Tiles, prepared_bytes: int) -> Schedule:
    """The three launches over and over, for as many places of tiles at a time as the workspaces may
    have."""
    problem, points = tiles.problem, tiles.transform.points
    places = problem.batch * tiles.row_tiles
    if not places:
        return Schedule()
    turn = min(_turn(tiles, prepared_bytes), places)
    turn = ceil_div(places, ceil_div(places, turn))
    launches: list[Launch] = []
    for first in range(0, places, turn):
        launches += _launches(kernels, tiles, first, min(turn, places - first))
    sums, most = accumulator(problem.dtype), turn * tiles.lines
    return Schedule(
        tuple(launches),
        (
            Workspace("transformed_x", sums, points * tiles.pitch(tiles.x_blocks, most)),
            Workspace("transformed_y", sums, points * tiles.pitch(tiles.y_blocks, most)),
        ),
    )


def _turn(tiles: Tiles, prepared_bytes: int) -> int:
    """Places of tiles that are transformed at a time."""
    problem, request = tiles.problem, tiles.request
    arrays = problem.batch * (
        problem.in_channels * problem.length + problem.out_channels * problem.out_length
    )
    most = min(TURN_BYTES, WORKSPACE_SHARE * (arrays + problem.weight_count) * tiles.item_bytes)
    if request.workspace_limit is not None:
        most = min(most, request.workspace_limit - prepared_bytes)
    # What padding the points takes, at most.
    most -= tiles.size * 4096
    return max(1, most // tiles.place_bytes)


def _launches(kernels: Kernels, tiles: Tiles, first: int, places: int) -> tuple[Launch, ...]:
    """Of so many places from `first` on."""
    problem, points = tiles.problem, tiles.transform.points
    length, positions = problem.length, problem.out_length
    if not tiles.forward:
        length, positions = positions, length
    count = places * tiles.lines
    x_pitch, y_pitch = (tiles.pitch(blocks, count) for blocks in (tiles.x_blocks, tiles.y_blocks))
    where = {"row_tiles": tiles.row_tiles, "tile_first": first, "tiles": count}

    def tasks(channels: int, step: int) -> int:
        apart = tiles.lines if tiles.together(step) == 1 else 1
        return places * apart * problem.groups * ceil_div(channels, tiles.lanes)

    reading = tasks(tiles.channels, tiles.read_step)
    writing = tasks(tiles.written, tiles.write_step)
    panels = points * problem.groups * tiles.panels
    wanted = ceil_div(TASKS_A_CORE * tiles.request.device.compute_units, panels)
    rows = tiles.tile_rows[0]
    part = ceil_div(ceil_div(count, rows), wanted) * rows
    parts = ceil_div(count, part)
    return (
        kernels.transform.launch(
            (grid(reading), 1, 1),
            length=length, lead=tiles.read_lead, point_pitch=x_pitch, tasks=reading, **where,
        ),
        kernels.products.launch(
            (grid(panels * parts), 1, 1),
            parts=parts, real_points=REAL_POINTS, tiles=count, part_tiles=part,
            x_pitch=x_pitch, y_pitch=y_pitch, tasks=panels * parts,
        ),
        kernels.inverse.launch(
            (grid(writing), 1, 1),
            length=length, positions=positions, pad=problem.pads[0], lead=tiles.write_lead,
            point_pitch=y_pitch, tasks=writing, **where,
        ),
    )  # fmt: skip
