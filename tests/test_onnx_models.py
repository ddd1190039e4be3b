"""Whole ONNX models: what is joined, what is recorded, and what runs on the host."""

from __future__ import annotations

import sys
import threading
import types

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from clconv import ProblemError, testing
from clconv.dtypes import dtype_of
from clconv.onnx import Backend, host, report
from clconv.onnx.evaluator import Evaluator

OPSET = 20
FLOAT = TensorProto.FLOAT


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def model_of(nodes, shape=(1, 4, "L"), constants=None, outputs=("y",), opset=OPSET, inputs=()):
    """A model of an input x, with constants by name."""
    weights = [numpy_helper.from_array(np.asarray(one), name)
               for name, one in (constants or {}).items()]  # fmt: skip
    given = [helper.make_tensor_value_info("x", FLOAT, shape), *inputs]
    made = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "model", given, made, weights)
    ready = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(ready)


def prepared_of(runtime, model):
    return Backend.prepare(model, runtime)


def reference(model, **feeds):
    return Evaluator(model).run(None, feeds)


def runs(runtime, model, launches=None, **feeds):
    """The first output, the same twice; how many kernels a recorded run queues is checked."""
    prepared = prepared_of(runtime, model)
    first = prepared.run(feeds)
    before = runtime.launches
    again = prepared.run(feeds)
    if launches is not None:
        assert runtime.launches - before == launches, prepared.placed
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return first[0]


# What is joined


def test_what_follows_a_convolution_is_in_its_kernel(first_runtime, rng):
    """Bias, residual and activation, with what is cut off: one launch, exact on integers."""
    w, square = integers(rng, 5, 4, 3), integers(rng, 4, 4, 3)
    conv = node("Conv", ["x", "w"], ["c"], pads=[2, 2])
    x = integers(rng, 2, 4, 19)
    cut = {"from": np.array([0]), "to": np.array([-2]), "axis": np.array([2])}
    cases = (
        ([conv, node("Relu", ["c"], ["y"])], {"w": w}),
        ([conv, node("LeakyRelu", ["c"], ["y"], alpha=0.25)], {"w": w}),
        ([conv, node("Slice", ["c", "from", "to", "axis"], ["y"])], {"w": w, **cut}),
        ([conv, node("Add", ["c", "b"], ["y"])], {"w": w, "b": integers(rng, 5, 1)}),
        ([node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("Add", ["x", "c"], ["a"]),
          node("Relu", ["a"], ["y"])], {"w": square}),
        ([node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
          node("Conv", ["x", "w"], ["d"], pads=[1, 1]), node("Add", ["d", "c"], ["a"]),
          node("Clip", ["a", "zero"], ["y"])], {"w": square, "zero": np.float32(0)}),
        ([node("ConvTranspose", ["x", "w"], ["c"], strides=[2]), node("Relu", ["c"], ["d"]),
          node("Identity", ["d"], ["y"])], {"w": square}),
        # What comes after an activation or a residual has a kernel of its own.
        ([node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("Relu", ["c"], ["d"]),
          node("Add", ["d", "x"], ["y"])], {"w": square}),
        ([node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("Add", ["c", "x"], ["a"]),
          node("Add", ["a", "x"], ["y"])], {"w": square}),
    )  # fmt: skip
    for i, (nodes, constants) in enumerate(cases):
        model = model_of(nodes, (2, 4, "L"), constants)
        convolutions = sum(one.op_type.startswith("Conv") for one in nodes)
        y = runs(first_runtime, model, convolutions + (i >= len(cases) - 2), x=x)
        np.testing.assert_array_equal(y, reference(model, x=x)[0], err_msg=str(nodes))


def gelu(x, y, swapped=False):
    """As PyTorch's older exporter writes it, or with the half first."""
    nodes = [node("Div", [x, "root"], ["g1"]), node("Erf", ["g1"], ["g2"]),
             node("Add", ["g2", "one"], ["g3"])]  # fmt: skip
    if swapped:
        return [*nodes, node("Mul", ["half", x], ["g4"]), node("Mul", ["g4", "g3"], [y])]
    return [*nodes, node("Mul", [x, "g3"], ["g4"]), node("Mul", ["g4", "half"], [y])]


def test_activations_as_exporters_write_them(first_runtime, rng):
    w = testing.normals(rng, (4, 4, 3), np.float32)
    x = testing.normals(rng, (1, 4, 19), np.float32)
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    conv = node("Conv", ["x", "w"], ["c"], pads=[1, 1])
    for rest, activation in (
        (gelu("c", "y"), "gelu"),
        (gelu("c", "y", swapped=True), "gelu"),
        ([node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])], "silu"),
    ):
        model = model_of([conv, *rest], constants={"w": w, **numbers})
        y = runs(first_runtime, model, 1, x=x)
        torch_y = torch.conv1d(
            torch.from_numpy(x).double(), torch.from_numpy(w).double(), padding=1
        )
        expected = getattr(torch.nn.functional, activation)(torch_y).numpy()
        magnitudes = torch.conv1d(
            torch.from_numpy(abs(x)).double(), torch.from_numpy(abs(w)).double(), padding=1
        )
        u = testing.unit_roundoff(np.float32)
        one = testing.ACTIVATIONS[activation]
        bound = one.lipschitz * testing.gamma(12, np.float32) * magnitudes.numpy()
        bound += u * (2 * one.ulps * abs(expected) + one.roundoffs)
        testing.assert_within_bound(y, expected, bound, activation)


def test_an_activation_whose_parts_are_used_elsewhere_is_left_alone(first_runtime, rng):
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    model = model_of(gelu("x", "y"), constants=numbers, outputs=("y", "g2"))
    x = integers(rng, 1, 4, 9)
    prepared = prepared_of(first_runtime, model)
    y, erf = prepared.run([x])
    expected = reference(model, x=x)
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(erf, expected[1], rtol=1e-5, atol=1e-6)
    assert "Erf" in [one.node.op for one in prepared.placed]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_normalisation_in_the_weights(first_runtime, rng, op):
    """Exact where the deviations are powers of two."""
    w, x = integers(rng, 4, 4, 3), integers(rng, 2, 4, 17)
    constants = {
        "w": w, "b": integers(rng, 4), "scale": np.float32([1, 2, -1, 4]),
        "shift": integers(rng, 4), "mean": integers(rng, 4), "var": np.float32([1, 4, 16, 4]),
    }  # fmt: skip
    names = ["c", "scale", "shift", "mean", "var"]
    model = model_of(
        [node(op, ["x", "w", "b"], ["c"], strides=[2]),
         node("BatchNormalization", names, ["n"], epsilon=0.0), node("Relu", ["n"], ["y"])],
        (2, 4, "L"), constants,
    )  # fmt: skip
    y = runs(first_runtime, model, 1, x=x)
    np.testing.assert_array_equal(y, reference(model, x=x)[0])
    alone = model_of(
        [node("BatchNormalization", ["x", *names[1:]], ["y"], epsilon=0.0)], (2, 4, "L"), constants
    )
    np.testing.assert_array_equal(runs(first_runtime, alone, 1, x=x), reference(alone, x=x)[0])


def test_elementwise_nodes_are_one_kernel(runtime, rng):
    """A gate of two halves that are read where they lie, then a residual."""
    nodes = [
        node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        node("Abs", ["a"], ["c"]), node("Relu", ["b"], ["d"]), node("Mul", ["c", "d"], ["e"]),
        node("Add", ["e", "a"], ["f"]), node("Sub", ["f", "k"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, ("N", 4, "L"), {"k": integers(rng, 2, 1)})
    for shape in ((1, 4, 1), (3, 4, 33)):
        x = integers(rng, *shape)
        np.testing.assert_array_equal(runs(runtime, model, 1, x=x), reference(model, x=x)[0])


def test_products_of_matrices(first_runtime, rng):
    x = integers(rng, 3, 4, 7)
    for nodes, constants, shape in (
        ([node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
         {"w": integers(rng, 7, 5), "b": integers(rng, 5)}, (3, 4, 7)),
        ([node("Gemm", ["x", "w", "b"], ["g"], transB=1), node("Relu", ["g"], ["y"])],
         {"w": integers(rng, 6, 7), "b": integers(rng, 6)}, (4, 7)),
        ([node("Gemm", ["x", "w"], ["y"])], {"w": integers(rng, 7, 2)}, (4, 7)),
        ([node("MatMul", ["x", "w"], ["m"]), node("Slice", ["m", "i", "j", "k"], ["y"])],
         {"w": integers(rng, 7, 4), "i": np.array([0]), "j": np.array([-1]), "k": np.array([2])},
         (3, 4, 7)),
    ):  # fmt: skip
        model, given = model_of(nodes, shape, constants), x if len(shape) == 3 else x[0]
        copies = nodes[-1].op_type == "Slice"  # of columns, which are no positions
        y = runs(first_runtime, model, 3 + copies, x=given)  # rows turn into columns and back
        np.testing.assert_array_equal(y, reference(model, x=given)[0])
    # The channels of a normalisation are not the columns of the product.
    statistics = dict(zip("abcd", (*integers(rng, 3, 4), np.float32([1, 4, 4, 1])), strict=True))
    nodes = [node("MatMul", ["x", "w"], ["m"]),
             node("BatchNormalization", ["m", *statistics], ["y"], epsilon=0.0)]  # fmt: skip
    model = model_of(nodes, (3, 4, 7), {"w": integers(rng, 7, 4), **statistics})
    y = runs(first_runtime, model, 4, x=x)
    np.testing.assert_array_equal(y, reference(model, x=x)[0])
    # One row does not turn, and channels that have just turned need not.
    model = model_of([node("Gemm", ["x", "w"], ["y"])], ("N", 7), {"w": integers(rng, 7, 2)})
    y = runs(first_runtime, model, 1, x=x[0, :1])
    np.testing.assert_array_equal(y, reference(model, x=x[0, :1])[0])
    turn = {"perm": [0, 2, 1]}
    nodes = [node("Transpose", ["x"], ["t"], **turn), node("MatMul", ["t", "w"], ["m"]),
             node("Add", ["m", "b"], ["a"]), node("Transpose", ["a"], ["y"], **turn)]  # fmt: skip
    constants = {"w": integers(rng, 4, 5), "b": integers(rng, 5)}
    model = model_of(nodes, (3, 4, 7), constants)
    y = runs(first_runtime, model, 1, x=x)
    np.testing.assert_array_equal(y, reference(model, x=x)[0])


def test_two_dimensional_nodes_of_one_axis(first_runtime, rng):
    """Conv of 1 x K and K x 1, as Keras's models become, between transposes that cancel."""
    x = integers(rng, 2, 4, 1, 17)
    conv = node("Conv", ["x", "w", "b"], ["c"], pads=[0, 2, 0, 1], strides=[1, 2])
    constants = {"w": integers(rng, 6, 4, 1, 3), "b": integers(rng, 6)}
    model = model_of([conv, node("Relu", ["c"], ["y"])], (2, 4, 1, "L"), constants)
    np.testing.assert_array_equal(runs(first_runtime, model, 1, x=x), reference(model, x=x)[0])
    conv = node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", dilations=[2, 1])
    model = model_of([conv], (2, 4, "L", 1), {"w": integers(rng, 6, 4, 3, 1)})
    x = x.transpose(0, 1, 3, 2).copy()
    np.testing.assert_array_equal(runs(first_runtime, model, 1, x=x), reference(model, x=x)[0])
    there, back = {"perm": [0, 2, 1]}, {"perm": [0, 2, 1]}
    nodes = [node("Transpose", ["x"], ["t"], **there), node("Transpose", ["t"], ["u"], **back),
             node("Relu", ["u"], ["y"])]  # fmt: skip
    x = integers(rng, 1, 4, 9)
    np.testing.assert_array_equal(runs(first_runtime, model_of(nodes), 1, x=x), np.maximum(x, 0))


# What is recorded


def chain(rng, count):
    nodes, constants, name = [], {}, "x"
    for i in range(count):
        out = "y" if i == count - 1 else f"c{i}"
        nodes += [node("Conv", [name, f"w{i}"], [f"d{i}"], pads=[1, 1]),
                  node("Relu", [f"d{i}"], [out])]  # fmt: skip
        constants[f"w{i}"], name = integers(rng, 4, 4, 3) / np.float32(8), out
    return model_of(nodes, ("N", 4, "L"), constants)


def test_lengths_and_batches_compile_nothing(first_runtime, rng):
    model = chain(rng, 3)
    prepared = prepared_of(first_runtime, model)
    x = integers(rng, 1, 4, 300)
    prepared.run([x])
    for shape in ((1, 4, 300), (2, 4, 300), (1, 4, 30), (1, 4, 5), (2, 4, 300), (1, 4, 300)):
        x = integers(rng, *shape)
        built = len(first_runtime.programs)
        y = prepared.run([x])[0]
        assert len(first_runtime.programs) == built  # the reference may build what it needs
        np.testing.assert_allclose(y, reference(model, x=x)[0], rtol=1e-5, atol=1e-5)


def test_memory_of_a_tensor_is_used_again(first_runtime, rng):
    """Of a chain no more than two tensors at once."""
    prepared = prepared_of(first_runtime, chain(rng, 8))
    x = integers(rng, 1, 4, 4096)
    prepared.run([x])
    prepared.run([x])
    (page,) = prepared._scratch.pages
    assert page.size == 2 * x.nbytes


def test_threads_take_turns(first_runtime, rng):
    model = chain(rng, 2)
    prepared = prepared_of(first_runtime, model)
    inputs = [integers(rng, 1, 4, 50 + i) for i in range(4)]
    expected = [prepared.run([x])[0] for x in inputs]
    wrong = []

    def work(i):
        for _ in range(20):
            if not np.array_equal(prepared.run([inputs[i]])[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_shapes_that_follow_from_values(runtime, rng):
    """A reshape by numbers of an input, and as many elements as are not zero."""
    numbers = helper.make_tensor_value_info("shape", TensorProto.INT64, [3])
    model = model_of(
        [node("Reshape", ["x", "shape"], ["r"]), node("Relu", ["r"], ["y"])], (1, 4, 6),
        inputs=(numbers,),
    )  # fmt: skip
    prepared = prepared_of(runtime, model)
    x = integers(rng, 1, 4, 6)
    for shape in ((2, 3, 4), (2, 3, 4), (1, 1, 24), (2, 3, 4)):
        y = prepared.run({"x": x, "shape": np.array(shape)})[0]
        np.testing.assert_array_equal(y, np.maximum(x, 0).reshape(shape))
    nodes = [node("Compress", ["x", "which"], ["c"], axis=2), node("Neg", ["c"], ["y"])]
    which = helper.make_tensor_value_info("which", TensorProto.BOOL, [6])
    prepared = prepared_of(runtime, model_of(nodes, (1, 4, 6), inputs=(which,)))
    for chosen in ([1, 0, 1, 0, 0, 1], [1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 1]):
        mask = np.array(chosen, bool)
        y = prepared.run([x, mask])[0]
        np.testing.assert_array_equal(y, -x[:, :, mask])


def test_shape_arithmetic_is_done_once(first_runtime, rng):
    """As exporters write a flatten of symbolic sizes."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["u"]),
        node("Concat", ["u", "rest"], ["t"], axis=0), node("Reshape", ["c", "t"], ["y"]),
    ]  # fmt: skip
    constants = {"w": integers(rng, 5, 4, 3), "zero": np.array(0), "axis": np.array([0]),
                 "rest": np.array([-1])}  # fmt: skip
    model = model_of(nodes, ("N", 4, "L"), constants)
    for shape in ((2, 4, 9), (3, 4, 12)):
        x = integers(rng, *shape)
        np.testing.assert_array_equal(runs(first_runtime, model, 1, x=x), reference(model, x=x)[0])
    where = [one.where for one in report(model, [x], first_runtime)]
    assert where == ["device", "constant", "constant", "constant", "constant", "device"]


def test_the_shape_of_what_follows_from_shapes(first_runtime, rng):
    """As PyTorch's newer exporter writes places: a constant in each run, and so is its shape."""
    zero = numpy_helper.from_array(np.array([0], np.int64))
    nodes = [
        node("Shape", ["x"], ["s"]), node("Max", ["s", "ones"], ["m"]),
        node("Shape", ["m"], ["t"]), node("ConstantOfShape", ["t"], ["zeros"], value=zero),
        node("Reshape", ["x", "zeros"], ["r"]), node("Relu", ["r"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, ("N", 4, "L"), {"ones": np.ones(3, np.int64)})
    for shape in ((1, 4, 5), (2, 4, 3)):
        x = integers(rng, *shape)
        np.testing.assert_array_equal(runs(first_runtime, model, x=x), np.maximum(x, 0))


# On the host


def mixed(rng):
    """Convolutions with a node between that has no kernel."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("CumSum", ["c", "axis"], ["s"]),
        node("Sign", ["s"], ["t"]), node("Conv", ["t", "w"], ["d"], pads=[1, 1]),
        node("Add", ["d", "c"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, constants={"w": integers(rng, 4, 4, 3), "axis": np.array(2)})


def test_host_nodes_between(runtime, rng):
    model, x = mixed(rng), integers(rng, 1, 4, 21)
    np.testing.assert_array_equal(runs(runtime, model, x=x), reference(model, x=x)[0])


def test_by_onnx_runtime(first_runtime, rng, monkeypatch):
    """Where it can be imported neighbouring nodes go to it together; what it refuses, and what it
    has no arrays for, to the reference."""
    seen = []

    class Session:
        def __init__(self, model, options, providers):
            proto = onnx.load_from_string(model)
            seen.append([one.op_type for one in proto.graph.node])
            if "NonZero" in seen[-1]:
                raise state.NotImplemented("no NonZero here")
            self._evaluator = Evaluator(proto)
            self._fails = "Sign" in seen[-1] and len(seen[-1]) == 1

        def get_outputs(self):
            return [types.SimpleNamespace(type="tensor(float)")]

        def run(self, names, feeds):
            if self._fails:
                raise state.RuntimeException("no Sign alone")
            return self._evaluator.run(names, feeds)

    def error(name):
        return type(name, (Exception,), {})

    state = types.ModuleType("onnxruntime.capi.onnxruntime_pybind11_state")
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException"):
        setattr(state, name, error(name))
    top, capi = types.ModuleType("onnxruntime"), types.ModuleType("onnxruntime.capi")
    top.InferenceSession, capi.onnxruntime_pybind11_state = Session, state
    top.SessionOptions = lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None)
    for one in (top, capi, state):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(host, "has_onnxruntime", lambda: True)
    model, x = mixed(rng), integers(rng, 1, 4, 21)
    np.testing.assert_array_equal(runs(first_runtime, model, x=x), reference(model, x=x)[0])
    assert seen == [["CumSum", "Sign"]]
    places = {one.op: one.where for one in report(model, [x], first_runtime)}
    assert places["CumSum"] == places["Sign"] == "ONNX Runtime"
    refused = model_of([node("NonZero", ["x"], ["z"]), node("Cast", ["z"], ["y"], to=FLOAT)])
    prepared = prepared_of(first_runtime, refused)
    np.testing.assert_array_equal(prepared.run([x])[0], reference(refused, x=x)[0])
    assert seen[-3:] == [["NonZero", "Cast"], ["NonZero"], ["Cast"]]
    failing = model_of([node("Sign", ["x"], ["y"])])
    np.testing.assert_array_equal(runs(first_runtime, failing, x=x), np.sign(x))
    assert [one.where for one in report(failing, [x], first_runtime)] == ["onnx.reference"]


def test_what_the_reference_computes_wrongly_is_refused(first_runtime, rng):
    named = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "name": "pool"}
    model = model_of([node("AveragePool", ["x"], ["y"], **named)], (1, 4, 6, 6))
    with pytest.raises(
        ProblemError, match=r"node pool \(AveragePool\): onnx.reference computes an"
    ):
        Backend.run_model(model, [integers(rng, 1, 4, 6, 6)], first_runtime)


def test_bfloat16(runtime, rng):
    """A network of it on the device, exact on integers; PyTorch's tensors too."""
    if helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) == np.float32:
        pytest.skip("this release of onnx has no arrays of bfloat16")
    kind = dtype_of("bfloat16")
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1]), node("Add", ["c", "x"], ["a"]),
        node("Relu", ["a"], ["r"]), node("Mul", ["r", "half"], ["h"]),
        node("MaxPool", ["h"], ["y"], kernel_shape=[2]),
    ]  # fmt: skip
    w, b, x = (rng.integers(-2, 3, shape).astype(kind) for shape in ((4, 4, 3), (4,), (2, 4, 21)))
    constants = {"w": w, "b": b, "half": np.array(0.5, kind)}
    graph = helper.make_graph(
        nodes, "model", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, (2, 4, "L"))],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
        [numpy_helper.from_array(one, name) for name, one in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    y = runs(runtime, model, 3, x=x)
    assert y.dtype == kind
    wide = [torch.from_numpy(one.astype(np.float64)) for one in (x, w, b)]
    expected = torch.relu(torch.conv1d(*wide, padding=1) + wide[0]) / 2
    np.testing.assert_array_equal(
        y.astype(np.float64), torch.max_pool1d(expected, 2, stride=1).numpy()
    )
    given = wide[0].to(torch.bfloat16)
    np.testing.assert_array_equal(prepared_of(runtime, model).run([given])[0], y)
    where = {one.where for one in report(model, [x], runtime)}
    assert where == {"device"}


def test_quantised(first_runtime, rng):
    """Weights and activations between QuantizeLinear and DequantizeLinear."""
    scale = np.float32(0.25)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["w"]),
        node("Conv", ["d", "w"], ["c"]), node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]  # fmt: skip
    constants = {"wq": rng.integers(-9, 9, (5, 4, 3)).astype(np.int8), "s": scale, "z": np.int8(0)}
    model, x = model_of(nodes, constants=constants), integers(rng, 1, 4, 21)
    np.testing.assert_array_equal(runs(first_runtime, model, x=x), reference(model, x=x)[0])
