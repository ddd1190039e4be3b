"""Nodes of ONNX models that have kernels, beside onnx.reference in float64, or the definition."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

from clconv import devices, testing
from clconv.dtypes import dtype_of, is_floating, is_short
from clconv.onnx import Backend, report
from clconv.onnx.backend import Prepared
from clconv.onnx.evaluator import Evaluator

OPSET = 22
# Limits of the OpenCL specification in units of the last place, and half of one for each operation
# around the function; of Pow and Erf 16, sin and cos 4, exp, expm1, log and sqrt 3, tanh 5.
UNARY = {
    "Abs": 0, "Ceil": 0, "Cos": 4, "Erf": 16, "Exp": 3, "Floor": 0, "HardSwish": 5, "Identity": 0,
    "Log": 3, "Mish": 16, "Neg": 0, "Reciprocal": 2.5, "Relu": 0, "Round": 0, "Sigmoid": 6,
    "Sin": 4, "Softplus": 8, "Softsign": 3, "Sqrt": 3, "Tanh": 5, "Elu": 4, "Selu": 5, "Celu": 7,
    "LeakyRelu": 2, "ThresholdedRelu": 0, "HardSigmoid": 3,
}  # fmt: skip
SHAPES = [(1, 1, 1), (2, 3, 1), (1, 4, 17), (3, 2, 40)]
POSITIVE = ("Log", "Sqrt")


def node(op, count=1, outputs=1, **attributes):
    names = [f"x{i}" for i in range(count)]
    return helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attributes)


def reference(made, inputs, opset=OPSET):
    """Its outputs of the same values in float64."""
    wide = [one.astype(np.float64) if is_floating(one.dtype) else one for one in inputs]
    names = [name for name in made.input if name]
    typed = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), None)
             for name, one in zip(names, wide, strict=True)]  # fmt: skip
    outputs = [helper.make_empty_tensor_value_info(name) for name in made.output]
    graph = helper.make_graph([made], "node", typed, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        return Evaluator(model).run(None, dict(zip(names, wide, strict=True)))


def on_device(runtime, made, inputs, opset=OPSET):
    """Its outputs twice, the second time as recorded; it must run on the device."""
    names = [name for name in made.input if name]
    typed = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), None)
             for name, one in zip(names, inputs, strict=True)]  # fmt: skip
    outputs = [helper.make_empty_tensor_value_info(name) for name in made.output]
    graph = helper.make_graph([made], "node", typed, outputs)
    prepared = Prepared(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), runtime
    )
    feeds = dict(zip(names, inputs, strict=True))
    first = prepared.run(feeds)
    assert [one.where for one in prepared.placed] == ["device"], prepared.placed
    again = prepared.run(feeds)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return list(first)


def exactly(runtime, made, inputs, opset=OPSET):
    results = on_device(runtime, made, inputs, opset)
    for y, expected in zip(results, reference(made, inputs, opset), strict=True):
        assert y.dtype == inputs[0].dtype
        np.testing.assert_array_equal(y, expected.astype(y.dtype), err_msg=str(made))


def within(runtime, made, inputs, ulps, opset=OPSET):
    """Apart by so many units of the last place of the result, and as much of numbers that are
    flushed to zero."""
    results = on_device(runtime, made, inputs, opset)
    dtype = inputs[0].dtype
    for y, expected in zip(results, reference(made, inputs, opset), strict=True):
        assert y.dtype == dtype
        sums = np.float64 if dtype == np.float64 else np.float32
        bound = 2 * ulps * testing.unit_roundoff(sums) * abs(expected) + np.finfo(sums).tiny
        if is_short(dtype):
            bound += testing.unit_roundoff(dtype) * abs(expected) + 2.0**-25
        testing.assert_within_bound(y, expected, bound, str(made))


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def test_functions_of_one_argument(runtime, rng):
    """All on the first device, and every fifth on the others."""
    chosen = list(UNARY.items())[:: 1 if runtime.info.index == devices()[0].index else 5]
    for op, ulps in chosen:
        for shape in SHAPES[2:]:
            x = testing.normals(rng, shape, np.float32)
            if op in POSITIVE:
                x = abs(x)
            # Where a factor is nearly 0 the result is small beside what it is made of.
            if op in ("Mish", "Softplus", "Log", "Elu", "Celu", "Selu", "HardSwish", "HardSigmoid"):
                x = abs(x) + np.float32(2)
            within(runtime, node(op), [x], ulps)
    for op in ("Elu", "Celu", "Selu"):
        x = -abs(testing.normals(rng, (5, 7), np.float32)) - np.float32(0.5)
        within(runtime, node(op), [x], UNARY[op] + 3)


def test_special_values(runtime):
    """NaN and infinity go through as by the definition."""
    x = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1])
    for op in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid", "Softplus", "Exp"):
        made = node(op)
        y = on_device(runtime, made, [x])[0]
        np.testing.assert_allclose(y, reference(made, [x])[0], rtol=1e-6, err_msg=op)
    y = on_device(runtime, node("Max", 2), [x, np.float32([0])])[0]
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    y = on_device(runtime, node("MaxPool", kernel_shape=[3]), [x.reshape(1, 1, -1)])[0]
    np.testing.assert_array_equal(y, [[[np.nan, np.inf, 0, 1, 1]]])
    # Where whole vectors are read too, and NaN is among numbers, the first or the last of a window.
    row = np.tile(np.float32([3, np.nan, 1, 2, 5, 4, 0, -1]), 12)
    y = on_device(runtime, node("MaxPool", kernel_shape=[3]), [row.reshape(1, 1, -1)])[0]
    windows = np.lib.stride_tricks.sliding_window_view(row, 3)
    np.testing.assert_array_equal(y[0, 0], windows.max(axis=1))


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", np.float64])
def test_other_dtypes(runtime, rng, dtype):
    if dtype == "bfloat16" and helper.tensor_dtype_to_np_dtype(16) == np.float32:
        pytest.skip("this release of onnx has no arrays of bfloat16")
    dtype = dtype_of(dtype)
    if dtype == np.float64 and not runtime.info.fp64:
        pytest.skip("the device has no float64")
    x = testing.normals(rng, (2, 3, 19), dtype)
    for op in ("Sigmoid", "Tanh", "Elu"):
        within(runtime, node(op), [x], 8)
    whole = integers(rng, 2, 3, 32, dtype=dtype)
    exactly(runtime, node("Add", 2), [whole, integers(rng, 3, 1, dtype=dtype)])
    exactly(runtime, node("ReduceMean"), [whole[:, :1, :16]], 13)
    exactly(runtime, node("MaxPool", kernel_shape=[3], pads=[1, 1]), [whole])
    exactly(runtime, node("Transpose", perm=[0, 2, 1]), [whole])
    y = on_device(runtime, helper.make_node("Cast", ["x0"], ["y0"], to=1), [x])[0]
    np.testing.assert_array_equal(y, x.astype(np.float32))
    y = on_device(runtime, helper.make_node("Cast", ["x0"], ["y0"],
                                            to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
                  [x.astype(np.float32)])[0]  # fmt: skip
    np.testing.assert_array_equal(y, x.astype(np.float32).astype(dtype))


BROADCAST = [
    ((2, 3, 5), (2, 3, 5)),
    ((2, 3, 5), (3, 1)),
    ((2, 3, 5), (5,)),
    ((2, 3, 1), (1, 3, 7)),
    ((4, 1, 33), (1, 6, 1)),
    ((1, 1, 1), (2, 3, 4)),
    ((6,), (2, 1)),
    ((2, 3, 4, 20), (3, 1, 20)),
    ((3, 70), ()),
]


def test_broadcasting(runtime, rng):
    for op in ("Add", "Sub", "Mul", "Max", "Min"):
        for a, b in BROADCAST:
            inputs = [integers(rng, *a), np.asarray(integers(rng, *b), np.float32)]
            exactly(runtime, node(op, 2), inputs)
    a, b = integers(rng, 2, 3, 8), 2.0 ** integers(rng, 3, 1)
    exactly(runtime, node("Div", 2), [a, b.astype(np.float32)])
    within(runtime, node("Pow", 2), [abs(a) + np.float32(0.3), b.astype(np.float32)], 16)
    exactly(runtime, node("PRelu", 2), [a, integers(rng, 3, 1)])
    exactly(runtime, node("Sum", 3), [a, integers(rng, 8), integers(rng, 2, 1, 1)])
    exactly(runtime, node("Mean", 2), [a, integers(rng, 3, 1)])


def test_views_and_copies(runtime, rng):
    x = integers(rng, 2, 6, 20)
    exactly(runtime, node("Flatten"), [x])
    exactly(runtime, node("Flatten", axis=-1), [x])
    exactly(runtime, node("Unsqueeze", axes=[0, 3]), [x], 11)
    exactly(runtime, node("Squeeze", axes=[1]), [x[:, :1]], 11)
    exactly(runtime, node("Squeeze"), [x[:1, :1]])
    for perm in ([0, 2, 1], [1, 0, 2], [2, 1, 0], [2, 0, 1], [1, 2, 0]):
        exactly(runtime, node("Transpose", perm=perm), [x])
    exactly(runtime, node("Transpose", perm=[0, 3, 1, 2]), [integers(rng, 2, 3, 4, 17)])
    for shape in SHAPES:
        exactly(runtime, node("Transpose"), [integers(rng, *shape)])
    for axis, others in ((0, [(2, 6, 20), (1, 6, 20)]), (1, [(2, 1, 20), (2, 3, 20)]),
                         (-1, [(2, 6, 1), (2, 6, 37)])):  # fmt: skip
        inputs = [x, *(integers(rng, *one) for one in others)]
        exactly(runtime, node("Concat", 3, axis=axis), inputs)
    exactly(runtime, node("Split", 1, 2, axis=1, split=[2, 4]), [x], 11)
    exactly(runtime, node("Split", 1, 4, axis=2), [x], 11)
    with_steps = node("Slice", 5)
    for starts, ends, axes, steps in (
        ([1], [6], [1], [2]), ([-3, 0], [99, 2], [2, 0], [1, 1]), ([19], [-99], [-1], [-3]),
    ):  # fmt: skip
        numbers = [np.array(one, np.int64) for one in (starts, ends, axes, steps)]
        exactly(runtime, with_steps, [x, *numbers])
    for index in (3, -1, [0], [4, 4, 1]):
        exactly(runtime, node("Gather", 2, axis=2), [x, np.array(index, np.int64)])
    exactly(runtime, node("Reshape", 2), [x, np.array([0, -1], np.int64)])
    exactly(runtime, node("Expand", 2), [x[:, :1], np.array([2, 5, 1], np.int64)])


def test_pad(runtime, rng):
    x = integers(rng, 2, 3, 9)
    pads = np.array([0, 0, 4, 0, 0, 7], np.int64)
    for mode in ("constant", "reflect", "edge"):
        exactly(runtime, node("Pad", 2, mode=mode), [x, pads])
    exactly(runtime, node("Pad", 3), [x, pads, np.float32([2.5]).reshape(())])
    exactly(runtime, node("Pad", 2, mode="edge"), [x[:, :, :1], pads])


def test_pool(runtime, rng):
    """Beside PyTorch's shapes: window, stride, dilation, pads, ceil_mode."""
    for length in (1, 5, 40):
        x = integers(rng, 2, 3, length)
        for size, stride, dilation, pads, ceil in (
            (1, 1, 1, (0, 0), 0), (2, 2, 1, (0, 0), 1), (3, 1, 1, (1, 1), 0),
            (4, 3, 1, (2, 1), 1), (3, 2, 2, (2, 2), 0),
        ):  # fmt: skip
            if length + sum(pads) <= dilation * (size - 1):
                continue
            named = {"kernel_shape": [size], "strides": [stride], "dilations": [dilation],
                     "pads": list(pads), "ceil_mode": ceil}  # fmt: skip
            y = on_device(runtime, node("MaxPool", **named), [x])[0]
            windows = taken(x, size, stride, dilation, pads, y.shape[2])
            np.testing.assert_array_equal(y[0, 0], [x[0, 0, one].max() for one in windows])
            for counts in (0, 1):
                made = node("AveragePool", count_include_pad=counts, **named)
                y = on_device(runtime, made, [x])[0]
                ends = [length + pads[1] - (q * stride - pads[0]) for q in range(y.shape[2])]
                among = [min(size, -(-end // dilation)) for end in ends]
                expected = np.stack(
                    [x[:, :, one].astype(np.float64).sum(axis=2) / (n if counts else len(one))
                     for one, n in zip(windows, among, strict=True)], axis=2)  # fmt: skip
                testing.assert_within_bound(y, expected, 2e-7 * abs(expected), str(made))
    x = integers(rng, 1, 1, 11)
    for auto_pad, left, outputs in (("SAME_UPPER", 1, 4), ("SAME_LOWER", 2, 4), ("VALID", 0, 3)):
        named = {"kernel_shape": [5], "strides": [3], "auto_pad": auto_pad}
        y = on_device(runtime, node("MaxPool", **named), [x])[0]
        windows = taken(x, 5, 3, 1, (left, 0), outputs)
        np.testing.assert_array_equal(y[0, 0], [x[0, 0, one].max() for one in windows])
    # Of two axes of which one is 1 wide, as Keras's models have them.
    named = {"strides": [2], "dilations": [2], "kernel_shape": [3], "pads": [1, 2]}
    x = integers(rng, 2, 3, 40)
    for op, more in (("MaxPool", {}), ("AveragePool", {"count_include_pad": 1})):
        (expected,) = on_device(runtime, node(op, **named, **more), [x])
        for axis in (2, 3):
            wide = {name: [*one, 1] if axis == 2 else [1, *one]
                    for name, one in named.items() if name != "pads"}  # fmt: skip
            wide["pads"] = [1, 0, 2, 0] if axis == 2 else [0, 1, 0, 2]
            given = np.expand_dims(x, 5 - axis)
            (y,) = on_device(runtime, node(op, **wide, **more), [given])
            np.testing.assert_array_equal(y, np.expand_dims(expected, 5 - axis))


def taken(x, size, stride, dilation, pads, outputs):
    """The places inside the row of each window."""
    starts = [q * stride - pads[0] for q in range(outputs)]
    windows = [range(start, start + size * dilation, dilation) for start in starts]
    return [[p for p in one if 0 <= p < x.shape[2]] for one in windows]


def test_products_of_two_tensors(runtime, rng):
    """Exact on integers: rows and columns in any number, matrices again and again, and turned."""
    for left, right in (
        ((3, 4, 7), (3, 7, 5)), ((1, 1), (1, 1)), ((2, 1, 9, 3), (4, 3, 17)), ((17, 40), (40, 33)),
        ((1, 6), (5, 6, 2)), ((2, 3, 8, 5), (2, 3, 5, 70)),
    ):  # fmt: skip
        exactly(runtime, node("MatMul", 2), [integers(rng, *left), integers(rng, *right)], 13)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        scores (float[N,L,C] x) => (float[N,L,L] y, float[N,C,L] z)
        {
            t = Transpose <perm = [0, 2, 1]> (x)
            y = MatMul(x, t)
            u = Transpose <perm = [0, 2, 1]> (x)
            z = MatMul(u, y)
        }"""
    )
    prepared, built = Backend.prepare(model, runtime), 0
    for shape in ((2, 9, 4), (1, 3, 20), (3, 33, 5)):
        x = integers(rng, *shape)
        y, z = prepared.run([x])
        np.testing.assert_array_equal(y, x @ x.transpose(0, 2, 1))
        np.testing.assert_array_equal(z, x.transpose(0, 2, 1) @ y)
        built = built or len(runtime.programs)
        assert len(runtime.programs) == built
    assert {one.where for one in report(prepared, [x])} == {"device"}


def test_reductions(runtime, rng):
    for shape in (*SHAPES, (2, 3, 700)):
        x = integers(rng, *shape)
        for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare"):
            opset = 11 if op == "ReduceSum" else 13
            for axes in ([2], [1], [1, 2], [0], [0, 1]):
                for keep in (0, 1):
                    exactly(runtime, node(op, axes=axes, keepdims=keep), [x], opset)
        made = node("ReduceMean", axes=[1])
        within(runtime, made, [x], 3, 13)
        within(runtime, node("ReduceL2", axes=[-1]), [x], 4, 13)
        exactly(runtime, node("GlobalMaxPool"), [x])
        within(runtime, node("GlobalAveragePool"), [x], 3)


def spread(x, axis):
    """What rounding may add to normalised values, in units roundoff: for each term of the sums the
    largest distance from the mean, in deviations."""
    centred = abs(x - x.mean(axis=axis, keepdims=True))
    deviation = np.sqrt((centred**2).mean(axis=axis, keepdims=True) + 1e-5)
    terms = math.prod(x.shape[a] for a in axis)
    largest = abs(x).max(axis=axis, keepdims=True)
    return (3 * terms + 12) * (largest + centred) / deviation * (1 + centred / deviation)


def test_normalisations(runtime, rng):
    u = testing.unit_roundoff(np.float32)
    for shape in ((1, 4, 2), (2, 6, 1), (2, 4, 75)):
        x = testing.normals(rng, shape, np.float32)
        scale, shift = testing.normals(rng, (2, shape[1]), np.float32)
        for made, axis, inputs, opset in (
            (node("InstanceNormalization", 3), (2,), [x, scale, shift], OPSET),
            (node("GroupNormalization", 3, num_groups=2), (1, 2), [x, scale, shift], OPSET),
            (node("LayerNormalization", 3, axis=-1), (2,),
             [x, *testing.normals(rng, (2, shape[2]), np.float32)], OPSET),
            (node("LayerNormalization", 2, axis=1), (1, 2),
             [x, testing.normals(rng, shape[1:], np.float32)], OPSET),
        ):  # fmt: skip
            y = on_device(runtime, made, inputs, opset)[0]
            expected = reference(made, inputs, opset)[0].astype(np.float64)
            wide = x.astype(np.float64)
            if made.op_type == "GroupNormalization":
                grouped = wide.reshape(shape[0], 2, -1)
                error = spread(grouped, (2,)).reshape(shape)
            else:
                error = spread(wide, axis)
            largest = max(abs(one).max() for one in inputs[1:])
            bound = u * (error * largest + 4 * (abs(expected) + largest))
            testing.assert_within_bound(y, expected, bound, str(made))


def test_softmax(runtime, rng):
    for shape in ((1, 1), (2, 3, 5), (3, 130)):
        x = testing.normals(rng, shape, np.float32) * np.float32(3)
        terms = shape[-1]
        # An error of the argument is one of the exponential, relative to it.
        ulps = 8 + terms / 2 + abs(x).max()
        within(runtime, node("Softmax"), [x], ulps)
        made = node("LogSoftmax")
        y = on_device(runtime, made, [x])[0]
        wide = x.astype(np.float64)
        shifted = wide - wide.max(axis=-1, keepdims=True)
        expected = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        bound = testing.unit_roundoff(np.float32) * (2 * ulps + 2 * abs(expected))
        testing.assert_within_bound(y, expected, bound)
    exactly(runtime, node("Softmax"), [np.zeros((2, 2, 2), np.float32)], 11)


def test_resize(runtime, rng):
    x = integers(rng, 2, 3, 8)
    sizes = np.float32([1, 1, 2])
    exactly(runtime, node("Upsample", 2, mode="nearest"), [x, sizes], 9)
    made = helper.make_node("Resize", ["x0", "", "x1"], ["y0"], mode="nearest",
                            nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")  # fmt: skip
    exactly(runtime, made, [x, sizes])
    for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        made = helper.make_node("Resize", ["x0", "", "", "x1"], ["y0"], mode="linear",
                                coordinate_transformation_mode=mode)  # fmt: skip
        for length in (1, 5, 16, 24):
            inputs = [x, np.array([2, 3, length], np.int64)]
            y = on_device(runtime, made, inputs)[0]
            bound = 4 * testing.unit_roundoff(np.float32) * abs(x).max()
            testing.assert_within_bound(y, reference(made, inputs)[0], bound, str(made))


def test_for_a_gpu(gpu_runtime, rng):
    """With work-items as lanes, and many a group."""
    x = integers(rng, 2, 5, 70)
    exactly(gpu_runtime, node("Add", 2), [x, integers(rng, 5, 1)])
    exactly(gpu_runtime, node("Transpose", perm=[0, 2, 1]), [x])
    exactly(gpu_runtime, node("MaxPool", kernel_shape=[3], pads=[1, 1], strides=[2]), [x])
    exactly(gpu_runtime, node("ReduceSum", axes=[2]), [x], 11)
    exactly(gpu_runtime, node("ReduceMax", axes=[1]), [x], 13)
    exactly(gpu_runtime, node("Concat", 2, axis=2), [x, integers(rng, 2, 5, 3)])
    exactly(gpu_runtime, node("MatMul", 2), [x, integers(rng, 2, 70, 9)], 13)
    within(gpu_runtime, node("Softmax"), [x], 60)
    exactly(gpu_runtime, node("Upsample", 2), [x, np.float32([1, 1, 3])], 9)


def test_what_is_not_on_the_device_says_why(first_runtime, rng):
    x = integers(rng, 2, 3, 9)
    for made, inputs, why in (
        (node("Add", 2), [x.astype(np.int64)] * 2, "not of floating-point"),
        (node("Softmax", axis=1), [x], "its axis is 1"),
        (node("ReduceSum", axes=[0, 2]), [x], "no neighbours"),
        (node("CumSum", 2), [x, np.array(1)], "no kernel for this operator"),
        (node("MaxPool", 1, 2, kernel_shape=[2]), [x], "indices are wanted"),
        (node("Relu"), [x[:0]], "has no elements"),
    ):
        opset = 11 if made.op_type == "ReduceSum" else OPSET
        graph = helper.make_graph(
            [made], "node",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(one.dtype), None)
             for n, one in zip(made.input, inputs, strict=True)],
            [helper.make_empty_tensor_value_info(name) for name in made.output],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        (entry,) = report(
            Prepared(model, first_runtime), dict(zip(made.input, inputs, strict=True))
        )
        assert entry.where in ("onnx.reference", "ONNX Runtime")
        assert why in entry.why
    y = Backend.run_node(node("Relu"), [x[:0]], first_runtime)[0]
    assert y.shape == (0, 3, 9)
