"""Causal convolutions of sequences, with states: the functions of the package causal-conv1d on
NumPy and device arrays.

`clconv.functional` has them, too. Every array of a call is a `pyopencl.array.Array` of one context,
or every one is a NumPy array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.call import Call
from clconv.calls.causal import (
    draft_causal_conv1d,
    draft_causal_conv1d_backward,
    draft_causal_conv1d_update,
)
from clconv.calls.layouts import Array, share_bytes
from clconv.errors import ProblemError
from clconv.runtime import Runtime

__all__ = ["causal_conv1d", "causal_conv1d_backward", "causal_conv1d_update", "is_silu"]

# What callers call the arrays whose names in a call are others.
NAMES = {"out_final": "final_states_out"}
ACTIVATIONS = (None, "silu", "swish")


def is_silu(activation: Any) -> bool:
    """Whether there is an activation, silu; ProblemError where there is another."""
    if not isinstance(activation, str | None) or activation not in ACTIVATIONS:
        raise ProblemError(f"activation is {activation!r}, expected None, 'silu' or 'swish'")
    return activation is not None


def _has_channels_inside(array: Array) -> bool:
    """Whether channels lie side by side rather than positions, in an array (N, C, L)."""
    if not isinstance(array, (np.ndarray, cl_array.Array)) or len(array.shape) != 3:
        return False
    _, channels, length = array.shape
    _, channel, step = array.strides
    size = array.dtype.itemsize
    return bool(channels > 1 and channel == size and (step != size or length == 1))


def _turned(array: Array | None) -> Array | None:
    """A view (N, L, C) of an array (N, C, L); what is none is left to the checks."""
    if not isinstance(array, (np.ndarray, cl_array.Array)) or len(array.shape) != 3:
        return array
    return array.transpose((0, 2, 1))


def causal_conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    seq_idx: Array | None = None,
    initial_states: Array | None = None,
    return_final_states: bool = False,
    final_states_out: Array | None = None,
    activation: str | None = None,
    *,
    out: Array | None = None,
    runtime: Runtime | None = None,
) -> Any:
    """A convolution of each channel with its own weights that sees no later position.

    Computes activation(sum_k weight[c, k] * x[n, c, q + k - (width - 1)] + bias[c]); before a row
    lie its initial states, or zeros. The arguments are those of causal_conv1d_fn in the package
    causal-conv1d.

    Args:
        x: (batch, dim, length), contiguous, or with channels that lie side by side ("channels
            last"), which are read where they are; of other strides a copy is made. The result lies
            as x does.
        weight: (dim, width).
        bias: (dim,), or None.
        seq_idx: (batch, length), int32, or None: the number of the sequence that each position
            belongs to. A product counts only if its two positions have the same number; where it is
            negative, the result is 0.
        initial_states: (batch, dim, width - 1), the samples before x, or None; of any strides.
        return_final_states: whether the last samples are returned as well, so that another call can
            go on from there.
        final_states_out: takes these; used only if they are returned. Of any strides.
        activation: None, "silu" or "swish", which are the same.
        out: takes the result: of its shape and dtype, sharing no bytes with another array. A NumPy
            array may have any strides; on the device it lies as x does.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of the shape of x; with `return_final_states` (y, the last width - 1 samples of
        initial_states and x).

    Raises:
        ProblemError: shapes that do not belong together, states together with seq_idx.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
        >>> causal_conv1d(x, np.ones((1, 2), np.float32)).tolist()
        [[[1.0, 3.0, 5.0, 7.0, 9.0]]]
    """
    silu, final = is_silu(activation), bool(return_final_states)
    turned = _has_channels_inside(x if out is None else out)
    if turned:
        x, out = _turned(x), _turned(out)
    call = Call(
        runtime,
        NAMES,
        x=x,
        weight=weight,
        bias=bias,
        seq_idx=seq_idx,
        initial_states=initial_states,
        out_final=final_states_out if final else None,
        out=out,
    )
    form = "channels" if turned else "rows"
    results = call.follow(call.recipe(draft_causal_conv1d, form, silu, final))
    y = _turned(results["out"]) if turned else results["out"]
    return (y, results["out_final"]) if final else y


def causal_conv1d_backward(
    x: Array,
    weight: Array,
    grad_output: Array,
    bias: Array | None = None,
    seq_idx: Array | None = None,
    initial_states: Array | None = None,
    grad_final_states: Array | None = None,
    activation: str | None = None,
    *,
    need: Sequence[bool] | None = None,
    runtime: Runtime | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """All gradients of `causal_conv1d` in one call.

    Args:
        x: as in causal_conv1d, (batch, dim, length).
        weight: (dim, width).
        grad_output: of the shape of x, the gradient of causal_conv1d's result.
        bias: (dim,), or None: then its gradient is that of zeros.
        seq_idx: as in causal_conv1d, (batch, length), or None.
        initial_states: (batch, dim, width - 1), or None: then their gradient is that of zeros.
        grad_final_states: (batch, dim, width - 1), or None.
        activation: None, "silu" or "swish".
        need: which of the four are computed; the others are None. By default all, but with seq_idx
            not that of initial_states, which there are none of.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.

    Returns:
        (grad_x, grad_weight, grad_bias, grad_initial_states).

    Raises:
        ProblemError: shapes that do not belong together, or the gradient of initial_states is
            needed with seq_idx.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> x = np.ones((1, 1, 3), np.float32)
        >>> grads = causal_conv1d_backward(x, np.full((1, 2), 2, np.float32), x)
        >>> [grad.tolist() for grad in grads[:3]]
        [[[[4.0, 4.0, 2.0]]], [[2.0, 3.0]], [3.0]]
    """
    silu = is_silu(activation)
    if need is None:
        need = (True, True, True, seq_idx is None)
    if not isinstance(need, Sequence) or len(need) != 4:
        raise ProblemError(f"need is {need!r}, expected four: of x, weight, bias, initial_states")
    needed = tuple(map(bool, need))
    turned = _has_channels_inside(x)
    if turned:
        x, grad_output = _turned(x), _turned(grad_output)
    call = Call(
        runtime,
        NAMES,
        x=x,
        weight=weight,
        grad_output=grad_output,
        bias=bias,
        seq_idx=seq_idx,
        initial_states=initial_states,
        grad_final_states=grad_final_states,
    )
    form = "channels" if turned else "rows"
    results = call.follow(call.recipe(draft_causal_conv1d_backward, form, silu, needed))
    names = ("out_x", "out_weight", "out_bias", "out_states")
    grads = [results.get(name) if yes else None for name, yes in zip(names, needed, strict=True)]
    return (_turned(grads[0]) if turned else grads[0], *grads[1:])  # type: ignore[return-value]


def causal_conv1d_update(
    x: Array,
    conv_state: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    cache_seqlens: Array | None = None,
    conv_state_indices: Array | None = None,
    *,
    out: Array | None = None,
    runtime: Runtime | None = None,
) -> Array:
    """The next positions of sequences whose last samples are in `conv_state`, which x then joins.

    The arguments are those of causal_conv1d_update in the package causal-conv1d.

    Args:
        x: (batch, dim), or (batch, dim, length).
        conv_state: (batch, dim, state_length), state_length at least width - 1; changed in place. A
            NumPy array is contiguous.
        weight: (dim, width).
        bias: (dim,), or None.
        activation: None, "silu" or "swish".
        cache_seqlens: (batch,), int32, or None: how many samples each sequence had. Then a state is
            a ring: sample i of a sequence lies at i % state_length. Without it the last sample lies
            last.
        conv_state_indices: (batch,), int32, or None: which state of conv_state, that may have more
            than batch, belongs to each row of x. No state may be there twice. A negative one is
            padding: the result is 0, and no state changes. One that conv_state has not gives NaN.
        out: takes the result: of its shape and dtype, sharing no bytes with another array; of any
            strides.
        runtime: None means the one of the arrays' context, with NumPy arrays the default one.

    Returns:
        An array of the shape of x.

    Raises:
        ProblemError: shapes that do not belong together; conv_state is then as it was.
        DeviceError: a device that fails, or an array of another context than the runtime's.

    Examples:
        >>> import numpy as np
        >>> state, ones = np.zeros((1, 1, 1), np.float32), np.ones((1, 2), np.float32)
        >>> one, two = np.full((1, 1), 1, np.float32), np.full((1, 1), 2, np.float32)
        >>> [causal_conv1d_update(x, state, ones).item() for x in (one, two)]
        [1.0, 3.0]
    """
    silu = is_silu(activation)
    single = isinstance(x, (np.ndarray, cl_array.Array)) and len(x.shape) == 2
    if single:
        x, out = _with_position(x), _with_position(out)
    _check_state(conv_state)
    arrays = {
        "x": x,
        "conv_state": conv_state,
        "weight": weight,
        "bias": bias,
        "cache_seqlens": cache_seqlens,
        "conv_state_indices": conv_state_indices,
        "out": out,
    }
    call = Call(runtime, **arrays)
    for name, array in call.arrays.items():
        if name != "conv_state" and share_bytes(conv_state, array):
            raise ProblemError(f"conv_state shares memory with {name}, expected memory of its own")
    y = call.follow(call.recipe(draft_causal_conv1d_update, silu))["out"]
    return y[:, :, 0] if single else y


def _with_position(array: Array | None) -> Array | None:
    """A view of (batch, dim) with one position; what is none is left to the checks."""
    if not isinstance(array, (np.ndarray, cl_array.Array)) or len(array.shape) != 2:
        return array
    return array[:, :, None]


def _check_state(conv_state: Array) -> None:
    """ProblemError where a NumPy array cannot take what its copy on the device becomes."""
    if not isinstance(conv_state, np.ndarray):
        return
    if not (conv_state.flags.c_contiguous and conv_state.flags.writeable):
        raise ProblemError(
            f"conv_state has strides {conv_state.strides}, writeable is "
            f"{conv_state.flags.writeable}, expected a contiguous array that can be changed"
        )
