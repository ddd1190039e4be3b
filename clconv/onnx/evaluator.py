"""Nodes on the host by `onnx.reference`: convolutions still on the device, wrong ones corrected."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as ReferenceConv
from onnx.reference.ops.op_conv_transpose import ConvTranspose as ReferenceConvTranspose
from onnx.reference.ops.op_log_softmax import LogSoftmax as ReferenceLogSoftmax
from onnx.reference.ops.op_loop import Loop as ReferenceLoop
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool

from clconv import functional
from clconv.onnx.attributes import conv_geometry, transposed_geometry
from clconv.problem import DTYPES

__all__ = ["Evaluator"]


def _is_ours(x: Any) -> bool:
    """Whether a node's data has one spatial axis and a dtype that clconv computes in."""
    return isinstance(x, np.ndarray) and x.ndim == 3 and x.dtype in DTYPES


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


class LogSoftmax(ReferenceLogSoftmax):
    """LogSoftmax whose result is finite where softmax itself is 0 in floating point."""

    op_domain = ""

    def _run(self, X: Any) -> tuple[Any, ...]:
        shifted = X - X.max(axis=self.axis, keepdims=True)
        sums = np.exp(shifted).sum(axis=self.axis, keepdims=True)
        return ((shifted - np.log(sums)).astype(X.dtype, copy=False),)


class MaxPool(ReferenceMaxPool):
    """MaxPool by the reference's own general function, where it takes a wrong one for strides of 1
    with padding."""

    op_domain = ""

    def _run(self, x: Any, auto_pad: str | None = None, **named: Any) -> tuple[Any, ...]:
        explicit = auto_pad in (None, "NOTSET")
        run = self._max_pool if explicit else super()._run
        defaults = dict.fromkeys(("ceil_mode", "dilations", "pads", "storage_order", "strides"))
        result: tuple[Any, ...] = run(x, auto_pad=auto_pad, **{**defaults, **named})
        return result


class Loop(ReferenceLoop):
    """Loop whose scan outputs have an axis more than what each turn gives, whatever its rank."""

    op_domain = ""

    def __init__(self, node: Any, parameters: Any) -> None:
        super().__init__(node, parameters)
        body = self._run_body

        def run(*args: Any, **named: Any) -> list[Any]:
            outputs = list(body(*args, **named))
            first = len(outputs) - self.K
            # The reference joins these along the axis that they have.
            return outputs[:first] + [np.asarray(one)[None] for one in outputs[first:]]

        self._run_body = run


OURS = (Conv, ConvTranspose, LogSoftmax, Loop, MaxPool)


class Evaluator(ReferenceEvaluator):
    """The reference with our nodes, in functions and subgraphs too: it makes those by its class."""

    def __init__(
        self, proto: Any, *args: Any, new_ops: list[Any] | None = None, **named: Any
    ) -> None:
        # Of several of one name the reference takes the first, and hands all to subgraphs.
        super().__init__(proto, *args, new_ops=[*OURS, *(new_ops or ())], **named)
