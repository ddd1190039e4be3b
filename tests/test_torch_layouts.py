"""Transposed tensors: read in place, and results that lie as the input does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as TF
from torch import nn

from clconv.calls.draft import Draft
from clconv.torch import conv1d, conv_transpose1d, convert

LAYER = (1, [1, 1], 1, 1, False, 0)


def whole(*shape):
    return torch.randint(-4, 5, shape).float()


@pytest.fixture
def copies(monkeypatch):
    """What recipes copy, as they are made."""
    made = []
    real = Draft.recipe

    def kept(self):
        recipe = real(self)
        made.append(recipe.copies)
        return recipe

    monkeypatch.setattr(Draft, "recipe", kept)
    return made


def channels_last(x):
    return x.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("groups", [1, 32])
def test_results_and_gradients_lie_as_the_input(cpu_runtime, copies, groups):
    """Nothing is copied but for the weight gradient, and what is left of a tensor may be wider."""
    weight = whole(32, 32 // groups, 3).requires_grad_()
    wide = whole(2, 50, 64)[..., :32]
    x = (wide if groups > 1 else wide.contiguous()).transpose(1, 2).requires_grad_()
    y, right = (f(x, weight, padding=1, groups=groups) for f in (conv1d, TF.conv1d))
    assert torch.equal(y, right)
    assert channels_last(y)
    assert copies[-1] == ()
    grad = whole(*y.shape)
    found, expected = (torch.autograd.grad(one, (x, weight), grad) for one in (y, right))
    assert channels_last(found[0])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1].round(), expected[1])  # by a transform, perhaps
    rows = conv1d(x.detach().contiguous(), weight.detach(), padding=1, groups=groups)
    assert rows.is_contiguous()


def test_transposed_convolution(cpu_runtime, copies):
    x, weight = whole(2, 20, 6).transpose(1, 2), whole(6, 5, 4)
    y = conv_transpose1d(x, weight, stride=2)
    assert torch.equal(y, TF.conv_transpose1d(x, weight, stride=2))
    assert channels_last(y)
    assert copies[-1] == ()


def test_what_has_one_channel_or_position_lies_in_rows(first_runtime):
    for shape in ((2, 9, 1), (2, 1, 3)):
        x = whole(*shape).transpose(1, 2)
        y = conv1d(x, whole(4, shape[2], 1))
        assert y.is_contiguous()


def test_unbatched_and_bfloat16(first_runtime):
    x, weight = whole(30, 8).T, whole(4, 8, 3)
    y = conv1d(x, weight)
    assert torch.equal(y, TF.conv1d(x, weight))
    assert y.T.is_contiguous()
    y = conv1d(x[None].bfloat16(), weight.bfloat16())
    assert channels_last(y)


def test_shapes_of_tensors_without_values(first_runtime):
    """The strides that the operators say are those of the results."""
    x, weight = whole(2, 9, 4).transpose(1, 2), whole(6, 4, 3)
    operators = torch.ops.clconv
    torch.library.opcheck(operators.convolution.default, (x, weight, None, *LAYER))
    inputs = x, weight, whole(2, 6, 9), [True, True, False], *LAYER
    only = "test_faketensor"
    torch.library.opcheck(operators.convolution_backward.default, inputs, test_utils=only)


def test_transposes_around_layers_in_a_compiled_graph(cpu_runtime, copies):
    """As speech models with a layer norm have them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(8, 8, 3, padding=1), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))

    block = Block()
    x = torch.randn(2, 30, 8)
    with torch.no_grad():
        right = block(x)
        assert convert(block) == 1
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
        for one in (block, compiled):
            torch.testing.assert_close(one(x), right)
        torch.testing.assert_close(compiled(x[:, :20]), block(x[:, :20]))
        torch._dynamo.reset()
    assert set(copies) == {()}
