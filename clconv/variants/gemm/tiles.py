"""A pass as products of matrices: their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clconv.problem import Pass
from clconv.variants.base import Constants, Request, geometry_constants
from clconv.variants.gemm import gemv
from clconv.variants.products import DEPTHS, SHAPES, Tile, fitting
from clconv.variants.products import constants as product_constants

__all__ = ["DEPTHS", "SHAPES", "Matrices", "Tile", "constants", "fitting"]


@dataclass(frozen=True)
class Matrices:
    """The sizes of a pass as a product of matrices, for each of `products` of them."""

    request: Request

    @property
    def forward(self) -> bool:
        """Or a gradient."""
        return self.request.pass_ is Pass.FORWARD

    @property
    def weights(self) -> bool:
        """The weight gradient."""
        return self.request.pass_ is Pass.WEIGHT_GRADIENT

    @cached_property
    def products(self) -> int:
        """One a group, and a phase of the input gradient."""
        problem = self.request.problem
        phases = problem.stride if self.request.pass_ is Pass.INPUT_GRADIENT else 1
        return problem.groups * phases

    @cached_property
    def rows(self) -> int:
        """Rows of the result."""
        problem = self.request.problem
        backward = self.request.pass_ is Pass.INPUT_GRADIENT
        return problem.group_in if backward else problem.group_out

    @cached_property
    def columns(self) -> int:
        """Columns of the result."""
        problem = self.request.problem
        if self.weights:
            return problem.group_in * problem.kernel_size
        return gemv.columns(self.request)

    @cached_property
    def terms(self) -> float:
        """Terms of a sum, on average over the phases."""
        problem = self.request.problem
        if self.weights:
            return problem.batch * problem.out_length
        if self.forward:
            return problem.group_in * problem.kernel_size
        return problem.group_out * problem.kernel_size / problem.stride


def constants(request: Request) -> Constants:
    """What the templates of this folder have beside a tile."""
    return (*product_constants(request), *geometry_constants(request.problem))
