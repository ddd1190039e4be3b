"""How do nodes run on the host? By ONNX Runtime where it is installed, else by `onnx.reference`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from onnx import ModelProto, TypeProto, ValueInfoProto
from onnx.helper import make_graph, make_model, np_dtype_to_tensor_dtype

from clconv.errors import DeviceError, ProblemError
from clconv.onnx.evaluator import Evaluator
from clconv.onnx.graph import Graph, Node
from clconv.onnx.wrong import wrong_in_reference

__all__ = ["ONNX_RUNTIME", "REFERENCE", "HostRunner", "Segment", "has_onnxruntime"]

_log = logging.getLogger(__name__)

ONNX_RUNTIME, REFERENCE = "ONNX Runtime", "onnx.reference"
# What ONNX Runtime gives as NumPy's arrays.
PLAIN = frozenset(f"tensor({name})" for name in (
    "bool", "float", "float16", "double", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
))  # fmt: skip


@functools.cache
def has_onnxruntime() -> bool:
    """Whether ONNX Runtime can be imported."""
    return find_spec("onnxruntime") is not None


class HostRunner:
    """Runs nodes of one model on the host."""

    def __init__(self, graph: Graph) -> None:
        self._model = graph.model

    def segment(
        self, nodes: Sequence[Node], feeds: Mapping[str, Any], outputs: Sequence[str]
    ) -> Segment:
        """Nodes in order that give `outputs`, for arrays of the kinds of `feeds`."""
        return Segment(self._model, nodes, feeds, outputs)

    def constants(self, node: Node, feeds: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """The outputs of a node of constants, which runs once; by the reference, which is quicker
        to start, where it is right."""
        if wrong_in_reference(node) is not None:
            return self.segment([node], feeds, outputs).run(*feeds.values())
        part = _Part([node], tuple(feeds), outputs, REFERENCE)
        try:
            part.session = _evaluator([node], _model_of(self._model, [node], feeds, outputs))
        except ProblemError:
            return self.segment([node], feeds, outputs).run(*feeds.values())
        return part.run(dict(feeds))


class Segment:
    """Neighbouring nodes on the host; those that ONNX Runtime refuses run by the reference.

    Raises ProblemError where only the reference is there, and computes a node wrongly.
    """

    def __init__(
        self,
        model: ModelProto,
        nodes: Sequence[Node],
        feeds: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> None:
        self.inputs = tuple(feeds)
        self.outputs = tuple(outputs)
        self._parts = list(_parts(model, nodes, feeds, outputs))

    @property
    def runners(self) -> dict[str, str]:
        """Which runs a node, by the name of its first output."""
        return {name: part.runner for part in self._parts for name in part.nodes}

    def run(self, *arrays: Any) -> list[Any]:
        """The outputs."""
        values = dict(zip(self.inputs, arrays, strict=True))
        for part in self._parts:
            results = part.run({name: values[name] for name in part.inputs})
            values.update(zip(part.outputs, results, strict=True))
        return [values[name] for name in self.outputs]


class _Part:
    """Nodes that one of the two runs."""

    def __init__(
        self, nodes: Sequence[Node], inputs: Sequence[str], outputs: Sequence[str], runner: str
    ) -> None:
        self.nodes = [next(filter(None, one.outputs)) for one in nodes]
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.runner = runner
        self._label = ", ".join(one.label for one in nodes)
        self.session: Any = None

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs. Raises ProblemError with what ONNX Runtime or the reference says."""
        try:
            results: list[Any] = self.session.run(list(self.outputs), feeds)
        except DeviceError:
            raise
        except Exception as error:
            if str(error).startswith("node "):
                raise
            raise ProblemError(f"{self._label} by {self.runner}: {error}") from error
        return results


class _FirstTry:
    """ONNX Runtime's session of a part; if its first run fails the reference takes over."""

    def __init__(self, session: Any, part: _Part, instead: Callable[[], Evaluator]) -> None:
        self._session = session
        self._part = part
        self._instead = instead

    def run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
        """As that of a session."""
        part = self._part
        try:
            results: list[Any] = self._session.run(outputs, feeds)
            part.session = self._session
        except _refusals() as error:
            _log.info("ONNX Runtime does not run nodes, trying onnx.reference: %s", error)
            part.session, part.runner = self._instead(), REFERENCE
            results = part.session.run(outputs, feeds)
        return results


def _model_of(
    model: ModelProto, nodes: Sequence[Node], feeds: Mapping[str, Any], outputs: Sequence[str]
) -> ModelProto:
    graph = make_graph(
        [one.proto for one in nodes],
        "segment",
        [_typed(name, value) for name, value in feeds.items()],
        [ValueInfoProto(name=name) for name in outputs],
    )
    return make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )


def _typed(name: str, value: Any) -> ValueInfoProto:
    info = ValueInfoProto(name=name)
    if isinstance(value, np.ndarray):
        kind = np_dtype_to_tensor_dtype(value.dtype)
        tensor = TypeProto.Tensor(elem_type=kind)
        for _ in value.shape:
            tensor.shape.dim.add()
        if not value.shape:
            tensor.shape.SetInParent()
        info.type.CopyFrom(TypeProto(tensor_type=tensor))
    return info


def _is_plain(value: Any) -> bool:
    """Whether it is an array of a dtype of NumPy's own, which ONNX Runtime takes."""
    return isinstance(value, np.ndarray) and value.dtype.isbuiltin == 1 and value.dtype.kind != "O"


def _parts(
    model: ModelProto, nodes: Sequence[Node], feeds: Mapping[str, Any], outputs: Sequence[str]
) -> list[_Part]:
    """All nodes together by ONNX Runtime if it takes them, else each node for itself."""
    convolves = any(one.convolves for one in nodes)  # on the device, by our evaluator
    if has_onnxruntime() and all(map(_is_plain, feeds.values())) and not convolves:
        own = _model_of(model, nodes, feeds, outputs)
        session = _session(own)
        if session is not None:
            part = _Part(nodes, tuple(feeds), outputs, ONNX_RUNTIME)
            part.session = _FirstTry(session, part, lambda: _evaluator(nodes, own))
            return [part]
    if has_onnxruntime() and len(nodes) > 1:
        return _each(model, nodes, feeds, outputs)
    part = _Part(nodes, tuple(feeds), outputs, REFERENCE)
    part.session = _evaluator(nodes, _model_of(model, nodes, feeds, outputs))
    return [part]


def _evaluator(nodes: Sequence[Node], model: ModelProto) -> Evaluator:
    """Raises ProblemError where the reference has no such operator, or computes it wrongly."""
    for one in nodes:
        why = wrong_in_reference(one)
        if why is not None:
            raise ProblemError(
                f"{one.label}: onnx.reference computes {why} wrongly, expected ONNX Runtime "
                "(pip install onnxruntime), which is not here or refuses the node"
            )
    try:
        return Evaluator(model)
    except (NotImplementedError, RuntimeError) as error:  # no such operator, or not so old a one
        labels = ", ".join(one.label for one in nodes)
        raise ProblemError(
            f"{labels}: onnx.reference does not have it, expected ONNX Runtime "
            f"(pip install onnxruntime), which is not here or refuses the node: {error}"
        ) from error


def _each(
    model: ModelProto, nodes: Sequence[Node], feeds: Mapping[str, Any], outputs: Sequence[str]
) -> list[_Part]:
    """Each node for itself: of what another one gives only a run tells the type, so they are made
    when they run."""
    found: list[_Part] = []
    for node in nodes:
        names = [name for name in node.outputs if name]
        part = _Part([node], node.reads, names, "")
        part.session = _Late(model, node, names)
        found.append(part)
    return found


class _Late:
    """A node whose session is made when its inputs are there first."""

    def __init__(self, model: ModelProto, node: Node, outputs: Sequence[str]) -> None:
        self._given = model, node, outputs
        self._made: _Part | None = None

    def run(self, _: Any, feeds: dict[str, Any]) -> list[Any]:
        """As that of a session."""
        if self._made is None:
            model, node, outputs = self._given
            (self._made,) = _parts(model, [node], feeds, outputs)
        return self._made.run(feeds)


def _refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where it does not take a model, or fails."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    names = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    return tuple(getattr(errors, name) for name in names)


def _session(model: ModelProto) -> Any:
    """ONNX Runtime's of a model, None where it refuses it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its threads would take the cores that OpenCL's need, while they wait for more to do.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        made = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except _refusals() as error:
        _log.info("ONNX Runtime refuses nodes, trying onnx.reference: %s", error)
        return None
    return made if all(one.type in PLAIN for one in made.get_outputs()) else None
