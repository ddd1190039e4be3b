"""What was measured before: the user's database of tuning records, one JSON file a device.

A record is one search among the candidates of one pass of one problem, sizes and workspace limit
included, by one driver and one version of clconv. It is used for exactly these; if any of them
differs it is only a hint, which a later search tries first.

A file is read completely and checked; damaged or foreign records are ignored with a warning.
Writers add records under a lock, which the system releases if they die, and rename a finished file
into place, so no reader sees an incomplete one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from clconv import disk, settings
from clconv.dtypes import DTYPES
from clconv.errors import ProblemError
from clconv.planning.planner import Choice
from clconv.problem import Conv1dProblem, Pass
from clconv.version import VERSION

__all__ = [
    "Database", "Fields", "Record", "RecordKey", "Timing", "load", "record_of_json",
    "record_to_json",
]  # fmt: skip

_log = logging.getLogger(__name__)

SCHEMA = "clconv tuning records"
SCHEMA_VERSION = 1  # another one takes another folder, so that old and new clconv get along
# A file is trimmed to this many records, the oldest first.
RECORDS_KEPT = 2000
# More than any time that there is, and little enough for a float.
LARGEST = 1e30

_PROBLEM_SIZES = (
    "batch", "in_channels", "length", "out_channels", "kernel_size", "stride", "dilation", "groups",
)  # fmt: skip
# Members of tiles that earlier records have by another name.
_RENAMED = {"together": "block_tiles"}
_LAYER_SIZES = tuple(name for name in _PROBLEM_SIZES if name not in ("batch", "length"))


class RecordKey(NamedTuple):
    """What a record is for. `workspace_limit` is in bytes, None where there was none."""

    problem: Conv1dProblem
    pass_: Pass
    workspace_limit: int | None

    @property
    def layer(self) -> tuple[Any, ...]:
        """What a layer's kernels have compiled in: the same whatever batch, length or padding."""
        sizes = (getattr(self.problem, name) for name in _LAYER_SIZES)
        return (*sizes, self.problem.dtype, self.pass_)


@dataclass(frozen=True)
class Timing:
    """What a search found of one candidate.

    `median_us` is of `runs` samples, None of a candidate that could not win; `refusal` says why.
    `cost_us` is what the cost model said.
    """

    choice: Choice
    cost_us: float
    workspace_bytes: int
    median_us: float | None = None
    runs: int = 0
    refusal: str | None = None


@dataclass(frozen=True, repr=False)
class Record:
    """One search: the winner, and what was found of each candidate, by the cost model's order.

    `left_out` candidates were not tried. `seconds` is what the search took, `written` when it
    ended, in seconds since 1970.
    """

    key: RecordKey
    choice: Choice
    candidates: tuple[Timing, ...]
    left_out: int
    seconds: float
    driver: str
    library: str = VERSION
    written: float = field(default_factory=time.time)

    def __repr__(self) -> str:
        """What won, and what that is worth; the candidates are in `candidates`."""
        choice, winner, untuned = self.choice, self.winner, self.untuned
        tile = ", ".join(f"{name}={value}" for name, value in choice.tile.items())
        text = f"<Record of {self.key.pass_.value} of {self.key.problem}: {choice.variant}({tile})"
        if winner.median_us is not None:
            text += f", {winner.median_us:.1f} us"
        if untuned is not None and untuned.median_us is not None:
            text += f", {untuned.median_us:.1f} us untuned"
        count = len(self.candidates)
        return f"{text}, {count} candidate{'s' * (count != 1)}>"

    @property
    def winner(self) -> Timing:
        """The candidate that was chosen."""
        return next(one for one in self.candidates if one.choice == self.choice)

    @property
    def ranking(self) -> list[Choice]:
        """The winner, then the others that were timed, the fastest first."""
        timed = [
            (one.median_us, one.choice) for one in self.candidates if one.median_us is not None
        ]
        timed.sort(key=lambda one: (one[1] != self.choice, one[0]))
        return [choice for _, choice in timed]

    @property
    def untuned(self) -> Timing | None:
        """What "auto" takes without a record: the first candidate that the device runs; None where
        no time tells."""
        able = (one for one in self.candidates if one.refusal is None)
        first = next(able, None)
        return first if first is not None and first.median_us is not None else None


# JSON


def record_to_json(record: Record) -> dict[str, Any]:
    """An object of plain values."""
    problem = record.key.problem
    return {
        "problem": {
            **{name: getattr(problem, name) for name in _PROBLEM_SIZES},
            "padding": list(problem.pads),
            "cropped": problem.cropped,
            "dtype": problem.dtype.name,
        },
        "pass": record.key.pass_.value,
        "workspace_limit": record.key.workspace_limit,
        "driver": record.driver,
        "library": record.library,
        "written": record.written,
        "seconds": record.seconds,
        "choice": _choice_to_json(record.choice),
        "left_out": record.left_out,
        "candidates": [
            {
                **_choice_to_json(one.choice),
                "cost_us": one.cost_us,
                "workspace_bytes": one.workspace_bytes,
                "median_us": one.median_us,
                "runs": one.runs,
                "refusal": one.refusal,
            }
            for one in record.candidates
        ],
    }


def _choice_to_json(choice: Choice) -> dict[str, Any]:
    return {"variant": choice.variant, "tile": dict(choice.tile)}


class Fields:
    """The members of a JSON object, each of the type asked for; ValueError otherwise."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} where an object was expected")
        self._members = value

    def __getitem__(self, name: str) -> Any:
        if name not in self._members:
            raise ValueError(f"no {name!r}")
        return self._members[name]

    def _of(self, kind: type | tuple[type, ...], name: str, value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}")
        return value

    def text(self, name: str) -> str:
        return str(self._of(str, name, self[name]))

    def count(self, name: str) -> int:
        """A whole number of at least 0."""
        number: int = self._of(int, name, self[name])
        if number < 0:
            raise ValueError(f"{name} is {number}")
        return number

    def number(self, name: str) -> float:
        """A number of at least 0."""
        number = self._of((int, float), name, self[name])
        if not 0 <= number <= LARGEST:
            raise ValueError(f"{name} is {number}")
        return float(number)

    def list(self, name: str) -> list[Any]:
        found: list[Any] = self._of(list, name, self[name])
        return found

    def members(self, name: str) -> dict[str, Any]:
        """Those of an object within."""
        found: dict[str, Any] = self._of(dict, name, self[name])
        return found

    def has(self, name: str) -> bool:
        """Whether the member is not null."""
        return self[name] is not None

    def choice(self) -> Choice:
        tile = self._of(dict, "tile", self["tile"])
        numbers = {_RENAMED.get(k, k): self._of(int, k, v) for k, v in tile.items()}
        return Choice(self.text("variant"), numbers)


def record_of_json(value: Any) -> Record:
    """The same again, sound in itself; ValueError or ProblemError otherwise."""
    fields = Fields(value)
    sizes = Fields(fields["problem"])
    if sizes["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {sizes['dtype']!r}")
    problem = Conv1dProblem(
        **{name: sizes.count(name) for name in _PROBLEM_SIZES},
        padding=sizes.list("padding"),
        dtype=sizes.text("dtype"),
        cropped=sizes.count("cropped") if "cropped" in fields["problem"] else 0,  # a later member
    )
    candidates = []
    for one in map(Fields, fields.list("candidates")):
        candidates.append(
            Timing(
                one.choice(),
                one.number("cost_us"),
                one.count("workspace_bytes"),
                one.number("median_us") if one.has("median_us") else None,
                one.count("runs"),
                one.text("refusal") if one.has("refusal") else None,
            )
        )
    choice = Fields(fields["choice"]).choice()
    if not any(one.choice == choice and one.median_us is not None for one in candidates):
        raise ValueError(f"choice is {choice}, which was not timed")
    return Record(
        RecordKey(
            problem,
            Pass.of(fields.text("pass")),
            fields.count("workspace_limit") if fields.has("workspace_limit") else None,
        ),
        choice,
        tuple(candidates),
        fields.count("left_out"),
        fields.number("seconds"),
        fields.text("driver"),
        fields.text("library"),
        fields.number("written"),
    )


# Files

Records = Mapping[tuple[RecordKey, str, str], Record]  # by key, driver and library
_NOTHING: Records = {}


class _Content(NamedTuple):
    """What a file holds, and what is wrong with it."""

    records: Records
    fault: str | None = None


def _parse(content: bytes, device: str) -> _Content:
    try:
        fields = Fields(json.loads(content))
        if (fields["schema"], fields["version"]) != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f"schema is {fields['schema']!r}, version {fields['version']!r}")
        if fields["device"] != device:
            raise ValueError(f"it is of another device, {fields['device']!r}")
        entries = fields.list("records")
    except (ValueError, RecursionError) as error:
        return _Content(_NOTHING, f"it is damaged or foreign ({error})")
    found = {}
    faults = []
    for entry in entries:
        try:
            record = record_of_json(entry)
        except (ValueError, ProblemError) as error:
            faults.append(str(error))
            continue
        found[record.key, record.driver, record.library] = record
    if faults:
        return _Content(found, f"{len(faults)} of {len(entries)} records are damaged ({faults[0]})")
    return _Content(found)


def load(path: Path) -> tuple[str, list[Record]]:
    """The device of a file, and its records. Raises OSError, and ValueError where any of it is
    damaged."""
    content = path.read_bytes()
    device = Fields(json.loads(content)).text("device")
    found = _parse(content, device)
    if found.fault is not None:
        raise ValueError(f"{path}: {found.fault}")
    return device, list(found.records.values())


@lru_cache(maxsize=4)
def _read_version(path: Path, device: str, _: tuple[int, ...]) -> _Content:
    """What a file holds in the state that the numbers name; a fault is said once."""
    content = _parse(path.read_bytes(), device)
    if content.fault is not None:
        _log.warning("%s: %s; what is wrong is ignored", path, content.fault)
    return content


def _read(path: Path, device: str) -> _Content:
    try:
        state = os.stat(path)
        # A rename gives another inode, and whatever changes a file in place another time or size.
        return _read_version(path, device, (state.st_ino, state.st_mtime_ns, state.st_size))
    except FileNotFoundError:
        return _Content(_NOTHING)
    except OSError as error:
        _warn_once(path, f"cannot be read, and is ignored: {error}")
        return _Content(_NOTHING, "it cannot be read")


@lru_cache(maxsize=64)
def _warn_once(path: Path, what: str) -> None:
    _log.warning("%s %s", path, what)


# flock excludes other open files, of the same process too, but not on every system.
_writing = threading.Lock()


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. Closing the file, or the end of the process, releases the lock."""
    with _writing, open(path, "ab") as file:
        _lock(file)
        yield


class Database:
    """The records of one device, of all its drivers, in a file of the user's.

    `device` says which one in words that no other kind of device has; `driver` is the one in use.
    """

    def __init__(self, device: str, driver: str) -> None:
        self.device = device
        self.driver = driver
        name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:60]
        digest = hashlib.sha256(device.encode()).hexdigest()[:8]
        self._place = Path("tuning", f"{name}-{digest}.json")

    @classmethod
    def of(cls, device: Any) -> Database:
        """Of pyopencl's device; other compute units make another one of it."""
        platform, units = device.platform, device.max_compute_units
        # What compiles, and for which processor.
        driver = (device.driver_version, platform.version, device.version)
        return cls(
            f"{device.name.strip()}, {units} units, {platform.name.strip()}",
            ", ".join(text.strip() for text in driver),
        )

    @property
    def path(self) -> Path:
        """The file, in the cache folder that the environment names now."""
        return settings.cache_folder() / self._place

    def records(self) -> list[Record]:
        """All records, the newest last."""
        found = _read(self.path, self.device).records.values()
        return sorted(found, key=lambda record: record.written)

    def find(self, key: RecordKey) -> Record | None:
        """The record of this key by this driver and version of clconv."""
        return _read(self.path, self.device).records.get((key, self.driver, VERSION))

    def choices(self, key: RecordKey) -> list[Choice]:
        """What that record says to be the fastest, then what comes next: with an activation not
        every candidate can be had. Empty where there is no record."""
        record = self.find(key)
        return [] if record is None else record.ranking

    def hints(self, key: RecordKey) -> list[Choice]:
        """What may well be fast: the choices of other drivers and versions for this key, then those
        for other sizes of the layer; the newest first."""
        akin = [one for one in self.records()[::-1] if one.key.layer == key.layer]
        akin.sort(key=lambda record: record.key != key)
        return [record.choice for record in akin]

    def add(self, records: Iterable[Record]) -> None:
        """Adds records to the file, in place of older ones with the same key.

        A folder that cannot be written is a warning, not an error.
        """
        path = self.path
        new = {(one.key, one.driver, one.library): one for one in records}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                there = _read(path, self.device)
                if there.fault is not None:
                    aside = path.with_suffix(".damaged")
                    os.replace(path, aside)
                    _log.warning("%s is kept as %s", path, aside)
                kept = sorted({**there.records, **new}.values(), key=lambda one: one.written)
                _write(path, self.device, kept[-RECORDS_KEPT:])
        except OSError as error:
            _log.warning("%s keeps no tuning records: %s", path, error)


def _write(path: Path, device: str, records: Iterable[Record]) -> None:
    content = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "device": device,
        "records": [record_to_json(record) for record in records],
    }
    disk.write(path, json.dumps(content, separators=(",", ":")).encode())
