"""What Conv1D and Deconv1D share: parameters, activation, their gradients, the choice of tiles."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clconv import progress, tuning
from clconv.calls.elementwise import activation_gradient
from clconv.calls.prepared import Derived, KnownWeight
from clconv.errors import ModuleError, OutOfMemoryError, ProblemError
from clconv.geometry import Geometry
from clconv.layers import initialisation
from clconv.layers.module import Module
from clconv.layers.variable import Variable
from clconv.planning.planner import Choice
from clconv.problem import ACTIVATIONS, Conv1dProblem, Epilogue, Pass
from clconv.runtime import Runtime
from clconv.tuning import Task


class Convolution(Module):
    """Base of the layers with a weight W and a bias b."""

    def __init__(
        self,
        scheme: dict[str, Any],
        weight_shape: tuple[int, int, int, int],
        fans: tuple[float, float],
        activation: Any,
        runtime: Runtime | None,
        exact: bool | None,
    ) -> None:
        if exact is not None and not isinstance(exact, bool):
            raise ModuleError(f"exact is {exact!r}, expected True, False or None")
        try:
            self._activation, self._slope = Epilogue.parse_activation(activation)
        except ProblemError as error:
            raise ModuleError(str(error)) from error
        super().__init__(scheme["name"], runtime=runtime)
        self._scheme = scheme
        self.activation = activation
        self.exact = exact
        self.inmaps, self.outmaps = scheme["inmaps"], scheme["outmaps"]
        self.size, self.stride = scheme["size"], scheme["stride"]
        self.pad: int | tuple[int, int] | str = scheme["pad"]
        self.dilation, self.groups = scheme["dilation"], scheme["groups"]
        self.useBias = scheme["useBias"]
        self._shapes = {"W": weight_shape, "b": (1, self.outmaps, 1, 1)}
        self._reshaped: dict[str, tuple[Any, Any]] = {}
        self._known: tuple[int, KnownWeight] | None = None
        self._before_activation: Any = None
        self._chosen: dict[Pass, Choice] = {}
        if scheme["empty"]:
            return
        self.runtime.empty(weight_shape)  # without room for it, nothing is drawn on the host
        weights = initialisation.draw(
            scheme["initscheme"], weight_shape, fans[0], fans[1], scheme["wscale"]
        )
        self.setVar("W", Variable.of_own(self.runtime.to_device(weights)))
        if self.useBias:
            self.setVar("b", Variable.of_own(self.runtime.zeros(self._shapes["b"])))

    # Construction

    # What `pad` may be beside an integer, in words.
    _pads_beside = ' or "causal"'

    @classmethod
    def check(cls, scheme: Mapping[str, Any]) -> None:
        """ModuleError for sizes that no layer can have."""
        for name, least in (
            ("inmaps", 1),
            ("outmaps", 1),
            ("size", 1),
            ("stride", 1),
            ("pad", 0),
            ("dilation", 1),
            ("groups", 1),
            ("postpad", 0),
        ):
            value = scheme.get(name, least)
            if _is_whole(value, least) or (name == "pad" and cls._is_pad(value)):
                continue
            beside = cls._pads_beside if name == "pad" else ""
            raise ModuleError(
                f"{name} is {value!r}, expected an integer of at least {least}{beside}"
            )
        inmaps, outmaps, groups = scheme["inmaps"], scheme["outmaps"], scheme["groups"]
        if inmaps % groups or outmaps % groups:
            raise ModuleError(
                "Number of input and output maps must be divisible by number of groups "
                f"({inmaps} inmaps, {outmaps} outmaps, {groups} groups)"
            )

    @classmethod
    def _is_pad(cls, value: Any) -> bool:
        """Whether `pad` may be this, which is no integer."""
        return isinstance(value, str) and value == "causal"

    def getBlueprint(self) -> dict[str, Any]:
        """The class and its constructor's arguments."""
        scheme = dict(self._scheme, name=self.name)
        if self.activation is not None:
            scheme["activation"] = self.activation
        return {"classname": type(self).__name__, "scheme": scheme}

    # Variables

    @property
    def W(self) -> Any:
        """The weights, None in an empty layer."""
        return self.vars["W"].data if "W" in self.vars else None

    @property
    def b(self) -> Any:
        """The bias (1, outmaps, 1, 1), None where there is none."""
        return self.vars["b"].data if "b" in self.vars else None

    def setVar(self, name: str, variable: Variable) -> None:
        """Makes `variable` the weights "W" or the bias "b"; ModuleError where it does not fit."""
        names = ("W", "b") if self.useBias else ("W",)
        if name not in names:
            raise ModuleError(f"variable is named {name!r}, expected one of {', '.join(names)}")
        if isinstance(variable, Variable):
            data = variable.array
            if tuple(data.shape) != self._shapes[name]:
                raise ModuleError(
                    f"{name} has shape {tuple(data.shape)}, expected {self._shapes[name]}"
                )
            if data.dtype != self.calctype:
                raise ModuleError(f"{name} has dtype {data.dtype}, expected {self.calctype}")
            if not data.flags.c_contiguous:
                raise ModuleError(f"{name} has strides {data.strides}, expected contiguous")
        super().setVar(name, variable)

    def transient(self) -> dict[str, Any]:
        """A copy has views of its own parameters."""
        return {**super().transient(), "_reshaped": {}, "_known": None, "_before_activation": None}

    def _parameter(self, name: str, gradient: bool = False) -> Any:
        """A variable's array as the functions take it: W (·, ·, size), b (outmaps,)."""
        if name not in self.vars:
            return None
        variable = self.vars[name]
        array = variable.grad if gradient else variable.array
        if array is None:
            return None
        key = f"{name}.grad" if gradient else name
        kept = self._reshaped.get(key)
        if kept is None or kept[0] is not array:
            shape = self._shapes[name]
            flat = array.reshape(shape[0], shape[1], shape[3]) if name == "W" else array.ravel()
            kept = self._reshaped[key] = (array, flat)
        return kept[1]

    def _weight(self) -> Any:
        """W as the functions take it, in evalMode with what was derived from it, as long as it is
        known not to change."""
        weight, version = self._parameter("W"), self.vars["W"].version
        if self.train or version is None:
            self._known = None
            return weight
        known = self._known
        if known is None or known[0] != version or known[1].array is not weight:
            known = self._known = version, KnownWeight(weight, Derived())
        return known[1]

    # Forward and backward

    # The function that the layer is, and that of its gradients.
    _functions: tuple[Callable[..., Any], Callable[..., Any]]

    @property
    def geometry(self) -> Geometry:
        """How the layer's windows lie."""
        return Geometry(self.stride, self.pad, self.dilation, self.groups)

    def _forward(self, data: Any, activation: Any, keep: Any) -> Any:
        return self._functions[0](
            data,
            self._weight(),
            self._parameter("b"),
            activation=activation,
            pre_activation=keep,
            variant=self._chosen or "auto",
            runtime=self.runtime,
            exact=self.exact,
            **self.geometry.options,
        )

    # Which passes of its problem forward and the gradients of data and weights are.
    _passes: tuple[Pass, Pass, Pass]

    def _problem(self, shape: tuple[int, int, int]) -> Conv1dProblem:
        """The problem for data of this shape."""
        return Conv1dProblem.of(self.geometry, shape, self.outmaps, self.size, self.calctype)

    def reset(self) -> None:
        """Drops inData, data, grad and what was kept for the backward pass."""
        super().reset()
        self._before_activation = None

    @property
    def _needs_argument(self) -> bool:
        return self._activation is not None and ACTIVATIONS[self._activation] == "pre_activation"

    def updateData(self, data: Any) -> Any:
        """The layer's result for checked data."""
        if "W" not in self.vars:
            raise ModuleError(f"{self.called} has no weights: set them with setVar('W', …)")
        keep = None
        if self._needs_argument and self.train:
            keep = self.runtime.empty(self.dataShapeFrom(data.shape), data.dtype)
        activation = self._activation
        named = (activation, self._slope) if activation == "leaky_relu" else activation
        result = self._forward(data, named, keep)
        self._before_activation = keep
        return result

    def _before(self, grad: Any) -> Any:
        """The gradient before the activation."""
        if self._activation is None:
            return grad
        saved = self.data
        if self._needs_argument:
            saved = self._before_activation
            if saved is None:  # not kept in evalMode
                saved = self._forward(self.inData, None, None)
        return activation_gradient(self.runtime, self._activation, self._slope, saved, grad)

    def _backward(
        self, grad: Any, params: bool, inputs: bool, scale: float, momentum: float
    ) -> Any:
        outs = (None, self._parameter("W", gradient=True), self._parameter("b", gradient=True))
        need = (inputs, params and outs[1] is not None, params and outs[2] is not None)
        if not any(need):
            return None
        return self._functions[1](
            self.inData,
            self._weight(),
            self._before(grad),
            need=need,
            out=outs,
            scale=scale,
            momentum=momentum,
            variant=self._chosen or "auto",
            runtime=self.runtime,
            exact=self.exact,
            **self.geometry.options,
        )[0]

    # Checks

    def checkDataShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless (N, inmaps, L) with at least one window."""
        if len(shape) != 3:
            raise ModuleError("Data must be 3d tensor")
        if shape[1] != self.inmaps:
            raise ModuleError(f"Data has {shape[1]} maps (expected: {self.inmaps})")
        self._check_length(shape[2])

    def _check_length(self, length: int) -> None:
        raise ModuleError(f"{type(self).__name__} does not define _check_length")

    def dataShapeFrom(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the result for data of a shape.

        Args:
            shape: (N, inmaps, L).

        Returns:
            (N, outmaps, Lout).

        Raises:
            ModuleError: data that the layer cannot take.
        """
        shape = self._sizes("Data", shape)
        self.checkDataShape(shape)
        return shape[0], self.outmaps, self.geometry.out_length(shape[2], self.size)

    def checkGradShape(self, shape: Sequence[int]) -> None:
        """ModuleError unless the shape is that of the last result."""
        if len(shape) != 3:
            raise ModuleError("Grad must be 3d tensor")
        if shape[1] != self.outmaps:
            raise ModuleError(f"Grad has {shape[1]} maps (expected: {self.outmaps})")
        batch, _, length = self.data.shape
        if shape[0] != batch:
            raise ModuleError(f"Grad has batch {shape[0]} (expected: {batch}, of the last data)")
        if shape[2] != length:
            raise ModuleError(
                f"Grad maps have size {shape[2]} (expected: {length}, of the last data)"
            )

    # Choice of tiles

    def optimizeForShape(self, shape: Sequence[int], memlimit: int | None = None) -> None:
        """Times the candidates of all passes on the device, 5 s each, and takes the fastest.

        They are used for this layer, and recorded in the user's database.

        Args:
            shape: (N, inmaps, L), that of the data.
            memlimit: the most bytes of workspace that a candidate may have, or None.

        Raises:
            ModuleError: data that the layer cannot take, or no candidate within the limit.
        """
        shape = self._sizes("Data", shape)
        self.checkDataShape(shape)
        problem, passes = self._problem(shape), self._passes
        # The value before the activation, kept for the backward pass, counts as workspace.
        kept = 0
        if self._needs_argument and self.train:
            kept = math.prod(self.dataShapeFrom(shape)) * self.calctype.itemsize
        beside = dict.fromkeys(passes, 0) | {passes[0]: kept}
        try:
            for pass_ in passes:
                tuning.candidates(self.runtime, Task(problem, pass_), memlimit, beside[pass_])
        except OutOfMemoryError as error:
            raise ModuleError(str(error)) from error
        if not problem.batch:
            self._chosen = {}
            return
        chosen = {}
        with progress.bar("tuning", "pass", len(passes)) as shown:
            for pass_ in passes:
                chosen[pass_] = tuning.tune(
                    self.runtime, problem, pass_, memlimit=memlimit, kept=beside[pass_]
                ).choice
                shown.tell(len(chosen))
        # Plain dictionaries, which can be copied and pickled.
        self._chosen = {pass_: one._replace(tile=dict(one.tile)) for pass_, one in chosen.items()}


def scheme_of(local_names: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments in order, with integers as Python's own."""
    skipped = ("self", "activation", "runtime", "exact", "__class__")
    scheme = {name: _plain(value) for name, value in local_names.items() if name not in skipped}
    if isinstance(scheme["pad"], (tuple, list)):
        scheme["pad"] = tuple(map(_plain, scheme["pad"]))
    return scheme


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


def _is_whole(value: Any, least: int) -> bool:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and int(value) >= least


def is_pair(value: Any) -> bool:
    """Whether a value is two integers of at least 0."""
    return isinstance(value, tuple) and len(value) == 2 and all(_is_whole(one, 0) for one in value)
