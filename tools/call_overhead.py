"""What a call costs beside the device's work: Python's time of a repeated call, and a cold start.

    python tools/call_overhead.py [--device D] [--calls N]
    python tools/call_overhead.py --lengths [--device D] [--calls N]
    python tools/call_overhead.py --cold [--device D]

The first prints the median microseconds that calls on a tiny layer take to return, beside a bare
enqueue of the same kernels with the same arguments by pyopencl. "held": the queue waits for an
event meanwhile, so that no kernel runs and nothing else uses the cores. "running": kernels run as
they are queued; a driver that has to wake its threads for each call costs more than one that they
never catch up with, as they do not with the bare enqueue.

The second prints the median microseconds that a call takes to return, on an empty queue, at a
length that was met before and at one that was not.

The third starts fresh processes with an empty folder for the caches of driver and library, and
again with what they left there, and prints the seconds of a layer's first call; imports, context
and arrays are made before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array

import clconv
from clconv import Conv1D, functional
from clconv.commands.layers import LAYERS
from clconv.commands.report_parts import CACHES
from clconv.runtime import Command

ROUNDS = 15
GEOMETRY = {"padding": 1}
COLD_LAYERS = ("stream_small", "whisper_conv1", "tcn_k7", "encodec_in", "quartznet_dw33")


# (name, channels, taps, groups) of what is called at new lengths; calls before those that count.
LENGTH_LAYERS = (
    ("64 channels, 5 taps", 64, 5, 1),
    ("64 channels, 1 tap", 64, 1, 1),
    ("64 channels depthwise, 9 taps", 64, 9, 64),
)
WARM_UP = 10


class Recorder(clconv.Runtime):
    """A runtime that remembers the commands that it queued last."""

    commands: list[Command]

    def enqueue(self, commands, reads, writes):  # type: ignore[no-untyped-def]
        """As Runtime does."""
        self.commands = list(commands)
        super().enqueue(commands, reads, writes)


def bare(runtime: Recorder) -> Callable[[], None]:
    """A function that queues what was queued last, with pyopencl alone."""
    queue, commands = runtime.queue, runtime.commands

    def enqueue() -> None:
        for kernel, launch, arguments in commands:
            kernel(queue, launch.global_size, launch.kernel.local_size, *arguments)

    return enqueue


def subjects(runtime: Recorder) -> dict[str, tuple[Callable[[], object], Callable[[], None]]]:
    """What is measured, each with its bare enqueue."""
    one = np.ones
    x = runtime.to_device(one((1, 4, 32), np.float32))
    weight = runtime.to_device(one((4, 4, 3), np.float32))
    bias = runtime.to_device(one(4, np.float32))
    y = functional.conv1d(x, weight, bias, **GEOMETRY)
    grads = functional.conv1d_backward(x, weight, y, **GEOMETRY)
    layer = Conv1D(4, 4, 3, pad=1, runtime=runtime)
    calls: dict[str, Callable[[], object]] = {
        "conv1d(x, w, b, out=y)": lambda: functional.conv1d(x, weight, bias, out=y, **GEOMETRY),
        "conv1d(x, w, b)": lambda: functional.conv1d(x, weight, bias, **GEOMETRY),
        "conv1d_backward(x, w, y, out=(gx, gw, gb))": lambda: functional.conv1d_backward(
            x, weight, y, out=grads, **GEOMETRY
        ),
        "conv_transpose1d(y, w, b)": lambda: functional.conv_transpose1d(
            y, weight, bias, **GEOMETRY
        ),
        "Conv1D(x)": lambda: layer(x),
    }
    measured = {}
    for name, call in calls.items():
        kept = call()  # its arrays live as long as the bare enqueue of its kernels
        enqueue = bare(runtime)
        measured[name] = (call, lambda enqueue=enqueue, kept=kept: enqueue())
    return measured


def chunk(runtime: Recorder, call: Callable[[], object], calls: int, held: bool) -> float:
    """Microseconds a call, of some calls in a row; the queue is empty before and after."""
    runtime.finish()
    gate = cl.UserEvent(runtime.context)
    if held:
        cl.enqueue_marker(runtime.queue, wait_for=[gate])
    start = time.perf_counter()
    for _ in range(calls):
        call()
    seconds = time.perf_counter() - start
    gate.set_status(cl.command_execution_status.COMPLETE)
    runtime.finish()
    return seconds / calls * 1e6


def warm(device: str | None, calls: int) -> None:
    """Prints the table of repeated calls."""
    runtime = Recorder(device)
    print(runtime.info.name, runtime.info.platform, runtime.info.driver)
    measured = subjects(runtime)
    times: dict[tuple[str, bool, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for held in (True, False):
            for name, pair in measured.items():
                for is_bare in (False, True):
                    took = chunk(runtime, pair[is_bare], calls, held)
                    times.setdefault((name, held, is_bare), []).append(took)
    heads = "".join(f"  {kind:>8}{'bare':>8}{'more':>8}" for kind in ("held", "running"))
    print(f"{'microseconds':44}{heads}")
    for name in measured:
        cells = []
        for held in (True, False):
            ours, theirs = (statistics.median(times[name, held, b]) for b in (False, True))
            cells.append(f"  {ours:8.1f}{theirs:8.1f}{ours - theirs:8.1f}")
        print(f"{name:44}{''.join(cells)}")


def first_call(device: str | None, name: str) -> None:
    """Prints the seconds of a layer's first call in this process."""
    layer = next(layer for layer in LAYERS if layer[0] == name)
    _, batch, in_channels, length, out_channels, size, *geometry, groups = layer
    runtime = clconv.Runtime(device)
    x = runtime.zeros((batch, in_channels, length))
    weight = runtime.zeros((out_channels, in_channels // groups, size))
    runtime.finish()
    start = time.perf_counter()
    functional.conv1d(x, weight, None, *geometry, groups, runtime=runtime)
    returned = time.perf_counter()
    runtime.finish()
    print(json.dumps([returned - start, time.perf_counter() - start]))


def first_calls(device: str | None, name: str) -> list[list[float]]:
    """Seconds of a layer's first call, until it returned and until it was done, in two fresh
    processes: with empty caches, then with what the first one left there."""
    command = [sys.executable, __file__, "--first-call", name]
    command += ["--device", device] if device else []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | dict.fromkeys(CACHES, folder)
        found = []
        for _ in range(2):
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            found.append(json.loads(done.stdout))
        return found


def cold(device: str | None) -> None:
    """Prints the table of first calls."""
    print(f"{'seconds, returned (done)':26}{'empty caches':>16}{'filled caches':>16}")
    for name in COLD_LAYERS:
        cells = [f"{back:8.2f} ({done:5.2f})" for back, done in first_calls(device, name)]
        print(f"{name:26}{''.join(cells)}", flush=True)


def gradients(x: cl_array.Array, **options: Any) -> None:
    """All gradients of a layer whose output is shaped as its input."""
    functional.conv1d_backward(x, grad_output=x, **options)


def lengths(device: str | None, calls: int) -> None:
    """Prints what a call costs at a length that was met before, and at one that was not."""
    runtime = clconv.Runtime(device)
    print(runtime.info.name, runtime.info.platform, runtime.info.driver)
    print(f"{'microseconds':44}{'known':>10}{'new':>10}")
    for name, channels, size, groups in LENGTH_LAYERS:
        weight = runtime.zeros((channels, channels // groups, size))
        options = {"weight": weight, "padding": size // 2, "groups": groups, "runtime": runtime}
        for kind, function in (("forward", functional.conv1d), ("all gradients", gradients)):
            times: dict[bool, list[float]] = {False: [], True: []}
            for step in range(-WARM_UP, calls):
                for is_new in (False, True):
                    x = runtime.zeros((1, channels, 200 + (step + 1) * is_new))
                    runtime.finish()
                    start = time.perf_counter()
                    function(x, **options)
                    if step >= 0:
                        times[is_new].append((time.perf_counter() - start) * 1e6)
            known, new = (statistics.median(times[is_new]) for is_new in (False, True))
            print(f"{f'{name}, {kind}':44}{known:10.1f}{new:10.1f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="as Runtime takes it: index, id or part of a name")
    parser.add_argument("--calls", type=int, default=100, help="calls in a row (default: 100)")
    parser.add_argument("--cold", action="store_true", help="first calls in fresh processes")
    parser.add_argument("--lengths", action="store_true", help="lengths that were not met before")
    parser.add_argument("--first-call", metavar="LAYER", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.first_call:
        first_call(a.device, a.first_call)
    elif a.cold:
        cold(a.device)
    elif a.lengths:
        lengths(a.device, a.calls)
    else:
        warm(a.device, a.calls)


if __name__ == "__main__":
    main()
