"""How do kernels reach a tensor's memory? It is borrowed for a call, never changed or marked.

After `Tensor.numpy()` a storage can never be resized again; an address and a size have no such
effect. But an address keeps nothing alive, so the tensors of a call are held until its kernels have
finished, also if the call raises.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from clconv.calls.call import Call, follow_on_buffers
from clconv.calls.draft import TENSORS, Recipe
from clconv.calls.elementwise import fingerprint
from clconv.calls.layouts import exchanged
from clconv.calls.prepared import Derived, KnownWeight
from clconv.dtypes import dtype_of, is_bfloat16
from clconv.errors import ArrayTypeError, OutOfMemoryError
from clconv.runtime import Runtime
from clconv.variants.base import Schedule

Shape = tuple[int, ...]
# The dtypes that kernels compute in.
DTYPES = (torch.float32, torch.float16, torch.float64, torch.bfloat16)

# Of buffers over a tensor's memory, be it read or written: Intel's runtime copies all of it for a
# buffer that is said to be read only.
OVER_MEMORY = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR

# Results are mapped as bytes.
BYTE = np.dtype(np.uint8)

# The calls whose kernels may still use the memory of their tensors.
_held: set[Arrays] = set()
# What was derived from tensors that are alive, and the state that they had.
_derived: MutableMapping[Tensor, tuple[Any, Derived]] = WeakTensorKeyDictionary()


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's dtype of the same elements. Raises ProblemError for bfloat16 without ml_dtypes."""
    return dtype_of(str(dtype).removeprefix("torch."))


def numpy_of(tensor: Tensor) -> NDArray[Any]:
    """A CPU tensor's values as a contiguous NumPy array, over the tensor's memory if that is
    contiguous."""
    values = tensor.detach().contiguous()
    if values.dtype is torch.bfloat16:  # which Tensor.numpy refuses
        bits: NDArray[Any] = values.view(torch.int16).numpy()
        return bits.view(numpy_dtype(values.dtype))
    return values.numpy()


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The tensor over a NumPy array's memory."""
    if is_bfloat16(array.dtype):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def shares_memory(runtime: Runtime) -> bool:
    """Whether the device reads and writes the host's memory itself."""
    return bool(runtime.device.host_unified_memory)


class Arrays:
    """The tensors of one call as arrays of a runtime, in place where the device shares memory.

    There each is a buffer over the tensor's own memory, made for each call: OpenCL promises nothing
    about memory that the host writes while a buffer over it exists. Otherwise they are NumPy arrays
    over it, which a call copies. With `channels_last` their dimensions are in the order of "NLC".
    Used in a `with` statement: after it, also if it raised, no kernel uses the tensors any more.
    """

    def __init__(self, runtime: Runtime, channels_last: bool = False) -> None:
        self.runtime = runtime
        self._layout = "NLC" if channels_last else "NCL"
        self.in_place = shares_memory(runtime)
        self._tensors: list[Tensor] = []
        self._lie: dict[str, _Lies] = {}
        self._memory: dict[str, Any] = {}  # a buffer, or NumPy's array, or an empty one
        self._spans: list[tuple[int, int]] = []
        self._written: list[str] = []
        self._derived: Derived | None = None

    def __enter__(self) -> Arrays:
        _held.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits until the host sees the results, then releases the tensors.

        If waiting fails, or is interrupted before it begins, they are never released, since the
        device may still use them.
        """
        waited = False
        try:
            if kind is None:
                waited = self._map_results()
        finally:
            if not waited:
                self.runtime.finish()
            _held.discard(self)

    def read(self, name: str, tensor: Tensor | None) -> None:
        """Names an array with the values of a tensor of any strides; none for None."""
        if tensor is None:
            return
        lies = self._lies_as(name, tensor)
        address = _address(tensor, lies.nbytes)
        if self.in_place and (address % lies.itemsize or not self._apart(address, lies.nbytes)):
            tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
            lies = self._lies_as(name, tensor)
            address = _address(tensor, lies.nbytes)
        self._add(name, tensor, lies, address)

    def weight(self, tensor: Tensor) -> None:
        """The same for weights, with what was derived from them if no gradients are recorded: then
        they seldom change."""
        self.read("weight", tensor)
        if self.in_place and not torch.is_grad_enabled():
            buffer, lies = self._memory["weight"], self._lie["weight"]
            self._derived = _Kept(tensor, self.runtime, buffer, lies)

    def write(self, name: str, tensor: Tensor | None) -> None:
        """Names an array over a new tensor without gaps, which has the values when the call
        ends."""
        if tensor is None:
            return
        lies = self._lies_as(name, tensor)
        self._add(name, tensor, lies, _address(tensor, lies.nbytes))
        if self.in_place and lies.nbytes:
            self._written.append(name)

    def change(self, name: str, tensor: Tensor) -> None:
        """Names an array over a tensor that the call reads and changes in place: the first one, so
        that others that share its memory are copied. Where the device does not share memory it has
        to be contiguous."""
        lies = _lies(tensor.shape, tensor.stride(), tensor.dtype)
        address = _address(tensor, lies.nbytes)
        self._apart(address, lies.nbytes)
        self._add(name, tensor, lies, address)
        if self.in_place and lies.nbytes:
            self._written.append(name)

    def call(
        self,
        make: Callable[..., None],
        *options: Hashable,
        numbers: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Queues what `make(draft, *options)` drafts for the arrays. The recipe is kept for tensors
        that lie so, which are known to need no checks. Raises as clconv's functions do."""
        runtime, lie = self.runtime, self._lie
        state = runtime.workspace_limit, runtime.exact, self._derived is not None, self._layout
        key = (make, options, *lie, *lie.values(), *state)
        recipe: Recipe | None = runtime.recipes.get(key) if self.in_place else None
        if recipe is not None:
            buffers = {name: (buffer, 0) for name, buffer in self._memory.items()}
            follow_on_buffers(runtime, recipe, buffers, numbers, self._derived)
            return
        arrays = {name: self._array(name) for name in lie}
        if self._derived is not None:
            arrays["weight"] = KnownWeight(arrays["weight"], self._derived)
        call = Call(runtime, layout=self._layout, **arrays)
        recipe = call.recipe(make, *options)
        call.follow(recipe, numbers)
        all_buffers = self.in_place and all(one.nbytes for one in lie.values())
        if all_buffers:
            runtime.recipes.set_default(key, recipe)

    def _map_results(self) -> bool:
        """Lets the host see the results, which is what mapping a buffer does; whether it waited."""
        queue = self.runtime.queue
        for left, name in enumerate(self._written, 1 - len(self._written)):
            buffer, size = self._memory[name], (self._lie[name].nbytes,)
            mapped, _ = cl.enqueue_map_buffer(
                queue, buffer, cl.map_flags.READ, 0, size, BYTE, is_blocking=left == 0
            )
            mapped.base.release(queue)
        return bool(self._written)

    def _apart(self, begin: int, nbytes: int) -> bool:
        """Whether no buffer of this call lies over the same memory, which OpenCL leaves undefined.

        A tensor with gaps, such as every second channel, counts from its first byte to its last.
        """
        end = begin + nbytes
        if any(begin < other_end and other < end for other, other_end in self._spans):
            return False
        self._spans.append((begin, end))
        return True

    def _lies_as(self, name: str, tensor: Tensor) -> _Lies:
        """How a tensor lies, its dimensions in the order of the call."""
        shape: Shape = tensor.shape
        strides: Shape = tensor.stride()
        if self._layout == "NLC" and name in TENSORS:
            shape, strides = exchanged(shape), exchanged(strides)
        return _lies(shape, strides, tensor.dtype)

    def _add(self, name: str, tensor: Tensor, lies: _Lies, address: int) -> None:
        self._tensors.append(tensor)
        self._lie[name] = lies
        self._memory[name] = self._over(lies, address)

    def _over(self, lies: _Lies, address: int) -> Any:
        """What gives access to a tensor's memory. Raises OutOfMemoryError."""
        runtime, outline = self.runtime, lies.outline
        if lies.nbytes == 0:  # no buffer is that small
            make = runtime.empty if self.in_place else np.empty
            return make(outline["shape"], outline["dtype"])
        memory = lies.memory.from_address(address)
        if not self.in_place:
            return np.ndarray(
                outline["shape"], outline["dtype"], memory, strides=outline["strides"]
            )
        try:
            return cl.Buffer(runtime.context, OVER_MEMORY, hostbuf=memory)
        except (cl.MemoryError, cl.LogicError) as error:
            raise OutOfMemoryError(
                f"a tensor of {lies.nbytes} bytes; {runtime.info.name} takes at most "
                f"{runtime.profile.max_alloc_bytes} bytes at once"
            ) from error

    def _array(self, name: str) -> Any:
        """The array of a name, as clconv's functions take it."""
        memory = self._memory[name]
        if not isinstance(memory, cl.Buffer):
            return memory
        array = cl_array.Array.__new__(cl_array.Array)
        vars(array).update(self._lie[name].outline)
        array.queue, array.context = self.runtime.queue, self.runtime.context
        array.base_data, array.events = memory, []
        return array


class _Kept(Derived):
    """What was derived from a tensor's values, as long as these are the same.

    The values themselves are compared, by a fingerprint: PyTorch counts no version of changes
    through `.data`, and none of tensors that were made in inference mode.
    """

    def __init__(self, tensor: Tensor, runtime: Runtime, buffer: Any, lies: _Lies) -> None:
        self._tensor = tensor
        self._runtime = runtime
        self._buffer = buffer
        self._lies = lies

    def get(self, preparation: Schedule) -> Mapping[str, Any] | None:
        """The buffers; None where they are not kept, or of other values."""
        state = self._state  # of the values that will be derived from, if they are
        found = _derived.get(self._tensor)
        if found is None or found[0] != state:
            return None
        return found[1].get(preparation)

    def keep(self, preparation: Schedule, buffers: Mapping[str, Any]) -> None:
        """Keeps what was queued, and forgets what was derived from other values."""
        found = _derived.get(self._tensor)
        if found is None or found[0] != self._state:
            found = _derived[self._tensor] = self._state, Derived()
        found[1].keep(preparation, buffers)

    @cached_property
    def _state(self) -> tuple[Any, ...]:
        lies = self._lies
        content = fingerprint(self._runtime, self._buffer, lies.nbytes, lies.itemsize)
        outline = lies.outline["dtype"], lies.outline["shape"], lies.outline["strides"]
        return content, outline, weakref.ref(self._runtime)


@dataclass(frozen=True, eq=False)
class _Lies:
    """How tensors of one shape, strides and dtype lie: bytes from the first to the last, those of
    an element, the type of their memory, and an array but for its memory. Each is equal to itself
    alone, which makes it a quick key."""

    nbytes: int
    itemsize: int
    memory: Any
    outline: dict[str, Any]


@lru_cache(maxsize=1024)
def _lies(shape: Shape, steps: Shape, dtype: torch.dtype) -> _Lies:
    """Kept: a constructor takes longer than a small kernel."""
    size = dtype.itemsize
    nbytes = 0
    if 0 not in shape:
        nbytes = (1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))) * size
    strides = tuple(step * size for step in steps)
    array = cl_array.Array(None, tuple(shape), numpy_dtype(dtype), data=0, strides=strides)
    assert array.flags is not None  # worked out now, and kept
    return _Lies(nbytes, size, ctypes.c_byte * nbytes, vars(array))


def _address(tensor: Tensor, needed: int) -> int:
    """Where a tensor's memory begins; ArrayTypeError unless there is as much as it spans."""
    storage = tensor.untyped_storage()
    if storage.nbytes() - tensor.storage_offset() * tensor.element_size() < needed:
        raise ArrayTypeError(
            f"a tensor has shape {tuple(tensor.shape)}, expected {needed} bytes in its storage, "
            f"which was resized to {storage.nbytes()}"
        )
    return tensor.data_ptr()
