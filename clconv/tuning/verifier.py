"""Does a plan compute what it should?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import testing
from clconv.planning.planner import KernelPlan
from clconv.problem import Conv1dProblem, Pass
from clconv.runtime import Runtime
from clconv.tuning.bench import Arrays, Bench, integers

__all__ = ["Verifier", "excerpt_of"]

# The reference computes about so many products, at so many positions at most.
REFERENCE_PRODUCTS, REFERENCE_POSITIONS = 2e7, 70


def excerpt_of(problem: Conv1dProblem) -> Conv1dProblem:
    """A problem with the same kernels that the reference computes soon."""
    small = replace(problem, batch=min(problem.batch, 2))
    products = small.weight_count * small.batch
    positions = min(max(int(REFERENCE_PRODUCTS / products), 4), REFERENCE_POSITIONS)
    return small if small.out_length <= positions else small.shortened(positions)


class Verifier:
    """Tells what is wrong with a candidate's results.

    On an excerpt of the problem, whose kernels are the same, they must be the reference's. On the
    problem itself those of an exact candidate must be those of the first that passed, and those of
    another must be the reference's in one channel at either end. Exact ones must be equal, others
    keep their bound.
    """

    def __init__(
        self,
        runtime: Runtime,
        problem: Conv1dProblem,
        pass_: Pass,
        bench: Bench,
        candidates: Sequence[KernelPlan],
    ) -> None:
        self._pass = pass_
        self._problem = problem
        self._bench = bench
        self._first: NDArray[Any] | None = None
        self._excerpt = excerpt_of(problem)
        values = integers(self._excerpt)
        self._values = {name: values[name] for name in testing.OPERANDS[pass_]}
        self._expected = testing.evaluate(self._excerpt, pass_, self._values)
        small = [self._in_small(plan) for plan in candidates]
        self._small = Bench(runtime, self._excerpt, pass_, values, small)

    def _in_small(self, plan: KernelPlan) -> KernelPlan:
        """The same for the excerpt: the same kernel where several could run."""
        kernel = plan.launches[0].kernel.name
        return replace(plan, request=replace(plan.request, problem=self._excerpt, kernel=kernel))

    def fault(self, whole: KernelPlan, job: Callable[[], None]) -> str | None:
        """None where the results of a plan for the problem, and of the same on the excerpt, are
        right."""
        small = self._in_small(whole)
        found = self._small.result(self._small.job(small))
        wrong = _count_wrong(small, found, self._expected, self._values)
        if wrong:
            return f"{wrong} of {found.size} results differ from the reference's"
        found = self._bench.result(job)
        if whole.sums_bound is not None:
            wrong = sum(self._wrong_in_channel(whole, found, last) for last in (False, True))
            return f"{wrong} results of two channels differ from the reference's" if wrong else None
        if self._first is None:
            self._first = found
        wrong = int(np.count_nonzero(found != self._first))
        if wrong:
            return f"{wrong} of {found.size} results differ from the first candidate's"
        return None

    def _wrong_in_channel(self, plan: KernelPlan, found: NDArray[Any], last: bool) -> int:
        """How many results of the first or the last channel written are wrong: alone they are a
        problem that the reference computes soon, whatever its length."""
        one, values, result = one_channel(self._problem, self._pass, found, last)
        alone = replace(plan, request=replace(plan.request, problem=one))
        return _count_wrong(alone, result, testing.evaluate(one, self._pass, values), values)


def _count_wrong(
    plan: KernelPlan, found: NDArray[Any], expected: NDArray[Any], values: Arrays
) -> int:
    """How many results are not what the plan's error class has them be."""
    if plan.sums_bound is None:
        rounded = testing.rounded_to(expected, found.dtype)
        return int(np.count_nonzero(found != rounded))
    bound = testing.rounding_bound(plan.problem, plan.pass_, values, sums=plan.sums_bound)
    return int(np.count_nonzero(testing.outside(found, expected, bound)))


def one_channel(
    problem: Conv1dProblem, pass_: Pass, found: NDArray[Any], last: bool
) -> tuple[Conv1dProblem, Arrays, NDArray[Any]]:
    """The problem of the first or the last channel that a pass writes, its data (see `integers`),
    and what was found for it: for a weight gradient that of one channel read, too."""
    reads = _group(problem.group_in, problem.groups, last)
    writes = _group(problem.group_out, problem.groups, last)
    one = _group(1, problem.group_in, last)  # within its group
    if pass_ is Pass.FORWARD:
        writes = _group(1, problem.out_channels, last)
    elif pass_ is Pass.INPUT_GRADIENT:
        reads = _group(1, problem.in_channels, last)
    else:
        reads, writes = _group(1, problem.in_channels, last), _group(1, problem.out_channels, last)
    values = integers(problem)
    weight = values["weight"][writes]
    if pass_ is not Pass.FORWARD:
        weight = weight[:, one]
    arrays = {
        "x": values["x"][:, reads],
        "weight": weight,
        "grad_output": values["grad_output"][:, writes],
    }
    result = found[:, writes] if pass_ is Pass.FORWARD else found[:, reads]
    if pass_ is Pass.WEIGHT_GRADIENT:
        result = found[writes][:, one]
    alone = replace(
        problem,
        in_channels=reads.stop - reads.start,
        out_channels=writes.stop - writes.start,
        groups=1,
    )
    return alone, {name: arrays[name] for name in testing.OPERANDS[pass_]}, result


def _group(size: int, groups: int, last: bool) -> slice:
    """The channels of the first or the last of so many groups."""
    start = (groups - 1) * size if last else 0
    return slice(start, start + size)
