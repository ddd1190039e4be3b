#!/usr/bin/env python3
"""Does any kernel touch memory out of bounds, race, or misuse the API? Oclgrind's answer.

Runs every kernel of the library on tiny problems, with the tiles of a CPU and of a GPU, under
Oclgrind (Debian's package `oclgrind`), compares the results, and fails on anything that it reports
but the device queries that pyopencl itself makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

PLANTED = """
__kernel void planted(__global int *y, __local int *shared)
{
    shared[0] = get_local_id(0);                     // a race
    y[get_global_id(0) + (y[0] == 0 ? 64 : 0)] = shared[0];  // out of bounds
}
"""


def planted() -> int:
    """A kernel that races and writes out of bounds, for Oclgrind to find."""
    import numpy as np
    import pyopencl as cl

    context = cl.create_some_context(interactive=False)
    queue = cl.CommandQueue(context)
    buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE, 16)
    cl.enqueue_fill_buffer(queue, buffer, np.int32(0), 0, 16)
    kernel = cl.Kernel(cl.Program(context, PLANTED).build(), "planted")
    kernel(queue, (4,), (4,), buffer, cl.LocalMemory(16))
    queue.finish()
    return 0


def inside() -> int:
    """Runs the kernels; the number of wrong results."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parent))
    import accuracy

    from clconv import Conv1dProblem, Deconv1D, Pad1D, Pass, Runtime, gpuarray
    from clconv import functional as F

    runtime = Runtime()
    print(f"{runtime.info.name}, {runtime.info.platform}", flush=True)
    rng = np.random.default_rng(0)
    own = runtime.profile
    profiles = {
        "cpu": replace(own, kind="cpu", lanes=1, vector_floats=8, half_builtins=False),
        "gpu": replace(own, kind="gpu", lanes=32, vector_floats=1, max_work_group_size=16),
    }
    problems = (
        Conv1dProblem(2, 6, 21, 10, 3, 1, 1, 1, 2),
        Conv1dProblem(1, 2, 23, 3, 4, 3, (2, 4), 2),
    )
    wrong = 0
    for kind, profile in profiles.items():
        for dtype in ("float32", "float16", "float64"):
            runtime.profile = profile
            for problem in problems if dtype == "float32" else problems[:1]:
                one = replace(problem, dtype=np.dtype(dtype))
                x = accuracy.integers(rng, one.input_shape, dtype)
                weight = accuracy.integers(rng, one.weight_shape, dtype)
                bias = accuracy.integers(rng, (one.out_channels,), dtype)
                grad = accuracy.integers(rng, one.output_shape, dtype)
                geometry = (one.stride, one.pads, one.dilation, one.groups)
                views = [runtime.to_device(a) for a in (x, weight, bias, grad)]
                stepped = runtime.to_device(np.repeat(x, 2, axis=2))[:, :, ::2]
                # The variants that are for GPUs alone have a check of their own, oclgrind_gpu.py.
                how = {"variant": "direct" if kind == "gpu" else "auto", "runtime": runtime}
                y = F.conv1d(stepped, *views[1:3], *geometry, residual=views[3], activation="relu",
                             **how)  # fmt: skip
                grads = F.conv1d_backward(views[0], views[1], views[3], *geometry, **how)
                arrays = {"x": x, "weight": weight, "grad_output": grad}
                passes = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT, Pass.BIAS_GRADIENT)
                checks = [(y, Pass.FORWARD, {"x": x, "weight": weight, "bias": bias,
                                             "residual": grad}, "relu")]  # fmt: skip
                checks += [(g, p, arrays, None) for g, p in zip(grads, passes, strict=True)]
                for result, pass_, operands, activation in checks:
                    try:
                        accuracy.assert_right(result.get(), one, pass_, operands, largest=4,
                                              activation=activation)  # fmt: skip
                    except AssertionError as error:
                        wrong += 1
                        print(f"{kind} {dtype} {pass_.value} of {one}: {error}", flush=True)
                print(f"{kind} {dtype} {one.kernel_size} taps, stride {one.stride}", flush=True)
    with runtime:
        layer = Deconv1D(2, 4, 3, stride=2, activation="gelu")
        data = gpuarray.to_gpu(rng.standard_normal((1, 2, 9)).astype(np.float32))
        layer.backward(layer(data), momentum=0.5)
        layer.updateParams(0.1)
        for mode in ("constant", "reflect", "edge", "wrap"):
            pad = Pad1D((2, 3), mode)
            pad.backward(pad(data))
        layer.calcMode(np.float16)
        layer.calcMode(np.float64)
        runtime.finish()
    return wrong


def under_oclgrind(mode: str) -> tuple[int, list[str]]:
    """(exit status, what Oclgrind reported) of this script in a mode."""
    with tempfile.TemporaryDirectory() as folder:
        # Kernel faults go to the log, API errors to standard error, all in blocks. Kernels are
        # built anew: a kept binary would hide the source lines.
        log = Path(folder) / "log"
        command = [
            "oclgrind", "--data-races", "--check-api", "--log", str(log), sys.executable, __file__,
            mode,
        ]  # fmt: skip
        done = subprocess.run(
            command, check=False, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "CLCONV_CACHE_DIR": folder, "PYOPENCL_NO_CACHE": "1"},
        )  # fmt: skip
        text = log.read_text() if log.exists() else ""
    blocks = re.split(r"\n\s*\n", text + "\n\n" + done.stderr)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    reports = [block.strip() for block in blocks if "Oclgrind" in block or "Invalid" in block
               or "race" in block]  # fmt: skip
    # pyopencl asks for properties that Oclgrind does not know: harmless.
    return done.returncode, [r for r in reports if not ("CL_INVALID_VALUE" in r and "Info" in r)]


def main() -> int:
    """0 where Oclgrind finds the planted faults and no others, and all results are right."""
    try:
        _, found = under_oclgrind("--planted")
    except FileNotFoundError:
        print("oclgrind is not installed: apt-get install oclgrind", file=sys.stderr)
        return 2
    text = "\n".join(found)
    if "Invalid write" not in text or "race" not in text:
        print(f"Oclgrind does not find the planted faults, it reports:\n{text}", file=sys.stderr)
        return 2
    status, faults = under_oclgrind("--inside")
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    print(f"Oclgrind: {len(faults)} faults, wrong results: {'none' if not status else 'some'}")
    return 1 if faults or status else 0


if __name__ == "__main__":
    modes = {"--inside": inside, "--planted": planted}
    sys.exit(min(modes[sys.argv[1]](), 1) if sys.argv[1:] else main())
