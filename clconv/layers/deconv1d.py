"""The transposed convolution layer, PuzzleLib's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clconv import functional
from clconv.errors import ModuleError
from clconv.layers.convolution import Convolution, scheme_of
from clconv.problem import Conv1dProblem, Pass
from clconv.runtime import Runtime

__all__ = ["Deconv1D"]


class Deconv1D(Convolution):
    """Transposed convolution of (N, inmaps, L) with W (inmaps, outmaps / groups, 1, size), plus b.

    Lout = (L - 1) stride + dilation (size - 1) - 2 pad + 1 + postpad. `activation` as in Conv1D.
    Raises ModuleError.
    """

    _functions = (functional.conv_transpose1d, functional.conv_transpose1d_backward)
    _gradients_are_functional = True

    def __init__(
        self,
        inmaps: int,
        outmaps: int,
        size: int,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        postpad: int = 0,
        wscale: float = 1.0,
        useBias: bool = True,
        name: str | None = None,
        initscheme: Any = None,
        empty: bool = False,
        groups: int = 1,
        *,
        activation: Any = None,
        runtime: Runtime | None = None,
        exact: bool | None = None,
    ) -> None:
        scheme = scheme_of(locals())
        self.check(scheme)
        if postpad >= max(stride, dilation):
            raise ModuleError("Postpad must be smaller than stride and dilation")
        super().__init__(
            scheme,
            (inmaps, outmaps // groups, 1, size),
            (inmaps * size, outmaps / groups * size),
            activation,
            runtime,
            exact,
        )
        self.postpad = postpad

    @property
    def _beyond(self) -> int:
        """Output positions beyond (L - 1) stride; may be negative."""
        return int(self.dilation * (self.size - 1) - 2 * self.pad + 1 + self.postpad)

    @property
    def _least(self) -> int:
        """The shortest data that gives an output position."""
        return int(max(1, -((self._beyond - 1) // self.stride) + 1))

    def _check_length(self, length: int) -> None:
        if length < self._least:
            raise ModuleError(
                f"Data maps size is too small (got {length}, expected at least {self._least})"
            )

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(N, outmaps, Lout) for data (N, inmaps, L)."""
        shape = self._sizes("Data", shape)
        self.checkDataShape(shape)
        return shape[0], self.outmaps, (shape[2] - 1) * self.stride + self._beyond

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shortest (N, inmaps, L) that gives at least (N, outmaps, Lout)."""
        batch, _, out_length = self._sizes("Grad", shape)
        if out_length < 1:
            raise ModuleError(
                f"Grad maps size is too small (got {out_length}, expected at least 1)"
            )
        length = -((self._beyond - out_length) // self.stride) + 1
        return batch, self.inmaps, max(length, self._least)

    def _problem(self, shape: Sequence[int]) -> tuple[Conv1dProblem, tuple[Pass, Pass, Pass]]:
        _, _, length = self.dataShapeFrom(shape)
        problem = Conv1dProblem(
            shape[0],
            self.outmaps,
            length,
            self.inmaps,
            self.size,
            self.stride,
            (self.pad, max(self.pad - self.postpad, 0)),
            self.dilation,
            self.groups,
            self.calctype,
        )
        return problem, (Pass.INPUT_GRADIENT, Pass.FORWARD, Pass.WEIGHT_GRADIENT)

    def _geometry(self) -> dict[str, int]:
        return {**super()._geometry(), "output_padding": self.postpad}
