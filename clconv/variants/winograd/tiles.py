"""How is a pass cut into tiles of outputs?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import ceil_div
from clconv.variants.winograd.transforms import Transform, transform

__all__ = ["Tiles"]


@dataclass(frozen=True)
class Tiles:
    """The forward pass, or the input gradient, as a correlation by tiles of `outputs` results each.

    A dilation makes lines of tiles: tile t of line j has the results (t * outputs + i) * lines + j.
    The input gradient correlates the output's gradient with the taps in reverse.
    """

    problem: Conv1dProblem
    pass_: Pass
    outputs: int

    @property
    def forward(self) -> bool:
        """Or the input gradient."""
        return self.pass_ is Pass.FORWARD

    @cached_property
    def transform(self) -> Transform:
        """The tiles' transform."""
        return transform(self.outputs, self.problem.kernel_size)

    @property
    def points(self) -> int:
        """Samples of a tile, and products for each of its channels."""
        return self.transform.points

    @property
    def lines(self) -> int:
        """Tiles at a place, of samples that lie between each other."""
        return self.problem.dilation

    @property
    def lead(self) -> int:
        """Samples before the first of a row that its first tile begins at."""
        left = self.problem.pads[0]
        return left if self.forward else self.problem.window - 1 - left

    @property
    def channels(self) -> int:
        """Read and summed over, of a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @property
    def written(self) -> int:
        """Written, of a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @property
    def length(self) -> int:
        """Of the rows that are read."""
        return self.problem.length if self.forward else self.problem.out_length

    @property
    def positions(self) -> int:
        """Of the rows that are written."""
        return self.problem.positions(self.pass_)

    @property
    def row_tiles(self) -> int:
        """Tiles of a line."""
        return ceil_div(ceil_div(self.positions, self.lines), self.outputs)
