"""NumPy arrays are used in place where a device shares the host's memory, and copied elsewhere."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from clconv import OutOfMemoryError, Runtime, signal
from clconv import functional as F
from clconv.calls import host
from clconv.calls.host import HostArrays


@pytest.fixture(params=[True, False], ids=["in place", "copied"])
def either(runtime, request, monkeypatch):
    """A runtime that takes NumPy arrays in place, or copies them."""
    if request.param and not runtime.memory.shares_host:
        pytest.skip("the device has memory of its own")
    monkeypatch.setattr(runtime.memory, "shares_host", request.param)
    return runtime


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def expected(x, weight):
    """The convolution of one channel, without padding."""
    rows = [np.correlate(row, weight[0, 0], "valid") for row in x[:, 0]]
    return np.stack(rows)[:, None]


def test_arrays_that_lie_anywhere(either, rng):
    """Results are right whatever the memory: read-only, unaligned, overlapping, with gaps."""
    x, weight = whole(rng, 2, 1, 40), whole(rng, 1, 1, 5)
    right = expected(x, weight)
    read_only = x.copy()
    read_only.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[:] = x
    gaps = np.zeros((2, 3, 80), np.float32)
    gaps[:, 1:2, 79:0:-2] = x
    for one in (x, read_only, unaligned, gaps[:, 1:2, 79:0:-2]):
        np.testing.assert_array_equal(F.conv1d(one, weight), right)
    taps = x[:1, :, 10:15]  # lie within x
    np.testing.assert_array_equal(F.conv1d(x, taps), expected(x, taps))
    assert (gaps[:, 0] == 0).all()


def test_outs(either, rng):
    """An out is filled, and nothing beside it; its old values count where there is a momentum."""
    x, grad = whole(rng, 2, 3, 20), whole(rng, 2, 4, 18)
    around = np.full((4, 10, 12), 7, np.float32)
    out = around[1].reshape(-1)[:36].reshape(4, 3, 3)
    old = out.copy()
    made = F.conv1d_weight(x, (4, 3, 3), grad)
    given = F.conv1d_weight(x, (4, 3, 3), grad, out=out, momentum=0.5)
    assert given is out
    np.testing.assert_array_equal(out, made + 0.5 * old)
    assert (around[[0, 2, 3]] == 7).all()
    assert (around[1].reshape(-1)[36:] == 7).all()


def test_results_are_new_arrays(either, rng):
    """Two calls share no memory, and results outlive all that computed them."""
    x, weight = whole(rng, 1, 2, 30), whole(rng, 2, 2, 3)
    first, second = F.conv1d(x, weight), F.conv1d(x, weight)
    assert not np.shares_memory(first, second)
    kept = first.copy()
    second[:] = 0
    F.conv1d(x * 2, weight)
    gc.collect()
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


def test_signals_in_place(either, rng):
    """Rows of a larger array are read where they lie; a result that is a part of what was computed
    is a copy."""
    large = whole(rng, 3, 5, 60, dtype=np.float64)
    x, b = large[:, 1:4:2, 10:50], np.array([1.0, -2.0, 3.0])
    full = np.stack([[np.convolve(row, b) for row in rows] for rows in x])
    y, state = signal.lfilter(b, [1.0], x, zi=np.zeros((3, 2, 2)))
    np.testing.assert_array_equal(y, full[..., :40])
    np.testing.assert_array_equal(state, full[..., 40:])
    np.testing.assert_array_equal(signal.lfilter(b, [1.0], x), full[..., :40])
    np.testing.assert_array_equal(
        signal.lfilter(b, [1.0], x.transpose(2, 0, 1), axis=0), full[..., :40].transpose(2, 0, 1)
    )


def test_few_samples_far_apart(first_runtime, rng):
    """Rows that lie far from each other are copied: drivers may copy all that is between."""
    large = np.empty((2, 2**28), np.float32)  # of which few pages are ever touched
    x = large[:, :100]
    x[:] = whole(rng, 2, 100)
    with HostArrays(first_runtime) as host:
        there = host.read(x, strided=True)
        assert there.base_data.size < 2**20
        assert np.array_equal(there.get(), x)


def test_a_call_that_raises_waits(runtime, rng, monkeypatch):
    """No kernel uses the memory after a call has raised, however late that was."""
    monkeypatch.setattr(runtime.memory, "shares_host", True)
    finished = []
    finish = runtime.finish
    monkeypatch.setattr(runtime, "finish", lambda: (finished.append(True), finish()))

    def fails(*_):
        raise RuntimeError("late")

    x = whole(rng, 1, 1, 30)
    monkeypatch.setattr(HostArrays, "values", fails)
    for call in (
        lambda: F.conv1d(x, whole(rng, 1, 1, 3)),
        lambda: signal.convolve(x[0], x[0, :, :3]),
    ):
        finished.clear()
        with pytest.raises(RuntimeError):
            call()
        assert finished
        assert not host._held


def test_memory_is_kept_if_waiting_fails(runtime, rng, monkeypatch):
    monkeypatch.setattr(runtime.memory, "shares_host", True)

    def interrupted():
        raise KeyboardInterrupt

    arrays = HostArrays(runtime)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt), arrays:
            arrays.read(whole(rng, 8))
    assert arrays in host._held
    runtime.finish()
    host._held.discard(arrays)


def test_too_large_results_are_refused(first_runtime):
    """Before NumPy makes room for them."""
    small = Runtime(first_runtime.device)
    small.memory._limits = type(small.profile)(**{**vars(small.profile), "max_alloc_bytes": 1000})
    x = np.zeros((1, 1, 200), np.float32)
    with pytest.raises(OutOfMemoryError, match="allocates at most 1000 bytes"):
        F.conv1d(x, np.zeros((2, 1, 1), np.float32), runtime=small)
