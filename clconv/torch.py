"""How does a PyTorch model compute its 1-D convolutions with clconv?

`convert(model)` exchanges a model's layers, `tune` finds the fastest kernels for them; `Conv1d` and
`ConvTranspose1d` are torch.nn's layers, `conv1d` and `conv_transpose1d` torch.nn.functional's
functions, with autograd (twice over) behind them. They are operators of PyTorch's dispatcher, so
that torch.compile keeps them in its graphs.

Tensors are CPU tensors. Where the device shares the host's memory (PoCL, integrated GPUs) kernels
read and write it in place; elsewhere every call copies tensors to the device and results back. A
call runs on the default runtime of its thread and returns when the result is there. bfloat16 is
computed in float32 and rounded at the end. Errors are clconv's: ProblemError for impossible shapes
and parameters, where PyTorch has a RuntimeError; TypeError for tensors on other devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import torch
from torch import Tensor, nn

from clconv import functional, tuning
from clconv.errors import ArrayTypeError, OutOfMemoryError, ProblemError
from clconv.problem import Padding, padding_pair, whole
from clconv.records import Record
from clconv.runtime import Runtime, default_runtime

__all__ = ["Conv1d", "ConvTranspose1d", "conv1d", "conv_transpose1d", "convert", "tune"]

Size = int | Sequence[int]
Gradients = tuple[Tensor | None, ...]  # of input, weight and bias
Shape = tuple[int, ...]
# The dtypes that kernels compute in; bfloat16 is computed in float32.
NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.float64: np.dtype(np.float64),
}
DTYPES = (*NUMPY, torch.bfloat16)


class _Layer(NamedTuple):
    """What an operator takes beside its tensors, in the order of its schema."""

    stride: int
    padding: list[int]
    dilation: int
    groups: int
    transposed: bool
    output_padding: int

    def out_length(self, length: int, kernel_size: int) -> int:
        """Output positions; 0 where there are none, which the function that is called refuses."""
        window, pads = self.dilation * (kernel_size - 1) + 1, sum(self.padding)
        if self.transposed:
            return max((length - 1) * self.stride + window - pads + self.output_padding, 0)
        return max((length + pads - window) // self.stride + 1, 0)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same for the functions of clconv.functional."""
        named = self._asdict()
        if not named.pop("transposed"):
            del named["output_padding"]
        return named


# Tensors as clconv's arrays


def shares_memory(runtime: Runtime) -> bool:
    """Whether the device reads and writes the host's memory itself."""
    return bool(runtime.device.host_unified_memory)


class _Arrays:
    """The tensors of one call as arrays of a runtime, in place where the device shares memory.

    There each is a buffer over the tensor's own memory, made anew for every call: OpenCL promises
    nothing of memory that the host writes while a buffer over it exists. Elsewhere they are NumPy
    arrays, which the functions copy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.in_place = shares_memory(runtime)
        self._copies: list[Tensor] = []
        self._spans: list[tuple[int, int]] = []
        self._written: list[cl_array.Array] = []

    def read(self, tensor: Tensor | None) -> Any:
        """An array with the values of a tensor of any strides; None for None."""
        if tensor is None:
            return None
        tensor = tensor.detach()
        if not self.in_place:
            return tensor.numpy()
        if tensor.data_ptr() % tensor.element_size() or not self._apart(tensor):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            self._copies.append(tensor)  # which lives until the kernels have read it
        return self._buffer(tensor, cl.mem_flags.READ_ONLY)

    def write(self, tensor: Tensor) -> Any:
        """An array whose values become those of a new, contiguous tensor, in `finish` at last."""
        if not self.in_place:
            return tensor.numpy()
        array = self._buffer(tensor, cl.mem_flags.READ_WRITE)
        if array.size:
            self._written.append(array)
        return array

    def finish(self) -> None:
        """Waits until the host sees what was written: mapping a buffer is what guarantees it."""
        queue = self.runtime.queue
        for left, array in enumerate(self._written, 1 - len(self._written)):
            memory: Any = array.base_data
            mapped, _ = cl.enqueue_map_buffer(
                queue, memory, cl.map_flags.READ, 0, array.shape, array.dtype, is_blocking=left == 0
            )
            mapped.base.release(queue)

    def _apart(self, tensor: Tensor) -> bool:
        """Whether no buffer of this call lies over the same memory, which OpenCL leaves undefined.

        A tensor with gaps, such as every second channel, counts from its first byte to its last.
        """
        begin = tensor.data_ptr()
        end = begin + _span(tensor) * tensor.element_size()
        if any(begin < other_end and other < end for other, other_end in self._spans):
            return False
        self._spans.append((begin, end))
        return True

    def _buffer(self, tensor: Tensor, flags: int) -> cl_array.Array:
        runtime, shape = self.runtime, tuple(tensor.shape)
        if tensor.numel() == 0:  # no buffer is that small
            return runtime.empty(shape, NUMPY[tensor.dtype])
        memory = tensor
        if not tensor.is_contiguous():
            memory = tensor.as_strided((_span(tensor),), (1,))
        try:
            buffer = cl.Buffer(
                runtime.context, flags | cl.mem_flags.USE_HOST_PTR, hostbuf=memory.numpy()
            )
        except (cl.MemoryError, cl.LogicError) as error:
            raise OutOfMemoryError(
                f"a tensor of {memory.nbytes} bytes; {runtime.info.name} takes at most "
                f"{runtime.profile.max_alloc_bytes} bytes at once"
            ) from error
        array = cl_array.Array.__new__(cl_array.Array)
        vars(array).update(_layout(shape, tensor.stride(), tensor.dtype))
        array.queue, array.context = runtime.queue, runtime.context
        array.base_data, array.events = buffer, []
        return array


@lru_cache(maxsize=1024)
def _layout(shape: Shape, steps: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """What arrays of one layout have in common: a constructor takes longer than a small kernel."""
    size = dtype.itemsize
    array = cl_array.Array(
        None, shape, NUMPY[dtype], data=0, strides=tuple(step * size for step in steps)
    )
    assert array.flags is not None  # worked out now, and kept
    return vars(array)


def _span(tensor: Tensor) -> int:
    """Elements of memory from a tensor's first to its last."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


# The operators


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    """The result, (N, Cout, Lout), on the device."""
    if x.dtype is torch.bfloat16:
        bias = None if bias is None else bias.float()
        return _convolution(x.float(), weight.float(), bias, *layer).to(x.dtype)
    one, arrays = _Layer(*layer), _Arrays(default_runtime())
    channels = weight.shape[1] * one.groups if one.transposed else weight.shape[0]
    length = one.out_length(x.shape[-1], weight.shape[2])
    y = x.new_empty((*x.shape[:-2], channels, length))
    call = functional.conv_transpose1d if one.transposed else functional.conv1d
    call(
        arrays.read(x),
        arrays.read(weight),
        arrays.read(bias),
        **one.arguments,
        out=arrays.write(y),
        runtime=arrays.runtime,
    )
    arrays.finish()
    return y


def _convolution_backward(
    x: Tensor, weight: Tensor, grad: Tensor, need: list[bool], *layer: Any
) -> Gradients:
    """The gradients of input, weight and bias that are needed, on the device."""
    if x.dtype is torch.bfloat16:
        found = _convolution_backward(x.float(), weight.float(), grad.float(), need, *layer)
        return tuple(None if t is None else t.to(x.dtype) for t in found)
    one, arrays = _Layer(*layer), _Arrays(default_runtime())
    shapes = (x.shape, weight.shape, (grad.shape[-2],))
    grads = tuple(
        x.new_empty(shape) if needed else None for shape, needed in zip(shapes, need, strict=True)
    )
    call = functional.conv_transpose1d_backward if one.transposed else functional.conv1d_backward
    call(
        arrays.read(x),
        arrays.read(weight),
        arrays.read(grad),
        **one.arguments,
        need=need,
        out=tuple(None if t is None else arrays.write(t) for t in grads),
        runtime=arrays.runtime,
    )
    arrays.finish()
    return grads


def _fake_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    """The shape of the result, by PyTorch's own arithmetic: sizes may be symbols here."""
    one = _Layer(*layer)
    if one.transposed:
        place = (one.stride, one.padding[0], one.output_padding, one.groups, one.dilation)
        y = nn.functional.conv_transpose1d(x, weight, bias, *place)
    else:
        padded = nn.functional.pad(x, one.padding)
        y = nn.functional.conv1d(padded, weight, bias, one.stride, 0, one.dilation, one.groups)
    return x.new_empty(y.shape)


def _fake_backward(
    x: Tensor, weight: Tensor, grad: Tensor, need: list[bool], *layer: Any
) -> Gradients:
    shapes = (x.shape, weight.shape, (grad.shape[-2],))
    return tuple(
        x.new_empty(shape) if needed else None for shape, needed in zip(shapes, need, strict=True)
    )


# Their gradients. A convolution is linear in its input and in its weight, and so are its gradients
# in the output's: what differentiates one is the other two, of the same layer.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.layer = inputs[3:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    need = list(ctx.needs_input_grad[:3])
    grads = torch.ops.clconv.convolution_backward(*ctx.saved_tensors, grad, need, *ctx.layer)
    return *grads, *(None for _ in ctx.layer)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3])
    ctx.layer = inputs[4:]


def _differentiate_backward(
    ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None
) -> tuple[Any, ...]:
    """Gradients of x, weight and the output's gradient for those of the three gradients."""
    x, weight, grad = ctx.saved_tensors
    need_x, need_weight, need_grad = ctx.needs_input_grad[:3]
    forward, backward = torch.ops.clconv.convolution, torch.ops.clconv.convolution_backward
    for_x = for_weight = for_grad = None
    if of_weight is not None and need_x:
        for_x = backward(x, of_weight, grad, [True, False, False], *ctx.layer)[0]
    if of_x is not None and need_weight:
        for_weight = backward(of_x, weight, grad, [False, True, False], *ctx.layer)[1]
    if need_grad:
        terms = []
        if of_x is not None:
            terms.append(forward(of_x, weight, None, *ctx.layer))
        if of_weight is not None:
            terms.append(forward(x, of_weight, None, *ctx.layer))
        if of_bias is not None:
            terms.append(of_bias[:, None].expand_as(grad))
        for_grad = sum(terms[1:], terms[0]) if terms else None
    return for_x, for_weight, for_grad, *(None for _ in range(1 + len(ctx.layer)))


_Library: Any = torch.library.Library  # untyped in torch
_LAYER = "int stride, int[] padding, int dilation, int groups, bool transposed, int output_padding"
_library: Any = _Library("clconv", "DEF")
for _signature, _compute, _fake, _backward, _setup in (
    (
        f"convolution(Tensor x, Tensor weight, Tensor? bias, {_LAYER}) -> Tensor",
        _convolution,
        _fake_convolution,
        _differentiate,
        _save,
    ),
    (
        "convolution_backward(Tensor x, Tensor weight, Tensor grad_output, bool[] need, "
        f"{_LAYER}) -> (Tensor, Tensor, Tensor)",
        _convolution_backward,
        _fake_backward,
        _differentiate_backward,
        _save_backward,
    ),
):
    _name = _library.define(_signature)
    _library.impl(_name, _compute, "CPU")
    torch.library.register_fake(f"clconv::{_name}", _fake, lib=_library)
    torch.library.register_autograd(
        f"clconv::{_name}", _backward, setup_context=_setup, lib=_library
    )


# What users call


def _checked(tensors: dict[str, Tensor | None]) -> list[Tensor | None]:
    """The tensors, in autocast's dtype where that is on; TypeError unless they are clconv's."""
    for name, tensor in tensors.items():
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor):
            raise ArrayTypeError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor")
        if tensor.device.type != "cpu":
            raise ArrayTypeError(
                f"{name} is a tensor on {tensor.device}, expected one on cpu: clconv takes it from "
                "there to its own device"
            )
        if tensor.layout is not torch.strided:
            raise ArrayTypeError(f"{name} has layout {tensor.layout}, expected torch.strided")
        if tensor.dtype not in DTYPES:
            raise ArrayTypeError(
                f"{name} has dtype {tensor.dtype}, expected one of {', '.join(map(str, DTYPES))}"
            )
    found = list(tensors.values())
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        found = [t if t is None or t.dtype is torch.float64 else t.to(dtype) for t in found]
    first = found[0]
    for name, tensor in zip(tensors, found, strict=True):
        if first is not None and tensor is not None and tensor.dtype is not first.dtype:
            raise ProblemError(
                f"{name} has dtype {tensor.dtype}, expected {first.dtype}, that of input"
            )
    return found


def _dimensions(input: Tensor, weight: Tensor, weight_shape: str) -> None:
    if input.dim() not in (2, 3):
        raise ProblemError(
            f"input has shape {tuple(input.shape)}, expected (N, C, L), or (C, L) unbatched"
        )
    if weight.dim() != 3:
        raise ProblemError(f"weight has shape {tuple(weight.shape)}, expected {weight_shape}")


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv1d: (N, Cout, Lout), or (Cout, Lout) of an unbatched input.

    input (N, Cin, L), weight (Cout, Cin / groups, K), bias (Cout,); padding in samples: an int,
    (left, right), "same" (the odd sample to the right, stride 1) or "valid". Raises TypeError for
    what is no CPU tensor of a floating dtype, ProblemError (which calls the input x), DeviceError.
    """
    tensors = _checked({"input": input, "weight": weight, "bias": bias})
    _dimensions(input, weight, "(Cout, Cin / groups, kernel_size)")
    one, step = whole("stride", stride, 1), whole("dilation", dilation, 1)
    window = step * (weight.shape[2] - 1) + 1
    pads = list(padding_pair(padding, window, one))
    result: Tensor = torch.ops.clconv.convolution(*tensors, one, pads, step, groups, False, 0)
    return result


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """torch.nn.functional.conv_transpose1d: (N, Cout, Lout), or (Cout, Lout) unbatched.

    input (N, Cin, L), weight (Cin, Cout / groups, K), bias (Cout,). Raises as conv1d does.
    """
    tensors = _checked({"input": input, "weight": weight, "bias": bias})
    _dimensions(input, weight, "(Cin, Cout / groups, kernel_size)")
    one, step = whole("stride", stride, 1), whole("dilation", dilation, 1)
    crop, extra = whole("padding", padding, 0), whole("output_padding", output_padding, 0)
    result: Tensor = torch.ops.clconv.convolution(
        *tensors, one, [crop, crop], step, groups, True, extra
    )
    return result


class Conv1d(nn.Conv1d):
    """torch.nn.Conv1d on clconv: (N, Cin, L) or (Cin, L) in, (N, Cout, Lout) or (Cout, Lout) out.

    Constructor, parameters and state dict are torch.nn's, every padding mode included.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        place: tuple[Any, ...] = (self.stride, self.padding, self.dilation, self.groups)
        if self.padding_mode != "zeros":
            ends = self._reversed_padding_repeated_twice
            input = nn.functional.pad(input, ends, mode=self.padding_mode)
            place = (self.stride, 0, self.dilation, self.groups)
        return conv1d(input, weight, bias, *place)


class ConvTranspose1d(nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d on clconv: (N, Cin, L) or (Cin, L) in, the same with Lout out.

    Constructor, parameters and state dict are torch.nn's, and so is `output_size` of a call.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        stride, padding, kernel_size, dilation = (
            [*one] for one in (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        extra = self._output_padding(input, output_size, stride, padding, kernel_size, 1, dilation)
        return conv_transpose1d(
            input, self.weight, self.bias, stride, padding, extra, self.groups, dilation
        )


OURS: dict[type, type] = {nn.Conv1d: Conv1d, nn.ConvTranspose1d: ConvTranspose1d}


def convert(model: nn.Module) -> int:
    """Lets every Conv1d and ConvTranspose1d of a model compute on clconv; how many there were.

    A layer stays the object it is, with its parameters, hooks and parametrizations, and only
    changes its class; so optimizers, shared layers and the model itself, if it is one, keep their
    place. Subclasses with a forward pass of their own are left alone.
    """
    if not isinstance(model, nn.Module):
        raise ArrayTypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    count = 0
    for layer in model.modules():
        of = type(layer)
        if of in OURS:
            layer.__class__ = OURS[of]
        elif nn.utils.parametrize.is_parametrized(layer) and of.__bases__[0] in OURS:
            # torch gives such a layer a class of its own, with the parametrized names.
            names = {k: v for k, v in vars(of).items() if k not in ("__dict__", "__weakref__")}
            layer.__class__ = type(of.__name__, (OURS[of.__bases__[0]],), names)
        else:
            continue
        count += 1
    return count


def tune(
    model: nn.Module, example_input: Tensor | Sequence[Any], *, seconds: float | None = None
) -> list[Record]:
    """Times the candidates of a model's 1-D convolutions, 5 s a pass unless told otherwise.

    The model computes `example_input`, its one argument or a tuple or list of them, once, in eval
    mode and without gradients; the kernels that are fastest for what its layers of clconv meet
    there are recorded for the default runtime's device, and used from then on. A model in training
    mode gets them for the backward pass, too. Raises ProblemError where no layer is clconv's (see
    `convert`), and what the model and clconv.tuning.tune raise.
    """
    if not isinstance(model, nn.Module):
        raise ArrayTypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    arguments = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    runtime = default_runtime()

    def call() -> None:
        with torch.no_grad():
            model(*arguments)

    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        tasks = tuning.tasks_of(runtime, call)
    finally:
        for module, mode in modes:
            module.training = mode
    if not tasks:
        raise ProblemError("model computed no convolution with clconv, expected layers of clconv's")
    if model.training:
        problems = dict.fromkeys(task.problem for task in tasks)
        tasks = [tuning.Task(one, pass_) for one in problems for pass_ in tuning.PASSES]
    return [tuning.tune(runtime, *task, seconds=seconds) for task in tasks]
