"""How is a pass cut into tiles of outputs?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import ceil_div
from clconv.variants.winograd.transforms import OUTPUTS, Transform, transform

__all__ = ["Tiles", "tile_outputs"]


def tile_outputs(problem: Conv1dProblem, pass_: Pass = Pass.FORWARD) -> tuple[int, ...]:
    """Results of a tile that are worth trying for a layer; none where tiles save nothing. With a
    stride of 2 a tile of four has eight vectors of samples turned, or eight of results, which is as
    many as pays. Three taps have 12 products by definition there, and 10 in the tiles of both
    phases of the input gradient."""
    phase = ceil_div(problem.kernel_size, problem.stride)
    if problem.stride > 2 or (problem.stride > 1 and problem.dilation > 1):
        return ()
    some = OUTPUTS.get(phase, ())
    if problem.stride == 1:
        return some
    if pass_ is Pass.INPUT_GRADIENT:
        return some if problem.kernel_size > 3 else ()
    return some[:1]


@dataclass(frozen=True)
class Tiles:
    """The forward pass, or the input gradient, as a correlation by tiles of `outputs` results each.

    The input gradient correlates the output's gradient with the taps in reverse. A dilation makes
    lines of tiles: tile t of line j has the results (t * outputs + i) * lines + j. With a stride
    there are no lines. The results of the input gradient have phases then: result i of phase r of
    tile t is (t * outputs + i) * phases + r - write_lead, of every `phases`th tap from the rth on.
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
        taps = self.problem.kernel_size
        if self.forward:
            return transform(self.outputs, taps, self.problem.stride)
        return transform(self.outputs, ceil_div(taps, self.phases))

    @property
    def phases(self) -> int:
        """Of results that are summed from the same samples by taps of their own."""
        return 1 if self.forward else self.problem.stride

    @property
    def write_lead(self) -> int:
        """Results of a row's first tile that are in front of the row."""
        return self.problem.pads[0] % self.phases

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
        if self.forward:
            return left
        return (self.transform.taps - 1) * self.lines - left // self.phases

    @property
    def channels(self) -> int:
        """Read and summed over, of a group."""
        return self.problem.group_in if self.forward else self.problem.group_out

    @property
    def written(self) -> int:
        """Written, of a group."""
        return self.problem.group_out if self.forward else self.problem.group_in

    @property
    def columns(self) -> int:
        """Phases of all channels written, of a group: those of a channel are side by side."""
        return self.written * self.phases

    @property
    def length(self) -> int:
        """Of the rows that are read."""
        return self.problem.length if self.forward else self.problem.out_length

    @property
    def positions(self) -> int:
        """Of the rows that are written."""
        return self.problem.out_length if self.forward else self.problem.length

    @property
    def phase_positions(self) -> int:
        """Of these, those of a phase, and one that is in front of them."""
        return self.problem.positions(self.pass_)

    @property
    def row_tiles(self) -> int:
        """Tiles of a line."""
        return ceil_div(ceil_div(self.phase_positions, self.lines), self.outputs)
