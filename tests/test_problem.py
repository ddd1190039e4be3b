"""Shape arithmetic, and what no convolution can have."""

from __future__ import annotations

import numpy as np
import pytest
from problems import PROBLEMS

from clconv import Conv1dProblem, Epilogue, Pass, ProblemError


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
