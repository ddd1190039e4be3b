"""clconv.signal gives what scipy.signal gives, on every device."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyopencl.array as cl_array
import pytest
import scipy.signal
from signal_cases import Limits, fault, make

import clconv
from clconv import ProblemError, Runtime, functional, signal
from clconv.calls import elementwise
from clconv.errors import ArrayTypeError, DeviceError
from clconv.geometry import Resampling, part_of

# Few kernel sizes, so that few kernels are built.
SMALL = Limits(length=400, taps=4, work=10**5)


def same(result, expected):
    """Equal whole numbers, or floats but for rounding; the same dtype and shape."""
    result = result.get() if isinstance(result, cl_array.Array) else result
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    if expected.dtype.kind in "fc":
        eps = np.finfo(expected.dtype).eps
        largest = float(np.abs(expected).max(initial=1))
        np.testing.assert_allclose(result, expected, rtol=0, atol=300 * eps * largest)
    else:
        np.testing.assert_array_equal(result, expected)


# Values


@pytest.mark.parametrize("first", range(0, 36, 18))
def test_random_cases(first_runtime, first):
    """All functions, on NumPy arrays, on device arrays, and on views of these."""
    for index in range(first, first + 18):
        case = make(3, index, SMALL)
        for device in (False, True):
            said = fault(case, first_runtime, device, as_view=index % 2 == 1)
            assert said is None, f"case {index}: {case} {said}"


def test_a_wrong_value_is_seen(first_runtime, monkeypatch):
    """The check of random cases finds one value that is off."""
    case = make(3, 3, SMALL)
    assert case.function == "lfilter"
    right = signal.lfilter

    def wrong(*args, **options):
        y = right(*args, **options)
        first = y[0] if isinstance(y, tuple) else y
        first.reshape(-1)[-1] += 1e-3 * np.abs(first).max()
        return y

    assert fault(case, first_runtime, False) is None
    monkeypatch.setattr(signal, "lfilter", wrong)
    assert "is wrong in 1 of" in fault(case, first_runtime, False)


CALLS = {
    "convolve in planes": ("convolve", ((2, 6, 7), "f4"), ((1, 3, 2), "f4"), {"mode": "same"}),
    "correlate": ("correlate", ((3, 9), "c8"), ((1, 4), "c8"), {"mode": "same"}),
    "a filter for each row": ("fftconvolve", ((3, 9), "f4"), ((3, 4), "f4"), {"axes": 1}),
    "lfilter": ("lfilter", ((4,), "f4"), ((1,), "f4"), ((20, 3), "f4"), {"axis": 0}),
    "upfirdn": ("upfirdn", ((9,), "f4"), ((3, 20), "f4"), {"up": 3, "down": 2}),
    "interpolation": ("upfirdn", ((4,), "f4"), ((2, 9), "c8"), {"up": 2}),
    "savgol_filter": ("savgol_filter", ((2, 20), "f4"), 5, 2, {}),
}


@pytest.mark.every_device
@pytest.mark.parametrize("name", CALLS)
def test_every_device(runtime, rng, name):
    """The kernels of whole arrays, and views, on each driver."""
    function, *given, options = CALLS[name]

    def made(one):
        if not isinstance(one, tuple):
            return one
        shape, dtype = one
        values = rng.standard_normal(shape) + (
            1j * rng.standard_normal(shape) if dtype == "c8" else 0
        )
        return np.ones(shape, dtype) if shape == (1,) else values.astype(dtype)

    arguments = [made(one) for one in given]
    expected = getattr(scipy.signal, function)(*arguments, **options)
    there = [runtime.to_device(a) if isinstance(a, np.ndarray) else a for a in arguments]
    same(getattr(signal, function)(*there, **options), expected)
    same(getattr(signal, function)(*arguments, **options), expected)


def test_filters_may_be_on_the_host(first_runtime, rng):
    x = rng.standard_normal(30)
    y = signal.lfilter([0.5, 0.25], 1.0, first_runtime.to_device(x))
    assert isinstance(y, cl_array.Array)
    same(y, scipy.signal.lfilter([0.5, 0.25], 1.0, x))


def test_states_join_parts(first_runtime, rng):
    """A signal in parts, each with the state that the one before left, is the whole signal."""
    b, x = rng.standard_normal(4), rng.standard_normal((2, 30))
    state, parts = np.zeros((2, 3)), []
    for start in (0, 2, 17):
        stop = {0: 2, 2: 17, 17: 30}[start]
        part, state = signal.lfilter(b, 1.0, x[:, start:stop], zi=state)
        parts.append(part)
    same(np.concatenate(parts, 1), scipy.signal.lfilter(b, 1.0, x))


def test_many_dimensions(first_runtime, rng):
    """More dimensions than one launch copies, on the device: the axis is one in the middle."""
    x = rng.standard_normal((2, 3, 2, 8, 2, 3))
    y = signal.lfilter([1.0, 2.0, 3.0], 1.0, first_runtime.to_device(x), axis=3)
    same(y, scipy.signal.lfilter([1.0, 2.0, 3.0], 1.0, x, axis=3))


# Whole numbers


def test_whole_numbers_wrap_as_in_scipy(first_runtime):
    """The result's dtype keeps the last bits of sums that it has no room for."""
    x, h = np.full(9, 100, np.int8), np.full(3, 100, np.int8)
    expected = scipy.signal.convolve(x, h, method="direct")
    same(signal.convolve(x, h), expected)
    same(signal.convolve(first_runtime.to_device(x), first_runtime.to_device(h)), expected)
    yes = np.array([True, False, True])
    same(signal.convolve(yes, yes), np.convolve(yes, yes))


def test_whole_numbers_up_to_where_float64_is_exact(first_runtime):
    large = np.array([2**52 - 1, 3, -(2**51)])
    same(signal.convolve(large, [1, 1]), np.convolve(large, [1, 1]))
    with pytest.raises(ProblemError, match=r"sums of whole numbers may reach 90071992547\d+"):
        signal.convolve(np.array([2**52 + 1, 3]), [1, 1])
    with pytest.raises(ProblemError, match=r"at most 2\*\*53"):
        signal.correlate(first_runtime.to_device(np.array([2**60])), first_runtime.to_device(large))


def test_whole_numbers_without_float64():
    """float32 serves where it is exact."""
    one = Runtime()
    one.profile = replace(one.profile, fp64=False)
    x = np.array([2**22, 5, -7])
    same(signal.convolve(x, [1, 2], runtime=one), np.convolve(x, [1, 2]))
    with pytest.raises(ProblemError, match=r"at most 2\*\*24.* has no float64"):
        signal.convolve(x, [3, 2], runtime=one)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_converting_whole_numbers(runtime, dtype):
    values = np.array([-300, -1, 0, 1, 100, 200, 25000], np.float32)
    kept = elementwise.convert(runtime, runtime.to_device(values), dtype).get()
    np.testing.assert_array_equal(kept, values.astype(np.int64).astype(dtype))
    back = elementwise.convert(runtime, runtime.to_device(kept), np.float32).get()
    np.testing.assert_array_equal(back, kept.astype(np.float32))


# Whole arrays


@pytest.mark.parametrize(
    "mode",
    ["constant", "wrap", "edge", "smooth", "symmetric", "reflect", "antisymmetric",
     "antireflect", "line"],
)  # fmt: skip
def test_extensions_go_on_for_ever(runtime, rng, mode):
    """Also many times as far as the row is long."""
    for length in (2, 5):
        x = rng.standard_normal((2, length))
        made = elementwise.extend(runtime, runtime.to_device(x), (13, 12), mode).get()
        before = scipy.signal.upfirdn(np.eye(1, 14, 13)[0], x, mode=mode)
        after = scipy.signal.upfirdn(np.eye(1, 13)[0], x, mode=mode)
        np.testing.assert_allclose(made, np.hstack([before[:, :13], after]), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_row_statistics(runtime, rng, dtype):
    x = np.concatenate([rng.standard_normal((3, 21)), [[-0.0] * 21, [np.inf] * 21]]).astype(dtype)
    for length in (1, 2, 21):
        there = runtime.to_device(x[:, :length].copy())
        for name, known in (("minimum", np.min), ("maximum", np.max), ("median", np.median)):
            found = elementwise.row_statistic(runtime, there, name).get()
            np.testing.assert_array_equal(found[:, 0], known(x[:, :length], axis=1).astype(dtype))
    x[1, 3] = np.nan
    found = elementwise.row_statistic(runtime, runtime.to_device(x), "median").get()
    assert np.isnan(found[:, 0]).tolist() == [False, True, False, False, False]


def test_interleaving(runtime, rng):
    """Channels side by side, from a place on, as far as the row goes."""
    x = rng.standard_normal((2, 3, 150)).astype(np.float32)
    y = runtime.zeros((2, 747), np.float32)
    elementwise.interleave(runtime, runtime.to_device(x), y, 5, 1)
    expected = np.zeros((2, 150, 5), np.float32)
    expected[:, :, 1:4] = x.transpose(0, 2, 1)
    np.testing.assert_array_equal(y.get(), expected.reshape(2, 750)[:, :747])


# What is computed


def test_parts_of_a_full_convolution():
    assert part_of(10, 3, 0, 12) == (0, 10, 2, 2)
    assert part_of(10, 3, 4, 2) == (2, 6, 0, 0)
    assert part_of(10, 3, 1, 4, 3) == (0, 10, 1, 1)
    assert part_of(10, 3, 20, 2).is_empty


@pytest.mark.parametrize(("up", "down"), [(3, 2), (160, 441), (7, 5), (5, 11), (160, 147)])
def test_phases_take_every_tap_once(up, down):
    """However they are divided into blocks; without zeros no block has more taps than a phase."""
    of = Resampling(20 * max(up, down) + 1, up, down, 11)
    for zeros in (0.0, 0.5, 16.0):
        blocks = of.blocks(zeros)
        phases = [(block, i) for block in blocks for i in range(len(block.taps))]
        assert [block.first + i for block, i in phases] == list(range(up))
        seen = sorted(
            tap for block, i in phases for tap in range(*block.taps[i].indices(of.kernel_size))
        )
        assert seen == list(range(of.kernel_size))
        longest = -(-of.kernel_size // up)
        assert all(block.kernel_size <= longest * (1 + zeros) + 1 for block in blocks)


def test_resampling_multiplies_no_inserted_zeros(first_runtime, rng, monkeypatch):
    """Neither zeros between samples, nor for outputs that are left out."""
    shapes = []
    real = functional.conv1d

    def counted(x, weight, *args, **options):
        y = real(x, weight, *args, **options)
        shapes.append((y.size, weight.shape[1] * weight.shape[2]))
        return y

    monkeypatch.setattr(functional, "conv1d", counted)
    x, h = rng.standard_normal(3000), rng.standard_normal(40)
    y = signal.upfirdn(h, x, 2, 3)
    products = sum(outputs * taps for outputs, taps in shapes)
    assert products <= 1.1 * y.size * len(h) / 2
    shapes.clear()
    y = signal.resample_poly(x, 1, 4, window=h)
    assert shapes == [(y.size, 40)]


def test_no_arithmetic_in_numpy(first_runtime, monkeypatch):
    """The device does the work: NumPy's own products raise."""
    x = np.arange(20.0)
    calls = (
        lambda: signal.convolve(x, x[:4]),
        lambda: signal.lfilter(x[:4], 1.0, x, zi=np.ones(3)),
        lambda: signal.upfirdn(x[:9], x, 3, 2),
        lambda: signal.savgol_filter(x, 5, 2),
        lambda: signal.filtfilt(x[:4], 1.0, x),
    )
    expected = [call() for call in calls]  # SciPy designs and is asked for dtypes once

    def refuse(*_, **__):
        raise AssertionError("arithmetic on tensor data in Python")

    for name in ("dot", "einsum", "matmul", "convolve", "correlate", "tensordot", "inner"):
        monkeypatch.setattr(np, name, refuse)
    for call, before in zip(calls, expected, strict=True):
        np.testing.assert_equal(call(), before)


def test_device_arrays_are_not_waited_for(first_runtime, rng, monkeypatch):
    x = first_runtime.to_device(rng.standard_normal((2, 40)))
    h = first_runtime.to_device(rng.standard_normal((1, 4)))
    few = first_runtime.to_device(np.ones((2, 40), np.int16))

    def refuse(*_, **__):
        raise AssertionError("waits for the device")

    monkeypatch.setattr(cl_array.Array, "get", refuse)
    monkeypatch.setattr(Runtime, "finish", refuse)
    signal.convolve(x, h)
    signal.convolve(few, few[:1])
    signal.lfilter([1.0, 2.0], 1.0, x, zi=np.zeros((1, 1)))
    signal.resample_poly(x, 3, 2, axis=1, padtype="median")
    signal.filtfilt([1.0, 2.0], 1.0, x)
    signal.savgol_filter(x, 5, 2)
    assert signal.decimate(x, 2, ftype="fir").events


# The same face


@pytest.mark.parametrize("name", signal.__all__)
def test_arguments_are_scipys(name):
    """Names, order and defaults, and `runtime` by name alone."""
    own = list(inspect.signature(getattr(signal, name)).parameters.values())
    theirs = list(inspect.signature(getattr(scipy.signal, name)).parameters.values())
    assert [(p.name, p.default) for p in own[:-1]] == [(p.name, p.default) for p in theirs]
    assert (own[-1].name, own[-1].default, own[-1].kind) == ("runtime", None, own[-1].KEYWORD_ONLY)


def test_importing_clconv_imports_neither_scipy_nor_this():
    code = (
        "import sys, clconv; found = {'scipy', 'clconv.signal', 'dask'} & set(sys.modules); "
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_choosing_a_method(cpu_runtime, monkeypatch):
    x = np.ones(500, np.float32)
    assert signal.choose_conv_method(x, x[:3]) == "direct"
    assert signal.choose_conv_method([1, 2, 3], [1, 2]) == "direct"
    # A filter that the planner's variants transform, and one that is cut into parts.
    for taps in (3_000, 20_000):
        x_of_them, h = (np.ones((1, n), np.float32) for n in (40_000, taps))
        assert signal.choose_conv_method(x_of_them, h) == "fft"
        assert signal.choose_conv_method(x_of_them.astype(np.int32), h.astype(np.int32)) == "direct"
        monkeypatch.setattr(cpu_runtime, "exact", True)
        assert signal.choose_conv_method(x_of_them, h) == "direct"
        monkeypatch.setattr(cpu_runtime, "exact", False)
    method, times = signal.choose_conv_method(x, x[:3], measure=True)
    assert set(times) == {"fft", "direct"}
    assert method == min(times, key=times.get)


def test_nothing_in(first_runtime):
    """Arrays without values are SciPy's own affair."""
    empty = np.zeros((0, 5), np.float32)
    same(signal.fftconvolve(empty, empty), scipy.signal.fftconvolve(empty, empty))
    same(signal.upfirdn([1.0], np.zeros((0, 4))), scipy.signal.upfirdn([1.0], np.zeros((0, 4))))
    with pytest.raises(ProblemError, match="cannot be empty"):
        signal.convolve([], [1.0])
    same(signal.convolve(np.float32(2), np.float32(3)), np.float32(6))


X = np.arange(12.0)

ERRORS = {
    "IIR lfilter": (lambda: signal.lfilter([1.0], [1.0, 0.5], X), r"a has 2 .*scipy\.signal\.lfil"),
    "IIR filtfilt": (lambda: signal.filtfilt([1.0], [1.0, 0.5], X), r"scipy\.signal\.filtfilt"),
    "IIR decimate": (lambda: signal.decimate(X, 2), r"ftype is 'iir'.*scipy\.signal\.decimate"),
    "gust": (lambda: signal.filtfilt([1, 2], 1, X, method="gust"), "method is 'gust'"),
    "mode": (lambda: signal.convolve(X, X, "middle"), "mode is 'middle', expected 'full'"),
    "method": (lambda: signal.convolve(X, X, method="slow"), "method is 'slow', expected 'auto'"),
    "dimensions": (lambda: signal.correlate(X, X[None]), "in1 has 1 dimensions and in2 2"),
    "three axes": (
        lambda: signal.convolve(np.ones((3, 3, 3)), np.ones((2, 2, 2))),
        r"along 3 axes; .*scipy\.signal\.convolve",
    ),
    "valid": (
        lambda: signal.convolve(np.ones((3, 1)), np.ones((1, 3)), "valid"),
        "at least as large as the other",
    ),
    "axes": (lambda: signal.fftconvolve(X, X, axes=1), "axes is 1, expected -1 to 0"),
    "apart": (
        lambda: signal.oaconvolve(np.ones((2, 3)), np.ones((3, 3)), axes=1),
        r"same lengths, or 1, along axes that are not in axes \(0\)",
    ),
    "axis": (lambda: signal.lfilter([1.0], 1.0, X, axis=3), "axis is 3, expected -1 to 0"),
    "zi": (
        lambda: signal.lfilter([1.0, 2.0], 1.0, X, zi=np.zeros(3)),
        r"zi has shape \(3,\), expected \(1,\)",
    ),
    "float16": (
        lambda: signal.lfilter([1], [1], X.astype(np.int8)),
        # In the words of SciPy 1.17, or of earlier ones.
        "result type 'int64', which is not supported|input type 'int64' not supported",
    ),
    "padlen": (
        lambda: signal.filtfilt([1.0, 2.0], 1.0, X, padlen=12),
        "x has 12 samples along axis, expected more than padlen, 12",
    ),
    "padtype": (lambda: signal.filtfilt([1.0, 2.0], 1.0, X, padtype="left"), "padtype is 'left'"),
    "up": (lambda: signal.upfirdn([1.0], X, up=0), "up is 0, expected at least 1"),
    "down": (lambda: signal.resample_poly(X, 1, 2.5), "down is 2.5, expected an integer"),
    "h": (lambda: signal.upfirdn([[1.0]], X), r"h has shape \(1, 1\), expected \(K,\)"),
    "cval": (lambda: signal.resample_poly(X, 1, 2, padtype="line", cval=1), "cval is 1 and padty"),
    "extension": (lambda: signal.upfirdn([1.0], X, mode="mirror"), "mode is 'mirror', expected"),
    "window": (lambda: signal.savgol_filter(X, 13, 2), "window_length is 13, expected at most 12"),
    "polyorder": (lambda: signal.savgol_filter(X, 5, 5), "polyorder must be less than window"),
    "dtype": (lambda: signal.convolve(X, ["a"]), r"in2 has dtype <U1, expected .*scipy\.signal"),
    "complex": (
        lambda: signal.savgol_filter(X + 1j, 5, 2),
        "x has dtype complex128, expected real",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument(first_runtime, name):
    call, said = ERRORS[name]
    before = X.copy()
    with pytest.raises(ProblemError, match=said):
        call()
    assert np.array_equal(X, before)


def test_mixtures_and_other_runtimes(first_runtime):
    x = first_runtime.to_device(X)
    with pytest.raises(ArrayTypeError, match="in1 is a device array, in2 is a NumPy array"):
        signal.convolve(x, X)
    with pytest.raises(ArrayTypeError, match="x is a NumPy array, b is a device array"):
        signal.lfilter(x, 1.0, X)
    with pytest.raises(ArrayTypeError, match=r"runtime is 'gpu', expected a clconv\.Runtime"):
        signal.convolve(X, X, runtime="gpu")
    with pytest.raises(DeviceError, match="in1 is on context"):
        signal.convolve(x, x, runtime=clconv.Runtime())
