"""The forward pass and the input gradient of one tap: tiles, and how the work is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from clconv.planning import cost
from clconv.planning.cost import Core, Cost, Sums, Tally
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import (
    Design,
    Kernel,
    Request,
    Schedule,
    accumulator,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    scalars,
    vector_lanes,
)

__all__ = ["LEAST_LOCAL_BYTES", "designs"]

LEAST_LOCAL_BYTES = 64 << 10
# The shares of the panel and of spilled sums in local memory, of which more than this lies outside
# a core's second-level cache on many CPUs.
MOST_LOCAL_BYTES, PANEL_SHARE, SPILL_SHARE = 256 << 10, 1 / 2, 1 / 4
# Products of a sum, so few that asking for wider vectors makes it no faster.
FEW_PRODUCTS = 16
# Channels of tiles at most, and vectors: three of them, which rows are seldom a multiple of, are
# for cores whose few registers have no room for better.
MOST_CHANNELS, VECTORS, FEW_REGISTERS = 8, (1, 2, 4, 8), 16
# The weights of a block of tiles take this part of the second-level cache.
WEIGHTS_SHARE = 1 / 2
# Places that a task takes at most, and tasks a core where there is enough work: they are not
# equally long.
MOST_PLACES, TASKS_A_CORE = 256, 4
# Activations that cost less than a call, and are written at each store.
PLAIN_ACTIVATIONS = (None, "relu", "leaky_relu")
# Weights from a channel summed over to the next, so few that an int counts those of all channels.
SHORT_INDEX = 2**31

SCALARS = (
    *scalars("x_length positions shift term_count flat task_tiles block_tiles"),
    *scalars(long_names="total chunk_places places chunks position_blocks tasks"),
    *scalars(sum_names="slope"),
)


@dataclass(frozen=True)
class Tile:
    """Sums in registers for a request: channels times vectors of positions."""

    request: Request
    channels: int
    vectors: int

    @property
    def problem(self) -> Conv1dProblem:
        """The problem."""
        return self.request.problem

    @cached_property
    def core(self) -> Core:
        """What work takes."""
        return cost.core(self.request.device)

    @cached_property
    def forward(self) -> bool:
        """Or the input gradient."""
        return self.request.pass_ is Pass.FORWARD

    @cached_property
    def terms(self) -> int:
        """Channels summed over, a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @cached_property
    def written(self) -> int:
        """Channels written, a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @cached_property
    def lanes(self) -> int:
        """Positions of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    @cached_property
    def item_bytes(self) -> int:
        """Of an element of the panel."""
        return accumulator(self.problem.dtype).itemsize

    @property
    def sums(self) -> int:
        """Vectors of sums."""
        return self.channels * self.vectors

    @property
    def place(self) -> int:
        """Positions."""
        return self.vectors * self.lanes

    @property
    def tiles(self) -> int:
        """Tiles of channels a group."""
        return ceil_div(self.written, self.channels)

    @cached_property
    def term_block(self) -> int:
        """Channels summed over that the panel holds."""
        most = self._local(PANEL_SHARE) // self.place
        return ceil_div(self.terms, ceil_div(self.terms, most))

    @cached_property
    def spill_tiles(self) -> int:
        """Tiles whose sums local memory has room for; 0 where none are spilled."""
        if self.term_block == self.terms:
            return 0
        return self._local(SPILL_SHARE) // (self.sums * self.lanes)

    def _local(self, share: float) -> int:
        most = min(self.request.device.local_bytes, MOST_LOCAL_BYTES)
        return int(most * share) // self.item_bytes

    @cached_property
    def tap(self) -> Sums:
        """Modelled cycles of the sums of a channel."""
        piece = self.terms * (self.place * self.item_bytes + cost.LINE_BYTES)
        far = piece > self.request.device.l1_bytes
        return self.core.rows(self.sums, self.channels, self.vectors, far)

    @property
    def store(self) -> float:
        """Modelled cycles of a vector of sums that is stored."""
        return cost.STORE_VECTOR * self.core.width

    @cached_property
    def cycles(self) -> float:
        """Of a tile at a place of a row."""
        setup, stores = self.core.ends(self.sums, 1, self.store)
        return setup + stores + self.terms * self.tap.cycles


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile that fits the registers, with the widest vectors unless sums are so
    short that memory counts more."""
    if request.problem.terms(request.pass_) > FEW_PRODUCTS:
        request = request.asking()
    registers = request.device.vector_registers
    written = Tile(request, 1, 1).written
    some = VECTORS if registers > FEW_REGISTERS else (*VECTORS, 3)
    for channels in range(min(MOST_CHANNELS, written), 0, -1):
        for vectors in some:
            if channels * vectors + vectors + 1 <= registers:
                yield _design(Tile(request, channels, vectors))


def _design(tile: Tile) -> Design:
    request = tile.request
    arrays = [("SUM", "panel", "TERM_BLOCK * PLACE")]
    if tile.spill_tiles:
        arrays.append(("SUM", "spilled", f"{tile.spill_tiles} * CHANNEL_TILE * PLACE"))
    kernel = Kernel(
        "convolution_pointwise",
        common_constants(request, tile.lanes)
        + (
            ("backward", not tile.forward),
            ("terms", tile.terms),
            ("channels", tile.written),
            ("groups", tile.problem.groups),
            ("channel_tile", tile.channels),
            ("vectors", tile.vectors),
            ("term_block", tile.term_block),
            ("short_index", tile.terms * (1 if tile.forward else tile.written) < SHORT_INDEX),
            ("activation", request.epilogue.activation),
            ("straight", request.epilogue.activation in PLAIN_ACTIVATIONS),
            ("spill_tiles", tile.spill_tiles),
            ("arrays", tuple(arrays)),
        ),
        convolution_operands(request),
        SCALARS,
        (1, 1, 1),
    )

    def schedule(wanted: Request) -> Schedule:
        # With the vectors that the kernel has, whether it asks for them or not.
        there = replace(tile, request=replace(wanted, device=request.device))
        numbers = _numbers(there)
        return Schedule((kernel.launch((grid(numbers["tasks"]), 1, 1), **numbers),))

    numbers = {"channel_tile": tile.channels, "vectors": tile.vectors, "lanes": tile.lanes}
    return Design(numbers, (kernel,), _cost(tile), schedule)


class _Rows(NamedTuple):
    """Positions as the kernel counts them: `lines` times so many."""

    flat: bool
    lines: int
    places: int  # of a line
    place_cycles: float  # of all channels of a group

    @property
    def cycles(self) -> float:
        """Of all places."""
        return self.lines * self.places * self.place_cycles


def _rows(tile: Tile) -> _Rows:
    """Each row for itself, read in place, where it has whole places, or all rows end to end, which
    are copied first: the faster of both."""
    problem, positions = tile.problem, _positions(tile)
    sums = tile.tiles * tile.cycles
    # A vector that lies in one row is copied as such.
    apart = min(1.0, tile.lanes / positions)
    element = tile.lanes * cost.FLAT_ELEMENT
    copied = (1 - apart) * tile.core.stage(gathered=False) + apart * element
    stored = (apart * element + cost.FLAT_VECTOR) * tile.written
    flat = _Rows(
        True,
        1,
        ceil_div(problem.batch * positions, tile.place),
        sums + tile.vectors * (tile.terms * copied + stored),
    )
    x_length, shift = _read(tile)
    if shift < 0 or shift + positions > x_length or positions < tile.place:
        return flat
    own = _Rows(False, problem.batch, ceil_div(positions, tile.place), sums)
    return min((own, flat), key=lambda one: one.cycles)


def _positions(tile: Tile) -> int:
    return tile.problem.positions(tile.request.pass_)


def _read(tile: Tile) -> tuple[int, int]:
    """The length of the rows read, and where in them a row that is written begins."""
    problem, left = tile.problem, tile.problem.pads[0]
    return (problem.length, -left) if tile.forward else (problem.out_length, left)


def _numbers(tile: Tile) -> dict[str, int]:
    """How the work of a problem is divided: the cheapest way."""
    problem, positions, rows = tile.problem, _positions(tile), _rows(tile)
    chunk_places, task_tiles = _task(tile, rows)
    chunks = ceil_div(rows.places, chunk_places)
    x_length, shift = _read(tile)
    weights = tile.channels * tile.terms * tile.item_bytes
    block_tiles = int(tile.request.device.l2_bytes * WEIGHTS_SHARE) // weights
    if rows.flat and tile.spill_tiles:
        block_tiles = min(block_tiles, tile.spill_tiles)
    return {
        "x_length": x_length,
        "positions": positions,
        "shift": shift,
        "term_count": tile.terms,
        "flat": int(rows.flat),
        "task_tiles": task_tiles,
        "block_tiles": max(1, min(task_tiles, block_tiles)),
        "total": problem.batch * positions,
        "chunk_places": chunk_places,
        "places": rows.places,
        "chunks": chunks,
        "position_blocks": rows.lines * chunks,
        "tasks": rows.lines * chunks * ceil_div(tile.tiles * problem.groups, task_tiles),
    }


def _task(tile: Tile, rows: _Rows) -> tuple[int, int]:
    """Places and tiles of channels of a task."""
    problem, cores = tile.problem, tile.request.device.compute_units
    all_tiles = tile.tiles * problem.groups
    ragged = not rows.flat and _positions(tile) % tile.place > 0
    found = []
    for chunk in _chunks(rows.places, ragged):
        blocks = rows.lines * ceil_div(rows.places, chunk)
        for wanted in (1, cores, TASKS_A_CORE * cores, 2 * TASKS_A_CORE * cores):
            parts = min(ceil_div(wanted, max(blocks, 1)), all_tiles)
            task_tiles = ceil_div(all_tiles, parts)
            tasks = blocks * ceil_div(all_tiles, task_tiles)
            cycles = cost.TASK_SETUP + chunk * task_tiles / tile.tiles * rows.place_cycles
            waits = (ceil_div(tasks, cores) + cost.LAST_TASK) * cycles
            found.append((waits, tasks, chunk, task_tiles))
    _, _, chunk, task_tiles = min(found)
    return chunk, task_tiles


def _chunks(places: int, ragged: bool) -> list[int]:
    """Places that a task may have. Where a row's last place begins early (`ragged`) it belongs to
    the task of the place before it."""
    sizes = {size for i in range(MOST_PLACES.bit_length()) for size in (2**i, 3 * 2**i)}
    sizes |= {ceil_div(places, parts) for parts in range(1, 9)}
    some = sorted(size for size in sizes if size <= min(places, MOST_PLACES))
    fitting = [size for size in some if not (ragged and places > 1 and places % size == 1 % size)]
    return fitting or [max(places, 1)]


def _cost(tile: Tile) -> Cost:
    """Without anything that depends on how positions fill places, which would make the choice
    depend on batch and length."""
    problem = tile.problem
    setup, stores = tile.core.ends(tile.sums, 1, tile.store)
    # The last place of a row is half empty.
    empty = 1 + tile.place / 2 / cost.TYPICAL_ROW
    vectors = problem.batch * problem.groups * _positions(tile) / tile.lanes
    times = vectors * tile.tiles / tile.vectors * empty
    tally = Tally(setup=times * setup, stores=times * stores)
    tally.sums(tile.tap, times * tile.terms)
    return tally.cost(tile.core.cycle)
