"""What do all streams have in common: chunks in, samples out, checks, states?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv.calls.elementwise import host_values
from clconv.calls.rows import Rows
from clconv.errors import ModuleError
from clconv.geometry import whole
from clconv.layers.copying import Copyable, Self
from clconv.layers.module import Module
from clconv.runtime import Runtime, check_context, runtime_of
from clconv.streaming.pieces import Array, History, Piece, Signal

__all__ = ["State", "Stream", "Target", "loaded"]

# Where a module's result may be written to: rows for so many samples, of those that come next.
Target = Callable[[int], "Rows | None"]
# Numbers and arrays by name.
State = dict[str, "int | NDArray[Any]"]


class Stream(Copyable):
    """What is common to all streams: a chunk (N, C, T) in, the samples that it completes out.

    A call that raises leaves the stream where it was. N signals go through one stream as one batch;
    each gets what it would get alone.

    Args:
        module: the layer that is streamed.
    """

    # Attributes that are part of the state: numbers, and the samples that are kept.
    _numbers: tuple[str, ...] = ()
    _signal: Signal | None
    _kept: History | None

    def __init__(self, module: Module) -> None:
        self.module = module
        self.reset()

    def __repr__(self) -> str:
        return f"<clconv.{type(self).__name__} of {self.module}>"

    def __call__(self, chunk: Array) -> Array:
        """The samples that the next ones complete.

        Args:
            chunk: the next T >= 0 samples, (N, inmaps, T). N and the dtype are those of the first
                chunk.

        Returns:
            (N, outmaps, from 0 on).

        Raises:
            ModuleError: another shape or dtype than the signal has.
            DeviceError: a device that fails.
        """
        restore = self._remember()
        try:
            signal = self._check(chunk)
            piece = Piece.of(chunk, signal.runtime)
            return self._given(signal, self._push(piece))
        except BaseException:
            restore()
            raise

    def flush(self) -> Array:
        """The samples that the padding after the signal still gives; then a new signal may begin.

        Returns:
            (N, outmaps, from 0 on).

        Raises:
            ModuleError: before the first chunk.
        """
        signal = self._signal
        if signal is None:
            raise ModuleError(f"{self}: flush needs a chunk before it")
        restore = self._remember()
        try:
            result = self._given(signal, self._finish())
        except BaseException:
            restore()
            raise
        self.reset()
        return result

    def reset(self) -> None:
        """Forgets the signal; the next chunk begins a new one."""
        self._signal = None
        self._kept = None

    # Time

    @property
    def stride(self) -> int | Fraction:
        """Samples in for one sample out; a fraction where there are more samples out than in."""
        return 1

    @property
    def latency(self) -> int:
        """The most samples that must follow sample q * stride, rounded down, until output q comes;
        negative where padding makes outputs come ahead."""
        step, period = Fraction(self.stride), self._period()
        return max(
            self._sample_of(q) - q * step.numerator // step.denominator for q in range(period)
        )

    def _sample_of(self, output: int) -> int:
        """The last sample that an output needs."""
        return output

    def _period(self) -> int:
        """Outputs from one to the next that lies alike between samples, or a multiple of it."""
        return 1

    # State

    def state_dict(self) -> State:
        """Where the stream is in its signal, which a stream of the same layers can load.

        Returns:
            Numbers and NumPy arrays by name.
        """
        signal = self._signal
        sizes = () if signal is None else (signal.batch, signal.maps)
        state: State = {"signal": np.array(sizes, np.int64)}
        state |= {name: getattr(self, f"_{name}") for name in self._numbers}
        kept = self._kept
        if kept is None:
            empty = (*sizes, 0) if sizes else (0, 0, 0)
            state["kept"] = np.zeros(empty, self._dtype())
        else:
            state["kept"] = host_values(kept.compact().array)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the stream was whose `state_dict` this is.

        Args:
            state: what `state_dict` gave.

        Raises:
            ModuleError: the key that does not fit; then nothing has changed.
        """
        if not isinstance(state, Mapping):
            raise ModuleError(f"state is a {type(state).__name__}, expected a dictionary")
        expected = self.state_dict().keys()
        for name in (*state, *expected):
            if name not in expected or name not in state:
                what = "unknown to" if name not in expected else "missing for"
                raise ModuleError(f"{name} is {what} {self}, expected: {', '.join(expected)}")
        restore = self._remember()
        try:
            self._load(state, "", self.module.runtime)
        except BaseException:
            restore()
            raise

    def _dtype(self) -> np.dtype[Any]:
        return self.module.calctype

    def _load(self, state: Mapping[str, Any], path: str, runtime: Runtime) -> None:
        """Takes what belongs to a path over."""
        self.reset()
        signal = self._loaded_signal(state, path, runtime)
        for name in self._numbers:
            value = state[f"{path}{name}"]
            value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
            number = self._placed(f"{path}{name}", lambda: whole(name, value, 0))  # noqa: B023
            setattr(self, f"_{name}", number)
        kept = loaded(state, f"{path}kept", self._dtype(), 3)
        rows = (0, 0) if signal is None else (signal.batch, signal.maps)
        if kept.shape[:2] != rows or (signal is None and kept.shape[2]):
            raise ModuleError(f"{path}kept has shape {kept.shape}, expected {(*rows, 'length')}")
        if kept.shape[2]:
            self._kept = History(runtime.to_device(kept), 0, kept.shape[2])
        self._signal = signal
        self._check_state(path)

    def _loaded_signal(
        self, state: Mapping[str, Any], path: str, runtime: Runtime
    ) -> Signal | None:
        sizes = loaded(state, f"{path}signal", np.dtype(np.int64), 1)
        if sizes.shape not in ((0,), (2,)) or (sizes < 0).any():
            raise ModuleError(f"{path}signal is {sizes}, expected a batch and maps, or nothing")
        if not sizes.size:
            return None
        batch, maps = map(int, sizes)
        self._placed(f"{path}signal", lambda: self._check_maps(maps))
        return Signal(batch, maps, self._dtype(), runtime)

    def _check_state(self, path: str) -> None:
        """ModuleError where what was loaded is the state of no such stream."""

    @staticmethod
    def _placed(key: str, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except ValueError as error:
            raise ModuleError(f"{key}: {error}") from error

    def transient(self) -> dict[str, Any]:
        """A copy keeps the samples in memory of its own."""
        kept = None if self._kept is None else self._kept.compact()
        return {**super().transient(), "_kept": kept}

    def __copy__(self: Self) -> Self:
        new = super().__copy__()
        vars(new).update(self.transient())
        return new

    def _remember(self) -> Callable[[], None]:
        """What brings the stream back; samples that it keeps are never written again."""
        state = dict(vars(self))

        def restore() -> None:
            vars(self).clear()
            vars(self).update(state)

        return restore

    # Chunks

    def _runtime(self, chunk: Array) -> Runtime:
        own = self.module.runtime
        return own if own.context.int_ptr == chunk.context.int_ptr else runtime_of(chunk.context)

    def _check(self, chunk: Array) -> Signal:
        """The signal that the chunk is of; ModuleError unless it can follow those before."""
        self.module._check_array("chunk", chunk)
        if len(chunk.shape) != 3:
            raise ModuleError("Data must be 3d tensor")
        batch, maps, _ = chunk.shape
        signal = self._signal
        if signal is None:
            return self._begin(Signal(batch, maps, chunk.dtype, self._runtime(chunk)), chunk)
        if (batch, maps, chunk.dtype) != signal[:3]:
            self._check_maps(maps)
            self.module.checkDataType(chunk.dtype)
            now = {"batch": batch, "maps": maps, "dtype": chunk.dtype}
            for name, value in now.items():
                if value != getattr(signal, name):
                    raise ModuleError(
                        f"Data has {name} {value} (expected: {getattr(signal, name)}, of the "
                        "chunks before)"
                    )
        check_context("chunk", chunk, signal.runtime.context, self.module)
        return signal

    def _begin(self, signal: Signal, array: Array) -> Signal:
        """Begins with a signal; ModuleError where the module does not take such."""
        self.module.checkContext("chunk", array)
        self._check_maps(signal.maps)
        self.module.checkDataType(signal.dtype)
        self._signal = signal
        return signal

    def _check_maps(self, maps: int) -> None:
        """ModuleError where the module takes another number of maps."""

    def _given(self, signal: Signal, piece: Piece | None) -> Array:
        """A result as the caller gets it."""
        if piece is None:
            return signal.runtime.empty((signal.batch, self._maps(signal.maps), 0), signal.dtype)
        return piece.own_array(signal)

    def _push(self, piece: Piece, target: Target | None = None) -> Piece | None:
        """What a piece completes, None where that is nothing; `target` says where it would best
        be."""
        if not piece.length:
            return None
        return self._take(piece, target)

    def _pushed(self, piece: Piece, before: Signal, target: Target | None = None) -> Piece | None:
        """The same of a piece that another stream gave."""
        signal = self._signal
        if signal is None:
            self._begin(before._replace(maps=piece.maps), piece.array)
        elif signal.maps != piece.maps:
            raise ModuleError(
                f"Data has maps {piece.maps} (expected: {signal.maps}, of the chunks before)"
            )
        return self._push(piece, target)

    def _maps(self, maps: int) -> int:
        return maps

    @property
    def _passes(self) -> bool:
        """Whether the next piece will come out as it is."""
        return False

    def _target(self, positions: int) -> Rows | None:
        """Where the next piece, of at most so many samples, would best be."""
        return None

    def _take(self, piece: Piece, target: Target | None) -> Piece | None:
        raise ModuleError(f"{type(self).__name__} does not define _take")

    def _finish(self) -> Piece | None:
        """What is still to come, None where that is nothing."""
        return None


def loaded(
    state: Mapping[str, Any], key: str, dtype: np.dtype[Any], dimensions: int
) -> NDArray[Any]:
    """An array of a state. Raises ModuleError."""
    value = state[key]
    if not isinstance(value, np.ndarray):
        raise ModuleError(f"{key} is a {type(value).__name__}, expected a NumPy array")
    if value.dtype != dtype or value.ndim != dimensions:
        raise ModuleError(
            f"{key} has dtype {value.dtype} and {value.ndim} dimensions, expected {dtype} and "
            f"{dimensions}"
        )
    return value
