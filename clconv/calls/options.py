"""What do the options of a call mean? Each is checked; errors use the caller's names."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Sequence
from types import MappingProxyType, NoneType
from typing import Any

import numpy as np

from clconv.calls.layouts import Array, Shape
from clconv.errors import ProblemError
from clconv.geometry import Geometry, whole
from clconv.problem import Pass

__all__ = ["accumulation", "as_key", "check_sizes", "needed_gradients", "shape_of"]

# Types whose values stay as they are.
_CONSTANT = frozenset((int, str, NoneType, float, bool, Pass))


def as_key(options: Any) -> Hashable:
    """Options as a key, in which 1, 1.0 and True differ; None where their values may change."""
    if options and type(options[0]) is Geometry:
        options = (*options[0], *options[1:])  # whose fields are constants, as a rule
    kinds = tuple(map(type, options))
    if _CONSTANT.issuperset(kinds):
        return kinds, options
    parts: list[Hashable] = []
    for kind, option in zip(kinds, options, strict=True):
        if kind in (dict, MappingProxyType):
            option = tuple(option.items())
        if kind in _CONSTANT or isinstance(option, np.generic):
            parts.append(option)
        elif isinstance(option, tuple) or kind is list:
            inner = as_key(tuple(option))
            if inner is None:
                return None
            parts.append(inner)
        else:
            return None
    return kinds, tuple(parts)


def number(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ProblemError(f"{name} is {value!r}, expected a number")
    return float(value)


def shape_of(name: str, value: Any, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    try:
        shape = tuple(value)
    except TypeError:
        shape = ()
    if len(shape) not in dimensions:
        raise ProblemError(
            f"{name} is {value!r}, expected {' or '.join(map(str, dimensions))} sizes"
        )
    return tuple(whole(f"{name}[{i}]", size, 0) for i, size in enumerate(shape))


def accumulation(scale: Any, momentum: Any) -> dict[str, float]:
    return {"scale": number("scale", scale), "momentum": number("momentum", momentum)}


def needed_gradients(
    need: Sequence[bool], out: Sequence[Array | None]
) -> tuple[tuple[bool, ...], dict[str, Array | None]]:
    """Which gradients are needed, and the outs of those."""
    for name, triple in (("need", need), ("out", out)):
        if not isinstance(triple, Sequence) or len(triple) != 3:
            raise ProblemError(f"{name} is {triple!r}, expected three: of x, weight and bias")
    needed = tuple(map(bool, need))
    names = ("out_x", "out_weight", "out_bias")
    return needed, {n: o if yes else None for n, o, yes in zip(names, out, needed, strict=True)}


def check_sizes(said: str, shape: Shape) -> None:
    if 0 in shape[-2:]:
        raise ProblemError(f"{said} {shape}, expected at least one channel and one position")
