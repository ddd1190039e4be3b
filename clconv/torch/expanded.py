"""How do the gradients of each sample come from PyTorch's expanded weights?

torch.nn.utils has these for libraries of differential privacy (opacus's mode "ew"). A parameter
stands in for a batch of equal ones, and after `backward` its attribute `grad_sample` has a gradient
for each sample. PyTorch asks by functions; ours answer here, both of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.utils._expanded_weights import expanded_weights_impl as implementation
from torch.nn.utils._expanded_weights import expanded_weights_utils as utils

from clconv.errors import ProblemError
from clconv.geometry import Geometry
from clconv.torch.functions import (
    conv1d,
    conv_transpose1d,
    geometry_of_conv1d,
    geometry_of_conv_transpose1d,
)
from clconv.torch.operators import BACKWARD

# Untyped in torch.
_Function: Any = torch.autograd.Function
_Weight: Any = implementation.ExpandedWeight
_computed: Any = utils.forward_helper
_implements: Any = implementation.implements_per_sample_grads
_give: Any = utils.set_grad_sample_if_exists


def _geometry(function: Callable[..., Tensor], weight: Tensor, *place: Any) -> Geometry:
    if function is conv1d:
        return geometry_of_conv1d(weight, *place)
    return geometry_of_conv_transpose1d(*place)


class _EachSample(_Function):  # type: ignore[misc]
    """A call of one of the functions, whose tensors may be expanded."""

    @staticmethod
    def forward(
        ctx: Any,
        names: tuple[str, ...],
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *place: Any,
    ) -> Any:
        """The result; `names` is empty, since both functions name no argument."""
        if x.dim() != 3:
            raise ProblemError(
                f"input has shape {tuple(x.shape)}, expected (N, C, L): expanded weights have a "
                "gradient for each sample of a batch"
            )
        y = _computed(function, (x, weight, bias, *place), {})
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias = weight, bias
        ctx.geometry = _geometry(function, weight, *place)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """The input's gradient; gives the parameters those of each sample."""
        (x,) = ctx.saved_tensors
        plain = ctx.weight.orig_weight if isinstance(ctx.weight, _Weight) else ctx.weight
        x, weight = x.to(grad.dtype), plain.detach().to(grad.dtype)  # autocast's
        need = [isinstance(one, _Weight) for one in (ctx.weight, ctx.bias)]

        def parameters(x: Tensor, grad: Tensor) -> list[Tensor]:
            grads = BACKWARD(x, weight, grad, [False, *need], *ctx.geometry)
            return [one for one in grads if one is not None]

        found = iter(vmap(parameters)(x, grad) if any(need) else ())
        for one in (ctx.weight, ctx.bias):
            if one is not None:
                _give(one, lambda plain: next(found).to(plain.dtype))
        of_x = None
        if ctx.needs_input_grad[2]:
            of_x = BACKWARD(x, weight, grad, [True, False, False], *ctx.geometry)[0]
        return None, None, of_x, *(None for _ in ctx.needs_input_grad[3:])


def register() -> None:
    """Lets PyTorch find what answers for both functions."""
    for function in (conv1d, conv_transpose1d):
        _implements(function)(_EachSample)
