"""Is bfloat16 stored, summed and rounded as it should be, wherever it can be given?"""

from __future__ import annotations

import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch import nn

import clconv
from clconv import Conv1D, Conv1dProblem, Deconv1D, ModuleError, Pass, ProblemError, Sequential
from clconv import functional as F
from clconv.calls.elementwise import convert
from clconv.dtypes import dtype_of
from clconv.files import load_safetensors, save_safetensors
from clconv.testing import assert_exact, assert_right, integers, rounded_to
from clconv.torch import causal_conv1d_fn, conv1d, conv_transpose1d, memory, stream
from clconv.variants.base import EXACT

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BITS = np.arange(1 << 16, dtype=np.uint16)
EVERY = BITS.view(BFLOAT16)


def _same(found, wanted):
    """The same bits, whatever NaN's are."""
    assert found.dtype == wanted.dtype == BFLOAT16
    nan = np.isnan(wanted)
    assert np.isnan(found[nan]).all()
    np.testing.assert_array_equal(found[~nan].view(np.uint16), wanted[~nan].view(np.uint16))


def _nearest(value: Fraction) -> float:
    """The bfloat16 next to a normal number, the even one of two."""
    size, exponent = abs(value), 0
    while size >= 256:
        size, exponent = size / 2, exponent + 1
    while size < 128:
        size, exponent = size * 2, exponent - 1
    whole = round(size)  # Python's, to even
    return float(np.ldexp(float(whole), exponent)) * (1 if value > 0 else -1)


def test_every_value_is_converted(runtime):
    """From and to float32, all that there are: with ties, NaN, infinity, denormals, overflow."""
    wide = (BITS.astype(np.uint32) << 16).view(np.float32)
    found = convert(runtime, runtime.to_device(EVERY), np.float32).get()
    np.testing.assert_array_equal(found.view(np.uint32), wide.view(np.uint32))
    beside = [wide.view(np.uint32) + np.uint32(d) for d in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    values = np.concatenate(beside).view(np.float32)
    with np.errstate(invalid="ignore"):
        _same(convert(runtime, runtime.to_device(values), BFLOAT16).get(), values.astype(BFLOAT16))
        half = BITS.view(np.float16)
        found = convert(runtime, runtime.to_device(half), BFLOAT16).get()
        _same(found, half.astype(np.float32).astype(BFLOAT16))
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = wide.astype(np.float16)
    found = convert(runtime, runtime.to_device(EVERY), np.float16).get()
    np.testing.assert_array_equal(found, wanted)
    truth = convert(runtime, runtime.to_device(EVERY), bool).get()
    np.testing.assert_array_equal(truth, BITS & 0x7FFF != 0)


# What rounding to float32 first would make a tie of, and ties.
NEAR_TIES = [s * (1 + k * 2.0**-8 + e) for s in (1, -1) for k in (1, 2, 3) for e in (0, 2**-40)]


def test_wider_numbers_are_rounded_once(runtime, rng):
    """From float64, and from integers of 32 and 64 bits."""
    values = np.array([*NEAR_TIES, *rng.standard_normal(100)])
    wanted = [_nearest(Fraction(one)) for one in values]
    assert rounded_to(values, BFLOAT16).astype(np.float64).tolist() == wanted
    if runtime.profile.fp64:
        found = convert(runtime, runtime.to_device(values), BFLOAT16).get()
        assert found.astype(np.float64).tolist() == wanted
    for dtype, ties in (
        ("int64", 2**57 + 2**49),
        ("uint64", 2**63 + 2**55),
        ("int32", 2**30 + 2**22),
    ):
        numbers = [ties - 1, ties, ties + 1, np.iinfo(dtype).max, 1, 255, 257]
        if dtype[0] == "i":
            numbers += [-one for one in numbers] + [np.iinfo(dtype).min]
        found = convert(runtime, runtime.to_device(np.array(numbers, dtype)), BFLOAT16).get()
        assert found.astype(np.float64).tolist() == [_nearest(Fraction(int(n))) for n in numbers]


def test_every_value_through_a_convolution(runtime):
    """Kept by a weight of one, by vectors and by rows' ends; sums half-way between two numbers go
    to the even one. Devices may flush denormals."""
    usual = EVERY[(BITS & 0x7F80 != 0) & (BITS & 0x7F80 != 0x7F80)]
    shift = np.ldexp(1.0, np.frexp(usual.astype(np.float64))[1] - 9)
    for x in (
        np.stack([EVERY, np.zeros_like(EVERY)])[None],
        np.stack([usual, shift.astype(BFLOAT16)])[None],
        np.stack([usual, -shift.astype(BFLOAT16)])[None],
    ):
        weight = np.ones((1, 2, 1), BFLOAT16)
        problem = Conv1dProblem(1, 2, x.shape[2], 1, 1, dtype=BFLOAT16)
        with np.errstate(invalid="ignore"):
            sums = x.astype(np.float64).sum(axis=1)[0]
        wanted = rounded_to(sums, BFLOAT16)
        least = np.abs(sums) >= 2.0**-126
        known = least | ~np.isfinite(sums)
        for name in clconv.variants(problem, Pass.FORWARD):
            if runtime.plans(problem, Pass.FORWARD, variant=name)[0].error_class != EXACT.name:
                continue
            found = F.conv1d(x, weight, variant=name)[0, 0]
            _same(found[known], wanted[known])
            assert (np.abs(found[~known].astype(np.float64)) <= 2.0**-126).all()


def test_layers_and_files(first_runtime, rng):
    """A network trained for a step, and kept with every bit."""
    net = Sequential(name="net")
    net.append(Conv1D(4, 6, 3, pad=1, name="a"))
    net.append(Deconv1D(6, 2, 4, stride=2, name="b"))
    net.calcMode("bfloat16")
    for variable in net.getVarTable():
        variable.data.set(integers(rng, variable.data.shape, BFLOAT16, 2))
    x = first_runtime.to_device(integers(rng, (2, 4, 9), BFLOAT16, 2))
    y = net(x)
    assert y.dtype == BFLOAT16
    wide = torch.from_numpy(x.get().astype(np.float64))
    w, b, v, c = (
        torch.from_numpy(one.get().astype(np.float64))
        for one in (net["a"].W, net["a"].b, net["b"].W, net["b"].b)
    )
    hidden = TF.conv1d(wide, w[:, :, 0], b.ravel(), padding=1)
    assert hidden.abs().max() <= 256  # exact
    assert_exact(y, TF.conv_transpose1d(hidden, v[:, :, 0], c.ravel(), stride=2).numpy())
    grad = integers(rng, y.shape, BFLOAT16, 1)
    net.backward(first_runtime.to_device(grad))
    assert_exact(net["b"].vars["b"].grad.get().ravel(), grad.astype(np.float64).sum(axis=(0, 2)))
    image = save_safetensors(net)
    assert b'"BF16"' in image[:400]
    before = {name: one.get() for name, one in _values(net).items()}
    for variable in net.getVarTable():
        variable.data.set(np.zeros(variable.data.shape, BFLOAT16))
    load_safetensors(net, image)
    for name, one in _values(net).items():
        _same(one.get(), before[name])
    with pytest.raises(ModuleError, match=r"net\.a\.W has dtype bfloat16, which HDF5 has not"):
        net.save()
    net.calcMode("float32")
    with pytest.raises(ModuleError, match="expected bfloat16, or a narrower float"):
        load_safetensors(_in_bfloat16(Conv1D(2, 2, 3)), save_safetensors(Conv1D(2, 2, 3)))


def _values(net):
    return {names[0]: variable.data for variable, names in net.getVarTable().items()}


def _in_bfloat16(layer):
    layer.calcMode("bfloat16")
    return layer


def test_sequences(runtime, rng):
    """Causal convolutions of rows and of channels side by side."""
    x, weight = integers(rng, (2, 5, 40), BFLOAT16), integers(rng, (5, 4), BFLOAT16)
    problem = Conv1dProblem(2, 5, 40, 5, 4, padding=(3, 0), groups=5, dtype=BFLOAT16)
    arrays = {"x": x, "weight": weight[:, None]}
    beside = torch.from_numpy(x.view(np.int16)).transpose(1, 2).contiguous().transpose(1, 2)
    for tensor in (torch.from_numpy(x.view(np.int16)), beside):
        y = causal_conv1d_fn(tensor.view(torch.bfloat16), memory.tensor_of(weight))
        assert_right(memory.numpy_of(y), problem, "forward", arrays, largest=4)


# PyTorch


def test_tensors_are_read_in_place(first_runtime, monkeypatch):
    """Their own memory reaches the kernels, forward and backward, and results are rounded once."""
    seen = []
    real = memory.Arrays._add

    def recording(self, name, tensor, lies, address):
        seen.append((name, tensor.dtype, tensor.data_ptr()))
        real(self, name, tensor, lies, address)

    monkeypatch.setattr(memory.Arrays, "_add", recording)
    for ours, theirs, shape in (
        (conv1d, TF.conv1d, (6, 8, 3)), (conv_transpose1d, TF.conv_transpose1d, (8, 6, 3)),
    ):  # fmt: skip
        x, weight, bias = (
            torch.randint(-4, 5, size).bfloat16().requires_grad_()
            for size in ((2, 8, 40), shape, (6,))
        )
        y = ours(x, weight, bias, stride=2)
        given = {name: pointer for name, _, pointer in seen}
        assert given["x"] == x.data_ptr()
        assert given["weight"] == weight.data_ptr()
        assert given["out"] == y.data_ptr()
        wide = [one.detach().double().requires_grad_() for one in (x, weight, bias)]
        true = theirs(*wide, stride=2)
        assert torch.equal(y, true.bfloat16())
        grad = torch.randint(-4, 5, y.shape).bfloat16()
        y.backward(grad)
        true.backward(grad.double())
        for one, other in zip((x, weight, bias), wide, strict=True):
            assert torch.equal(one.grad, other.grad.bfloat16())
        assert {dtype for _, dtype, _ in seen} == {torch.bfloat16}
        seen.clear()


def test_streams_of_tensors(first_runtime):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3)).bfloat16()
    for weight in model.parameters():
        weight.data = torch.randint(-2, 3, weight.shape).bfloat16()
    x = torch.randint(-2, 3, (1, 2, 30)).bfloat16()
    chunks = stream(model)
    parts = [chunks(x[:, :, i : i + 7]) for i in range(0, 30, 7)]
    with torch.no_grad():
        assert torch.equal(torch.cat(parts, 2), model(x))


def test_without_the_package(first_runtime, monkeypatch):
    """An error that says what to install, before anything is done."""
    layer = Conv1D(1, 1, 2)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    message = r'pip install "clconv\[bfloat16\]"'
    for call in (
        lambda: dtype_of("bfloat16"),
        lambda: Conv1dProblem(1, 1, 4, 1, 2, dtype="bfloat16"),
        lambda: layer.calcMode("bfloat16"),
        lambda: clconv.gpuarray.zeros((2, 3), "bfloat16"),
    ):
        with pytest.raises((ProblemError, ModuleError), match=message):
            call()
    assert layer.calctype == np.float32
    memory._lies.cache_clear()
    with pytest.raises(ProblemError, match=message):
        conv1d(torch.ones(1, 1, 8).bfloat16(), torch.ones(1, 1, 2).bfloat16())
