"""1-D convolution for every GPU, and for CPUs: OpenCL kernels written for the problem at hand.

Layers with the interface of PuzzleLib (`Conv1D`), functions with that of PyTorch (`functional`),
and devices, runtimes and plans.
"""

from __future__ import annotations

import importlib
from typing import Any

from clconv import errors, functional, gpuarray
from clconv.calls.prepared import PreparedWeight
from clconv.conv1d import Conv1D
from clconv.drivers.discovery import DeviceInfo, devices
from clconv.errors import (
    BuildError,
    ClconvError,
    DeviceError,
    ModuleError,
    OutOfMemoryError,
    ProblemError,
)
from clconv.functional import prepare_weight
from clconv.layers.activation import Activation
from clconv.layers.deconv1d import Deconv1D
from clconv.layers.module import Module
from clconv.layers.pad1d import Pad1D
from clconv.layers.parallel import Parallel
from clconv.layers.sequential import Sequential
from clconv.layers.variable import Variable
from clconv.planning.planner import KernelPlan, plans, serving
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.planning.profiles import profile as _profile
from clconv.problem import Conv1dProblem, Epilogue, Pass
from clconv.runtime import Runtime, default_runtime
from clconv.version import VERSION

__all__ = [
    "Activation",
    "BuildError",
    "ClconvError",
    "Conv1D",
    "Conv1dProblem",
    "Deconv1D",
    "DeviceError",
    "DeviceInfo",
    "DeviceProfile",
    "Epilogue",
    "KernelPlan",
    "Module",
    "ModuleError",
    "OutOfMemoryError",
    "Pad1D",
    "Parallel",
    "Pass",
    "PreparedWeight",
    "ProblemError",
    "Runtime",
    "Sequential",
    "Variable",
    "default_runtime",
    "devices",
    "errors",
    "functional",
    "gpuarray",
    "plan",
    "prepare_weight",
    "profiles",
    "variants",
]

__version__ = VERSION

Device = Runtime | DeviceProfile | str | None

# Modules that are imported when they are first used: most need packages that are optional.
_LATER = ("dask", "files", "onnx", "signal", "streaming", "testing", "torch", "tuning")


def __getattr__(name: str) -> Any:
    """Imports one of the modules that `import clconv` leaves out."""
    if name in _LATER:
        return importlib.import_module(f"clconv.{name}")
    raise AttributeError(f"module 'clconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def _known(device: Any) -> Runtime | DeviceProfile:
    if isinstance(device, (DeviceProfile, Runtime)):
        return device
    if isinstance(device, str):
        return _profile(device)
    if device is None:
        return default_runtime()
    raise DeviceError(
        f"device is {device!r}, expected a Runtime, a DeviceProfile or the name of one"
    )


def profiles() -> dict[str, DeviceProfile]:
    """The profiles of devices that can be planned for without having them.

    Returns:
        {name: profile}.

    Examples:
        >>> sorted(profiles())[:2]
        ['acm-g10', 'cpu']
    """
    return dict(PROFILES)


def plan(
    problem: Conv1dProblem,
    pass_: Pass | str,
    device: Device = None,
    *,
    epilogue: Epilogue = Epilogue(),
    exact: bool | None = None,
) -> KernelPlan:
    """The plan that "auto" takes for a pass of a problem.

    Args:
        problem: what is computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        device: a runtime (None: the default one), whose tuning records are used, or a profile or
            its name, for which no device is needed.
        epilogue: what follows the sums.
        exact: True takes only variants that form the definition's own sums; None means what the
            runtime says.

    Returns:
        The variant, its tile, its launches and its OpenCL C.

    Raises:
        ProblemError: no such pass.
        DeviceError: no such device or profile.

    Examples:
        >>> plan(Conv1dProblem(1, 64, 4000, 64, 3), "forward", "sm_86").variant
        'gemm'
    """
    known = _known(device)
    if isinstance(known, Runtime):
        return next(known.candidates(problem, Pass.of(pass_), epilogue, exact=exact))
    return plans(problem, Pass.of(pass_), known, epilogue=epilogue, exact=bool(exact))[0]


def variants(problem: Conv1dProblem, pass_: Pass | str, device: Device = None) -> list[str]:
    """The names of the variants that can serve, best first by the cost model.

    Args:
        problem: what is computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        device: a runtime (None: the default one), or a profile or its name.

    Returns:
        Names that the functions take as `variant`.

    Raises:
        ProblemError: no such pass.
        DeviceError: no such device or profile.

    Examples:
        >>> variants(Conv1dProblem(1, 64, 4000, 64, 3), "forward", "sm_86")
        ['gemm', 'direct', 'winograd']
    """
    known = _known(device)
    profile = known.profile if isinstance(known, Runtime) else known
    return serving(problem, Pass.of(pass_), profile)
