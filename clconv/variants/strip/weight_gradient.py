"""The weight gradient by strips: tiles, blocks and shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from clconv.planning import cost
from clconv.planning.cost import Core, Cost, Tally, core
from clconv.problem import Conv1dProblem
from clconv.variants.base import (
    Design,
    Kernel,
    Launch,
    Request,
    accumulator,
    ceil_div,
    common_constants,
    gradient_arguments,
    grid,
    layout_refusal,
    partials_limit,
    rounded,
    scalars,
    share_sums,
    vector_lanes,
    weight_gradient_design,
)
from clconv.variants.strip.geometry import (
    REST_SHARE,
    SPILL_SHARE,
    STRIP_SHARE,
    TASKS_A_CORE,
    Tile,
    local_elements,
    row_pitch,
)

__all__ = ["designs", "refusal"]

# (c,k) that a task sums at once, about: enough to pay for turning the output's gradient.
MOST_TAPS = 256
# Bytes of where a tap's x are, and what arrays may lose between each other.
TAP_BYTES, ALIGNMENT = 4, 128


@dataclass(frozen=True)
class Geometry:
    """What a task holds, decided by layer and device."""

    request: Request
    tap_tile: int
    vectors: int

    @property
    def problem(self) -> Conv1dProblem:
        """The problem."""
        return self.request.problem

    @cached_property
    def lanes(self) -> int:
        """Channels of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    @cached_property
    def item_bytes(self) -> int:
        """Of an element in local memory."""
        return accumulator(self.problem.dtype).itemsize

    @cached_property
    def core(self) -> Core:
        """What work takes."""
        return core(self.request.device, turned=True)

    @cached_property
    def tile(self) -> Tile:
        """Sums in registers."""
        return Tile(self.core, self.tap_tile, self.vectors)

    @property
    def panel(self) -> int:
        """Output channels side by side."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Of a group."""
        return ceil_div(self.problem.group_out, self.panel)

    @cached_property
    def most_taps(self) -> int:
        """(c,k) of a panel whose sums fit into local memory."""
        return local_elements(self.request, SPILL_SHARE) // self.panel

    @cached_property
    def bias_panels(self) -> int:
        """Panels whose sums for the bias fit into local memory."""
        return local_elements(self.request, REST_SHARE) // 4 // self.panel

    @cached_property
    def positions(self) -> int:
        """The most of a unit: turned, they fit half a first-level cache. They use the local memory
        that strip, sums, bias and the offsets of each tap's x leave."""
        rest = local_elements(self.request, REST_SHARE) * 3 // 4 * self.item_bytes
        room = min(rest - self.most_taps * TAP_BYTES - ALIGNMENT, self.request.device.l1_bytes // 2)
        return max(16, min(room // self.item_bytes // self.panel, 256) // 16 * 16)

    @cached_property
    def strip_elements(self) -> int:
        """Of the strip."""
        return local_elements(self.request, STRIP_SHARE)

    def pitch(self, positions: int) -> int:
        """Elements of a row of the strip that serves so many positions."""
        problem = self.problem
        return row_pitch((positions - 1) * problem.stride + problem.window, self.item_bytes)

    @cached_property
    def term_block(self) -> int:
        """Input channels of a task; 0 where not even one fits."""
        problem = self.problem
        fitting = self.strip_elements // self.pitch(self.positions)
        # With the last tile of taps filled up.
        fitting = min(fitting, (self.most_taps - self.tap_tile) // problem.kernel_size)
        wanted = min(fitting, max(1, MOST_TAPS // problem.kernel_size), problem.group_in)
        if wanted < 1:
            return 0
        return ceil_div(problem.group_in, ceil_div(problem.group_in, wanted))

    @cached_property
    def taps(self) -> int:
        """(c,k) of a task, whole tiles."""
        return ceil_div(self.term_block * self.problem.kernel_size, self.tap_tile) * self.tap_tile

    @cached_property
    def term_blocks(self) -> int:
        """Of a group."""
        return ceil_div(self.problem.group_in, self.term_block)

    @cached_property
    def task_panels(self) -> int:
        """Panels of a task, at most."""
        most = max(1, min(self.most_taps // self.taps, self.bias_panels))
        return ceil_div(self.panels, ceil_div(self.panels, most))


def refusal(request: Request) -> str | None:
    """Why strips cannot serve: not even the smallest fits, or positions are not contiguous."""
    if not request.in_rows:
        return layout_refusal(request)
    if Geometry(request, 1, 1).term_block < 1:
        problem = request.problem
        return (
            f"kernel_size is {problem.kernel_size} with dilation {problem.dilation}: a window and "
            "its sums do not fit into local memory"
        )
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile that fits the registers."""
    registers = request.device.vector_registers
    most = registers * 3 // 4
    taps = request.problem.group_in * request.problem.kernel_size
    for vectors in range(1, 7):
        for tap_tile in range(min(most // vectors, taps), 0, -1):
            if vectors + tap_tile * vectors + 1 > registers:
                continue
            if 2 * tap_tile * vectors < most and tap_tile * vectors < 8 and tap_tile < taps:
                continue
            geometry = Geometry(request, tap_tile, vectors)
            if geometry.term_block and (
                vectors == 1
                or geometry.panels * geometry.panel
                < request.problem.group_out + geometry.panel // 2 + geometry.lanes
            ):
                yield _design(geometry)


class _Blocks(NamedTuple):
    """How the work is cut at run time."""

    chunk: int  # positions of a row
    unit_rows: int  # batch elements of a unit
    task_panels: int
    shares: int
    cycles: float


def _design(geometry: Geometry) -> Design:
    request, problem = geometry.request, geometry.problem
    tile = {
        "tap_tile": geometry.tap_tile,
        "vectors": geometry.vectors,
        "lanes": geometry.lanes,
        "term_block": geometry.term_block,
        "positions": geometry.positions,
    }
    kernel = Kernel(
        "weight_gradient_strip",
        common_constants(request, geometry.lanes)
        + (
            ("group_in", problem.group_in),
            ("group_out", problem.group_out),
            ("groups", problem.groups),
            ("kernel_size", problem.kernel_size),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("tap_tile", geometry.tap_tile),
            ("vectors", geometry.vectors),
            ("task_panels", geometry.task_panels),
            ("term_block", geometry.term_block),
            ("positions", geometry.positions),
            ("strip_elements", geometry.strip_elements),
        ),
        *gradient_arguments(
            request,
            (
                *scalars("batch length out_length pad chunk chunks unit_rows"),
                *scalars(long_names="units shares"),
                *scalars("task_panels"),
                *scalars(long_names="tasks"),
                *scalars("row_pitch channel_pitch"),
            ),
        ),
        (1, 1, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        if not wanted.problem.batch:
            return None, 0
        there = replace(geometry, request=wanted)
        blocks = _blocks(there)
        problem = wanted.problem
        chunks = ceil_div(problem.out_length, blocks.chunk)
        units = ceil_div(problem.batch, blocks.unit_rows) * chunks
        panel_blocks = ceil_div(there.panels, blocks.task_panels)
        tasks = there.term_blocks * panel_blocks * problem.groups * blocks.shares
        pitch = there.pitch(blocks.chunk)
        launch = kernel.launch(
            (grid(tasks), 1, 1),
            batch=problem.batch,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            chunk=blocks.chunk,
            chunks=chunks,
            unit_rows=blocks.unit_rows,
            units=units,
            shares=blocks.shares,
            task_panels=blocks.task_panels,
            tasks=tasks,
            row_pitch=pitch,
            channel_pitch=pitch * blocks.unit_rows,
        )
        return launch, blocks.shares

    def predicted(wanted: Request) -> Cost:
        there = replace(geometry, request=wanted)
        if not wanted.problem.batch:
            return Cost()
        return _predicted(there, _blocks(there)).launched(2 * wanted.device.launch_seconds)

    return weight_gradient_design(request, tile, kernel, _cost(geometry), schedule, predicted)


def _blocks(geometry: Geometry) -> _Blocks:
    """The cheapest way to divide the work of a problem for a given kernel."""
    request, problem = geometry.request, geometry.problem
    if problem.out_length > geometry.positions:
        # Equal chunks, so that no core gets the long ones.
        chunk = ceil_div(problem.out_length, ceil_div(problem.out_length, geometry.positions))
        rows = 1
    else:
        chunk = problem.out_length
        most = geometry.strip_elements // geometry.term_block // geometry.pitch(chunk)
        rows = max(1, min(geometry.positions // chunk, most, problem.batch))
    units = ceil_div(problem.batch, rows) * ceil_div(problem.out_length, chunk)
    taps = geometry.taps
    positions = rows * chunk
    panel_cost = geometry.panel * cost.TURN_ELEMENT * positions + taps / geometry.tap_tile * (
        positions * geometry.tile.cycles + cost.TILE_SETUP
    )
    strip_cost = (
        geometry.term_block
        * rows
        * (cost.STAGE_ROW + cost.STAGE_VECTOR * geometry.pitch(chunk) * geometry.item_bytes / 32)
    )
    cores = request.device.compute_units
    sums = share_sums(problem, request.epilogue.bias)
    share_bytes = sums * geometry.item_bytes
    most_shares = max(1, min(int(partials_limit(request, share_bytes) // share_bytes), units))
    found = []
    for parts in range(1, geometry.panels + 1):
        panels = ceil_div(geometry.panels, parts)
        if panels > geometry.task_panels or panels != ceil_div(
            geometry.panels, ceil_div(geometry.panels, panels)
        ):
            continue
        blocks = geometry.term_blocks * ceil_div(geometry.panels, panels) * problem.groups
        for shares in {
            1,
            2,
            3,
            4,
            *(ceil_div(t * cores, blocks) for t in (1, 2, TASKS_A_CORE, 2 * TASKS_A_CORE)),
        }:
            if shares > most_shares:
                continue
            task = (
                cost.TASK_SETUP
                + units / shares * (strip_cost + panels * panel_cost)
                + panels * geometry.panel * taps * cost.WRITE_SUM
            )
            adding = shares * sums / cores
            rounds = ceil_div(blocks * shares, cores)
            found.append(_Blocks(chunk, rows, panels, shares, rounds * task + adding))
        if parts > 64:  # more parts than this pay only where fewer do not fit
            break
    return min(found, key=lambda b: b.cycles)


def _cost(geometry: Geometry) -> Cost:
    """Without anything that depends on how positions fill units."""
    problem = geometry.problem
    positions = problem.batch * problem.out_length
    rows = positions * problem.stride * ceil_div(geometry.panels, geometry.task_panels)
    return _tally(geometry, positions / geometry.positions, rows).cost(geometry.core.cycle)


def _predicted(geometry: Geometry, blocks: _Blocks) -> Cost:
    """Of work that is cut so: short rows have more units, and more that is staged beside them."""
    problem = geometry.problem
    chunks = ceil_div(problem.out_length, blocks.chunk)
    panel_blocks = ceil_div(geometry.panels, blocks.task_panels)
    rows = problem.batch * chunks * geometry.pitch(blocks.chunk) * panel_blocks
    units = chunks * ceil_div(problem.batch, blocks.unit_rows)
    tally = _tally(geometry, units, rows * geometry.core.staged)
    tasks = geometry.term_blocks * panel_blocks * problem.groups * blocks.shares
    sums = tasks * blocks.task_panels * geometry.panel * geometry.taps
    tally.add("stores", sums * cost.WRITE_SUM)
    cores = geometry.request.device.compute_units
    return tally.cost(geometry.core.cycle) * (rounded(tasks, cores) / tasks)


def _tally(geometry: Geometry, units: float, staged: float) -> Tally:
    """Of so many units, and so many elements of strips of each input channel."""
    problem = geometry.problem
    panels = problem.groups * geometry.panels * geometry.term_blocks
    turned = panels * problem.batch * problem.out_length
    tiles = ceil_div(geometry.term_block * problem.kernel_size, geometry.tap_tile)
    an_element = cost.STAGE_VECTOR * geometry.item_bytes / 32
    tally = Tally(
        staging=staged * problem.in_channels * an_element
        + turned * geometry.panel * cost.TURN_ELEMENT,
        setup=panels * units * tiles * cost.TILE_SETUP,
    )
    tally.sums(geometry.tile.tap, turned * tiles)
    return tally
