"""clconv.dask gives of chunks what clconv gives of the whole signal."""

from __future__ import annotations

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'clconv[dask]'")

import dask  # noqa: E402

import clconv.dask as cd  # noqa: E402
from clconv import ProblemError, Runtime, functional, signal  # noqa: E402
from clconv.errors import ArrayTypeError  # noqa: E402


@pytest.fixture(autouse=True)
def _in_this_thread(first_runtime):
    """Chunks are computed on the test's guarded runtime."""
    with dask.config.set(scheduler="synchronous"):
        yield


def integers(rng, shape, dtype=np.float64):
    """Data whose sums are exact, so that chunks must give the very same values."""
    return rng.integers(-4, 5, shape).astype(dtype)


CHUNKS = {"one": (2, 6, 50), "uneven": (1, 3, (7, 20, 1, 22)), "tiny": (2, 2, 3)}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {"padding": "same"}),
        (3, {"stride": 3, "padding": (1, 4), "dilation": 2, "activation": "relu"}),
        (6, {"stride": 7}),
    ],
)
def test_conv1d(rng, chunks, groups, options):
    x = integers(rng, (2, 6, 50), np.float32)
    weight = integers(rng, (6, 6 // groups, 3), np.float32)
    bias = integers(rng, (6,), np.float32)
    made = cd.conv1d(da.from_array(x, CHUNKS[chunks]), weight, bias, groups=groups, **options)
    expected = functional.conv1d(x, weight, bias, groups=groups, **options)
    assert made.shape == expected.shape
    np.testing.assert_array_equal(made.compute(), expected)
    lone = cd.conv1d(da.from_array(x[0], CHUNKS[chunks][1:]), weight, groups=groups, **options)
    np.testing.assert_array_equal(
        lone.compute(), functional.conv1d(x[0], weight, groups=groups, **options)
    )


@pytest.mark.parametrize("length", [(5,), (17, 1, 8, 19)])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.int16])
def test_convolve(rng, mode, dtype, length):
    """Halves of complex data, and whole numbers, too; along the first axis."""
    size = sum(length) * (9 if len(length) == 1 else 1)
    x, h = integers(rng, (size, 3)).astype(dtype), integers(rng, (4, 1)).astype(dtype)
    if dtype == np.complex64:
        x, h = x + 1j * x[::-1], h - 2j * h[::-1]
    there = da.from_array(x, (length if len(length) > 1 else length[0], 2))
    for name in ("convolve", "correlate"):
        made = getattr(cd, name)(there, h, mode)
        expected = getattr(signal, name)(x, h, mode)
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(made.compute(), expected)


@pytest.mark.parametrize("chunk", [33, 4])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (1, 4), (3, 1), (3, 2), (2, 5), (4, 6)])
def test_resampling(rng, up, down, chunk):
    x, h = integers(rng, (2, 100)), integers(rng, (11,))
    there = da.from_array(x, (1, chunk))
    for made, expected in (
        (cd.upfirdn(h, there, up, down), signal.upfirdn(h, x, up, down)),
        (
            cd.resample_poly(there, up, down, axis=1, window=h),
            signal.resample_poly(x, up, down, axis=1, window=h),
        ),
    ):
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(made.compute(), expected)


def test_lfilter_and_decimate(rng):
    x, b = integers(rng, (3, 60)), integers(rng, (4,))
    there = da.from_array(x, (2, 13))
    np.testing.assert_array_equal(cd.lfilter(b, [2.0], there), signal.lfilter(b, [2.0], x))
    made = cd.decimate(there, 3, ftype="fir")
    np.testing.assert_allclose(made, signal.decimate(x, 3, ftype="fir"), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_convolution_by_axes(rng, name, dtype):
    x, h = integers(rng, (40, 3)).astype(dtype), integers(rng, (6, 1)).astype(dtype)
    there = da.from_array(x, (9, 2))
    for mode in ("full", "same", "valid"):
        for axes in (0, (0, 1), None):
            made = getattr(cd, name)(there, h, mode, axes)
            expected = getattr(signal, name)(x, h, mode, axes)
            assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(made.compute(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("window", [1, 6, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_savgol_filter(rng, window, dtype):
    """The ends are those of the whole signal, whatever the chunks."""
    x = integers(rng, (30, 2)).astype(dtype)
    there = da.from_array(x, (7, 1))
    for mode in ("interp", "mirror", "nearest", "wrap", "constant"):
        options = {"axis": 0, "mode": mode, "cval": 2.0}
        made = cd.savgol_filter(there, window, min(2, window - 1), **options)
        expected = signal.savgol_filter(x, window, min(2, window - 1), **options)
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(made.compute(), expected, rtol=0, atol=1e-5)


def test_nothing_is_computed_before_it_is_asked_for(rng):
    def refuse(block):
        raise AssertionError("computed")

    there = da.ones((2, 2**33), chunks=(1, 2**24), dtype=np.float32).map_blocks(
        refuse, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    assert cd.conv1d(there, np.ones((2, 2, 3), np.float32)).shape == (2, 2**33 - 2)
    assert cd.resample_poly(there, 160, 441, axis=1).shape[0] == 2


def test_each_thread_has_a_device(monkeypatch, first_runtime):
    """In turn, where there are several of a kind; the one that is named where one is."""
    from dataclasses import replace

    own = first_runtime.info
    found = [replace(own, why_not=None), replace(own, id="9:9", why_not=None)]
    made = []

    def runtime(device):
        made.append(device)
        return first_runtime

    for name, value in (("devices", lambda: found), ("Runtime", runtime), ("_runtimes", {})):
        monkeypatch.setattr(cd, name, value)
    monkeypatch.delenv("CLCONV_DEVICE", raising=False)
    for turn in (0, 1, 2, 3):
        monkeypatch.setattr(cd._mine, "turn", turn, raising=False)
        assert cd.worker_runtime() is first_runtime
    assert made == ["9:9"]
    monkeypatch.setenv("CLCONV_DEVICE", "cpu")
    monkeypatch.setattr(cd, "devices", lambda: pytest.fail("looks for others"))
    assert isinstance(cd.worker_runtime(), Runtime)


X = da.ones((2, 20), chunks=(1, 5))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cd.lfilter([1.0], [1.0, 2.0], X), r"a has 2 .*scipy\.signal\.lfilter"),
        (lambda: cd.lfilter([1.0], 1.0, np.ones(3)), "x is a ndarray, expected a dask array"),
        (lambda: cd.upfirdn(X[0], X), "h is a dask array, expected one in memory"),
        (lambda: cd.convolve(X, np.ones((3, 3))), "in2 longer than 1 along one"),
        (lambda: cd.convolve(X, np.ones((1, 30)), "valid"), "in2 has 30 values along axis 1"),
        (lambda: cd.convolve(X, np.ones((1, 3)), "middle"), "mode is 'middle', expected"),
        (lambda: cd.oaconvolve(X, np.ones((1, 3)), axes=0), "axes is 0, expected 1 among them"),
        (lambda: cd.savgol_filter(X, 21, 2), "window_length is 21, expected at most 20"),
        (lambda: cd.savgol_filter(X, 5, 2, mode="odd"), "mode is 'odd', expected one of mirror"),
        (lambda: cd.conv1d(X, np.ones((1, 3, 3))), r"weight is float64\(1, 3, 3\), expected"),
        (lambda: cd.conv1d(X, np.ones((1, 2, 3)), padding=3), "padding is 3, expected less than"),
        (lambda: cd.resample_poly(X, 1.5, 2), "up is 1.5, expected an integer"),
    ],
)
def test_errors_name_the_argument(call, said):
    with pytest.raises(ProblemError, match=said):
        call()


def test_types_of_errors():
    with pytest.raises(ArrayTypeError):
        cd.convolve(np.ones(3), np.ones(3))
