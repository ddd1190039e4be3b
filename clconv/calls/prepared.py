"""What do variants derive from weights, and how long is it kept?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.bounded import Bounded
from clconv.calls.layouts import Array
from clconv.dtypes import EXPECTED_DTYPES, is_computed
from clconv.errors import ArrayTypeError, ProblemError
from clconv.geometry import Geometry, whole
from clconv.runtime import Runtime, check_context, default_runtime, runtime_of
from clconv.variants.base import Schedule

__all__ = ["Derived", "KnownWeight", "PreparedWeight", "prepared", "shortest_input"]

# Preparations of one weight: by several plans, of passes and epilogues.
DERIVED_KEPT = 16


class Derived:
    """The buffers that preparations of one weight wrote. They were queued on one runtime's queue,
    which is in order, so every later launch can read them."""

    def __init__(self) -> None:
        self._kept: Bounded[Schedule, Mapping[str, Any]] = Bounded(DERIVED_KEPT)
        self.nbytes = 0  # written so far

    def get(self, preparation: Schedule) -> Mapping[str, Any] | None:
        """The buffers by the names of their workspaces, None where they are not kept."""
        return self._kept.get(preparation)

    def keep(self, preparation: Schedule, buffers: Mapping[str, Any]) -> None:
        """Keeps what was queued, unless another thread was first."""
        if self._kept.set_default(preparation, buffers) is buffers:
            self.nbytes += preparation.workspace_bytes


class KnownWeight(NamedTuple):
    """Weights that have not changed since `derived` was made from them; layers and the PyTorch
    bridge know that, and pass this as `weight`."""

    array: Array
    derived: Derived


class PreparedWeight:
    """Weights with everything that variants derive from them; the functions take this in place of
    `weight`.

    Made by `clconv.prepare_weight`. It belongs to one runtime and one geometry, and must not be
    used after a change of the array.
    """

    def __init__(self, array: cl_array.Array, runtime: Runtime, geometry: Geometry) -> None:
        self.array = array
        self.runtime = runtime
        self.geometry = geometry
        self.derived = Derived()

    def __repr__(self) -> str:
        g = self.geometry
        named = f"stride={g.stride}, dilation={g.dilation}, groups={g.groups}"
        return f"<clconv.PreparedWeight {self.shape} {self.dtype}, {named}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weights."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the weights."""
        return np.dtype(self.array.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of what was derived so far, the weights themselves not counted."""
        return self.derived.nbytes


def prepared(
    weight: Array, stride: Any, dilation: Any, groups: Any, transposed: Any, runtime: Runtime | None
) -> PreparedWeight:
    """Of a device array, or of a copy of a NumPy array. Raises ProblemError, DeviceError."""
    if not isinstance(weight, (np.ndarray, cl_array.Array)):
        kind = type(weight)
        raise ArrayTypeError(
            f"weight is a {kind.__module__}.{kind.__qualname__}, expected a NumPy array or a "
            "pyopencl.array.Array"
        )
    if runtime is not None and not isinstance(runtime, Runtime):
        raise ArrayTypeError(f"runtime is {runtime!r}, expected a clconv.Runtime or None")
    if not isinstance(transposed, bool):
        raise ProblemError(f"transposed is {transposed!r}, expected True or False")
    geometry = Geometry(
        stride=whole("stride", stride, 1),
        dilation=whole("dilation", dilation, 1),
        groups=whole("groups", groups, 1),
        transposed=transposed,
    )
    shape = tuple(weight.shape)
    if len(shape) != 3 or 0 in shape:
        expected = "(Cin, Cout / groups, K)" if transposed else "(Cout, Cin / groups, K)"
        raise ProblemError(f"weight has shape {shape}, expected {expected}, each at least 1")
    if shape[0] % geometry.groups:
        channels = "input" if transposed else "output"
        raise ProblemError(
            f"groups is {geometry.groups}, expected a divisor of the {channels} channels "
            f"({shape[0]})"
        )
    if not is_computed(weight.dtype):
        raise ProblemError(f"weight has dtype {weight.dtype}, expected {EXPECTED_DTYPES}")
    if isinstance(weight, np.ndarray):
        runtime = runtime or default_runtime()
        return PreparedWeight(runtime.to_device(weight), runtime, geometry)
    if runtime is not None:
        check_context("weight", weight, runtime.context, runtime)
    return PreparedWeight(weight, runtime or runtime_of(weight.context), geometry)


def shortest_input(weight: PreparedWeight) -> cl_array.Array:
    """Zeros with as few positions as a result needs: a call derives what its plan wants."""
    first, second, kernel_size = weight.shape
    geometry = weight.geometry
    channels = first if geometry.transposed else second * geometry.groups
    return weight.runtime.zeros((1, channels, geometry.shortest_length(kernel_size)), weight.dtype)
