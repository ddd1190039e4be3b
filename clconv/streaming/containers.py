"""How do layers one after the other, and side by side, go over a signal in chunks?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from clconv.calls.elementwise import host_values
from clconv.calls.rows import Rows, combine
from clconv.conv1d import Conv1D
from clconv.dtypes import is_short
from clconv.errors import ModuleError, ProblemError
from clconv.layers.activation import Activation
from clconv.layers.copying import Self
from clconv.layers.deconv1d import Deconv1D
from clconv.layers.module import Module
from clconv.layers.pad1d import Pad1D
from clconv.layers.parallel import Parallel
from clconv.layers.sequential import Container, Sequential
from clconv.problem import KnownActivation
from clconv.runtime import Runtime
from clconv.streaming.convolution import Addend, StreamingConv1D, StreamingConvolution
from clconv.streaming.deconvolution import StreamingDeconv1D
from clconv.streaming.pieces import Array, History, Piece, Signal, joined
from clconv.streaming.samples import StreamingActivation, StreamingPad1D, StreamingPointwise
from clconv.streaming.stream import State, Stream, Target, loaded

__all__ = ["StreamingParallel", "StreamingSequential"]

KINDS = "Conv1D, Deconv1D, Pad1D, Activation, Sequential, Parallel"


class _StreamingContainer(Stream):
    """What the streams of containers have in common: a stream for each module."""

    module: Container

    def __init__(self, net: Container, pointwise: tuple[type[Module], ...], variant: str) -> None:
        self.net = net
        self.streams = [_stream(module, pointwise, variant) for module in net]
        super().__init__(net)

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        for stream in self.streams:
            stream.reset()

    def _begin(self, signal: Signal, array: Array) -> Signal:
        self._signal = signal  # the modules check it
        return signal

    def _remember(self) -> Callable[[], None]:
        restores = [super()._remember(), *(stream._remember() for stream in self.streams)]

        def restore() -> None:
            for one in restores:
                one()

        return restore

    def __copy__(self: Self) -> Self:
        new: Any = super().__copy__()
        new.streams = [stream.__copy__() for stream in new.streams]
        return new  # type: ignore[no-any-return]

    def _named(self) -> list[tuple[str, Stream]]:
        return [
            (f"{one.name}.", stream) for one, stream in zip(self.net, self.streams, strict=True)
        ]

    def state_dict(self) -> State:
        """Where the stream is in its signal: numbers and NumPy arrays by name, "conv.kept"."""
        signal = self._signal
        sizes = () if signal is None else (signal.batch, signal.maps)
        state: State = {"signal": np.array(sizes, np.int64)}
        for path, stream in self._named():
            state |= {f"{path}{name}": value for name, value in stream.state_dict().items()}
        return state

    def _load(self, state: Mapping[str, Any], path: str, runtime: Runtime) -> None:
        self.reset()
        self._signal = self._loaded_signal(state, path, runtime)
        for name, stream in self._named():
            stream._load(state, f"{path}{name}", runtime)
            theirs, own = stream._signal, self._signal
            if theirs is not None and (own is None or theirs.batch != own.batch):
                expected = "none" if own is None else own.batch
                raise ModuleError(
                    f"{path}{name}signal has batch {theirs.batch}, expected {expected}, as in "
                    f"{path}signal"
                )


class StreamingSequential(_StreamingContainer):
    """A Sequential of layers on a signal in chunks.

    `pointwise` are your own classes whose result at a position depends only on the data at that
    position. `variant` is that of the convolutions. Raises ModuleError for modules that cannot be
    streamed.
    """

    def __init__(
        self, net: Sequential, *, pointwise: Sequence[type[Module]] = (), variant: str = "auto"
    ) -> None:
        if not isinstance(net, Sequential):
            raise ModuleError(f"net is a {type(net).__name__}, expected a Sequential")
        super().__init__(net, tuple(pointwise), variant)
        for first, second in zip(self.streams, self.streams[1:], strict=False):
            _fuse(first, second)

    @property
    def stride(self) -> int | Fraction:
        """Samples in for one sample out; a fraction where there are more samples out than in."""
        product = math.prod((Fraction(stream.stride) for stream in self.streams), start=Fraction(1))
        return int(product) if product.denominator == 1 else product

    def _sample_of(self, output: int) -> int:
        for stream in reversed(self.streams):
            output = stream._sample_of(output)
        return output

    def _period(self) -> int:
        return math.prod(stream._period() for stream in self.streams)

    def _maps(self, maps: int) -> int:
        for stream in self.streams:
            maps = stream._maps(maps)
        return maps

    def _push(self, piece: Piece, target: Target | None = None) -> Piece | None:
        return self._through(piece, target, ended=False)

    def _finish(self) -> Piece | None:
        return self._through(None, None, ended=True)

    @property
    def _passes(self) -> bool:
        return all(stream._passes for stream in self.streams)

    def _target(self, positions: int) -> Rows | None:
        following = self._target_after(-1, None)
        return None if following is None else following(positions)

    def _target_after(self, index: int, target: Target | None) -> Target | None:
        """Where a module's result would best be: with the next one that does not let it pass."""
        for stream in self.streams[index + 1 :]:
            if not stream._passes:
                return stream._target
        return target

    def _through(self, data: Piece | None, target: Target | None, ended: bool) -> Piece | None:
        """What the last module gives; those after the end of the signal finish in turn."""
        signal = self._signal
        if signal is None:
            return None
        for i, stream in enumerate(self.streams):
            following = None if ended else self._target_after(i, target)
            try:
                pushed = None if data is None else stream._pushed(data, signal, following)
                data = joined(signal, pushed, stream._finish()) if ended else pushed
            except (ModuleError, ProblemError) as error:
                raise self.net._place("Data", i, error) from error
        return data


class StreamingParallel(_StreamingContainer):
    """The branches of a Parallel on a signal in chunks; what one gives waits for the others.

    `branches` is a Parallel, or a sequence of modules with the `merge` of one. `pointwise` and
    `variant` as in StreamingSequential. Raises ModuleError for branches with different strides.
    """

    def __init__(
        self,
        branches: Parallel | Sequence[Module],
        merge: str | None = None,
        *,
        pointwise: Sequence[type[Module]] = (),
        variant: str = "auto",
    ) -> None:
        if isinstance(branches, Module) or not isinstance(branches, Sequence):
            if not isinstance(branches, Parallel):
                raise ModuleError(
                    f"branches is a {type(branches).__name__}, expected a Parallel or a sequence "
                    "of modules"
                )
            if merge is not None and merge != branches.merge:
                raise ModuleError(f"merge is {merge!r}, expected None or {branches.merge!r}")
        else:
            branches = Parallel("sum" if merge is None else merge).extend(branches)
        if not len(branches):
            raise ModuleError(f"{branches} has no branches")
        self.parallel = branches
        super().__init__(branches, tuple(pointwise), variant)
        for i, stream in enumerate(self.streams):
            if stream.stride != self.streams[0].stride:
                raise ModuleError(
                    f"branch {i} has stride {stream.stride}, expected {self.streams[0].stride}, "
                    "that of branch 0"
                )
        self._adding = self._who_adds()

    def __copy__(self: Self) -> Self:
        new: Any = super().__copy__()
        new._adding = new._who_adds()  # a convolution of its own
        return new  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        super().reset()
        self._waiting: tuple[History | None, ...] = (None,) * len(self.streams)

    def _who_adds(self) -> tuple[int, StreamingConvolution] | None:
        """Of a skip beside one branch, that branch and its last convolution, which can add the
        skipped samples to its own: where each sample gives its output at once."""
        if self.parallel.merge != "sum" or len(self.streams) != 2 or self.stride != 1:
            return None
        for i, stream in enumerate(self.streams):
            other, last = self.streams[1 - i], _last_convolution(stream)
            skips = isinstance(other, StreamingSequential) and not other.streams
            if skips and last is not None and stream.latency == 0:
                return i, last
        return None

    @property
    def stride(self) -> int | Fraction:
        """Samples in for one sample out."""
        return self.streams[0].stride

    def _sample_of(self, output: int) -> int:
        return max(stream._sample_of(output) for stream in self.streams)

    def _period(self) -> int:
        return math.lcm(*(stream._period() for stream in self.streams))

    def _maps(self, maps: int) -> int:
        found = [stream._maps(maps) for stream in self.streams]
        return sum(found) if self.parallel.merge == "concat" else found[0]

    def transient(self) -> dict[str, Any]:
        """A copy keeps the samples in memory of its own."""
        waiting = tuple(None if one is None else one.compact() for one in self._waiting)
        return {**super().transient(), "_waiting": waiting}

    def state_dict(self) -> State:
        """As that of a StreamingSequential, with what waits for other branches, "0.waiting"."""
        state = super().state_dict()
        for (path, stream), waiting in zip(self._named(), self._waiting, strict=True):
            array = np.zeros((0, 0, 0), stream._dtype())
            if waiting is not None:
                array = host_values(waiting.compact().array)
            state[f"{path}waiting"] = array
        return state

    def _load(self, state: Mapping[str, Any], path: str, runtime: Runtime) -> None:
        super()._load(state, path, runtime)
        found: list[History | None] = []
        signal = self._signal
        for name, stream in self._named():
            key = f"{path}{name}waiting"
            array = loaded(state, key, stream._dtype(), 3)
            if array.size == 0:
                found.append(None)
                continue
            rows = (0, 0) if signal is None else (signal.batch, stream._maps(signal.maps))
            if array.shape[:2] != rows:
                raise ModuleError(f"{key} has shape {array.shape}, expected {(*rows, 'length')}")
            found.append(History(runtime.to_device(array), 0, array.shape[2]))
        if all(one is not None for one in found):
            raise ModuleError(f"{path}waiting: all branches wait, expected at most all but one")
        self._waiting = tuple(found)

    def _push(self, piece: Piece, target: Target | None = None) -> Piece | None:
        signal = self._signal
        assert signal is not None
        shared = piece._replace(is_result=False)
        known: dict[int, Piece | None] = {}
        # Nothing waits where the branch has given an output for each sample so far.
        at_once = all(one is None for one in self._waiting)
        if self._adding is not None and at_once and not is_short(signal.dtype):
            i, last = self._adding
            last.addend = Addend(shared, target)
            with self.net._placing("Data", i):
                result = self.streams[i]._pushed(shared, signal)
            added, last.addend = last.addend is None, None
            if added:
                return result
            known = {i: result}
        results = []
        for i, stream in enumerate(self.streams):
            with self.net._placing("Data", i):
                there = i in known
                results.append(known[i] if there else stream._pushed(shared, signal))
        return self._merged(signal, results, target)

    def _finish(self) -> Piece | None:
        signal = self._signal
        if signal is None:
            return None
        results = []
        for i, stream in enumerate(self.streams):
            with self.net._placing("Data", i):
                results.append(stream._finish())
        result = self._merged(signal, results, None)
        for i, waiting in enumerate(self._waiting):
            if waiting is not None:
                raise ModuleError(
                    f"Branch {i} gives {waiting.length} positions more than another one, expected "
                    "as many"
                )
        return result

    def _merged(
        self, signal: Signal, results: Sequence[Piece | None], target: Target | None
    ) -> Piece | None:
        """As many samples as all branches have given by now, merged; the others wait."""
        before = [0 if one is None else one.length for one in self._waiting]
        lengths = [
            old + (0 if new is None else new.length)
            for old, new in zip(before, results, strict=True)
        ]
        ready = min(lengths)
        sources: list[Piece] = []
        waiting: list[History | None] = []
        for history, result, length in zip(self._waiting, results, lengths, strict=True):
            rest = None
            if history is None and result is not None and length == ready:
                sources.append(result)
            elif length:
                if result is not None:
                    own = signal._replace(maps=result.maps)
                    history = History.new(own, length) if history is None else history
                    history = history.with_room(own, length).with_piece(own, result)
                assert history is not None
                sources.append(history.piece(ready))
                rest = history.without(ready) if length > ready else None
            waiting.append(rest)
        self._waiting = tuple(waiting)
        return self._merge(signal, sources, ready, target) if ready else None

    def _merge(
        self, signal: Signal, sources: Sequence[Piece], ready: int, target: Target | None
    ) -> Piece:
        shapes = [(signal.batch, one.maps, ready) for one in sources]
        _, maps, _ = self.parallel.merged_shape(shapes)
        if len(sources) == 1:
            return sources[0]
        rows = None if target is None else target(ready)
        result = Piece.empty(signal, maps, ready)
        if rows is not None:
            result = Piece(sources[0].array, rows, maps, ready, ready)
        to, runtime = result.rows, signal.runtime
        if self.parallel.merge == "concat":
            for one in sources:
                one.copied_to(signal, to)
                to = to._replace(offset=to.offset + one.maps * to.channel_stride)
            return result
        first, *others = sources
        x = first.rows
        for i, one in enumerate(others):
            reads = (first.array, one.array) if i == 0 else (one.array,)
            combine(runtime, signal.dtype, shapes[0], to, x, one.rows, reads=reads)
            x = to
        return result


def _fuse(first: Stream, second: Stream) -> None:
    """Lets a convolution compute the activation after it, if it can."""
    if not isinstance(first, StreamingConvolution) or not isinstance(second, StreamingActivation):
        return
    if first.conv.activation is None:
        first.follower = KnownActivation(*second.activation)
        second.is_done_before = True


def _last_convolution(stream: Stream) -> StreamingConvolution | None:
    """The convolution that gives a chain's results as they are."""
    if isinstance(stream, StreamingSequential) and stream.streams:
        return _last_convolution(stream.streams[-1])
    if isinstance(stream, StreamingConvolution) and stream._activation is None:
        return stream
    return None


def _stream(module: Module, pointwise: tuple[type[Module], ...], variant: str) -> Stream:
    if pointwise and isinstance(module, pointwise):
        return StreamingPointwise(module)
    if isinstance(module, Conv1D):
        return StreamingConv1D(module, variant=variant)
    if isinstance(module, Deconv1D):
        return StreamingDeconv1D(module, variant=variant)
    if isinstance(module, Pad1D):
        return StreamingPad1D(module)
    if isinstance(module, Activation):
        return StreamingActivation(module)
    if isinstance(module, Sequential):
        return StreamingSequential(module, pointwise=pointwise, variant=variant)
    if isinstance(module, Parallel):
        return StreamingParallel(module, pointwise=pointwise, variant=variant)
    raise ModuleError(f"{module} cannot be streamed, expected {KINDS} or a class in pointwise")
