"""The call after `warm_up` compiles nothing, and the model is as it was."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from threading import Thread

import pytest
import torch
import warmed
from torch import nn

from clconv import Conv1dProblem, Pass, Runtime, progress
from clconv.drivers import workers
from clconv.drivers.discovery import find
from clconv.drivers.programs import Programs, identity_of
from clconv.errors import BuildError, DeviceError, ProblemError
from clconv.rehearsal import Rehearsal
from clconv.render import render
from clconv.runtime import runtime_of
from clconv.torch import convert, memory, warm_up
from clconv.variants import VARIANTS

START = f"import sys; sys.path[:] = {sys.path!r}; import warmed; warmed.main()"
X = torch.linspace(-1, 1, 300).view(2, 3, 50)


@pytest.fixture
def compiled(monkeypatch):
    """The names of the kernels that are compiled in this process from now on."""
    found = []
    compile_ = Programs._compile

    def watched(self, kernel, source):
        found.append(kernel.name)
        return compile_(self, kernel, source)

    monkeypatch.setattr(Programs, "_compile", watched)
    return found


@pytest.fixture
def by_threads(monkeypatch):
    """No process is started."""
    monkeypatch.setattr(workers, "_can_start", lambda: False)


@pytest.fixture
def own(runtime, by_threads):
    """A runtime on each device that has built nothing yet, the default one."""
    with Runtime(runtime.device) as made:
        yield made


def network(*more):
    """A converted model in training mode."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(3, 8, 5), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 3), *more)
    assert convert(model) == 2
    return model


# In processes that find nothing built


@pytest.fixture
def fresh(runtime, tmp_path):
    """Has a process warm models up whose caches are in one folder of the test's."""
    (tmp_path / "pocl").mkdir()
    identity = identity_of(runtime.device)
    device = next(one.info.id for one in find() if identity_of(one.device) == identity)
    environment = {
        **os.environ,
        "POCL_CACHE_DIR": str(tmp_path / "pocl"),
        "CLCONV_CACHE_DIR": str(tmp_path / "clconv"),
        "CLCONV_DEVICE": device,
    }

    def run(*names):
        done = subprocess.run(
            [sys.executable, "-c", START, *names],
            capture_output=True, text=True, timeout=300, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # no bar in a pipe, and no message
        return json.loads(done.stdout)

    return run


def test_the_next_call_compiles_nothing(runtime, fresh):
    """Nor does the driver, forward and backward. A second process starts no other, and compiles
    nothing where clconv keeps the binaries, nor does the driver where that does."""
    first = fresh(*warmed.MODELS)
    assert first["forward"]["processes"] >= 1  # later models share its kernels
    for name, found in first.items():
        assert found["kernels"] >= 1, name
        assert found["later"] == [0, 0, 0], name
    for name, found in fresh(*warmed.MODELS).items():
        assert (found["files"], found["processes"], found["later"]) == (0, 0, [0, 0, 0]), name
        assert runtime.programs.finishes_at_launch or found["programs"] == 0, name


def test_what_was_removed_meanwhile_is_built_again(fresh, tmp_path):
    """From the driver's cache, or from clconv's."""
    fresh("forward")
    kept = [
        *(tmp_path / "pocl").rglob("convolution*.so"),
        *(tmp_path / "clconv").glob("binaries/*"),
    ]
    assert kept
    for path in kept:
        path.unlink()
    found = fresh("forward")["forward"]
    assert found["processes"] >= 1
    assert found["later"] == [0, 0, 0]


# In this process


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["backward", "transposed", "groups"])
def test_results_are_pytorch_s(own, monkeypatch, compiled, name, in_place):
    """After a warm-up as without, and the same kernels are used, whatever the loss."""
    monkeypatch.setattr(memory, "shares_memory", lambda _: in_place)
    theirs, x = warmed.made(name)
    ours, _ = warmed.made(name)
    convert(ours)
    kernels = warm_up(ours, x)
    built = len(compiled)
    assert kernels == len(own.programs)
    results = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        results.append([warmed.step(model, x), *(one.grad for one in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    warmed.step(ours, x, "sum")
    assert len(compiled) == built


def test_longer_inputs_compile_nothing(own, compiled):
    """What belongs to a layer is built, and not to one length: the kernel that adds shares, too."""
    model = network()
    warm_up(model, X)
    built = len(compiled)
    warmed.step(model, torch.linspace(-1, 1, 9000).view(3, 3, 1000))
    assert len(compiled) == built


@pytest.mark.parametrize("training", [None, True, False])
def test_the_model_is_as_it_was(own, training):
    """Parameters, gradients, statistics, modes, and the random generator."""
    model = network(nn.Dropout())
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    buffers = dict(model.named_buffers())

    def state():
        return (
            {name: one.clone() for name, one in model.state_dict().items()},
            [one.grad for one in model.parameters()],
            torch.random.get_rng_state(),
        )

    before, modes = state(), [one.training for one in model.modules()]
    warm_up(model, X, training=training)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert [one.training for one in model.modules()] == modes
    assert all(one is buffers[name] for name, one in model.named_buffers())


@pytest.mark.parametrize(
    ("training", "asked", "passes"), [(True, None, 3), (True, False, 1), (False, None, 1),
                                      (False, True, 3)],
)  # fmt: skip
def test_the_backward_pass_where_it_is_wanted(own, training, asked, passes):
    model = nn.Conv1d(3, 4, 3).train(training)
    convert(model)
    warm_up(model, X.clone().requires_grad_(), training=asked)
    before = len(own.programs)
    y = model(X.clone().requires_grad_())
    assert len(own.programs) == before
    y.square().sum().backward()
    assert (len(own.programs) > before) == (passes == 1)


def test_arguments_by_name_and_results_of_several_kinds(own, compiled):
    @dataclass
    class Output:
        first: torch.Tensor
        others: dict

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(3, 4, size) for size in (2, 3))

        def forward(self, x, *, scale):
            first, second = (layer(x) for layer in self.layers)
            return Output(first * scale, {"second": [second]})

    model = Model()
    convert(model)
    warm_up(model, {"x": X, "scale": 2.0})
    built = len(compiled)
    output = model(X, scale=2.0)
    (output.first.square().sum() + output.others["second"][0].square().sum()).backward()
    assert len(compiled) == built


def test_what_cannot_be_warmed_up(own):
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU())
    with pytest.raises(ProblemError, match="computed no convolution with clconv, expected"):
        warm_up(model, X)
    with pytest.raises(TypeError, match=r"model is a int, expected a torch\.nn\.Module"):
        warm_up(3, X)
    convert(model)
    with pytest.raises(ProblemError, match="training is 'yes', expected True, False or None"):
        warm_up(model, X, training="yes")
    with pytest.raises(ProblemError, match=r"x has 5 channels|expected \(4, 5, 3\)"):
        warm_up(model, torch.ones(2, 5, 50))

    class Detached(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x).tolist()

    with pytest.raises(ProblemError, match="gave a list without tensors that have gradients"):
        warm_up(Detached(model), X)
    assert warm_up(Detached(model), X, training=False) == 1

    lazy = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d())
    convert(lazy)
    with pytest.raises(ProblemError, match="expected a lazy model that has seen an input"):
        warm_up(lazy, X)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_fails(own, training):
    """It is as it was, and its error is what comes out."""

    class Failing(nn.Module):
        def forward(self, x):
            raise FloatingPointError("no")

    model = network(Failing()).train(training)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(FloatingPointError):
        warm_up(model, X)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model.training is training


def test_another_candidate_where_the_device_refuses_one(own, monkeypatch, compiled):
    """As a call would take; and so the bias gradient, which some plans sum beside the weights'."""
    build, refused = Programs._build, set()
    problem = Conv1dProblem(2, 3, 50, 4, 3)
    for pass_ in (Pass.FORWARD, Pass.WEIGHT_GRADIENT):
        first = own.plans(problem, pass_)[0]
        refused |= {(kernel.name, kernel.constants) for kernel in first.kernels[:1]}

    def refusing(self, kernel, source):
        if any(kernel.name == name for name, _ in refused):
            raise BuildError(kernel.name, "this device", "it does not like it")
        return build(self, kernel, source)

    monkeypatch.setattr(Programs, "_build", refusing)
    model = nn.Conv1d(3, 4, 3)
    convert(model)
    warm_up(model, X)
    built = len(compiled)
    warmed.step(model, X)
    assert len(compiled) == built


def test_a_rehearsal_leaves_nothing_behind(own):
    """No other thread finds it for arrays of its context, and nothing derived is taken for its."""
    weight = torch.ones(4, 3, 3)
    states = []
    for runtime in (Rehearsal(own), own):
        with torch.no_grad(), memory.Arrays(runtime) as arrays:
            arrays.weight(weight)
            states.append(arrays._derived._state)
    assert states[0] != states[1]
    rehearsal, found = Rehearsal(own), []
    with rehearsal:
        thread = Thread(target=lambda: found.append(runtime_of(own.context)))
        thread.start()
        thread.join()
        assert found == [own]
        with pytest.raises(DeviceError, match="at least one plan"):
            rehearsal.prepare([])


# Progress


class Terminal:
    """A terminal's text."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, part):
        self.text += part

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_bar_on_a_terminal(own, monkeypatch):
    """It tells how many kernels are ready."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)
    kernels = warm_up(network(), X)
    assert f"/{kernels}" in sys.stderr.text
    assert "building: " in sys.stderr.text


# Processes


@pytest.fixture
def launches(runtime):
    """What a plan would launch that nothing has built."""
    own = Runtime(runtime.device)
    plan = own.plans(Conv1dProblem(2, 3, 50, 4, 7), Pass.WEIGHT_GRADIENT)[0]
    return own, [kernel.launch(kernel.local_size) for kernel in plan.kernels]


@pytest.mark.parametrize(
    "start", ["import os; os._exit(3)", "import sys; sys.stdin.buffer.readline(1); print('hello')"]
)
def test_a_process_that_ends(launches, monkeypatch, caplog, start):
    """What it should have built is built here."""
    own, wanted = launches
    monkeypatch.setattr(workers, "START", start)
    with caplog.at_level(logging.WARNING):
        assert own.build_all(wanted) == len(wanted)
    assert len(own.programs) == len(wanted)
    if not own.programs.keeps_binaries or caplog.records:
        assert "a process ended with" in caplog.text


def test_no_process_can_be_started(launches, monkeypatch, caplog):
    own, wanted = launches
    monkeypatch.setattr(workers, "is_kept", lambda *_: False)
    monkeypatch.setattr(workers.sys, "executable", "/no/python")
    with caplog.at_level(logging.WARNING):
        own.build_all(wanted)
    assert len(own.programs) == len(wanted)
    assert "no process to build kernels in can be started" in caplog.text


def test_an_interrupt(launches, monkeypatch):
    """Ends the processes, and breaks nothing: what is left is built later."""
    own, wanted = launches
    monkeypatch.setattr(workers, "is_kept", lambda *_: False)
    processes = []
    start = workers.Worker._start

    def starting(self):
        processes.append(start(self))
        return processes[-1]

    monkeypatch.setattr(workers.Worker, "_start", starting)

    def interrupted(ready, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.build_all(wanted, interrupted)
    assert processes
    assert [process.returncode for process in processes] == [0] * len(processes)
    told = []
    own.build_all(wanted, lambda *ready: told.append(ready))
    assert told == [(i + 1, len(wanted)) for i in range(len(wanted))]
    assert len(own.programs) == len(wanted)


def test_an_interrupt_does_not_wait_for_what_is_left(launches, by_threads):
    """Only for what is being built."""
    own, (launch, *_) = launches
    built = []

    class Slow(Programs):
        def __init__(self):
            super().__init__(own.context, own.device, 1)

        def kernel(self, kernel, source):
            time.sleep(0.02)
            built.append(source)

    def interrupted(ready, of):
        raise KeyboardInterrupt

    jobs = [workers.Job(launch.kernel, str(i)) for i in range(100)]
    with pytest.raises(KeyboardInterrupt):
        workers.build_all(Slow(), jobs, apart=True, tell=interrupted)
    assert 1 <= len(built) < 100


def test_kernels_for_cpus_do_nothing_where_all_numbers_are_zero(runtime):
    """They read and write nothing, where there is nothing behind their pointers; else the process
    that launches them so would end."""
    if not runtime.programs.finishes_at_launch:
        pytest.skip("the driver makes machine code when it builds")
    kernels = {}
    for variant in VARIANTS:
        for pass_ in Pass:
            for problem in list(variant.EXAMPLES.values())[:1]:
                try:
                    plan = runtime.plans(problem, pass_, variant=variant.NAME)[0]
                except ProblemError:  # not this pass, or not on CPUs
                    continue
                kernels |= {(variant.NAME, one.name): one for one in plan.kernels}
    assert {name for name, _ in kernels} >= {"direct", "strip", "depthwise"}
    assert len(kernels) >= 10
    with workers.Worker(runtime.programs.identity) as worker:
        for kernel in kernels.values():
            worker.build(workers.Job(kernel, render(kernel), wide=True))
            assert worker._process is not None, kernel.name
