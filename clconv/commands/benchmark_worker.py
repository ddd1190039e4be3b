"""What measures: each implementation in a process of its own, asked one thing at a time.

clconv: queueing on device arrays that are there, results included, and waiting for the result, so
neither transfers nor allocation. torch: conv1d without autograd, or convolution_backward, which
allocate their results. onnxruntime: one Conv node, bound to memory that is there; it has no
backward pass. Nobody has a bias in the forward pass; `backward` is all three gradients.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clconv import settings
from clconv.commands.layers import Layer
from clconv.commands.roofline import Roofline, median_seconds

# clconv with prepared weights, and by exact variants alone, is measured as a peer of itself.
PREPARED, EXACT = OWN_KINDS = ("prepared", "exact")
PEERS = ("torch", "onnxruntime", *OWN_KINDS)
CALLS = 3
PROBES = 16
# Of the largest value: finds an implementation that computes something else, no more.
SAME_WITHIN = 1e-3


@dataclass
class Job:
    """A call that has finished when it returns, and how to get its results."""

    call: Callable[[], Any]
    results: Callable[[], list[np.ndarray]]
    plans: list[dict[str, Any]] = field(default_factory=list)


class Clconv:
    """clconv on a device."""

    exact: bool | None = None  # as the user's settings have it

    def __init__(self, device: str | None) -> None:
        import clconv

        self._runtime = clconv.Runtime(device, exact=self.exact)
        self._roofline: Roofline | None = None
        info = self._runtime.info
        device = f"{info.name}, {info.platform} {info.driver}"
        shipped = "with" if settings.shipped_choice() else "without"
        self.version = f"clconv {clconv.__version__} on {device}, {shipped} its tuning records"
        self.device = asdict(info)

    def prepare(self, layer: Layer, pass_: str) -> Job:
        """One pass, as users call it."""
        from clconv import Conv1dProblem, Epilogue, Pass, functional

        runtime, problem = self._runtime, layer.problem
        x, weight, grad = (runtime.to_device(a) for a in layer.tensors())
        place = (layer.stride, layer.padding, layer.dilation, layer.groups)
        sizes = x.nbytes + weight.nbytes + grad.nbytes
        if pass_ == "forward":
            outs = [runtime.empty(grad.shape)]
            given = self._given(layer, weight)

            def call() -> None:
                functional.conv1d(x, given, None, *place, out=outs[0], runtime=runtime)
                runtime.finish()

            used = [(problem, Pass.FORWARD, Epilogue(), sizes)]
        else:
            outs = [runtime.empty(s) for s in (x.shape, weight.shape, (layer.out_channels,))]

            def call() -> None:
                functional.conv1d_backward(x, weight, grad, *place, out=outs, runtime=runtime)
                runtime.finish()

            channels = layer.out_channels
            batch, _, out_length = problem.output_shape
            sums = Conv1dProblem(batch, channels, out_length, channels, 1, groups=channels)
            used = [
                (problem, Pass.INPUT_GRADIENT, Epilogue(), sizes),
                (problem, Pass.WEIGHT_GRADIENT, Epilogue(bias=True), sizes),
                (sums, Pass.BIAS_GRADIENT, Epilogue(), grad.nbytes + outs[2].nbytes),
            ]
        plans = []
        for one, p, epilogue, nbytes in used:
            plan = runtime.prepare(runtime.plans(one, p, epilogue)).plan
            plans.append(self._describe(plan) | {"array_bytes": nbytes})
            if p is Pass.WEIGHT_GRADIENT and plan.sums_bias:
                break
        return Job(call, lambda: [a.get() for a in outs], plans)

    def _given(self, layer: Layer, weight: Any) -> Any:
        """The weights as the forward pass gets them."""
        return weight

    def _describe(self, plan: Any) -> dict[str, Any]:
        return {
            "pass_": plan.pass_.value,
            "variant": plan.variant,
            "tile": dict(plan.tile),
            "cost": plan.cost,
            "workspace_bytes": plan.workspace_bytes,
        }

    def candidates(
        self, layer: Layer, pass_: str, most: int
    ) -> tuple[list[tuple[dict[str, Any], Job | str]], int]:
        """Descriptions of plans, best first, each with its call or why it has none; then how many
        plans were left out: those beyond the first `most` but for the first of each variant."""
        from clconv import Pass, tuning

        runtime, task = self._runtime, tuning.Task(layer.problem, Pass(pass_))
        plans, _ = tuning.candidates(runtime, task)
        firsts = {plan.variant: place for place, plan in reversed(list(enumerate(plans)))}
        chosen = [p for i, p in enumerate(plans) if i < most or i in firsts.values()]
        values = dict(zip(("x", "weight", "grad_output"), layer.tensors(), strict=True))
        bench = tuning.Bench(runtime, *task, values, chosen)

        def job(plan: Any) -> Job | str:
            try:
                queue = bench.job(plan)
            except Exception as error:
                return f"{type(error).__name__}: {error}"

            def call() -> None:
                queue()
                runtime.finish()

            return Job(call, lambda: [bench.out.get()])

        return [(self._describe(plan), job(plan)) for plan in chosen], len(plans) - len(chosen)

    def roofline(self, seconds: float) -> dict[str, Any]:
        """The device's peak and copy rates."""
        return self._kernels().measure(seconds)

    def pace(self) -> float:
        """How fast the device does arithmetic now."""
        return self._kernels().pace()

    def _kernels(self) -> Roofline:
        if self._roofline is None:
            self._roofline = Roofline(self._runtime)
        return self._roofline


class Prepared(Clconv):
    """clconv with weights that `prepare_weight` has made ready."""

    def prepare(self, layer: Layer, pass_: str) -> Job:
        """The forward pass."""
        if pass_ != "forward":
            raise NotImplementedError("gradients are taken of weights that change")
        return super().prepare(layer, pass_)

    def _given(self, layer: Layer, weight: Any) -> Any:
        from clconv import prepare_weight

        place = layer.stride, layer.dilation, layer.groups
        return prepare_weight(weight, *place, runtime=self._runtime)


class Exact(Clconv):
    """clconv by variants that form the definition's own sums."""

    exact = True


class Torch:
    """PyTorch on the CPU with its own number of threads."""

    def __init__(self, _: str | None) -> None:
        import torch

        self.version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"

    def prepare(self, layer: Layer, pass_: str) -> Job:
        """One pass."""
        import torch

        x, weight, grad = (torch.from_numpy(a) for a in layer.tensors())
        place = ([layer.stride], [layer.padding], [layer.dilation])
        results: list[Any] = []

        def forward() -> None:
            with torch.inference_mode():
                results[:] = [torch.conv1d(x, weight, None, *place, layer.groups)]

        def backward() -> None:
            with torch.inference_mode():
                results[:] = torch.ops.aten.convolution_backward(
                    grad, x, weight, [layer.out_channels], *place, False, [0], layer.groups,
                    [True, True, True],
                )  # fmt: skip

        call = forward if pass_ == "forward" else backward
        return Job(call, lambda: [a.numpy() for a in results])


class OnnxRuntime:
    """ONNX Runtime on the CPU; needs onnx to write the model."""

    def __init__(self, _: str | None) -> None:
        import onnx  # noqa: F401
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, layer: Layer, pass_: str) -> Job:
        """The forward pass."""
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

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
        return Job(lambda: session.run_with_iobinding(binding), lambda: [y.numpy()])


IMPLEMENTATIONS: dict[str, Callable[[str | None], Any]] = {
    "clconv": Clconv,
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
    PREPARED: Prepared,
    EXACT: Exact,
}


# The worker's process


class Server:
    """What a worker does when asked; each method's arguments and result are JSON."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation
        self._jobs: list[Job | str] = []

    def prepare(self, layer: list[Any], pass_: str) -> dict[str, Any]:
        """Makes one pass of a layer ready: probes of its results, and the plans used."""
        self._jobs = []  # frees the last layer's arrays
        job = self._implementation.prepare(Layer(*layer), pass_)
        job.call()
        self._jobs = [job]
        return {"probes": [probe(a) for a in job.results()], "plans": job.plans}

    def candidates(self, layer: list[Any], pass_: str, most: int) -> dict[str, Any]:
        """Makes candidate plans ready: what they are, with probes or errors."""
        self._jobs = []
        found, left_out = self._implementation.candidates(Layer(*layer), pass_, most)
        described = []
        for description, job in found:
            if isinstance(job, str):
                described.append(description | {"error": job})
            else:
                job.call()
                described.append(description | {"probes": [probe(a) for a in job.results()]})
        self._jobs = [job for _, job in found]
        return {"candidates": described, "left_out": left_out}

    def measure(
        self, seconds: float, place: int = 0, calls: int = CALLS, warm_up: int = 2
    ) -> dict[str, Any]:
        """The median time of one of the calls in microseconds."""
        job = self._jobs[place]
        assert isinstance(job, Job), job
        for _ in range(warm_up):
            job.call()
        return {"median_us": median_seconds(job.call, seconds, calls) * 1e6}

    def roofline(self, seconds: float) -> dict[str, Any]:
        """The device's peak and copy rates."""
        found: dict[str, Any] = self._implementation.roofline(seconds)
        return found

    def pace(self) -> dict[str, Any]:
        """How fast the device does arithmetic now."""
        return {"gflops": self._implementation.pace()}


def probe(array: np.ndarray) -> list[float]:
    """The largest magnitude, then some values all over an array."""
    picked = np.linspace(0, array.size - 1, PROBES).astype(int)
    return [float(abs(array).max()), *map(float, array.ravel()[picked])]


def same(one: list[list[float]], other: list[list[float]]) -> bool:
    """Whether two sets of probes are of the same results."""
    return all(
        abs(x - y) <= SAME_WITHIN * b[0]
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


def serve(name: str, device: str | None) -> int:
    """The process of an implementation."""
    return serve_with(lambda: IMPLEMENTATIONS[name](device), Server)


def serve_with(make: Callable[[], Any], server_of: Callable[[Any], Any]) -> int:
    """A process: makes an implementation, then what to do and its arguments as JSON, a line each
    in; one JSON object a line out, what the server's method of that name returned."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        implementation = make()
    except Exception as error:  # of any library: the other process reports it
        if isinstance(error, ModuleNotFoundError):
            answer(error=f"{error.name} is not installed")
        else:
            answer(error=str(error))
        return 1
    answer(version=implementation.version, device=getattr(implementation, "device", None))
    server = server_of(implementation)
    for line in sys.stdin:
        what, arguments = json.loads(line)
        try:
            answer(**getattr(server, what)(**arguments))
        except Exception as error:  # likewise
            answer(error=f"{type(error).__name__}: {error}")
    return 0


# The other side


# Not `python -m`, which looks in the current folder first: another clconv may lie there.
START = """import sys
sys.path[:] = {path!r}
from clconv.commands.benchmark_worker import serve
sys.exit(serve({name!r}, {device!r}))"""


class WorkerError(RuntimeError):
    """A worker that cannot do what it was asked for."""


class Worker:
    """An implementation in a process of its own, which runs `source` if that is given; without the
    tuning records that come with clconv unless they are asked for (`shipped`)."""

    def __init__(
        self, name: str, device: str | None, source: str | None = None, shipped: bool = False
    ) -> None:
        source = source or START.format(path=sys.path, name=name, device=device)
        command = [sys.executable, "-c", source]
        # Sleeping threads instead of spinning ones; it costs the peers nothing.
        environment = settings.environment(shipped) | {"OMP_WAIT_POLICY": "passive"}
        self.name = name
        self.pace: Pace | None = None
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            about = self._answer()
        except WorkerError:
            self.__exit__()
            raise
        self.version: str = about["version"]
        self.device: dict[str, Any] | None = about["device"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with suppress(OSError):  # it may have ended
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

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

    def ask(self, what: str, layer: Layer | None = None, **arguments: Any) -> dict[str, Any]:
        """The answer of `Server`'s method of this name. Raises WorkerError."""
        assert self._process.stdin
        if layer is not None:
            arguments["layer"] = astuple(layer)
        try:
            print(json.dumps([what, arguments]), file=self._process.stdin, flush=True)
        except OSError as error:
            raise WorkerError(f"its process ended with {self._process.wait()}") from error
        return self._answer()


# How busy others are

OTHERS_LIMIT = 0.05
# Arithmetic varies by that much on its own.
PACE_LIMIT = 0.1
NOISY = f"!: in most rounds others used more than {OTHERS_LIMIT:.0%} of the machine"
TRIES = 4
# Threads of the process that measured last go to sleep meanwhile.
PAUSE_SECONDS = 0.05


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


class Pace:
    """How much of a CPU's arithmetic is missing. No count of ticks tells of virtual machines that
    share a core with this one: while they compute, it does half as much."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._best = 0.0
        self._before = 0.0

    def missing(self) -> float:
        """Now or when last asked, as a part of the most that was seen."""
        rate = self._worker.ask("pace")["gflops"]
        self._best = max(self._best, rate)
        before, self._before = self._before, 1 - rate / self._best
        return max(before, self._before)


def quiet(
    measure: Callable[[], Any], worker: Worker, most: int | None = None
) -> tuple[Any, float | None]:
    """What a worker measured while others were idle, or nearly so in the quietest of several
    tries, and the part of the machine that they used. The other workers are others, too."""
    most = TRIES if most is None else most
    pids = [os.getpid(), worker.pid]
    tries: list[tuple[Any, float | None]] = []
    while len(tries) < most:
        time.sleep(PAUSE_SECONDS)
        watch = Watch(pids)
        found = measure()
        others = watch.others()
        if worker.pace is not None:
            time.sleep(PAUSE_SECONDS)
            missing = worker.pace.missing()
            others = max(others or 0.0, missing) if missing > PACE_LIMIT else others
        tries.append((found, others))
        if not is_noisy(others):
            break
    return min(tries, key=lambda one: one[1] or 0.0)


def settle(rounds_us: Sequence[float], others: Sequence[float | None]) -> tuple[float, bool]:
    """The median of the quiet rounds, of all where none was; whether most rounds were noisy."""
    kept = [us for us, part in zip(rounds_us, others, strict=True) if not is_noisy(part)]
    return statistics.median(kept or rounds_us), 2 * len(kept) < len(rounds_us)


def is_noisy(others: float | None) -> bool:
    """Whether others used more than they may; unknown is not noisy."""
    return others is not None and others > OTHERS_LIMIT
