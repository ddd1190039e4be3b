"""The forward pass and the input gradient by strips: tiles, and how the work is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from clconv.dtypes import is_short
from clconv.planning import cost
from clconv.planning.cost import Cost, Tally
from clconv.variants.base import (
    Design,
    Kernel,
    Layout,
    Request,
    Schedule,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    grouped_taps,
    layout_refusal,
    rounded,
    scalars,
)
from clconv.variants.strip.form import form
from clconv.variants.strip.geometry import (
    REST_SHARE,
    SPILL_SHARE,
    TASKS_A_CORE,
    Geometry,
    Tile,
    local_elements,
    widest,
)

__all__ = ["designs", "refusal"]

# Channels that a strip holds at once: more do not pay, their weights leave the first-level cache.
MOST_TERMS, FEWEST_TERMS = 128, 16
# Rows written at a time: more fall on the same lines of the cache. Sums that take long, in modelled
# cycles, hide that; the more share a piece of the strip, the better.
ROWS_OF_SHORT_SUMS, ROWS_OF_LONG_SUMS, LONG_SUMS = 12, 24, 1000.0
# Vectors of sums at most: more hide no more latency, and reach across more of the strip than the
# first-level cache holds.
MOST_SUMS = 16
# Vectors of positions of a tile at most where vectors have full width: more were slower there.
FULL_WIDTH_VECTORS = 8
# Modelled cycles between prefetching a line of the output and writing it, enough where memory is
# busy; and of the shortest sums that prefetch at all where a vector is a whole line.
PREFETCH_CYCLES, PREFETCH_WHOLE_LINES = 1200.0, 600.0
# Elements that a row of converted weights may be longer than its weights, at most: two lines.
PANEL_GAP = 32
# Vectors of positions that a task takes at most.
MOST_VECTORS = 512


def refusal(request: Request) -> str | None:
    """Why strips cannot serve: not even the smallest fits, or y has gaps."""
    if request.y_layout is Layout.STRIDED:
        return layout_refusal(replace(request, x_layout=Layout.ROWS))
    geometry = widest(request)
    if geometry.row_elements(1) > geometry.strip:
        return (
            f"one channel takes {geometry.row_elements(1)} elements of local memory, which has "
            f"room for {geometry.strip}"
        )
    if geometry.phases * geometry.lanes > local_elements(request, REST_SHARE):
        return f"stride is {request.problem.stride}, whose phases do not fit into local memory"
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile that fits the registers. If these ask for wider vectors, designs that
    do not ask come after them: activations that call functions must take one of those."""
    geometry = widest(request)
    found = list(_tiles(geometry))
    yield from found
    if found and geometry.request is not request:
        plain = list(_tiles(Geometry(request)))
        least = min(one.cost.seconds for one in plain)
        behind = max(1.0, min(one.cost.seconds for one in found) / least)
        yield from (replace(one, cost=one.cost * behind) for one in plain)


def _tiles(geometry: Geometry) -> Iterator[Design]:
    request = geometry.request
    device = request.device
    registers = device.vector_registers
    most = min(registers * 3 // 4, MOST_SUMS)
    most_vectors = FULL_WIDTH_VECTORS if device.full_width else most
    found = False
    for channels in range(min(8, geometry.channels), 0, -1):
        for vectors in range(min(most // channels, most_vectors), 0, -1):
            # With fewer sums their latency shows.
            few = channels * vectors < min(8, most // 2)
            if vectors + channels * vectors + 1 > registers or (few and found):
                continue
            for taps in _tap_groups(geometry, channels, vectors):
                # AVX-512 multiplies by a value in memory, which is no instruction if used once.
                folded = vectors == 1 and device.vector_floats > 8
                loop = geometry.phases > 1
                tile = Tile(geometry.core, channels, vectors, taps, loop, folded)
                design = _design(geometry, tile)
                if design is not None:
                    found = True
                    yield design


def _tap_groups(geometry: Geometry, channels: int, vectors: int) -> set[int]:
    """How many taps a group may have: one channel alone loads as much as it sums."""
    if channels > 1 or geometry.phases > 1 or geometry.rows > 1:
        return {1}
    _, taps = grouped_taps(geometry.lanes, geometry.spacing, geometry.problem.kernel_size)
    return {1, taps} if vectors + taps + 2 <= geometry.request.device.vector_registers else {1}


class _Blocks(NamedTuple):
    """How the work is cut at run time: which positions, batch elements and channels a task has."""

    chunk_vectors: int  # vectors of a row
    block_rows: int  # batch elements
    task_tiles: int  # tiles of channels
    tasks: int
    cycles: float


def _design(geometry: Geometry, tile: Tile) -> Design | None:
    """None where local memory has no room for the tile."""
    request, problem = geometry.request, geometry.problem
    kernel_size = problem.kernel_size
    rest = local_elements(request, REST_SHARE)
    if geometry.phases > 1:
        rest -= tile.sums * geometry.lanes * geometry.phases
    # Converting weights of 16 bits at every use costs more than keeping a tile's converted.
    packed = is_short(problem.dtype)
    # A tile's weights stay in the first-level cache.
    weights = tile.channels * kernel_size
    most = request.device.l1_bytes // 2 // (weights * geometry.item_bytes)
    most = min(max(most, FEWEST_TERMS), MOST_TERMS)
    most = min(most, geometry.strip // geometry.row_elements(tile.vectors))
    if packed:
        most = min(most, (rest // tile.channels - PANEL_GAP) // kernel_size)
    if rest < 0 or most < 1:
        return None
    term_block = geometry.terms
    if term_block > most:
        term_block = ceil_div(term_block, ceil_div(term_block, most))
    block_tiles = _block_tiles(geometry, tile, term_block, rest if packed else None)
    spilled = local_elements(request, SPILL_SHARE) if term_block < geometry.terms else 0
    if spilled and not spilled // (tile.sums * geometry.lanes * geometry.phases):
        return None
    kernel = _kernel(geometry, tile, term_block, block_tiles, spilled)

    @lru_cache(maxsize=2)  # what is predicted is scheduled next
    def cut(wanted: Request) -> tuple[Geometry, _Blocks]:
        # With the vectors that the kernel has, whether it asks for them or not.
        there = Geometry(replace(wanted, device=request.device))
        return there, _blocks(there, tile, term_block, spilled)

    def schedule(wanted: Request) -> Schedule:
        there, blocks = cut(wanted)
        numbers = _numbers(there, tile, blocks)
        return Schedule((kernel.launch((grid(blocks.tasks), 1, 1), **numbers),))

    def predicted(wanted: Request) -> Cost:
        there, blocks = cut(wanted)
        made = _predicted(there, tile, blocks, term_block, packed)
        return made.launched(wanted.device.launch_seconds)

    numbers = {
        "channel_tile": tile.channels,
        "vectors": tile.vectors,
        "tap_group": tile.taps,
        "lanes": geometry.lanes,
        "rows": geometry.rows,
        "block_tiles": block_tiles,
        "term_block": term_block,
    }
    modelled = _cost(geometry, tile, term_block, packed)
    return Design(numbers, (kernel,), modelled, schedule, predicted=predicted)


def _kernel(
    geometry: Geometry, tile: Tile, term_block: int, block_tiles: int, spilled: int
) -> Kernel:
    """The kernel of a tile; `spilled` are the elements of local memory for its accumulators."""
    request, problem = geometry.request, geometry.problem
    own = form(
        request,
        geometry.weight_strides,
        geometry.rows,
        tile.channels,
        tile.vectors,
        block_tiles,
        term_block,
    )
    arrays = [("SUM", "strip", "STRIP")]
    if spilled:
        arrays.append(("SUM", "spilled", str(spilled)))
    if own.packed:
        arrays.append(("SUM", "panel", "BLOCK_TILES * PANEL"))
    if geometry.phases > 1:
        arrays.append(("SUM", "interleaved", "CHANNEL_TILE * VECTORS * LANES * STRIDE"))
    return Kernel(
        "convolution_strip" if geometry.forward else "input_gradient_strip",
        common_constants(request, geometry.lanes)
        + (
            ("terms", geometry.terms),
            ("channels", geometry.channels),
            ("groups", problem.groups),
            ("kernel_size", problem.kernel_size),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("phases", geometry.phases),
            ("common", problem.tap_phase_gcd),
            ("tap_inverse", problem.phase_tap_inverse),
            ("channel_tile", tile.channels),
            ("vectors", tile.vectors),
            ("tap_group", tile.taps),
            ("tap_stride", grouped_taps(geometry.lanes, geometry.spacing, problem.kernel_size)[0]),
            ("rows", geometry.rows),
            ("spacing", geometry.spacing),
            ("block_tiles", block_tiles),
            ("prefetch_distance", _prefetch_distance(geometry, tile, block_tiles)),
            ("term_block", term_block),
            ("strip_elements", geometry.strip),
            ("spill_elements", spilled),
            ("weight_strides", geometry.weight_strides),
            ("activation", request.epilogue.activation),
            ("arrays", tuple(arrays)),
            *vars(own).items(),
        ),
        convolution_operands(request),
        SCALARS,
        (1, 1, 1),
    )


def _block_tiles(geometry: Geometry, tile: Tile, term_block: int, panels: int | None) -> int:
    """Tiles of channels at a place before the next place: they find its piece of the strip in the
    first-level cache, which keeps their weights too, and write more rows at a time. `panels` are
    the elements of local memory that their weights may take, where they are kept there."""
    weights = term_block * geometry.problem.kernel_size * tile.channels
    piece = term_block * geometry.rows * (tile.vectors * geometry.lanes + geometry.reach)
    room = geometry.request.device.l1_bytes * 3 // 4 // geometry.item_bytes - piece
    if panels is not None:
        room, weights = min(room, panels), weights + tile.channels * PANEL_GAP
    rows = ROWS_OF_SHORT_SUMS if _tile_cycles(geometry, tile) < LONG_SUMS else ROWS_OF_LONG_SUMS
    return max(1, min(rows // tile.channels, room // weights, geometry.tiles(tile)))


def _tile_cycles(geometry: Geometry, tile: Tile) -> float:
    """Modelled, of all sums of a tile at a place."""
    return cost.TILE_SETUP + geometry.terms * geometry.problem.kernel_size * tile.cycles


def _prefetch_distance(geometry: Geometry, tile: Tile, block_tiles: int) -> int | None:
    """How many places before a place is summed the lines of its output are prefetched; None where
    they are not: where a vector is a line without being asked for, as Intel's runtime has it, short
    sums are faster so."""
    request, problem = geometry.request, geometry.problem
    device = request.device
    if request.y_layout is not Layout.ROWS:
        return None
    cycles = _tile_cycles(geometry, tile)
    if geometry.lanes * problem.dtype.itemsize >= 64 and not device.asked_for:
        return None if cycles < PREFETCH_WHOLE_LINES else 0
    return int(PREFETCH_CYCLES / (block_tiles * cycles))


SCALARS = (
    *scalars("batch length out_length pad reach_low term_count"),
    *scalars("row_vectors chunk_vectors chunks block_rows"),
    *scalars(long_names="position_blocks"),
    *scalars("task_tiles"),
    *scalars(long_names="tasks"),
    *scalars("tap_row_pitch row_pitch channel_pitch spill_vectors", sum_names="slope"),
)


def _numbers(geometry: Geometry, tile: Tile, blocks: _Blocks) -> dict[str, int]:
    problem = geometry.problem
    chunks = ceil_div(geometry.row_vectors, blocks.chunk_vectors)
    pitch = geometry.pitch(blocks.chunk_vectors)
    vectors = ceil_div(blocks.chunk_vectors * blocks.block_rows, tile.vectors) * tile.vectors
    return {
        "batch": problem.batch,
        "length": problem.length,
        "out_length": problem.out_length,
        "pad": problem.pads[0],
        "reach_low": 0 if geometry.forward else problem.phase_reach[0],
        "term_count": geometry.terms,
        "row_vectors": geometry.row_vectors,
        "chunk_vectors": blocks.chunk_vectors,
        "chunks": chunks,
        "block_rows": blocks.block_rows,
        "position_blocks": ceil_div(problem.batch, blocks.block_rows) * chunks,
        "task_tiles": blocks.task_tiles,
        "tasks": blocks.tasks,
        "tap_row_pitch": pitch,
        "row_pitch": pitch * geometry.rows,
        "channel_pitch": pitch * geometry.rows * blocks.block_rows,
        "spill_vectors": vectors,
    }


def _blocks(geometry: Geometry, tile: Tile, term_block: int, spilled: int) -> _Blocks:
    """The cheapest way to divide the work of a problem for a given kernel."""
    batch = max(geometry.problem.batch, 1)
    most = geometry.strip // term_block  # elements of the strip a channel
    cuts = set()
    sizes = {
        tile.vectors * size for i in range(MOST_VECTORS.bit_length()) for size in (2**i, 3 * 2**i)
    }
    for wanted in sorted(size for size in sizes if size <= MOST_VECTORS):
        if wanted < geometry.row_vectors:
            chunk, rows = wanted, {1}
        else:
            # Whole rows, about as many as wanted; some numbers of them fill the tiles better.
            chunk = geometry.row_vectors
            about = ceil_div(wanted, chunk)
            rows = set(range(about, about + tile.vectors))
        fitting = min(most // geometry.row_elements(chunk), batch)
        cuts |= {(chunk, max(1, min(fitting, n))) for n in rows if fitting}
    # Where sums are spilled, several short rows may be too much; those of one tile always fit.
    for some in (cuts, {(min(tile.vectors, geometry.row_vectors), 1)}):
        found = [
            b for cut in some for b in _with_channels(geometry, tile, term_block, spilled, *cut)
        ]
        if found:
            break
    return min(found, key=lambda b: (b.cycles, b.tasks, b.chunk_vectors))


def _with_channels(
    geometry: Geometry, tile: Tile, term_block: int, spilled: int, chunk: int, rows: int
) -> Iterator[_Blocks]:
    """Blocks of those positions with the channels cut in several ways."""
    problem, cores = geometry.problem, geometry.request.device.compute_units
    tiles = geometry.tiles(tile)
    position_blocks = ceil_div(problem.batch, rows) * ceil_div(geometry.row_vectors, chunk)
    steps = ceil_div(chunk * rows, tile.vectors)
    most_tiles = tiles * problem.groups
    if spilled:
        sums = tile.sums * steps * geometry.lanes * geometry.phases
        most_tiles = min(tiles, spilled // sums)
    if not most_tiles:
        return
    blocks = ceil_div(geometry.terms, term_block)
    taps = geometry.terms * problem.kernel_size
    held = (blocks > 1) * cost.HOLD_VECTOR * geometry.core.width * tile.sums
    ends = blocks * (cost.TILE_SETUP + held)
    stores = geometry.store_vector(tile.channels) * tile.sums
    step = taps * tile.cycles + geometry.phases * (ends + stores)
    # Weights stay in the first-level cache from the second step on.
    weights = taps * geometry.item_bytes / cost.WEIGHT_BYTES
    tile_cost = tile.channels * (weights + rows * cost.WRITE_ROW) + steps * step
    staged = geometry.stage_vector * geometry.row_elements(chunk) / geometry.lanes
    strip_row = geometry.rows * cost.STAGE_ROW + staged
    strip_cost = geometry.terms * rows * strip_row
    parts_wanted = {ceil_div(tiles * problem.groups, most_tiles)}
    for tasks in (1, 2, TASKS_A_CORE, 2 * TASKS_A_CORE):
        parts_wanted.add(ceil_div(tasks * cores, max(position_blocks, 1)))
    for parts in parts_wanted:
        task_tiles = max(1, min(most_tiles, ceil_div(tiles * problem.groups, parts)))
        if task_tiles > tiles:  # whole groups
            task_tiles = ceil_div(task_tiles, tiles) * tiles
        else:  # equal parts of a group, or a core would wait for another's longer ones
            task_tiles = ceil_div(tiles, ceil_div(tiles, task_tiles))
        tasks = position_blocks * ceil_div(tiles * problem.groups, task_tiles)
        strips = max(1.0, task_tiles / tiles)
        cycles = task_tiles * tile_cost + strips * strip_cost + cost.TASK_SETUP
        yield _Blocks(
            chunk, rows, task_tiles, tasks, (ceil_div(tasks, cores) + cost.LAST_TASK) * cycles
        )


def _cost(geometry: Geometry, tile: Tile, term_block: int, packed: bool) -> Cost:
    """Without anything that depends on how positions fill tiles, which would make the choice depend
    on batch and length."""
    problem = geometry.problem
    # Vectors of positions of all batch elements and groups, each in all tiles of channels; the last
    # tile of a row is half empty.
    vectors = problem.batch * problem.groups * geometry.positions / geometry.lanes
    empty = 1 + tile.vectors * geometry.lanes / 2 / cost.TYPICAL_ROW
    times = vectors * geometry.tiles(tile) / tile.vectors * empty
    staged = vectors * geometry.rows * geometry.terms
    return _tally(geometry, tile, term_block, packed, times, staged).cost(geometry.core.cycle)


def _predicted(
    geometry: Geometry, tile: Tile, blocks: _Blocks, term_block: int, packed: bool
) -> Cost:
    """Of work that is cut so, with what of its tiles is empty, and the last tasks' waiting."""
    problem, chunk, rows = geometry.problem, blocks.chunk_vectors, blocks.block_rows
    tiles, groups = geometry.tiles(tile), problem.groups
    if rows > 1:  # whole rows, side by side
        full, rest = divmod(problem.batch, rows)
        places = full * ceil_div(chunk * rows, tile.vectors) + ceil_div(chunk * rest, tile.vectors)
    else:
        full, rest = divmod(geometry.row_vectors, chunk)
        a_row = full * ceil_div(chunk, tile.vectors) + ceil_div(rest, tile.vectors)
        places = problem.batch * a_row
    # Tasks that share the channels of a group stage the same strip.
    strips = ceil_div(problem.batch, rows) * ceil_div(geometry.row_vectors, chunk) * rows
    strips *= groups * ceil_div(tiles, min(blocks.task_tiles, tiles))
    staged = strips * geometry.terms * geometry.row_elements(chunk) / geometry.lanes
    tally = _tally(
        geometry, tile, term_block, packed, places * groups * tiles, staged * geometry.core.staged
    )
    tasks = max(blocks.tasks, 1)
    return tally.cost(geometry.core.cycle) * (
        rounded(tasks, geometry.request.device.compute_units) / tasks
    )


def _tally(
    geometry: Geometry, tile: Tile, term_block: int, packed: bool, times: float, staged: float
) -> Tally:
    """So many tiles of sums at a place, and so many vectors of strips."""
    taps = geometry.terms * geometry.problem.kernel_size
    a_sum = geometry.store_vector(tile.channels)
    setup, stores = geometry.core.ends(tile.sums, ceil_div(geometry.terms, term_block), a_sum)
    tally = Tally(
        setup=times * geometry.phases * setup,
        stores=times * geometry.phases * stores,
        staging=staged * geometry.stage_vector,
    )
    tally.sums(tile.tap, times * taps)
    if packed:
        weights = taps * tile.sums * geometry.lanes / cost.CONVERTED_POSITIONS
        tally.add("arithmetic", times * weights * cost.CONVERT_WEIGHT)
    return tally
