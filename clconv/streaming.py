"""Layers that take a signal in chunks, as it arrives, with the same result as for the whole signal.

A stream keeps the last samples, which later windows need, on the device. Chunks may have any
length: it is an argument of the kernels, so nothing is compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clconv import functional, gpuarray
from clconv.calls.elementwise import pad
from clconv.conv1d import Conv1D
from clconv.errors import ModuleError, ProblemError
from clconv.geometry import in_series
from clconv.layers.copying import Copyable
from clconv.layers.module import Module
from clconv.layers.pad1d import SOURCES, Pad1D
from clconv.layers.sequential import Sequential
from clconv.runtime import runtime_of

__all__ = ["Stream", "StreamingConv1D", "StreamingSequential", "causal_padding"]

Array = Any  # pyopencl.array.Array


def _joined(first: Array | None, second: Array | None) -> Array:
    """Two pieces of a signal (N, C, L) as one, either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return gpuarray.concatenate([first, second], axis=2)


def _from(array: Array, start: int) -> Array | None:
    """A copy of the positions from `start` on, None where there are none."""
    return gpuarray.copy(array[:, :, start:]) if start < array.shape[2] else None


class Stream(Copyable):
    """What is common to all streams: a chunk (N, C, T) in, the samples that it completes out.

    A call that raises leaves the stream where it was.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.reset()

    def __repr__(self) -> str:
        return f"<clconv.{type(self).__name__} of {self.module}>"

    def __call__(self, chunk: Array) -> Array:
        """The next samples, (N, outmaps, from 0 on), for the next T >= 0 samples (N, inmaps, T).

        N and the dtype are those of the first chunk. Raises ModuleError, DeviceError.
        """
        restore = self._remember()
        try:
            return self._or_empty(self._push(chunk))
        except BaseException:
            restore()
            raise

    def flush(self) -> Array:
        """The samples that the padding after the signal still gives, (N, outmaps, from 0 on).

        The next chunk begins a new signal. Raises ModuleError before the first chunk.
        """
        if self._signal is None:
            raise ModuleError(f"{self}: flush needs a chunk before it")
        restore = self._remember()
        try:
            result = self._or_empty(self._finish())
        except BaseException:
            restore()
            raise
        self.reset()
        return result

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        # Batch, maps, dtype and runtime of the signal.
        self._signal: tuple[int, int, Any, Any] | None = None

    @property
    def stride(self) -> int:
        """Samples in for one sample out."""
        return 1

    @property
    def latency(self) -> int:
        """Samples that must follow sample q * stride until output q comes; negative where padding
        makes outputs come ahead."""
        return 0

    def _or_empty(self, result: Array | None) -> Array:
        if result is not None or self._signal is None:
            return result
        batch, maps, dtype, runtime = self._signal
        return runtime.empty((batch, self._maps(maps), 0), dtype)

    def _remember(self) -> Callable[[], None]:
        """What brings the stream back; arrays that it keeps are never written again."""
        state = dict(vars(self))
        return lambda: vars(self).update(state)

    def _check(self, chunk: Array) -> None:
        """ModuleError unless the chunk can follow those before."""
        self.module._check_array("chunk", chunk)
        if len(chunk.shape) != 3:
            raise ModuleError("Data must be 3d tensor")
        batch, maps, _ = chunk.shape
        self._check_maps(maps)
        self.module.checkDataType(chunk.dtype)
        if self._signal is not None:
            before = dict(zip(("batch", "maps", "dtype"), self._signal[:3], strict=True))
            now = {"batch": batch, "maps": maps, "dtype": chunk.dtype}
            for name, value in now.items():
                if value != before[name]:
                    raise ModuleError(
                        f"Data has {name} {value} (expected: {before[name]}, of the chunks before)"
                    )
        self._signal = batch, maps, chunk.dtype, runtime_of(chunk.context)

    def _check_maps(self, maps: int) -> None:
        """ModuleError where the module takes another number of maps."""

    def _push(self, chunk: Array) -> Array | None:
        """What a chunk completes, None where that is nothing."""
        self._check(chunk)
        return self._take(chunk) if chunk.shape[2] else None

    def _maps(self, maps: int) -> int:
        return maps

    def _take(self, chunk: Array) -> Array | None:
        raise ModuleError(f"{type(self).__name__} does not define _take")

    def _finish(self) -> Array | None:
        """What is still to come, None where that is nothing."""
        return None


class StreamingConv1D(Stream):
    """A Conv1D on a signal in chunks, its padding before and after, and its activation, included.

    The samples are those of `conv(signal)` within the rounding of its sums, and bit by bit those of
    the same `variant` by name, if it is an exact one; "auto" takes these alone, so that where a
    chunk ends changes nothing. Each chunk uses the weights of that moment. Inference only.
    """

    def __init__(self, conv: Conv1D, *, variant: str = "auto") -> None:
        if not isinstance(conv, Conv1D):
            raise ModuleError(f"conv is a {type(conv).__name__}, expected a Conv1D")
        self.conv = conv
        self.variant = variant
        super().__init__(conv)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        self._kept: Array | None = None  # samples that a later window reaches
        self._left = self.conv.pad  # padding before them
        self._skip = 0  # samples still to come that no window reaches

    @property
    def stride(self) -> int:
        """Samples in for one sample out."""
        return int(self.conv.stride)

    @property
    def latency(self) -> int:
        """Samples that must follow sample q * stride until output q comes: the window's but its
        first, less the padding."""
        return self.conv.geometry.latency(self.conv.size)

    def _maps(self, maps: int) -> int:
        return int(self.conv.outmaps)

    def _check_maps(self, maps: int) -> None:
        if maps != self.conv.inmaps:
            raise ModuleError(f"Data has {maps} maps (expected: {self.conv.inmaps})")
        if self.conv.W is None:
            raise ModuleError(
                f"Module {self.conv.name} has no weights: set them with setVar('W', …)"
            )

    def _convolved(self, data: Array, left: int, right: int) -> Array:
        conv = self.conv
        weight = conv.W.reshape(conv.W.shape[0], conv.W.shape[1], conv.W.shape[3])
        return functional.conv1d(
            data,
            weight,
            None if conv.b is None else conv.b.ravel(),
            activation=conv.activation,
            variant=self.variant,
            exact=True if self.variant == "auto" else None,
            runtime=conv.runtime,
            **conv.geometry._replace(padding=(left, right)).options,
        )

    def _take(self, chunk: Array) -> Array | None:
        skipped = min(self._skip, chunk.shape[2])
        self._skip -= skipped
        if skipped == chunk.shape[2]:
            return None
        data = _joined(self._kept, chunk[:, :, skipped:] if skipped else chunk)
        return self._windows(data)

    def _windows(self, data: Array) -> Array | None:
        """The outputs whose windows end in `data`, and the samples after them kept."""
        conv = self.conv
        outputs, start, left, skip = conv.geometry.progress(self._left, data.shape[2], conv.size)
        result = self._convolved(data, self._left, 0) if outputs else None
        self._left, self._skip = left, skip
        self._kept = _from(data, start)
        return result

    def _finish(self) -> Array | None:
        right = self.conv.pad - self._skip
        if self._signal is None or right <= 0:
            return None
        data = self._kept
        if data is None:
            if self._left:  # no sample has come at all
                return None
            batch, maps, dtype, _ = self._signal
            # Windows within the padding: a zero is the first of it.
            data, right = self.conv.runtime.zeros((batch, maps, 1), dtype), right - 1
        conv = self.conv
        padded = self._left + data.shape[2] + right
        outputs = conv.geometry.windows(padded, conv.size)
        return self._convolved(data, self._left, right) if outputs else None


class _StreamingPad1D(Stream):
    """A Pad1D on a signal in chunks."""

    def __init__(self, module: Pad1D) -> None:
        self.left, self.right = module.pad
        if module.mode == "wrap" and any(module.pad):
            raise ModuleError(
                f"{module} has mode 'wrap', expected 'constant', 'reflect' or 'edge': the end of a "
                "signal is not known at its beginning"
            )
        self.pad1d = module
        super().__init__(module)

    def reset(self) -> None:
        super().reset()
        self._started = False
        self._kept: Array | None = None  # before the start all samples, later the last ones

    @property
    def latency(self) -> int:
        return -self.left

    def _needed(self, padding: int) -> int:
        """Samples that padding of one side is made of."""
        return SOURCES[self.pad1d.mode](padding) if padding else 0

    def _padded(self, data: Array, left: int, right: int) -> Array:
        one = self.pad1d
        return pad(one.runtime, data, (left, right), one.mode, one.fillValue)

    def _take(self, chunk: Array) -> Array | None:
        data = _joined(self._kept, chunk)
        result = None
        if self._started:
            result = gpuarray.copy(chunk)
        elif data.shape[2] >= self._needed(self.left):
            result = self._padded(data, self.left, 0)
            self._started = True
        keep = self._needed(self.right) if self._started else data.shape[2]
        self._kept = _from(data, max(data.shape[2] - keep, 0))
        return result

    def _finish(self) -> Array | None:
        if self._signal is None:
            return None
        batch, maps, dtype, _ = self._signal
        kept = self._kept
        if kept is None:
            kept = self.pad1d.runtime.empty((batch, maps, 0), dtype)
        length = kept.shape[2]
        if not self._started or length < self._needed(self.right):
            self.pad1d.checkDataShape(kept.shape)  # all the signal, which is too short
        if not self._started:
            return self._padded(kept, self.left, self.right)
        if not self.right:
            return None
        return _from(self._padded(kept, 0, self.right), length)


class _StreamingPointwise(Stream):
    """A module whose result at a position depends on the data there alone."""

    def _maps(self, maps: int) -> int:
        batch = 1 if self._signal is None else self._signal[0]
        return int(self.module.dataShapeFrom((batch, maps, 1))[1])

    def _remember(self) -> Callable[[], None]:
        stream, module = super()._remember(), self.module.remember()

        def restore() -> None:
            stream()
            module()

        return restore

    def _take(self, chunk: Array) -> Array | None:
        return self.module(chunk)


class StreamingSequential(Stream):
    """A Sequential of Conv1D, Pad1D and such on a signal in chunks.

    `pointwise` are your own classes whose result at a position depends only on the data at that
    position, such as an activation. `variant` is that of the convolutions. Raises ModuleError for
    other modules, and for Pad1D's mode "wrap".
    """

    def __init__(
        self, net: Sequential, *, pointwise: Sequence[type[Module]] = (), variant: str = "auto"
    ) -> None:
        if not isinstance(net, Sequential):
            raise ModuleError(f"net is a {type(net).__name__}, expected a Sequential")
        self.net = net
        self.streams = [_stream(module, tuple(pointwise), variant) for module in net]
        super().__init__(net)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        for stream in self.streams:
            stream.reset()

    @property
    def stride(self) -> int:
        """Samples in for one sample out."""
        return self._in_series()[0]

    @property
    def latency(self) -> int:
        """Samples that must follow sample q * stride until output q comes."""
        return self._in_series()[1]

    def _in_series(self) -> tuple[int, int]:
        return in_series((stream.stride, stream.latency) for stream in self.streams)

    def _remember(self) -> Callable[[], None]:
        restores = [super()._remember(), *(stream._remember() for stream in self.streams)]

        def restore() -> None:
            for one in restores:
                one()

        return restore

    def _maps(self, maps: int) -> int:
        for stream in self.streams:
            maps = stream._maps(maps)
        return maps

    def _push(self, chunk: Array) -> Array | None:
        self._check(chunk)
        data = self._through(chunk, ended=False)
        # What a module without a stream of its own gave would be the caller's own array.
        return gpuarray.copy(data) if data is chunk else data

    def _finish(self) -> Array | None:
        return self._through(None, ended=True)

    def _through(self, data: Array | None, ended: bool) -> Array | None:
        """What the last module gives; those after the end of the signal finish in turn."""
        for i, stream in enumerate(self.streams):
            try:
                pushed = None if data is None else stream._push(data)
                data = _joined(pushed, stream._finish()) if ended else pushed
            except (ModuleError, ProblemError) as error:
                raise self.net._place("Data", i, error) from error
        return data


def _stream(module: Module, pointwise: tuple[type[Module], ...], variant: str) -> Stream:
    if pointwise and isinstance(module, pointwise):
        return _StreamingPointwise(module)
    if isinstance(module, Conv1D):
        return StreamingConv1D(module, variant=variant)
    if isinstance(module, Pad1D):
        return _StreamingPad1D(module)
    if isinstance(module, Sequential):
        return StreamingSequential(module, pointwise=pointwise, variant=variant)
    raise ModuleError(
        f"{module} cannot be streamed, expected Conv1D, Pad1D, Sequential or a class in pointwise"
    )


def causal_padding(
    conv: Conv1D, mode: str = "constant", fillValue: float | None = None, name: str | None = None
) -> Pad1D:
    """The Pad1D to put before `conv`, so that an output needs no sample after its own.

    It pads dilation (size - 1) samples before the signal, none after. Raises ModuleError where
    conv pads too.
    """
    if not isinstance(conv, Conv1D):
        raise ModuleError(f"conv is a {type(conv).__name__}, expected a Conv1D")
    if conv.pad:
        raise ModuleError(f"conv has pad {conv.pad}, expected 0 for causal padding before it")
    before = conv.geometry.causal_padding(conv.size)
    return Pad1D(before, mode, fillValue, name, runtime=conv.runtime)
