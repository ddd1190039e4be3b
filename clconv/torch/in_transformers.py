"""How do the models of transformers come to compute their causal convolutions with clconv?

Each of their modules has functions `causal_conv1d_fn` and `causal_conv1d_update`, which the layers
call, and which fall back to PyTorch where a package for CUDA is missing. While a switch is on, they
pass CPU tensors on to clconv's, in modules that are imported already and in those that will be: the
decorator that makes these functions is exchanged, too.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor

from clconv.sequences import ACTIVATIONS
from clconv.torch.memory import DTYPES
from clconv.torch.sequences import causal_conv1d_fn, causal_conv1d_update

NAMES = ("causal_conv1d_fn", "causal_conv1d_update")
DECORATOR = "use_kernel_func_from_hub_with_fallback"
# Where models import the decorator from, and where it is.
HOMES = ("transformers.integrations.hub_kernels", "transformers.integrations")

is_tracing: Any = torch.jit._trace.is_tracing  # untyped in torch
# The switches that are on.
_on: list[Switch] = []


class Switch:
    """What `use_in_transformers` returns: `undo()`, or leaving its `with` block, turns it off."""

    def undo(self) -> None:
        """Lets transformers compute as before, unless another switch is on. Twice is as once."""
        if self in _on:
            _on.remove(self)
            if not _on:
                _restore()

    def __enter__(self) -> Switch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def use_in_transformers() -> Switch:
    """Lets the models of transformers compute causal convolutions of CPU tensors with clconv.

    Takes effect at once and for all: for models that exist and for those to come, until the
    switch that it returns is undone; that is a context manager, too. Packed sequences (`seq_idx`)
    then work on CPUs. What is on another device, has another activation than silu, is exported,
    or steps token by token with gradients, is computed as before. Raises ImportError without
    transformers, or where its models have no such functions, as in releases before 5.24.
    """
    home = importlib.import_module("transformers.integrations.hub_kernels")
    if not hasattr(home, DECORATOR):
        version = getattr(sys.modules["transformers"], "__version__", "unknown")
        raise ImportError(
            f"transformers is {version}, expected a release whose models have causal_conv1d_fn, "
            "such as 5.24"
        )
    if not _on:
        _exchange()
    switch = Switch()
    _on.append(switch)
    return switch


# Functions


def _redirected(name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a model's module that passes on to clconv's what that can take."""
    make = _redirected_fn if name == "causal_conv1d_fn" else _redirected_update
    redirect = functools.update_wrapper(make(theirs), theirs, updated=())
    redirect.__clconv_instead_of__ = theirs  # type: ignore[attr-defined]
    return redirect


def _redirected_fn(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def causal_conv1d(
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        packed = kwargs.get("seq_idx")
        apart = packed is not None or kwargs.get("cu_seqlens") is None
        if apart and _takes(activation, hidden_states, weight, bias):
            return causal_conv1d_fn(hidden_states, weight, bias, packed, activation=activation)
        return theirs(hidden_states, weight, bias, activation=activation, **kwargs)

    return causal_conv1d


def _redirected_update(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def update(
        hidden_states: Tensor,
        conv_state: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        tensors = hidden_states, conv_state, weight, bias
        graded = torch.is_grad_enabled() and any(
            one is not None and one.requires_grad for one in tensors
        )
        if not graded and _takes(activation, *tensors):
            return causal_conv1d_update(
                hidden_states, conv_state, weight, bias, activation, **kwargs
            )
        return theirs(hidden_states, conv_state, weight, bias, activation=activation, **kwargs)

    return update


def _takes(activation: Any, *tensors: Tensor | None) -> bool:
    """Whether clconv computes a call."""
    return (
        bool(_on)
        and activation in ACTIVATIONS
        and all(
            one is None or (one.device.type == "cpu" and one.dtype in DTYPES) for one in tensors
        )
        and not torch.compiler.is_exporting()
        and not is_tracing()
    )


# Modules


def _modules() -> list[ModuleType]:
    """Those of transformers that are imported."""
    known = list(sys.modules.items())
    return [one for name, one in known if name.startswith("transformers.") and one is not None]


def _exchange() -> None:
    """Functions of modules that are there, and what makes those of others."""
    for module in _modules():
        for name in NAMES:
            theirs = vars(module).get(name)
            if callable(theirs):
                setattr(module, name, _redirected(name, theirs))
    home = sys.modules[HOMES[0]]
    decorate = getattr(home, DECORATOR)

    @functools.wraps(decorate)
    def exchanged(name: str, *args: Any, **kwargs: Any) -> Any:
        decorator = decorate(name, *args, **kwargs)
        if name not in NAMES:
            return decorator
        return lambda function: _redirected(name, decorator(function))

    exchanged.__clconv_instead_of__ = decorate  # type: ignore[attr-defined]
    for place in HOMES:
        setattr(sys.modules[place], DECORATOR, exchanged)


def _restore() -> None:
    """Whatever was exchanged."""
    for module in _modules():
        for name in (*NAMES, DECORATOR):
            theirs = getattr(vars(module).get(name), "__clconv_instead_of__", None)
            if theirs is not None:
                setattr(module, name, theirs)
