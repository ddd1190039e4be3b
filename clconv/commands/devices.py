"""Which OpenCL devices are there, and do they compute what they should?

The commands `devices`, also installed as clconv-devices, and `check`.

Listing builds nothing. With --check every device builds a small kernel, which is remembered, and
runs one small convolution and its three gradients on integers, whose sums are exact, so that the
results must equal the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import functional, progress, reference, settings
from clconv.commands.text import table
from clconv.drivers import discovery
from clconv.drivers.discovery import NO_PLATFORM, DeviceInfo, Found, devices, find, meant
from clconv.errors import ClconvError, DeviceError
from clconv.problem import Conv1dProblem
from clconv.runtime import Runtime

__all__ = ["check", "main"]

NOT_CHECKED = "not checked"
# Stride, dilation, uneven padding and groups at once.
CHECKED = Conv1dProblem(2, 4, 37, 6, 3, stride=2, padding=(3, 1), dilation=2, groups=2)
HEADER = (
    "", "index", "id", "name", "platform", "kind", "version", "driver", "units", "memory", "local",
    "max group", "fp16", "fp64",
)  # fmt: skip
RIGHT = ("index", "units", "memory", "local", "max group")


def check(device: int | str) -> str | None:
    """What is wrong with a device, by index or id: None where forward and gradients are right."""
    rng = np.random.default_rng(1)

    def integers(shape: tuple[int, ...]) -> NDArray[Any]:
        return rng.integers(-4, 5, shape).astype(np.float32)

    x, weight = integers(CHECKED.input_shape), integers(CHECKED.weight_shape)
    grad, bias = integers(CHECKED.output_shape), integers((CHECKED.out_channels,))
    place = (CHECKED.stride, CHECKED.padding, CHECKED.dilation, CHECKED.groups)
    expected = {
        "result": reference.conv1d(CHECKED, x, weight, bias),
        "input gradient": reference.input_gradient(CHECKED, weight, grad),
        "weight gradient": reference.weight_gradient(CHECKED, x, grad),
        "bias gradient": reference.bias_gradient(grad),
    }
    try:
        runtime = Runtime(device)
        results = (
            functional.conv1d(x, weight, bias, *place, runtime=runtime),
            *functional.conv1d_backward(x, weight, grad, *place, runtime=runtime),
        )
    except Exception as error:  # of the driver as well: one bad device must not hide the others
        return str(error) if isinstance(error, ClconvError) else f"{type(error).__name__}: {error}"
    for (name, right), result in zip(expected.items(), results, strict=True):
        wrong = int(np.count_nonzero(result != right))
        if wrong:
            return f"the {name} is wrong in {wrong} of {right.size} values"
    return None


def _size(count: int) -> str:
    """Bytes with the largest binary unit that leaves at least 1."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    place = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**place:.4g} {units[place]}"


def _row(info: DeviceInfo) -> tuple[str, ...]:
    return (
        "*" if info.is_default else "",
        str(info.index),
        info.id,
        discovery.full_name(info),
        info.platform,
        info.kind,
        " ".join(info.version.split()[1:2]),
        info.driver,
        str(info.compute_units),
        _size(info.global_bytes),
        _size(info.local_bytes),
        str(info.max_work_group_size),
        "yes" if info.fp16 else "no",
        "yes" if info.fp64 else "no",
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _print_table(found: Sequence[DeviceInfo], checks: Sequence[str] | None) -> None:
    rows = [_row(info) for info in found]
    columns = {"check": list(checks)} if checks is not None else {}
    said = checks or ("",) * len(found)
    whys = [
        "" if info.why_not in (None, c) else info.why_not
        for info, c in zip(found, said, strict=True)
    ]
    if any(whys):
        columns["why not"] = whys
    for cells in columns.values():
        rows = [(*row, _first_line(cell)) for row, cell in zip(rows, cells, strict=True)]
    print(table((*HEADER, *columns), rows, right=RIGHT))
    for info, text in zip(found, checks or (), strict=False):
        if text.strip() != _first_line(text):  # a compiler's log
            print(f"\n{info.id} {info.name}:\n{text.strip()}")
    _print_choice()


def _print_choice() -> None:
    """Says what the environment chooses in place of the default."""
    named = {"CLCONV_DEVICE": settings.device_choice(), "PYOPENCL_CTX": settings.pyopencl_choice()}
    for name, value in named.items():
        if value is not None:
            try:
                found = [one.info for one in meant()]
            except DeviceError as error:
                print(f"\n{error}")
                return
            able = [info for info in found if info.why_not is None]
            if able:
                print(f"\n{name} is {value!r}: Runtime() takes {able[0].id}, {able[0].name}")
            else:
                print(f"\n{name} is {value!r}, where nothing runs: {found[0].why_not}")
            return


def _verdict(one: Found) -> str:
    """What --check says of a device: "ok", what is wrong, or that it was not tried."""
    if discovery.refusal(one.device) is not None:
        return NOT_CHECKED
    return discovery.check(one.device) or check(one.info.index) or "ok"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clconv-devices",
        description="Lists the OpenCL devices, best first; * marks the default.",
    )
    parser.add_argument("--json", action="store_true", help="a list of objects with all fields")
    parser.add_argument(
        "--check", action="store_true", help="run a small convolution and its gradients on each"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the devices; 1 where none works, or where one that works fails the check."""
    arguments = _parser().parse_args(argv)
    try:
        found = devices()
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    checks = None
    if arguments.check:
        checks = []
        with progress.bar("checking", "device", len(found)) as shown:
            for one in find():
                checks.append(_verdict(one))
                shown.tell(len(checks))
        found = devices()  # with what the check has shown
    if arguments.json:
        more = [{"check": text} for text in checks] if checks is not None else [{}] * len(found)
        print(json.dumps([asdict(i) | m for i, m in zip(found, more, strict=True)], indent=2))
    elif found:
        _print_table(found, checks)
    if not found:
        print(NO_PLATFORM, file=sys.stderr)
    for line in discovery.hidden_gpus(found):
        print(f"\n{line[0].upper()}{line[1:]}", file=sys.stderr)
    able = [place for place, info in enumerate(found) if info.why_not is None]
    return int(not able or (checks is not None and any(checks[place] != "ok" for place in able)))
