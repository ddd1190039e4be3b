"""What measures a filter: each implementation in a process of its own, asked one thing at a time.

Every implementation takes NumPy arrays and gives NumPy arrays: what it copies to and from a device
is counted. scipy has one thread, scipy-threads as many as there are cores where its Fourier
transforms can use them; numpy convolves; torch takes its convolution, or Fourier transforms where
that is named; torchaudio and julius resample. Signals and filters are the same in every process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv.commands.benchmark_worker import Worker, serve_with

Samples = NDArray[np.float32]
SEED = 20240229
WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Case:
    """A filter of `batch` rows of `length` samples: by `taps`, or to up / down times the rate."""

    kind: str  # "filter" or "resample"
    length: int
    taps: int
    batch: int = 1
    up: int = 1
    down: int = 1

    @property
    def name(self) -> str:
        """What is said of it."""
        rows = f"{self.batch} x {self.length}"
        if self.kind == "filter":
            return f"{rows}, {self.taps} taps"
        return f"{rows}, {self.up}/{self.down}"

    def signal(self) -> Samples:
        """(batch, length)."""
        rng = np.random.default_rng(SEED)
        return rng.standard_normal((self.batch, self.length), np.float32)

    def filter(self) -> Samples:
        """(taps,), of a low-pass."""
        rng = np.random.default_rng(SEED + 1)
        return (rng.standard_normal(self.taps) * np.hanning(self.taps + 2)[1:-1]).astype(np.float32)


class NotServed(NotImplementedError):
    """An implementation has no such filter."""


class Scipy:
    """SciPy with one thread."""

    workers = 1

    def __init__(self, device: str | None) -> None:
        import scipy.signal

        self.scipy = scipy
        self.version = f"scipy {scipy.__version__}"

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        """What a user may write, of which the fastest counts."""
        import scipy.fft
        import scipy.signal

        x, h = case.signal(), case.filter()
        if case.kind == "resample":
            return [lambda: scipy.signal.resample_poly(x, case.up, case.down, axis=1)]

        def by_fft() -> Samples:
            with scipy.fft.set_workers(self.workers):
                made: Samples = scipy.signal.oaconvolve(x, h[None], "same", axes=1)
            return made

        direct = [lambda: scipy.signal.convolve(x, h[None], "same", "direct")]
        return [by_fft, *(direct if case.taps <= 300 else [])]


class ScipyThreads(Scipy):
    """SciPy with a thread for each core, where it knows how."""

    workers = -1

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        if case.kind == "resample":
            raise NotServed("scipy resamples with one thread")
        return super().calls(case)[:1]


class Numpy:
    """NumPy's own convolution, row by row."""

    def __init__(self, device: str | None) -> None:
        self.version = f"numpy {np.__version__}"

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        if case.kind == "resample" or case.taps * case.length * case.batch > 4e9:
            raise NotServed("numpy has no resampling, and takes too long with many taps")
        x, h = case.signal(), case.filter()
        return [lambda: np.stack([np.convolve(row, h, "same") for row in x])]


class Torch:
    """PyTorch's conv1d with all its threads, and its Fourier transforms."""

    def __init__(self, device: str | None) -> None:
        import torch

        self.torch = torch
        self.version = f"torch {torch.__version__}"

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        if case.kind == "resample":
            raise NotServed("torch has no resampling; torchaudio and julius have")
        torch, x, h = self.torch, case.signal(), case.filter()
        before = (case.taps - 1) // 2
        pads = (case.taps - 1 - before, before)
        full = case.length + case.taps - 1

        def direct() -> Samples:
            with torch.inference_mode():
                there = torch.from_numpy(x)[:, None]
                weight = torch.from_numpy(h[::-1].copy())[None, None]
                there = torch.nn.functional.pad(there, pads)
                made: Samples = torch.nn.functional.conv1d(there, weight)[:, 0].numpy()
            return made

        def by_fft() -> Samples:
            with torch.inference_mode():
                product = torch.fft.rfft(torch.from_numpy(x), full)
                product = product * torch.fft.rfft(torch.from_numpy(h), full)
                made = torch.fft.irfft(product, full)[:, before : before + case.length]
                rows: Samples = made.contiguous().numpy()
            return rows

        small = case.taps * case.length * case.batch <= 4e9
        return [by_fft, *([direct] if small else [])]


class Torchaudio:
    """torchaudio's resampling, whose filter is another one."""

    package = "torchaudio"

    def __init__(self, device: str | None) -> None:
        import torch
        import torchaudio

        self.torch, self.version = torch, f"torchaudio {torchaudio.__version__}"

    def resampler(self, case: Case) -> Any:
        """A module of (batch, length)."""
        import torchaudio

        # As many zero crossings as SciPy's filter has.
        return torchaudio.transforms.Resample(case.down, case.up, lowpass_filter_width=10)

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        if case.kind != "resample":
            raise NotServed("it only resamples")
        torch, x, module = self.torch, case.signal(), self.resampler(case)

        def call() -> Samples:
            with torch.inference_mode():
                made: Samples = module(torch.from_numpy(x)).numpy()
            return made

        return [call]


class Julius(Torchaudio):
    """julius' resampling, whose filter is another one."""

    def __init__(self, device: str | None) -> None:
        from importlib.metadata import version

        import torch

        self.torch, self.version = torch, f"julius {version('julius')}"

    def resampler(self, case: Case) -> Any:
        import julius

        return julius.ResampleFrac(case.down, case.up, zeros=10)


class Clconv:
    """clconv.signal on a device, copies to it and back included."""

    def __init__(self, device: str | None) -> None:
        import clconv

        self.runtime = clconv.Runtime(device)
        info = self.runtime.info
        self.version = f"clconv {clconv.__version__} on {info.name}, {info.platform}"
        self.device = asdict(info)

    def calls(self, case: Case) -> list[Callable[[], Samples]]:
        from clconv import signal

        x, h, runtime = case.signal(), case.filter(), self.runtime
        if case.kind == "resample":
            return [lambda: signal.resample_poly(x, case.up, case.down, axis=1, runtime=runtime)]
        return [lambda: signal.convolve(x, h[None], "same", runtime=runtime)]


CLASSES: dict[str, Any] = {
    "clconv": Clconv, "scipy": Scipy, "scipy-threads": ScipyThreads, "numpy": Numpy,
    "torch": Torch, "torchaudio": Torchaudio, "julius": Julius,
}  # fmt: skip
# Those whose filters are SciPy's: results must agree.
SAME_FILTER = ("clconv", "scipy", "scipy-threads", "numpy", "torch")


class Server:
    """What the process does when asked; each method's arguments and result are JSON."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation
        self._roofline: Any = None
        self._call: Callable[[], Samples]

    def prepare(self, case: dict[str, Any], file: str) -> dict[str, Any]:
        """Makes the fastest way to compute a case ready, and writes its result."""
        best = None
        for call in self._implementation.calls(Case(**case)):
            self._call = call
            result = call()
            seconds = self.measure(WARM_UP_CALLS)["seconds"]
            if best is None or min(seconds) < best[0]:
                best = min(seconds), call, result
        assert best is not None
        self._call = best[1]
        np.save(file, best[2])
        return {"seconds": best[0]}

    def measure(self, calls: int) -> dict[str, Any]:
        """How long each call takes."""
        seconds = []
        for _ in range(calls):
            begin = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}

    def pace(self) -> dict[str, Any]:
        """How fast clconv's device does arithmetic now."""
        from clconv.commands.roofline import Roofline

        self._roofline = self._roofline or Roofline(self._implementation.runtime)
        return {"gflops": self._roofline.pace()}


def serve(name: str, device: str | None) -> int:
    """The process."""
    return serve_with(lambda: CLASSES[name](device), Server)


START = """import os, sys
sys.path[:] = {path!r}
if {one_thread!r}:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
from benchmark_signal_worker import serve
sys.exit(serve({name!r}, {device!r}))"""


def start(name: str, device: str | None) -> Worker:
    """An implementation in a process of its own. Raises WorkerError."""
    here = str(Path(__file__).resolve().parent)
    path: Sequence[str] = [here, str(Path(here).parent), *sys.path]
    source = START.format(path=path, one_thread=name == "scipy", name=name, device=device)
    return Worker(name, device, source)
