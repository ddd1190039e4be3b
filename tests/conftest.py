"""Every OpenCL device found, each as a runtime whose buffers have guard zones.

`CLCONV_TEST_DEVICES`, parts of names or platforms separated by commas, chooses among them. Where
no device is found the tests fail; they are never skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl as cl
import pytest

from clconv import Runtime, tuning
from clconv.opencl import find, profile_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
sys.path.insert(0, str(Path(__file__).parent))

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores here, where threads that stay on one hinder each other.
    os.environ.setdefault("POCL_AFFINITY", "0")

GUARD_BYTES = 4096
# In and around new buffers: NaN as a float of any width, so that reading it shows in results.
GUARD = np.uint8(0xFF)


class GuardedRuntime(Runtime):
    """A runtime that sees what is written beside its buffers, and whose memory is NaN until it is
    written."""

    def __init__(self, device: object) -> None:
        super().__init__(device)
        self._guarded: list[tuple[cl.Buffer, int]] = []

    def _allocate(self, nbytes: int) -> cl.Buffer:
        nbytes = max(nbytes, 1)
        whole = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, nbytes + 2 * GUARD_BYTES)
        cl.enqueue_fill_buffer(self.queue, whole, GUARD, 0, nbytes + 2 * GUARD_BYTES)
        part = whole.get_sub_region(GUARD_BYTES, nbytes)
        self._guarded.append((whole, nbytes))
        return part

    def check_guards(self) -> None:
        """Fails where anything was written outside a buffer since the last check."""
        self.finish()
        for whole, nbytes in self._guarded:
            content = np.empty(nbytes + 2 * GUARD_BYTES, np.uint8)
            cl.enqueue_copy(self.queue, content, whole)
            assert (content[:GUARD_BYTES] == GUARD).all(), "written before a buffer"
            assert (content[GUARD_BYTES + nbytes :] == GUARD).all(), "written behind a buffer"
        self._guarded.clear()


def _chosen() -> list:
    wanted = [w.strip().lower() for w in os.environ.get("CLCONV_TEST_DEVICES", "").split(",")]
    found = [one for one in find() if one.info.why_not is None]
    chosen = [
        one
        for one in found
        if any(
            w in f"{one.info.name} {one.info.platform} {one.info.driver}".lower() for w in wanted
        )
    ]
    if not chosen:
        names = ", ".join(one.info.name for one in found) or "none"
        raise pytest.UsageError(
            f"no OpenCL device to test on (found: {names}); `make test` installs PoCL"
        )
    return chosen


_devices = _chosen()
_runtimes: dict[tuple[int, str], GuardedRuntime] = {}


def _label(one: object) -> str:
    return f"{one.info.platform.split()[0]}-{one.info.driver}-{one.info.id.replace(':', '.')}"


def _guarded(index: int, label: str, **profile: Any) -> Iterator[GuardedRuntime]:
    """A device's runtime, one for each label; in its profile stands what is given here."""
    key = index, label
    if key not in _runtimes:
        made = _runtimes[key] = GuardedRuntime(_devices[index].device)
        made.profile = replace(made.profile, **profile)
    guarded = _runtimes[key]
    with guarded:
        yield guarded
    guarded.check_guards()


def _as_gpu(index: int) -> Iterator[GuardedRuntime]:
    yield from _guarded(
        index,
        "gpu",
        kind="gpu",
        lanes=32,
        vector_floats=1,
        half_builtins=True,
        instruction_sets="",
        name="as a GPU",
    )


@pytest.fixture(scope="session", autouse=True)
def _own_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write the user's files, and search shortly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLCONV_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tuning, "SECONDS", 0.3)
        yield


on_every_device = pytest.fixture(params=range(len(_devices)), ids=[_label(one) for one in _devices])


@on_every_device
def runtime(request: pytest.FixtureRequest) -> Iterator[GuardedRuntime]:
    """A guarded runtime on each device, the default one of the test."""
    yield from _guarded(request.param, "own")


@on_every_device
def gpu_runtime(request: pytest.FixtureRequest) -> Iterator[GuardedRuntime]:
    """The same, planned as for a GPU: work-items are the lanes, and interleave."""
    yield from _as_gpu(request.param)


@on_every_device
def plain_runtime(request: pytest.FixtureRequest) -> Iterator[GuardedRuntime]:
    """A guarded runtime whose kernels ask for no wider vectors than the compiler takes by itself,
    as on a processor that has none."""
    own = profile_of(_devices[request.param].device)
    if not own.instruction_sets:
        pytest.skip(f"{own.name} has nothing to ask for")
    yield from _guarded(request.param, "plain", instruction_sets="")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240229)
