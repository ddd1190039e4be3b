"""The specification against PyTorch's float64 results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS

from clconv import Conv1dProblem, reference

BATCHED = {name: problem for name, problem in PROBLEMS.items() if problem.batch}


@pytest.mark.parametrize("name", BATCHED)
def test_passes(name, rng):
    """Every pass of every named problem is PyTorch's, to float64's rounding."""
    problem = BATCHED[name]
    x = torch.tensor(rng.standard_normal(problem.input_shape), requires_grad=True)
    weight = torch.tensor(rng.standard_normal(problem.weight_shape), requires_grad=True)
    bias = torch.tensor(rng.standard_normal(problem.out_channels), requires_grad=True)
    grad = rng.standard_normal(problem.output_shape)
    y = F.conv1d(F.pad(x, problem.pads), weight, bias, problem.stride, 0, problem.dilation,
                 problem.groups)  # fmt: skip
    assert tuple(y.shape) == problem.output_shape
    gx, gw, gb = torch.autograd.grad(y, (x, weight, bias), torch.tensor(grad))
    x, weight, bias = (t.detach().numpy() for t in (x, weight, bias))
    for ours, theirs in (
        (reference.conv1d(problem, x, weight, bias), y.detach()),
        (reference.input_gradient(problem, weight, grad), gx),
        (reference.weight_gradient(problem, x, grad), gw),
        (reference.bias_gradient(grad), gb),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_cropped(rng):
    """Samples that no window reaches count for nothing, and their gradient is 0."""
    problem = Conv1dProblem(2, 4, 37, 6, 3, 2, (1, 3), 4, 2, cropped=6)
    short = Conv1dProblem(2, 4, 31, 6, 3, 2, (1, 3), 4, 2)
    assert problem.out_length == short.out_length
    x = rng.standard_normal(problem.input_shape)
    weight, grad = rng.standard_normal(short.weight_shape), rng.standard_normal(short.output_shape)
    assert np.array_equal(
        reference.conv1d(problem, np.pad(x[:, :, :31], ((0, 0), (0, 0), (0, 6))), weight),
        reference.conv1d(short, x[:, :, :31], weight),
    )
    gradient = reference.input_gradient(problem, weight, grad)
    assert np.array_equal(gradient[:, :, :31], reference.input_gradient(short, weight, grad))
    assert not gradient[:, :, 34:].any()
    assert gradient.shape == x.shape


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (None, lambda t: t * 1),
        ("relu", F.relu),
        ("leaky_relu", lambda t: F.leaky_relu(t, 0.2)),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("gelu", F.gelu),
        ("silu", F.silu),
    ],
)
def test_activations(name, function):
    """Every activation and its derivative are PyTorch's."""
    v = torch.linspace(-9, 9, 181, dtype=torch.float64, requires_grad=True)
    y = function(v)
    (derivative,) = torch.autograd.grad(y.sum(), v)
    numpy = v.detach().numpy()
    np.testing.assert_allclose(
        reference.activate(name, numpy, 0.2), y.detach(), rtol=1e-13, atol=1e-14
    )
    np.testing.assert_allclose(
        reference.activation_derivative(name, numpy, 0.2), derivative, rtol=1e-12, atol=1e-14
    )
