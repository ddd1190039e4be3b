"""The forward pass and the input gradient as products of tiles."""

from __future__ import annotations

from clconv.planning.cost import Cost
from clconv.planning.cost import products as priced
from clconv.variants.base import (
    Design,
    Kernel,
    Request,
    Schedule,
    ceil_div,
    convolution_operands,
    grid,
    phase_constants,
    scalars,
)
from clconv.variants.gemm import gemv
from clconv.variants.gemm.tiles import Matrices, Tile, constants

__all__ = ["cost", "design", "few_columns_pay"]

# Columns for which the choice of a tile is made: it may not depend on batch or length.
TYPICAL_COLUMNS = 16384
# The kernel for few columns must be so many times as fast, by the model, to have more of them.
FEW_COLUMNS_GAIN = 2.0


def cost(matrices: Matrices, tile: Tile, columns: int) -> Cost:
    """Modelled, of the product of tiles for so many columns.

    Tiles are rounded up over the result, and work-groups over the compute units.
    """
    request = matrices.request
    tiles = ceil_div(matrices.rows, tile.rows) * ceil_div(columns, tile.columns)
    tiles *= matrices.products
    units = request.device.compute_units
    terms = ceil_div(int(matrices.terms) or 1, tile.depth) * tile.depth
    sums = ceil_div(tiles, units) * units * tile.rows * tile.columns * terms
    read = tiles * (tile.rows + tile.columns) * terms * request.problem.dtype.itemsize
    return priced(request.device, tile.work(request), sums, read)


def design(matrices: Matrices, tile: Tile) -> Design:
    """The design of a tile, with the kernel for few columns."""
    request = matrices.request
    problem = request.problem
    kernel = Kernel(
        "convolution_gemm",
        constants(request)
        + (
            ("backward", not matrices.forward),
            *phase_constants(problem),
            ("weight_index", "int" if problem.weight_count < 2**31 else "long"),
            ("activation", request.epilogue.activation),
        )
        + tile.constants(),
        convolution_operands(request),
        (
            *scalars("batch length out_length pad positions"),
            *scalars(long_names="blocks"),
            *scalars("terms_given", sum_names="slope"),
        ),
        (tile.items, 1, 1),
    )
    few = gemv.tile(request)
    few_kernel = None if few is None else gemv.kernel(request, few)
    terms = problem.group_in * problem.kernel_size if matrices.forward else problem.group_out

    def schedule(wanted: Request) -> Schedule:
        products = Matrices(wanted)
        if few is not None and few_kernel is not None and _is_few(products, tile, few):
            return Schedule((gemv.launch(wanted, few, few_kernel),))
        problem = wanted.problem
        blocks = ceil_div(products.columns, tile.columns)
        tiles = ceil_div(products.rows, tile.rows) * products.products
        launch = kernel.launch(
            (grid(tiles) * tile.items, grid(blocks), 1),
            batch=problem.batch,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            positions=problem.positions(wanted.pass_),
            blocks=blocks,
            terms_given=terms,
        )
        return Schedule((launch,))

    def predicted(wanted: Request) -> Cost:
        products = Matrices(wanted)
        if few is not None and _is_few(products, tile, few):
            made = gemv.cost(wanted, few)
        else:
            made = cost(products, tile, products.columns)
        return made.launched(wanted.device.launch_seconds)

    # In proportion to batch and length, so that the choice depends on neither, though few columns
    # take longer, and have another kernel.
    modelled = cost(matrices, tile, TYPICAL_COLUMNS) * (matrices.columns / TYPICAL_COLUMNS)
    kernels = (kernel,) if few_kernel is None else (kernel, few_kernel)
    return Design(tile.numbers(), kernels, modelled, schedule, predicted=predicted)


def _is_few(matrices: Matrices, tile: Tile, few: gemv.Tile) -> bool:
    """Whether the kernel for few columns is the one to run: as asked for, else if it pays."""
    wanted = matrices.request.kernel
    return few_columns_pay(matrices, tile, few) if wanted is None else wanted == gemv.NAME


def few_columns_pay(matrices: Matrices, tile: Tile, few: gemv.Tile) -> bool:
    """Whether the kernel for few columns is the faster one: always if a work-group has all."""
    columns = matrices.columns
    if not gemv.COLUMNS < columns <= gemv.MOST_COLUMNS:
        return columns <= gemv.COLUMNS
    gained = FEW_COLUMNS_GAIN * gemv.cost(matrices.request, few).seconds
    return gained <= cost(matrices, tile, columns).seconds
