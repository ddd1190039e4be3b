"""Is it told on a terminal how far something is, and nowhere else?"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time

import pytest

from clconv import Conv1D, Conv1dProblem, Sequential, progress, tuning

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")

# What takes long, in small: a bar with something short within, and many short things.
WORK = """
import importlib.util, sys, time
from clconv import Conv1D, Conv1dProblem, Sequential, progress, tuning
progress.DELAY, progress.LINE, progress.TICK = 0.2, 0.05, 0.05
if {plain}:
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *more: None if name == "tqdm" else found(name, *more)
with progress.bar("tuning", "pass", 9) as shown:
    shown.tell(4, note="of mine")
    with progress.bar("forward", "candidate", 34) as inner:
        inner.tell(12, note="best 7.5 us")
        time.sleep({seconds})
sys.stderr.write("<between>")
for _ in range(8):
    with progress.one_of_many("compiling", "kernel"):
        time.sleep({seconds} / 8)
sys.stderr.write("<behind>")
"""


def said(plain=False, seconds=0.6, terminal=True, columns=160, **variables):
    """What the work says to standard error, a terminal or a pipe."""
    code = WORK.format(plain=plain, seconds=seconds)
    environment = {k: v for k, v in os.environ.items() if k != "CLCONV_PROGRESS"} | variables
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(
            theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25 if columns else 0, columns, 0, 0)
        )
    try:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that nobody writes to a terminal any more
                break
            if not part:
                break
            text += part
        assert process.wait() == 0
    finally:
        os.close(ours)
    return text.decode()


def test_a_bar_on_a_terminal():
    """By tqdm: with what is within it, and gone when it is over."""
    pytest.importorskip("tqdm")
    first, _, rest = said().partition("<between>")
    assert "tuning: " in first
    assert "4/9" in first
    assert "of mine; forward: candidate 12 of 34, best 7.5 us" in first
    many, _, last = rest.partition("<behind>")
    assert "compiling: " in many
    assert "4/9" not in many
    for text in (first, many):
        assert not text.rpartition("\r")[2].strip()
    assert not last.strip()


def test_a_terminal_without_a_width():
    pytest.importorskip("tqdm")
    assert "tuning: " in said(columns=0).partition("<between>")[0]


def test_lines_without_tqdm():
    first, _, many = said(plain=True).partition("<between>")
    assert "clconv: tuning: pass 4 of 9, 0 s, of mine; forward: candidate 12 of 34" in first
    assert "clconv: compiling: kernel " in many
    assert "\x1b" not in first + many


@pytest.mark.parametrize(
    "how", [{"terminal": False}, {"CLCONV_PROGRESS": "0"}, {"seconds": 0.02}],
    ids=["pipe", "variable", "short"],
)  # fmt: skip
def test_nothing_otherwise(how):
    """In pipes, with the variable, and of what is short."""
    assert said(**how) == "<between><behind>"


def test_a_terminal_that_is_gone(monkeypatch, caplog):
    """Work goes on; it is said once, in the log."""
    gone = Watched()
    monkeypatch.setattr(sys, "stderr", gone)
    monkeypatch.setattr(gone, "write", lambda _: 1 / 0)
    monkeypatch.setattr(progress, "_terminal", progress._Terminal())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _: None)
    for _ in range(2):
        with progress.bar("working", "step") as shown:
            until = time.monotonic() + 10
            while not caplog.records and time.monotonic() < until:
                time.sleep(0.001)
            shown.tell(1)
    assert [one.name for one in caplog.records] == ["clconv.progress"]


def test_a_terminal_that_takes_no_more(monkeypatch, caplog):
    """tqdm fails while it draws, and once more while it erases: work neither waits nor fails."""
    pytest.importorskip("tqdm")
    full, done = Full(), []
    monkeypatch.setattr(sys, "stderr", full)
    monkeypatch.setattr(progress, "_terminal", progress._Terminal())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)

    def work():
        with progress.bar("working", "step", 2) as shown:
            wait_for("working")
            full.is_full = True
            until = time.monotonic() + 10
            while not caplog.records and time.monotonic() < until:
                time.sleep(0.001)
            shown.tell(1)
        done.append(shown)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert done
    assert {one.name for one in caplog.records} == {"clconv.progress"}


class Watched:
    """A terminal's text."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, part):
        self.text += part

    def flush(self):
        pass

    def isatty(self):
        return True


class Full(Watched):
    """One that takes nothing more, once it is full."""

    is_full = False

    def write(self, part):
        if self.is_full:
            raise BlockingIOError
        super().write(part)


def wait_for(words):
    """Until they are on the terminal."""
    until = time.monotonic() + 10
    while words not in sys.stderr.text and time.monotonic() < until:
        time.sleep(0.001)
    assert words in sys.stderr.text


def test_tuning_is_told(first_runtime, monkeypatch):
    """Layers, passes and candidates, by whoever tunes."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)
    with tuning.once():
        Sequential().append(Conv1D(3, 4, 3)).optimizeForShape((1, 3, 60))
    for words in ("tuning: ", "0/1", "tuning: pass"):
        assert words in sys.stderr.text
    monkeypatch.setattr(sys, "stderr", Watched())
    problem, told = Conv1dProblem(1, 3, 60, 4, 3), []

    def tell(now):
        told.append(now)
        wait_for(f"best {now.best_us:.1f} us")

    tuning.tune(first_runtime, problem, "forward", seconds=0.2, tell=tell)
    assert told
    assert "forward: " in sys.stderr.text


def test_an_error_leaves_nothing_behind(monkeypatch):
    """Neither a line nor a thread that looks on."""
    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.01)

    def fail():
        with progress.bar("failing", "step", 2):
            wait_for("failing")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not progress._terminal.open
    until = time.monotonic() + 10
    while progress._terminal._thread is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert progress._terminal._thread is None
