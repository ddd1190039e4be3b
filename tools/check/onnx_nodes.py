#!/usr/bin/env python3
"""Which nodes does onnx.reference compute otherwise than ONNX Runtime?

Over ONNX's own cases of single nodes, and over variants of attributes that they leave out. What is
wrong in the reference is corrected in `clconv/onnx/evaluator.py`, or refused by
`clconv/onnx/wrong.py`. Needs onnxruntime; a name as argument chooses cases by a regular expression.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from clconv.onnx.evaluator import Evaluator
from clconv.onnx.graph import Node
from clconv.onnx.wrong import wrong_in_reference

try:
    import onnxruntime
except ModuleNotFoundError:
    onnxruntime = None

Case = tuple[str, ModelProto, dict[str, Any]]
# float16 results of both are rounded at different places.
TOLERANCES = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
# Cases whose results by ONNX Runtime are not those that ONNX says.
OTHERWISE_THERE = frozenset({
    "test_maxunpool_export_with_output_shape", "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
})  # fmt: skip


def cases_of_onnx() -> Iterator[Case]:
    """ONNX's own."""
    for case in load_model_tests(kind="node"):
        if case.model is None or not case.data_sets or case.name in OTHERWISE_THERE:
            continue
        given = [numpy_helper.to_array(one) if isinstance(one, TensorProto) else one
                 for one in case.data_sets[0][0]]  # fmt: skip
        names = [one.name for one in case.model.graph.input]
        yield case.name, case.model, dict(zip(names, given, strict=False))


Variant = tuple[str, list[Any], dict[str, Any], int]  # operator, inputs, attributes, opset


def variants() -> Iterator[Variant]:
    """What those leave out."""
    rng = np.random.default_rng(1)
    x, y = (
        rng.standard_normal((2, 4, 11), np.float32),
        rng.standard_normal((2, 4, 6, 5), np.float32),
    )
    for op in ("MaxPool", "AveragePool"):
        for size, stride, dilation, ceil in itertools.product((1, 3, 4), (1, 3), (1, 2), (0, 1)):
            for pads in ([0, 0], [1, 1], [0, 2], [2, 0]):
                if max(pads) < size:
                    yield op, [x], {"kernel_shape": [size], "strides": [stride], "pads": pads,
                                    "dilations": [dilation], "ceil_mode": ceil}, 22  # fmt: skip
        autos = "SAME_UPPER", "SAME_LOWER", "VALID"
        for auto, size, stride in itertools.product(autos, (2, 3, 4), (1, 2, 3)):
            yield op, [x], {"kernel_shape": [size], "strides": [stride], "auto_pad": auto}, 22
    for op, one in itertools.product(("GlobalMaxPool", "GlobalAveragePool"), (x, y)):
        yield op, [one], {}, 22
    for op, axis in itertools.product(("Softmax", "LogSoftmax", "Hardmax"), (0, 1, 2, -1)):
        yield op, [x], {"axis": axis}, 11
        yield op, [x], {"axis": axis}, 13
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceProd"):
        for axes, keep in itertools.product(([0], [1, 2], [-1]), (0, 1)):
            opset = 11 if op == "ReduceSum" else 13
            yield op, [x], {"axes": axes, "keepdims": keep}, opset
    scales = rng.standard_normal(4, np.float32), rng.standard_normal(4, np.float32)
    yield "InstanceNormalization", [x, *scales], {}, 22
    yield "GroupNormalization", [x, *scales], {"num_groups": 2}, 21
    for axis in (1, 2, -1, -2):
        shape = x.shape[axis:]
        yield "LayerNormalization", [x, np.ones(shape, np.float32)], {"axis": axis}, 17
    yield "BatchNormalization", [x, *scales, *(abs(one) for one in scales)], {}, 15
    for mode, nearest in itertools.product(
        ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"),
        ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    ):
        for length in (5, 22, 33):
            sizes = np.array([2, 4, length], np.int64)
            empty = np.float32([])
            yield "Resize", [x, empty, empty, sizes], {
                "mode": "nearest", "nearest_mode": nearest, "coordinate_transformation_mode": mode,
            }, 13  # fmt: skip
            if nearest == "floor":
                yield "Resize", [x, empty, empty, sizes], {
                    "mode": "linear", "coordinate_transformation_mode": mode}, 13  # fmt: skip
    for mode in ("constant", "reflect", "edge"):
        yield "Pad", [x, np.array([0, 0, 3, 0, 0, 4], np.int64)], {"mode": mode}, 13
    for op in ("LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "Softplus", "Softsign", "Mish",
               "HardSwish", "ThresholdedRelu", "Gelu", "Erf", "Round", "Sign"):  # fmt: skip
        yield op, [x], {}, 20
    yield from convolutions(rng, y)


def convolutions(rng: np.random.Generator, y: Any) -> Iterator[Variant]:
    """Those of two axes, and recurrent layers."""
    for groups, stride, dilation in ((1, 1, 1), (2, 2, 1), (4, 1, 2)):
        w = rng.standard_normal((4, 4 // groups, 3, 3), np.float32)
        named = {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2}
        yield "Conv", [y, w], {**named, "pads": [1, 2, 0, 1]}, 22
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            yield "Conv", [y, w], {**named, "auto_pad": auto}, 22
        yield "ConvTranspose", [y, w], {**named, "pads": [1, 2, 0, 1]}, 22
    for mode in ("DCR", "CRD"):
        yield "DepthToSpace", [y], {"blocksize": 2, "mode": mode}, 13
    for direction in ("forward", "reverse", "bidirectional"):
        both = 1 + (direction == "bidirectional")
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
            w = rng.standard_normal((both, gates * 3, 4), np.float32)
            r = rng.standard_normal((both, gates * 3, 3), np.float32)
            series = rng.standard_normal((7, 2, 4), np.float32)
            yield op, [series, w, r], {"direction": direction, "hidden_size": 3}, 14


def cases_of_variants() -> Iterator[Case]:
    """Those above, as models."""
    for op, inputs, attributes, opset in variants():
        names = [f"x{i}" for i in range(len(inputs))]
        node = helper.make_node(op, names, ["y"], **attributes)
        kinds = [helper.np_dtype_to_tensor_dtype(one.dtype) for one in inputs]
        typed = [helper.make_tensor_value_info(n, kind, one.shape)
                 for n, kind, one in zip(names, kinds, inputs, strict=True)]  # fmt: skip
        graph = helper.make_graph([node], op, typed, [helper.make_empty_tensor_value_info("y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 10
        yield (
            f"{op} {opset} {attributes} {[one.shape for one in inputs]}",
            model,
            dict(zip(names, inputs, strict=True)),
        )


def compared(model: ModelProto, feeds: dict[str, Any]) -> str:
    """How the two differ, "" where they agree, or where ONNX Runtime does not take the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        theirs = session.run(None, feeds)
    except Exception:  # of any kind: there is nothing to compare with
        return ""
    try:
        ours = Evaluator(model).run(None, feeds)
    except Exception as error:  # an error is no wrong result, but worth knowing
        return f"the reference fails: {type(error).__name__}: {str(error)[:80]}"
    for a, b in zip(ours, theirs, strict=True):
        if not isinstance(b, np.ndarray) or b.dtype.kind not in "fiub":
            continue
        if np.shape(a) != b.shape:
            return f"shapes {np.shape(a)} and {b.shape}"
        if a.dtype.name.startswith("float8") and b.dtype == np.uint8:
            a = a.view(np.uint8)  # ONNX Runtime gives their bits
        if a.dtype != b.dtype:
            return f"dtypes {a.dtype} and {b.dtype}"
        if b.dtype.kind == "f":  # ONNX Runtime masks by the lowest number, ONNX by -infinity
            a, b = (np.clip(one, np.finfo(b.dtype).min, np.finfo(b.dtype).max) for one in (a, b))
        tolerance = TOLERANCES.get(b.dtype.name, 0)
        # As a part of the largest value: sums of both are rounded in another order.
        largest = np.nanmax(abs(b.astype(float)), initial=1.0, where=np.isfinite(b))
        if not np.allclose(a, b, tolerance, tolerance * largest, equal_nan=True):
            return f"values, by {np.max(abs(a.astype(float) - b.astype(float))):.3g}"
    return ""


def main() -> int:
    """1 where they differ in what is not refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="?", default="", help="a regular expression for cases")
    wanted = re.compile(parser.parse_args().only)
    if onnxruntime is None:
        sys.exit("onnxruntime is missing: pip install onnxruntime")
    warnings.simplefilter("ignore")
    count, found = 0, 0
    for name, model, feeds in itertools.chain(cases_of_variants(), cases_of_onnx()):
        if not wanted.search(name):
            continue
        count += 1
        how = compared(model, feeds)
        versions = {one.domain: one.version for one in model.opset_import}
        refused = [wrong_in_reference(Node(one, versions.get(one.domain, 1)))
                   for one in model.graph.node]  # fmt: skip
        if how and not any(refused):
            print(f"{name}: {how}", flush=True)
            found += not how.startswith("the reference fails")
    print(f"{count} cases, {found} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
