"""What the text of a kernel says of the memory that it takes."""

from __future__ import annotations

import re

from clconv.render import render


def local_bytes(kernel) -> int:
    """Bytes of local memory that a kernel declares, with what alignment may cost."""
    text = re.sub(r"//.*", "", render(kernel))
    constants = dict(kernel.constants)
    item = 8 if constants["dtype"] == "float64" else 4
    sizes = {"SUM": item, "VECTOR": item * constants["lanes"], "int": 4, "long": 8}
    numbers = dict(re.findall(r"#define (\w+) (.+)", text))
    declared = re.findall(
        r"__local (\w+) \w+\[(.*)\](?: __attribute__\(\(aligned\((\d+)\)\)\))?;", text
    )
    assert len(declared) == len(re.findall(r"__local \w+ \w+\[", text)), kernel.name
    found = 0
    for kind, count, alignment in declared:
        while names := set(re.findall(r"[A-Z]\w+", count)):
            for name in names:
                count = re.sub(rf"\b{name}\b", f"({numbers[name].replace('/', '//')})", count)
        alignment = int(alignment or 1)
        found += -(-eval(count) * sizes[kind] // alignment) * alignment
    return found
