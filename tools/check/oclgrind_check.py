#!/usr/bin/env python3
"""Does any kernel touch memory out of bounds, race, or misuse the API? Oclgrind's answer.

Runs every kernel of the library on tiny problems under Oclgrind (Debian's package `oclgrind`):
the examples of each variant that serves a CPU, with a CPU's tiles and as a GPU; what is for GPUs
alone has oclgrind_gpu.py. Compares the results, and fails on anything that it reports but what
pyopencl itself asks for.

With --uninitialized it looks for reads of what was never written instead, without the compiler's
optimisation, each problem in a process of its own: the simulator itself may crash there.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# The least that strips take; with more of it Oclgrind is slower.
LOCAL_BYTES = 64 << 10

PLANTED = """
__kernel void planted(__global int *y, __local int *shared)
{
    y[1] = shared[1];                                // never written
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


def cpu_of(own: Any, vector_floats: int) -> Any:
    """Oclgrind's device as a CPU, with a small cache, so that few channels fill a block."""
    return replace(own, kind="cpu", lanes=1, vector_floats=vector_floats, half_builtins=False,
                   l1_bytes=1024, local_bytes=LOCAL_BYTES)  # fmt: skip


def examples(device: Any) -> dict[str, tuple[Any, str]]:
    """Problem and variant of all examples that are served on the device, by their names."""
    from clconv import Pass
    from clconv.variants import VARIANTS
    from clconv.variants.base import Request

    return {
        f"{variant.NAME}, {name}": (problem, variant.NAME)
        for variant in VARIANTS
        for name, problem in variant.EXAMPLES.items()
        if None in [variant.refusal(Request(problem, pass_, device)) for pass_ in Pass]
    }


def meant(names: Sequence[str], found: Sequence[str]) -> list[str]:
    """The examples of these names, and all those of a variant that is named; of none all. Raises
    ValueError."""
    chosen = []
    for name in names:
        some = [one for one in found if one == name or one.startswith(f"{name}, ")]
        if not some:
            raise ValueError(f"no variant and no example {name!r}, expected some of {list(found)}")
        chosen += some
    return list(dict.fromkeys(chosen)) or list(found)


def inside(*names: str) -> int:
    """Runs the kernels, of all examples or those of some names; the number of wrong results."""
    sys.path.insert(0, str(Path(__file__).parent))
    import numpy as np

    from clconv import Deconv1D, Pad1D, Runtime, gpuarray
    from clconv.variants import depthwise

    depthwise.LEAST_SEGMENT = 16  # so that short rows are shared
    runtime = Runtime()
    print(f"{runtime.info.name}, {runtime.info.platform}", flush=True)
    own = runtime.profile
    runtime.profile = cpu_of(own, 8)
    wrong = 0
    found = examples(runtime.profile)
    for name in names or found:
        wrong += _run(runtime, name, *found[name])
        wrong += _run_in_place(runtime, name, *found[name])
    if names:
        return wrong
    # As processors with AVX-512 have them: other code where there are more lanes.
    runtime.profile = cpu_of(own, 16)
    for name, (problem, variant) in found.items():
        wrong += _run(runtime, name, problem, variant, first_only=True)
    wrong += _sequences(runtime)
    on_cpu = {variant for _, variant in found.values()}
    runtime = Runtime()
    runtime.profile = replace(own, kind="gpu", lanes=32, vector_floats=1, max_work_group_size=16)
    for name, (problem, variant) in examples(runtime.profile).items():
        if variant in on_cpu:
            wrong += _run(runtime, name, problem, variant)
    wrong += _sequences(runtime)
    runtime.profile = own
    with runtime:
        layer = Deconv1D(2, 4, 3, stride=2, activation="gelu")
        data = gpuarray.to_gpu(np.ones((1, 2, 9), np.float32))
        layer.backward(layer(data), momentum=0.5)
        layer.updateParams(0.1)
        for mode in ("constant", "reflect", "edge", "wrap"):
            pad = Pad1D((2, 3), mode)
            pad.backward(pad(data))
        layer.calcMode(np.float16)
        layer.calcMode(np.float64)
        runtime.finish()
    return wrong


def _sequences(runtime: Any) -> int:
    """Causal convolutions of sequences, their gradients and updates; how many are wrong."""
    import numpy as np

    from clconv import functional as F
    from clconv import testing

    rng = np.random.default_rng(0)
    shapes = (2, 19, 21), (2, 19, 3), (19, 4), (19,)
    x, states, weight, bias = (testing.integers(rng, shape, np.float32) for shape in shapes)
    wide = testing.integers(rng, (19, 10), np.float32)  # of more taps than are summed at once
    numbers = np.repeat([[0, 1, -1], [4, 4, 2]], 7, axis=1).astype(np.int32)
    whole = F.causal_conv1d(np.concatenate([states, x], 2), weight, bias, runtime=runtime)
    wrong = 0
    last = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    for array in (x, last):
        y, _ = F.causal_conv1d(array, weight, bias, None, states, True, runtime=runtime)
        F.causal_conv1d_backward(
            array, weight, x, bias, None, states, states, "silu", runtime=runtime
        )
        packed = F.causal_conv1d(array, weight, bias, numbers, runtime=runtime)
        F.causal_conv1d_backward(array, weight, x, bias, numbers, runtime=runtime)
        F.causal_conv1d_backward(array, wide, x, runtime=runtime)
        out = np.empty((2, 19, 50), np.float32)
        F.causal_conv1d(array, weight, bias, out=out[:, :, 3:24], runtime=runtime)
        wrong += not np.array_equal(out[:, :, 6:24], whole[:, :, 6:])
        alone = F.causal_conv1d(x[:1, :, 7:14], weight, bias, runtime=runtime)
        wrong += not np.array_equal(y, whole[:, :, 3:])
        wrong += not np.array_equal(packed[:1, :, 7:14], alone)
    for ring in (None, np.array([3, 3], np.int32)):
        state = states.copy()
        y = F.causal_conv1d_update(x, state, weight, bias, None, ring, runtime=runtime)
        wrong += not np.array_equal(y, whole[:, :, 3:])
    print("causal convolutions of sequences", flush=True)
    return wrong


def _run(runtime: Any, name: str, problem: Any, variant: str, *, first_only: bool = False) -> int:
    """All passes of a problem by the variant's best plan and, unless `first_only`, its best with
    other groups of taps, and its last; how many are wrong."""
    import numpy as np

    from clconv import Epilogue, Pass, ProblemError, testing
    from clconv import functional as F

    dtype = problem.dtype
    rng = np.random.default_rng(0)
    shapes = (problem.input_shape, problem.weight_shape, (problem.out_channels,))
    x, weight, bias = (testing.integers(rng, shape, dtype) for shape in shapes)
    grad, residual = (testing.integers(rng, problem.output_shape, dtype) for _ in range(2))
    arrays = {"x": x, "weight": weight, "grad_output": grad}
    finished = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    infinite = weight.copy()
    infinite[:, 0, :] = np.inf
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    views = {k: runtime.to_device(a) for k, a in (arrays | finished).items()}
    views["x"] = runtime.to_device(np.repeat(x, 2, axis=2))[:, :, ::2]
    wrong = 0
    for pass_ in Pass:
        by = "auto" if pass_ is Pass.BIAS_GRADIENT else variant
        epilogue = Epilogue()
        if pass_ is Pass.FORWARD:
            epilogue = Epilogue(True, True, "relu")
        elif pass_ is Pass.WEIGHT_GRADIENT:
            epilogue = Epilogue(bias=True)
        try:
            plans = runtime.plans(problem, pass_, epilogue, by)
        except ProblemError:  # depthwise has no input gradient of several outputs a group
            continue
        some = {plan.tile.get("tap_group", 1): plan for plan in reversed(plans)}
        if plans[-1] not in some.values():
            some[0] = plans[-1]
        for plan in plans[:1] if first_only else some.values():
            options = {"variant": {pass_: plan.choice}, "runtime": runtime}
            if pass_ is Pass.FORWARD:
                inputs = (views[one] for one in ("x", "weight", "bias"))
                result = F.conv1d(*inputs, *place, residual=views["residual"], activation="relu",
                                  **options)  # fmt: skip
            else:
                need = [pass_ is one for one in list(Pass)[1:]]
                need[2] |= need[1]  # some variants sum it on the way
                inputs = (views[one] for one in ("x", "weight", "grad_output"))
                gradients = F.conv1d_backward(*inputs, *place, need=need, **options)
                result = gradients[need.index(True)]
            operands, activation = arrays, None
            if pass_ is Pass.FORWARD:
                operands, activation = finished, "relu"
            try:
                testing.assert_right(
                    result.get(), problem, pass_, operands, largest=4, activation=activation,
                    sums=plan.sums_bound,
                )  # fmt: skip
                if pass_ is Pass.INPUT_GRADIENT:  # whose sums are made again where there is a NaN
                    again = F.conv1d_input(x.shape, infinite, grad, *place, **options)
                    _assert_infinite(plan, again, arrays | {"weight": infinite}, weight)
                if pass_ is Pass.WEIGHT_GRADIENT:
                    testing.assert_right(gradients[2].get(), problem, Pass.BIAS_GRADIENT, arrays,
                                          largest=4)  # fmt: skip
            except AssertionError as error:
                wrong += 1
                print(f"{pass_.value} of {name} by {plan.variant}: {error}", flush=True)
    print(name, flush=True)
    return wrong


def _run_in_place(runtime: Any, name: str, problem: Any, variant: str) -> int:
    """Forward and input gradient of arrays whose channels lie side by side, by the variant's best
    plan that reads and writes them so; how many are wrong."""
    import numpy as np

    from clconv import Epilogue, Pass, testing
    from clconv import functional as F
    from clconv.variants.base import Layout

    rng = np.random.default_rng(0)
    shapes = {"x": problem.input_shape, "weight": problem.weight_shape,
              "bias": (problem.out_channels,), "grad_output": problem.output_shape,
              "residual": problem.output_shape}  # fmt: skip
    arrays = {k: testing.integers(rng, shape, problem.dtype) for k, shape in shapes.items()}
    last = {
        k: np.ascontiguousarray(np.swapaxes(a, -1, -2)) for k, a in arrays.items() if a.ndim == 3
    }
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    x, y = (Layout.CHANNELS if c > 1 else Layout.ROWS
            for c in (problem.in_channels, problem.out_channels))  # fmt: skip
    wrong = 0
    for pass_, layouts, epilogue in (
        (Pass.FORWARD, (x, y), Epilogue(True, True, "relu")),
        (Pass.INPUT_GRADIENT, (y, x), Epilogue()),
    ):
        plans = runtime.candidates(problem, pass_, epilogue, layouts=layouts)
        plan = next((p for p in plans if p.variant == variant and "in_place" in p.tile), None)
        if plan is None:
            continue
        options = {"variant": {pass_: plan.choice}, "runtime": runtime, "layout": "NLC"}
        weight, used, activation = arrays["weight"], ("weight", "grad_output"), None
        if pass_ is Pass.FORWARD:
            used, activation = ("x", "weight", "bias", "residual"), "relu"
            result = F.conv1d(last["x"], weight, arrays["bias"], *place, residual=last["residual"],
                              activation="relu", **options)  # fmt: skip
        else:
            size = last["x"].shape
            result = F.conv1d_input(size, weight, last["grad_output"], *place, **options)
        try:
            testing.assert_right(
                np.swapaxes(result, -1, -2), problem, pass_, {k: arrays[k] for k in used},
                largest=4, activation=activation,
            )  # fmt: skip
        except AssertionError as error:
            wrong += 1
            print(f"{pass_.value} of {name} by {variant} in place: {error}", flush=True)
    return wrong


def _assert_infinite(plan: Any, result: Any, arrays: dict[str, Any], weight: Any) -> None:
    """An input gradient with infinite weights: NaN and infinities where they belong, and the other
    results within the bound of finite ones."""
    import numpy as np

    from clconv import testing

    with np.errstate(invalid="ignore"):
        expected = testing.evaluate(plan.problem, plan.pass_, arrays)
    finite = np.isfinite(expected)
    bound = plan.error_bound(weight, arrays["grad_output"])
    testing.assert_exact(result[~finite], expected[~finite], "what is not finite")
    testing.assert_within_bound(result[finite], expected[finite], bound[finite], "what is finite")


# What Oclgrind looks for.
FAULTS = ("--data-races",)
UNINITIALIZED = ("--uninitialized", "--build-options", "-cl-opt-disable")


def under_oclgrind(checks: Sequence[str], *mode: str) -> tuple[int, list[str]]:
    """(exit status, what Oclgrind reported) of this script in a mode."""
    with tempfile.TemporaryDirectory() as folder:
        # Kernel faults go to the log, API errors to standard error, all in blocks. Kernels are
        # built anew: a kept binary would hide the source lines.
        log = Path(folder) / "log"
        command = [
            "oclgrind", *checks, "--check-api", "--local-mem-size", str(LOCAL_BYTES), "--log",
            str(log), sys.executable, __file__, *mode,
        ]  # fmt: skip
        done = subprocess.run(
            command, check=False, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "CLCONV_CACHE_DIR": folder, "PYOPENCL_NO_CACHE": "1"},
        )  # fmt: skip
        text = log.read_text() if log.exists() else ""
    blocks = re.split(r"\n\s*\n", text + "\n\n" + done.stderr)
    if done.returncode > 0:
        print(done.stderr[-3000:], file=sys.stderr)
    reports = [block.strip() for block in blocks if "Oclgrind" in block or "Invalid" in block
               or "race" in block or "Uninitialized" in block]  # fmt: skip
    # pyopencl asks for properties that Oclgrind does not know, and for a program's source by the
    # name of a kernel: harmless.
    return done.returncode, [
        r
        for r in reports
        if not ("CL_INVALID_VALUE" in r and "Info" in r) and "Kernel '_source' not found" not in r
    ]


def finds_planted(checks: Sequence[str], *words: str) -> bool:
    """Whether Oclgrind reports the planted faults."""
    try:
        _, found = under_oclgrind(checks, "--planted")
    except FileNotFoundError:
        print("oclgrind is not installed: apt-get install oclgrind", file=sys.stderr)
        return False
    text = "\n".join(found)
    if all(word in text for word in words):
        return True
    print(f"Oclgrind does not find the planted faults, it reports:\n{text}", file=sys.stderr)
    return False


def main(*names: str) -> int:
    """0 where Oclgrind finds the planted faults and no others, and all results are right; of
    examples of some names, or of all, and of what is no variant's."""
    if not finds_planted(FAULTS, "Invalid write", "race"):
        return 2
    status, faults = under_oclgrind(FAULTS, "--inside", *names)
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    print(f"Oclgrind: {len(faults)} faults, wrong results: {'none' if not status else 'some'}")
    return 1 if faults or status else 0


def all_names() -> list[str]:
    """Of the examples that a CPU serves."""
    from clconv.planning.profiles import profile

    return list(examples(cpu_of(profile("cpu"), 8)))


def uninitialized(*names: str) -> int:
    """The same for reads of what was never written."""
    if not finds_planted(UNINITIALIZED, "Uninitialized"):
        return 2
    count, wrong, crashed = 0, [], []
    for name in names:
        status, faults = under_oclgrind(UNINITIALIZED, "--inside", name)
        count += len(faults)
        if status < 0:
            crashed.append(name)
        elif status:
            wrong.append(name)
        for fault in faults[:5]:
            print(f"{name}: {fault}", file=sys.stderr)
    print(
        f"Oclgrind: {count} uninitialised reads in {len(names)} problems, wrong results: "
        f"{', '.join(wrong) or 'none'}; the simulator crashed on: {', '.join(crashed) or 'none'}"
    )
    return 1 if count or wrong else 0


if __name__ == "__main__":
    # What runs under Oclgrind is this file again.
    inner = {"--inside": inside, "--planted": planted}
    if sys.argv[1:2] and sys.argv[1] in inner:
        sys.exit(min(inner[sys.argv[1]](*sys.argv[2:]), 1))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--uninitialized", action="store_true", help="look for reads of what was never written"
    )
    parser.add_argument("names", nargs="*", help="of variants or of their examples; else all")
    options = parser.parse_args()
    try:
        names = meant(options.names, all_names())
    except ValueError as error:
        parser.error(str(error))
    if options.uninitialized:
        sys.exit(uninitialized(*names))
    sys.exit(main(*(names if options.names else ())))
