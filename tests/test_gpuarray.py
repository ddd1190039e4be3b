"""gpuarray: arrays on the device, their copies and joins, of every dtype and stride."""

from __future__ import annotations

import numpy as np
import pyopencl.array as cl_array
import pytest

import clconv
from clconv import DeviceError, OutOfMemoryError, ProblemError, gpuarray

DTYPES = [np.float32, np.float16, np.float64]
OTHER_DTYPES = [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.complex64]

# Views of a (4, 6, 10) array.
VIEWS = {
    "whole": np.s_[:],
    "rows": np.s_[1:3],
    "channels": np.s_[:, 2:5],
    "positions": np.s_[:, :, 3:8],
    "every second of all": np.s_[::2, ::2, ::2],
    "one element of all": np.s_[3:4, 5:6, 9:10],
    "one batch element": np.s_[2],
    "one channel": np.s_[:, 4],
    "one position": np.s_[:, :, 7],
    "a column": np.s_[1, :, 2],
    "every third of a row": np.s_[1, 2, ::3],
    "backwards": np.s_[:, ::-1, ::-1],
    "nothing": np.s_[2:2, ::2, ::2],
}


def numbers(rng, shape, dtype):
    if np.dtype(dtype).kind in "fc":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def same_bits(device_array, expected):
    assert isinstance(device_array, cl_array.Array)
    assert device_array.shape == expected.shape
    assert device_array.dtype == expected.dtype
    assert device_array.flags.c_contiguous
    assert device_array.get().tobytes() == expected.tobytes()


# Making


@pytest.mark.parametrize("dtype", DTYPES + OTHER_DTYPES)
def test_to_gpu_and_back(runtime, rng, dtype):
    for shape in ((1,), (7,), (2, 3), (2, 3, 4), (2, 3, 1, 4), (0,), (2, 0, 3)):
        values = numbers(rng, shape, dtype)
        device = gpuarray.to_gpu(values)
        assert device.context == runtime.context
        same_bits(device, values)


def test_array_without_dimensions(runtime):
    values = np.array(2.5, np.float32)
    device = gpuarray.to_gpu(values)
    same_bits(device, values)
    same_bits(gpuarray.copy(device), values)
    same_bits(gpuarray.zeros(()), np.zeros((), np.float32))


def test_to_gpu_of_views_and_other_orders(runtime, rng):
    values = numbers(rng, (4, 6, 10), np.float32)
    for index in VIEWS.values():
        same_bits(gpuarray.to_gpu(values[index]), np.ascontiguousarray(values[index]))
    same_bits(gpuarray.to_gpu(np.asfortranarray(values)), values)
    same_bits(gpuarray.to_gpu(values.T), np.ascontiguousarray(values.T))


def test_to_gpu_copies(runtime):
    values = np.arange(6, dtype=np.float32)
    device = gpuarray.to_gpu(values)
    values[:] = -1
    np.testing.assert_array_equal(device.get(), np.arange(6))


@pytest.mark.parametrize("dtype", DTYPES + OTHER_DTYPES)
def test_zeros(runtime, dtype):
    for shape in (5, (5,), (2, 3, 4), [2, 3], (0, 4), (np.int64(2), 3)):
        same_bits(gpuarray.zeros(shape, dtype), np.zeros(shape, dtype))


def test_empty(runtime):
    for shape in (5, np.int64(5), (5,), (2, 3, 4), [2, 3], (0, 4)):
        for dtype in (np.float32, np.float16, "int32"):
            device = gpuarray.empty(shape, dtype)
            expected = np.empty(shape, dtype)
            assert device.shape == expected.shape
            assert device.dtype == expected.dtype
            assert device.context == runtime.context


def test_default_dtype_is_float32(runtime):
    assert gpuarray.zeros((2,)).dtype == np.float32
    assert gpuarray.empty((2,)).dtype == np.float32


@pytest.mark.parametrize("make", [gpuarray.empty, gpuarray.zeros])
@pytest.mark.parametrize("shape", [-1, (2, -1)], ids=str)
def test_negative_shape(runtime, make, shape):
    with pytest.raises(ValueError, match="-1"):
        make(shape)


def test_arrays_of_the_default_runtime(runtime):
    other = clconv.Runtime(runtime.device)
    with other:
        made = [
            gpuarray.zeros((2,)),
            gpuarray.empty((2,)),
            gpuarray.to_gpu(np.zeros(2, np.float32)),
        ]
    assert all(a.context == other.context for a in made)
    assert gpuarray.copy(made[0]).context == other.context
    assert gpuarray.concatenate(made[:1]).context == other.context


def test_more_than_the_device_has(runtime):
    # The guarded runtime allocates without asking how much there is; an ordinary one asks.
    with clconv.Runtime(runtime.device) as ordinary:
        wanted = 2 * ordinary.memory_info()["largest"]
        for make in (gpuarray.empty, gpuarray.zeros):
            with pytest.raises(OutOfMemoryError, match=str(wanted)):
                make((wanted,), np.uint8)


# Copies


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_copy_of_views(runtime, rng, dtype, view):
    values = numbers(rng, (4, 6, 10), dtype)
    whole = gpuarray.to_gpu(values)
    source = whole[VIEWS[view]]
    copied = gpuarray.copy(source)
    same_bits(copied, np.ascontiguousarray(values[VIEWS[view]]))
    same_bits(whole, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_keeps_special_values(runtime, dtype):
    info = np.finfo(dtype)
    values = [0.0, -0.0, np.inf, -np.inf, info.max, info.tiny, info.smallest_subnormal, 1, -1]
    values = np.array(values, dtype)
    for device in (gpuarray.to_gpu(values), gpuarray.to_gpu(values.repeat(2))[::2]):
        same_bits(gpuarray.copy(device), values)
    values = np.array([np.nan, 1, np.nan], dtype)
    np.testing.assert_array_equal(gpuarray.copy(gpuarray.to_gpu(values)).get(), values)


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_copy_of_other_dtypes(runtime, rng, dtype):
    values = numbers(rng, (3, 5), dtype)
    device = gpuarray.to_gpu(values)
    same_bits(gpuarray.copy(device), values)
    same_bits(gpuarray.copy(device[:, ::2]), np.ascontiguousarray(values[:, ::2]))


def test_copy_of_other_shapes(runtime, rng):
    for shape in ((1,), (7,), (2, 3), (2, 3, 1, 4), (2, 2, 2, 2, 2)):
        values = numbers(rng, shape, np.float32)
        same_bits(gpuarray.copy(gpuarray.to_gpu(values)), values)


def test_copy_of_a_view_of_weights(runtime, rng):
    values = numbers(rng, (4, 3, 1, 5), np.float32)
    device = gpuarray.to_gpu(values)
    for index in (np.s_[::2, :, :, 1:4], np.s_[:, 1:, :, ::2], np.s_[:, :, :, :3]):
        same_bits(gpuarray.copy(device[index]), np.ascontiguousarray(values[index]))


def test_copy_of_a_transposed_array(runtime, rng):
    values = numbers(rng, (4, 3, 5), np.float32)
    device = gpuarray.to_gpu(values).transpose((2, 0, 1))
    same_bits(gpuarray.copy(device), np.ascontiguousarray(values.transpose((2, 0, 1))))


def test_copy_is_a_copy(runtime):
    device = gpuarray.to_gpu(np.arange(6, dtype=np.float32))
    copied = gpuarray.copy(device)
    copied.set(np.zeros(6, np.float32))
    same_bits(device, np.arange(6, dtype=np.float32))


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), [1.0], None], ids=["numpy", "list", ""])
def test_copy_of_what_is_no_device_array(runtime, wrong):
    with pytest.raises(TypeError) as caught:
        gpuarray.copy(wrong)
    assert isinstance(caught.value, ProblemError)


# Joins


@pytest.mark.parametrize("dtype", [*DTYPES, np.uint8, np.int64])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_concatenate(runtime, rng, dtype, axis):
    shape = [2, 3, 4, 5]
    parts = []
    for size in (1, 3, 0, 2):
        shape[axis] = size
        parts.append(numbers(rng, shape, dtype))
    devices = [gpuarray.to_gpu(part) for part in parts]
    same_bits(gpuarray.concatenate(devices, axis), np.concatenate(parts, axis))
    for device, part in zip(devices, parts, strict=True):
        same_bits(device, part)


def test_concatenate_takes_axis_0_unless_told(runtime, rng):
    parts = [numbers(rng, (n, 3), np.float32) for n in (2, 1)]
    devices = tuple(gpuarray.to_gpu(part) for part in parts)
    same_bits(gpuarray.concatenate(devices), np.concatenate(parts))
    same_bits(gpuarray.concatenate(devices, axis=0), np.concatenate(parts))
    vectors = [gpuarray.to_gpu(part[0]) for part in parts]
    same_bits(gpuarray.concatenate(vectors), np.concatenate([part[0] for part in parts]))


def test_concatenate_of_one_is_a_copy(runtime, rng):
    values = numbers(rng, (2, 3), np.float32)
    device = gpuarray.to_gpu(values)
    joined = gpuarray.concatenate([device], 1)
    joined.set(np.zeros((2, 3), np.float32))
    same_bits(device, values)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenate_of_the_same_array(runtime, rng, axis):
    values = numbers(rng, (2, 3, 4), np.float32)
    device = gpuarray.to_gpu(values)
    same_bits(gpuarray.concatenate([device] * 3, axis), np.concatenate([values] * 3, axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenate_of_views(runtime, rng, dtype, axis):
    first, second = numbers(rng, (4, 6, 10), dtype), numbers(rng, (4, 6, 10), dtype)
    a, b = np.s_[::2, 1:4, ::2], np.s_[1:3, ::2, 3:8]
    got = gpuarray.concatenate([gpuarray.to_gpu(first)[a], gpuarray.to_gpu(second)[b]], axis)
    same_bits(got, np.concatenate([first[a], second[b]], axis))


def test_concatenate_of_views_of_weights(runtime, rng):
    values = numbers(rng, (4, 3, 2, 5), np.float32)
    device = gpuarray.to_gpu(values)
    index = np.s_[::2, 1:, :, ::2]
    got = gpuarray.concatenate([device[index], device[index]], 3)
    same_bits(got, np.concatenate([values[index], values[index]], 3))


def test_wrong_arrays_for_concatenate(runtime):
    zeros = gpuarray.zeros((2, 3))
    with pytest.raises(ProblemError, match="arrays"):
        gpuarray.concatenate([])
    with pytest.raises(ProblemError, match=r"arrays\[1\].*float16.*float32"):
        gpuarray.concatenate([zeros, gpuarray.zeros((2, 3), np.float16)])
    for shape in ((2, 4), (2,), (2, 3, 1)):
        with pytest.raises(ProblemError, match=r"arrays\[1\]"):
            gpuarray.concatenate([zeros, gpuarray.zeros(shape)], 0)
    for axis in (2, -3):
        with pytest.raises(ProblemError, match=f"axis is {axis}"):
            gpuarray.concatenate([zeros, zeros], axis)
    with pytest.raises(ProblemError):
        gpuarray.concatenate([gpuarray.zeros(())], 0)
    for wrong in ([zeros, np.zeros((2, 3), np.float32)], [np.zeros((2, 3), np.float32), zeros]):
        with pytest.raises(TypeError) as caught:
            gpuarray.concatenate(wrong)
        assert isinstance(caught.value, ProblemError)


def test_concatenate_of_two_contexts(runtime):
    other = clconv.Runtime(runtime.device)
    for arrays in (
        [gpuarray.zeros((2, 3)), other.zeros((2, 3))],
        [gpuarray.zeros((2, 3)), other.zeros((4, 6))[::2, ::2]],
    ):
        with pytest.raises(DeviceError) as caught:
            gpuarray.concatenate(arrays)
        for context in (runtime.context, other.context):
            assert f"{context.int_ptr:#x}" in str(caught.value)


# What pyopencl's arrays bring


def test_methods_of_the_arrays(runtime):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    device = gpuarray.to_gpu(values)
    assert device.shape == (2, 3)
    assert device.dtype == np.float32
    assert device.nbytes == 24
    same_bits(device.reshape(3, 2), values.reshape(3, 2))
    same_bits(device.ravel(), values.ravel())
    same_bits(device.copy(), values)
    same_bits(device.astype(np.int32), values.astype(np.int32))
    same_bits(2 * device + device, 3 * values)
    device.fill(np.float32(4))
    same_bits(device, np.full((2, 3), 4, np.float32))
    device.set(values)
    same_bits(device, values)
