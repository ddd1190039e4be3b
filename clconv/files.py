"""Parameters and structure of modules in files: PuzzleLib's HDF5, and safetensors as for PyTorch.

h5py and safetensors are optional, `pip install "clconv[hdf5]"`, `"clconv[safetensors]"`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clconv.conv1d import Conv1D
from clconv.dtypes import BFLOAT16
from clconv.errors import ModuleError
from clconv.layers.activation import Activation
from clconv.layers.convolution import Convolution
from clconv.layers.deconv1d import Deconv1D
from clconv.layers.hdf5 import h5py_or_error, load_hdf5, opened, save_hdf5
from clconv.layers.module import Module
from clconv.layers.pad1d import Pad1D
from clconv.layers.parallel import Parallel
from clconv.layers.sequential import Container, Sequential
from clconv.layers.storage import (
    FILE_ERRORS,
    Slot,
    Stored,
    check_attribute,
    is_path,
    modules,
    replacing,
    said_by,
    set_values,
    values_of,
)

__all__ = [
    "blueprint_of",
    "build",
    "load_hdf5",
    "load_safetensors",
    "save_hdf5",
    "save_safetensors",
]

# Blueprints


def blueprint_of(source: Any) -> dict[str, Any]:
    """The blueprint in an HDF5 file (a path, bytes or an open one) saved with one.

    Data and no more: nothing in it is run. Raises ModuleError.
    """
    try:
        with opened(source) as file:
            dataset = file.get("blueprint")
            if not isinstance(dataset, h5py_or_error().Dataset):
                raise ModuleError("the file has no blueprint: save(…, withBlueprint=True) adds one")
            blueprint = json.loads(dataset.asstr()[()])
    except ModuleError:
        raise
    except FILE_ERRORS as error:
        raise ModuleError(f"the blueprint cannot be read: {error}") from error
    if not isinstance(blueprint, dict):
        raise ModuleError(f"the blueprint is a {type(blueprint).__name__}, expected an object")
    return blueprint


def build(blueprint: Mapping[str, Any], classes: Iterable[type[Module]] = ()) -> Module:
    """The module that a blueprint describes, with parameters as its constructor makes them.

    Names of classes are looked up among clconv's layers and `classes`, nowhere else. Raises
    ModuleError.
    """
    own = (Conv1D, Deconv1D, Pad1D, Sequential, Activation, Parallel)
    known = {one.__name__: one for one in (*own, *classes)}
    return _build(blueprint, known)


def _build(blueprint: Any, known: Mapping[str, type[Module]]) -> Module:
    if not isinstance(blueprint, Mapping) or not isinstance(blueprint.get("scheme"), Mapping):
        raise ModuleError(f"blueprint is {blueprint!r}, expected classname and scheme")
    name, scheme = blueprint.get("classname"), dict(blueprint["scheme"])
    if not isinstance(name, str) or name not in known:
        raise ModuleError(f"classname is {name!r}, expected one of {', '.join(known)}")
    if "runtime" in scheme:
        raise ModuleError(f"scheme of {name} has a runtime, expected the constructor's other ones")
    try:
        module = known[name](**scheme)
    except TypeError as error:
        raise ModuleError(f"scheme of {name} is {scheme!r}: {error}") from error
    graph, by_name = blueprint.get("graph", []), blueprint.get("modules", {})
    if isinstance(module, Container) and isinstance(graph, list) and isinstance(by_name, Mapping):
        for one in graph:
            # PuzzleLib lists the names, and has the blueprints beside.
            module.append(_build(by_name.get(one) if isinstance(one, str) else one, known))
    elif graph:
        raise ModuleError(f"graph of {name} is {graph!r}, expected that of a Sequential, a list")
    return module


# Safetensors


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'safetensors files need safetensors: pip install "clconv[safetensors]"'
        ) from error
    return safetensors


def _torch_array(module: Module, key: str, array: Any) -> tuple[str, Any]:
    """PyTorch's name and shape of a variable: the weights have no axis of one, the bias one."""
    if isinstance(module, Convolution) and key == "W":
        return "weight", array.reshape(array.shape[0], array.shape[1], array.shape[3])
    if isinstance(module, Convolution) and key == "b":
        return "bias", array.ravel()
    return key, array


def _torch_slots(module: Module) -> list[Slot]:
    """One for each variable and attribute, named as in the state dict of a torch.nn.Sequential."""
    slots: dict[Any, Slot] = {}
    for path, one in modules(module, ""):
        for key, variable in one.vars.items():
            name, array = _torch_array(one, key, variable.array)
            slots.setdefault(variable, Slot([], array)).names.append(f"{path}.{name}"[1:])
        for key, value in one.attrs.items():
            check_attribute(f"{path}.{key}"[1:], value)
            slots[path, key] = Slot([f"{path}.{key}"[1:]], value)
    return list(slots.values())


def save_safetensors(
    module: Module, path: Any = None, *, metadata: Mapping[str, str] | None = None
) -> bytes | None:
    """Writes a module's arrays under PyTorch's names and in its shapes; bytes without a path.

    "0.weight" (outmaps, inmaps / groups, size) and "0.bias" (outmaps,) of the first layer of a
    Sequential, "conv.weight" of one named "conv", "weight" of a layer alone; Deconv1D's weight is
    (inmaps, outmaps / groups, size). A shared variable is written under each of its names. Raises
    ModuleError.
    """
    package = _safetensors()
    if not (path is None or is_path(path)):
        raise ModuleError(f"path is a {type(path).__name__}, expected a path or None")
    name = module.name or ""
    with said_by(name, "save"):
        slots = _torch_slots(module)
    tensors = {}
    for slot in slots:
        values = values_of(slot.array)
        tensors.update(dict.fromkeys(slot.names, np.asarray(values, order="C")))
    with said_by(name, "save"):
        image: bytes = package.numpy.save(tensors, None if metadata is None else dict(metadata))
        if path is None:
            return image
        with replacing(path) as partial:
            partial.write_bytes(image)
    return None


def load_safetensors(module: Module, source: Any, *, strict: bool = True) -> None:
    """Reads a module's arrays from a path or bytes, as `save_safetensors` or PyTorch wrote them.

    Names and shapes are PyTorch's. Of a shared variable's names some may be missing, those that
    are there must agree. `strict` refuses a file with other tensors too; without it they may have
    any dtype. float16 loads into float32, not the other way round; bfloat16 into each, its values
    unchanged but for what float16 rounds. Everything is checked before anything changes. Raises
    ModuleError.
    """
    name = module.name or ""
    with said_by(name, "load"):
        if is_path(source):
            source = Path(source).read_bytes()
        elif not isinstance(source, (bytes, bytearray, memoryview)):
            raise ModuleError(f"source is a {type(source).__name__}, expected a path or bytes")
        tensors = _tensors(memoryview(source).cast("B"))
        slots = []
        unexpected = set(tensors)
        for slot in _torch_slots(module):
            unexpected -= set(slot.names)
            present = [tensors[one] for one in slot.names if one in tensors]
            if not present:
                there = ", ".join(sorted(tensors)) or "none"
                raise ModuleError(f"the file has no tensor {slot.names[0]!r}, it has: {there}")
            (stored, raw), *others = present
            for other, its_raw in others:
                if other.dtype != stored.dtype or its_raw != raw:
                    raise ModuleError(
                        f"{other.name} differs from {stored.name}, with which it is shared"
                    )
            slots.append((slot, stored))
        if strict and unexpected:
            there = ", ".join(sorted(unexpected))
            raise ModuleError(f"the file has tensors that the module has not: {there}")
        set_values(slots)
        for variable in module.getVarTable():
            variable.changed()


# The format's words for dtypes, and NumPy's for them; bfloat16 is read by its bits.
_DTYPES = {
    "BOOL": "?",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
    "BF16": "<u2",
}


def _tensors(image: memoryview) -> dict[str, tuple[Stored, memoryview]]:
    """The tensors of a safetensors file with their bytes: the header's length in 8 bytes, the
    header, JSON, and the bytes. They may have any dtype; it matters only for tensors that are
    used."""
    length = int.from_bytes(image[:8], "little")
    if len(image) < 8 or length > len(image) - 8:
        raise ModuleError(
            f"{len(image)} bytes are no safetensors file, whose header has {length} bytes"
        )
    try:
        header = json.loads(bytes(image[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise ModuleError(f"the header of a safetensors file is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ModuleError(f"the header is a {type(header).__name__}, expected an object")
    body = image[8 + length :]
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, body) for name, entry in header.items()}


def _tensor(name: str, entry: Any, body: memoryview) -> tuple[Stored, memoryview]:
    form = entry if isinstance(entry, dict) else {}
    word: Any = form.get("dtype")
    shape: Any = form.get("shape")
    place: Any = form.get("data_offsets")
    if not (isinstance(word, str) and _sizes(shape) and _sizes(place) and len(place) == 2):
        raise ModuleError(f"{name} is {entry!r}, expected dtype, shape and data_offsets")
    start, end = place
    dtype = np.dtype(_DTYPES[word]) if word in _DTYPES else None
    if not start <= end <= len(body):
        raise ModuleError(f"{name} has the bytes {start} to {end} of {len(body)} in the file")
    if dtype is not None and math.prod(shape) * dtype.itemsize != end - start:
        raise ModuleError(f"{name} has {end - start} bytes for shape {shape} of {word}")
    raw = body[start:end]

    def read() -> Any:
        values = np.frombuffer(raw, dtype).reshape(shape)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    known = word if dtype is None else dtype.newbyteorder("=")
    return Stored(name, tuple(shape), BFLOAT16 if word == "BF16" else known, read), raw


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and one >= 0 for one in value)
