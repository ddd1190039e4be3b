"""All kernels that a model needs, built before it needs them, on all cores."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from clconv.errors import ProblemError
from clconv.rehearsal import Rehearsal
from clconv.runtime import default_runtime
from clconv.torch.conversion import check_model
from clconv.torch.reporting import call, run

_log = logging.getLogger(__name__)


def warm_up(
    model: nn.Module,
    example_input: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    training: bool | None = None,
) -> int:
    """Builds every kernel that a model needs for inputs like this one, on all cores.

    They are kept on disk, too. The model's next call compiles nothing. The model runs once, but its
    convolutions with clconv compute nothing, and their results are made up: in eval mode and
    without gradients, or for training in the modes that its layers have, and then its buffers are
    as before. Random generators are, too. On a terminal a bar shows how far it is.

    Args:
        model: any torch.nn.Module that clconv computes a part of.
        example_input: the model's one argument, a tuple or list of them, or a mapping of keyword
            arguments.
        training: whether the kernels of the backward pass are built, too; None means as the model's
            mode says.

    Returns:
        How many kernels there are.

    Raises:
        ProblemError: clconv computes nothing (see `convert` and `report`), or for training the
            model gives no tensor with a gradient. What the model raises comes through.
        OutOfMemoryError: nothing fits the device.

    Examples:
        >>> from clconv.torch import convert
        >>> layer = nn.Conv1d(1, 2, 3).eval()
        >>> convert(layer), warm_up(layer, torch.zeros(1, 1, 9))
        (1, 1)
    """
    check_model(model)
    if not isinstance(training, bool | None):
        raise ProblemError(f"training is {training!r}, expected True, False or None")
    backward = model.training if training is None else training
    runtime, begun = default_runtime(), time.perf_counter()
    while True:
        rehearsal = Rehearsal(runtime)
        with rehearsal, torch.random.fork_rng(devices=[]):
            if backward:
                _train(model, example_input)
            else:
                run(model, example_input)
        launches = rehearsal.asked_for
        if not launches:
            raise ProblemError(
                "model computed no convolution with clconv, expected layers of clconv's: "
                "clconv.torch.report(model, inputs) says why"
            )
        count = runtime.build_all(launches)
        if not rehearsal.refused():  # else other plans are taken, now that more is known
            _log.info("%d kernels are ready after %.1f s", count, time.perf_counter() - begun)
            return count


def _train(model: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> None:
    """Lets a model compute its results and the gradients of all that wants some."""
    if any(is_lazy(one) for one in (*model.parameters(), *model.buffers())):
        raise ProblemError(
            "model has parameters without a shape, expected a lazy model that has seen an input"
        )
    with torch.enable_grad(), _same_buffers(model):
        output = call(model, inputs)
        given = (one for one in tree_leaves(inputs) if isinstance(one, Tensor) and one.is_leaf)
        wanted = [one for one in (*model.parameters(), *given) if one.requires_grad]
        results = [one for one in _tensors(output) if one.requires_grad]
        if not wanted:
            return
        if not results:
            raise ProblemError(
                f"model gave a {type(output).__name__} without tensors that have gradients, "
                "expected some for the backward pass; training=False builds the forward pass alone"
            )
        # Of a sum or a mean: one number for all, which takes a copy where others take none.
        ones = [torch.ones((), dtype=one.dtype).expand(one.shape) for one in results]
        torch.autograd.grad(results, wanted, ones, allow_unused=True)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a model gives: containers, and dataclasses of them."""
    for one in tree_leaves(output):
        if isinstance(one, Tensor):
            yield one
        elif is_dataclass(one):
            yield from _tensors([getattr(one, field.name) for field in fields(one)])


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Leaves a model's buffers, such as the statistics of its norms, as they were."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in kept:
                module._buffers[name] = buffer
                buffer.copy_(values)
