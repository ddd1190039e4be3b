"""What is to be computed: a convolution, its pass and its epilogue, with all shape arithmetic."""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from clconv.errors import ProblemError

__all__ = [
    "ACTIVATIONS",
    "Conv1dProblem",
    "Epilogue",
    "Layer",
    "Padding",
    "Pass",
    "padding_pair",
    "whole",
]

Padding = int | Sequence[int] | str

# Positions are 32-bit integers in the kernels; the margin is for the last, partly empty tile.
MAX_POSITIONS = 2**31 - 2**20
MAX_BATCH = 2**31 - 1
MAX_CHANNELS = 2**31 - 2**10
# Output positions of a problem that stands for all of a layer.
TYPICAL_POSITIONS = 16384

DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))


class Pass(enum.Enum):
    """Which of a convolution's four functions: the result, or one of its three gradients."""

    FORWARD = "forward"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"
    BIAS_GRADIENT = "bias_gradient"

    @classmethod
    def of(cls, value: Pass | str) -> Pass:
        """The pass of this name ("forward", "input_gradient" or "input", …)."""
        if isinstance(value, Pass):
            return value
        if isinstance(value, str):
            name = value.lower().replace(" ", "_").replace("-", "_")
            for one in cls:
                if name in (one.value, one.value.removesuffix("_gradient")):
                    return one
        raise ProblemError(f"pass is {value!r}, expected one of {', '.join(p.value for p in cls)}")


# What the gradient of an activation is computed from: its output, or the value before it.
ACTIVATIONS = {
    "relu": "output",
    "leaky_relu": "output",
    "sigmoid": "output",
    "tanh": "output",
    "gelu": "pre_activation",
    "silu": "pre_activation",
}


@dataclass(frozen=True)
class Epilogue:
    """What is done to a sum before it is stored: `activation(sum + bias + residual)`.

    `keep` stores the value before the activation too, for a later backward pass. For a weight
    gradient `bias` means that the bias gradient is wanted too: a variant may sum it on the way.
    """

    bias: bool = False
    residual: bool = False
    activation: str | None = None
    keep: bool = False

    @staticmethod
    def parse_activation(value: Any) -> tuple[str | None, float]:
        """(name, slope) of the forms that users write: None, "relu", ("leaky_relu", 0.2)."""
        slope = 0.01
        name = value
        if isinstance(value, (tuple, list)) and len(value) == 2:
            name, slope = value
            if name != "leaky_relu":
                raise ProblemError(f"activation is {value!r}: only leaky_relu takes a slope")
            if not isinstance(slope, numbers.Real) or not math.isfinite(slope):
                raise ProblemError(f"activation is {value!r}: the slope must be a finite number")
            if slope < 0:
                # The gradient is taken from the output, whose sign must be the input's.
                raise ProblemError(f"activation is {value!r}: the slope must not be negative")
        if name is not None and (not isinstance(name, str) or name not in ACTIVATIONS):
            raise ProblemError(
                f"activation is {value!r}, expected None, one of {', '.join(ACTIVATIONS)}, "
                'or ("leaky_relu", slope)'
            )
        return name, float(slope)


def whole(name: str, value: Any, least: int, most: int = MAX_POSITIONS) -> int:
    """`value` as an int of at least `least`; ProblemError that names the argument otherwise."""
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]  # PyTorch's one-tuples
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ProblemError(f"{name} is {value!r}, expected an integer")
    number = int(value)
    if number < least:
        raise ProblemError(f"{name} is {number}, expected at least {least}")
    if number > most:
        raise ProblemError(f"{name} is {number}, expected at most {most}")
    return number


def padding_pair(padding: Padding, window: int, stride: int) -> tuple[int, int]:
    """(left, right) in samples of a padding as users write it; the odd sample goes right."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding != "same":
            raise ProblemError(
                f'padding is {padding!r}, expected an integer, a pair, "same" or "valid"'
            )
        if stride != 1:
            raise ProblemError(f'padding is "same" and stride is {stride}, expected stride 1')
        return (window - 1) // 2, window - 1 - (window - 1) // 2
    if isinstance(padding, Sequence) and len(padding) == 2:
        return whole("padding[0]", padding[0], 0), whole("padding[1]", padding[1], 0)
    if isinstance(padding, Sequence) and len(padding) != 1:
        raise ProblemError(f"padding is {padding!r}, expected an integer or (left, right)")
    both = whole("padding", padding, 0)
    return both, both


class Layer(NamedTuple):
    """What all problems of a layer share."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int
    groups: int
    dtype: np.dtype[Any]

    def typical(self) -> Conv1dProblem:
        """A problem of the layer that is neither short nor long, without padding."""
        window = self.dilation * (self.kernel_size - 1) + 1
        positions = min(TYPICAL_POSITIONS, (MAX_POSITIONS - window) // self.stride + 1)
        return Conv1dProblem(
            1,
            self.in_channels,
            window + (positions - 1) * self.stride,
            self.out_channels,
            self.kernel_size,
            self.stride,
            0,
            self.dilation,
            self.groups,
            self.dtype,
        )


@dataclass(frozen=True)
class Conv1dProblem:
    """A 1-D convolution of (batch, in_channels, length) with (out_channels, in_channels / groups,
    kernel_size) to (batch, out_channels, out_length).

    `padding` is an int, (left, right), "same" or "valid", kept as (left, right). No window reaches
    the last `cropped` input samples: a convolution has none, one that is the gradient of a
    transposed convolution has, where output_padding appends samples beyond a whole stride. Raises
    ProblemError where no such convolution exists.
    """

    batch: int
    in_channels: int
    length: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    dtype: Any = np.float32
    cropped: int = 0

    def __post_init__(self) -> None:
        def fix(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        fix("batch", whole("batch", self.batch, 0, MAX_BATCH))
        for name in ("in_channels", "out_channels", "groups"):
            fix(name, whole(name, getattr(self, name), 1, MAX_CHANNELS))
        for name in ("length", "kernel_size", "stride", "dilation"):
            fix(name, whole(name, getattr(self, name), 1))
        fix("cropped", whole("cropped", self.cropped, 0))
        fix("padding", padding_pair(self.padding, self.window, self.stride))
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype not in DTYPES:
            raise ProblemError(f"dtype is {self.dtype}, expected float32, float16 or float64")
        fix("dtype", dtype)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ProblemError(
                f"groups is {self.groups}, expected a divisor of in_channels "
                f"({self.in_channels}) and out_channels ({self.out_channels})"
            )
        if self.length + sum(self.pads) > MAX_POSITIONS:
            raise ProblemError(
                f"length with padding is {self.length + sum(self.pads)}, expected at most "
                f"{MAX_POSITIONS}"
            )
        if self.padded_length < self.window:
            raise ProblemError(
                f"length with padding is {self.padded_length}, expected at least {self.window}, "
                f"the window of kernel_size {self.kernel_size} and dilation {self.dilation}"
            )

    @property
    def pads(self) -> tuple[int, int]:
        """(left, right) padding in samples."""
        return cast(tuple[int, int], self.padding)

    @property
    def window(self) -> int:
        """Input samples from a window's first tap to its last."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def padded_length(self) -> int:
        """Input samples with both paddings, those that windows may reach."""
        return self.length + sum(self.pads) - self.cropped

    @cached_property
    def out_length(self) -> int:
        """Output positions."""
        return (self.padded_length - self.window) // self.stride + 1

    @property
    def group_in(self) -> int:
        """Input channels a group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels a group."""
        return self.out_channels // self.groups

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(batch, in_channels, length)."""
        return self.batch, self.in_channels, self.length

    @property
    def weight_shape(self) -> tuple[int, int, int]:
        """(out_channels, in_channels / groups, kernel_size)."""
        return self.out_channels, self.group_in, self.kernel_size

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(batch, out_channels, out_length)."""
        return self.batch, self.out_channels, self.out_length

    @property
    def weight_count(self) -> int:
        """Weights of the whole layer."""
        return math.prod(self.weight_shape)

    @property
    def tap_phase_gcd(self) -> int:
        """gcd(dilation, stride): only every such phase of the input gradient has taps."""
        return math.gcd(self.dilation, self.stride)

    @property
    def phase_tap_step(self) -> int:
        """Distance between the taps that one phase of the input gradient uses."""
        return self.stride // self.tap_phase_gcd

    def phase_taps(self, phase: int) -> range:
        """The taps k with (k * dilation) mod stride == phase."""
        step = self.phase_tap_step
        if phase % self.tap_phase_gcd:
            return range(0)
        first = phase // self.tap_phase_gcd * self.phase_tap_inverse % step
        return range(first, self.kernel_size, step)

    @property
    def phase_tap_inverse(self) -> int:
        """Inverse of dilation / gcd modulo stride / gcd, which gives a phase's first tap."""
        step = self.phase_tap_step
        return pow(self.dilation // self.tap_phase_gcd, -1, step) if step > 1 else 0

    @property
    def phase_positions(self) -> int:
        """Input positions of one phase of the input gradient, the longest phase's."""
        left = self.pads[0]
        return (left + self.length - 1) // self.stride - left // self.stride + 1

    @cached_property
    def phase_reach(self) -> tuple[int, int]:
        """(least, greatest) r' - u of what a phase reads: for t = p + left padding = u stride + r,
        the input gradient reads its output's gradient at u + r' for the taps of phase r."""
        # The taps of a phase are those whose k dilation leaves its remainder r: u + r' is whole.
        return -((self.kernel_size - 1) * self.dilation // self.stride), 0

    def positions(self, pass_: Pass) -> int:
        """Positions of a batch element that a pass sums: of the output, or of a phase of the input
        gradient."""
        return self.phase_positions if pass_ is Pass.INPUT_GRADIENT else self.out_length

    @property
    def layer(self) -> Layer:
        """What is compiled in, whatever batch, length and padding."""
        return Layer(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.groups,
            self.dtype,
        )

    def terms(self, pass_: Pass) -> int:
        """Products in the longest sum of a pass, for the rounding bound."""
        if pass_ is Pass.FORWARD:
            return self.group_in * self.kernel_size
        if pass_ is Pass.INPUT_GRADIENT:
            return self.group_out * -(-self.kernel_size // self.phase_tap_step)
        return self.batch * self.out_length
