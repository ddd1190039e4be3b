"""The transforms as straight-line code of single numbers, for work-items of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from clconv.variants import batched
from clconv.variants.base import Design, Request
from clconv.variants.cuts import Cut
from clconv.variants.schemes import Scheme, Step
from clconv.variants.winograd.transforms import OUTPUTS, Matrix, steps, transform, transposed

__all__ = ["designs", "refusal", "scheme"]


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve on a GPU."""
    why = batched.refusal(request)
    if why is None and not _schemes(request):
        return batched.TOO_MANY
    return why


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of outputs."""
    for cut, made in _schemes(request):
        yield batched.design(cut, made)


def _schemes(request: Request) -> list[tuple[Cut, Scheme]]:
    taps = request.problem.kernel_size
    made = [
        (cut := Cut(request, outputs + taps - 1), scheme(outputs, taps, gradient=cut.gradient))
        for outputs in OUTPUTS[taps]
    ]
    return [both for both in made if batched.fits(*both)]


@lru_cache(maxsize=16)
def scheme(outputs: int, taps: int, *, gradient: bool) -> Scheme:
    """F(outputs, taps); or its weight gradient
    w = G^T ((A y) * (B^T x)), y the results' gradient, which follows from it."""
    form = transform(outputs, taps)
    constants: dict[str, float] = {}

    def number(value: Fraction) -> str:
        size = float(abs(value))
        name = next((n for n, known in constants.items() if known == size), None)
        if name is None:
            name = f"F{len(constants)}"
            constants[name] = size
        return name if value >= 0 else f"-{name}"

    def code(matrix: Matrix, source: str, result: str) -> list[Step]:
        made = steps(matrix, source, result)
        return [(step.name, step.expression(number)) for step in made]

    samples = code(form.data, "s", "v")
    if gradient:
        factors = code(transposed(form.inverse), "s", "v")
        results = code(transposed(form.weight), "v", "r")
        taken, given = outputs, taps
    else:
        factors, results = code(form.weight, "s", "v"), code(form.inverse, "v", "r")
        taken, given = taps, outputs
    return Scheme.of(form.samples, taken, given, form.points, constants, samples, factors, results)
