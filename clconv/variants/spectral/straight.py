"""A transform of real samples as straight-line code of single numbers, for work-items of GPUs.

A complex product (a + i b) (c + i d) is made of three real ones: of a + b and c, of a and d - c, of
b and c + d. The real part is the first less the third, the imaginary part the first and the second.
So a tile's transform is planes of real numbers: two of the points that are real (the sums of all
samples, and of samples with alternating signs), then three for each other point. The factors are
split on the side that is conjugate: weights, and the output's gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache

from clconv.variants import batched
from clconv.variants.base import Design, Request
from clconv.variants.cuts import Cut
from clconv.variants.schemes import Scheme, Step
from clconv.variants.spectral.transforms import CONSTANTS, Transform, butterfly, radices

__all__ = ["SIZES", "designs", "refusal", "scheme"]

# Samples of a tile: larger transforms take more registers than a work-item should have.
SIZES = (16, 32, 48)
# As many registers as a butterfly of any radix takes.
REGISTERS = 32

Numbers = list[str]  # names


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve on a GPU: few channels, or too many taps or channels."""
    problem, why = request.problem, batched.refusal(request)
    if why is None and not _cuts(request):
        return (
            f"kernel_size is {problem.kernel_size} with stride {problem.stride}, expected on a GPU "
            f"at most {2 * SIZES[-1] // 3 + 1} taps a phase of the stride"
        )
    if why is None and not _schemes(request):
        return batched.TOO_MANY
    return why


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    for cut, made in _schemes(request):
        yield batched.design(cut, made)


def _cuts(request: Request) -> list[Cut]:
    """For each size of a tile of which at least a third are results."""
    return [cut for size in SIZES if 3 * (cut := Cut(request, size)).outputs >= size]


def _schemes(request: Request) -> list[tuple[Cut, Scheme]]:
    """The same with their schemes, where the device can run them."""
    cuts = _cuts(request)
    made = [(cut, scheme(cut.size, cut.taps, gradient=cut.gradient)) for cut in cuts]
    return [both for both in made if batched.fits(*both)]


class _Code:
    """Steps in the making; the constants that they name are those of others, too."""

    def __init__(self, constants: dict[str, float]) -> None:
        self.steps: list[Step] = []
        self.constants = constants
        self.planes = 2  # that follow the real ones, in the order in which points are computed

    def set(self, name: str, expression: str) -> str:
        self.steps.append((name, expression))
        return name

    def number(self, value: float) -> str:
        """A constant by name."""
        for name, known in self.constants.items():
            if math.isclose(value, known, rel_tol=1e-14):
                return name
        name = f"F{len(self.constants) - len(CONSTANTS)}"
        self.constants[name] = value
        return name

    def times(self, value: float, name: str) -> str:
        """A number times a factor, which is not multiplied where it is a sign."""
        if abs(value) == 1:
            return name if value > 0 else f"-{name}"
        return f"{self.number(value)} * {name}" if value > 0 else f"-{self.number(-value)} * {name}"

    def turned(self, own: str, re_: str, im: str, c: float, s: float) -> tuple[str, str]:
        """(re + i im) (c + i s)."""
        if s == 0:
            return self.set(f"{own}r", self.times(c, re_)), self.set(f"{own}i", self.times(c, im))
        if c == 0:
            return self.set(f"{own}r", self.times(-s, im)), self.set(f"{own}i", self.times(s, re_))
        return (
            self.set(f"{own}r", f"{self.times(c, re_)} + {self.times(-s, im)}"),
            self.set(f"{own}i", f"{self.times(c, im)} + {self.times(s, re_)}"),
        )

    def complex(self, transform: Transform, re_: Numbers, im: Numbers) -> tuple[Numbers, Numbers]:
        """The complex transform of points, pass by pass."""
        for i, one in enumerate(transform.passes):
            to_re, to_im = [""] * len(re_), [""] * len(im)
            for p in range(one.after):
                for q in range(one.before):
                    own = f"p{i}_{p}_{q}_"
                    given: dict[str, str] = {}
                    for j in range(one.radix):
                        at = q + one.before * (p + one.after * j)
                        given |= {f"x{j}r": re_[at], f"x{j}i": im[at]}
                    for name, expression in butterfly(one.radix):
                        self.set(own + name, _renamed(expression, given, own))
                    for j in range(one.radix):
                        c, s = 1.0, 0.0
                        if j and one.after > 1:
                            at = one.first + p * 2 * (one.radix - 1) + 2 * (j - 1)
                            c, s = transform.factors[at : at + 2]
                        place = q + one.before * (one.radix * p + j)
                        to_re[place], to_im[place] = f"{own}y{j}r", f"{own}y{j}i"
                        if (c, s) != (1, 0):
                            to_re[place], to_im[place] = self.turned(
                                f"{own}f{j}", to_re[place], to_im[place], c, s
                            )
            re_, im = to_re, to_im
        return re_, im

    def separated(
        self, transform: Transform, re_: Numbers, im: Numbers, *, conjugate: bool
    ) -> None:
        """Planes of the transform of real samples, twice, from that of pairs of them."""
        points = transform.points
        self.set("even", f"{re_[0]} + {re_[0]}")
        self.set("odd", f"{im[0]} + {im[0]}")
        self.set("v0", "even + odd")
        self.set("v1", "even - odd")
        for k in range(1, points // 2 + 1):
            c, s = _factor(transform, k)
            ar, ai, br, bi = re_[k], im[k], re_[points - k], im[points - k]
            er, ei = self.set(f"er{k}", f"{ar} + {br}"), self.set(f"ei{k}", f"{ai} - {bi}")
            dr, di = self.set(f"dr{k}", f"{ai} + {bi}"), self.set(f"di{k}", f"{br} - {ar}")
            tr, ti = self.turned(f"t{k}", dr, di, c, -s)
            near = self.set(f"nr{k}", f"{er} + {tr}"), self.set(f"ni{k}", f"{ei} + {ti}")
            self._split(k, *near, conjugate)
            if 2 * k < points:
                far = self.set(f"gr{k}", f"{er} - {tr}"), self.set(f"gi{k}", f"{ti} - {ei}")
                self._split(points - k, *far, conjugate)

    def _split(self, k: int, re_: str, im: str, conjugate: bool) -> None:
        first = self.planes
        split = (
            (f"{re_} - {im}", re_, f"-{im}") if conjugate
            else (re_, f"{im} - {re_}", f"{re_} + {im}")
        )  # fmt: skip
        for j, value in enumerate(split):
            self.set(f"v{first + j}", value)
        self.planes += 3

    def joined(self, transform: Transform) -> tuple[Numbers, Numbers]:
        """Pairs whose transform is the inverse one, parts exchanged, from products of planes."""
        points = transform.points
        re_, im = [""] * points, [""] * points
        re_[0], im[0] = self.set("z0r", "v0 - v1"), self.set("z0i", "v0 + v1")
        for k in range(1, points // 2 + 1):
            c, s = _factor(transform, k)
            ar, ai = self._product(k)
            br, bi = (ar, ai) if 2 * k == points else self._product(points - k)
            er, ei = self.set(f"er{k}", f"{ar} + {br}"), self.set(f"ei{k}", f"{ai} - {bi}")
            dr, di = self.set(f"dr{k}", f"{ar} - {br}"), self.set(f"di{k}", f"{ai} + {bi}")
            tr, ti = self.turned(f"t{k}", dr, di, c, s)
            re_[k] = self.set(f"z{k}r", f"{ei} + {tr}")
            im[k] = self.set(f"z{k}i", f"{er} - {ti}")
            if 2 * k < points:
                re_[points - k] = self.set(f"z{points - k}r", f"{tr} - {ei}")
                im[points - k] = self.set(f"z{points - k}i", f"{er} + {ti}")
        return re_, im

    def _product(self, k: int) -> tuple[str, str]:
        a, b, c = (f"v{self.planes + j}" for j in range(3))
        self.planes += 3
        return self.set(f"q{k}r", f"{a} - {c}"), self.set(f"q{k}i", f"{a} + {b}")


def _renamed(expression: str, given: dict[str, str], own: str) -> str:
    def name(found: re.Match[str]) -> str:
        word = found[0]
        return word if word in CONSTANTS else given.get(word, own + word)

    return re.sub(r"[A-Za-z]\w*", name, expression)


def _factor(transform: Transform, k: int) -> tuple[float, float]:
    """Cosine and sine of 2 pi k / size."""
    at = transform.separating + 2 * k - 2
    return transform.factors[at], transform.factors[at + 1]


@lru_cache(maxsize=64)
def scheme(size: int, taps: int, *, gradient: bool) -> Scheme:
    """The correlation of tiles of so many samples by so many taps; or, of the weight gradient, by
    the results' gradients, whose sums are the taps'."""
    transform = Transform(size, radices(size // 2, REGISTERS))
    outputs = size - taps + 1
    taken, given = (outputs, taps) if gradient else (taps, outputs)
    constants = dict(CONSTANTS)
    samples, factors, results = (_Code(constants) for _ in range(3))
    names = [f"s{i}" for i in range(size)]
    pairs = samples.complex(transform, names[0::2], names[1::2])
    samples.separated(transform, *pairs, conjugate=False)
    # All that a result is scaled by, where it is done to the fewest: weights, or their gradients.
    scale = 0.25 / size
    weights = [f"s{i}" if i < taken else "0" for i in range(size)]
    if not gradient:
        number = factors.number(scale)
        weights[:taken] = [factors.set(f"w{i}", f"{number} * s{i}") for i in range(taken)]
    pairs = factors.complex(transform, weights[0::2], weights[1::2])
    factors.separated(transform, *pairs, conjugate=True)
    re_, im = results.complex(transform, *results.joined(transform))
    for i in range(given):
        value = (re_ if i % 2 else im)[i // 2]
        results.set(f"r{i}", f"{results.number(scale)} * {value}" if gradient else value)
    steps = (samples.steps, factors.steps, results.steps)
    return Scheme.of(size, taken, given, 3 * transform.points - 1, constants, *steps)
