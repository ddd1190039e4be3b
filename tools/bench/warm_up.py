#!/usr/bin/env python3
"""How long is the first call of a network, without and after `clconv.torch.warm_up`?

    python tools/bench/warm_up.py [--device D] [--training]

The network is the generator of HiFi-GAN V1 with random weights, on an input of (1, 80, 32). Fresh
processes with empty caches: one calls it, one warms up and calls it, one more does that with what
the last one left on disk. Seconds, without importing and making the model; `--training` is a
training step. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

# Where compiled programs are kept: by clconv and PoCL. Other drivers' caches stay as they are.
CACHES = ("CLCONV_CACHE_DIR", "POCL_CACHE_DIR")


def generator() -> object:
    """HiFi-GAN's, of the sizes that its paper calls V1."""
    from torch import nn
    from torch.nn import functional as F

    class Residual(nn.Module):
        """Convolutions of growing dilation, each with a shortcut."""

        def __init__(self, channels: int, size: int) -> None:
            super().__init__()

            def layers(dilations: tuple[int, ...]) -> nn.ModuleList:
                return nn.ModuleList(
                    nn.Conv1d(channels, channels, size, dilation=d, padding=(size - 1) * d // 2)
                    for d in dilations
                )

            self.wide, self.narrow = layers((1, 3, 5)), layers((1, 1, 1))

        def forward(self, x):
            for wide, narrow in zip(self.wide, self.narrow, strict=True):
                x = x + narrow(F.leaky_relu(wide(F.leaky_relu(x, 0.1)), 0.1))
            return x

    class Stage(nn.Module):
        """A transposed convolution, and the mean of three residual blocks."""

        def __init__(self, channels: int, rate: int, size: int) -> None:
            super().__init__()
            half = channels // 2
            self.up = nn.ConvTranspose1d(channels, half, size, rate, padding=(size - rate) // 2)
            self.blocks = nn.ModuleList(Residual(half, each) for each in (3, 7, 11))

        def forward(self, x):
            x = self.up(F.leaky_relu(x, 0.1))
            return sum(block(x) for block in self.blocks) / len(self.blocks)

    rates = ((512, 8, 16), (256, 8, 16), (128, 2, 4), (64, 2, 4))
    return nn.Sequential(
        nn.Conv1d(80, 512, 7, padding=3), *(Stage(*one) for one in rates),
        nn.LeakyReLU(0.1), nn.Conv1d(32, 1, 7, padding=3), nn.Tanh(),
    )  # fmt: skip


def inside(warm: bool, training: bool) -> None:
    """Prints the seconds of warming up and of the first call."""
    import torch

    import clconv.torch

    torch.manual_seed(0)
    model, x = generator(), torch.randn(1, 80, 32)
    clconv.torch.convert(model)
    model.train(training)
    clconv.default_runtime()
    begun = time.perf_counter()
    if warm:
        clconv.torch.warm_up(model, x)
    ready = time.perf_counter()
    with torch.set_grad_enabled(training):
        y = model(x)
        if training:
            y.square().mean().backward()
    print(f"{ready - begun:.1f} + {time.perf_counter() - ready:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", help="as CLCONV_DEVICE says it")
    parser.add_argument("--training", action="store_true", help="a training step")
    parser.add_argument("--inside", choices=("cold", "warm"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        inside(options.inside == "warm", options.training)
        return 0
    given = {"OMP_WAIT_POLICY": "passive"}
    if options.device:
        given["CLCONV_DEVICE"] = options.device
    with tempfile.TemporaryDirectory() as cold, tempfile.TemporaryDirectory() as kept:
        for what, mode, folder in (
            ("first call without warm_up", "cold", cold),
            ("warm_up + first call", "warm", kept),
            ("the same in a second process", "warm", kept),
        ):
            caches = {name: os.path.join(folder, name) for name in CACHES}
            command = [sys.executable, __file__, "--inside", mode]
            command += ["--training"] if options.training else []
            for path in caches.values():
                os.makedirs(path, exist_ok=True)
            environment = os.environ | given | caches
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            print(f"{what}: {done.stdout.strip()} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
