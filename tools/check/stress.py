#!/usr/bin/env python3
"""Do results stay right, and memory flat, under load? Long runs; docs/reliability.md has results.

    threads    8 threads x 500 mixed calls on one runtime, then on several at once
    memory     10,000 mixed calls of changing lengths: host and device memory
    sizes      tensors of more than 2**32 bytes and 2**31 elements, strides beyond 2**31
    sums       weight and bias gradients over 10**7 positions

Every result is compared with the reference: on integers it must be equal.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import (
    Conv1D,
    Conv1dProblem,
    Deconv1D,
    OutOfMemoryError,
    Pass,
    ProblemError,
    Runtime,
    gpuarray,
    reference,
    testing,
)
from clconv import functional as F
from clconv.geometry import Geometry, window_of

Array = NDArray[Any]
Rng = np.random.Generator

# in_channels, out_channels, kernel_size, stride, padding, dilation, groups
GEOMETRIES = (
    (3, 4, 3, 1, 1, 1, 1),
    (4, 6, 4, 2, (3, 0), 1, 2),
    (5, 5, 3, 1, 2, 2, 5),
    (6, 2, 5, 3, 4, 1, 1),
)
# Long sums: rounding errors may add up over this many positions.
POSITIONS = 10**7


class Calls:
    """Mixed calls, each on a random batch, length and kind, and each checked against the reference.

    A thread has its own; `runtime` may be shared.
    """

    def __init__(self, runtime: Runtime, seed: int, longest: int = 200) -> None:
        self.runtime = runtime
        self.rng = np.random.default_rng(seed)
        self.longest = longest
        self.layers: dict[tuple[type, int], Any] = {}
        self.kinds = (self._functions, self._transposed, self._layer, self._views)

    def one(self) -> None:
        """AssertionError where a result is wrong."""
        place = int(self.rng.integers(len(GEOMETRIES)))
        channels, out_channels, size, stride, padding, dilation, groups = GEOMETRIES[place]
        batch = int(self.rng.integers(1, 4))
        length = int(self.rng.integers(window_of(size, dilation), self.longest))
        problem = Conv1dProblem(
            batch, channels, length, out_channels, size, stride, padding, dilation, groups
        )
        self.kinds[int(self.rng.integers(len(self.kinds)))](problem, place)

    def _integers(self, *shapes: tuple[int, ...]) -> list[Array]:
        return [testing.integers(self.rng, shape, np.float32) for shape in shapes]

    def _check(self, problem: Conv1dProblem, pass_: Pass, result: Any, arrays: Any) -> None:
        values = result if isinstance(result, np.ndarray) else result.get()
        testing.assert_right(values, problem, pass_, arrays, f"{pass_.value} of {problem}",
                              largest=testing.LARGEST_INTEGER)  # fmt: skip

    def _gradients(self, problem: Conv1dProblem, arrays: Any, gradients: Sequence[Any]) -> None:
        passes = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT, Pass.BIAS_GRADIENT)
        for pass_, gradient in zip(passes, gradients, strict=True):
            self._check(problem, pass_, gradient, arrays)

    def _place(self, problem: Conv1dProblem) -> tuple[Any, ...]:
        return problem.stride, problem.pads, problem.dilation, problem.groups

    def _functions(self, problem: Conv1dProblem, _: int) -> None:
        """NumPy's arrays or the device's: forward with a bias, and all gradients."""
        x, weight, bias, grad = arrays = self._integers(
            problem.input_shape, problem.weight_shape, (problem.out_channels,), problem.output_shape
        )
        given = arrays
        if self.rng.random() < 0.5:
            given = [self.runtime.to_device(array) for array in arrays]
        place = self._place(problem)
        y = F.conv1d(*given[:3], *place, runtime=self.runtime)
        gradients = F.conv1d_backward(given[0], given[1], given[3], *place, runtime=self.runtime)
        self._check(problem, Pass.FORWARD, y, {"x": x, "weight": weight, "bias": bias})
        self._gradients(problem, {"x": x, "weight": weight, "grad_output": grad}, gradients)

    def _transposed(self, problem: Conv1dProblem, _: int) -> None:
        """The transposed convolution that gives the problem's input."""
        weight, bias, grad = self._integers(
            problem.weight_shape, (problem.in_channels,), problem.output_shape
        )
        plain = Geometry(problem.stride, problem.pads, problem.dilation, problem.groups, True)
        reached = plain.out_length(problem.out_length, problem.kernel_size)
        options = plain._replace(output_padding=problem.length - reached).options
        y = F.conv_transpose1d(grad, weight, bias, **options, runtime=self.runtime)
        arrays = {"weight": weight, "grad_output": grad, "bias": bias}
        self._check(problem, Pass.INPUT_GRADIENT, y, arrays)

    def _layer(self, problem: Conv1dProblem, place: int) -> None:
        """A layer, Conv1D or Deconv1D, forward and backward, with gradients that accumulate."""
        kind = Conv1D if self.rng.random() < 0.5 else Deconv1D
        pad = min(problem.pads)
        problem = Conv1dProblem(
            problem.batch, problem.in_channels, problem.length, problem.out_channels,
            problem.kernel_size, problem.stride, pad, problem.dilation, problem.groups,
        )  # fmt: skip
        inner, outer = problem.in_channels, problem.out_channels
        if kind is Deconv1D:
            inner, outer = outer, inner
        layer = self.layers.get((kind, place))
        if layer is None:
            layer = self.layers[kind, place] = kind(
                inner, outer, problem.kernel_size, problem.stride, pad, problem.dilation,
                groups=problem.groups, runtime=self.runtime,
            )  # fmt: skip
            layer.W.set(self._integers(layer.W.shape)[0])
            layer.b.set(self._integers(layer.b.shape)[0])
        layer.zeroGradParams()
        shapes = problem.input_shape, problem.output_shape
        weight, bias = layer.W.get().reshape(problem.weight_shape), layer.b.get().ravel()
        if kind is Conv1D:
            x, grad = self._integers(*shapes)
            y = layer(self.runtime.to_device(x))
            self._check(problem, Pass.FORWARD, y, {"x": x, "weight": weight, "bias": bias})
            layer.backward(self.runtime.to_device(grad))
            arrays = {"x": x, "weight": weight, "grad_output": grad}
            self._check(problem, Pass.INPUT_GRADIENT, layer.grad, arrays)
        else:
            (x,) = self._integers(shapes[1])
            y = layer(self.runtime.to_device(x))
            wide = Conv1dProblem(
                problem.batch, problem.in_channels, y.shape[2], problem.out_channels,
                problem.kernel_size, problem.stride, pad, problem.dilation, problem.groups,
            )  # fmt: skip
            self._check(wide, Pass.INPUT_GRADIENT, y,
                        {"weight": weight, "grad_output": x, "bias": bias})  # fmt: skip
            (grad,) = self._integers(y.shape)
            layer.backward(self.runtime.to_device(grad))
            arrays = {"x": grad, "weight": weight, "grad_output": x}
            self._check(wide, Pass.FORWARD, layer.grad, arrays)
            problem = wide
        gradient = layer.vars["W"].grad.get().reshape(problem.weight_shape)
        self._check(problem, Pass.WEIGHT_GRADIENT, gradient, arrays)

    def _views(self, problem: Conv1dProblem, _: int) -> None:
        """Every second position of a wider array, into an out that lies in a larger one."""
        x, weight = self._integers(problem.input_shape, problem.weight_shape)
        wide = self.runtime.to_device(np.repeat(x, 2, axis=2))[:, :, ::2]
        out = self.runtime.zeros((3, *problem.output_shape))[1]
        place = self._place(problem)
        F.conv1d(wide, self.runtime.to_device(weight), None, *place, out=out, runtime=self.runtime)
        self._check(problem, Pass.FORWARD, out, {"x": x, "weight": weight})


def in_threads(calls: Sequence[Calls], count: int, patience: float = 500.0) -> list[BaseException]:
    """What went wrong while each of these did so many calls in a thread of its own."""
    faults: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def work(own: Calls) -> None:
        try:
            start.wait()
            for _ in range(count):
                own.one()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in calls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        faults.append(TimeoutError(f"threads still run after {patience:.0f} s"))
    return faults


def resident_bytes() -> int:
    """Memory of this process that lies in the machine's."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def threads(options: argparse.Namespace) -> int:
    """The number of faults."""
    many = [Runtime(options.device) for _ in range(4)]
    wrong = 0
    for what, runtimes in (("one runtime", many[:1]), ("four runtimes", many)):
        begun = time.perf_counter()
        calls = [Calls(runtimes[i % len(runtimes)], options.seed + i) for i in range(8)]
        faults = in_threads(calls, options.calls or 500)
        for fault in faults[:5]:
            print(f"  {type(fault).__name__}: {fault}")
        seconds = time.perf_counter() - begun
        print(
            f"8 threads x {options.calls or 500} calls on {what}: {len(faults)} faults, "
            f"{seconds:.1f} s",
            flush=True,
        )
        wrong += len(faults)
    return wrong


def memory(options: argparse.Namespace) -> int:
    """1 where memory grows: what comes after the first tenth must stay within 2%."""
    runtime = Runtime(options.device)
    calls = Calls(runtime, options.seed, longest=2000)
    count = options.calls or 10_000
    figures = []
    for place in range(count):
        calls.one()
        if (place + 1) % (count // 10) == 0:
            info = runtime.memory_info()
            figures.append((resident_bytes(), info["in_use"], info["held"]))
            kept = len(runtime.recipes), len(runtime.programs)
            print(
                f"{place + 1} calls: {figures[-1][0] / 1e6:.1f} MB resident, device "
                f"{info['in_use'] / 1e3:.1f} kB in use, {info['held'] / 1e6:.2f} MB held; kept: "
                f"{kept[0]} recipes, {kept[1]} programs",
                flush=True,
            )
    runtime.trim()
    print(f"after trim: {runtime.memory_info()['held']} bytes held")
    # The cache of recipes fills first; half of the calls is enough for them.
    half = figures[len(figures) // 2 - 1][0]
    grown = figures[-1][0] / half - 1
    print(f"resident memory, last to half-way: {grown:+.1%}")
    return int(grown > 0.02)


def sizes(options: argparse.Namespace) -> int:
    """The number of faults, on a device that has an allocation of more than 2**32 bytes."""
    runtime = Runtime(options.device)
    largest = runtime.memory_info()["largest"]
    print(f"{runtime.info.name}: {largest} bytes an allocation")
    shape, dtype = (3, 1, 2**30), np.dtype(np.float16)
    if largest < 6 << 30:
        try:
            runtime.empty(shape, dtype)
        except OutOfMemoryError as error:
            print(f"  refused, nothing queued ({runtime.launches} launches): {error}")
            return runtime.launches
        return 1
    wrong = 0

    def check(what: str, result: Any, expected: Any) -> None:
        nonlocal wrong
        right = np.array_equal(result.get(), np.asarray(expected))
        wrong += not right
        print(f"  {what}: {'right' if right else 'WRONG'}", flush=True)

    def one(value: float, dtype: Any, shape: tuple[int, ...] = (1, 1, 1)) -> Any:
        return runtime.to_device(np.full(shape, value, dtype))

    # 3 * 2**30 elements of 2 bytes: zeros but for a few. Pages that are only read take no memory.
    x = runtime.empty(shape, dtype)
    for n in range(shape[0]):
        runtime.fill(x[n : n + 1], 0)
    marks = [(0, 0, 1.0), (1, 2**30 - 1, 2.0), (2, 5, 3.0), (2, 2**30 - 1, 4.0)]
    for n, p, value in marks:
        runtime.fill(x[n : n + 1, :, p : p + 1], value)
    print(f"  a tensor of {x.size} elements, {x.nbytes} bytes")
    for variant in ("direct", "strip"):
        step = 2**20
        y = F.conv1d(x, one(2, dtype), stride=step, padding=(0, step), variant=variant)
        expected = np.zeros((3, 1, 1025), np.float32)
        expected[0, 0, 0] = 2
        check(f"{variant}: forward, stride 2**20", y, expected)
        ends = x[:, :, 2**30 - 9 :]
        y = F.conv1d(ends, one(1, dtype, (1, 1, 2)), variant=variant)
        expected = np.zeros((3, 1, 8), np.float32)
        expected[1, 0, 7], expected[2, 0, 7] = 2, 4
        check(f"{variant}: forward, views with a batch stride of 2**30", y, expected)
        turned = x.reshape(1, 3, 2**30)[:, ::2, 2**30 - 3 :]  # channels 2**31 elements apart
        y = F.conv1d(turned, one(1, dtype, (1, 2, 1)), variant=variant)
        check(f"{variant}: forward, channels 2**31 elements apart", y, [[[0, 0, 4]]])
        grad = x[:, :, : 2**30]
        gw = F.conv1d_weight(ends, (1, 1, 1), grad[:, :, 2**30 - 9 :], variant=variant)
        check(f"{variant}: weight gradient of such views", gw, [[[2 * 2 + 4 * 4]]])
        out = x[2:3, :, : 2**20]
        F.conv1d_input(out.shape, one(3, dtype), one(5, dtype, (1, 1, 2**20)), out=out,
                       variant=variant)  # fmt: skip
        some = gpuarray.copy(out[:, :, :: 2**18])
        check(f"{variant}: input gradient behind 2**32 bytes", some, [[[15] * 4]])
        runtime.fill(out, 0)
        runtime.fill(x[2:3, :, 5:6], 3)
    check("bias gradient of all elements", F.conv1d_bias(x), [1 + 2 + 3 + 4])
    check("weight gradient over all elements",
          F.conv1d_weight(x, (1, 1, 1), x, variant="direct"), [[[1 + 4 + 9 + 16]]])  # fmt: skip
    print(f"sizes: {wrong} wrong")
    return wrong


def longest_sum(plan: Any, positions: int) -> int:
    """Additions that a product goes through at most. By strips: those of its unit, of the units of
    its share, of the shares; by depthwise those of the lanes too. The portable variant sums a
    share's neighbouring positions side by side, then those sums, then the shares."""
    numbers = {name: n for launch in plan.launches for name, n in launch.numbers.items()}
    shares = numbers["shares"]
    if plan.variant in ("strip", "depthwise"):
        lanes = plan.tile["lanes"] if plan.variant == "depthwise" else 0
        return numbers["chunk"] + -(-numbers["units"] // shares) + lanes + shares
    of_a_share = -(-positions // shares) + numbers["unit_length"]  # shares are whole units
    lanes = plan.tile["lanes"]
    return -(-of_a_share // lanes) + lanes + shares


def check_long_sums(runtime: Runtime, variant: str, positions: int = POSITIONS) -> dict[str, float]:
    """Weight gradient over so many positions: exact on ones, inside the bound of the plan's blocked
    sum on positive numbers, which cancel nothing. Returns the relative error and its bound."""
    problem = Conv1dProblem(1, 1, positions + 1, 1, 2)
    plan = runtime.plans(problem, Pass.WEIGHT_GRADIENT, variant=variant)[0]
    x, grad = np.ones(problem.input_shape, "f"), np.ones(problem.output_shape, "f")
    shape = problem.weight_shape
    ones = F.conv1d_weight(x, shape, grad, variant=variant, runtime=runtime)
    assert (ones == positions).all(), f"{variant}: {ones.ravel()} of {positions} ones"
    rng = np.random.default_rng(3)
    x, grad = rng.random(problem.input_shape, "f"), rng.random(problem.output_shape, "f")
    result = F.conv1d_weight(x, shape, grad, variant=variant, runtime=runtime)
    expected = reference.weight_gradient(problem, x, grad)
    bound = testing.gamma(longest_sum(plan, positions), np.float32)
    error = float(np.max(np.abs(result - expected) / expected))
    assert error <= bound, f"{variant}: relative error {error:.3g}, bound {bound:.3g}"
    return {"error": error, "bound": bound}


def sums(options: argparse.Namespace) -> int:
    """The number of variants whose sums are wrong."""
    runtime = Runtime(options.device)
    wrong = 0
    for variant in ("direct", "strip", "depthwise"):
        try:
            found = check_long_sums(runtime, variant)
        except ProblemError as error:
            print(f"{variant}: {error}")
        except AssertionError as error:
            wrong += 1
            print(error)
        else:
            print(f"{variant}: {POSITIONS} positions, relative error {found['error']:.2g}, "
                  f"bound {found['bound']:.2g}")  # fmt: skip
    return wrong


RUNS: dict[str, Callable[[argparse.Namespace], int]] = {
    "threads": threads, "memory": memory, "sizes": sizes, "sums": sums,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """1 where anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--calls", type=int, help="of each thread, or in all")
    parser.add_argument("--device", help="as Runtime takes it: index, id or part of a name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    return int(RUNS[options.run](options) > 0)


if __name__ == "__main__":
    sys.exit(main())
