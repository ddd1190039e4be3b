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
    """A parameter of a layer: device arrays `data` and `grad` of one shape and dtype.

    After `data` was read or set from outside, the caller may change it at any time. Then layers
    cannot know whether their weights are unchanged, and prepare them again in each call. They do
    know it of a variable that only `set`, `update` and loading have changed. An optimizer scales by
    the attributes `learnRate` and `momRate`, and decays by `wc`.

    Args:
        data: a device array.
        name: None means a running number.
        withgrad: whether there is a gradient; without one `grad` is None.
        grad: a device array like `data`; None means zeros.
        updater: updater(variable, learnRate), which replaces the plain step, or None.
        postUpdater: postUpdater(variable), which follows any step, or None.

    Raises:
        ModuleError: arrays that do not belong together.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> variable = Variable(gpuarray.to_gpu(np.float32([1, 2])))
        >>> _ = variable.grad.fill(1)
        >>> variable.update(0.5)
        >>> variable.data.get().tolist()
        [1.5, 2.5]
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
        own = isinstance(data, np.ndarray)
        if own:
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
        self._array = data
        self._version: int | None = 0 if own else None
        self.grad = grad
        self.updater = updater
        self.postUpdater = postUpdater
        self.learnRate = 1.0
        self.momRate = 1.0
        self.wc = 0.0

    def __repr__(self) -> str:
        return f"<clconv.Variable {self.name} {tuple(self.array.shape)} {self.array.dtype}>"

    @classmethod
    def of_own(cls, data: cl_array.Array) -> Variable:
        """A variable of an array that no caller has."""
        variable = cls(data)
        variable._version = 0
        return variable

    @property
    def data(self) -> Any:
        """The values."""
        self._version = None
        return self._array

    @data.setter
    def data(self, array: Any) -> None:
        self._array, self._version = array, None

    @property
    def array(self) -> Any:
        """`data` for code that neither changes it nor passes it on."""
        return self._array

    @property
    def version(self) -> int | None:
        """Another number after each change; None where changes may go unseen."""
        return self._version

    def changed(self) -> None:
        """Says that the values were changed."""
        if self._version is not None:
            self._version += 1

    @property
    def hasUpdater(self) -> bool:
        """Whether the variable brings its own update."""
        return self.updater is not None

    def set(self, other: Variable) -> None:
        """Copies data and gradient of another variable.

        Args:
            other: a variable of the same shape and dtype.

        Raises:
            ModuleError: another shape or dtype.
        """
        if other.array.shape != self.array.shape or other.array.dtype != self.array.dtype:
            raise ModuleError(
                f"other has shape {other.array.shape} and dtype {other.array.dtype}, expected "
                f"{self.array.shape} and {self.array.dtype}"
            )
        check_context("other", other.array, self.array.context, f"variable {self.name}")
        runtime = runtime_of(self.array.context)
        copy_view(runtime, other.array, self.array)
        self.changed()
        if self.grad is not None:
            if other.grad is None:
                fill(runtime, self.grad, 0)
            else:
                copy_view(runtime, other.grad, self.grad)

    def update(self, learnRate: float) -> None:
        """Queues `data += learnRate * grad`, or the variable's own update.

        Args:
            learnRate: a number.
        """
        if self.updater is not None:
            self.updater(self, learnRate)
        elif self.grad is not None:
            add_scaled(
                runtime_of(self.array.context), self.array, learnRate * self.learnRate, self.grad
            )
            self.changed()
        if self.postUpdater is not None:
            self.postUpdater(self)

    def zeroGrad(self) -> None:
        """Queues filling the gradient with zeros."""
        if self.grad is not None:
            fill(runtime_of(self.array.context), self.grad, 0)

    def converted(self, dtype: Any) -> tuple[Any, Any]:
        """(data, grad) in another dtype, queued; the variable itself stays as it is."""
        runtime = runtime_of(self.array.context)
        grad = None if self.grad is None else convert(runtime, self.grad, dtype)
        return convert(runtime, self.array, dtype), grad

    def calcMode(self, dtype: Any) -> None:
        """Queues converting data and gradient to another dtype.

        Args:
            dtype: float32, float16, bfloat16 or float64, as NumPy takes it.
        """
        self.replace(*self.converted(dtype))

    def replace(self, data: Any, grad: Any) -> None:
        """Takes arrays that no caller has."""
        self._array, self.grad = data, grad
        self.changed()
