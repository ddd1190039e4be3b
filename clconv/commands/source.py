"""Which OpenCL C does a problem get? Prints it for a device, or for a profile without having one.

Without --kernel all kernels are printed, one after the other; the text of one kernel compiles by
itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from clconv import ClconvError, Conv1dProblem, Epilogue, KernelPlan, Pass
from clconv.commands.options import which_device
from clconv.commands.text import table
from clconv.dtypes import DTYPES
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.problem import ACTIVATIONS
from clconv.render import render


def _padding(text: str) -> Any:
    """An int, "left,right", "same", "valid" or "causal"."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        return text
    return sizes[0] if len(sizes) == 1 else sizes


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m clconv source",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    for name, default in (
        ("batch", 1), ("in-channels", 16), ("length", 1024), ("out-channels", 32),
        ("kernel-size", 3), ("stride", 1), ("dilation", 1), ("groups", 1),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=default)
    add(
        "--padding",
        type=_padding,
        default=0,
        help='an integer, "left,right", same, valid or causal',
    )
    add("--dtype", default="float32", choices=DTYPES)
    add("--pass", dest="pass_", default="forward", help=", ".join(p.value for p in Pass))
    add("--variant", default="auto")
    add("--bias", action="store_true")
    add("--residual", action="store_true")
    add("--activation", choices=list(ACTIVATIONS))
    which_device(parser, default="gpu")
    add("--kernel", type=int, help="only this one, from 1")
    add("--list", action="store_true", help="list the profiles")
    return parser


def profiles() -> str:
    """The profiles as a table."""
    rows = [
        (
            p.name, p.kind, str(p.compute_units), str(p.lanes), str(p.vector_floats),
            str(p.max_work_group_size), f"{p.local_bytes >> 10} KiB", "yes" if p.fp64 else "no",
        )
        for p in PROFILES.values()
    ]  # fmt: skip
    header = ("profile", "kind", "units", "lanes", "vector", "max group", "local", "fp64")
    return table(header, rows, right=header[2:7])


def describe(plan: KernelPlan, device: DeviceProfile) -> str:
    """The plan as a comment."""
    problem, epilogue = plan.problem, plan.epilogue
    fields = ", ".join(f"{name}={value}" for name, value in asdict(problem).items())
    parts = [name for name in ("bias", "residual", "keep") if getattr(epilogue, name)]
    after = " + ".join([*parts, *([epilogue.activation] if epilogue.activation else [])])
    tile = ", ".join(f"{name} {value}" for name, value in plan.tile.items())
    return "\n".join(
        f"// {line}"
        for line in (
            f"{plan.pass_.value} of {fields}",
            f"device     {device.name}",
            f"epilogue   {after or 'none'}",
            f"variant    {plan.variant}",
            f"tile       {tile}",
            f"workspace  {plan.workspace_bytes} bytes",
            f"kernels    {', '.join(kernel.name for kernel in plan.kernels)}",
            f"launches   {', '.join(launch.kernel.name for launch in plan.launches)}",
        )
    )


def sources(plan: KernelPlan, only: int | None) -> str:
    """The OpenCL C of the kernels, each after a comment that says how it is launched."""
    texts = []
    for place, kernel in enumerate(plan.kernels, 1):
        if only in (None, place):
            launch = next((one for one in plan.launches if one.kernel == kernel), None)
            sizes, scalars = "not for this batch and length", ""
            if launch is not None:
                sizes = f"global size {launch.global_size}, local size {kernel.local_size}"
                numbers = launch.numbers.items()
                told = ", ".join(f"{n} {'?' if v is None else v}" for n, v in numbers)
                scalars = f"// scalars: {told}\n"
            texts.append(
                f"// kernel {place} of {len(plan.kernels)}: {kernel.name}\n"
                f"// {sizes}\n{scalars}\n{render(kernel)}"
            )
    return "\n\n".join(texts)


def main(argv: Sequence[str] | None = None) -> int:
    """1 where there is no such problem, device or variant."""
    parser = _parser()
    a = parser.parse_args(argv)
    if a.list:
        print(profiles())
        return 0
    try:
        problem = Conv1dProblem(
            a.batch, a.in_channels, a.length, a.out_channels, a.kernel_size, a.stride, a.padding,
            a.dilation, a.groups, a.dtype,
        )  # fmt: skip
        pass_ = Pass.of(a.pass_)
        epilogue = Epilogue(a.bias, a.residual, a.activation)
        if epilogue != Epilogue() and pass_ not in (Pass.FORWARD, Pass.INPUT_GRADIENT):
            parser.error(f"the {pass_.value} has no bias, residual or activation")
        device = a.profile
        plan = plans(problem, pass_, device, epilogue=epilogue, variant=a.variant)[0]
    except ClconvError as error:
        print(error, file=sys.stderr)
        return 1
    if a.kernel is not None and not 1 <= a.kernel <= len(plan.kernels):
        parser.error(f"--kernel is {a.kernel}, expected 1 to {len(plan.kernels)}")
    print(f"{describe(plan, device)}\n\n{sources(plan, a.kernel)}")
    return 0
