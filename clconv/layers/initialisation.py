"""First values of weights, by the names of PuzzleLib's schemes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv.errors import ModuleError

__all__ = ["draw"]

FACTORS = ("in", "out", "avg")
SCHEMES = ("none", "xavier_uniform", "xavier", "xavier_normal", "he", "gaussian", "uniform")


def _parse(initscheme: Any) -> tuple[str, str]:
    if initscheme is None or isinstance(initscheme, str):
        scheme, factor = initscheme or "xavier_uniform", "in"
    else:
        if not isinstance(initscheme, Sequence):
            raise ModuleError(f"initscheme is {initscheme!r}, expected a name or a pair")
        if len(initscheme) != 2:
            raise ValueError(f"Scheme tuple has {len(initscheme)} length, expected 2")
        scheme, factor = initscheme
        scheme = scheme or "xavier_uniform"
    if scheme not in SCHEMES:
        raise ModuleError(f"initscheme is {scheme!r}, expected one of {', '.join(SCHEMES)}")
    if factor not in FACTORS:
        raise ModuleError(f"initscheme has factor {factor!r}, expected one of {', '.join(FACTORS)}")
    return scheme, factor


def draw(
    initscheme: Any, shape: tuple[int, ...], fan_in: float, fan_out: float, wscale: float
) -> NDArray[Any]:
    """float32 weights from NumPy's global generator.

    xavier: Glorot and Bengio 2010; he: He, Zhang, Ren and Sun 2015; with the factor f chosen from
    the fans, a uniform one has the half-range sqrt(3 / f), a normal one the standard deviation
    sqrt(1 / f), `he` sqrt(2 / f).
    """
    scheme, factor = _parse(initscheme)
    if not isinstance(wscale, numbers.Real) or not 0 <= wscale < math.inf:
        raise ModuleError(f"wscale is {wscale!r}, expected a finite number of at least 0")
    fan = {"in": fan_in, "out": fan_out, "avg": (fan_in + fan_out) / 2}[factor]
    if scheme == "none":
        return np.empty(shape, np.float32)
    if scheme in ("xavier_uniform", "uniform"):
        bound = wscale if scheme == "uniform" else math.sqrt(3.0 / fan)
        return np.random.uniform(-bound, bound, shape).astype(np.float32)
    deviation = {
        "xavier": math.sqrt(1.0 / fan),
        "xavier_normal": math.sqrt(1.0 / fan),
        "he": math.sqrt(2.0 / fan),
        "gaussian": wscale,
    }[scheme]
    return np.random.normal(0.0, deviation, shape).astype(np.float32)
