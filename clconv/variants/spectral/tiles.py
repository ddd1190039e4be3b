"""How is a pass cut into tiles of samples, and where do transformed tiles lie?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from clconv.variants.base import ceil_div, padded, vector_lanes
from clconv.variants.cuts import Cut
from clconv.variants.spectral.transforms import Transform, radices

__all__ = ["Tiles"]

# Samples of local memory that the lines of a place may take together: half a first-level cache of
# vectors of 64 bytes would be less, but single samples take longer than the second level.
TOGETHER_BYTES = 128 << 10
# Vectors of sums at most, for so many vector registers: complex ones count twice.
SUMS = {32: 24, 16: 10}


@dataclass(frozen=True)
class Tiles(Cut):
    """A cut whose tiles are transformed, `lanes` channels at a time."""

    @cached_property
    def transform(self) -> Transform:
        """The tiles' transform."""
        return Transform(self.size, radices(self.size // 2, self.request.device.vector_registers))

    @cached_property
    def lanes(self) -> int:
        """Elements of a vector."""
        return vector_lanes(self.request.device, self.problem.dtype)

    def alone(self) -> Tiles:
        """The same without vectors, for the taps of one channel a group."""
        device = replace(self.request.device, vector_floats=1)
        return replace(self, request=replace(self.request, device=device))

    # Samples

    def together(self, step: int) -> int:
        """Lines, or phases, that are staged at once, all or one at a time."""
        fits = (step + 1) * self.size * self.lanes * self.item_bytes <= TOGETHER_BYTES
        return step if fits else 1

    def _firsts(self, step: int, lead: int) -> set[int]:
        """Where the tiles at a row's ends begin, which reach across them: a third of a tile's
        samples at least are results."""
        ends = {*range(4), *range(self.row_tiles - 4, self.row_tiles)}
        places = (place for place in ends if 0 <= place < self.row_tiles)
        return {place * self.outputs * step - lead for place in places}

    def single_reads(self, results: bool = False) -> int:
        """Samples of a row's tiles that are read one by one, in all lines and phases: those of
        vectors that lie outside the row, which are zeros, or of all where it has no vector. Of a
        weight gradient's output with `results`."""
        step, lead = (self.write_step, 0) if results else (self.read_step, self.read_lead)
        length = self.problem.out_length
        if self.forward and not results:
            length = self.problem.length
        vectors = step * self.size // self.lanes
        if length < self.lanes:
            return self.row_tiles * vectors * self.lanes
        outside = 0
        for first in self._firsts(step, lead):
            outside += min(vectors, max(0, -first // self.lanes))
            outside += max(0, vectors - max(0, ceil_div(length - first, self.lanes)))
        return outside * self.lanes

    @property
    def single_stores(self) -> int:
        """Results of a row's tiles that are stored one by one, likewise: of tiles that have less
        than a vector of them, and before the row."""
        step, lead = self.write_step, self.write_lead
        results = step * self.outputs
        if results < self.lanes:
            return self.row_tiles * self.lanes
        positions = self.problem.out_length if self.forward else self.problem.length
        few = positions + lead - (self.row_tiles - 1) * results < self.lanes
        return self.lanes * (few + (lead > 0 and not (few and self.row_tiles == 1)))

    # Channels, of a group

    @property
    def x_blocks(self) -> int:
        """Vectors of channels of a transformed tile of x."""
        return ceil_div(self.channels, self.lanes) * self.read_phases

    @cached_property
    def vectors(self) -> int:
        """Of channels written, of a panel: those with the fewest empty ones."""
        wanted = ceil_div(self.written, self.lanes) * self.write_phases
        most = 3 if self.request.device.vector_registers >= 32 else 2
        order = [v for v in (2, 3, 1) if v <= most]
        return min(order, key=lambda v: (ceil_div(wanted, v) * v, wanted <= v - 1))

    @property
    def panels(self) -> int:
        """Of channels written."""
        return ceil_div(ceil_div(self.written, self.lanes) * self.write_phases, self.vectors)

    @property
    def y_blocks(self) -> int:
        """Vectors of channels of a transformed tile of y."""
        return self.panels * self.vectors

    @property
    def rows(self) -> tuple[int, ...]:
        """Numbers multiplied at once with a panel's vectors, so that the sums are in registers;
        then those for the rest. Of a weight gradient they divide a vector."""
        sums = SUMS[32 if self.request.device.vector_registers >= 32 else 16]
        most = sums // (2 * self.vectors)
        if self.gradient:
            most = 1 << (most.bit_length() - 1)
        found = [most]
        while found[-1] > 1:
            found.append(found[-1] // 2)
        return tuple(found)

    def tasks(self, places: int, channels: int, step: int) -> int:
        """Work-items that transform so many channels at so many places."""
        apart = self.lines if self.together(step) == 1 else 1
        return places * apart * self.problem.groups * ceil_div(channels, self.lanes)

    # Memory

    @property
    def weight_pitch(self) -> int:
        """Elements from a point of the transformed weights to the next."""
        panels = self.problem.groups * self.panels
        return padded(panels * self.terms * 2 * self.vectors * self.lanes, self.item_bytes)

    def pitch(self, blocks: int, tiles: int) -> int:
        """The same of so many transformed tiles of so many vectors."""
        return padded(self.problem.groups * tiles * blocks * 2 * self.lanes, self.item_bytes)

    @property
    def place_bytes(self) -> int:
        """Of what is transformed at a place, both x and y."""
        blocks = self.problem.groups * (self.x_blocks + self.y_blocks)
        return self.lines * blocks * self.size * self.lanes * self.item_bytes

    @property
    def weight_local_bytes(self) -> int:
        """Local memory of the kernel that transforms weights, or gives their gradient."""
        taps = (ceil_div(self.problem.kernel_size, self.lanes) + self.gradient) * self.lanes
        return (taps + 2 * self.size) * self.lanes * self.item_bytes

    @property
    def local_bytes(self) -> int:
        """Local memory of the largest kernel."""
        most = max(self.together(self.read_step), self.together(self.write_step))
        vectors = (most + 1) * self.size + self.lanes
        return max(vectors * self.lanes * self.item_bytes, self.weight_local_bytes)
