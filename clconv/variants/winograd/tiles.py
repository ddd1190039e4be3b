"""How is a pass cut into tiles of outputs?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import ceil_div
from clconv.variants.winograd.transforms import OUTPUTS, Transform, transform

__all__ = ["Tiles", "tile_outputs"]


def tile_outputs(problem: Conv1dProblem) -> tuple[int, ...]:
    """Results of a tile that are worth trying for a layer; none where tiles save nothing. With a
    stride of 2 a tile of four has eight vectors of samples turned, which is as many as pays."""
    phase = ceil_div(problem.kernel_size, problem.stride)
    if problem.stride > 2 or (problem.stride > 1 and problem.dilation > 1):
        return ()
    some = OUTPUTS.get(phase, ())
    return some if problem.stride == 1 else some[:1]


@dataclass(frozen=True)
class Tiles:
    """The forward pass, or the input gradient, as a correlation by tiles of `outputs` results each.

    The input gradient correlates the output's gradient with the taps in reverse. A dilation makes
    lines of tiles: tile t of line j has the results (t * outputs + i) * lines + j. With a stride
    there are no lines, and the forward pass alone.
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
        return transform(self.outputs, self.problem.kernel_size, self.problem.stride)

    @property
    def points(self) -> int:
        """Products of a tile, for each of its channels."""
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
