#!/usr/bin/env python3
"""What does a device say in ten minutes? Runs what is worth knowing, the most worth first.

For a machine with a GPU that can be had for a short time; on_a_gpu.sh installs there, and calls
this. Each step has a share of the time; what it leaves goes to the others. A step is a list of
items. Processes of their own work them off, and write what they find to OUT/STEP.jsonl at once.
Where one dies, hangs or finds a fault, that is written down; the next item goes on in a new one.
After each step OUT/report.json and OUT/report.md say what is known so far.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import call_overhead
import fuzz
import numpy as np
from on_a_gpu_report import markdown
from problems import PROBLEMS

from clconv import Conv1dProblem, Pass, functional, tuning
from clconv.commands import report_parts, tune
from clconv.commands.layers import load
from clconv.commands.report_parts import (
    CACHES,
    MEASURED_SECONDS,
    described,
    layers,
    layers_items,
    modelled_us,
    seconds_for_each,
    timed,
    tuned_items,
)
from clconv.commands.steps import Item, Line, Step, Watch, append, hang_seconds, run_step, work_off
from clconv.errors import BuildError
from clconv.variants.gemm import convolution

TOOLS = Path(__file__).parents[1]

# Of each pass so many candidates first, the others when all passes had their turn.
FIRST_CANDIDATES = 8
# A product has two launches: which is queued follows from the columns, or is said.
FEW = {"gemm, tiles": False, "gemm, few columns": True}
CANDIDATE_SECONDS = 0.03
SMALL_CALLS, SMALL_ROUNDS = 100, 15
NEW_LENGTHS = 15
WORKERS = 8


class Work(report_parts.Work):
    """What the items of a step share in one process."""

    def __init__(self, options: argparse.Namespace, until: float) -> None:
        super().__init__(options.device, options.layers, work_path(options, "devices"), until)
        self.options = options

    @cached_property
    def checking(self) -> fuzz.CountingRuntime:
        """On the device, as fuzz.py checks."""
        return fuzz.CountingRuntime(self.options.device)

    @cached_property
    def torch(self) -> tuple[Any, Any]:
        """torch and its device beside ours; None and why there is none."""
        try:
            import torch
        except ImportError as error:
            return None, f"{type(error).__name__}: {error}"
        if self.found["info"]["kind"] == "CPU":
            return torch, "cpu"
        if torch.cuda.is_available():
            # In float32, as clconv, and by the fastest of cuDNN's algorithms.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True
            return torch, "cuda"
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            return torch, "xpu"
        return None, f"torch {torch.__version__} finds no GPU"


# Devices


def devices_items(_: Work) -> list[Item]:
    return [("device",), ("check",), ("roofline",)]


def devices(work: Work, what: str) -> Iterator[Line]:
    """The chosen one's numbers; what else there is and whether it computes; measured peaks."""
    if what == "check":
        command = [sys.executable, str(TOOLS / "list_devices.py"), "--check", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout or "[]")
        yield {"devices": found}
        chosen = work.found.get("info", {}).get("id")
        for one in found:  # what is wrong with others is in the list
            if one["id"] == chosen and one["check"] != "ok":
                yield {"wrong": f"{one['id']} {one['name']}: {one['check']}"}
    elif what == "device":
        yield report_parts.facts(work.runtime)
    else:
        yield {"roofline": work.roofline.measure(report_parts.ROOFLINE_SECONDS)}


# Right?


def right_items(work: Work) -> list[Item]:
    """Named problems by each variant and, of products, each launch; then random geometries."""
    variants = work.found["variants"]
    named = [k for v in variants for k in (FEW if v == "gemm" else (v,))]
    return [("named", name, kind) for name in PROBLEMS for kind in named] + [
        ("random", index, variant)
        for index in range(work.options.geometries)
        for variant in variants
    ]


def right(work: Work, what: str, which: Any, kind: str) -> Iterator[Line]:
    """Forward, all gradients and the transposed convolution on integers, by one variant."""
    variant = kind.partition(",")[0]
    runtime = work.checking
    if what == "named":
        rng = np.random.default_rng(0)
        geometry, case = named_case(rng, PROBLEMS[which])
        again = ""
    else:
        seed, dtypes = work.options.seed, list(fuzz.DTYPES)
        if not runtime.profile.fp64:
            dtypes.remove("float64")
        rng = np.random.default_rng((seed, which))
        geometry = fuzz.draw_geometry(rng, dtypes)
        case = fuzz.draw_case(rng, geometry, 0)
        again = (f"; again: tools/fuzz.py --seed {seed} --only {which} --variant {variant} "
                 f"--dtypes {','.join(dtypes)} --batches 1")  # fmt: skip
    checker = fuzz.Checker(runtime, geometry, variant)
    about: Line = {"kind": kind, "problems": what}
    try:
        with queued_launch(runtime, FEW.get(kind)):
            checker.run(case, rng)
    except AssertionError as error:
        about["wrong"] = f"{error}; {geometry}; {case}{again}"
    # Bias gradients are the same whatever the variant: those of both convolutions.
    served = checker.checked > 2 or "wrong" in about
    yield about | {"results": checker.checked, "served": served, "right": "wrong" not in about}


def named_case(rng: fuzz.Rng, problem: Conv1dProblem) -> tuple[fuzz.Geometry, fuzz.Case]:
    """A problem as fuzz.py draws them, in float32; the transposed convolution has its output's
    positions as input."""
    p = problem
    geometry = replace(
        fuzz.draw_geometry(rng, ["float32"]), in_channels=p.in_channels,
        out_channels=p.out_channels, kernel_size=p.kernel_size, stride=p.stride,
        dilation=p.dilation, groups=p.groups, bias=True, residual=False, activation=None,
    )  # fmt: skip
    case = replace(
        fuzz.draw_case(rng, geometry, 0), problem=p, padding=p.pads,
        transposed_length=p.out_length, transposed_padding=(0, 0), output_padding=0, largest=4,
        host=False, unbatched=False, outs=(False, False, False), scale=1.0, momentum=0.0,
    )  # fmt: skip
    return geometry, case


@contextmanager
def queued_launch(runtime: Any, few: bool | None) -> Iterator[None]:
    """Within it products queue the launch for few columns, or that of tiles, or as planned."""
    if few is None:
        yield
        return
    runtime.forget_plans()
    with patch.object(convolution, "few_columns_pay", lambda *_: few):
        yield
    runtime.forget_plans()


# How fast?


def peer(work: Work, name: str, pass_: str) -> Iterator[Line]:
    """The same by PyTorch on the same device, if it is there."""
    torch, where = work.torch
    if torch is None:
        if (name, pass_) == layers_items(work)[0]:
            yield {"absent": where}
        return
    about = f"{torch.__version__} on "
    if where == "cpu":
        about += f"the CPU, {torch.get_num_threads()} threads"
    else:
        about += str(getattr(torch, where).get_device_name())
        about += f", cuDNN {torch.backends.cudnn.version()}" if where == "cuda" else ""
    layer = work.layers[name]
    x, weight, grad = (torch.from_numpy(a).to(where) for a in layer.tensors())
    place = ([layer.stride], [layer.padding], [layer.dilation])

    def call() -> Any:
        if pass_ == Pass.FORWARD.value:
            return torch.conv1d(x, weight, None, *place, layer.groups)
        wanted = [pass_ == Pass.INPUT_GRADIENT.value, pass_ == Pass.WEIGHT_GRADIENT.value, False]
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, *place, False, [0], layer.groups, wanted
        )

    finish = (lambda: None) if where == "cpu" else getattr(torch, where).synchronize
    with torch.inference_mode():
        found = timed(call, finish, MEASURED_SECONDS)
    yield {"layer": name, "pass": pass_, "torch": about, **found}


def candidates_items(work: Work) -> list[Item]:
    """The best by the model of every pass, then the others."""
    return [(name, pass_.value, part) for part in (0, 1) for pass_ in tuning.PASSES
            for name in work.six]  # fmt: skip


def candidates(work: Work, name: str, pass_: str, part: int) -> Iterator[Line]:
    """Candidates of a pass, modelled and measured; all must compute what the first does."""
    runtime = work.runtime
    task = tuning.Task(work.layers[name].problem, Pass(pass_))
    plans, _ = tuning.candidates(runtime, task)
    firsts = {plan.variant: place for place, plan in reversed(list(enumerate(plans)))}
    early = {*range(FIRST_CANDIDATES), *firsts.values()}
    wanted = [i for i in range(len(plans)) if (i in early) == (part == 0)]
    bench = tuning.Bench(runtime, *task, tuning.integers(task.problem), plans)
    expected = None
    for place in dict.fromkeys((0, *wanted)) if wanted else ():
        plan = plans[place]
        about = {"layer": name, "pass": pass_, **described(plan),
                 "model_us": modelled_us(plan)}  # fmt: skip
        try:
            job = bench.job(plan)
        except BuildError as error:
            yield about | {"refused": str(error)}
            continue
        found = bench.result(job)
        expected = found if expected is None else expected
        if wrong := np.count_nonzero(found != expected):
            about["wrong"] = f"{plan.choice}: {wrong} of {found.size} differ from the first's"
        if place in wanted:
            yield about | timed(job, runtime.finish, CANDIDATE_SECONDS)


def calls_items(work: Work) -> list[Item]:
    cold = [("cold", name) for name in call_overhead.COLD_LAYERS]
    return [cold[0], ("small", "running"), ("new lengths", ""), ("small", "held"), *cold[1:]]


def calls(work: Work, what: str, which: str) -> Iterator[Line]:
    """First calls of layers, calls with new lengths, and what a small call costs."""
    if what == "cold":
        empty, filled = call_overhead.first_calls(work.options.device, which)
        yield {"layer": which, "cold_s": empty, "warm_s": filled}
    elif what == "new lengths":
        yield from new_lengths(work.runtime)
    else:
        runtime = call_overhead.Recorder(work.options.device)
        for name, (call, bare) in call_overhead.subjects(runtime).items():

            def median(one: Callable[[], object], runs: int, runtime: Any = runtime) -> float:
                held = which == "held"
                return statistics.median(
                    call_overhead.chunk(runtime, one, runs, held) for _ in range(SMALL_ROUNDS)
                )  # fmt: skip

            times = {"us": median(call, SMALL_CALLS), "bare_us": median(bare, SMALL_CALLS)}
            if which == "running":

                def waited(call: Any = call, runtime: Any = runtime) -> None:
                    call()
                    runtime.finish()

                times["waited_us"] = median(waited, SMALL_CALLS // 10)
            yield {"call": name, "kind": which, **times}


def new_lengths(runtime: Any) -> Iterator[Line]:
    """Microseconds of a call with a length that was never seen, and of one that was, with a wait;
    64 channels, 5 taps. The kernels are built before."""
    weight = runtime.zeros((64, 64, 5))

    def call(pass_: str, length: int) -> float:
        x, grad = runtime.zeros((1, 64, length + 4)), runtime.zeros((1, 64, length))
        runtime.finish()
        start = time.perf_counter()
        if pass_ == "forward":
            functional.conv1d(x, weight, runtime=runtime)
        else:
            functional.conv1d_backward(x, weight, grad, runtime=runtime)
        runtime.finish()
        return 1e6 * (time.perf_counter() - start)

    for pass_ in ("forward", "backward"):
        call(pass_, 999)
        lengths = range(1000, 1000 + NEW_LENGTHS)
        new, known = ([call(pass_, length) for length in lengths] for _ in range(2))
        yield {"pass": pass_, "new_us": statistics.median(new),
               "known_us": statistics.median(known)}  # fmt: skip


def tuned(work: Work, name: str, pass_: str) -> Iterator[Line]:
    """A search among the candidates of a pass, which verifies the winner."""
    items = tuned_items(work)
    seconds = seconds_for_each(work.until, len(items) - items.index((name, pass_)), 0.5)
    record = tuning.tune(work.runtime, work.layers[name].problem, pass_, seconds=seconds)
    yield {
        "layer": name, "pass": pass_, "before_us": record.untuned and record.untuned.median_us,
        "after_us": record.winner.median_us, "gain": tune.gain(record),
        "rank_correlation": tune.rank_correlation(record), "seconds": record.seconds,
        "variant": record.choice.variant, "tile": dict(record.choice.tile),
        "tried": len(record.candidates), "left_out": record.left_out,
        "refused": [one.refusal for one in record.candidates if one.refusal is not None],
    }  # fmt: skip


STEPS = {
    "devices": Step("Devices", 10, devices_items, devices),
    "right": Step("Right results", 30, right_items, right, together=True),
    "layers": Step("Layers", 20, layers_items, layers),
    "peer": Step("PyTorch", 8, layers_items, peer),
    "candidates": Step("Candidates", 16, candidates_items, candidates),
    "calls": Step("First calls and small calls", 10, calls_items, calls),
    "tuned": Step("Tuning", 10, tuned_items, tuned),
}


# A step's own process


def work(options: argparse.Namespace) -> int:
    """Works off its items."""
    step, path = STEPS[options.step], work_path(options, options.step)
    shared = Work(options, options.until)
    return work_off(step, shared, path, options.first, options.by, options.until)


# The machine


VENDORS = Path("/etc/OpenCL/vendors")
# OpenCL drivers that may be there without the .icd file that names them, and where they lie.
LIBRARIES = {
    "nvidia.icd": "libnvidia-opencl.so",
    "amdocl64.icd": "libamdocl64.so",
    "intel.icd": "libigdrcl.so",
}
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/nvidia/current",
           "/usr/lib/x86_64-linux-gnu/intel-opencl", "/usr/lib64", "/usr/lib", "/lib64",
           "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/opt/rocm/lib")  # fmt: skip


def installed_drivers(folders: Sequence[str]) -> dict[str, str]:
    """Paths of the libraries that are there, by the .icd file that should name them."""
    found = {}
    for icd, library in LIBRARIES.items():
        paths = (p for folder in folders for p in sorted(Path(folder).glob(f"{library}*")))
        path = next(paths, None)
        if path is not None:
            found[icd] = str(path)
    return found


def named_drivers(vendors: Path) -> dict[str, str]:
    """What the system's .icd files say, by their names."""
    return {one.name: one.read_text().strip() for one in sorted(vendors.glob("*.icd"))}


def name_drivers(out: Path, named: dict[str, str], installed: dict[str, str]) -> dict[str, str]:
    """The variables with which drivers are found that no .icd file names, as in bare containers:
    those and the system's are named in a folder of OUT."""
    texts = " ".join(named.values())
    missing = {icd: path for icd, path in installed.items() if LIBRARIES[icd] not in texts}
    if not missing or "OCL_ICD_VENDORS" in os.environ:
        return {}
    folder = out / "vendors"
    folder.mkdir(exist_ok=True)
    for icd, text in (named | missing).items():
        (folder / icd).write_text(text + "\n")
    return {"OCL_ICD_VENDORS": str(folder)}


def _answer(*command: str) -> str:
    """What a command prints, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return "not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout + done.stderr).strip()


def machine(named: dict[str, str], installed: dict[str, str], more: dict[str, str]) -> Line:
    """What was looked at before any OpenCL."""
    packages = {}
    for name in ("clconv", "pyopencl", "numpy", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "system": platform.platform(),
        "python": f"{platform.python_version()} {sys.executable}",
        "cpus": os.cpu_count(),
        "packages": packages,
        "nvidia-smi": _answer("nvidia-smi", "--format=csv,noheader", "--query-gpu=name,"
                              "driver_version,memory.total,clocks.max.sm,power.limit"),
        str(VENDORS): named,
        "driver libraries": installed,
        "OCL_ICD_VENDORS": os.environ.get("OCL_ICD_VENDORS") or more.get("OCL_ICD_VENDORS"),
    }  # fmt: skip


# The whole


def run_one(name: str, options: argparse.Namespace, until: float, environment: Any) -> Line:
    """A step's lines and how it went."""
    step, start = STEPS[name], time.time()
    work = Work(options, until)
    path = work_path(options, name)
    path.unlink(missing_ok=True)
    items = step.items(work) if name == "devices" or work.found else []
    if work.found and name != "devices":
        info = work.found["info"]
        about = {key: info[key] for key in ("name", "platform", "version", "driver")}
        append(path, {"item": -1, **about, "unit": "microseconds where names end in _us"})

    def command(first: int, by: int) -> list[str]:
        words = [sys.executable, __file__, str(options.out), "--step", name, "--first", str(first)]
        words += ["--by", str(by), "--until", str(until)]
        words += ["--layers", options.layers] if options.layers else []
        words += ["--geometries", str(options.geometries), "--seed", str(options.seed)]
        return words + (["--device", options.device] if options.device else [])

    on_cpu = work.found.get("info", {}).get("kind") == "CPU"
    cpus = os.cpu_count() or 1
    workers = max(1, min(WORKERS, cpus // 2)) if step.together and not on_cpu else 1
    log = Path(options.out, f"{name}.log")
    watch = Watch(command, path, log, until, hang_seconds(until - start), environment)
    return run_step(name, step, items, path, workers, watch)


def work_path(options: argparse.Namespace, name: str) -> Path:
    """Where a step's lines are."""
    return Path(options.out, f"{name}.jsonl")


def run(options: argparse.Namespace) -> int:
    """All steps; 1 where there is no device or something failed."""
    start = time.time()
    cache = options.out / "cache"  # some drivers make no folder
    cache.mkdir(parents=True, exist_ok=True)
    named, installed = named_drivers(VENDORS), installed_drivers(
        [*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), *FOLDERS]
    )  # fmt: skip
    more = name_drivers(options.out, named, installed)
    caches = dict.fromkeys(CACHES, str(cache))
    environment = {**os.environ, **more, **caches, "OMP_WAIT_POLICY": "passive"}
    report: Line = {"seconds": options.seconds, "machine": machine(named, installed, more),
                    "steps": []}  # fmt: skip
    left = [name for name in STEPS if name in options.only or name == "devices"]
    while left:
        share = STEPS[left[0]].share / sum(STEPS[name].share for name in left)
        now = time.time()
        until = now + max(0.0, start + options.seconds - now) * share
        print(f"{left[0]}: at most {until - now:.0f} s", flush=True)
        step = run_one(left.pop(0), options, until, environment)
        report["steps"].append(step)
        report["took_s"] = round(time.time() - start, 1)
        (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "report.md").write_text(markdown(report))
    print(f"{options.out / 'report.md'}, after {report['took_s']:.0f} s")
    lines = [line for step in report["steps"] for line in step["lines"]]
    return int(
        not any("profile" in line for line in lines)
        or any("wrong" in line or "error" in line for line in lines)
    )


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=first, epilog=rest)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for the report")
    add("--seconds", type=float, default=600.0, help="for all of it (default 600)")
    add("--device", help="index, id or part of a name (default: the first GPU)")
    add("--only", type=lambda text: text.split(","), default=list(STEPS), metavar="STEPS",
        help=f"some of {','.join(STEPS)}; devices in any case")  # fmt: skip
    add("--geometries", type=int, default=200, help="random ones (default 200)")
    add("--seed", type=int, default=0, help="of the random geometries")
    add("--layers", metavar="FILE",
        help="Python file with a list LAYERS (default: the public set)")  # fmt: skip
    for name, kind in (("--step", str), ("--first", int), ("--by", int), ("--until", float)):
        add(name, type=kind, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.step:
        return work(options)
    if not set(options.only) <= set(STEPS):
        parser.error(f"--only is {','.join(options.only)}, expected some of {','.join(STEPS)}")
    try:
        load(options.layers)
    except ValueError as error:
        parser.error(str(error))
    options.out = options.out.resolve()
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
