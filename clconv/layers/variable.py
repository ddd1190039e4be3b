"""A parameter of a layer: its values, its gradient, and how an optimizer treats it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.elementwise import add_scaled, convert, copy_view, fill
from clconv.errors import ModuleError
from clconv.layers.copying import Copyable
from clconv.runtime import check_context, default_runtime, memory_of, runtime_of

__all__ = ["Variable"]

_numbers = itertools.count()


class Variable(Copyable):
    """Device arrays `data` and `grad` of one shape and dtype.

    `grad` is zeros unless given, or None with `withgrad=False`. `updater(variable, learnRate)`
    replaces the plain step, `postUpdater(variable)` follows any. An optimizer scales by `learnRate`
    and `momRate`, and decays by `wc`. The name is a running number unless given.
    """

    def __init__(
        self,
        data: Any,
        name: str | None = None,
        withgrad: bool = True,
        grad: Any = None,
        updater: Callable[[Variable, float], None] | None = None,
        postUpdater: Callable[[Variable], None] | None = None,
    ) -> None:
        if isinstance(data, np.ndarray):
            data = default_runtime().to_device(data)
        if not isinstance(data, cl_array.Array):
            raise ModuleError(f"data is a {type(data).__name__}, expected a device array")
        memory_of("data", data)
        runtime = runtime_of(data.context)
        if grad is not None:
            if isinstance(grad, np.ndarray):
                grad = runtime.to_device(grad)
            if not isinstance(grad, cl_array.Array):
                raise ModuleError(f"grad is a {type(grad).__name__}, expected a device array")
            memory_of("grad", grad)
            if grad.shape != data.shape or grad.dtype != data.dtype:
                raise ModuleError(
                    f"grad has shape {grad.shape} and dtype {grad.dtype}, expected {data.shape} "
                    f"and {data.dtype}"
                )
            check_context("grad", grad, data.context, "data")
        elif withgrad:
            grad = runtime.zeros(data.shape, data.dtype)
        self.name = str(next(_numbers)) if name is None else name
        self.data = data
        self.grad = grad
        self.updater = updater
        self.postUpdater = postUpdater
        self.learnRate = 1.0
        self.momRate = 1.0
        self.wc = 0.0

    def __repr__(self) -> str:
        return f"<clconv.Variable {self.name} {tuple(self.data.shape)} {self.data.dtype}>"

    @property
    def hasUpdater(self) -> bool:
        """Whether the variable brings its own update."""
        return self.updater is not None

    def set(self, other: Variable) -> None:
        """Copies data and gradient of a variable of the same shape and dtype."""
        if other.data.shape != self.data.shape or other.data.dtype != self.data.dtype:
            raise ModuleError(
                f"other has shape {other.data.shape} and dtype {other.data.dtype}, expected "
                f"{self.data.shape} and {self.data.dtype}"
            )
        check_context("other", other.data, self.data.context, f"variable {self.name}")
        runtime = runtime_of(self.data.context)
        copy_view(runtime, other.data, self.data)
        if self.grad is not None:
            if other.grad is None:
                fill(runtime, self.grad, 0)
            else:
                copy_view(runtime, other.grad, self.grad)

    def update(self, learnRate: float) -> None:
        """Queues `data += learnRate * grad`, or the variable's own update."""
        if self.updater is not None:
            self.updater(self, learnRate)
        elif self.grad is not None:
            add_scaled(
                runtime_of(self.data.context), self.data, learnRate * self.learnRate, self.grad
            )
        if self.postUpdater is not None:
            self.postUpdater(self)

    def zeroGrad(self) -> None:
        """Queues filling the gradient with zeros."""
        if self.grad is not None:
            fill(runtime_of(self.data.context), self.grad, 0)

    def converted(self, dtype: Any) -> tuple[Any, Any]:
        """(data, grad) in another dtype, queued; the variable itself stays as it is."""
        runtime = runtime_of(self.data.context)
        grad = None if self.grad is None else convert(runtime, self.grad, dtype)
        return convert(runtime, self.data, dtype), grad

    def calcMode(self, dtype: Any) -> None:
        """Queues converting data and gradient to another dtype."""
        self.data, self.grad = self.converted(dtype)
