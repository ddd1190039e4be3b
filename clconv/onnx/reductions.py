"""Nodes on the device that sum over axes: reductions, normalisations and softmax."""

from __future__ import annotations

import math

from clconv.dtypes import is_short
from clconv.errors import ProblemError
from clconv.onnx import kernels
from clconv.onnx.elementwise import Inputs, same
from clconv.onnx.graph import Node
from clconv.onnx.recording import Tensor
from clconv.onnx.work import OnHost, Value, Work, axis_of, counted

__all__ = [
    "global_pool",
    "group_normalisation",
    "instance_normalisation",
    "layer_normalisation",
    "reduction",
    "softmax",
]

OPERATIONS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "maximum", "ReduceMin": "minimum",
    "ReduceSumSquare": "squares", "ReduceL2": "norm", "GlobalAveragePool": "mean",
    "GlobalMaxPool": "maximum",
}  # fmt: skip


def _given(inputs: Inputs) -> list[Value]:
    return [one for one in inputs if one is not None]


def _reduced(work: Work, node: Node, x: Value, axes: list[int], keep: bool) -> list[Value]:
    """Of neighbouring axes."""
    first, last = axes[0], axes[-1]
    if axes != list(range(first, last + 1)):
        raise OnHost(f"the axes {axes} are no neighbours")
    rows, length = math.prod(x.shape[:first]), math.prod(x.shape[first : last + 1])
    inner = math.prod(x.shape[last + 1 :])
    middle = last < len(x.shape) - 1
    made = kernels.reduce_rows(
        work.recorder, work.dense(x), (rows, length, inner), middle, OPERATIONS[node.op]
    )
    kept = [1] * len(axes) if keep else []
    shape = (*x.shape[:first], *kept, *x.shape[last + 1 :])
    return [Value.of(node.outputs[0], made.view(shape))]


def reduction(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """ReduceSum, ReduceMean, … over neighbouring axes."""
    x = inputs[0]
    assert x is not None
    work.check(x)
    rank = len(x.shape)
    given = node.attributes.get("axes")
    if given is None and len(inputs) > 1 and inputs[1] is not None:
        given = work.known(inputs[1]).reshape(-1)
    if given is None or not len(given):
        if node.attributes.get("noop_with_empty_axes", 0):
            if node.op in ("ReduceSumSquare", "ReduceL2"):
                raise OnHost("it has no axes")
            return same(work, node, [x])
        given = range(rank)
    if not rank:
        raise OnHost(f"{x.name} is a number")
    axes = sorted({counted("axes", int(axis), rank) for axis in given})
    return _reduced(work, node, x, axes, bool(node.attributes.get("keepdims", 1)))


def global_pool(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """GlobalAveragePool and GlobalMaxPool."""
    (x,) = _given(inputs)
    work.check(x)
    if len(x.shape) < 3:
        raise OnHost(f"{x.name} has {len(x.shape)} dimensions")
    return _reduced(work, node, x, list(range(2, len(x.shape))), keep=True)


# Normalisations


def _parameter(work: Work, value: Value, count: int) -> Tensor:
    if value.size != count:
        raise OnHost(f"{value.name} has shape {value.shape}, not {count} elements")
    return work.dense(value)


def instance_normalisation(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """InstanceNormalization."""
    x, scale, shift = _given(inputs)
    work.check(x, scale, shift)
    return _by_channel(work, node, (x, scale, shift), x.shape[1])


def group_normalisation(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """GroupNormalization with a scale of each channel."""
    x, scale, shift = _given(inputs)
    work.check(x, scale, shift)
    if node.version < 21:
        raise OnHost("before opset 21 its scale is one of each group")
    groups = int(node.attributes["num_groups"])
    if groups < 1 or x.shape[1] % groups:
        raise ProblemError(f"num_groups is {groups}, expected a divisor of {x.shape[1]} channels")
    return _by_channel(work, node, (x, scale, shift), groups)


def _by_channel(
    work: Work, node: Node, values: tuple[Value, Value, Value], groups: int
) -> list[Value]:
    x, scale, shift = values
    if len(x.shape) < 3:
        raise OnHost(f"{x.name} has {len(x.shape)} dimensions")
    channels, positions = x.shape[1], math.prod(x.shape[2:])
    made = kernels.normalise(
        work.recorder,
        work.dense(x),
        x.shape[0] * groups,
        _parameter(work, scale, channels),
        _parameter(work, shift, channels),
        float(node.attributes.get("epsilon", 1e-5)),
        (groups, channels // groups, positions),
    )
    return [Value.of(node.outputs[0], made)]


def layer_normalisation(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """LayerNormalization over the last axes."""
    x, scale, *others = _given(inputs)
    work.check(x, scale, *others)
    if len([name for name in node.outputs if name]) > 1:
        raise OnHost("its mean and deviation are wanted")
    if is_short(x.dtype) and node.attributes.get("stash_type", 1) != 1:
        raise OnHost("its stash_type is not 1")
    axis = axis_of(node, len(x.shape), -1)
    length = math.prod(x.shape[axis:])
    shift = _parameter(work, others[0], length) if others else None
    made = kernels.normalise(
        work.recorder,
        work.dense(x),
        x.size // length,
        _parameter(work, scale, length),
        shift,
        float(node.attributes.get("epsilon", 1e-5)),
    )
    return [Value.of(node.outputs[0], made)]


def softmax(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Softmax and LogSoftmax along the last axis; before opset 13 along all from one on."""
    (x,) = _given(inputs)
    work.check(x)
    rank = len(x.shape)
    older = node.version < 13
    axis = axis_of(node, rank, 1 if older else -1)
    if not older and axis != rank - 1:
        raise OnHost(f"its axis is {axis}, not the last one")
    rows = math.prod(x.shape[:axis])
    made = kernels.softmax(work.recorder, work.dense(x), rows, node.op == "LogSoftmax")
    return [Value.of(node.outputs[0], made)]
