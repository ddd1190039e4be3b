"""The weight gradient by tiles: products of what is transformed, summed over all tiles."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, count
from typing import NamedTuple

from clconv.bounded import Bounded
from clconv.planning import cost
from clconv.planning.cost import Core, Cost, Sums, Tally
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import (
    ACCUMULATION,
    Design,
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
    padded,
    partials_limit,
    rounded,
    scalars,
    vector_lanes,
)
from clconv.variants.winograd.tiles import Tiles, tile_outputs
from clconv.variants.winograd.transforms import steps, transposed
from clconv.variants.winograd.work import MOST_LOCAL_BYTES, registers_hold

__all__ = ["Gradient", "designs", "gradients"]

# Transformed samples and gradients take this part of local memory, and rows that are turned this;
# the first is to stay in the second-level cache beside the sums.
DATA_SHARE, RAW_SHARE = 3 / 4, 1 / 8
# Tiles of a chunk at least: so many products pay for keeping their sum.
FEWEST_TILES = 8
# Into how many blocks the channels of a group are cut, at first; then into twice as many each time.
FEW_PARTS = (1, 2, 3, 4, 6, 8)
# Tasks a core: the last ones leave fewer idle.
TASKS_A_CORE = (1, 2, 4)
# Layers, each with a tile and a device, whose ways to be cut are remembered: some 20 KB of many
# channels; and requests whose way is.
WAYS_KEPT, BLOCKS_KEPT = 64, 1024

TRANSFORMED_RESULT = Operand("transformed_result", Layout.FLAT, True, "SUM", True)


class Way(NamedTuple):
    """Blocks of channels, of which tasks have one of y and one of x: how many there are, the places
    of a chunk at most, and how the lines of a place are cut. And cycles of all blocks: of staging a
    tile, of the end of a chunk, the set-up of a share, and the results of one; and how many tiles
    of sums, at all points, a tile adds to. All of it follows from the layer."""

    block_m: int
    block_c: int
    m_blocks: int
    c_blocks: int
    places: int
    line_blocks: int
    block_lines: int
    staging: float
    a_chunk: float
    a_share: float
    results: float
    sum_tiles: int

    def setup(self, chunks: float, shares: int) -> float:
        """Cycles of so many chunks and shares, each of which has a chunk at least."""
        return max(chunks, shares) * self.a_chunk + shares * self.a_share

    def stores(self, shares: int) -> float:
        """Cycles of the results of so many shares."""
        return (shares + cost.WINOGRAD_RESULT) * self.results


class Blocks(NamedTuple):
    """How the work is cut: channels of y and of x of a task, tiles of a chunk, the lines of a
    place, and shares of all chunks."""

    block_m: int
    block_c: int
    m_blocks: int
    c_blocks: int
    tiles: int
    line_blocks: int
    block_lines: int
    chunk_places: int
    chunks: int
    shares: int


@dataclass(frozen=True)
class Gradient:
    """A request by tiles of `outputs` positions of y, with channels of y times vectors of channels
    of x of sums in registers."""

    request: Request
    outputs: int
    channels: int
    vectors: int

    @property
    def problem(self) -> Conv1dProblem:
        """What is computed."""
        return self.request.problem

    @cached_property
    def tiles(self) -> Tiles:
        """The tiles of the forward pass."""
        return Tiles(self.problem, Pass.FORWARD, self.outputs)

    @cached_property
    def core(self) -> Core:
        """What work takes."""
        return cost.core(self.request.device)

    @cached_property
    def lanes(self) -> int:
        """Channels of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    @cached_property
    def item_bytes(self) -> int:
        """Of a transformed element."""
        return int(accumulator(self.problem.dtype).itemsize)

    @cached_property
    def panel(self) -> int:
        """Channels of x of a tile of sums."""
        return self.vectors * self.lanes

    @cached_property
    def points(self) -> int:
        """Products of a tile, for each two channels."""
        return self.tiles.points

    def y_pitch(self, block: int) -> int:
        """Elements of a tile's transformed gradients at a point, for so many channels: whole tiles
        of sums, and whole vectors."""
        return rounded(rounded(block, self.channels), self.lanes)

    # Local memory

    @cached_property
    def local_bytes(self) -> int:
        """That the kernel may use."""
        return min(self.request.device.local_bytes, MOST_LOCAL_BYTES)

    @property
    def data_elements(self) -> int:
        """Transformed samples and gradients."""
        return int(self.local_bytes * DATA_SHARE) // self.item_bytes

    @property
    def raw_positions(self) -> int:
        """Of LANES rows that are turned."""
        return int(self.local_bytes * RAW_SHARE) // self.item_bytes // self.lanes

    @cached_property
    def data_channels(self) -> int:
        """Transformed samples and gradients at a point."""
        return self.data_elements // self.points

    @cached_property
    def raw_tiles(self) -> tuple[int, int]:
        """Tiles of whole places whose samples are turned at a time at most, and of single ones."""
        form, positions = self.tiles.transform, self.raw_positions
        # Samples of neighbouring tiles overlap.
        overlap = (form.samples - form.step) * self.tiles.lines
        return (positions - overlap) // form.step, positions // form.samples

    def places(self, block_m: int, block_c: int) -> tuple[int, int, int]:
        """Places of a chunk, blocks of lines of a place, and the lines of one, of so many channels;
        no places where nothing fits."""
        lines = self.tiles.lines
        fitting = self.data_channels // (self.y_pitch(block_m) + block_c)
        whole, single = self.raw_tiles
        most = min(fitting, whole)
        if most >= lines:
            return most // lines, 1, lines
        fitting = min(fitting, single)
        if fitting < 1:
            return 0, 1, lines
        blocks = ceil_div(lines, fitting)
        return 1, blocks, ceil_div(lines, blocks)

    # Cycles

    @cached_property
    def tap(self) -> Sums:
        """Of a tile's products at a point."""
        folded = self.vectors == 1 and self.request.device.vector_floats > 8
        return self.core.sums(
            self.channels * self.vectors, self.channels, self.vectors, folded=folded
        )

    @property
    def _moved(self) -> float:
        """A vector, in cycles of a multiply-add of it, with which all else goes."""
        return 2 * self.core.multiply_add

    def _staged(self, samples: int) -> float:
        """Of a vector of channels of a tile, of which so many samples are turned."""
        turned = samples * self.lanes * cost.TURN_ELEMENT
        return turned + cost.WINOGRAD_TURNED * self._moved * self.tiles.points

    @cached_property
    def stage_x(self) -> float:
        """Of a vector of channels of x, of a tile."""
        return self._staged(self.tiles.transform.step)

    @cached_property
    def stage_y(self) -> float:
        """The same of y."""
        return self._staged(self.outputs)

    @cached_property
    def adding(self) -> float:
        """Of a tile of sums that is added to those of the chunks before."""
        return cost.WINOGRAD_LOOP + 2 * self._moved * self.channels * self.vectors

    def way(self, block_m: int, block_c: int) -> Way:
        """Of blocks of so many channels."""
        tiles, groups = self.tiles, self.problem.groups
        written = tiles.written
        m_blocks, c_blocks = ceil_div(written, block_m), ceil_div(tiles.channels, block_c)
        panels = c_blocks * (block_c // self.panel)
        # Samples are transformed for each block of gradients, and the other way round.
        x_vectors = m_blocks * panels * self.vectors
        y_vectors = c_blocks * m_blocks * (self.y_pitch(block_m) // self.lanes)
        sum_tiles = groups * panels * m_blocks * ceil_div(block_m, self.channels) * self.points
        return Way(
            block_m,
            block_c,
            m_blocks,
            c_blocks,
            *self.places(block_m, block_c),
            staging=groups * (x_vectors * self.stage_x + y_vectors * self.stage_y),
            a_chunk=sum_tiles * self.adding,
            a_share=groups * m_blocks * c_blocks * cost.TASK_SETUP,
            results=groups * self.points * written * panels * self.vectors * self._moved,
            sum_tiles=sum_tiles,
        )

    def ways(self) -> tuple[Way, ...]:
        """Those that are worth trying, whatever batch and length; at least one."""
        key = (
            self.problem.layer, self.request.device, self.outputs, self.channels, self.vectors
        )  # fmt: skip
        return _ways.get(key) or _ways.set_default(key, tuple(self._ways()))

    def _ways(self) -> Iterator[Way]:
        """One block of all channels, blocks of a half of them, and so on, that have room."""
        for block_m in _blocks(self.tiles.written, self.lanes):
            for block_c in _blocks(self.tiles.channels, self.panel):
                if self.places(block_m, block_c)[0]:
                    yield self.way(block_m, block_c)

    def blocks(self) -> Blocks:
        """The cheapest way to cut the work into tasks."""
        return _cheapest(self)

    def tally(self, blocks: Blocks, tiles: float, shares: int) -> Tally:
        """Of so many tiles of all rows and lines, cut so, and of the results."""
        way = self.way(blocks.block_m, blocks.block_c)
        setup = way.setup(tiles / blocks.tiles, shares)
        made = Tally(staging=tiles * way.staging, setup=setup, stores=way.stores(shares))
        made.sums(self.tap, tiles * way.sum_tiles)
        return made

    def most_shares(self, way: Way, chunks: int) -> int:
        """As many as there are chunks, and as workspaces may hold."""
        a_share = self.share_elements(way) * self.item_bytes
        return min(chunks, int(partials_limit(self.request, a_share) // a_share))

    def c_pitch(self, cut: Way | Blocks) -> int:
        """Sums from a channel of y to the next one. Parts of rows that are powers of two apart
        would share few sets of a cache."""
        row = cut.c_blocks * cut.block_c
        return padded(row, self.item_bytes) if cut.c_blocks > 1 else row

    def share_elements(self, cut: Way | Blocks) -> int:
        """Sums of a share, at all points."""
        return self.points * self.problem.groups * self.tiles.written * self.c_pitch(cut)

    # Costs

    def cost(self) -> Cost:
        """Without what depends on how tiles fill chunks and rows."""
        positions = self.problem.batch * self.tiles.positions / self.outputs
        return self._cost(self.blocks()._replace(shares=1), positions, 1)

    def predicted(self) -> Cost:
        """Of this very request, launches included."""
        blocks, device, tiles = self.blocks(), self.request.device, self.tiles
        tasks = self.problem.groups * blocks.m_blocks * blocks.c_blocks * blocks.shares
        waiting = rounded(tasks, device.compute_units) / tasks
        made = self._cost(blocks, self.problem.batch * tiles.row_tiles * tiles.lines, blocks.shares)
        return (made * waiting).launched(2 * device.launch_seconds)

    def _cost(self, blocks: Blocks, tiles: float, shares: int) -> Cost:
        made = self.tally(blocks, tiles, shares)
        if self.request.epilogue.bias:  # of another kernel
            problem = self.problem
            values = problem.batch * problem.out_channels * problem.out_length
            made.add("memory", values * self.core.width * 32 / self.lanes / cost.IN_PLACE_BYTES)
        return made.cost(self.core.cycle) * cost.WINOGRAD_MARGIN


_ways: Bounded[Hashable, tuple[Way, ...]] = Bounded(WAYS_KEPT)


@lru_cache(maxsize=BLOCKS_KEPT)
def _cheapest(gradient: Gradient) -> Blocks:
    """Of all ways to cut the work of a gradient."""
    batch, tiles, groups = gradient.problem.batch, gradient.tiles, gradient.problem.groups
    rows, lines = batch * tiles.row_tiles, tiles.lines
    cores, tap = gradient.request.device.compute_units, gradient.tap.cycles
    ways = gradient.ways()
    fewest = min(FEWEST_TILES, tiles.row_tiles * lines)
    fewest = min(fewest, max(way.places * way.block_lines for way in ways))
    best, least = None, math.inf
    for way in ways:
        if way.places * way.block_lines < fewest:
            continue
        all_places = rows * way.line_blocks
        chunks = max(1, ceil_div(all_places, way.places))
        places = max(1, ceil_div(all_places, chunks))
        chunk_tiles = places * way.block_lines
        made = rows * lines * (way.staging + way.sum_tiles * tap)
        a_group = way.m_blocks * way.c_blocks * groups
        most = max(1, gradient.most_shares(way, chunks))
        for shares in sorted({1, *(ceil_div(some * cores, a_group) for some in TASKS_A_CORE)}):
            if shares > most:
                break
            tasks = a_group * shares
            cycles = made + way.setup(rows * lines / chunk_tiles, shares) + way.stores(shares)
            cycles *= rounded(tasks, cores) / tasks
            if cycles < least:
                best, least = (way, chunk_tiles, places, chunks, shares), cycles
    assert best is not None  # some way has the fewest tiles
    way, chunk_tiles, places, chunks, shares = best
    return Blocks(
        way.block_m, way.block_c, way.m_blocks, way.c_blocks, chunk_tiles, way.line_blocks,
        way.block_lines, places, chunks, shares,
    )  # fmt: skip


def _blocks(channels: int, least: int) -> Iterator[int]:
    """The channels of a block, multiples of `least`: from all of them to that."""
    before = 0
    for parts in chain(FEW_PARTS, (FEW_PARTS[-1] << i for i in count(1))):
        block = rounded(ceil_div(channels, parts), least)
        if block != before:
            yield block
        if block == least:
            return
        before = block


def gradients(request: Request) -> Iterator[Gradient]:
    """What designs are of: tiles whose sums fit the registers, whose samples fit into memory, and
    no wider than all channels."""
    for outputs in tile_outputs(request.problem):
        for channels, vectors in registers_hold(request):
            one = Gradient(request, outputs, channels, vectors)
            wide = one.vectors > 1 and (one.vectors - 1) * one.lanes >= one.tiles.channels
            tall = one.channels > 1 and one.channels // 2 >= one.tiles.written
            few = one.channels * one.vectors < min(8, one.tiles.written)
            if not (wide or tall or few) and one.places(one.lanes, one.panel)[0]:
                yield one


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of outputs and of sums, which ask for the widest vectors."""
    for one in gradients(request.asking()):
        yield _design(one)


def _design(gradient: Gradient) -> Design:
    request, form = gradient.request, gradient.tiles.transform
    constants = (
        *common_constants(request, gradient.lanes),
        ("form", form),
        ("steps", steps),
        ("transposed", transposed),
        ("dilation", gradient.tiles.lines),
    )
    raw = f"{gradient.raw_positions} * LANES"
    products = Kernel(
        "weight_gradient_winograd",
        (
            *constants,
            ("channel_tile", gradient.channels),
            ("vectors", gradient.vectors),
            ("arrays", (("SUM", "data", str(gradient.data_elements)), ("SUM", "raw", raw))),
        ),
        (Operand("x", Layout.ROWS), Operand("y", Layout.ROWS), TRANSFORMED_RESULT),
        (
            *scalars("length out_length pad channels written row_tiles"),
            *scalars("block_m block_c m_blocks c_blocks y_pitch chunk_tiles"),
            *scalars("line_blocks block_lines chunk_places group_count"),
            *scalars(long_names="places chunks c_pitch shares tasks"),
        ),
        (1, 1, 1),
    )
    results = Kernel(
        "weight_results_winograd",
        constants,
        (
            replace(TRANSFORMED_RESULT, written=False),
            Operand("x", Layout.ROWS),
            Operand("y", Layout.ROWS),
            Operand("result", Layout.FLAT, written=True),
        ),
        (
            *scalars("batch length out_length pad channels written shares"),
            *scalars(long_names="plane c_pitch tasks"),
            *ACCUMULATION,
        ),
        (1, 1, 1),
    )

    def there(wanted: Request) -> Gradient:
        return replace(gradient, request=replace(wanted, device=request.device))

    def schedule(wanted: Request) -> Schedule:
        return _schedule(products, results, there(wanted))

    def predicted(wanted: Request) -> Cost:
        return there(wanted).predicted()

    tile = {
        "outputs": gradient.outputs, "channel_tile": gradient.channels,
        "vectors": gradient.vectors, "lanes": gradient.lanes,
    }  # fmt: skip
    return Design(
        tile, (products, results), gradient.cost(), schedule, predicted=predicted, decides=True
    )


def _schedule(products: Kernel, results: Kernel, gradient: Gradient) -> Schedule:
    """The products of all shares, and their sums' way back. Without a batch there are no shares."""
    problem, tiles, cut = gradient.problem, gradient.tiles, gradient.blocks()
    shares = cut.shares if problem.batch else 0
    c_pitch = gradient.c_pitch(cut)
    rows = problem.groups * tiles.written
    common = {
        "length": problem.length, "out_length": problem.out_length, "pad": problem.pads[0],
        "channels": tiles.channels, "written": tiles.written, "c_pitch": c_pitch, "shares": shares,
    }  # fmt: skip
    tasks = problem.groups * cut.m_blocks * cut.c_blocks * shares
    launches = []
    if shares:
        launches.append(
            products.launch(
                (grid(tasks), 1, 1), **common,
                row_tiles=tiles.row_tiles, block_m=cut.block_m, block_c=cut.block_c,
                m_blocks=cut.m_blocks, c_blocks=cut.c_blocks,
                y_pitch=gradient.y_pitch(cut.block_m), chunk_tiles=cut.tiles,
                line_blocks=cut.line_blocks, block_lines=cut.block_lines,
                chunk_places=cut.chunk_places, group_count=problem.groups,
                places=problem.batch * tiles.row_tiles * cut.line_blocks, chunks=cut.chunks,
                tasks=tasks,
            )
        )  # fmt: skip
    launches.append(
        results.launch(
            (grid(rows), 1, 1), **common,
            batch=problem.batch, plane=rows * c_pitch, tasks=rows,
        )
    )  # fmt: skip
    sums = accumulator(problem.dtype)
    elements = max(shares, 1) * gradient.share_elements(cut)
    return Schedule(tuple(launches), (Workspace("transformed_result", sums, elements),))
