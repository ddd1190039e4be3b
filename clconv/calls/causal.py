"""What do causal convolutions of sequences do: their checks, and the launches that they queue?

Arrays that have positions come in the order of their form: (N, C, L) in "rows", (N, L, C) in
"channels". Errors say shapes in the caller's order, (N, C, L).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clconv.calls.causal_kernels import (
    Form,
    Sizes,
    Strides,
    final_states,
    states_gradient,
    sums,
    taps,
    update,
    weight_sums,
)
from clconv.calls.draft import Draft, Gap
from clconv.calls.layouts import Shape
from clconv.errors import ProblemError
from clconv.planning.cost import Cost
from clconv.planning.planner import KernelPlan
from clconv.problem import Conv1dProblem, Pass
from clconv.runtime import Argument
from clconv.variants.base import Design, Launch, Request, Schedule, Workspace, accumulator

__all__ = ["draft_causal_conv1d", "draft_causal_conv1d_backward", "draft_causal_conv1d_update"]

INT32 = np.dtype(np.int32)
# The names that kernels have for arrays of the shape of states.
STATES = {"initial_states": "states", "grad_final_states": "grad_final"}
CALLED = {called: name for name, called in STATES.items()}
# What the kernel that adds shares of gradients is told: there is nothing to add to.
NEW = {"scale": 1.0, "momentum": 0.0, "bias_momentum": 0.0}


class _Bound(NamedTuple):
    """A launch, and the arrays of the call or workspaces that its operands are."""

    launch: Launch
    names: dict[str, str]


def _in_order(form: Form, shape: Shape) -> Shape:
    """(N, C, L) in the order of a form, or back."""
    return shape if form == "rows" else (shape[0], shape[2], shape[1])


class _Sequences:
    """The arrays of a call, checked: batch, channels, length and width fit together."""

    def __init__(self, draft: Draft, form: Form) -> None:
        self.draft = draft
        self.form = form
        x, weight = draft.shape("x"), draft.shape("weight")
        if len(x) != 3:
            raise ProblemError(f"x has shape {x}, expected (batch, dim, length)")
        batch, channels, length = self.shape = _in_order(form, x)
        if len(weight) != 2 or weight[0] != channels or not weight[1]:
            raise ProblemError(
                f"weight has shape {weight}, expected (dim, width) with dim {channels}, that of x, "
                "and a width of at least 1"
            )
        width = weight[1]
        problem = Conv1dProblem(
            batch, channels, length, channels, width, 1, (width - 1, 0), 1, channels, draft.dtype
        )
        self.states_shape = (batch, channels, width - 1)
        self.request = Request(problem, Pass.FORWARD, draft.runtime.profile)
        self.sizes = Sizes(draft.runtime.profile, draft.dtype, batch, channels, length, width)
        self.expect("bias", (channels,))
        for name in ("grad_output", "out"):
            if name in draft.given:
                given = _in_order(form, draft.shape(name))
                if given != self.shape:
                    raise ProblemError(
                        f"{draft.said(name)} has shape {given}, expected {self.shape}, that of x"
                    )
        self.strides: dict[str, Strides] = {}
        self.launches: list[_Bound] = []
        self.workspaces: list[Workspace] = []

    # Checks

    def expect(self, name: str, shape: Shape) -> None:
        """ProblemError unless the array, if given, has this shape."""
        self.draft.expect(name, shape)

    def expect_numbers(self, name: str, shape: Shape) -> None:
        """ProblemError unless the array, if given, is int32 and has this shape."""
        if name in self.draft.given:
            dtype = self.draft.layouts[name].dtype
            if dtype != INT32:
                raise ProblemError(f"{name} has dtype {dtype}, expected int32")
            self.expect(name, shape)

    def expect_apart(self, name: str) -> None:
        """ProblemError where sequences are packed and this is asked for, too."""
        if "seq_idx" in self.draft.given:
            raise ProblemError(
                f"{name} is given together with seq_idx, expected one of them: states belong to "
                "a whole row, which seq_idx divides"
            )

    def expect_places(self, *names: str) -> None:
        """ProblemError where elements of an array that is written, if given, lie on one another."""
        for name in names:
            if name in self.draft.given and not self.draft.layouts[name].has_own_places:
                strides = self.draft.layouts[name].strides
                if name == "out":
                    strides = _in_order(self.form, strides)
                raise ProblemError(
                    f"{self.draft.said(name)} has strides {strides}, expected a place of its own "
                    "for each element, since they are written"
                )

    # Arrays as kernels take them

    def rows(self, *names: str) -> None:
        """Arrays of positions, read with the form's inner dimension contiguous."""
        for name in names:
            self.strides[name] = self.draft.read_rows(name)

    def flat(self, *names: str) -> None:
        """Those of the arrays that are given, as a whole."""
        for name in names:
            if name in self.draft.given:
                self.draft.read_flat(name)

    def with_states(self) -> frozenset[str]:
        """The names of the arrays that are given, as kernels call them; states without a sample
        are not."""
        given = self.draft.given - STATES.keys()
        for name, called in STATES.items():
            self.expect(name, self.states_shape)
            if name in self.draft.given and self.sizes.width > 1:
                self.strides[called] = self.draft.read_anywhere(name)
                given |= {called}
        return given

    def inner_last(self, strides: Strides) -> Strides:
        """Strides of batch, channel and position of an array that is read by rows."""
        batch, outer = strides
        return (batch, outer, 1) if self.form == "rows" else (batch, 1, outer)

    def contiguous(self) -> Strides:
        """Of a workspace of the shape of x."""
        _, *outer, inner = _in_order(self.form, self.shape)
        return outer[0] * inner, inner

    # Launches

    def add(self, launch: Launch, **names: str) -> None:
        """A launch whose operands have the names of arrays, but for these."""
        self.launches.append(_Bound(launch, names))

    def workspace(self, space: Workspace) -> None:
        """Memory besides the arrays."""
        self.workspaces.append(space)

    def with_taps(self, bias: bool) -> int:
        """The length of a row of taps, after a launch that makes them where the form wants that."""
        if self.form == "rows":
            return 0
        launch, space, row = taps(self.sizes, bias)
        self.workspace(space)
        self.add(launch)
        return row

    def finish(self) -> None:
        """Builds the launches, of which there are none without a batch."""
        launches = [one.launch for one in self.launches]
        if not launches:
            return
        kernels = tuple(dict.fromkeys(one.kernel for one in launches))
        schedule = Schedule(tuple(launches), tuple(self.workspaces))
        design = Design({}, kernels, Cost(), lambda _: schedule)
        bound: list[dict[str, Argument]] = []
        for launch, names in self.launches:
            called = CALLED | names
            operands = (operand.name for operand in launch.kernel.operands)
            bound.append({name: (Gap(called.get(name, name)), 0) for name in operands})
        self.draft.add_launches(KernelPlan(self.request, "causal", design), bound, NEW)


def draft_causal_conv1d(draft: Draft, form: Form, silu: bool, final: bool) -> None:
    """The sums, and with `final` the last samples."""
    one = _Sequences(draft, form)
    batch, _, length = one.shape
    one.expect_numbers("seq_idx", (batch, length))
    if "initial_states" in draft.given:
        one.expect_apart("initial_states")
    if final:
        one.expect_apart("return_final_states")
    one.expect("out_final", one.states_shape)
    one.expect_places("out", "out_final")
    one.rows("x")
    one.flat("weight", "bias", "seq_idx")
    given = one.with_states()
    draft.write_rows("out", _in_order(form, one.shape))
    one.strides["y"] = draft.placed("out")[:2]
    if batch:
        row = one.with_taps("bias" in draft.given)
        launch = sums(one.sizes, form, "forward", one.strides, given, silu, False, row)
        one.add(launch, y="out")
    if final:
        draft.write_anywhere("out_final", one.states_shape)
        if batch and one.sizes.width > 1:
            places = {"x": one.inner_last(one.strides["x"]), "y": draft.placed("out_final")}
            places |= {name: one.strides[name] for name in ("states",) if name in given}
            launch = final_states(one.sizes, places, "states" in given)
            one.add(launch, y="out_final")
    one.finish()


def draft_causal_conv1d_backward(
    draft: Draft, form: Form, silu: bool, need: tuple[bool, ...]
) -> None:
    """The gradients of x, weight, bias and states that are needed."""
    one = _Sequences(draft, form)
    batch, channels, length = one.shape
    width = one.sizes.width
    one.expect_numbers("seq_idx", (batch, length))
    for name in STATES:
        if name in draft.given:
            one.expect_apart(name)
    if need[3]:
        one.expect_apart("need[3], of initial_states,")
    one.rows("x", "grad_output")
    one.flat("weight", "bias", "seq_idx")
    given = one.with_states()
    results = (
        ("out_x", _in_order(form, one.shape)),
        ("out_weight", (channels, width)),
        ("out_bias", (channels,)),
        ("out_states", one.states_shape),
    )
    # Weights and bias are summed together, so that one of them costs the other.
    wanted = (need[0], need[1] or need[2], need[2], need[3])
    for (name, shape), needed in zip(results, wanted, strict=True):
        if needed:
            draft.write_rows(name, shape)
    # Without a batch there are only gradients of weights and bias, which are zeros.
    none = not batch
    _add_gradients(one, silu and not none, (wanted[0] and not none, *wanted[1:]), given)
    one.finish()


def _add_gradients(
    one: _Sequences, silu: bool, need: tuple[bool, ...], given: frozenset[str]
) -> None:
    """The launches: first the gradient of what comes before the activation, if there is one."""
    if not any(need):
        return
    sizes, form, draft = one.sizes, one.form, one.draft
    names = {"grad": "grad_output"}
    places = one.strides | {"grad": one.strides["grad_output"]}
    row = 0
    if silu or need[0]:
        row = one.with_taps("bias" in given)
    if silu:
        names = {"grad": "through"}
        count = sizes.batch * sizes.channels * sizes.length
        one.workspace(Workspace("through", accumulator(sizes.dtype), count))
        places["y"] = one.contiguous()
        launch = sums(sizes, form, "through", places, given, True, True, row)
        one.add(launch, grad="grad_output", y="through")
        places["grad"] = one.contiguous()
    if need[0]:
        places["y"] = draft.placed("out_x")[:2]
        launch = sums(sizes, form, "input", places, given, False, silu, row)
        one.add(launch, **names, y="out_x")
    if need[1]:
        summing, adding, space = weight_sums(sizes, form, one.request, places, given, need[2], silu)
        one.workspace(space)
        if sizes.batch:
            one.add(summing, **names)
        one.add(adding, result="out_weight", bias="out_bias")
    if need[3] and sizes.batch and sizes.width > 1:
        places["y"] = draft.placed("out_states")
        places["grad"] = one.inner_last(places["grad"])
        one.add(
            states_gradient(sizes, places, "grad_final" in given, silu), **names, y="out_states"
        )


def draft_causal_conv1d_update(draft: Draft, silu: bool) -> None:
    """The next positions of sequences, whose states change."""
    one = _Sequences(draft, "rows")
    batch, channels, _ = one.shape
    state = draft.shape("conv_state")
    indexed = "conv_state_indices" in draft.given
    entries = "batch or more" if indexed else str(batch)
    if (
        len(state) != 3
        or state[1] != channels
        or state[2] < one.sizes.width - 1
        or (not indexed and state[0] != batch)
    ):
        raise ProblemError(
            f"conv_state has shape {state}, expected ({entries}, {channels}, "
            f"{one.sizes.width - 1} or more)"
        )
    for name in ("cache_seqlens", "conv_state_indices"):
        one.expect_numbers(name, (batch,))
    one.expect_places("conv_state", "out")
    one.strides |= {name: draft.read_anywhere(name) for name in ("x", "conv_state")}
    one.flat("weight", "bias", "cache_seqlens", "conv_state_indices")
    draft.changed("conv_state")
    draft.write_anywhere("out", one.shape)
    one.strides["y"] = draft.placed("out")
    if batch:
        launch = update(one.sizes, one.strides, draft.given, state[0], state[2], silu)
        one.add(launch, y="out")
    one.finish()
