"""Which values may a command's options have? Types for argparse, and packages that they need."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from clconv.drivers.discovery import choose, profile_of
from clconv.errors import DeviceError, to_install
from clconv.planning.profiles import PROFILES, DeviceProfile, profile

__all__ = [
    "at_least",
    "device_or_card",
    "file",
    "known_profile",
    "minutes",
    "names",
    "picture",
    "require",
    "seconds",
    "which_device",
]

PICTURES = (".png", ".svg", ".pdf")


def require(parser: argparse.ArgumentParser, package: str, why: str, extra: str) -> None:
    """Ends the process, with one line that says what to install, where a package is missing."""
    if find_spec(package) is None:
        parser.exit(2, f"{why} needs {package}, which is missing: {to_install(extra)}\n")


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Some of these, separated by commas, each once."""

    def parse(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        if not set(found) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text!r}, expected some of {','.join(allowed)}")
        return list(dict.fromkeys(found))

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """An integer of at least that."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}, expected an integer of at least {least}")
        return int(text)

    return parse


def seconds(most: float) -> Callable[[str], float]:
    """Seconds, more than 0 and at most that."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r}, expected seconds, more than 0, at most {most:g}"
            )
        return value

    return parse


def minutes(most: float) -> Callable[[str], float]:
    """Minutes, at least a second's and at most that."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 1 / 60 <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r}, expected minutes, at least 1/60, at most {most:g}"
            )
        return value

    return parse


def known_profile(text: str) -> DeviceProfile:
    """A device to plan for without having it."""
    try:
        return profile(text)
    except DeviceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def device_or_card(text: str) -> DeviceProfile:
    """A device that is here, by index, id or name; else one to plan for without having it."""
    try:
        return profile_of(choose(text))
    except DeviceError as error:
        try:
            return profile(text)
        except DeviceError:
            raise argparse.ArgumentTypeError(f"{error}; nor is it a card's name") from error


def which_device(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The two options for what to plan for, of which a command takes one, as `profile`."""
    where = parser.add_mutually_exclusive_group(required=default is None)
    where.add_argument(
        "--profile", type=known_profile, default=default,
        help=f"a card that need not be here, such as rtx3080, or one of {', '.join(PROFILES)}",
    )  # fmt: skip
    where.add_argument(
        "--device", dest="profile", type=device_or_card, default=argparse.SUPPRESS,
        help="index, id or part of the name of a device that is here, or a card's name",
    )  # fmt: skip


def file(text: str) -> str:
    """A file that can be written, in a folder that exists."""
    if Path(text).is_dir() or not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}, expected a file in a folder that exists")
    return text


def picture(text: str) -> str:
    """The same, with a name that says which kind of picture it is."""
    if Path(text).suffix not in PICTURES:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected a name that ends in {', '.join(PICTURES)}"
        )
    return file(text)
