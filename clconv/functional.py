"""The passes as functions of arrays: PyTorch's names and argument order.

Every array of a call is a `pyopencl.array.Array` of one context, and so is the result; or every
one is a NumPy array, and so is the result. Device arrays may be views. Calls on device arrays
queue work and return at once. Shapes are (N, C, L), or (C, L) unbatched.
"""

from __future__ import annotations

from collections.abc import Sequence

from clconv.calls.call import Call
from clconv.calls.draft import Choice
from clconv.calls.layouts import Array
from clconv.calls.options import accumulation, needed_gradients, shape_of
from clconv.calls.recipes import (
    draft_conv1d,
    draft_conv1d_backward,
    draft_conv1d_bias,
    draft_conv1d_input,
    draft_conv1d_weight,
    draft_conv_transpose1d,
    draft_conv_transpose1d_backward,
)
from clconv.problem import Padding
from clconv.runtime import Runtime

__all__ = [
    "conv1d",
    "conv1d_backward",
    "conv1d_bias",
    "conv1d_input",
    "conv1d_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward",
]

Gradients = tuple[Array | None, Array | None, Array | None]

# What callers call the arrays whose names in a call are others.
FORWARD_NAMES = {"out_keep": "pre_activation"}
ONE_OUT = {"out_x": "out", "out_weight": "out", "out_bias": "out"}
THREE_OUTS = {"out_x": "out[0]", "out_weight": "out[1]", "out_bias": "out[2]"}


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    activation: str | tuple[str, float] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
    pre_activation: Array | None = None,
) -> Array:
    """activation(cross-correlation + bias + residual), (N, Cout, Lout).

    x (N, Cin, L), weight (Cout, Cin / groups, K), bias (Cout,), residual of the output's shape;
    padding in samples: an int, (left, right), "same" or "valid". `pre_activation`, an array like
    `out`, takes the values before the activation. Raises ProblemError, DeviceError.
    """
    call = Call(
        runtime,
        FORWARD_NAMES,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    options = stride, padding, dilation, groups, activation, variant
    return call.follow(call.recipe(draft_conv1d, *options))["out"]


def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
    *,
    activation: str | tuple[str, float] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
    pre_activation: Array | None = None,
) -> Array:
    """activation(transposed convolution + bias + residual), (N, Cout, Lout).

    x (N, Cin, L), weight (Cin, Cout / groups, K), bias (Cout,);
    Lout = (L - 1) stride - left - right + dilation (K - 1) + 1 + output_padding. Raises
    ProblemError, DeviceError.
    """
    call = Call(
        runtime,
        FORWARD_NAMES,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    options = stride, padding, output_padding, groups, dilation, activation, variant
    return call.follow(call.recipe(draft_conv_transpose1d, *options))["out"]


def conv1d_input(
    input_size: Sequence[int],
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Array:
    """The gradient of conv1d's input, of shape input_size, (N, Cin, L) or (Cin, L).

    weight (Cout, Cin / groups, K), grad_output (N, Cout, Lout). Raises ProblemError, DeviceError.
    """
    shape = shape_of("input_size", input_size, (2, 3))
    call = Call(runtime, ONE_OUT, weight=weight, grad_output=grad_output, out_x=out)
    options = shape, stride, padding, dilation, groups, variant
    return call.follow(call.recipe(draft_conv1d_input, *options))["out_x"]


def conv1d_weight(
    x: Array,
    weight_size: Sequence[int],
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Array:
    """momentum * out + scale * the gradient of conv1d's weight, (Cout, Cin / groups, K).

    x (N, Cin, L), grad_output (N, Cout, Lout). With momentum 0 `out` is not read. Raises
    ProblemError, DeviceError.
    """
    shape = shape_of("weight_size", weight_size, (3,))
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, ONE_OUT, x=x, grad_output=grad_output, out_weight=out)
    options = shape, stride, padding, dilation, groups, variant
    return call.follow(call.recipe(draft_conv1d_weight, *options), numbers_)["out_weight"]


def conv1d_bias(
    grad_output: Array,
    *,
    out: Array | None = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    runtime: Runtime | None = None,
) -> Array:
    """momentum * out + scale * the sum of grad_output (N, Cout, Lout) over N and Lout, (Cout,).

    Raises ProblemError, DeviceError.
    """
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, ONE_OUT, grad_output=grad_output, out_bias=out)
    return call.follow(call.recipe(draft_conv1d_bias), numbers_)["out_bias"]


def conv1d_backward(
    x: Array,
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    need: Sequence[bool] = (True, True, True),
    out: Sequence[Array | None] = (None, None, None),
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Gradients:
    """(grad_x, grad_weight, grad_bias) of conv1d, None where `need` is false.

    `out` of the weight and bias gradients accumulates: momentum * out + scale * gradient. Raises
    ProblemError, DeviceError.
    """
    needed, outs = needed_gradients(need, out)
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, THREE_OUTS, x=x, weight=weight, grad_output=grad_output, **outs)
    options = stride, padding, dilation, groups, needed, variant
    results = call.follow(call.recipe(draft_conv1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")


def conv_transpose1d_backward(
    x: Array,
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
    *,
    need: Sequence[bool] = (True, True, True),
    out: Sequence[Array | None] = (None, None, None),
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Gradients:
    """(grad_x, grad_weight, grad_bias) of conv_transpose1d, None where `need` is false.

    `out` as in conv1d_backward. Raises ProblemError, DeviceError.
    """
    needed, outs = needed_gradients(need, out)
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, THREE_OUTS, x=x, weight=weight, grad_output=grad_output, **outs)
    options = stride, padding, output_padding, groups, dilation, needed, variant
    results = call.follow(call.recipe(draft_conv_transpose1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")
