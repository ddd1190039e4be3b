"""How do the axes of a tensor change places, once it is known that they have to?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clconv.onnx import kernels
from clconv.onnx.recording import Shape, Tensor
from clconv.onnx.work import Work

__all__ = ["Turned"]


@dataclass(frozen=True, eq=False)
class Turned:
    """A tensor whose axes are to change places, which the next node may undo or do without."""

    source: Tensor
    order: tuple[int, ...]

    @property
    def view(self) -> Tensor:
        """The elements where they are."""
        shape = tuple(self.source.shape[i] for i in self.order)
        strides = tuple(self.source.strides[i] for i in self.order)
        return self.source._replace(shape=shape, strides=strides)

    @property
    def shape(self) -> Shape:
        """That of the result."""
        return self.view.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the result."""
        return self.source.dtype

    def finish(self, work: Work, out: Tensor | None = None) -> Tensor:
        """Moves the elements."""
        turned = self.view
        if out is not None:
            kernels.evaluate(work.recorder, ["x0"], [turned], out)
            return out
        if turned.is_dense:
            return turned
        sizes, (steps,) = kernels.joined(turned.shape, turned.strides)
        if len(sizes) in (2, 3) and steps[-2] == 1:
            # Rows and columns change places.
            n = (1, 0) if len(sizes) == 2 else (sizes[0], steps[0])
            rows = turned._replace(shape=(n[0], sizes[-1], sizes[-2]), strides=(n[1], steps[-1], 1))
            return kernels.transpose(work.recorder, rows).view(turned.shape)
        return work.copied(turned)

    def fits(self, out: Tensor) -> bool:
        """Whether it can be written to a tensor of its shape that lies so."""
        return kernels.fits(self.shape, self.view.strides, out=out.strides)

    def before(self, shape: Shape) -> Tensor | None:
        """The tensor (N, C, L) whose last two axes change places; None where others do."""
        if self.order != (0, 2, 1) or len(shape) != 3:
            return None
        steps = self.source.strides
        return self.source if steps[2] == 1 or self.source.shape[2] == 1 else None
