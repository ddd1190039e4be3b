"""Where is each convolution of a model computed, and why? Seen in one run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clconv.planning.planner import KernelPlan
from clconv.planning.records import RecordKey
from clconv.runtime import Prepared, Runtime, default_runtime
from clconv.torch.conversion import check_model, convolutions, is_ours, why_left
from clconv.torch.functions import conv1d, conv_transpose1d

DIRECTLY = "{} called directly"
OURS = (conv1d, conv_transpose1d)
THEIRS: dict[Any, str] = {
    torch.conv1d: "torch.nn.functional.conv1d",
    torch.conv_transpose1d: "torch.nn.functional.conv_transpose1d",
    torch.convolution: "torch.convolution",
}


@dataclass(frozen=True)
class Convolution:
    """A convolution of a model, as seen in one run.

    Attributes:
        layer: the name of the layer that has the weight, or that called it, "" where none did.
        function: the function that was called.
        input_shape: (N, Cin, L), or (Cin, L); () of a layer that was not called.
        weight_shape: that of the weight; () of a layer that was not called.
        where: "clconv", "PyTorch" or "nowhere".
        why: by which kernels, or why not on clconv.
    """

    layer: str
    function: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    where: str
    why: str

    def __str__(self) -> str:
        shapes = f"{self.input_shape} * {self.weight_shape}" if self.input_shape else ""
        by = "not computed" if self.where == "nowhere" else f"computed by {self.where}"
        return f"{self.layer or '-'}  {self.function} {shapes}  {by}: {self.why}"


class Report(tuple[Convolution, ...]):
    """What `report` found: each `Convolution` in the order of the calls, then those not called.

    It is a tuple; printed, it has a line for each.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(str, self))


def report(model: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> Report:
    """Each 1-D convolution of a model: where it ran, and why there.

    The model computes the inputs once, in eval mode and without gradients. Calls of
    torch.nn.functional are listed beside layers; what TorchScript or torch.compile compiled is not
    seen from here.

    Args:
        model: any torch.nn.Module.
        inputs: the model's one argument, a tuple or list of them, or a mapping of keyword
            arguments.

    Returns:
        A tuple of convolutions, printed one a line.

    Raises:
        ArrayTypeError: what is no model. What the model raises comes through.

    Examples:
        >>> [one.where for one in report(nn.Conv1d(1, 2, 3), torch.zeros(1, 1, 9))]
        ['PyTorch']
    """
    witness = _Witness(default_runtime())
    with witness, _Calls(model, witness) as calls:
        run(model, inputs)
    return Report(calls.found + calls.others())


def run(model: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> None:
    """Lets a model compute inputs once, and leaves it as it was: in eval mode meanwhile, without
    gradients."""
    check_model(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            call(model, inputs)
    finally:
        for module, mode in modes:
            module.training = mode


def call(model: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> Any:
    """What a model makes of its one argument, a tuple or list of them, or keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*(inputs if isinstance(inputs, (tuple, list)) else (inputs,)))


class _Witness(Runtime):
    """A runtime on another's queue that notes which plans it takes."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.queue, workspace_limit=runtime.workspace_limit)
        self.profile = runtime.profile
        self.taken: list[KernelPlan] = []

    def prepare(self, candidates: Iterable[KernelPlan]) -> Prepared:
        prepared = super().prepare(candidates)
        self.taken.append(prepared.plan)
        return prepared

    def why(self) -> str:
        """Which kernels computed the call since the last question, and whether tuning chose them:
        the user's, or what comes with clconv."""
        taken, self.taken = self.taken, []
        self.recipes.clear()  # or the next call of the same shapes would prepare nothing
        if not taken:
            return "nothing to compute"
        plan = taken[-1]
        tuned = self.records.choices(RecordKey(plan.problem, plan.pass_, self.workspace_limit))
        shipped = [one.choice for one in self.known_of(plan.problem.layer, plan.pass_)]
        chosen = "by the cost model"
        if plan.choice in tuned:
            chosen = "tuned"
        elif plan.choice in shipped:
            chosen = "by a record that comes with clconv"
        return f"{plan.variant} on {self.info.name}, {chosen}"


class _Calls(TorchFunctionMode):
    """Sees every call of a convolution while a model runs."""

    def __init__(self, model: nn.Module, witness: _Witness) -> None:
        super().__init__()
        self.found: list[Convolution] = []
        self._witness = witness
        self._model = model
        self._layers = dict(convolutions(model))
        self._names = {layer: name for name, layer in self._layers.items()}
        self._running: list[nn.Module] = []
        self._hooks = ExitStack()

    def __enter__(self) -> _Calls:
        for layer in self._names:
            if isinstance(layer, torch.jit.ScriptModule):
                continue
            for hook in (
                layer.register_forward_pre_hook(lambda layer, _: self._running.append(layer)),
                layer.register_forward_hook(lambda *_: self._running.pop() and None),
            ):
                self._hooks.callback(hook.remove)
        enter: Any = super().__enter__
        enter()
        return self

    def __exit__(self, *error: Any) -> None:
        leave: Any = super().__exit__
        leave(*error)
        self._hooks.close()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
        result = func(*args, **(kwargs or {}))
        if func in OURS:
            name = f"clconv.torch.{func.__name__}"
            self._note(name, named, "clconv", self._witness.why())
        elif func in THEIRS and named["weight"].dim() == 3:
            if self._witness.taken:  # in a block of `patched`
                self._note(THEIRS[func], named, "clconv", self._witness.why())
            else:
                self._note(THEIRS[func], named, "PyTorch", self._why_there(THEIRS[func]))
        return result

    def others(self) -> list[Convolution]:
        """The layers that no call belongs to."""
        called = {one.layer for one in self.found}
        return [
            Convolution(name, type(layer).__name__, (), (), *_unseen(layer))
            for name, layer in self._layers.items()
            if name not in called
        ]

    def _note(self, function: str, tensors: Mapping[str, Any], where: str, why: str) -> None:
        x, weight = tensors["input"], tensors["weight"]
        layer = self._names[self._running[-1]] if self._running else self._owner(weight)
        self.found.append(Convolution(layer, function, (*x.shape,), (*weight.shape,), where, why))

    def _owner(self, weight: Tensor) -> str:
        """The name of the layer whose weight it is, or is a view of."""
        for name, layer in self._layers.items():
            own = layer._parameters.get("weight")
            if own is not None and own.data_ptr() == weight.data_ptr():
                return name
        return ""

    def _why_there(self, function: str) -> str:
        if not self._running or is_ours(self._running[-1]):
            return DIRECTLY.format(function)
        return why_left(self._running[-1]) or "not converted: clconv.torch.convert(model) does"


def _unseen(layer: nn.Module) -> tuple[str, str]:
    """Where a layer was computed that was not seen, and why."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "PyTorch", "compiled by TorchScript"
    return "nowhere", "the model did not call it"
