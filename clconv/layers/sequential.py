"""Layers one after the other, and what all containers of layers share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from clconv import progress, tuning
from clconv.calls.call import Accumulations
from clconv.calls.elementwise import copy_view
from clconv.errors import ModuleError, ProblemError
from clconv.gpuarray import copy
from clconv.layers.module import Module
from clconv.layers.variable import Variable
from clconv.runtime import runtime_of

__all__ = ["Container", "Sequential"]


# Up to so many bytes of data in all, gradients wait with what they are computed from.
MOST_WAITING = 2**24


class _Backward:
    """A backward pass that changes parameters' gradients only if all of it succeeds.

    Gradients accumulate in place, so their old values cannot be computed from the new ones. If all
    modules are clconv's own, their additions are queued only when the last one is ready. Otherwise,
    or if that would keep too many arrays alive, each gradient is copied before it changes.
    """

    def __init__(self, net: Container) -> None:
        leaves = list(net._leaves())
        sizes = [one.inData.nbytes + one.data.nbytes for one in leaves]
        self._waits = sum(sizes) <= MOST_WAITING and all(
            vars(type(one)).get("_gradients_are_functional") for one in leaves
        )
        self._accumulations = Accumulations()
        self._kept: list[tuple[Variable, Any, Any]] = []

    @property
    def copies(self) -> int:
        """How many gradients were copied so far."""
        return len(self._kept)

    def changing(self, module: Module, count: int) -> AbstractContextManager[None]:
        """A block in which a module may change its gradients; all but the first `count` copies are
        of those that its container may have to bring back."""
        if self._waits:
            return self._accumulations.wait()
        kept = {variable for variable, _, _ in self._kept[count:]}
        for variable in module.getVarTable():
            if variable not in kept:
                grad = variable.grad
                self._kept.append((variable, grad, None if grad is None else copy(grad)))
        return nullcontext()

    def commit(self) -> None:
        """Queues what waits."""
        self._accumulations.run()

    def restore(self, count: int) -> None:
        """Queues bringing back all but the first `count` that were copied."""
        while len(self._kept) > count:
            variable, grad, kept = self._kept.pop()
            variable.grad = grad
            if grad is not None:
                copy_view(runtime_of(grad.context), kept, grad)


# The outermost backward pass of this thread.
_running = threading.local()


Own = TypeVar("Own", bound="Container")


class Container(Module):
    """Base of modules that are made of others, `graph`.

    Modules without a name are named by their place: "0", "1", …. An error inside is a ModuleError
    that says which module.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.graph: list[Module] = []

    # The container

    def _of(self, modules: Iterable[Module]) -> Container:
        """A container like this one of some of its modules."""
        raise ModuleError(f"{type(self).__name__} does not define _of")

    def append(self: Own, module: Module) -> Own:
        """Adds a module at the end.

        Args:
            module: any Module, on the same runtime as the others.

        Returns:
            The container.

        Raises:
            ModuleError: what is no module, or has the name of another one.
        """
        return self.insert(module, len(self.graph))

    def extend(self: Own, modules: Iterable[Module]) -> Own:
        """Adds modules at the end.

        Args:
            modules: any Modules, on the same runtime as the others.

        Returns:
            The container.
        """
        graph, names = list(self.graph), []
        try:
            for module in list(modules):
                names.append((module, getattr(module, "name", None)))
                self.append(module)
        except BaseException:
            self.graph[:] = graph
            for module, name in names:
                if isinstance(module, Module):
                    module.name = name
            raise
        return self

    def insert(self: Own, module: Module, index: int) -> Own:
        """Adds a module before another one.

        Args:
            module: any Module, on the same runtime as the others.
            index: the place of the other one, as in a list.

        Returns:
            The container.
        """
        if not isinstance(module, Module):
            raise ModuleError(f"module is a {type(module).__name__}, expected a Module")
        taken = {one.name for one in self.graph}
        if module.name is None:
            place = len(self.graph)
            while str(place) in taken:
                place += 1
            module.name = str(place)
        elif module.name in taken:
            raise ModuleError(f"module is named {module.name!r}, which another one here is too")
        self.graph.insert(index, module)
        return self

    def pop(self, index: int = -1) -> Module:
        """Takes a module out.

        Args:
            index: its place, as in a list.

        Returns:
            The module.
        """
        if not self.graph:
            raise ModuleError(f"{self.called} is empty")
        return self.graph.pop(index)

    def __len__(self) -> int:
        return len(self.graph)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.graph)

    def __getitem__(self, key: int | str | slice) -> Any:
        """The module at a place or of a name, or a container like this one of a slice."""
        if isinstance(key, str):
            return self.getByName(key)
        if isinstance(key, slice):
            return self._of(self.graph[key])
        if not -len(self.graph) <= key < len(self.graph):
            raise IndexError(f"index is {key}, expected a place in {len(self.graph)} modules")
        return self.graph[key]

    def getByName(self, name: str) -> Module:
        """The module of a name.

        Args:
            name: its own name, or its place where it has none.

        Returns:
            The module.

        Raises:
            ModuleError: there is none.
        """
        for module in self.graph:
            if module.name == name:
                return module
        names = ", ".join(str(module.name) for module in self.graph) or "none"
        raise ModuleError(f"{self.called} has no module {name!r}, it has: {names}")

    def _leaves(self) -> Iterator[Module]:
        """The modules that are no containers, of containers within too."""
        for module in self.graph:
            if isinstance(module, Container):
                yield from module._leaves()
            else:
                yield module

    # Variables and modes

    def _owner(self, name: str) -> tuple[Module, str]:
        first, dot, rest = name.partition(".")
        if not dot:
            raise ModuleError(f"variable is named {name!r}, expected 'module.variable'")
        return self.getByName(first), rest

    def getVar(self, name: str) -> Variable:
        """The variable of a path like "conv.W"."""
        module, rest = self._owner(name)
        return module.getVar(rest)

    def setVar(self, name: str, variable: Variable) -> None:
        """Sets the variable of a path like "conv.W"."""
        module, rest = self._owner(name)
        module.setVar(rest, variable)

    def hasVar(self, name: str) -> bool:
        """Whether there is a variable of a path like "conv.W"."""
        first, _, rest = name.partition(".")
        return any(module.name == first and module.hasVar(rest) for module in self.graph)

    def getVarTable(
        self, vartable: dict[Variable, list[str]] | None = None, name: str | None = None
    ) -> dict[Variable, list[str]]:
        """{variable: names} of all modules: "a.W", or "net.a.W" in a container named "net"."""
        table = {} if vartable is None else vartable
        own = name or self.name
        for module in self.graph:
            path = f"{own}.{module.name}" if own else str(module.name)
            module.getVarTable(table, path)
        return table

    def zeroGradParams(self) -> None:
        """Queues filling all gradients with zeros."""
        for variable in self.getVarTable():
            variable.zeroGrad()

    def updateParams(self, learnRate: float) -> None:
        """Queues `data += learnRate * grad` of all parameters, once for a shared one."""
        for variable in self.getVarTable():
            variable.update(learnRate)

    def _each(self, act: Callable[[Module], None]) -> None:
        for module in self.graph:
            act(module)

    def trainMode(self) -> None:
        """Training mode of all modules."""
        super().trainMode()
        self._each(lambda module: module.trainMode())

    def evalMode(self) -> None:
        """Inference mode of all modules."""
        super().evalMode()
        self._each(lambda module: module.evalMode())

    def reset(self) -> None:
        """Drops the data and gradients of all modules."""
        super().reset()
        self._each(lambda module: module.reset())

    def calcMode(self, T: Any) -> None:
        """Computes in another dtype from now on, in all modules."""
        arrays = [(variable, variable.array, variable.grad) for variable in self.getVarTable()]
        restore = self.remember()
        try:
            super().calcMode(T)
            self._each(lambda module: module.calcMode(T))
        except BaseException:
            restore()
            for variable, data, grad in arrays:
                variable.replace(data, grad)
            raise

    # Forward and backward

    def remember(self) -> Callable[[], None]:
        """What brings all modules back to the state they have now."""
        restores = [super().remember(), *(module.remember() for module in self.graph)]

        def restore() -> None:
            for one in restores:
                one()

        return restore

    def _place(self, kind: str, index: int, error: Exception) -> ModuleError:
        return ModuleError(
            f"{self}:\n{kind} error in module {index} ({self.graph[index]}):\n{error}"
        )

    def checkDataType(self, dtype: Any) -> None:
        """Left to the modules."""

    def checkContext(self, name: str, array: Any) -> None:
        """Left to the modules."""

    def backward(
        self,
        grad: Any,
        updParamGrads: bool = True,
        updGrad: bool = True,
        scale: float = 1.0,
        momentum: float = 1.0,
    ) -> Any:
        """The gradient of the last input; parameters' gradients accumulate.

        Without `updGrad` the container's own input gradient alone is skipped.
        """
        return super().backward(grad, updParamGrads, updGrad, scale, momentum)

    @contextmanager
    def _changing(self) -> Iterator[Callable[[Module, bool], AbstractContextManager[None]]]:
        """A block of a backward pass that changes all that it changes, or nothing; each module runs
        in a block that is asked for with whether its parameters' gradients may change."""
        outer: _Backward | None = getattr(_running, "backward", None)
        running = _running.backward = _Backward(self) if outer is None else outer
        before, restore = running.copies, self.remember()

        def changing(module: Module, params: bool) -> AbstractContextManager[None]:
            # A container within says for each of its own modules that it changes.
            changes = params and module.train and not isinstance(module, Container)
            return running.changing(module, before) if changes else nullcontext()

        try:
            yield changing
            if outer is None:
                running.commit()
        except BaseException:
            running.restore(before)
            restore()
            raise
        finally:
            _running.backward = outer

    @contextmanager
    def _placing(self, kind: str, index: int) -> Iterator[None]:
        """A block whose errors are a ModuleError that says which module they are of."""
        try:
            yield
        except (ModuleError, ProblemError) as error:
            raise self._place(kind, index, error) from error

    def getBlueprint(self) -> dict[str, Any]:
        """The blueprints of all modules."""
        return {
            "classname": type(self).__name__,
            "scheme": {"name": self.name},
            "graph": [module.getBlueprint() for module in self.graph],
        }


class Sequential(Container):
    """A chain of modules; each takes the result of the one before.

    Modules without a name are named by their place: "0", "1", …. An error inside is a ModuleError
    that says which module.

    Args:
        name: the container's name in another one and in files, or None.

    Examples:
        >>> import numpy as np
        >>> from clconv import Conv1D, gpuarray
        >>> net = Sequential().append(Conv1D(1, 4, size=3)).append(Conv1D(4, 1, size=1))
        >>> net(gpuarray.to_gpu(np.zeros((1, 1, 10), np.float32))).shape
        (1, 1, 8)
    """

    def _of(self, modules: Iterable[Module]) -> Sequential:
        return Sequential(self.name).extend(modules)

    def updateData(self, data: Any) -> Any:
        """The result of the last module."""
        restore = self.remember()
        for i, module in enumerate(self.graph):
            try:
                data = module(data)
            except BaseException as error:
                restore()
                if isinstance(error, (ModuleError, ProblemError)):
                    raise self._place("Data", i, error) from error
                raise
        return data

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """Asks all modules, from the last, so that none computes where another will refuse."""
        for i in reversed(range(len(self.graph))):
            module = self.graph[i]
            try:
                if module.inData is None:
                    raise ModuleError(f"{module.called}: backward needs a forward call before it")
                module.checkGradShape(shape)
            except ModuleError as error:
                raise self._place("Grad", i, error) from error
            shape = module.inData.shape

    def _backward(
        self, grad: Any, params: bool, inputs: bool, scale: float, momentum: float
    ) -> Any:
        with self._changing() as changing:
            for i in reversed(range(len(self.graph))):
                module = self.graph[i]
                with self._placing("Grad", i), changing(module, params):
                    grad = module.backward(grad, params, inputs or i > 0, scale, momentum)
        return grad if inputs else None

    # Shapes

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The last module's result's shape."""
        for i, module in enumerate(self.graph):
            try:
                module.checkDataShape(shape)
                shape = module.dataShapeFrom(shape)
            except ModuleError as error:
                raise self._place("Data", i, error) from error
        return tuple(shape)

    def gradShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the shortest data that gives a result of this shape."""
        for i in reversed(range(len(self.graph))):
            try:
                shape = self.graph[i].gradShapeFrom(shape)
            except ModuleError as error:
                raise self._place("Grad", i, error) from error
        return tuple(shape)

    def optimizeForShape(self, shape: Sequence[int], memlimit: int | None = None) -> None:
        """Lets each module choose for the shape that reaches it; like layers are timed once."""
        restore = self.remember()
        with tuning.once(), progress.bar("tuning", "layer", len(self.graph)) as shown:
            for i, module in enumerate(self.graph):
                shown.tell(i)
                try:
                    module.optimizeForShape(shape, memlimit)
                    shape = module.dataShapeFrom(shape)
                except BaseException as error:
                    restore()
                    if isinstance(error, ModuleError):
                        raise self._place("Data", i, error) from error
                    raise
