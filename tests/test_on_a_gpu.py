"""The tool for ten minutes on a GPU: its steps in small, and processes that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import fuzz
import on_a_gpu
import pytest
from conftest import _as_gpu, _devices

from clconv import Pass, Runtime, tuning
from clconv.commands import steps
from clconv.planning.planner import plans

SCRIPT = Path(on_a_gpu.__file__).parents[1] / "on_a_gpu.sh"
LAYERS = """LAYERS = [
    ("dense", 1, 20, 90, 24, 3, 2, 1, 1, 1),
    ("depthwise", 2, 8, 70, 8, 5, 1, 2, 1, 8),
]
"""
# An item's place is what happens; those not named here are done.
CHILD = """
import json, os, signal, sys, time
path, first, by, count = sys.argv[1], *map(int, sys.argv[2:])
for place in range(first, count, by):
    def write(**line):
        with open(path, "a") as file:
            file.write(json.dumps({"item": place, **line}) + chr(10))
    write(found=place)
    if place == 1:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if place == 3:
        write(wrong="a fault")
        write(seconds=0)
        sys.exit(3)
    if place == 4:
        sys.exit("no such thing")
    if place == 6:
        time.sleep(600)
    write(seconds=0)
"""


@pytest.fixture
def watch(tmp_path):
    """Makes what watches over CHILD's processes, and gives the lines."""

    def run(count, workers=1, seconds=120.0, hang=5.0, code=CHILD):
        path = tmp_path / "step.jsonl"

        def command(first, by):
            return [sys.executable, "-c", code, str(path), str(first), str(by), str(count)]

        watch = steps.Watch(command, path, tmp_path / "step", time.time() + seconds, hang, {})
        steps.supervise(watch, count, workers)
        return steps.read(path)

    return run


@pytest.mark.parametrize("workers", [1, 3])
def test_the_next_item_goes_on(watch, workers):
    """Whether an item's process dies, ends, finds a fault or hangs."""
    lines = watch(8, workers)
    assert sorted(line["item"] for line in lines if "found" in line) == list(range(8))
    done = {line["item"] for line in lines if "seconds" in line}
    assert done == {0, 2, 3, 5, 7}
    errors = {line["item"]: line for line in lines if "error" in line}
    assert set(errors) == {1, 4, 6}
    assert "signal 11 (SIGSEGV)" in errors[1]["error"]
    assert "about to die" in errors[1]["log"]
    assert "status 1" in errors[4]["error"]
    assert "no such thing" in errors[4]["log"]
    assert "it hung" in errors[6]["error"]
    assert [line["wrong"] for line in lines if "wrong" in line] == ["a fault"]


def test_the_time_is_over(watch):
    """An item is cut off, what it found is kept, and those behind it are left."""
    code = CHILD.replace("place == 6", "place == 0")
    lines = watch(3, seconds=6.0, hang=60.0, code=code)
    assert [line for line in lines if "found" in line] == [{"item": 0, "found": 0}]
    assert "time was over" in lines[-1]["cut_off"]
    assert len(lines) == 2


@pytest.mark.parametrize(("status", "why"), [(7, "status 7"), (0, "nothing done")])
def test_a_step_that_comes_to_nothing_is_given_up(watch, status, why):
    lines = watch(20, code=f"import sys; sys.exit({status})")
    assert [line["item"] for line in lines] == list(range(steps.HOPELESS))
    assert all(why in line["error"] for line in lines)


def test_half_a_line_is_none(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert steps.read(path) == []
    steps.append(path, {"item": 0})
    with path.open("a") as file:
        file.write('{"item": 1')
    assert steps.read(path) == [{"item": 0}]


def test_drivers_that_nothing_names(tmp_path, monkeypatch, absent):
    """As in a container of NVIDIA's: the library is there, and no .icd file."""
    absent("OCL_ICD_VENDORS")
    libraries, vendors, out = (tmp_path / name for name in ("lib", "vendors.d", "out"))
    for folder in (libraries, vendors, out):
        folder.mkdir()
    library = libraries / "libnvidia-opencl.so.550.54"
    assert on_a_gpu.installed_drivers([str(libraries)]) == {}
    library.touch()
    (vendors / "pocl.icd").write_text("libpocl.so.2\n")
    installed = on_a_gpu.installed_drivers([str(tmp_path / "none"), str(libraries)])
    assert installed == {"nvidia.icd": str(library)}
    named = on_a_gpu.named_drivers(vendors)
    more = on_a_gpu.name_drivers(out, named, installed)
    written = {p.name: p.read_text().strip() for p in Path(more["OCL_ICD_VENDORS"]).iterdir()}
    assert written == {"nvidia.icd": str(library), "pocl.icd": "libpocl.so.2"}
    named["own.icd"] = "libnvidia-opencl.so.1"
    assert on_a_gpu.name_drivers(out, named, installed) == {}
    monkeypatch.setenv("OCL_ICD_VENDORS", str(vendors))
    assert on_a_gpu.name_drivers(out, {}, installed) == {}


# The steps


@pytest.fixture
def small(tmp_path):
    """Options for two small layers."""
    layers = tmp_path / "small.py"
    layers.write_text(LAYERS)
    words = [str(tmp_path / "out"), "--layers", str(layers), "--geometries", "1"]
    return on_a_gpu._parser().parse_args(words)


@pytest.fixture
def gpu_work(small):
    """A step's work on the first of the devices, planned as for a GPU."""
    work = on_a_gpu.Work(small, time.time() + 600)
    device = _devices[0].device
    runtime, checking = work.runtime, work.checking = Runtime(device), fuzz.CountingRuntime(device)
    for one in _as_gpu(0):
        profile = replace(one.profile, flops=1e12, bandwidth=1e11)
        runtime.profile = checking.profile = profile
    variants = ["gemm", "window", "direct"]
    work.found = {"info": asdict(runtime.info), "profile": asdict(profile), "variants": variants}
    with runtime:
        yield work


def test_the_device_is_told(gpu_work):
    (line,) = on_a_gpu.devices(gpu_work, "device")
    assert line["info"]["name"] == gpu_work.runtime.info.name
    assert sorted(line["variants"]) == ["direct", "gemm", "spectral", "window", "winograd"]
    json.dumps(line)


def test_a_broken_device_is_a_fault_where_it_is_the_chosen_one(gpu_work, monkeypatch):
    """Others are in the list, with what is wrong with them."""
    chosen = {"id": gpu_work.runtime.info.id, "name": "mine", "why_not": None, "check": "ok"}
    other = {"id": "9:9", "name": "other", "why_not": None, "check": "it cannot build"}
    for broken in ({}, {"check": "the result is wrong"}):
        listed = json.dumps([chosen | broken, other])
        done = subprocess.CompletedProcess([], 1, stdout=listed)
        monkeypatch.setattr(on_a_gpu.subprocess, "run", lambda *_, done=done, **__: done)
        first, *faults = on_a_gpu.devices(gpu_work, "check")
        assert first == {"devices": json.loads(listed)}
        assert [list(fault) for fault in faults] == [["wrong"]] * len(broken)


def test_right_items_are_all_there(gpu_work):
    """Each problem by each variant and each launch of products; as many random ones as asked."""
    items = on_a_gpu.right_items(gpu_work)
    kinds = {"gemm, tiles", "gemm, few columns", "window", "direct"}
    assert {item for item in items if item[0] == "named"} == {
        ("named", name, kind) for name in on_a_gpu.PROBLEMS for kind in kinds
    }
    assert [item for item in items if item[0] == "random"] == [
        ("random", 0, variant) for variant in ("gemm", "window", "direct")
    ]


@pytest.mark.parametrize("kind", ["gemm, tiles", "gemm, few columns", "window", "direct"])
def test_right(gpu_work, kind, monkeypatch):
    """A named problem by the kernels that were asked for; forward and gradients, twice."""
    kernels = set()
    queue = gpu_work.checking.enqueue

    def enqueue(commands, *rest):
        kernels.update(launch.kernel.name for _, launch, _ in commands)
        queue(commands, *rest)

    monkeypatch.setattr(gpu_work.checking, "enqueue", enqueue)
    (line,) = on_a_gpu.right(gpu_work, "named", "depth multiplier", kind)
    assert line.pop("results") >= 8
    assert line == {"kind": kind, "problems": "named", "served": True, "right": True}
    own = {"gemm, tiles": ["gemm"], "gemm, few columns": ["gemv"], "window": ["window"]}
    found = [name for name in kernels if name.startswith("convolution_")]
    assert found == [f"convolution_{name}" for name in own.get(kind, [])]


def test_right_of_what_a_variant_cannot_serve(gpu_work):
    (line,) = on_a_gpu.right(gpu_work, "named", "pointwise", "window")
    assert (line["results"], line["served"], line["right"]) == (2, False, True)


def test_wrong(gpu_work, monkeypatch):
    """A wrong result is told with what it takes to see it again."""
    values = fuzz.host
    monkeypatch.setattr(fuzz, "host", lambda array: values(array) + 1)
    (line,) = on_a_gpu.right(gpu_work, "random", 0, "direct")
    assert not line["right"]
    assert "values are wrong" in line["wrong"]
    again = line["wrong"].partition("again: tools/fuzz.py ")[2].split()
    assert fuzz.main([*again, "--device", gpu_work.runtime.info.id]) == 1


def test_layers(gpu_work):
    """What the planner takes, predicted and measured; PyTorch beside it."""
    items = on_a_gpu.layers_items(gpu_work)
    assert len(items) == 6
    assert len(set(items)) == 6
    for item in (("dense", "forward"), ("depthwise", "weight_gradient")):
        (line,) = on_a_gpu.layers(gpu_work, *item)
        problem = gpu_work.layers[item[0]].problem
        made = plans(problem, Pass(item[1]), gpu_work.runtime.profile)[0]
        assert (line["variant"], line["tile"]) == (made.variant, dict(made.tile))
        assert line["predicted_us"] > 0.99 * 1e6 * line["bytes"] / 1e11
        assert 0 < line["min_us"] <= line["median_us"]
        json.dumps(line)
    gpu_work.found["info"]["kind"] = "CPU"
    for item in items:
        (line,) = on_a_gpu.peer(gpu_work, *item)
        assert (line["layer"], line["pass"]) == item
        assert line["median_us"] > 0


def test_a_gpu_without_a_torch_for_it(gpu_work):
    """Is said once, and is no fault."""
    gpu_work.torch = None, "ModuleNotFoundError: No module named 'torch'"
    first, *others = on_a_gpu.layers_items(gpu_work)
    assert list(on_a_gpu.peer(gpu_work, *first)) == [{"absent": gpu_work.torch[1]}]
    assert not any(list(on_a_gpu.peer(gpu_work, *item)) for item in others)


def test_candidates(gpu_work, monkeypatch):
    """Every candidate of a pass once, the best by the model first; a wrong one is told."""
    monkeypatch.setattr(on_a_gpu, "FIRST_CANDIDATES", 2)
    task = tuning.Task(gpu_work.layers["depthwise"].problem, Pass.INPUT_GRADIENT)
    every = [made.choice for made in plans(*task, gpu_work.runtime.profile)]
    parts = [list(on_a_gpu.candidates(gpu_work, "depthwise", "input_gradient", part))
             for part in (0, 1)]  # fmt: skip
    names = [[tuning.Choice(one["variant"], one["tile"]) for one in part] for part in parts]
    assert names[0][:2] == every[:2]
    assert {name.variant for name in names[0]} == {choice.variant for choice in every}
    assert len(names[0]) + len(names[1]) == len(every)
    assert all(choice in names[0] + names[1] for choice in every)
    costs = [one["model_us"] for one in parts[0]]
    assert costs == sorted(costs)
    assert all(one["median_us"] > 0 and "wrong" not in one for part in parts for one in part)
    result, seen = tuning.Bench.result, []

    def other(bench, job):
        seen.append(result(bench, job))
        return seen[-1] + (len(seen) == 2)

    monkeypatch.setattr(tuning.Bench, "result", other)
    lines = list(on_a_gpu.candidates(gpu_work, "depthwise", "input_gradient", 0))
    assert ["wrong" in line for line in lines][:2] == [False, True]


def test_calls(gpu_work, monkeypatch):
    """What each kind of call costs, in numbers."""
    monkeypatch.setattr(on_a_gpu, "SMALL_CALLS", 10)
    monkeypatch.setattr(on_a_gpu, "SMALL_ROUNDS", 1)
    monkeypatch.setattr(on_a_gpu, "NEW_LENGTHS", 2)
    gpu_work.options.device = gpu_work.runtime.info.id
    assert len(on_a_gpu.calls_items(gpu_work)) == 8
    lines = [*on_a_gpu.calls(gpu_work, "new lengths", "")]
    lines += on_a_gpu.calls(gpu_work, "small", "running")
    lines += on_a_gpu.calls(gpu_work, "cold", "stream_small")
    assert [line["pass"] for line in lines[:2]] == ["forward", "backward"]
    assert all(line["new_us"] > 0 and line["known_us"] > 0 for line in lines[:2])
    assert all(line["us"] > 0 and line["waited_us"] > 0 for line in lines[2:-1])
    assert len(lines) == 8
    assert all(0 < back <= done for back, done in (lines[-1]["cold_s"], lines[-1]["warm_s"]))


# The whole


def test_a_report(small):
    """Steps in processes of their own; a page and a file that say all of it."""
    info = _devices[0].info
    words = [str(small.out), "--layers", small.layers, "--seconds", "250", "--device"]
    words += [info.id, "--only", "layers,peer"]
    assert on_a_gpu.main(words) == 0
    report = json.loads((small.out / "report.json").read_text())
    steps = {step["name"]: step for step in report["steps"]}
    assert list(steps) == ["devices", "layers", "peer"]
    assert [step["done"] for step in steps.values()] == [3, 6, 6]
    page = (small.out / "report.md").read_text()
    assert page.startswith(f"# clconv on {info.name}\n")
    for title in ("Devices", "Layers", "PyTorch"):
        assert f"\n## {title}\n" in page
    assert "\n## What failed\n\nNothing.\n" in page
    assert info.driver in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| dense | ")]
    assert len(rows) == 3
    assert all(float(row[-2]) > 0 for row in rows)  # PyTorch's
    assert not Path(small.out, "right.jsonl").exists()


TILE = {"variant": "gemm", "tile": {"depth": 8}}
CANDIDATE = {"layer": "a", "pass": "forward", **TILE}
LINES = {
    "devices": [
        {"info": {"name": "Card", "kind": "discrete GPU", "compute_units": 9, "global_bytes": 2**30,
                  "platform": "P", "version": "OpenCL 3.0", "driver": "1.2"},
         "profile": {"flops": 1e12, "bandwidth": 1e11}, "variants": ["gemm", "direct"]},
        {"roofline": {"peak_gflops": 500.0, "copy_gbs": 50.0}},
    ],
    "right": [
        {"kind": "direct", "problems": "named", "results": 8, "served": True, "right": True},
        {"kind": "direct", "problems": "named", "results": 3, "served": True, "right": False,
         "wrong": "1 of 9 | values", "what": "named, pointwise, direct"},
        {"error": "its process was ended by signal 11", "log": "one\ntwo", "what": "random, 7"},
    ],
    "layers": [{**CANDIDATE, "predicted_us": 50.0, "median_us": 100.0, "flops": 1e7, "bytes": 1e6}],
    "peer": [{"layer": "a", "pass": "forward", "torch": "9 on Card, cuDNN 1", "median_us": 250.0}],
    "candidates": [
        {**CANDIDATE, "model_us": 2.0, "median_us": 60.0, "min_us": 5.0},
        {**CANDIDATE, "model_us": 3.0, "median_us": 40.0, "min_us": 3.0, "tile": {"depth": 16}},
        {**CANDIDATE, "model_us": 4.0, "refused": "too large"},
        {"cut_off": "ended", "what": "a, forward, 1"},
    ],
    "calls": [
        {"layer": "a", "cold_s": [0.5, 0.75], "warm_s": [0.25, 0.125]},
        {"pass": "forward", "new_us": 900.0, "known_us": 30.0},
        {"call": "conv1d(x)", "kind": "held", "us": 20.0, "bare_us": 4.0},
    ],
    "tuned": [{**CANDIDATE, "before_us": 80.0, "after_us": 40.0, "gain": 2.0, "tried": 5,
               "left_out": 1, "rank_correlation": None, "seconds": 1.5, "refused": []}],
}  # fmt: skip


def test_the_page():
    """Each chapter's rows follow from the lines, and so do counts and faults."""
    machine = {"date": "today", "system": "Linux", "cpus": 2, "python": "3", "packages": {},
               "nvidia-smi": "Card\nCard", "/etc/OpenCL/vendors": {}, "driver libraries": {},
               "OCL_ICD_VENDORS": None}  # fmt: skip
    steps = [
        {"name": name, "title": on_a_gpu.STEPS[name].title, "lines": lines, "items": 9, "done": 1,
         "seconds": 1.0, "limit_s": 2.0} for name, lines in LINES.items()
    ]  # fmt: skip
    page = on_a_gpu.markdown({"machine": machine, "seconds": 9.0, "took_s": 7.0, "steps": steps})
    for row in (
        "| Right results | 1 of 9 | 1 | 2 | 1 | 1 | 0 |",
        "| Candidates | 1 of 9 | 1 | 2 | 0 | 0 | 1 |",
        "Cut off in the middle: Candidates, a, forward, 1.",
        "- Right results, named, pointwise, direct: 1 of 9 | values",
        "- Right results, random, 7: its process was ended by signal 11\n\n      one\n      two",
        "| direct | named | 2 | 2 | 1 | 11 |",
        "| a | forward | gemm depth=8 | 50 | 100 | 2 | 100 | 10% | 20% | 250 | 2.5 |",
        "| forward | 2.00 (1) | 0.10 (1) | 0.20 (1) | 2.50 (1) |",
        "PyTorch 9 on Card, cuDNN 1; float32 without TF32",
        "| a | forward | 2 | 1 | 3 | 40 | 1.5 | gemm depth=16 |",
        "| a | 0.5 | 0.75 | 0.25 | 0.125 |",
        "| forward | 900 | 30 |",
        "| conv1d(x) | held | 20 | 4 | - |",
        "| a | forward | 80 | 40 | 2 | 5 | 1 | - | 1.5 | 0 | gemm depth=8 |",
    ):
        assert row in page, row


def test_no_device(tmp_path):
    """By the script, on the source tree: what was looked at is in the report, and nothing else is
    run."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [SCRIPT, "out", "--seconds", "120", "--device", "no such card"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["steps"][0]["items"] == 3
    assert all(step["items"] == 0 for step in report["steps"][1:])
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.startswith("# clconv on no device\n")
    assert "No device could be used" in page
    assert "device is 'no such card', which matches none of" in page
    assert "/etc/OpenCL/vendors" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --wheels DIR to fill, or OUT"),
        (("--wheels",), "--wheels needs a value"),
        (("--wheels", "here", "--python", "3"), "--python is '3', expected one like 3.12"),
        (("out", "--seconds", "-5"), "--seconds is '-5', expected whole seconds"),
        (("--wheels", "here", "out"), "Python that is here; fill it with --python 3."),
    ],
)
def test_what_the_script_refuses(words, message, tmp_path):
    done = subprocess.run([SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout


def test_the_script_says_how(tmp_path):
    done = subprocess.run([SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--wheels DIR" in done.stdout
    assert "set -euo" not in done.stdout
