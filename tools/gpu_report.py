#!/usr/bin/env python3
"""What machine code do the GPU kernels become? The offline compilers of three vendors answer.

Needs no GPU. Compiles the kernels that the planner picks for the public set of layers, exactly the
text of `plan(...).source()`, launch by launch, and prints two tables, of products of matrices and
of the other kernels for GPUs: registers, spills, local memory, work-groups a compute unit, and the
hottest loop's share of multiply-adds, as isa_report.py reads them. The exit status is 1 where a
limit does not hold, 2 where a compiler is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import isa_report

from clconv import Conv1dProblem, KernelPlan, Pass, ProblemError, plan
from clconv.commands.layers import LAYERS
from clconv.commands.text import table
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES
from clconv.render import render
from clconv.variants import VARIANTS, serves

TARGETS = tuple(isa_report.DEFAULT.split(","))
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
KERNELS = (
    "convolution_gemm", "weight_gradient_gemm", "products_batched", "weight_products_batched",
)  # fmt: skip
# What memory bounds: windows of few channels, few columns, transforms of tiles of tiles.
WINDOWS = ("convolution_window", "weight_gradient_window")
FEW_COLUMNS = ("convolution_gemv",)
TRANSFORMS = (
    "transform_batched", "weights_batched", "inverse_batched", "weight_inverse_batched",
)  # fmt: skip
# The variants that serve no CPU.
GPU_ONLY = {one.NAME for one in VARIANTS if not serves(one, PROFILES["cpu"])}

MOST_REGISTERS = 128
LEAST_GROUPS = 2
# In the hot loop of 8 x 8 sums: percent of the instructions that are multiply-adds, or, where one
# instruction can be two, multiply-adds an instruction.
LEAST_SHARE = {"sm": 85.0, "gfx906": 85.0, "gfx1030": 85.0, "intel": 75.0}
LEAST_RATE = {"gfx90a": 1.45, "gfx942": 1.45, "gfx1100": 1.45, "gfx1201": 1.45}
SMALLER_TILE_SHARE = 70.0

INSTALL = {
    "gfx": "apt-get install --no-install-recommends clang-19 llvm-19 libclc-15",
    "sm": "apt-get install --no-install-recommends clang-19 llvm-19 libclc-15 and "
    "pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm",
    "intel": "apt-get install --no-install-recommends intel-opencl-icd (or unpack it and what it "
    "needs with dpkg -x and say --intel-root)",
}


def vendor(target: str) -> str:
    """gfx, sm or intel."""
    return next((name for name in ("gfx", "sm") if target.startswith(name)), "intel")


@dataclass
class Report:
    """What became of one kernel on one target; sizes in bytes, `share` in percent."""

    layer: str
    pass_: str
    target: str
    tile: dict[str, int]
    source: str  # sha256 of the plan's text
    kernel: str
    registers: int
    register_text: str
    spilled: int
    local_bytes: int
    groups: int
    share: float
    rate: float
    local_reads: dict[str, int]  # number of each width in bytes
    flat: int
    broken: list[str] = field(default_factory=list)


def limits(report: Report) -> list[str]:
    """The limits that do not hold: of what memory bounds, those of registers and addresses."""
    broken = []
    if report.spilled:
        broken.append(f"spills {report.spilled}")
    # Intel's compiler gives each thread 128 registers, used or not.
    if vendor(report.target) != "intel" and report.registers > MOST_REGISTERS:
        broken.append(f"{report.registers} registers")
    if report.flat:
        broken.append(f"{report.flat} flat accesses")
    if report.kernel not in KERNELS:
        return broken
    if report.groups < LEAST_GROUPS:
        broken.append(f"{report.groups} work-groups a unit")
    if set(report.local_reads) != {"16"}:
        broken.append("local reads of other widths than 128 bits")
    if report.tile["item_rows"] * report.tile["item_columns"] < 64:
        if max(report.share, 100 * report.rate) < SMALLER_TILE_SHARE:
            broken.append(f"{report.share:.1f}% multiply-adds")
    elif report.target in LEAST_RATE:
        if report.rate < LEAST_RATE[report.target]:
            broken.append(f"{report.rate:.2f} multiply-adds an instruction")
    else:
        least = LEAST_SHARE.get(report.target) or LEAST_SHARE[vendor(report.target)]
        if report.share < least:
            broken.append(f"{report.share:.1f}% multiply-adds")
    return broken


def digest(text: str) -> str:
    """The sha256 of an OpenCL C text."""
    return hashlib.sha256(text.encode()).hexdigest()


def kernels(made: KernelPlan) -> list[tuple[str, str]]:
    """(name, OpenCL C) of each kernel of a plan; together they are its source."""
    parts = [(kernel.name, render(kernel)) for kernel in made.kernels]
    if digest("\n".join(text for _, text in parts)) != digest(made.source()):
        raise AssertionError("the kernels' texts are not the plan's source")
    return parts


def chosen_layers(pattern: str) -> Iterator[tuple[str, Conv1dProblem]]:
    """Names and problems of the layers, chosen by a regular expression."""
    for name, *fields in LAYERS:
        if re.search(pattern, name):
            yield name, Conv1dProblem(*fields)


def compile_kernel(text: str, kernel: str, target: str, intel_root: str) -> dict[str, object]:
    """The fields of a Report that the compilers know. Raises isa_report.ToolError."""
    back, classify = {
        "gfx": (isa_report.amd, isa_report.classify_amd),
        "sm": (isa_report.nvidia, isa_report.classify_nv),
        "intel": (isa_report.intel, isa_report.classify_intel),
    }[vendor(target)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cl"
        file.write_text(text)
        clc = [*Path("/usr/lib/llvm-19/lib").glob("clc"), Path("/usr/lib/clc")][0]
        tools = Namespace(
            file=str(file), defs=[], opt=[], intel_opt=[], cl_std="CL1.2", wg=256, log="",
            clang="clang-19", llc="llc-19", clc=str(clc), intel_root=intel_root, ptxas="",
            ptxas_opt=[], nvdisasm="",
        )  # fmt: skip
        if vendor(target) == "sm":
            tools.ptxas, tools.nvdisasm = isa_report.find("ptxas"), isa_report.find("nvdisasm")
        tools.wgs = isa_report.wg_sizes(tools, folder)
        found = next(k for k in back(tools, target, folder) if k.name == kernel)
    whole = isa_report.mix([i for b in found.blocks for i in b.insts], classify)
    hot = isa_report.hot_loop(found, classify)
    mixture = hot[2] if hot else whole
    return {
        "registers": int(re.match(r"\d+", found.regs)[0]),
        "register_text": found.regs,
        "spilled": found.spill + found.scratch,
        "local_bytes": found.lds,
        "groups": int(re.search(r"\((\d+)wg\)", found.occ)[1]),
        "share": round(100 * mixture["fma_inst"] / max(1, mixture["total"]), 1),
        "rate": round(mixture["fma"] / max(1, mixture["total"]), 2),
        "local_reads": {str(width): n for width, n in sorted(mixture["lds"].items())},
        "flat": whole.get("flat#", 0),
    }


def asked_for(
    problem: Conv1dProblem, pass_: Pass, arguments: Namespace
) -> Iterator[tuple[str, KernelPlan]]:
    """What the planner picks for each target; or all plans of the variant that is asked for, where
    it serves the layer."""
    for target in arguments.targets:
        if arguments.variant == "auto":
            yield target, plan(problem, pass_, target)
            continue
        try:
            found = plans(problem, pass_, PROFILES[target], variant=arguments.variant)
        except ProblemError:
            continue
        for made in found:
            yield target, made


def reports(
    arguments: Namespace, kept: dict[str, dict[str, object]], others: Counter[str]
) -> Iterator[Report]:
    """One for each launch that is for GPUs alone, of the layers on each target; counts the plans
    of other variants, which have no limits."""
    for name, problem in chosen_layers(arguments.layers):
        for pass_ in PASSES:
            for target, made in asked_for(problem, pass_, arguments):
                if not made.design.measured_only and made.variant not in GPU_ONLY:
                    others[f"{name} {pass_.value}: {made.variant}"] += 1
                    continue
                for kernel, text in kernels(made):
                    if kernel == "sum_partials":
                        continue
                    key = f"{target} {digest(text)}"
                    if key not in kept:
                        kept[key] = compile_kernel(text, kernel, target, arguments.intel_root)
                    report = Report(
                        name, pass_.value, target, dict(made.tile), digest(made.source()), kernel,
                        **kept[key],
                    )  # fmt: skip
                    report.broken = limits(report)
                    yield report


HEADER = ("layer", "pass", "target", "kernel", "tile", "registers", "spilled", "local", "groups",
          "FMA %", "FMA/ins", "local reads", "limits")  # fmt: skip
RIGHT = ("spilled", "local", "groups", "FMA %", "FMA/ins")


def line(report: Report) -> list[str]:
    """A row of the table."""
    reads = " ".join(f"{n}x{8 * int(width)}b" for width, n in report.local_reads.items())
    tile = "{tile_rows}x{tile_columns} {item_rows}x{item_columns} {depth}/{buffers}"
    return [
        report.layer, report.pass_.removesuffix("_gradient"), report.target,
        report.kernel.rpartition("_")[2],
        tile.format(**report.tile) if report.kernel in KERNELS else "",
        report.register_text, str(report.spilled), str(report.local_bytes), str(report.groups),
        f"{report.share:.1f}", f"{report.rate:.2f}", reads, ", ".join(report.broken) or "hold",
    ]  # fmt: skip


SUMMARY = ("target", "kernels", "registers", "spilled", "groups", "FMA %", "FMA/ins", "tiles",
           "limits")  # fmt: skip


def span(values: Sequence[float], digits: int = 0) -> str:
    """least … greatest."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} … {high}"


def summary(found: Sequence[Report]) -> list[list[str]]:
    """A row for each target."""
    rows = []
    for target in sorted({r.target for r in found}, key=TARGETS.index):
        ours = [r for r in found if r.target == target]
        tiles = Counter("{tile_rows}x{tile_columns}".format(**r.tile) for r in ours)
        rows.append([
            target, str(len(ours)), span([r.registers for r in ours]),
            str(sum(r.spilled for r in ours)), span([r.groups for r in ours]),
            span([r.share for r in ours], 1), span([r.rate for r in ours], 2),
            ", ".join(f"{count} {tile}" for tile, count in tiles.most_common()),
            str(sum(bool(r.broken) for r in ours)) + " broken",
        ])  # fmt: skip
    return rows


BOUND = ("registers", "FMA %")


def bound_table(found: Sequence[Report]) -> str:
    """A row for each target of what memory bounds."""
    kinds = {"windows": WINDOWS, "few columns": FEW_COLUMNS, "transforms": TRANSFORMS}
    kinds = {
        name: kernels for name, kernels in kinds.items() if any(r.kernel in kernels for r in found)
    }
    header = ["target"]
    for kind in kinds:
        header += [kind, *BOUND]
    header += ["spilled", "flat", "limits"]
    rows = []
    for target in sorted({r.target for r in found}, key=TARGETS.index):
        ours = [r for r in found if r.target == target]
        row = [target]
        for kernels in kinds.values():
            some = [r for r in ours if r.kernel in kernels]
            row.append(str(len(some)))
            row += (
                [span([r.registers for r in some]), span([r.share for r in some], 1)]
                if some
                else ["", ""]
            )
        row += [str(sum(r.spilled for r in ours)), str(sum(r.flat for r in ours))]
        rows.append([*row, str(sum(bool(r.broken) for r in ours)) + " broken"])
    return table(header, rows, header[1:-1])


def main(words: Sequence[str] | None = None) -> int:
    """Prints the tables; 0 where all limits hold, 1 where not, 2 where a compiler is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=lambda t: t.split(","), default=list(TARGETS),
                        help=f"separated by commas, of {', '.join(TARGETS)}")  # fmt: skip
    parser.add_argument("--layers", default="", help="a regular expression of names")
    parser.add_argument("--variant", default="auto",
                        help="all plans of a variant; auto: what the planner picks")  # fmt: skip
    parser.add_argument("--intel-root", default="",
                        help="where Intel's packages were unpacked")  # fmt: skip
    parser.add_argument("--keep", type=Path, help="a JSON file of what was compiled before")
    parser.add_argument("--summary", action="store_true", help="a line for each target only")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args(words)
    unknown = [t for t in arguments.targets if t not in TARGETS]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")
    kept = {}
    if arguments.keep and arguments.keep.exists():
        kept = json.loads(arguments.keep.read_text())
    needed = {"gfx": "clang-19", "sm": "llc-19", "intel": "ocloc"}
    missing = {
        v
        for v in {vendor(t) for t in arguments.targets}
        if shutil.which(needed[v]) is None and not (v == "intel" and arguments.intel_root)
    }
    for name in sorted(missing):
        print(f"no compiler for {name}: {INSTALL[name]}", file=sys.stderr)
    if missing:
        return 2
    found, others = [], Counter()
    try:
        for report in reports(arguments, kept, others):
            found.append(report)
    except isa_report.ToolError as error:
        print(f"{error}\nIs it installed? {'; '.join(INSTALL.values())}", file=sys.stderr)
        return 2
    finally:
        if arguments.keep:
            arguments.keep.write_text(json.dumps(kept, indent=0))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in found], indent=0))
    products = [r for r in found if r.kernel in KERNELS]
    bound = [r for r in found if r.kernel not in KERNELS]
    if products and arguments.summary:
        print(table(SUMMARY, summary(products), SUMMARY[1:7]))
    elif products:
        print(table(HEADER, [line(r) for r in products], RIGHT))
    if bound:
        print("\nWhat memory bounds: windows of few channels, few columns, transforms of tiles")
    if bound and arguments.summary:
        print(bound_table(bound))
    elif bound:
        print(table(HEADER, [line(r) for r in bound], RIGHT))
    for name, count in others.items():
        print(f"not compiled: {name} on {count} targets")
    broken = sum(bool(r.broken) for r in found)
    print(f"{len(found)} kernels, limits broken in {broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
