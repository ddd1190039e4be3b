"""The weight gradient as products of tiles, in shares of the positions."""

from __future__ import annotations

from clconv.planning.cost import products
from clconv.variants.base import (
    ACCUMULATION,
    MAX_GROUPS,
    WEIGHT_GRADIENT,
    Design,
    Kernel,
    Launch,
    Request,
    accumulator,
    ceil_div,
    grid,
    partials_limit,
    scalars,
    weight_gradient_design,
)
from clconv.variants.gemm.tiles import Matrices, Tile, constants

__all__ = ["design"]

# Work-groups a compute unit, over which a weight gradient is spread.
GROUPS_A_UNIT = 4
# Positions of a share at least: fewer, and its partial sums cost more than its products.
LEAST_SHARE = 256
# Terms of a share at most: kernels count them in 32 bits.
MOST_TERMS = 2**30


def design(matrices: Matrices, tile: Tile) -> Design:
    """The design of a tile."""
    request = matrices.request
    tiles = ceil_div(matrices.rows, tile.rows) * ceil_div(matrices.columns, tile.columns)
    tiles *= matrices.products
    kernel = Kernel(
        "weight_gradient_gemm",
        constants(request) + tile.constants(),
        WEIGHT_GRADIENT,
        (
            *scalars("length out_length pad"),
            *scalars(long_names="all_terms share_terms"),
            *scalars("shares step_n step_q"),
            *ACCUMULATION,
        ),
        (tile.items, 1, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        problem = wanted.problem
        share_bytes = problem.weight_count * accumulator(problem.dtype).itemsize
        all_terms = problem.batch * problem.out_length
        if not all_terms:
            return None, 0
        many = ceil_div(GROUPS_A_UNIT * wanted.device.compute_units, tiles)
        most = int(partials_limit(wanted, share_bytes) // share_bytes)
        shares = max(1, min(many, most, ceil_div(all_terms, LEAST_SHARE), MAX_GROUPS))
        shares = max(shares, ceil_div(all_terms, MOST_TERMS))
        share_terms = ceil_div(ceil_div(all_terms, shares), tile.depth) * tile.depth
        shares = ceil_div(all_terms, share_terms)
        launch = kernel.launch(
            (grid(tiles) * tile.items, shares, 1),
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            all_terms=all_terms,
            share_terms=share_terms,
            shares=shares,
            step_n=tile.depth // problem.out_length,
            step_q=tile.depth % problem.out_length,
        )
        return launch, shares

    # The shares fill the device; their number is no part of the tile.
    work = matrices.terms * tiles
    read = work * (tile.rows + tile.columns) * request.problem.dtype.itemsize
    sums = work * tile.rows * tile.columns
    modelled = products(request.device, tile.work(request), sums, read)
    return weight_gradient_design(request, tile.numbers(), kernel, modelled, schedule)
