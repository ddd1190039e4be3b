"""PyTorch's own sample inputs of both functions, under each of its transforms."""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jvp, vmap

from clconv import testing
from clconv.torch import conv1d, conv_transpose1d

# What torch says of its own way with an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

DTYPES = (torch.float32, torch.float16, torch.float64, torch.bfloat16)
FUNCTIONS = {
    "conv1d": (conv1d, TF.conv1d),
    "conv_transpose1d": (conv_transpose1d, TF.conv_transpose1d),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240229)


@functools.cache
def samples(name, dtype):
    """PyTorch's own sample inputs of a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hypothesis, for one, is nothing that clconv needs
        from torch.testing._internal.common_methods_invocations import op_db

    (op,) = (op for op in op_db if op.name == f"nn.functional.{name}")
    found = [*op.sample_inputs("cpu", dtype, requires_grad=True)]
    assert len(found) >= 10
    return found


def leaves(sample, dtype):
    """Leaves of their own with the values of a sample's tensors; None where it has no bias."""
    return [
        None if one is None else one.detach().to(dtype).clone().requires_grad_()
        for one in (sample.input, *sample.args)
    ]


def bounded(result, true, magnitude, terms):
    """Within the rounding bound of a sum of so many terms, and of its rounding to the dtype."""
    unit = torch.finfo(result.dtype).eps / 2
    if result.dtype is torch.float64:
        limit = 2 * testing.gamma(terms, np.float64) * magnitude  # torch's own sum is rounded too
    else:
        limit = testing.gamma(terms, np.float32) * magnitude
        if result.dtype is not torch.float32:
            limit = limit * (1 + unit) + unit * true.abs() + 2.0**-25
    assert bool(((result.double() - true).abs() <= limit).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_function
def test_results_and_gradients(first_runtime, name, dtype):
    ours, theirs = FUNCTIONS[name]
    found = samples(name, dtype)
    if dtype.itemsize == 2:  # whose kernels take long to build; the arguments are the same
        found = found[::8]
    for sample in found:
        tensors, exact = leaves(sample, dtype), leaves(sample, torch.float64)
        sizes = [None if t is None else t.detach().abs().requires_grad_() for t in exact]
        y = ours(*tensors, **sample.kwargs)
        true, size = theirs(*exact, **sample.kwargs), theirs(*sizes, **sample.kwargs)
        assert y.shape == true.shape
        assert y.dtype is dtype
        along = torch.randn_like(y)
        y.backward(along)
        true.backward(along.double())
        size.backward(along.double().abs())
        terms = max(tensors[0].numel(), tensors[1].numel(), y.numel()) + 1
        bounded(y, true, size, terms)
        for t, e, s in zip(tensors, exact, sizes, strict=True):
            if t is not None:
                bounded(t.grad, e.grad, s.grad, terms)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def in_both(name, transform):
    """For some samples what a transform finds of our function and of torch's, in float64."""
    found = samples(name, torch.float64)
    for sample in found[::8] if transform in BATCHES else found[::2]:  # each builds its kernels
        tensors = [t.detach() for t in leaves(sample, torch.float64) if t is not None]
        found = []
        for function in FUNCTIONS[name]:
            torch.manual_seed(1)
            found.append(transform(functools.partial(function, **sample.kwargs), tensors))
        yield found


def tangents(function, tensors):
    return jvp(function, tuple(tensors), tuple(map(torch.randn_like, tensors)))


def gradients_of_gradients(function, tensors):
    """Of what all first derivatives have to do with each other."""

    def penalty(*inner):
        first = grad(lambda *t: function(*t).sin().sum(), (*range(len(inner)),))(*inner)
        return sum((one.square() * torch.randn_like(one)).sum() for one in first)

    return grad(penalty, (*range(len(tensors)),))(*tensors)


def batch_of_samples(function, tensors):
    """The batch in the input alone: results, and gradients of each sample."""
    x, *others = tensors
    dims = (0, *(None for _ in others))
    batch = torch.stack([x, torch.randn_like(x)])

    def loss(*inner):
        return function(*inner).sin().sum()

    each = grad(loss, (*range(len(tensors)),))
    return vmap(function, dims)(batch, *others), vmap(each, dims)(batch, *others)


def batch_of_weights(function, tensors):
    """The batch in all but the input."""
    x, *others = tensors
    dims = (None, *(0 for _ in others))
    batches = [torch.stack([one, torch.randn_like(one)]) for one in others]

    def loss(*inner):
        return function(*inner).sin().sum()

    each = grad(loss, (*range(len(tensors)),))
    return vmap(function, dims)(x, *batches), vmap(each, dims)(x, *batches)


BATCHES = (batch_of_samples, batch_of_weights)  # which need kernels of other groups
TRANSFORMS = (tangents, gradients_of_gradients, *BATCHES)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: one.__name__)
@each_function
def test_transforms(first_runtime, name, transform):
    for ours, theirs in in_both(name, transform):
        close(ours, theirs)


@each_function
def test_fake_tensors(first_runtime, name):
    """Shapes, strides and dtypes of results and gradients, computing nothing."""
    ours, _ = FUNCTIONS[name]
    for sample in samples(name, torch.float32):
        launches = first_runtime.launches
        tensors, found = leaves(sample, torch.float32), []
        mode = FakeTensorMode()
        for context, given in (
            (mode, [None if t is None else mode.from_tensor(t) for t in tensors]),
            (nullcontext(), tensors),
        ):
            with context:
                y = ours(*given, **sample.kwargs)
                grads = torch.autograd.grad(y.sum(), [t for t in given if t is not None])
            found.append([(one.shape, one.stride(), one.dtype) for one in (y, *grads)])
            computed = first_runtime.launches > launches
            assert computed == (given is tensors)
        assert found[0] == found[1]
