#!/usr/bin/env python3
"""How much longer do layers take on channels-last arrays than on contiguous ones?

    python tools/bench/layouts.py [--device D] [--select tasnet_pw,mamba_dw4]

Milliseconds of the public layers on device arrays, forward and input gradient: medians, the better
of two rounds, in which the layouts take turns. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from clconv import Runtime
from clconv import functional as F
from clconv.commands.layers import Layer, load
from clconv.commands.text import table

HEADER = ("layer", "pass", "contiguous ms", "channels last ms", "times")
ROUNDS, SECONDS = 2, 0.12


def call(runtime: Runtime, layer: Layer, backward: bool, layout: str) -> Callable[[], object]:
    """A pass of a layer on random arrays of that layout, into one that exists."""
    rng = np.random.default_rng(0)
    problem = layer.problem
    options = {
        "stride": problem.stride, "padding": problem.pads, "dilation": problem.dilation,
        "groups": problem.groups, "layout": layout, "runtime": runtime,
    }  # fmt: skip

    def laid(shape: Sequence[int]) -> tuple[int, ...]:
        batch, channels, length = shape
        return (batch, channels, length) if layout == "NCL" else (batch, length, channels)

    weight = runtime.to_device(rng.standard_normal(problem.weight_shape, np.float32))
    x_shape, y_shape = laid(problem.input_shape), laid(problem.output_shape)
    if backward:
        grad = runtime.to_device(rng.standard_normal(y_shape, np.float32))
        out = runtime.empty(x_shape, np.float32)
        return lambda: F.conv1d_input(x_shape, weight, grad, out=out, **options)
    x, out = runtime.to_device(rng.standard_normal(x_shape, np.float32)), runtime.empty(y_shape)
    return lambda: F.conv1d(x, weight, out=out, **options)


def median_ms(runtime: Runtime, job: Callable[[], object]) -> float:
    """Of calls for a part of a second, after two that build and warm up."""
    times: list[float] = []
    for _ in range(2):
        job()
    runtime.finish()
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        job()
        runtime.finish()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def main() -> None:
    """Prints the table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="index, id or part of the name of a device")
    parser.add_argument("--select", default="", help="names of layers, separated by commas")
    arguments = parser.parse_args()
    runtime, names = Runtime(arguments.device), set(filter(None, arguments.select.split(",")))
    print(runtime)
    rows = []
    for layer in load(None):
        if names and layer.name not in names:
            continue
        for backward in (False, True):
            jobs = [call(runtime, layer, backward, layout) for layout in ("NCL", "NLC")]
            rounds = [[median_ms(runtime, job) for job in jobs] for _ in range(ROUNDS)]
            own, last = map(min, zip(*rounds, strict=True))
            what = "input gradient" if backward else "forward"
            rows.append((layer.name, what, f"{own:.3f}", f"{last:.3f}", f"{last / own:.2f}"))
    print(table(HEADER, rows, HEADER[2:]))


if __name__ == "__main__":
    main()
