#!/usr/bin/env python3
"""How long do layers take in dtypes of 16 bits, beside float32?

    python tools/bench/dtypes.py [--device D] [--select tasnet_pw,mamba_dw4] [--passes forward]

The public layers on device arrays: medians, in milliseconds for float32 and as parts of that for
the others. The dtypes take turns call by call, so that the machine's moods meet all of them. Dense
layers have a star. The machine should be quiet; kernels are built before anything is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clconv import Conv1dProblem, Pass, Runtime, plan
from clconv import functional as F
from clconv.commands.layers import Layer, load
from clconv.commands.text import table
from clconv.testing import normals

DTYPES = ("float32", "float16", "bfloat16")
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
HEADER = ("layer", "pass", "float32 ms", "float16", "bfloat16", "variants")


def call(runtime: Runtime, problem: Conv1dProblem, pass_: Pass) -> Callable[[], object]:
    """A pass on random arrays of the problem's dtype, into one that exists."""
    rng = np.random.default_rng(0)
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    drawn = normals(rng, (65537,), problem.dtype)  # a prime number of them, repeated
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    x, weight, y = (runtime.to_device(np.resize(drawn, shape)) for shape in shapes)
    if pass_ is Pass.FORWARD:
        return lambda: F.conv1d(x, weight, None, *geometry, out=y)
    if pass_ is Pass.INPUT_GRADIENT:
        return lambda: F.conv1d_input(x.shape, weight, y, *geometry, out=x)
    return lambda: F.conv1d_weight(x, weight.shape, y, *geometry, out=weight)


def medians(runtime: Runtime, jobs: list[Callable[[], object]], seconds: float) -> list[float]:
    """Milliseconds of each job, which take turns."""
    times: list[list[float]] = [[] for _ in jobs]
    for job in jobs * 2:
        job()
        runtime.finish()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for job, found in zip(jobs, times, strict=True):
            begin = time.perf_counter()
            job()
            runtime.finish()
            found.append(time.perf_counter() - begin)
    return [statistics.median(found) * 1e3 for found in times]


def row(runtime: Runtime, layer: Layer, pass_: Pass, seconds: float) -> tuple[list[str], bool]:
    """A line of the table, and whether the layer is dense."""
    problems = [replace(layer.problem, dtype=dtype) for dtype in DTYPES]
    variants = [plan(one, pass_, runtime).variant for one in problems]
    if not seconds:
        for one in problems:
            call(runtime, one, pass_)()
        runtime.finish()
        return [], layer.is_dense
    first, *others = medians(runtime, [call(runtime, p, pass_) for p in problems], seconds)
    ratios = [f"{one / first:.2f}" for one in others]
    said = variants[0] if len(set(variants)) == 1 else " ".join(variants)
    name = f"{layer.name} *" if layer.is_dense else layer.name
    return [name, pass_.value, f"{first:.3f}", *ratios, said], layer.is_dense


def main() -> None:
    """Prints the table, and geometric means."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="index, id or part of the name of a device")
    parser.add_argument("--select", default="", help="names of layers, separated by commas")
    parser.add_argument("--passes", default="forward,input_gradient,weight_gradient")
    parser.add_argument("--seconds", type=float, default=0.3, help="for a line; 0 builds alone")
    arguments = parser.parse_args()
    names = set(filter(None, arguments.select.split(",")))
    passes = [Pass.of(one) for one in arguments.passes.split(",")]
    with Runtime(arguments.device) as runtime:
        print(runtime, flush=True)
        layers = [one for one in load(None) if not names or one.name in names]
        for seconds in sorted({0.0, arguments.seconds}):
            found = [row(runtime, one, p, seconds) for one in layers for p in passes]
    if not arguments.seconds:
        return
    print(table(HEADER, [line for line, _ in found]))
    for kind, dense in (("dense", True), ("other", False)):
        lines = [line for line, is_dense in found if is_dense == dense]
        for place, dtype in ((3, "float16"), (4, "bfloat16")):
            ratios = [float(line[place]) for line in lines]
            if ratios:
                mean = statistics.geometric_mean(ratios)
                print(f"{kind}, {dtype}: geometric mean {mean:.2f}, most {max(ratios):.2f}")


if __name__ == "__main__":
    main()
