#!/usr/bin/env python3
"""Do the GPU variants race, or touch memory out of bounds, and how often do they read? By Oclgrind.

Runs a tiny problem for each tile that the planner can pick for a GPU, all passes, and transposed
convolutions by each variant, under Oclgrind (Debian's package `oclgrind`) with its data-race and
API checks, compares the results, and fails on any report but the device queries that pyopencl
itself makes. Then counts global reads: windows read
each element of the input at most twice, products of few columns each weight once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from transposed import extended, transposed_problem

from clconv import Conv1dProblem, KernelPlan, Pass, Runtime, testing
from clconv import functional as F
from clconv.planning.cost import Cost
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES
from clconv.variants import gemm
from clconv.variants.base import Design, Request, Schedule
from clconv.variants.gemm import convolution, gemv, weight_gradient
from clconv.variants.gemm.tiles import Matrices, Tile, fitting

PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
# Fill no tile, and run on from one batch element to the next; the second has groups, phases, gaps.
DENSE = (Conv1dProblem(3, 5, 9, 6, 3, 1, 1), Conv1dProblem(2, 12, 13, 10, 4, 3, (2, 4), 2, 2))
FEW = (
    Conv1dProblem(2, 3, 21, 3, 3, 1, 1, 1, 3),  # depthwise
    Conv1dProblem(2, 4, 23, 8, 4, 3, (2, 4), 2, 4),  # with a multiplier, strided
    Conv1dProblem(1, 1, 30, 9, 5),  # few channels read
    Conv1dProblem(1, 9, 30, 1, 5, 1, 2),  # few channels written
    Conv1dProblem(2, 2, 40, 4, 17, 1, 3, 1, 2),  # many taps
)
# Few columns: one, eight and nine, from one batch element and more, groups and phases.
SHORT = (
    Conv1dProblem(1, 20, 3, 24, 3),
    Conv1dProblem(8, 12, 4, 10, 4, 3, 0, 1, 2),
    Conv1dProblem(3, 5, 9, 6, 3, 2, (1, 0), 2),
)
# Transposed: the length of x, kernel size, stride, dilation, output_padding. Whole strides of that
# lie beyond every window; one has few columns.
BEYOND = ((10, 3, 1, 3, 2), (1, 3, 1, 5, 3), (9, 2, 2, 5, 4))
# Rows longer than a work-group's positions, windows as wide as half of them.
READ = Conv1dProblem(1, 2, 2000, 2, 65, 1, 32, 1, 2)
# One column, and as many as a work-group has: (problem, columns).
WEIGHTS = ((Conv1dProblem(1, 64, 1, 64, 1), 1), (Conv1dProblem(8, 64, 1, 64, 4, 1, (1, 2)), 8))


def tiles() -> set[Tile]:
    """Every tile of a product of matrices that some profile, whole or cut down, can pick."""
    found = set()
    for device in PROFILES.values():
        if device.kind != "gpu":
            continue
        for limit in (16, device.max_work_group_size):
            for dtype in (np.float32, np.float64):
                problem = replace(DENSE[0], dtype=dtype)
                request = Request(problem, Pass.FORWARD, device.with_limits(limit))
                if gemm.refusal(request) is None:
                    found |= set(fitting(request))
    return found


def few_columns(runtime: Runtime) -> Iterator[KernelPlan]:
    """Products of few columns, by every tile that some profile, whole or cut down, can pick."""
    for problem in SHORT:
        for pass_ in PASSES[:2]:
            request = Request(problem, pass_, runtime.profile)
            first = plans(problem, pass_, runtime.profile, variant="gemm")[0]
            gpus = [one for one in PROFILES.values() if one.kind == "gpu"]
            limited = [one.with_limits(16) for one in gpus]
            picked = {gemv.tile(replace(request, device=one)) for one in (*gpus, *limited)}
            for tile in sorted(picked, key=str):
                yield replace(first, design=_few_columns(request, tile))


def _few_columns(request: Request, tile: gemv.Tile) -> Design:
    """The one kernel of a product of few columns."""
    kernel = gemv.kernel(request, tile)

    def schedule(wanted: Request) -> Schedule:
        return Schedule((gemv.launch(wanted, tile, kernel),))

    return Design(asdict(tile), (kernel,), Cost(), schedule)


def made_plans(runtime: Runtime) -> Iterator[KernelPlan]:
    """The plans to run."""
    convolution.few_columns_pay = lambda *_: False  # but where asked for
    for place, tile in enumerate(sorted(tiles(), key=str)):
        for pass_ in PASSES:
            problem = DENSE[(place + PASSES.index(pass_)) % 2]
            matrices = Matrices(Request(problem, pass_, runtime.profile))
            make = (weight_gradient if matrices.weights else convolution).design
            first = plans(problem, pass_, runtime.profile, variant="gemm")[0]
            yield replace(first, design=make(matrices, tile))
    yield from few_columns(runtime)
    for problem in FEW:
        for pass_ in PASSES:
            found = plans(problem, pass_, runtime.profile, variant="window")
            yield from found if pass_ is Pass.WEIGHT_GRADIENT else found[:: max(1, len(found) // 2)]


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
    arrays = {name: testing.integers(rng, shape, "float32") for name, shape in shapes.items()}
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


def inside() -> int:
    """Runs the kernels; the number of wrong results."""
    runtime, wrong = as_gpu(), 0
    for variant in ("direct", "gemm", "window"):
        for place in BEYOND:
            name = f"transposed, {variant} {place}"
            try:
                transposed(runtime, variant, place)
            except AssertionError as error:
                wrong += 1
                name += f": {error}"
            print(name, flush=True)
    for made in made_plans(runtime):
        arrays = operands(made.problem, made.pass_)
        name = f"{made.variant} {made.pass_.value} {dict(made.tile)}"
        cases = [arrays]
        if made.pass_ is Pass.INPUT_GRADIENT:  # whose ends are summed again where there is a NaN
            cases.append(arrays | {"weight": np.full_like(arrays["weight"], np.inf)})
        try:
            with np.errstate(invalid="ignore"):
                for case in cases:
                    testing.assert_right(run(runtime, made, case), made.problem, made.pass_, case,
                                          largest=4)  # fmt: skip
        except AssertionError as error:
            wrong += 1
            name += f": {error}"
        print(name, flush=True)
    return wrong


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
    """What Oclgrind found; not pyopencl's questions for properties that it does not know."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", reports)]
    found = [b for b in blocks if "Oclgrind" in b or "Invalid" in b or "race" in b]
    return [b for b in found if not ("CL_INVALID_VALUE" in b and "Info" in b)]


def main() -> int:
    """0 where Oclgrind finds nothing, results are right and reads are few."""
    try:
        status, output, reports = under_oclgrind(["--data-races", "--check-api"], "--inside")
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
    return 0 if reads_are_few() and not found and not status else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        sys.exit(min(inside(), 1))
    if sys.argv[1:2] == ["--reads"]:
        sys.exit(reads(int(sys.argv[2])))
    if sys.argv[1:2] == ["--weights"]:
        sys.exit(weights(int(sys.argv[2])))
    sys.exit(main())
