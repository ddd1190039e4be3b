"""What is asked of a device: its facts, whether results are right, times, and tuned choices.

Items are for `clconv.commands.steps`, which runs them in processes that are watched.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from clconv import Conv1dProblem, KernelPlan, Pass, Runtime, testing, tuning
from clconv.commands import devices, predict
from clconv.commands.benchmark_worker import Watch
from clconv.commands.layers import Layer, load
from clconv.commands.roofline import Roofline
from clconv.commands.steps import Item, Line, Step, read
from clconv.planning.folding import agreed
from clconv.planning.planner import Choice
from clconv.planning.profiles import DeviceProfile
from clconv.planning.records import Record, record_to_json
from clconv.variants import VARIANTS, serves

__all__ = [
    "CACHES",
    "SIX",
    "STEPS",
    "Work",
    "described",
    "modelled_us",
    "predicted_us",
    "seconds_for_each",
    "share_of_roof",
    "timed",
    "told_record",
]

# Layers that are tuned: dense with a stride, dense and dilated, pointwise, depthwise, few channels,
# one channel with long filters.
SIX = ("wav2vec2_conv2", "hifigan_c256_k11d5", "tasnet_pw", "quartznet_dw33", "ecg_resnet_k17",
       "sincnet_k251")  # fmt: skip
# Where compiled programs are kept: by clconv, PoCL, NVIDIA's, Intel's and AMD's drivers, and Mesa.
CACHES = (
    "CLCONV_CACHE_DIR", "POCL_CACHE_DIR", "CUDA_CACHE_PATH", "NEO_CACHE_DIR", "AMD_COMGR_CACHE_DIR",
    "MESA_SHADER_CACHE_DIR",
)  # fmt: skip
# A sample is as many calls in a row as take this long, and then a wait.
SAMPLE_SECONDS, MOST_RUNS, LEAST_SAMPLES = 2e-3, 100, 3
MEASURED_SECONDS, ROOFLINE_SECONDS = 0.2, 0.5
# The second measurement of a tuned choice: so many turns of both, of so many seconds.
TURNS, TURN_SECONDS = 5, 0.03
# What is tuned at the layer's length, and at this part of it.
SHORTER = 2
# A shorter search finds little: rather fewer of them, and the others are left out.
LEAST_TUNING = 2.0


# Measuring


def timed(queue: Callable[[], object], finish: Callable[[], object], seconds: float) -> Line:
    """Microseconds a call of several queued in a row with a wait behind: median and least."""

    def sample(runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            queue()
        finish()
        return (time.perf_counter() - start) / runs

    sample(1)  # drivers compile at the first launch too
    runs = max(1, min(MOST_RUNS, int(SAMPLE_SECONDS / sample(1))))
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < LEAST_SAMPLES or time.perf_counter() - start < seconds:
        samples.append(sample(runs))
    return {"median_us": 1e6 * statistics.median(samples), "min_us": 1e6 * min(samples)}


def modelled_us(made: KernelPlan) -> float:
    """What the planner sorts a plan by, in microseconds, with its launches."""
    return 1e6 * made.cost


def predicted_us(made: KernelPlan, device: DeviceProfile) -> float:
    """The same for the work as it is cut on a GPU, and never faster than memory; on a CPU for this
    very problem."""
    if device.kind != "gpu":
        return 1e6 * made.predicted.seconds
    return 1e6 * predict.predicted(made, device)


def described(made: KernelPlan) -> Line:
    """Variant and tile."""
    return {"variant": made.variant, "tile": dict(made.tile)}


def share_of_roof(line: Line, flops: float, bandwidth: float) -> float | None:
    """The least seconds that peaks allow in those measured; None where they are not known."""
    if not flops or not bandwidth:
        return None
    least = max(float(line["flops"]) / flops, float(line["bytes"]) / bandwidth)
    return 1e6 * least / float(line["median_us"])


class Work:
    """What the items of a step share in one process: a device, and layers by their names."""

    def __init__(self, device: str | None, layers: str | None, facts: Path, until: float) -> None:
        self._device, self._facts = device, facts
        self.until = until
        self.layers: dict[str, Layer] = {one.name: one for one in load(layers)}

    @cached_property
    def runtime(self) -> Runtime:
        """On the device, for measuring."""
        return Runtime(self._device)

    @cached_property
    def six(self) -> list[str]:
        """Names of layers to look at closely."""
        return [name for name in SIX if name in self.layers] or list(self.layers)[: len(SIX)]

    @cached_property
    def found(self) -> Line:
        """The device, as the first step wrote it down."""
        return next((line for line in read(self._facts) if "profile" in line), {})

    @cached_property
    def roof(self) -> Line | None:
        """Its rates, as the first step measured them."""
        return next((line["roofline"] for line in read(self._facts) if "roofline" in line), None)

    @cached_property
    def roofline(self) -> Roofline:
        """What measures them."""
        return Roofline(self.runtime)


# Devices


def device_items(_: Work) -> list[Item]:
    return [("facts",), ("peaks",), ("check",)]


def device(work: Work, what: str) -> Iterator[Line]:
    """The device's numbers; whether it computes; measured peaks."""
    runtime = work.runtime
    if what == "facts":
        yield facts(runtime)
    elif what == "check":
        fault = devices.check(runtime.info.id)
        yield {"check": fault or "ok", **({"wrong": fault} if fault else {})}
    else:
        yield {"roofline": work.roofline.measure(ROOFLINE_SECONDS)}


def facts(runtime: Runtime) -> Line:
    """What OpenCL and the planner know of a device, and the variants for such devices."""
    serving = [one.NAME for one in VARIANTS if serves(one, runtime.profile)]
    return {"info": asdict(runtime.info), "profile": asdict(runtime.profile), "variants": serving}


# Right?


def accuracy_items(work: Work) -> list[Item]:
    """Each variant's examples, an example of every variant first, then the next ones."""
    names = [
        (one.NAME, list(one.EXAMPLES)) for one in VARIANTS if one.NAME in work.found["variants"]
    ]
    most = max(len(examples) for _, examples in names)
    return [(name, examples[i]) for i in range(most) for name, examples in names
            if i < len(examples)]  # fmt: skip


def accuracy(work: Work, name: str, example: str) -> Iterator[Line]:
    """The passes of an example by a variant, on integers and on other data, in the bound."""
    runtime = work.runtime
    problem = next(one for one in VARIANTS if name == one.NAME).EXAMPLES[example]
    about: Line = {"variant": name, "example": example}
    if problem.dtype == np.float64 and not runtime.profile.fp64:
        yield about | {"not_served": "the device has no float64"}
        return
    for pass_ in tuning.PASSES:
        plans = _served(runtime, problem, pass_, name)
        if plans:
            yield about | {"pass": pass_.value} | _errors(runtime, problem, pass_, plans)


def _served(runtime: Runtime, problem: Conv1dProblem, pass_: Pass, name: str) -> list[KernelPlan]:
    return [plan for plan in runtime.plans(problem, pass_) if plan.variant == name]


def _errors(
    runtime: Runtime, problem: Conv1dProblem, pass_: Pass, plans: Sequence[KernelPlan]
) -> Line:
    """The largest error of a pass, in its bound; on integers exact variants must be exact."""
    plan = runtime.prepare(plans).plan
    shapes = tuning.shapes(problem)
    rng = np.random.default_rng(1)
    found: Line = {"error_class": plan.error_class}
    for kind, make in (("integers", testing.integers), ("normals", testing.normals)):
        values = {key: make(rng, shape, problem.dtype) for key, shape in shapes.items()}
        bench = tuning.Bench(runtime, problem, pass_, values, [plan])
        result = bench.result(bench.job(plan))
        reads = {key: values[key] for key in testing.OPERANDS[pass_]}
        expected = testing.evaluate(problem, pass_, reads)
        exact = kind == "integers" and plan.sums_bound is None
        exact = exact and testing.sums_are_exact(problem, pass_)
        bound = testing.rounding_bound(problem, pass_, reads, exact=exact, sums=plan.sums_bound)
        wrong = int(np.count_nonzero(testing.outside(result, expected, bound)))
        off = np.abs(result.astype(expected.dtype) - expected)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(off == 0, 0, off / bound)
        found[kind] = float(np.max(shares, initial=0))
        if wrong:
            found["wrong"] = f"{wrong} of {result.size} values are wrong on {kind}: {plan.choice}"
            found[kind] = None
    return found


# How fast?


def layers_items(work: Work) -> list[Item]:
    return [(name, pass_.value) for pass_ in tuning.PASSES for name in work.layers]


def layers(work: Work, name: str, pass_: str) -> Iterator[Line]:
    """A pass of a layer by what the planner chooses: predicted and measured, and what came before
    the first result. What is above the measured roof is measured again, and so is the roof.
    `others` is the part of the machine that other processes used."""
    layer, runtime = work.layers[name], work.runtime
    task = tuning.Task(layer.problem, Pass(pass_))
    watch, start = Watch([os.getpid(), os.getppid()]), time.perf_counter()
    plans = runtime.plans(*task)
    planned = time.perf_counter()
    made = runtime.prepare(plans).plan
    built = time.perf_counter()
    job = tuning.Bench(runtime, *task, tuning.integers(layer.problem), [made]).job(made)
    ready = time.perf_counter()
    job()
    runtime.finish()
    ran = time.perf_counter()
    line = {
        "layer": name, "pass": pass_, **described(made), "error_class": made.error_class,
        "predicted_us": predicted_us(made, runtime.profile),
        **timed(job, runtime.finish, MEASURED_SECONDS), "plan_s": planned - start,
        "plan_and_build_s": built - start, "first_run_s": ran - ready,
        "flops": layer.flops("forward"), "bytes": layer.nbytes("forward"),
    }  # fmt: skip
    if work.roof is not None and _above(line, work.roof):
        line |= timed(job, runtime.finish, MEASURED_SECONDS)
        again = work.roofline.measure(ROOFLINE_SECONDS)
        best = {key: max(again[key], work.roof[key]) for key in ("peak_gflops", "copy_gbs")}
        line["roof_again"] = best
        line["above_roof"] = _above(line, best)
    yield line | {"others": watch.others()}


def _above(line: Line, roof: Line) -> bool:
    share = share_of_roof(line, 1e9 * roof["peak_gflops"], 1e9 * roof["copy_gbs"])
    return share is not None and share > 1


# Tuned


def tuned_items(work: Work) -> list[Item]:
    """Forward first, of all layers."""
    return [(name, pass_.value) for pass_ in tuning.PASSES for name in work.six]


def seconds_for_each(until: float, left: int, least: float = LEAST_TUNING) -> float:
    """What a search may take where so many are to come."""
    return min(tuning.SECONDS, max(least, (until - time.time()) / max(1, left)))


def tuned(work: Work, name: str, pass_: str) -> Iterator[Line]:
    """A search at two lengths of a layer; a choice that both recommend is timed once more."""
    items = tuned_items(work)
    left = len(items) - items.index((name, pass_))
    whole = work.layers[name].problem
    shorter = replace(whole, length=max(whole.length // SHORTER, whole.window))
    records = []
    for problem in dict.fromkeys((whole, shorter)):
        seconds = seconds_for_each(work.until, SHORTER * left + 1)
        records.append(tuning.tune(work.runtime, problem, pass_, seconds=seconds))
        yield told_record(name, records[-1])
    choice = agreed(records)
    if choice is not None:
        for record in records:
            yield {"layer": name, "pass": pass_, "length": record.key.problem.length,
                   "choice": {"variant": choice.variant, "tile": dict(choice.tile)},
                   **_again(work.runtime, record, choice)}  # fmt: skip


def told_record(name: str, record: Record) -> Line:
    """A record of a layer of that name."""
    return {
        "layer": name, "pass": record.key.pass_.value, "length": record.key.problem.length,
        "before_us": record.untuned and record.untuned.median_us,
        "after_us": record.winner.median_us, "variant": record.choice.variant,
        "tile": dict(record.choice.tile), "record": record_to_json(record),
    }  # fmt: skip


def _again(runtime: Runtime, record: Record, choice: Choice) -> Line:
    """The time of a choice and of the model's own once more, in turns."""
    problem, pass_ = record.key.problem, record.key.pass_
    assert record.untuned is not None
    every = runtime.plans(problem, pass_)
    plans = [
        next(plan for plan in every if plan.choice == one)
        for one in (record.untuned.choice, choice)
    ]
    bench = tuning.Bench(runtime, problem, pass_, tuning.integers(problem), plans)
    jobs = [bench.job(plan) for plan in plans]
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for found, job in zip(times, jobs, strict=True):
            found.append(timed(job, runtime.finish, TURN_SECONDS)["median_us"])
    before, after = map(statistics.median, times)
    return {"again_before_us": before, "again_after_us": after}


STEPS = {
    "devices": Step("Device", 10, device_items, device),
    "accuracy": Step("Accuracy", 25, accuracy_items, accuracy),
    "layers": Step("Layers", 40, layers_items, layers),
    "tuned": Step("Tuning", 25, tuned_items, tuned),
}
