"""What measures a network: each implementation in a process of its own, asked one thing at a time.

torch is PyTorch as it is, compile the same under torch.compile, clconv the network after
`clconv.torch.convert`, and onnxruntime what PyTorch's exporter makes of it, which has no training
step. The passes are inference on one series and on several, and a training step: forward, the mean
square of the output as the loss, backward, SGD. Inputs and weights are the same in every process.
"""

from __future__ import annotations

import io
import random
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clconv.commands.benchmark_worker import Worker, serve_with

PASSES = ("one", "many", "step")
IMPLEMENTATIONS = ("clconv", "torch", "onnxruntime", "compile")
LEARNING_RATE = 1e-6
WARM_UP_CALLS = 2
SEED = 20240229


@dataclass(frozen=True)
class Network:
    """A network to measure: `inputs(batch, length)` are the arguments of what `build()` returns.

    `package` is pip's name of what builds it, `length` that of the input and `many` the batch of
    the passes "many" and "step". With lengths that change, each is a multiple of `unit`; `fixed`
    says why this network takes one length only.
    """

    name: str
    package: str
    build: Callable[[], Any]
    inputs: Callable[[int, int], tuple[Any, ...]]
    length: int
    many: int
    unit: int = 1
    fixed: str = ""


def load(file: str) -> list[Network]:
    """The list NETWORKS of a Python file; ValueError where it has none."""
    if not Path(file).is_file():
        raise ValueError(f"{file} is no file, expected a Python file with a list NETWORKS")
    networks = runpy.run_path(file).get("NETWORKS")
    if not networks or not all(isinstance(one, Network) for one in networks):
        raise ValueError(f"{file} has no list NETWORKS of benchmark_models_worker.Network")
    return list(networks)


def first_tensor(found: Any) -> Any:
    """The first tensor of what a network returned."""
    if hasattr(found, "to_tuple"):  # of transformers and diffusers
        found = found.to_tuple()
    while isinstance(found, (tuple, list)):
        found = found[0]
    return found


def lengths(network: Network, calls: int, turn: int) -> list[int]:
    """Of a round's calls where they change, half the network's at least; everybody's the same."""
    most = network.length // network.unit
    choices = range(max(1, most // 2), most + 1)
    chosen = random.Random(SEED + turn).choices(choices, k=calls)
    return [one * network.unit for one in chosen]


class Torch:
    """A network in PyTorch."""

    def __init__(self, network: Network, changing: bool, device: str | None) -> None:
        import torch

        torch.manual_seed(SEED)
        self.network, self.changing = network, changing
        self.model = self.called = network.build()
        self.convolutions: dict[str, int] = {}
        self.device: dict[str, Any] | None = None
        self.version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        self._change(device)

    def _change(self, device: str | None) -> None:
        """What another implementation does to the model."""

    def inputs(self, batch: int, length: int) -> tuple[Any, ...]:
        """The same for a batch and length each time."""
        import torch

        torch.manual_seed(SEED)
        return self.network.inputs(batch, length)

    def prepare(self, pass_: str) -> tuple[Callable[..., Any], Callable[[], dict[str, Any]]]:
        """A call that takes inputs, and what its last results are, by name."""
        import torch

        self.model.train(pass_ == "step")
        kept: list[Any] = []

        def infer(*inputs: Any) -> None:
            with torch.inference_mode():
                kept[:] = [first_tensor(self.called(*inputs))]

        def step(*inputs: Any) -> None:
            self._optimizer.zero_grad()
            loss = first_tensor(self.called(*inputs)).square().mean()
            loss.backward()
            self._optimizer.step()
            kept[:] = [loss.detach()]

        def results() -> dict[str, Any]:
            found = {"output": kept[0]}
            if pass_ == "step":
                found |= {name: p.grad for name, p in self.model.named_parameters()}
            return {name: one.numpy() for name, one in found.items() if one is not None}

        return (step if pass_ == "step" else infer), results


class Compile(Torch):
    """The same under torch.compile, which needs a C++ compiler."""

    def _change(self, device: str | None) -> None:
        import torch

        self.called = torch.compile(self.model, dynamic=self.changing)
        self.version += ", compiled"


class Clconv(Torch):
    """The same after `convert`."""

    def _change(self, device: str | None) -> None:
        import clconv
        from clconv.torch import convert, report

        self.runtime = clconv.Runtime(device)
        self.runtime.__enter__()  # for as long as the process lives
        convert(self.model)
        info = self.runtime.info
        self.device = asdict(info)
        self.version = f"clconv {clconv.__version__} on {info.name}, {info.platform} {info.driver}"
        where = [one.where for one in report(self.model, self.inputs(1, self.network.length))]
        self.convolutions = {one: where.count(one) for one in ("clconv", "PyTorch", "nowhere")}


class OnnxRuntime(Torch):
    """What PyTorch's exporter makes of a network, for inputs of one size."""

    def _change(self, device: str | None) -> None:
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, pass_: str) -> tuple[Callable[..., Any], Callable[[], dict[str, Any]]]:
        """Inference only."""
        import onnxruntime
        import torch

        if pass_ == "step":
            raise NotImplementedError("it has no training step")
        if self.changing:
            raise NotImplementedError("it is exported for one length")
        self.model.eval()
        inputs = self.inputs(1 if pass_ == "one" else self.network.many, self.network.length)
        session = onnxruntime.InferenceSession(
            exported(self.model, inputs), providers=["CPUExecutionProvider"]
        )
        names = [one.name for one in session.get_inputs()]
        tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
        fed = {n: one.numpy() for n, one in zip(names, tensors, strict=True)}
        kept: list[np.ndarray] = []

        def infer(*_: Any) -> None:
            kept[:] = session.run(None, fed)[:1]

        return infer, lambda: {"output": kept[0]}


def exported(model: Any, inputs: tuple[Any, ...]) -> bytes:
    """A model in ONNX, by the exporter of TorchScript where that of torch.export cannot."""
    import torch

    written = io.BytesIO()
    try:
        program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError:
        torch.onnx.export(model, inputs, written, dynamo=False)
    else:
        assert program is not None
        program.save(written)
    return written.getvalue()


CLASSES = dict(zip(IMPLEMENTATIONS, (Clconv, Torch, OnnxRuntime, Compile), strict=True))


# The process


class Server:
    """What the process does when asked; each method's arguments and result are JSON."""

    def __init__(self, implementation: Torch) -> None:
        self._implementation = implementation
        self._roofline: Any = None

    def describe(self) -> dict[str, Any]:
        """The network's size, and on clconv how many of its convolutions run where."""
        model = self._implementation.model
        return {
            "parameters": sum(one.numel() for one in model.parameters()),
            "convolutions": self._implementation.convolutions,
        }

    def prepare(self, pass_: str, file: str) -> dict[str, Any]:
        """Makes a pass ready: writes the first call's results, returns what a later one takes."""
        import torch

        one = self._implementation
        self._call, results = one.prepare(pass_)
        self._batch = 1 if pass_ == "one" else one.network.many
        self._inputs = one.inputs(self._batch, one.network.length)
        torch.manual_seed(SEED)  # of dropout
        self._call(*self._inputs)
        np.savez(file, **results())
        return {"seconds": self.measure(WARM_UP_CALLS)["seconds"][-1]}

    def measure(self, calls: int, turn: int = -1) -> dict[str, Any]:
        """How long each of a round's calls takes, its inputs made before."""
        one = self._implementation
        changing = lengths(one.network, calls, turn) if one.changing else []
        seconds = []
        for place in range(calls):
            if changing:
                self._inputs = one.inputs(self._batch, changing[place])
            begin = time.perf_counter()
            self._call(*self._inputs)
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}

    def pace(self) -> dict[str, Any]:
        """How fast clconv's device does arithmetic now."""
        from clconv.commands.roofline import Roofline

        assert isinstance(self._implementation, Clconv)
        self._roofline = self._roofline or Roofline(self._implementation.runtime)
        return {"gflops": self._roofline.pace()}


def serve(name: str, file: str, network: str, changing: bool, device: str | None) -> int:
    """The process."""

    def make() -> Torch:
        found = {one.name: one for one in load(file)}
        return CLASSES[name](found[network], changing, device)

    return serve_with(make, Server)


# The other side


START = """import sys
sys.path[:] = {path!r}
from benchmark_models_worker import serve
sys.exit(serve(*{arguments!r}))"""


def start(name: str, file: str, network: str, changing: bool, device: str | None) -> Worker:
    """An implementation of a network in a process of its own. Raises WorkerError."""
    here = str(Path(__file__).resolve().parent)
    path: Sequence[str] = [here, str(Path(here).parent), *sys.path]
    arguments = (name, str(Path(file).resolve()), network, changing, device)
    return Worker(name, device, START.format(path=path, arguments=arguments))
