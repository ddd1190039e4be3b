"""Quantised nodes as those of floating-point numbers with a rounding between, for the device."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto
from onnx.helper import make_node
from onnx.parser import parse_model

from clconv.onnx.evaluator import Evaluator
from clconv.onnx.graph import OWN, Graph, Node

__all__ = ["join_quantisations", "lower_quantised"]

DOMAINS = ("", "com.microsoft")  # ONNX Runtime has both operators for 16 bits in its own
# Numbers that a quantised type holds; others, floating-point ones of 8 bits, are left to the host.
RANGES = {
    "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255),
    "int16": (-32768, 32767), "uint16": (0, 65535),
}  # fmt: skip
# Operators whose result has numbers of their input, the order kept: rounding may come after them.
KEEPING = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose",
                     "Unsqueeze"})  # fmt: skip
# Operators of ONNX Runtime on quantised tensors, by what they compute, with the number of those.
ELEMENTWISE = {"QLinearAdd": ("Add", 2), "QLinearMul": ("Mul", 2), "QLinearSigmoid": ("Sigmoid", 1),
               "QLinearLeakyRelu": ("LeakyRelu", 1),
               "QLinearGlobalAveragePool": ("GlobalAveragePool", 1)}  # fmt: skip

# The weights and the bias of a layer whose sums are scaled afterwards.
DEQUANTISATION = """
<ir_version: 8, opset_import: ["" : 17]>
dequantise (int32[n,m] w, int32[n,1] zero, float[n,1] scale, float factor) => (float[n,m] weight)
{
    wide = Cast <to = 1> (w)
    offset = Cast <to = 1> (zero)
    centred = Sub(wide, offset)
    both = Mul(scale, factor)
    weight = Mul(centred, both)
}
"""


@functools.cache
def _evaluator() -> Evaluator:
    return Evaluator(parse_model(DEQUANTISATION))


def _dequantised(array: Any, zero: Any, scale: Any, factor: Any) -> Any:
    """(array - zero) * scale * factor in float32."""
    feeds = {"w": array, "zero": zero, "scale": scale, "factor": factor}
    (found,) = _evaluator().run(None, feeds)
    return found


class _Lowering:
    """The nodes of a graph in order, quantised ones replaced."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._arrays = graph.known_arrays()
        self.nodes: list[Node] = []

    def run(self) -> None:
        """Fills `nodes`."""
        for node in self._graph.nodes:
            made = self._lowered(node)
            self.nodes += [node] if made is None else made

    def _lowered(self, node: Node) -> list[Node] | None:
        """What computes the same as a node; None where it stays."""
        if node.op == "QLinearConv" and not node.domain:
            return self._convolution(node)
        if node.op == "QLinearMatMul" and not node.domain:
            return self._product(node, "MatMul", {})
        if node.domain != "com.microsoft":
            return None
        if node.op in ELEMENTWISE and not node.attributes.get("channels_last", 0):
            op, count = ELEMENTWISE[node.op]
            given = [node.inputs[3 * i : 3 * i + 3] for i in range(count)]
            return self._between(node, op, given, node.inputs[3 * count :])
        if node.op == "QLinearConcat":
            given = [node.inputs[i : i + 3] for i in range(2, len(node.inputs), 3)]
            return self._between(node, "Concat", given, node.inputs[:2])
        if node.op == "QGemm" and node.attributes.get("alpha", 1.0) == 1.0:
            transposed = node.attributes.get("transB", 0)
            if not node.attributes.get("transA", 0):
                return self._product(node, "Gemm", {"transB": transposed})
        return None

    def _between(
        self,
        node: Node,
        op: str,
        given: Sequence[Sequence[str]],
        result: Sequence[str],
        more: Sequence[str] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> list[Node] | None:
        """An operator of tensors that are dequantised before it, and quantised after it; `more` are
        inputs that are no quantised ones. None where no zero says the type of the result."""
        if any(result) and not all((*result, "")[:2]):
            return None
        made, names = [], []
        for x, *how in given:
            names.append(self._name(x))
            made.append(self._node("DequantizeLinear", [x, *self._numbers(how)], names[-1]))
        if attributes is None:
            attributes = {k: v for k, v in node.attributes.items() if k != "channels_last"}
        (y,) = node.outputs
        if not any(result):  # the result stays one of floating-point numbers
            return [*made, self._node(op, [*names, *more], y, node.proto.name, attributes)]
        sums = self._name(y)
        made.append(self._node(op, [*names, *more], sums, node.proto.name, attributes))
        made.append(self._node("QuantizeLinear", [sums, *self._numbers(result)], y))
        return made

    def _numbers(self, names: Sequence[str]) -> list[str]:
        """A scale and a zero, which these operators may also have as arrays of one number."""
        found = []
        for name in filter(None, names):
            array = self._arrays.get(name)
            if array is not None and array.shape == (1,):
                name = self._name(name)
                self._graph.constants[name] = array.reshape(())
            found.append(name)
        return found

    def _weights(
        self, node: Node, axis: int, bias: str
    ) -> tuple[list[str], tuple[int, ...]] | None:
        """Names of the weights and the bias of a node as numbers of float32, if they are constants;
        weight, scale and zero follow those of x, channels lie along `axis`."""
        names = (node.inputs[1], *node.inputs[3:6], bias)
        none = np.zeros((), np.int32)
        arrays = [self._arrays.get(name) if name else none for name in names]
        if any(one is None for one in arrays):
            return None
        x_scale, weight, scale, zero, added = map(np.asarray, arrays)
        if scale.dtype != np.float32 or weight.ndim < 2:
            return None
        lies = [-1 if i == axis else 1 for i in range(weight.ndim)]
        columns = zero.reshape(lies), scale.reshape(lies)
        made = [self._name(node.inputs[3])]
        one = np.ones((), np.float32)
        self._graph.constants[made[0]] = _dequantised(weight, *columns, one)
        if bias:
            made.append(self._name(bias))
            shifted = _dequantised(added.reshape(-1), none, scale.reshape(-1), x_scale)
            self._graph.constants[made[1]] = shifted
        return made, weight.shape

    def _convolution(self, node: Node) -> list[Node] | None:
        bias = node.inputs[8] if len(node.inputs) > 8 else ""
        weight = self._arrays.get(node.inputs[3])
        if weight is None or not _has_one_axis(weight.shape):
            return None
        found = self._weights(node, 0, bias)
        if found is None:
            return None
        return self._between(node, "Conv", [node.inputs[:3]], node.inputs[6:8], found[0])

    def _product(self, node: Node, op: str, attributes: Mapping[str, Any]) -> list[Node] | None:
        bias = node.inputs[6] if op == "Gemm" and len(node.inputs) > 6 else ""
        result = node.inputs[7:9] if op == "Gemm" else node.inputs[6:8]
        # Of a product a scale may also be that of each row; a bias may differ from row to row.
        scales = [self._arrays.get(name) for name in (node.inputs[1], *result[:1]) if name]
        if any(one is None or one.size != 1 for one in scales):
            return None
        added = self._arrays.get(bias)
        if added is not None and added.shape[:-1] not in ((), (1,)):
            return None
        axis = 0 if attributes.get("transB", 0) else 1
        found = self._weights(node, axis, bias)
        if found is None or len(found[1]) != 2:
            return None
        return self._between(node, op, [node.inputs[:3]], result, found[0], attributes)

    def _name(self, name: str) -> str:
        """A new one."""
        return self._graph.new_name(f"{name} in floating point")

    def _node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        name: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> Node:
        named = name or f"{op} of {output}"
        made = make_node(op, inputs, [output], name=named, **(attributes or {}))
        return Node(made, self._graph.version)


def _has_one_axis(shape: Sequence[int]) -> bool:
    """Whether weights are those of a convolution of one axis, or of two of which one is 1 wide."""
    return len(shape) == 3 or (len(shape) == 4 and 1 in shape[2:])


def lower_quantised(graph: Graph) -> None:
    """Where a graph has quantised convolutions of one axis, with constant weights, its quantised
    nodes become those of float32, whose inputs and results are rounded to what the quantised types
    hold: each differs by a step of these at most, where a sum is on the edge between two."""
    arrays = graph.known_arrays()
    convolutions = [arrays.get(one.inputs[3]) for one in graph.nodes
                    if one.op == "QLinearConv" and not one.domain]  # fmt: skip
    if not any(one is not None and _has_one_axis(one.shape) for one in convolutions):
        return
    lowering = _Lowering(graph)
    lowering.run()
    graph.nodes = lowering.nodes
    graph.count_uses()
    _round_later(graph)


def _round_later(graph: Graph) -> None:
    """Lets operators that only move and choose numbers come before the rounding."""
    arrays = graph.known_arrays()
    slots = [[node] for node in graph.nodes]
    rounding: dict[str, int] = {}  # where a tensor that is the same in float32 is rounded
    for i, node in enumerate(graph.nodes):
        before = rounding.pop(node.inputs[0], None) if node.inputs else None
        moves = node.op in KEEPING and not node.domain and len(node.outputs) == 1
        if before is not None and moves and graph.uses[node.inputs[0]] == 1:
            first = slots[before].pop()
            between = node.inputs[0]  # from here on in float32
            graph.kinds.pop(between, None)
            moved = _with_ends(node, first.inputs[0], between)
            slots[i] = [moved, _with_ends(first, between, node.outputs[0])]
            rounding[node.outputs[0]] = i
        elif node.op == "QuantizeLinear" and node.domain in DOMAINS:
            scale = arrays.get(node.inputs[1])
            if scale is not None and scale.size == 1:
                rounding[node.outputs[0]] = i
    graph.nodes = [node for slot in slots for node in slot]
    graph.count_uses()


def _with_ends(node: Node, x: str, y: str) -> Node:
    """A node with another first input and another result."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[0], proto.output[0] = x, y
    return Node(proto, node.version)


def _same(arrays: Mapping[str, Any], a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether the scales and zeros of two nodes are the same constants."""
    if len(a) != len(b):
        return False
    for one, other in zip(a, b, strict=True):
        x, y = arrays.get(one), arrays.get(other)
        if x is None or y is None:
            return False
        if x.dtype != y.dtype or not np.array_equal(x.reshape(-1), y.reshape(-1)):
            return False
    return True


def _pairs(graph: Graph) -> Iterator[tuple[Node, list[Node], tuple[int, int]]]:
    """Each QuantizeLinear with the nodes of DequantizeLinear that alone read it, and its range."""
    arrays, readers = graph.known_arrays(), graph.readers()
    for node in graph.nodes:
        if node.op != "QuantizeLinear" or node.domain not in DOMAINS:
            continue
        get = node.attributes.get
        if node.inputs[0] in arrays or get("block_size", 0) or get("precision", 0):
            continue
        how = tuple(filter(None, node.inputs[1:]))
        after = readers.get(node.outputs[0], [])
        if not after or graph.uses[node.outputs[0]] != len(after):
            continue
        if not all(
            one.op == "DequantizeLinear"
            and one.domain in DOMAINS
            and _same(arrays, how, tuple(filter(None, one.inputs[1:])))
            and one.attributes.get("axis", 1) == get("axis", 1)
            and not one.attributes.get("output_dtype", 0)
            for one in after
        ):
            continue
        if len(how) == 1 and get("output_dtype", 0):
            continue
        kind = arrays[how[1]].dtype.name if len(how) > 1 else "uint8"
        if kind in RANGES:
            yield node, after, RANGES[kind]


def join_quantisations(graph: Graph) -> None:
    """Puts one node of the domain `clconv`, which rounds numbers to those that a quantised type
    holds, in place of a QuantizeLinear and the nodes that undo it."""
    instead: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node, (first, *others), (low, high) in _pairs(graph):
        gone.add(node)
        how = list(filter(None, node.inputs[1:]))
        x, y = node.inputs[0], first.outputs[0]
        made = make_node("Quantised", [x, *how], [y], name=node.proto.name, domain=OWN)
        given = {"axis": node.attributes.get("axis", 1), "low": low, "high": high}
        instead[first] = Node(made, node.version, "Quantised", OWN, (node, first), given)
        for one in others:
            same = make_node("Identity", [y], [one.outputs[0]], name=one.proto.name)
            instead[one] = Node(same, graph.version)
    graph.nodes = [instead.get(node, node) for node in graph.nodes if node not in gone]
    graph.count_uses()
