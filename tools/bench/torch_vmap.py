#!/usr/bin/env python3
"""How long do the gradients of each sample take, beside those of the whole batch?

    OMP_WAIT_POLICY=passive python tools/bench/torch_vmap.py --device Intel

Of one layer's weight and bias for 64 samples: torch.func's vmap of grad, and a backward pass of the
batch, forward passes included. Each figure is the median of several calls that take turns; the
ratio is of both on one side. `--pytorch` measures PyTorch's own functions instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.func import grad, vmap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

SAMPLES = 64
# Input and output channels, kernel size, length, groups.
LAYERS = {
    "first layer of a small network": (1, 32, 9, 512, 1),
    "middle layer": (32, 64, 5, 256, 1),
    "wide layer": (128, 128, 3, 128, 1),
    "depthwise layer": (128, 128, 7, 256, 128),
}


def medians(rounds: int, *functions: Callable[[], Any]) -> list[float]:
    """Milliseconds of each."""
    found: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 2):
        for times, function in zip(found, functions, strict=True):
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times[2:]) for times in found]


def measure(convolution: Callable[..., torch.Tensor], layer: tuple[int, ...], rounds: int) -> str:
    """A line's figures."""
    inputs, outputs, size, length, groups = layer
    x = torch.randn(SAMPLES, inputs, length)
    weight, bias = torch.randn(outputs, inputs // groups, size), torch.randn(outputs)
    own = [one.clone().requires_grad_() for one in (weight, bias)]

    def loss(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return convolution(x, weight, bias, groups=groups).square().sum()

    of_each = vmap(grad(loss, (0, 1)), (None, None, 0))

    def each() -> Any:
        return of_each(weight, bias, x)

    def batch() -> Any:
        return torch.autograd.grad(loss(*own, x), own)

    # Sums of the same products in another order.
    near = {"rtol": 1e-3, "atol": 1e-3 * float(batch()[0].abs().max())}
    torch.testing.assert_close(each()[0].sum(0), batch()[0], **near)
    of_samples, of_batch = medians(rounds, each, batch)
    return f"{of_samples:8.2f} {of_batch:8.2f} {of_samples / of_batch:6.2f}"


def main() -> int:
    """Prints a line for each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="as CLCONV_DEVICE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pytorch", action="store_true", help="PyTorch's own functions")
    chosen = parser.parse_args()
    if chosen.device:
        os.environ["CLCONV_DEVICE"] = chosen.device
    import clconv
    from clconv.torch import conv1d

    convolution = torch.nn.functional.conv1d if chosen.pytorch else conv1d
    who = f"PyTorch {torch.__version__}" if chosen.pytorch else clconv.default_runtime().info.name
    print(f"{who}: ms of {SAMPLES} gradients, of the batch's, and their ratio")
    for name, layer in LAYERS.items():
        print(f"{name:32}{measure(convolution, layer, chosen.rounds)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
