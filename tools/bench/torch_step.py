#!/usr/bin/env python3
"""How long does a PyTorch training step take with clconv's convolutions, beside PyTorch's own?

The fully convolutional network of Wang, Yan and Oates (2017) on a batch of short series: forward,
loss, backward, Adam. Each side has a process of its own with OMP_WAIT_POLICY=passive (threads that
spin would take the cores from the device's), and they take turns, round after round. A round's
figure is the median of its steps, a side's the median of its rounds; the ratio is of those.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIDES = ("clconv", "torch")
WARM_UP_STEPS = 5
PAUSE_SECONDS = 0.05  # the other side's threads go to sleep meanwhile


def network(channels: int, classes: int) -> Any:
    """Three convolutions with batch norm and ReLU, the mean over positions, one score a class."""
    from torch import nn

    layers: list[nn.Module] = []
    for width, size in ((128, 8), (256, 5), (128, 3)):
        layers += [nn.Conv1d(channels, width, size, padding="same"), nn.BatchNorm1d(width)]
        layers += [nn.ReLU()]
        channels = width
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def serve(side: str, threads: int, batch: int, length: int) -> None:
    """Answers each line, a number of steps, with their times in seconds as JSON."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = network(1, 2)
    if side == "clconv":
        from clconv.torch import convert

        convert(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, labels = torch.randn(batch, 1, length), torch.randint(2, (batch,))

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(WARM_UP_STEPS):
        step()
    print(json.dumps(step()), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        print(json.dumps(times), flush=True)


class Side:
    """One implementation in a process of its own, ready and waiting."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = str(options.threads)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--side", name, "--threads", threads]
            + ["--batch", str(options.batch), "--length", str(options.length)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_WAIT_POLICY": "passive",
                "OMP_NUM_THREADS": threads,
                "PYTHONPATH": os.pathsep.join(paths),
            },
        )
        self.loss = self._answer()
        self.rounds: list[float] = []

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side stopped with exit status {self.process.wait()}")
        return json.loads(line)

    def measure(self, steps: int) -> None:
        """One round."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        self.rounds.append(statistics.median(self._answer()))
        time.sleep(PAUSE_SECONDS)

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)


def main(argv: list[str] | None = None) -> int:
    """Prints both times and their ratio; 1 where the two sides' losses differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each round (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--length", type=int, default=150, help="of a series (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.side:
        serve(options.side, options.threads, options.batch, options.length)
        return 0
    sides = {name: Side(name, options) for name in SIDES}
    for turn in range(options.rounds):
        for name in SIDES if turn % 2 else reversed(SIDES):
            sides[name].measure(options.steps)
    for name, side in sides.items():
        least, most = min(side.rounds), max(side.rounds)
        print(
            f"{name:8}{1e3 * side.seconds:8.2f} ms a step"
            f"  (rounds {1e3 * least:.2f} … {1e3 * most:.2f})  loss {side.loss:.5f}"
        )
        assert side.process.stdin is not None
        side.process.stdin.close()
        side.process.wait()
    print(f"ratio   {sides['clconv'].seconds / sides['torch'].seconds:8.3f}  (clconv / torch)")
    return int(abs(sides["clconv"].loss - sides["torch"].loss) > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
