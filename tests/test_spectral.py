"""Convolution by Fourier transforms: the data that templates write, the kernels, their bound."""

from __future__ import annotations

import numpy as np
import pytest

from clconv.variants.spectral.transforms import CONSTANTS, SIZES, Transform, butterfly, radices


def _transformed(transform, samples):
    """The complex transform of pairs of samples, by the passes and steps that templates write."""
    points = list(samples[0::2] + 1j * samples[1::2])
    for one in transform.passes:
        written = [0j] * len(points)
        for p in range(one.after):
            for q in range(one.before):
                values = dict(CONSTANTS)
                for j in range(one.radix):
                    point = points[q + one.before * (p + one.after * j)]
                    values |= {f"x{j}r": point.real, f"x{j}i": point.imag}
                for name, expression in butterfly(one.radix):
                    values[name] = eval(expression, {}, values)
                for j in range(one.radix):
                    factor = 1 + 0j
                    if j and one.after > 1:
                        at = one.first + p * 2 * (one.radix - 1) + 2 * (j - 1)
                        factor = complex(*transform.factors[at : at + 2])
                    point = complex(values[f"y{j}r"], values[f"y{j}i"]) * factor
                    written[q + one.before * (one.radix * p + j)] = point
        points = written
    return np.array(points)


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_transforms(rng, size, registers):
    """The steps of all passes are a discrete Fourier transform in natural order."""
    transform = Transform(size, radices(size // 2, registers))
    assert np.prod(transform.radices) == transform.points == size // 2
    assert max(transform.radices) <= (8 if registers == 32 else 4)
    samples = rng.standard_normal(size)
    found = _transformed(transform, samples)
    expected = np.fft.fft(samples[0::2] + 1j * samples[1::2])
    assert np.abs(found - expected).max() < 1e-14 * size
    pairs = np.array(transform.factors[transform.separating :]).reshape(-1, 2)
    angles = 2 * np.pi * np.arange(1, size // 4 + 1) / size
    assert np.abs(pairs - np.stack([np.cos(angles), np.sin(angles)], axis=1)).max() < 1e-15


def test_radices():
    with pytest.raises(ValueError, match="points is 40, expected factors of 2 and 3 alone"):
        radices(40, 32)
