"""The fastest kernels for a model's convolutions: found by timing, and remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from clconv import progress, tuning
from clconv.errors import ProblemError
from clconv.planning.records import Record
from clconv.runtime import default_runtime
from clconv.torch.reporting import run


def tune(
    model: nn.Module,
    example_input: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    seconds: float | None = None,
) -> list[Record]:
    """Times the candidates of a model's 1-D convolutions, 5 s a pass unless told otherwise.

    The model computes `example_input` once, in eval mode and without gradients: its one argument,
    a tuple or list of them, or a mapping of keyword arguments. The kernels that are fastest for
    what it computes with clconv there are recorded for the default runtime's device, and used from
    then on. A model in training mode gets them for the backward pass, too. Raises ProblemError
    where clconv computes nothing (see `convert` and `report`), and what the model and
    clconv.tuning.tune raise.
    """
    runtime = default_runtime()
    tasks = tuning.tasks_of(runtime, lambda: run(model, example_input))
    if not tasks:
        raise ProblemError(
            "model computed no convolution with clconv, expected layers of clconv's: "
            "clconv.torch.report(model, inputs) says why"
        )
    if model.training:
        problems = dict.fromkeys(task.problem for task in tasks)
        tasks = [tuning.Task(one, pass_) for one in problems for pass_ in tuning.PASSES]
    records = []
    with progress.bar("tuning", "pass", len(tasks)) as shown:
        for task in tasks:
            records.append(tuning.tune(runtime, *task, seconds=seconds))
            shown.tell(len(records))
    return records
