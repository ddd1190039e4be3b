"""Finds events in noise by a matched filter: correlation with what one looks like.

Weak chirps, as of an echo or a gravitational wave, lie at random times in noise that hides them.
`clconv.signal.correlate` with the chirp makes peaks of them, whose height is known in deviations of
the noise. Exits with 1 if an event is missed or one too many found, or if SciPy's correlation
differs by more than rounding explains. Draws the signal and the peaks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import scipy.signal
    from matplotlib.figure import Figure

    from clconv import default_runtime, signal
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Samples = np.ndarray[Any, np.dtype[Any]]
RATE, LENGTH = 4096, 1024  # Hz, samples of an event
AMPLITUDE = 0.75  # of an event in noise of deviation 1
THRESHOLD = 8.0  # deviations; noise alone reaches 6 once in a thousand million samples


def event() -> Samples:
    """What is looked for, (LENGTH,) in float32, of energy 1."""
    time_axis = np.arange(LENGTH) / RATE
    wave = scipy.signal.chirp(time_axis, 40, time_axis[-1], 400, method="quadratic")
    wave *= scipy.signal.windows.tukey(LENGTH, 0.2)
    return (wave / np.sqrt((wave**2).sum())).astype(np.float32)


def recording(seconds: float, events: int, seed: int = 0) -> tuple[Samples, list[int]]:
    """Noise with events in it, and where they begin, at least two lengths apart."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(round(seconds * RATE), np.float32)
    slots = len(x) // (3 * LENGTH)
    starts = []
    for slot in sorted(rng.choice(slots, events, replace=False).tolist()):
        start = 3 * LENGTH * slot + int(rng.integers(LENGTH))
        x[start : start + LENGTH] += AMPLITUDE * np.sqrt(LENGTH / 2) * event()
        starts.append(start)
    return x, starts


def matched(x: Samples) -> Samples:
    """For each sample how much what begins there is like an event, in the noise's deviations."""
    return signal.correlate(x, event(), mode="valid")


def found(score: Samples) -> list[int]:
    """Where events begin: the highest of each group of scores above the threshold."""
    peaks, _ = scipy.signal.find_peaks(score, height=THRESHOLD, distance=LENGTH)
    return [int(peak) for peak in peaks]


def bound(x: Samples) -> float:
    """What rounding may do to a float32 sum, at most."""
    unit = LENGTH * np.finfo(np.float32).eps / 2
    return float(unit / (1 - unit) * np.abs(event()).sum(dtype=float) * np.abs(x).max())


def draw(path: Path, x: Samples, score: Samples, starts: list[int]) -> None:
    """Saves the picture: the first events, in the signal and in the score."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    stop = min(len(score), starts[min(4, len(starts) - 1)] + 4 * LENGTH)
    upper, lower = figure.subplots(2, sharex=True)
    seconds = np.arange(stop) / RATE
    upper.plot(seconds, x[:stop], lw=0.3, color="#9aa5b1")
    lower.plot(seconds, score[:stop], lw=0.5, color="#c8102e")
    lower.axhline(THRESHOLD, color="black", ls=":", lw=0.8)
    for start in starts:
        if start < stop:
            upper.axvspan(start / RATE, (start + LENGTH) / RATE, alpha=0.2)
    upper.set(ylabel="signal", title="events of which nothing is to be seen, marked")
    lower.set(ylabel="score [deviations]", xlabel="time [s]")
    figure.savefig(path, dpi=120, format="png")


def main(argv: list[str] | None = None) -> int:
    """Makes, correlates, compares, draws; 0 where all events were found, and no other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="(%(default)s)")
    parser.add_argument("--events", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("matched_filter.png"))
    options = parser.parse_args(argv)
    if not 1 <= options.events <= options.seconds * RATE // (3 * LENGTH):
        parser.error("--events must be at least 1, with room for three lengths of an event each")
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    x, starts = recording(options.seconds, options.events)
    score = matched(x)
    places = found(score)
    hit = sum(any(abs(start - place) <= 2 for place in places) for start in starts)
    true = scipy.signal.correlate(x.astype(np.float64), event().astype(np.float64), "valid")
    error, limit = float(np.abs(score - true).max()), bound(x)
    print(f"{hit} of {len(starts)} events found, {len(places) - hit} that are none")
    print(f"Largest difference from SciPy {error:.1e}, rounding allows {limit:.1e}")
    draw(options.output, x, score, starts)
    print(f"Saved {options.output}")
    return int(not (hit == len(starts) == len(places) and error <= limit))


if __name__ == "__main__":
    sys.exit(main())
