"""Every transform of PyTorch finds the derivatives of torch's own functions, or raises."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as TF
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

from clconv.torch import Conv1d, conv1d, conv_transpose1d

# PyTorch's own, of its linearize.
pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")


@pytest.fixture
def runtime(first_runtime):
    """Derivatives are made of the operators, which are tested on every device."""
    return first_runtime


# Ours, torch's, and the shapes of x, weight and bias.
CASES = {
    "convolution": (
        lambda f: lambda x, w, b=None: f(x, w, b, 2, 1, groups=2, dilation=2),
        (conv1d, TF.conv1d),
        ((2, 4, 7), (2, 2, 3), (2,)),
    ),
    "unbatched": (
        lambda f: lambda x, w, b=None: f(x, w, b, padding="same"),
        (conv1d, TF.conv1d),
        ((2, 5), (3, 2, 3), (3,)),
    ),
    "transposed": (
        lambda f: lambda x, w, b=None: f(x, w, b, 2, 1, 1, 2, 2),
        (conv_transpose1d, TF.conv_transpose1d),
        ((2, 4, 3), (4, 1, 3), (2,)),
    ),
    "transposed, unbatched": (
        lambda f: lambda x, w, b=None: f(x, w, b, 3, 0, 1),
        (conv_transpose1d, TF.conv_transpose1d),
        ((2, 3), (2, 2, 2), (2,)),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240229)


def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64)


def case(name):
    """Our function, torch's, and float64 tensors for them."""
    with_options, functions, shapes = CASES[name]
    ours, theirs = (with_options(f) for f in functions)
    return ours, theirs, tuple(doubles(*shape) for shape in shapes)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def of(function, tensors, places):
    """A function of some of the tensors."""

    def called(*some):
        given = dict(zip(places, some, strict=True))
        return function(*(given.get(i, t) for i, t in enumerate(tensors)))

    return called


SOME = ((0,), (1,), (2,), (0, 1), (0, 1, 2))


@every_case
def test_tangents(runtime, name):
    """Of x, weight and bias, alone and together, by torch.func and by hand."""
    ours, theirs, tensors = case(name)
    tangents = tuple(torch.randn_like(t) for t in tensors)
    for places in SOME:
        primals, along = (tuple(all_[i] for i in places) for all_ in (tensors, tangents))
        true = jvp(of(theirs, tensors, places), primals, along)
        close(jvp(of(ours, tensors, places), primals, along), true)
        assert true[1].abs().max() > 0
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(*both) for both in zip(primals, along, strict=True)]
            found = forward_ad.unpack_dual(of(ours, tensors, places)(*duals))
            close((found.primal, found.tangent), true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tangents_of_other_dtypes(runtime, dtype):
    x, weight = (torch.randint(-4, 5, shape).to(dtype) for shape in ((2, 4, 9), (6, 4, 3)))
    y, tangent = jvp(conv1d, (x, weight), (weight[:2, :, :1].expand(2, 4, 9), weight))
    assert y.dtype is tangent.dtype is dtype
    exact = [t.double() for t in (x, weight, weight[:2, :, :1].expand(2, 4, 9))]
    _, true = jvp(TF.conv1d, tuple(exact[:2]), (exact[2], exact[1]))
    torch.testing.assert_close(tangent.double(), true, rtol=2**-6, atol=0)


@every_case
def test_gradcheck_of_both_modes(runtime, name):
    ours, _, tensors = case(name)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(
        ours, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        ours, leaves, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True
    )


@pytest.mark.one_of(2)
@every_case
@pytest.mark.parametrize("transform", [jacfwd, jacrev, hessian, grad], ids=lambda f: f.__name__)
def test_transforms(runtime, name, transform):
    ours, theirs, tensors = case(name)
    scalar = transform in (grad, hessian)
    found = []
    for function in (ours, theirs):

        def loss(*t, function=function):
            y = function(*t).sin()
            return y.sum() if scalar else y

        found.append(transform(loss, (0, 1, 2))(*tensors))
    close(*found)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(conv1d, TF.conv1d), (conv_transpose1d, TF.conv_transpose1d)]
)
def test_third_derivatives(runtime, ours, theirs):
    """Levels of both modes, each after each, through inputs that are functions themselves."""
    x, weight, at = doubles(1, 2, 5), doubles(2, 2, 3), doubles(2)

    def function(convolution):
        def loss(s):
            tensors = (s[0] * x).sin(), (weight * s[1]).exp(), weight[:, 0, 0] * s[0]
            return convolution(*tensors, 2, 1).sin().sum()

        return loss

    true = jacrev(jacrev(jacrev(function(theirs))))(at)
    for one, other in itertools.permutations((jacfwd, jacrev)):
        close(one(one(one(function(ours))))(at), true)
        close(one(other(one(function(ours))))(at), true)


@every_case
def test_vjp_and_linearize(runtime, name):
    ours, theirs, tensors = case(name)
    (y, back), (_, true_back) = vjp(ours, *tensors), vjp(theirs, *tensors)
    along = torch.randn_like(y)
    close(back(along), true_back(along))
    (_, push), (_, true_push) = linearize(ours, *tensors), linearize(theirs, *tensors)
    close(push(*tensors), true_push(*tensors))


@every_case
def test_vmap(runtime, name):
    """Over each of the tensors, at each place, and through gradients either way round."""
    ours, theirs, tensors = case(name)
    places = [(0, None, None), (None, -1, None), (None, None, 1), (1, None, 0), (-1, 1, None),
              (0, 1, 1), (None, 0, 0)]  # fmt: skip
    for dims in places:
        batch = [
            t if dim is None else torch.stack([t, 2 * t.flip(0), t - 1], dim)
            for t, dim in zip(tensors, dims, strict=True)
        ]
        found = []
        for function in (ours, theirs):

            def loss(*t, function=function):
                return function(*t).sin().sum()

            def summed(*t, function=function, dims=dims):
                return vmap(function, dims)(*t).sin().sum()

            found.append((
                vmap(function, dims)(*batch),
                vmap(function, dims, out_dims=1)(*batch),
                vmap(grad(loss, (0, 1, 2)), dims)(*batch),
                grad(summed, (0, 1, 2))(*batch),
            ))  # fmt: skip
        close(*found)


def test_vmap_of_vmap(runtime):
    x, weight = doubles(2, 3, 4, 7), doubles(5, 2, 4, 3)
    both = [vmap(vmap(f, (0, None)), (None, 0))(x, weight) for f in (conv1d, TF.conv1d)]
    close(*both)


def test_an_ensemble(runtime):
    """functional_call with stacked parameters, as torch.func's guide does."""
    layers = [nn.Conv1d(4, 6, 3).double() for _ in range(3)]
    ours = Conv1d(4, 6, 3).double()
    x = doubles(2, 4, 9)
    stacked = {
        name: torch.stack([dict(layer.named_parameters())[name] for layer in layers])
        for name, _ in ours.named_parameters()
    }
    y = vmap(lambda p: functional_call(ours, p, (x,)))(stacked)
    close(y, torch.stack([layer(x) for layer in layers]))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(runtime, reentrant):
    x, weight = doubles(2, 4, 9).requires_grad_(), doubles(6, 4, 3).requires_grad_()
    checkpoint(lambda a: conv1d(a, weight).sin(), x, use_reentrant=reentrant).sum().backward()
    close((x.grad, weight.grad), torch.autograd.grad(TF.conv1d(x, weight).sin().sum(), (x, weight)))


def tangent_by_hand(function):
    def tangent(x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x))).tangent

    return tangent


COMPILED = {
    "jvp": lambda f: lambda x: jvp(f, (x,), (x,))[1],
    "dual numbers": tangent_by_hand,
    "jacfwd": jacfwd,
    "hessian": lambda f: hessian(lambda x: f(x).sum()),
    "grad": lambda f: grad(lambda x: f(x).sum()),
    "vmap": vmap,
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", COMPILED)
def test_transforms_in_a_compiled_graph(runtime, name, backend):
    weight, bias = doubles(3, 2, 3), doubles(3)
    x = doubles(1, 2, 6)
    ours, theirs = (
        COMPILED[name](lambda a, f=f: f(a, weight, bias).sin()) for f in (conv1d, TF.conv1d)
    )
    torch._dynamo.reset()
    close(torch.compile(ours, fullgraph=True, backend=backend)(x), theirs(x))
    torch._dynamo.reset()


def test_the_second_derivative_of_bfloat16(runtime):
    """A gradient penalty, each step rounded once, as torch's."""
    found = []
    for function, dtype in ((conv1d, torch.bfloat16), (TF.conv1d, torch.float64)):
        torch.manual_seed(1)
        x, weight = (
            torch.randint(-2, 3, shape).to(dtype).requires_grad_()
            for shape in ((2, 3, 8), (3, 3, 3))
        )
        y = function(x, weight)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        first.square().sum().backward()
        found.append(weight.grad.double())
    torch.testing.assert_close(*found, rtol=2**-6, atol=0)


def test_operators_called_directly_refuse_what_they_cannot_compute(runtime):
    x, weight = doubles(2, 4, 9), doubles(6, 4, 3)
    layer = 1, [0, 0], 1, 1, False, 0
    convolution = torch.ops.clconv.convolution
    with pytest.raises(TypeError, match=r"x has dtype torch\.int32"):
        convolution(x.int(), weight.int(), None, *layer)
    with pytest.raises(TypeError, match=r"weight has dtype torch\.float32, expected that of x"):
        convolution(x.bfloat16(), weight.float(), None, *layer)
    backward = torch.ops.clconv.convolution_backward
    with pytest.raises(TypeError, match=r"grad_output has dtype torch\.float32"):
        backward(x, weight, torch.ones(2, 6, 7), [True] * 3, *layer)
