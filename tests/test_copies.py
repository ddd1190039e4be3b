"""Copies and pickles of layers, variables and streams: alike, and with nothing in common."""

from __future__ import annotations

import copy
import pickle
import pickletools
import subprocess
import sys
from collections import OrderedDict, namedtuple

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pytest

import clconv
from clconv import Conv1D, Deconv1D, Module, ModuleError, Pad1D, Sequential, Variable, gpuarray
from clconv.streaming import StreamingConv1D, StreamingSequential

WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "pickle of the oldest protocol": lambda one: pickle.loads(pickle.dumps(one, protocol=0)),
}

Pair = namedtuple("Pair", ["left", "right"])


@pytest.fixture(params=WAYS)
def copied(request):
    """A way to copy."""
    return WAYS[request.param]


def integers(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


def filled(module, rng):
    for variable in module.getVarTable():
        for array in (variable.data, variable.grad):
            if array is not None:
                array.set(integers(rng, *array.shape).astype(array.dtype))
    return module


def net(runtime=None):
    inner = Sequential("inner").append(Conv1D(2, 4, 3, activation="gelu", name="a"))
    inner.append(Deconv1D(4, 2, 2, stride=2, useBias=False, name="b"))
    first = Conv1D(2, 2, 3, pad=1, activation=("leaky_relu", 0.25), runtime=runtime)
    return Sequential("net").append(Pad1D((2, 1), "reflect")).append(first).append(inner)


def memory(array):
    return array.base_data.int_ptr


def arrays_of(module):
    return [a for v in module.getVarTable() for a in (v.data, v.grad) if a is not None]


def test_alike(runtime, rng, copied):
    """Values, gradients, names, modes; another call gives the same bits."""
    one = filled(net(), rng)
    one.evalMode()
    one["inner"]["a"].trainMode()
    x = gpuarray.to_gpu(integers(rng, 2, 2, 9))
    y = one(x).get()
    other = copied(one)
    assert other.getVarTable().keys().isdisjoint(one.getVarTable())
    assert list(other.getVarTable().values()) == list(one.getVarTable().values())
    for mine, its in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_array_equal(its.get(), mine.get())
        assert its.context == runtime.context
    assert other.getBlueprint() == one.getBlueprint()
    assert [m.train for m in other] == [m.train for m in one]
    assert other["inner"]["a"].train
    np.testing.assert_array_equal(other(x).get(), y)


def test_nothing_in_common(runtime, rng, copied):
    """Training the copy leaves the original alone, and the other way round."""
    one = filled(net(), rng)
    x = gpuarray.to_gpu(integers(rng, 2, 2, 9))
    grad = gpuarray.to_gpu(np.ones(one(x).shape, np.float32))
    one.backward(grad)
    other = copied(one)
    for trained, left in ((other, one), (one, other)):
        before = [a.get() for a in arrays_of(left)]
        trained(x)
        trained.backward(grad)
        trained.updateParams(0.5)
        for array, old in zip(arrays_of(left), before, strict=True):
            np.testing.assert_array_equal(array.get(), old)
    assert {memory(a) for a in arrays_of(one)}.isdisjoint(memory(a) for a in arrays_of(other))


def test_no_data_of_the_last_call(runtime, rng, copied):
    one = filled(net(), rng)
    y = one(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    one.backward(y)
    before = [one.data, one.grad, one[1].data]
    other = copied(one)
    for module in (other, *other, *other["inner"]):
        assert module.inData is None
        assert module.data is None
        assert module.grad is None
    with pytest.raises(ModuleError, match="backward needs a forward call before it"):
        other.backward(y)
    assert [one.data, one.grad, one[1].data] == before or all(
        a is b for a, b in zip([one.data, one.grad, one[1].data], before, strict=True)
    )


def test_shared_variables_stay_shared(runtime, rng, copied):
    one = Sequential().append(Conv1D(2, 2, 3, name="a")).append(Conv1D(2, 2, 3, name="b"))
    one.setVar("b.W", one.getVar("a.W"))
    array = gpuarray.zeros((1, 2, 1, 1))
    one.setVar("a.b", Variable(array))
    one.setVar("b.b", Variable(array))  # two variables of one array
    other = copied(filled(one, rng))
    assert other.getVar("b.W") is other.getVar("a.W")
    assert other.getVar("b.b") is not other.getVar("a.b")
    assert other.getVar("b.b").data is other.getVar("a.b").data
    assert other.getVar("a.W") is not one.getVar("a.W")


def test_layers_alone(runtime, rng, copied):
    for one in (
        Conv1D(2, 3, 3, name="c", groups=1, stride=2),
        Deconv1D(2, 3, 3, postpad=1, stride=2),
        Pad1D(1, fillValue=2.5),
        Conv1D(2, 3, 3, empty=True),
        Sequential(),
    ):
        other = copied(filled(one, rng))
        assert type(other) is type(one)
        assert other.getBlueprint() == one.getBlueprint()
        if not getattr(one, "_scheme", {}).get("empty"):
            x = gpuarray.to_gpu(integers(rng, 1, 2, 9))
            np.testing.assert_array_equal(other(x).get(), one(x).get())


@pytest.mark.one_of(2)
def test_dtypes(runtime, rng, copied):
    for dtype in (np.float16, np.float64):
        if dtype == np.float64 and not runtime.profile.fp64:
            continue
        one = filled(net(), rng)
        one.calcMode(dtype)
        other = copied(one)
        x = gpuarray.to_gpu(integers(rng, 1, 2, 9).astype(dtype))
        np.testing.assert_array_equal(other(x).get(), one(x).get())
        assert {a.dtype for a in arrays_of(other)} == {np.dtype(dtype)}


def halve(variable, rate):
    """An update of one's own, which a pickle names."""
    variable.data.set(variable.data.get() / 2)


def test_variables(runtime, rng, copied):
    one = Variable(integers(rng, 2, 3), "w", grad=integers(rng, 2, 3), updater=halve)
    one.learnRate, one.wc = 0.5, 0.1
    other = copied(one)
    assert (other.name, other.learnRate, other.wc, other.updater) == ("w", 0.5, 0.1, halve)
    np.testing.assert_array_equal(other.data.get(), one.data.get())
    np.testing.assert_array_equal(other.grad.get(), one.grad.get())
    before = one.data.get()
    other.update(1.0)
    np.testing.assert_array_equal(one.data.get(), before)
    assert copied(Variable(integers(rng, 2), withgrad=False)).grad is None


def test_views_and_empty_arrays(runtime, rng, copied):
    whole = gpuarray.to_gpu(integers(rng, 4, 6))
    other = copied(Variable(whole[:, 1::2], grad=whole[:, ::2]))
    np.testing.assert_array_equal(other.data.get(), whole.get()[:, 1::2])
    np.testing.assert_array_equal(other.grad.get(), whole.get()[:, ::2])
    assert copied(Variable(gpuarray.zeros((0, 3)))).data.shape == (0, 3)


class Own(Module):
    """A layer of one's own, with arrays wherever one may put them."""

    def __init__(self):
        super().__init__("own")
        self.mask = gpuarray.zeros((3,))
        self.same = self.mask
        self.attrs["mean"] = gpuarray.zeros((2,))
        self.attrs["count"] = np.array(3)
        self.several = [self.mask, Pair(gpuarray.zeros((1,)), "right"), {"x": (self.mask, 1)}]
        self.ordered = OrderedDict(a=gpuarray.zeros((1,)), b=2)
        self.parent = None


def test_attributes_of_ones_own(runtime, copied):
    one = Own()
    one.parent = one  # a circle
    one.mask.fill(1)
    other = copied(one)
    assert isinstance(other.mask, cl_array.Array)
    assert memory(other.mask) != memory(one.mask)
    assert other.same is other.mask
    assert other.several[0] is other.mask
    assert other.several[2]["x"][0] is other.mask
    assert type(other.several[1]) is Pair
    assert other.several[1].right == "right"
    assert memory(other.several[1].left) != memory(one.several[1].left)
    assert type(other.ordered) is OrderedDict
    assert list(other.ordered) == ["a", "b"]
    assert memory(other.ordered["a"]) != memory(one.ordered["a"])
    assert memory(other.attrs["mean"]) != memory(one.attrs["mean"])
    assert other.parent is other
    assert other.mask.get().tolist() == [1, 1, 1]
    assert isinstance(one.several[0], cl_array.Array)  # the original keeps its own


def test_shallow_copy(runtime, rng):
    one = filled(net(), rng)
    x = gpuarray.to_gpu(integers(rng, 1, 2, 9))
    one(x)
    other = copy.copy(one)
    assert other.graph is one.graph
    assert other.data is one.data
    variable = copy.copy(one[1].getVar("W"))
    assert variable.data is one[1].W


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_streams(runtime, rng, copied, cut):
    """A copy goes on from where the original is; each has its own signal after."""
    conv = filled(Conv1D(2, 3, 3, stride=2, pad=2), rng)
    chain = Sequential().append(Pad1D((3, 2), "reflect")).append(conv)
    for stream in (StreamingConv1D(conv), StreamingSequential(chain)):
        whole = stream.module(gpuarray.to_gpu(x := integers(rng, 1, 2, 14))).get()
        start = stream(gpuarray.to_gpu(x[:, :, :cut])).get()
        other = copied(stream)
        stream.module.getVarTable()  # the original's own parameters stay in use
        for one in (other, stream):
            rest = [one(gpuarray.to_gpu(x[:, :, cut:])).get(), one.flush().get()]
            np.testing.assert_array_equal(np.concatenate([start, *rest], axis=2), whole)
        assert other.module is not stream.module


def test_after_tuning(runtime, rng, copied):
    one = filled(Conv1D(2, 3, 3), rng)
    one.optimizeForShape((1, 2, 9))
    other = copied(one)
    assert other._chosen == one._chosen
    x = gpuarray.to_gpu(integers(rng, 1, 2, 9))
    np.testing.assert_array_equal(other(x).get(), one(x).get())


def test_which_runtime(runtime, rng):
    """A copy is on the same runtime, what is read from a pickle on the default one."""
    with clconv.Runtime(runtime.device) as own:
        one = filled(net(own), rng)
        image = pickle.dumps(one)
    other = copy.deepcopy(one)
    assert other[1].runtime is own
    assert other[1].W.context == own.context
    assert copy.deepcopy(own) is own
    read = pickle.loads(image)
    assert read[1].runtime is runtime
    assert {a.context for a in arrays_of(read)} == {runtime.context}
    assert pickle.loads(pickle.dumps(own)) is runtime


def test_a_pickle_has_numbers_only(runtime, rng):
    """It names NumPy's and clconv's own, and nothing of OpenCL."""
    image = pickle.dumps(filled(net(), rng))
    names = {str(argument) for _, argument, _ in pickletools.genops(image) if argument is not None}
    assert not any("pyopencl" in name for name in names)


def test_in_another_process(runtime, rng, tmp_path):
    """As data loaders and joblib send them."""
    one = filled(net(), rng)
    x = integers(rng, 1, 2, 9)
    path = tmp_path / "net.pickle"
    path.write_bytes(pickle.dumps((one, x)))
    code = (
        "import pathlib, pickle, sys, clconv\n"
        f"with clconv.Runtime({runtime.info.id!r}):\n"
        "    net, x = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "    y = net(clconv.gpuarray.to_gpu(x)).get()\n"
        "pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(y))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    np.testing.assert_array_equal(pickle.loads(path.read_bytes()), one(gpuarray.to_gpu(x)).get())


@pytest.mark.parametrize("where", ["alone", "in a list"])
def test_what_cannot_be_copied(runtime, where):
    """The error names the layer, the attribute and what it has."""
    values = {
        "buffer": cl.Buffer(runtime.context, cl.mem_flags.READ_WRITE, 8),
        "queue": runtime.queue,
        "context": runtime.context,
        "function": lambda x: x,
    }
    for name, value in values.items():
        layer = Conv1D(1, 1, 1, name="c")
        layer.extra = [value] if where == "in a list" else value
        message = r"<clconv\.Conv1D c> cannot be pickled: attribute extra has "
        with pytest.raises(ModuleError, match=message):
            pickle.dumps(layer)
        if name == "buffer":
            with pytest.raises(ModuleError, match=message.replace("pickled", "copied")):
                copy.deepcopy(layer)
        else:
            extra = copy.deepcopy(layer).extra
            assert (extra[0] if where == "in a list" else extra) is value
    variable = Variable(gpuarray.zeros((1,)), "v", updater=lambda variable, rate: None)
    with pytest.raises(ModuleError, match=r"Variable v .*cannot be pickled: attribute updater"):
        pickle.dumps(variable)
