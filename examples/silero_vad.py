"""Finds speech with Silero's voice activity model, its convolutions computed by clconv.

The package silero-vad ships the model as TorchScript. Here its front, a short-time Fourier
transform written as a convolution and four convolutions over the spectrum, is rebuilt from the
weights of that file as an ordinary PyTorch model that `clconv.torch.convert` gives to the device,
for all windows at once; the file's own decoder, a recurrent cell, turns the result into
probabilities. Both must match PyTorch's to 4e-5, the front's features in units of the largest, or
the exit status is 1. Draws the probabilities over the sound. Without --sound the program espeak-ng
speaks a sentence, and has to be installed (Debian: apt install espeak-ng).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import torch
    from matplotlib.figure import Figure
    from scipy import signal
    from scipy.io import wavfile
    from torch import Tensor, nn

    from clconv import default_runtime
    from clconv.torch import convert
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

RATE, WINDOW, CONTEXT = 16_000, 512, 64  # Hz, samples, samples of the window before
TEXT = "Convolution is a sliding sum of products. ... It runs on every device."
PAUSE_SECONDS = 0.7  # of silence around the speech
CLOSE = 4e-5  # results of transforms are off by up to four times as much as direct sums
RED, GREY = "#c8102e", "#9aa5b1"


class Front(nn.Module):
    """The model's front: (N, 576) samples to (N, 128, 1) features, weights from the TorchScript."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        basis = script.stft.forward_basis_buffer
        self.pad = nn.ReflectionPad1d(tuple(script.stft.padding.padding))
        hop = script.stft.hop_length
        self.fourier = nn.Conv1d(1, len(basis), basis.shape[2], hop, bias=False)
        self.fourier.weight = nn.Parameter(basis)
        layers: list[nn.Module] = []
        for block in script.encoder.children():
            its = block.reparam_conv
            channels = its.weight.shape[1], its.weight.shape[0], its.weight.shape[2]
            conv = nn.Conv1d(*channels, its.stride, its.padding, its.dilation, its.groups)
            conv.load_state_dict(its.state_dict())
            layers += [conv, nn.ReLU()]
        self.encoder = nn.Sequential(*layers)

    def forward(self, samples: Tensor) -> Tensor:
        """Magnitudes of the spectrum, (N, 129, 4), through the encoder."""
        real, imaginary = self.fourier(self.pad(samples)[:, None]).chunk(2, 1)
        features: Tensor = self.encoder((real.square() + imaginary.square()).sqrt())
        return features


def load() -> Any:
    """The package's model for 16 kHz. Raises ImportError where silero-vad is missing."""
    # Not by import: the package has this file's own name.
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad.jit")
    return torch.jit.load(str(path), map_location="cpu").eval()._model


def speak(text: str, path: Path) -> None:
    """Writes a sound file of espeak-ng saying a text. Raises FileNotFoundError without it."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError(
            "espeak-ng is missing: apt install espeak-ng on Debian, or give --sound FILE.wav"
        )
    subprocess.run([program, "-s", "150", "-w", str(path), text], check=True)


def read(path: Path) -> Tensor:
    """(samples,) of a sound file at 16 kHz in -1 … 1, one channel, silence on both sides."""
    rate, values = wavfile.read(path)
    if values.dtype.kind == "i":
        values = values / -float(np.iinfo(values.dtype).min)
    values = values.reshape(len(values), -1).mean(1)
    common = np.gcd(rate, RATE)
    values = signal.resample_poly(values, RATE // common, rate // common)
    return torch.tensor(np.pad(values, round(PAUSE_SECONDS * RATE)), dtype=torch.float32)


def windows(samples: Tensor) -> Tensor:
    """(N, 576): windows of 512 samples, each with the last 64 of the one before."""
    padded = nn.functional.pad(samples, (CONTEXT, -len(samples) % WINDOW))
    return padded.unfold(0, CONTEXT + WINDOW, WINDOW)


def probabilities(script: Any, features: Tensor) -> Tensor:
    """(N,): of speech in each window, by the file's own decoder, one window after the other."""
    state, found = torch.zeros(0), []
    for one in features:
        answer, state = script.decoder(one[None], state)
        found.append(answer.mean())
    return torch.stack(found)


def draw(path: Path, samples: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Saves the picture: the sound, and the probabilities of both over it."""
    figure = Figure(figsize=(13, 6), layout="constrained")  # without pyplot, it draws with Agg
    above, below = figure.subplots(2, sharex=True)
    above.plot(np.arange(len(samples)) / RATE, samples.numpy(), color=GREY, lw=0.5)
    above.set(title="Where is speech? Silero's model, its convolutions on clconv", ylabel="sound")
    seconds = (np.arange(len(ours)) + 0.5) * WINDOW / RATE
    below.plot(seconds, theirs.numpy(), color="black", lw=3, alpha=0.25, label="PyTorch")
    below.plot(seconds, ours.numpy(), color=RED, lw=1.2, label="clconv")
    below.axhline(0.5, color=GREY, ls=":")
    below.set(xlabel="time [s]", ylabel="probability of speech", ylim=(-0.03, 1.03))
    below.legend(frameon=False)
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    """Finds the speech, compares, draws; 0 where clconv and PyTorch agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sound",
        type=Path,
        help="a .wav file (else espeak-ng, which must be installed, says a sentence)",
    )
    parser.add_argument("--output", type=Path, default=Path("silero_vad.png"), help="the picture")
    options = parser.parse_args(argv)
    if not options.output.parent.is_dir() or not (options.sound is None or options.sound.is_file()):
        parser.error("the folder of --output and the file of --sound must exist")
    try:
        script = load()
        with tempfile.TemporaryDirectory() as folder:
            path = options.sound or Path(folder) / "speech.wav"
            if options.sound is None:
                speak(TEXT, path)
            samples = read(path)
    except ImportError as error:
        print(
            f'{error.name} is missing: pip install ".[examples]" in a clone of clconv',
            file=sys.stderr,
        )
        return 1
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    front = Front(script)
    layers = convert(front)
    with torch.no_grad():
        frames = windows(samples)
        expected = script.encoder(script.run_extractors(frames))
        features = front(frames)
        ours, theirs = probabilities(script, features), probabilities(script, expected)
    speech = float((ours >= 0.5).float().mean())
    print(f"Sound: {len(samples) / RATE:.1f} s, {len(frames)} windows, {speech:.0%} of them speech")
    print(f"{layers} convolutions on clconv", end=", ")
    apart = (features - expected).abs().max() / expected.max(), (ours - theirs).abs().max()
    print(f"largest difference to PyTorch: features {apart[0]:.1e}, probabilities {apart[1]:.1e}")
    draw(options.output, samples, ours, theirs)
    print(f"Saved {options.output}")
    return int(not max(apart) <= CLOSE)


if __name__ == "__main__":
    sys.exit(main())
