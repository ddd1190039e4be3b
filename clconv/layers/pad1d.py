"""Padding as a layer of its own."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

from clconv.calls.elementwise import pad, pad_gradient
from clconv.errors import ModuleError
from clconv.layers.module import Module
from clconv.runtime import Runtime

__all__ = ["Pad1D"]

# Samples of the signal that a mode makes so much padding of.
SOURCES: dict[str, Callable[[int], int]] = {
    "constant": lambda padding: 0,
    "reflect": lambda padding: padding + 1,
    "edge": lambda padding: 1,
    "wrap": lambda padding: padding,
}
MODES = tuple(SOURCES)


class Pad1D(Module):
    """Padding as a layer: (N, C, L) to (N, C, left + L + right).

    Args:
        pad: samples at both ends, or (left, right).
        mode: "constant", "reflect" (without repeating the edge), "edge" or "wrap".
        fillValue: the number that "constant" pads with; None means 0.
        name: the layer's name in a container and in files, or None.
        runtime: where the layer computes; None means the default runtime.

    Raises:
        ModuleError: no such padding.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> data = gpuarray.to_gpu(np.float32([1, 2, 3]).reshape(1, 1, 3))
        >>> Pad1D((2, 0), "reflect")(data).get().tolist()
        [[[3.0, 2.0, 1.0, 2.0, 3.0]]]
    """

    _gradients_are_functional = True

    def __init__(
        self,
        pad: int | Sequence[int],
        mode: str = "constant",
        fillValue: float | None = None,
        name: str | None = None,
        *,
        runtime: Runtime | None = None,
    ) -> None:
        pair = tuple(pad) if isinstance(pad, Sequence) else (pad, pad)
        if len(pair) != 2 or not all(
            isinstance(p, numbers.Integral) and not isinstance(p, bool) and p >= 0 for p in pair
        ):
            raise ModuleError(
                f"pad is {pad!r}, expected an integer of at least 0, or (left, right)"
            )
        if mode not in MODES:
            raise ModuleError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        if fillValue is not None:
            if mode != "constant":
                raise ModuleError(f"fillValue is {fillValue!r}, which mode {mode!r} has no use for")
            if not isinstance(fillValue, numbers.Real):
                raise ModuleError(f"fillValue is {fillValue!r}, expected a number")
        super().__init__(name, runtime=runtime)
        self.pad = (int(pair[0]), int(pair[1]))
        self.mode = mode
        self.fillValue = 0.0 if fillValue is None else float(fillValue)
        self._scheme = {"pad": pad, "mode": mode, "fillValue": fillValue}

    def getBlueprint(self) -> dict[str, Any]:
        """The class and its constructor's arguments."""
        return {"classname": "Pad1D", "scheme": dict(self._scheme, name=self.name)}

    def checkDataShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless (N, C, L), long enough for the mode."""
        if len(shape) != 3:
            raise ModuleError("Data must be 3d tensor")
        if shape[2] < self._least:
            raise ModuleError(
                f"Data maps size is too small (got {shape[2]}, expected >= {self._least})"
            )

    @property
    def _least(self) -> int:
        """The shortest data that the mode can be done with."""
        return SOURCES[self.mode](max(self.pad))

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless the shape is that of the last result."""
        if len(shape) != 3:
            raise ModuleError("Grad must be 3d tensor")
        if tuple(shape) != tuple(self.data.shape):
            raise ModuleError(f"Grad has shape {tuple(shape)} (expected: {self.data.shape})")

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(N, C, left + L + right) for data (N, C, L)."""
        shape = self._sizes("Data", shape)
        self.checkDataShape(shape)
        return shape[0], shape[1], shape[2] + sum(self.pad)

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(N, C, L) for a result (N, C, left + L + right); ModuleError where that is too short."""
        batch, maps, padded = self._sizes("Grad", shape)
        least = self._least + sum(self.pad)
        if padded < least:
            raise ModuleError(f"Grad maps size is too small (got {padded}, expected >= {least})")
        return batch, maps, padded - sum(self.pad)

    def updateData(self, data: Any) -> Any:
        """The padded data."""
        return pad(self.runtime, data, self.pad, self.mode, self.fillValue)

    def updateGrad(self, grad: Any) -> Any:
        """The gradient without the padding, whose own gradient is folded back."""
        return pad_gradient(self.runtime, grad, self.pad, self.mode)
