"""What does vmap make of the operators? One call of theirs for the whole batch, on the device.

Where a batch shares the weight it is more samples. Where it shares the input it is more output
channels in each group. Where it shares neither it is more groups. A gradient depends on two of the
three tensors: of the third it needs only the shape, so that nothing is copied of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clconv.geometry import Geometry

Batched = tuple[Tensor | None, int | None]  # what vmap wants: a result, and where its batch is


def _lined_up(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """A tensor with vmap's dimension in front, repeated there where it has none."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _beside(tensor: Tensor | None, dim: int | None, size: int, at: int, groups: int) -> Any:
    """The channels of a batch beside each other in dimension `at`, in each of some groups."""
    if tensor is None:
        return None
    lined: Any = _lined_up(tensor, dim, size)
    lined = lined.unflatten(at, (groups, -1))  # which is untyped
    return lined.movedim(0, at - 1).flatten(at - 2, at)


def _apart(tensor: Tensor | None, size: int, at: int, groups: int) -> Batched:
    """The same back: the batch in front."""
    if tensor is None:
        return None, None
    lined: Any = tensor
    lined = lined.unflatten(at, (groups, size, -1)).movedim(at - 1, 0)
    return lined.flatten(at - 1, at), 0


def _only_shape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """What stands for a tensor of a shape that nobody reads."""
    return tensor.new_empty(()).expand([*shape])


def _shape_without(tensor: Tensor, dim: int | None) -> list[int]:
    shape = [*tensor.shape]
    if dim is not None:
        del shape[dim]
    return shape


def _widened(shape: list[int], at: int, size: int) -> list[int]:
    return [*shape[:at], size * shape[at], *shape[len(shape) + at + 1 :]]


def _of_outputs(one: Geometry) -> tuple[int, int]:
    """Where a weight has its output channels, and in how many groups."""
    return (-2, 1) if one.transposed else (-3, one.groups)


def vmap_convolution(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any
) -> Batched:
    """The rule of convolution(x, weight, bias, *layer)."""
    convolution, one = torch.ops.clconv.convolution, Geometry(*layer)
    size, (of_x, of_weight, of_bias) = info.batch_size, in_dims[:3]
    if of_weight is not None:
        groups = one.groups if of_x is None else 1
        biases = _beside(bias, of_bias, size, -1, groups)
        if of_x is None:
            y = convolution(x, _beside(weight, of_weight, size, *_of_outputs(one)), biases, *layer)
        else:
            x = _beside(x, of_x, size, -2, 1)
            weight = _beside(weight, of_weight, size, -3, 1)
            y = convolution(x, weight, biases, *one._replace(groups=one.groups * size))
        return _apart(y, size, -2, groups)
    shared = bias if of_bias is None else None
    if of_x is None:
        y = convolution(x, weight, shared, *layer)[None]
    else:
        x = x.movedim(of_x, 0)
        y = convolution(x.flatten(0, -3), weight, shared, *layer).unflatten(0, x.shape[:-2])
    if bias is not None and of_bias is not None:
        each = bias.movedim(of_bias, 0)[..., None]
        y = y + (each if y.dim() == 3 else each[:, None])
    return y, 0


def vmap_backward(
    info: Any,
    in_dims: tuple[Any, ...],
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    need: list[bool],
    *layer: Any,
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """The rule of convolution_backward(x, weight, grad, need, *layer)."""
    size, (of_x, of_weight, of_grad) = info.batch_size, in_dims[:3]
    one = Geometry(*layer)
    if of_x is not None and of_weight is not None:
        x, grad = (_beside(t, d, size, -2, 1) for t, d in ((x, of_x), (grad, of_grad)))
        weight = _beside(weight, of_weight, size, -3, 1)
        grads = _backward(x, weight, grad, need, one._replace(groups=one.groups * size))
        found = [_apart(t, size, at, 1) for t, at in zip(grads, (-2, -3, -1), strict=True)]
    else:
        found = [
            _of_input(size, x, of_x, weight, of_weight, grad, of_grad, one)
            if need[0]
            else (None, None),
            *_of_parameters(size, x, of_x, weight, of_weight, grad, of_grad, need, one),
        ]
    tensors, dims = zip(*found, strict=True)
    return tensors, dims


def _backward(x: Tensor, weight: Tensor, grad: Tensor, need: list[bool], one: Geometry) -> Any:
    return torch.ops.clconv.convolution_backward(x, weight, grad, need, *one)


def _of_input(
    size: int,
    x: Tensor,
    of_x: int | None,
    weight: Tensor,
    of_weight: int | None,
    grad: Tensor,
    of_grad: int | None,
    one: Geometry,
) -> Batched:
    """The input's gradient, from weight and grad."""
    need, shape = [True, False, False], _shape_without(x, of_x)
    if of_weight is not None:
        x = _only_shape(x, _widened(shape, -2, size))
        weight, grad = (
            _beside(weight, of_weight, size, -3, 1),
            _beside(grad, of_grad, size, -2, 1),
        )
        grads = _backward(x, weight, grad, need, one._replace(groups=one.groups * size))
        return _apart(grads[0], size, -2, 1)
    if of_grad is None:
        return _backward(_only_shape(x, shape), weight, grad, need, one)[0], None
    grad = grad.movedim(of_grad, 0)
    samples = _only_shape(x, (grad.shape[:-2].numel(), *shape[-2:]))
    found = _backward(samples, weight, grad.flatten(0, -3), need, one)[0]
    return found.unflatten(0, grad.shape[:-2]), 0


def _of_parameters(
    size: int,
    x: Tensor,
    of_x: int | None,
    weight: Tensor,
    of_weight: int | None,
    grad: Tensor,
    of_grad: int | None,
    need: list[bool],
    one: Geometry,
) -> tuple[Batched, Batched]:
    """The gradients of weight and bias, from x and grad."""
    need = [False, *need[1:]]
    if not any(need):
        return (None, None), (None, None)
    shape = _shape_without(weight, of_weight)
    if of_x is of_grad is None:
        _, *both = _backward(x, _only_shape(weight, shape), grad, need, one)
        return (both[0], None), (both[1], None)
    if of_x is None:
        at, groups = _of_outputs(one)
        grad = _beside(grad, of_grad, size, -2, one.groups)
        weight = _only_shape(weight, _widened(shape, at, size))
        _, of_the_weight, of_bias = _backward(x, weight, grad, need, one)
        return _apart(of_the_weight, size, at, groups), _apart(of_bias, size, -1, one.groups)
    x, grad = _beside(x, of_x, size, -2, 1), _beside(grad, of_grad, size, -2, 1)
    weight = _only_shape(weight, _widened(shape, -3, size))
    wider = one._replace(groups=one.groups * size)
    _, of_the_weight, of_bias = _backward(x, weight, grad, need, wider)
    return _apart(of_the_weight, size, -3, 1), _apart(of_bias, size, -1, 1)
