"""How are many programs built at once? On CPUs by processes, whose drivers build one at a time.

PoCL and Intel's runtime hold a lock while they compile: threads of one process take turns. What a
worker compiles comes to its parent by the disk, from the driver's cache or from clconv's.

PoCL makes machine code at a kernel's first launch. A worker launches each with all numbers zero and
no memory behind its pointers: kernels for CPUs then find nothing to do, which a test holds, and one
that did not would end the worker alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

import pyopencl as cl

from clconv import settings
from clconv.drivers import finished
from clconv.drivers.building import prepare_invoker
from clconv.drivers.discovery import find
from clconv.drivers.programs import Programs, identity_of, no_arguments
from clconv.errors import BuildError
from clconv.variants.base import Kernel, Layout, Operand, Scalar

__all__ = ["Job", "Tell", "build_all", "is_wide"]

_log = logging.getLogger(__name__)

# A worker's compiler takes about 0.2 GB.
MOST_WORKERS = 32
# Seconds that a worker has to end when there is no more to do.
PATIENCE = 10
# Programs that a worker keeps: it needs none twice.
WORKER_KEEPS = 4
# From this many work-items in a dimension PoCL makes other machine code.
WIDE = 0xFFFF
DONE = b"done\n"

# Not `python -m`, which looks in the current folder first: another clconv may lie there.
START = """import sys
sys.path[:] = {path!r}
from clconv.drivers.workers import serve
sys.exit(serve({identity!r}))"""

# Is told how many kernels are ready, and of how many.
Tell = Callable[[int, int], object]


class Job(NamedTuple):
    """A kernel to be built, its OpenCL C, and whether it is launched on wide grids."""

    kernel: Kernel
    source: str
    wide: bool = False

    def to_line(self) -> bytes:
        """A line of JSON with all that building and a first launch depend on."""
        kernel = self.kernel
        told = {
            "name": kernel.name,
            "dtype": dict(kernel.constants)["dtype"],
            "operands": [
                [one.name, one.layout.value, one.written, one.element] for one in kernel.operands
            ],
            "scalars": [[one.name, one.type] for one in kernel.scalars],
            "local_size": kernel.local_size,
            "source": self.source,
            "wide": self.wide,
        }
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Job:
        """The same again; what else is compiled in is in the source."""
        told = json.loads(line)
        first, second, third = told["local_size"]
        kernel = Kernel(
            told["name"],
            (("dtype", told["dtype"]),),
            tuple(
                Operand(name, Layout(layout), written, element)
                for name, layout, written, element in told["operands"]
            ),
            tuple(Scalar(name, kind) for name, kind in told["scalars"]),
            (first, second, third),
        )
        return cls(kernel, told["source"], told["wide"])


def is_wide(global_size: Sequence[int]) -> bool:
    """Whether a grid needs other machine code than small ones."""
    return max(global_size) >= WIDE


def build_all(
    programs: Programs, jobs: Sequence[Job], apart: bool, tell: Tell | None = None
) -> None:
    """Builds on all cores what is not at hand, with `apart` in processes of their own, and off the
    caller's thread in any case.

    What the device refuses is remembered. Whoever is interrupted here waits for what is being
    built. Raises OutOfMemoryError.
    """
    missing = {job for job in jobs if not is_kept(programs, job)}
    apart = apart and bool(missing) and _can_start()
    count = max(1, min(_cores(), MOST_WORKERS, len(missing)))
    idle: SimpleQueue[Worker | None] = SimpleQueue()

    def build(job: Job) -> None:
        if job in missing:
            worker = idle.get()
            try:
                if worker is not None:
                    worker.build(job)
            finally:
                idle.put(worker)
        with suppress(BuildError):  # which who plans with this kernel meets again
            programs.kernel(job.kernel, job.source)

    with ExitStack() as stack:
        for _ in range(count):
            identity = programs.identity
            idle.put(stack.enter_context(Worker(identity)) if apart else None)
        threads = stack.enter_context(ThreadPoolExecutor(count, "clconv-build"))
        futures = [threads.submit(build, job) for job in jobs]
        try:
            for ready, future in enumerate(as_completed(futures), 1):
                future.result()
                if tell is not None:
                    tell(ready, len(jobs))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def is_kept(programs: Programs, job: Job) -> bool:
    """Whether a program is in this process, or on disk with all that its launches need."""
    if programs.finishes_at_launch:
        return finished.is_finished(_key(programs, job))
    return programs.has(job.source)


def _key(programs: Programs, job: Job) -> str:
    """Of the note that a job is finished."""
    return programs.key(job.source, "wide" if job.wide else "small")


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _can_start() -> bool:
    """Whether Python can be started again: a frozen program has itself in Python's place."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Worker:
    """A process that builds, started for its first job, and ended with the block.

    It gives nothing back: its parent builds afterwards, from what is on disk by then, or anew.
    """

    def __init__(self, identity: tuple[str, ...]) -> None:
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None
        self._answered = True

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        start = START.format(path=sys.path, identity=self._identity)
        # PoCL's threads stay on a core each: those of several processes on the same.
        environment = settings.environment() | {"POCL_AFFINITY": "0"}
        self._answered = False
        return subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # interrupts from the keyboard are for the parent
        )

    def build(self, job: Job) -> None:
        """Has a program built; a message where the process ends meanwhile."""
        if self._process is None:
            if not self._answered:
                return  # the last one built nothing
            try:
                self._process = self._start()
            except OSError as error:
                _log.warning("no process to build kernels in can be started: %s", error)
                return
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        answer = b""
        with suppress(BrokenPipeError):  # it has ended, and gives no answer
            stdin.write(job.to_line())
            stdin.flush()
            answer = stdout.readline()
        if answer == DONE:
            self._answered = True
            return
        code = self._end()
        _log.warning("a process ended with %s while it built %s", code, job.kernel.name)

    def _end(self) -> int | None:
        """Ends the process when it has built what it builds; its return code."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                return process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()
        finally:
            process.stdout.close()


# In the process


def serve(identity: tuple[str, ...]) -> int | str:
    """Builds what comes, for the device of this identity, until nothing more does."""
    # Drivers may print; what is printed does not belong between answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    device = next((one.device for one in find() if identity_of(one.device) == identity), None)
    if device is None:
        return f"no device {', '.join(identity)}"
    prepare_invoker()
    context = cl.Context([device])
    queue = cl.CommandQueue(context, device)
    programs = Programs(context, device, WORKER_KEEPS)
    for line in sys.stdin.buffer:
        job = Job.of_line(line)
        with suppress(BuildError):  # which the parent meets itself
            kernel = programs.kernel(job.kernel, job.source)
            if programs.finishes_at_launch:
                _finish(programs, queue, job, kernel)
        answers.write(DONE)
        answers.flush()
    return 0


def _finish(programs: Programs, queue: Any, job: Job, kernel: Any) -> None:
    """Launches a kernel that finds nothing to do, and notes what that loaded."""
    name = f"{job.kernel.name}.so"
    before = finished.loaded(name)
    local = job.kernel.local_size
    grids = [local]
    if job.wide:
        grids.append((-(-WIDE // local[0]) * local[0], *local[1:]))
    kernel.set_args(*no_arguments(job.kernel))
    for grid in grids:
        cl.enqueue_nd_range_kernel(queue, kernel, grid, local).wait()
    paths = finished.loaded(name) - before
    if len(paths) == len(grids):
        finished.note(_key(programs, job), paths)
