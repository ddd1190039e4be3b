"""Compiled programs of one device, and the kernels of each thread.

A program is kept under its text, which is everything that its build depends on, except for the
options. One thread builds; others that need the same text wait for it, and no lock is held during
the build.
"""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
import pyopencl as cl

from clconv import progress
from clconv.bounded import Bounded
from clconv.drivers import binaries
from clconv.drivers.building import binary_of, built, has_kernel, program_of_binary
from clconv.errors import BuildError, OutOfMemoryError
from clconv.render import sum_dtype
from clconv.variants.base import Kernel

__all__ = ["HasSources", "Programs", "identity_of", "no_arguments"]

_log = logging.getLogger(__name__)

BUILD_OPTIONS = ("-cl-std=CL1.2",)
# Platforms whose drivers keep compiled programs on disk themselves.
DRIVERS_WITH_CACHE = ("portable computing language", "nvidia", "rusticl")
# Those that make a kernel's machine code when it is first launched.
FINISHING_AT_LAUNCH = ("portable computing language",)

_SCALARS = {"int": np.dtype(np.int32), "long": np.dtype(np.int64)}


def identity_of(device: Any) -> tuple[str, ...]:
    """What a binary depends on beside its source and options: device, driver, pyopencl."""
    platform = device.platform
    return (
        platform.name,
        platform.version,
        device.name,
        device.version,
        device.driver_version,
        str(cl.VERSION_TEXT),
    )


class HasSources(Protocol):
    """What has kernels, each with its OpenCL C."""

    @property
    def sources(self) -> tuple[tuple[Kernel, str], ...]:
        """In the order of its launches."""


class Programs:
    """At most `size` programs of a context's device, and as many kernels of each thread."""

    def __init__(self, context: Any, device: Any, size: int) -> None:
        self._context = context
        self._device = device
        self._name = device.name.strip()
        self._size = size
        self._programs: Bounded[str, Future[Any]] = Bounded(size)
        self._refused: Bounded[str, BuildError] = Bounded(size)
        self._finished: Bounded[str, bool] = Bounded(size)
        self._threads = threading.local()
        platform = device.platform.name.strip().lower()
        self._trusts_required = platform == "rusticl"
        self.keeps_binaries = not platform.startswith(DRIVERS_WITH_CACHE)
        self.finishes_at_launch = platform.startswith(FINISHING_AT_LAUNCH)
        self.identity = identity_of(device)

    def __len__(self) -> int:
        return len(self._programs)

    def key(self, source: str, *more: str) -> str:
        """A file name for all that a binary depends on."""
        return binaries.key(source, " ".join(BUILD_OPTIONS), *self.identity, *more)

    def has(self, source: str) -> bool:
        """Whether a program is here, or kept as a binary on disk."""
        return self._programs.get(source) is not None or (
            self.keeps_binaries and binaries.load(self.key(source)) is not None
        )

    def is_refused(self, source: str) -> bool:
        """Whether the device is known to refuse a kernel."""
        return self._refused.get(source) is not None

    def _build(self, kernel: Kernel, source: str) -> Any:
        if not self.keeps_binaries:
            return self._compile(kernel, source)
        name = self.key(source)
        binary = binaries.load(name)
        if binary is not None:
            try:
                program = program_of_binary(self._context, self._device, binary).build()
                if has_kernel(program, kernel.name):
                    return program
                why: object = f"it has no kernel {kernel.name}"
            except cl.Error as error:
                why = error
            _log.warning("%s refuses a kept binary, building anew: %s", self._name, why)
        program = self._compile(kernel, source)
        made = binary_of(program)
        if made is not None:
            binaries.store(name, made)
        return program

    def _compile(self, kernel: Kernel, source: str) -> Any:
        try:
            with progress.one_of_many("compiling", "kernel"):
                program = built(self._context, self._device, source, kernel.name, BUILD_OPTIONS)
        except cl.MemoryError as error:
            raise OutOfMemoryError(
                f"{self._name} has no room to build {kernel.name}: {error}"
            ) from error
        except cl.Error as error:
            raise BuildError(kernel.name, self._name, str(error)) from error
        if program is None:
            raise BuildError(kernel.name, self._name, "the program is without this kernel")
        return program

    def _program(self, kernel: Kernel, source: str) -> Any:
        while True:
            mine: Future[Any] = Future()
            try:
                entry = self._programs.set_default(source, mine)
                if entry is mine:
                    mine.set_result(self._build(kernel, source))
            except BaseException as error:
                # Wherever an interrupt comes, nobody may wait for this build any longer.
                self._programs.drop(source, mine)
                if not mine.done():
                    if isinstance(error, Exception):
                        mine.set_exception(error)
                    else:
                        mine.set_result(None)
                raise
            program = entry.result()  # maybe another thread's
            if program is not None:
                return program  # None where that thread was interrupted

    def kernel(self, kernel: Kernel, source: str) -> Any:
        """This thread's kernel object: arguments are part of its state. Raises BuildError, which is
        remembered, and OutOfMemoryError."""
        kernels: Bounded[str, Any] | None = getattr(self._threads, "kernels", None)
        if kernels is None:
            kernels = self._threads.kernels = Bounded(self._size)
        made = kernels.get(source)
        if made is not None:
            return made
        refused = self._refused.get(source)
        if refused is not None:
            raise BuildError(refused.kernel, refused.device, refused.log)
        try:
            program = self._program(kernel, source)
            try:
                made = cl.Kernel(program, kernel.name)
            except cl.LogicError as error:
                raise BuildError(kernel.name, self._name, str(error)) from error
            self._check_local_size(made, kernel)
        except BuildError as error:
            self._refused.set_default(source, error)
            raise
        made.set_scalar_arg_dtypes(_argument_dtypes(kernel))
        return kernels.set_default(source, made)

    def own_kernel(self, kernel: Kernel, source: str) -> Any:
        """A kernel object of the caller's own, whose arguments stay as they are set, of a kernel
        that was built. Raises BuildError, OutOfMemoryError."""
        made = cl.Kernel(self._program(kernel, source), kernel.name)
        made.set_scalar_arg_dtypes(_argument_dtypes(kernel))
        return made

    def finish(self, kernel: Kernel, source: str, queue: Any) -> None:
        """Builds a kernel that may be launched later, down to machine code: drivers that make that
        at the first launch are given one that finds nothing to do. Nothing is raised where that
        fails, since the kernel may never be needed; who needs it is told."""
        try:
            made = self.kernel(kernel, source)
            if self.finishes_at_launch and not self._finished.get(source):
                made.set_args(*no_arguments(kernel))
                cl.enqueue_nd_range_kernel(queue, made, kernel.local_size, kernel.local_size)
                self._finished.set_default(source, True)
        except (BuildError, OutOfMemoryError, cl.Error) as error:
            _log.info("%s, which is not needed yet, is not made ready: %s", kernel.name, error)

    def _check_local_size(self, made: Any, kernel: Kernel) -> None:
        """BuildError where the device cannot run a kernel's work-groups."""
        ask = cl.kernel_work_group_info
        items = math.prod(kernel.local_size)
        most = made.get_work_group_info(ask.WORK_GROUP_SIZE, self._device)
        if most >= items:
            return
        # Mesa's rusticl says 32 of every kernel, but runs what was required when it was compiled.
        required = made.get_work_group_info(ask.COMPILE_WORK_GROUP_SIZE, self._device)
        if self._trusts_required and tuple(required) == kernel.local_size:
            return
        log = f"work-groups of {items} work-items, the device takes {most} of this kernel"
        raise BuildError(kernel.name, self._name, log)


def _argument_dtypes(kernel: Kernel) -> list[Any]:
    """For pyopencl's fast path: None for buffers, dtypes for numbers."""
    dtypes: list[Any] = []
    for operand in kernel.operands:
        dtypes += [None] + [np.dtype(np.int64)] * len(operand.layout.numbers)
    sums = sum_dtype(kernel)
    return dtypes + [_SCALARS.get(s.type, sums) for s in kernel.scalars]


def no_arguments(kernel: Kernel) -> list[Any]:
    """Pointers to nothing, and zeros."""
    return [None if dtype is None else dtype.type(0) for dtype in _argument_dtypes(kernel)]
