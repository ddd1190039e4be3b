"""What works on a model works on it converted; and people can see what computes where."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import re
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as TF
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode

from clconv import ProblemError
from clconv.onnx import Backend
from clconv.torch import Conv1d, ConvTranspose1d, conv1d, convert, patched, report, revert, tune

SAME = "ignore:Using padding='same' with even kernel lengths"


class Own(nn.Conv1d):
    """A layer with an initialisation of its own."""

    def reset_parameters(self):
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self):
        return f"own, {super().extra_repr()}"


class OwnLazy(nn.LazyConv1d):
    cls_to_become = Own


class OwnTransposed(nn.ConvTranspose1d):
    __slots__ = ("note",)


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(TF.pad(x, (2, 0)))


class CausalUp(nn.ConvTranspose1d):
    def forward(self, x, output_size=None):
        return super().forward(x, output_size)[..., : -self.stride[0]]


class CausalTwice(Causal):
    """Has a second forward, above the first."""

    def forward(self, x, scale=1.0):
        return scale * super().forward(x)


class Alone(nn.Conv1d):
    def forward(self, x):
        return TF.conv1d(x, self.weight, self.bias)


class AloneAbove(Alone):
    def forward(self, x):
        return 2 * super().forward(x)


class Standardized(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240229)


def network():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same"),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.ConvTranspose1d(4, 2, 4, stride=2, groups=2),
        nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"),
    ).eval()


def both():
    """A model, and the same converted."""
    theirs = network()
    ours = copy.deepcopy(theirs)
    assert convert(ours) == 3
    return ours, theirs


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


X = torch.linspace(-1, 1, 24).view(1, 2, 12)

# convert and revert


def test_subclasses_without_a_forward_of_their_own(runtime):
    """They are layers like any other, and stay what they were."""
    theirs = nn.Sequential(Own(2, 4, 3), Own(4, 4, 3), OwnTransposed(4, 2, 3)).eval()
    ours = copy.deepcopy(theirs)
    ours[2].note = "kept"
    assert convert(ours) == 3
    assert convert(ours) == 0
    assert type(ours[0]) is type(ours[1])
    assert isinstance(ours[0], Own)
    assert isinstance(ours[0], Conv1d)
    assert isinstance(ours[2], OwnTransposed)
    assert isinstance(ours[2], ConvTranspose1d)
    assert ours[2].note == "kept"
    said = "Own(own, 2, 4, kernel_size=(3,), stride=(1,), backend=clconv)"
    assert repr(ours[0]) == said
    launches = runtime.launches
    close(ours(X), theirs(X))
    assert runtime.launches == launches + 3
    assert revert(ours) == 3
    assert [type(layer) for layer in ours] == [Own, Own, OwnTransposed]
    assert ours[2].note == "kept"
    close(ours(X), theirs(X))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_converted_model(runtime, name):
    model = nn.Sequential(
        Own(2, 4, 3), nn.Conv1d(4, 4, 3), OwnLazy(3, 3), nn.LazyConvTranspose1d(1, 2)
    )
    convert(model)
    copied = COPIES[name](model)
    assert [type(layer) for layer in copied] == [type(layer) for layer in model]
    model(X)
    copied.load_state_dict(model.state_dict())
    close(copied(X), model(X))
    again = COPIES[name](copied)
    assert isinstance(again[2], Own)
    assert [type(layer) for layer in again] == [type(layer) for layer in model]
    close(again(X), model(X))
    assert revert(again) == 4
    assert [type(layer) for layer in again] == [Own, nn.Conv1d, Own, nn.ConvTranspose1d]


def test_lazy_layers(runtime):
    """They become clconv's with their first input, which is computed with clconv already."""
    model = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyConvTranspose1d(2, 3), OwnLazy(2, 2))
    assert convert(model) == 3
    launches = runtime.launches
    y = model(X)
    assert runtime.launches == launches + 3
    assert type(model[0]) is Conv1d
    assert type(model[1]) is ConvTranspose1d
    assert isinstance(model[2], Own)
    assert isinstance(model[2], Conv1d)
    assert revert(model) == 3
    assert [type(layer) for layer in model] == [nn.Conv1d, nn.ConvTranspose1d, Own]
    close(model(X), y)


def test_a_lazy_layer_given_back_before_its_first_input(runtime):
    model = nn.Sequential(nn.LazyConv1d(4, 3))
    convert(model)
    assert revert(model) == 1
    model(X)
    assert type(model[0]) is nn.Conv1d


def test_revert_parametrized_layers(runtime):
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(2, 4, 3)), parametrizations.weight_norm(Own(4, 2, 3))
    )
    true = model(X)
    assert convert(model) == 2
    assert isinstance(model[1], Own)
    close(model(X), true)
    close(copy.deepcopy(model)(X), true)
    assert revert(model) == 2
    assert not any(isinstance(layer, Conv1d) for layer in model)
    close(model(X), true)
    assert convert(model) == 2
    for layer, of in zip(model, (Conv1d, Own), strict=True):
        parametrize.remove_parametrizations(layer, "weight")
        assert isinstance(layer, of)
        assert isinstance(layer, Conv1d)
    close(model(X), true)
    assert revert(model) == 2
    assert [type(layer) for layer in model] == [nn.Conv1d, Own]


def test_what_is_left_and_why(runtime, caplog):
    """Not converted, and said; the model computes as before."""
    exchanged = nn.Conv1d(2, 2, 1)
    exchanged.forward = lambda x: x
    model = nn.ModuleDict({
        "plain": nn.Conv1d(2, 2, 1),
        "alone": Alone(2, 2, 3),
        "above": AloneAbove(2, 2, 3),
        "standardized": Standardized(2, 2, 1),
        "parametrized": parametrizations.weight_norm(Alone(2, 2, 3)),
        "exchanged": exchanged,
        "complex": nn.Conv1d(2, 2, 1, dtype=torch.complex64),
        "scripted": nn.Identity(),
    })  # fmt: skip
    before = {name: type(layer) for name, layer in model.items()}
    with caplog.at_level(logging.INFO, "clconv.torch"):
        assert convert(model) == 1
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("1 of 7 convolutions converted to clconv")
    assert said[1:] == [
        "alone is left to PyTorch: Alone has a forward of its own",
        "above is left to PyTorch: AloneAbove has a forward of its own",
        "standardized is left to PyTorch: Standardized has a _conv_forward of its own",
        "parametrized is left to PyTorch: Alone has a forward of its own",
        "exchanged is left to PyTorch: forward is exchanged on the layer itself",
        "complex is left to PyTorch: a parameter has dtype torch.complex64, expected "
        "torch.float32, torch.float16, torch.float64, torch.bfloat16",
    ]
    assert {k: v for k, v in before.items() if k != "plain"} == {
        name: type(layer) for name, layer in model.items() if name != "plain"
    }
    model["complex"](torch.ones(1, 2, 4, dtype=torch.complex64))
    caplog.clear()
    with caplog.at_level(logging.INFO, "clconv.torch"):
        assert revert(model, verbose=True) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "plain computes on PyTorch: Conv1d(2, 2, kernel_size=(1,), stride=(1,))",
        "1 convolutions given back to PyTorch",
    ]


@pytest.mark.parametrize("wrap", [lambda layer: layer, parametrizations.weight_norm])
def test_subclasses_that_go_on_to_their_base(runtime, wrap):
    """Layers that pad, crop or scale, and leave the convolution to torch.nn's forward."""
    layers = Causal(2, 4, 3), CausalUp(4, 2, 4, stride=2), CausalTwice(2, 2, 3)
    model = nn.Sequential(*map(wrap, layers))
    true = model(X)
    assert convert(model) == 3
    launches = runtime.launches
    close(model(X), true)
    assert runtime.launches == launches + 3
    for layer, of in zip(model, (Causal, CausalUp, CausalTwice), strict=True):
        assert isinstance(layer, of)
    if wrap is not parametrizations.weight_norm:  # torch cannot pickle those
        again = pickle.loads(pickle.dumps(model))
        assert [one.where for one in report(again, X)] == ["clconv"] * 3
        close(again(X), true)
    assert revert(model) == 3
    close(model(X), true)
    assert not any(isinstance(layer, (Conv1d, ConvTranspose1d)) for layer in model)


def test_verbose_names_what_was_converted(runtime, caplog):
    with caplog.at_level(logging.INFO, "clconv.torch"):
        convert(nn.Sequential(nn.Conv1d(2, 2, 1)), verbose=True)
    expected = "0 computes on clconv: Conv1d(2, 2, kernel_size=(1,), stride=(1,), backend=clconv)"
    assert caplog.records[-1].getMessage() == expected


def test_subclasses_of_clconv_s_own_layers_stay(runtime):
    class Mine(Conv1d):
        pass

    model = nn.Sequential(Mine(2, 2, 3))
    assert convert(model) == revert(model) == 0
    assert type(model[0]) is Mine
    with pytest.raises(TypeError, match=r"model is a int, expected a torch\.nn\.Module"):
        revert(3)


# report and tune


class Mixed(nn.Module):
    """Layers that are called, a layer whose weight alone is used, one that isn't used."""

    def __init__(self):
        super().__init__()
        self.called = nn.Conv1d(2, 4, 3)
        self.borrowed = nn.Conv1d(4, 4, 3, groups=4)
        self.idle = nn.Conv1d(1, 1, 1)
        self.alone = Alone(4, 4, 3)
        self.up = nn.ConvTranspose1d(4, 2, 2)
        self.dropout = nn.Dropout()

    def forward(self, x, *, scale=1.0):
        y = TF.conv1d(self.called(x), self.borrowed.weight, groups=4)
        y = self.up(self.dropout(self.alone(y)))
        return scale * conv1d(y, torch.ones(1, 2, 1))


def test_report(runtime):
    model = Mixed()
    found = report(model, X)
    called = {(one.layer, one.where) for one in found}
    assert ("called", "PyTorch") in called
    assert found[0].why == "not converted: clconv.torch.convert(model) does"
    convert(model)
    found = report(model, {"x": X, "scale": 2.0})
    assert model.training
    name = runtime.info.name
    assert [(one.layer, one.function, one.where) for one in found] == [
        ("called", "clconv.torch.conv1d", "clconv"),
        ("borrowed", "torch.nn.functional.conv1d", "PyTorch"),
        ("alone", "torch.nn.functional.conv1d", "PyTorch"),
        ("up", "clconv.torch.conv_transpose1d", "clconv"),
        ("", "clconv.torch.conv1d", "clconv"),
        ("idle", "Conv1d", "nowhere"),
    ]
    assert found[0].why.endswith(f" on {name}, by the cost model")
    assert (found[0].input_shape, found[0].weight_shape) == ((1, 2, 12), (4, 2, 3))
    assert found[1].why == "torch.nn.functional.conv1d called directly"
    assert found[2].why == "Alone has a forward of its own"
    assert found[5].why == "the model did not call it"
    lines = repr(found).splitlines()
    assert len(lines) == 6
    direct = "computed by PyTorch: torch.nn.functional.conv1d called directly"
    assert lines[1] == f"borrowed  torch.nn.functional.conv1d (1, 4, 10) * (4, 1, 3)  {direct}"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Functional(nn.Module):
    """A model without layers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-4, 5, (4, 3, 5)).float())

    def forward(self, x):
        y = TF.conv1d(input=x, weight=self.weight, stride=2)
        return TF.conv_transpose1d(y, self.weight, None, 2)


def test_patched_functions(runtime):
    """Calls that no layer shows, with gradients, under torch.func and compiled; others, and those
    after the block, are PyTorch's."""
    model, x = Functional(), torch.randint(-4, 5, (2, 3, 50)).float()
    expected = model(x)
    with patched():
        y = model(x)
        assert torch.equal(y, expected)
        assert [one.where for one in report(model, x)] == ["clconv", "clconv"]
        loss = torch.func.grad(lambda weight: TF.conv1d(x, weight).sum())
        of_weight = loss(model.weight)
        assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)
        ones = torch.ones(1, 1, 4, dtype=torch.complex64)
        assert torch.equal(TF.conv1d(ones, ones), 4 * ones[:, :, :1])  # which clconv has not
    assert torch.equal(of_weight, torch.func.grad(lambda w: TF.conv1d(x, w).sum())(model.weight))
    gradients = [torch.autograd.grad(each.sum(), model.weight)[0] for each in (y, model(x))]
    assert torch.equal(*gradients)
    assert [one.where for one in report(model, x)] == ["PyTorch", "PyTorch"]


def test_report_of_a_model_that_raises(runtime):
    """Nothing of the watching is left."""
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.Linear(3, 3))
    convert(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            report(model, X)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.overrides._get_current_function_mode() is None
    with pytest.raises(TypeError, match="model is a int"):
        report(3, X)


def test_report_says_what_is_tuned(runtime):
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv1d(3, 3, 3))
    convert(model)
    model.eval()
    tune(model[0], X, seconds=1e-9)
    first, second = report(model, X)
    assert first.why.endswith(", tuned")
    assert second.why.endswith(", by the cost model")


def test_tune_takes_keyword_arguments(runtime):
    """A mapping, as Hugging Face's batches are."""
    from collections import UserDict

    model = Mixed().eval()
    convert(model)
    found = tune(model, UserDict(x=X[..., :9], scale=0.5), seconds=1e-9)
    assert len(found) == 3
    assert isinstance(found, list)


def test_tune_says_what_it_gained(runtime):
    """A line for each pass, also where there was time for one candidate alone."""
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(3, 2, 4))
    convert(model)
    found = tune(model, X, seconds=1e-9)
    lines = repr(found).splitlines()
    assert len(lines) == len(found) == 6
    length = X.shape[-1]
    words = rf"forward  \({X.shape[0]}, 2, {length}\) \* \(3, 2, 3\)  \w+, \d+\.\d us, "
    words += r"1\.00 times as fast as untuned, 1 of \d+ candidates timed"
    assert re.fullmatch(words, lines[0])
    assert {line.split("  ")[0] for line in lines} == {
        "forward", "input gradient", "weight gradient",
    }  # fmt: skip


def test_tune_where_clconv_computes_nothing(runtime):
    class Borrowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(2, 2, 3)

        def forward(self, x):
            return TF.conv1d(x, self.layer.weight)

    model = Borrowing()
    assert convert(model) == 1
    with pytest.raises(ProblemError, match=r"clconv\.torch\.report\(model, inputs\) says why"):
        tune(model, X)


# PyTorch's tools


def test_symbolic_trace(runtime):
    ours, theirs = both()
    traced = torch.fx.symbolic_trace(ours)
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert called.count(conv1d) == 2
    launches = runtime.launches
    close(traced(X), theirs(X))
    assert runtime.launches > launches


@pytest.mark.parametrize("layers", [["0", "1"], ["0", "1", "2"]])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
def test_fuse_modules(runtime, layers, training):
    fuse = (
        torch.ao.quantization.fuse_modules_qat if training else torch.ao.quantization.fuse_modules
    )
    ours, theirs = (fuse(model.train(training), layers) for model in both())
    for one, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert type(one).__name__ == type(other).__name__
    launches = runtime.launches
    close(ours(X), theirs(X))
    assert runtime.launches == launches + 3


def test_fuse_a_layer_with_its_activation(runtime):
    ours = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU())
    theirs = copy.deepcopy(ours)
    convert(ours)
    fused = torch.ao.quantization.fuse_modules(ours, ["0", "1"])
    assert isinstance(fused[0], torch.ao.nn.intrinsic.ConvReLU1d)
    assert type(fused[0][0]) is Conv1d
    close(fused(X), theirs(X))


@pytest.mark.parametrize("shape", [(1, 2, 12), (3, 2, 12), (2, 12)])
def test_operations_are_counted(runtime, shape):
    """As many as PyTorch counts of its own, forward and backward."""
    counts = []
    for model in both():
        layers = model if len(shape) == 3 else nn.Sequential(model[0], model[3])
        with FlopCounterMode(display=False) as counter:
            y = layers(torch.ones(shape, requires_grad=True))
            forward = counter.get_total_flops()
            y.sum().backward()
        counts.append((forward, counter.get_total_flops()))
    assert counts[0] == counts[1]
    assert counts[0][0] > 0


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_torch_export_keeps_the_operators(runtime):
    """For any batch and length, saved and loaded, and decomposed."""
    ours, theirs = both()
    sizes = {0: torch.export.Dim("batch", max=99), 2: torch.export.Dim("length", min=4, max=999)}
    program = torch.export.export(ours, (X.expand(2, 2, 12),), dynamic_shapes=(sizes,))
    operator = torch.ops.clconv.convolution.default
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    more = torch.linspace(-1, 1, 180).view(3, 2, 30)
    for one in (torch.export.load(file), program.run_decompositions()):
        assert [node.target for node in one.graph.nodes].count(operator) == 3
        close(one.module()(more), theirs(more))


def exported(model, way):
    """A model as ONNX has it."""
    if way == "torchscript":
        file = io.BytesIO()
        torch.onnx.export(model, (X,), file, dynamo=False)
        return onnx.load_from_string(file.getvalue())
    given = torch.export.export(model, (X,)) if way == "program" else model
    return torch.onnx.export(given, (X,), dynamo=True, verbose=False).model_proto


@pytest.mark.parametrize("way", ["torchscript", "dynamo", "program"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(runtime, way):
    """Nodes that every runtime knows, by both exporters, without an argument."""
    ours, theirs = both()
    proto = exported(ours, way)
    onnx.checker.check_model(proto)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Conv") == 2
    assert kinds.count("ConvTranspose") == 1
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    (y,) = Backend.run_model(proto, [X.numpy()])
    np.testing.assert_allclose(y, theirs(X).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.trace")
def test_traced_and_given_back_for_torchscript(runtime):
    """torch.jit.trace keeps the operators; torch.jit.script wants PyTorch's layers."""
    ours, theirs = both()
    close(torch.jit.trace(ours, (X,))(X), theirs(X))
    assert revert(ours) == 3
    scripted = torch.jit.script(ours)
    close(scripted(X), theirs(X))
    assert convert(scripted) == 0
    assert {one.why for one in report(scripted, X)} == {"compiled by TorchScript"}


def test_tensor_subclasses_and_modes(runtime):
    """Both functions can be overridden as PyTorch's own."""

    class Logged(torch.Tensor):
        seen: ClassVar[list] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    y = conv1d(X.as_subclass(Logged), torch.ones(1, 2, 3))
    assert Logged.seen[0] is conv1d
    assert type(y) is Logged
    close(y.as_subclass(torch.Tensor), TF.conv1d(X, torch.ones(1, 2, 3)))
