"""What a variant may have: several launches, workspaces, prepared weights, a bound of its own."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import toy

import clconv
from clconv import (
    Conv1dProblem,
    Epilogue,
    OutOfMemoryError,
    Pass,
    ProblemError,
    Runtime,
    gpuarray,
    testing,
    tuning,
)
from clconv import functional as F
from clconv.planning import planner
from clconv.planning.cost import Cost
from clconv.planning.profiles import PROFILES
from clconv.tuning import verifier
from clconv.variants import VARIANTS
from clconv.variants.base import ErrorClass, Request

PROBLEM = toy.EXAMPLES["several tiles"]
X, WEIGHT = PROBLEM.input_shape, PROBLEM.weight_shape


@pytest.mark.parametrize("variant", [*VARIANTS, toy], ids=lambda one: one.NAME)
def test_examples_are_served(variant):
    """By some pass on some device, each named for a reason, and tiny, for Oclgrind's sake."""
    assert variant.EXAMPLES
    for name, problem in variant.EXAMPLES.items():
        requests = [Request(problem, pass_, one) for pass_ in Pass for one in PROFILES.values()]
        assert any(variant.refusal(request) is None for request in requests), name
        assert problem.batch * problem.out_length * problem.weight_count < 50_000, name


def _data(rng, problem=PROBLEM, whole=False):
    make = testing.integers if whole else testing.normals
    return {
        "x": make(rng, problem.input_shape, problem.dtype),
        "weight": make(rng, problem.weight_shape, problem.dtype),
    }


def _plan(runtime, problem=PROBLEM, epilogue=Epilogue()):
    return runtime.plans(problem, Pass.FORWARD, epilogue, "toy")[0]


def test_a_plan_says_all(runtime, with_toy):
    plan = _plan(runtime)
    assert plan.error_class == "F(2,3)"
    tiles, weights = 11, 5 * 6
    assert {one.name: one.nbytes for one in plan.workspaces} == {
        "transformed_weight": 4 * 4 * weights,
        "transformed_x": 4 * 4 * 2 * 5 * tiles,
    }
    assert plan.workspace_bytes == sum(one.nbytes for one in plan.workspaces)
    assert [one.kernel.name for one in plan.preparation.launches] == ["weight_toy"]
    assert [one.kernel.name for one in plan.launches] == ["input_toy", "convolution_toy"]
    assert "toy" in clconv.variants(PROBLEM, "forward", runtime)
    assert "toy" not in [p.variant for p in runtime.candidates(PROBLEM, Pass.FORWARD, exact=True)]
    with pytest.raises(ProblemError, match=r"keep the bound 'F\(2,3\)', exact asks for exact ones"):
        F.conv1d(*_data(np.random.default_rng(0)).values(), variant="toy", exact=True)
    own = Runtime(runtime.device, workspace_limit=plan.workspace_bytes - 1)
    with pytest.raises(OutOfMemoryError, match=f"at least {plan.workspace_bytes} bytes"):
        own.plans(PROBLEM, Pass.FORWARD, variant="toy")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("name", toy.EXAMPLES)
def test_results_keep_the_bound(runtime, with_toy, rng, name, dtype):
    """Of the variant's own error class, which is larger than that of the definition's sums."""
    if dtype == "float64" and not runtime.profile.fp64:
        pytest.skip(f"{runtime.info.name} has no float64")
    problem = replace(toy.EXAMPLES[name], dtype=dtype)
    arrays = _data(rng, problem)
    bias, residual = (
        testing.normals(rng, s, dtype) for s in ((problem.out_channels,), problem.output_shape)
    )
    plan = _plan(runtime, problem)
    y = F.conv1d(*arrays.values(), padding=problem.pads, variant="toy")
    testing.assert_right(y, problem, "forward", arrays, sums=plan.sums_bound)
    bound = plan.error_bound(*arrays.values())
    assert bound.shape == y.shape
    assert (bound > 0).all()
    more = arrays | {"bias": bias, "residual": residual}
    y = F.conv1d(
        *arrays.values(), bias, padding=problem.pads, residual=residual, activation="gelu",
        variant="toy",
    )  # fmt: skip
    testing.assert_right(y, problem, "forward", more, activation="gelu", sums=plan.sums_bound)


def test_planted_faults_are_outside_the_bound(runtime, with_toy, rng):
    """Three times the bound is no rounding error."""
    arrays = _data(rng)
    plan = _plan(runtime)
    y = F.conv1d(*arrays.values(), padding=1, variant="toy")
    y[1, 2, 3] += 3 * plan.error_bound(*arrays.values())[1, 2, 3]
    with pytest.raises(AssertionError, match=r"1 of 252 values are wrong, most of all \[1, 2, 3\]"):
        testing.assert_right(y, PROBLEM, "forward", arrays, sums=plan.sums_bound)


def test_nan_stays_where_it_belongs(runtime, with_toy, rng):
    arrays = _data(rng, whole=True)
    arrays["x"][1, 2, 8] = np.nan
    y = F.conv1d(*arrays.values(), padding=1, variant="toy")
    assert np.array_equal(np.isnan(y), np.isnan(F.conv1d(*arrays.values(), padding=1, exact=True)))


def test_no_batch(runtime, with_toy):
    y = F.conv1d(np.zeros((0, 5, 21), "f"), np.zeros(WEIGHT, "f"), padding=1, variant="toy")
    assert y.shape == (0, 6, 21)


# Prepared weights


def _queued(runtime, call):
    """How many kernels a call queues."""
    before = runtime.launches
    call()
    return runtime.launches - before


@pytest.mark.parametrize("host", [True, False])
def test_weights_are_derived_once(runtime, with_toy, rng, host):
    """Whatever batch and length, and with the same bits."""
    arrays = _data(rng)
    weight = arrays["weight"] if host else runtime.to_device(arrays["weight"])
    prepared = clconv.prepare_weight(weight)
    assert prepared.shape == WEIGHT
    assert prepared.nbytes == 0  # the exact variants take weights as they are
    for batch, length in ((2, 21), (3, 21), (1, 40)):
        x = testing.normals(rng, (batch, 5, length), "f")
        kept = prepared.nbytes
        for given in (x, runtime.to_device(x)):
            plain = weight if host == isinstance(given, np.ndarray) else None
            count = _queued(runtime, lambda g=given: F.conv1d(g, prepared, variant="toy"))
            assert count == (2 if kept else 3)
            kept = prepared.nbytes
            if plain is not None:
                assert _queued(runtime, lambda g=given, w=plain: F.conv1d(g, w, variant="toy")) == 3
                found, expected = (F.conv1d(given, w, variant="toy") for w in (prepared, plain))
                host_of = np.asarray if host else (lambda a: a.get())
                assert np.array_equal(host_of(found), host_of(expected))
    assert prepared.nbytes == 4 * 4 * 5 * 6


def test_prepared_weights_serve_every_function(runtime, rng):
    """Those whose variants derive nothing take the array."""
    a = _data(rng, whole=True)
    grad = testing.integers(rng, (2, 6, 10), "f")
    prepared = clconv.prepare_weight(a["weight"], stride=2)
    x, weight = a["x"], a["weight"]
    assert np.array_equal(F.conv1d(x, prepared, stride=2), F.conv1d(x, weight, stride=2))
    of_x = F.conv1d_input(x.shape, prepared, grad, 2)
    assert np.array_equal(of_x, F.conv1d_input(x.shape, weight, grad, 2))
    found = F.conv1d_backward(x, prepared, grad, 2)
    for one, other in zip(found, F.conv1d_backward(x, weight, grad, 2), strict=True):
        assert np.array_equal(one, other)
    turned = clconv.prepare_weight(a["weight"], stride=2, transposed=True)
    y = F.conv_transpose1d(grad, turned, stride=2)
    assert np.array_equal(y, F.conv_transpose1d(grad, weight, stride=2))
    found = F.conv_transpose1d_backward(grad, turned, y, stride=2)
    for one, other in zip(
        found, F.conv_transpose1d_backward(grad, weight, y, stride=2), strict=True
    ):
        assert np.array_equal(one, other)


def test_what_weights_were_prepared_for(runtime, rng):
    x, weight = _data(rng).values()
    prepared = clconv.prepare_weight(weight, stride=2)
    for call, words in (
        (lambda: F.conv1d(x, prepared), "stride is 1, expected 2, for which weight was prepared"),
        (lambda: F.conv1d(x, prepared, None, 2, 0, 3), "dilation is 3, expected 1"),
        (lambda: F.conv_transpose1d(x[:, :1].repeat(6, 1), prepared, stride=2),
         "weight was prepared with transposed=False, expected True for a transposed convolution"),
    ):  # fmt: skip
        for _ in range(2):
            with pytest.raises(ProblemError, match=words):
                call()
    other = Runtime(runtime.device)
    with pytest.raises(ProblemError, match="weight was prepared on"):
        F.conv1d(x, prepared, stride=2, runtime=other)
    for wrong, words in (
        (lambda: clconv.prepare_weight([1.0]), "weight is a builtins.list"),
        (lambda: clconv.prepare_weight(weight[0]), r"weight has shape \(5, 3\), expected \(Cout"),
        (lambda: clconv.prepare_weight(weight, groups=4), "groups is 4, expected a divisor"),
        (lambda: clconv.prepare_weight(weight, stride=0), "stride is 0"),
        (lambda: clconv.prepare_weight(weight, transposed=1), "transposed is 1"),
        (lambda: clconv.prepare_weight(weight.astype(int)), "weight has dtype int64"),
    ):
        with pytest.raises((ProblemError, TypeError), match=words):
            wrong()


def test_threads_share_prepared_weights(runtime, with_toy, rng):
    x, weight = _data(rng).values()
    prepared = clconv.prepare_weight(weight)
    expected = F.conv1d(x, weight, variant="toy")
    wrong = []

    def work():
        for _ in range(5):
            wrong.append(not np.array_equal(F.conv1d(x, prepared, variant="toy"), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(wrong) == 20
    assert not any(wrong)


# Tuning


def test_tuning_keeps_a_variant_to_its_bound(runtime, with_toy, monkeypatch):
    """Not to equal bits; and refuses what exceeds it."""
    problem = replace(PROBLEM, length=33)  # whose record no other test finds
    real = planner.plans

    def few(others):
        """So few candidates that all are tried, however busy the machine is."""

        def plans(*args, **options):
            found = real(*args, **options)
            toys = [plan for plan in found if plan.variant == "toy"]
            return [plan for plan in found if plan.variant != "toy"][:others] + toys

        monkeypatch.setattr(tuning, "plans", plans)

    few(1)
    record = tuning.tune(runtime, problem, Pass.FORWARD, seconds=60)
    (timing,) = (one for one in record.candidates if one.choice.variant == "toy")
    assert timing.refusal is None

    few(0)  # so that the toy alone can win
    record = tuning.tune(runtime, problem, Pass.FORWARD, seconds=2)
    assert record.choice.variant == "toy"
    nothing = ErrorClass("nothing", lambda problem, *_: np.full(problem.output_shape, -1.0))
    monkeypatch.setattr(toy, "ERROR_CLASS", nothing)
    with pytest.raises(clconv.DeviceError, match="results differ from the reference's"):
        tuning.tune(runtime, problem, Pass.FORWARD, seconds=2)


# Who prepares by itself


def _launches(runtime, call):
    """The names of the kernels that a call queues."""
    names, real = [], runtime.enqueue
    runtime.enqueue = lambda commands, *rest: (
        names.extend(launch.kernel.name for _, launch, _ in commands),
        real(commands, *rest),
    )
    try:
        call()
    finally:
        del runtime.enqueue
    return names


@pytest.fixture
def only_toy(with_toy, monkeypatch):
    """Wherever it serves, "auto" takes the toy."""
    real = toy.designs
    monkeypatch.setattr(
        toy,
        "designs",
        lambda request: (replace(one, cost=Cost(arithmetic=1e-12)) for one in real(request)),
    )
    planner.designs.cache_clear()


def test_layers_prepare_in_eval_mode(runtime, only_toy, rng, tmp_path):
    """As long as they know that W is the same; in doubt anew."""
    own = Runtime(runtime.device)
    with own:
        layer = clconv.Conv1D(5, 6, 3, pad=1)
        data = gpuarray.to_gpu(rng.standard_normal(X).astype("f"))

        def derives():
            names = _launches(own, lambda: layer(data))
            assert "convolution_toy" in names
            return "weight_toy" in names

        assert derives()
        assert derives()  # in training W changes at every step
        layer.evalMode()
        assert [derives() for _ in range(3)] == [True, False, False]
        layer.save(tmp_path / "one.hdf")
        assert not derives()
        expected = layer(data).get()
        layer.load(tmp_path / "one.hdf")
        assert [derives() for _ in range(2)] == [True, False]
        assert np.array_equal(layer(data).get(), expected)
        other = clconv.Conv1D(5, 6, 3, pad=1)
        layer.vars["W"].set(other.vars["W"])
        assert [derives() for _ in range(2)] == [True, False]
        assert np.array_equal(layer(data).get(), other(data).get())
        layer.vars["W"].update(0.1)
        assert [derives() for _ in range(2)] == [True, False]
        weights = layer.W  # whoever has them may write to them
        assert derives()
        weights.fill(0)
        assert derives()
        assert not layer(data).get().any()
        copied = copy.deepcopy(layer)
        assert "weight_toy" in _launches(own, lambda: copied(data))


def test_torch_prepares_without_gradients(runtime, only_toy, rng):
    """As long as the tensor's values are the same, whatever PyTorch knows of changes."""
    torch = pytest.importorskip("torch")
    import clconv.torch

    own = Runtime(runtime.device)
    with own:
        layer = clconv.torch.Conv1d(5, 6, 3, padding=1)
        data = torch.from_numpy(rng.standard_normal(X).astype("f"))

        def derives():
            names = _launches(own, lambda: layer(data))
            assert "convolution_toy" in names
            return "weight_toy" in names

        assert derives()
        assert derives()  # weights that train change
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert [derives() for _ in range(3)] == [mode is torch.no_grad, False, False]
        with torch.no_grad():
            layer.weight.mul_(2)
            assert [derives() for _ in range(2)] == [True, False]
            expected = torch.nn.functional.conv1d(data, layer.weight, layer.bias, padding=1)
            assert torch.allclose(layer(data), expected, atol=1e-4)
            layer.weight.data = torch.ones(6, 5, 3)
            assert [derives() for _ in range(2)] == [True, False]
            for change in (
                lambda data: data.mul_(0.99),  # as moving averages of weights do
                lambda data: data[5, 4, 2].add_(1),
                lambda data: data.copy_(data.roll(1, 2)),
                lambda data: data.neg_(),
                lambda data: data[:, 1].neg_(),
            ):
                change(layer.weight.data)  # which has no version
                assert [derives() for _ in range(2)] == [True, False]
                expected = torch.nn.functional.conv1d(data, layer.weight, layer.bias, padding=1)
                assert torch.allclose(layer(data), expected, atol=1e-4)
            layer.weight = torch.nn.Parameter(torch.zeros(6, 5, 3))
            assert [derives() for _ in range(2)] == [True, False]
            assert torch.allclose(layer(data), layer.bias[:, None].expand(6, 21))
        with torch.inference_mode():
            layer.weight = torch.nn.Parameter(torch.zeros(6, 5, 3))
            assert [derives() for _ in range(2)] == [True, False]
            layer.weight.fill_(2)  # which has no version
            assert [derives() for _ in range(2)] == [True, False]
            layer.weight.data = layer.weight.data.transpose(0, 1).contiguous().transpose(0, 1)
            assert [derives() for _ in range(2)] == [True, False]
            expected = torch.nn.functional.conv1d(data, layer.weight, layer.bias, padding=1)
            assert torch.allclose(layer(data), expected, atol=1e-4)


# Verifying


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("pass_", tuning.PASSES)
def test_one_channel(pass_, last):
    """A channel alone is a problem with the same results."""
    problem = Conv1dProblem(2, 6, 30, 9, 4, 2, (3, 1), 2, 3)
    values = tuning.integers(problem)
    of_pass = {name: values[name] for name in testing.OPERANDS[pass_]}
    found = testing.evaluate(problem, pass_, of_pass)
    one, arrays, result = verifier.one_channel(problem, pass_, found, last)
    assert one.groups == 1
    assert result.size < found.size
    assert np.array_equal(result, testing.evaluate(one, pass_, arrays))


def test_the_verifier_heeds_the_bound(first_runtime, with_toy, rng):
    """Half the bound is right, twice the bound is not."""
    arrays = _data(rng)
    plan = _plan(first_runtime)
    expected = testing.evaluate(PROBLEM, "forward", arrays)
    bound = plan.error_bound(*arrays.values())
    assert verifier._count_wrong(plan, expected + bound / 2, expected, arrays) == 0
    assert verifier._count_wrong(plan, expected - 2 * bound, expected, arrays) == expected.size
