"""Everything that clconv raises on purpose, and how packages that are missing are named.

ClconvError
├── ModuleError (ValueError)         a layer got wrong arguments or wrong data
├── ProblemError (ValueError)        impossible shapes, parameters or arrays
│   └── ArrayTypeError (TypeError)   no array, or NumPy and device arrays mixed
├── DeviceError (RuntimeError)       no device, a wrong one, or one that failed
│   ├── BuildError                   the device's compiler refused a kernel
│   └── OutOfMemoryError (MemoryError)
└── RenderError                      a template failed: a fault of clconv
"""

from __future__ import annotations

__all__ = [
    "ArrayTypeError",
    "BuildError",
    "ClconvError",
    "DeviceError",
    "ModuleError",
    "OutOfMemoryError",
    "ProblemError",
    "RenderError",
    "missing",
    "to_install",
]


class ClconvError(Exception):
    """Base of every error that clconv raises on purpose."""


class ModuleError(ClconvError, ValueError):
    """A layer got wrong arguments, wrong data or a call out of order."""


class ProblemError(ClconvError, ValueError):
    """Shapes, parameters or arrays that no convolution can have."""


class ArrayTypeError(ProblemError, TypeError):
    """Not an array, or NumPy and device arrays mixed in one call."""


class DeviceError(ClconvError, RuntimeError):
    """No such device, an array of another context, or a device that failed."""


class BuildError(DeviceError):
    """The device's compiler refused a kernel.

    Args:
        kernel: its name.
        device: that of the device.
        log: what the compiler said.
    """

    def __init__(self, kernel: str, device: str, log: str) -> None:
        self.kernel = kernel
        self.device = device
        self.log = log
        super().__init__(f"kernel {kernel} does not build on {device}:\n{log.strip()}")

    def __reduce__(self) -> tuple[type[BuildError], tuple[str, str, str]]:
        return BuildError, (self.kernel, self.device, self.log)


class OutOfMemoryError(DeviceError, MemoryError):
    """The device has no room; the message has the bytes asked for and what the device has."""


class RenderError(ClconvError):
    """A template failed: a fault of clconv. The message has the constants and the template line."""


def to_install(extra: str) -> str:
    """The commands that bring the packages of an extra, each whole, so that it can be copied."""
    return f'`pip install "clconv[{extra}]"`, in a clone `pip install ".[{extra}]"`'


def missing(error: ModuleNotFoundError, what: str, **extras: str) -> ModuleNotFoundError:
    """The error to raise in place of one of an import: a line that says what to install.

    `extras` has the extra that brings each package which `what` needs; where another module is
    missing, the error itself is returned.
    """
    package = (error.name or "").partition(".")[0]
    if package not in extras:
        return error
    said = f"{what} needs {package}, which is missing: {to_install(extras[package])}"
    return ModuleNotFoundError(said, name=error.name)
