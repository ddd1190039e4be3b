"""conv1d and conv_transpose1d with the arguments of torch.nn.functional's.

Tensors are checked here, and brought to autocast's dtype; what comes after is the dispatcher's.
Both can be overridden as PyTorch's own functions, by subclasses of Tensor and by modes, which is
how torch.fx traces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from clconv.errors import ArrayTypeError, ProblemError
from clconv.geometry import Geometry, Padding, whole
from clconv.torch.memory import DTYPES
from clconv.torch.operators import CONVOLUTION

Size = int | Sequence[int]


def _checked(**tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors, in autocast's dtype where that is on; TypeError unless they are clconv's."""
    given = tuple(tensors.values())
    if not torch.is_autocast_enabled("cpu") and _are_plain(*given):
        return given  # what most calls have, in the least time
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
        if tensor.is_nested:
            raise ArrayTypeError(
                f"{name} is a nested tensor, expected one of a shape: "
                f"torch.nested.to_padded_tensor({name}, 0.0) gives one"
            )
        if tensor.layout is not torch.strided:
            raise ArrayTypeError(
                f"{name} has layout {tensor.layout}, expected torch.strided: "
                f"{name}.to_dense() gives one"
            )
        if tensor.dtype not in DTYPES:
            raise ArrayTypeError(
                f"{name} has dtype {tensor.dtype}, expected one of "
                f"{', '.join(map(str, DTYPES))}: {_way_out(name, tensor)}"
            )
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        given = tuple(t if t is None or t.dtype is torch.float64 else t.to(dtype) for t in given)
    first = given[0]
    for name, tensor in zip(tensors, given, strict=True):
        if first is not None and tensor is not None and tensor.dtype is not first.dtype:
            raise ProblemError(
                f"{name} has dtype {tensor.dtype}, expected {first.dtype}, that of input: "
                f"{name}.to(input.dtype) gives one"
            )
    return given


def _way_out(name: str, tensor: Tensor) -> str:
    """What to do with a tensor of a dtype that clconv does not compute in."""
    if tensor.is_complex():
        return f"call it for {name}.real and for {name}.imag, since it is linear in each tensor"
    if tensor.is_quantized:
        return f"{name}.dequantize() gives one"
    return f"{name}.float() gives one"


def _are_plain(input: Any, weight: Any, bias: Any) -> bool:
    """Whether there is nothing to say of the tensors: strided ones in memory, of one dtype."""
    for tensor in (input, weight) if bias is None else (input, weight, bias):
        if not isinstance(tensor, Tensor) or not tensor.is_cpu:
            return False
        if tensor.layout is not torch.strided or tensor.dtype is not input.dtype:
            return False
        if tensor.is_nested:
            return False
    return input.dtype in DTYPES


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
    """torch.nn.functional.conv1d, computed by clconv, with derivatives of any order.

    Args:
        input: (N, Cin, L), or (Cin, L) unbatched; called x in errors.
        weight: (Cout, Cin / groups, K).
        bias: (Cout,), or None.
        stride: samples from one window to the next, at least 1.
        padding: zeros in samples: an int, (left, right), "same" (the odd sample to the right,
            stride 1), "valid" or "causal" (on the left alone, so that no output needs a sample
            after its own).
        dilation: samples from one tap of a window to the next, at least 1.
        groups: how many independent convolutions, a divisor of Cin and Cout.

    Returns:
        (N, Cout, Lout), or (Cout, Lout) of an unbatched input.

    Raises:
        TypeError: what is no CPU tensor of a floating dtype.
        ProblemError: shapes and options that no convolution has.
        DeviceError: a device that fails.

    Examples:
        >>> conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding="causal")
        tensor([[[1., 2., 3., 3.]]])
    """
    if has_torch_function((input, weight, bias)):
        overridden: Tensor = handle_torch_function(
            conv1d, (input, weight, bias),
            input, weight, bias, stride, padding, dilation, groups,
        )  # fmt: skip
        return overridden
    tensors = _checked(input=input, weight=weight, bias=bias)
    _dimensions(input, weight, "(Cout, Cin / groups, kernel_size)")
    if torch.onnx.is_in_onnx_export():  # whose exporters know PyTorch's own function
        if padding == "causal":
            padding = Geometry(padding=padding, dilation=whole("dilation", dilation, 1)).pads(
                weight.shape[2]
            )
        if not isinstance(padding, (int, str)) and len(padding) == 2:
            input, padding = nn.functional.pad(input, [*padding]), 0
        return nn.functional.conv1d(input, weight, bias, stride, padding, dilation, groups)
    geometry = geometry_of_conv1d(weight, stride, padding, dilation, groups)
    result: Tensor = CONVOLUTION(*tensors, *geometry)
    return result


def geometry_of_conv1d(
    weight: Tensor, stride: Size, padding: Padding, dilation: Size, groups: int
) -> Geometry:
    """The geometry that the arguments of conv1d say, its padding in samples."""
    one, step = whole("stride", stride, 1), whole("dilation", dilation, 1)
    pads = Geometry(one, padding, step).pads(weight.shape[2])
    return Geometry(one, pads, step, whole("groups", groups, 1))


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
    """torch.nn.functional.conv_transpose1d, computed by clconv, with derivatives of any order.

    Args:
        input: (N, Cin, L), or (Cin, L) unbatched; called x in errors.
        weight: (Cin, Cout / groups, K).
        bias: (Cout,), or None.
        stride: samples of the result for each of the input, at least 1.
        padding: samples of the result that are cropped at both ends.
        output_padding: samples that are appended on the right, less than stride or dilation.
        groups: how many independent convolutions, a divisor of Cin and Cout.
        dilation: samples of the result from one tap to the next, at least 1.

    Returns:
        (N, Cout, Lout), or (Cout, Lout) of an unbatched input.

    Raises:
        TypeError: what is no CPU tensor of a floating dtype.
        ProblemError: shapes and options that no convolution has.
        DeviceError: a device that fails.

    Examples:
        >>> conv_transpose1d(torch.ones(1, 1, 2), torch.ones(1, 1, 3), stride=2)
        tensor([[[1., 1., 2., 1., 1.]]])
    """
    if has_torch_function((input, weight, bias)):
        overridden: Tensor = handle_torch_function(
            conv_transpose1d, (input, weight, bias),
            input, weight, bias, stride, padding, output_padding, groups, dilation,
        )  # fmt: skip
        return overridden
    tensors = _checked(input=input, weight=weight, bias=bias)
    _dimensions(input, weight, "(Cin, Cout / groups, kernel_size)")
    if torch.onnx.is_in_onnx_export():
        place = stride, padding, output_padding, groups, dilation
        return nn.functional.conv_transpose1d(input, weight, bias, *place)
    geometry = geometry_of_conv_transpose1d(stride, padding, output_padding, groups, dilation)
    result: Tensor = CONVOLUTION(*tensors, *geometry)
    return result


def geometry_of_conv_transpose1d(
    stride: Size, padding: Size, output_padding: Size, groups: int, dilation: Size
) -> Geometry:
    """The geometry that the arguments of conv_transpose1d say."""
    one, step = whole("stride", stride, 1), whole("dilation", dilation, 1)
    crop, extra = whole("padding", padding, 0), whole("output_padding", output_padding, 0)
    return Geometry(one, (crop, crop), step, whole("groups", groups, 1), True, extra)
