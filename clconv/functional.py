"""The passes as functions of arrays: PyTorch's names and argument order.

Every array of a call is a `pyopencl.array.Array` of one context, and so is the result; or every
one is a NumPy array, and so is the result. Device arrays may be views. Calls on device arrays
queue work and return at once. Shapes are (N, C, L), or (C, L) unbatched; with `layout="NLC"` those
of all arrays that have positions are (N, L, C), or (L, C). Weights and biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from clconv.calls.call import Call
from clconv.calls.draft import Choice
from clconv.calls.layouts import Array
from clconv.calls.options import accumulation, needed_gradients, shape_of
from clconv.calls.prepared import KnownWeight, PreparedWeight, prepared, shortest_input
from clconv.calls.recipes import (
    draft_conv1d,
    draft_conv1d_backward,
    draft_conv1d_bias,
    draft_conv1d_input,
    draft_conv1d_weight,
    draft_conv_transpose1d,
    draft_conv_transpose1d_backward,
)
from clconv.geometry import Geometry, Padding
from clconv.runtime import Runtime
from clconv.sequences import causal_conv1d, causal_conv1d_backward, causal_conv1d_update

__all__ = [
    "causal_conv1d",
    "causal_conv1d_backward",
    "causal_conv1d_update",
    "conv1d",
    "conv1d_backward",
    "conv1d_bias",
    "conv1d_input",
    "conv1d_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "prepare_weight",
]

Gradients = tuple[Array | None, Array | None, Array | None]

# Weights as an array, or prepared; layers say more than users do.
Weight = Array | PreparedWeight | KnownWeight

# What callers call the arrays whose names in a call are others.
FORWARD_NAMES = {"out_keep": "pre_activation"}
ONE_OUT = {"out_x": "out", "out_weight": "out", "out_bias": "out"}
THREE_OUTS = {"out_x": "out[0]", "out_weight": "out[1]", "out_bias": "out[2]"}


def conv1d(
    x: Array,
    weight: Weight,
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
    exact: bool | None = None,
    pre_activation: Array | None = None,
    layout: str = "NCL",
) -> Array:
    """The 1-D cross-correlation of PyTorch's conv1d, with what follows it in the same kernel.

    Computes activation(x * weight + bias + residual), of Lout positions, with Lout = (L + left +
    right - dilation (K - 1) - 1) // stride + 1.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched; any strides.
        weight: (Cout, Cin / groups, K), or what `prepare_weight` made of it.
        bias: (Cout,), or None.
        stride: samples from one window to the next, at least 1.
        padding: zeros in samples: an int, (left, right), "same" (the odd one to the right; stride
            1), "valid" or "causal" (as many on the left that no output needs a sample after its
            own).
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions, a divisor of Cin and Cout.
        activation: None, "relu", "leaky_relu" or ("leaky_relu", slope), "sigmoid", "tanh", "gelu"
            (exact) or "silu".
        residual: of the result's shape, added before the activation.
        out: takes the result: of its shape and dtype, contiguous, sharing no bytes with an input.
        variant: "auto", or the name of one of `clconv.variants(problem, "forward")`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums, so that integers come out
            exact; None means what the runtime says.
        pre_activation: an array like `out` that takes the values before the activation.
        layout: "NLC" means that x, residual, out, pre_activation and the result are (N, L, C);
            without a copy where that is predicted to be faster.

    Returns:
        (N, Cout, Lout), or (Cout, Lout) unbatched.

    Raises:
        ProblemError: shapes and options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
        >>> conv1d(x, np.ones((1, 1, 3), np.float32), padding=1).tolist()
        [[[1.0, 3.0, 6.0, 9.0, 12.0, 9.0]]]
    """
    call = Call(
        runtime,
        FORWARD_NAMES,
        exact,
        layout,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    options = Geometry(stride, padding, dilation, groups), activation, variant
    return call.follow(call.recipe(draft_conv1d, *options))["out"]


def prepare_weight(
    weight: Array,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    *,
    transposed: bool = False,
    runtime: Runtime | None = None,
) -> PreparedWeight:
    """Weights with what variants derive from them, for many calls with the same weights.

    Some variants transform weights before they use them. The functions take the result in place of
    `weight`, together with NumPy or device arrays, for the geometry given here, and derive each
    transform once. Where a variant derives nothing, a call takes the weights as they are.

    Args:
        weight: (Cout, Cin / groups, K), with `transposed` (Cin, Cout / groups, K). A NumPy array is
            copied to the device. A device array is used in place: after a change of its values the
            prepared weights are wrong, and must be prepared again.
        stride: that of the calls.
        dilation: that of the calls.
        groups: that of the calls.
        transposed: whether it is for conv_transpose1d, else for conv1d and its gradients.
        runtime: None means the one of the array's context, with a NumPy array the default one.
            Calls run on it.

    Returns:
        What the functions take as `weight`.

    Raises:
        ProblemError: shapes and options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> weight = prepare_weight(np.ones((1, 1, 3), np.float32))
        >>> conv1d(np.ones((1, 1, 5), np.float32), weight).tolist()
        [[[3.0, 3.0, 3.0]]]
    """
    made = prepared(weight, stride, dilation, groups, transposed, runtime)
    x = shortest_input(made)
    call = conv_transpose1d if transposed else conv1d
    call(x, made, stride=stride, dilation=dilation, groups=groups)
    return made


def conv_transpose1d(
    x: Array,
    weight: Weight,
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
    exact: bool | None = None,
    pre_activation: Array | None = None,
    layout: str = "NCL",
) -> Array:
    """The transposed convolution of PyTorch's conv_transpose1d, with what follows it.

    Computes activation(transposed convolution + bias + residual), of Lout positions, with Lout = (L
    - 1) stride - left - right + dilation (K - 1) + 1 + output_padding.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched; any strides.
        weight: (Cin, Cout / groups, K), or what `prepare_weight` made of it.
        bias: (Cout,), or None.
        stride: samples of the result for each of x, at least 1.
        padding: samples of the result that are cropped at the ends, an int or (left, right).
        output_padding: samples that are appended on the right, less than stride or dilation.
        groups: how many independent convolutions the channels are divided into.
        dilation: samples of the result from one tap to the next, at least 1.
        activation: None, "relu", "leaky_relu" or ("leaky_relu", slope), "sigmoid", "tanh", "gelu"
            (exact) or "silu".
        residual: of the result's shape, added before the activation.
        out: takes the result: of its shape and dtype, contiguous, sharing no bytes with an input.
        variant: "auto", or the name of one, as in `conv1d`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.
        pre_activation: an array like `out` that takes the values before the activation.
        layout: "NLC" means that all arrays with positions are (N, L, C), as in `conv1d`.

    Returns:
        (N, Cout, Lout), or (Cout, Lout) unbatched.

    Raises:
        ProblemError: shapes and options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x = np.ones((1, 1, 2), np.float32)
        >>> conv_transpose1d(x, np.ones((1, 1, 3), np.float32), stride=2).tolist()
        [[[1.0, 1.0, 2.0, 1.0, 1.0]]]
    """
    call = Call(
        runtime,
        FORWARD_NAMES,
        exact,
        layout,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    geometry = Geometry(stride, padding, dilation, groups, True, output_padding)
    options = geometry, activation, variant
    return call.follow(call.recipe(draft_conv_transpose1d, *options))["out"]


def conv1d_input(
    input_size: Sequence[int],
    weight: Weight,
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
    exact: bool | None = None,
    layout: str = "NCL",
) -> Array:
    """The gradient of conv1d with respect to its input; 0 where no window reads the input.

    Args:
        input_size: (N, Cin, L), or (Cin, L) unbatched.
        weight: (Cout, Cin / groups, K), or what `prepare_weight` made of it.
        grad_output: (N, Cout, Lout), the gradient of conv1d's result.
        stride: samples from one window to the next, at least 1.
        padding: zeros before and after x, as in `conv1d`.
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions the channels are divided into.
        out: takes the result: of its shape and dtype, contiguous, sharing no bytes with an input.
        variant: "auto", or the name of one, as in `conv1d`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.
        layout: "NLC" means that input_size, grad_output, out and the result are (N, L, C).

    Returns:
        An array of shape `input_size`.

    Raises:
        ProblemError: shapes that do not belong together, options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> grad = np.ones((1, 1, 3), np.float32)
        >>> conv1d_input((1, 1, 5), np.ones((1, 1, 3), np.float32), grad).tolist()
        [[[1.0, 2.0, 3.0, 2.0, 1.0]]]
    """
    shape = shape_of("input_size", input_size, (2, 3))
    call = Call(runtime, ONE_OUT, exact, layout, weight=weight, grad_output=grad_output, out_x=out)
    options = Geometry(stride, padding, dilation, groups), shape, variant
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
    exact: bool | None = None,
    layout: str = "NCL",
) -> Array:
    """momentum * out + scale * the gradient of conv1d with respect to its weight.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched.
        weight_size: (Cout, Cin / groups, K), the result's shape.
        grad_output: (N, Cout, Lout), the gradient of conv1d's result.
        stride: samples from one window to the next, at least 1.
        padding: zeros before and after x, as in `conv1d`.
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions the channels are divided into.
        out: takes the result; its old values are read only where momentum is not 0.
        scale: a number that the gradient is multiplied by.
        momentum: a number that the old values are multiplied by; 0 means that they are not read.
        variant: "auto", or the name of one, as in `conv1d`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.
        layout: "NLC" means that x and grad_output are (N, L, C).

    Returns:
        An array of shape `weight_size`.

    Raises:
        ProblemError: shapes that do not belong together, options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
        >>> conv1d_weight(x, (1, 1, 2), np.ones((1, 1, 3), np.float32)).tolist()
        [[[3.0, 6.0]]]
    """
    shape = shape_of("weight_size", weight_size, (3,))
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, ONE_OUT, exact, layout, x=x, grad_output=grad_output, out_weight=out)
    options = Geometry(stride, padding, dilation, groups), shape, variant
    return call.follow(call.recipe(draft_conv1d_weight, *options), numbers_)["out_weight"]


def conv1d_bias(
    grad_output: Array,
    *,
    out: Array | None = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    runtime: Runtime | None = None,
    exact: bool | None = None,
    layout: str = "NCL",
) -> Array:
    """momentum * out + scale * the gradient of conv1d with respect to its bias.

    Args:
        grad_output: (N, Cout, Lout), or (Cout, Lout) unbatched; summed over N and Lout.
        out: takes the result; its old values are read only where momentum is not 0.
        scale: a number that the gradient is multiplied by.
        momentum: a number that the old values are multiplied by; 0 means that they are not read.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True asks for the definition's own sums, which every variant forms here.
        layout: "NLC" means that grad_output is (N, L, C).

    Returns:
        (Cout,).

    Raises:
        ProblemError: shapes that do not belong together, options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> conv1d_bias(np.ones((2, 3, 5), np.float32)).tolist()
        [10.0, 10.0, 10.0]
    """
    numbers_ = accumulation(scale, momentum)
    call = Call(runtime, ONE_OUT, exact, layout, grad_output=grad_output, out_bias=out)
    return call.follow(call.recipe(draft_conv1d_bias), numbers_)["out_bias"]


def conv1d_backward(
    x: Array,
    weight: Weight,
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
    exact: bool | None = None,
    layout: str = "NCL",
) -> Gradients:
    """All gradients of conv1d in one call, which share what they have in common.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched.
        weight: (Cout, Cin / groups, K), or what `prepare_weight` made of it.
        grad_output: (N, Cout, Lout), the gradient of conv1d's result.
        stride: samples from one window to the next, at least 1.
        padding: zeros before and after x, as in `conv1d`.
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions the channels are divided into.
        need: which of the three are computed; the others are None.
        out: arrays for the three, or None. Those of weight and bias accumulate: momentum * out +
            scale * gradient.
        scale: a number that the gradients of weight and bias are multiplied by.
        momentum: a number that the old values of these are multiplied by; 0 means that they are not
            read.
        variant: "auto", or the name of one, as in `conv1d`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.
        layout: "NLC" means that x, grad_output, out[0] and grad_x are (N, L, C).

    Returns:
        (grad_x, grad_weight, grad_bias), shaped as x, weight and (Cout,).

    Raises:
        ProblemError: shapes that do not belong together, options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x, grad = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 3), np.float32)
        >>> _, of_weight, of_bias = conv1d_backward(x, np.ones((1, 1, 2), np.float32), grad)
        >>> of_weight.tolist(), of_bias.tolist()
        ([[[3.0, 3.0]]], [3.0])
    """
    needed, outs = needed_gradients(need, out)
    numbers_ = accumulation(scale, momentum)
    call = Call(
        runtime, THREE_OUTS, exact, layout, x=x, weight=weight, grad_output=grad_output, **outs
    )
    options = Geometry(stride, padding, dilation, groups), needed, variant
    results = call.follow(call.recipe(draft_conv1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")


def conv_transpose1d_backward(
    x: Array,
    weight: Weight,
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
    exact: bool | None = None,
    layout: str = "NCL",
) -> Gradients:
    """All gradients of conv_transpose1d in one call.

    Args:
        x: (N, Cin, L), or (Cin, L) unbatched.
        weight: (Cin, Cout / groups, K), or what `prepare_weight` made of it.
        grad_output: (N, Cout, Lout), the gradient of conv_transpose1d's result.
        stride: samples of the result for each of x, at least 1.
        padding: samples of the result that are cropped at the ends, an int or (left, right).
        output_padding: samples that are appended on the right, less than stride or dilation.
        groups: how many independent convolutions the channels are divided into.
        dilation: samples of the result from one tap to the next, at least 1.
        need: which of the three are computed; the others are None.
        out: arrays for the three, or None. Those of weight and bias accumulate: momentum * out +
            scale * gradient.
        scale: a number that the gradients of weight and bias are multiplied by.
        momentum: a number that the old values of these are multiplied by; 0 means that they are not
            read.
        variant: "auto", or the name of one, as in `conv1d`.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.
        exact: True keeps to variants that form the definition's own sums; None means what the
            runtime says.
        layout: "NLC" means that x, grad_output, out[0] and grad_x are (N, L, C).

    Returns:
        (grad_x, grad_weight, grad_bias), shaped as x, weight and (Cout,).

    Raises:
        ProblemError: shapes that do not belong together, options that no convolution has.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x, grad = np.ones((1, 1, 2), np.float32), np.ones((1, 1, 3), np.float32)
        >>> of_x, _, _ = conv_transpose1d_backward(x, np.ones((1, 1, 2), np.float32), grad)
        >>> of_x.tolist()
        [[[2.0, 2.0]]]
    """
    needed, outs = needed_gradients(need, out)
    numbers_ = accumulation(scale, momentum)
    call = Call(
        runtime, THREE_OUTS, exact, layout, x=x, weight=weight, grad_output=grad_output, **outs
    )
    geometry = Geometry(stride, padding, dilation, groups, True, output_padding)
    options = geometry, needed, variant
    results = call.follow(call.recipe(draft_conv_transpose1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")
