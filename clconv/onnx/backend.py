"""ONNX's backend interface: whole models on an OpenCL device."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TypeProto, ValueInfoProto
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep, namedtupledict
from onnx.defs import onnx_opset_version
from onnx.helper import (
    make_graph,
    make_model,
    make_opsetid,
    np_dtype_to_tensor_dtype,
    tensor_dtype_to_np_dtype,
)

from clconv.bounded import Bounded
from clconv.dtypes import dtype_of
from clconv.errors import DeviceError, ProblemError
from clconv.onnx.devices import index_of, runtime_of_name
from clconv.onnx.fused import lower_fused
from clconv.onnx.graph import read_graph, read_model
from clconv.onnx.host import HostRunner
from clconv.onnx.patterns import join_activations
from clconv.onnx.program import Changed, Program, Scratch
from clconv.onnx.quantised import join_quantisations, lower_quantised
from clconv.onnx.tracing import Placed, Trace, fold
from clconv.onnx.work import Value
from clconv.runtime import Runtime

__all__ = ["Backend", "Prepared"]

# Shapes of inputs, as far as they differ, of which a model keeps how it ran.
PROGRAMS_KEPT = 32
# Sets of initializers that callers replaced.
CONSTANTS_KEPT = 4


NOTHING: frozenset[str] = frozenset()


def _no_options(options: Mapping[str, Any]) -> None:
    if options:
        raise ProblemError(f"{next(iter(options))} is an option that the backend does not have")


@dataclass(eq=False)
class _Known:
    """What is the same in all runs that replace the same initializers."""

    constants: dict[str, Value]
    kept: dict[Hashable, Any] = field(default_factory=dict)
    programs: Bounded[Hashable, tuple[Program, dict[str, Any]]] = field(
        default_factory=lambda: Bounded(PROGRAMS_KEPT)
    )


class Prepared(BackendRep):
    """A model ready to run, on one device, made by `Backend.prepare`. Threads take turns.

    Args:
        model: the ModelProto, checked.
        runtime: the device.
        folder: where the model's external data are.
    """

    def __init__(self, model: ModelProto, runtime: Runtime, folder: str = "") -> None:
        self.runtime = runtime
        self.model = model
        self._graph = read_graph(model, folder)
        lower_fused(self._graph)
        lower_quantised(self._graph)
        join_quantisations(self._graph)
        join_activations(self._graph)
        self._host = HostRunner(self._graph)
        self._replaceable = frozenset(n for n in self._graph.inputs if n in self._graph.constants)
        self._scratch = Scratch(runtime)
        self._lock = threading.RLock()
        self._known: Bounded[frozenset[str], _Known] = Bounded(CONSTANTS_KEPT)
        self.placed: list[Placed] = []  # where each node ran in the latest run that was traced
        self._outputs = namedtupledict("Outputs", self._graph.outputs)
        self._needed = frozenset(self._graph.needed)
        self._unreplaced = self._constants_without(frozenset())

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of a model.

        The first run with inputs of certain shapes takes longer than the next ones.

        Args:
            inputs: NumPy arrays, PyTorch's tensors or lists, by name or in the order of the
                model's; what initializers give may be left out.
            kwargs: not looked at.

        Returns:
            A named tuple that takes their names as keys too.

        Raises:
            ProblemError: inputs that are not the model's. What ONNX Runtime or onnx.reference raise
                comes through.
            DeviceError: a device that fails.
        """
        _no_options(kwargs)
        feeds = self._feeds(inputs)
        with self._lock:
            results = self._run(feeds)
        outputs: tuple[Any, ...] = self._outputs(*(results[n] for n in self._graph.outputs))
        return outputs

    def _run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        replaced = self._replaceable.intersection(feeds) if self._replaceable else NOTHING
        known = self._constants_without(replaced) if replaced else self._unreplaced
        key: Hashable = tuple([(n, _kind(feeds[n])) for n in self._graph.inputs if n in feeds])
        found = known.programs.get(key)
        if found is not None:
            program, constant = found
            host = dict(feeds)
            try:
                program.run(host)
            except Changed:
                known.programs.drop(key, found)
            else:
                passed = _passed(feeds, host)
                return host | _copies(constant) | _copies(passed) if constant or passed else host
        trace = Trace(self.runtime, self._graph, known.constants, known.kept)
        results = trace.run(feeds)
        self.placed = trace.places
        known.programs.set_default(key, (trace.program(self._scratch), trace.constant_outputs))
        return results | _copies(trace.constant_outputs) | _copies(_passed(feeds, results))

    def _constants_without(self, replaced: frozenset[str]) -> _Known:
        """The model's constants but for those that a caller replaced, and what follows from them
        alone."""
        known = self._known.get(replaced)
        if known is None:
            constants = {
                name: Value.on_host(name, array, constant=True)
                for name, array in self._graph.constants.items()
                if name not in replaced
            }
            for node in self._graph.nodes:
                fold(self._host, node, constants, self.runtime)
            known = self._known.set_default(replaced, _Known(constants))
        return known

    # Inputs

    def _feeds(self, inputs: Any) -> dict[str, Any]:
        if (
            type(inputs) is dict
            and inputs.keys() == self._needed
            and all(type(one) is np.ndarray for one in inputs.values())
        ):
            return inputs  # as most calls have them
        graph = self._graph
        every, needed = graph.inputs, graph.needed
        if isinstance(inputs, np.ndarray) or _is_tensor(inputs):
            inputs = [inputs]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            values = list(inputs)
            names = needed if len(values) == len(needed) else every
            if len(values) != len(names):
                raise ProblemError(
                    f"inputs has {len(values)} values, expected {len(needed)}: {', '.join(needed)}"
                )
            feeds = dict(zip(names, values, strict=True))
        for name in feeds:
            if name not in every:
                raise ProblemError(f"inputs has {name!r}, expected {', '.join(every)}")
        for name in needed:
            if name not in feeds:
                raise ProblemError(f"inputs has no {name!r}, expected {', '.join(needed)}")
        return {name: self._array(name, value) for name, value in feeds.items()}

    def _array(self, name: str, value: Any) -> Any:
        """An input as NumPy's array; numbers and lists get the dtype that the model says."""
        if value is None or isinstance(value, np.ndarray):
            return value
        if _is_tensor(value):
            return _of_tensor(value.detach().cpu())
        kind = self._graph.kinds.get(name)
        if kind is None:  # a sequence, or of any type
            return value if isinstance(value, list) else np.asarray(value)
        return np.asarray(value, tensor_dtype_to_np_dtype(kind))


def _copies(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What is given belongs to the caller: no array of ours, or that is given twice."""
    return {name: one.copy() for name, one in arrays.items()}


def _passed(feeds: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that are outputs as well."""
    return {n: one for n, one in feeds.items() if one is not None and results.get(n) is one}


def _is_tensor(value: Any) -> bool:
    """Whether it is one of PyTorch's, which need not be here."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def _of_tensor(tensor: Any) -> Any:
    """NumPy's array of a tensor, bfloat16 too, which PyTorch gives no array of."""
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    return tensor.float().numpy().astype(dtype_of("bfloat16"))


def _kind(value: Any) -> Hashable:
    """What of an input decides how a model runs."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype
    return type(value), len(value) if isinstance(value, list) else 0


def _typed(name: str, value: Any) -> ValueInfoProto:
    info = ValueInfoProto(name=name)
    if isinstance(value, np.ndarray):
        tensor = TypeProto.Tensor(elem_type=np_dtype_to_tensor_dtype(value.dtype))
        info.type.CopyFrom(TypeProto(tensor_type=tensor))
    return info


class Backend(OnnxBackend):
    """ONNX's backend interface: runs models on an OpenCL device, what has no kernel on the host.

    Examples:
        >>> from onnx import helper, TensorProto
        >>> node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3])
        >>> import numpy as np
        >>> x, w = np.ones((1, 1, 5), np.float32), np.ones((1, 1, 3), np.float32)
        >>> Backend.run_node(node, [x, w])[0].tolist()
        [[[3.0, 3.0, 3.0]]]
    """

    @classmethod
    def supports_device(cls, device: Any) -> bool:
        """Whether there is such a device.

        Args:
            device: "CPU", which is ONNX's default and means clconv's default runtime, on any
                device; "CUDA" or "CUDA:1", NVIDIA's cards in the order of `clconv.devices()`; an
                index or id of that list or part of a device's name, as `Runtime` takes them; or a
                `Runtime`.

        Returns:
            True or False.
        """
        if isinstance(device, Runtime):
            return True
        try:
            index_of(device)
        except DeviceError:
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: Any = "CPU", **kwargs: Any) -> Prepared:
        """A model, checked, for a device.

        Args:
            model: a ModelProto, its bytes, or the path of its file.
            device: "CPU", which is ONNX's default and means clconv's default runtime, on any
                device; "CUDA" or "CUDA:1", NVIDIA's cards in the order of `clconv.devices()`; an
                index or id of that list or part of a device's name, as `Runtime` takes them; or a
                `Runtime`.
            kwargs: not looked at.

        Returns:
            What runs it.

        Raises:
            ProblemError: a model that clconv cannot read.
            DeviceError: no such device.
            ValidationError: onnx.checker refuses it.
        """
        _no_options(kwargs)
        if not isinstance(model, (ModelProto, bytes, bytearray, str)) and not hasattr(
            model, "__fspath__"
        ):
            raise ProblemError(
                f"model is a {type(model).__name__}, expected an onnx.ModelProto, a path or bytes"
            )
        runtime = runtime_of_name(device)
        checked, folder = read_model(model)
        return Prepared(checked, runtime, folder)

    @classmethod
    def run_model(
        cls, model: Any, inputs: Any, device: Any = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of a model, as `prepare(model, device).run(inputs)`.

        Args:
            model: as of `prepare`.
            inputs: as of `Prepared.run`.
            device: as of `prepare`.
            kwargs: not looked at.

        Returns:
            A named tuple of arrays.
        """
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: Any = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node.

        Args:
            node: a NodeProto.
            inputs: by name or in order, None for an optional one that is left out.
            device: as of `prepare`.
            outputs_info: not looked at.
            kwargs: `opset_version`, the newest that onnx knows unless given.

        Returns:
            A named tuple of arrays.

        Raises:
            ProblemError: inputs that are not the node's.
            DeviceError: no such device, or one that fails.
            ValidationError: onnx.checker refuses it.
        """
        _no_options({name: v for name, v in kwargs.items() if name != "opset_version"})
        runtime = runtime_of_name(device)
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        opsets = [make_opsetid("", kwargs.get("opset_version", onnx_opset_version()))]
        if node.domain:
            opsets.append(make_opsetid(node.domain, 1))
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            inputs = list(inputs)
            if len(inputs) > len(node.input):
                raise ProblemError(
                    f"inputs has {len(inputs)} values, expected at most {len(node.input)}: "
                    f"{', '.join(node.input)}"
                )
            inputs = dict(zip(node.input, inputs, strict=False))
        feeds = {name: value for name, value in inputs.items() if name}
        graph = make_graph(
            [node],
            "node",
            [_typed(name, value) for name, value in feeds.items()],
            [ValueInfoProto(name=name) for name in node.output if name],
        )
        return Prepared(make_model(graph, opset_imports=opsets), runtime).run(feeds)
