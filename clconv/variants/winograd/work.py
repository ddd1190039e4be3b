"""How much is computed at a time? Tiles of sums, blocks of vectors, tasks, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from clconv.planning import cost
from clconv.planning.cost import Core, Cost, Sums, Tally
from clconv.problem import Conv1dProblem
from clconv.variants.base import Request, accumulator, ceil_div, rounded, vector_lanes
from clconv.variants.winograd.tiles import Tiles

__all__ = ["LEAST_LOCAL_BYTES", "Blocks", "Work"]

LEAST_LOCAL_BYTES = 64 << 10
# Transformed samples and their sums take these parts of local memory, of which more than so many
# bytes lies outside a core's second-level cache on many CPUs; the rest is for samples as they are.
MOST_LOCAL_BYTES, DATA_SHARE, SUMS_SHARE = 256 << 10, 25 / 32, 3 / 16
# Or this part of the second-level cache, if they are in global memory.
SCRATCH_SHARE = 5 / 8
# Vectors of tiles of a task at most: their sums at all points stay in the first-level cache.
MOST_VECTORS = 8
# Tasks a core, where there is enough work: they are not equally long.
TASKS_A_CORE = 4
# A call of so many elements of x or y, whose weights are transformed once, and positions of a row
# that is neither short nor long: what designs are chosen for (estimates).
TYPICAL_ELEMENTS, TYPICAL_ROW = 2**20, 1024


class Blocks(NamedTuple):
    """How the work is cut: vectors of tiles, and tiles of channels, of a task."""

    vectors: int
    part_tiles: int
    position_blocks: int
    parts: int
    tasks: int
    cycles: float


@dataclass(frozen=True)
class Work:
    """A request by tiles of `outputs` results, with channels times vectors of sums in registers.
    Phases of a channel count as channels here."""

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
        """The tiles of outputs."""
        return Tiles(self.problem, self.request.pass_, self.outputs)

    @cached_property
    def core(self) -> Core:
        """What work takes."""
        return cost.core(self.request.device)

    @cached_property
    def lanes(self) -> int:
        """Tiles of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    @cached_property
    def item_bytes(self) -> int:
        """Of a transformed element."""
        return int(accumulator(self.problem.dtype).itemsize)

    @property
    def lines_side_by_side(self) -> bool:
        """Whether the lanes of a vector are lines of a dilation, not tiles of one line."""
        return self.tiles.lines >= self.lanes

    @property
    def sums(self) -> int:
        """Vectors of sums in registers."""
        return self.channels * self.vectors

    @property
    def channel_tiles(self) -> int:
        """Tiles of channels written, of a group."""
        return ceil_div(self.tiles.columns, self.channels)

    @property
    def weight_plane(self) -> int:
        """Elements of a tile's transformed weights at a point, and a line more: see `plane`."""
        return self.channels * self.tiles.channels + self.line

    @property
    def plane(self) -> int:
        """Vectors of transformed samples at a point, and a line more: at a distance of pages, all
        points of a channel would share a few lines of the first-level cache."""
        return self.vectors * self.tiles.channels + ceil_div(self.line, self.lanes)

    @property
    def line(self) -> int:
        """Elements of a cache's line."""
        return cost.LINE_BYTES // self.item_bytes

    @property
    def transformed_weights(self) -> int:
        """Elements."""
        return self.problem.groups * self.channel_tiles * self.tiles.points * self.weight_plane

    def weight_rate(self, part_tiles: float) -> float:
        """Bytes of transformed weights that a core gets in a cycle, from where those of a task's
        tiles of channels fit: the tasks before and after it have the same."""
        device = self.request.device
        held = part_tiles * self._tile_bytes
        if held <= device.l2_bytes * cost.WINOGRAD_CACHED:
            return cost.WEIGHT_BYTES
        near = held <= device.l3_bytes * cost.WINOGRAD_CACHED
        return cost.WINOGRAD_NEAR_BYTES if near else cost.WINOGRAD_FAR_BYTES

    @cached_property
    def local_bytes(self) -> int:
        """That the kernel may use."""
        return min(self.request.device.local_bytes, MOST_LOCAL_BYTES)

    @property
    def data_elements(self) -> int:
        """Transformed samples that local memory has room for."""
        return int(self.local_bytes * DATA_SHARE) // self.item_bytes

    @property
    def most_vectors(self) -> int:
        """Vectors of tiles of a task at most, a multiple of those of sums; 0 where none fit."""
        return min(self._fitting(self._room), self.held_vectors // self.vectors * self.vectors)

    @property
    def held_vectors(self) -> int:
        """Vectors of tiles whose sums at all points local memory has room for."""
        room = int(self.local_bytes * SUMS_SHARE) // self.item_bytes
        return min(MOST_VECTORS, room // (self.tiles.points * self.channels * self.lanes))

    def _fitting(self, elements: int) -> int:
        """Vectors of tiles whose transformed samples are so many elements."""
        return elements // self.scratch_elements(self.vectors) * self.vectors

    @cached_property
    def scratch(self) -> bool:
        """Whether transformed samples are in global memory, since local memory has no room for a
        tile's vectors of them. They are to stay in the second-level cache."""
        return self._fitting(self.data_elements) < self.vectors

    @property
    def _room(self) -> int:
        if self.scratch:
            return int(self.request.device.l2_bytes * SCRATCH_SHARE) // self.item_bytes
        return self.data_elements

    def scratch_elements(self, vectors: int) -> int:
        """Of a work-group whose tasks have so many vectors."""
        return vectors // self.vectors * self.tiles.points * self.plane * self.lanes

    # How tiles lie in vectors

    @property
    def row_vectors(self) -> int:
        """Where a vector has tiles of one row alone: those of a row, of a line or place."""
        if self.lines_side_by_side:
            return ceil_div(self.tiles.lines, self.lanes)
        return ceil_div(self.tiles.row_tiles, self.lanes)

    @property
    def all_vectors(self) -> int:
        """Of tiles of all rows."""
        tiles = self.tiles
        if tiles.lines == 1:
            return ceil_div(self.problem.batch * tiles.row_tiles, self.lanes)
        places = tiles.row_tiles if self.lines_side_by_side else tiles.lines
        return self.problem.batch * places * self.row_vectors

    # Cycles

    @cached_property
    def tap(self) -> Sums:
        """Of a channel's products at a point."""
        folded = self.vectors == 1 and self.request.device.vector_floats > 8
        return self.core.sums(self.sums, self.channels, self.vectors, folded=folded)

    @cached_property
    def stage(self) -> float:
        """Of a channel's samples of a vector of tiles, transformed."""
        return cost.WINOGRAD_STAGE * self._moved * self.tiles.points + self._single(self._samples)

    @cached_property
    def store(self) -> float:
        """Of a channel's results of a vector of tiles."""
        return cost.WINOGRAD_STORE * self._moved * self.outputs + self._single(
            self.outputs * self.lanes
        )

    @property
    def _samples(self) -> int:
        form = self.tiles.transform
        return form.step * (self.lanes - 1) + form.samples

    def _single(self, elements: int) -> float:
        """Where positions of a line do not lie side by side, element by element."""
        if self.tiles.lines == 1 or self.lines_side_by_side:
            return 0.0
        return elements * cost.WINOGRAD_ELEMENT

    @property
    def _moved(self) -> float:
        """A vector, in cycles of a multiply-add of it, with which all else goes."""
        return 2 * self.core.multiply_add

    @property
    def _tile_bytes(self) -> int:
        """Of a tile of channels: its transformed weights at all points."""
        return self.channels * self.tiles.channels * self.tiles.points * self.item_bytes

    @property
    def row_ends(self) -> int:
        """Parts of vectors that are staged and stored for themselves, since a row ends in their
        vector, or begins."""
        if self.tiles.lines > 1:
            return 0
        batch = self.problem.batch
        return batch + min(batch, self.all_vectors)

    def task_cycles(self, vectors: float, part_tiles: float) -> float:
        """Of a task of so many vectors and tiles of channels."""
        channels = self.tiles.channels
        products = vectors / self.vectors * self.tiles.points
        # Weights come while the products before them are made.
        weights = self._tile_bytes / self.weight_rate(part_tiles)
        a_tile = max(products * channels * self.tap.cycles, weights)
        a_tile += products * cost.WINOGRAD_LOOP
        a_tile += vectors * self.channels * self.store
        return cost.TASK_SETUP + vectors * channels * self.stage + part_tiles * a_tile

    def blocks(self) -> Blocks:
        """The cheapest way to cut the work into tasks."""
        cores, groups = self.request.device.compute_units, self.problem.groups
        all_vectors = self.all_vectors
        found = []
        for vectors in range(self.vectors, max(self.most_vectors, self.vectors) + 1, self.vectors):
            blocks = ceil_div(all_vectors, vectors)
            for wanted in (1, cores, TASKS_A_CORE * cores):
                parts = min(ceil_div(wanted, max(blocks * groups, 1)), self.channel_tiles)
                part_tiles = ceil_div(self.channel_tiles, parts)
                parts = ceil_div(self.channel_tiles, part_tiles)
                tasks = blocks * parts * groups
                cycles = self.task_cycles(vectors, part_tiles)
                waits = (ceil_div(tasks, cores) + cost.LAST_TASK) * cycles
                found.append(Blocks(vectors, part_tiles, blocks, parts, tasks, waits))
        return min(found, key=lambda one: (one.cycles, one.tasks))

    # Costs

    def cost(self) -> Cost:
        """Without anything that depends on how positions fill vectors, for calls of many positions,
        which transform their weights once."""
        problem, tiles = self.problem, self.tiles
        vectors = problem.batch * tiles.phase_positions / (self.outputs * self.lanes)
        vectors *= 1 + self.lanes * self.outputs * tiles.lines / 2 / max(TYPICAL_ROW, tiles.lines)
        call = TYPICAL_ELEMENTS / max(problem.in_channels, problem.out_channels)
        calls = problem.batch * tiles.phase_positions / max(call, TYPICAL_ROW)
        made = self._tally(vectors, 1, self.most_vectors, calls, 0.0).cost(self.core.cycle)
        return made * cost.WINOGRAD_MARGIN

    def predicted(self) -> Cost:
        """Of this very request, launches included."""
        blocks, device = self.blocks(), self.request.device
        made = self._tally(self.all_vectors, blocks.parts, blocks.vectors, 1, self.row_ends)
        tasks = max(blocks.tasks, 1)
        waiting = cost.WINOGRAD_MARGIN * rounded(tasks, device.compute_units) / tasks
        launches = 1 if self.request.kept else 2
        return (made.cost(self.core.cycle) * waiting).launched(launches * device.launch_seconds)

    def _tally(
        self, vectors: float, parts: int, block: int, calls: float, row_ends: float
    ) -> Tally:
        """So many vectors of tiles of each group, in tasks of `block` of them, with the weights'
        transforms of so many calls."""
        tiles, groups = self.tiles, self.problem.groups
        blocks = vectors / max(block, 1)
        products = groups * vectors / self.vectors * self.channel_tiles * tiles.points
        weights = 0.0
        if not self.request.kept:
            weights = calls * groups * tiles.columns * tiles.channels * cost.WINOGRAD_WEIGHT
        ends = groups * row_ends * cost.WINOGRAD_END * self._moved
        tally = Tally(
            staging=groups * vectors * parts * tiles.channels * self.stage
            + ends * parts * tiles.channels
            + weights,
            stores=groups * vectors * tiles.columns * self.store + ends * tiles.columns,
            setup=products * cost.WINOGRAD_LOOP + groups * blocks * parts * cost.TASK_SETUP,
        )
        summed = Tally()
        summed.sums(self.tap, products * tiles.channels)
        made = summed.cost(1.0)
        passing = blocks * groups * self.channel_tiles * self._tile_bytes
        rate = self.weight_rate(self.channel_tiles / parts)
        tally.overlapped(made.parts, {"memory": passing / rate})
        return tally


def registers_hold(request: Request) -> Iterator[tuple[int, int]]:
    """Channels and vectors of sums that fit a core's registers."""
    device = request.device
    most = min(device.vector_registers * 3 // 4, 24)
    for channels in (8, 6, 4, 2, 1):
        for vectors in (1, 2, 4):
            sums = channels * vectors
            if sums <= most and sums + vectors + 1 <= device.vector_registers:
                yield channels, vectors
