"""The forward pass and the input gradient by tiles: kernels, and how the work is cut."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import Cost
from clconv.variants.base import (
    Design,
    Kernel,
    Launch,
    Request,
    Schedule,
    ceil_div,
    convolution_operands,
    grid,
    scalars,
)
from clconv.variants.spectral.costs import cost_of
from clconv.variants.spectral.kernels import (
    PRODUCT_SCALARS,
    REAL_POINTS,
    product_constants,
    product_numbers,
    sizes,
    transform_constants,
    transform_kernel,
    transformed,
    turns,
    weight_kernel,
    weight_preparation,
    where,
    workspaces,
)
from clconv.variants.spectral.tiles import Tiles

__all__ = ["designs"]

# Tasks a core, where there is enough work.
TASKS_A_CORE = 8

TRANSFORMED_WEIGHT = transformed("weight")
TRANSFORMED_Y = transformed("y")


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    for size in sizes(request):
        yield _design(Tiles(request, size))


class Kernels:
    """The four kernels of a design."""

    def __init__(self, tiles: Tiles) -> None:
        request = tiles.request
        self.tiles = tiles
        self.weight = weight_kernel(tiles)
        self.transform = transform_kernel(tiles, "x", tiles.read_step)
        self.products = Kernel(
            "products_spectral",
            (*product_constants(tiles), ("tile_rows", tiles.rows)),
            (transformed("x"), TRANSFORMED_WEIGHT, TRANSFORMED_Y),
            scalars(
                f"parts real_points {PRODUCT_SCALARS}",
                "tiles part_tiles x_pitch y_pitch weight_pitch tasks",
            ),
            (1, 1, 1),
        )
        self.inverse = Kernel(
            "inverse_spectral",
            transform_constants(tiles)
            + (
                ("backward", not tiles.forward),
                ("stride", tiles.problem.stride),
                ("dilation", tiles.problem.dilation),
                ("lines", tiles.lines),
                ("step", tiles.write_step),
                ("together", tiles.together(tiles.write_step)),
                ("activation", request.epilogue.activation),
            ),
            (TRANSFORMED_Y, *convolution_operands(request)),
            scalars(
                "length positions pad lead row_tiles channels written groups kernel_size blocks "
                "line_blocks outputs",
                "tile_first tiles point_pitch tasks",
                "slope",
            ),
            (1, 1, 1),
        )

    def all(self) -> tuple[Kernel, ...]:
        """In the order in which they run."""
        return self.weight, self.transform, self.products, self.inverse


def _design(tiles: Tiles) -> Design:
    kernels = Kernels(tiles)
    preparation = weight_preparation(tiles, kernels.weight)

    def schedule(wanted: Request) -> Schedule:
        return _schedule(kernels, Tiles(wanted, tiles.size), preparation.workspace_bytes)

    def predicted(wanted: Request) -> Cost:
        there = Tiles(wanted, tiles.size)
        count = len(list(turns(there, preparation.workspace_bytes)))
        launches = 3 * count + (0 if wanted.kept else 1)
        return cost_of(there).launched(launches * wanted.device.launch_seconds)

    tile = {"size": tiles.size, "vectors": tiles.vectors, "lanes": tiles.lanes}
    return Design(
        tile,
        kernels.all(),
        cost_of(tiles, typical=True),
        schedule,
        preparation,
        predicted,
        decides=True,
    )


def _schedule(kernels: Kernels, tiles: Tiles, prepared_bytes: int) -> Schedule:
    """The three launches over and over, for as many places of tiles at a time as the workspaces may
    have."""
    launches: list[Launch] = []
    most = 0
    for first, places in turns(tiles, prepared_bytes):
        launches += _launches(kernels, tiles, first, places)
        most = max(most, places)
    return Schedule(tuple(launches), workspaces(tiles, most) if most else ())


def _launches(kernels: Kernels, tiles: Tiles, first: int, places: int) -> tuple[Launch, ...]:
    """Of so many places from `first` on."""
    problem, points = tiles.problem, tiles.transform.points
    length, positions = problem.length, problem.out_length
    if not tiles.forward:
        length, positions = positions, length
    count = places * tiles.lines
    x_pitch, y_pitch = (tiles.pitch(blocks, count) for blocks in (tiles.x_blocks, tiles.y_blocks))
    reading = tiles.tasks(places, tiles.channels, tiles.read_step)
    writing = tiles.tasks(places, tiles.written, tiles.write_step)
    panels = points * problem.groups * tiles.panels
    wanted = ceil_div(TASKS_A_CORE * tiles.request.device.compute_units, panels)
    rows = tiles.rows[0]
    part = ceil_div(ceil_div(count, rows), wanted) * rows
    parts = ceil_div(count, part)
    return (
        kernels.transform.launch(
            (grid(reading), 1, 1),
            length=length, lead=tiles.read_lead, channels=tiles.channels, point_pitch=x_pitch,
            tasks=reading, **where(tiles, first, places, tiles.channels, tiles.x_blocks),
        ),
        kernels.products.launch(
            (grid(panels * parts), 1, 1),
            parts=parts, real_points=REAL_POINTS, tiles=count, part_tiles=part,
            x_pitch=x_pitch, y_pitch=y_pitch, tasks=panels * parts, **product_numbers(tiles),
        ),
        kernels.inverse.launch(
            (grid(writing), 1, 1),
            length=length, positions=positions, pad=problem.pads[0], lead=tiles.write_lead,
            channels=tiles.channels, written=tiles.written, kernel_size=problem.kernel_size,
            point_pitch=y_pitch, tasks=writing,
            **where(tiles, first, places, tiles.written, tiles.y_blocks),
        ),
    )  # fmt: skip
