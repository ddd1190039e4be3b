"""What every layer does: variables, modes, the order of forward and backward, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.dtypes import dtype_of, is_computed
from clconv.errors import ArrayTypeError, ModuleError, ProblemError
from clconv.geometry import whole
from clconv.layers.copying import Copyable
from clconv.layers.variable import Variable
from clconv.runtime import Runtime, check_context, default_runtime, memory_of

__all__ = ["Module"]


class Module(Copyable):
    """Base class of layers.

    A layer of your own defines `updateData(data)`, which returns the result, and
    `updateGrad(grad)`, which returns the gradient of the input; with parameters also
    `accGradParams(grad, scale, momentum)`. It may check with `checkDataShape(shape)` and
    `checkGradShape(shape)`, and give `dataShapeFrom`, `gradShapeFrom`. Parameters are registered
    with `setVar(name, Variable(…))`.

    Args:
        name: the layer's name in a container and in files, or None.
        runtime: where the layer computes; None means the default runtime.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> class Negative(Module):
        ...     def updateData(self, data):
        ...         return -data
        ...
        ...     def updateGrad(self, grad):
        ...         return -grad
        >>> Negative()(gpuarray.to_gpu(np.ones((1, 1, 2), np.float32))).get().tolist()
        [[[-1.0, -1.0]]]
    """

    def __init__(self, name: str | None = None, *, runtime: Runtime | None = None) -> None:
        self.name = name
        self.runtime = runtime or default_runtime()
        self.vars: dict[str, Variable] = {}
        self.attrs: dict[str, Any] = {}
        self.train = True
        self.calctype = np.dtype(np.float32)
        self.inData: Any = None
        self.data: Any = None
        self.grad: Any = None

    def __repr__(self) -> str:
        named = "" if self.name is None else f" {self.name}"
        return f"<clconv.{type(self).__name__}{named}>"

    @property
    def called(self) -> str:
        """What errors call it."""
        return f"Module {self.name}" if self.name is not None else f"the {type(self).__name__}"

    def transient(self) -> dict[str, Any]:
        """A copy has seen no data: backward needs a forward call before it."""
        return {"inData": None, "data": None, "grad": None}

    # Variables

    def setVar(self, name: str, variable: Variable) -> None:
        """Makes a variable the parameter of a name.

        Args:
            name: the parameter's name, such as "W".
            variable: the Variable.
        """
        if not isinstance(variable, Variable):
            raise ModuleError(f"variable is a {type(variable).__name__}, expected a Variable")
        self.vars[name] = variable

    def getVar(self, name: str) -> Variable:
        """The parameter of a name.

        Args:
            name: the parameter's name, such as "W".

        Returns:
            The Variable.

        Raises:
            ModuleError: there is none.
        """
        if name not in self.vars:
            names = ", ".join(self.vars) or "none"
            raise ModuleError(f"{self.called} has no variable {name!r}, it has: {names}")
        return self.vars[name]

    def hasVar(self, name: str) -> bool:
        """Whether there is a parameter of this name."""
        return name in self.vars

    def getVarTable(
        self, vartable: dict[Variable, list[str]] | None = None, name: str | None = None
    ) -> dict[Variable, list[str]]:
        """All parameters with their names; a shared one has several.

        Args:
            vartable: a table to add to, or None.
            name: the path of the module, or None.

        Returns:
            {variable: names}.
        """
        table = {} if vartable is None else vartable
        for key, variable in self.vars.items():
            full = f"{name}.{key}" if name else key
            table.setdefault(variable, []).append(full)
        return table

    def zeroGradParams(self) -> None:
        """Queues filling all gradients with zeros."""
        for variable in self.vars.values():
            variable.zeroGrad()

    def updateParams(self, learnRate: float) -> None:
        """Queues `data += learnRate * grad` of all parameters.

        Args:
            learnRate: a number.
        """
        for variable in self.vars.values():
            variable.update(learnRate)

    def numOfParams(self) -> int:
        """How many numbers the parameters are."""
        return sum(variable.array.size for variable in self.getVarTable())

    def paramSize(self, unit: str | None = None) -> float:
        """Size of the parameters.

        Args:
            unit: None means bytes; "kb" or "mb".

        Returns:
            A number.

        Raises:
            ModuleError: another unit.
        """
        divisors = {None: 1, "kb": 1024, "mb": 1024**2}
        if unit not in divisors:
            raise ModuleError(f"unit is {unit!r}, expected None, 'kb' or 'mb'")
        size: int = sum(variable.array.nbytes for variable in self.getVarTable())
        return size if unit is None else size / divisors[unit]

    # Modes

    def trainMode(self) -> None:
        """Training: gradients of parameters are accumulated. Drops the last data and gradient."""
        self.train = True
        self.reset()

    def evalMode(self) -> None:
        """Inference. Drops the last data and gradient."""
        self.train = False
        self.reset()

    def reset(self) -> None:
        """Drops inData, data and grad."""
        self.inData = self.data = self.grad = None

    def calcMode(self, T: Any) -> None:
        """Computes in another dtype from now on.

        Args:
            T: float32, float16 or bfloat16 (sums in float32) or float64, as NumPy takes it.

        Raises:
            ModuleError: another dtype, or float64 on a device without it.
        """
        try:
            dtype = dtype_of(object if T is None else T)  # NumPy takes None for float64
        except TypeError:
            dtype = np.dtype(object)
        except ProblemError as error:
            raise ModuleError(str(error)) from error
        if not is_computed(dtype) or (dtype == np.float64 and not self.runtime.profile.fp64):
            raise ModuleError(f"Unsupported dtype {T}")
        if dtype == self.calctype:
            return
        variables = [v for v in self.getVarTable() if v.array.dtype != dtype]
        converted = [variable.converted(dtype) for variable in variables]
        for variable, arrays in zip(variables, converted, strict=True):
            variable.replace(*arrays)
        self.calctype = dtype
        self.reset()

    def remember(self) -> Callable[[], None]:
        """What brings the module back to the state it has now, but for its arrays' contents."""
        state = dict(vars(self))

        def restore() -> None:
            vars(self).clear()
            vars(self).update(state)

        return restore

    # Forward and backward

    # In a class's own body: nothing but calls of `functional` changes parameters' gradients, and
    # nothing reads them in `backward`.
    _gradients_are_functional = False

    def __call__(self, data: Any) -> Any:
        """The layer's result, which it keeps as `data`, and the data as `inData`.

        Args:
            data: a device array, of most layers (N, C, L).

        Returns:
            A device array.

        Raises:
            ModuleError: data that the layer cannot take.
            DeviceError: an array of another context, or a device that fails.
        """
        self._check_array("data", data)
        self.checkDataShape(data.shape)
        self.checkDataType(data.dtype)
        result = self.updateData(data)
        self.inData, self.data = data, result
        return result

    def backward(
        self,
        grad: Any,
        updParamGrads: bool = True,
        updGrad: bool = True,
        scale: float = 1.0,
        momentum: float = 0.0,
    ) -> Any:
        """The gradient of the last input, which `grad` also keeps, and those of the parameters.

        Parameters' gradients accumulate: momentum * old + scale * gradient.

        Args:
            grad: a device array of the last result's shape. PuzzleLib's layers take the negative
                gradient of the cost, so that `updateParams` goes downhill.
            updParamGrads: whether the parameters' gradients are computed.
            updGrad: whether the input's gradient is computed.
            scale: a number that the gradients of parameters are multiplied by.
            momentum: a number that their old values are multiplied by.

        Returns:
            The input's gradient, None without `updGrad`.

        Raises:
            ModuleError: a gradient of another shape, or no forward call before it.
            DeviceError: an array of another context, or a device that fails.
        """
        if self.inData is None:
            raise ModuleError(f"{self.called}: backward needs a forward call before it")
        self._check_array("grad", grad)
        self.checkGradShape(grad.shape)
        self.checkGradType(grad.dtype)
        result = self._backward(grad, updParamGrads and self.train, updGrad, scale, momentum)
        self.grad = result
        return result

    def _backward(
        self, grad: Any, params: bool, inputs: bool, scale: float, momentum: float
    ) -> Any:
        result = self.updateGrad(grad) if inputs else None
        if params:
            self.accGradParams(grad, scale, momentum)
        return result

    def updateData(self, data: Any) -> Any:
        """The result of the layer for checked data."""
        raise ModuleError(f"{type(self).__name__} does not define updateData")

    def updateGrad(self, grad: Any) -> Any:
        """The gradient of `inData` for a checked gradient of `data`."""
        raise ModuleError(f"{type(self).__name__} does not define updateGrad")

    def accGradParams(self, grad: Any, scale: float = 1.0, momentum: float = 0.0) -> None:
        """Adds to the gradients of the parameters; nothing where there are none."""

    # Checks and shapes

    def _check_array(self, name: str, array: Any) -> None:
        if not isinstance(array, cl_array.Array):
            raise ArrayTypeError(
                f"{name} is a {type(array).__module__}.{type(array).__qualname__}, expected a "
                "device array (gpuarray.to_gpu makes one)"
            )
        memory_of(name, array)
        self.checkContext(name, array)

    def checkContext(self, name: str, array: Any) -> None:
        """DeviceError where an array is of another context than the layer."""
        check_context(name, array, self.runtime.context, f"layer {self.name}")

    def checkDataShape(self, shape: Sequence[int]) -> None:
        """ModuleError where the layer cannot take data of this shape."""

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """ModuleError where the last result cannot have a gradient of this shape."""

    def checkDataType(self, dtype: Any) -> None:
        """ModuleError where data has another dtype than the layer."""
        if dtype != self.calctype:
            raise ModuleError(f"Expected dtype {self.calctype}, got {dtype}")

    def checkGradType(self, dtype: Any) -> None:
        """ModuleError where a gradient has another dtype than the layer."""
        self.checkDataType(dtype)

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the result for data of a shape.

        Args:
            shape: that of the data.

        Returns:
            That of the result.
        """
        return tuple(shape)

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the shortest data that gives a result of a shape.

        Args:
            shape: that of the result.

        Returns:
            That of the data.
        """
        return tuple(shape)

    def optimizeForShape(self, shape: Sequence[int], memlimit: int | None = None) -> None:
        """Chooses the fastest way for data of this shape, where there is a choice, by timing.

        Args:
            shape: that of the data.
            memlimit: the most bytes of workspace that a choice may have, or None.

        Raises:
            ModuleError: data that the layer cannot take, or no choice within the limit.
        """

    def _sizes(self, kind: str, shape: Sequence[int]) -> tuple[int, int, int]:
        """A shape that a caller gives; no array shows yet that its sizes are possible."""
        if len(shape) != 3:
            raise ModuleError(f"{kind} must be 3d tensor")
        try:
            batch, maps, length = (whole(f"shape[{i}]", n, 0) for i, n in enumerate(shape))
        except ProblemError as error:
            raise ModuleError(str(error)) from error
        return batch, maps, length

    # Files

    def save(
        self,
        hdf: Any = None,
        varlinks: dict[Variable, int] | None = None,
        name: str | None = None,
        compress: str | None = "gzip",
        assumeUniqueNames: bool = False,
        withBlueprint: bool = False,
    ) -> bytes | None:
        """Writes parameters as HDF5.

        `params/<i>` are the arrays, `links/<name>.<variable>` the i of each name, so that a shared
        variable is written once; "name.W", ".W" without a name, ".conv.W" in an unnamed Sequential.

        Args:
            hdf: a path, whose file is replaced when all is written and whose folder is made, as by
                PuzzleLib; or an open h5py.File; None returns the file's bytes.
            varlinks: {variable: i}, which shares variables among the modules saved to one open
                file.
            name: replaces the module's own.
            compress: how h5py compresses the arrays, or None.
            assumeUniqueNames: leaves out containers between the outermost and the module.
            withBlueprint: adds the JSON text `blueprint`, of which `clconv.files.build` makes the
                module.

        Returns:
            The file's bytes where `hdf` is None, else None.

        Raises:
            ModuleError: h5py is missing, or the file cannot be written.
        """
        from clconv.layers import hdf5

        return hdf5.save_hdf5(
            self,
            hdf,
            varlinks=varlinks,
            name=name,
            compress=compress,
            assumeUniqueNames=assumeUniqueNames,
            withBlueprint=withBlueprint,
        )

    def load(
        self,
        hdf: Any,
        initvars: dict[Variable, bool] | None = None,
        name: str | None = None,
        assumeUniqueNames: bool = False,
    ) -> None:
        """Reads parameters from what `save` wrote; all is checked before anything changes.

        float16 loads into float32, not the other way round.

        Args:
            hdf: a path, bytes or an open h5py.File.
            initvars: variables that are left alone; those read are added to it.
            name: replaces the module's own.
            assumeUniqueNames: as in `save`.

        Raises:
            ModuleError: h5py is missing, or names, shapes or dtypes do not fit.
        """
        from clconv.layers import hdf5

        hdf5.load_hdf5(self, hdf, initvars=initvars, name=name, assumeUniqueNames=assumeUniqueNames)

    def getBlueprint(self) -> dict[str, Any]:
        """What is needed to construct the layer again."""
        return {"classname": type(self).__name__, "scheme": {"name": self.name}}
