#!/usr/bin/env python3
"""How fast is clconv beside its peers, layer by layer?

Each implementation has a process of its own, which handles all layers, and only one of them
measures at a time: thread pools that spin after a call would take the cores from the next. They
take turns, round after round; a round's figure is the median of its calls, a layer's the median of
its rounds. Where /proc/stat tells that other processes used more than 5% of the machine, the round
is repeated, at last flagged.

A call is timed from Python. clconv: queueing on device arrays that are there, `out` included, and
waiting for the result, so neither transfers nor allocation. torch: conv1d without autograd, or
convolution_backward, which allocate their results. onnxruntime: one Conv node, bound to memory
that is there; it has no backward pass. `backward` is the gradients of input and weight. Nobody has
a bias. GFLOP/s count two operations a tap, those on padding included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PASSES = ("forward", "backward")
PEERS = ("torch", "onnxruntime")
# A round lasts at least this long and this many calls.
ROUND_SECONDS = 0.3
ROUND_CALLS = 3
WARM_UP_CALLS = 2
# Threads of the process that measured last go to sleep meanwhile.
PAUSE_SECONDS = 0.05
OTHERS_LIMIT = 0.05
TRIES = 4
# Layers below this much work measure a call's overhead; geometric means leave them out.
TINY_FLOPS = 1e6
# Of the largest value: finds a peer that computes something else, no more.
SAME_WITHIN = 1e-3
PROBES = 16


@dataclass(frozen=True)
class Layer:
    """One line of a layers file."""

    name: str
    batch: int
    in_channels: int
    length: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int

    @property
    def out_length(self) -> int:
        """Output positions."""
        window = self.dilation * (self.kernel_size - 1) + 1
        return (self.length + 2 * self.padding - window) // self.stride + 1

    def flops(self, pass_: str) -> float:
        """Operations of a pass; backward is two gradients."""
        taps = self.in_channels // self.groups * self.kernel_size
        forward = 2.0 * self.batch * self.out_channels * self.out_length * taps
        return forward * (1 if pass_ == "forward" else 2)

    def tensors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, weight and the output's gradient, the same in every process."""
        rng = np.random.default_rng(1)
        shapes = (
            (self.batch, self.in_channels, self.length),
            (self.out_channels, self.in_channels // self.groups, self.kernel_size),
            (self.batch, self.out_channels, self.out_length),
        )
        x, weight, grad = (rng.standard_normal(s, dtype=np.float32) for s in shapes)
        return x, weight, grad


# What a worker does: make(layer, pass) -> (a call that has finished when it returns, its results)

Make = Callable[[Layer, str], tuple[Callable[[], Any], Callable[[], list[Any]]]]


def clconv_worker(device: str | None) -> tuple[str, Make]:
    """clconv on a device."""
    import clconv

    runtime = clconv.Runtime(device)

    def make(layer: Layer, pass_: str) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
        x, weight, grad = (runtime.to_device(a) for a in layer.tensors())
        place = (layer.stride, layer.padding, layer.dilation, layer.groups)
        if pass_ == "forward":
            outs = [runtime.empty(grad.shape)]

            def call() -> None:
                clconv.functional.conv1d(x, weight, None, *place, out=outs[0], runtime=runtime)
                runtime.finish()
        else:
            outs = [runtime.empty(x.shape), runtime.empty(weight.shape)]

            def call() -> None:
                clconv.functional.conv1d_backward(
                    x, weight, grad, *place, need=(True, True, False), out=(*outs, None),
                    runtime=runtime,
                )  # fmt: skip
                runtime.finish()

        return call, lambda: [a.get() for a in outs]

    info = runtime.info
    return f"clconv {clconv.__version__} on {info.name}, {info.platform} {info.driver}", make


def torch_worker(_: str | None) -> tuple[str, Make]:
    """PyTorch on the CPU with its own number of threads."""
    import torch

    def make(layer: Layer, pass_: str) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
        x, weight, grad = (torch.from_numpy(a) for a in layer.tensors())
        place = ([layer.stride], [layer.padding], [layer.dilation])
        results: list[Any] = []

        def forward() -> None:
            with torch.inference_mode():
                results[:] = [torch.conv1d(x, weight, None, *place, layer.groups)]

        def backward() -> None:
            with torch.inference_mode():
                results[:] = torch.ops.aten.convolution_backward(
                    grad, x, weight, None, *place, False, [0], layer.groups, [True, True, False]
                )[:2]

        call = forward if pass_ == "forward" else backward
        return call, lambda: [a.numpy() for a in results]

    return f"torch {torch.__version__}, {torch.get_num_threads()} threads", make


def onnxruntime_worker(_: str | None) -> tuple[str, Make]:
    """ONNX Runtime on the CPU; needs onnx to write the model."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def make(layer: Layer, pass_: str) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
        if pass_ != "forward":
            raise NotImplementedError("it has no backward pass")
        x, weight, grad = layer.tensors()
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], strides=[layer.stride], dilations=[layer.dilation],
            pads=[layer.padding] * 2, group=layer.groups,
        )  # fmt: skip
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, grad.shape)],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
        ).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        y = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty_like(grad))
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", y)
        return lambda: session.run_with_iobinding(binding), lambda: [y.numpy()]

    return f"onnxruntime {onnxruntime.__version__}", make


WORKERS = {"clconv": clconv_worker, "torch": torch_worker, "onnxruntime": onnxruntime_worker}


def nothing() -> None:
    """What a worker calls before it has a layer."""


def serve(name: str, device: str | None) -> int:
    """The worker's process: a JSON object a line in, one out.

    {"layer": [...], "pass_": ...} prepares and gives probes of the results, {"seconds": ...}
    measures and gives the median of the calls in microseconds.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        version, make = WORKERS[name](device)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            answer(error=f"{error.name} is not installed")
        else:
            answer(error=str(error))
        return 1
    answer(version=version)
    call: Callable[[], Any] = nothing
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "layer" in request:
                call = nothing  # frees the last layer's arrays
                call, results = make(Layer(*request["layer"]), request["pass_"])
                call()
                answer(probes=[probe(a) for a in results()])
                del results
            else:
                answer(**measure(call, request["seconds"]))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")
    return 0


def probe(array: np.ndarray) -> list[float]:
    """The largest magnitude, then some values all over an array."""
    picked = np.linspace(0, array.size - 1, PROBES).astype(int)
    return [float(abs(array).max()), *map(float, array.ravel()[picked])]


def measure(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """The median time of a call in microseconds, of at least that many seconds of calls."""
    for _ in range(WARM_UP_CALLS):
        call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < ROUND_CALLS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return {"median_us": statistics.median(times) * 1e6, "calls": len(times)}


class WorkerError(RuntimeError):
    """A worker that cannot do what it was asked for."""


class Worker:
    """An implementation in a process of its own."""

    def __init__(self, name: str, device: str | None) -> None:
        command = [sys.executable, __file__, "--worker", name]
        if device is not None:
            command += ["--device", device]
        # Sleeping threads instead of spinning ones; it costs the peers nothing.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version = self._answer()["version"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with suppress(OSError):  # it may have ended
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises WorkerError."""
        assert self._process.stdin
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise WorkerError(f"its process ended with {self._process.wait()}") from error
        return self._answer()


# How busy others are


def _ticks(pids: Sequence[int]) -> tuple[int, int, int] | None:
    """(all, busy, of these processes) clock ticks so far; None where there is no /proc/stat."""
    try:
        # user nice system idle iowait irq softirq steal; guest time is in user time
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        own = 0
        for stat in (Path(f"/proc/{pid}/stat") for pid in pids):
            if stat.exists():
                after = stat.read_text().rpartition(")")[2].split()
                own += int(after[11]) + int(after[12])  # utime, stime
    except (OSError, ValueError, IndexError):
        return None
    return sum(fields), sum(fields) - fields[3] - fields[4], own


class Watch:
    """How much of the machine other processes use, from its making on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._start = _ticks(pids)

    def others(self) -> float | None:
        """The part of the machine; None where that cannot be known."""
        now = _ticks(self._pids)
        if now is None or self._start is None:
            return None
        machine, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0, busy - own) / machine if machine > 0 else None


# Measuring and reporting


@dataclass
class Result:
    """One implementation on one pass of one layer."""

    implementation: str
    layer: str
    pass_: str
    median_us: float | None = None
    gflops: float | None = None
    rounds_us: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    noisy: bool = False
    error: str | None = None


def measure_layer(
    layer: Layer, pass_: str, workers: dict[str, Worker], rounds: int
) -> dict[str, Result]:
    """All implementations on one pass, in turns; one that fails drops out with its error."""
    results = {name: Result(name, layer.name, pass_) for name in workers}
    probes: dict[str, Any] = {}
    pids = [os.getpid(), *(worker.pid for worker in workers.values())]
    for name, worker in workers.items():
        try:
            probes[name] = worker.ask(layer=list(asdict(layer).values()), pass_=pass_)
        except WorkerError as error:
            results[name].error = str(error)
    for name, found in probes.items():
        if not _same(found["probes"], next(iter(probes.values()))["probes"]):
            results[name].error = f"its results differ from those of {next(iter(probes))}"
    for _ in range(rounds):
        for name, result in results.items():
            if result.error is None:
                _round(workers[name], result, pids)
    for result in results.values():
        if result.rounds_us and result.error is None:
            result.median_us = statistics.median(result.rounds_us)
            result.gflops = layer.flops(pass_) / result.median_us / 1e3
    return results


def _same(one: list[list[float]], other: list[list[float]]) -> bool:
    return all(
        abs(x - y) <= SAME_WITHIN * b[0]
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


def _round(worker: Worker, result: Result, pids: Sequence[int]) -> None:
    """One round, repeated while others are busy; the quietest try counts."""
    tries: list[tuple[float, float | None, float]] = []
    while len(tries) < TRIES:
        time.sleep(PAUSE_SECONDS)
        watch = Watch(pids)
        try:
            median = worker.ask(seconds=ROUND_SECONDS)["median_us"]
        except WorkerError as error:
            result.error = str(error)
            return
        others = watch.others()
        tries.append((others or 0.0, others, median))
        if (others or 0.0) <= OTHERS_LIMIT:
            break
    busy, others, median = min(tries)
    result.rounds_us.append(median)
    result.others.append(others)
    result.noisy |= busy > OTHERS_LIMIT


def ratios(results: Sequence[dict[str, Result]], peer: str) -> Iterator[float]:
    """The peer's time in clconv's, where both have one."""
    for one in results:
        own, other = one["clconv"].median_us, one[peer].median_us
        if own is not None and other is not None:
            yield other / own


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def report(measured: Sequence[tuple[Layer, str, dict[str, Result]]], peers: Sequence[str]) -> str:
    """The table, then the geometric means of the ratios."""
    from clconv.listing import table

    header = ["layer", "pass", "clconv us", "GFLOP/s"]
    for peer in peers:
        header += [f"{peer} us", "GFLOP/s", "ratio"]
    rows, notes = [], []
    for layer, pass_, results in measured:
        row = [layer.name, pass_]
        for name, result in results.items():
            time_us = _number(result.median_us, 1)
            row += [time_us + "!" * result.noisy, _number(result.gflops, 1)]
            if name != "clconv":
                row.append(_number(next(ratios([results], name), None), 2))
            if result.error and not result.error.startswith("NotImplementedError"):
                notes.append(f"{layer.name} {pass_}: {name} failed: {result.error}")
        rows.append(row)
    lines = [table(header, rows, right=[h for h in header if h not in ("layer", "pass")]), ""]
    for pass_ in dict.fromkeys(p for _, p, _ in measured):
        counted = [r for la, p, r in measured if p == pass_ and la.flops("forward") >= TINY_FLOPS]
        for peer in peers:
            found = list(ratios(counted, peer))
            if found:
                mean = statistics.geometric_mean(found)
                lines.append(f"{pass_}: {peer} takes {mean:.2f} times as long as clconv ")
                lines[-1] += f"(geometric mean of {len(found)} layers, tiny ones left out)"
    if any(result.noisy for _, _, results in measured for result in results.values()):
        lines.append(f"!: other processes used more than {OTHERS_LIMIT:.0%} of the machine")
    if any(None in result.others for _, _, results in measured for result in results.values()):
        lines.append("whether other processes were busy is not known here: no /proc/stat")
    return "\n".join([*lines, *notes])


def load_layers(path: str, select: str) -> list[Layer]:
    """The layers of a file whose names match."""
    layers = [Layer(*row) for row in runpy.run_path(path)["LAYERS"]]
    return [layer for layer in layers if re.search(select, layer.name)]


def _names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if not set(names) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text!r}, expected some of {','.join(allowed)}")
        return names

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    layers = Path(__file__).with_name("layers.py")
    parser.add_argument("--layers", default=str(layers), metavar="FILE")
    parser.add_argument("--select", default="", metavar="REGEX", help="layers with such a name")
    parser.add_argument("--passes", type=_names(PASSES), default=list(PASSES))
    parser.add_argument("--against", type=_names(PEERS), default=["torch"], help=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", help="clconv's: index, id or part of a name")
    parser.add_argument("--json", metavar="OUT", help="file for all figures")
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    return parser


def start(names: Sequence[str], device: str | None, stack: ExitStack) -> dict[str, Worker]:
    """The workers that can be had. Raises WorkerError where clconv's cannot."""
    workers = {}
    for name in names:
        try:
            workers[name] = stack.enter_context(Worker(name, device))
        except WorkerError as error:
            if name == "clconv":
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
    return workers


def main(argv: Sequence[str] | None = None) -> int:
    """1 where clconv does not run."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.worker:
        return serve(options.worker, options.device)
    layers = load_layers(options.layers, options.select)
    if not layers:
        parser.error(f"--select is {options.select!r}, which matches no layer of {options.layers}")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, expected at least 1")
    measured: list[tuple[Layer, str, dict[str, Result]]] = []
    with ExitStack() as stack:
        try:
            workers = start(["clconv", *options.against], options.device, stack)
        except WorkerError as error:
            print(f"clconv does not run: {error}", file=sys.stderr)
            return 1
        versions = {name: worker.version for name, worker in workers.items()}
        print("\n".join(versions.values()), file=sys.stderr)
        for layer in layers:
            for pass_ in options.passes:
                print(f"{layer.name} {pass_}", file=sys.stderr)
                found = measure_layer(layer, pass_, workers, options.rounds)
                measured.append((layer, pass_, found))
    print(report(measured, [name for name in workers if name != "clconv"]))
    if options.json:
        content = {
            "versions": versions,
            "machine": f"{platform.platform()}, {os.cpu_count()} CPUs",
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "rounds": options.rounds,
            "layers": [asdict(layer) for layer in layers],
            "results": [asdict(r) for _, _, found in measured for r in found.values()],
        }
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
