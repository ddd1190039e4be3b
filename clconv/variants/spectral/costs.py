"""How long do a pass's transforms and products take? Work that is counted, by its prices."""

from __future__ import annotations

from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.variants.base import ceil_div, rounded
from clconv.variants.spectral.tiles import Tiles

__all__ = ["cost_of", "gradient_cost", "row_cost"]

# What tiles are chosen for. At a row's end half a tile is empty: rows have so many positions, or
# windows of taps; those of signals, which are filtered channel by channel, have more. Weights are
# transformed once a call, which has so many elements of x or y: networks have more channels where
# they have fewer positions (256 channels of 4096).
TYPICAL_ROW, TYPICAL_ELEMENTS = 512, 2**20
TYPICAL_WINDOWS, SIGNAL_WINDOWS = 8, 32


class _Counted:
    """The work of a pass by tiles; `typical` for rows and calls that are neither short nor long."""

    def __init__(self, tiles: Tiles, typical: bool) -> None:
        problem = tiles.problem
        row_tiles, per_weight = float(tiles.row_tiles), 1.0
        if typical:
            alone = problem.group_in == problem.group_out == 1
            windows = SIGNAL_WINDOWS if alone else TYPICAL_WINDOWS
            row = max(TYPICAL_ROW, windows * tiles.taps)
            positions = problem.positions(tiles.request.pass_) / tiles.lines
            # Tiles of one channel alone are side by side in vectors.
            end = tiles.outputs * (tiles.lanes if alone else 1)
            row_tiles = positions / tiles.outputs * (1 + end / (2 * row))
            call = TYPICAL_ELEMENTS / max(problem.in_channels, problem.out_channels)
            per_weight = problem.batch * problem.out_length / max(call, row)
        self.tiles = tiles
        self.core = cost.core(tiles.request.device)
        self.tally = Tally()
        self.rows = problem.batch * problem.groups
        self.count = self.rows * row_tiles * tiles.lines
        a_block = tiles.size * tiles.lanes * tiles.item_bytes
        self.x_bytes, self.y_bytes = (
            blocks * self.count * a_block for blocks in (tiles.x_blocks, tiles.y_blocks)
        )
        points = tiles.transform.points * per_weight
        self.weight_bytes = tiles.weight_pitch * points * tiles.item_bytes
        # Those of the arrays that are read and written by position.
        self.read_bytes, self.written_bytes = (
            problem.batch * channels * length * problem.dtype.itemsize
            for channels, length in (
                (problem.in_channels, problem.length), (problem.out_channels, problem.out_length),
            )
        )  # fmt: skip
        if not tiles.forward:
            self.read_bytes, self.written_bytes = self.written_bytes, self.read_bytes
        self.written = ceil_div(tiles.written, tiles.lanes) * tiles.write_phases
        self.filters = problem.groups * tiles.terms * tiles.y_blocks * per_weight

    def moved(self, nbytes: float) -> dict[str, float]:
        """The time of so many bytes of memory traffic, in cycles."""
        a_second = cost.fourier_bandwidth(self.tiles.request.device)
        return {"memory": nbytes / a_second / self.core.cycle}

    def transforms(self, tiles: float, ends: dict[str, float], nbytes: float) -> None:
        """Of so many tiles of vectors, with what happens at their ends. Rows come in pieces, and
        each point is a stream of its own: nothing hides the way of so many bytes."""
        tile = len(self.tiles.transform.passes) * cost.FOURIER_PASS + cost.FOURIER_SEPARATE
        parts = {"arithmetic": tile * self._vectors(tiles)}
        for name, cycles in (parts | ends | self.moved(nbytes)).items():
            self.tally.add(name, cycles)

    def weights(self) -> None:
        """Of all filters, unless their transforms are kept."""
        if not self.tiles.request.kept:
            filters = cost.FOURIER_WEIGHTS * self.filters
            staging = {"staging": cost.FOURIER_STAGE * self._vectors(filters)}
            self.transforms(filters, staging, self.weight_bytes)

    def _vectors(self, tiles: float) -> float:
        """Cycles of an instruction for each vector of so many tiles; all that is not a product is
        as fast as multiply-adds."""
        return 2 * self.core.multiply_add * self.tiles.size * tiles

    def ends(
        self, name: str, blocks: int, step: int, price: float, results: bool = False
    ) -> dict[str, float]:
        """Cycles of reading (staging) or storing vectors of channels, turned, and of the single
        elements at the rows' ends; with `results` a weight gradient's output is read."""
        tiles = self.tiles
        elements = self.rows * tiles.lanes
        if step > 1 and tiles.together(step) == 1:
            apart = elements * tiles.row_tiles * tiles.size * tiles.lines * blocks
            return {name: apart * cost.FOURIER_APART}
        single = tiles.single_stores if name == "stores" else tiles.single_reads(results)
        # All lines and phases of a place are together, one after the other.
        places = single * tiles.lines * blocks / step
        return {
            name: price * self._vectors(self.count * blocks),
            "setup": places * elements * cost.FOURIER_ELEMENT,
        }

    def products(self, nbytes: float) -> None:
        """Of all channels at all points of all tiles."""
        sums = 4 * (self.tiles.transform.points - 1) + 2
        work = sums * self.count * self.tiles.terms * self.tiles.y_blocks * self.core.multiply_add
        moved = nbytes + (self.x_bytes + self.y_bytes) / cost.FOURIER_CACHE
        single = self.tiles.vectors == 1
        price = cost.FOURIER_SINGLE_PRODUCTS if single else cost.FOURIER_PRODUCTS
        self.tally.overlapped({"arithmetic": work * price}, self.moved(moved))

    def cost(self) -> Cost:
        """Of all together."""
        return self.tally.cost(self.core.cycle)


def cost_of(tiles: Tiles, typical: bool = False) -> Cost:
    """Modelled, without launches: the weights' transforms unless they are kept, then the tiles',
    their products, and the way back."""
    made = _Counted(tiles, typical)
    made.weights()
    made.transforms(
        made.count * tiles.x_blocks,
        made.ends("staging", tiles.x_blocks, tiles.read_step, cost.FOURIER_STAGE),
        made.read_bytes + made.x_bytes / cost.FOURIER_CACHE,
    )
    made.products(made.weight_bytes)
    made.transforms(
        made.count * made.written,
        made.ends("stores", made.written, tiles.write_step, cost.FOURIER_STORE),
        made.written_bytes + made.y_bytes / cost.FOURIER_CACHE,
    )
    return made.cost()


def gradient_cost(tiles: Tiles, typical: bool = False) -> Cost:
    """The same of the weight gradient; and of the bias gradient where that is wanted, for which
    the output's gradient is read again."""
    made = _Counted(tiles, typical)
    for results, array, tile_bytes, blocks, step in (
        (False, made.read_bytes, made.x_bytes, tiles.x_blocks, tiles.read_step),
        (True, made.written_bytes, made.y_bytes, made.written, tiles.write_step),
    ):
        made.transforms(
            made.count * blocks,
            made.ends("staging", blocks, step, cost.FOURIER_STAGE, results),
            array + tile_bytes / cost.FOURIER_CACHE,
        )
    made.products(2 * made.weight_bytes)
    stored = cost.FOURIER_STORE * 2 * made.core.multiply_add * tiles.taps * made.filters
    made.transforms(made.filters, {"stores": stored}, made.weight_bytes)
    if tiles.request.epilogue.bias:
        made.tally.overlapped(made.moved(made.written_bytes))
    return made.cost() * cost.FOURIER_GRADIENT


def row_cost(tiles: Tiles, typical: bool = False) -> Cost:
    """The same of one channel a group, whose tiles are multiplied where they are transformed."""
    made = _Counted(tiles, typical)
    made.weights()
    device = tiles.request.device
    tasks = made.count / tiles.lanes
    if not typical:
        blocks = ceil_div(tiles.row_tiles, tiles.lanes)
        tasks = rounded(made.rows * tiles.lines * blocks, device.compute_units)
    arrays = 2 * tiles.size * tiles.lanes * tiles.item_bytes
    work = tasks * (cost.FOURIER_CACHED if arrays <= device.l2_bytes / 2 else 1.0)
    vectors = 2 * made.core.multiply_add * tiles.size * work
    ends = {"staging": cost.FOURIER_STAGE * vectors, "stores": cost.FOURIER_STORE * vectors}
    # Two transforms, each with what separates or joins, which the products cost as much as.
    made.transforms(2 * work, ends, made.read_bytes + made.written_bytes)
    return made.cost()
