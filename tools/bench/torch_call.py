#!/usr/bin/env python3
"""What does a small call of clconv.torch cost beside the function, and beside PyTorch?

    CLCONV_DEVICE=AMD OMP_WAIT_POLICY=passive python tools/bench/torch_call.py

A layer of 4 channels, 3 taps and 32 positions; microseconds, the median of 15 rounds of 400 calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import clconv
import clconv.torch
from clconv import functional

ROUNDS, CALLS = 15, 400


def microseconds(call: Callable[[], Any]) -> float:
    """Of a call, the median of the rounds."""
    call()
    call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(rounds)


def main() -> int:
    """Prints a line for each."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(2)
    runtime = clconv.default_runtime()
    shapes = (1, 4, 32), (4, 4, 3), (4,), (1, 4, 32)
    x, weight, bias, grad = (torch.randn(shape) for shape in shapes)
    arrays = [runtime.to_device(one.numpy()) for one in (x, weight, bias, grad)]
    outs = [runtime.empty(shape, np.float32) for shape in shapes]
    leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]

    def forward() -> None:
        functional.conv1d(*arrays[:3], padding=1, out=outs[3])
        runtime.finish()

    def backward() -> None:
        given = arrays[0], arrays[1], arrays[3]
        functional.conv1d_backward(*given, padding=1, out=outs[:3])
        runtime.finish()

    def both(function: Callable[..., Any]) -> None:
        torch.autograd.grad(function(*leaves, padding=1), leaves, grad)

    ours, theirs = clconv.torch.conv1d, torch.nn.functional.conv1d
    modes = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    print(runtime)
    print(f"functional.conv1d and a wait {microseconds(forward):.1f}")
    print(f"functional.conv1d_backward and a wait {microseconds(backward):.1f}")
    for name, function in (("clconv.torch", ours), ("PyTorch", theirs)):
        for mode, entered in modes.items():
            with entered():
                took = microseconds(lambda f=function: f(x, weight, bias, padding=1))
            print(f"{name}.conv1d, {mode} {took:.1f}")
        print(f"{name}, forward and gradients {microseconds(lambda f=function: both(f)):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
