"""Quantised ONNX models, and operators of ONNX Runtime's own domain: on the device, equal to whole
numbers computed by NumPy. Scales are powers of two, so that nothing but the last step rounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clconv import ProblemError
from clconv.onnx import Backend, report
from clconv.onnx.evaluator import Evaluator

FLOAT = TensorProto.FLOAT
MICROSOFT = "com.microsoft"


def node(op, inputs, outputs, domain="", **attributes):
    return helper.make_node(op, inputs, outputs, domain=domain, **attributes)


def model_of(nodes, constants, opset=17, kind=FLOAT, result=FLOAT):
    """A model of x (N, 3, L)."""
    graph = helper.make_graph(
        nodes, "model", [helper.make_tensor_value_info("x", kind, ["N", 3, "L"])],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset > 12 else 5)


def rounded(x, scale, zero):
    """x as numbers of the type of `zero`."""
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / scale) + int(zero), limits.min, limits.max).astype(zero.dtype)


def sums(x, w, groups=1):
    """The convolution of whole numbers."""
    n, _, length = x.shape
    out, per_group, taps = w.shape
    y = np.zeros((n, out, length - taps + 1), np.int64)
    for o in range(out):
        first = o // (out // groups) * per_group
        for c, k in np.ndindex(per_group, taps):
            y[:, o] += w[o, c, k].astype(int) * x[:, first + c, k : k + y.shape[2]]
    return y


def numbers(rng, dtype, *shape):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def places(runtime, model, x):
    return {one.op: one.where for one in report(model, [x], runtime)}


def runs(runtime, model, x):
    """The output, the same twice."""
    prepared = Backend.prepare(model, runtime)
    first, again = prepared.run([x])[0], prepared.run([x])[0]
    np.testing.assert_array_equal(first, again)
    return first


@pytest.mark.parametrize("opset", [10, 13, 17, 21])
def test_layers_between_roundings(first_runtime, rng, opset):
    """QuantizeLinear and DequantizeLinear around a layer, of each channel where the opset has it;
    of the two, one kernel that rounds is left, and all of these share it."""
    per_channel = opset >= 13
    scale = np.float32([0.25, 0.5, 1, 0.125] if per_channel else 0.25)
    zero = np.array([0, 3, -1, 0] if per_channel else 2, np.int8)
    w, bias = numbers(rng, np.int8, 4, 3, 3), rng.integers(-900, 900, 4).astype(np.int32)
    s, z = np.float32(0.125), np.uint8(101)
    t, u = np.float32(8), np.int8(-7)
    constants = {"w": w, "ws": scale, "wz": zero, "b": bias, "bs": (s * scale).astype(np.float32),
                 "bz": np.zeros(scale.shape, np.int32), "s": s, "z": z, "t": t, "u": u,
                 "t again": t, "u again": u}  # fmt: skip
    axis = {"axis": 0} if per_channel else {}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **axis),
        node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], **axis),
        node("Conv", ["d", "wd", "bd"], ["c"]), node("QuantizeLinear", ["c", "t", "u"], ["cq"]),
        node("DequantizeLinear", ["cq", "t", "u"], ["e"]),
        node("DequantizeLinear", ["cq", "t again", "u again"], ["f"]),
        node("Add", ["e", "f"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, constants, opset)
    x = 20 * rng.standard_normal((2, 3, 37), np.float32)
    exact = sums(rounded(x, s, z).astype(int) - int(z), w - zero.reshape(-1, 1, 1).astype(int))
    columns = np.broadcast_to(s * scale, 4)[:, None]
    expected = 2 * t * (rounded((exact + bias[:, None]) * columns, t, u).astype(np.float32) - u)
    np.testing.assert_array_equal(runs(first_runtime, model, x), expected)
    found = places(first_runtime, model, x)
    assert found["Quantised"] == found["Conv"] == "device"
    assert set(found.values()) == {"device", "constant"}
    # Another scale is no other kernel.
    built = len(first_runtime.programs)
    Backend.run_model(model_of(nodes, constants | {"s": 2 * s}, opset), [x], first_runtime)
    assert len(first_runtime.programs) == built


def test_roundings_that_stay(first_runtime, rng):
    """Where another node reads the whole numbers, where scales differ, and of each channel."""
    constants = {"s": np.float32(0.5), "z": np.int8(3), "t": np.float32(0.25)}
    x = 9 * rng.standard_normal((1, 3, 8), np.float32)
    there = node("QuantizeLinear", ["x", "s", "z"], ["q"])
    for rest in (
        [node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Cast", ["q"], ["c"], to=FLOAT),
         node("Add", ["d", "c"], ["y"])],
        [node("DequantizeLinear", ["q", "t", "z"], ["y"])],
        [node("DequantizeLinear", ["q", "s"], ["y"])],
    ):  # fmt: skip
        model = model_of([there, *rest], constants)
        expected = Evaluator(model).run(None, {"x": x})[0]
        np.testing.assert_array_equal(runs(first_runtime, model, x), expected)
        assert "Quantised" not in places(first_runtime, model, x)
    model = model_of([there, node("DequantizeLinear", ["q", "s", "z"], ["y"])], constants)
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.INT8, None))
    y, q = Backend.run_model(model, [x], first_runtime)
    np.testing.assert_array_equal(q, rounded(x, np.float32(0.5), constants["z"]))
    np.testing.assert_array_equal(y, (q.astype(np.float32) - 3) / 2)
    each = {"s": np.float32([0.5, 2, 0.125]), "z": np.uint8([3, 0, 200])}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=-2),
             node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=-2)]  # fmt: skip
    model = model_of(nodes, each)
    expected = Evaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(runs(first_runtime, model, x), expected)
    assert places(first_runtime, model, x) == {"Quantised": "device"}
    with pytest.raises(ProblemError, match="node of q"):  # as the host says it
        Backend.run_model(model, [x[:, :2]], first_runtime)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_quantised_operators(runtime, rng, kind):
    """QLinearConv and ONNX Runtime's operators, whole numbers in and out: all on the device but for
    the two ends."""
    w, bias = numbers(rng, np.int8, 4, 3, 3), rng.integers(-900, 900, 4).astype(np.int32)
    depth = numbers(rng, np.int8, 4, 1, 2)
    scale, zero = np.float32([0.25, 0.5, 1, 0.125]), np.zeros(4, np.int8)
    z = np.array(100 if kind == np.uint8 else -28, kind)
    constants = {"w": w, "ws": scale, "wz": zero, "b": bias, "s": np.float32([0.125]), "z": z,
                 "t": np.float32(4), "v": depth, "vs": np.float32(0.5), "vz": np.int8(1),
                 "r": np.float32(64), "shape": np.array([0, 0, -1])}  # fmt: skip
    nodes = [
        node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "t", "z", "b"], ["c"]),
        node("MaxPool", ["c"], ["m"], kernel_shape=[2]), node("Reshape", ["m", "shape"], ["p"]),
        node("QLinearConv", ["p", "t", "z", "v", "vs", "vz", "r", "z"], ["d"], group=4),
        node("QLinearAdd", ["d", "r", "z", "d", "r", "z", "t", "z"], ["y"], MICROSOFT),
    ]  # fmt: skip
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = model_of(nodes, constants, 13, element, element)
    x, offset = numbers(rng, kind, 2, 3, 40), int(z)
    c = sums(x.astype(int) - offset, w) + bias[:, None]
    c = rounded(c * (0.125 * scale[:, None]), 4, z).astype(int)
    c = np.maximum(c[..., 1:], c[..., :-1]) - offset
    d = rounded(sums(c, depth.astype(int) - 1, 4) * 2, 64, z).astype(int) - offset
    np.testing.assert_array_equal(runs(runtime, model, x), rounded(d * 128, 4, z))
    found = places(runtime, model, x)
    assert {op for op, where in found.items() if where != "device"} == {
        "QuantizeLinear", "DequantizeLinear"
    }  # fmt: skip
    # Without a zero nothing says which type a result has.
    untyped = model_of(
        [nodes[0], node("QLinearAdd", ["c", "t", "z", "c", "t", "z", "t"], ["y"], MICROSOFT)],
        constants, 13, element, element,
    )  # fmt: skip
    assert [one.op for one in Backend.prepare(untyped, runtime)._graph.nodes][-1] == "QLinearAdd"
    # The reference, which runs what has no constant weights, is corrected for one axis.
    one = model_of(nodes[:1], constants, 13, element, element)
    np.testing.assert_array_equal(
        Evaluator(one).run(["c"], {"x": x})[0],
        rounded((sums(x.astype(int) - offset, w) + bias[:, None]) * (0.125 * scale[:, None]), 4, z),
    )


def test_quantised_products_and_joins(first_runtime, rng):
    """QGemm, QLinearMatMul, QLinearConcat and functions of one argument, after a convolution."""
    z, w = np.uint8(128), numbers(rng, np.int8, 3, 3, 1)
    constants = {"s": np.float32(0.25), "z": z, "w": w, "ws": np.float32(0.25), "wz": np.int8(0),
                 "a": numbers(rng, np.int8, 6, 2), "t": np.float32(16), "q": np.float32(1 / 256),
                 "g": numbers(rng, np.int8, 5, 12), "gs": np.float32([0.25, 0.5, 0.25, 1, 2]),
                 "gz": np.zeros(5, np.int8), "gb": np.arange(5, dtype=np.int32) * 1000,
                 "zero": np.uint8(0)}  # fmt: skip
    nodes = [
        node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "t", "z"], ["c"]),
        node("QLinearMatMul", ["c", "t", "z", "a", "ws", "wz", "t", "z"], ["m"]),
        node("QLinearSigmoid", ["m", "t", "z", "q", "zero"], ["e"], MICROSOFT),
        node("QLinearConcat", ["t", "z", "m", "t", "z", "e", "q", "zero"], ["k"], MICROSOFT,
             axis=2),
        node("Flatten", ["k"], ["f"]),
        node("QGemm", ["f", "t", "z", "g", "gs", "gz", "gb"], ["y"], MICROSOFT, transB=1),
    ]  # fmt: skip
    model = model_of(nodes, constants, 13, TensorProto.UINT8)
    x = numbers(rng, np.uint8, 2, 3, 6)
    c = rounded(sums(x.astype(int) - 128, w) / 16, 16, z).astype(int) - 128
    m = (c @ constants["a"].astype(int)) * 4
    m = (rounded(m, 16, z).astype(int) - 128) * 16
    e = rounded(1 / (1 + np.exp(-np.clip(m, -99, 99).astype(float))), 1 / 256, np.uint8(0)) / 256
    k = rounded(np.concatenate([m, e], 2), 16, z).astype(int) - 128
    expected = (k.reshape(2, 12) @ constants["g"].T.astype(int)) * 16 * constants["gs"]
    expected = expected + constants["gb"] * 16 * constants["gs"]
    np.testing.assert_allclose(runs(first_runtime, model, x), expected, rtol=1e-6)


def test_a_product_with_a_scale_of_each_row(first_runtime, rng):
    """Beside a convolution: it stays as it is, which has one scale at most for all."""
    z, w, a = np.uint8(128), numbers(rng, np.int8, 3, 3, 1), numbers(rng, np.int8, 6, 2)
    scales, zeros = np.float32([1, 4, 2]).reshape(1, 3, 1), np.uint8([0, 9, 200]).reshape(1, 3, 1)
    constants = {"s": np.float32(0.25), "z": z, "w": w, "ws": np.float32(0.25), "wz": np.int8(0),
                 "a": a, "t": np.float32(16), "rows": scales, "zeros": zeros}  # fmt: skip
    nodes = [
        node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "t", "z"], ["c"]),
        node("QLinearMatMul", ["c", "rows", "zeros", "a", "ws", "wz", "t", "z"], ["y"]),
    ]
    model = model_of(nodes, constants, 13, TensorProto.UINT8, TensorProto.UINT8)
    x = numbers(rng, np.uint8, 2, 3, 6)
    c = rounded(sums(x.astype(int) - 128, w) / 16, 16, z).astype(int)
    expected = rounded(((c - zeros.astype(int)) * scales) @ a.astype(int) / 4, 16, z)
    np.testing.assert_array_equal(runs(first_runtime, model, x), expected)


@pytest.mark.parametrize("columns", [2, 3])
def test_a_matrix_with_a_scale_of_each_row(first_runtime, rng, columns):
    """One-dimensional, also where there are as many columns; behind a convolution."""
    z, w, a = np.uint8(128), numbers(rng, np.int8, 3, 3, 1), numbers(rng, np.int8, 6, columns)
    scales, zeros = np.float32([1, 4, 2]), np.uint8([0, 9, 200])
    constants = {"s": np.float32(0.25), "z": z, "w": w, "ws": np.float32(0.25), "wz": np.int8(0),
                 "a": a, "t": np.float32(16), "rows": scales, "zeros": zeros,
                 "shape": np.int64([3, 6])}  # fmt: skip
    nodes = [
        node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "t", "z"], ["c"]),
        node("Reshape", ["c", "shape"], ["m"]),
        node("QLinearMatMul", ["m", "rows", "zeros", "a", "ws", "wz", "t", "z"], ["y"]),
    ]
    model = model_of(nodes, constants, 13, TensorProto.UINT8, TensorProto.UINT8)
    x = numbers(rng, np.uint8, 1, 3, 6)
    c = rounded(sums(x.astype(int) - 128, w) / 16, 16, z).astype(int)[0]
    expected = rounded(
        (c - zeros.astype(int)[:, None]) @ a.astype(int) * scales[:, None] / 4, 16, z
    )
    np.testing.assert_array_equal(runs(first_runtime, model, x), expected)


def test_a_matrix_with_a_scale_of_each_row_times_a_vector():
    """Its rows are the result's last axis."""
    names = ["a", "rows", "zeros", "b", "bs", "bz", "ys", "yz"]
    model = helper.make_node("QLinearMatMul", names, ["y"])
    a, b = np.uint8([[10, 20], [30, 40], [5, 6]]), np.int8([3, -1])
    scales, zeros = np.float32([1, 4, 2]), np.uint8([0, 9, 4])
    values = (a, scales, zeros, b, np.float32(0.5), np.int8(0), np.float32(2), np.uint8(128))
    (y,) = Evaluator(model).run(None, dict(zip(names, values, strict=True)))
    expected = np.rint((a.astype(int) - zeros[:, None]) @ b * scales / 4 + 128)
    np.testing.assert_array_equal(y, expected)


def test_operators_of_onnx_runtime(first_runtime, rng):
    """FusedConv and Gelu without ONNX Runtime."""
    w, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((3, 3, 3), (3,)))
    x = rng.integers(-4, 5, (2, 3, 9)).astype(np.float32)
    plain = sums(np.pad(x, [(0, 0), (0, 0), (1, 1)]).astype(int), w.astype(int)) + b[:, None]
    for given, added, expected in (
        ({"activation": "Relu"}, [], np.maximum(plain, 0)),
        ({"activation": "Clip", "activation_params": [-8.0, 16.0]}, [], np.clip(plain, -8, 16)),
        ({"activation": "LeakyRelu", "activation_params": [0.25]}, ["x"],
         np.where(plain + x > 0, plain + x, (plain + x) / 4)),
        ({}, ["x"], plain + x),
    ):  # fmt: skip
        nodes = [node("FusedConv", ["x", "w", "b", *added], ["y"], MICROSOFT, pads=[1, 1], **given)]
        model = model_of(nodes, {"w": w, "b": b})
        np.testing.assert_array_equal(runs(first_runtime, model, x), expected)
    model = model_of([node("Gelu", ["x"], ["y"], MICROSOFT)], {})
    expected = Evaluator(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 20]> g (float[N,3,L] x) => (float[N,3,L] y)'
            "{ y = Gelu(x) }"
        )
    ).run(None, {"x": x})[0]
    np.testing.assert_allclose(runs(first_runtime, model, x), expected, rtol=1e-5, atol=1e-6)


def test_whole_number_convolutions_by_the_reference(rng):
    """ConvInteger of one axis with a zero of each channel."""
    w, zero = numbers(rng, np.int8, 4, 3, 3), np.int8([1, -2, 0, 5])
    nodes = [node("ConvInteger", ["x", "w", "xz", "wz"], ["y"])]
    constants = {"w": w, "wz": zero, "xz": np.uint8(9)}
    model = model_of(nodes, constants, 13, TensorProto.UINT8, TensorProto.INT32)
    x = numbers(rng, np.uint8, 2, 3, 11)
    (y,) = Evaluator(model).run(None, {"x": x})
    expected = sums(x.astype(int) - 9, w.astype(int) - zero[:, None, None])
    np.testing.assert_array_equal(y, expected)
