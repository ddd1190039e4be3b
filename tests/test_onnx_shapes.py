"""What a model's run takes from shapes and constants, and how tensors lie that its nodes read."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from test_onnx_models import FLOAT, integers, model_of, node, prepared_of, reference, runs

from clconv import ProblemError, functional
from clconv.calls.draft import NO_NAMES, Draft
from clconv.calls.layouts import Layout
from clconv.calls.prepared import Derived
from clconv.calls.recipes import draft_conv1d
from clconv.geometry import Geometry
from clconv.onnx.program import Program, Scratch
from clconv.onnx.recording import Recorder


def equal_in_turn(runtime, model, *inputs):
    """Runs one prepared model with several inputs, which all give what the reference does."""
    prepared = prepared_of(runtime, model)
    for x in inputs:
        for ours, theirs in zip(prepared.run([x]), reference(model, x=x), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return prepared


# What follows from shapes


def test_matrices_that_follow_from_shapes(first_runtime, rng):
    """Of MatMul, Gemm and a convolution, and statistics: each run has those of its shapes."""
    number = [node("Shape", ["x"], ["s"], start=0, end=1), node("Cast", ["s"], ["n"], to=FLOAT)]
    scaled = [*number, node("Mul", ["m", "n"], ["w"])]
    m, statistics = integers(rng, 4, 4), ["ones", "v", "v", "zeros"]
    constants = {"m": m, "v": integers(rng, 4), "ones": np.ones(4, np.float32),
                 "zeros": np.zeros(4, np.float32)}  # fmt: skip
    normal = {"epsilon": 0.25}
    cases = (
        ([node("MatMul", ["x", "w"], ["y"])], m, ("N", 4)),
        ([node("Gemm", ["x", "w"], ["y"], transB=1)], m, ("N", 4)),
        ([node("Conv", ["x", "w"], ["c"]),
          node("BatchNormalization", ["c", *statistics], ["y"], **normal)],
         m[:, :, None], ("N", 4, "L")),
        ([node("Mul", ["v", "n"], ["scale"]),
          node("BatchNormalization", ["x", "scale", "v", "v", "zeros"], ["y"], **normal)],
         m, ("N", 4, "L")),
    )  # fmt: skip
    for nodes, matrix, shape in cases:
        model = model_of([*scaled, *nodes], shape, {**constants, "m": matrix})
        inputs = [integers(rng, n, *(4, 5)[: len(shape) - 1]) for n in (2, 3, 2)]
        prepared = equal_in_turn(first_runtime, model, *inputs)
        # What all runs keep does not grow with shapes.
        assert not prepared._known.get(frozenset()).kept


def test_numbers_that_follow_from_shapes_compile_nothing(first_runtime, rng):
    nodes = [node("Shape", ["x"], ["s"], start=2), node("Cast", ["s"], ["n"], to=FLOAT),
             node("Mul", ["x", "n"], ["y"])]  # fmt: skip
    prepared = equal_in_turn(first_runtime, model_of(nodes), integers(rng, 1, 4, 5))
    built = len(first_runtime.programs)
    for length in (6, 7):
        x = integers(rng, 1, 4, length)
        np.testing.assert_array_equal(prepared.run([x])[0], x * length)
    assert len(first_runtime.programs) == built


def test_shapes_that_follow_from_values_on_the_host(first_runtime):
    """How many elements are not zero, and a product with that number."""
    nodes = [node("NonZero", ["x"], ["z"]), node("Shape", ["z"], ["s"], start=1),
             node("Size", ["z"], ["t"]), node("Cast", ["s"], ["n"], to=FLOAT),
             node("Cast", ["t"], ["m"], to=FLOAT), node("Mul", ["x", "n"], ["y"])]  # fmt: skip
    model = model_of(nodes, (4,), outputs=("y", "n", "m"))
    inputs = [np.float32(one) for one in ([1, 0, 2, 0], [3, 0, 4, 0], [1, 3, 2, 0], [0, 1, 0, 4])]
    equal_in_turn(first_runtime, model, *inputs)


# Constants that are folded


def statistics_of(rng, name):
    """Those of a normalisation whose factors are powers of two, so that folds are exact."""
    scale = 2.0 ** rng.integers(-1, 2, 4)
    arrays = scale, rng.integers(-4, 5, 4), rng.integers(-4, 5, 4), np.full(4, 0.75)
    return {f"{name}{i}": one.astype(np.float32) for i, one in enumerate(arrays)}


def normalised(x, name, y):
    return node("BatchNormalization", [x, *(f"{name}{i}" for i in range(4))], [y], epsilon=0.25)


def test_folds_of_one_weight_differ(first_runtime, rng):
    """One weight in two layers: other normalisations before the same one, and another layer."""
    constants = {"w": integers(rng, 4, 4, 1), "b": integers(rng, 4)}
    for name in "acd":
        constants |= statistics_of(rng, name)
    branches = [
        [node("Conv", ["x", "w"], ["p"]), normalised("p", "a", "q"), normalised("q", "c", "y0")],
        [node("Conv", ["x", "w"], ["r"]), normalised("r", "d", "t"), normalised("t", "c", "y1")],
        [node("ConvTranspose", ["x", "w"], ["u"]), normalised("u", "a", "y2")],
        [node("Conv", ["x", "w", "b"], ["k"]), normalised("k", "a", "y3")],
        [normalised("x", "a", "y4")],
    ]  # fmt: skip
    outputs = tuple(f"y{i}" for i in range(len(branches)))
    model = model_of([*chain.from_iterable(branches)], constants=constants, outputs=outputs)
    prepared = equal_in_turn(first_runtime, model, *(integers(rng, 1, 4, n) for n in (5, 7, 6)))
    # Once for all shapes: six folds into weights, and one of its own.
    assert len(prepared._known.get(frozenset()).kept) == 7


# Views and what is pending


def test_concat_of_what_does_not_fit(first_runtime, rng):
    """Pending results whose inputs, or places, have more dimensions than one kernel takes."""
    cases = (
        ((2, 3, 2, 3, 4), (1, 3, 1, 3, 4), 4),
        ((2, 3, 2, 3, 1), (1, 3, 1, 3, 1), 4),
        ((2, 3, 2, 3, 1), (1, 3, 1, 3, 1), 0),
    )
    for shape, other, axis in cases:
        nodes = [node("Add", ["x", "k"], ["s"]), node("Concat", ["s", "x"], ["y"], axis=axis)]
        model = model_of(nodes, shape, {"k": integers(rng, *other)})
        x = integers(rng, *shape)
        np.testing.assert_array_equal(runs(first_runtime, model, x=x), reference(model, x=x)[0])
    nodes = [node("Transpose", ["x"], ["s"], perm=[4, 3, 2, 1, 0]),
             node("Concat", ["s", "s"], ["y"], axis=4)]  # fmt: skip
    model, x = model_of(nodes, (1, 2, 3, 2, 3)), integers(rng, 1, 2, 3, 2, 3)
    np.testing.assert_array_equal(runs(first_runtime, model, x=x), reference(model, x=x)[0])


def test_views_of_many_dimensions(first_runtime, rng):
    """What no kernel could copy afterwards is not made a view."""
    zeros, every = np.zeros(6, np.int64), np.arange(6)
    cases = (
        (node("Expand", ["x", "n"], ["y"]), (1, 2, 1, 2, 1, 2), {"n": np.array([2] * 6)}),
        (node("Slice", ["x", "n", "to", "axes"], ["y"]), (3,) * 6,
         {"n": zeros, "to": np.full(6, 2), "axes": every}),
    )  # fmt: skip
    for made, shape, constants in cases:
        x = integers(rng, *shape)
        model = model_of([made], shape, constants)
        np.testing.assert_array_equal(runs(first_runtime, model, x=x), reference(model, x=x)[0])


@pytest.mark.parametrize("op", ["Concat", "Gather", "Split", "LayerNormalization", "Softmax"])
def test_axes_beyond_the_last_one(first_runtime, rng, op):
    x = integers(rng, 2, 4)
    given = {"Gather": ["x", "i"], "LayerNormalization": ["x", "s"]}.get(op, ["x"])
    constants = {"i": np.array(0), "s": np.ones(4, np.float32)}
    for axis in (2, -3):
        model = model_of([node(op, given, ["y"], axis=axis)], (2, 4), constants, opset=17)
        with pytest.raises(ProblemError, match=f"axis is {axis}, expected an axis of 2 dimensions"):
            prepared_of(first_runtime, model).run([x])


def test_lists_of_axes_beyond_the_last_one(first_runtime, rng):
    constants = {"a": np.array([2]), "n": np.array([1]), "pads": np.array([1, 1])}
    cases = (
        node("Slice", ["x", "n", "n", "a"], ["y"]),
        node("Pad", ["x", "pads", "", "a"], ["y"]),
        node("ReduceSum", ["x", "a"], ["y"]),
        node("Squeeze", ["x", "a"], ["y"]),
    )
    for made in cases:
        model = model_of([made], (2, 4), constants)
        with pytest.raises(ProblemError, match="axes is 2, expected an axis of 2 dimensions"):
            prepared_of(first_runtime, model).run([integers(rng, 2, 4)])


def test_flatten_takes_the_axis_behind_the_last(first_runtime, rng):
    x = integers(rng, 2, 4)
    model = model_of([node("Flatten", ["x"], ["y"], axis=2)], (2, 4))
    np.testing.assert_array_equal(runs(first_runtime, model, x=x), x.reshape(8, 1))


# Positions with a stride


def test_convolutions_of_strided_positions(runtime, rng):
    """Every second position, from the end, some, and channels last; lengths compile nothing."""
    w, end = integers(rng, 5, 4, 3), 1 << 40
    cases = [((0, end, 2), 12), ((-1, -end, -1), 9), ((0, end, 3), 4)]
    for (start, stop, step), length in cases:
        numbers = {name: np.array([one]) for name, one in
                   (("from", start), ("to", stop), ("axis", 2), ("step", step))}  # fmt: skip
        nodes = [node("Slice", ["x", "from", "to", "axis", "step"], ["z"]),
                 node("Conv", ["z", "w"], ["y"], pads=[1, 1])]  # fmt: skip
        model = model_of(nodes, ("N", 4, "L"), {"w": w, **numbers})
        prepared = equal_in_turn(runtime, model, *(integers(rng, 2, 4, length) for _ in range(2)))
        built = len(runtime.programs)
        for other in (1, 2, 23):
            x = integers(rng, 2, 4, other)
            np.testing.assert_array_equal(prepared.run([x])[0], reference(model, x=x)[0])
        assert len(runtime.programs) == built
    turned = {"perm": [0, 2, 1]}
    nodes = [node("Transpose", ["x"], ["t"], **turned), node("Conv", ["t", "w"], ["c"]),
             node("Transpose", ["c"], ["y"], **turned)]  # fmt: skip
    model = model_of(nodes, ("N", "L", 4), {"w": w})
    equal_in_turn(runtime, model, *(integers(rng, 2, 9, 4) for _ in range(2)))


def recorded(runtime, host, weight, variant, last, view):
    """The record of one convolution of a view of x that lies in a larger tensor, its first result,
    and the copies that its plan asked for."""
    recorder = Recorder(runtime)
    x = view(recorder.upload("x", host))
    strides = tuple(step * x.dtype.itemsize for step in x.strides)
    layouts = {"x": Layout(x.shape, strides, x.dtype),
               "weight": Layout.contiguous(weight.shape, weight.dtype)}  # fmt: skip
    draft = Draft(runtime, layouts, NO_NAMES, kept=True, channels_last=last)
    draft_conv1d(draft, Geometry(padding=1, groups=4 // weight.shape[1]), None, variant)
    recipe = draft.recipe()
    out = recorder.empty(recipe.results["out"], x.dtype)
    operands = {"x": x, "weight": recorder.constant(weight), "out": out}
    recorder.follow(recipe, operands, Derived())
    return recorder, recorder.download("y", out), recipe.copies


@pytest.mark.parametrize("variant", ["pointwise", "depthwise", "strip", "direct"])
def test_recorded_copies(each_cpu, rng, variant):
    """Plans of strided positions, and of channels last: with copies where their kernels take rows
    alone, in the run that is recorded and when it goes again."""
    weight = integers(
        rng, *{"pointwise": (5, 4, 1), "depthwise": (4, 1, 3)}.get(variant, (5, 4, 3))
    )
    copied = variant != "strip"
    cases = (
        (False, (2, 4, 18), lambda x: x.part(2, 0, 9, 2), lambda x: x[:, :, ::2]),
        (False, (2, 4, 9), lambda x: x.part(2, 8, 9, -1), lambda x: x[:, :, ::-1]),
        (True, (2, 9, 4), lambda x: x, lambda x: x.transpose(0, 2, 1)),
    )
    for last, shape, view, seen in cases:
        host = integers(rng, *shape)
        recorder, y, copies = recorded(each_cpu, host, weight, variant, last, view)
        wanted = (("x", "out") if last else ("x",)) * copied
        # Whether depthwise kernels take channels last depends on how wide the vectors are.
        assert copies == wanted or (last and variant == "depthwise" and copies == ())
        program = Program(each_cpu, Scratch(each_cpu), recorder.events, recorder.sizes, ("y",))
        results = [(host, y)]
        for _ in range(2):
            values = {"x": integers(rng, *shape)}
            results.append((values["x"], program.run(values) or values["y"]))
        for x, found in results:
            rows = np.ascontiguousarray(seen(x))
            expected = functional.conv1d(
                rows, weight, padding=1, groups=4 // weight.shape[1], variant="direct"
            )
            if last:
                expected = expected.transpose(0, 2, 1)
            np.testing.assert_array_equal(found, expected)
