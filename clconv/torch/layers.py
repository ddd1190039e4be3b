"""torch.nn's Conv1d and ConvTranspose1d, computed by clconv."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clconv.errors import ProblemError
from clconv.geometry import Geometry, Padding
from clconv.torch.functions import Size, conv1d, conv_transpose1d


def _not_scripted(layer: nn.Module) -> nn.Module:
    """What torch.jit.script asks a layer for; ProblemError."""
    raise ProblemError(
        f"torch.jit.script was given {layer}, expected PyTorch's own layers: call "
        "clconv.torch.revert(model) before, or torch.jit.trace, which keeps clconv's"
    )


class Conv1d(nn.Conv1d):
    """torch.nn.Conv1d, computed by clconv: (N, Cin, L) in, (N, Cout, Lout) out; unbatched, too.

    Parameters and state dict are torch.nn's, and so are the errors of its constructor.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: taps of a window.
        stride: samples from one window to the next, at least 1.
        padding: samples at both ends, "same" (stride 1), "valid", or "causal": dilation
            (kernel_size - 1) samples on the left alone, which PyTorch does not know.
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions, a divisor of Cin and Cout.
        bias: whether there is one.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device: where the parameters are, as in torch.nn; calls need them on the CPU.
        dtype: that of the parameters.

    Raises:
        ValueError: options that torch.nn refuses.

    Examples:
        >>> import torch
        >>> Conv1d(2, 4, 3, padding="causal")(torch.zeros(1, 2, 10)).shape
        torch.Size([1, 4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # torch.nn knows no such padding.
        place: Any = kernel_size, stride, 0 if padding == "causal" else padding, dilation
        rest: Any = groups, bias, padding_mode, device, dtype
        super().__init__(in_channels, out_channels, *place, *rest)
        if padding == "causal":
            self.padding = "causal"
            one = Geometry(padding="causal", dilation=self.dilation[0])
            self._reversed_padding_repeated_twice = [*one.pads(self.kernel_size[0])]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        place: tuple[Any, ...] = (self.stride, self.padding, self.dilation, self.groups)
        if self.padding_mode != "zeros":
            ends = self._reversed_padding_repeated_twice
            input = nn.functional.pad(input, ends, mode=self.padding_mode)
            place = (self.stride, 0, self.dilation, self.groups)
        return conv1d(input, weight, bias, *place)

    __prepare_scriptable__ = _not_scripted

    def extra_repr(self) -> str:
        said: Any = super().extra_repr
        return f"{said()}, backend=clconv"


class ConvTranspose1d(nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d, computed by clconv: (N, Cin, L) in, (N, Cout, Lout) out.

    Constructor, parameters and state dict are torch.nn's, and so is `output_size` of a call.

    Examples:
        >>> import torch
        >>> ConvTranspose1d(4, 2, 4, stride=2, padding=1)(torch.zeros(1, 4, 10)).shape
        torch.Size([1, 2, 20])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        stride, padding, kernel_size, dilation = (
            [*one] for one in (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        extra = self._output_padding(input, output_size, stride, padding, kernel_size, 1, dilation)
        return conv_transpose1d(
            input, self.weight, self.bias, stride, padding, extra, self.groups, dilation
        )

    __prepare_scriptable__ = _not_scripted

    def extra_repr(self) -> str:
        said: Any = super().extra_repr
        return f"{said()}, backend=clconv"
