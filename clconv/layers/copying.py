"""How objects with device arrays are copied and pickled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import pyopencl as cl
import pyopencl.array as cl_array

from clconv.calls.elementwise import host_values
from clconv.errors import ModuleError
from clconv.gpuarray import copy as copy_array
from clconv.gpuarray import to_gpu

__all__ = ["Copyable"]

Self = TypeVar("Self", bound="Copyable")

# What a copy in this process may share: they have no values of their own.
HANDLES = (cl.Context, cl.CommandQueue, cl.Device, cl.Platform, cl.Program, cl.Kernel, cl.Event)
MEMORY = (cl.MemoryObjectHolder, cl.SVMPointer)


class Copyable:
    """Base of objects with device arrays that `copy.deepcopy` and `pickle` can copy.

    A deep copy is on the same runtime and shares no array with the original. A pickle has the
    arrays' values, and is loaded to the default runtime. An array that is in several places of the
    original is in the same places of the copy; views become separate arrays. Arrays are found in
    attributes, and in dictionaries, lists and tuples there. ModuleError names what cannot be
    copied.
    """

    def transient(self) -> dict[str, Any]:
        """Attributes that a copy does not take over, with what it has instead."""
        return {}

    def __copy__(self: Self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = {**vars(self), **self.transient()}
        for name, value in state.items():
            for one in _within(value):
                # deepcopy looks here before it copies.
                if isinstance(one, cl_array.Array) and id(one) not in memo:
                    memo[id(one)] = copy_array(one)
                elif isinstance(one, HANDLES):
                    memo[id(one)] = one
                elif isinstance(one, MEMORY):
                    raise _refusal(self, name, one, "copied")
        vars(new).update(copy.deepcopy(state, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), **self.transient()}
        for name, value in state.items():
            for one in _within(value):
                is_local = isinstance(one, FunctionType) and "<" in one.__qualname__
                if is_local or isinstance(one, (*HANDLES, *MEMORY)):
                    raise _refusal(self, name, one, "pickled")
        return {name: _picklable(value) for name, value in state.items()}


def _refusal(owner: Copyable, name: str, value: Any, done: str) -> ModuleError:
    return ModuleError(
        f"{owner} cannot be {done}: attribute {name} has {value!r}, expected numbers, arrays, "
        "modules or functions at the top of a Python module"
    )


def _within(value: Any) -> Iterator[Any]:
    """What dictionaries, lists and tuples contain in the end, or the value itself."""
    if isinstance(value, (dict, list, tuple)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _within(one)
    else:
        yield value


class _Pickled:
    """Stands for a device array in a pickle."""

    def __init__(self, array: cl_array.Array) -> None:
        self._array = array

    def __reduce__(self) -> tuple[Any, ...]:
        return to_gpu, (host_values(self._array),)


# One for each array while a pickle is written, whose writer keeps them: so an array is written
# once, however often it comes.
_pickled: WeakValueDictionary[int, _Pickled] = WeakValueDictionary()


def _picklable(value: Any) -> Any:
    """The value with something picklable in place of each device array."""
    if isinstance(value, cl_array.Array):
        return _pickled.setdefault(id(value), _Pickled(value))
    if not isinstance(value, (dict, list, tuple)):
        return value
    old = list(value.values() if isinstance(value, dict) else value)
    new = [_picklable(one) for one in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return value
    if isinstance(value, tuple):
        return value._make(new) if hasattr(value, "_make") else tuple(new)
    changed = copy.copy(value)
    for key, one in zip(value if isinstance(value, dict) else range(len(new)), new, strict=True):
        changed[key] = one
    return changed
