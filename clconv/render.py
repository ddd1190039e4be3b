"""TEXT: a kernel's OpenCL C, from its template; the only module that knows Mako."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from mako.exceptions import text_error_template
from mako.lookup import TemplateLookup

from clconv.dtypes import accumulator, dtype_of, is_short
from clconv.errors import RenderError
from clconv.variants.base import Kernel, Operand, Scalar

__all__ = ["render", "sum_dtype"]

RENDERED_KEPT = 1024

# A stage: the call of a def alone on its line. Its lines are indented as the call is, and the text
# of a def begins in the first column, so that a kernel is indented whoever shares its stages.
_STAGE = re.compile(r"^( *)\$\{([\w.]+)\((.*)\)\}\\?$", re.MULTILINE)
_ROOT = Path(str(resources.files("clconv") / "templates"))


def _place_stages(text: str) -> str:
    """A template's text with its stages passed through `_indented`, and with POSIX line ends."""

    def placed(stage: re.Match[str]) -> str:
        spaces, name, given = stage.groups()
        arguments = f"{name}, {given}" if given else name
        return f"${{indented({len(spaces)}, capture, {arguments})}}\\"

    return _STAGE.sub(placed, text.replace("\r\n", "\n"))


def _indented(
    columns: int, capture: Callable[[Callable[[], None]], str], stage: Any, *args: Any, **named: Any
) -> str:
    """The lines of a stage, written or returned, that many columns to the right; those of the
    preprocessor stay where they are."""
    returned = []
    text = capture(lambda: returned.append(stage(*args, **named)))
    lines = (text + "".join(returned)).strip("\n").splitlines()
    shift = " " * columns
    return "".join(f"{line if line[:1] in ('', '#') else shift + line}\n" for line in lines)


# A kernel's template has its name, whichever folder it is in.
_templates = TemplateLookup(
    directories=[str(folder) for folder in sorted(_ROOT.iterdir())],
    strict_undefined=True,
    input_encoding="utf-8",
    preprocessor=_place_stages,
)


def _parameters(operand: Operand) -> list[str]:
    const = "" if operand.written else "const "
    name = operand.name
    numbers = [f"const long {name}_{number}" for number in operand.layout.numbers]
    return [f"__global {const}{operand.element} *{name}", *numbers]


def signature(operands: Iterable[Operand], scalars: Iterable[Scalar]) -> str:
    """The kernel's parameters in the order in which the runtime binds them."""
    groups = [", ".join(_parameters(operand)) for operand in operands]
    groups.append(", ".join(f"const {s.type} {s.name}" for s in scalars))
    return ",\n    ".join(["", *filter(None, groups)]).removeprefix(",")


def _attributes(kernel: Kernel, lanes: int) -> str:
    """Of a kernel whose work-items have vectors of so many lanes."""
    sizes = ", ".join(map(str, kernel.local_size))
    attributes = [f"reqd_work_group_size({sizes})"]
    if lanes > 1:
        # Else Intel's compiler makes another kernel where a work-group has several work-items, with
        # these in the lanes of wider vectors, in as much time again.
        attributes.append("vec_type_hint(VECTOR)")
    return f"__attribute__(({', '.join(attributes)}))"


@lru_cache(RENDERED_KEPT)
def render(kernel: Kernel) -> str:
    """A kernel's OpenCL C: everything that its build depends on but the options."""
    names: dict[str, Any] = dict(kernel.constants)
    dtype = dtype_of(names["dtype"])
    names["line"] = 64 // dtype.itemsize  # elements of a cache's line
    names["is_short"] = is_short(dtype)
    try:
        parts = [_templates.get_template("common.cl.mako").render(**names, indented=_indented)]
        parameters = signature(kernel.operands, kernel.scalars)
        names |= {
            "attributes": _attributes(kernel, names.get("lanes", 1)),
            "signature": parameters,
            "arguments": [one.split()[-1].lstrip("*") for one in parameters.split(",")],
            "bound": frozenset(operand.name for operand in kernel.operands),
            "lies": {operand.name: operand.layout.value for operand in kernel.operands},
        }
        parts.append(
            _templates.get_template(f"{kernel.name}.cl.mako").render(**names, indented=_indented)
        )
    except Exception as error:
        raise RenderError(
            f"{kernel.name} does not render with {names}:\n{text_error_template().render()}"
        ) from error
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def sum_dtype(kernel: Kernel) -> np.dtype[Any]:
    """The dtype of a kernel's sums and of its scalars of type SUM."""
    return accumulator(dtype_of(dict(kernel.constants)["dtype"]))
