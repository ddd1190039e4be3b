"""The convolution layer, with PuzzleLib's interface."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from clconv import functional
from clconv.errors import ModuleError
from clconv.layers.convolution import Convolution, is_pair, scheme_of
from clconv.problem import Pass
from clconv.runtime import Runtime

__all__ = ["Conv1D"]


class Conv1D(Convolution):
    """Cross-correlation of (N, inmaps, L) with W (outmaps, inmaps / groups, 1, size), plus b.

    Lout = (L + 2 pad - dilation (size - 1) - 1) // stride + 1. `pad` may also be (left, right), or
    "causal": dilation (size - 1) on the left alone. `activation` is None, "relu",
    "leaky_relu" or ("leaky_relu", slope), "sigmoid", "tanh", "gelu", "silu". With `exact` only
    variants that form the definition's own sums are used; None means what the runtime says. Raises
    ModuleError.
    """

    _functions = (functional.conv1d, functional.conv1d_backward)
    _passes = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
    _gradients_are_functional = True
    _pads_beside = ', (left, right) or "causal"'

    def __init__(
        self,
        inmaps: int,
        outmaps: int,
        size: int,
        stride: int = 1,
        pad: int | Sequence[int] | str = 0,
        dilation: int = 1,
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
        super().__init__(
            scheme,
            (outmaps, inmaps // groups, 1, size),
            (inmaps / groups * size, outmaps * size),
            activation,
            runtime,
            exact,
        )

    @classmethod
    def _is_pad(cls, value: Any) -> bool:
        return super()._is_pad(value) or is_pair(value)

    def _check_length(self, length: int) -> None:
        geometry = self.geometry
        if length >= geometry.shortest_length(self.size):
            return
        padded, window = geometry.padded(length, self.size), geometry.window(self.size)
        if padded < window:
            raise ModuleError(
                f"Data maps size is too small (got {padded}, expected at least {window})"
            )
        raise ModuleError(f"Data maps have size {length}, expected at least 1")

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shortest (N, inmaps, L) that gives (N, outmaps, Lout), else ModuleError."""
        batch, _, out_length = self._sizes("Grad", shape)
        geometry = self.geometry
        length = geometry.shortest_length(self.size, out_length)
        if out_length < 1 or geometry.out_length(length, self.size) != out_length:
            least = max(geometry.out_length(1, self.size), 1)
            raise ModuleError(
                f"Grad maps size is too small (got {out_length}, expected at least {least})"
            )
        return batch, self.inmaps, length


class _Called(ModuleType):
    """This module, which `from clconv import conv1d` gives to who wants the function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError(
            "clconv.conv1d is the module of the layer Conv1D; the function is "
            "clconv.functional.conv1d"
        )


sys.modules[__name__].__class__ = _Called
