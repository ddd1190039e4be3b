"""SciPy's filters on every OpenCL device: the names, arguments and results of `scipy.signal`.

NumPy arrays in, NumPy arrays out; `pyopencl.array.Array`s in, `pyopencl.array.Array`s out, queued.
Filters have finite impulse responses. SciPy designs them, and must be installed; `import clconv`
does not import this package.
"""

from __future__ import annotations

from clconv.errors import missing

try:
    from clconv.signal.convolving import (
        choose_conv_method,
        convolve,
        correlate,
        fftconvolve,
        oaconvolve,
    )
    from clconv.signal.filtering import filtfilt, lfilter
    from clconv.signal.resampling import decimate, resample_poly, upfirdn
    from clconv.signal.smoothing import savgol_filter
except ModuleNotFoundError as error:
    raise missing(error, "clconv.signal", scipy="signal") from None

__all__ = [
    "choose_conv_method",
    "convolve",
    "correlate",
    "decimate",
    "fftconvolve",
    "filtfilt",
    "lfilter",
    "oaconvolve",
    "resample_poly",
    "savgol_filter",
    "upfirdn",
]
