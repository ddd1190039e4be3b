"""Nodes on the device that compute each element by itself, joined to what comes before them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from clconv.dtypes import dtype_of, is_computed
from clconv.onnx import kernels
from clconv.onnx.convolutions import Activation, Convolution
from clconv.onnx.expressions import BINARY, CHAINED, combined, formula, literal
from clconv.onnx.folding import folded_normalisation
from clconv.onnx.graph import Node, scalar
from clconv.onnx.work import OnHost, Pending, Value, Work, axis_of

__all__ = ["add", "batch_normalisation", "binary", "cast", "chained", "clip", "power", "quantised",
           "unary"]  # fmt: skip

BFLOAT16 = TensorProto.BFLOAT16
Inputs = Sequence[Value | None]
Forms = list[tuple[str, tuple[int | str, ...]]]

# Activations that the kernels of convolutions have.
EPILOGUES = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Silu": "silu", "Gelu": "gelu"}


def _made(node: Node, pending: Pending) -> list[Value]:
    return [Value.of(node.outputs[0], pending)]


def _given(inputs: Inputs) -> list[Value]:
    return [one for one in inputs if one is not None]


def _activation(node: Node) -> Activation:
    """A node as the activation of a convolution's kernel, None where it has none such."""
    if node.op == "LeakyRelu":
        slope = float(node.attributes.get("alpha", 0.01))
        return ("leaky_relu", slope) if slope >= 0 else None
    if node.op == "Gelu" and node.attributes.get("approximate", "none") != "none":
        return None
    return EPILOGUES.get(node.op)


def unary(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """A function of one argument; some are the activation of the convolution before them."""
    (x,) = _given(inputs)
    dtype = work.check(x)
    activation = _activation(node)
    if activation is not None and isinstance(x.pending, Convolution) and work.used_once(x):
        joined = x.pending.with_activation(activation)
        if joined is not None:
            return _made(node, joined)
    form = formula(node, dtype)
    assert form is not None
    return _made(node, combined(work, [(form, (0,))], [x]))


def binary(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """+ - * / of arrays of any shapes that broadcast."""
    a, b = _given(inputs)
    return _made(node, combined(work, [(BINARY[node.op], (0, 1))], [a, b]))


def add(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Add; in the kernel of a convolution before it where that takes it."""
    a, b = _given(inputs)
    work.check(a, b)
    # The later one of two convolutions takes the other one's result.
    for one, other in ((b, a), (a, b)):
        if one is other or not isinstance(one.pending, Convolution) or not work.used_once(one):
            continue
        joined = one.pending.with_added(work, other)
        if joined is not None:
            return _made(node, joined)
    return _made(node, combined(work, [(BINARY["Add"], (0, 1))], [a, b]))


def chained(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Max, Min, Sum or Mean of any number of arrays."""
    values = _given(inputs)
    if node.op == "Sum" and len(values) == 2:
        return add(work, node, [values[0], values[1]])
    if len(values) == 1:
        return _made(node, combined(work, [("{0}", (0,))], values))
    forms: Forms = [(CHAINED[node.op], (0, 1))]
    forms += [(CHAINED[node.op], ("-1", i)) for i in range(2, len(values))]
    if node.op == "Mean":
        forms.append(("{0} / " + str(len(values)), ("-1",)))
    return _made(node, combined(work, forms, values))


def prelu(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """PRelu: x times its slope where it is negative."""
    x, slope = _given(inputs)
    work.check(x, slope)
    trailing = x.shape[len(x.shape) - len(slope.shape) :]
    if len(slope.shape) > len(x.shape) or any(
        n not in (1, wide) for n, wide in zip(slope.shape, trailing, strict=True)
    ):
        raise OnHost(f"{slope.name} has shape {slope.shape}")
    return _made(node, combined(work, [("{0} < 0 ? {1} * {0} : {0}", (0, 1))], [x, slope]))


def clip(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Clip between bounds that are known, or Relu where they are 0 and none."""
    x = inputs[0]
    assert x is not None
    dtype = work.check(x)
    bounds = []
    for i, name in enumerate(("min", "max"), 1):
        value = inputs[i] if len(inputs) > i else None
        given = scalar(work.known(value)) if value is not None else node.attributes.get(name)
        bounds.append(None if given is None else float(given))
    low, high = bounds
    if low == 0 and high is None and isinstance(x.pending, Convolution) and work.used_once(x):
        joined = x.pending.with_activation("relu")
        if joined is not None:
            return _made(node, joined)
    forms: Forms = [("{0}", (0,))]
    if low is not None:
        text = literal(low, dtype)
        forms.append((f"{{0}} < {text} ? {text} : {{0}}", ("-1",)))
    if high is not None:
        text = literal(high, dtype)
        forms.append((f"{{0}} > {text} ? {text} : {{0}}", ("-1",)))
    return _made(node, combined(work, forms, [x]))


def power(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Pow; squares and cubes are products."""
    x, exponent = _given(inputs)
    dtype = work.check(x)
    number = exponent.number
    products = {1.0: "{0}", 2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}"}
    if number is not None and np.broadcast_shapes(x.shape, exponent.shape) == x.shape:
        text = literal(number, dtype)
        form = products.get(number, f"pow({{0}}, {text})")
        return _made(node, combined(work, [(form, (0,))], [x]))
    return _made(node, combined(work, [("pow({0}, {1})", (0, 1))], [x, exponent]))


def batch_normalisation(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """BatchNormalization in inference: in the weights of a convolution before it, or a product and
    a sum of each channel."""
    x, *statistics = _given(inputs)
    dtype = work.check(x, *statistics)
    get = node.attributes.get
    if get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise OnHost("it is training")
    if not get("spatial", 1) or len(x.shape) < 2:
        raise OnHost("its statistics are those of elements")
    epsilon = float(get("epsilon", 1e-5))
    if isinstance(x.pending, Convolution) and work.used_once(x):
        joined = x.pending.normalised(work, statistics, epsilon)
        if joined is not None:
            return _made(node, joined)
    if not all(one.constant for one in statistics):
        raise OnHost("its statistics are no constants")
    lies = (x.shape[1], *(1,) * (len(x.shape) - 2))

    def folded() -> list[Any]:
        ones, zeros = np.ones((x.shape[1], 1), dtype), np.zeros(x.shape[1])
        scale, shift, mean, variance = (one.host for one in statistics)
        both = folded_normalisation(ones, zeros, (scale, shift, mean, variance), epsilon, 0)
        return [one.reshape(lies) for one in both]

    factors = work.once(("normalisation", epsilon, lies), statistics, folded)
    forms: Forms = [("{0} * {1} + {2}", (0, 1, 2))]
    return _made(node, combined(work, forms, [x, *factors]))


def quantised(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """The nearest number that a quantised type holds, by a scale and a zero of the tensor or of
    each place along an axis."""
    x, scale, *rest = _given(inputs)
    dtype = work.check(x, scale)
    if dtype != np.float32:
        raise OnHost(f"it quantises {dtype}")
    lies = [1] * len(x.shape)
    if scale.size > 1:
        axis = axis_of(node, len(x.shape), 1)
        lies[axis] = x.shape[axis]
    if any(one.size != math.prod(lies) for one in (scale, *rest)):
        raise OnHost(f"{scale.name} has shape {scale.shape}")

    def placed() -> list[Any]:
        return [one.host.reshape(lies).astype(dtype) for one in (scale, *rest)]

    values = work.once(("quantised", tuple(lies)), [scale, *rest], placed)
    low, high = (literal(node.given[name], dtype) for name in ("low", "high"))
    clamped = f"fmin({high}, fmax({low}, rint({{0}} / {{1}}){' + {2}' if rest else ''}))"
    forms: Forms = [(clamped, (0, 1, 2)[: 2 + len(rest)])]
    forms.append(("({0} - {2}) * {1}" if rest else "{0} * {1}", ("-1", 1, 2)[: 2 + len(rest)]))
    return _made(node, combined(work, forms, [x, *values], in_text=False))


def cast(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Cast among the dtypes that kernels compute in."""
    (x,) = _given(inputs)
    work.check(x)
    kind = node.attributes["to"]  # of bfloat16 old releases of onnx say that it is float32
    wanted = dtype_of("bfloat16" if kind == BFLOAT16 else tensor_dtype_to_np_dtype(kind))
    if wanted == x.dtype:
        return same(work, node, [x])
    if not is_computed(wanted) or (wanted == np.float64 and not work.runtime.info.fp64):
        raise OnHost(f"it casts {x.dtype} to {wanted}")
    return [Value.of(node.outputs[0], kernels.convert(work.recorder, work.dense(x), wanted))]


def same(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """The value itself under another name: still pending if nothing else reads it."""
    x = inputs[0]
    assert x is not None
    work.check(x)
    if x.pending is not None and work.used_once(x):
        return [Value.of(node.outputs[0], x.pending)]
    return [Value.of(node.outputs[0], work.tensor(x))]


def dropout(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Dropout in inference, which does nothing."""
    training = work.known(inputs[2]) if len(inputs) > 2 else None
    if training is not None and training.any():
        raise OnHost("it is training")
    if len([name for name in node.outputs if name]) > 1:
        raise OnHost("its mask is wanted")
    return same(work, node, inputs)
