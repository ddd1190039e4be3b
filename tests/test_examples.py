"""The examples, in small: they run, and what they teach is right."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clconv import Module, ModuleError, Variable, gpuarray

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import ecg_denoise
import optimizers
import ucr_classify

EPSILON = float(np.finfo(np.float32).eps)


# optimizers.py


def sgd(rate, momentum):
    """The updates in float64: takes downhill gradients, returns what to add."""
    velocity = 0.0

    def step(grad):
        nonlocal velocity
        velocity = momentum * velocity + rate * grad
        return velocity

    return step


def adam(rate, beta1, beta2=0.999, epsilon=1e-8):
    """Algorithm 1 of Kingma and Ba, in float64."""
    mean = square = 0.0
    t = 0

    def step(grad):
        nonlocal mean, square, t
        t += 1
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad**2
        corrected = mean / (1 - beta1**t), square / (1 - beta2**t)
        return rate * corrected[0] / (np.sqrt(corrected[1]) + epsilon)

    return step


METHODS = {
    "sgd": (lambda m: optimizers.SGD(m, 0.1, 0.8), lambda lr, mom: sgd(0.1 * lr, 0.8 * mom)),
    "no momentum": (lambda m: optimizers.SGD(m, 0.2, 0.0), lambda lr, mom: sgd(0.2 * lr, 0.0)),
    "adam": (lambda m: optimizers.Adam(m, 0.1), lambda lr, mom: adam(0.1 * lr, 0.9 * mom)),
}


@pytest.mark.parametrize("method", METHODS)
def test_optimizer_follows_float64_to_the_solution(runtime, rng, method):
    """Cost: curvature / 2 · (w - target)² + wc / 2 · w², a bowl with a known bottom.

    Far from the start, as Adam that starts beside it goes astray, and then no two roundings agree.
    """
    make, reference = METHODS[method]
    module, bowls = Module(), []
    for name, learn_rate, mom_rate, wc in (("plain", 1.0, 1.0, 0.0), ("own", 0.5, 0.75, 0.25)):
        start = rng.uniform(1, 2, (3, 4)).astype(np.float32)
        target = rng.uniform(-2, -1, (3, 4)).astype(np.float32)
        curvature = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
        variable = Variable(gpuarray.to_gpu(start))
        variable.learnRate, variable.momRate, variable.wc = learn_rate, mom_rate, wc
        module.setVar(name, variable)
        step = reference(learn_rate, mom_rate)
        bowls.append((variable, target, curvature, wc, step, start.astype(np.float64)))
    optimizer = make(module)
    arrays = [variable.data for variable, *_ in bowls]
    exact = [start for *_, start in bowls]
    worst = 0.0  # error, in units of float32's rounding of 1
    for _ in range(200):
        for i, (variable, target, curvature, wc, step, _) in enumerate(bowls):
            variable.grad.set(curvature * (target - variable.data.get()))
            exact[i] = exact[i] + step(curvature * (target - exact[i]) - wc * exact[i])
        optimizer.update()
        for (variable, *_), reached in zip(bowls, exact, strict=True):
            worst = max(worst, np.abs(variable.data.get() - reached).max() / EPSILON)
    assert worst < 64  # every step forgets part of the errors before; roots may be off by 3 ulp
    for (variable, target, curvature, wc, *_), array in zip(bowls, arrays, strict=True):
        assert variable.data is array  # changed in place
        bottom = curvature * target / (curvature + wc)
        np.testing.assert_allclose(variable.data.get(), bottom, rtol=0, atol=0.01)


def one_variable(**options):
    variable = Variable(gpuarray.to_gpu(np.float32([1, 2])), **options)
    if variable.grad is not None:
        variable.grad.fill(1)
    module = Module()
    module.setVar("w", variable)
    return module, variable


def test_optimizer_leaves_a_variable_its_own_updater(runtime):
    seen = []
    module, variable = one_variable(updater=lambda v, rate: seen.append((v, rate)))
    optimizers.SGD(module, 0.5).update()
    assert seen == [(variable, 0.5)]
    np.testing.assert_array_equal(variable.data.get(), [1, 2])


def test_optimizer_calls_what_follows_a_step_after_it(runtime):
    seen = []
    module, _ = one_variable(postUpdater=lambda v: seen.append(v.data.get().tolist()))
    optimizers.SGD(module, 0.5).update()
    assert seen == [[1.5, 2.5]]


def test_optimizer_passes_over_a_variable_without_gradient(runtime):
    module, variable = one_variable(withgrad=False)
    optimizers.Adam(module).update()
    np.testing.assert_array_equal(variable.data.get(), [1, 2])


def test_optimizer_steps_a_shared_variable_once_and_clears_gradients(runtime):
    module, variable = one_variable()
    module.setVar("another name", variable)
    optimizer = optimizers.SGD(module, np.float64(0.5), momRate=0.0)
    assert type(optimizer.rate(variable)) is float  # float64 would make the step float64
    optimizer.update()
    np.testing.assert_array_equal(variable.data.get(), [1.5, 2.5])
    optimizer.zeroGradParams()
    optimizer.update()
    np.testing.assert_array_equal(variable.data.get(), [1.5, 2.5])


def test_optimizer_refuses_float16(runtime):
    module = Module()
    module.setVar("w", Variable(gpuarray.to_gpu(np.zeros(3, np.float16))))
    with pytest.raises(TypeError, match="w is float16, expected float32 or float64"):
        optimizers.SGD(module).update()


# ucr_classify.py


def waves(rng, count, length=60):
    """Noisy waves, the second class of twice the frequency."""
    labels = np.arange(count) % 2
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    angles = np.pi / 15 * (1 + labels[:, None]) * np.arange(length) + phase
    series = np.sqrt(2) * np.sin(angles) + 0.1 * rng.standard_normal((count, length))
    return ucr_classify.Part(series, labels)


def test_global_average(runtime, rng):
    layer = ucr_classify.GlobalAverage()
    x = rng.integers(-9, 10, (3, 5, 8)).astype(np.float32)
    grad = rng.integers(-9, 10, (3, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(layer(gpuarray.to_gpu(x)).get(), x.mean(2, keepdims=True))
    spread = layer.backward(gpuarray.to_gpu(grad)).get()
    np.testing.assert_array_equal(spread, np.broadcast_to(grad / 8, x.shape))
    assert layer.dataShapeFrom(x.shape) == (3, 5, 1)
    with pytest.raises(ModuleError, match=r"Data has shape \(3, 5\)"):
        layer(gpuarray.to_gpu(x[:, :, 0]))
    with pytest.raises(ModuleError, match=r"Grad has shape .* expected \(3, 5, 1\)"):
        layer.backward(gpuarray.to_gpu(x))
    with pytest.raises(ModuleError, match="in float32"):
        layer.calcMode(np.float16)


def test_cross_entropy(runtime, rng):
    scores = (20 * rng.standard_normal((7, 3, 1))).astype(np.float32)
    labels = np.arange(7) % 3
    loss, downhill = ucr_classify.cross_entropy(gpuarray.to_gpu(scores), labels)
    leaf = torch.tensor(scores[..., 0], dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(leaf, torch.tensor(labels))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(-downhill.get()[..., 0], leaf.grad, rtol=0, atol=EPSILON)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", ucr_classify.OPTIMIZERS)
def test_classifier_learns(runtime, rng, name):
    np.random.seed(0)
    net, part = ucr_classify.network(2), waves(rng, 20)
    optimizer = ucr_classify.OPTIMIZERS[name](net)
    losses = list(ucr_classify.fit(net, optimizer, part, 15, seed=0))
    assert losses[-1] < losses[0] / 2
    assert ucr_classify.accuracy(net, part) > 0.8


def test_folds_hold_every_series_out_once_and_share_classes_evenly(rng):
    part = ucr_classify.Part(np.arange(23.0)[:, None], np.arange(23) % 2)
    parts = list(ucr_classify.folds(part, 5, seed=0))
    held = np.concatenate([held_out.series[:, 0] for _, held_out in parts])
    assert sorted(held) == list(range(23))
    for rest, held_out in parts:
        assert sorted([*rest.series[:, 0], *held_out.series[:, 0]]) == list(range(23))
        assert min(np.bincount(held_out.labels)) >= 2


@pytest.mark.parametrize("arguments", [[], ["--validate", "--optimizer", "adam"]])
def test_ucr_classify(runtime, rng, arguments, monkeypatch, capsys):
    training, test = waves(rng, 20), waves(rng, 10)
    monkeypatch.setattr(ucr_classify, "load", lambda name: (training, test))
    assert ucr_classify.main(["--epochs", "1", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Device: {runtime.info.name}")
    table = {line.split()[0]: line.split()[1:] for line in lines[4:]}
    assert list(table) == ["nearest"] + (["adam"] if arguments else ["sgd", "adam"])
    parameters, learned, held_out, _ = table["adam"]
    assert int(parameters) == 160 + 1808 + 2592 + 66
    assert 0 <= float(learned) <= 1
    assert 0 <= float(held_out) <= 1


def test_ucr_classify_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyts", None)
    assert ucr_classify.main([]) == 1
    assert (
        capsys.readouterr().err
        == 'pyts is missing: pip install ".[examples]" in a clone of clconv\n'
    )


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--seed", "-1"], ["--dataset", "none"]])
def test_ucr_classify_refuses(arguments, capsys):
    with pytest.raises(SystemExit):
        ucr_classify.main(arguments)
    assert arguments[0] in capsys.readouterr().err


# ecg_denoise.py


def test_ecg_denoise(runtime, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    code = ecg_denoise.main(["--steps", "40", "--output", str(picture)])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == f"Device: {runtime.info.name} ({runtime.info.platform})"
    start = next(i for i, line in enumerate(lines) if "SNR [dB]" in line)
    table = {
        line[:32].strip(): [float(v) for v in line[32:].split()] for line in lines[start + 1 : -2]
    }
    names = [name.partition(" (")[0] for name in table]
    assert names == ["noisy", *ecg_denoise.FILTERS, "clconv"]
    assert table["noisy"][1] == 0
    assert table["clconv"][1] > 0  # a few steps, yet it cleans
    assert code == ("not good enough" in said.err)
    assert picture.read_bytes().startswith(b"\x89PNG")
