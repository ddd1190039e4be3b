"""The transposed convolution layer, with PuzzleLib's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clconv import functional
from clconv.errors import ModuleError
from clconv.geometry import Geometry
from clconv.layers.convolution import Convolution, scheme_of
from clconv.problem import Pass
from clconv.runtime import Runtime

__all__ = ["Deconv1D"]


class Deconv1D(Convolution):
    """Transposed convolution of (N, inmaps, L) with W (inmaps, outmaps / groups, 1, size), plus b.

    The result is (N, outmaps, Lout) with Lout = (L - 1) stride + dilation (size - 1) - 2 pad + 1 +
    postpad.

    Args:
        inmaps: channels of the data.
        outmaps: channels of the result.
        size: taps of a window.
        stride: samples of the result for each of the data, at least 1.
        pad: samples of the result that are cropped at both ends, or "causal": what is beyond
            `stride` positions for each sample is cropped on the right alone, so that an output
            needs no later sample.
        dilation: samples of the result from one tap to the next, at least 1.
        postpad: samples that are appended on the right, less than stride or dilation.
        wscale: as in Conv1D.
        useBias: whether there is a bias b (1, outmaps, 1, 1), zeros at first.
        name: the layer's name in a container and in files, or None.
        initscheme: as in Conv1D.
        empty: whether the layer has no parameters until `setVar` gives them.
        groups: how many independent convolutions, a divisor of inmaps and outmaps.
        activation: as in Conv1D.
        runtime: where the layer computes; None means the default runtime.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.

    Raises:
        ModuleError: sizes that no layer can have.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> deconv = Deconv1D(4, 2, size=4, stride=2, pad=1)
        >>> deconv(gpuarray.to_gpu(np.zeros((1, 4, 10), np.float32))).shape
        (1, 2, 20)
    """

    _functions = (functional.conv_transpose1d, functional.conv_transpose1d_backward)
    _passes = (Pass.INPUT_GRADIENT, Pass.FORWARD, Pass.WEIGHT_GRADIENT)
    _gradients_are_functional = True

    def __init__(
        self,
        inmaps: int,
        outmaps: int,
        size: int,
        stride: int = 1,
        pad: int | str = 0,
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
        if postpad > Geometry(stride, dilation=dilation).most_output_padding:
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
    def geometry(self) -> Geometry:
        """How the layer's windows lie."""
        one = Geometry(self.stride, self.pad, self.dilation, self.groups, True, self.postpad)
        return one._replace(padding=one.causal_crop(self.size)) if self.pad == "causal" else one

    def _check_length(self, length: int) -> None:
        least = self.geometry.shortest_length(self.size)
        if length < least:
            raise ModuleError(
                f"Data maps size is too small (got {length}, expected at least {least})"
            )

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the shortest data that gives at least so many positions.

        Args:
            shape: (N, outmaps, Lout).

        Returns:
            (N, inmaps, L).
        """
        batch, _, out_length = self._sizes("Grad", shape)
        if out_length < 1:
            raise ModuleError(
                f"Grad maps size is too small (got {out_length}, expected at least 1)"
            )
        return batch, self.inmaps, self.geometry.shortest_length(self.size, out_length)
