"""The convolutions as operators of PyTorch's dispatcher, with every derivative.

`torch.ops.clconv.convolution` and `convolution_backward` have kernels for CPU tensors, shapes for
fake ones, derivatives in both modes, rules for vmap, and counts of operations. A derivative is
made of the same two operators, so that there are derivatives of any order, and those of
torch.func and torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count, register_flop_formula

from clconv.calls.recipes import (
    draft_conv1d,
    draft_conv1d_backward,
    draft_conv_transpose1d,
    draft_conv_transpose1d_backward,
)
from clconv.errors import ArrayTypeError
from clconv.geometry import Geometry
from clconv.runtime import default_runtime
from clconv.torch.batching import vmap_backward, vmap_convolution
from clconv.torch.memory import DTYPES, Arrays

Gradients = tuple[Tensor | None, ...]  # of input, weight and bias
Shape = tuple[int, ...]
# What gradients are that nothing is added to.
NEW = MappingProxyType({"scale": 1.0, "momentum": 0.0})


# Computing


def _check(**tensors: Tensor | None) -> None:
    """ArrayTypeError unless the tensors have one dtype, of those that kernels compute in."""
    dtype = next(iter(tensors.values())).dtype  # type: ignore[union-attr]
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.dtype is not dtype or dtype not in DTYPES):
            raise ArrayTypeError(
                f"{name} has dtype {tensor.dtype}, expected that of x, one of "
                f"{', '.join(map(str, DTYPES))}"
            )


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    """The result, (N, Cout, Lout), on the device."""
    _check(x=x, weight=weight, bias=bias)
    one = _geometry(*layer)
    y = _like(x, _out_shape(x.shape, weight.shape, one))
    with Arrays(default_runtime(), is_channels_last(x)) as arrays:
        arrays.read("x", x)
        arrays.weight(weight)
        arrays.read("bias", bias)
        arrays.write("out", y)
        arrays.call(draft_conv_transpose1d if one.transposed else draft_conv1d, one, None, "auto")
    return y


def _convolution_backward(
    x: Tensor, weight: Tensor, grad: Tensor, need: list[bool], *layer: Any
) -> Gradients:
    """The gradients of input, weight and bias that are needed, on the device."""
    _check(x=x, weight=weight, grad_output=grad)
    one, grads = _geometry(*layer), _fake_backward(x, weight, grad, need)
    draft = draft_conv_transpose1d_backward if one.transposed else draft_conv1d_backward
    with Arrays(default_runtime(), is_channels_last(x)) as arrays:
        arrays.read("x", x)
        arrays.read("weight", weight)
        arrays.read("grad_output", grad)
        for name, tensor in zip(("out_x", "out_weight", "out_bias"), grads, strict=True):
            arrays.write(name, tensor)
        arrays.call(draft, one, tuple(need), "auto", numbers=NEW)
    return grads


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor (N, C, L) or (C, L) lies as (N, L, C): its channels follow each other, and
    its positions do not. So does then what is made of it."""
    (*_, channels, length), (*_, channel_step, step) = x.shape, x.stride()
    return channels > 1 and length > 1 and channel_step == 1 and step >= channels


def _like(x: Tensor, shape: Shape) -> Tensor:
    """A new tensor of a shape, without gaps, which lies as x does."""
    if is_channels_last(x):
        return x.new_empty((*shape[:-2], shape[-1], shape[-2])).transpose(-1, -2)
    return x.new_empty(shape)


def _geometry(stride: int, padding: Sequence[int], *rest: Any) -> Geometry:
    """Of the dispatcher's arguments, as a key."""
    return Geometry(stride, tuple(padding), *rest)


@lru_cache(maxsize=1024)
def _out_shape(shape: Shape, weight_shape: Shape, one: Geometry) -> Shape:
    channels = weight_shape[1] * one.groups if one.transposed else weight_shape[0]
    return (*shape[:-2], channels, one.out_length(shape[-1], weight_shape[2]))


def by_pytorch(x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    """The same result by PyTorch's own functions, for tracing: sizes may be symbols, and exporters
    know no other functions."""
    one = Geometry(*layer)
    left, right = one.pads(weight.shape[2])
    if one.transposed:
        place = (one.stride, left, one.output_padding, one.groups, one.dilation)
        return nn.functional.conv_transpose1d(x, weight, bias, *place)
    if left != right:
        x, left = nn.functional.pad(x, (left, right)), 0
    return nn.functional.conv1d(x, weight, bias, one.stride, left, one.dilation, one.groups)


def _fake_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    return _like(x, by_pytorch(x, weight, bias, *layer).shape)


def _fake_backward(
    x: Tensor, weight: Tensor, grad: Tensor, need: list[bool], *layer: Any
) -> Gradients:
    shapes = (weight.shape, (grad.shape[-2],))
    return (
        _like(x, x.shape) if need[0] else None,
        *(
            x.new_empty(shape) if needed else None
            for shape, needed in zip(shapes, need[1:], strict=True)
        ),
    )


# Derivatives. A convolution is linear in its input and in its weight, and so are its gradients
# in the output's: what differentiates one is the other two, of the same layer.


def _sum(*terms: Tensor | None) -> Tensor | None:
    """The sum of those that there are."""
    found = [term for term in terms if term is not None]
    return sum(found[1:], found[0]) if found else None


class _Below(NamedTuple):
    """Where the dispatcher goes on: its keys, and what autograd records there."""

    keys: Any
    graph: bool
    tangents: bool


_unpack_dual: Any = torch._VF._unpack_dual  # which takes a while to find


def _ends(keys: Any) -> bool:
    """Whether the dispatcher would come to the kernel for CPU tensors next, past what only counts
    changes in place: then there is no need to ask it."""
    following: Any = keys & torch._C._after_ADInplaceOrView_keyset
    return bool(following.highestPriorityTypeId() == torch._C.DispatchKey.CPU)


def _has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and _unpack_dual(tensor, level=0)[1] is not None


class _Derivative(_SingleLevelFunction):
    """An operator in the sight of autograd, at one level of torch.func, which is what the
    dispatcher calls it for: inputs are those of the operator, and where to go on."""

    operator: Any
    compute: Any  # its kernel for CPU tensors
    apply: Any  # PyTorch's
    # What ONNX's exporter shall see of an operator in a torch.export'ed program. A decomposition
    # registered with PyTorch would do, too, but Inductor refuses operators that have one and are
    # kept, wherever the environment has the variable CI.
    exported: Any = None

    @classmethod
    def kernel(cls, keys: Any, *inputs: Any) -> Any:
        """What the dispatcher calls. Most calls have nothing to differentiate, and go on at once.

        The tensors tell whether they have tangents: in a compiled graph Python does not know their
        level.
        """
        below = keys & torch._C._after_autograd_keyset
        ends = _ends(below)
        if not ends and cls.exported and torch.onnx.is_in_onnx_export():
            return cls.exported(*inputs)
        tangents, graph = torch._C._is_fwd_grad_enabled(), torch.is_grad_enabled()
        if (graph and torch._C._any_requires_grad(*inputs)) or (
            tangents and any(map(_has_tangent, inputs[:3]))
        ):
            with enable_single_level_autograd_function():
                inputs = unwrap_dead_wrappers(inputs)
                return cls.apply(*inputs, _Below(below, graph, tangents))
        with torch._C._AutoDispatchBelowAutograd():
            if ends:
                return cls.compute(*inputs)
            return cls.operator.redispatch(below, *inputs)

    @classmethod
    def forward(cls, *inputs: Any) -> Any:
        """At the next level, or on the device; derivatives may be wanted of other levels, too."""
        *own, (below, graph, tangents) = inputs
        if _ends(below):
            with torch.set_grad_enabled(graph), torch._C._AutoDispatchBelowAutograd():
                return cls.compute(*own)
        with (
            torch.set_grad_enabled(graph),
            forward_ad._set_fwd_grad_enabled(tangents),
            torch._C._AutoDispatchBelowAutograd(),
        ):
            return cls.operator.redispatch(below, *own)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        tensors = [one if isinstance(one, Tensor) else None for one in inputs[:3]]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.options = inputs[3:-1]
        ctx.shape = output.shape if isinstance(output, Tensor) else None

    @classmethod
    def jvp(cls, ctx: Any, *tangents: Any) -> Any:
        """The tangents of the results, which may have tangents of outer levels: PyTorch turns
        those off for a jvp, where these of the operator's own level would come back."""
        with forward_ad._set_fwd_grad_enabled(True):
            primals = [
                None if one is None else torch._VF._unpack_dual(one, level=0)[0]
                for one in ctx.saved_tensors
            ]
            return cls.tangents(ctx, *primals, *tangents[:3])

    @staticmethod
    def tangents(ctx: Any, *primals_and_tangents: Any) -> Any:
        """The tangents of the results for those of the first three inputs, None for zeros."""
        raise NotImplementedError


class _Convolution(_Derivative):
    """Of convolution(x, weight, bias, *layer)."""

    exported = staticmethod(by_pytorch)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        rest = (None,) * (1 + len(ctx.options))
        if grad is None:
            return None, None, None, *rest
        x, weight, _ = ctx.saved_tensors
        need = list(ctx.needs_input_grad[:3])
        return *BACKWARD(x, weight, grad, need, *ctx.options), *rest

    @staticmethod
    def tangents(
        ctx: Any, x: Any, weight: Any, bias: Any, of_x: Any, of_weight: Any, of_bias: Any
    ) -> Tensor | None:
        return _sum(
            None if of_x is None else CONVOLUTION(of_x, weight, None, *ctx.options),
            None if of_weight is None else CONVOLUTION(x, of_weight, None, *ctx.options),
            None if of_bias is None else of_bias[:, None].expand(ctx.shape),
        )


class _ConvolutionBackward(_Derivative):
    """Of convolution_backward(x, weight, grad_output, need, *layer)."""

    @staticmethod
    def backward(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None
    ) -> tuple[Any, ...]:
        """Gradients of x, weight and the output's gradient for those of the three gradients."""
        x, weight, grad = ctx.saved_tensors
        need_x, need_weight, need_grad = ctx.needs_input_grad[:3]
        _, *layer = ctx.options
        for_x = for_weight = for_grad = None
        if of_weight is not None and need_x:
            for_x = BACKWARD(x, of_weight, grad, [True, False, False], *layer)[0]
        if of_x is not None and need_weight:
            for_weight = BACKWARD(of_x, weight, grad, [False, True, False], *layer)[1]
        if need_grad:
            for_grad = _sum(
                None if of_x is None else CONVOLUTION(of_x, weight, None, *layer),
                None if of_weight is None else CONVOLUTION(x, of_weight, None, *layer),
                None if of_bias is None else of_bias[:, None].expand_as(grad),
            )
        return for_x, for_weight, for_grad, *(None,) * (1 + len(ctx.options))

    @staticmethod
    def tangents(
        ctx: Any, x: Any, weight: Any, grad: Any, of_x: Any, of_weight: Any, of_grad: Any
    ) -> Gradients:
        need, *layer = ctx.options
        if of_grad is None:  # a zero for each gradient that there is
            of_grad = torch.zeros_like(grad)
        grad_x, grad_weight, grad_bias = BACKWARD(x, weight, of_grad, need, *layer)
        if grad_x is not None and of_weight is not None:
            grad_x = grad_x + BACKWARD(x, of_weight, grad, [True, False, False], *layer)[0]
        if grad_weight is not None and of_x is not None:
            term = BACKWARD(of_x, weight, grad, [False, True, False], *layer)[1]
            grad_weight = grad_weight + term
        return grad_x, grad_weight, grad_bias


# Counts of multiplications, PyTorch's own way


def _batched(shape: Any) -> Any:
    return shape if len(shape) == 3 else (1, *shape)


def _flops(x: Any, weight: Any, bias: Any, *layer: Any, out_shape: Any, **_: Any) -> Any:
    return conv_flop_count(_batched(x), weight, _batched(out_shape), Geometry(*layer).transposed)


def _backward_flops(x: Any, weight: Any, grad: Any, need: Any, *layer: Any, **_: Any) -> Any:
    one, x = Geometry(*layer), _batched(x)
    options = None, one.stride, one.padding, one.dilation, one.transposed, 0, one.groups, need
    count: Any = conv_backward_flop
    return count(_batched(grad), x, weight, *options, out_val=[x, weight, None])


# The operators

_Library: Any = torch.library.Library  # untyped in torch
# The fields of a Geometry, in its order.
_LAYER = "int stride, int[] padding, int dilation, int groups, bool transposed, int output_padding"
_library: Any = _Library("clconv", "DEF")


def _define(
    signature: str,
    compute: Callable[..., Any],
    fake: Callable[..., Any],
    derivative: type[_Derivative],
    vmap: Callable[..., Any],
    flops: Callable[..., Any],
) -> Any:
    """An operator of the dispatcher."""
    name = _library.define(signature)
    packet: Any = getattr(torch.ops.clconv, name)
    derivative.operator, derivative.compute = packet.default, staticmethod(compute)
    _library.impl(name, compute, "CPU")
    _library.impl(name, derivative.kernel, "Autograd", with_keyset=True)
    torch.library.register_fake(f"clconv::{name}", fake, lib=_library)
    torch.library.register_vmap(f"clconv::{name}", vmap, lib=_library)
    register_flop_formula(packet)(flops)
    return packet.default


CONVOLUTION = _define(
    f"convolution(Tensor x, Tensor weight, Tensor? bias, {_LAYER}) -> Tensor",
    _convolution,
    _fake_convolution,
    _Convolution,
    vmap_convolution,
    _flops,
)
BACKWARD = _define(
    "convolution_backward(Tensor x, Tensor weight, Tensor grad_output, bool[] need, "
    f"{_LAYER}) -> (Tensor, Tensor, Tensor)",
    _convolution_backward,
    _fake_backward,
    _ConvolutionBackward,
    vmap_backward,
    _backward_flops,
)
