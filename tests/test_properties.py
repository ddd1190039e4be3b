"""Any call, valid or not: the right result, or the documented error with nothing changed.

CLCONV_TEST_EXAMPLES is how many examples each test draws.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl.array as cl_array
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transposed import extended, transposed_problem

import clconv
from clconv import (
    Conv1dProblem,
    ModuleError,
    OutOfMemoryError,
    Pass,
    ProblemError,
    gpuarray,
    testing,
)
from clconv import functional as F
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES
from clconv.variants import VARIANTS
from clconv.variants.base import EXACT, MAX_GROUPS

# The same examples in each run, and as many as the suite has time for.
drawn = settings(
    max_examples=int(os.environ.get("CLCONV_TEST_EXAMPLES", "100")), derandomize=True,
    database=None, deadline=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip

# in_channels, out_channels, kernel_size, stride, dilation, groups: what is compiled in, so few.
GEOMETRIES = ((2, 3, 3, 1, 1, 1), (4, 2, 4, 2, 3, 2), (3, 3, 2, 1, 2, 3))
LAYOUTS = ("whole", "inside", "stepped", "backwards", "turned")
DTYPES = ("float32", "float32", "float32", "float64", "float16")
WHOLE_NUMBERS = (0, -1, 1.5, "2", None, True, 2**31, 10**30, (1, 2), float("nan"), np.float32(1))
FAULTS: dict[str, tuple[Any, ...]] = {
    "stride": WHOLE_NUMBERS,
    "dilation": WHOLE_NUMBERS,
    "groups": WHOLE_NUMBERS,
    "padding": (-1, 1.5, None, "full", "SAME", (0, -1), (1, 2, 3), 2**31, (2**31, 0), [], b"same"),
    "activation": ("swish", 3, b"relu", ("relu", 0.1), ("leaky_relu", -1), [],
                   ("leaky_relu", float("nan")), ("leaky_relu", "0.1"), "ReLU"),
    "variant": ("magic", 3, None, "", "DIRECT", ("direct",), b"direct"),
    "runtime": ("cpu", 0, object()),
    "x": ("channels", "rank", "dtype", "kind", "list", None),
    "weight": ("channels", "rank", "dtype", "kind", "list", None),
    "bias": ("channels", "rank", "dtype", "kind", "list"),
    "residual": ("channels", "rank", "dtype", "kind", "list"),
    "out": ("channels", "rank", "dtype", "kind", "list", "overlap", "strides"),
    "grad_output": ("channels", "rank", "dtype", "kind", "list", None),
    "scale": ("1", None, 1j, True, [1.0]),
    "momentum": ("1", None, 1j, True, [1.0]),
    "need": ((True,), None, 3, (True,) * 4),
}  # fmt: skip
FORWARD = ("stride", "dilation", "groups", "padding", "activation", "variant", "runtime", "x",
           "weight", "bias", "residual", "out")  # fmt: skip
BACKWARD = ("stride", "dilation", "groups", "padding", "variant", "runtime", "x", "weight",
            "grad_output", "scale", "momentum", "need")  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A geometry on a batch, a length and a padding, and how its arrays lie."""

    geometry: tuple[int, ...]
    batch: int
    length: int
    padding: Any
    dtype: str
    host: bool
    layouts: tuple[str, ...]
    seed: int

    def problem(self) -> Conv1dProblem:
        """Raises ProblemError."""
        channels, out_channels, size, stride, dilation, groups = self.geometry
        return Conv1dProblem(
            self.batch, channels, self.length, out_channels, size, stride, self.padding, dilation,
            groups, self.dtype,
        )  # fmt: skip

    @property
    def exists(self) -> bool:
        """Whether there is such a convolution, by the definition."""
        _, _, size, stride, dilation, _ = self.geometry
        if self.padding == "same":
            return stride == 1
        pads = 0 if self.padding == "valid" else np.sum(np.broadcast_to(self.padding, 2))
        return self.length + pads >= dilation * (size - 1) + 1

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of all functions."""
        _, _, _, stride, dilation, groups = self.geometry
        return {"stride": stride, "padding": self.padding, "dilation": dilation, "groups": groups}


paddings = st.one_of(
    st.sampled_from(["same", "valid", 0, np.int64(2), (1,)]),
    st.integers(0, 9),
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
calls = st.builds(
    Call,
    geometry=st.sampled_from(GEOMETRIES),
    batch=st.integers(0, 3),
    length=st.integers(1, 40),
    padding=paddings,
    dtype=st.sampled_from(DTYPES),
    host=st.booleans(),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    seed=st.integers(0, 2**16),
)


def faults(names):
    """(argument, what is wrong with it)."""
    return st.one_of(*(st.tuples(st.just(n), st.sampled_from(FAULTS[n])) for n in names))


class Arrays:
    """Makes a call's arrays, and tells whether any of them changed."""

    def __init__(self, runtime: Any, call: Call) -> None:
        self.runtime = runtime
        self.call = call
        self.rng = np.random.default_rng(call.seed)
        self._made: list[tuple[Any, np.ndarray]] = []

    def integers(self, shape: tuple[int, ...]) -> np.ndarray:
        return testing.integers(self.rng, shape, self.call.dtype)

    def _kept(self, base: np.ndarray, host: bool | None) -> Any:
        base = np.ascontiguousarray(base)
        array = base if (self.call.host if host is None else host) else self._device(base)
        self._made.append((array, base.copy()))
        return array

    def _device(self, base: np.ndarray) -> Any:
        return self.runtime.to_device(base)

    def lay(self, values: np.ndarray, layout: str = "whole", host: bool | None = None) -> Any:
        """An array of these values that lies so amid NaNs."""
        if layout == "whole" or values.size == 0:
            return self._kept(values, host)
        if layout == "turned":
            axes = tuple(range(values.ndim))[::-1]
            return self._kept(values.transpose(axes), host).transpose(axes)
        if layout == "stepped":
            index = (*[slice(None)] * (values.ndim - 1), slice(1, None, 2))
            shape = (*values.shape[:-1], 2 * values.shape[-1])
        elif layout == "backwards":
            index, shape = (slice(None, None, -1),) * values.ndim, values.shape
        else:
            index, shape = (slice(1, -1),) * values.ndim, tuple(s + 2 for s in values.shape)
        base = np.full(shape, np.nan, values.dtype)
        base[index] = values
        return self._kept(base, host)[index]

    def out(self, values: np.ndarray) -> Any:
        """A contiguous array in the middle of a larger one."""
        return self.lay(np.stack([values] * 3))[1]

    def spoilt(self, values: np.ndarray, how: Any, others: Any) -> Any:
        """An array that a call must refuse."""
        if how is None:
            return None
        if how == "channels":
            axis = min(1, values.ndim - 1)
            return self.lay(np.concatenate([values, values[..., :1]] if values.ndim == 1 else
                            [values, values.take([0], axis)], axis))  # fmt: skip
        if how == "rank":
            return self.lay(values[None, None])
        if how == "dtype":
            return self.lay(values.astype(np.int32))
        if how == "kind":
            return self.lay(values, host=not self.call.host)
        if how == "list":
            return values.tolist()
        if how == "overlap":
            return others["x"]
        wide = self.lay(np.repeat(values, 2, axis=values.ndim - 1))
        return wide[..., ::2]

    def assert_unchanged(self) -> None:
        for array, before in self._made:
            now = array if isinstance(array, np.ndarray) else array.get()
            assert np.array_equal(now, before, equal_nan=True)


EXACT_NAMES = [one.NAME for one in VARIANTS if one.ERROR_CLASS is EXACT]


def values_of(array: Any) -> np.ndarray:
    return array.get() if isinstance(array, cl_array.Array) else array


def assert_refused(runtime, arrays, function, /, *args, **options):
    """A ProblemError, before anything is queued or changed."""
    runtime.finish()
    launches = runtime.launches
    with pytest.raises(ProblemError):
        function(*args, **options)
    assert runtime.launches == launches
    arrays.assert_unchanged()


@drawn
@given(call=calls, activation=st.sampled_from([None, "relu", ("leaky_relu", 0.25)]),
       extras=st.tuples(st.booleans(), st.booleans(), st.booleans()),
       variant=st.sampled_from(["auto", *EXACT_NAMES]))  # fmt: skip
def test_forward(runtime, call, activation, extras, variant):
    """Any layouts, paddings and epilogue: equal on integers, or refused where there is none."""
    arrays = Arrays(runtime, call)
    channels, out_channels, size, _, _, groups = call.geometry
    x = arrays.integers((call.batch, channels, call.length))
    weight = arrays.integers((out_channels, channels // groups, size))
    given_x, given_weight = arrays.lay(x, call.layouts[0]), arrays.lay(weight, call.layouts[1])
    options = {**call.options, "activation": activation, "variant": variant}
    if not call.exists:
        assert_refused(runtime, arrays, F.conv1d, given_x, given_weight, **options)
        return
    problem = call.problem()
    if variant not in ("auto", *clconv.variants(problem, Pass.FORWARD)):
        assert_refused(runtime, arrays, F.conv1d, given_x, given_weight, **options)
        return
    operands = {"x": x, "weight": weight}
    bias, residual, out = (None, None, None)
    if extras[0]:
        operands["bias"] = arrays.integers((out_channels,))
        bias = arrays.lay(operands["bias"], call.layouts[2])
    if extras[1]:
        operands["residual"] = arrays.integers(problem.output_shape)
        residual = arrays.lay(operands["residual"], call.layouts[2])
    arrays.assert_unchanged()
    if extras[2]:
        around = np.full((3, *problem.output_shape), 7, call.dtype)
        whole = around if call.host else runtime.to_device(around)
        out = whole[1]
    y = F.conv1d(given_x, given_weight, bias, residual=residual, out=out, **options)
    assert (y is out) == extras[2]
    assert y.shape == problem.output_shape
    assert y.dtype == call.dtype
    testing.assert_right(values_of(y), problem, Pass.FORWARD, operands, largest=4,
                          activation=activation)  # fmt: skip
    arrays.assert_unchanged()
    if extras[2]:
        assert (values_of(whole)[::2] == 7).all()
    runtime.check_guards()


@drawn
@given(call=calls, fault=faults(FORWARD))
def test_forward_with_a_fault(runtime, call, fault):
    """One bad argument: its error, nothing queued, nothing changed."""
    assume(call.exists and call.batch)
    name, how = fault
    problem, arrays = call.problem(), Arrays(runtime, call)
    assume(name not in ("x", "out", "residual") or how != "channels" or problem.batch)
    values = {
        "x": arrays.integers(problem.input_shape),
        "weight": arrays.integers(problem.weight_shape),
        "bias": arrays.integers((problem.out_channels,)),
        "residual": arrays.integers(problem.output_shape),
        "out": arrays.integers(problem.output_shape),
    }
    assume(how != "overlap" or problem.input_shape == problem.output_shape)
    assume(how != "strides" or problem.out_length > 1)
    given_arrays = {}
    for one, array in values.items():
        if one == name:
            given_arrays[one] = arrays.spoilt(array, how, given_arrays)
        else:
            given_arrays[one] = arrays.out(array) if one == "out" else arrays.lay(array)
    options = call.options | ({} if name in values else {name: how})
    assert_refused(runtime, arrays, F.conv1d, **given_arrays, **options)


@drawn
@given(call=calls, need=st.tuples(*[st.booleans()] * 3), outs=st.tuples(*[st.booleans()] * 3),
       scale=st.sampled_from([1.0, -1, 2.0, np.float32(0.5), 0]),
       momentum=st.sampled_from([0.0, 0, 1.0, -0.5]))  # fmt: skip
def test_backward(runtime, call, need, outs, scale, momentum):
    """Any gradients, into outs or new arrays, that accumulate or do not."""
    assume(call.exists)
    problem, arrays = call.problem(), Arrays(runtime, call)
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    x, weight, grad = map(arrays.integers, shapes)
    inputs = [arrays.lay(a, how) for a, how in zip((x, weight, grad), call.layouts, strict=True)]
    places, olds = [], []
    for shape, wanted in zip((*shapes[:2], (problem.out_channels,)), outs, strict=True):
        olds.append(arrays.integers(shape))
        old = olds[-1] if momentum else np.full(shape, np.nan, call.dtype)
        place = np.stack([old] * 3)
        places.append((place if call.host else runtime.to_device(place)) if wanted else None)
    results = F.conv1d_backward(
        *inputs, **call.options, need=need, out=[p if p is None else p[1] for p in places],
        scale=scale, momentum=momentum,
    )  # fmt: skip
    passes = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT, Pass.BIAS_GRADIENT)
    for i, (pass_, result) in enumerate(zip(passes, results, strict=True)):
        assert (result is not None) == need[i]
        if not need[i]:
            continue
        operands = {"x": x, "weight": weight, "grad_output": grad}
        update = {}
        if i:
            update["scale"] = float(scale)
            if momentum and outs[i]:
                update["momentum"] = float(momentum)
                operands["old"] = olds[i]
        testing.assert_within_bound(
            values_of(result),
            testing.evaluate(problem, pass_, operands, **update),
            testing.rounding_bound(problem, pass_, operands, **update),
            pass_.value,
        )
    arrays.assert_unchanged()
    runtime.check_guards()


@drawn
@given(call=calls, fault=faults(BACKWARD))
def test_backward_with_a_fault(runtime, call, fault):
    """One bad argument: its error, nothing queued, nothing changed, the outs neither."""
    assume(call.exists and call.batch)
    name, how = fault
    problem, arrays = call.problem(), Arrays(runtime, call)
    values = {
        "x": arrays.integers(problem.input_shape),
        "weight": arrays.integers(problem.weight_shape),
        "grad_output": arrays.integers(problem.output_shape),
    }
    given_arrays = {
        one: arrays.spoilt(array, how, {}) if one == name else arrays.lay(array)
        for one, array in values.items()
    }
    outs = [arrays.out(values["x"]), arrays.out(values["weight"]), None]
    options = call.options | ({} if name in values else {name: how})
    assert_refused(runtime, arrays, F.conv1d_backward, **given_arrays, out=outs, **options)


@drawn
@given(call=calls, output_padding=st.integers(0, 3), pads=st.tuples(*[st.integers(0, 6)] * 2))
def test_transposed(runtime, call, output_padding, pads):
    """By PyTorch's formula for the length; refused where that leaves nothing or says too much."""
    arrays = Arrays(runtime, call)
    channels, out_channels, size, stride, dilation, groups = call.geometry
    length = min(call.length, 20)
    x = arrays.integers((call.batch, out_channels, length))
    weight = arrays.integers((out_channels, channels // groups, size))
    inputs = arrays.lay(x, call.layouts[0]), arrays.lay(weight, call.layouts[1])
    options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    options["output_padding"] = output_padding
    reached = (length - 1) * stride + dilation * (size - 1) + 1
    positions = reached - sum(pads) + output_padding
    if output_padding >= max(stride, dilation) or positions < 1:
        assert_refused(runtime, arrays, F.conv_transpose1d, *inputs, **options)
        return
    y = F.conv_transpose1d(*inputs, **options)
    assert y.shape == (call.batch, channels, positions)
    problem = transposed_problem(
        x.shape, weight.shape, stride, pads, output_padding, dilation, groups, call.dtype
    )
    operands = {"weight": weight, "grad_output": extended(x, problem.out_length)}
    testing.assert_right(values_of(y), problem, Pass.INPUT_GRADIENT, operands, largest=4)
    arrays.assert_unchanged()
    runtime.check_guards()


SIZES = st.one_of(
    st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.sampled_from(WHOLE_NUMBERS[:6])
)


@drawn
@given(sizes=st.tuples(*[SIZES] * 7), length=st.integers(0, 12), transposed=st.booleans(),
       groups=st.sampled_from([1, 1, 1, 2, 3, 0, "1"]),
       dtype=st.sampled_from(["float32", "float16", "int32"]))  # fmt: skip
def test_layers(runtime, sizes, length, transposed, groups, dtype):
    """A layer of any arguments on any data: a ModuleError, or what its shapes promise."""
    kind = clconv.Deconv1D if transposed else clconv.Conv1D
    names = ("inmaps", "outmaps", "size", "stride", "pad", "dilation")
    try:
        layer = kind(**dict(zip(names, sizes, strict=False)), groups=groups)
    except ModuleError:
        plain = [type(size) is int and size > 0 for size in sizes[:6]]
        plain[4] = type(sizes[4]) is int and sizes[4] >= 0
        plain.append(type(groups) is int and groups > 0)
        assert not all(plain) or sizes[0] % groups or sizes[1] % groups
        return
    data = gpuarray.to_gpu(np.ones((2, sizes[0], length), dtype))
    launches = runtime.launches
    try:
        y = layer(data)
    except ModuleError:
        assert layer.data is None
        assert runtime.launches == launches
        assert dtype != "float32" or length < layer.size * layer.dilation + 2 * layer.pad + 1
        return
    assert y.shape == tuple(layer.dataShapeFrom(data.shape))
    layer.backward(y)
    assert layer.grad.shape == data.shape
    runtime.check_guards()


POSITIVE = st.one_of(st.integers(1, 9), st.integers(1, 3000))


@settings(drawn, max_examples=3 * drawn.max_examples)
@given(sizes=st.tuples(st.integers(0, 200_000), *[POSITIVE] * 2, st.integers(1, 2**21),
                       st.integers(1, 300), st.integers(1, 2**22), st.integers(1, 300)),
       groups=st.sampled_from([1, 1, 2, 3, 16, 1000]), pad=st.integers(0, 2**20),
       profile=st.sampled_from(sorted(PROFILES)), pass_=st.sampled_from(list(Pass)),
       dtype=st.sampled_from(DTYPES))  # fmt: skip
def test_planning(sizes, groups, pad, profile, pass_, dtype):
    """Any problem has a plan for any device, inside its limits, or a reason."""
    batch, group_in, group_out, length, size, stride, dilation = sizes
    device = PROFILES[profile]
    try:
        problem = Conv1dProblem(
            batch, group_in * groups, length, group_out * groups, size, stride, pad, dilation,
            groups, dtype,
        )  # fmt: skip
    except ProblemError:
        assert length + 2 * pad < dilation * (size - 1) + 1
        return
    if dtype == "float64" and not device.fp64:
        with pytest.raises(ProblemError, match="has no float64"):
            plans(problem, pass_, device)
        return
    plan = plans(problem, pass_, device)[0]
    assert plan.workspace_bytes >= 0
    for launch in plan.launches:
        for whole, local in zip(launch.global_size, launch.kernel.local_size, strict=True):
            assert 1 <= whole // local <= MAX_GROUPS
            assert whole % local == 0
        assert np.prod(launch.kernel.local_size) <= device.max_work_group_size
        for scalar, value in zip(launch.kernel.scalars, launch.values, strict=True):
            if value is not None and scalar.type == "int":
                assert -(2**31) <= value < 2**31, scalar


def test_planning_of_wide_strides():
    """What a stride or a dilation of a million costs does not grow with it."""
    for stride, dilation in ((10**9, 1), (10**9 + 7, 10**6), (1, 10**9)):
        problem = Conv1dProblem(1, 1, 2 * 10**9, 1, 2, stride, 0, dilation)
        for pass_ in Pass:
            for device in PROFILES.values():
                assert plans(problem, pass_, device)[0].launches


def test_no_room_for_a_result(runtime):
    """Sizes that can be planned and not held: an OutOfMemoryError before anything is queued."""
    x = runtime.to_device(np.ones((1, 1, 3), "f"))
    padding = 2**30 - 2**20
    channels = runtime.profile.max_alloc_bytes // (2 * padding * 4) + 1
    weight = runtime.to_device(np.ones((channels, 1, 1), "f"))
    launches = runtime.launches
    with pytest.raises(OutOfMemoryError, match=r"\d+ bytes asked for"):
        F.conv1d(x, weight, padding=padding)
    assert runtime.launches == launches
