"""A dictionary of bounded size, for caches that several threads share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Bounded"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Bounded(Generic[Key, Value]):
    """A dictionary that forgets its least recently used entry beyond `size`. Safe for threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def set_default(self, key: Key, value: Value) -> Value:
        """The entry of this key; `value`, now kept, where there was none."""
        with self._lock:
            kept = self._entries.setdefault(key, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return kept

    def clear(self) -> None:
        """Forgets all entries."""
        with self._lock:
            self._entries.clear()

    def drop(self, key: Key, value: Value) -> None:
        """Forgets the entry if it still is this one."""
        with self._lock:
            if self._entries.get(key) is value:
                del self._entries[key]
