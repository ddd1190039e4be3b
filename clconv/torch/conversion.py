"""Which layers of a model compute on clconv: `convert` exchanges their classes, `revert` undoes it.

A layer stays the same object. If its class was torch.nn's own, the new one is clconv's. Otherwise
it is a subclass of the old one and of clconv's, in this order, so that the old one's methods go on
to clconv's. It has the old name, and is pickled as the old class, to be converted again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import fuser_method_mappings as fusers

from clconv.errors import ArrayTypeError
from clconv.torch.layers import Conv1d, ConvTranspose1d
from clconv.torch.memory import DTYPES

_log = logging.getLogger(__name__)

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.ConvTranspose1d: ConvTranspose1d,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
# What computes a layer, which a subclass or an object may have exchanged.
METHODS = ("forward", "_conv_forward")


def is_ours(layer: nn.Module) -> bool:
    """Whether a layer is clconv's."""
    return isinstance(layer, (Conv1d, ConvTranspose1d))


def check_model(model: Any) -> None:
    """ArrayTypeError unless it is a torch.nn.Module."""
    if not isinstance(model, nn.Module):
        raise ArrayTypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")


def convolutions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every 1-D convolution of a model with its name, each once; ArrayTypeError for no model."""
    check_model(model)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, (*OURS,)) or _scripted(layer)
    ]


def why_left(layer: nn.Module) -> str | None:
    """Why `convert` leaves a convolution as it is; None where it takes it."""
    if _scripted(layer):
        return "compiled by TorchScript"
    of = type(layer)
    theirs = next(one for one in OURS if isinstance(layer, one))
    for name in METHODS:
        same = getattr(of, name, None) is getattr(theirs, name, None)
        if not same and not (name == "forward" and _goes_on(of, theirs)):
            return f"{_unparametrized(of).__qualname__} has a {name} of its own"
        if name in vars(layer):
            return f"{name} is exchanged on the layer itself"
    for weight in layer.parameters():  # those of parametrizations, too
        if weight.device.type not in ("cpu", "meta"):
            return f"a parameter is on {weight.device}, clconv takes CPU tensors"
        if weight.dtype not in DTYPES:
            return f"a parameter has dtype {weight.dtype}, expected {_names(DTYPES)}"
    return None


def convert(model: nn.Module, verbose: bool = False) -> int:
    """Lets every Conv1d and ConvTranspose1d of a model compute on clconv.

    A layer stays the same object, with its parameters, hooks and parametrizations, and only its
    class changes. So optimizers and shared layers still work, and `model` may be such a layer
    itself. Subclasses are converted too, unless they compute by themselves: a `forward` that pads
    or reshapes and calls its base's stays, and the base's is clconv's. Lazy layers become clconv's.
    Logs, at level INFO, how many were converted, and which were not and why. `report` shows which
    of them a model then computes on clconv: some models only use a layer's weight.

    Args:
        model: any torch.nn.Module; changed in place.
        verbose: whether the name of each converted layer is logged as well.

    Returns:
        How many layers were converted.

    Raises:
        ArrayTypeError: what is no model.

    Examples:
        >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
        >>> convert(model), convert(model)
        (1, 0)
    """
    found = [(name, layer) for name, layer in convolutions(model) if not is_ours(layer)]
    reasons = [why_left(layer) for _, layer in found]
    classes = [
        _converted(type(layer)) if reason is None else None
        for (_, layer), reason in zip(found, reasons, strict=True)
    ]
    count = len(classes) - classes.count(None)
    _log.info(
        "%d of %d convolutions converted to clconv; clconv.torch.report(model, inputs) lists "
        "where each is computed",
        count,
        len(found),
    )
    for (name, layer), reason, new in zip(found, reasons, classes, strict=True):
        if new is None:
            _log.info("%s is left to PyTorch: %s", name or "the model itself", reason)
            continue
        layer.__class__ = new
        if verbose:
            _log.info("%s computes on clconv: %s", name or "the model itself", layer)
    return count


def revert(model: nn.Module, verbose: bool = False) -> int:
    """Turns all clconv convolutions of a model back into PyTorch's.

    Undoes what `convert` did, also for parametrized layers. Logs as `convert` does: your own
    subclasses of clconv's layers are not reverted, nor are layers with padding "causal", which
    PyTorch does not know.

    Args:
        model: any torch.nn.Module; changed in place.
        verbose: whether the name of each layer is logged as well.

    Returns:
        How many layers were given back.

    Raises:
        ArrayTypeError: what is no model.

    Examples:
        >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
        >>> convert(model), revert(model)
        (1, 1)
    """
    found = [(name, layer) for name, layer in convolutions(model) if is_ours(layer)]
    classes = [None if layer.padding == "causal" else _reverted(type(layer)) for _, layer in found]
    count = len(classes) - classes.count(None)
    for (name, layer), old in zip(found, classes, strict=True):
        if old is None:
            causal = " with padding 'causal'" if layer.padding == "causal" else ""
            of = type(layer).__qualname__
            _log.info("%s stays on clconv: it is a %s%s", name, of, causal)
            continue
        layer.__class__ = old
        if verbose:
            _log.info("%s computes on PyTorch: %s", name or "the model itself", layer)
    _log.info("%d convolutions given back to PyTorch", count)
    return count


def _scripted(layer: nn.Module) -> bool:
    names = {one.__name__ for one in OURS}
    return isinstance(layer, torch.jit.ScriptModule) and layer.original_name in names


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(map(str, dtypes))


# Classes


def _goes_on(of: type, theirs: type) -> bool:
    """Whether each forward that subclasses wrote leaves the convolution to that of its base.

    Read from the names that its code uses, since calling it might change the model.
    """
    own = [vars(one)["forward"] for one in of.__mro__ if "forward" in vars(one)]
    for forward in own[: own.index(theirs.forward)]:  # type: ignore[attr-defined]
        code = getattr(inspect.unwrap(forward), "__code__", None)
        if code is None or not {"super", "forward"} <= {*code.co_names}:
            return False
    return True


def _is_parametrized(of: type) -> bool:
    """Whether torch gave a layer this class, its own, for the names of its parametrizations."""
    base = of.__bases__[0]
    return of.__name__ == f"Parametrized{base.__name__}" and "__getstate__" in vars(of)


def _unparametrized(of: type) -> type:
    return of.__bases__[0] if _is_parametrized(of) else of


def _on(of: type, base: type) -> type:
    """A parametrized layer's class again, based on another one: torch adds attributes to it and
    removes them."""
    names = {k: v for k, v in vars(of).items() if k not in ("__dict__", "__weakref__")}
    return type(of.__name__, (base,), names)


def _converted(of: type) -> type:
    """The class on clconv of a layer's class."""
    if _is_parametrized(of):
        return _on(of, _converted(of.__bases__[0]))
    if of in OURS:
        return OURS[of]
    known: type
    for known in type.__subclasses__(of):
        if vars(known).get("_converted_from") is of:
            return known
    ours = next(ours for theirs, ours in OURS.items() if issubclass(of, theirs))
    names = {
        "__doc__": of.__doc__,
        "__module__": __name__,
        "__qualname__": of.__qualname__,
        "__reduce_ex__": _reduce,
        "_converted_from": of,
    }
    becomes = getattr(of, "cls_to_become", None)
    if becomes is not None:  # a lazy layer's class when it has seen its first input
        names["cls_to_become"] = _converted(becomes)
    return type(of.__name__, (of, ours), names)


def _reverted(of: type) -> type | None:
    """The class that was converted; None of a class that somebody wrote."""
    if _is_parametrized(of):
        base = _reverted(of.__bases__[0])
        return None if base is None else _on(of, base)
    old: type | None = THEIRS.get(of) or vars(of).get("_converted_from")
    return old


def _reduce(layer: Any, protocol: Any) -> Any:
    """A layer for pickle, which finds the class that was converted by its name, and no other."""
    of: Any = next(one for one in type(layer).__mro__ if "_converted_from" in vars(one))
    make, arguments, *rest = super(of, layer).__reduce_ex__(protocol)
    if make.__name__ == "__newobj__" and arguments[0] is of:
        make, arguments = _new, (vars(of)["_converted_from"], *arguments[1:])
    return make, arguments, *rest


def _new(of: type, *arguments: Any) -> Any:
    new: Any = _converted(of)
    return new.__new__(new, *arguments)


# torch.ao.quantization.fuse_modules looks up what fuses layers by their very classes.


def _fuse(
    fuse: Callable[..., nn.Module], is_qat: bool, layer: nn.Module, *others: nn.Module
) -> nn.Module:
    """What torch makes of its own layers, its convolutions on clconv."""
    layer.__class__ = THEIRS[type(layer)]
    try:
        fused = fuse(is_qat, layer, *others)
    finally:
        layer.__class__ = OURS[type(layer)]
    for _, part in convolutions(fused):
        if not is_ours(part) and why_left(part) is None:
            part.__class__ = _converted(type(part))
    return fused


_fused: dict[Any, Any] = fusers._DEFAULT_OP_LIST_TO_FUSER_METHOD
_fused.update(
    ((OURS[first], *others), partial(_fuse, fuse))
    for (first, *others), fuse in [*_fused.items()]
    if first in OURS
)
