"""What is to be computed: a convolution, its pass and its epilogue, with all shape arithmetic."""

from __future__ import annotations

import enum
import math
import numbers
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from clconv.dtypes import EXPECTED_DTYPES, dtype_of, is_computed
from clconv.errors import ProblemError
from clconv.geometry import (
    MAX_POSITIONS,
    Geometry,
    Padding,
    padding_pair,
    reached_by,
    whole,
    window_of,
    windows_in,
)

__all__ = ["ACTIVATIONS", "Conv1dProblem", "Epilogue", "KnownActivation", "Layer", "Pass"]

MAX_BATCH = 2**31 - 1
MAX_CHANNELS = 2**31 - 2**10
# Output positions of a problem that stands for all of a layer.
TYPICAL_POSITIONS = 16384


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


class KnownActivation(NamedTuple):
    """An activation that kernels know, with its slope: one of ACTIVATIONS, or "elu"."""

    name: str
    slope: float


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
        if isinstance(value, KnownActivation):
            return value
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
        window = window_of(self.kernel_size, self.dilation)
        positions = min(TYPICAL_POSITIONS, windows_in(MAX_POSITIONS, window, self.stride))
        return Conv1dProblem(
            1,
            self.in_channels,
            reached_by(positions, window, self.stride),
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

    `padding` is an int, (left, right), "same", "valid" or "causal", kept as (left, right). No
    window reaches the last `cropped` input samples: a convolution has none, one that is the
    gradient of a transposed convolution has, where output_padding appends samples beyond a whole
    stride. Raises ProblemError where no such convolution exists.
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
            dtype = dtype_of(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if not is_computed(dtype):
            raise ProblemError(f"dtype is {self.dtype}, expected {EXPECTED_DTYPES}")
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

    @classmethod
    def transposed(
        cls,
        batch: int,
        in_channels: int,
        length: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: Padding = 0,
        output_padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        dtype: Any = np.float32,
    ) -> Conv1dProblem:
        """The convolution whose input gradient is this transposed convolution: of (batch,
        in_channels, length) with (in_channels, out_channels / groups, kernel_size). Its own input
        and output are exchanged.

        `padding` samples of the result are cropped, an int or (left, right), and `output_padding`,
        less than stride or dilation, appended. Raises ProblemError.
        """
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            whole(name, channels, 1, MAX_CHANNELS)
        for name, size in (("length", length), ("kernel_size", kernel_size)):
            whole(name, size, 1)
        one = Geometry(stride, padding, dilation, groups, True, output_padding).checked()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % one.groups:
                raise ProblemError(
                    f"groups is {one.groups}, expected a divisor of {name} ({channels})"
                )
        (left, right), extra = one.pads(kernel_size), one.output_padding
        whole_length = reached_by(length, one.window(kernel_size), one.stride) + extra
        if whole_length - left - right < 1:
            raise ProblemError(
                f"padding is {(left, right)}, which leaves {whole_length - left - right} output "
                "positions, expected at least 1"
            )
        if whole_length > MAX_POSITIONS:
            raise ProblemError(
                f"stride is {one.stride} and dilation {one.dilation}, which makes {whole_length} "
                f"output positions before padding is cropped, expected at most {MAX_POSITIONS}"
            )
        # What output_padding adds on the right was padding there, or lies beyond every window: a
        # whole stride of it would be an output position more than the input has.
        return cls(
            batch,
            out_channels,
            one.out_length(length, kernel_size),
            in_channels,
            kernel_size,
            one.stride,
            (left, max(right - extra, 0)),
            one.dilation,
            one.groups,
            dtype,
            cropped=max(extra - right, 0) // one.stride * one.stride,
        )

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        input_shape: tuple[int, int, int],
        out_channels: int,
        kernel_size: int,
        dtype: Any = np.float32,
    ) -> Conv1dProblem:
        """The problem of a convolution, or of a transposed one, whose sizes are its own."""
        make = cls.transposed if geometry.transposed else cls
        sizes = (*input_shape, out_channels, kernel_size)
        return make(*sizes, **geometry.options, dtype=dtype)

    @property
    def pads(self) -> tuple[int, int]:
        """(left, right) padding in samples."""
        return cast(tuple[int, int], self.padding)

    @property
    def window(self) -> int:
        """Input samples from a window's first tap to its last."""
        return window_of(self.kernel_size, self.dilation)

    @property
    def padded_length(self) -> int:
        """Input samples with both paddings, those that windows may reach."""
        return self.length + sum(self.pads) - self.cropped

    @cached_property
    def out_length(self) -> int:
        """Output positions."""
        return windows_in(self.padded_length, self.window, self.stride)

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
        return -((self.window - 1) // self.stride), 0

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

    def shortened(self, positions: int) -> Conv1dProblem:
        """The same with so many output positions, of a shorter input; with more where the padding
        alone gives more."""
        length = self.length - (self.out_length - positions) * self.stride
        return replace(self, length=max(length, 1))

    def terms(self, pass_: Pass) -> int:
        """Products in the longest sum of a pass, for the rounding bound."""
        if pass_ is Pass.FORWARD:
            return self.group_in * self.kernel_size
        if pass_ is Pass.INPUT_GRADIENT:
            return self.group_out * -(-self.kernel_size // self.phase_tap_step)
        return self.batch * self.out_length
