"""Every OpenCL device found, each as a runtime whose buffers have guard zones.

`CLCONV_TEST_DEVICES`, parts of names or platforms separated by commas, chooses among them. Where
no device is found the tests fail. Those of what only CPUs have are skipped where there is none.

All cases build thousands of kernels, a second each on a driver that compiles slowly. So of several
CPU drivers each has some of a test's cases, in turns, unless it is marked `every_device`: the one
that users get has every turn but each fifth, and of a driver's versions the first takes turns. Of
cases marked `one_of(n)` every nth runs. And Intel's runtime builds kernels of several work-items,
which are those for GPUs for the greater part, without joining these to vectors, in half the time.
With `--all-cases` all run on all devices, built as users have them.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "gpu"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "check"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
sys.path.insert(0, str(Path(__file__).parent))
import toy
from guarded import GuardedRuntime

from clconv import render, tuning
from clconv.drivers.discovery import find, profile_of, refusal
from clconv.drivers.probe import finding
from clconv.planning import planner

_asked_for = [*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split()]
if "--all-cases" not in _asked_for and "PYTEST_XDIST_WORKER" not in os.environ:
    # Before a driver is loaded; workers have it from here.
    os.environ.setdefault("CL_CONFIG_CPU_VECTORIZER_MODE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores here, where threads that stay on one hinder each other.
    os.environ.setdefault("POCL_AFFINITY", "0")


def _chosen() -> list:
    wanted = [w.strip().lower() for w in os.environ.get("CLCONV_TEST_DEVICES", "").split(",")]
    chosen = [
        one
        for one in working()
        if any(
            w in f"{one.info.name} {one.info.platform} {one.info.driver}".lower() for w in wanted
        )
    ]
    if not chosen:
        raise pytest.UsageError(
            "no OpenCL device to test on; `make test` installs a driver\n" + _told()
        )
    return chosen


def working() -> list:
    """The devices that build a small kernel, best first."""
    return [one for one in find() if _why_not(one) is None]


def _why_not(one: object) -> str | None:
    """Why a device is left out: what its driver says, or what a small kernel shows."""
    return refusal(one.device) or finding(one.device).why_not


def _told() -> str:
    """What devices there are, and which are left out."""
    return "\n".join(
        f"OpenCL device {one.info.name} ({one.info.platform}, {one.info.driver}): "
        f"{_why_not(one) or 'works'}"
        for one in find()
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-cases", action="store_true", help="each case, on each device")


def pytest_report_header(config: pytest.Config) -> str:
    """Says which devices are tested, and why others are not."""
    return _told() + ("" if config.getoption("all_cases") else "\nsome cases (--all-cases: all)")


def _whose_turn(turn: int) -> int | None:
    """The CPU driver that has a case: four of five times the one that users get."""
    first, *others = _cpus or [None]
    return others[turn // 5 % len(others)] if others and turn % 5 == 4 else first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cases that are not of the nth, or another driver's turn, are deselected, unless they are
    asked for by name."""
    if config.getoption("all_cases"):
        return
    asked = {arg.partition("::")[2] for arg in config.args if arg.endswith("]")}
    kept, others = [], []
    seen: dict[str, dict[str, int]] = {}
    for item in items:
        given = getattr(item, "callspec", None)
        params = {} if given is None else given.params
        test, _, case = item.nodeid.partition("[")
        for one in _devices:
            case = case.replace(_label(one), "")
        cases = seen.setdefault(test, {})
        index = cases.setdefault(case, len(cases))
        mark = item.get_closest_marker("one_of")
        nth = 1 if mark is None else mark.args[0]
        # Another place of each n cases, so that no parameter of n values always has the same one.
        block = index // nth
        runs = (index + block) % nth == 0
        # Tests do not all begin with the same driver: one of a single case has its turn, too.
        taking = (
            range(len(_devices))
            if item.get_closest_marker("every_device")
            else [_whose_turn(zlib.crc32(test.encode()) + block + block // 5)]
        )
        # Not a number: the one case of a test for which there is no device, which pytest skips.
        on = [params[name] for name in ON_DEVICES if isinstance(params.get(name), int)]
        there = all(i in taking or _devices[i].info.kind != "CPU" for i in on)
        named = item.nodeid.partition("::")[2] in asked
        (kept if named or (runs and there) else others).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=others)


_devices = _chosen()
_platforms = [one.info.platform if one.info.kind == "CPU" else None for one in _devices]
# CPU drivers, each in one version, the one that users get first.
_cpus = [i for i, one in enumerate(_platforms) if one and _platforms.index(one) == i]
# Those that are planned as CPUs: with vectors.
_with_vectors = [i for i, one in enumerate(_devices) if profile_of(one.device).kind == "cpu"]
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
    """Tests neither read nor write the user's files, plan by the model, and search shortly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLCONV_SHIPPED", "0")
        patch.setenv("CLCONV_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tuning, "SECONDS", 0.3)
        yield


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """A test leaves the process's environment as it was: later ones start processes in it.

    Of an absent variable `monkeypatch.delenv` keeps nothing, so that what a call then sets stays;
    `absent` is for those.
    """
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    names = {name for name, _ in before.items() ^ after.items()} - {"PYTEST_CURRENT_TEST"}
    # PyTorch's compiler has variables of its own.
    names = {name for name in names if "TORCHINDUCTOR" not in name}
    for name in names:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]
    assert not names, f"the test left changed: {sorted(names)}"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes a variable of the environment away for this test, and what it becomes in it after."""

    def take(name: str) -> None:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    return take


# Fixtures whose parameter is a device.
ON_DEVICES = ("runtime", "each_cpu", "gpu_runtime", "plain_runtime")
on_every_device = pytest.fixture(params=range(len(_devices)), ids=[_label(one) for one in _devices])


@on_every_device
def runtime(request: pytest.FixtureRequest) -> Iterator[GuardedRuntime]:
    """A guarded runtime on each device, the default one of the test."""
    yield from _guarded(request.param, "own")


@pytest.fixture
def first_runtime() -> Iterator[GuardedRuntime]:
    """A guarded runtime on the first device, for tests of what no device makes a difference to."""
    yield from _guarded(0, "own")


@pytest.fixture
def cpu_runtime() -> Iterator[GuardedRuntime]:
    """A guarded runtime on the first CPU driver, for tests of how a variant's kernels for CPUs cut
    their work; those of GPUs have tests of their own."""
    if not _with_vectors:
        pytest.skip("no CPU driver")
    yield from _guarded(_with_vectors[0], "own")


@pytest.fixture(params=_with_vectors, ids=[_label(_devices[i]) for i in _with_vectors])
def each_cpu(request: pytest.FixtureRequest) -> Iterator[GuardedRuntime]:
    """The same on each CPU driver, for what GPUs do not have."""
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
def with_toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The variant of tests/toy is one of those that there are."""
    monkeypatch.setattr(planner, "VARIANTS", (*planner.VARIANTS, toy))
    folders = [*render._templates.directories, str(Path(toy.__file__).parent / "templates")]
    monkeypatch.setattr(render._templates, "directories", folders)
    planner.designs.cache_clear()
    yield
    planner.designs.cache_clear()


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240229)
