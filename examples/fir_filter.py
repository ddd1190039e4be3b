"""Filters minutes of sound with a long FIR low-pass: one channel, one kernel, millions of samples.

White noise and two tones, one on each side of the cutoff, go through a windowed-sinc low-pass in
one call of `functional.conv1d`. SciPy does the same by FFT in float64: the two must agree within
the rounding bound of a float32 sum, or the exit status is 1. Draws the spectra before and after.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from matplotlib.figure import Figure
    from scipy import signal

    from clconv import default_runtime
    from clconv import functional as F
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Samples = np.ndarray[Any, np.dtype[Any]]
RATE, CUTOFF, TAPS = 48_000, 4_000, 1025  # Hz, Hz, odd: the delay is whole
TONES = (1_000, 9_000)  # Hz: one passes, one does not
RED, GREY, BLUE = "#c8102e", "#9aa5b1", "#33628f"


def low_pass(taps: int = TAPS) -> Samples:
    """A sinc of the cutoff under a Blackman window: symmetric, of gain 1 at 0 Hz, in float32."""
    return signal.firwin(taps, CUTOFF, window="blackman", fs=RATE).astype(np.float32)


def sound(seconds: float, seed: int = 0) -> Samples:
    """White noise with the tones, (samples,) in float32."""
    time_axis = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time_axis), np.float32)
    waves = sum(np.sin(2 * np.pi * hertz * time_axis) for hertz in TONES)
    return (0.1 * noise + 0.5 * waves).astype(np.float32)


def filtered(x: Samples, taps: Samples) -> Samples:
    """Without delay and as long as x, on the device; symmetric taps need no turning."""
    return F.conv1d(x[None], taps[None, None], padding="same")[0]


def bound(x: Samples, taps: Samples) -> float:
    """What rounding may do to a float32 sum of that many products, in any order, at most."""
    unit = len(taps) * np.finfo(np.float32).eps / 2
    return float(unit / (1 - unit) * np.abs(taps).sum(dtype=float) * np.abs(x).max())


def draw(path: Path, x: Samples, y: Samples, true: Samples, taps: Samples) -> None:
    """Saves the picture: spectra before and after, the filter's own response, and what rounding
    adds, whose lines lie at multiples of the tones and of the pieces that are summed at a time."""
    figure = Figure(figsize=(13, 7), layout="constrained")  # without pyplot, it draws with Agg
    ax = figure.subplots()
    for samples, name, colour in (
        (x, "before: noise and two tones", GREY), (y, "after, by clconv in float32", RED),
        (y - true, "what float32's rounding adds (clconv less SciPy in float64)", BLUE),
    ):  # fmt: skip
        hertz, power = signal.welch(samples[: 60 * RATE], RATE, nperseg=min(8192, len(samples)))
        ax.plot(hertz, 10 * np.log10(power + 1e-30), color=colour, lw=1, label=name)
    hertz, gain = signal.freqz(taps, worN=4096, fs=RATE)
    level = 20 * np.log10(np.abs(gain) + 1e-30)
    ax.plot(
        hertz,
        level - 60,
        color="black",
        lw=0.8,
        ls="--",
        label="the filter's gain, drawn 60 dB lower",
    )
    ax.axvline(CUTOFF, color=GREY, ls=":", label=f"cutoff, {CUTOFF} Hz")
    ax.set(title=f"A low-pass of {len(taps)} taps: one tone passes, one does not")
    ax.set(xlabel="frequency [Hz]", ylabel="power spectral density [dB / Hz]")
    ax.set(xlim=(0, RATE / 2), ylim=(-215, 0))
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    """Filters, compares, draws; 0 where clconv and SciPy agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of sound (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("fir_filter.png"), help="the picture")
    options = parser.parse_args(argv)
    if options.seconds * RATE < TAPS or not options.output.parent.is_dir():
        parser.error(
            f"--seconds must be at least {TAPS / RATE:.3f}, and the folder of --output must exist"
        )
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    x, taps = sound(options.seconds), low_pass()
    filtered(x[:RATE], taps)  # compiles
    begin = time.perf_counter()
    y = filtered(x, taps)
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    true = signal.oaconvolve(x.astype(np.float64), taps.astype(np.float64), mode="same")
    theirs = time.perf_counter() - begin
    error, limit = float(np.abs(y - true).max()), bound(x, taps)
    print(f"Sound: {len(x) / RATE:.1f} s at {RATE} Hz, {len(x)} samples, through {TAPS} taps")
    print(f"clconv: {ours:.2f} s, copies to the device and back included")
    print(f"SciPy's oaconvolve, float64: {theirs:.2f} s")
    print(f"Largest difference {error:.1e}, rounding allows {limit:.1e}")
    draw(options.output, x, y, true, taps)
    print(f"Saved {options.output}")
    return int(not error <= limit)


if __name__ == "__main__":
    sys.exit(main())
