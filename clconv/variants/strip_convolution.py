"""The forward pass and the input gradient by strips: tiles, blocks and their modelled cost.

Costs are in cycles of a core that does two vector multiply-adds and two vector loads a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import (
    Candidate,
    Launch,
    Layout,
    Operand,
    Request,
    Scalar,
    accumulator,
    ceil_div,
    common_constants,
    epilogue_operands,
    grid,
    vector_lanes,
)

__all__ = ["LEAST_LOCAL_BYTES", "candidates", "refusal"]

LEAST_LOCAL_BYTES = 64 << 10
# More than this lies outside a core's second-level cache on many CPUs.
MOST_LOCAL_BYTES = 256 << 10
# How local memory is shared out: the strip, sums that wait, the rest (weights, woven phases).
STRIP_SHARE, HELD_SHARE, REST_SHARE = 3 / 8, 3 / 8, 1 / 4
# Channels that a strip holds at once: more do not pay, their weights leave the first-level cache.
MOST_TERMS, FEWEST_TERMS = 128, 16
# Vectors of positions that a task takes at most, and about as many where the row is longer.
MOST_VECTORS = 96
# The positions for which it is decided at build time how the rows of a strip lie.
TYPICAL_POSITIONS = 192
# Tasks a core at least, where there is enough work: they are not equally long.
TASKS_A_CORE = 4
# Modelled costs in cycles: staging a row, and a vector of it; a tile's set-up, and a vector of
# sums that is stored; waiting sums; the latency of a chain of sums.
STAGE_ROW, STAGE_VECTOR = 25.0, 3.0
TILE_SETUP, STORE_VECTOR, HOLD_VECTOR, LATENCY = 40.0, 8.0, 2.0, 5.0
TASK_SETUP = 2000.0
# Bytes of weights that come from the second-level cache in a cycle.
WEIGHT_BYTES = 8.0


@dataclass(frozen=True)
class Geometry:
    """What a strip has to hold, decided by layer and device."""

    request: Request

    @cached_property
    def forward(self) -> bool:
        """Or the input gradient."""
        return self.request.pass_ is Pass.FORWARD

    @property
    def terms(self) -> int:
        """Channels summed over, a group."""
        problem = self.request.problem
        return problem.group_in if self.forward else problem.group_out

    @property
    def channels(self) -> int:
        """Channels written, a group."""
        problem = self.request.problem
        return problem.group_out if self.forward else problem.group_in

    @property
    def phases(self) -> int:
        """Interleaved convolutions."""
        return 1 if self.forward else self.request.problem.stride

    @property
    def positions(self) -> int:
        """Of a phase."""
        problem = self.request.problem
        return problem.out_length if self.forward else problem.phase_positions

    @cached_property
    def lanes(self) -> int:
        """Positions of a vector."""
        return vector_lanes(self.request.device, self.request.problem.dtype)

    @cached_property
    def item_bytes(self) -> int:
        """Of an element of the strip."""
        return accumulator(self.request.problem.dtype).itemsize

    def local_elements(self, share: float) -> int:
        """Elements that a share of local memory has."""
        most = min(self.request.device.local_bytes, MOST_LOCAL_BYTES)
        return int(most * share) // self.item_bytes // 64 * 64

    def _reach(self, rows: int) -> int:
        problem = self.request.problem
        return (ceil_div(problem.kernel_size, rows) - 1) * (
            rows * problem.dilation // problem.stride
        )

    @cached_property
    def rows(self) -> int:
        """Rows of the strip a channel: a row serves every rows-th tap."""
        problem = self.request.problem
        if not self.forward:
            return 1
        fewest = problem.phase_tap_step
        rows = min(fewest, problem.kernel_size)
        one_a_tap = ceil_div(problem.kernel_size, fewest) * fewest
        # Taps far apart: a row for each is shorter than rows which reach across.
        apart = min(one_a_tap, problem.kernel_size) * TYPICAL_POSITIONS
        if rows * (TYPICAL_POSITIONS + self._reach(rows)) > 1.5 * apart:
            rows = problem.kernel_size
        return rows

    @cached_property
    def spacing(self) -> int:
        """Elements of a row between its taps."""
        problem = self.request.problem
        return self.rows * problem.dilation // problem.stride if self.reach else 0

    @cached_property
    def reach(self) -> int:
        """Elements of a row beyond its positions."""
        if not self.forward:
            low, high = self.request.problem.phase_reach
            return high - low
        return self._reach(self.rows) if self.rows < self.request.problem.kernel_size else 0

    def pitch(self, vectors: int) -> int:
        """Elements from a row to the next: an odd number of cache lines, so that the rows of
        neighbouring channels do not fall on the same lines of the cache."""
        line = 64 // self.item_bytes
        lines = ceil_div(vectors * self.lanes + self.reach, line)
        return (lines | 1 if lines > 4 else lines) * line

    def strip_elements(self, vectors: int) -> int:
        """Of one channel and one row of x."""
        return self.rows * self.pitch(vectors)


def refusal(request: Request) -> str | None:
    """Why strips cannot serve: not even the smallest fits."""
    geometry = Geometry(request)
    if geometry.strip_elements(1) > geometry.local_elements(STRIP_SHARE):
        return (
            f"a strip of one channel takes {geometry.strip_elements(1)} elements of local memory, "
            f"it has room for {geometry.local_elements(STRIP_SHARE)}"
        )
    if geometry.phases * geometry.lanes > geometry.local_elements(REST_SHARE) // 2:
        return f"stride is {request.problem.stride}, whose phases do not fit into local memory"
    return None


def tile_cycles(channel_tile: int, vectors: int) -> float:
    """Cycles of one tap of a tile in registers."""
    sums = channel_tile * vectors
    # A broadcast weight is a load too, and every instruction takes its place.
    return max(sums / 2, (channel_tile + vectors) / 2, LATENCY) + 0.05 * (channel_tile + vectors)


def candidates(request: Request) -> Iterator[Candidate]:
    """A candidate for each tile that fits the registers."""
    geometry = Geometry(request)
    registers = request.device.vector_registers
    most = registers * 3 // 4
    for channel_tile in range(min(8, geometry.channels), 0, -1):
        for vectors in range(most // channel_tile, 0, -1):
            if vectors + channel_tile * vectors + 1 > registers:
                continue
            if 2 * channel_tile * vectors < most and vectors * channel_tile < 8:
                continue
            candidate = _candidate(geometry, channel_tile, vectors)
            if candidate is not None:
                yield candidate


@dataclass(frozen=True)
class _Blocks:
    """How the work is cut at run time: which positions, batch elements and channels a task has."""

    chunk_vectors: int  # vectors of a row
    block_rows: int  # batch elements
    task_tiles: int  # tiles of channels
    tasks: int
    cycles: float


def _candidate(geometry: Geometry, channel_tile: int, vectors: int) -> Candidate | None:
    request = geometry.request
    problem = request.problem
    kernel_size = problem.kernel_size
    strip = geometry.local_elements(STRIP_SHARE)
    if geometry.strip_elements(vectors) > strip:
        return None
    woven = channel_tile * vectors * geometry.lanes * geometry.phases if geometry.phases > 1 else 0
    # Converting weights of 16 bits at every use costs more than keeping a tile's converted.
    packed = problem.dtype == np.float16
    # A tile's weights stay in the first-level cache.
    weights = channel_tile * kernel_size * geometry.item_bytes
    wanted = request.device.l1_bytes // 2 // weights
    wanted = min(max(wanted, FEWEST_TERMS), MOST_TERMS, strip // geometry.strip_elements(vectors))
    if packed:
        room = geometry.local_elements(REST_SHARE) - woven
        wanted = min(wanted, room // (channel_tile * kernel_size))
    if wanted < 1 or woven > geometry.local_elements(REST_SHARE):
        return None
    term_block = geometry.terms
    if term_block > wanted:
        term_block = ceil_div(term_block, ceil_div(term_block, wanted))
    held = geometry.local_elements(HELD_SHARE) if term_block < geometry.terms else 0
    if held and channel_tile * vectors * geometry.lanes * geometry.phases > held:
        return None
    blocks = _blocks(geometry, channel_tile, vectors, term_block, strip, held)
    tile = {
        "channel_tile": channel_tile,
        "vectors": vectors,
        "lanes": geometry.lanes,
        "term_block": term_block,
        "rows": geometry.rows,
    }
    launch = Launch(
        "convolution_strip",
        common_constants(request, geometry.lanes)
        + (
            ("backward", not geometry.forward),
            ("terms", geometry.terms),
            ("channels", geometry.channels),
            ("groups", problem.groups),
            ("kernel_size", kernel_size),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("common", problem.tap_phase_gcd),
            ("tap_inverse", problem.phase_tap_inverse),
            ("channel_tile", channel_tile),
            ("vectors", vectors),
            ("rows", geometry.rows),
            ("spacing", geometry.spacing),
            ("term_block", term_block),
            ("strip_elements", strip),
            ("held_elements", held),
            ("packed", packed),
            (
                "weight_strides",
                (geometry.terms * kernel_size, kernel_size)
                if geometry.forward
                else (kernel_size, geometry.channels * kernel_size),
            ),
            ("activation", request.epilogue.activation),
        ),
        (
            Operand("x", Layout.ROWS),
            Operand("weight", Layout.FLAT),
            *epilogue_operands(request),
            Operand("y", Layout.ROWS, written=True),
        ),
        _scalars(geometry, vectors, blocks),
        (grid(blocks.tasks), 1, 1),
        (1, 1, 1),
    )
    return Candidate(tile, (launch,), 0, _cost(geometry, channel_tile, vectors, term_block, packed))


def _scalars(geometry: Geometry, vectors: int, blocks: _Blocks) -> tuple[Scalar, ...]:
    problem = geometry.request.problem
    row_vectors = ceil_div(geometry.positions, geometry.lanes)
    chunks = ceil_div(row_vectors, blocks.chunk_vectors)
    pitch = geometry.pitch(blocks.chunk_vectors)
    return (
        Scalar("batch", "int", problem.batch),
        Scalar("length", "int", problem.length),
        Scalar("out_length", "int", problem.out_length),
        Scalar("pad", "int", problem.pads[0]),
        Scalar("reach_low", "int", 0 if geometry.forward else problem.phase_reach[0]),
        Scalar("row_vectors", "int", row_vectors),
        Scalar("chunk_vectors", "int", blocks.chunk_vectors),
        Scalar("chunks", "int", chunks),
        Scalar("block_rows", "int", blocks.block_rows),
        Scalar("position_blocks", "long", ceil_div(problem.batch, blocks.block_rows) * chunks),
        Scalar("task_tiles", "int", blocks.task_tiles),
        Scalar("tasks", "long", blocks.tasks),
        Scalar("tap_row_pitch", "int", pitch),
        Scalar("row_pitch", "int", pitch * geometry.rows),
        Scalar("channel_pitch", "int", pitch * geometry.rows * blocks.block_rows),
        Scalar(
            "held_vectors",
            "int",
            ceil_div(blocks.chunk_vectors * blocks.block_rows, vectors) * vectors,
        ),
        Scalar("slope", "SUM"),
    )


def _blocks(
    geometry: Geometry, channel_tile: int, vectors: int, term_block: int, strip: int, held: int
) -> _Blocks:
    """The cheapest way to cut the work of a problem whose kernel is given."""
    problem = geometry.request.problem
    row_vectors = ceil_div(geometry.positions, geometry.lanes)
    most = strip // term_block  # elements a channel
    found: list[_Blocks] = []
    wanted = vectors
    while True:
        if wanted >= row_vectors:
            # Whole rows; as many as wanted and possible, in full tiles where that can be had.
            chunk = row_vectors
            fitting = min(most // geometry.strip_elements(chunk), max(problem.batch, 1))
            rows_wanted = ceil_div(wanted, chunk)
            options = {max(1, min(fitting, r)) for r in range(rows_wanted, rows_wanted + vectors)}
        else:
            chunk, fitting, options = wanted, most // geometry.strip_elements(wanted), {1}
        if fitting >= 1:
            for rows in options:
                found += _with_channels(
                    geometry, channel_tile, vectors, term_block, held, chunk, rows
                )
        if wanted >= MOST_VECTORS or (fitting < 1 and found):
            break
        wanted = min(wanted * 2, MOST_VECTORS)
    if not found:
        # Nothing but a vector at a time fits.
        found += _with_channels(geometry, channel_tile, vectors, term_block, held, 1, 1)
    return min(found, key=lambda b: b.cycles)


def _with_channels(
    geometry: Geometry,
    channel_tile: int,
    vectors: int,
    term_block: int,
    held: int,
    chunk: int,
    rows: int,
) -> Iterator[_Blocks]:
    """Blocks of those positions with the channels cut in several ways."""
    problem, device = geometry.request.problem, geometry.request.device
    tiles = ceil_div(geometry.channels, channel_tile)
    row_vectors = ceil_div(geometry.positions, geometry.lanes)
    position_blocks = ceil_div(problem.batch, rows) * ceil_div(row_vectors, chunk)
    slots = ceil_div(chunk * rows, vectors) * vectors
    most_tiles = tiles * problem.groups
    if held:
        most_tiles = min(tiles, held // (channel_tile * slots * geometry.lanes * geometry.phases))
        if not most_tiles:
            return
    blocks = ceil_div(geometry.terms, term_block)
    taps = geometry.terms * problem.kernel_size
    steps = slots // vectors
    # Weights stay in the first-level cache from the second step on.
    weights = channel_tile * taps * geometry.item_bytes / WEIGHT_BYTES
    tile_cost = weights + steps * (
        taps * tile_cycles(channel_tile, vectors)
        + geometry.phases
        * (
            blocks * (TILE_SETUP + (blocks > 1) * HOLD_VECTOR * channel_tile * vectors)
            + STORE_VECTOR * channel_tile * vectors
        )
    )
    strip_cost = (
        geometry.terms
        * rows
        * (
            geometry.rows * STAGE_ROW
            + STAGE_VECTOR * geometry.strip_elements(chunk) / geometry.lanes
        )
    )
    cores = device.compute_units
    wanted_parts = {1, ceil_div(tiles * problem.groups, most_tiles)}
    for tasks_wanted in (1, 2, TASKS_A_CORE, 2 * TASKS_A_CORE):
        wanted_parts.add(ceil_div(tasks_wanted * cores, max(position_blocks, 1)))
    for parts in sorted(wanted_parts):
        task_tiles = max(1, min(most_tiles, ceil_div(tiles * problem.groups, parts)))
        if task_tiles > tiles:  # whole groups
            task_tiles = ceil_div(task_tiles, tiles) * tiles
        else:  # equal parts of a group, for a core's share must not be longer than another's
            task_tiles = ceil_div(tiles, ceil_div(tiles, task_tiles))
        channel_parts = ceil_div(tiles * problem.groups, task_tiles)
        tasks = position_blocks * channel_parts
        groups_a_task = max(1.0, task_tiles / tiles)
        cycles = task_tiles * tile_cost + groups_a_task * strip_cost + TASK_SETUP
        yield _Blocks(chunk, rows, task_tiles, tasks, ceil_div(tasks, cores) * cycles)


def _cost(
    geometry: Geometry, channel_tile: int, vectors: int, term_block: int, packed: bool
) -> float:
    """Modelled seconds: without anything that hangs on how positions fill tiles, which would make
    the choice depend on batch and length."""
    problem, device = geometry.request.problem, geometry.request.device
    tiles = ceil_div(geometry.channels, channel_tile)
    blocks = ceil_div(geometry.terms, term_block)
    cycles = geometry.terms * problem.kernel_size * tile_cycles(channel_tile, vectors)
    if packed:
        cycles += (
            geometry.terms
            * problem.kernel_size
            * 1.5
            * channel_tile
            * vectors
            * geometry.lanes
            / TYPICAL_POSITIONS
        )
    cycles += geometry.phases * (
        TILE_SETUP * blocks + (STORE_VECTOR + (blocks - 1) * HOLD_VECTOR) * channel_tile * vectors
    )
    a_vector = tiles * cycles / vectors + geometry.terms * STAGE_VECTOR
    total = problem.batch * geometry.positions / geometry.lanes * problem.groups * a_vector
    return total / (device.compute_units * 2e9)
