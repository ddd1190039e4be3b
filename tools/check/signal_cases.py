#!/usr/bin/env python3
"""Does clconv.signal give what scipy.signal gives, on random arrays?

Each case is a function with random arguments: shapes, axes, dtypes, modes and filters, of lengths
from 1 to a million, some of which SciPy refuses. It runs on NumPy arrays and on device arrays,
which may be views. What must hold: SciPy's shape and dtype; whole numbers equal; float64 within
1e-12 of the norms of signal and filter; float32 and float16 within the rounding bound; an error
where SciPy has one.

A case depends on --seed and its index alone: --only INDEX runs one again.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl.array as cl_array
import scipy.signal
from numpy.typing import NDArray

import clconv
from clconv import ClconvError, Runtime, testing

Array = NDArray[Any]
Rng = np.random.Generator

FLOATS = ("float32", "float64")
NUMBERS = ("float32", "float64", "complex64", "complex128")
WHOLE = ("int8", "int16", "int32", "uint8", "uint16", "bool")
MODES = ("full", "same", "valid")
# Numbers of a signal that resample_poly takes for what lies beyond its ends.
BACKGROUNDS = ("mean", "median", "minimum", "maximum")
EXTENSIONS = (
    "constant", "wrap", "edge", "smooth", "symmetric", "reflect", "antisymmetric", "antireflect",
    "line",
)  # fmt: skip
# Of norms, for float64.
CLOSE = 1e-12


@dataclass
class Limits:
    """How large cases are: samples of a row, taps, and products in all."""

    length: int = 10**6
    taps: int = 2000
    work: int = 10**8


@dataclass
class Case:
    """A call, and what SciPy makes of it: results with bounds, or an error."""

    function: str
    arguments: list[Any]
    options: dict[str, Any]
    expected: list[Array] | Exception
    bounds: list[Any]

    def __str__(self) -> str:
        def said(value: Any) -> str:
            if isinstance(value, np.ndarray):
                return f"{value.dtype}{list(value.shape)}"
            return repr(value)

        given = [said(one) for one in self.arguments]
        given += [f"{name}={said(value)}" for name, value in self.options.items()]
        return f"{self.function}({', '.join(given)})"


def some(rng: Rng, *choices: Any) -> Any:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def up_to(rng: Rng, most: int) -> int:
    """A size in 1 … most, small ones as often as large ones."""
    return int(np.exp(rng.uniform(0, np.log(most + 0.999))))


def values(rng: Rng, shape: tuple[int, ...], dtype: str) -> Array:
    """Numbers of a dtype: normal ones, or small whole ones."""
    kind = np.dtype(dtype).kind
    if kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.asarray(rng.integers(0 if kind in "ub" else -50, 51, shape)).astype(dtype)


def shaped(rng: Rng, limits: Limits, taps: int = 1) -> tuple[tuple[int, ...], int]:
    """A shape, and the axis that is filtered."""
    dimensions = some(rng, 1, 1, 2, 2, 3)
    others = [int(rng.integers(1, 5)) for _ in range(dimensions - 1)]
    most = max(min(limits.length, limits.work // taps // int(np.prod(others, initial=1))), 1)
    axis = int(rng.integers(dimensions))
    others.insert(axis, up_to(rng, most))
    return tuple(others), some(rng, axis, axis - dimensions)


# What is expected


def wide(value: Any) -> Any:
    """The same number or array in double precision."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        return value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    return value


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """That of the parts of a complex dtype."""
    dtype = np.dtype(dtype)
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def asked(function: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    """What SciPy gives, or its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = getattr(scipy.signal, function)(*arguments, **options)
        except (ValueError, TypeError, NotImplementedError, IndexError) as error:
            return error
    return list(made) if isinstance(made, tuple) else [made]


def case_of(
    function: str,
    arguments: list[Any],
    options: dict[str, Any],
    terms: int,
    magnitude: Callable[[], Any],
    norms: float,
    beside: float = 0.0,
) -> Case:
    """A case with its bounds. `magnitude` gives the sums of the products' magnitudes, of `terms`
    roundings, for float32; `norms` is what float64's errors are measured by. `beside` is an error
    beside those of the sums."""
    given = arguments
    if function == "filtfilt":
        # The state that SciPy's filters start in is as accurate as the filter's dtype.
        kept = asked(function, arguments, options)
        given = [wide(np.asarray(one)) for one in arguments[:2]] + arguments[2:]
        if isinstance(kept, list) and real_dtype(kept[0].dtype) != np.float64:
            given = arguments
    expected = asked(function, given, options)
    if isinstance(expected, Exception):
        return Case(function, arguments, options, expected, [])
    bounds: list[Any] = []
    sums = precise = None
    for i, one in enumerate(expected):
        parts = real_dtype(one.dtype)
        if parts.kind != "f":
            bounds.append(0)
            continue
        if parts != np.float64 or function.endswith(("convolve", "correlate")):
            # SciPy's Fourier transforms are those of the narrower array.
            wider = {n: wide(v) for n, v in options.items()}
            precise = precise or asked(function, [wide(a) for a in arguments], wider)
            expected[i] = _tagged(np.asarray(precise[i]), one.dtype)
        if parts == np.float64:
            bounds.append(CLOSE * norms + beside)
        else:
            sums = magnitude() if sums is None else sums
            level = sums[i] if isinstance(sums, list) else sums
            true = np.abs(np.asarray(expected[i]))
            bounds.append(testing.sum_bound(true, level, 2 * terms + 6, parts) + beside)
    return Case(function, arguments, options, expected, bounds)


class _Tagged(np.ndarray):
    """An array in double precision that stands for one of another dtype."""

    stands_for: np.dtype[Any]


def _tagged(array: Array, dtype: np.dtype[Any]) -> Array:
    made = array.view(_Tagged)
    made.stands_for = dtype
    return made


def norm(array: Array) -> float:
    """The 2-norm of all values."""
    return float(np.sqrt((np.abs(wide(array).astype(np.complex128)) ** 2).sum()))


# Cases by function


def of_two(rng: Rng, limits: Limits) -> Case:
    """Two arrays of as many dimensions: one or two axes of theirs are convolved."""
    function = some(rng, "convolve", "correlate", "convolve", "correlate")
    whole = rng.random() < 0.3
    kinds = WHOLE if whole else NUMBERS
    dtypes = some(rng, *kinds), some(rng, *kinds)
    if not whole and rng.random() < 0.1:
        dtypes = "float16", "float16"
    taps = up_to(rng, limits.taps)
    shape, axis = shaped(rng, limits, taps)
    second = [1] * len(shape)
    second[axis] = taps
    if len(shape) > 1 and rng.random() < 0.3:
        beside = (axis - 1) % len(shape)
        second[beside] = min(int(rng.integers(1, 4)), shape[beside])
    first = list(shape)
    if rng.random() < 0.2:
        first, second = second, first
    if rng.random() < 0.05:
        second = [*second, 1]
    options = {"mode": some(rng, *MODES)}
    options["method"] = "direct" if whole else some(rng, "auto", "direct", "fft")
    if "float16" in dtypes and len(shape) > 1:
        options["method"] = "fft"  # the only one that SciPy always has
    arrays = [values(rng, tuple(s), d) for s, d in zip((first, second), dtypes, strict=True)]
    products = min(arrays[0].size, arrays[1].size)
    if products * max(arrays[0].size, arrays[1].size) > 20 * limits.work:
        options["method"] = "fft"

    def magnitude() -> Any:
        plain = [abs(wide(a)).astype(np.float64) for a in arrays]
        made = asked(function, plain, {"mode": options["mode"], "method": "auto"})[0]
        return np.abs(made) + 1e-12 * norm(arrays[0]) * norm(arrays[1])

    norms = norm(arrays[0]) * norm(arrays[1])
    return case_of(function, arrays, options, products, magnitude, norms)


def by_axes(rng: Rng, limits: Limits) -> Case:
    """Filters of their own for rows, and rows that share some."""
    function = some(rng, "fftconvolve", "oaconvolve")
    taps = up_to(rng, limits.taps)
    shape, axis = shaped(rng, limits, taps)
    first, second = list(shape), list(shape)
    second[axis] = taps
    for i in range(len(shape)):
        if i != axis % len(shape):
            kept = rng.integers(4)
            first[i] = 1 if kept == 0 else first[i]
            second[i] = 1 if kept == 1 else second[i]
    dtypes = some(rng, *NUMBERS, "int16"), some(rng, *NUMBERS, "int16")
    arrays = [values(rng, tuple(s), d) for s, d in zip((first, second), dtypes, strict=True)]
    options = {"mode": some(rng, *MODES), "axes": axis}

    def magnitude() -> Any:
        plain = [abs(wide(a)).astype(np.float64) for a in arrays]
        return np.abs(asked(function, plain, options)[0]) + CLOSE * norms

    norms = norm(arrays[0]) * norm(arrays[1])
    return case_of(function, arrays, options, min(taps, shape[axis]), magnitude, norms)


def filtering(rng: Rng, limits: Limits) -> Case:
    """lfilter, with a state in some cases, and a divisor in others."""
    taps = up_to(rng, limits.taps)
    shape, axis = shaped(rng, limits, taps)
    b = values(rng, (taps,), some(rng, *NUMBERS))
    x = values(rng, shape, some(rng, *NUMBERS, "int16", "float16"))
    a = some(rng, [1.0], 1.0, np.float32([1]), np.float32([2]), np.array([0.75]))
    options: dict[str, Any] = {"axis": axis}
    state = 0.0
    if rng.random() < 0.4:
        sizes = list(shape)
        sizes[axis] = taps - 1 if rng.random() < 0.95 else taps
        if rng.random() < 0.3:
            sizes = [n if i == axis % len(shape) else 1 for i, n in enumerate(sizes)]
        options["zi"] = values(rng, tuple(sizes), some(rng, *NUMBERS))
        state = norm(options["zi"])

    def magnitude() -> Any:
        plain = {n: abs(wide(v)) if n == "zi" else v for n, v in options.items()}
        made = asked("lfilter", [abs(wide(b)), abs(wide(np.asarray(a))), abs(wide(x))], plain)
        return [np.abs(one) for one in made]

    divisor = float(np.asarray(a).reshape(-1)[0])
    norms = norm(b) * norm(x) / divisor + state
    return case_of("lfilter", [b, a, x], options, taps, magnitude, norms)


def both_ways(rng: Rng, limits: Limits) -> Case:
    """filtfilt, of signals that are too short in some cases."""
    taps = 1 + up_to(rng, limits.taps)
    shape, axis = shaped(rng, limits, taps)
    if shape[axis] <= 3 * taps and rng.random() < 0.8:
        sizes = list(shape)
        sizes[axis] += 3 * taps
        shape = tuple(sizes)
    b = values(rng, (taps,), some(rng, *NUMBERS))
    x = values(rng, shape, some(rng, *NUMBERS, "int16"))
    a = some(rng, [1.0], np.float32([1]), np.float32([1]))
    options = {"axis": axis, "padtype": some(rng, "odd", "even", "constant", None)}
    options["padlen"] = some(rng, None, None, 0, taps // 2, 2 * taps)

    def magnitude() -> Any:
        return 3 * float(abs(wide(b)).sum()) ** 2 * float(abs(wide(x)).max(initial=0))

    norms = norm(b) ** 2 * np.sqrt(taps) * (norm(x) + 3 * taps * float(abs(wide(x)).max()))
    return case_of("filtfilt", [b, a, x], options, 2 * taps, magnitude, norms)


def resampling(rng: Rng, limits: Limits) -> Case:
    """upfirdn, resample_poly and decimate."""
    function = some(rng, "upfirdn", "upfirdn", "resample_poly", "decimate")
    up, down = int(rng.integers(1, 13)), int(rng.integers(1, 13))
    if rng.random() < 0.1:
        up, down = some(rng, (160, 147), (147, 160), (160, 441))
    taps = up_to(rng, limits.taps)
    shape, axis = shaped(rng, limits, max(taps // up, 1) * up // down + 1)
    x = values(rng, shape, some(rng, *NUMBERS, "int16", "float16"))
    h = values(rng, (taps,), some(rng, *NUMBERS))
    options: dict[str, Any] = {"axis": axis}
    length = shape[axis]
    if function == "upfirdn":
        options |= {"up": up, "down": down}
        if length > 1 and rng.random() < 0.4:
            options["mode"] = some(rng, *EXTENSIONS)
            if options["mode"] == "constant":
                options["cval"] = 1.5
        arguments: list[Any] = [h, x]
    elif function == "resample_poly":
        arguments = [x, up, down]
        if rng.random() < 0.5:
            options["window"] = h
        if length > 1 and rng.random() < 0.4:
            kinds = (*EXTENSIONS, "mean", "mean")
            if x.dtype.kind == "f":
                kinds = (*kinds, "median", "minimum", "maximum")
            options["padtype"] = some(rng, *kinds)
        h = options.get("window", np.ones(20 * max(up, down) + 1) / max(up, down))
    else:
        down = min(down, 12)
        arguments = [x, down]
        options |= {"ftype": some(rng, "fir", "fir", "fir", "other")}
        options["zero_phase"] = bool(rng.random() < 0.5)
        if rng.random() < 0.5:
            options["n"] = up_to(rng, min(limits.taps, 50))
        up, h = 1, np.ones(20 * down + 1) / down
    largest = float(abs(wide(x)).max(initial=0))
    # What extensions by slopes reach.
    far = 1.0
    if options.get("mode", options.get("padtype")) in ("smooth", "line", "antireflect"):
        far = 3.0 + 3.0 * taps / up
    level = float(abs(wide(h)).sum()) * up * (2 * largest + 2) * far
    norms = level * np.sqrt(length)
    # SciPy finds and subtracts a background in x's own precision: two values are rounded to it.
    rounded = options.get("padtype") in BACKGROUNDS and x.dtype == np.float16
    beside = 2 * testing.unit_roundoff(x.dtype) * level if rounded else 0.0

    def magnitude() -> Any:
        return level

    return case_of(function, arguments, options, len(h) + 8, magnitude, norms, beside)


def smoothing(rng: Rng, limits: Limits) -> Case:
    """savgol_filter, of windows that are too long in some cases."""
    taps = up_to(rng, min(limits.taps, 101))
    order = min(int(rng.integers(0, 5)), taps if rng.random() < 0.05 else taps - 1)
    shape, axis = shaped(rng, limits, taps)
    x = values(rng, shape, some(rng, *FLOATS, "int16"))
    options: dict[str, Any] = {"axis": axis, "deriv": some(rng, 0, 0, 1, 2), "delta": 0.5}
    options["mode"] = some(rng, "interp", "interp", "mirror", "nearest", "wrap", "constant")
    largest = float(abs(wide(x)).max(initial=0))
    weight = 0.0
    for place in range(taps if order < taps else 0):
        rows = scipy.signal.savgol_coeffs(taps, order, options["deriv"], 0.5, pos=place)
        weight = max(weight, float(abs(rows).sum()))
    level = weight * (largest + 1)

    def magnitude() -> Any:
        return level

    # SciPy fits polynomials at the ends by other, less accurate sums.
    scale = level * np.sqrt(shape[axis]) * (1 + taps**2)
    return case_of("savgol_filter", [x, taps, order], options, taps + 8, magnitude, scale)


MAKERS = (
    of_two,
    of_two,
    by_axes,
    filtering,
    filtering,
    both_ways,
    resampling,
    resampling,
    smoothing,
)


def make(seed: int, index: int, limits: Limits) -> Case:
    """A case, which depends on the arguments alone."""
    rng = np.random.default_rng((seed, index))
    return MAKERS[index % len(MAKERS)](rng, limits)


# Checks


def on_device(runtime: Runtime, array: Any, as_view: bool) -> Any:
    """A NumPy array as a device array, every other element of one where `as_view` says so."""
    if not isinstance(array, np.ndarray):
        return array
    if not as_view or array.ndim == 0:
        return runtime.to_device(array)
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    spread[..., ::2] = array
    return runtime.to_device(spread)[..., ::2]


def fault(case: Case, runtime: Runtime, device: bool, as_view: bool = False) -> str | None:
    """What is wrong with what clconv makes of a case; None where nothing is."""
    arguments, options = case.arguments, case.options
    if device:
        arguments = [on_device(runtime, a, as_view) for a in arguments]
        options = {n: on_device(runtime, v, as_view) for n, v in options.items()}
        if case.function == "resample_poly" and "window" in options:
            options["window"] = case.options["window"]
    import clconv.signal

    try:
        made = getattr(clconv.signal, case.function)(*arguments, **options, runtime=runtime)
    except ClconvError as error:
        return None if isinstance(case.expected, Exception) else f"raises {error!r}"
    if isinstance(case.expected, Exception):
        return f"gives something where SciPy raises {case.expected!r}"
    results = list(made) if isinstance(made, tuple) else [made]
    if len(results) != len(case.expected):
        return f"gives {len(results)} results, expected {len(case.expected)}"
    for result, expected, bound in zip(results, case.expected, case.bounds, strict=True):
        if isinstance(result, cl_array.Array) != device:
            return f"gives a {type(result).__name__}"
        found = result.get() if device else np.asarray(result)
        dtype = getattr(expected, "stands_for", expected.dtype)
        if found.shape != expected.shape or found.dtype != dtype:
            return f"gives {found.dtype}{found.shape}, expected {dtype}{expected.shape}"
        values_ = np.asarray(expected)
        if dtype.kind not in "fc":
            if not np.array_equal(found, values_):
                return f"differs in {int((found != values_).sum())} whole numbers"
            continue
        off = np.abs(found.astype(np.complex128) - values_)
        wrong = ~(off <= bound)
        if wrong.any():
            worst = float(np.nanmax(off / np.maximum(bound, 1e-300)))
            return f"is wrong in {int(wrong.sum())} of {wrong.size} values, by {worst:.3g} bounds"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first case's index")
    parser.add_argument("--only", type=int, help="one case alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", help="as in clconv.Runtime")
    parser.add_argument("--length", type=int, default=Limits.length)
    parser.add_argument("--taps", type=int, default=Limits.taps)
    given = parser.parse_args()
    runtime = clconv.Runtime(given.device)
    limits = Limits(given.length, given.taps)
    chosen = range(given.first, given.first + given.cases)
    if given.only is not None:
        chosen = range(given.only, given.only + 1)
    start, wrong, errors = time.time(), 0, 0
    counts: dict[str, int] = {}
    for index in chosen:
        case = make(given.seed, index, limits)
        counts[case.function] = counts.get(case.function, 0) + 1
        errors += isinstance(case.expected, Exception)
        for device in (False, True):
            said = fault(case, runtime, device, as_view=index % 2 == 1)
            if said is not None:
                wrong += 1
                where = "on device arrays" if device else "on NumPy arrays"
                print(f"case {index}: {case} {where} {said}", flush=True)
    told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    print(
        f"{len(chosen)} cases on {runtime.info.name} in {time.time() - start:.0f} s: {told}; "
        f"{errors} that SciPy refuses; {wrong} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
