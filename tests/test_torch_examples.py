"""The examples that need PyTorch or SciPy, in small: they run, and what they show is right."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

from clconv.torch import Conv1d

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import fir_filter
import silero_vad
import ucr_fcn

PNG = b"\x89PNG"


# ucr_fcn.py


def waves(count, length=24):
    """Noisy waves, the second class of twice the frequency."""
    labels = torch.arange(count) % 2
    phase = 2 * torch.pi * torch.rand(count, 1)
    angles = torch.pi / 6 * (1 + labels[:, None]) * torch.arange(length) + phase
    series = 2**0.5 * torch.sin(angles) + 0.1 * torch.randn(count, length)
    return ucr_fcn.Part(series[:, None].float(), labels)


@pytest.fixture
def small(monkeypatch):
    """Narrow layers, and waves for data."""
    torch.manual_seed(1)
    monkeypatch.setattr(ucr_fcn, "LAYERS", ((8, 8), (8, 5), (8, 3)))
    return waves(24), waves(12)


def test_ucr_fcn_network_is_the_paper_s(runtime):
    model = ucr_fcn.network(2)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv1d)]
    assert [type(layer) for layer in layers] == [Conv1d] * 3
    found = [(layer.out_channels, *layer.kernel_size, layer.padding) for layer in layers]
    assert found == [(128, 8, "same"), (256, 5, "same"), (128, 3, "same")]


def test_ucr_fcn_learns(first_runtime, small):
    training, test = small
    outcome = ucr_fcn.train(training, test, 20, seed=0)
    assert min(outcome.losses) < 0.6 * outcome.losses[0]
    assert outcome.accuracy == ucr_fcn.accuracy(outcome.model, test) > 0.8
    assert outcome.rates == [ucr_fcn.LEARN_RATE] * 20


def test_ucr_fcn_evidence_adds_up_to_the_score(runtime, small):
    """Its mean is the class's score but for the bias: that is why it explains it."""
    training, _ = small
    model = ucr_fcn.network(2).eval()
    for label in (0, 1):
        found = ucr_fcn.evidence(model, training.series[0], label)
        assert found.shape == (24,)
        score = model(training.series[:1])[0, label] - model[3].bias[label]
        torch.testing.assert_close(found.mean(), score)


def test_ucr_fcn(first_runtime, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ucr_fcn, "load", lambda name: small)
    monkeypatch.setitem(ucr_fcn.TARGETS, "GunPoint", 0.0)
    picture = tmp_path / "picture.png"
    arguments = ["--epochs", "2", "--seeds", "0", "3", "--output", str(picture)]
    assert ucr_fcn.main(["--dataset", "GunPoint", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Device: {first_runtime.info.name}")
    seeds = {int(line.split()[0]): float(line.split()[2]) for line in lines[4:6]}
    assert list(seeds) == [0, 3]
    median = np.mean([*seeds.values()])
    assert lines[7] == f"Median accuracy {median:.4f}, at least 0.0 expected"
    assert picture.read_bytes().startswith(PNG)
    monkeypatch.setitem(ucr_fcn.TARGETS, "GunPoint", 1.01)
    assert ucr_fcn.main(["--dataset", "GunPoint", *arguments]) == 1


def test_ucr_fcn_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "aeon", None)
    monkeypatch.setitem(sys.modules, "aeon.datasets", None)
    assert ucr_fcn.main([]) == 1
    assert (
        capsys.readouterr().err
        == 'aeon is missing: pip install ".[examples]" in a clone of clconv\n'
    )


# silero_vad.py


def sound(path, rate=22050):
    """A file of half a second of chirps."""
    seconds = np.arange(rate // 2) / rate
    values = 0.3 * np.sin(2 * np.pi * 400 * seconds * (1 + seconds))
    wavfile.write(path, rate, (values * 2**15).astype(np.int16))
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.load")
def test_silero_vad(runtime, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    path = sound(tmp_path / "sound.wav")
    assert silero_vad.main(["--sound", str(path), "--output", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Device: {runtime.info.name}")
    assert lines[1].startswith("Sound: 1.9 s, 60 windows, ")
    assert lines[2].startswith("5 convolutions on clconv, ")
    assert picture.read_bytes().startswith(PNG)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load")
def test_silero_vad_sees_a_wrong_result(runtime, tmp_path, monkeypatch):
    real = silero_vad.Front.forward
    monkeypatch.setattr(silero_vad.Front, "forward", lambda self, x: real(self, 1.001 * x))
    arguments = ["--sound", str(sound(tmp_path / "s.wav")), "--output", str(tmp_path / "p.png")]
    assert silero_vad.main(arguments) == 1


def test_silero_vad_windows():
    """Each of 512 samples after the last 64 of the one before; zeros around the sound."""
    samples = torch.arange(1.0, 1100.0)
    found = silero_vad.windows(samples)
    assert found.shape == (3, 576)
    assert not found[0, :64].any()
    torch.testing.assert_close(found[1], samples[512 - 64 : 1024])
    assert found[2, 64 + 1099 - 1024 :].eq(0).all()


def test_silero_vad_reads_what_it_is_given(tmp_path):
    """Resampled to 16 kHz, of one channel, between -1 and 1, with silence around."""
    found = silero_vad.read(sound(tmp_path / "sound.wav"))
    assert len(found) == 8000 + 2 * round(0.7 * 16000)
    assert 0.25 < found.abs().max() < 0.35
    both = np.stack([np.full(800, 1.0), np.zeros(800)], 1).astype(np.float32)
    wavfile.write(tmp_path / "both.wav", 16000, both)
    torch.testing.assert_close(
        silero_vad.read(tmp_path / "both.wav")[11600:11700], 0.5 * torch.ones(100)
    )


def test_silero_vad_says_what_to_install(monkeypatch, capsys):
    def missing():
        raise PackageNotFoundError("silero-vad")

    monkeypatch.setattr(silero_vad, "load", missing)
    assert silero_vad.main([]) == 1
    assert (
        capsys.readouterr().err
        == 'silero-vad is missing: pip install ".[examples]" in a clone of clconv\n'
    )
    monkeypatch.setattr(silero_vad, "load", lambda: None)
    monkeypatch.setattr(silero_vad.shutil, "which", lambda name: None)
    assert silero_vad.main([]) == 1
    assert "espeak-ng is missing" in capsys.readouterr().err


# fir_filter.py


def test_fir_filter(runtime, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert fir_filter.main(["--seconds", "0.2", "--output", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Device: {runtime.info.name}")
    assert lines[1] == "Sound: 0.2 s at 48000 Hz, 9600 samples, through 1025 taps"
    assert picture.read_bytes().startswith(PNG)


def test_fir_filter_sees_a_wrong_result(runtime, tmp_path, monkeypatch):
    real = fir_filter.filtered
    monkeypatch.setattr(fir_filter, "filtered", lambda x, taps: np.roll(real(x, taps), 1))
    arguments = ["--seconds", "0.2", "--output", str(tmp_path / "picture.png")]
    assert fir_filter.main(arguments) == 1


def test_fir_filter_passes_one_tone_and_stops_the_other(runtime):
    y = fir_filter.filtered(fir_filter.sound(0.5), fir_filter.low_pass())
    power = np.abs(np.fft.rfft(y[2400:21600] * np.hanning(19200))) ** 2
    below, above = (power[round(hertz * 19200 / 48000)] for hertz in fir_filter.TONES)
    assert below > 1e9 * above


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        (fir_filter, ["--seconds", "0.01"]),
        (ucr_fcn, ["--epochs", "0"]),
        (ucr_fcn, ["--dataset", "none"]),
        (silero_vad, ["--sound", "no such file"]),
    ],
)
def test_examples_refuse(example, arguments, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert arguments[0] in capsys.readouterr().err
