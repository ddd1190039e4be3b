#!/usr/bin/env python3
"""How fast are causal_conv1d_fn and causal_conv1d_update beside what models do without them?

    CLCONV_DEVICE=AMD OMP_WAIT_POLICY=passive python tools/bench/causal_conv1d.py

Layers of width 4 with silu and bias, as in Mamba (dim 1,536) and larger models: milliseconds of a
whole sequence, with x contiguous ("rows") and with channels side by side ("channels"), and
microseconds of a step of one token. PyTorch computes a grouped F.conv1d that is padded and cut
and then F.silu, which is what models of transformers do where the package causal-conv1d is missing.
Medians of rounds that alternate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import clconv
from clconv.torch import causal_conv1d_fn, causal_conv1d_update, conv1d

WIDTH = 4
# (batch, dim, length), and (batch, dim) of a step.
SEQUENCES = ((1, 1536, 512), (8, 1536, 512), (1, 4096, 2048))
STEPS = ((1, 1536), (1, 8192), (32, 4096))
Functions = dict[str, Callable[[], Any]]


def medians(functions: Functions, seconds: float) -> dict[str, float]:
    """Seconds of a call of each, which take turns."""
    took: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(all_) for name, all_ in took.items()}


def by_pytorch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What transformers' models do without the package."""
    y = F.conv1d(x, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=x.shape[1])
    return F.silu(y[:, :, : x.shape[2]])


def step_by_pytorch(
    x: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """The same of one token."""
    joined = torch.cat([state, x], dim=-1)
    state.copy_(joined[:, :, -state.shape[-1] :])
    y = F.conv1d(joined, weight.unsqueeze(1), bias, padding=0, groups=x.shape[1])
    return F.silu(y[:, :, -x.shape[2] :])


def sequence(shape: tuple[int, ...], channels_last: bool) -> tuple[Functions, Functions]:
    """Calls on whole sequences: without gradients, and with all."""
    batch, dim, length = shape
    x = torch.randn(batch, length, dim).transpose(1, 2)
    x = x if channels_last else x.contiguous()
    weight, bias, grad = torch.randn(dim, WIDTH), torch.randn(dim), torch.randn_like(x)
    leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]

    def ours(x: Any, weight: Any, bias: Any) -> Any:
        return causal_conv1d_fn(x, weight, bias, activation="silu")

    def convolution(x: Any, weight: Any, bias: Any) -> Any:
        return F.silu(conv1d(x, weight.unsqueeze(1), bias, padding=(WIDTH - 1, 0), groups=dim))

    def without(function: Any) -> Callable[[], Any]:
        return torch.no_grad()(lambda: function(x, weight, bias))

    def gradients(function: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, grad)

    named = {"clconv": ours, "PyTorch": by_pytorch, "clconv's conv1d": convolution}
    return (
        {name: without(function) for name, function in named.items()},
        {name: gradients(function) for name, function in named.items()},
    )


def step(shape: tuple[int, ...]) -> Functions:
    """Calls on one token, in inference mode."""
    batch, dim = shape
    x, state = torch.randn(batch, dim, 1), torch.randn(batch, dim, WIDTH)
    weight, bias = torch.randn(dim, WIDTH), torch.randn(dim)
    no_grad = torch.no_grad()
    return {
        "clconv": no_grad(lambda: causal_conv1d_update(x, state, weight, bias, "silu")),
        "PyTorch": no_grad(lambda: step_by_pytorch(x, state, weight, bias)),
    }


def main() -> int:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of a line")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(2)
    print(clconv.default_runtime())
    for shape in SEQUENCES:
        for channels_last in (False, True):
            lies = "channels" if channels_last else "rows"
            kinds = ("forward", "forward and gradients")
            for kind, functions in zip(kinds, sequence(shape, channels_last), strict=True):
                took = medians(functions, seconds)
                told = ", ".join(f"{name} {1e3 * t:.2f}" for name, t in took.items())
                print(f"{shape} {lies}, {kind}, ms: {told}", flush=True)
    for shape in STEPS:
        took = medians(step(shape), seconds)
        told = ", ".join(f"{name} {1e6 * t:.0f}" for name, t in took.items())
        print(f"{shape}, one token, us: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
