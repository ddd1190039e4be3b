"""Activations and their gradients at infinities, NaN and zeros: what PyTorch gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clconv import Conv1D, gpuarray
from clconv.problem import ACTIVATIONS

VALUES = [np.inf, -np.inf, np.nan, -0.0, 0.0, 1e30, -1e30, 100, -100, 5, -5, 1e-30, -1e-30]
THEIRS = {
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_as_pytorch(runtime, name, train):
    """The layer's result and gradient, the argument being the data itself."""
    x = np.float32(VALUES)
    # In float64: PyTorch's float32 vectors make NaN of gelu(inf).
    theirs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = THEIRS[name](theirs)
    conv = Conv1D(1, 1, 1, useBias=False, activation=name)
    conv.W.fill(1)
    if not train:
        conv.evalMode()
    ours = conv(gpuarray.to_gpu(x.reshape(1, 1, -1)))
    # Scalar operations may flush what is below the least normal number.
    np.testing.assert_allclose(ours.get().ravel(), y.detach().numpy(), rtol=1e-5, atol=1e-29)
    gradients = [1.0, 0.0]
    if name == "relu":  # a choice, not a product: what is not chosen does not count
        gradients += [np.inf, np.nan]
    for value in gradients:
        theirs.grad = None
        y.backward(torch.full_like(y, value), retain_graph=True)
        grad = conv.backward(gpuarray.to_gpu(np.full(ours.shape, value, np.float32)))
        # 1 - tanh**2 doubles the 5 units in the last place that OpenCL grants tanh.
        np.testing.assert_allclose(
            grad.get().ravel(), theirs.grad.numpy(), rtol=1e-5, atol=1e-6, err_msg=str(value)
        )
