"""How does a plan run by itself, on arrays of its own?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv.planning.planner import KernelPlan
from clconv.problem import Conv1dProblem, Pass
from clconv.runtime import Argument, Runtime, arguments

__all__ = ["Arrays", "Bench", "integers", "shapes"]

# The kernels' operands, the written one last, and what they are of the convolution.
OPERANDS = {
    Pass.FORWARD: {"x": "x", "weight": "weight", "y": "grad_output"},
    Pass.INPUT_GRADIENT: {"x": "grad_output", "weight": "weight", "y": "x"},
    Pass.WEIGHT_GRADIENT: {"x": "x", "y": "grad_output", "result": "weight"},
}
FLAT = ("weight", "result")
NUMBERS = {"slope": 0.0, "scale": 1.0, "momentum": 0.0}

Arrays = Mapping[str, NDArray[Any]]


def shapes(problem: Conv1dProblem) -> dict[str, tuple[int, int, int]]:
    """The shapes of a problem's arrays.

    Args:
        problem: what is computed.

    Returns:
        Those of "x", "weight" and "grad_output".
    """
    names = ("x", "weight", "grad_output")
    every = (problem.input_shape, problem.weight_shape, problem.output_shape)
    return dict(zip(names, every, strict=True))


def integers(problem: Conv1dProblem) -> Arrays:
    """Arrays of whole numbers, so small that sums are exact in any order.

    Args:
        problem: what is computed.

    Returns:
        "x", "weight" and "grad_output".
    """
    largest = 4 if problem.terms(Pass.WEIGHT_GRADIENT) < 2**19 else 1
    # A prime number of values, repeated, so that no row is like the next.
    drawn = np.random.default_rng(1).integers(-largest, largest + 1, 65537)
    values = drawn.astype(problem.dtype)
    return {
        name: np.resize(np.roll(values, 1000 * place), shape)
        for place, (name, shape) in enumerate(shapes(problem).items())
    }


class Bench:
    """The arrays of one pass on a device, on which any of some plans runs.

    Args:
        runtime: the device.
        problem: what is computed.
        pass_: which pass, which reads two of the arrays and overwrites the third.
        values: "x", "weight" and "grad_output".
        plans: those that may run.
    """

    def __init__(
        self,
        runtime: Runtime,
        problem: Conv1dProblem,
        pass_: Pass,
        values: Arrays,
        plans: Iterable[KernelPlan],
    ) -> None:
        self._runtime = runtime
        *reads, (_, written) = OPERANDS[pass_].items()
        arrays = {name: runtime.to_device(values[name]) for _, name in reads}
        self._reads = list(arrays.values())
        self.out = arrays[written] = runtime.empty(shapes(problem)[written], problem.dtype)
        self._bound: dict[str, Argument] = {}
        for operand, name in OPERANDS[pass_].items():
            steps = [step // problem.dtype.itemsize for step in arrays[name].strides[:2]]
            self._bound[operand] = (arrays[name].base_data, 0, *(steps * (operand not in FLAT)))
        # Only one plan runs at a time, so that plans share what is of one name.
        sizes: dict[str, int] = {}
        for plan in plans:
            sizes |= dict.fromkeys(_workspace_operands(plan) - sizes.keys(), 0)
            for one in plan.workspaces:
                sizes[one.name] = max(sizes[one.name], one.nbytes)
        workspaces = {name: runtime.empty(size, np.uint8) for name, size in sizes.items()}
        self._bound |= {name: (array.base_data, 0) for name, array in workspaces.items()}
        self._writes = [self.out, *workspaces.values()]

    def job(self, plan: KernelPlan) -> Callable[[], None]:
        """What queues the plan, now built, with what it derives from the weights. Raises
        BuildError."""
        prepared = self._runtime.prepare([plan])
        launches = (*plan.preparation.launches, *plan.launches)
        commands = [
            (kernel, launch, arguments(launch, self._bound, NUMBERS))
            for kernel, launch in zip(self._runtime.kernels(prepared), launches, strict=True)
        ]
        return partial(self._runtime.enqueue, commands, self._reads, self._writes)

    def result(self, job: Callable[[], None]) -> NDArray[Any]:
        """What a job writes, where it writes nothing NaN."""
        self._runtime.fill(self.out, float("nan"))
        job()
        self._runtime.finish()
        found: NDArray[Any] = self.out.get(self._runtime.queue)
        return found


def _workspace_operands(plan: KernelPlan) -> set[str]:
    return {one.name for kernel in plan.kernels for one in kernel.operands if one.workspace}
