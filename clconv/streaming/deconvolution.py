"""How does a transposed convolution go over a signal in chunks?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from clconv.calls.elementwise import copy_view, interleave
from clconv.calls.prepared import KnownWeight
from clconv.errors import ModuleError
from clconv.geometry import Geometry
from clconv.layers.deconv1d import Deconv1D
from clconv.runtime import Runtime
from clconv.streaming.convolution import StreamingConvolution, Weights
from clconv.streaming.pieces import Array, Piece, joined
from clconv.streaming.stream import Target

__all__ = ["StreamingDeconv1D", "has_phases", "phase_weights"]

# Layers of so many weights are faster as convolutions: the input gradient's kernels go over all
# weights once for each phase of the stride, which takes long when they come from memory.
MANY_WEIGHTS = 2**18


def has_phases(deconv: Deconv1D) -> bool:
    """Whether a layer is computed as a convolution with the outputs of a stride as maps: each of
    these has every stride-th tap."""
    taps = deconv.geometry.phase_taps(deconv.size)
    return taps > 0 and deconv.inmaps * deconv.outmaps * deconv.size >= MANY_WEIGHTS


def phase_weights(runtime: Runtime, weight: Array, bias: Array | None, phases: int) -> Weights:
    """w'[o phases + r, c, j] = w[c, o, r + (taps - 1 - j) phases], and the bias of o for all r,
    queued."""
    inputs, outputs, size = weight.shape
    taps = size // phases
    turned = runtime.empty((outputs * phases, inputs, taps), weight.dtype)
    element = weight.dtype.itemsize
    steps = (taps, phases * inputs * taps, -1, inputs * taps)  # of c, o, tap and r
    copy_view(
        runtime,
        weight.reshape(inputs, outputs, taps, phases),
        turned,
        start=(taps - 1) * element,
        strides=tuple(step * element for step in steps),
    )
    if bias is None:
        return Weights(turned, None)
    repeated = runtime.empty((outputs * phases,), bias.dtype)
    for r in range(phases):
        copy_view(runtime, bias, repeated, start=r * element, strides=(phases * element,))
    return Weights(turned, repeated)


def _same(old: Any, new: Any) -> bool:
    """Whether weights and bias are still those that a key was made of."""
    if old[0] is not new[0] or (old[1] is None) != (new[1] is None):
        return False
    return old[1] is None or (old[1][0] == new[1][0] and old[1][1] is new[1][1])


class StreamingDeconv1D(StreamingConvolution):
    """A Deconv1D on a signal in chunks, its pad, postpad and activation included.

    An output comes with the last sample that reaches it. What is true of StreamingConv1D's samples
    and weights is true of these; but "auto" computes large layers as a convolution that has the
    outputs of a stride as maps, if the weights are known not to change (in evalMode).

    Args:
        deconv: the layer.
        variant: "auto", or the name of one.

    Raises:
        ModuleError: a layer that cannot be streamed.
    """

    _numbers = ("crop",)

    def __init__(self, deconv: Deconv1D, *, variant: str = "auto") -> None:
        if not isinstance(deconv, Deconv1D):
            raise ModuleError(f"deconv is a {type(deconv).__name__}, expected a Deconv1D")
        self._has_phases = variant == "auto" and has_phases(deconv)
        self._phases: tuple[Any, Weights] | None = None
        super().__init__(deconv, variant)

    def transient(self) -> dict[str, Any]:
        """A copy has weights of its own."""
        return {**super().transient(), "_phases": None}

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        # Positions, from that of the first sample that is kept, which were given or are cropped.
        self._crop = self.conv.geometry.pads(self.conv.size)[0]

    @property
    def stride(self) -> int | Fraction:
        """Samples in for one sample out."""
        return 1 if self.conv.stride == 1 else Fraction(1, int(self.conv.stride))

    def _period(self) -> int:
        return int(self.conv.stride)

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        signal, conv, kept, crop = self._signal, self.conv, self._kept, self._crop
        assert signal is not None
        before = 0 if kept is None else kept.length
        length = before + piece.length
        outputs, start, self._crop, _ = conv.geometry.completed(crop, length, conv.size)
        needed = before + self._rounded(piece.length)
        history = self._history(signal, max(length, needed)).with_piece(signal, piece)
        result = None
        if outputs:
            computed = conv.geometry.completed(crop, needed, conv.size).outputs
            data = history.piece(needed)
            phases = self._phase_weights()
            if phases is None:
                result = self._part(data, crop, outputs, computed, target)
            else:
                result = self._by_phases(data, crop, outputs, computed, phases)
        self._kept = history.without(start)
        return result

    def _part(
        self, data: Piece, crop: int, outputs: int, computed: int, target: Target | None
    ) -> Piece:
        """Outputs after the first `crop` positions of samples."""
        conv = self.conv
        geometry = conv.geometry.part_of_outputs(crop, computed, data.length, conv.size)
        return self._convolved(data, geometry, outputs, computed, target)

    # As a convolution that has the outputs of a stride as maps

    def _phase_weights(self) -> Weights | None:
        """The weights of that convolution, where it pays and they are known."""
        signal, conv = self._signal, self.conv
        if not self._has_phases or signal is None or not signal.batch:
            return None
        known = conv._weight()
        bias = conv.vars.get("b")
        if not isinstance(known, KnownWeight) or (bias is not None and bias.version is None):
            return None
        key = known, None if bias is None else (bias.version, bias.array)
        if self._phases is None or not _same(self._phases[0], key):
            weights = phase_weights(signal.runtime, known.array, conv._parameter("b"), conv.stride)
            self._phases = key, weights
        return self._phases[1]

    def _by_phases(
        self, data: Piece, crop: int, outputs: int, computed: int, weights: Weights
    ) -> Piece:
        """Outputs after the first `crop` positions of samples. Those that the beginning of the
        signal gives come by the layer itself: nothing lies before it, also no zeros."""
        signal, geometry = self._signal, self.conv.geometry
        assert signal is not None
        phase_maps, _, taps = weights.weight.shape
        head, beginning = None, geometry.beginning(taps)
        if crop < beginning:
            count = min(outputs, beginning - crop)
            head = self._part(data, crop, count, count, None)
            if count == outputs:
                return head
            crop, outputs, computed = crop + count, outputs - count, computed - count
        start, steps, shift = geometry.in_phases(crop, computed, taps)
        used = data.without(start)._replace(length=steps + taps - 1)
        phases = Piece.empty(signal, phase_maps, steps)
        self._run(used, Geometry(), phases, weights)
        whole = Piece.empty(signal, self.conv.outmaps, geometry.same_length(steps))
        rows, every = signal.batch * whole.maps, geometry.stride
        interleave(
            signal.runtime,
            phases.array.reshape(rows, every, steps),
            whole.array.reshape(rows, whole.length),
            every,
            0,
        )
        tail = whole.without(shift)._replace(length=outputs)
        found = joined(signal, head, tail)
        assert found is not None
        return found

    def _finish(self) -> Piece | None:
        conv, kept = self.conv, self._kept
        if kept is None:
            return None
        outputs = conv.geometry.rest(self._crop, kept.length, conv.size)
        if not outputs:
            return None
        return self._part(kept.piece(), self._crop, outputs, outputs, None)

    def _check_state(self, path: str) -> None:
        conv = self.conv
        length = 0 if self._kept is None else self._kept.length
        if (self._signal is None or not length) and self._crop != conv.geometry.pads(conv.size)[0]:
            raise ModuleError(
                f"{path}crop is {self._crop}, expected {conv.geometry.pads(conv.size)[0]} of a "
                "signal without samples"
            )
        if length and conv.geometry.completed(self._crop, length, conv.size).outputs:
            raise ModuleError(
                f"{path}kept has {length} samples, of which outputs after the first {self._crop} "
                "were given, expected fewer"
            )
