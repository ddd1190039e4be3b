"""What does SciPy give, as to dtypes and errors?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.signal

from clconv.errors import ArrayTypeError, ProblemError

__all__ = ["ask_scipy", "real_dtype", "scipy_dtype"]


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """That of the real and imaginary parts of a dtype."""
    dtype = np.dtype(dtype)
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def ask_scipy(function: str, *args: Any, **options: Any) -> Any:
    """What SciPy gives; its errors become ProblemErrors with the same words."""
    call: Callable[..., Any] = getattr(scipy.signal, function)
    try:
        with np.errstate(all="ignore"):
            return call(*args, **options)
    except TypeError as error:
        raise ArrayTypeError(f"scipy.signal.{function}: {error}") from error
    except (ValueError, NotImplementedError, IndexError) as error:
        raise ProblemError(f"scipy.signal.{function}: {error}") from error


@lru_cache(maxsize=256)
def scipy_dtype(
    function: str, *dtypes: np.dtype[Any], size: int = 2, dimensions: int = 1, **options: Any
) -> np.dtype[Any]:
    """That of what SciPy's function gives for arrays of these dtypes. Raises ProblemError where
    SciPy takes none such."""
    arrays = [np.ones((size,) * dimensions, dtype) for dtype in dtypes]
    dtype: np.dtype[Any] = ask_scipy(function, *arrays, **options).dtype
    return dtype
