#!/usr/bin/env python3
"""From how many samples on is each function of clconv.signal faster than SciPy's?

Each function on one row of float32, by a filter of --taps taps, or to 160/441 of the rate, in both
packages, one after the other in one process: medians of calls on NumPy arrays, of as many as a
tenth of a second has room for. SciPy has one thread. `tools/benchmark_signal.py` compares more
packages, each in its own process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import clconv
from clconv.commands.text import table

LENGTHS = (10**3, 3 * 10**3, 10**4, 3 * 10**4, 10**5, 10**6)
SECONDS = 0.1
MOST_CALLS = 50


def calls(package: Any, x: np.ndarray, h: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A call of each function."""
    one = np.ones(1, x.dtype)
    return {
        "convolve": lambda: package.convolve(x, h, "same"),
        "oaconvolve": lambda: package.oaconvolve(x, h, "same"),
        "lfilter": lambda: package.lfilter(h, one, x),
        "filtfilt": lambda: package.filtfilt(h, one, x),
        "savgol_filter": lambda: package.savgol_filter(x, 31, 3),
        "upfirdn": lambda: package.upfirdn(h, x, 3, 2),
        "resample_poly": lambda: package.resample_poly(x, 160, 441),
        "decimate": lambda: package.decimate(x, 4, ftype="fir"),
    }


def median_ms(call: Callable[[], Any]) -> float:
    """The median of some calls, after two that do not count."""
    call()
    begin = time.perf_counter()
    call()
    count = max(3, min(MOST_CALLS, int(SECONDS / (time.perf_counter() - begin))))
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--taps", type=int, default=101, help="of the filter (%(default)s)")
    parser.add_argument("--device", help="clconv's: index, id or part of a name")
    asked = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    h = rng.standard_normal(asked.taps).astype(np.float32)
    rows: dict[str, list[str]] = {}
    with clconv.Runtime(asked.device) as runtime:
        from clconv import signal

        for length in LENGTHS:
            x = rng.standard_normal(length).astype(np.float32)
            ours, theirs = calls(signal, x, h), calls(scipy.signal, x, h)
            for name in ours:
                pair = median_ms(ours[name]), median_ms(theirs[name])
                rows.setdefault(name, [name]).append(f"{pair[0]:.3g} / {pair[1]:.3g}")
        print(f"ms, clconv on {runtime.info.name} ({runtime.info.platform}) / SciPy")
    header = ["function", *(f"{length:,}" for length in LENGTHS)]
    print(table(header, list(rows.values()), header[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
