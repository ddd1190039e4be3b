"""What optional packages of any allowed version must do for clconv, and floors that are readable.

Nothing here needs PyTorch: `tools/check/oldest.py` runs it with the oldest release of each package.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import helper

import clconv
from clconv import Conv1D, Pad1D, Sequential, gpuarray
from clconv.files import build, load_safetensors, save_safetensors
from clconv.onnx import Backend


def net():
    first = Conv1D(2, 3, 3, pad=1, activation="gelu", name="first")
    return Sequential().append(Pad1D(1, "reflect")).append(first).append(Conv1D(3, 1, 1))


def test_layers_learn(runtime, rng):
    one = net()
    x = gpuarray.to_gpu(rng.standard_normal((4, 2, 30)).astype(np.float32))
    target = gpuarray.to_gpu(rng.standard_normal((4, 1, 32)).astype(np.float32))
    costs = []
    for _ in range(10):
        error = target - one(x)
        costs.append(float((error.get() ** 2).mean()))
        one.zeroGradParams()
        one.backward(error, updGrad=False, scale=0.5 / error.size)
        one.updateParams(1.0)
    assert costs[-1] < costs[0]


def test_hdf5(runtime, tmp_path):
    one, other = net(), net()
    one.save(tmp_path / "net.hdf", withBlueprint=True)
    other.load(tmp_path / "net.hdf")
    other.load(one.save())
    for mine, its in zip(one.getVarTable(), other.getVarTable(), strict=True):
        np.testing.assert_array_equal(its.data.get(), mine.data.get())
    again = build(clconv.files.blueprint_of(tmp_path / "net.hdf"))
    assert again.getBlueprint() == one.getBlueprint()


def test_safetensors(runtime):
    one, other = net(), net()
    image = save_safetensors(one)
    load_safetensors(other, image)
    for name, array in safetensors.numpy.load(image).items():
        np.testing.assert_array_equal(
            other.getVar(name.replace("weight", "W").replace("bias", "b")).data.get().ravel(),
            array.ravel(),
        )


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_onnx(runtime, rng, kind):
    x = rng.integers(-4, 5, (2, 3, 9)).astype(np.float32)
    w = rng.integers(-4, 5, (3, 3, 2)).astype(np.float32)
    node = helper.make_node(kind, ["x", "w"], ["y"], strides=[2])
    (y,) = Backend.run_node(node, [x, w], opset_version=min(19, onnx.defs.onnx_opset_version()))
    function = {
        "Conv": clconv.functional.conv1d,
        "ConvTranspose": clconv.functional.conv_transpose1d,
    }
    np.testing.assert_array_equal(y, function[kind](x, w, stride=2))


def test_floors():
    """Each requirement has one; what has none is an error, not left out."""
    oldest = pytest.importorskip("oldest", reason="it reads TOML with Python 3.11 or later")
    project = oldest.tomllib.loads((oldest.ROOT / "pyproject.toml").read_text())["project"]
    found = oldest.floors(project)
    assert {"pyopencl", "numpy", "mako", "platformdirs", "onnx", "h5py", "safetensors"} < set(found)
    project["dependencies"].append("something")
    with pytest.raises(ValueError, match="'something' has no floor"):
        oldest.floors(project)
