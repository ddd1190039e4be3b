"""Which dtypes are computed in, and what are sums of each kept in?

NumPy has bfloat16 through the package ml_dtypes, which is imported when the dtype is first asked
for by its name; an array of it is recognised without.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from clconv.errors import ProblemError, to_install

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "EXPECTED_DTYPES",
    "SHORT_DTYPES",
    "accumulator",
    "dtype_of",
    "is_bfloat16",
    "is_computed",
    "is_floating",
    "is_short",
]

BFLOAT16 = "bfloat16"
# By their names; those of 16 bits are summed in float32.
DTYPES = ("float32", "float16", BFLOAT16, "float64")
SHORT_DTYPES = ("float16", BFLOAT16)
# For errors.
EXPECTED_DTYPES = f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}"


def dtype_of(value: Any) -> np.dtype[Any]:
    """The NumPy dtype that a user means, "bfloat16" too. Raises TypeError as NumPy does, and
    ProblemError for bfloat16 without ml_dtypes."""
    if isinstance(value, np.dtype):
        return value
    if isinstance(value, str) and value == BFLOAT16:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ProblemError(
                f"dtype is {BFLOAT16}, which NumPy has through the package ml_dtypes: "
                f"{to_install('bfloat16')}"
            ) from error
        value = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(value)
    return found


@lru_cache(maxsize=256)
def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is ml_dtypes' bfloat16."""
    return dtype.itemsize == 2 and dtype.name == BFLOAT16


def is_short(dtype: np.dtype[Any]) -> bool:
    """Whether elements have 16 bits and sums more: float16, bfloat16."""
    return dtype == np.float16 or is_bfloat16(dtype)


def is_computed(dtype: np.dtype[Any]) -> bool:
    """Whether there are kernels for a dtype: one of DTYPES, in the machine's order of bytes."""
    return dtype in _OF_NUMPY or is_bfloat16(dtype)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a floating-point one, as bfloat16 is, which NumPy counts among none."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of sums: float32 for those of 16 bits, else the arrays' own."""
    return np.dtype(np.float32) if is_short(dtype) else dtype


_OF_NUMPY = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))
