"""Which dtype are sums formed in, and are they exact?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from clconv.calls.elementwise import host_values
from clconv.calls.layouts import Array
from clconv.errors import ProblemError
from clconv.runtime import Runtime
from clconv.signal.asking import real_dtype

__all__ = ["Sums", "sums_of"]


# Up to where all whole numbers are there.
EXACT_FLOAT, EXACT_DOUBLE = 2**24, 2**53


class Sums(NamedTuple):
    """The dtype that sums are formed in, and whether only the definition's own sums will do."""

    dtype: np.dtype[Any]
    exact: bool | None


# Whole numbers


def _largest(dtype: np.dtype[Any]) -> int:
    """The largest magnitude of a dtype of whole numbers."""
    if dtype.kind == "b":
        return 1
    return max(-int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def _magnitude(values: np.ndarray[Any, Any]) -> int:
    """The largest one of an array that is not empty."""
    return max(abs(int(values.min())), abs(int(values.max())))


def _bound(x: Array, h: Array, per_filter: int, most_exact: int) -> int:
    """What no sum of |x| |h| exceeds, of `per_filter` products each; the values are read where the
    dtypes alone do not say enough."""
    by_dtype = _largest(x.dtype) * _largest(h.dtype) * per_filter
    if by_dtype <= EXACT_FLOAT:
        return by_dtype
    if by_dtype <= most_exact and not isinstance(x, np.ndarray):
        return by_dtype  # device arrays are not waited for
    x, h = (a if isinstance(a, np.ndarray) else host_values(a) for a in (x, h))
    most = _magnitude(x)
    by_value = most * _magnitude(h) * per_filter
    if by_value <= EXACT_DOUBLE:
        return by_value
    # Sums of whole numbers below 2**53 are exact, and of larger ones large.
    return math.ceil(
        most * float(np.abs(h.astype(np.float64)).reshape(-1, per_filter).sum(1).max())
    )


def sums_of(runtime: Runtime, result: np.dtype[Any], x: Array, h: Array, per_filter: int) -> Sums:
    """How the sums of products of x and h are formed for a result of this dtype; `per_filter` of
    each, neighbours in h. Raises ProblemError where whole numbers would not come out exact."""
    if result.kind in "fc":
        return Sums(real_dtype(result), None)
    fp64 = runtime.profile.fp64
    bound = _bound(x, h, per_filter, EXACT_DOUBLE if fp64 else EXACT_FLOAT)
    if bound <= EXACT_FLOAT:
        return Sums(np.dtype(np.float32), True)
    if bound > EXACT_DOUBLE:
        raise ProblemError(
            f"sums of whole numbers may reach {bound}, expected at most 2**53, up to where float64 "
            "is exact; scipy.signal computes in integers"
        )
    if not fp64:
        raise ProblemError(
            f"sums of whole numbers may reach {bound}, expected at most 2**24, up to where float32 "
            f"is exact: {runtime.info.name} has no float64"
        )
    return Sums(np.dtype(np.float64), True)
