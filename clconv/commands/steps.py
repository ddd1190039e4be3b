"""How does work go on whatever a driver does? Steps of items, in processes that are watched.

A step is a list of items and a share of the time. Processes of their own work the items off, and
write what they find to a file of lines at once. Where one dies, hangs or finds a fault, that is
written down, and the next item goes on in a new process. What there was no time for is told, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "FAULT",
    "HOPELESS",
    "Item",
    "Line",
    "Step",
    "Watch",
    "append",
    "hang_seconds",
    "read",
    "run_step",
    "supervise",
    "told",
    "work_off",
]

Line = dict[str, Any]
Item = tuple[Any, ...]

# No sign of life for this part of a step's time, or these seconds if that is longer, is a hang.
HANG_SHARE, HANG_SECONDS = 0.5, 30.0
LOG_CHARACTERS = 2000
# After so many processes in a row that came to nothing the rest of a step is given up.
HOPELESS = 5
# The status of a step's process that wrote a fault down.
FAULT = 3


class Step(NamedTuple):
    """What to run: `items` lists the work, `run` yields lines of one item; both get what the items
    share. `share` is its part of the time beside the others' shares."""

    title: str
    share: float
    items: Callable[[Any], list[Item]]
    run: Callable[..., Iterator[Line]]
    together: bool = False  # whether several processes may work at once


# A step's own process


def work_off(step: Step, shared: Any, path: Path, first: int, by: int, until: float) -> int:
    """Runs every `by`-th item from `first` on, until the time is over; FAULT after the first one.

    Lines have the item's place; the last of an item its seconds.
    """
    items = step.items(shared)
    for place in range(first, len(items), by):
        if time.time() >= until:
            return 0
        start, fault = time.perf_counter(), False
        try:
            for line in step.run(shared, *items[place]):
                append(path, {"item": place, **line})
                fault |= "wrong" in line
        except Exception as error:  # of any library: the next item has a fresh process
            traceback.print_exc()
            append(path, {"item": place, "error": f"{type(error).__name__}: {error}"})
            fault = True
        append(path, {"item": place, "seconds": round(time.perf_counter() - start, 3)})
        if fault:
            return FAULT
    return 0


def append(path: Path, line: Line) -> None:
    """Adds a line to a file, whole or not at all, whoever else does."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
    finally:
        os.close(file)


def read(path: Path) -> list[Line]:
    """The whole lines of a file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


# The process that watches


class Watch(NamedTuple):
    """How a step's processes are started and how long they have."""

    command: Callable[[int, int], list[str]]  # of the first item, and the distance to the next
    path: Path  # of the lines
    log: Path  # of all else that they print
    until: float
    hang: float  # seconds without a sign of life
    environment: dict[str, str]
    tell: Callable[[int], object] | None = None  # gets how many items are done


def supervise(watch: Watch, count: int, workers: int) -> None:
    """Works off `count` items by several processes at once, none of which is left behind."""
    workers = min(workers, count)
    stop, ended = threading.Event(), [threading.Event() for _ in range(workers)]

    def work(k: int) -> None:
        try:
            _stripe(watch, range(k, count, workers), workers, stop)
        finally:
            ended[k].set()

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for event in ended:
            event.wait()  # not `join`, which takes a thread for ended once it was interrupted
    finally:
        stop.set()
        for thread, event in zip(threads, ended, strict=True):
            if thread.ident is not None:
                _wait_for(event)


def _wait_for(event: threading.Event) -> None:
    """However often somebody interrupts meanwhile."""
    while not event.is_set():
        try:
            event.wait()
        except KeyboardInterrupt:
            continue


def _stripe(watch: Watch, places: range, by: int, stop: threading.Event) -> None:
    """One process after another; what one of them does not come back from is written down."""
    left, lost = deque(places), 0
    log = watch.log.with_suffix(f".{places[0]}.log")
    while left and lost < HOPELESS and time.time() < watch.until and not stop.is_set():
        before = len(left)
        with log.open("ab") as file:
            begin = file.tell()
            process = subprocess.Popen(
                watch.command(left[0], by), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env=watch.environment, start_new_session=True,
            )  # fmt: skip
        why = _follow(watch, process, left, stop)
        if why is None and len(left) == before and time.time() < watch.until:
            why = "its process ended with nothing done"
        if left and why is not None:
            text = log.read_bytes()[begin:].decode(errors="replace")[-LOG_CHARACTERS:]
            over = time.time() >= watch.until
            fault = {"cut_off": why} if over else {"error": why, "log": text}
            append(watch.path, {"item": left.popleft(), **fault})
            lost = lost + 1 if len(left) == before - 1 else 0


def _follow(
    watch: Watch, process: subprocess.Popen[bytes], left: deque[int], stop: threading.Event
) -> str | None:
    """Takes off `left` what is done, until the process ends or is ended; why it did in the middle
    of an item, None where it did not."""
    ours = set(left)
    seen, size, own, why = time.time(), -1, -1, None
    while True:
        ended = process.poll()
        now = time.time()
        grown = watch.path.stat().st_size if watch.path.exists() else 0
        if grown != size:
            size = grown
            every = read(watch.path)
            lines = [line for line in every if line["item"] in ours]
            if len(lines) != own:
                seen, own = now, len(lines)
            done = {line["item"] for line in lines if "seconds" in line}
            while left and left[0] in done:
                left.popleft()
            if watch.tell is not None:
                watch.tell(len({line["item"] for line in every if "seconds" in line}))
        if ended is not None:
            break
        if now >= watch.until or now - seen > watch.hang or stop.is_set():
            late = "the step's time was over" if now >= watch.until else "it hung"
            why = f"ended: {'interrupted' if stop.is_set() else late} after {now - seen:.0f} s"
            _kill(process)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                why += ", and cannot be killed"
            break
        time.sleep(0.1)
    if ended is not None and ended < 0:
        return f"its process was ended by signal {-ended} ({signal.Signals(-ended).name})"
    return why if ended in (None, 0, FAULT) else f"its process ended with status {ended}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it started, where the system knows what that is."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def run_step(
    name: str, step: Step, items: list[Item], path: Path, workers: int, watch: Watch
) -> Line:
    """A step's lines and how it went; `path` is where its lines are."""
    start = time.time()
    supervise(watch, len(items), workers)
    lines = read(path)
    done = {line["item"] for line in lines if "seconds" in line}
    for line in lines:
        if {"wrong", "error", "cut_off"} & set(line):
            line["what"] = told(items[line["item"]])
    return {
        "name": name, "title": step.title, "limit_s": round(max(0.0, watch.until - start), 1),
        "seconds": round(time.time() - start, 1), "items": len(items), "done": len(done),
        "left_out": [told(item) for place, item in enumerate(items) if place not in done],
        "lines": lines,
    }  # fmt: skip


def told(item: Item) -> str:
    """An item in words."""
    return ", ".join(str(word) for word in item if word != "")


def hang_seconds(limit: float) -> float:
    """After how long without a sign of life something hangs that may take so many seconds."""
    return max(HANG_SECONDS, HANG_SHARE * limit)
