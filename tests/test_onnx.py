"""The ONNX backend: ONNX's own cases, every attribute, functions and subgraphs, errors."""

from __future__ import annotations

import itertools
import re
import unittest
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest
from onnx.reference import ReferenceEvaluator

from clconv import DeviceError, ProblemError, Runtime, devices
from clconv.dtypes import dtype_of
from clconv.onnx import Backend
from clconv.onnx.evaluator import Evaluator

CONVOLUTIONS = ("Conv", "ConvTranspose")
CASES = r"(?i)conv.*_cpu$"
NAMES = {
    *(f"test_Conv1d{end}" for end in ("", "_dilated", "_groups", "_stride")),
    *(f"test_Conv1d_pad{end}" for end in ("1", "2", "1size1", "2size1")),
    "test_convtranspose_1d",
}


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def named_dtype(dtype):
    """A dtype; the test is skipped where it is bfloat16, and this onnx has no arrays of it yet."""
    if dtype == "bfloat16" and helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) == np.float32:
        pytest.skip("this release of onnx has no arrays of bfloat16")
    return dtype_of(dtype)


def one_axis(model):
    """Whether a model has a convolution whose data has one spatial axis."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {one.name: len(one.dims) for one in graph.initializer}
    for one in (*graph.input, *graph.value_info):
        if one.type.tensor_type.HasField("shape"):
            ranks[one.name] = len(one.type.tensor_type.shape.dim)
    found = [ranks[n.input[0]] for n in graph.node if n.op_type in CONVOLUTIONS]
    return 3 in found


class Watching(Backend):
    """The backend; notes which models ran kernels, and which should have."""

    ran: list[tuple[bool, bool]] = []  # noqa: RUF012

    @classmethod
    def prepare(cls, model, device="CPU", **options):
        prepared = super().prepare(model, device, **options)
        run = prepared.run

        def watched(inputs):
            before = prepared.runtime.launches
            outputs = run(inputs)
            cls.ran.append((one_axis(model), prepared.runtime.launches > before))
            return outputs

        prepared.run = watched
        return prepared


def test_onnx_cases(runtime):
    """ONNX's cases of convolutions, those with one spatial axis on the device."""
    Watching.ran.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its cases of other operators divide by zero
        suite = BackendTest(Watching, __name__).include(CASES).test_suite
    named = {one.id().rpartition(".")[2]: one for one in suite}
    chosen = [one for name, one in named.items() if re.search(CASES, name)]
    assert {f"{name}_cpu" for name in NAMES} <= named.keys()
    result = unittest.TestResult()
    unittest.TestSuite(chosen).run(result)
    assert result.testsRun == len(chosen)
    assert [str(text) for _, text in (*result.failures, *result.errors, *result.skipped)] == []
    assert all(should == did for should, did in Watching.ran)
    assert sum(should for should, _ in Watching.ran) >= len(NAMES)


def test_supports_device():
    found = devices()
    assert Backend.supports_device("CPU")
    assert Backend.supports_device(str(found[0].index))
    assert Backend.supports_device(found[0].id)
    assert Backend.supports_device(found[0].name[:8])
    cards = [d for d in found if "nvidia" in d.vendor.lower()]
    assert Backend.supports_device("CUDA") == bool(cards)
    for wrong in (f"CUDA:{len(cards)}", "CUDA:x", "CPU:1", str(len(found)), "no such", "", 0, None):
        assert not Backend.supports_device(wrong)


def test_devices(runtime):
    """A device by index and id, and a runtime."""
    node = helper.make_node("Conv", ["X", "W"], ["Y"])
    x, w = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 2), np.float32)
    for device in ("CPU", str(runtime.info.index), runtime.info.id, Runtime(runtime.device)):
        (y,) = Backend.run_node(node, [x, w], device)
        np.testing.assert_array_equal(y, [[[2, 2, 2]]])
    before = runtime.launches
    Backend.run_node(node, [x, w])
    assert runtime.launches == before + 1


# Attributes


# stride, dilation, groups, kernel size; each is compiled once for all kinds of padding
GEOMETRIES = [(1, 1, 1, 3), (1, 2, 2, 4), (2, 1, 1, 4), (3, 1, 2, 1), (3, 2, 1, 3)]


def node_of(kind, inputs, attributes):
    return helper.make_node(kind, inputs, ["Y"], **attributes)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", None])
def test_conv(runtime, rng, auto_pad):
    """Every auto_pad, with strides, dilations, groups and kernel sizes, equals the reference."""
    for stride, dilation, groups, size in GEOMETRIES:
        attributes = {"strides": [stride], "dilations": [dilation], "group": groups}
        if auto_pad is not None:
            attributes["auto_pad"] = auto_pad
        if auto_pad in (None, "NOTSET"):
            attributes["pads"] = [size - 1, 2]
        if size == 3:
            attributes["kernel_shape"] = [size]
        inputs = [integers(rng, 2, 4, 11), integers(rng, 2, 4 // groups, size), integers(rng, 2)][
            : 2 + size % 2
        ]
        node = node_of("Conv", ["X", "W", "B"][: len(inputs)], attributes)
        (y,) = Backend.run_node(node, inputs)
        feeds = dict(zip(node.input, inputs, strict=True))
        (expected,) = ReferenceEvaluator(node).run(None, feeds)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected, err_msg=str(attributes))


def scattered(x, w, b, stride, dilation, groups, left, out_length):
    """y[n, o, l stride + k dilation - left] += x[n, c, l] w[c, o, k], of `out_length` positions."""
    group_in, group_out = w.shape[0] // groups, w.shape[1]
    y = np.zeros((x.shape[0], group_out * groups, out_length), x.dtype)
    for c, at, k in itertools.product(range(w.shape[0]), range(x.shape[2]), range(w.shape[2])):
        q = at * stride + k * dilation - left
        if 0 <= q < out_length:
            first = c // group_in * group_out
            y[:, first : first + group_out, q] += x[:, c, at, None] * w[c, :, k]
    return y + b.reshape(1, -1, 1)


def transposed(rng, groups=1, size=3, dtype=np.float32):
    return [
        integers(rng, 2, 4, 5, dtype=dtype),
        integers(rng, 4, 3, size, dtype=dtype),
        integers(rng, 3 * groups, dtype=dtype),
    ]


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [False, True])
def test_conv_transpose(runtime, rng, auto_pad, output_shape):
    """Every auto_pad, with and without output_shape, as the operator's definition says."""
    for stride, dilation, groups, size in GEOMETRIES:
        inputs = transposed(rng, groups, size)
        extra = max(stride, dilation) - 1
        full = 4 * stride + dilation * (size - 1) + 1 + extra
        attributes = {"strides": [stride], "dilations": [dilation], "group": groups}
        attributes |= {"auto_pad": auto_pad, "output_padding": [extra]}
        if output_shape:
            wanted = max(full - 3, 1)
            attributes["output_shape"] = [wanted]
        elif auto_pad.startswith("SAME"):
            wanted = 5 * stride
        elif auto_pad == "VALID":
            wanted = full
        else:
            attributes["pads"] = [1, 2]
            wanted = full - 3
            if wanted < 1:
                continue
        surplus = max(full - wanted, 0)
        left = surplus // 2 if auto_pad == "SAME_UPPER" else surplus - surplus // 2
        if "pads" in attributes:
            left = 1
        (y,) = Backend.run_node(node_of("ConvTranspose", ["X", "W", "B"], attributes), inputs)
        expected = scattered(*inputs, stride, dilation, groups, left, wanted)
        np.testing.assert_array_equal(y, expected, err_msg=str(attributes))


def test_output_shape_beyond_every_window(runtime, rng):
    """Positions that no window reaches have the bias alone."""
    x, w, b = inputs = transposed(rng, size=1)
    attributes = {"strides": [3], "output_shape": [15]}
    (y,) = Backend.run_node(node_of("ConvTranspose", ["X", "W", "B"], attributes), inputs)
    np.testing.assert_array_equal(y, scattered(x, w, b, 3, 1, 1, 0, 15))
    attributes["output_shape"] = [16]
    with pytest.raises(ProblemError, match=r"output_shape is \[16\], expected at most \[15\]"):
        Backend.run_node(node_of("ConvTranspose", ["X", "W", "B"], attributes), inputs)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", np.float32, np.float64])
def test_dtypes(runtime, rng, kind, dtype):
    dtype = named_dtype(dtype)
    if dtype == np.float64 and not runtime.info.fp64:
        pytest.skip("the device has no float64")
    x, w = integers(rng, 2, 4, 9, dtype=dtype), integers(rng, 4, 4, 3, dtype=dtype)
    before = runtime.launches
    (y,) = Backend.run_node(node_of(kind, ["X", "W"], {"strides": [2]}), [x, w])
    assert runtime.launches > before
    assert y.dtype == dtype
    wide = ReferenceEvaluator(node_of(kind, ["X", "W"], {"strides": [2]}))
    (expected,) = wide.run(None, {"X": x.astype(np.float64), "W": w.astype(np.float64)})
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_two_axes_go_through_the_reference(runtime, rng, kind):
    x, w = integers(rng, 1, 2, 5, 6), integers(rng, 2, 2, 2, 3)
    node = node_of(kind, ["X", "W"], {"pads": [0, 1, 1, 0]})
    before = runtime.launches
    (y,) = Backend.run_node(node, [x, w])
    assert runtime.launches == before
    np.testing.assert_array_equal(y, ReferenceEvaluator(node).run(None, {"X": x, "W": w})[0])


# Models


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(graph, **named):
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **named)


def small_model(w):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = onnx.numpy_helper.from_array(w, "w")
    inputs = [tensor("x", [1, 2, "L"]), tensor("w", w.shape)]
    return model_of(helper.make_graph(nodes, "g", inputs, [tensor("y", [None] * 3)], [weights]))


def test_inputs_and_outputs(runtime, rng):
    """By name, in order, alone, with and without what initializers give."""
    x, w = integers(rng, 1, 2, 6), integers(rng, 3, 2, 3)
    model = small_model(w)
    prepared = Backend.prepare(model)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    for inputs in ([x], (x,), x, {"x": x}, [x, w], {"x": x, "w": w}):
        outputs = prepared.run(inputs)
        np.testing.assert_array_equal(outputs["y"], expected)
        np.testing.assert_array_equal(outputs[0], expected)
    other = integers(rng, 3, 2, 3)
    expected = ReferenceEvaluator(small_model(other)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(prepared.run([x, other])[0], expected)
    np.testing.assert_array_equal(Backend.run_model(small_model(other), [x]).y, expected)
    for wrong, message in (
        ([], "inputs has 0 values, expected 1: x"),
        ({"z": x}, "inputs has 'z', expected x, w"),
        ({"w": w}, "inputs has no 'x', expected x"),
    ):
        with pytest.raises(ProblemError, match=message):
            prepared.run(wrong)


def test_function_with_linked_attribute(runtime, rng):
    """A convolution in a function of the model, which takes an attribute of its node."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    linked = onnx.AttributeProto(name="strides", ref_attr_name="step", type=7)
    conv.attribute.append(linked)
    function = helper.make_function(
        "own", "Step", ["x", "w"], ["y"], [conv], [helper.make_opsetid("", 22)], ["step"]
    )
    node = helper.make_node("Step", ["x", "w"], ["y"], domain="own", step=[2])
    inputs = [tensor("x", [1, 2, 9]), tensor("w", [3, 2, 3])]
    graph = helper.make_graph([node], "g", inputs, [tensor("y", [None] * 3)])
    model = model_of(graph, functions=[function])
    x, w = integers(rng, 1, 2, 9), integers(rng, 3, 2, 3)
    before = runtime.launches
    (y,) = Backend.run_model(model, [x, w])
    assert runtime.launches == before + 1
    np.testing.assert_array_equal(y, ReferenceEvaluator(model).run(None, {"x": x, "w": w})[0])


def test_subgraph(runtime, rng):
    """A convolution in the branch of an If."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], [name], strides=[stride])],
            name,
            [],
            [tensor(name, [None] * 3)],
        )
        for name, stride in (("then", 1), ("else", 2))
    }
    node = helper.make_node("If", ["which"], ["y"], **branches)
    inputs = [tensor("which", [], TensorProto.BOOL), tensor("x", [1, 2, 9]), tensor("w", [3, 2, 3])]
    model = model_of(helper.make_graph([node], "g", inputs, [tensor("y", [None] * 3)]))
    x, w = integers(rng, 1, 2, 9), integers(rng, 3, 2, 3)
    for which, length in ((True, 7), (False, 4)):
        before = runtime.launches
        (y,) = Backend.run_model(model, [np.array(which), x, w])
        assert runtime.launches == before + 1
        assert y.shape == (1, 3, length)


# Errors


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("Conv", {"strides": [1, 1]}, r"strides is \[1, 1\], expected 1 for one spatial axis"),
        ("Conv", {"pads": [1]}, r"pads is \[1\], expected 2 for one spatial axis"),
        ("Conv", {"pads": [-1, 0]}, r"padding\[0\] is -1, expected at least 0"),
        ("Conv", {"kernel_shape": [2]}, r"kernel_shape is \[2\], expected \[3\], that of W"),
        ("Conv", {"auto_pad": "SAME"}, "auto_pad is 'SAME', expected one of NOTSET"),
        ("Conv", {"strides": [0], "auto_pad": "SAME_UPPER"}, "stride is 0, expected at least 1"),
        ("Conv", {"group": 2}, r"weight has shape \(4, 4, 3\), expected \(4, 2, 3\)"),
        ("ConvTranspose", {"dilations": [1, 1]}, r"dilations is \[1, 1\], expected 1"),
        ("ConvTranspose", {"output_padding": [1]}, "output_padding is 1, expected less than"),
        ("ConvTranspose", {"output_shape": [1, 9]}, r"output_shape is \[1, 9\], expected 1 for"),
        ("ConvTranspose", {"kernel_shape": [2, 2]}, r"kernel_shape is \[2, 2\], expected \[3\]"),
    ],
)
def test_wrong_attributes(runtime, rng, kind, attributes, message):
    x, w = integers(rng, 1, 4, 9), integers(rng, 4, 4, 3)
    with pytest.raises(ProblemError, match=message):
        Backend.run_node(node_of(kind, ["X", "W"], attributes), [x, w])


def test_wrong_calls(runtime, rng):
    x, w = integers(rng, 1, 4, 9), integers(rng, 4, 4, 3)
    node, model = node_of("Conv", ["X", "W"], {}), small_model(integers(rng, 3, 2, 3))
    with pytest.raises(ProblemError, match=r"W has shape \(4, 4\), expected three dimensions"):
        Backend.run_node(node, [x, w[..., 0]])
    with pytest.raises(ProblemError, match="inputs has 3 values, expected at most 2: X, W"):
        Backend.run_node(node, [x, w, w])
    with pytest.raises(ProblemError, match=r"model is a NodeProto, expected an onnx\.ModelProto"):
        Backend.prepare(node)
    with pytest.raises(ProblemError, match="speed is an option that the backend does not have"):
        Backend.prepare(model, speed=2)
    with pytest.raises(onnx.checker.ValidationError):
        Backend.run_node(helper.make_node("Conv", ["X"], ["Y"]), [x])
    with pytest.raises(DeviceError, match="device is 'CUDA:99', expected one of NVIDIA's"):
        Backend.prepare(model, "CUDA:99")
    with pytest.raises(DeviceError, match="device is 3, expected 'CPU'"):
        Backend.run_node(node, [x, w], 3)


# What the reference computes wrongly


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_log_softmax_of_far_values(runtime, rng, axis):
    x = np.float32([[0, 1000, -1000], [3, 2, 1], [-100, 30, 100]])
    node = helper.make_node("LogSoftmax", ["x"], ["y"], axis=axis)
    (y,) = Backend.run_node(node, [x])
    right = torch.log_softmax(torch.from_numpy(x).double(), axis).numpy()
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, right, rtol=1e-6)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("stride", [None, 1, 2])
def test_max_pool_with_padding(runtime, rng, ceil_mode, stride):
    x = rng.integers(-9, 10, (2, 3, 8)).astype(np.float32)
    for size, pad in ((2, 0), (2, 1), (3, 1)):
        named = {} if stride is None else {"strides": [stride]}
        node = helper.make_node(
            "MaxPool", ["x"], ["y"], kernel_shape=[size], pads=[pad, pad],
            ceil_mode=ceil_mode, **named,
        )  # fmt: skip
        (y,) = Backend.run_node(node, [x])
        right = torch.nn.functional.max_pool1d(
            torch.from_numpy(x), size, stride or 1, pad, ceil_mode=bool(ceil_mode)
        )
        np.testing.assert_array_equal(y, right.numpy())


def test_max_pool_of_two_axes(rng):
    """By the reference, with the padding that auto_pad means."""
    x = rng.integers(-9, 10, (2, 3, 7, 9)).astype(np.int8)
    size, stride = (3, 2), (2, 3)
    wanted = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
    missing = [max((q - 1) * s + k - n, 0)
               for q, s, k, n in zip(wanted, stride, size, x.shape[2:], strict=True)]  # fmt: skip
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=size, strides=stride,
                                auto_pad=auto_pad)  # fmt: skip
        half = [((n + (auto_pad == "SAME_LOWER")) // 2, n) for n in missing]
        pads = [(left, n - left) for left, n in half] if auto_pad != "VALID" else [(0, 0)] * 2
        padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=-128).astype(np.float64)
        right = torch.nn.functional.max_pool2d(torch.from_numpy(padded), size, stride).numpy()
        (y,) = Evaluator(node).run(None, {"x": x})
        assert y.dtype == np.int8
        np.testing.assert_array_equal(y, right)


def test_loop_without_condition(first_runtime, rng):
    """It goes on as often as is said, convolutions of its body on the device."""
    w, x = integers(rng, 2, 2, 1), integers(rng, 1, 2, 5)
    scalar = [helper.make_tensor_value_info("i", TensorProto.INT64, []),
              helper.make_tensor_value_info("go", TensorProto.BOOL, [])]  # fmt: skip
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    after = helper.make_tensor_value_info("after", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Conv", ["v", "w"], ["after"]),
             helper.make_node("Identity", ["go"], ["on"])]  # fmt: skip
    body = helper.make_graph(nodes, "body", [*scalar, value], [on, after])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)], "loop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(np.array(3), "n")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = first_runtime.launches
    (y,) = Backend.run_model(model, [x], first_runtime)
    assert first_runtime.launches - before >= 3
    expected = x
    for _ in range(3):
        expected = np.einsum("oc,ncl->nol", w[:, :, 0], expected)
    np.testing.assert_array_equal(y, expected)
