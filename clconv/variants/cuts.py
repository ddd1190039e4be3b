"""How is a pass cut into tiles of samples? Geometry alone, whatever becomes of the tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import Request, accumulator, ceil_div

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """The forward pass or the input gradient as a correlation by tiles of `size` samples; the
    weight gradient by the forward pass's tiles of x, and those of the results that they give.

    A dilation makes lines of tiles; a stride makes phases of the channels read (forward) or written
    (input gradient).
    """

    request: Request
    size: int

    @property
    def problem(self) -> Conv1dProblem:
        """What is computed."""
        return self.request.problem

    @property
    def forward(self) -> bool:
        """Whether the input's tiles are read, as for the weight gradient; not the output's."""
        return self.request.pass_ is not Pass.INPUT_GRADIENT

    @property
    def gradient(self) -> bool:
        """The weight gradient."""
        return self.request.pass_ is Pass.WEIGHT_GRADIENT

    @cached_property
    def item_bytes(self) -> int:
        """Of a transformed element."""
        return int(accumulator(self.problem.dtype).itemsize)

    # Samples

    @property
    def taps(self) -> int:
        """Of a phase of the stride."""
        return ceil_div(self.problem.kernel_size, self.problem.stride)

    @property
    def outputs(self) -> int:
        """Results of a tile, of each line or phase."""
        return self.size - self.taps + 1

    @property
    def lines(self) -> int:
        """Tiles at a place, samples of different phases of the dilation."""
        return self.problem.dilation

    @property
    def read_phases(self) -> int:
        """Phases of the channels read."""
        return self.problem.stride if self.forward else 1

    @property
    def write_phases(self) -> int:
        """Phases of the channels written."""
        return 1 if self.forward else self.problem.stride

    @property
    def read_step(self) -> int:
        """From a sample of a tile to the next."""
        return self.lines * self.read_phases

    @property
    def write_step(self) -> int:
        """From a result of a tile to the next."""
        return self.lines * self.write_phases

    @property
    def read_lead(self) -> int:
        """Samples before the first of a row that its first tile begins at."""
        left = self.problem.pads[0]
        if self.forward:
            return left
        if self.problem.stride == 1:
            return self.problem.window - 1 - left
        return self.taps - 1 - left // self.problem.stride

    @property
    def write_lead(self) -> int:
        """The same of results."""
        return 0 if self.forward else self.problem.pads[0] % self.problem.stride

    @property
    def row_tiles(self) -> int:
        """Places of tiles in a row."""
        positions = ceil_div(self.problem.positions(self.request.pass_), self.lines)
        return ceil_div(positions, self.outputs)

    # Channels, of a group

    @property
    def channels(self) -> int:
        """Read, of a phase."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @property
    def written(self) -> int:
        """Written, of a phase."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @property
    def terms(self) -> int:
        """Channels read of all phases, of which each sum has one product."""
        return self.channels * self.read_phases
