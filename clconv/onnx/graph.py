"""What is a model: its nodes in order, with attributes, constants, inputs, outputs and uses."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)
from onnx.helper import get_attribute_value
from onnx.inliner import inline_local_functions
from onnx.numpy_helper import to_array

from clconv.dtypes import is_floating
from clconv.errors import ProblemError

__all__ = ["OWN", "Graph", "Node", "read_graph", "read_model"]

# The domain of nodes that stand for several of a model's.
OWN = "clconv"
# Operators of which two evaluations differ.
RANDOM = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli",
})  # fmt: skip
# Types are inferred of models up to so many bytes, which are copied for it.
INFERRED_BYTES = 1 << 28


@dataclass(eq=False)
class Node:
    """A node; one of the domain `clconv` stands for the nodes `parts`."""

    proto: NodeProto
    version: int
    op: str = ""
    domain: str = ""
    parts: tuple[Node, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)  # attributes of one of ours

    def __post_init__(self) -> None:
        if not self.parts:
            self.op = self.proto.op_type
            self.domain = self.proto.domain if self.proto.domain != "ai.onnx" else ""

    @property
    def label(self) -> str:
        """How messages call it."""
        name = self.proto.name or f"of {', '.join(filter(None, self.outputs))}"
        return f"node {name} ({self.op})"

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, "" of one that is left out."""
        return tuple(self.proto.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs."""
        return tuple(self.proto.output)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes; texts as str."""
        if self.parts:
            return self.given
        found = {one.name: get_attribute_value(one) for one in self.proto.attribute}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """Names of the outer graph that its subgraphs read."""
        names: dict[str, None] = {}
        for one in _subgraphs(self.proto):
            names.update(dict.fromkeys(_free_names(one)))
        return tuple(names)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """All names that it reads, each once."""
        named = (*filter(None, self.inputs), *self.captured)
        return tuple(dict.fromkeys(named))

    @property
    def has_subgraphs(self) -> bool:
        """Whether graphs are among its attributes."""
        return any(True for _ in _subgraphs(self.proto))

    @cached_property
    def convolves(self) -> bool:
        """Whether its subgraphs have convolutions."""
        return any(map(_convolves, _subgraphs(self.proto)))

    @property
    def is_random(self) -> bool:
        """Whether it may give something else each time."""
        if self.has_subgraphs:
            return True
        return self.op in RANDOM or (self.op == "Dropout" and len(self.inputs) > 2)


def _subgraphs(proto: NodeProto) -> Iterator[GraphProto]:
    for one in proto.attribute:
        if one.type == AttributeProto.GRAPH:
            yield one.g
        elif one.type == AttributeProto.GRAPHS:
            yield from one.graphs


def _free_names(graph: GraphProto) -> list[str]:
    """Names that a subgraph takes from outside."""
    own = {one.name for one in (*graph.input, *graph.initializer)}
    own |= {one.values.name for one in graph.sparse_initializer}
    found = []
    for node in graph.node:
        inner = [name for one in _subgraphs(node) for name in _free_names(one)]
        found += [name for name in (*node.input, *inner) if name and name not in own]
        own.update(node.output)
    return found + [one.name for one in graph.output if one.name not in own]


def _convolves(graph: GraphProto) -> bool:
    return any(
        node.op_type in ("Conv", "ConvTranspose") or any(map(_convolves, _subgraphs(node)))
        for node in graph.node
    )


@dataclass(eq=False)
class Graph:
    """A model's graph; `uses` counts who reads a name, the graph's outputs included."""

    model: ModelProto
    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Any]
    kinds: dict[str, int]  # element types by ONNX's numbers, of inputs and where they follow
    uses: Counter[str]

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The inputs that no initializer gives."""
        return tuple(name for name in self.inputs if name not in self.constants)

    @property
    def version(self) -> int:
        """That of ONNX's own operators."""
        return versions_of(self.model).get("", 1)

    def known_arrays(self) -> dict[str, Any]:
        """The arrays of initializers that no caller replaces, and of Constant nodes."""
        found = {name: v for name, v in self.constants.items() if name not in self.inputs}
        for node in self.nodes:
            if node.op == "Constant" and "value" in node.attributes:
                found[node.outputs[0]] = to_array(node.attributes["value"])
        return found

    def new_name(self, wanted: str) -> str:
        """A name that no tensor has, which one has from now on."""
        taken = self._names
        while wanted in taken:
            wanted += "'"
        taken.add(wanted)
        return wanted

    @cached_property
    def _names(self) -> set[str]:
        used = (name for node in self.nodes for name in (*node.reads, *node.outputs))
        return {*self.inputs, *self.constants, *used}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read a name, in order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.reads:
                found.setdefault(name, []).append(node)
        return found

    def count_uses(self) -> None:
        """Counts again, after nodes were replaced."""
        self.uses = Counter(name for node in self.nodes for name in node.reads)
        self.uses.update(self.outputs)


def read_model(model: Any) -> tuple[ModelProto, str]:
    """A model that is given as such, as bytes or as a path, and the folder of its external data.
    Raises ProblemError, and onnx.checker's ValidationError."""
    if isinstance(model, (bytes, bytearray)):
        model = onnx.load_from_string(bytes(model))
    if isinstance(model, ModelProto):
        model = _in_order(model)
        onnx.checker.check_model(_with_types(model))
        return model, ""
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise ProblemError(f"model is {str(path)!r}, expected a file that exists")
        given = onnx.load(str(path))
        loaded = _in_order(given)
        # Of a path also what is too large for one message is checked.
        whole = loaded is given and all(map(_is_typed, loaded.graph.output))
        onnx.checker.check_model(str(path) if whole else _with_types(loaded))
        return loaded, str(path.parent)
    raise ProblemError(
        f"model is a {type(model).__name__}, expected an onnx.ModelProto, a path or bytes"
    )


def _in_order(model: ModelProto) -> ModelProto:
    """The model, or one whose nodes come after those that they read, which converters forget."""
    nodes = list(model.graph.node)
    makers = {name: i for i, one in enumerate(nodes) for name in one.output if name}
    reads = [{makers[name] for name in Node(one, 1).reads if name in makers} for one in nodes]
    if all(maker < i for i, one in enumerate(reads) for maker in one):
        return model
    missing = [len(one) for one in reads]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, one in enumerate(reads):
        for maker in one:
            readers[maker].append(i)
    ready = [i for i, count in enumerate(missing) if not count]  # a heap, since it is sorted
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in readers[order[-1]]:
            missing[i] -= 1
            if not missing[i]:
                heapq.heappush(ready, i)
    if len(order) < len(nodes):
        return model  # a circle, which the check tells
    sorted_ = ModelProto()
    sorted_.CopyFrom(model)
    del sorted_.graph.node[:]
    sorted_.graph.node.extend(nodes[i] for i in order)
    return sorted_


def _is_typed(output: ValueInfoProto) -> bool:
    which = output.type.WhichOneof("value")
    return which is not None and (
        which != "tensor_type" or output.type.tensor_type.HasField("shape")
    )


def _with_types(model: ModelProto) -> ModelProto:
    """The model, or for its check one whose outputs have the types and ranks that it leaves out."""
    if all(map(_is_typed, model.graph.output)):
        return model
    filled = ModelProto()
    filled.CopyFrom(onnx.shape_inference.infer_shapes(model))
    for one in filled.graph.output:
        if one.type.WhichOneof("value") is None:
            one.type.tensor_type.elem_type = TensorProto.FLOAT
        if not _is_typed(one):
            one.type.tensor_type.shape.SetInParent()
    return filled


def _constants(graph: GraphProto, folder: str) -> dict[str, Any]:
    found = {}
    for one in graph.initializer:
        try:
            found[one.name] = to_array(one, folder)
        except FileNotFoundError as error:
            raise ProblemError(
                f"initializer {one.name} lies in a file that is not there, expected a model given "
                f"as a path beside its external data: {error}"
            ) from error
    for sparse in graph.sparse_initializer:
        found[sparse.values.name] = _dense(sparse, folder)
    return found


def _dense(sparse: SparseTensorProto, folder: str) -> Any:
    """A tensor of which a model has only the elements that are not 0."""
    values, places = (to_array(one, folder) for one in (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 2:  # an index of each axis, else one of the flattened tensor
        dense[tuple(places.T)] = values
    else:
        dense.reshape(-1)[places] = values
    return dense


def _kinds(model: ModelProto) -> dict[str, int]:
    """Element types of tensors, as far as ONNX infers them."""
    known = model
    if model.ByteSize() <= INFERRED_BYTES:
        known = onnx.shape_inference.infer_shapes(model)
    values = (*known.graph.input, *known.graph.value_info, *known.graph.output)
    return {one.name: one.type.tensor_type.elem_type for one in values
            if one.type.HasField("tensor_type") and one.type.tensor_type.elem_type}  # fmt: skip


def versions_of(model: ModelProto) -> dict[str, int]:
    """The version of the operators of each domain."""
    return {one.domain if one.domain != "ai.onnx" else "": one.version
            for one in model.opset_import}  # fmt: skip


def read_graph(model: ModelProto, folder: str = "") -> Graph:
    """The graph of a checked model, functions of the model put in where they are called."""
    if model.functions:
        model = inline_local_functions(model)
    graph = model.graph
    versions = versions_of(model)
    nodes = [Node(one, versions.get(one.domain, 1)) for one in graph.node]
    constants = _constants(graph, folder)
    for node in [one for one in nodes if one.op == "Constant" and not one.domain]:
        if "sparse_value" in node.attributes:  # which the reference does not make dense
            constants[node.outputs[0]] = _dense(node.attributes["sparse_value"], folder)
            nodes.remove(node)
    read = Graph(
        model,
        nodes,
        tuple(one.name for one in graph.input),
        tuple(one.name for one in graph.output),
        constants,
        _kinds(model),
        Counter(),
    )
    read.count_uses()
    return read


def scalar(value: Any) -> float | None:
    """The number that a constant of one element is, None for anything else."""
    if (
        isinstance(value, np.ndarray)
        and value.size == 1
        and (value.dtype.kind in "iu" or is_floating(value.dtype))
    ):
        return float(value.reshape(()))
    return None
