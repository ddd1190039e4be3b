"""What are Winograd's transforms made of? Matrices of fractions, and their rows as few sums.

F(m, r) gives m outputs y of a correlation by r taps w, of m + r - 1 samples x, by as many products:
    y = A^T ((G w) * (B^T x))
The matrices follow from the values of polynomials at m + r - 2 points, and at infinity (Toom and
Cook). The points are those of the least error for so many, after Barabasz, Anderson, Soodhalter and
Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep neural networks".

With a stride, phases of the samples meet phases of the taps: the matrices of the phases side by
side are those of one transform, in which a phase of one tap takes m products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import combinations
from typing import NamedTuple

from clconv.variants.base import ceil_div

__all__ = [
    "OUTPUTS",
    "Matrix",
    "Step",
    "Transform",
    "every_second",
    "in_turn",
    "roundings",
    "steps",
    "transform",
    "transposed",
]

Matrix = tuple[tuple[Fraction, ...], ...]

# The finite points, of which F(m, r) takes the first m + r - 2.
POINTS = tuple(map(Fraction, ("0", "1", "-1", "1/2", "-2")))
# Outputs of a tile that are worth trying, by the most taps of a phase: more than these have larger
# errors.
OUTPUTS = {2: (4,), 3: (4, 2)}


@dataclass(frozen=True)
class Transform:
    """F(outputs, taps) with a stride: `data` is B^T, `weight` is G, `inverse` is A^T.

    B^T and A^T have sums of a few powers of two alone; what has other denominators is in G.
    """

    outputs: int
    taps: int
    data: Matrix
    weight: Matrix
    inverse: Matrix
    stride: int = 1

    @property
    def points(self) -> int:
        """Products of a tile."""
        return len(self.data)

    @property
    def samples(self) -> int:
        """Of a tile."""
        return len(self.data[0])

    @property
    def step(self) -> int:
        """Samples from a tile's first to the next tile's."""
        return self.outputs * self.stride

    @cached_property
    def roundings(self) -> int:
        """How many roundings a result hangs on in the three transforms: the most of any term."""
        return sum(map(roundings, map(steps, (self.data, self.weight, self.inverse))))

    @cached_property
    def gradient_roundings(self) -> int:
        """The same of the weight gradient, which has inverse and weight transposed."""
        matrices = (self.data, transposed(self.inverse), transposed(self.weight))
        return sum(map(roundings, map(steps, matrices)))


def transposed(matrix: Matrix) -> Matrix:
    """Its columns as rows."""
    return tuple(zip(*matrix, strict=True))


@lru_cache(maxsize=16)
def transform(outputs: int, taps: int, stride: int = 1) -> Transform:
    """F(outputs, taps), with a stride. Raises ValueError where it would need more points than there
    are."""
    if stride > 1:
        return _strided(outputs, taps, stride)
    finite = outputs + taps - 2
    if not (outputs >= 1 and taps >= 1 and finite <= len(POINTS)):
        raise ValueError(
            f"outputs is {outputs} and taps {taps}, expected at least 1, and at most "
            f"{len(POINTS) + 2} of both"
        )
    points = POINTS[:finite]
    data, weight, columns = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        value = Fraction(1)
        for other in others:
            value *= point - other
        data.append((*_product(others), Fraction(0)))
        weight.append(tuple(point**k / value for k in range(taps)))
        columns.append(tuple(point**i for i in range(outputs)))
    # At infinity a polynomial's value is its highest coefficient.
    data.append(_product(points))
    weight.append(tuple(Fraction(k == taps - 1) for k in range(taps)))
    columns.append(tuple(Fraction(i == outputs - 1) for i in range(outputs)))
    inverse = transposed(tuple(columns))
    return Transform(outputs, taps, tuple(data), tuple(weight), inverse)


def _strided(outputs: int, taps: int, stride: int) -> Transform:
    """Of the taps of each phase, side by side."""
    samples = (outputs - 1) * stride + taps
    data: list[tuple[Fraction, ...]] = []
    weight: list[tuple[Fraction, ...]] = []
    columns: list[tuple[Fraction, ...]] = []
    for phase in range(min(stride, taps)):
        own = ceil_div(taps - phase, stride)
        one = transform(outputs, own) if own > 1 else _unchanged(outputs)
        data += (_spread(row, samples, phase, stride) for row in one.data)
        weight += (_spread(row, taps, phase, stride) for row in one.weight)
        columns += zip(*one.inverse, strict=True)
    inverse = tuple(zip(*columns, strict=True))
    return Transform(outputs, taps, tuple(data), tuple(weight), inverse, stride)


def _unchanged(outputs: int) -> Transform:
    """Of one tap: each sample times it is a result."""
    same = tuple(tuple(Fraction(i == j) for j in range(outputs)) for i in range(outputs))
    return Transform(outputs, 1, same, ((Fraction(1),),) * outputs, same)


def _spread(row: Sequence[Fraction], count: int, first: int, stride: int) -> tuple[Fraction, ...]:
    """The entries at every `stride`th of so many places, with zeros between."""
    found = [Fraction(0)] * count
    found[first::stride] = [*row, *([Fraction(0)] * (len(found[first::stride]) - len(row)))]
    return tuple(found)


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The coefficients of the polynomial with these roots, the lowest first."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [up - root * low for up, low in zip(shifted, [*found, Fraction(0)], strict=True)]
    return tuple(found)


class Step(NamedTuple):
    """`name` = the sum of coefficients times names."""

    name: str
    terms: tuple[tuple[Fraction, str], ...]

    def expression(self, number: Callable[[Fraction], str] = str) -> str:
        """The sum in the notation of Python and of C, each product with the addition that follows
        it; `number` writes a coefficient."""
        text = ""
        for factor, name in sorted(self.terms, key=_unmultiplied_first):
            before = f"({text})" if " " in text else text
            if abs(factor) != 1:
                text = f"{number(factor)} * {name}" + (f" + {before}" if text else "")
            elif text:
                text = f"{before} {'+' if factor > 0 else '-'} {name}"
            else:
                text = name if factor > 0 else f"-{name}"
        return text or number(Fraction(0))


def _unmultiplied_first(term: tuple[Fraction, str]) -> tuple[bool, bool]:
    """The order of a sum's terms: what has no factor comes first, and best without a sign."""
    return abs(term[0]) != 1, term[0] != 1


def steps(matrix: Matrix, source: str = "x", result: str = "r", shared: str = "t") -> list[Step]:
    """A product of the matrix with source0, source1, … as sums, in order: result0, … of each row,
    after shared0, …, which several rows have, times a number. Each entry reaches its row in one
    way, so that magnitudes are those of the matrix."""
    rows = [{f"{source}{j}": entry for j, entry in enumerate(row) if entry != 0} for row in matrix]
    found: list[Step] = []
    while True:
        counts: dict[tuple[str, str, Fraction], int] = {}
        for row in rows:
            for (a, of_a), (b, of_b) in combinations(row.items(), 2):
                key = (a, b, of_b / of_a)
                counts[key] = counts.get(key, 0) + 1
        # Of those in most rows the first whose terms are not multiplied.
        best = max(counts, key=lambda key: (counts[key], abs(key[2]) == 1), default=None)
        if best is None or counts[best] < 2:
            break
        first, second, ratio = best
        having = [r for r in rows if first in r and r.get(second) == ratio * r[first]]
        # With the sign that most rows have it with.
        sign = 1 if 2 * sum(row[first] > 0 for row in having) >= len(having) else -1
        step = Step(f"{shared}{len(found)}", ((Fraction(sign), first), (sign * ratio, second)))
        found.append(step)
        for row in having:
            row[step.name] = sign * row.pop(first)
            del row[second]
    for i, row in enumerate(rows):
        found.append(Step(f"{result}{i}", tuple((entry, at) for at, entry in row.items())))
    return found


def roundings(some: Sequence[Step]) -> int:
    """The most roundings on the way from a source to a result: one an addition, one of a product
    with more than a power of two, and one of a number that is no sum of a few of these."""
    depth: dict[str, int] = {}
    for step in some:
        products = max((_product_roundings(factor) for factor, _ in step.terms), default=0)
        before = max((depth.get(name, 0) for _, name in step.terms), default=0)
        depth[step.name] = before + products + max(0, len(step.terms) - 1)
    return max(depth.values(), default=0)


def _product_roundings(factor: Fraction) -> int:
    if factor.denominator & (factor.denominator - 1):
        return 2
    numerator = abs(factor.numerator)
    return int(numerator & (numerator - 1) != 0)


def every_second(count: int) -> list[tuple[str, str, str, int]]:
    """How `count` vectors v0, v1, …, a power of two, are turned so that vector x0, x1, … has every
    `count`th of their elements: each step (name, a, b, first) has every second element of a and b,
    from `first` on."""
    found: list[tuple[str, str, str, int]] = []
    level = [(0, 1, [f"v{i}" for i in range(count)])]
    while len(level[0][2]) > 1:
        following = []
        for phase, apart, names in level:
            for first in range(2):
                own = phase + first * apart
                last = len(names) == 2
                made = []
                for i in range(0, len(names), 2):
                    name = f"x{own}" if last else f"v{own}_{2 * apart}_{i // 2}"
                    found.append((name, names[i], names[i + 1], first))
                    made.append(name)
                following.append((own, 2 * apart, made))
        level = following
    return found


def in_turn(names: Sequence[str]) -> list[tuple[str, str, str, int]]:
    """The way back: how vectors of these names, a power of two, are turned so that vectors o0, o1,
    … have an element of each in turn. Each step (name, a, b, high) has the elements of the lower
    halves of a and b alternately, or of the higher ones."""
    found: list[tuple[str, str, str, int]] = []
    level = [[name] for name in names]
    while len(level) > 1:
        half = len(level) // 2
        following = []
        for i, (some, others) in enumerate(zip(level[:half], level[half:], strict=True)):
            made: list[str] = []
            for a, b in zip(some, others, strict=True):
                for high in range(2):
                    name = f"o{len(made)}" if half == 1 else f"o{half}_{i}_{len(made)}"
                    found.append((name, a, b, high))
                    made.append(name)
            following.append(made)
        level = following
    return found
