"""What PyTorch's users do with a model goes on working when it is converted, feature by feature."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, functionalize, grad, vmap
from torch.nn.utils import parametrizations, prune
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from clconv import ProblemError
from clconv.torch import Conv1d, ConvTranspose1d, conv1d, conv_transpose1d, convert, revert

X = torch.linspace(-1, 1, 48).view(2, 2, 12)


@pytest.fixture
def runtime(first_runtime):
    """Nothing here depends on the device: test_torch.py has the operators on every one."""
    return first_runtime


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240229)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def network():
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.ConvTranspose1d(4, 2, 3))


def both(make=network):
    """A model, and another one with the same parameters and buffers, converted."""
    theirs, ours = make(), make()
    ours.load_state_dict(theirs.state_dict())
    assert convert(ours) == 2
    return ours, theirs


def trained_alike(ours, theirs, x=X):
    """The results and the gradients of all parameters."""
    y, true = ours(x), theirs(x)
    close(y, true)
    y.square().sum().backward()
    true.square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(one.grad, other.grad)
        assert other.grad.abs().max() > 0


# What sets a layer's weight


def old_weight_norm():
    return nn.Sequential(
        torch.nn.utils.weight_norm(nn.Conv1d(2, 4, 3)),
        torch.nn.utils.weight_norm(nn.ConvTranspose1d(4, 2, 3)),
    )


def old_spectral_norm():
    return nn.Sequential(
        torch.nn.utils.spectral_norm(nn.Conv1d(2, 4, 3)),
        torch.nn.utils.spectral_norm(nn.ConvTranspose1d(4, 2, 3)),
    )


def parametrized():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv1d(2, 4, 3)),
        parametrizations.orthogonal(nn.ConvTranspose1d(4, 2, 3)),
    )


def pruned():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ConvTranspose1d(4, 2, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.ln_structured(model[1], "weight", 0.5, n=2, dim=0)
    return model


REPARAMETRIZED = {
    old_weight_norm: torch.nn.utils.remove_weight_norm,
    old_spectral_norm: torch.nn.utils.remove_spectral_norm,
    parametrized: lambda layer: nn.utils.parametrize.remove_parametrizations(layer, "weight"),
    pruned: lambda layer: prune.remove(layer, "weight"),
}


@pytest.mark.parametrize("make", REPARAMETRIZED, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm. is deprecated")
def test_what_sets_weights(runtime, make):
    """Before and after it is removed, and given back."""
    ours, theirs = both(make)
    launches = runtime.launches
    trained_alike(ours, theirs)
    assert runtime.launches >= launches + 6
    ours.eval()
    y = ours(X)
    for layer in ours:
        REPARAMETRIZED[make](layer)
    close(ours(X), y)
    assert revert(ours) == 2
    assert [type(layer) for layer in ours] == [nn.Conv1d, nn.ConvTranspose1d]
    close(ours(X), y)


def test_pruning_a_converted_model(runtime):
    ours, theirs = both()
    for model in (ours, theirs):
        prune.l1_unstructured(model[0], "weight", 0.5)
    trained_alike(ours, theirs)


# torch.func


def per_sample(model, x):
    """The gradients of each sample, as torch.func's guide has it."""
    parameters = {name: one.detach() for name, one in model.named_parameters()}

    def loss(parameters, sample):
        return functional_call(model, parameters, (sample[None],)).square().sum()

    return vmap(grad(loss), (None, 0))(parameters, x)


def test_gradients_of_each_sample(runtime):
    """By vmap of grad: one launch a pass, however many samples there are."""
    ours, theirs = both()
    counts = []
    for samples in (3, 6):
        x = torch.randn(samples, 2, 12)
        launches = runtime.launches
        found = per_sample(ours, x)
        counts.append(runtime.launches - launches)
        for name, one in per_sample(theirs, x).items():
            assert one.shape[0] == samples
            close(found[name], one)
    assert counts[0] == counts[1]


def test_gradients_of_each_sample_by_hooks(runtime):
    """As libraries for differential privacy find them: from what goes into a layer and the
    gradients that come back to it."""
    ours, theirs = both()
    seen, found = {}, {}

    def forward(layer, inputs, output):
        seen[layer] = inputs[0].detach()

    def backward(layer, _, grads):
        windows = seen[layer].unfold(2, layer.kernel_size[0], 1)
        found[layer] = torch.einsum("nclk,nol->nock", windows, grads[0])

    ours[0].register_forward_hook(forward)
    ours[0].register_full_backward_hook(backward)
    ours(X.clone().requires_grad_()).square().sum().backward()
    close(found[ours[0]], per_sample(theirs, X)["0.weight"])
    close(found[ours[0]].sum(0), ours[0].weight.grad)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_of_each_sample_by_expanded_weights(runtime, reduction):
    """torch.nn.utils', in as many launches for any batch; PyTorch has none for the second layer."""
    ours, theirs = both()
    counts = []
    for samples in (3, 6):
        x = torch.randn(samples, 2, 12, requires_grad=True)
        launches = runtime.launches
        y = call_for_per_sample_grads(ours, loss_reduction=reduction)(x)
        (y.square().sum() / (1 if reduction == "sum" else samples)).backward()
        counts.append(runtime.launches - launches)
        for name, one in per_sample(theirs, x.detach()).items():
            parameter = ours.get_parameter(name)
            close(parameter.grad_sample, one)
            assert parameter.grad is None
            del parameter.grad_sample
        true = x.detach().requires_grad_()
        (theirs(true).square().sum() / (1 if reduction == "sum" else samples)).backward()
        close(x.grad, true.grad)
    assert counts[0] == counts[1]
    with pytest.raises(ProblemError, match=r"input has shape \(2, 12\), expected \(N, C, L\)"):
        call_for_per_sample_grads(ours, batch_size=2)(X[0])


def test_batches_are_one_call(runtime, monkeypatch):
    """Of an operator: what samples share is not copied for each."""
    shapes = []
    called = torch.ops.clconv.convolution_backward

    def watched(x, weight, *rest):
        shapes.append((x.untyped_storage().nbytes(), weight.untyped_storage().nbytes()))
        return called(x, weight, *rest)

    monkeypatch.setattr(torch.ops.clconv, "convolution_backward", watched)
    x, weight = torch.randn(5, 2, 9), torch.randn(4, 2, 3)
    of_weight = grad(lambda w, x: conv1d(x, w).square().sum())
    found = vmap(of_weight, (None, 0))(weight, x)
    close(found, torch.stack([of_weight(weight, one) for one in x]))
    assert shapes == [(x.nbytes, 4)]  # all that is read of the weight is its shape
    shapes.clear()
    weights = torch.randn(5, 4, 2, 3)
    found = vmap(of_weight, (0, None))(weights, x)
    close(found, torch.stack([of_weight(one, x) for one in weights]))
    assert shapes == [(x.nbytes, 4)]  # more output channels: x is not repeated


def test_functionalize(runtime):
    ours, theirs = both()
    close(functionalize(ours)(X), theirs(X))


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(runtime, dtype):
    """Results, and which dtypes there are, as with PyTorch's layers; whatever goes in."""
    ours, theirs = both()
    for x in (X, X.to(dtype)):
        found = []
        for model in (ours, theirs):
            model.zero_grad()
            with torch.autocast("cpu", dtype):
                y = model(x)
                with torch.autocast("cpu", enabled=False):
                    plain = model[0](x.float())
            y.float().square().sum().backward()
            found.append([y, plain, *(one.grad for one in model.parameters())])
        assert found[0][0].dtype is dtype
        assert found[0][1].dtype is found[0][2].dtype is torch.float32
        torch.testing.assert_close(*found, rtol=0.03, atol=0.03)


def test_scaled_gradients(runtime):
    """GradScaler, whose steps are those without it."""
    ours, theirs = both()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for model in (ours, theirs):
        steps = torch.optim.SGD(model.parameters(), lr=0.01)
        loss = model(X).square().sum()
        if model is ours:
            scaler.scale(loss).backward()
            scaler.step(steps)
            scaler.update()
        else:
            loss.backward()
            steps.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(one, other)


# Autograd's own


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_saved_tensors(runtime):
    """They can be packed, as for offloading, and anomalies found."""
    ours, theirs = both()
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.clone()

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one),
        torch.autograd.detect_anomaly(check_nan=True),
    ):
        trained_alike(ours, theirs)
    assert packed.count((4, 2, 3)) == 2 * 2  # in each of the models two weights of this shape
    with torch.autograd.graph.save_on_cpu(), torch.inference_mode():
        close(ours(X), theirs(X))


# Where parameters come from


def test_parameters_of_meta_models(runtime):
    """Made without memory, converted, then filled in one of two ways."""
    theirs = network()
    for fill in ("assign", "to_empty"):
        with torch.device("meta"):
            ours = network()
        assert convert(ours) == 2
        if fill == "to_empty":
            ours.to_empty(device="cpu")
        ours.load_state_dict(theirs.state_dict(), assign=fill == "assign")
        close(ours(X), theirs(X))


def test_averaged_models_and_shared_memory(runtime):
    ours, theirs = both()
    averaged = torch.optim.swa_utils.AveragedModel(ours)
    averaged.update_parameters(ours)
    assert isinstance(averaged.module[0], Conv1d)
    close(averaged(X), theirs(X))
    close(ours.share_memory()(X), theirs(X))


# Compilers


def test_inductor(runtime, monkeypatch):
    """torch.compile's default, in one graph, forward and backward, for each length; also in
    somebody's CI, where Inductor asserts more."""
    monkeypatch.setenv("CI", "1")
    # A graph that is kept from before is not looked at again.
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    monkeypatch.setattr(torch._inductor.config.cpp, "simdlen", 1)  # compiles no trial of vectors
    ours, theirs = both()
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=True)
    launches = runtime.launches
    for length in (12, 17):
        ours.zero_grad()
        theirs.zero_grad()
        trained_alike(compiled, theirs, torch.linspace(-1, 1, 4 * length).view(2, 2, length))
    assert runtime.launches >= launches + 2 * 6
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit")
def test_a_trace_is_saved_loaded_and_frozen(runtime):
    ours, theirs = both()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(ours.eval(), (X,)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    launches = runtime.launches
    close(loaded(X), theirs(X))
    close(torch.jit.freeze(loaded.eval())(X), theirs(X))
    assert runtime.launches == launches + 4


def test_profiler(runtime):
    ours, _ = both()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours(X).sum().backward()
    counts = {one.key: one.count for one in profile.key_averages() if "clconv" in one.key}
    assert counts["clconv::convolution"] == 2
    assert counts["clconv::convolution_backward"] == 2


# What cannot be done names a way out


WAYS_OUT = {
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2, 9), torch.ones(2, 5)]),
        r"input is a nested tensor.*: torch\.nested\.to_padded_tensor\(input, 0\.0\)",
        lambda x: torch.nested.to_padded_tensor(x, 0.0),
    ),
    "jagged": (
        lambda: torch.nested.nested_tensor(
            [torch.ones(9, 2), torch.ones(5, 2)], layout=torch.jagged
        ),
        r"input is a nested tensor.*: torch\.nested\.to_padded_tensor\(input, 0\.0\)",
        lambda x: torch.nested.to_padded_tensor(x, 0.0).transpose(1, 2),
    ),
    "sparse": (
        X.to_sparse, r"layout torch\.sparse_coo.*: input\.to_dense\(\)", lambda x: x.to_dense(),
    ),
    "oneDNN's": (
        X.to_mkldnn, r"layout torch\._mkldnn.*: input\.to_dense\(\)", lambda x: x.to_dense(),
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
        r"dtype torch\.qint8.*: input\.dequantize\(\)",
        lambda x: x.dequantize(),
    ),
    "integers": (lambda: X.int(), r"dtype torch\.int32.*: input\.float\(\)", lambda x: x.float()),
    "float8": (
        lambda: X.to(torch.float8_e5m2), r"dtype torch\.float8.*: input\.float\(\)",
        lambda x: x.float(),
    ),
    "another dtype": (
        lambda: X.double(), r"weight has dtype torch\.float32.*: weight\.to\(input\.dtype\)",
        lambda x: x.float(),
    ),
    "complex": (
        lambda: torch.complex(X, 2 * X),
        r"dtype torch\.complex64.*: call it for input\.real and for input\.imag",
        lambda x: x.real,
    ),
    "elsewhere": (
        lambda: X.to("meta"), "input is a tensor on meta, expected one on cpu",
        lambda x: torch.empty_like(x, device="cpu"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS_OUT)
@pytest.mark.filterwarnings("ignore:.*nested tensors", "ignore:.*torch.quantize_per_tensor")
def test_ways_out(runtime, name):
    """An error, nothing launched, and what it says to do works."""
    make, message, way = WAYS_OUT[name]
    x, launches = make(), runtime.launches
    for function in (conv1d, conv_transpose1d):
        weight = torch.ones(2, 2, 3)
        with pytest.raises((TypeError, ProblemError), match=message):
            function(x, weight)
        assert runtime.launches == launches
    assert conv1d(way(x), weight).shape[1] == 2
    assert runtime.launches > launches


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_script_of_converted_layers(runtime):
    ours, theirs = both()
    for one in (ours, ours[0], ours[2]):
        with pytest.raises(ProblemError, match=r"clconv\.torch\.revert\(model\) before"):
            torch.jit.script(one)
    assert isinstance(ours[0], Conv1d)
    assert isinstance(ours[2], ConvTranspose1d)
    revert(ours)
    close(torch.jit.script(ours)(X), theirs(X))


# What users are told


def test_every_feature_of_the_page_has_its_test():
    """The rows of docs/pytorch.md's table name tests that exist."""
    here = Path(__file__).parent
    page = (here.parent / "docs" / "pytorch.md").read_text()
    rows = page.split("| feature | how | test |\n|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) >= 30
    for row in rows:
        found = re.findall(r"`(test_torch\w*)::(test_\w+)`", row.rsplit("|", 2)[1])
        assert found, row
        for file, name in found:
            assert f"\ndef {name}(" in (here / f"{file}.py").read_text(), name
