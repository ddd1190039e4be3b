"""Shape arithmetic, and what no convolution can have."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from problems import PROBLEMS

import clconv
from clconv import Conv1dProblem, Epilogue, Pass, ProblemError, reference
from clconv.geometry import Geometry, in_series

PACKAGE = Path(clconv.__file__).parent


@pytest.mark.parametrize("name", PROBLEMS)
def test_phases_take_every_tap_once(name):
    """The phases of the input gradient share the taps: each is in the phase of its offset."""
    problem = PROBLEMS[name]
    seen = []
    for phase in range(problem.stride):
        for k in problem.phase_taps(phase):
            assert (k * problem.dilation) % problem.stride == phase
            seen.append(k)
    assert sorted(seen) == list(range(problem.kernel_size))
    most = max(len(problem.phase_taps(r)) for r in range(problem.stride))
    assert problem.terms(Pass.INPUT_GRADIENT) <= problem.group_out * -(
        -problem.kernel_size // problem.phase_tap_step
    )
    assert problem.terms(Pass.INPUT_GRADIENT) >= problem.group_out * most


def test_same_puts_the_odd_sample_right():
    assert Conv1dProblem(1, 1, 9, 1, 4, padding="same").pads == (1, 2)
    assert Conv1dProblem(1, 1, 9, 1, 4, padding="same", dilation=3).pads == (4, 5)
    assert Conv1dProblem(1, 1, 9, 1, 5, padding="same").out_length == 9
    assert Conv1dProblem(1, 1, 9, 1, 4, padding="valid").pads == (0, 0)


def test_cropped_samples_are_input_that_no_window_reaches():
    whole = Conv1dProblem(2, 3, 30, 4, 3, stride=2, padding=1, dilation=5)
    problem = Conv1dProblem(2, 3, 34, 4, 3, stride=2, padding=1, dilation=5, cropped=4)
    assert problem.output_shape == whole.output_shape
    assert problem.input_shape == (2, 3, 34)
    assert problem != Conv1dProblem(2, 3, 34, 4, 3, stride=2, padding=1, dilation=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": -1}, "batch is -1"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"length": 0}, "length is 0"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": -2}, "stride is -2"),
        ({"dilation": 0}, "dilation is 0"),
        ({"groups": 0}, "groups is 0"),
        ({"groups": 3}, "groups is 3"),
        ({"padding": -1}, "padding is -1"),
        ({"padding": (0, -1)}, r"padding\[1\] is -1"),
        ({"padding": (1, 2, 3)}, "padding is"),
        ({"cropped": -1}, "cropped is -1"),
        ({"cropped": 2**30, "length": 2**30, "padding": (0, 2**30)}, "expected at most"),
        ({"cropped": 1, "kernel_size": 10}, "length with padding is 9, expected at least 10"),
        ({"padding": "reflect"}, "padding is 'reflect'"),
        ({"padding": "same", "stride": 2}, "stride is 2"),
        ({"stride": 1.5}, "stride is 1.5"),
        ({"stride": True}, "stride is True"),
        ({"dtype": np.int32}, "dtype is"),
        ({"dtype": "nonsense"}, "dtype is nonsense"),
        ({"kernel_size": 11}, "length with padding is 10, expected at least 11"),
        ({"dilation": 5}, "length with padding is 10, expected at least 11"),
        ({"padding": 2**30}, "expected at most"),
    ],
)
def test_impossible(change, words):
    """Each impossible argument is named with its value."""
    fields = {"batch": 1, "in_channels": 4, "length": 10, "out_channels": 4, "kernel_size": 3}
    with pytest.raises(ProblemError, match=words):
        Conv1dProblem(**(fields | change))


def test_pass_names():
    assert Pass.of("forward") is Pass.FORWARD
    assert Pass.of("input gradient") is Pass.INPUT_GRADIENT
    assert Pass.of("weight") is Pass.WEIGHT_GRADIENT
    assert Pass.of(Pass.BIAS_GRADIENT) is Pass.BIAS_GRADIENT
    with pytest.raises(ProblemError, match="pass is 'sideways'"):
        Pass.of("sideways")


@pytest.mark.parametrize(
    "value", ["swish", ("relu", 0.1), ("leaky_relu", -1), ("leaky_relu", "x"), 3, ("leaky_relu",)]
)
def test_wrong_activation(value):
    with pytest.raises(ProblemError, match="activation is"):
        Epilogue.parse_activation(value)


# Geometries


# Stride, padding, dilation, kernel size.
GEOMETRIES = [*itertools.product((1, 2, 3), (0, 1, (0, 2), (4, 1)), (1, 2, 5), (1, 2, 3, 4))]


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel_size"), GEOMETRIES)
def test_lengths_are_those_of_the_definition(stride, padding, dilation, kernel_size):
    """Every length gives as many positions as there are windows, counted one by one; shorter
    inputs than the shortest give none."""
    geometry = Geometry(stride, padding, dilation)
    left, right = (padding, padding) if isinstance(padding, int) else padding
    found = {}
    for length in range(1, 30):
        starts = range(0, length + left + right, stride)
        last_taps = [start + (kernel_size - 1) * dilation for start in starts]
        found[length] = sum(tap < length + left + right for tap in last_taps)
        assert geometry.out_length(length, kernel_size) == found[length]
        if found[length]:
            problem = Conv1dProblem.of(geometry, (1, 1, length), 1, kernel_size)
            assert problem.out_length == found[length]
    for least in range(1, 5):
        shortest = min(length for length, count in found.items() if count >= least)
        assert geometry.shortest_length(kernel_size, least) == shortest
    assert geometry.latency(kernel_size) == (kernel_size - 1) * dilation - left


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel_size"), GEOMETRIES)
def test_transposed_lengths_are_those_of_the_definition(stride, padding, dilation, kernel_size):
    """The result has the positions that an input sample's taps reach, less what is cropped, and
    those that are appended. It is the input gradient of its problem, whose output is as long as
    its own input."""
    left, right = (padding, padding) if isinstance(padding, int) else padding
    for extra in range(max(stride, dilation)):
        geometry = Geometry(stride, padding, dilation, transposed=True, output_padding=extra)
        found = {}
        for length in range(1, 12):
            reached = 1 + max(
                q * stride + k * dilation for q in range(length) for k in range(kernel_size)
            )
            found[length] = max(reached - left - right + extra, 0)
            assert geometry.out_length(length, kernel_size) == found[length]
            if not found[length]:
                with pytest.raises(ProblemError, match=r"padding is .*, which leaves"):
                    Conv1dProblem.of(geometry, (1, 1, length), 1, kernel_size)
                continue
            problem = Conv1dProblem.of(geometry, (2, 6, length), 4, kernel_size)
            assert problem.output_shape == (2, 6, length)
            assert problem.input_shape == (2, 4, found[length])
            scattered = np.zeros(max(reached + extra, left + found[length]))
            for q in range(length):
                for k in range(kernel_size):
                    scattered[q * stride + k * dilation] += 10 * (q + 1) + k
            one = Conv1dProblem.of(geometry, (1, 1, length), 1, kernel_size)
            taps = np.zeros(found[length])
            for k in range(kernel_size):  # one tap at a time, so that each adds what it is
                weight = np.zeros((1, 1, kernel_size))
                weight[0, 0, k] = 1
                values = 10.0 * np.arange(1, length + 1) + k
                taps += reference.input_gradient(one, weight, values.reshape(1, 1, -1))[0, 0]
            assert (taps == scattered[left : left + found[length]]).all()
        for least in range(1, 5):
            shortest = min(length for length, count in found.items() if count >= least)
            assert geometry.shortest_length(kernel_size, least) == shortest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": -1}, "batch is -1"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"length": 0}, "length is 0"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"dilation": 0}, "dilation is 0"),
        ({"groups": 0}, "groups is 0"),
        ({"groups": 4}, r"groups is 4, expected a divisor of in_channels \(6\)"),
        ({"groups": 3}, r"groups is 3, expected a divisor of out_channels \(4\)"),
        ({"padding": "same"}, "padding is 'same', expected an integer or a pair"),
        ({"padding": (0, -1)}, r"padding\[1\] is -1"),
        ({"padding": 6}, r"padding is \(6, 6\), which leaves 0 output positions"),
        ({"output_padding": -1}, "output_padding is -1"),
        ({"output_padding": 1}, r"output_padding is 1, expected less than stride \(1\)"),
        ({"stride": 2**29}, "stride is 536870912 and dilation 1, which makes"),
        ({"dtype": np.int32}, "dtype is"),
    ],
)
def test_impossible_transposed(change, words):
    fields = {"batch": 1, "in_channels": 6, "length": 10, "out_channels": 4, "kernel_size": 3}
    with pytest.raises(ProblemError, match=words):
        Conv1dProblem.transposed(**(fields | change))


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel_size"), GEOMETRIES)
def test_padding_of_onnx(stride, padding, dilation, kernel_size):
    """SAME gives a position each stride that begins, with the least padding; output_shape gives
    what it says. The odd sample is on the side that is asked for."""
    for length, odd_first in itertools.product(range(1, 20), (False, True)):
        geometry = Geometry(stride, padding, dilation).with_same_length(
            length, kernel_size, odd_first
        )
        left, right = geometry.pads(kernel_size)
        assert left - right in ((0, 1) if odd_first else (0, -1))
        wanted = len(range(0, length, stride))
        found = geometry.out_length(length, kernel_size)
        assert found >= wanted
        if left + right:
            assert found == wanted
            fewer = geometry._replace(padding=(left, right - 1) if right else (left - 1, right))
            assert fewer.out_length(length, kernel_size) < wanted
        transposed = Geometry(stride, padding, dilation, transposed=True, output_padding=1)
        for wanted in range(1, transposed.longest_out_length(length, kernel_size) + 1):
            sized = transposed.with_out_length(length, kernel_size, wanted, odd_first)
            left, right = sized.pads(kernel_size)
            assert left - right in ((0, 1) if odd_first else (0, -1))
            assert sized.out_length(length, kernel_size) == wanted
            assert sized.output_padding <= max(transposed.most_output_padding, 1)


def test_a_signal_in_parts():
    """The windows of a signal that comes in parts are those of the whole, each once."""
    for stride, pad, dilation, kernel_size in itertools.product((1, 2, 5), (0, 3), (1, 3), (1, 3)):
        geometry = Geometry(stride, pad, dilation)
        for part in (1, 2, 7):
            outputs, left, kept, skip = 0, pad, 0, 0
            for _ in range(0, 42, part):
                fresh = max(part - skip, 0)
                skip -= part - fresh
                if not fresh:
                    continue
                one = geometry.progress(left, kept + fresh, kernel_size)
                outputs, left, skip = outputs + one.outputs, one.left, one.skip
                kept = max(kept + fresh - one.start, 0)
            assert outputs == geometry.windows(pad + 42, kernel_size)
    assert in_series([]) == (1, 0)
    assert in_series([(2, 3), (5, -1), (1, 4)]) == (10, 3 - 2 + 40)


# Who derives shapes

SIZES = frozenset(
    ("kernel_size", "stride", "dilation", "padding", "output_padding", "window", "pad", "pads",
     "postpad")
)  # fmt: skip
KNOW_SHAPES = ("geometry.py", "problem.py", "reference.py")
# Arithmetic that is no convolution's geometry, by module and function.
ELSEWHERE = {
    ("calls/elementwise.py", "pad"): "an array and its own padding",
    ("calls/elementwise.py", "pad_gradient"): "an array and its own padding",
    ("calls/elementwise.py", "_pad"): "an array and its own padding",
    ("calls/elementwise.py", "extend"): "an array and its own padding",
    ("layers/pad1d.py", ""): "what modes make padding of",
    ("layers/pad1d.py", "dataShapeFrom"): "a layer that only pads",
    ("layers/pad1d.py", "gradShapeFrom"): "a layer that only pads",
    ("streaming/convolution.py", "_finish"): "what windows left of the padding behind the signal",
    ("signal/long.py", "queue_tiles"): "where tiles of a long signal begin",
    ("commands/layers.py", ""): "a kernel size of random layers is drawn in strides",
}


def _operands(node):
    """The names in a sum or product, through brackets, indices and calls."""
    if isinstance(node, ast.BinOp):
        yield from _operands(node.left)
        yield from _operands(node.right)
    elif isinstance(node, ast.UnaryOp):
        yield from _operands(node.operand)
    elif isinstance(node, ast.Subscript):
        yield from _operands(node.value)
    elif isinstance(node, ast.Call):
        yield from _operands(node.func)
        for argument in node.args:
            yield from _operands(argument)
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr.lstrip("_")


def _formulas(text):
    """(function, formula) of each sum and product of a module with one of the sizes in it."""
    found = []

    def visit(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        counts = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)
        parts = ()
        if isinstance(node, ast.BinOp) and isinstance(node.op, counts):
            parts = (node,)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, counts):
            parts = (node.target, node.value)
        if any(name in SIZES for part in parts for name in _operands(part)):
            found.append((function, ast.unparse(node)))
            return
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(text), "")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return self.dilation * (self.size - 1) + 1",
        "def f():\n    return (length + sum(problem.pads) - window) // stride",
        "def f():\n    return problem.pads[0] + 1",
        "def f():\n    return -(-length // max(stride, 1))",
        "def f():\n    return layer._window - 1",
        "def f():\n    return geometry.window(3) - 1",
        "def f():\n    latency += stream.latency * stride",
        "def f():\n    total -= pad",
        "class A:\n    def f(self):\n        return {'n': [(length - 1) * self.stride]}",
    ],
)
def test_every_formula_is_seen(text):
    assert [function for function, _ in _formulas(text)] == ["f"]
    assert not _formulas("def f():\n    return conv(x, stride, 2 * channels, padding=padding)")


def test_shapes_are_derived_once():
    """Only geometry.py and problem.py do shape arithmetic, and the specification as it says. What
    variants compute is how a kernel's tiles cut what a problem is."""
    seen = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name in KNOW_SHAPES or name.startswith("variants/"):
            continue
        for function, formula in _formulas(path.read_text()):
            assert (name, function) in ELSEWHERE, f"{name}, {function}: {formula}"
            seen.add((name, function))
    assert seen == set(ELSEWHERE)
