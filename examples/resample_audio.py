"""Resamples sound from 44.1 to 16 kHz, as speech recognition wants it, and compares with SciPy.

A WAV file, or a sweep with noise and clicks, goes through `clconv.signal.resample_poly` and through
SciPy's in float64: if they differ by more than rounding explains, the exit status is 1. Draws the
spectrograms of the result and of the difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import scipy.signal
    from matplotlib.figure import Figure
    from scipy.io import wavfile

    from clconv import default_runtime, signal
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Samples = np.ndarray[Any, np.dtype[Any]]
FROM, TO, UP, DOWN = 44_100, 16_000, 160, 441  # Hz, Hz, and the same ratio in whole numbers
# SciPy's filter for this ratio: taps of each output, and their magnitudes' sum at most.
TAPS, GAIN = 56, 3.0


def sound(seconds: float, seed: int = 0) -> Samples:
    """A sweep from 50 Hz to 20 kHz, noise and a click a second, (samples,) in float32."""
    time_axis = np.arange(round(seconds * FROM)) / FROM
    sweep = scipy.signal.chirp(time_axis, 50, seconds, 20_000, method="logarithmic")
    made = 0.5 * sweep + 0.01 * np.random.default_rng(seed).standard_normal(len(time_axis))
    made[::FROM] += 0.4
    return made.astype(np.float32)


def read(path: Path) -> Samples:
    """The first channel of a WAV file of 44.1 kHz, from -1 to 1; ValueError for another rate."""
    rate, samples = wavfile.read(path)
    if rate != FROM:
        raise ValueError(f"{path} has {rate} samples a second, expected {FROM}")
    first = samples[:, 0] if samples.ndim > 1 else samples
    if first.dtype.kind == "f":
        return first.astype(np.float32)
    return (first / np.float32(2 ** (8 * first.dtype.itemsize - 1))).astype(np.float32)


def resampled(x: Samples) -> Samples:
    """At 16 kHz, on the device."""
    return signal.resample_poly(x, UP, DOWN)


def bound(x: Samples) -> float:
    """What rounding of samples' sums and of taps may do in float32, at most."""
    unit = (TAPS + 3) * np.finfo(np.float32).eps / 2
    return float(unit / (1 - unit) * GAIN * np.abs(x).max())


def draw(path: Path, y: Samples, difference: Samples) -> None:
    """Saves the picture: spectrograms of the result, and of how SciPy's differs from it."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    titles = "resampled by clconv", "difference from SciPy in float64"
    for ax, samples, title in zip(figure.subplots(2, sharex=True), (y, difference), titles,
                                  strict=True):  # fmt: skip
        ax.specgram(samples + 1e-30, NFFT=512, Fs=TO, noverlap=256, scale="dB", vmin=-220, vmax=-20)
        ax.set(title=title, ylabel="frequency [Hz]")
        figure.colorbar(ax.images[0], ax=ax, label="dB / Hz")
    ax.set(xlabel="time [s]")
    figure.savefig(path, dpi=120, format="png")


def main(argv: list[str] | None = None) -> int:
    """Resamples, compares, draws; 0 where clconv and SciPy agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, help="a WAV file of 44.1 kHz (else a sweep)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the sweep (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("resample_audio.png"))
    options = parser.parse_args(argv)
    if options.seconds < 0.1:
        parser.error(f"--seconds is {options.seconds}, expected at least 0.1")
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    x = read(options.file) if options.file else sound(options.seconds)
    resampled(x)  # compiles
    begin = time.perf_counter()
    y = resampled(x)
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    true = scipy.signal.resample_poly(x.astype(np.float64), UP, DOWN)
    theirs = time.perf_counter() - begin
    error, limit = float(np.abs(y - true).max()), bound(x)
    print(f"{len(x)} samples at {FROM} Hz to {len(y)} at {TO} Hz")
    print(f"clconv: {ours:.3f} s, copies included; SciPy, float64: {theirs:.3f} s")
    print(f"Largest difference {error:.1e}, rounding allows {limit:.1e}")
    draw(options.output, y, y - true)
    print(f"Saved {options.output}")
    return int(not error <= limit)


if __name__ == "__main__":
    sys.exit(main())
