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

    The result is (N, outmaps, Lout) with Lout = (L + 2 pad - dilation (size - 1) - 1) // stride +
    1. The names and their order are PuzzleLib's.

    Args:
        inmaps: channels of the data.
        outmaps: channels of the result.
        size: taps of a window.
        stride: samples from one window to the next, at least 1.
        pad: zeros at both ends in samples, (left, right), or "causal": dilation (size - 1) on the
            left alone.
        dilation: samples from one tap of a window to the next, at least 1.
        wscale: of the schemes "gaussian" and "uniform": the first weights' deviation, or half their
            range.
        useBias: whether there is a bias b (1, outmaps, 1, 1), zeros at first.
        name: the layer's name in a container and in files, or None.
        initscheme: how W is drawn from NumPy's global generator: "xavier_uniform" (None means it),
            "xavier" or "xavier_normal" (Glorot and Bengio, 2010), "he" (He, Zhang, Ren and Sun,
            2015), "uniform", "gaussian" or "none"; or a pair of that with "in", "out" or "avg", the
            fan that counts.
        empty: whether the layer has no parameters until `setVar` gives them.
        groups: how many independent convolutions, a divisor of inmaps and outmaps.
        activation: None, "relu", "leaky_relu" or ("leaky_relu", slope), "sigmoid", "tanh", "gelu"
            or "silu", in the same kernel.
        runtime: where the layer computes; None means the default runtime.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.

    Raises:
        ModuleError: sizes that no layer can have.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> conv = Conv1D(2, 4, size=3, pad=1, activation="relu")
        >>> conv(gpuarray.to_gpu(np.zeros((1, 2, 10), np.float32))).shape
        (1, 4, 10)
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
        """The shape of the shortest data that gives a result of this shape.

        Args:
            shape: (N, outmaps, Lout).

        Returns:
            (N, inmaps, L).

        Raises:
            ModuleError: no data gives such a result.
        """
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
