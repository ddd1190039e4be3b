"""What is a discrete Fourier transform of real samples made of? Data: passes, factors, steps.

N real samples go through a complex transform of N / 2 points, the samples in turn being real and
imaginary parts, and are then separated. The complex transform is Stockham's, which leaves the
points in their natural order: passes of a radix each, from one array to another. Templates write
passes as loops, and what happens in them as the steps that are here. NumPy can run them, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

__all__ = ["CONSTANTS", "LARGE_SIZES", "SIZES", "Pass", "Step", "Transform", "butterfly", "radices"]

# Samples of a tile: N / 2 is a product of the radices.
SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# The same of one channel alone, whose filters are long.
LARGE_SIZES = (2048, 4096, 8192, 16384)
# A butterfly of radix 8 takes 16 vectors at once, and some for what it computes.
REGISTERS_OF_EIGHT = 32

# A step of straight-line code: a name, and an expression that is C and Python.
Step = tuple[str, str]
# The names in such expressions beside values.
CONSTANTS = {"HALF_ROOT": math.sqrt(0.5), "HALF": 0.5, "SINE_THIRD": math.sqrt(0.75)}


def radices(points: int, registers: int) -> tuple[int, ...]:
    """Those whose product is that many points, for so many vector registers."""
    found, rest = [], points
    while rest % 3 == 0:
        found.append(3)
        rest //= 3
    bits = rest.bit_length() - 1
    if rest != 1 << bits:
        raise ValueError(f"points is {points}, expected factors of 2 and 3 alone")
    if registers < REGISTERS_OF_EIGHT:
        return (*[4] * (bits // 2), *[2] * (bits % 2), *found)
    eights = bits // 3 if bits % 3 != 1 else max(bits // 3 - 1, 0)
    rest = bits - 3 * eights
    return (*[8] * eights, *[4] * (rest // 2), *[2] * (rest % 2), *found)


@dataclass(frozen=True)
class Pass:
    """One pass of a transform of `before * radix * after` points.

    Butterfly (p, q), p < after, q < before, takes the points q + before * (p + after * j), j <
    radix, and writes q + before * (radix * p + j); from j = 1 on multiplied by the factor
    exp(-2 pi i p j / (radix * after)). `first` is where the pass's factors begin among all.
    """

    radix: int
    before: int
    after: int
    first: int


@dataclass(frozen=True)
class Transform:
    """Of `size` real samples, in passes of these radices."""

    size: int
    radices: tuple[int, ...]

    @property
    def points(self) -> int:
        """Complex points."""
        return self.size // 2

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """In their order."""
        found, before, first = [], 1, 0
        for radix in self.radices:
            after = self.points // before // radix
            found.append(Pass(radix, before, after, first))
            if after > 1:
                first += 2 * (radix - 1) * after
            before *= radix
        return tuple(found)

    @cached_property
    def factors(self) -> tuple[float, ...]:
        """Real and imaginary parts of all passes' factors; then cosine and sine of 2 pi k / size
        for k = 1 … points / 2, which separate."""
        found: list[float] = []
        for one in self.passes:
            if one.after == 1:
                continue
            for p in range(one.after):
                for j in range(1, one.radix):
                    angle = _angle(p * j, one.radix * one.after)
                    found += (angle[0], -angle[1])
        for k in range(1, self.points // 2 + 1):
            found += _angle(k, self.size)
        return tuple(found)

    @property
    def separating(self) -> int:
        """Where the factors that separate begin."""
        return len(self.factors) - self.points // 2 * 2


def _angle(part: int, of: int) -> tuple[float, float]:
    """Cosine and sine of 2 pi part / of, exact at the axes."""
    quarter, rest = divmod(4 * part, of)
    angle = math.pi / 2 * (rest / of)
    cosine, sine = math.cos(angle), math.sin(angle)
    for _ in range(quarter % 4):
        cosine, sine = -sine, cosine
    return cosine, sine


def butterfly(radix: int) -> tuple[Step, ...]:
    """The transform of points x0r, x0i, x1r, … to y0r, y0i, …, radix 2, 3, 4 or 8."""
    return tuple(_BUTTERFLIES[radix]("x", "y"))


def _two(x: str, y: str) -> list[Step]:
    steps = []
    for part in "ri":
        steps += [
            (f"{y}0{part}", f"{x}0{part} + {x}1{part}"),
            (f"{y}1{part}", f"{x}0{part} - {x}1{part}"),
        ]
    return steps


def _three(x: str, y: str) -> list[Step]:
    steps = []
    for part in "ri":
        steps += [
            (f"s{part}", f"{x}1{part} + {x}2{part}"),
            (f"d{part}", f"SINE_THIRD * ({x}1{part} - {x}2{part})"),
            (f"{y}0{part}", f"{x}0{part} + s{part}"),
            (f"m{part}", f"{x}0{part} - HALF * s{part}"),
        ]
    return [
        *steps,
        (f"{y}1r", "mr + di"), (f"{y}1i", "mi - dr"),
        (f"{y}2r", "mr - di"), (f"{y}2i", "mi + dr"),
    ]  # fmt: skip


def _four(x: str, y: str, of: tuple[int, ...] = (0, 1, 2, 3), own: str = "") -> list[Step]:
    """Of the four points `of`; `own` keeps the names apart where two are in one butterfly."""
    a, b, c, d = of
    steps = []
    for part in "ri":
        steps += [
            (f"{own}a{part}", f"{x}{a}{part} + {x}{c}{part}"),
            (f"{own}b{part}", f"{x}{a}{part} - {x}{c}{part}"),
            (f"{own}c{part}", f"{x}{b}{part} + {x}{d}{part}"),
            (f"{own}d{part}", f"{x}{b}{part} - {x}{d}{part}"),
        ]
    return [
        *steps,
        (f"{y}0r", f"{own}ar + {own}cr"), (f"{y}0i", f"{own}ai + {own}ci"),
        (f"{y}1r", f"{own}br + {own}di"), (f"{y}1i", f"{own}bi - {own}dr"),
        (f"{y}2r", f"{own}ar - {own}cr"), (f"{y}2i", f"{own}ai - {own}ci"),
        (f"{y}3r", f"{own}br - {own}di"), (f"{y}3i", f"{own}bi + {own}dr"),
    ]  # fmt: skip


def _eight(x: str, y: str) -> list[Step]:
    steps = [*_four(x, "e", (0, 2, 4, 6), "e"), *_four(x, "o", (1, 3, 5, 7), "o")]
    # The odd points' transform times exp(-2 pi i k / 8).
    steps += [
        ("t0r", "o0r"), ("t0i", "o0i"),
        ("t1r", "HALF_ROOT * (o1r + o1i)"), ("t1i", "HALF_ROOT * (o1i - o1r)"),
        ("t2r", "o2i"), ("t2i", "-o2r"),
        ("t3r", "HALF_ROOT * (o3i - o3r)"), ("t3i", "-HALF_ROOT * (o3i + o3r)"),
    ]  # fmt: skip
    for k in range(4):
        for part in "ri":
            steps += [
                (f"{y}{k}{part}", f"e{k}{part} + t{k}{part}"),
                (f"{y}{k + 4}{part}", f"e{k}{part} - t{k}{part}"),
            ]
    return steps


_BUTTERFLIES = {2: _two, 3: _three, 4: _four, 8: _eight}
