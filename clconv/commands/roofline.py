"""How fast can a device add and multiply, and copy? No convolution on it can be faster.

Peak: independent chains of a * b + c in registers, the fastest of several numbers of chains and
vector lengths. Copy: a plain kernel on arrays much larger than the last cache, read plus written.
`benchmark` measures both; alone they are python -m clconv.commands.roofline.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyopencl as cl

import clconv
from clconv import progress

CHAINS = (8, 12, 16, 24)
# The fastest of a short look, among which the measurement chooses.
FINALISTS = 3
# Groups a compute unit, so that the last ones to finish do not count.
GROUPS_A_UNIT = 16
# Work-items a group where work-items are a device's lanes.
ITEMS = 256
CALL_SECONDS = 0.01
COPY_BYTES = 256 << 20


def peak_source(lanes: int, chains: int, items: int) -> str:
    """A kernel whose work-items go through `chains` sums of `lanes` floats, `steps` times."""
    real = "float" if lanes == 1 else f"float{lanes}"
    starts = "\n    ".join(f"{real} s{i} = ({real})({i} + get_group_id(0));" for i in range(chains))
    steps = "\n        ".join(f"s{i} = s{i} * a + b;" for i in range(chains))
    return f"""#pragma OPENCL FP_CONTRACT ON
__kernel __attribute__((reqd_work_group_size({items}, 1, 1)))
void peak(__global {real} *sums, const float scale, const float shift, const int steps)
{{
    const {real} a = ({real})(scale), b = ({real})(shift);
    {starts}
    for (int i = 0; i < steps; i++) {{
        {steps}
    }}
    sums[get_global_id(0)] = {" + ".join(f"s{i}" for i in range(chains))};
}}
"""


def copy_source(lanes: int, items: int) -> str:
    """A kernel that copies a vector a work-item."""
    real = "float" if lanes == 1 else f"float{lanes}"
    return f"""__kernel __attribute__((reqd_work_group_size({items}, 1, 1)))
void copy(__global const {real} *from, __global {real} *to)
{{
    to[get_global_id(0)] = from[get_global_id(0)];
}}
"""


def median_seconds(call: Callable[[], Any], seconds: float, least: int = 3) -> float:
    """The median time of a call, of at least that many seconds and calls."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


class Roofline:
    """The kernels, built for a runtime's device, and which peak kernels are the fastest there."""

    def __init__(self, runtime: clconv.Runtime) -> None:
        self._runtime = runtime
        device = runtime.device
        native = max(1, device.native_vector_width_float)
        items = 1 if runtime.profile.kind == "cpu" else min(ITEMS, device.max_work_group_size)
        self._groups = GROUPS_A_UNIT * device.max_compute_units
        shapes = [(n, c) for n in sorted({native, max(1, native // 2)}) for c in CHAINS]
        rates = {shape: self._peak(*shape, items) for shape in shapes}
        found = {shape: rate(0) for shape, rate in rates.items()}
        best = sorted(shapes, key=lambda shape: -found[shape])[:FINALISTS]
        self._rates = {shape: rates[shape] for shape in best}
        limits = (COPY_BYTES, device.global_mem_size // 8, device.max_mem_alloc_size)
        self._items = min(ITEMS, device.max_work_group_size)
        block = 4 * native * self._items
        self.copy_bytes = min(limits) // block * block
        self._copy = self._kernel(copy_source(native, self._items), "copy")
        self._vectors = self.copy_bytes // (4 * native)

    def _kernel(self, source: str, name: str) -> Any:
        program: Any = cl.Program(self._runtime.context, source)
        return cl.Kernel(program.build(["-cl-std=CL1.2"], cache_dir=False), name)

    def _peak(self, lanes: int, chains: int, items: int) -> Callable[[float], float]:
        """A function that measures GFLOP/s for some seconds."""
        runtime = self._runtime
        kernel = self._kernel(peak_source(lanes, chains, items), "peak")
        kernel.set_scalar_arg_dtypes([None, np.float32, np.float32, np.int32])
        sums = cl.Buffer(runtime.context, cl.mem_flags.READ_WRITE, 4 * lanes * items * self._groups)
        steps = 64

        def call() -> None:
            # The sums stay near 1: no overflow, no denormals.
            size = (self._groups * items,)
            kernel(runtime.queue, size, (items,), sums, 0.5, 0.5, steps)
            runtime.queue.finish()

        call()
        while median_seconds(call, 0) < CALL_SECONDS:
            steps *= 2

        def rate(seconds: float) -> float:
            flops = 2 * lanes * chains * steps * items * self._groups
            return flops / median_seconds(call, seconds) / 1e9

        return rate

    def pace(self) -> float:
        """GFLOP/s of a few calls: enough to see whether something slows the device down."""
        return next(iter(self._rates.values()))(0)

    def measure(self, seconds: float) -> dict[str, Any]:
        """Peak GFLOP/s and copied GB/s, each measured for some seconds."""
        runtime = self._runtime
        flags = cl.mem_flags.READ_WRITE
        arrays = [cl.Buffer(runtime.context, flags, self.copy_bytes) for _ in range(2)]
        for array in arrays:
            cl.enqueue_fill_buffer(runtime.queue, array, np.float32(1), 0, self.copy_bytes)

        def copy() -> None:
            self._copy(runtime.queue, (self._vectors,), (self._items,), *arrays)
            runtime.queue.finish()

        copy()
        copied = 2 * self.copy_bytes / median_seconds(copy, seconds) / 1e9
        for array in arrays:
            array.release()
        peaks = {shape: rate(seconds / FINALISTS) for shape, rate in self._rates.items()}
        lanes, chains = max(peaks, key=lambda shape: peaks[shape])
        return {
            "peak_gflops": peaks[lanes, chains],
            "copy_gbs": copied,
            "lanes": lanes,
            "chains": chains,
            "copy_bytes": self.copy_bytes,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both rates of a device."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="index, id, kind (gpu, cpu) or part of a name")
    options = parser.parse_args(argv)
    try:
        runtime = clconv.Runtime(options.device)
    except clconv.DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(runtime.info.name)
    with progress.bar("measuring", "rate", 2):
        found = Roofline(runtime).measure(0.5)
    print(text(found))
    return 0


def text(found: dict[str, Any]) -> str:
    """One line for people."""
    return (
        f"peak {found['peak_gflops']:.1f} GFLOP/s ({found['chains']} chains of "
        f"float{found['lanes']}), copy {found['copy_gbs']:.1f} GB/s "
        f"({found['copy_bytes'] >> 20} MiB each way)"
    )


if __name__ == "__main__":
    sys.exit(main())
