"""How do convolutions, plain and transposed, go over a signal in chunks?

The samples that later outputs need are kept in front of those that come. A convolution is computed
where all its samples are there, so that each output is one sum, as it is of the whole signal. New
lengths cost time, to plan; so a length that was not the last one's is rounded up, and what is
computed beyond the last sample is not looked at.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from clconv.calls.call import follow_on_buffers
from clconv.calls.draft import NO_NAMES, Draft, Recipe
from clconv.calls.layouts import Layout
from clconv.calls.prepared import Derived, KnownWeight
from clconv.calls.recipes import draft_conv1d, draft_conv_transpose1d
from clconv.calls.rows import Rows
from clconv.conv1d import Conv1D
from clconv.errors import ModuleError
from clconv.geometry import Geometry, rounded_count
from clconv.layers.convolution import Convolution
from clconv.problem import KnownActivation
from clconv.streaming.pieces import Array, History, Piece, Signal
from clconv.streaming.stream import Stream, Target
from clconv.variants import VARIANTS
from clconv.variants.base import EXACT

__all__ = ["Addend", "StreamingConv1D", "StreamingConvolution", "Weights"]


class _RowsDraft(Draft):
    """A recipe whose result lies in rows, as it is given."""

    def result(self, name: str, shape: tuple[int, ...]) -> None:
        """The call gives an array of this shape, which lies as it does."""
        given = self.layouts[name]
        super().result(name, shape)
        self.layouts[name] = given

    def expect_out(self, name: str, shape: tuple[int, ...]) -> None:
        """ProblemError unless the array has this shape."""
        self.expect(name, shape)


def _keeps_bits(variant: str) -> bool:
    """Whether samples behind the last one may change nothing before it."""
    return variant == "auto" or any(
        variant == one.NAME and one.ERROR_CLASS is EXACT for one in VARIANTS
    )


class Addend(NamedTuple):
    """What a convolution's next results are added to, if they are as many, and where these would
    best be."""

    piece: Piece
    target: Target | None


class Weights(NamedTuple):
    """What a convolution multiplies by and adds, and what is known of the former."""

    weight: Array
    bias: Array | None
    derived: Derived | None = None


class StreamingConvolution(Stream):
    """What the streams of Conv1D and Deconv1D have in common."""

    def __init__(self, conv: Convolution, variant: str) -> None:
        self.conv = conv
        self.variant = variant
        self._rounds = _keeps_bits(variant)
        # The activation after it in a chain, which it computes too.
        self.follower: KnownActivation | None = None
        # What it adds its results to; it takes it away when it has.
        self.addend: Addend | None = None
        super().__init__(conv)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        self._last = 0  # outputs, or samples, of the last chunk

    def transient(self) -> dict[str, Any]:
        """The last chunk's length says nothing of a copy's."""
        return {**super().transient(), "_last": 0, "addend": None}

    def _sample_of(self, output: int) -> int:
        return self.conv.geometry.sample_of(output, self.conv.size)

    def _maps(self, maps: int) -> int:
        return int(self.conv.outmaps)

    def _check_maps(self, maps: int) -> None:
        if maps != self.conv.inmaps:
            raise ModuleError(f"Data has {maps} maps (expected: {self.conv.inmaps})")
        self._check_weights()

    def _check_weights(self) -> None:
        if "W" not in self.conv.vars:  # W itself would say that its values may change
            raise ModuleError(
                f"Module {self.conv.name} has no weights: set them with setVar('W', …)"
            )

    def _rounded(self, count: int) -> int:
        """So many, or more of which there are few different numbers."""
        last, self._last = self._last, count
        return count if count == last or not self._rounds else rounded_count(count)

    @property
    def _activation(self) -> Any:
        own = self.conv.activation if self.follower is None else self.follower
        return tuple(own) if isinstance(own, list) else own  # it is part of a key

    def _history(self, signal: Signal, room: int) -> History:
        """What is kept, with room for so many samples in all."""
        kept = self._kept
        return History.new(signal, room) if kept is None else kept.with_room(signal, room)

    def _target(self, positions: int) -> Rows | None:
        """Behind what is kept, once there is any."""
        signal, kept = self._signal, self._kept
        if signal is None or kept is None:
            return None
        room = kept.length + positions
        if self._rounds:
            room = self.conv.geometry.read_by_rounding(room)
        self._kept = kept = kept.with_room(signal, room)
        return kept.rows(kept.stop)

    def _convolved(
        self, data: Piece, geometry: Geometry, outputs: int, computed: int, target: Target | None
    ) -> Piece:
        """The first outputs for samples, of those that are computed."""
        signal, conv = self._signal, self.conv
        assert signal is not None
        self._check_weights()
        residual = None
        added = self.addend
        if added is not None and added.piece.length == outputs and added.piece.room >= computed:
            (residual, target), self.addend = added, None
        rows = None if target is None else target(computed)
        if rows is None:
            result = Piece.empty(signal, conv.outmaps, computed)
        else:
            result = Piece(data.array, rows, conv.outmaps, computed, computed)
        weight, bias, derived = conv._weight(), conv._parameter("b"), None
        if isinstance(weight, KnownWeight):
            weight, derived = weight
        self._run(data, geometry, result, Weights(weight, bias, derived), residual)
        return result._replace(length=outputs)

    def _run(
        self,
        data: Piece,
        geometry: Geometry,
        result: Piece,
        weights: Weights,
        residual: Piece | None = None,
    ) -> None:
        """Queues the convolution of samples to where the result shall be."""
        signal, (weight, bias, derived) = self._signal, weights
        assert signal is not None
        recipe = self._recipe(
            signal, data, geometry, result, weight, bias, residual, derived is not None
        )
        size = signal.dtype.itemsize
        buffers = {"x": data.rows[:2], "out": result.rows[:2]}
        if residual is not None:
            buffers["residual"] = residual.rows[:2]
        for name, array in (("weight", weight), ("bias", bias)):
            if array is not None:
                buffers[name] = (array.base_data, array.offset // size)
        arrays = (weight, bias, data.array, None if residual is None else residual.array)
        reads = [one for one in arrays if one is not None]
        follow_on_buffers(signal.runtime, recipe, buffers, {}, derived, reads)

    def _recipe(
        self,
        signal: Signal,
        data: Piece,
        geometry: Geometry,
        result: Piece,
        weight: Any,
        bias: Any,
        residual: Piece | None,
        kept: bool,
    ) -> Recipe:
        """What computes it, drafted once for all data that lie so."""
        runtime, variant = signal.runtime, self.variant
        exact = variant == "auto" or (runtime.exact if self.conv.exact is None else self.conv.exact)
        key: Hashable = (
            _RowsDraft, geometry, data.rows[2:], data.maps, data.length, result.rows[2:],
            result.length, signal.batch, signal.dtype, weight.shape, bias is None,
            None if residual is None else residual.rows[2:], self._activation, variant,
            runtime.workspace_limit, exact, kept,
        )  # fmt: skip
        known: Recipe | None = runtime.recipes.get(key)
        if known is not None:
            return known
        size = signal.dtype.itemsize
        layouts = {
            "x": _layout(signal, data, size),
            "weight": Layout.contiguous(tuple(weight.shape), signal.dtype),
            "out": _layout(signal, result, size),
        }
        if bias is not None:
            layouts["bias"] = Layout.contiguous(tuple(bias.shape), signal.dtype)
        if residual is not None:
            layouts["residual"] = _layout(signal, residual._replace(length=result.length), size)
        draft = _RowsDraft(runtime, layouts, NO_NAMES, exact, None, kept)
        make = draft_conv_transpose1d if geometry.transposed else draft_conv1d
        make(draft, geometry, self._activation, variant)
        recipe: Recipe = runtime.recipes.set_default(key, draft.recipe())
        return recipe


def _layout(signal: Signal, piece: Piece, size: int) -> Layout:
    strides = (piece.rows.batch_stride * size, piece.rows.channel_stride * size, size)
    return Layout((signal.batch, piece.maps, piece.length), strides, np.dtype(signal.dtype))


class StreamingConv1D(StreamingConvolution):
    """A Conv1D on a signal in chunks, its padding before and after, and its activation, included.

    The samples are those of `conv(signal)` within the rounding of its sums, and bit by bit those of
    the same `variant` by name, if it is an exact one; "auto" takes these alone, so that where a
    chunk ends changes nothing. Each chunk uses the weights of that moment. Inference only.

    Args:
        conv: the layer.
        variant: "auto", or the name of one.

    Raises:
        ModuleError: a layer that cannot be streamed.

    Examples:
        >>> import numpy as np
        >>> from clconv import gpuarray
        >>> conv = Conv1D(1, 1, size=3, pad=1)
        >>> _ = conv.W.fill(1)
        >>> stream = StreamingConv1D(conv)
        >>> ones = gpuarray.to_gpu(np.ones((1, 1, 3), np.float32))
        >>> stream(ones).get().tolist(), stream.flush().get().tolist()
        ([[[2.0, 3.0]]], [[[2.0]]])
    """

    _numbers = ("left", "skip")

    def __init__(self, conv: Conv1D, *, variant: str = "auto") -> None:
        if not isinstance(conv, Conv1D):
            raise ModuleError(f"conv is a {type(conv).__name__}, expected a Conv1D")
        super().__init__(conv, variant)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        # Padding before what is kept, and samples still to come that no window reaches.
        self._left, self._skip = self.conv.geometry.pads(self.conv.size)[0], 0

    @property
    def stride(self) -> int:
        """Samples in for one sample out."""
        return int(self.conv.stride)

    def _geometry(self, left: int, right: int) -> Geometry:
        return self.conv.geometry._replace(padding=(left, right))

    def _target(self, positions: int) -> Rows | None:
        return None if self._skip else super()._target(positions)

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        skipped = min(self._skip, piece.length)
        self._skip -= skipped
        piece = piece.without(skipped)
        if not piece.length:
            return None
        signal, conv, kept = self._signal, self.conv, self._kept
        assert signal is not None
        length = piece.length + (0 if kept is None else kept.length)
        left = self._left
        outputs, start, self._left, self._skip = conv.geometry.progress(left, length, conv.size)
        computed = needed = 0
        if outputs:
            needed = conv.geometry.reached(self._rounded(outputs), conv.size, left)
            computed = conv.geometry.windows(left + needed, conv.size)
        if kept is None and start >= length and needed <= piece.room:
            data = piece._replace(length=needed)  # nothing to keep
        else:
            history = self._history(signal, max(length, needed)).with_piece(signal, piece)
            data = history.piece(needed)
            self._kept = history.without(start) if start < length else None
        if not outputs:
            return None
        return self._convolved(data, self._geometry(left, 0), outputs, computed, target)

    def _finish(self) -> Piece | None:
        conv, signal, kept = self.conv, self._signal, self._kept
        right = conv.geometry.pads(conv.size)[1] - self._skip
        if signal is None or right <= 0:
            return None
        if kept is None:
            if self._left:  # no sample has come at all
                return None
            # Windows within the padding: a zero is the first of it.
            kept = History(signal.runtime.zeros((signal.batch, signal.maps, 1), signal.dtype), 0, 1)
            right -= 1
        outputs = conv.geometry.windows(self._left + kept.length + right, conv.size)
        if not outputs:
            return None
        geometry = self._geometry(self._left, right)
        return self._convolved(kept.piece(), geometry, outputs, outputs, None)

    def _check_state(self, path: str) -> None:
        conv = self.conv
        most = conv.geometry.pads(conv.size)[0]
        if self._left > most:
            raise ModuleError(f"{path}left is {self._left}, expected at most {most}")
        if self._skip >= conv.stride:
            raise ModuleError(f"{path}skip is {self._skip}, expected less than {conv.stride}")
        length = 0 if self._kept is None else self._kept.length
        begins = not length and self._left == most
        if not begins and conv.geometry.windows(self._left + length, conv.size):
            window = conv.geometry.window(conv.size)
            raise ModuleError(
                f"{path}kept has {length} samples after {self._left} of padding, expected less "
                f"than a window ({window})"
            )
