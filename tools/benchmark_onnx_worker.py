"""What measures an ONNX model: each implementation in a process of its own, asked one thing at a
time. Both get NumPy arrays and give NumPy arrays."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from clconv.commands.benchmark_worker import Worker, serve_with

IMPLEMENTATIONS = ("clconv", "onnxruntime")
WARM_UP_CALLS = 3


class Clconv:
    """`clconv.onnx.Backend`."""

    def __init__(self, device: str | None) -> None:
        import clconv

        self.runtime = clconv.Runtime(device)
        info = self.runtime.info
        self.device = asdict(info)
        self.version = f"clconv {clconv.__version__} on {info.name}, {info.platform} {info.driver}"

    def prepare(self, model: str, feeds: dict[str, Any]) -> Callable[[], Any]:
        """A call that gives the model's outputs."""
        from clconv.onnx import Backend

        prepared = Backend.prepare(model, self.runtime)
        return lambda: list(prepared.run(feeds))


class OnnxRuntime:
    """ONNX Runtime on the CPU, with its own settings."""

    def __init__(self, device: str | None) -> None:
        import onnxruntime

        self.device = None
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, model: str, feeds: dict[str, Any]) -> Callable[[], Any]:
        """A call that gives the model's outputs."""
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)


CLASSES = dict(zip(IMPLEMENTATIONS, (Clconv, OnnxRuntime), strict=True))


class Server:
    """What the process does when asked; each method's arguments and result are JSON."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation
        self._call: Callable[[], Any] = list

    def prepare(self, model: str, inputs: str, results: str) -> dict[str, Any]:
        """Makes a model ready: writes its outputs, returns what a later call takes."""
        with np.load(inputs) as found:
            feeds = dict(found)
        self._call = self._implementation.prepare(model, feeds)
        outputs = self._call()
        np.savez(results, *outputs)
        for _ in range(WARM_UP_CALLS):
            self._call()
        return {"seconds": self.measure(1)["seconds"][0]}

    def measure(self, calls: int) -> dict[str, Any]:
        """Seconds of each call."""
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}


START = """import sys
sys.path[:] = {path!r}
from benchmark_onnx_worker import serve
sys.exit(serve({name!r}, {device!r}))"""


def serve(name: str, device: str | None) -> int:
    """The process of an implementation."""
    return serve_with(lambda: CLASSES[name](device), Server)


def start(name: str, device: str | None) -> Worker:
    """An implementation's process. Raises WorkerError."""
    return Worker(name, device, START.format(path=sys.path, name=name, device=device))
