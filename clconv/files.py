"""Parameters and structure of modules in files: HDF5 as PuzzleLib has it, safetensors as PyTorch.

h5py and safetensors are optional, `pip install "clconv[hdf5]"`, `"clconv[safetensors]"`.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.conv1d import Conv1D
from clconv.convolution import Convolution
from clconv.deconv1d import Deconv1D
from clconv.elementwise import convert, copy_view
from clconv.errors import ClconvError, ModuleError
from clconv.module import DTYPES, Module
from clconv.pad1d import Pad1D
from clconv.runtime import runtime_of
from clconv.sequential import Sequential
from clconv.variable import Variable

__all__ = [
    "blueprint_of",
    "build",
    "load_hdf5",
    "load_safetensors",
    "save_hdf5",
    "save_safetensors",
]

# What the libraries raise for files that are no such files, damaged ones, or full disks.
FILE_ERRORS = (OSError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


class Slot(NamedTuple):
    """An array of a module, on the device or a NumPy array, with its names in a file."""

    names: list[str]
    array: Any


class Stored(NamedTuple):
    """An array in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], Any]  # a NumPy array


def _modules(module: Module, path: str) -> Iterator[tuple[str, Module]]:
    """The module and what it contains, with paths: "", ".0", ".0.conv"."""
    yield path, module
    for inner in getattr(module, "graph", ()):
        yield from _modules(inner, f"{path}.{inner.name}")


def _values(array: Any) -> Any:
    return array.get() if isinstance(array, cl_array.Array) else array


def _check_attribute(name: str, value: Any) -> None:
    if not isinstance(value, (cl_array.Array, np.ndarray)):
        raise ModuleError(f"attribute {name} is a {type(value).__name__}, expected an array")


@contextmanager
def _said_by(module: Module, name: str, what: str) -> Iterator[None]:
    """Errors of files, as a ModuleError that says what failed; the device's stay as they are."""
    try:
        yield
    except ClconvError as error:
        if not isinstance(error, ModuleError):
            raise
        raise ModuleError(f"Module {name} {what} error: {error}") from error
    except FILE_ERRORS as error:
        raise ModuleError(f"Module {name} {what} error: {error}") from error


@contextmanager
def _replacing(path: Any) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _set(slots: list[tuple[Slot, Stored]]) -> None:
    """Gives arrays the values of a file: all are checked, read and on the device before the first
    changes."""
    for slot, stored in slots:
        if stored.shape != tuple(slot.array.shape):
            raise ModuleError(
                f"{stored.name} has shape {stored.shape}, expected {tuple(slot.array.shape)}"
            )
        target = slot.array.dtype
        wider = {stored.dtype, target} <= set(DTYPES) and np.can_cast(stored.dtype, target)
        if stored.dtype != target and not wider:
            raise ModuleError(
                f"{stored.name} has dtype {stored.dtype}, expected {target}, or a narrower float"
            )
    ready = []
    for slot, stored in slots:
        values = stored.read()
        if isinstance(slot.array, cl_array.Array):
            runtime = runtime_of(slot.array.context)
            values = runtime.to_device(values)
            if values.dtype != slot.array.dtype:
                values = convert(runtime, values, slot.array.dtype)
        ready.append((slot.array, values))
    for array, values in ready:
        if isinstance(array, cl_array.Array):
            copy_view(runtime_of(array.context), values, array)
        else:
            np.copyto(array, values)


# HDF5


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py: pip install "clconv[hdf5]"') from error
    return h5py


def _unique(name: str) -> str:
    """ "net.block.conv.W" as "net.conv.W": the outermost and the innermost module."""
    path, _, key = name.rpartition(".")
    if not path:
        return name
    tokens = path.split(".")
    return f"{tokens[0]}.{tokens[-1]}.{key}"


def _hdf5_variables(module: Module, root: str, unique: bool) -> dict[Variable, list[str]]:
    """{variable: names}; an unnamed module's start with a dot."""
    table = module.getVarTable(name=root or None)
    names = {v: [n if root else f".{n}" for n in found] for v, found in table.items()}
    return {v: [_unique(n) for n in found] for v, found in names.items()} if unique else names


def _hdf5_attributes(module: Module, root: str, unique: bool) -> dict[str, Any]:
    """{name: array} of what modules keep beside their variables."""
    attributes = {}
    for path, one in _modules(module, root):
        for key, value in one.attrs.items():
            name = f"{path}.{key}"
            _check_attribute(name, value)
            attributes[_unique(name) if unique else name] = value
    return attributes


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the blueprint has {value!r}, which JSON has no word for")


def save_hdf5(
    module: Module,
    target: Any = None,
    *,
    varlinks: dict[Variable, int] | None = None,
    name: str | None = None,
    compress: str | None = "gzip",
    assumeUniqueNames: bool = False,
    withBlueprint: bool = False,
) -> bytes | None:
    """Writes what `Module.save` says it writes."""
    h5py = _h5py()
    root = (module.name or "") if name is None else name
    if not (target is None or _is_path(target) or isinstance(target, h5py.Group)):
        raise ModuleError(
            f"hdf is a {type(target).__name__}, expected a path, an open h5py.File or None"
        )
    links = {} if varlinks is None else dict(varlinks)
    with _said_by(module, root, "save"):
        variables = _hdf5_variables(module, root, assumeUniqueNames)
        attributes = _hdf5_attributes(module, root, assumeUniqueNames)
        scalars = {}
        if withBlueprint:
            text = json.dumps(module.getBlueprint(), indent=4, sort_keys=True, default=_plain)
            scalars["blueprint"] = text
    values = {variable: variable.data.get() for variable in variables if variable not in links}
    arrays = {key: _values(value) for key, value in attributes.items()}

    def write(file: Any) -> None:
        params, places = file.require_group("params"), file.require_group("links")
        taken = [f"links/{n}" for found in variables.values() for n in found]
        taken += [f"attrs/{n}" for n in arrays] + list(scalars)
        for place in taken:
            if place in file:
                raise ModuleError(f"the file has {place} already")
        index = len(links)
        for variable, found in variables.items():
            if variable in values:
                while str(index) in params:
                    index += 1
                params.create_dataset(str(index), data=values[variable], compression=compress)
                links[variable] = index
            for one in found:
                places[one] = links[variable]
        for one, array in arrays.items():
            packed = compress if array.shape else None
            file.require_group("attrs").create_dataset(one, data=array, compression=packed)
        for key, text in scalars.items():
            file.create_dataset(key, data=text, dtype=h5py.string_dtype())

    image = None
    with _said_by(module, root, "save"):
        if target is None:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver="earliest") as file:
                write(file)
            image = buffer.getvalue()
        elif _is_path(target):
            with _replacing(target) as partial, h5py.File(partial, "w", libver="earliest") as file:
                write(file)
        else:
            write(target)
    if varlinks is not None:
        varlinks.update(links)
    return image


@contextmanager
def _opened(source: Any) -> Iterator[Any]:
    """A file to read: a path, bytes, or one that is open and stays so."""
    h5py = _h5py()
    if isinstance(source, h5py.Group):
        yield source
    elif _is_path(source) or isinstance(source, (bytes, bytearray, memoryview)):
        with h5py.File(source if _is_path(source) else io.BytesIO(source), "r") as file:
            yield file
    else:
        raise ModuleError(
            f"hdf is a {type(source).__name__}, expected a path, bytes or an open h5py.File"
        )


def _dataset(file: Any, group: str, name: str) -> Any:
    found = file[group].get(name) if group in file else None
    if not isinstance(found, _h5py().Dataset):
        raise ModuleError(f"the file has no dataset {group}/{name}")
    return found


def _stored(dataset: Any, name: str) -> Stored:
    # What another machine wrote in its own order of bytes is turned on reading.
    dtype = dataset.dtype.newbyteorder("=")

    def read() -> Any:
        values = np.empty(dataset.shape, dtype)
        if values.size:
            dataset.read_direct(values)
        return values

    return Stored(name, tuple(dataset.shape), dtype, read)


def _parameter(file: Any, name: str) -> Stored:
    link = _dataset(file, "links", name)
    if link.shape != () or link.dtype.kind not in "iu":
        raise ModuleError(
            f"links/{name} has shape {link.shape} and dtype {link.dtype}, expected one integer"
        )
    index = str(int(link[()]))
    return _stored(_dataset(file, "params", index), f"params/{index}, {name},")


def load_hdf5(
    module: Module,
    source: Any,
    *,
    initvars: dict[Variable, bool] | None = None,
    name: str | None = None,
    assumeUniqueNames: bool = False,
) -> None:
    """Reads what `Module.load` says it reads."""
    root = (module.name or "") if name is None else name
    known = {} if initvars is None else initvars
    loaded = []
    with _said_by(module, root, "load"), _opened(source) as file:
        slots = []
        for variable, found in _hdf5_variables(module, root, assumeUniqueNames).items():
            if variable not in known:
                slots.append((Slot(found, variable.data), _parameter(file, found[0])))
                loaded.append(variable)
        for key, value in _hdf5_attributes(module, root, assumeUniqueNames).items():
            slots.append(
                (Slot([key], value), _stored(_dataset(file, "attrs", key), f"attrs/{key}"))
            )
        _set(slots)
    known.update(dict.fromkeys(loaded, True))


# Blueprints


def blueprint_of(source: Any) -> dict[str, Any]:
    """The blueprint in an HDF5 file (a path, bytes or an open one) saved with one.

    Data and no more: nothing in it is run. Raises ModuleError.
    """
    try:
        with _opened(source) as file:
            dataset = file.get("blueprint")
            if not isinstance(dataset, _h5py().Dataset):
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
    known = {one.__name__: one for one in (Conv1D, Deconv1D, Pad1D, Sequential, *classes)}
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
    if isinstance(module, Sequential) and isinstance(graph, list) and isinstance(by_name, Mapping):
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
    for path, one in _modules(module, ""):
        for key, variable in one.vars.items():
            name, array = _torch_array(one, key, variable.data)
            slots.setdefault(variable, Slot([], array)).names.append(f"{path}.{name}"[1:])
        for key, value in one.attrs.items():
            _check_attribute(f"{path}.{key}"[1:], value)
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
    if not (path is None or _is_path(path)):
        raise ModuleError(f"path is a {type(path).__name__}, expected a path or None")
    name = module.name or ""
    with _said_by(module, name, "save"):
        slots = _torch_slots(module)
    tensors = {}
    for slot in slots:
        values = _values(slot.array)
        tensors.update(dict.fromkeys(slot.names, np.asarray(values, order="C")))
    with _said_by(module, name, "save"):
        image: bytes = package.numpy.save(tensors, None if metadata is None else dict(metadata))
        if path is None:
            return image
        with _replacing(path) as partial:
            partial.write_bytes(image)
    return None


def load_safetensors(module: Module, source: Any, *, strict: bool = True) -> None:
    """Reads a module's arrays from a path or bytes, as `save_safetensors` or PyTorch wrote them.

    Names and shapes are PyTorch's. Of a shared variable's names some may be missing, those that
    are there must agree. `strict` refuses a file with other tensors too. float16 loads into
    float32, not the other way round. Everything is checked before anything changes. Raises
    ModuleError.
    """
    package = _safetensors()
    name = module.name or ""
    with _said_by(module, name, "load"):
        if _is_path(source):
            source = Path(source).read_bytes()
        elif not isinstance(source, (bytes, bytearray, memoryview)):
            raise ModuleError(f"source is a {type(source).__name__}, expected a path or bytes")
        try:
            tensors = package.numpy.load(bytes(source))
        except package.SafetensorError as error:
            raise ModuleError(str(error)) from error
        slots = []
        unexpected = set(tensors)
        for slot in _torch_slots(module):
            unexpected -= set(slot.names)
            present = [one for one in slot.names if one in tensors]
            if not present:
                there = ", ".join(sorted(tensors)) or "none"
                raise ModuleError(f"the file has no tensor {slot.names[0]!r}, it has: {there}")
            first, *others = (tensors[one] for one in present)
            for one, other in zip(present[1:], others, strict=True):
                if other.dtype != first.dtype or other.tobytes() != first.tobytes():
                    raise ModuleError(f"{one} differs from {present[0]}, with which it is shared")
            slots.append((slot, _in_memory(present[0], first)))
        if strict and unexpected:
            there = ", ".join(sorted(unexpected))
            raise ModuleError(f"the file has tensors that the module has not: {there}")
        _set(slots)


def _in_memory(name: str, values: Any) -> Stored:
    return Stored(name, tuple(values.shape), values.dtype, lambda: values)
