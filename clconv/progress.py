"""How far is something that takes long? Told on the terminal, where somebody looks at one.

Nothing is shown where standard error is no terminal, nor with `CLCONV_PROGRESS=0`, nor of what is
over in two seconds. tqdm draws a bar where it is installed; otherwise it is a line every few
seconds. What begins while something else is shown is told beside it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clconv import settings

__all__ = ["Bar", "bar", "one_of_many"]

_log = logging.getLogger(__name__)

# What is over after these seconds needs no bar.
DELAY = 2.0
# A terminal is looked after so often, and without tqdm gets a line so often, in seconds.
TICK, LINE = 0.2, 5.0
# Short things less than so many seconds apart are one thing that takes long.
GAP = 1.0
# Of a terminal that does not say how many it has.
COLUMNS = 80


class Bar:
    """What is being done: `done` of `total` units (None where nobody knows), and a note."""

    def __init__(self, what: str, unit: str, total: int | None = None) -> None:
        self.what, self.unit, self.total = what, unit, total
        self.done, self.note = 0, ""
        self.start = time.monotonic()

    def tell(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """How far it is; the note stays unless another one is given."""
        self.done = done
        self.total = self.total if total is None else total
        self.note = self.note if note is None else note

    @property
    def text(self) -> str:
        """In words."""
        of = "" if self.total is None else f" of {self.total}"
        note = f", {self.note}" if self.note else ""
        return f"{self.what}: {self.unit} {self.done}{of}{note}"


class _Terminal:
    """What is shown, by a thread that looks every now and then, while anything is open. It does
    not start again where showing has failed."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: list[Bar] = []
        self._thread: threading.Thread | None = None
        self._shown: Bar | None = None
        self._drawn: Any = None  # tqdm's
        self._last_line = 0.0

    def add(self, one: Bar) -> None:
        """Something begins, or goes on."""
        with self.lock:
            if one not in self.open:
                self.open.append(one)
            if self._thread is None and _is_watched():
                self._thread = threading.Thread(target=self._look, name="clconv-bar", daemon=True)
                self._thread.start()

    def remove(self, one: Bar) -> None:
        """It is over; its line is gone when this returns."""
        with self.lock:
            if one in self.open:
                self.open.remove(one)
            if self._shown is one:
                try:
                    self._erase()
                except Exception:  # as while it was drawn: work goes on
                    _log.warning("how far work was cannot be erased", exc_info=True)

    def _look(self) -> None:
        while True:
            time.sleep(TICK)
            with self.lock:
                if self._thread is not threading.current_thread():
                    return
                if not self.open:
                    self._thread = None
                    return
                try:
                    self._draw()
                except Exception:  # of a terminal that is gone, or of tqdm: work goes on
                    _log.warning("how far work is can no longer be shown", exc_info=True)
                    return

    def _draw(self) -> None:
        first, *others = self.open
        if first is not self._shown:
            self._erase()
        if time.monotonic() - first.start < DELAY:
            return
        self._shown = first
        note = "; ".join(filter(None, [first.note, *(one.text for one in others[:1])]))
        if importlib.util.find_spec("tqdm") is None:
            self._say(first, note)
            return
        if self._drawn is None:
            width: dict[str, Any] = (
                {"dynamic_ncols": True} if _has_width() else {"ncols": COLUMNS, "nrows": 20}
            )
            self._drawn = importlib.import_module("tqdm").tqdm(
                desc=first.what, unit=first.unit, leave=False, file=sys.stderr, delay=1e-9, **width
            )
            self._drawn.start_t = time.time() - (time.monotonic() - first.start)
        self._drawn.n, self._drawn.total = first.done, first.total
        self._drawn.set_postfix_str(note, refresh=False)
        with self._drawn.get_lock():  # tqdm itself would keep it where writing fails
            self._drawn.refresh(nolock=True)

    def _say(self, first: Bar, note: str) -> None:
        now = time.monotonic()
        if now - self._last_line < LINE:
            return
        self._last_line = now
        of = "" if first.total is None else f" of {first.total}"
        words = f"clconv: {first.what}: {first.unit} {first.done}{of}, {now - first.start:.0f} s"
        sys.stderr.write(f"{words}{f', {note}' if note else ''}\n")
        sys.stderr.flush()

    def _erase(self) -> None:
        drawn, self._drawn, self._shown = self._drawn, None, None
        if drawn is not None:
            drawn.close()


def _is_watched() -> bool:
    """Whether somebody may see it."""
    if not settings.progress_choice():
        return False
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def _has_width() -> bool:
    """Whether the terminal knows how wide it is: those of containers and of `script` may not."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):
        return False


_terminal = _Terminal()


class _Streak:
    """Short things of one kind: what is told of them, how many are at work, when one ended last."""

    def __init__(self, what: str, unit: str) -> None:
        self.bar = Bar(what, unit)
        self.at_work = 0
        self.ended = self.bar.start


_streaks: dict[str, _Streak] = {}


def _forget() -> None:
    """A forked child has neither the thread nor what it was about."""
    global _terminal
    _terminal = _Terminal()
    _streaks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def bar(what: str, unit: str, total: int | None = None) -> Iterator[Bar]:
    """Shows within the block how far something is, if it takes long; what is yielded is told."""
    one = Bar(what, unit, total)
    _terminal.add(one)
    try:
        yield one
    finally:
        _terminal.remove(one)


@contextmanager
def one_of_many(what: str, unit: str) -> Iterator[None]:
    """The block is one of many short things that nobody counts beforehand: they are shown while
    they are at work, if together they take long."""
    terminal = _terminal
    with terminal.lock:
        one = _streaks.get(what)
        if one is None or (not one.at_work and time.monotonic() - one.ended > GAP):
            one = _streaks[what] = _Streak(what, unit)
        one.at_work += 1
        terminal.add(one.bar)
    try:
        yield
    finally:
        with terminal.lock:
            one.at_work -= 1
            one.bar.done += 1
            one.ended = time.monotonic()
            if not one.at_work:
                terminal.remove(one.bar)
