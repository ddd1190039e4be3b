"""What would a call queue? A runtime that plans it all, and builds and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array

from clconv.drivers.programs import HasSources
from clconv.planning.planner import KernelPlan, other_of_layer
from clconv.render import render
from clconv.runtime import Argument, Command, Prepared, Runtime
from clconv.variants.base import Kernel, Launch, Workspace

__all__ = ["Rehearsal"]

# Results are made of so many values, repeated; a prime number, so that no row is like the next.
VALUES = 65537


class Rehearsal(Runtime):
    """A runtime on another's queue for calls whose results do not matter: the convolutions of
    whatever runs on it give values between -1 and 1.

    It takes the plans that the other one would take, as far as is known what the device builds. To
    be entered: other threads find the other one, which is older.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(
            runtime.queue, workspace_limit=runtime.workspace_limit, exact=runtime.exact
        )
        self.profile = runtime.profile
        self.records = runtime.records
        self.programs = runtime.programs
        self._runtime = runtime
        self._kernels: dict[Kernel, None] = {}  # of the plans
        self._launches: dict[Launch, None] = {}
        self._values = np.random.default_rng(1).uniform(-1, 1, VALUES)

    @property
    def asked_for(self) -> list[Launch]:
        """What the calls so far would have queued; before it, one work-group of each kernel that
        their plans have, for whatever batch and length."""
        return [*(one.launch(one.local_size) for one in self._kernels), *self._launches]

    def refused(self) -> bool:
        """Whether the device is now known to refuse a kernel of what was planned."""
        return not self._builds(self._kernels)

    def _builds(self, kernels: Iterable[Kernel]) -> bool:
        return not any(self.programs.is_refused(render(one)) for one in kernels)

    def prepare(self, candidates: Iterable[KernelPlan]) -> Prepared:
        refused = []
        plans = iter(candidates)
        for plan in plans:
            if self._builds(plan.kernels):
                prepared = Prepared.of(plan, other_of_layer(plan, plans))
                for one in (plan, *prepared.others):
                    self.make_ready(one)
                return prepared
            refused.append(plan)
        return self._runtime.prepare(refused)  # which says why there is none

    def make_ready(self, plan: KernelPlan) -> None:
        self._kernels |= dict.fromkeys(plan.kernels)

    def kernels(self, prepared: HasSources) -> list[Any]:
        return [None] * len(prepared.sources)

    def allocated(self, workspaces: Iterable[Workspace]) -> dict[str, Any]:
        return dict.fromkeys(one.name for one in workspaces)

    def run_one(
        self,
        launch: Launch,
        bound: Mapping[str, Argument],
        numbers: Mapping[str, float],
        reads: Sequence[cl_array.Array],
        writes: Sequence[cl_array.Array],
    ) -> None:
        self._launches[launch] = None

    def enqueue(
        self,
        commands: Sequence[Command],
        reads: Sequence[cl_array.Array],
        writes: Sequence[cl_array.Array],
    ) -> None:
        self._launches |= dict.fromkeys(launch for _, launch, _ in commands)
        for array in writes:
            # What is read too, such as a state that an update changes, is the caller's.
            if array.size and not any(array is one for one in reads):
                values = np.resize(self._values.astype(array.dtype), array.shape)
                buffer: Any = array.base_data
                cl.enqueue_copy(self.queue, buffer, values, dst_offset=array.offset)
