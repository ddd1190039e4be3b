#!/usr/bin/env python3
"""Do the GPU variants race, or touch memory out of bounds, and how often do they read? By Oclgrind.

Runs an example of each variant for each tile that it can pick for a GPU, all passes, and transposed
convolutions by each variant (of one alone with `--only NAME`), under Oclgrind (Debian's package
`oclgrind`) with its data-race and API checks, or each nth of these (`--every N`), compares the
results, and fails on any report but the device queries that pyopencl itself makes. Then counts
global reads: windows read each element of the input at most twice, products of few columns each
weight once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from transposed import extended, transposed_problem

from clconv import Conv1dProblem, KernelPlan, Pass, Runtime, testing
from clconv import functional as F
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.variants import VARIANTS, serves
from clconv.variants.base import EXACT, Design, Request, geometry_constants, phase_constants
from clconv.variants.gemm import gemv

PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
# Transposed: the length of x, kernel size, stride, dilation, output_padding. Whole strides of that
# lie beyond every window; one has few columns.
BEYOND = ((10, 3, 1, 3, 2), (1, 3, 1, 5, 3), (9, 2, 2, 5, 4))
# Products of more planes take too long here to be run by each tile.
FEW_PLANES = 10
# Rows longer than a work-group's positions, windows as wide as half of them.
READ = Conv1dProblem(1, 2, 2000, 2, 65, 1, 32, 1, 2)
# One column, and as many as a work-group has: (problem, columns).
WEIGHTS = ((Conv1dProblem(1, 64, 1, 64, 1), 1), (Conv1dProblem(8, 64, 1, 64, 4, 1, (1, 2)), 8))


def devices() -> Iterator[DeviceProfile]:
    """The GPUs that there are profiles of, whole and with the smallest work-groups."""
    for device in PROFILES.values():
        if device.kind == "gpu":
            yield device
            yield device.with_limits(16)


def made_plans(only: str = "") -> Iterator[KernelPlan]:
    """A plan for each tile that some profile can pick, and each kernel of it that may run first, on
    one of the variant's examples after the other; of the variant `only` unless that is empty.
    Designs that CPUs have too are oclgrind_check.py's."""
    variants = [one for one in VARIANTS if only in ("", one.NAME)]
    on_cpus = {one.NAME for one in variants if serves(one, PROFILES["cpu"])}
    seen: set[Hashable] = set()
    for turn, device in enumerate(devices()):
        for variant in variants:
            examples = [*variant.EXAMPLES.values()]
            for place in range(len(examples)):
                problem = examples[(place + turn) % len(examples)]
                for pass_ in PASSES:
                    request = Request(problem, pass_, device)
                    if variant.refusal(request) is not None:
                        continue
                    for design in sorted(variant.designs(request), key=_planes):
                        if variant.NAME in on_cpus and not design.measured_only:
                            continue
                        for made in _first_kernels(KernelPlan(request, variant.NAME, design)):
                            if (key := _tile_key(made)) not in seen:
                                seen.add(key)
                                yield made


def _planes(design: Design) -> int:
    """How many planes it has; 0 where it is no transform."""
    return design.tile.get("planes", 0)


def _first_kernels(made: KernelPlan) -> Iterator[KernelPlan]:
    """The plan with each of its kernels that it may run first."""
    if made.design.measured_only:  # all run, in their order
        yield made
        return
    for kernel in made.kernels:
        yield replace(made, request=replace(made.request, kernel=kernel.name))


def _tile_key(made: KernelPlan) -> Hashable:
    """What tells the kernels that run from others: all that is compiled in but for the layer. Of
    transforms that is much; and all planes have the same products."""
    problem = made.problem
    if made.design.measured_only:
        few = made.tile["planes"] < FEW_PLANES
        tile = tuple(made.tile.items()) if few else ()
        return made.variant, made.pass_, tile, problem.stride > 1, problem.dilation > 1
    layer = {name for name, _ in (*geometry_constants(problem), *phase_constants(problem))}
    return made.pass_, tuple(
        (launch.kernel.name, tuple(one for one in launch.kernel.constants if one[0] not in layer))
        for launch in made.launches
    )


def run(runtime: Runtime, made: KernelPlan, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The result of a plan, through functional."""
    runtime.forget_plans()
    runtime.candidates = lambda *_, **__: [made]
    try:
        return _through_functional(runtime, made, arrays)
    finally:
        del runtime.candidates
        runtime.forget_plans()


def _through_functional(
    runtime: Runtime, made: KernelPlan, arrays: dict[str, np.ndarray]
) -> np.ndarray:
    problem, pass_ = made.problem, made.pass_
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    if pass_ is Pass.FORWARD:
        return F.conv1d(arrays["x"], arrays["weight"], None, *geometry, variant=made.variant,
                        runtime=runtime)  # fmt: skip
    need = (pass_ is Pass.INPUT_GRADIENT, pass_ is Pass.WEIGHT_GRADIENT, False)
    grads = F.conv1d_backward(arrays["x"], arrays["weight"], arrays["grad_output"], *geometry,
                              need=need, variant=made.variant, runtime=runtime)  # fmt: skip
    return grads[0] if need[0] else grads[1]


def operands(problem: Conv1dProblem, pass_: Pass) -> dict[str, np.ndarray]:
    """Small integers for a pass."""
    rng = np.random.default_rng(0)
    shapes = {"x": problem.input_shape, "weight": problem.weight_shape,
              "grad_output": problem.output_shape}  # fmt: skip
    arrays = {name: testing.integers(rng, shape, problem.dtype) for name, shape in shapes.items()}
    if pass_ is Pass.FORWARD:
        del arrays["grad_output"]
    return arrays


def transposed(runtime: Runtime, variant: str, place: tuple[int, ...]) -> None:
    """A transposed convolution and its gradients; AssertionError where they are wrong."""
    length, size, stride, dilation, extra = place
    rng = np.random.default_rng(0)
    x, weight = (testing.integers(rng, s, "float32") for s in ((2, 8, length), (8, 3, size)))
    options = (stride, 0, extra, 2, dilation)
    y = F.conv_transpose1d(x, weight, None, *options, variant=variant, runtime=runtime)
    grad = testing.integers(rng, y.shape, "float32")
    grads = F.conv_transpose1d_backward(x, weight, grad, *options, variant=variant, runtime=runtime)
    problem = transposed_problem(
        x.shape, weight.shape, stride, (0, 0), extra, dilation, 2, "float32"
    )
    longer = extended(x, problem.out_length)
    for values, pass_, arrays in (
        (y, Pass.INPUT_GRADIENT, {"weight": weight, "grad_output": longer}),
        (grads[0], Pass.FORWARD, {"x": grad, "weight": weight}),
        (grads[1], Pass.WEIGHT_GRADIENT, {"x": grad, "grad_output": longer}),
    ):
        positions = length if pass_ is Pass.FORWARD else None
        testing.assert_right(values, problem, pass_, arrays, pass_.value, largest=4,
                              positions=positions)  # fmt: skip


def as_gpu() -> Runtime:
    """Oclgrind's device as a GPU."""
    runtime = Runtime()
    runtime.profile = replace(runtime.profile, kind="gpu", lanes=32, vector_floats=1)
    return runtime


def inside(only: str, nth: int) -> int:
    """Runs every nth plan, of one variant unless that is empty; the number of wrong results."""
    runtime, wrong = as_gpu(), 0
    for variant in VARIANTS:
        if only not in ("", variant.NAME) or not serves(variant, runtime.profile):
            continue
        for place in BEYOND if variant.ERROR_CLASS is EXACT else ():
            name = f"transposed, {variant.NAME} {place}"
            try:
                transposed(runtime, variant.NAME, place)
            except AssertionError as error:
                wrong += 1
                name += f": {error}"
            print(name, flush=True)
    for place, made in enumerate(made_plans(only)):
        # Another one of each n, so that no pass is left out where plans come in a rhythm.
        if (place + place // nth) % nth:
            continue
        arrays = operands(made.problem, made.pass_)
        name = f"{made.variant} {made.pass_.value} {dict(made.tile)}"
        cases = [arrays]
        if made.pass_ is Pass.INPUT_GRADIENT:  # whose ends are summed again where there is a NaN
            cases.append(arrays | {"weight": np.full_like(arrays["weight"], np.inf)})
        try:
            with np.errstate(invalid="ignore"):
                for case in cases:
                    check(made, case, run(runtime, made, case))
        except AssertionError as error:
            wrong += 1
            name += f": {error}"
        print(name, flush=True)
    return wrong


def check(made: KernelPlan, arrays: dict[str, np.ndarray], result: np.ndarray) -> None:
    """AssertionError where a result is wrong. What is not finite has no bound: it is the
    definition's."""
    problem, pass_ = made.problem, made.pass_
    if made.sums_bound is None or all(np.isfinite(one).all() for one in arrays.values()):
        testing.assert_right(result, problem, pass_, arrays, largest=4, sums=made.sums_bound)
    else:
        expected = testing.evaluate(problem, pass_, arrays).astype(problem.dtype)
        testing.assert_exact(result, expected)


def reads(place: int) -> int:
    """Runs one pass of READ by the window variant, for Oclgrind to count."""
    runtime = as_gpu()
    made = plans(READ, PASSES[place], runtime.profile, variant="window")[0]
    run(runtime, made, operands(READ, PASSES[place]))
    return 0


def weights(place: int) -> int:
    """Runs a product of few columns, for Oclgrind to count; prints how many weights of a work-item
    meet an element of the input that it read."""
    runtime = as_gpu()
    problem, pass_ = WEIGHTS[place // 2][0], PASSES[place % 2]
    made = plans(problem, pass_, runtime.profile, variant="gemm")[0]
    run(runtime, made, operands(problem, pass_))
    print(gemv.tile(Request(problem, pass_, runtime.profile)).each)
    return 0


def loads(mode: str, place: int) -> tuple[int, str]:
    """(reads of global memory that a mode's kernel makes, what the mode printed)."""
    _, output, _ = under_oclgrind(["--inst-counts"], mode, str(place))
    counts = re.search(r"executed for kernel '\w+_(?:window|gemv)':(.*?)(?:\n\n|\Z)", output, re.S)[
        1
    ]
    found = re.findall(r"([\d,]+) - load global", counts)
    return sum(int(n.replace(",", "")) for n in found), output


def reads_are_few() -> bool:
    """Whether windows read each element of a row at most twice, few columns each weight once."""
    few = True
    for place, pass_ in enumerate(PASSES):
        found, _ = loads("--reads", place)
        # Rows of x or of the output's gradient; the weight gradient reads both, no weights.
        rows = int(np.prod(READ.input_shape))
        if pass_ is Pass.WEIGHT_GRADIENT:
            rows += int(np.prod(READ.output_shape))
        print(f"{pass_.value}: {found} reads of {rows} elements of rows: {found / rows:.2f} each")
        few &= found <= 2 * rows
    for place in range(2 * len(WEIGHTS)):
        (problem, columns), pass_ = WEIGHTS[place // 2], PASSES[place % 2]
        found, output = loads("--weights", place)
        each = int(re.search(r"^\d+$", output, re.M)[0])
        of_input = problem.weight_count // each * columns
        print(f"{pass_.value}, columns: {columns}: {found} reads, {of_input} of them of the input: "
              f"{(found - of_input) / problem.weight_count:.2f} of each weight")  # fmt: skip
        few &= found - of_input == problem.weight_count
    return few


def under_oclgrind(options: list[str], *mode: str) -> tuple[int, str, str]:
    """(exit status, output, reports) of this script in a mode."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        done = subprocess.run(
            ["oclgrind", *options, "--log", str(log), sys.executable, __file__, *mode],
            check=False, capture_output=True, text=True,
            env={**os.environ, "CLCONV_CACHE_DIR": folder, "PYOPENCL_NO_CACHE": "1"},
        )  # fmt: skip
        text = log.read_text() if log.exists() else ""
    return done.returncode, done.stdout, text + "\n\n" + done.stderr


def faults(reports: str) -> list[str]:
    """What Oclgrind found; not pyopencl's questions for properties that it does not know, nor for
    an attribute of programs, which it takes for a kernel's name."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", reports)]
    found = [b for b in blocks if "Oclgrind" in b or "Invalid" in b or "race" in b]
    found = [b for b in found if "Kernel '_source' not found" not in b]
    return [b for b in found if not ("CL_INVALID_VALUE" in b and "Info" in b)]


def main(only: str = "", nth: int = 1) -> int:
    """0 where, of every nth plan, Oclgrind finds nothing, results are right and reads are few."""
    try:
        options = ["--data-races", "--check-api"]
        status, output, reports = under_oclgrind(options, "--inside", only, str(nth))
    except FileNotFoundError:
        print("oclgrind is not installed: apt-get install oclgrind", file=sys.stderr)
        return 2
    print(output, end="")
    found = faults(reports)
    for fault in found[:10]:
        print(fault, file=sys.stderr)
    if status:
        print(reports[-2000:], file=sys.stderr)
    runs = len(output.splitlines())
    print(
        f"Oclgrind: {runs} plans, {len(found)} faults, {'some' if status else 'no'} wrong results"
    )
    return 0 if (only or reads_are_few()) and not found and not status else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(min(inside(sys.argv[2], int(sys.argv[3])), 1))
    if sys.argv[1:2] == ["--reads"]:
        sys.exit(reads(int(sys.argv[2])))
    if sys.argv[1:2] == ["--weights"]:
        sys.exit(weights(int(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [one.NAME for one in VARIANTS]
    parser.add_argument("--only", default="", choices=names, help="one variant alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth plan alone")
    chosen = parser.parse_args()
    if chosen.every < 1:
        parser.error(f"--every is {chosen.every}, expected at least 1")
    sys.exit(main(chosen.only, chosen.every))
