"""Trains the fully convolutional network of Wang, Yan and Oates (2017) on time series.

PyTorch trains, clconv convolves: `clconv.torch.convert` is the only line that tells. Network and
training are the paper's ("Time series classification from scratch with deep neural networks",
IJCNN 2017), but for fewer epochs; the data are the UCR archive's, which aeon ships, so that nothing
is downloaded. Prints the accuracy on the test part for each seed and draws what in a series speaks
for its class. Exits with 1 if the median of the seeds is below what the network is known to reach.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import torch
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm

    from clconv import default_runtime
    from clconv.torch import convert
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

TARGETS = {"ItalyPowerDemand": 0.955, "GunPoint": 0.99}  # median accuracies
# What the samples of a series are, what their values are, and the classes.
MEANINGS = {
    "ItalyPowerDemand": (
        "hour of the day", "power demand", ("October to March", "April to September"),
    ),
    "GunPoint": ("frame of the film", "height of the hand", ("draws a gun", "points a finger")),
}  # fmt: skip
LAYERS = ((128, 8), (256, 5), (128, 3))  # channels, kernel size
LEARN_RATE, LEAST_RATE, PATIENCE = 1e-3, 1e-4, 50  # halved after so many epochs without a gain
EPOCHS, SEEDS = 500, (0, 1, 2)
RED, GREY = "#c8102e", "#9aa5b1"


@dataclass(frozen=True)
class Part:
    """Series (N, 1, L) in float32 and their classes 0, 1, …"""

    series: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Outcome:
    """A trained network with its losses and rates by epoch, and its accuracy on the test part."""

    model: nn.Sequential
    losses: list[float]
    rates: list[float]
    accuracy: float
    seconds: float


def load(name: str) -> tuple[Part, Part]:
    """The archive's training and test part. Raises ImportError where aeon is missing."""
    from aeon.datasets import load_classification

    series, labels = zip(
        *(load_classification(name, split=s) for s in ("train", "test")), strict=True
    )
    classes = np.unique(labels[0])

    def part(x: Any, y: Any) -> Part:
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return Part(torch.tensor(x, dtype=torch.float32), torch.tensor(np.searchsorted(classes, y)))

    training, test = map(part, series, labels)
    return training, test


def network(classes: int) -> nn.Sequential:
    """Convolutions with batch normalisation and ReLU, the mean over positions, a score a class."""
    layers: list[nn.Module] = []
    channels = 1
    for width, size in LAYERS:
        layers += [
            nn.Conv1d(channels, width, size, padding="same"),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        ]
        channels = width
    maps = nn.Sequential(*layers)
    model = nn.Sequential(maps, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))
    convert(model)
    return model


def accuracy(model: nn.Module, part: Part) -> float:
    """The share of the series that get their own class."""
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(x).argmax(1) for x in part.series.split(64)])
    return float((answers == part.labels).double().mean())


def train(training: Part, test: Part, epochs: int, seed: int) -> Outcome:
    """The network of the epoch with the lowest training loss, tested once."""
    torch.manual_seed(seed)
    model = network(int(training.labels.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARN_RATE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=PATIENCE, min_lr=LEAST_RATE
    )
    batch = max(min(len(training) // 10, 16), 2)
    losses: list[float] = []
    rates: list[float] = []
    best = copy.deepcopy(model.state_dict())
    begin = time.perf_counter()
    bar = tqdm(range(epochs), f"Seed {seed}", unit=" epochs", disable=not sys.stderr.isatty())
    for _ in bar:
        model.train()
        total = 0.0
        order = torch.randperm(len(training))
        # A last batch of one series has no spread to normalise by: it joins the one before.
        cuts = range(batch, len(order) - 1, batch)
        for rows in torch.tensor_split(order, [*cuts]):
            optimizer.zero_grad()
            loss = cross_entropy(model(training.series[rows]), training.labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(training))
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(losses[-1])
        bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
        if losses[-1] == min(losses):
            best = copy.deepcopy(model.state_dict())
    seconds = time.perf_counter() - begin
    model.load_state_dict(best)
    return Outcome(model, losses, rates, accuracy(model, test), seconds)


def evidence(model: nn.Sequential, series: Tensor, label: int) -> Tensor:
    """(L,): how much each position speaks for a class, the class activation map of the paper.

    Their mean, and a constant, is the network's score of the class.
    """
    model.eval()
    scores = model[3]
    assert isinstance(scores, nn.Linear)
    with torch.no_grad():
        return scores.weight[label] @ model[0](series[None])[0]


def draw(path: Path, name: str, test: Part, outcomes: dict[int, Outcome]) -> None:
    """Saves the picture: evidence along a series of each class, losses, accuracies."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")  # without pyplot, it draws with Agg
    classes = [int(c) for c in test.labels.unique()]
    above = figure.subplots(2, max(len(classes), 2), height_ratios=(1.2, 1))
    figure.suptitle(f"{name}: a fully convolutional network, trained by PyTorch on clconv")
    one = next(iter(outcomes.values()))
    along, value, meanings = MEANINGS[name]
    for ax, label in zip(above[0], classes, strict=False):
        chosen = test.series[test.labels == label][:3]
        shades = [evidence(one.model, series, label).numpy() for series in chosen]
        most = np.abs(shades).max()
        for series, shade in zip(chosen, shades, strict=True):
            points = np.stack([np.arange(len(shade)), series[0].numpy()], 1)[:, None]
            lines = LineCollection([*np.hstack([points[:-1], points[1:]])], cmap="coolwarm", lw=2)
            lines.set(array=(shade[:-1] + shade[1:]) / 2, clim=(-most, most))
            ax.add_collection(lines)
        ax.autoscale()
        ax.set(title=f"Three test series of class {label}: {meanings[label]}")
        ax.set(xlabel=along, ylabel=f"{value} [σ from its mean]")
        figure.colorbar(lines, ax=ax, label="speaks against ← this class → speaks for it")
    left, right = above[1][:2]
    for seed, outcome in outcomes.items():
        left.semilogy(outcome.losses, lw=0.8, label=f"seed {seed}")
    left.set(title="Training", xlabel="epoch", ylabel="mean cross-entropy of the training part")
    left.legend(frameon=False)
    names = [f"seed {seed}" for seed in outcomes]
    bars = right.barh(names, [outcome.accuracy for outcome in outcomes.values()], color=GREY)
    right.bar_label(bars, fmt="%.4f", label_type="center")
    right.axvline(TARGETS[name], color=RED, ls="--", lw=1.2, label="expected of the median")
    right.set(title="Test part", xlabel="share of the series that get their own class", xlim=(0, 1))
    right.legend(loc="lower left")
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    """Trains with each seed, prints the accuracies, draws; 0 where their median is good."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", choices=TARGETS, default="ItalyPowerDemand")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("ucr_fcn.png"), help="the picture")
    options = parser.parse_args(argv)
    if options.epochs < 1 or not options.output.parent.is_dir():
        parser.error("--epochs must be at least 1, and the folder of --output must exist")
    try:
        training, test = load(options.dataset)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        print(
            f'{package} is missing: pip install ".[examples]" in a clone of clconv', file=sys.stderr
        )
        return 1
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    print(f"Data: {options.dataset}, {len(training)} series to learn, {len(test)} to test with\n")
    print(f"{'seed':>4}{'loss':>12}{'accuracy':>10}{'seconds':>10}")
    outcomes = {}
    for seed in options.seeds:
        found = outcomes[seed] = train(training, test, options.epochs, seed)
        figures = f"{min(found.losses):12.2e}{found.accuracy:10.4f}{found.seconds:10.1f}"
        print(f"{seed:4}{figures}", flush=True)
    median, target = (
        statistics.median(o.accuracy for o in outcomes.values()),
        TARGETS[options.dataset],
    )
    print(f"\nMedian accuracy {median:.4f}, at least {target} expected")
    draw(options.output, options.dataset, test, outcomes)
    print(f"Saved {options.output}")
    return int(median < target)


if __name__ == "__main__":
    sys.exit(main())
