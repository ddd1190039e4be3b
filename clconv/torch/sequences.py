"""causal_conv1d_fn and causal_conv1d_update of the package causal-conv1d, for CPU tensors.

They are operators of PyTorch's dispatcher, `torch.ops.clconv.causal_conv1d` and
`causal_conv1d_update`, so that torch.compile keeps them in its graphs. The first has first
derivatives; the second has none, as in the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clconv.calls.causal import (
    draft_causal_conv1d,
    draft_causal_conv1d_backward,
    draft_causal_conv1d_update,
)
from clconv.errors import ArrayTypeError, ProblemError
from clconv.runtime import default_runtime
from clconv.sequences import is_silu
from clconv.torch.memory import DTYPES, Arrays

Gradients = tuple[Tensor | None, ...]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Any:
    """A convolution of each channel with its own weights that sees no later position, with what
    the package's function has.

    x (batch, dim, length) of any strides; where channels lie side by side it is read in place, and
    the result lies so, too. weight (dim, width), bias (dim,), seq_idx (batch, length) int32,
    initial_states (batch, dim, width - 1). Returns a tensor like x; with `return_final_states`
    also the last width - 1 samples, which `final_states_out` takes. activation is None, "silu" or
    "swish". Raises TypeError for what is no CPU tensor of a floating dtype, ProblemError.
    """
    silu, final = is_silu(activation), bool(return_final_states)
    tensors: tuple[Tensor | None, ...] = (x, weight, bias, initial_states)
    _check(x=x, weight=weight, bias=bias, initial_states=initial_states)
    _check_numbers("seq_idx", seq_idx)
    if x.dim() != 3:
        raise ProblemError(f"x has shape {tuple(x.shape)}, expected (batch, dim, length)")
    if final and final_states_out is not None:
        _check_out(final_states_out, (*x.shape[:2], weight.shape[-1] - 1), x.dtype)
    own = _computed_in(*tensors)
    if own is not None:
        tensors = tuple(None if one is None else one.to(own) for one in tensors)
    y, states = FORWARD(*tensors[:3], seq_idx, tensors[3], silu, final)
    if own is not None:
        y, states = y.to(x.dtype), states.to(x.dtype)
    if not final:
        return y
    return y, states if final_states_out is None else final_states_out.copy_(states)


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The next positions of sequences whose last samples are in `conv_state`, which x then joins.

    x (batch, dim) or (batch, dim, length); conv_state (batch, dim, state_length), with
    `conv_state_indices` (batch,) int32 of more states than batch, is changed in place. weight (dim,
    width), bias (dim,). With `cache_seqlens` (batch,) int32 a state is a ring. Returns a tensor
    like x, without gradients. `clconv.functional.causal_conv1d_update` says more. Raises TypeError
    for what is no CPU tensor of a floating dtype, ProblemError; conv_state is then as it was.
    """
    silu = is_silu(activation)
    _check(x=x, weight=weight, bias=bias, conv_state=conv_state)
    _check_numbers("cache_seqlens", cache_seqlens)
    _check_numbers("conv_state_indices", conv_state_indices)
    if x.dim() not in (2, 3):
        raise ProblemError(
            f"x has shape {tuple(x.shape)}, expected (batch, dim) or (batch, dim, length)"
        )
    if conv_state.dtype is not x.dtype:
        raise ProblemError(
            f"conv_state has dtype {conv_state.dtype}, expected {x.dtype}, that of x"
        )
    y: Tensor = x.unsqueeze(-1) if x.dim() == 2 else x
    own = _computed_in(x, weight, bias)
    places = cache_seqlens, conv_state_indices
    if own is None:
        y = UPDATE(y, conv_state, weight, bias, *places, silu)
    else:
        # What is kept of a state that is widened and narrowed is the same.
        state = conv_state.to(own)
        bias = None if bias is None else bias.to(own)
        y = UPDATE(y.to(own), state, weight.to(own), bias, *places, silu).to(x.dtype)
        conv_state.copy_(state)
    return y.squeeze(-1) if x.dim() == 2 else y


# Checks


def _check(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is None and name in ("bias", "initial_states"):
            continue
        _check_tensor(name, tensor)
        if tensor is not None and tensor.dtype not in DTYPES:
            raise ArrayTypeError(
                f"{name} has dtype {tensor.dtype}, expected one of {', '.join(map(str, DTYPES))}"
            )
    weight = tensors["weight"]
    if weight is not None and weight.dim() != 2:
        raise ProblemError(f"weight has shape {tuple(weight.shape)}, expected (dim, width)")


def _check_tensor(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise ArrayTypeError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor")
    if tensor.device.type not in ("cpu", "meta"):
        raise ArrayTypeError(
            f"{name} is a tensor on {tensor.device}, expected one on cpu: clconv takes it from "
            "there to its own device"
        )
    if tensor.layout is not torch.strided:
        raise ArrayTypeError(f"{name} has layout {tensor.layout}, expected torch.strided")


def _check_numbers(name: str, tensor: Tensor | None) -> None:
    if tensor is not None:
        _check_tensor(name, tensor)
        if tensor.dtype is not torch.int32:
            raise ProblemError(f"{name} has dtype {tensor.dtype}, expected torch.int32")


def _check_out(out: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    _check_tensor("final_states_out", out)
    if tuple(out.shape) != shape or out.dtype is not dtype:
        raise ProblemError(
            f"final_states_out has shape {tuple(out.shape)} and dtype {out.dtype}, expected "
            f"{shape} and {dtype}"
        )


def _computed_in(*tensors: Tensor | None) -> torch.dtype | None:
    """The dtype that tensors are brought to first; None where all have one that kernels know."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    if len(dtypes) == 1 and dtypes <= set(DTYPES):
        return None
    return torch.float64 if torch.float64 in dtypes else torch.float32


# Computing


def _turns(x: Tensor) -> bool:
    """Whether channels lie side by side rather than positions."""
    if x.dim() != 3:
        return False
    return bool(x.shape[1] > 1 and x.stride(1) == 1 and (x.stride(2) != 1 or x.shape[2] == 1))


def _turned(tensor: Tensor, turned: bool) -> Tensor:
    return tensor.transpose(1, 2) if turned and tensor.dim() == 3 else tensor


def _like(x: Tensor) -> Tensor:
    """A new tensor that lies as x does."""
    if _turns(x):
        return x.new_empty((x.shape[0], x.shape[2], x.shape[1])).transpose(1, 2)
    return x.new_empty(x.shape)


def _states_like(x: Tensor, weight: Tensor, final: bool) -> Tensor:
    """New states; none where none are wanted."""
    return x.new_empty((*x.shape[:-1], weight.shape[-1] - 1) if final else (0,))


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    states: Tensor | None,
    silu: bool,
    final: bool,
) -> tuple[Tensor, Tensor]:
    """The result and the last samples, on the device."""
    turned = _turns(x)
    y, last = _like(x), _states_like(x, weight, final)
    with Arrays(default_runtime()) as arrays:
        arrays.read("x", _turned(x, turned))
        arrays.read("weight", weight)
        arrays.read("bias", bias)
        arrays.read("seq_idx", seq_idx)
        arrays.read("initial_states", states)
        arrays.write("out", _turned(y, turned))
        if final:
            arrays.write("out_final", last)
        arrays.call(draft_causal_conv1d, "channels" if turned else "rows", silu, final)
    return y, last


def _fake_forward(
    x: Tensor, weight: Tensor, bias: Any, seq_idx: Any, states: Any, silu: bool, final: bool
) -> tuple[Tensor, Tensor]:
    return _like(x), _states_like(x, weight, final)


def _backward(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    states: Tensor | None,
    grad_final: Tensor | None,
    silu: bool,
    need: list[bool],
) -> Gradients:
    """The gradients of x, weight, bias and states that are needed, on the device."""
    turned = _turns(x)
    # Weights and bias are summed together, so that one of them costs the other.
    needed = [need[0], need[1] or need[2], need[2], need[3]]
    grads = _fake_backward(x, weight, grad, bias, seq_idx, states, grad_final, silu, needed)
    with Arrays(default_runtime()) as arrays:
        arrays.read("x", _turned(x, turned))
        arrays.read("weight", weight)
        arrays.read("grad_output", _turned(grad, turned))
        arrays.read("bias", bias)
        arrays.read("seq_idx", seq_idx)
        arrays.read("initial_states", states)
        arrays.read("grad_final_states", grad_final)
        of_x, *others = grads
        arrays.write("out_x", None if of_x is None else _turned(of_x, turned))
        for name, tensor in zip(("out_weight", "out_bias", "out_states"), others, strict=True):
            arrays.write(name, tensor)
        form = "channels" if turned else "rows"
        arrays.call(draft_causal_conv1d_backward, form, silu, tuple(needed))
    return tuple(one if yes else None for one, yes in zip(grads, need, strict=True))


def _fake_backward(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    bias: Any,
    seq_idx: Any,
    states: Any,
    grad_final: Any,
    silu: bool,
    need: list[bool],
) -> Gradients:
    shapes = weight.shape, weight.shape[:1], (*x.shape[:-1], weight.shape[-1] - 1)
    return (
        _like(x) if need[0] else None,
        *(x.new_empty(s) if yes else None for s, yes in zip(shapes, need[1:], strict=True)),
    )


def _update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    """The result, on the device, where the state changes, too."""
    y = _like(x)
    runtime = default_runtime()
    with Arrays(runtime) as arrays:
        # What is copied back has to be contiguous.
        state = conv_state if arrays.in_place else conv_state.contiguous()
        result = y if arrays.in_place else y.contiguous()
        arrays.change("conv_state", state)
        arrays.read("x", x)
        arrays.read("weight", weight)
        arrays.read("bias", bias)
        arrays.read("cache_seqlens", cache_seqlens)
        arrays.read("conv_state_indices", conv_state_indices)
        arrays.write("out", result)
        arrays.call(draft_causal_conv1d_update, silu)
    if state is not conv_state:
        conv_state.copy_(state)
    if result is not y:
        y.copy_(result)
    torch.autograd.graph.increment_version(conv_state)
    return y


def _fake_update(x: Tensor, conv_state: Any, weight: Any, *_: Any) -> Tensor:
    return _like(x)


# Derivatives


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, seq_idx, states, silu, final = inputs
    ctx.save_for_backward(x, weight, bias, seq_idx, states)
    ctx.silu, ctx.final = silu, final
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, grad_final: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, seq_idx, states = ctx.saved_tensors
    needs = ctx.needs_input_grad
    need = [needs[0], needs[1], needs[2], needs[4]]
    if grad is None:
        if grad_final is None or not ctx.final:
            return (None,) * 7
        grad = torch.zeros_like(x)
    of_final = grad_final if ctx.final else None
    of_x, of_weight, of_bias, of_states = BACKWARD(
        x, weight, grad, bias, seq_idx, states, of_final, ctx.silu, need
    )
    return of_x, of_weight, of_bias, None, of_states, None, None


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "causal_conv1d_fn has first derivatives only, expected no derivative of a gradient"
    )


_Library: Any = torch.library.Library  # untyped in torch
_library: Any = _Library("clconv", "FRAGMENT")


def _define(signature: str, compute: Any, fake: Any) -> Any:
    """An operator of the dispatcher."""
    name = _library.define(signature)
    _library.impl(name, compute, "CPU")
    torch.library.register_fake(f"clconv::{name}", fake, lib=_library)
    return getattr(torch.ops.clconv, name).default


FORWARD = _define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, "
    "bool silu, bool final) -> (Tensor, Tensor)",
    _forward,
    _fake_forward,
)
BACKWARD = _define(
    "causal_conv1d_backward(Tensor x, Tensor weight, Tensor grad_output, Tensor? bias, "
    "Tensor? seq_idx, Tensor? initial_states, Tensor? grad_final, bool silu, bool[] need) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
UPDATE = _define(
    "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, "
    "Tensor? cache_seqlens, Tensor? conv_state_indices, bool silu) -> Tensor",
    _update,
    _fake_update,
)
torch.library.register_autograd(
    "clconv::causal_conv1d", _differentiate, setup_context=_save, lib=_library
)
torch.library.register_autograd("clconv::causal_conv1d_backward", _refuse, lib=_library)
