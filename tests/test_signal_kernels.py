"""The kernels that clconv.signal has for itself: resampling, and filters of many taps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal

from clconv import signal, testing
from clconv.geometry import Resampling
from clconv.signal import long, phases
from clconv.variants.spectral.bound import transform_error

RATIOS = ((3, 2), (160, 441), (147, 160), (2, 3), (7, 5), (1000, 999), (5, 1000), (17, 2))


def whole(rng, dtype, *shape):
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resampling(each_cpu, rng, dtype):
    """Whole numbers come out exact: short and long signals, filters shorter than a phase, and
    longer than the signal."""
    for up, down in RATIOS:
        assert phases.serves(each_cpu.profile, Resampling(3000, up, down, 0), np.dtype(dtype))
        for length in (1, 50, 3000):
            x = whole(rng, dtype, 2, length)
            for taps in (3, 61, 3000):
                h = whole(rng, dtype, taps)
                y = signal.upfirdn(h, x, up, down)
                assert y.dtype == dtype
                np.testing.assert_array_equal(y, scipy.signal.upfirdn(h, x, up, down))


def test_resampling_whose_periods_have_no_room_together(first_runtime):
    """Where a kernel serves one period, it serves long signals, too."""
    h, x = np.ones(100), np.arange(400_000) % 7 - 3.0
    y = signal.upfirdn(h, x, up=3, down=1000, runtime=first_runtime)
    np.testing.assert_array_equal(y, scipy.signal.upfirdn(h, x, up=3, down=1000))


def test_resampling_of_device_arrays(runtime, rng):
    """Views, whose buffers have NaN around them."""
    x, h = whole(rng, np.float32, 3, 2, 700), whole(rng, np.float32, 300)
    view = runtime.to_device(x)[:, 1]
    y = signal.upfirdn(h, view, 16, 5).get()
    np.testing.assert_array_equal(y, scipy.signal.upfirdn(h, x[:, 1], 16, 5))
    turned = runtime.to_device(np.ascontiguousarray(x[:, 1].T))
    y = signal.upfirdn(h, turned, 16, 5, axis=0).get()
    np.testing.assert_array_equal(y.T, scipy.signal.upfirdn(h, x[:, 1], 16, 5))


def test_resampling_planned_as_for_a_gpu(gpu_runtime, rng):
    """By a convolution for each block of phases."""
    x, h = whole(rng, np.float32, 2, 90), whole(rng, np.float32, 61)
    assert not phases.serves(gpu_runtime.profile, Resampling(61, 3, 2, 0), x.dtype)
    np.testing.assert_array_equal(signal.upfirdn(h, x, 3, 2), scipy.signal.upfirdn(h, x, 3, 2))
    # Outputs beside those that a sample is part of may be NaN, as phases share windows; no others.
    expected = scipy.signal.upfirdn(h, x, 3, 2)
    x[:, 40] = np.inf
    y = signal.upfirdn(h, x, 3, 2)
    ones = np.ones(61 + 2 * 3, np.float32)  # two taps more of each phase
    near = scipy.signal.upfirdn(ones, np.isinf(x), 3, 2)[:, : y.shape[1]] > 0
    assert 0 < near.sum() < near.size
    np.testing.assert_array_equal(y[~near], expected[~near])


def test_resampling_keeps_what_is_not_finite(each_cpu, rng):
    """Outputs that a sample is no part of do not see it."""
    x, h = whole(rng, np.float32, 1, 400), np.arange(1, 121, dtype=np.float32)
    x[0, 200] = np.inf
    y = signal.upfirdn(h, x, 12, 7)
    seen = scipy.signal.upfirdn(np.ones_like(h), np.isinf(x).astype(np.float32), 12, 7) > 0
    np.testing.assert_array_equal(np.isinf(y), seen)
    assert not np.isnan(y).any()


def test_designed_filters_are_kept(first_runtime, rng):
    """The filter is the same whether it was kept or not, and nobody's to change."""
    x = rng.standard_normal(500)
    for window in (("kaiser", 5.0), "hann", ("kaiser", 5.0)):
        for up in (2, 3):
            y = signal.resample_poly(x, up, 5, window=window)
            expected = scipy.signal.resample_poly(x, up, 5, window=window)
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def bound(x, h, y_length, pad):
    """How far sums by parts of the taps may be off: variants/spectral/bound.py, with the parts in
    place of channels."""
    step = long.SIZE // 2
    parts, tiles = -(-h.size // step), -(-y_length // step)
    taps = np.pad(np.abs(h), (0, parts * step - h.size)).reshape(parts, step)
    padded = np.zeros((x.shape[0], (tiles + parts) * step))
    at = np.arange(padded.shape[1]) - pad
    inside = (at >= 0) & (at < x.shape[1])
    padded[:, inside] = np.abs(x[:, at[inside]])
    halves = (padded.reshape(x.shape[0], -1, step) ** 2).sum(-1)
    norms = np.sqrt(halves[:, :-1] + halves[:, 1:])
    e = transform_error(long.SIZE, x.dtype)
    of_norm = 2 * e + e * e
    of_norm += math.sqrt(2) * testing.gamma(2 * parts + 2, x.dtype) * (1 + e) ** 2
    factors = of_norm * np.sqrt((taps**2).sum(1)) + e * (1 + of_norm) * taps.sum(1)
    of_tiles = sum(factors[q] * norms[:, q : q + tiles] for q in range(parts))
    return 1.01 * np.repeat(of_tiles, step, axis=1)[:, :y_length]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_filters(each_cpu, rng, dtype):
    """Within the bound that is proven: some rows, several turns, parts that are not whole."""
    for rows, length, taps in ((2, 15_000, 10_001), (1, 9_000, 25_000)):
        x = rng.standard_normal((rows, length)).astype(dtype)
        h = rng.standard_normal((1, taps)).astype(dtype)
        assert long.serves(each_cpu.profile, x.dtype, taps, length)
        y = signal.convolve(x, h, "full")
        right = scipy.signal.oaconvolve(x.astype(np.float64), h.astype(np.float64), axes=1)
        apart = np.abs(y - right)
        if dtype == np.float64:  # the other one's rounding is as large
            apart = apart / 2
        kernel, signal_ = (h[0], x) if taps <= length else (x[0], h)
        limits = bound(signal_, kernel[::-1], y.shape[1], kernel.size - 1)
        assert (apart <= limits).all(), (apart / limits).max()


def test_long_filters_in_turns(first_runtime, rng, monkeypatch):
    """Whatever a turn has room for, results are the same bits."""
    x = rng.standard_normal((1, 60_000)).astype(np.float32)
    h = rng.standard_normal((1, 10_100)).astype(np.float32)
    once = signal.convolve(x, h)
    monkeypatch.setattr(long, "TURN_BYTES", 1)
    monkeypatch.setattr(long, "TURN_PARTS", 2)
    np.testing.assert_array_equal(signal.convolve(x, h), once)


def test_long_filters_keep_what_is_not_finite(first_runtime, rng):
    x = whole(rng, np.float32, 1, 10_200)
    h = np.abs(whole(rng, np.float32, 1, 10_100)) + 1
    x[0, 10_000] = np.inf
    y = signal.convolve(x, h)
    there = np.arange(y.shape[1])
    seen = (there >= 10_000) & (there < 10_000 + h.shape[1])
    np.testing.assert_array_equal(np.isinf(y[0]), seen)
    assert not np.isnan(y).any()


def test_long_complex_filters(first_runtime, rng):
    """Each pair of parts is a filter of its own."""

    def made(*shape):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)

    x, h = made(2, 11_000), made(1, 10_500)
    for signal_, taps in ((x, h), (x.real.copy(), h), (x, h.real.copy())):
        y = signal.convolve(signal_, taps)
        expected = scipy.signal.oaconvolve(signal_, taps, axes=1)
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_direct_sums_stay_direct(first_runtime, rng):
    """Whole numbers, and what is asked for, are summed by the definition."""
    x, h = whole(rng, np.float32, 1, 10_300), whole(rng, np.float32, 1, 10_200)
    by_definition = signal.convolve(x, h, "valid", "direct")
    np.testing.assert_array_equal(
        by_definition, signal.convolve(x.astype(np.int32), h.astype(np.int32), "valid")
    )
