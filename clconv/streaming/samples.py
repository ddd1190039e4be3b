"""How do padding, activations and layers of one's own go over a signal in chunks?"""

from __future__ import annotations

from collections.abc import Callable

from clconv.calls.elementwise import pad
from clconv.calls.rows import combine
from clconv.conv1d import Conv1D
from clconv.errors import ModuleError
from clconv.layers.activation import Activation
from clconv.layers.pad1d import SOURCES, Pad1D
from clconv.streaming.pieces import History, Piece, Signal
from clconv.streaming.stream import Stream, Target

__all__ = ["StreamingActivation", "StreamingPad1D", "StreamingPointwise", "causal_padding"]


class StreamingPad1D(Stream):
    """A Pad1D on a signal in chunks; "reflect" waits for as many samples as it mirrors.

    Args:
        pad1d: the layer.

    Raises:
        ModuleError: mode "wrap", which puts the end of the signal before its beginning.
    """

    _numbers = ("started",)

    def __init__(self, pad1d: Pad1D) -> None:
        if not isinstance(pad1d, Pad1D):
            raise ModuleError(f"pad1d is a {type(pad1d).__name__}, expected a Pad1D")
        self.left, self.right = pad1d.pad
        if pad1d.mode == "wrap" and any(pad1d.pad):
            raise ModuleError(
                f"{pad1d} has mode 'wrap', expected 'constant', 'reflect' or 'edge': the end of a "
                "signal is not known at its beginning"
            )
        self.pad1d = pad1d
        super().__init__(pad1d)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        # Before the start all samples are kept, later the last ones.
        self._started = 0

    def _sample_of(self, output: int) -> int:
        return output - self.left

    def _needed(self, padding: int) -> int:
        """Samples that padding of one side is made of."""
        return SOURCES[self.pad1d.mode](padding) if padding else 0

    @property
    def _passes(self) -> bool:
        return bool(self._started) and not self._needed(self.right)

    def _padded(self, signal: Signal, piece: Piece, left: int, right: int) -> Piece:
        one, runtime = self.pad1d, signal.runtime
        data = piece.own_array(signal)
        return Piece.of(pad(runtime, data, (left, right), one.mode, one.fillValue), runtime, True)

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        signal, kept = self._signal, self._kept
        assert signal is not None
        if self._passes:
            return piece
        length = piece.length + (0 if kept is None else kept.length)
        history = History.new(signal, length) if kept is None else kept
        history = history.with_room(signal, length).with_piece(signal, piece)
        result = piece if self._started else None
        if not self._started and length >= self._needed(self.left):
            result = self._padded(signal, history.piece(), self.left, 0)
            self._started = 1
        keep = self._needed(self.right) if self._started else length
        self._kept = history.without(max(length - keep, 0)) if keep else None
        return result

    def _finish(self) -> Piece | None:
        signal, kept = self._signal, self._kept
        if signal is None:
            return None
        data = Piece.empty(signal, signal.maps, 0) if kept is None else kept.piece()
        if not self._started or data.length < self._needed(self.right):
            # All the signal, which is too short.
            self.pad1d.checkDataShape((signal.batch, signal.maps, data.length))
        if not self._started:
            return self._padded(signal, data, self.left, self.right)
        if not self.right:
            return None
        return self._padded(signal, data, 0, self.right).without(data.length)

    def _check_state(self, path: str) -> None:
        if self._started > 1 or (self._started and self._signal is None):
            raise ModuleError(f"{path}started is {self._started}, expected 0, or 1 with a signal")
        length = 0 if self._kept is None else self._kept.length
        most = self._needed(self.right if self._started else self.left)
        if length > most or (not self._started and length and length == most):
            raise ModuleError(f"{path}kept has {length} samples, expected fewer than {most + 1}")


class StreamingActivation(Stream):
    """An Activation on a signal in chunks, unless the stream before it computes it, too.

    Args:
        module: the layer.
    """

    def __init__(self, module: Activation) -> None:
        if not isinstance(module, Activation):
            raise ModuleError(f"module is a {type(module).__name__}, expected an Activation")
        self.activation = module.activation, module.slope
        self.is_done_before = False
        super().__init__(module)

    @property
    def _passes(self) -> bool:
        return self.is_done_before

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        if self.is_done_before:
            return piece
        signal = self._signal
        assert signal is not None
        rows = None if target is None else target(piece.length)
        result = (
            Piece.empty(signal, piece.maps, piece.length)
            if rows is None
            else Piece(piece.array, rows, piece.maps, piece.length, piece.length)
        )
        shape = (signal.batch, piece.maps, piece.length)
        combine(
            signal.runtime, signal.dtype, shape, result.rows, piece.rows, None, self.activation,
            (piece.array,),
        )  # fmt: skip
        return result


class StreamingPointwise(Stream):
    """A module whose result at a position depends on the data there alone."""

    def _maps(self, maps: int) -> int:
        batch = 1 if self._signal is None else self._signal.batch
        return int(self.module.dataShapeFrom((batch, maps, 1))[1])

    def _remember(self) -> Callable[[], None]:
        stream, module = super()._remember(), self.module.remember()

        def restore() -> None:
            stream()
            module()

        return restore

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        signal = self._signal
        assert signal is not None
        result = self.module(piece.own_array(signal))
        expected = (signal.batch, piece.length, signal.dtype)
        shape = tuple(result.shape)
        if len(shape) != 3 or (shape[0], shape[2], result.dtype) != expected:
            raise ModuleError(
                f"{self.module} gives shape {shape} and dtype {result.dtype}, expected "
                f"({signal.batch}, maps, {piece.length}) and {signal.dtype} of a module in "
                "pointwise"
            )
        return Piece.of(result, signal.runtime, True)


def causal_padding(
    conv: Conv1D, mode: str = "constant", fillValue: float | None = None, name: str | None = None
) -> Pad1D:
    """The Pad1D to put before a layer, so that an output needs no sample after its own.

    It pads dilation (size - 1) samples before the signal, none after. Zeros need no Pad1D:
    Conv1D(pad="causal") pads with them.

    Args:
        conv: a Conv1D without padding.
        mode: that of Pad1D.
        fillValue: that of Pad1D.
        name: that of Pad1D.

    Returns:
        The layer.

    Raises:
        ModuleError: conv pads, too.

    Examples:
        >>> from clconv import Conv1D
        >>> causal_padding(Conv1D(1, 1, size=3, dilation=2), "edge").dataShapeFrom((1, 1, 10))
        (1, 1, 14)
    """
    if not isinstance(conv, Conv1D):
        raise ModuleError(f"conv is a {type(conv).__name__}, expected a Conv1D")
    if any(conv.geometry.pads(conv.size)):
        raise ModuleError(f"conv has pad {conv.pad}, expected 0 for causal padding before it")
    before = conv.geometry.causal_padding(conv.size)
    return Pad1D(before, mode, fillValue, name, runtime=conv.runtime)
