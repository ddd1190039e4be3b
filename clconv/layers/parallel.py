"""Branches: layers side by side, which take the same data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from clconv import gpuarray, progress, tuning
from clconv.calls.rows import summed
from clconv.errors import ModuleError
from clconv.layers.module import Module
from clconv.layers.sequential import Container
from clconv.runtime import runtime_of

__all__ = ["MERGES", "Parallel"]

MERGES = ("sum", "concat")


class Parallel(Container):
    """Modules that all take the same data; their results are added, or joined as maps.

    An empty Sequential passes its data on: beside another branch it is what residual networks call
    a skip. Results have one batch and length, those that are added also one number of maps.

    Args:
        merge: "sum" or "concat".
        name: the container's name in another one and in files, or None.

    Raises:
        ModuleError: no such merge.

    Examples:
        >>> import numpy as np
        >>> from clconv import Conv1D, Sequential, gpuarray
        >>> block = Parallel("concat").append(Conv1D(2, 4, size=3, pad=1)).append(Sequential())
        >>> block(gpuarray.to_gpu(np.zeros((1, 2, 10), np.float32))).shape
        (1, 6, 10)
    """

    def __init__(self, merge: str = "sum", name: str | None = None) -> None:
        if merge not in MERGES:
            raise ModuleError(f"merge is {merge!r}, expected one of {', '.join(MERGES)}")
        super().__init__(name)
        self.merge = merge

    def _of(self, modules: Iterable[Module]) -> Parallel:
        return Parallel(self.merge, self.name).extend(modules)

    def merged_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The result's shape for those of the branches. Raises ModuleError."""
        if not shapes:
            raise ModuleError(f"{self.called} has no branches")
        skipped = None if self.merge == "sum" else 1
        first = shapes[0]
        for i, shape in enumerate(shapes):
            alike = len(shape) == len(first) == 3 and all(
                a == b or axis == skipped
                for axis, (a, b) in enumerate(zip(shape, first, strict=True))
            )
            if not alike:
                but = "" if skipped is None else ", in all but the maps"
                raise ModuleError(
                    f"Branch {i} gives shape {tuple(shape)} (expected: {tuple(first)}, "
                    f"of branch 0{but})"
                )
        if self.merge == "sum":
            return tuple(first)
        return first[0], sum(shape[1] for shape in shapes), first[2]

    def updateData(self, data: Any) -> Any:
        """The results of all branches, merged."""
        restore = self.remember()
        results = []
        try:
            for i, module in enumerate(self.graph):
                with self._placing("Data", i):
                    results.append(module(data))
            self.merged_shape([one.shape for one in results])
            if self.merge == "sum":
                return summed(runtime_of(data.context), results)
            return results[0] if len(results) == 1 else gpuarray.concatenate(results, axis=1)
        except BaseException:
            restore()
            raise

    def _parts(self, sizes: Iterable[int]) -> list[slice]:
        """Which maps of the result each branch gives."""
        found, start = [], 0
        for maps in sizes:
            found.append(slice(start, start + maps) if self.merge == "concat" else slice(None))
            start += maps
        return found

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless the shape is that of the last result; asks all branches."""
        if len(shape) != 3:
            raise ModuleError("Grad must be 3d tensor")
        if tuple(shape) != tuple(self.data.shape):
            raise ModuleError(f"Grad has shape {tuple(shape)} (expected: {self.data.shape})")
        for i, module in enumerate(self.graph):
            with self._placing("Grad", i):
                if module.inData is None:
                    raise ModuleError(f"{module.called}: backward needs a forward call before it")
                module.checkGradShape(module.data.shape)

    def _backward(
        self, grad: Any, params: bool, inputs: bool, scale: float, momentum: float
    ) -> Any:
        parts = self._parts([module.data.shape[1] for module in self.graph])
        gradients = []
        with self._changing() as changing:
            for i, (module, maps) in enumerate(zip(self.graph, parts, strict=True)):
                whole = self.merge == "sum" or len(parts) == 1
                own = grad if whole else gpuarray.copy(grad[:, maps])
                with self._placing("Grad", i), changing(module, params):
                    gradients.append(module.backward(own, params, inputs, scale, momentum))
            return summed(runtime_of(grad.context), gradients) if inputs else None

    # Shapes

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The merged result's shape."""
        found = []
        for i, module in enumerate(self.graph):
            with self._placing("Data", i):
                module.checkDataShape(shape)
                found.append(module.dataShapeFrom(shape))
        return self.merged_shape(found)

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the shortest data that gives every branch so many positions; its maps are
        those of the branch that says least of them."""
        found = []
        for i, module in enumerate(self.graph):
            with self._placing("Grad", i):
                found.append(module.gradShapeFrom(shape))
        if not found:
            raise ModuleError(f"{self.called} has no branches")
        return found[0][0], min(one[1] for one in found), max(one[2] for one in found)

    def optimizeForShape(self, shape: Sequence[int], memlimit: int | None = None) -> None:
        """Lets each branch choose for the shape; like layers are timed once."""
        restore = self.remember()
        try:
            with tuning.once(), progress.bar("tuning", "branch", len(self.graph)) as shown:
                for i, module in enumerate(self.graph):
                    shown.tell(i)
                    with self._placing("Data", i):
                        module.optimizeForShape(shape, memlimit)
        except BaseException:
            restore()
            raise

    def getBlueprint(self) -> dict[str, Any]:
        """The blueprints of all branches, and how they are merged."""
        made = super().getBlueprint()
        made["scheme"] = {"merge": self.merge, **made["scheme"]}
        return made
