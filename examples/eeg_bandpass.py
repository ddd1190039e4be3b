"""Filters hours of an electroencephalogram from 0.5 to 40 Hz, without delay, by a long FIR filter.

Many channels at 250 Hz: rhythms of the brain under the drift of electrodes and the mains' hum, all
made here. `clconv.signal.filtfilt` runs a band-pass of 1651 taps forward and backward; a piece of
each channel is compared with SciPy's: if it differs by more than rounding explains, the exit status
is 1. Draws a piece before and after, and the spectra.
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

    from clconv import default_runtime, signal
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Samples = np.ndarray[Any, np.dtype[Any]]
RATE, LOW, HIGH, TAPS = 250, 0.5, 40.0, 1651  # Hz, Hz, Hz, odd
PIECE = 60 * RATE  # that is compared and drawn
ONE = np.float32([1])


def recording(channels: int, seconds: float, seed: int = 0) -> Samples:
    """(channels, samples) in microvolts: alpha rhythm, noise, drift and hum, in float32."""
    rng = np.random.default_rng(seed)
    time_axis = np.arange(round(seconds * RATE)) / RATE
    made = np.empty((channels, len(time_axis)), np.float32)
    for row in made:
        row[:] = rng.standard_normal(len(time_axis), np.float32) * 5
        swell = 1 + np.sin(2 * np.pi * time_axis * rng.uniform(0.05, 0.2))
        row += 15 * swell * np.sin(2 * np.pi * rng.uniform(8, 12) * time_axis)
        row += 80 * np.sin(2 * np.pi * rng.uniform(0.02, 0.1) * time_axis)
        row += 20 * np.sin(2 * np.pi * 50 * time_axis)
    return made


def band_pass() -> Samples:
    """The taps, by SciPy, in float32."""
    taps = scipy.signal.firwin(TAPS, [LOW, HIGH], pass_zero=False, fs=RATE)
    return taps.astype(np.float32)


def filtered(x: Samples, taps: Samples) -> Samples:
    """Forward and backward, on the device."""
    return signal.filtfilt(taps, ONE, x, axis=1)


def bound(x: Samples, taps: Samples) -> float:
    """What rounding of two float32 sums may do, at most; extended ends are three times as large."""
    unit = 2 * (len(taps) + 3) * np.finfo(np.float32).eps / 2
    gain = np.abs(taps).sum(dtype=float)
    return float(unit / (1 - unit) * gain**2 * 3 * np.abs(x).max())


def draw(path: Path, x: Samples, y: Samples) -> None:
    """Saves the picture: ten seconds of a channel, and its spectra."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    upper, lower = figure.subplots(2)
    shown = slice(0, 10 * RATE)
    for samples, name in ((x, "before"), (y, "after")):
        upper.plot(np.arange(len(samples[shown])) / RATE, samples[shown], label=name)
        hertz, power = scipy.signal.welch(samples, RATE, nperseg=min(4096, len(samples)))
        lower.semilogy(hertz, power, label=name)
    upper.set(xlabel="time [s]", ylabel="potential [µV]")
    lower.set(xlabel="frequency [Hz]", ylabel="power [µV² / Hz]", xlim=(0, 80))
    upper.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")


def main(argv: list[str] | None = None) -> int:
    """Filters, compares, draws; 0 where clconv and SciPy agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--channels", type=int, default=19, help="(%(default)s)")
    parser.add_argument("--hours", type=float, default=2.0, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("eeg_bandpass.png"))
    options = parser.parse_args(argv)
    seconds = options.hours * 3600
    if seconds * RATE <= 3 * TAPS or options.channels < 1:
        parser.error(
            f"--hours must be more than {3 * TAPS / RATE / 3600:.4f}, --channels at least 1"
        )
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    x, taps = recording(options.channels, seconds), band_pass()
    filtered(x[:, : 4 * TAPS], taps)  # compiles
    begin = time.perf_counter()
    y = filtered(x, taps)
    print(f"{x.shape[0]} channels of {x.shape[1]} samples: {time.perf_counter() - begin:.2f} s")
    # What lies a filter's length from the cut is the same as in the whole.
    piece = x[:, : PIECE + 4 * TAPS].astype(np.float64)
    known = scipy.signal.filtfilt(taps.astype(np.float64), 1.0, piece, axis=1)
    known = known[:, : min(PIECE, known.shape[1] if piece.shape == x.shape else PIECE)]
    error, limit = float(np.abs(y[:, : known.shape[1]] - known).max()), bound(x, taps)
    print(f"Largest difference from SciPy {error:.1e} µV, rounding allows {limit:.1e}")
    draw(options.output, x[0, :PIECE], y[0, :PIECE])
    print(f"Saved {options.output}")
    return int(not error <= limit)


if __name__ == "__main__":
    sys.exit(main())
