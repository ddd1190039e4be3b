"""Nodes on the host by `onnx.reference`: convolutions still on the device, wrong ones corrected."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as ReferenceConv
from onnx.reference.ops.op_conv import _conv_implementation
from onnx.reference.ops.op_conv_integer import ConvInteger as ReferenceConvInteger
from onnx.reference.ops.op_conv_transpose import ConvTranspose as ReferenceConvTranspose
from onnx.reference.ops.op_dequantize_linear import _CommonDequantizeLinear
from onnx.reference.ops.op_global_max_pool import GlobalMaxPool as ReferenceGlobalMaxPool
from onnx.reference.ops.op_hardmax import Hardmax as ReferenceHardmax
from onnx.reference.ops.op_log_softmax import LogSoftmax as ReferenceLogSoftmax
from onnx.reference.ops.op_loop import Loop as ReferenceLoop
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool
from onnx.reference.ops.op_qlinear_conv import QLinearConv as ReferenceQLinearConv
from onnx.reference.ops.op_qlinear_matmul import QLinearMatMul as ReferenceQLinearMatMul
from onnx.reference.ops.op_softmax import Softmax as ReferenceSoftmax

from clconv import functional
from clconv.dtypes import is_computed
from clconv.geometry import outputs_of_pool
from clconv.onnx.attributes import conv_geometry, transposed_geometry

__all__ = ["Evaluator"]


def _is_ours(x: Any) -> bool:
    """Whether a node's data has one spatial axis and a dtype that clconv computes in."""
    return isinstance(x, np.ndarray) and x.ndim == 3 and is_computed(x.dtype)


# Named as the operators, which is how the evaluator finds them.


class Conv(ReferenceConv):
    """Conv on the device where X is (N, C, L)."""

    op_domain = ""

    def _run(self, X: Any, W: Any, B: Any = None, **attributes: Any) -> tuple[Any, ...]:
        if not _is_ours(X):
            result: tuple[Any, ...] = super()._run(X, W, B, **attributes)
            return result
        geometry = conv_geometry(X.shape, W.shape, attributes)
        return (functional.conv1d(X, W, B, **geometry.options),)


class ConvTranspose(ReferenceConvTranspose):
    """ConvTranspose on the device where X is (N, C, L)."""

    op_domain = ""

    def _run(self, X: Any, W: Any, B: Any = None, **attributes: Any) -> tuple[Any, ...]:
        if not _is_ours(X):
            result: tuple[Any, ...] = super()._run(X, W, B, **attributes)
            return result
        geometry = transposed_geometry(X.shape, W.shape, attributes)
        return (functional.conv_transpose1d(X, W, B, **geometry.options),)


def _rows(node: Any, x: Any) -> tuple[Any, int]:
    """What a softmax takes, and along which axis: before opset 13 all axes from one on are one."""
    older = node.run_params["opsets"][""] < 13
    given = [one.i for one in node.onnx_node.attribute if one.name == "axis"]
    axis = given[0] if given else 1 if older else -1
    return (x.reshape(*x.shape[: axis % x.ndim], -1), -1) if older else (x, axis)


class Softmax(ReferenceSoftmax):
    """Softmax as each opset has it."""

    op_domain = ""

    def _run(self, X: Any, **_: Any) -> tuple[Any, ...]:
        rows, own = _rows(self, X)
        result = super()._run(rows, axis=own)
        return (result[0].reshape(X.shape),)


class Hardmax(ReferenceHardmax):
    """Hardmax as each opset has it."""

    op_domain = ""

    def _run(self, x: Any, **_: Any) -> tuple[Any, ...]:
        rows, own = _rows(self, x)
        result = super()._run(rows, axis=own)
        return (result[0].reshape(x.shape),)


class LogSoftmax(ReferenceLogSoftmax):
    """LogSoftmax as each opset has it, finite where softmax itself is 0 in floating point."""

    op_domain = ""

    def _run(self, X: Any, **_: Any) -> tuple[Any, ...]:
        rows, own = _rows(self, X)
        shifted = rows - rows.max(axis=own, keepdims=True)
        sums = np.exp(shifted).sum(axis=own, keepdims=True)
        return ((shifted - np.log(sums)).astype(X.dtype, copy=False).reshape(X.shape),)


class GlobalMaxPool(ReferenceGlobalMaxPool):
    """GlobalMaxPool over all spatial axes, however many there are."""

    op_domain = ""

    def _run(self, x: Any) -> tuple[Any, ...]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class MaxPool(ReferenceMaxPool):
    """MaxPool by the reference's own general function, where it takes a wrong one for strides of 1
    with padding; auto_pad as the padding that it means."""

    op_domain = ""

    def _run(self, x: Any, auto_pad: str | None = None, **named: Any) -> tuple[Any, ...]:
        defaults = dict.fromkeys(("ceil_mode", "dilations", "pads", "storage_order", "strides"))
        given = {**defaults, **named}
        if auto_pad not in (None, "NOTSET"):
            size = named["kernel_shape"]
            ones = [1] * len(size)
            steps, taps = given["strides"] or ones, given["dilations"] or ones
            windows = [
                outputs_of_pool(length, (one, step, tap), (0, 0), auto_pad, False)
                for length, one, step, tap in zip(x.shape[2:], size, steps, taps, strict=True)
            ]
            given["pads"] = [*(one.left for one in windows), *(one.right for one in windows)]
        result: tuple[Any, ...] = self._max_pool(x, auto_pad="NOTSET", **given)
        return result


class Loop(ReferenceLoop):
    """Loop whose scan outputs have an axis more than what each turn gives, whatever its rank."""

    op_domain = ""

    def __init__(self, node: Any, parameters: Any) -> None:
        super().__init__(node, parameters)
        body: Any = self._run_body
        self._turns = 0
        self._shapes: list[tuple[int, ...]] = []

        def run(*args: Any, **named: Any) -> list[Any]:
            outputs: list[Any] = body(*args, **named)
            self._turns += 1
            self._shapes = [np.shape(one) for one in outputs[len(outputs) - self.K :]]
            return outputs

        self._run_body: Any = run

    def _run(self, M: Any, cond: Any, *args: Any, **named: Any) -> tuple[Any, ...]:
        self._turns = 0
        # Left out it is true, which the reference takes for the end.
        cond = np.array(True) if cond is None else cond
        results = super()._run(M, cond, *args, **named)
        # The reference joins them along the first axis, of scalars along a new one.
        scanned = zip(results[self.N :], self._shapes, strict=False)
        joined = [one.reshape(self._turns, *shape) for one, shape in scanned]
        return (*results[: self.N], *joined)


class ConvInteger(ReferenceConvInteger):
    """ConvInteger with a zero of each output channel, whatever the number of axes."""

    op_domain = ""

    def _run(
        self, X: Any, W: Any, x_zero: Any = None, w_zero: Any = None, **attributes: Any
    ) -> tuple[Any, ...]:
        if w_zero is not None and w_zero.ndim:
            lies = (-1, *(1,) * (W.ndim - 1))
            W, w_zero = W.astype(np.int32) - w_zero.astype(np.int32).reshape(lies), None
        result: tuple[Any, ...] = super()._run(X, W, x_zero, w_zero, **attributes)
        return result


class QLinearConv(ReferenceQLinearConv):
    """QLinearConv with a scale or a zero of each output channel, whatever the number of axes."""

    op_domain = ""

    def _run(
        self, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, *rest: Any,
        **named: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        if w_scale.size == w_zero.size == 1:
            result: tuple[Any, ...] = super()._run(
                x, x_scale, x_zero, w, w_scale, w_zero, *rest, **named
            )
            return result
        y_scale, y_zero, bias = (*rest, None)[:3]
        lies = (-1, *(1,) * (x.ndim - 2))
        get = named.get
        sums = _conv_implementation(
            x.astype(np.int32) - x_zero, w.astype(np.int32) - w_zero.reshape(*lies, 1), bias,
            get("auto_pad") or "NOTSET", get("dilations"), get("group") or 1, get("kernel_shape"),
            get("pads"), get("strides"),
        ).astype(np.int32)  # fmt: skip
        numbers = sums * (x_scale * w_scale / y_scale).reshape(lies) + y_zero
        limits = np.iinfo(y_zero.dtype)
        return (np.clip(np.rint(numbers), limits.min, limits.max).astype(y_zero.dtype),)


class QLinearMatMul(ReferenceQLinearMatMul):
    """QLinearMatMul of a matrix whose scales and zeros are one of each row, which the reference
    takes for those of columns."""

    op_domain = ""

    def _run(
        self, a: Any, a_scale: Any, a_zero_point: Any, b: Any, *others: Any
    ) -> tuple[Any, ...]:
        if a.ndim == 2:
            if a_zero_point is not None and a_zero_point.shape == a.shape[:1]:
                a_zero_point = a_zero_point[:, None]
            # Of a vector's product the rows are the last axis, as the reference takes them.
            if b.ndim > 1 and a_scale.shape == a.shape[:1]:
                a_scale = a_scale[:, None]
        result: tuple[Any, ...] = super()._run(a, a_scale, a_zero_point, b, *others)
        return result


class DequantizeLinear(_CommonDequantizeLinear):
    """DequantizeLinear of all opsets, where the reference has none before 19."""

    op_domain = ""


OURS = (Conv, ConvInteger, ConvTranspose, DequantizeLinear, GlobalMaxPool, Hardmax, LogSoftmax,
        Loop, MaxPool, QLinearConv, QLinearMatMul, Softmax)  # fmt: skip


class Evaluator(ReferenceEvaluator):
    """The reference with our nodes, in functions and subgraphs too: it makes those by its class."""

    def __init__(
        self, proto: Any, *args: Any, new_ops: list[Any] | None = None, **named: Any
    ) -> None:
        # Of several of one name the reference takes the first, and hands all to subgraphs.
        super().__init__(proto, *args, new_ops=[*OURS, *(new_ops or ())], **named)
