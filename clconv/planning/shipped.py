"""What was measured before clconv was released: tuning records that come with it.

Each file of the folder `shipped_records` is for a device with a driver, for an architecture, or,
the default, for all. A record is for a layer, whatever batch and length, and keeps what it follows
from. The files are read when the first layer is planned, and never written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

from clconv.dtypes import DTYPES, dtype_of
from clconv.errors import ClconvError
from clconv.planning.planner import Choice, LayerChoice
from clconv.planning.profiles import DeviceProfile
from clconv.planning.records import Fields
from clconv.problem import Layer, Pass

__all__ = ["Measured", "ShippedRecord", "Target", "architecture", "find", "parse", "text"]

_log = logging.getLogger(__name__)

SCHEMA = "clconv shipped tuning records"
SCHEMA_VERSION = 1

# What a profile says of how fast a device is at what, compared with other work, and what decides
# which tiles there are. Devices that agree in all of it are of one architecture.
ARCHITECTURE = (
    "architecture", "kind", "lanes", "vector_floats", "instruction_sets", "local_bytes",
    "multiply_add_bytes", "load_bytes", "vectors_a_cycle", "core_registers", "l1_bytes", "l2_bytes",
    "unit_local_bytes", "unit_registers", "unit_items", "unit_groups", "item_registers",
    "address_registers", "read_floats", "fetch_together", "reported_units", "local_pays",
)  # fmt: skip
_SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")

Key = tuple[Layer, Pass]


def architecture(profile: DeviceProfile) -> dict[str, Any]:
    """What tells a device's architecture, by name."""
    return {name: getattr(profile, name) for name in ARCHITECTURE}


class Target(NamedTuple):
    """What a file is for: a device of this name on a platform of this name; with None any of the
    architecture; and where that is None any at all."""

    device: str | None = None
    platform: str | None = None
    architecture: Mapping[str, Any] | None = None

    @property
    def rank(self) -> int:
        """0 of a device, 1 of an architecture, 2 of the default: the order of look-ups."""
        return (self.device is None) + (self.architecture is None)

    def fits(self, device: str, platform: str, profile: DeviceProfile) -> bool:
        """Whether the file is for a device."""
        names = (self.device, self.platform) in ((None, None), (device, platform))
        return names and self.architecture in (None, architecture(profile))


class Measured(NamedTuple):
    """One size of a layer: microseconds of the choice, and of what was chosen without it."""

    batch: int
    length: int
    padding: tuple[int, int]
    positions: int
    median_us: float
    untuned_us: float
    untuned: Choice


@dataclass(frozen=True)
class ShippedRecord:
    """What is the fastest for a pass of a layer, and what that follows from."""

    layer: Layer
    pass_: Pass
    choice: Choice
    measured: tuple[Measured, ...]
    device: str
    driver: str
    library: str
    date: str

    @property
    def known(self) -> LayerChoice:
        """The choice, with the sizes that it was measured at."""
        rows = [one.positions for one in self.measured]
        every = [one.positions * one.batch for one in self.measured]
        return LayerChoice(self.choice, (min(rows), min(every)), (max(rows), max(every)))


# JSON


def _to_json(record: ShippedRecord) -> dict[str, Any]:
    return {
        "layer": {
            **{name: getattr(record.layer, name) for name in _SIZES},
            "dtype": record.layer.dtype.name,
        },
        "pass": record.pass_.value,
        "variant": record.choice.variant,
        "tile": dict(record.choice.tile),
        "measured": [
            one._asdict()
            | {"untuned": {"variant": one.untuned.variant, "tile": dict(one.untuned.tile)}}
            for one in record.measured
        ],
        "device": record.device,
        "driver": record.driver,
        "library": record.library,
        "date": record.date,
    }


def text(target: Target, records: Sequence[ShippedRecord]) -> str:
    """A file: a record a line."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION, **target._asdict()}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    entries = ",\n".join(json.dumps(_to_json(record)) for record in records)
    return "\n".join(["{", *lines, '"records": [', entries, "]", "}", ""])


def parse(content: str) -> tuple[Target, list[ShippedRecord]]:
    """What a file is for, and its records. Raises ValueError where any of it is wrong."""
    fields = Fields(json.loads(content))
    if (fields["schema"], fields["version"]) != (SCHEMA, SCHEMA_VERSION):
        raise ValueError(f"schema is {fields['schema']!r}, version {fields['version']!r}")
    device, platform = (
        fields.text(one) if fields.has(one) else None for one in ("device", "platform")
    )
    facts = fields.members("architecture") if fields.has("architecture") else None
    target = Target(device, platform, facts)
    if facts is not None and facts.keys() != set(ARCHITECTURE):
        raise ValueError(f"architecture has {sorted(facts)}, expected {sorted(ARCHITECTURE)}")
    if (device, platform) != (None, None) and None in target:
        raise ValueError(f"a file for {target}, expected device and platform with the architecture")
    return target, [_record(Fields(one)) for one in fields.list("records")]


def _record(fields: Fields) -> ShippedRecord:
    sizes = Fields(fields["layer"])
    if sizes["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {sizes['dtype']!r}, expected one of {', '.join(DTYPES)}")
    measured = tuple(_measured(Fields(one)) for one in fields.list("measured"))
    if not measured:
        raise ValueError("measured is [], expected at least one size")
    return ShippedRecord(
        Layer._make((*(sizes.count(name) for name in _SIZES), dtype_of(sizes.text("dtype")))),
        Pass.of(fields.text("pass")),
        fields.choice(),
        measured,
        *(fields.text(name) for name in ("device", "driver", "library", "date")),
    )


def _measured(fields: Fields) -> Measured:
    padding = fields.list("padding")
    if [type(one) for one in padding] != [int, int]:
        raise ValueError(f"padding is {padding!r}, expected two numbers")
    return Measured(
        fields.count("batch"),
        fields.count("length"),
        (padding[0], padding[1]),
        fields.count("positions"),
        fields.number("median_us"),
        fields.number("untuned_us"),
        Fields(fields["untuned"]).choice(),
    )


# The files that come with clconv


def _contents() -> Iterator[tuple[str, str]]:
    """Names and contents of all files."""
    for file in sorted(_folder().iterdir(), key=lambda one: one.name):
        if file.name.endswith(".json"):
            yield file.name, file.read_text("utf-8")


def _folder() -> Any:
    return resources.files("clconv") / "planning" / "shipped_records"


@lru_cache(maxsize=1)
def _files() -> tuple[tuple[Target, Mapping[Key, LayerChoice]], ...]:
    """What is for whom, the most special first. A file that is damaged is left out, and said so."""
    found = []
    for name, content in _contents():
        try:
            target, records = parse(content)
        except (ValueError, ClconvError) as error:
            _log.warning("%s, a file of clconv's own, is damaged, and ignored: %s", name, error)
            continue
        found.append((target, {(one.layer, one.pass_): one.known for one in records}))
    return tuple(sorted(found, key=lambda one: one[0].rank))


@lru_cache(maxsize=16)
def _tables(
    device: str, platform: str, profile: DeviceProfile
) -> tuple[Mapping[Key, LayerChoice], ...]:
    return tuple(table for target, table in _files() if target.fits(device, platform, profile))


def find(
    device: str, platform: str, profile: DeviceProfile, layer: Layer, pass_: Pass
) -> list[LayerChoice]:
    """What is known of a pass of a layer: on the device, its architecture, any device."""
    tables = _tables(device, platform, profile)
    return [table[layer, pass_] for table in tables if (layer, pass_) in table]
