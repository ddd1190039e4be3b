"""Operators of ONNX Runtime that its optimised models have, as those of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx.helper import make_node

from clconv.onnx.graph import OWN, Graph, Node

__all__ = ["lower_fused"]

DOMAIN = "com.microsoft"
# Activations that FusedConv computes, with the attributes that its numbers are in order.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max"),
}  # fmt: skip


def lower_fused(graph: Graph) -> None:
    """FusedConv becomes a Conv, an Add and an activation, Gelu one of ours."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.domain == DOMAIN and node.op == "FusedConv":
            nodes += _convolution(graph, node)
        elif node.domain == DOMAIN and node.op == "Gelu":
            made = make_node("Gelu", node.inputs, node.outputs, name=node.proto.name, domain=OWN)
            nodes.append(Node(made, node.version, "Gelu", OWN, (node,)))
        else:
            nodes.append(node)
    if nodes != graph.nodes:
        graph.nodes = nodes
        graph.count_uses()


def _convolution(graph: Graph, node: Node) -> list[Node]:
    attributes = dict(node.attributes)
    activation = attributes.pop("activation", "")
    numbers = attributes.pop("activation_params", ())
    named: dict[str, Any] = dict(zip(ACTIVATIONS.get(activation, ()), numbers, strict=False))
    if activation and (activation not in ACTIVATIONS or (activation == "Clip" and not named)):
        return [node]
    x, weight, bias, added = (*node.inputs, "", "")[:4]
    steps: list[tuple[str, list[str], dict[str, Any]]]
    steps = [("Conv", [x, weight, bias] if bias else [x, weight], attributes)]
    if added:
        steps.append(("Add", ["", added], {}))
    if activation == "Clip" and graph.version >= 11:  # before they are attributes
        bounds = [graph.new_name(f"{node.outputs[0]} {name}") for name in named]
        for name, value in zip(bounds, named.values(), strict=True):
            graph.constants[name] = np.array(value, np.float32)
        steps.append(("Clip", ["", *bounds], {}))
    elif activation:
        steps.append((activation, [""], named))
    made, before = [], ""
    for i, (op, inputs, given) in enumerate(steps):
        last = i == len(steps) - 1
        y = node.outputs[0] if last else graph.new_name(f"{node.outputs[0]} before step {i + 1}")
        names = [before, *inputs[1:]] if i else inputs
        proto = make_node(op, names, [y], name=node.proto.name, **given)
        made.append(Node(proto, graph.version))
        before = y
    return made
