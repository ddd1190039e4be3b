"""Which runtime is meant: the one that is entered, a context's, or the default?"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

from clconv.bounded import Bounded
from clconv.drivers.discovery import check_process

__all__ = ["Registry"]

# Runtimes made for arrays of contexts that no living runtime has.
ADOPTED_KEPT = 8


class _OfContext(Protocol):
    """What a runtime is here."""

    context: Any


Kept = TypeVar("Kept", bound=_OfContext)


class _Blocks(threading.local):
    """The runtimes that this thread entered, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[Any] = []


class Registry(Generic[Kept]):
    """The runtimes that there are, none of which it keeps alive but those that `make` made for it:
    of the default device, and of a context."""

    def __init__(self, make: Callable[..., Kept]) -> None:
        self._make = make
        self._known: list[weakref.ref[Kept]] = []
        self._adopted: Bounded[int, Kept] = Bounded(ADOPTED_KEPT)
        self._blocks = _Blocks()
        self._default: Kept | None = None
        self.default_lock = threading.Lock()
        self._adding = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._outlive_fork)

    def __iter__(self) -> Iterator[Kept]:
        """Those that live."""
        for reference in self._known:
            living = reference()
            if living is not None:
                yield living

    def add(self, runtime: Kept) -> None:
        """Makes a runtime known, and forgets those that are gone."""
        with self._adding:
            # A new list: other threads may be walking over the old one.
            self._known = [r for r in self._known if r() is not None] + [weakref.ref(runtime)]

    def _outlive_fork(self) -> None:
        """Lets every runtime outlive a forked child: drivers that take down a context there wait
        for threads which only the parent has."""
        for runtime in self:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))

    @property
    def entered(self) -> list[Kept]:
        """Those that this thread entered, the innermost last."""
        return self._blocks.stack

    def default(self) -> Kept:
        """The innermost block's, else one on the default device."""
        check_process()
        entered = self.entered
        if entered:
            return entered[-1]
        if self._default is None:
            made = self._make()  # which may compile, so that nobody waits for a lock meanwhile
            with self.default_lock:
                self._default = self._default or made
        return self._default

    def of(self, context: Any) -> Kept:
        """A context's: one that is entered, else one that lives, else a new one."""
        check_process()
        handle = context.int_ptr
        for runtime in reversed(self._blocks.stack):
            if runtime.context.int_ptr == handle:
                return cast(Kept, runtime)
        for reference in self._known:
            living = reference()
            if living is not None and living.context.int_ptr == handle:
                return living
        return self._adopted.get(handle) or self._adopted.set_default(handle, self._make(context))
