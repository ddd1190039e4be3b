"""The weight gradient by tiles: transforms of both arrays, products that are summed over tiles."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import Cost
from clconv.variants.base import (
    ACCUMULATION,
    Design,
    Kernel,
    Launch,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    grid,
    scalars,
)
from clconv.variants.spectral.costs import gradient_cost
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
    where,
    workspaces,
)
from clconv.variants.spectral.tiles import Tiles

__all__ = ["designs"]

TRANSFORMED_RESULT = transformed("result")


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    for size in sizes(request):
        yield _design(Tiles(request, size))


class Kernels:
    """The four kernels of a design."""

    def __init__(self, tiles: Tiles) -> None:
        self.of_x = transform_kernel(tiles, "x", tiles.read_step)
        self.of_y = transform_kernel(tiles, "y", tiles.write_step, tiles.outputs)
        self.products = Kernel(
            "weight_products_spectral",
            (*product_constants(tiles), ("channel_rows", tiles.rows)),
            (transformed("x"), transformed("y"), TRANSFORMED_RESULT),
            scalars(
                f"adding real_points channels {PRODUCT_SCALARS}",
                "tiles x_pitch y_pitch weight_pitch tasks",
            ),
            (1, 1, 1),
        )
        self.inverse = Kernel(
            "weight_inverse_spectral",
            transform_constants(tiles)
            + (
                ("kernel_size", tiles.problem.kernel_size),
                ("stride", tiles.problem.stride),
                ("dilation", tiles.problem.dilation),
                ("read_phases", tiles.read_phases),
                ("taps", tiles.taps),
                ("vectors", tiles.vectors),
            ),
            (
                TRANSFORMED_RESULT,
                Operand("x", Layout.ROWS),
                Operand("y", Layout.ROWS),
                Operand("result", Layout.FLAT, written=True),
            ),
            (
                *scalars("batch length out_length pad channels written panels"),
                *scalars(long_names="weight_pitch tasks"),
                *ACCUMULATION,
            ),
            (1, 1, 1),
        )

    def all(self) -> tuple[Kernel, ...]:
        """In the order in which they run."""
        return self.of_x, self.of_y, self.products, self.inverse


def _design(tiles: Tiles) -> Design:
    kernels = Kernels(tiles)

    def schedule(wanted: Request) -> Schedule:
        return _schedule(kernels, Tiles(wanted, tiles.size))

    def predicted(wanted: Request) -> Cost:
        there = Tiles(wanted, tiles.size)
        launches = 3 * len(list(turns(there, _result(there).nbytes))) + 1
        return gradient_cost(there).launched(launches * wanted.device.launch_seconds)

    tile = {"size": tiles.size, "vectors": tiles.vectors, "lanes": tiles.lanes}
    return Design(
        tile,
        kernels.all(),
        gradient_cost(tiles, typical=True),
        schedule,
        predicted=predicted,
        decides=True,
    )


def _result(tiles: Tiles) -> Workspace:
    """The transformed gradient."""
    sums = accumulator(tiles.problem.dtype)
    return Workspace("transformed_result", sums, tiles.transform.points * tiles.weight_pitch)


def _schedule(kernels: Kernels, tiles: Tiles) -> Schedule:
    """Transforms and products over and over, for as many places of tiles at a time as the
    workspaces may have; then the way back."""
    problem, result = tiles.problem, _result(tiles)
    launches: list[Launch] = []
    most = 0
    for first, places in turns(tiles, result.nbytes):
        launches += _launches(kernels, tiles, first, places)
        most = max(most, places)
    if not most:
        # What sums nothing is zero: the products of no tiles.
        launches = [_products(kernels, tiles, 0, 0)]
    tasks = problem.groups * tiles.panels * tiles.channels
    back = kernels.inverse.launch(
        (grid(tasks), 1, 1),
        batch=problem.batch, length=problem.length, out_length=problem.out_length,
        pad=problem.pads[0], channels=tiles.channels, written=tiles.written, panels=tiles.panels,
        weight_pitch=tiles.weight_pitch, tasks=tasks,
    )  # fmt: skip
    return Schedule((*launches, back), (*workspaces(tiles, max(most, 1)), result))


def _launches(kernels: Kernels, tiles: Tiles, first: int, places: int) -> tuple[Launch, ...]:
    """Of so many places from `first` on."""
    problem = tiles.problem
    reading = tiles.tasks(places, tiles.channels, tiles.read_step)
    results = tiles.tasks(places, tiles.written, tiles.write_step)
    return (
        kernels.of_x.launch(
            (grid(reading), 1, 1),
            length=problem.length, lead=tiles.read_lead, channels=tiles.channels, tasks=reading,
            point_pitch=tiles.pitch(tiles.x_blocks, places * tiles.lines),
            **where(tiles, first, places, tiles.channels, tiles.x_blocks),
        ),
        kernels.of_y.launch(
            (grid(results), 1, 1),
            length=problem.out_length, lead=0, channels=tiles.written, tasks=results,
            point_pitch=tiles.pitch(tiles.y_blocks, places * tiles.lines),
            **where(tiles, first, places, tiles.written, tiles.y_blocks),
        ),
        _products(kernels, tiles, first, places),
    )  # fmt: skip


def _products(kernels: Kernels, tiles: Tiles, first: int, places: int) -> Launch:
    count = places * tiles.lines
    x_pitch, y_pitch = (tiles.pitch(blocks, count) for blocks in (tiles.x_blocks, tiles.y_blocks))
    tasks = tiles.transform.points * tiles.problem.groups * tiles.panels * tiles.x_blocks
    return kernels.products.launch(
        (grid(tasks), 1, 1),
        adding=int(first > 0), real_points=REAL_POINTS, tiles=count,
        channels=tiles.channels, x_pitch=x_pitch, y_pitch=y_pitch, tasks=tasks,
        **product_numbers(tiles),
    )  # fmt: skip
