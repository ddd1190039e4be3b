"""The examples with clconv.signal, in small: they run, agree with SciPy, and see what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import eeg_bandpass
import matched_filter
import resample_audio

SMALL = {
    "resample_audio": (resample_audio, ["--seconds", "0.5"], "resampled"),
    "eeg_bandpass": (eeg_bandpass, ["--hours", "0.008", "--channels", "2"], "filtered"),
    "matched_filter": (matched_filter, ["--seconds", "8", "--events", "5"], "matched"),
}


@pytest.mark.parametrize("name", SMALL)
def test_example(first_runtime, tmp_path, capsys, monkeypatch, name):
    module, arguments, function = SMALL[name]
    picture = tmp_path / "picture.png"
    arguments = [*arguments, "--output", str(picture)]
    assert module.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Device: {first_runtime.info.name} ({first_runtime.info.platform})"
    assert picture.read_bytes().startswith(b"\x89PNG")
    real = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *given: np.roll(real(*given), 1, -1))
    assert module.main(arguments) == 1


def test_a_file_is_resampled(first_runtime, tmp_path):
    """Of 16-bit stereo, the first channel; another rate is refused."""
    path = tmp_path / "sound.wav"
    samples = (resample_audio.sound(0.2)[:, None] * [20000, 0]).astype(np.int16)
    wavfile.write(path, 44100, samples)
    assert resample_audio.main(["--file", str(path), "--output", str(tmp_path / "a.png")]) == 0
    wavfile.write(path, 48000, samples)
    with pytest.raises(ValueError, match="has 48000 samples a second, expected 44100"):
        resample_audio.read(path)


def test_a_missed_event_is_told(first_runtime, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matched_filter, "AMPLITUDE", 0.05)
    given = ["--seconds", "8", "--events", "5", "--output", str(tmp_path / "a.png")]
    assert matched_filter.main(given) == 1
    assert "0 of 5 events found" in capsys.readouterr().out
