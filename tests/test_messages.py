"""Do errors name a way out that works?"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import clconv
from clconv import DeviceError, ProblemError, Runtime
from clconv import functional as F
from clconv.planning.profiles import profile

X, WEIGHT = np.ones((1, 2, 8), np.float32), np.ones((3, 2, 3), np.float32)


def test_dtypes():
    """What the message says to do is enough."""
    with pytest.raises(ProblemError, match=r"x has dtype int64.*: x\.astype\('float32'\)"):
        F.conv1d(X.astype(np.int64), WEIGHT)
    with pytest.raises(ProblemError, match=r"that of x: x\.astype\('float32'\) makes them alike"):
        F.conv1d(X.astype(np.float64), WEIGHT)
    with pytest.raises(ProblemError, match=r"that of x: weight\.astype\('float32'\)"):
        F.conv1d(X, WEIGHT.astype(np.float64))


def test_what_is_no_array():
    """Lists and tensors have their ways."""
    with pytest.raises(TypeError, match=r"x is a builtins\.list.*: numpy\.asarray"):
        F.conv1d(X.tolist(), WEIGHT)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"x is a torch\.Tensor.*: clconv\.torch"):
        F.conv1d(torch.ones(1, 2, 8), torch.ones(3, 2, 3))


def test_weights_of_a_layer():
    """Layers keep an axis of height."""
    of_layer = WEIGHT[:, :, None]
    with pytest.raises(ProblemError, match=r"\(3, 2, 1, 3\).*: weight\[:, :, 0\] is"):
        F.conv1d(X, of_layer)
    assert np.array_equal(F.conv1d(X, of_layer[:, :, 0]), F.conv1d(X, WEIGHT))


def test_whose_choice_of_a_device(monkeypatch):
    """The variable is named where it is at fault, and not where an argument is."""
    monkeypatch.setenv("CLCONV_DEVICE", "none such")
    with pytest.raises(DeviceError, match=r"^CLCONV_DEVICE is 'none such', which matches none of"):
        Runtime()
    with pytest.raises(DeviceError, match=r"^device is 'nor this', which matches none of"):
        Runtime("nor this")


@pytest.mark.parametrize(
    ("card", "name"),
    [("RTX 3080", "sm_86"), ("rtx-4090", "sm_86"), ("GeForce RTX 5070 Ti", "sm_120"),
     ("H100", "sm_90"), ("RX 6800 XT", "gfx1030"), ("Radeon RX 7900 XTX", "gfx1100"),
     ("MI300X", "gfx942"), ("Arc A770", "acm-g10"), ("gfx1101", "gfx1100"), ("zen4", "zen4")],
)  # fmt: skip
def test_cards(card, name):
    """Profiles are found by the names that cards are sold under."""
    assert profile(card).name == name


def test_modules_are_there_when_they_are_used():
    """`import clconv` imports no optional package, and its modules are attributes all the same."""
    code = (
        "import sys, clconv; "
        "assert not {'torch', 'onnx', 'scipy', 'dask', 'ml_dtypes'} & set(sys.modules); "
        "print(clconv.files.save_safetensors.__name__, 'clconv.streaming' in sys.modules, "
        "clconv.streaming.Stream.__name__, 'torch' in dir(clconv))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["save_safetensors", "False", "Stream", "True"]
    with pytest.raises(AttributeError, match="module 'clconv' has no attribute 'conv2d'"):
        _ = clconv.conv2d


def test_a_module_that_is_called():
    """`from clconv import conv1d` gives the layer's module, whose path is fixed."""
    with pytest.raises(TypeError, match=r"the function is clconv\.functional\.conv1d"):
        clconv.conv1d(X, WEIGHT)


def test_layers_without_a_name(first_runtime):
    """They are called by their class, not None."""
    conv = clconv.Conv1D(2, 3, 3)
    with pytest.raises(clconv.ModuleError, match=r"^the Conv1D: backward needs a forward call"):
        conv.backward(clconv.gpuarray.to_gpu(X))
    with pytest.raises(clconv.ModuleError, match=r"^the Conv1D has no variable 'w', it has: W, b"):
        conv.getVar("w")
    net = clconv.Sequential().append(conv)
    with pytest.raises(clconv.ModuleError, match=r"^<clconv\.Sequential>:\nData error in module 0"):
        net(clconv.gpuarray.to_gpu(X[:, :1]))


def test_arrays_of_two_runtimes(first_runtime):
    """What contexts are, and a way that works."""
    own, other = Runtime(first_runtime.device), Runtime(first_runtime.device)
    x, weight = own.to_device(X), other.to_device(WEIGHT)
    with pytest.raises(DeviceError, match=r"each Runtime has its own; .* \.get\(\) brings one"):
        F.conv1d(x, weight)
    assert F.conv1d(x, own.to_device(weight.get())).shape == (1, 3, 6)
