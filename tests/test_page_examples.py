"""Worked examples: those of Conv1D that PuzzleLib's users know, and those of docstrings."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from clconv import Conv1D, functional, gpuarray


def row(*values):
    return [float(v) for v in values]


EXAMPLES = {
    "size 2": (
        {"size": 2},
        row(1, 3, 5, 7, 9, 11, 13, 15, 17),
        row(-1, -2, -3, -4, -5, -6, -7, -8, -9),
    ),
    "size 3": (
        {"size": 3},
        row(3, 6, 9, 12, 15, 18, 21, 24),
        row(-5, -8, -11, -14, -17, -20, -23, -26),
    ),
    "size 3, pad 1": (
        {"size": 3, "pad": 1},
        row(1, 3, 6, 9, 12, 15, 18, 21, 24, 17),
        row(-2, -5, -8, -11, -14, -17, -20, -23, -26, -9),
    ),
    "size 2, stride 2": ({"size": 2, "stride": 2}, row(1, 5, 9, 13, 17), row(-1, -3, -5, -7, -9)),
    "size 2, stride 2, pad 2": (
        {"size": 2, "stride": 2, "pad": 2},
        row(0, 1, 5, 9, 13, 17, 0),
        row(0, -1, -3, -5, -7, -9, 0),
    ),
    "size 2, stride 2, pad 5": (
        {"size": 2, "stride": 2, "pad": 5},
        row(0, 0, 0, 3, 7, 11, 15, 9, 0, 0),
        row(0, 0, 0, -2, -4, -6, -8, 0, 0, 0),
    ),
    "size 2, dilation 2": (
        {"size": 2, "dilation": 2},
        row(2, 4, 6, 8, 10, 12, 14, 16),
        row(-2, -3, -4, -5, -6, -7, -8, -9),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(runtime, name):
    arguments, first, second = EXAMPLES[name]
    size = arguments["size"]
    conv = Conv1D(1, 2, useBias=False, **arguments)
    w = np.zeros((2, 1, 1, size), np.float32)
    w[0] = 1
    w[1] = -np.arange(size)
    conv.W.set(w)
    data = gpuarray.to_gpu(np.arange(10, dtype=np.float32).reshape(1, 1, 10))
    result = conv(data)
    assert result.shape == (1, 2, len(first))
    np.testing.assert_array_equal(result.get(), [[first, second]])
    assert conv.dataShapeFrom((1, 1, 10)) == (1, 2, len(first))


def test_weights_and_bias_of_groups(runtime):
    assert Conv1D(16, 32, 2).W.shape == (32, 16, 1, 2)
    assert Conv1D(16, 32, 2, groups=4).W.shape == (32, 4, 1, 2)
    assert Conv1D(16, 32, 2, groups=4).b.shape == (1, 32, 1, 1)


def test_examples_of_functions(runtime):
    """Every function has an example in its docstring, which holds."""
    finder = doctest.DocTestFinder()
    for name in functional.__all__:
        (example,) = finder.find(getattr(functional, name), name, functional)
        assert example.examples, name
        assert doctest.DocTestRunner().run(example).failed == 0, name
