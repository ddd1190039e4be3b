"""Where are the samples of a signal in chunks, between layers and from chunk to chunk?"""

from __future__ import annotations

from typing import Any, NamedTuple

from clconv import gpuarray
from clconv.calls.elementwise import contiguous
from clconv.calls.rows import Rows, combine, rows_of
from clconv.runtime import Runtime

__all__ = ["Array", "History", "Piece", "Signal", "joined"]

Array = Any  # pyopencl.array.Array

# Histories of fewer bytes have room for so many chunks.
SMALL, CHUNKS = 2**20, 16
# Elements that a row is longer than a power of two: one line of the cache, so that channels do not
# all fall on the same lines.
ODD = 16


class Signal(NamedTuple):
    """What stays the same for all chunks of a signal."""

    batch: int
    maps: int
    dtype: Any
    runtime: Runtime


class Piece(NamedTuple):
    """The next samples of a signal: the first `length` of each of the rows (N, maps).

    As many as `room` can be read; those after `length` mean nothing. `array` is one that another
    queue may use, if the memory is the caller's. `is_result` says that the rows are all of `array`,
    and nobody else's.
    """

    array: Array
    rows: Rows
    maps: int
    length: int
    room: int
    is_result: bool = False

    @classmethod
    def of(cls, array: Array, runtime: Runtime, is_result: bool = False) -> Piece:
        """All samples of an array (N, C, T), copied where they do not follow each other."""
        rows = rows_of(array)
        if rows is None:
            array = contiguous(runtime, array)
            rows, is_result = rows_of(array), True
        assert rows is not None
        return cls(array, rows, array.shape[1], array.shape[2], array.shape[2], is_result)

    @classmethod
    def empty(cls, signal: Signal, maps: int, length: int) -> Piece:
        """Room for so many samples."""
        array = signal.runtime.empty((signal.batch, maps, length), signal.dtype)
        return cls.of(array, signal.runtime, True)

    def without(self, skipped: int) -> Piece:
        """The samples after the first ones."""
        if not skipped:
            return self
        return self._replace(
            rows=self.rows.shifted(skipped),
            length=self.length - skipped,
            room=self.room - skipped,
            is_result=False,
        )

    def copied_to(self, signal: Signal, rows: Rows) -> None:
        """Queues copying the samples."""
        shape = (signal.batch, self.maps, self.length)
        combine(signal.runtime, signal.dtype, shape, rows, self.rows, reads=(self.array,))

    def own_array(self, signal: Signal) -> Array:
        """The samples as an array (N, maps, length) that is nobody else's."""
        if self.is_result and self.array.shape[2] == self.length:
            return self.array
        target = Piece.empty(signal, self.maps, self.length)
        self.copied_to(signal, target.rows)
        return target.array


def joined(signal: Signal, first: Piece | None, second: Piece | None) -> Piece | None:
    """Two pieces of a signal as one, either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    both = Piece.empty(signal, first.maps, first.length + second.length)
    first.copied_to(signal, both.rows)
    second.copied_to(signal, both.rows.shifted(first.length))
    return both


class History(NamedTuple):
    """The last samples of a signal, `start` to `stop` of an array (N, C, room).

    What lies in between is never written again, so an older history stays what it was; later
    samples are written behind it, until a new array is needed.
    """

    array: Array
    start: int = 0
    stop: int = 0

    @classmethod
    def new(cls, signal: Signal, room: int, least: int = 0) -> History:
        """An empty one, with room for so many samples, and for more where these are few; its rows
        have at least so many elements."""
        element = signal.batch * signal.maps * signal.dtype.itemsize
        if element * room * CHUNKS <= SMALL:
            room *= CHUNKS
        room = max((1 << (room - 1).bit_length()) + ODD, least)
        return cls(signal.runtime.empty((signal.batch, signal.maps, room), signal.dtype))

    @property
    def length(self) -> int:
        """How many samples there are."""
        return self.stop - self.start

    def rows(self, place: int) -> Rows:
        """The array's rows from a place on."""
        _, maps, room = self.array.shape
        return Rows(self.array.base_data, place, maps * room, room)

    def piece(self, length: int | None = None) -> Piece:
        """The first so many samples, or all."""
        length = self.length if length is None else length
        room = self.array.shape[2] - self.start
        return Piece(self.array, self.rows(self.start), self.array.shape[1], length, room)

    def with_room(self, signal: Signal, room: int) -> History:
        """The same samples, with room for so many in all."""
        if self.start + room <= self.array.shape[2]:
            return self
        new = History.new(signal, room, self.array.shape[2])
        self.piece().copied_to(signal, new.rows(0))
        return new._replace(stop=self.length)

    def has_end(self, rows: Rows) -> bool:
        """Whether rows are those behind the last sample."""
        return rows.buffer is self.array.base_data and rows.offset == self.stop

    def with_piece(self, signal: Signal, piece: Piece) -> History:
        """With the samples of a piece behind, for which there is room; they may lie there
        already."""
        if not self.has_end(piece.rows):
            piece.copied_to(signal, self.rows(self.stop))
        return self._replace(stop=self.stop + piece.length)

    def without(self, samples: int) -> History:
        """Without the first ones."""
        return self._replace(start=self.start + samples)

    def compact(self) -> History:
        """The same in memory of its own, and no more."""
        if self.array.shape[2] == self.length:
            return self
        kept = gpuarray.copy(self.array[:, :, self.start : self.stop])
        return History(kept, 0, self.length)
