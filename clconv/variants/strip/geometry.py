"""What a strip looks like: local memory's shares, rows, pitches and tiles of sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.planning import cost
from clconv.planning.cost import Core, Sums, core
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import Layout, Request, accumulator, ceil_div, vector_lanes

__all__ = [
    "LEAST_LOCAL_BYTES",
    "REST_SHARE",
    "SPILL_SHARE",
    "STRIP_SHARE",
    "TASKS_A_CORE",
    "Geometry",
    "Tile",
    "local_elements",
    "row_pitch",
    "widest",
]

LEAST_LOCAL_BYTES = 64 << 10
# More than this lies outside a core's second-level cache on many CPUs.
MOST_LOCAL_BYTES = 256 << 10
# How local memory is shared out: the strip, spilled accumulators, the rest (weights, interleaved
# phases).
STRIP_SHARE, SPILL_SHARE, REST_SHARE = 3 / 8, 3 / 8, 1 / 4
# Products of a sum, so few that asking for wider vectors makes it no faster.
FEW_PRODUCTS = 16
# The positions for which it is decided at build time how the rows of a strip lie.
TYPICAL_POSITIONS = 192
# Tasks a core at least, where there is enough work: they are not equally long.
TASKS_A_CORE = 4


def local_elements(request: Request, share: float) -> int:
    """Elements that a share of local memory has."""
    most = min(request.device.local_bytes, MOST_LOCAL_BYTES)
    return int(most * share) // accumulator(request.problem.dtype).itemsize // 64 * 64


def row_pitch(elements: int, item_bytes: int) -> int:
    """Elements from a row of a strip to the next: an odd number of cache lines, so that the rows
    of neighbouring channels do not fall on the same lines of the cache."""
    line = 64 // item_bytes
    lines = ceil_div(elements, line)
    return (lines | 1 if lines > 4 else lines) * line


@dataclass(frozen=True)
class Tile:
    """Sums in registers: channels, vectors of positions, and the taps of a group."""

    core: Core
    channels: int
    vectors: int
    taps: int = 1
    loop: bool = False  # the number of taps hangs on the phase
    folded: bool = False  # the multiply-add takes its weight from memory

    @property
    def sums(self) -> int:
        """Vectors of sums."""
        return self.channels * self.vectors

    @cached_property
    def tap(self) -> Sums:
        """Modelled cycles of a tap's sums: a weight that goes to all lanes is a load too."""
        loads = (self.vectors + self.taps - 1) / self.taps
        return self.core.sums(self.sums, self.channels, loads, folded=self.folded, loop=self.loop)

    @cached_property
    def cycles(self) -> float:
        """Of a tap."""
        return self.tap.cycles


@dataclass(frozen=True)
class Geometry:
    """A pass as strips see it, decided by layer and device."""

    request: Request

    @property
    def problem(self) -> Conv1dProblem:
        """The problem."""
        return self.request.problem

    @cached_property
    def forward(self) -> bool:
        """Or the input gradient."""
        return self.request.pass_ is Pass.FORWARD

    @cached_property
    def terms(self) -> int:
        """Channels summed over, a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @cached_property
    def channels(self) -> int:
        """Channels written, a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @cached_property
    def phases(self) -> int:
        """Interleaved convolutions."""
        return 1 if self.forward else self.problem.stride

    @cached_property
    def positions(self) -> int:
        """Of a phase."""
        return self.problem.positions(self.request.pass_)

    @cached_property
    def lanes(self) -> int:
        """Positions of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    @cached_property
    def core(self) -> Core:
        """What work takes."""
        return core(self.request.device)

    @cached_property
    def stage_vector(self) -> float:
        """Modelled cycles of a vector that is staged."""
        problem, layout = self.problem, self.request.x_layout
        if layout is Layout.ROWS:
            return self.core.stage(gathered=self.forward and problem.stride > 1)
        turned = layout is Layout.CHANNELS and self.terms >= self.lanes and self.lanes % 4 == 0
        return self.core.stage_apart(self.lanes, turned=turned)

    def store_vector(self, channels: int) -> float:
        """Modelled cycles of a vector of sums that is stored, of a tile of so many channels."""
        if self.request.y_layout is Layout.ROWS:
            return cost.STORE_VECTOR * self.core.width
        turned = channels // 4 * 4 if self.lanes % 4 == 0 else 0
        row_bytes = self.channels * self.problem.groups * self.problem.dtype.itemsize
        return self.core.store_apart(self.lanes, turned / channels, row_bytes)

    @cached_property
    def row_vectors(self) -> int:
        """Vectors of a row."""
        return ceil_div(self.positions, self.lanes)

    @cached_property
    def item_bytes(self) -> int:
        """Of an element of the strip."""
        return accumulator(self.problem.dtype).itemsize

    @cached_property
    def strip(self) -> int:
        """Elements of the strip."""
        return local_elements(self.request, STRIP_SHARE)

    def _reach(self, rows: int) -> int:
        taps = ceil_div(self.problem.kernel_size, rows)
        return (taps - 1) * (rows * self.problem.dilation // self.problem.stride)

    @cached_property
    def rows(self) -> int:
        """Rows of the strip that a channel has: row b serves the taps b, b + rows, …"""
        kernel_size = self.problem.kernel_size
        if self.phases > 1:
            return 1
        # Taps that are this far apart differ by whole positions.
        rows = min(self.problem.phase_tap_step, kernel_size)
        reaching = rows * (TYPICAL_POSITIONS + self._reach(rows))
        # Where taps are far apart, a row for each is shorter than rows which reach across.
        return kernel_size if reaching > 1.5 * kernel_size * TYPICAL_POSITIONS else rows

    @cached_property
    def spacing(self) -> int:
        """Elements of a row between its taps."""
        problem = self.problem
        if self.phases > 1:
            return problem.dilation // problem.tap_phase_gcd
        one_tap = self.rows >= problem.kernel_size
        return 0 if one_tap else self.rows * problem.dilation // problem.stride

    @cached_property
    def reach(self) -> int:
        """Elements of a row beyond its positions."""
        if self.phases > 1:
            low, high = self.problem.phase_reach
            return high - low
        return 0 if self.rows >= self.problem.kernel_size else self._reach(self.rows)

    def pitch(self, vectors: int) -> int:
        """Elements from a row to the next."""
        return row_pitch(vectors * self.lanes + self.reach, self.item_bytes)

    def row_elements(self, vectors: int) -> int:
        """Elements of the strip for one channel of one batch element."""
        return self.rows * self.pitch(vectors)

    def tiles(self, tile: Tile) -> int:
        """Tiles of channels a group."""
        return ceil_div(self.channels, tile.channels)

    @cached_property
    def weight_strides(self) -> tuple[int, int]:
        """Weights from a channel written to the next, and from a channel summed over."""
        kernel_size = self.problem.kernel_size
        if self.forward:
            return self.terms * kernel_size, kernel_size
        return kernel_size, self.channels * kernel_size


def widest(request: Request) -> Geometry:
    """With the widest vectors, unless sums are so short that memory counts more."""
    geometry = Geometry(request)
    few = geometry.terms * request.problem.kernel_size <= FEW_PRODUCTS
    return geometry if few else Geometry(request.asking())
