"""Which PyTorch models can take a signal in chunks? `stream` makes streams of clconv's layers.

The model is a chain: its layers run one after the other, each position of a result depending on
positions nearby. Weights are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from clconv.conv1d import Conv1D
from clconv.errors import ArrayTypeError, ModuleError
from clconv.layers.activation import Activation
from clconv.layers.convolution import Convolution
from clconv.layers.deconv1d import Deconv1D
from clconv.layers.module import Module
from clconv.layers.pad1d import Pad1D
from clconv.layers.sequential import Sequential
from clconv.runtime import default_runtime
from clconv.streaming import StreamingSequential
from clconv.streaming.stream import State
from clconv.torch.conversion import check_model
from clconv.torch.layers import Conv1d, ConvTranspose1d
from clconv.torch.memory import DTYPES, numpy_of, tensor_of

__all__ = ["TorchStream", "stream"]

PADDING_MODES = {"reflect": "reflect", "replicate": "edge"}
# What streams take of PyTorch's, for errors.
TAKEN = (
    "Sequential, Conv1d, ConvTranspose1d, padding that is not circular, ReLU, LeakyReLU, ELU, "
    "GELU, SiLU, Sigmoid, Tanh, Identity, and Dropout in evaluation mode"
)


class TorchStream:
    """A PyTorch model on a signal in chunks: tensors (N, C, T) or (C, T) in, the samples that they
    complete out. Made by `clconv.torch.stream`.

    `stream` is the StreamingSequential that computes it; `latency` and `stride` are its own. Copies
    and pickles go on where the original is.
    """

    def __init__(self, chain: StreamingSequential, dtype: torch.dtype) -> None:
        self.stream = chain
        self._dtype = dtype
        self._unbatched = False

    def __repr__(self) -> str:
        return f"<clconv.torch.TorchStream of {len(self.stream.streams)} layers>"

    def __call__(self, chunk: Tensor) -> Tensor:
        """The next samples, for the next T >= 0 samples. A call that raises changes nothing.

        Raises TypeError for what is no CPU tensor of the weights' dtype, ModuleError.
        """
        if not isinstance(chunk, Tensor) or chunk.device.type != "cpu":
            said = f"on {chunk.device}" if isinstance(chunk, Tensor) else type(chunk).__name__
            raise ArrayTypeError(f"chunk is {said}, expected a CPU tensor")
        if chunk.dtype != self._dtype:
            raise ArrayTypeError(f"chunk has dtype {chunk.dtype}, expected {self._dtype}")
        if chunk.dim() not in (2, 3):
            raise ModuleError(
                f"chunk has shape {tuple(chunk.shape)}, expected (N, C, T), or (C, T) unbatched"
            )
        unbatched = chunk.dim() == 2
        data = numpy_of(chunk[None] if unbatched else chunk)
        result = self.stream(self.stream.net.runtime.to_device(data))
        self._unbatched = unbatched
        return self._tensor(result)

    def flush(self) -> Tensor:
        """The samples that the padding after the signal still gives; the next chunk begins a new
        signal. Raises ModuleError before the first chunk."""
        return self._tensor(self.stream.flush())

    def _tensor(self, result: Any) -> Tensor:
        tensor = tensor_of(result.get())
        return tensor[0] if self._unbatched else tensor

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        self.stream.reset()

    @property
    def latency(self) -> int:
        """As of clconv.streaming's streams."""
        return self.stream.latency

    @property
    def stride(self) -> int | Fraction:
        """Samples in for one sample out."""
        return self.stream.stride

    def state_dict(self) -> State:
        """Where the stream is in its signal: numbers and NumPy arrays by name."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the stream was whose `state_dict` this is. Raises ModuleError."""
        self.stream.load_state_dict(state)


def stream(model: nn.Module, *, variant: str = "auto") -> TorchStream:
    """A stream of clconv's layers with the weights of a PyTorch model: chunk by chunk it gives what
    the model gives of the whole signal.

    The model is made of nn.Sequential, Conv1d and ConvTranspose1d (torch.nn's or clconv's; any
    padding but circular), nn's padding layers, ReLU, LeakyReLU, ELU, GELU, SiLU, Sigmoid, Tanh,
    Identity, and Dropout in evaluation mode. Weights are copied now. `variant` is that of the
    convolutions. Raises ModuleError that names what cannot be streamed and its path, TypeError for
    what is no model.
    """
    check_model(model)
    dtypes = {weight.dtype for weight in model.parameters()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        found = ", ".join(sorted(map(str, dtypes)))
        raise ModuleError(
            f"parameters have dtype {found}, expected one of {', '.join(map(str, DTYPES))}"
        )
    (dtype,) = dtypes
    net = Sequential()
    for path, layer in _layers(model, ""):
        for one in _streamed(layer, path):
            net.append(one)
    net.calcMode(str(dtype).removeprefix("torch."))
    net.evalMode()
    _take_weights(model, net)
    return TorchStream(StreamingSequential(net, variant=variant), dtype)


def _layers(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a chain in order, with their paths."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        _check_hooks(module, path)
        for name, inner in module._modules.items():
            yield from _layers(inner, f"{path}.{name}" if path else name)
    else:
        yield path, module


def _said(module: nn.Module, path: str) -> str:
    return f"{path or 'the model itself'}, {module},"


def _check_hooks(module: nn.Module, path: str) -> None:
    """ModuleError where something else runs with a module, but what sets its weight."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    others = [one for one in hooks if not hasattr(one, "compute_weight")]
    if others:
        raise ModuleError(
            f"{_said(module, path)} has the hook {others[0]!r}, expected none in a stream"
        )


def _place(module: Any) -> dict[str, Any]:
    """What Conv1d and ConvTranspose1d have in common, by the names of clconv's layers."""
    return {
        "size": module.kernel_size[0],
        "stride": module.stride[0],
        "dilation": module.dilation[0],
        "groups": module.groups,
        "useBias": module.bias is not None,
        "initscheme": "none",
    }


def _conv(module: Any, path: str) -> list[Module]:
    pad = module.padding
    if isinstance(pad, tuple):
        pad = pad[0]
    place = _place(module)
    made = Conv1D(module.in_channels, module.out_channels, **place)
    if isinstance(pad, str):
        pad = made.geometry._replace(padding=pad).pads(made.size)
    if module.padding_mode == "zeros":
        return [Conv1D(module.in_channels, module.out_channels, pad=pad, **place)]
    if module.padding_mode not in PADDING_MODES:
        raise ModuleError(
            f"{_said(module, path)} has padding_mode {module.padding_mode!r}, which puts the end "
            "of a signal before its beginning"
        )
    return [Pad1D(pad, PADDING_MODES[module.padding_mode]), made]


def _deconv(module: Any, path: str) -> list[Module]:
    place = _place(module)
    place |= {"pad": module.padding[0], "postpad": module.output_padding[0]}
    return [Deconv1D(module.in_channels, module.out_channels, **place)]


def _pad(mode: str) -> Callable[[Any, str], list[Module]]:
    def made(module: Any, path: str) -> list[Module]:
        pads = tuple(module.padding)
        if min(pads) < 0:
            raise ModuleError(f"{_said(module, path)} has padding {pads}, expected at least 0")
        value = getattr(module, "value", 0.0) if mode == "constant" else None
        return [Pad1D(pads, mode, value)]

    return made


def _activation(name: str, slope: str | None = None) -> Callable[[Any, str], list[Module]]:
    def made(module: Any, path: str) -> list[Module]:
        if getattr(module, "approximate", "none") != "none":
            raise ModuleError(
                f"{_said(module, path)} has approximate {module.approximate!r}, expected 'none'"
            )
        return [Activation(name, None if slope is None else float(getattr(module, slope)))]

    return made


def _nothing(module: Any, path: str) -> list[Module]:
    if module.training and not isinstance(module, nn.Identity):
        raise ModuleError(f"{_said(module, path)} is in training mode, expected model.eval()")
    return []


MADE: dict[type[nn.Module], Callable[[Any, str], list[Module]]] = {
    nn.Conv1d: _conv,
    Conv1d: _conv,
    nn.ConvTranspose1d: _deconv,
    ConvTranspose1d: _deconv,
    nn.ConstantPad1d: _pad("constant"),
    nn.ZeroPad1d: _pad("constant"),
    nn.ReflectionPad1d: _pad("reflect"),
    nn.ReplicationPad1d: _pad("edge"),
    nn.ReLU: _activation("relu"),
    nn.LeakyReLU: _activation("leaky_relu", "negative_slope"),
    nn.ELU: _activation("elu", "alpha"),
    nn.GELU: _activation("gelu"),
    nn.SiLU: _activation("silu"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout1d: _nothing,
    nn.AlphaDropout: _nothing,
}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """Which of PyTorch's modules computes this one's result."""
    for of in type(module).__mro__:
        if of in MADE:
            computes = ("forward", "_conv_forward")
            same = all(getattr(type(module), n, None) is getattr(of, n, None) for n in computes)
            own = any(n in vars(module) for n in computes)
            return of if same and not own else None
    return None


def _streamed(module: nn.Module, path: str) -> list[Module]:
    """clconv's layers for one of PyTorch's, without its weights."""
    kind = _kind(module)
    if kind is None:
        raise ModuleError(f"{_said(module, path)} cannot be streamed, expected {TAKEN}")
    _check_hooks(module, path)
    try:
        return MADE[kind](module, path)
    except ModuleError as error:
        if str(error).startswith(_said(module, path)):
            raise
        raise ModuleError(f"{_said(module, path)} cannot be streamed: {error}") from error


def _take_weights(model: nn.Module, net: Sequential) -> None:
    """Copies the weights; the convolutions of both are in the same order."""
    theirs: list[Any] = [
        layer
        for _, layer in _layers(model, "")
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
    ]
    ours = [one for one in net if isinstance(one, Convolution)]
    runtime = default_runtime()
    for layer, own in zip(theirs, ours, strict=True):
        for name, tensor in (("W", layer.weight), ("b", layer.bias)):
            if tensor is not None:
                variable = own.getVar(name)
                values = numpy_of(tensor).reshape(variable.data.shape)
                variable.replace(runtime.to_device(values), None)
