"""How long do a pass's transforms and products take? Work that is counted, by its prices."""

from __future__ import annotations

from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.variants.base import ceil_div
from clconv.variants.spectral.tiles import Tiles

__all__ = ["cost_of"]


def cost_of(tiles: Tiles) -> Cost:
    """Modelled, without launches: the weights' transforms unless they are kept, then the tiles',
    their products, and the way back."""
    problem, core = tiles.problem, cost.core(tiles.request.device)
    # Vectors do all that is not a product as fast as multiply-adds.
    a_vector = 2 * core.multiply_add
    passes = len(tiles.transform.passes) * cost.FOURIER_PASS
    rows = problem.batch * problem.groups
    tally = Tally()

    def stage(vectors: float, blocks: int, step: int, price: float, moved: float) -> None:
        """Transforms of so many vectors of samples; one end of `blocks` of channels a row."""
        name = "staging" if price == cost.FOURIER_STAGE else "stores"
        ends = 2 * rows * blocks * tiles.lines * tiles.lanes**2 * cost.FOURIER_ELEMENT
        if step > 1 and tiles.together(step) == 1:
            price = tiles.lanes * cost.FOURIER_ELEMENT
        tally.overlapped(
            {
                name: price * vectors * a_vector,
                "arithmetic": (passes + cost.FOURIER_SEPARATE) * vectors * a_vector,
                "setup": min(ends, vectors * tiles.lanes * cost.FOURIER_ELEMENT),
            },
            {"memory": moved / tiles.request.device.peak_bandwidth / core.cycle},
        )

    count = rows * tiles.row_tiles * tiles.lines
    a_block = tiles.size * tiles.lanes * tiles.item_bytes
    weight_bytes = tiles.weight_pitch * tiles.transform.points * tiles.item_bytes
    if not tiles.request.kept:
        filters = problem.groups * tiles.terms * tiles.y_blocks
        stage(tiles.size * filters, 0, 1, cost.FOURIER_STAGE, 2 * weight_bytes)
    x_bytes, y_bytes = (
        problem.batch * channels * length * problem.dtype.itemsize
        for channels, length in (
            (problem.in_channels, problem.length), (problem.out_channels, problem.out_length),
        )
    )  # fmt: skip
    if not tiles.forward:
        x_bytes, y_bytes = y_bytes, x_bytes
    written = ceil_div(tiles.written, tiles.lanes) * tiles.write_phases
    x_tiles, y_tiles = count * tiles.x_blocks * a_block, count * tiles.y_blocks * a_block
    stage(
        tiles.size * count * tiles.x_blocks, tiles.x_blocks, tiles.read_step,
        cost.FOURIER_STAGE, x_bytes + x_tiles / cost.FOURIER_CACHE,
    )  # fmt: skip
    sums = 4 * (tiles.transform.points - 1) + 2
    products = sums * count * tiles.terms * tiles.y_blocks * core.multiply_add
    moved = weight_bytes + (x_tiles + y_tiles) / cost.FOURIER_CACHE
    tally.overlapped(
        {"arithmetic": products * cost.FOURIER_PRODUCTS},
        {"memory": moved / tiles.request.device.peak_bandwidth / core.cycle},
    )
    stage(
        tiles.size * count * written, written, tiles.write_step,
        cost.FOURIER_STORE, y_bytes + y_tiles / cost.FOURIER_CACHE,
    )  # fmt: skip
    return tally.cost(core.cycle * cost.FOURIER_MARGIN)
