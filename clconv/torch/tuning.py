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


class Tuned(list[Record]):
    """What `tune` found: a record of each pass.

    It is a list; printed, it has a line for each: the pass, the shapes of input and weight, the
    variant that won, its time, how many times as fast it is as what was taken untuned, and how many
    of the candidates the time was enough for.
    """

    def __repr__(self) -> str:
        return "\n".join(map(_line, self))


def _line(record: Record) -> str:
    problem, winner, untuned = record.key.problem, record.winner, record.untuned
    told = [record.choice.variant]
    if winner.median_us is not None:
        told.append(f"{winner.median_us:.1f} us")
        if untuned is not None and untuned.median_us is not None:
            told.append(f"{untuned.median_us / winner.median_us:.2f} times as fast as untuned")
    timed = sum(one.median_us is not None for one in record.candidates)
    told.append(f"{timed} of {len(record.candidates) + record.left_out} candidates timed")
    name = record.key.pass_.value.replace("_", " ")
    return f"{name}  {problem.input_shape} * {problem.weight_shape}  {', '.join(told)}"


def tune(
    model: nn.Module,
    example_input: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    seconds: float | None = None,
) -> Tuned:
    """Times the candidates of a model's 1-D convolutions, and remembers the fastest.

    The model computes the input once, in eval mode and without gradients. The kernels that are
    fastest for what it computes with clconv there are recorded for the default runtime's device,
    and used from then on. A model in training mode gets them for the backward pass, too.

    Args:
        model: any torch.nn.Module that clconv computes a part of.
        example_input: the model's one argument, a tuple or list of them, or a mapping of keyword
            arguments.
        seconds: how long a pass may take, compiling included; None means 5.

    Returns:
        A list of the records of all passes, printed one a line: what won, and how many times as
        fast it is. Where few of the candidates were timed, more `seconds` may find better ones.

    Raises:
        ProblemError: clconv computes nothing (see `convert` and `report`).
        OutOfMemoryError: nothing fits the device. What the model raises comes through.
        DeviceError: no candidate runs.

    Examples:
        >>> import torch
        >>> from clconv.torch import convert
        >>> layer = torch.nn.Conv1d(1, 2, 3).eval()
        >>> _ = convert(layer)
        >>> len(tune(layer, torch.zeros(1, 1, 99), seconds=0.1))
        1
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
    records = Tuned()
    with progress.bar("tuning", "pass", len(tasks)) as shown:
        for task in tasks:
            records.append(tuning.tune(runtime, *task, seconds=seconds))
            shown.tell(len(records))
    return records
