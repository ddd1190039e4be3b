"""Where are the windows of a convolution or a resampling, and how long is its output?

Sizes may be PyTorch's symbols of integers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from clconv.errors import ProblemError

__all__ = [
    "MAX_POSITIONS",
    "Geometry",
    "Padding",
    "Part",
    "PhaseBlock",
    "Pool",
    "Progress",
    "Resampling",
    "in_series",
    "outputs_in",
    "outputs_of_pool",
    "padding_pair",
    "part_of",
    "reached_by",
    "rounded_count",
    "whole",
    "window_of",
    "windows_in",
]

Padding = int | Sequence[int] | str

# Positions are 32-bit integers in the kernels; the margin is for the last, partly empty tile.
MAX_POSITIONS = 2**31 - 2**20


def whole(name: str, value: Any, least: int, most: int = MAX_POSITIONS) -> int:
    """`value` as an int of at least `least`; ProblemError that names the argument otherwise."""
    if type(value) is tuple and len(value) == 1:
        value = value[0]  # PyTorch's one-tuples
    if type(value) is int and least <= value <= most:
        return value  # what most calls have, in the least time
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ProblemError(f"{name} is {value!r}, expected an integer")
    number = int(value)
    if number < least:
        raise ProblemError(f"{name} is {number}, expected at least {least}")
    if number > most:
        raise ProblemError(f"{name} is {number}, expected at most {most}")
    return number


def window_of(kernel_size: int, dilation: int) -> int:
    """Samples from a window's first tap to its last."""
    return dilation * (kernel_size - 1) + 1


def windows_in(length: int, window: int, stride: int) -> int:
    """Windows that have all their samples among so many; 0 or less where none has."""
    return (length - window) // stride + 1


def reached_by(count: int, window: int, stride: int) -> int:
    """Samples from the first one of the first of so many windows to the last one of the last."""
    return (count - 1) * stride + window


def _halves(total: int, odd_first: bool = False) -> tuple[int, int]:
    """(left, right) of so much padding; the odd sample goes right, or left with `odd_first`."""
    small = total // 2
    return (total - small, small) if odd_first else (small, total - small)


def padding_pair(padding: Padding, window: int, stride: int) -> tuple[int, int]:
    """(left, right) in samples of a padding as users write it."""
    if type(padding) is int and 0 <= padding <= MAX_POSITIONS:
        return padding, padding
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding == "causal":
            return window - 1, 0
        if padding != "same":
            raise ProblemError(
                f'padding is {padding!r}, expected an integer, a pair, "same", "valid" or "causal"'
            )
        if stride != 1:
            raise ProblemError(f'padding is "same" and stride is {stride}, expected stride 1')
        return _halves(window - 1)
    if isinstance(padding, Sequence) and len(padding) == 2:
        return whole("padding[0]", padding[0], 0), whole("padding[1]", padding[1], 0)
    if isinstance(padding, Sequence) and len(padding) != 1:
        raise ProblemError(f"padding is {padding!r}, expected an integer or (left, right)")
    both = whole("padding", padding, 0)
    return both, both


class Progress(NamedTuple):
    """How far the windows have come of a signal that is here in part."""

    outputs: int  # windows that have all their samples
    start: int  # the first sample here that a later window reaches
    left: int  # padding before that sample
    skip: int  # samples still to come that no window reaches


class Geometry(NamedTuple):
    """The geometry of a convolution, or of a transposed one, as users give it.

    Options are checked where `Conv1dProblem.of` makes a problem of them. Input and output are the
    layer's own. The order is that of the operators of `clconv.torch`.
    """

    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The same by the names that the functions of `clconv.functional` have for it."""
        named = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        return named | {"output_padding": self.output_padding} if self.transposed else named

    def window(self, kernel_size: int) -> int:
        """Samples from a window's first tap to its last."""
        return window_of(kernel_size, self.dilation)

    def pads(self, kernel_size: int) -> tuple[int, int]:
        """(left, right) in samples. Raises ProblemError."""
        return padding_pair(self.padding, self.window(kernel_size), self.stride)

    def padded(self, length: int, kernel_size: int) -> int:
        """The length with both paddings."""
        return length + sum(self.pads(kernel_size))

    def out_length(self, length: int, kernel_size: int) -> int:
        """Output positions for an input of this length; 0 where there are none."""
        if self.transposed:
            reached = reached_by(length, self.window(kernel_size), self.stride)
            return max(reached - sum(self.pads(kernel_size)) + self.output_padding, 0)
        return self.windows(self.padded(length, kernel_size), kernel_size)

    def shortest_length(self, kernel_size: int, out_length: int = 1) -> int:
        """The least input length that gives at least so many output positions."""
        stride = self.stride
        window = window_of(kernel_size, self.dilation)
        left, right = padding_pair(self.padding, window, stride)
        if self.transposed:
            first = window - left - right + self.output_padding  # positions that one sample gives
            return max(-((first - out_length) // stride) + 1, 1)
        return max(reached_by(out_length, window, stride) - left - right, 1)

    @property
    def most_output_padding(self) -> int:
        """The most that output_padding may be: less than stride or dilation."""
        return max(self.stride, self.dilation) - 1

    def checked(self) -> Geometry:
        """A transposed convolution's options as integers, its padding as (left, right). Raises
        ProblemError."""
        stride, dilation = whole("stride", self.stride, 1), whole("dilation", self.dilation, 1)
        groups = whole("groups", self.groups, 1)
        if isinstance(self.padding, str):
            raise ProblemError(f"padding is {self.padding!r}, expected an integer or a pair")
        pads = padding_pair(self.padding, 1, 1)
        extra = whole("output_padding", self.output_padding, 0)
        result = Geometry(stride, pads, dilation, groups, True, extra)
        if extra > result.most_output_padding:
            raise ProblemError(
                f"output_padding is {extra}, expected less than stride ({stride}) or dilation "
                f"({dilation})"
            )
        return result

    def longest_out_length(self, length: int, kernel_size: int) -> int:
        """Output positions of a transposed convolution that crops nothing and appends all."""
        reached = reached_by(length, self.window(kernel_size), self.stride)
        return reached + self.most_output_padding

    def with_same_length(self, length: int, kernel_size: int, odd_first: bool = False) -> Geometry:
        """With the padding that gives length / stride positions, rounded up: ONNX's SAME."""
        stride = max(self.stride, 1)  # a wrong one is refused where it becomes a problem
        window = self.window(kernel_size)
        missing = reached_by(-(-length // stride), window, self.stride) - length
        return self._replace(padding=_halves(max(missing, 0), odd_first))

    def ending_earlier(self, count: int) -> Geometry | None:
        """The same, padded by a pair, without its last `count` outputs; None where less padding on
        the right does not do that."""
        left, right = padding_pair(self.padding, 1, 1)
        right += count if self.transposed else -count * self.stride
        return None if right < 0 else self._replace(padding=(left, right))

    def same_length(self, length: int) -> int:
        """Output positions of a transposed convolution with ONNX's SAME."""
        return length * self.stride

    def with_out_length(
        self, length: int, kernel_size: int, out_length: int, odd_first: bool = False
    ) -> Geometry:
        """The transposed convolution that gives so many positions: ONNX's output_shape. Too many
        are cropped; those beyond every window, of the bias alone, come last."""
        reached = reached_by(length, self.window(kernel_size), self.stride)
        surplus = reached + self.output_padding - out_length
        return self._replace(
            padding=_halves(max(surplus, 0), odd_first),
            output_padding=self.output_padding + max(-surplus, 0),
        )

    def as_filter(self, kernel_size: int) -> Resampling:
        """A convolution as a filter of whole windows, of which every `stride`-th output counts."""
        window = self.window(kernel_size)
        return Resampling(window, 1, self.stride, window - 1 - self.pads(kernel_size)[0])

    def latency(self, kernel_size: int) -> int:
        """Samples that must follow sample q * stride until output q is known: the window's but its
        first, less the padding."""
        return self.window(kernel_size) - 1 - self.pads(kernel_size)[0]

    def causal_padding(self, kernel_size: int) -> tuple[int, int]:
        """The (left, right) with which no output needs a sample after its own."""
        return self._replace(padding="causal").pads(kernel_size)

    def causal_crop(self, kernel_size: int) -> tuple[int, int]:
        """What a transposed convolution crops so that sample i gives the outputs from i stride on,
        which need no later one."""
        return 0, max(self.window(kernel_size) - self.stride, 0)

    def windows(self, length: int, kernel_size: int) -> int:
        """Windows that have all their samples among so many, padding included."""
        return max(windows_in(length, self.window(kernel_size), self.stride), 0)

    def progress(self, left: int, length: int, kernel_size: int) -> Progress:
        """What windows make of the samples that are here, after what is left of the padding."""
        outputs = self.windows(left + length, kernel_size)
        passed = outputs * self.stride
        start = max(passed - left, 0)
        return Progress(outputs, start, max(left - passed, 0), max(start - length, 0))

    def reached(self, outputs: int, kernel_size: int, left: int) -> int:
        """Samples, at least one, that so many windows reach after so much padding."""
        return max(reached_by(outputs, self.window(kernel_size), self.stride) - left, 1)

    # A transposed convolution of a signal that is here in part

    def withheld(self, kernel_size: int) -> int:
        """Positions that a transposed convolution's samples complete, but that are cropped where no
        further sample comes."""
        right = self.pads(kernel_size)[1]
        return max(self.stride - self.window(kernel_size) - self.output_padding + right, 0)

    def completed(self, crop: int, length: int, kernel_size: int) -> Progress:
        """What a transposed convolution makes of at least one sample that is here: the outputs
        after the first `crop` positions of these, as far as no later sample reaches them. `left` is
        what is cropped the next time."""
        end = length * self.stride - self.withheld(kernel_size)
        if end <= crop:
            return Progress(0, 0, crop, 0)
        first = -((self.window(kernel_size) - 1 - end) // self.stride)  # that reaches the next
        start = min(max(first, 0), length - 1)
        return Progress(end - crop, start, end - start * self.stride, 0)

    def part_of_outputs(self, crop: int, outputs: int, length: int, kernel_size: int) -> Geometry:
        """The transposed convolution that gives so many outputs after the first `crop` positions of
        so many samples."""
        surplus = reached_by(length, self.window(kernel_size), self.stride) - crop - outputs
        return self._replace(
            padding=(crop, max(surplus, 0)), output_padding=max(-surplus, 0), transposed=True
        )

    def phase_taps(self, kernel_size: int) -> int:
        """Taps of each phase of a transposed convolution, the outputs of a stride, where all phases
        have as many, as a convolution with the phases as maps has; else 0."""
        alike = self.stride > 1 and kernel_size % self.stride == 0
        return kernel_size // self.stride if alike and self.dilation == self.groups == 1 else 0

    def in_phases(self, crop: int, outputs: int, taps: int) -> tuple[int, int, int]:
        """(start, steps, shift): outputs after the first `crop` positions of samples are those from
        `shift` on that so many steps of that convolution give, from sample `start` on."""
        first = crop // self.stride
        steps = -(-(crop + outputs) // self.stride) - first
        return first - (taps - 1), steps, crop - first * self.stride

    def beginning(self, taps: int) -> int:
        """Positions that reach back to before the first sample."""
        return (taps - 1) * self.stride

    def read_by_rounding(self, samples: int) -> int:
        """At least as many samples as are read where the outputs' number is rounded."""
        return samples + max(samples // 4, 16 * self.stride)

    def rest(self, crop: int, length: int, kernel_size: int) -> int:
        """Outputs after the first `crop` positions of so many samples, where no more come."""
        end = reached_by(length, self.window(kernel_size), self.stride) + self.output_padding
        return max(end - self.pads(kernel_size)[1] - crop, 0)

    def sample_of(self, output: int, kernel_size: int) -> int:
        """The last sample that an output needs."""
        if not self.transposed:
            return output * self.stride + self.latency(kernel_size)
        left = self.pads(kernel_size)[0]
        return (output + left + self.withheld(kernel_size)) // self.stride


def rounded_count(count: int) -> int:
    """At least so many, but at most a quarter or 15 more, one of few numbers."""
    step = max(16, 1 << max(count.bit_length() - 3, 0))
    return -(-count // step) * step


class Pool(NamedTuple):
    """The windows of a pooling: how many, and the padding; `reach` is from the first sample of one
    to its last."""

    outputs: int
    left: int
    right: int
    reach: int


def outputs_of_pool(
    length: int, window: tuple[int, int, int], pads: tuple[int, int], mode: str, ceil: bool
) -> Pool:
    """ONNX's pooling by windows of (kernel_size, stride, dilation); the last one may be cut off
    with `ceil`, unless it begins behind all samples and the padding on their left."""
    kernel_size, stride, dilation = window
    reach = window_of(kernel_size, dilation)
    left, right = pads
    if mode == "VALID":
        left = right = 0
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        outputs = -(-length // stride)
        missing = max(reached_by(outputs, reach, stride) - length, 0)
        return Pool(outputs, *_halves(missing, mode == "SAME_LOWER"), reach)
    spare = length + left + right - reach
    outputs = (-(-spare // stride) if ceil else spare // stride) + 1
    if ceil and (outputs - 1) * stride >= length + left:
        outputs -= 1
    return Pool(outputs, left, right, reach)


def in_series(stages: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(stride, latency) of streams one after the other, of each one's."""
    stride, latency = 1, 0
    for its_stride, its_latency in stages:
        latency += its_latency * stride
        stride *= its_stride
    return stride, latency


class Part(NamedTuple):
    """The samples, and the zeros beside them, that some outputs of a filter are made of."""

    start: int
    stop: int
    left: int
    right: int

    @property
    def is_empty(self) -> bool:
        """Whether no window reaches a sample, so that all outputs are 0."""
        return self.start >= self.stop


def part_of(length: int, kernel_size: int, first: int, count: int, stride: int = 1) -> Part:
    """What makes `count` outputs of the full convolution of so many samples, from output `first`
    on, `stride` apart: output i is made of the samples up to i."""
    begin = first - (kernel_size - 1)
    end = first + reached_by(count, 1, stride)
    return Part(max(begin, 0), min(end, length), max(-begin, 0), max(end - length, 0))


def outputs_in(mode: str, length: int, kernel_size: int) -> tuple[int, int]:
    """(first, count) among the outputs of the full convolution, in SciPy's modes."""
    if mode == "full":
        return 0, reached_by(length, kernel_size, 1)
    if mode == "same":
        return (kernel_size - 1) // 2, length
    return kernel_size - 1, windows_in(length, kernel_size, 1)


class PhaseBlock(NamedTuple):
    """Phases of a resampling that share their windows of `kernel_size` samples.

    Phase `first` + i has the taps `taps[i]`, a slice of the filter, of which the first is
    multiplied by sample `stops[i]` - 1 of the window, the next one by the sample before.
    """

    first: int
    taps: tuple[slice, ...]
    stops: tuple[int, ...]
    kernel_size: int
    last_sample: int  # of the windows of the first outputs

    @property
    def products(self) -> int:
        """Of an output of each phase, those by zeros included."""
        return len(self.taps) * self.kernel_size


class Resampling(NamedTuple):
    """y[m] = sum_k h[k] x_up[first + m down - k], x_up having up - 1 zeros between samples.

    None of these is multiplied: outputs up apart, a phase, have every up-th tap in common.
    """

    kernel_size: int
    up: int
    down: int
    first: int

    def reduced(self) -> tuple[slice, Resampling]:
        """The taps that any output needs, and the resampling by them with factors that share
        none."""
        common = math.gcd(self.up, self.down)
        skipped = self.first % common
        taps = slice(skipped, None, common)
        kernel_size = -(-(self.kernel_size - skipped) // common)
        return taps, Resampling(
            kernel_size, self.up // common, self.down // common, self.first // common
        )

    def full_length(self, length: int) -> int:
        """Outputs of so many samples until the filter has passed the last one."""
        return (reached_by(length, self.kernel_size, self.up) - 1) // self.down + 1

    def centered_length(self, length: int) -> int:
        """Outputs that last as long as so many samples."""
        return -(-length * self.up // self.down)

    def reach(self, length: int, count: int) -> tuple[int, int]:
        """(left, right): samples before and after so many that `count` outputs are made of."""
        begin = -((self.kernel_size - 1 - self.first) // self.up)
        end = (self.first + (count - 1) * self.down) // self.up + 1
        return max(-begin, 0), max(end - length, 0)

    def delayed(self, samples: int) -> Resampling:
        """The same of a signal with so many more samples before it."""
        return self._replace(first=self.first + samples * self.up)

    def halo(self) -> tuple[int, int]:
        """(before, after): samples around m down / up, rounded down, that output m is made of."""
        return max((self.kernel_size - 1 - self.first) // self.up, 0), max(
            -(-self.first // self.up), 0
        )

    def outputs_before(self, sample: int) -> int:
        """Outputs m whose m down / up lies before a sample."""
        return -(-sample * self.up // self.down)

    def from_output(self, output: int) -> Resampling:
        """The same without the outputs before that one."""
        return self._replace(first=self.first + output * self.down)

    def cropped(self, length: int, count: int) -> tuple[int, int, int]:
        """(left, right, output_padding) of the transposed convolution that gives `count` outputs,
        where down is 1."""
        right = reached_by(length, self.kernel_size, self.up) - self.first - count
        return self.first, max(right, 0), max(-right, 0)

    def _phase(self, phase: int) -> tuple[slice, int]:
        """The taps of a phase, and the last sample of its first window."""
        sample, remainder = divmod(self.first + phase * self.down, self.up)
        return slice(remainder, None, self.up), sample

    def blocks(self, most_zeros: float) -> list[PhaseBlock]:
        """The phases in order, in blocks as large as zeros among the weights stay below this part
        of the taps of a phase: windows begin at different samples."""
        taps_of_one = -(-self.kernel_size // self.up)
        spread = int(taps_of_one * most_zeros)
        found: list[PhaseBlock] = []
        first = 0
        while first < self.up:
            start = self._phase(first)[1]
            last = first
            while last + 1 < self.up and self._phase(last + 1)[1] - start <= spread:
                last += 1
            phases = [self._phase(phase) for phase in range(first, last + 1)]
            end = phases[-1][1]
            counts = [len(range(*taps.indices(self.kernel_size))) for taps, _ in phases]
            size = max(end - phase[1] + taps for phase, taps in zip(phases, counts, strict=True))
            size = max(size, 1)
            stops = tuple(size - (end - sample) for _, sample in phases)
            taps = tuple(one for one, _ in phases)
            found.append(PhaseBlock(first, taps, stops, size, end))
            first = last + 1
        return found
