"""Which nodes together are one activation: GELU and SiLU as exporters write them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx.helper import make_node

from clconv.onnx.graph import OWN, Graph, Node, scalar

__all__ = ["join_activations"]

# Exporters write their constants in float32, or in float16.
CLOSE = 1e-3


class _Finder:
    """Follows names from node to node; constants by name, those of Constant nodes too."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._numbers: dict[str, float] = {}
        given = set(graph.inputs)  # what callers may replace is no constant
        for name, value in graph.constants.items():
            number = scalar(value)
            if number is not None and name not in given:
                self._numbers[name] = number
        self._readers = graph.readers()
        for node in graph.nodes:
            if node.op == "Constant":
                self._numbers.update(_constant(node))

    def readers(self, name: str) -> list[Node]:
        return self._readers.get(name, [])

    def only_reader(self, name: str) -> Node | None:
        """The node that reads a name which nothing else reads."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and self._graph.uses[name] == 1 else None

    def is_number(self, name: str, number: float) -> bool:
        return abs(self._numbers.get(name, math.inf) - number) <= CLOSE * abs(number)

    def by_number(self, node: Node | None, op: str, name: str, number: float) -> str | None:
        """The result of `name op number`, where that is the node."""
        if node is None or node.op != op or len(node.inputs) != 2:
            return None
        a, b = node.inputs
        swapped = op in ("Add", "Mul")
        if (a == name and self.is_number(b, number)) or (
            swapped and b == name and self.is_number(a, number)
        ):
            return node.outputs[0]
        return None


def _constant(node: Node) -> dict[str, float]:
    from onnx.numpy_helper import to_array

    for key, value in node.attributes.items():
        if key == "value":
            number = scalar(to_array(value))
            return {} if number is None else {node.outputs[0]: number}
        if key in ("value_float", "value_int"):
            return {node.outputs[0]: float(value)}
    return {}


def _gelu(finder: _Finder, erf: Node) -> tuple[str, list[Node]] | None:
    """(x, nodes) of x * 0.5 * (1 + erf(x / sqrt 2)) around an Erf, in any order of the factors."""
    divisions = [one for one in finder._graph.nodes if one.outputs[:1] == erf.inputs]
    if len(divisions) != 1 or finder.only_reader(erf.inputs[0]) is not erf:
        return None
    division = divisions[0]
    x = next((name for name in division.inputs
              if finder.by_number(division, "Div", name, math.sqrt(2))
              or finder.by_number(division, "Mul", name, math.sqrt(0.5))), None)  # fmt: skip
    add = finder.only_reader(erf.outputs[0])
    one = finder.by_number(add, "Add", erf.outputs[0], 1.0)
    if x is None or add is None or one is None:
        return None
    nodes = [division, erf, add]
    for _ in range(2):
        product = finder.only_reader(one)
        if product is None or product.op != "Mul":
            return None
        nodes.append(product)
        half = finder.by_number(product, "Mul", one, 0.5)
        other = [name for name in product.inputs if name != one]
        if half is None and other != [x]:
            # x * 0.5 may have been computed before.
            before = [n for n in finder.readers(x) if n.outputs[:1] == tuple(other)]
            if len(before) == 1 and finder.by_number(before[0], "Mul", x, 0.5):
                return (x, [before[0], *nodes]) if finder.only_reader(other[0]) else None
            return None
        one = product.outputs[0]
    halves = [n for n in nodes[3:] if any(finder.is_number(name, 0.5) for name in n.inputs)]
    return (x, nodes) if len(halves) == 1 else None


def _silu(finder: _Finder, sigmoid: Node) -> tuple[str, list[Node]] | None:
    x = sigmoid.inputs[0]
    product = finder.only_reader(sigmoid.outputs[0])
    if product is None or product.op != "Mul":
        return None
    if sorted(product.inputs) != sorted((x, sigmoid.outputs[0])):
        return None
    return x, [sigmoid, product]


def _found(graph: Graph) -> Iterator[tuple[str, str, list[Node]]]:
    finder = _Finder(graph)
    for node in graph.nodes:
        if node.domain:
            continue
        if node.op == "Erf" and (found := _gelu(finder, node)):
            yield "Gelu", *found
        elif node.op == "Sigmoid" and (found := _silu(finder, node)):
            yield "Silu", *found


def join_activations(graph: Graph) -> None:
    """Puts one node of the domain `clconv` in place of the last node of each activation."""
    last: dict[Node, Node] = {}
    gone: set[Node] = set()
    for op, x, parts in _found(graph):
        if not gone.isdisjoint(parts):
            continue
        end = parts[-1]
        made = make_node(op, [x], [end.outputs[0]], name=end.proto.name, domain=OWN)
        ordered = tuple(node for node in graph.nodes if node in set(parts))
        last[end] = Node(made, end.version, op, OWN, ordered)
        gone.update(parts)
    graph.nodes = [last.get(node, node) for node in graph.nodes
                   if node in last or node not in gone]  # fmt: skip
    graph.count_uses()
