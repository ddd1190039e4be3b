"""Finds the fastest kernels for the layers of ONNX models and layers files, on this device.

The results go to the user's database of tuning records, which clconv uses from then on. After
Ctrl-C or a kill, finished passes are kept, and the next run continues there.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clconv import Pass, Runtime, progress, tuning
from clconv.commands import layers, options
from clconv.commands.benchmark_candidates import LEAST_RANKED, NEAR, spearman
from clconv.commands.text import table
from clconv.dtypes import DTYPES
from clconv.errors import ClconvError
from clconv.planning.records import Record, RecordKey
from clconv.tuning import Task

PASSES = {
    "forward": (Pass.FORWARD,), "backward": (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT),
}  # fmt: skip
LONGEST = 86400.0


@dataclass(frozen=True)
class Job:
    """A task, and what it is called."""

    name: str
    task: Task


# What is to be tuned


def jobs_of_layers(path: str | None, passes: Sequence[str], dtype: str) -> list[Job]:
    """The passes of a layers file, or of the public set. Raises ValueError."""
    found = []
    for layer in layers.load(path):
        problem = replace(layer.problem, dtype=dtype)
        found += [Job(layer.name, Task(problem, p)) for name in passes for p in PASSES[name]]
    return found


def jobs_of_model(path: str, shapes: dict[str, tuple[int, ...]], runtime: Runtime) -> list[Job]:
    """What an ONNX model computes on clconv for zeros of those shapes; the model's own fixed
    shapes need not be given. Raises ValueError."""
    import onnx
    from google.protobuf.message import DecodeError

    from clconv.onnx import Backend

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is no valid ONNX model: {error}") from error
    initialised = {one.name for one in model.graph.initializer}
    feeds = {}
    for one in model.graph.input:
        if one.name in initialised:
            continue
        kind = one.type.tensor_type
        sizes = tuple(d.dim_value for d in kind.shape.dim)
        shape = shapes.get(one.name, sizes)
        if one.name not in shapes and 0 in sizes:
            names = ",".join(d.dim_param or str(d.dim_value) for d in kind.shape.dim)
            raise ValueError(f"input {one.name} has shape {names}: give --shape {one.name}=1,…")
        feeds[one.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def call() -> None:
        from clconv import default_runtime  # the one that watches

        Backend.run_model(model, feeds, default_runtime())

    stem = Path(path).stem
    return [Job(f"{stem} {i}", t) for i, t in enumerate(tuning.tasks_of(runtime, call), 1)]


# The search, with a bar


def tune_all(
    jobs: Sequence[Job], runtime: Runtime, seconds: float, again: bool, records: dict[Job, Record]
) -> None:
    """Fills in the records, one after the other; those of the database unless `again`."""
    with progress.bar("tuning", "pass", len(jobs)) as shown:
        for job in jobs:
            shown.tell(len(records), note=job.name)
            _, limit = tuning.candidates(runtime, job.task)
            known = runtime.records.find(RecordKey(*job.task, limit))
            if known is None or again:
                known = tuning.tune(runtime, *job.task, seconds=seconds)
            records[job] = known


# What came of it


def gain(record: Record) -> float | None:
    """The time of what "auto" took before, in the winner's."""
    before, after = record.untuned, record.winner
    if before is None or before.median_us is None or after.median_us is None:
        return None
    return before.median_us / after.median_us


def rank_correlation(record: Record) -> float | None:
    """Spearman's, of modelled and measured times; None of too few."""
    timed = [(one.cost_us, one.median_us) for one in record.candidates if one.median_us is not None]
    if len(timed) < LEAST_RANKED:
        return None
    costs, times = zip(*timed, strict=True)
    return spearman(costs, times)


def report(records: dict[Job, Record]) -> str:
    """A table, a line for each refusal, and a summary by pass."""
    header = ["layer", "pass", "before us", "after us", "gain", "tried", "left out", "rank", "best"]
    rows, notes = [], []
    for job, record in records.items():
        ratio, rank = gain(record), rank_correlation(record)
        before, winner = record.untuned, record.winner
        assert winner.median_us is not None
        rows.append(
            [
                job.name,
                record.key.pass_.value,
                "-" if before is None or before.median_us is None else f"{before.median_us:.1f}",
                f"{winner.median_us:.1f}",
                "-" if ratio is None else f"{ratio:.2f}",
                str(len(record.candidates)),
                str(record.left_out),
                "-" if rank is None else f"{rank:.2f}",
                _name(winner.choice),
            ]
        )
        notes += [
            f"{job.name} {record.key.pass_.value}: {_name(one.choice)} is refused: {one.refusal}"
            for one in record.candidates
            if one.refusal is not None
        ]
    right = ["before us", "after us", "gain", "tried", "left out", "rank"]
    return "\n".join([table(header, rows, right), *notes, "", *summary(list(records.values()))])


def _name(choice: Any) -> str:
    return " ".join([choice.variant, *(f"{k}={v}" for k, v in choice.tile.items())])


def summary(records: Sequence[Record]) -> list[str]:
    """By pass: what tuning gained, how near the cost model's first choice was."""
    lines = []
    for pass_ in dict.fromkeys(record.key.pass_ for record in records):
        ours = [record for record in records if record.key.pass_ is pass_]
        gains = [g for g in map(gain, ours) if g is not None]
        name = pass_.value.replace("_", " ")
        if gains:
            near = sum(g <= NEAR for g in gains)
            lines.append(
                f"{name}: {statistics.geometric_mean(gains):.2f} times as fast as before "
                f"(geometric mean), {max(gains):.2f} at most; the cost model's first choice is "
                f"within {NEAR - 1:.0%} of the best on {near} of {len(gains)}"
            )
        ranks = [r for r in map(rank_correlation, ours) if r is not None]
        if ranks:
            lines.append(
                f"{name}: rank correlation of modelled and measured times "
                f"{statistics.median(ranks):.2f} (median)"
            )
    return lines


# The command


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME=1,80,3000") from error
    return name, shape


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m clconv tune", description=first, epilog=rest)
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE",
        help="an ONNX model, or a Python file with a list LAYERS (default: the public set of "
        "layers)")  # fmt: skip
    add("--select", default="", metavar="REGEX", help="layers with such a name")
    add(
        "--passes",
        type=options.names(tuple(PASSES)),
        default=list(PASSES),
        help="of layers files: forward,backward",
    )
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of layers files")
    add("--shape", type=_shape, action="append", default=[], metavar="NAME=1,80,3000",
        help="of a model's input whose sizes are open")  # fmt: skip
    add("--seconds", type=options.seconds(LONGEST), default=tuning.SECONDS,
        help="for each pass of each layer")  # fmt: skip
    add("--device", help="index, id, kind (gpu, cpu) or part of a name")
    add("--again", action="store_true", help="times what is in the database, too")
    add(
        "--plot", type=options.picture, metavar="OUT", help="picture of modelled and measured times"
    )
    add("--json", type=options.file, metavar="OUT", help="file for the records' figures")
    add("--calibrate", action="store_true", help="fits the cost model's constants to the times")
    return parser


def _collect(asked: argparse.Namespace, runtime: Runtime) -> list[Job]:
    """Raises ValueError that says what is wrong with a file."""
    jobs = []
    for path in asked.files or [None]:
        if path is not None and path.endswith(".onnx"):
            if not Path(path).is_file():
                raise ValueError(f"{path} is no file")
            jobs += jobs_of_model(path, dict(asked.shape), runtime)
        else:
            jobs += jobs_of_layers(path, asked.passes, asked.dtype)
    # Equal layers are tuned once, under the first one's name.
    distinct: dict[Task, Job] = {}
    for job in jobs:
        if re.search(asked.select, job.name):
            distinct.setdefault(job.task, job)
    if not distinct:
        raise ValueError("no layers: none in the files, or --select matches none")
    return list(distinct.values())


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where a file, the device or a search fails, 130 after Ctrl-C."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if not asked.passes:
        parser.error(f"--passes names no pass, expected some of {','.join(PASSES)}")
    if asked.plot:
        options.require(parser, "matplotlib", "--plot", "tune")
    if any(path.endswith(".onnx") for path in asked.files):
        options.require(parser, "onnx", "an ONNX model", "onnx")
    records: dict[Job, Record] = {}
    status, start = 0, time.perf_counter()
    try:
        runtime = Runtime(asked.device)
        jobs = _collect(asked, runtime)
        tune_all(jobs, runtime, asked.seconds, asked.again, records)
    except KeyboardInterrupt:
        status = 130
        print("\ninterrupted; what is finished is kept, and the same command goes on", flush=True)
    except (ClconvError, ValueError, re.error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    if not records:
        return status
    print(report(records))
    print(f"{len(records)} passes in {time.perf_counter() - start:.0f} s; records: "
          f"{runtime.records.path}")  # fmt: skip
    if asked.json:
        Path(asked.json).write_text(json.dumps(_figures(records), indent=1) + "\n")
    if asked.plot:
        from clconv.commands.tune_plot import draw

        named = [(job.name, record) for job, record in records.items()]
        draw(named, runtime.info.name, asked.plot)
    if asked.calibrate and status == 0:
        from clconv.commands.tune_calibrate import calibrate

        print(calibrate(list(records.values()), runtime.profile))
    return status


def _figures(records: dict[Job, Record]) -> list[dict[str, Any]]:
    return [
        {
            "layer": job.name,
            "pass": record.key.pass_.value,
            "before_us": record.untuned and record.untuned.median_us,
            "after_us": record.winner.median_us,
            "gain": gain(record),
            "rank_correlation": rank_correlation(record),
            "choice": {"variant": record.choice.variant, "tile": dict(record.choice.tile)},
            "seconds": record.seconds,
        }
        for job, record in records.items()
    ]
