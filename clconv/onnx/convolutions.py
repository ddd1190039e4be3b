"""Nodes on the device: Conv, ConvTranspose, MatMul, Gemm, with what follows them in the kernel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clconv.calls.draft import NO_NAMES, Draft, Recipe
from clconv.calls.layouts import Layout
from clconv.calls.recipes import (
    draft_conv1d,
    draft_conv_transpose1d,
    problem_of,
    transposed_problem,
)
from clconv.errors import ProblemError
from clconv.geometry import Geometry
from clconv.onnx import kernels
from clconv.onnx.attributes import conv_geometry, transposed_geometry
from clconv.onnx.folding import folded_normalisation
from clconv.onnx.graph import Node
from clconv.onnx.recording import Shape, Tensor
from clconv.onnx.turning import Turned
from clconv.onnx.work import OnHost, Value, Work

__all__ = ["Convolution", "conv", "conv_transpose", "gemm", "matmul"]

Activation = str | tuple[str, float] | None


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution that is still pending: nodes that follow give it a residual and an activation.
    `shape` is the result's, whose elements are those of `rows`, its (N, C, L), or where it is
    `turned` those of (N, L, C)."""

    x: Tensor
    weight: Value
    weight_shape: Shape
    bias: Value | None
    geometry: Geometry
    rows: Shape
    shape: Shape
    dtype: np.dtype[Any]
    channel_axis: int = 1
    turned: bool = False
    residual: Tensor | None = None
    activation: Activation = None

    @property
    def is_bare(self) -> bool:
        """Whether nothing follows it in its kernel yet."""
        return self.residual is None and self.activation is None

    def finish(self, work: Work, out: Tensor | None = None) -> Tensor:
        """Queues it."""
        operands = {"x": self.x, "weight": work.dense(self.weight).view(self.weight_shape)}
        if self.bias is not None:
            operands["bias"] = work.dense(self.bias).view((self.rows[1],))
        if self.residual is not None:
            operands["residual"] = self.residual.view(self.rows)
        recipe = self._recipe(work, operands)
        place = None if self.turned else out
        y = work.recorder.empty(self.rows, self.dtype) if place is None else place
        derived = self.weight.derived if self.weight.constant else None
        work.recorder.follow(recipe, operands | {"out": y}, derived)
        if self.turned:
            y = kernels.transpose(work.recorder, y.view(self.rows), out)
        return y.view(self.shape)

    def fits(self, out: Tensor) -> bool:
        """Whether it can be written to a tensor of its shape that lies so."""
        return out.is_dense

    def _recipe(self, work: Work, operands: Mapping[str, Tensor]) -> Recipe:
        runtime, constant = work.runtime, self.weight.constant
        layouts = {name: _layout(one) for name, one in operands.items()}
        state = runtime.workspace_limit, runtime.exact, constant
        key: Hashable = ("onnx", *layouts, *layouts.values(), self.geometry, self.activation, state)
        known: Recipe | None = runtime.recipes.get(key)
        if known is not None:
            return known
        draft = Draft(runtime, layouts, NO_NAMES, kept=constant)
        make = draft_conv_transpose1d if self.geometry.transposed else draft_conv1d
        make(draft, self.geometry, self.activation, "auto")
        made: Recipe = runtime.recipes.set_default(key, draft.recipe())
        return made

    # What may follow in the same kernel: each gives the new one, or None where it does not fit.

    def with_activation(self, activation: Activation) -> Convolution | None:
        """With an activation after all else."""
        return replace(self, activation=activation) if self.activation is None else None

    def with_added(self, work: Work, other: Value) -> Convolution | None:
        """With a tensor of the result's shape added, or a constant of each channel."""
        if not self.is_bare:
            return None
        if other.shape == self.shape and not self.turned:
            return replace(self, residual=work.dense(other))
        lies = tuple(n if i == self.channel_axis else 1 for i, n in enumerate(self.shape))
        padded = (1,) * (len(lies) - len(other.shape)) + other.shape
        if self.bias is None and other.constant and padded == lies:
            return replace(self, bias=other)
        return None

    def unturned(self) -> Convolution | None:
        """Before its positions and channels change places; None where they do not."""
        if not self.turned or len(self.shape) != 3 or self.rows[0] != self.shape[0]:
            return None
        return replace(self, turned=False, shape=self.rows, channel_axis=1)

    def ending_earlier(self, count: int) -> Convolution | None:
        """Without the last outputs, if less padding does that."""
        geometry = self.geometry.ending_earlier(count)
        if geometry is None or not self.is_bare or self.shape != self.rows:
            return None
        taps, length = self.weight_shape[2], self.x.shape[2]
        rows = (*self.rows[:2], geometry.out_length(length, taps))
        return replace(self, geometry=geometry, rows=rows, shape=rows)

    def normalised(
        self, work: Work, statistics: Sequence[Value], epsilon: float
    ) -> Convolution | None:
        """With a batch normalisation in weights and bias."""
        grouped = self.geometry.transposed and self.geometry.groups > 1
        constants = [self.weight, *statistics, *([self.bias] if self.bias else [])]
        if self.channel_axis != 1 or not self.is_bare or grouped:
            return None
        if not all(one.constant for one in constants):
            return None
        axis = 1 if self.geometry.transposed else 0

        def folded() -> tuple[Any, Any]:
            bias = np.zeros(self.rows[1]) if self.bias is None else self.bias.host.reshape(-1)
            weight = self.weight.host.reshape(self.weight_shape)
            scale, shift, mean, variance = (one.host for one in statistics)
            return folded_normalisation(weight, bias, (scale, shift, mean, variance), epsilon, axis)

        what = "folded", epsilon, axis, self.weight_shape
        weight, bias = work.once(what, constants, folded)
        return replace(self, weight=weight, bias=bias)


def _layout(tensor: Tensor) -> Layout:
    strides = tuple(step * tensor.dtype.itemsize for step in tensor.strides)
    return Layout(tensor.shape, strides, tensor.dtype)


def _one_axis(shape: Shape, w: Shape, attributes: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Which of two spatial axes counts, where the other one is 1 wide, and the attributes of that
    axis alone. Raises OnHost."""
    for axis in (1, 0):
        other = 1 - axis
        pads = attributes.get("pads", [0, 0, 0, 0])
        found = {"strides": None, "dilations": None, "kernel_shape": None,
                 "output_padding": None, "output_shape": None}  # fmt: skip
        plain = len(pads) == 4 and not pads[other] and not pads[other + 2]
        if shape[2 + other] != 1 or w[2 + other] != 1 or not plain:
            continue
        named: dict[str, Any] = dict(attributes)
        for name in found:
            if name in named:
                both = named[name]
                if len(both) != 2:
                    raise OnHost(f"{name} has {len(both)} numbers")
                named[name] = [both[axis]]
        if attributes.get("output_padding", [0, 0])[other]:
            continue
        if attributes.get("output_shape", [1, 1])[other] != 1:
            continue
        if "strides" in attributes and attributes["strides"][other] != 1 and "auto_pad" in named:
            continue
        named["pads"] = [pads[axis], pads[axis + 2]]
        if "auto_pad" in named and named["auto_pad"] not in ("", "NOTSET"):
            del named["pads"]
        return axis, named
    raise OnHost("it has two spatial axes")


def _pending(work: Work, node: Node, inputs: Sequence[Value | None], transposed: bool) -> Value:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    if x is None or weight is None:
        raise ProblemError("X or W is left out, expected both")
    if len(x.shape) not in (3, 4):
        raise OnHost(f"{x.name} has {len(x.shape)} dimensions")
    dtype = work.check(x)
    attributes, x_shape, w_shape, axis = node.attributes, x.shape, weight.shape, None
    if len(x_shape) == 4:
        if len(w_shape) != 4:
            raise OnHost(f"{weight.name} has {len(w_shape)} dimensions")
        axis, attributes = _one_axis(x_shape, w_shape, attributes)
        x_shape = (*x_shape[:2], x_shape[2 + axis])
        w_shape = (*w_shape[:2], w_shape[2 + axis])
    make = transposed_geometry if transposed else conv_geometry
    geometry = make(x_shape, w_shape, attributes)
    work.check(x, weight, *([bias] if bias else []))
    rows = _result_shape(work, geometry, dtype, x_shape, w_shape, bias)
    shape = rows
    if axis is not None:
        shape = (*rows[:2], 1, rows[2]) if axis == 1 else (*rows, 1)
    tensor = work.tensor(x) if len(x.shape) == 3 else work.dense(x).view(x_shape)
    # Kernels of rows serve all lengths; those of strided positions would not serve one position.
    if tensor.shape[2] == 1:
        tensor = tensor._replace(strides=(*tensor.strides[:2], 1))
    elif tensor.strides[2] != 1:
        tensor = work.dense(x)
    made = Convolution(tensor, weight, w_shape, bias, geometry, rows, shape, dtype)
    return Value.of(node.outputs[0], made)


def _result_shape(
    work: Work, geometry: Geometry, dtype: Any, x: Shape, w: Shape, bias: Value | None
) -> Shape:
    """(N, C, L) of the result. Raises ProblemError."""
    layouts = {"x": Layout.contiguous(x, dtype), "weight": Layout.contiguous(w, dtype)}
    if bias is not None:
        layouts["bias"] = Layout.contiguous(bias.shape, dtype)
    draft = Draft(work.runtime, layouts, NO_NAMES)
    if geometry.transposed:
        problem = transposed_problem(draft, geometry)
        draft.expect("bias", (problem.in_channels,))
        return problem.input_shape
    problem = problem_of(draft, geometry, draft.tensor("x"), w)
    draft.expect("bias", (problem.out_channels,))
    return problem.output_shape


def conv(work: Work, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """Conv of one spatial axis, or of two of which one is 1 wide."""
    return [_pending(work, node, inputs, transposed=False)]


def conv_transpose(work: Work, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """ConvTranspose of one spatial axis, or of two of which one is 1 wide."""
    return [_pending(work, node, inputs, transposed=True)]


# Products of matrices: a pointwise convolution whose batch are the rows


def _product(work: Work, name: str, a: Value, weight: Value, bias: Value | None = None) -> Value:
    """`a`, whose last axis are channels, times a weight (N, K, 1), as a pending convolution.

    Convolutions read positions side by side. So rows and columns of `a` change places, unless they
    have just done so, and back afterwards.
    """
    channels, terms, _ = weight.shape
    shape = (*a.shape[:-1], channels)
    before = a.pending.before(shape) if isinstance(a.pending, Turned) else None
    if before is not None:
        x = before
    else:
        x = work.dense(a).view((1, a.size // terms, terms))
        # That of one row has nothing to move, but another batch has.
        x = kernels.transpose(work.recorder, x)
    rows = (x.shape[0], channels, x.shape[2])
    last = len(shape) - 1
    made = Convolution(
        x, weight, weight.shape, bias, Geometry(), rows, shape, a.dtype, last, turned=True
    )
    return Value.of(name, made)


def _as_weight(work: Work, weight: Value, transposed: bool) -> Value:
    """A constant matrix (K, N) as (N, K, 1); one that is `transposed` is so already."""

    def turned() -> list[Any]:
        host = weight.host if transposed else weight.host.T
        return [np.ascontiguousarray(host)[:, :, None]]

    (made,) = work.once(("matrix", transposed), [weight], turned)
    return made


def matmul(work: Work, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """MatMul of a tensor and a constant matrix, by a pointwise convolution, or of two tensors."""
    a, b = inputs
    assert a is not None
    assert b is not None
    work.check(a, b)
    if min(len(a.shape), len(b.shape)) < 2:
        raise OnHost("an operand is a vector")
    if not b.constant or len(b.shape) != 2:
        return [_products(work, node.outputs[0], a, b)]
    if a.shape[-1] != b.shape[0]:
        raise ProblemError(
            f"{b.name} has shape {b.shape}, expected ({a.shape[-1]}, …) for {a.name} of {a.shape}"
        )
    weight = _as_weight(work, b, transposed=False)
    return [_product(work, node.outputs[0], a, weight)]


def _products(work: Work, name: str, a: Value, b: Value) -> Value:
    """Products of matrices of which both are computed."""
    if a.shape[-1] != b.shape[-2]:
        wanted = f"(…, {a.shape[-1]}, …) for {a.name} of {a.shape}"
        raise ProblemError(f"{b.name} has shape {b.shape}, expected {wanted}")
    try:
        batch = tuple(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    except ValueError as error:
        raise ProblemError(
            f"{b.name} has shape {b.shape}, expected one that broadcasts with {a.shape}"
        ) from error
    # Rows may lie in any order, so that none need move for it.
    left = a.pending.view if isinstance(a.pending, Turned) else work.tensor(a)
    right = work.tensor(b)
    if right.strides[-1] != 1:
        right = work.dense(b)
    if not kernels.fit_for_product(left, right, batch):
        raise OnHost(f"{a.name} of {a.shape} and {b.name} of {b.shape} have too many dimensions")
    return Value.of(name, kernels.product(work.recorder, left, right, batch))


def gemm(work: Work, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """Gemm of a matrix and a constant one, with a bias of each column."""
    a, b = inputs[0], inputs[1]
    c = inputs[2] if len(inputs) > 2 else None
    assert a is not None
    assert b is not None
    work.check(*[one for one in (a, b, c) if one is not None])
    get = node.attributes.get
    if get("alpha", 1.0) != 1.0 or (c and get("beta", 1.0) != 1.0) or get("transA", 0):
        raise OnHost("alpha, beta or transA is not the default")
    if not b.constant or len(b.shape) != 2 or len(a.shape) != 2:
        raise OnHost("the right operand is no constant matrix")
    transposed = bool(get("transB", 0))
    terms, columns = b.shape[::-1] if transposed else b.shape
    if a.shape[1] != terms:
        raise ProblemError(
            f"{b.name} has shape {b.shape}, expected {a.shape[1]} rows for {a.name} of {a.shape}"
        )
    if c is not None and c.shape not in ((columns,), (1, columns)):
        raise OnHost(f"{c.name} is no bias of each column")
    return [_product(work, node.outputs[0], a, _as_weight(work, b, transposed), c)]
