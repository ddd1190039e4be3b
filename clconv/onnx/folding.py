"""What is computed once, of constants alone: a batch normalisation as part of weights and bias."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from onnx.parser import parse_model

from clconv.onnx.evaluator import Evaluator

__all__ = ["folded_normalisation"]

# w is (channels, …) here: channels lie first.
NORMALISATION = """
<ir_version: 8, opset_import: ["" : 17]>
fold (double[n,m] w, double[n] b, double[n] scale, double[n] shift, double[n] mean,
      double[n] variance, double epsilon) => (double[n,m] weight, double[n] bias)
{
    wide = Add(variance, epsilon)
    deviation = Sqrt(wide)
    factor = Div(scale, deviation)
    axis = Constant <value_ints = [1]> ()
    column = Unsqueeze(factor, axis)
    weight = Mul(w, column)
    centred = Sub(b, mean)
    scaled = Mul(centred, factor)
    bias = Add(scaled, shift)
}
"""


@functools.cache
def _evaluator() -> Evaluator:
    return Evaluator(parse_model(NORMALISATION))


def folded_normalisation(
    weight: Any, bias: Any, statistics: tuple[Any, Any, Any, Any], epsilon: float, axis: int
) -> tuple[Any, Any]:
    """Weight and bias of a layer with the batch normalisation after it, formed in float64.

    `statistics` are scale, shift, mean and variance of each output channel; `axis` is where the
    output channels lie in `weight`. NumPy's arrays, the results of `weight`'s dtype.
    """
    names = ("scale", "shift", "mean", "variance")
    moved = np.moveaxis(weight, axis, 0)
    feeds = {name: np.asarray(one, np.float64) for name, one in zip(names, statistics, strict=True)}
    feeds["w"] = np.asarray(moved.reshape(moved.shape[0], -1), np.float64)
    feeds["b"] = np.asarray(bias, np.float64)
    feeds["epsilon"] = np.asarray(epsilon, np.float64)
    folded, shifted = _evaluator().run(None, feeds)
    back = np.moveaxis(folded.reshape(moved.shape), 0, axis)
    return np.ascontiguousarray(back, weight.dtype), shifted.astype(weight.dtype)
