"""How do sums of tiles become products? Straight-line code, of which templates write the steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = ["Lines", "Scheme", "Step"]

# A step of straight-line code: a name, and an expression that is C and Python.
Step = tuple[str, str]
_WORD = re.compile(r"[A-Za-z]\w*")


class Lines(NamedTuple):
    """Straight-line code as templates write it: each step with what is read before it, and what is
    written behind it, both in order of their numbers; and all words in it."""

    lines: tuple[tuple[tuple[str, ...], str, str, tuple[str, ...]], ...]
    words: frozenset[str]

    @classmethod
    def of(cls, steps: Sequence[Step], source: str, result: str) -> Lines:
        """From source0 … to result0 …"""
        words = [_WORD.findall(expression) for _, expression in steps]
        known: set[str] = set()
        lines, read, written = [], 0, 0
        for (name, expression), used in zip(steps, words, strict=True):
            wanted = [int(one[1:]) for one in used if _is_numbered(one, source)]
            needed = range(read, max(read, max(wanted, default=-1) + 1))
            known.add(name)
            ready = written
            while f"{result}{ready}" in known:
                ready += 1
            first = tuple(f"{source}{i}" for i in needed)
            then = tuple(f"{result}{i}" for i in range(written, ready))
            lines.append((first, name, expression, then))
            read, written = needed.stop, ready
        return cls(tuple(lines), frozenset(word for used in words for word in used))


def _is_numbered(name: str, letter: str) -> bool:
    return name[0] == letter and name[1:].isdigit()


@dataclass(frozen=True)
class Scheme:
    """How sums of tiles become products: results r0 … of `size` samples and `taken` factors.

    `samples` and `factors` make v0 …, one number for each plane, of s0 …; `results` makes r0 … of
    v0 …, the products' sums. In the weight gradient factors are the results' gradients, and results
    are the taps. Steps may name `constants`.
    """

    size: int
    taken: int
    given: int
    planes: int
    constants: tuple[tuple[str, float], ...]
    samples: tuple[Step, ...]
    factors: tuple[Step, ...]
    results: tuple[Step, ...]

    @cached_property
    def from_samples(self) -> Lines:
        """`samples` as they are written."""
        return Lines.of(self.samples, "s", "v")

    @cached_property
    def from_factors(self) -> Lines:
        """`factors` likewise."""
        return Lines.of(self.factors, "s", "v")

    @cached_property
    def to_results(self) -> Lines:
        """`results` likewise."""
        return Lines.of(self.results, "v", "r")

    @classmethod
    def of(
        cls,
        size: int,
        taken: int,
        given: int,
        planes: int,
        constants: Mapping[str, float],
        samples: Sequence[Step],
        factors: Sequence[Step],
        results: Sequence[Step],
    ) -> Scheme:
        """With those steps alone that are needed."""
        wanted = {f"v{i}" for i in range(planes)}
        return cls(
            size, taken, given, planes, tuple(constants.items()),
            _needed(samples, wanted), _needed(factors, wanted),
            _needed(results, {f"r{i}" for i in range(given)}),
        )  # fmt: skip


def _needed(steps: Sequence[Step], wanted: set[str]) -> tuple[Step, ...]:
    """The steps on which those that are wanted depend."""
    found = []
    for name, expression in reversed(steps):
        if name in wanted:
            wanted |= set(_WORD.findall(expression))
            found.append((name, expression))
    return tuple(reversed(found))
