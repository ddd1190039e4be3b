"""Cleans a real electrocardiogram with three `Conv1D` layers, trained on the spot.

Mains hum, baseline wander and white noise are added to the recording that PyWavelets ships, anew at
every step; the layers learn to take them away on its first 70 %. The rest, a heartbeat that they
never saw, is the test: a table of signal-to-noise ratios, beside classical filters in their best
settings for the training part, and a picture. Exits with 1 if it gains under 6 dB or loses to one.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Says what is going on, with a dot every half second, then how long it took."""
    over, begin = threading.Event(), time.perf_counter()

    def dots() -> None:
        while not over.wait(0.5):
            print(".", end="", file=sys.stderr, flush=True)

    print(text, end=" ", file=sys.stderr, flush=True)
    threading.Thread(target=dots, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        print(f" {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)


try:
    with stage("Loading the libraries"):
        import numpy as np
        import pywt
        from matplotlib.figure import Figure
        from scipy import ndimage, signal
        from tqdm import tqdm

        from clconv import Conv1D, Sequential, default_runtime, gpuarray
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Signals = np.ndarray[Any, np.dtype[np.float64]]  # (realisations, samples), or one of them
RATE, MAINS, TRAINING_SHARE = 360, 60, 0.7  # Hz, Hz, of the recording
BATCH, LEARN_RATE, MOMENTUM, RAMP = 16, 0.07, 0.9, 30  # the rate rises for RAMP steps, then falls
REALISATIONS, LEAST_GAIN = 64, 6.0  # disturbances behind every figure in the table; dB
RED, GREY = "#c8102e", "#9aa5b1"


def recording() -> tuple[Signals, Signals]:
    """The training and the held-out part, each on a level baseline by its own running medians."""
    ecg = pywt.data.ecg().astype(np.float64)
    parts = np.split(ecg, [int(len(ecg) * TRAINING_SHARE)])
    beatless = [ndimage.median_filter(part, RATE // 5, mode="nearest") for part in parts]
    wander = [ndimage.median_filter(part, RATE * 3 // 5, mode="nearest") for part in beatless]
    training, held_out = (part - slow for part, slow in zip(parts, wander, strict=True))
    return training / training.std(), held_out / training.std()


def disturbances(rng: np.random.Generator, count: int, length: int) -> Signals:
    """Mains hum, a wandering baseline and white noise, of random strengths and phases."""

    def wave(least: float, most: float, low: float, high: float) -> Signals:
        level, hertz, phase = rng.uniform([least, low, 0], [most, high, 1], (count, 3)).T[..., None]
        return level * np.sin(2 * np.pi * (hertz * np.arange(length) / RATE + phase))

    wander = wave(0.2, 0.8, 0.1, 0.6) + wave(0.2, 0.8, 0.1, 0.6)
    hum = wave(0.4, 0.8, MAINS - 0.1, MAINS + 0.1)
    return hum + wander + rng.uniform(0.25, 0.5, (count, 1)) * rng.standard_normal((count, length))


def windows(rng: np.random.Generator, part: Signals, count: int, length: int) -> Signals:
    """Random stretches of a part, each up to 30 % weaker or stronger."""
    starts = rng.integers(0, len(part) - length + 1, count)
    stretches = np.lib.stride_tricks.sliding_window_view(part, length)[starts]
    return stretches * rng.uniform(0.7, 1.3, (count, 1))


def snr(clean: Signals, result: Signals) -> float:
    """The signal-to-noise ratio in dB, the mean over the realisations."""
    return float(np.mean(10 * np.log10((clean**2).mean(-1) / ((result - clean) ** 2).mean(-1))))


def on_device(signals: Signals) -> Any:
    """(N, 1, L) in float32 on the device."""
    return gpuarray.to_gpu(signals[:, None].astype(np.float32))


def network() -> Sequential:
    """Three convolutions that look at half a second, from weak first weights."""
    start: dict[str, Any] = {"activation": "relu", "initscheme": "gaussian"}
    net = Sequential()
    net.append(Conv1D(1, 16, 63, pad=31, wscale=0.01, **start))
    net.append(Conv1D(16, 16, 31, pad=60, dilation=4, wscale=0.03, **start))
    return net.append(Conv1D(16, 1, 15, pad=7))


def learn(net: Sequential, noisy: Signals, clean: Signals, rate: float) -> float:
    """One step of gradient descent with momentum; the mean squared error before it."""
    error = clean - net(on_device(noisy)).get()[:, 0]  # the negative gradient, times a half
    net.backward(on_device(error / error.size), updGrad=False, momentum=MOMENTUM)
    net.updateParams(rate)
    return float((error**2).mean())


def train(net: Sequential, part: Signals, length: int, steps: int, seed: int) -> list[float]:
    """Trains on disturbed windows of a part; the loss of every step."""
    with stage("Compiling the kernels"):
        for _ in range(2):  # the second waits for the first; without an error nothing is learned
            learn(net, np.zeros((BATCH, length)), np.zeros((BATCH, length)), rate=0.0)
    rng, losses, said = np.random.default_rng([seed, 0]), [], time.perf_counter()
    bar = tqdm(range(steps), "Training", unit=" steps", disable=not sys.stderr.isatty())
    for step in bar:
        clean = windows(rng, part, BATCH, length)
        rate = LEARN_RATE * min(1, (step + 1) / RAMP) * (1 + np.cos(np.pi * step / steps)) / 2
        losses.append(learn(net, clean + disturbances(rng, BATCH, length), clean, rate))
        loss = f"loss {np.mean(losses[-20:]):.4f}"
        bar.set_postfix_str(loss, refresh=False)
        if bar.disable and (time.perf_counter() - said > 1.5 or step + 1 == steps):
            said = time.perf_counter()
            print(f"Training: step {step + 1} of {steps}, {loss}", file=sys.stderr, flush=True)
    return losses


def denoise(net: Sequential, noisy: Signals) -> Signals:
    """What the network makes of noisy signals, a batch at a time."""
    net.evalMode()
    batches = [net(on_device(noisy[i : i + BATCH])).get() for i in range(0, len(noisy), BATCH)]
    return np.concatenate(batches)[:, 0].astype(np.float64)


def band_pass(x: Signals, low: float, high: float, quality: float) -> Signals:
    """A Butterworth band-pass and a notch at the mains frequency, run forwards and backwards."""
    x = signal.filtfilt(*signal.iirnotch(MAINS, quality, RATE), x)
    return signal.sosfiltfilt(signal.butter(2, (low, high), "band", output="sos", fs=RATE), x)


FILTERS: dict[str, tuple[Callable[..., Signals], list[Any]]] = {
    "moving average": (ndimage.uniform_filter1d, [(n,) for n in range(2, 40)]),
    "Savitzky-Golay": (signal.savgol_filter, [*product(range(7, 72, 2), range(2, 7))]),
    "band-pass and notch": (band_pass, [*product((0.5, 1, 2, 3), (30, 40, 50, 60), (9, 30, 99))]),
}


def compare(net: Sequential, training: Signals, held_out: Signals, seed: int) -> dict[str, Signals]:
    """The held-out part: noisy, by filters in their best settings for training, by the network."""
    rng, size = np.random.default_rng([seed, 1]), (REALISATIONS, len(held_out))
    known = windows(rng, training, *size)
    practice = known + disturbances(rng, *size)
    results = {"noisy": held_out + disturbances(np.random.default_rng([seed, 2]), *size)}
    for name, (method, settings) in FILTERS.items():
        best = max(settings, key=lambda one, run=method: snr(known, run(practice, *one)))
        results[f"{name} {best}".replace(",)", ")")] = method(results["noisy"], *best)
    return results | {"clconv": denoise(net, results["noisy"])}


def table(ratios: dict[str, float]) -> str:
    """The signal-to-noise ratios, and what they gain over the noisy input."""
    rows = [f"{name:32} {r:9.1f} {r - ratios['noisy']:+10.1f}" for name, r in ratios.items()]
    return "\n".join([f"{'held-out part':32}  SNR [dB]  gain [dB]", *rows])


def shortcomings(ratios: dict[str, float]) -> list[str]:
    """What keeps the network from being good; nothing where it is."""
    net, least = ratios["clconv"], ratios["noisy"] + LEAST_GAIN
    found = [f"at least {least:.1f} dB are expected"] if net < least else []
    return found + [f"{name} has {r:.1f} dB" for name, r in [*ratios.items()][:-1] if r >= net]


def draw_traces(axes: Any, held_out: Signals, results: dict[str, Signals]) -> None:
    """The first realisation of the held-out part: noisy above, cleaned below, true in both."""
    seconds = np.arange(len(held_out)) / RATE
    for ax, name, colour in zip(axes, ("noisy", "clconv"), (GREY, RED), strict=True):
        label = f"{name}, {snr(held_out, results[name][:1]):.1f} dB"
        ax.plot(seconds, results[name][0], color=colour, lw=1.8, label=label)
        ax.plot(seconds, held_out, color="black", lw=0.9, label="true signal")
        ax.set(xlim=(0, seconds[-1]), ylim=(-3.5, 8.5), ylabel="amplitude [σ]")
        ax.legend(loc="upper right", frameon=False)
    axes[0].set_title("A heartbeat held out of the training: disturbed, and cleaned by clconv")
    axes[1].set_xlabel("time in the held-out part [s]")


def draw_filters(ax: Any, weights: Signals) -> None:
    """What each filter of the first layer lets through, those for low frequencies first."""
    gain = np.abs(np.fft.rfft(weights, 2 * RATE))
    gain = 20 * np.log10(gain / gain.max(-1, keepdims=True))[np.argsort(gain.argmax(-1))]
    edges = np.linspace(0, RATE / 2, gain.shape[1] + 1), np.arange(len(gain) + 1) + 0.5
    image = ax.pcolormesh(*edges, gain, vmin=-30, vmax=0, cmap="magma")
    ax.axvline(MAINS, color="white", ls="--", lw=1.2)
    ax.set(title="First layer's filters (dashed: mains)", xlabel="frequency [Hz]", ylabel="filter")
    ax.figure.colorbar(image, ax=ax, label="gain below its peak [dB]")


def draw(path: Path, weights: Any, held_out: Any, results: Any, ratios: Any, losses: Any) -> None:
    """Saves the picture: traces, the first layer's filters, the losses, the ratios."""
    figure = Figure(figsize=(13, 8.5), layout="constrained")  # without pyplot, it draws with Agg
    ax = figure.subplot_mosaic("aaa;bbb;cde", height_ratios=(1, 1, 1.25))
    for one in ax.values():
        one.spines[["top", "right"]].set_visible(False)
    draw_traces((ax["a"], ax["b"]), held_out, results)
    draw_filters(ax["c"], weights)
    ax["d"].semilogy(losses, color=GREY, lw=0.8, label="each step")
    ax["d"].plot(ndimage.uniform_filter1d(losses, 25), color=RED, label="mean of 25 steps")
    ax["d"].set(title="Training", xlabel="step", ylabel="mean squared error [σ²]")
    ax["d"].legend(frameon=False)
    names = [name.partition(" (")[0].replace(" and ", "\nand ") for name in ratios]
    bars = ax["e"].barh(names, ratios.values(), color=[GREY] * (len(names) - 1) + [RED])
    ax["e"].bar_label(bars, fmt=" %.1f")
    ax["e"].set(title=f"Mean of {REALISATIONS} disturbances", xlabel="signal-to-noise ratio [dB]")
    ax["e"].set(xmargin=0.15, ylim=(len(names) - 0.4, -0.6))
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    """Trains, prints the table, saves the picture; 0 where the network is good."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="of training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and disturbances")
    parser.add_argument("--output", type=Path, default=Path("ecg_denoise.png"), help="the picture")
    options = parser.parse_args(argv)
    if options.steps < 1 or not options.output.parent.is_dir():
        parser.error("--steps must be at least 1, and the folder of --output must exist")
    with stage("Opening the device"):
        info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})", flush=True)
    np.random.seed(options.seed)  # of the layers' first weights
    training, held_out = recording()
    net = network()
    losses = train(net, training, len(held_out), options.steps, options.seed)
    with stage("Comparing with classical filters"):
        results = compare(net, training, held_out, options.seed)
    ratios = {name: snr(held_out, result) for name, result in results.items()}
    print(f"\n{table(ratios)}\n", flush=True)
    found = shortcomings(ratios)
    if found:
        print(f"The network is not good enough: {'; '.join(found)}.", file=sys.stderr, flush=True)
    with stage("Drawing the picture"):
        draw(options.output, net[0].W.get()[:, 0, 0], held_out, results, ratios, losses)
    print(f"Saved {options.output}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
