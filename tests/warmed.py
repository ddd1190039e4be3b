"""Models to be warmed up, and a program that does it and says what was built when.

Arguments are names of models. Prints, for each, how many kernels there were, what PoCL's cache
gained, how many processes were started and programs compiled in this one, and what of these three
the model's next steps made.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrizations


class Strided(nn.Module):
    """A layer that reads a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(6, 4, 3, stride=2)

    def forward(self, x):
        return self.layer(x.transpose(1, 2))


class Trained(NamedTuple):
    """How a model is made, the shape that it takes, and whether it is trained."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    training: bool = True


MODELS = {
    "forward": Trained(
        lambda: nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.Conv1d(8, 4, 3)), (2, 3, 50), False
    ),
    "backward": Trained(
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=2),
            nn.BatchNorm1d(8),
            nn.Conv1d(8, 4, 3, bias=False),
            nn.Dropout(0.3),
        ),
        (2, 3, 50),
    ),
    "transposed": Trained(
        lambda: nn.Sequential(nn.Conv1d(3, 8, 4, stride=2), nn.ConvTranspose1d(8, 5, 4, stride=2)),
        (2, 3, 50),
    ),
    "groups": Trained(
        lambda: nn.Sequential(
            nn.Conv1d(6, 12, 3, groups=3),
            nn.Conv1d(12, 12, 3, groups=12, padding_mode="reflect", padding=2),
        ),
        (2, 6, 50),
    ),
    "a view": Trained(Strided, (2, 50, 6)),
    "a wide grid": Trained(Strided, (2, 40000, 6)),
    "half": Trained(lambda: nn.Conv1d(3, 4, 3).half(), (2, 3, 50)),
    "brain float": Trained(lambda: nn.Conv1d(3, 4, 3).bfloat16(), (2, 3, 50)),
    "parametrized": Trained(lambda: parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), (3, 50)),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model and its input."""
    torch.manual_seed(1)
    model = MODELS[name].make().train(MODELS[name].training)
    shape = torch.Size(MODELS[name].shape)
    x = torch.linspace(-1, 1, shape.numel()).view(shape)
    return model, x.to(next(model.parameters()).dtype)


def step(model: nn.Module, x: torch.Tensor, loss: str = "square") -> torch.Tensor:
    """A model's result; one that is trained adds to its gradients, too."""
    with torch.set_grad_enabled(model.training):
        y = model(x)
    if model.training:
        getattr(y, loss)().sum().backward()
    return y


def main() -> None:
    """The program."""
    from clconv.drivers.programs import Programs
    from clconv.torch import convert, warm_up

    compiled, started = [], []
    compile_, start = Programs._compile, subprocess.Popen.__init__

    def compiling(self, kernel, source):
        compiled.append(kernel.name)
        return compile_(self, kernel, source)

    def starting(self, *args, **named):
        started.append(args)
        start(self, *args, **named)

    Programs._compile, subprocess.Popen.__init__ = compiling, starting

    def state() -> tuple[int, int, int]:
        paths = Path(os.environ["POCL_CACHE_DIR"]).rglob("*.*")
        files = sum(path.suffix in (".bc", ".so") for path in paths)
        return files, len(started), len(compiled)

    found = {}
    for name in sys.argv[1:]:
        model, x = made(name)
        assert convert(model)
        states = [state()]
        kernels = warm_up(model, x)
        states.append(state())
        for loss in ("square", "double", "sum"):
            step(model, x, loss)
        states.append(state())
        warming, later = (
            [b - a for a, b in zip(*two, strict=True)] for two in itertools.pairwise(states)
        )
        names = ("files", "processes", "programs")
        found[name] = {"kernels": kernels, "later": later} | dict(zip(names, warming, strict=True))
    print(json.dumps(found))
