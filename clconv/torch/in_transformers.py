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

from clconv.errors import missing
from clconv.sequences import ACTIVATIONS
from clconv.torch.memory import DTYPES
from clconv.torch.sequences import causal_conv1d_fn, causal_conv1d_update

NAMES = ("causal_conv1d_fn", "causal_conv1d_update")
# Their arguments in the order that models give them in, and what clconv takes by name. Others,
# which models pass on, are left aside, as theirs do.
FN = ("hidden_states", "weight", "bias", "activation")
FN_OPTIONS = (
    "seq_idx", "initial_states", "return_final_states", "final_states_out", "activation",
)  # fmt: skip
UPDATE = ("hidden_states", "conv_state", "weight", "bias", "activation")
UPDATE_OPTIONS = ("activation", "cache_seqlens", "conv_state_indices")
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

    Takes effect at once and for all: for models that exist and for those to come, until it is
    undone. Packed sequences (`seq_idx`) then work on CPUs. What is on another device, has another
    activation than silu, is exported, or steps token by token with gradients, is computed as
    before.

    Returns:
        A switch: `undo()`, or leaving its `with` block, turns it off.

    Raises:
        ImportError: transformers is missing, or its models have no such functions, as in releases
            before 5.24.
    """
    try:
        home = importlib.import_module("transformers.integrations.hub_kernels")
    except ModuleNotFoundError as error:
        raise missing(error, "use_in_transformers", transformers="transformers") from None
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
    def causal_conv1d(*args: Any, **kwargs: Any) -> Any:
        given = _by_name(FN, args, kwargs)
        x, weight, bias = (given[name] for name in FN[:3])
        others = [bias, given.get("initial_states"), given.get("final_states_out")]
        packed = given.get("seq_idx")
        apart = packed is not None or given.get("cu_seqlens") is None
        if apart and _takes(given["activation"], [x, weight], others):
            options = {name: given[name] for name in FN_OPTIONS if name in given}
            return causal_conv1d_fn(x, weight, bias, **options)
        return theirs(*args, **kwargs)

    return causal_conv1d


def _redirected_update(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def update(*args: Any, **kwargs: Any) -> Any:
        given = _by_name(UPDATE, args, kwargs)
        x, state, weight, bias = (given[name] for name in UPDATE[:4])
        graded = torch.is_grad_enabled() and any(
            isinstance(one, Tensor) and one.requires_grad for one in (x, state, weight, bias)
        )
        if not graded and _takes(given["activation"], [x, state, weight], [bias]):
            options = {name: given[name] for name in UPDATE_OPTIONS if name in given}
            return causal_conv1d_update(x, state, weight, bias, **options)
        return theirs(*args, **kwargs)

    return update


def _by_name(
    names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names, of which the first may be the package's, x. None of
    them where there are too many, or two of one name, which their function says."""
    given: dict[str, Any] = dict.fromkeys(names)
    if len(args) > len(names) or any(name in kwargs for name in names[: len(args)]):
        return given
    given |= dict(zip(names, args, strict=False)) | kwargs
    if "x" in kwargs and given[names[0]] is None:
        given[names[0]] = kwargs["x"]
    return given


def _takes(activation: Any, needed: list[Any], others: list[Any]) -> bool:
    """Whether clconv computes a call with these tensors, of which `others` may be None."""
    return (
        bool(_on)
        and activation in ACTIVATIONS
        and all(isinstance(one, Tensor) for one in needed)
        and all(
            one is None or (one.device.type == "cpu" and one.dtype in DTYPES)
            for one in (*needed, *others)
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
