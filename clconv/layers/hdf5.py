"""Parameters of modules in HDF5 files, as PuzzleLib has them; h5py is optional."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from clconv.dtypes import is_bfloat16
from clconv.errors import ModuleError
from clconv.layers.storage import (
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
from clconv.layers.variable import Variable

__all__ = ["h5py_or_error", "load_hdf5", "opened", "save_hdf5"]

Module = Any  # a clconv.Module, whose save and load come here


def h5py_or_error() -> Any:
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
    """{name: array} of what modules keep besides their variables."""
    attributes = {}
    for path, one in modules(module, root):
        for key, value in one.attrs.items():
            name = f"{path}.{key}"
            check_attribute(name, value)
            attributes[_unique(name) if unique else name] = value
    return attributes


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the blueprint has {value!r}, which JSON has no word for")


class _Content(NamedTuple):
    """What a file gets, all of it on the host."""

    variables: dict[Variable, list[str]]  # names of each, those of other saved modules included
    values: dict[Variable, np.ndarray]
    attributes: dict[str, np.ndarray]
    texts: dict[str, str]

    def write(self, file: Any, links: dict[Variable, int], compress: str | None) -> None:
        """Writes all to an open file; `links` gets the numbers of variables."""
        params, places = file.require_group("params"), file.require_group("links")
        taken = [f"links/{n}" for found in self.variables.values() for n in found]
        taken += [f"attrs/{n}" for n in self.attributes] + list(self.texts)
        for place in taken:
            if place in file:
                raise ModuleError(f"the file has {place} already")
        index = len(links)
        for variable, found in self.variables.items():
            if variable in self.values:
                while str(index) in params:
                    index += 1
                params.create_dataset(str(index), data=self.values[variable], compression=compress)
                links[variable] = index
            for one in found:
                places[one] = links[variable]
        for one, array in self.attributes.items():
            packed = compress if array.shape else None
            file.require_group("attrs").create_dataset(one, data=array, compression=packed)
        for key, text in self.texts.items():
            file.create_dataset(key, data=text, dtype=h5py_or_error().string_dtype())


def _check_dtype(name: str, array: Any) -> None:
    if is_bfloat16(array.dtype):
        raise ModuleError(
            f"{name} has dtype {array.dtype}, which HDF5 has not: save_safetensors writes it, and "
            'so does save after calcMode("float32")'
        )


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
    h5py = h5py_or_error()
    root = (module.name or "") if name is None else name
    if not (target is None or is_path(target) or isinstance(target, h5py.Group)):
        raise ModuleError(
            f"hdf is a {type(target).__name__}, expected a path, an open h5py.File or None"
        )
    links = {} if varlinks is None else dict(varlinks)
    with said_by(root, "save"):
        variables = _hdf5_variables(module, root, assumeUniqueNames)
        attributes = _hdf5_attributes(module, root, assumeUniqueNames)
        texts = {}
        if withBlueprint:
            text = json.dumps(module.getBlueprint(), indent=4, sort_keys=True, default=_plain)
            texts["blueprint"] = text
        for one, found in variables.items():
            _check_dtype(found[0], one.array)
        for key, value in attributes.items():
            _check_dtype(key, value)
    content = _Content(
        variables,
        {one: values_of(one.array) for one in variables if one not in links},
        {key: values_of(value) for key, value in attributes.items()},
        texts,
    )
    image = None
    with said_by(root, "save"):
        if target is None:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver="earliest") as file:
                content.write(file, links, compress)
            image = buffer.getvalue()
        elif is_path(target):
            with replacing(target) as partial, h5py.File(partial, "w", libver="earliest") as file:
                content.write(file, links, compress)
        else:
            content.write(target, links, compress)
    if varlinks is not None:
        varlinks.update(links)
    return image


@contextmanager
def opened(source: Any) -> Iterator[Any]:
    """A file to read: a path, bytes, or one that is open and stays so."""
    h5py = h5py_or_error()
    if isinstance(source, h5py.Group):
        yield source
    elif is_path(source) or isinstance(source, (bytes, bytearray, memoryview)):
        with h5py.File(source if is_path(source) else io.BytesIO(source), "r") as file:
            yield file
    else:
        raise ModuleError(
            f"hdf is a {type(source).__name__}, expected a path, bytes or an open h5py.File"
        )


def _dataset(file: Any, group: str, name: str) -> Any:
    groups = h5py_or_error().Group
    found = file[group].get(name) if isinstance(file.get(group), groups) else None
    if not isinstance(found, h5py_or_error().Dataset):
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
    with said_by(root, "load"), opened(source) as file:
        slots = []
        for variable, found in _hdf5_variables(module, root, assumeUniqueNames).items():
            if variable not in known:
                slots.append((Slot(found, variable.array), _parameter(file, found[0])))
                loaded.append(variable)
        for key, value in _hdf5_attributes(module, root, assumeUniqueNames).items():
            slots.append(
                (Slot([key], value), _stored(_dataset(file, "attrs", key), f"attrs/{key}"))
            )
        set_values(slots)
        for variable in loaded:
            variable.changed()
    known.update(dict.fromkeys(loaded, True))
