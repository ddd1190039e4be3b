"""An activation as a layer of its own."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from clconv.calls.elementwise import activation_gradient, contiguous
from clconv.calls.rows import activated
from clconv.errors import ModuleError
from clconv.layers.module import Module
from clconv.problem import ACTIVATIONS
from clconv.runtime import Runtime

__all__ = ["Activation"]

# What the gradient is computed from; elu is no epilogue of a convolution.
SOURCES = {**ACTIVATIONS, "elu": "output"}
# The slope of those that have one: of leaky_relu left of 0, of elu at 0 from the left.
SLOPES = {"leaky_relu": 0.01, "elu": 1.0}


class Activation(Module):
    """An activation as a layer of its own, on (N, C, L).

    Args:
        activation: "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu" (exact) or "silu".
        slope: that of leaky_relu left of 0 (None means 0.01), or elu's alpha (None means 1).
        name: the layer's name in a container and in files, or None.
        runtime: where the layer computes; None means the default runtime.

    Raises:
        ModuleError: no such activation.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> data = gpuarray.to_gpu(np.float32([-1, 0, 1]).reshape(1, 1, 3))
        >>> Activation("leaky_relu", 0.5)(data).get().tolist()
        [[[-0.5, 0.0, 1.0]]]
    """

    _gradients_are_functional = True

    def __init__(
        self,
        activation: str,
        slope: float | None = None,
        name: str | None = None,
        *,
        runtime: Runtime | None = None,
    ) -> None:
        if not isinstance(activation, str) or activation not in SOURCES:
            raise ModuleError(f"activation is {activation!r}, expected one of {', '.join(SOURCES)}")
        if slope is not None:
            if activation not in SLOPES:
                raise ModuleError(f"slope is {slope!r}, which {activation} has no use for")
            real = isinstance(slope, numbers.Real) and not isinstance(slope, bool)
            if not real or not math.isfinite(slope) or slope < 0:
                raise ModuleError(f"slope is {slope!r}, expected a number of at least 0")
        super().__init__(name, runtime=runtime)
        self.activation = activation
        self.slope = float(SLOPES.get(activation, 0.0) if slope is None else slope)
        self._scheme = {"activation": activation, "slope": slope}

    def getBlueprint(self) -> dict[str, Any]:
        """The class and its constructor's arguments."""
        return {"classname": type(self).__name__, "scheme": dict(self._scheme, name=self.name)}

    def checkDataShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless (N, C, L)."""
        if len(shape) != 3:
            raise ModuleError("Data must be 3d tensor")

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless the shape is that of the last result."""
        if len(shape) != 3:
            raise ModuleError("Grad must be 3d tensor")
        if tuple(shape) != tuple(self.data.shape):
            raise ModuleError(f"Grad has shape {tuple(shape)} (expected: {self.data.shape})")

    def updateData(self, data: Any) -> Any:
        """The activation of each value."""
        return activated(self.runtime, data, (self.activation, self.slope))

    def updateGrad(self, grad: Any) -> Any:
        """The gradient before the activation."""
        saved = self.data if SOURCES[self.activation] == "output" else self.inData
        saved = contiguous(self.runtime, saved)
        return activation_gradient(self.runtime, self.activation, self.slope, saved, grad)
