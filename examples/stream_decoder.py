"""Decodes features to sound while they arrive, in chunks of random lengths.

The network is built as the decoders of neural codecs are: a causal convolution, transposed
convolutions that make 160 samples of each feature frame (10 ms at 16 kHz), a residual block after
each, ELU between them. Its weights are random; what is shown is that the samples are those of the
whole signal, whatever the chunks, and when they come. Exit status 1 unless they differ by no more
than 1e-5 of the largest. Draws the sound with its chunks, and the time that each chunk took.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from clconv import Activation, Conv1D, Deconv1D, Parallel, Sequential, default_runtime, gpuarray
    from clconv.streaming import StreamingSequential
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    sys.exit(f'{package} is missing: pip install ".[examples]" in a clone of clconv')

RATE, FEATURES, RATIOS = 16_000, 64, (8, 5, 4)
LONGEST = 12  # frames of a chunk
CLOSE = 1e-5
RED, GREY, BLACK = "#c8102e", "#9aa5b1", "#222222"


class Chunk(NamedTuple):
    """What came of a chunk, and after how many milliseconds."""

    frames: int
    sound: NDArray[Any]
    milliseconds: float


def residual(maps: int) -> Parallel:
    """Two causal convolutions beside a skip."""
    branch = Sequential().append(Activation("elu"))
    branch.append(Conv1D(maps, maps // 2, 3, pad="causal", initscheme="he"))
    branch.append(Activation("elu")).append(Conv1D(maps // 2, maps, 1, initscheme="he"))
    return Parallel("sum").append(branch).append(Sequential())


def decoder(maps: int) -> Sequential:
    """(N, FEATURES, T) to (N, 1, 160 T)."""
    net = Sequential("decoder").append(Conv1D(FEATURES, maps, 7, pad="causal"))
    for ratio in RATIOS:
        net.append(Activation("elu"))
        net.append(Deconv1D(maps, maps // 2, 2 * ratio, ratio, "causal", initscheme="he"))
        maps //= 2
        net.append(residual(maps))
    net.append(Activation("elu")).append(Conv1D(maps, 1, 7, pad="causal")).append(
        Activation("tanh")
    )
    net.evalMode()
    return net


def features(rng: np.random.Generator, frames: int) -> NDArray[np.float32]:
    """(1, FEATURES, frames) that change slowly and swell twice."""
    steps = rng.standard_normal((1, FEATURES, frames)).cumsum(axis=2)
    loud = np.sin(np.linspace(0, 2 * np.pi, frames)) ** 2
    return (steps / np.sqrt(frames) * loud).astype(np.float32)


def decoded(
    stream: StreamingSequential, data: NDArray[np.float32], lengths: NDArray[Any]
) -> list[Chunk]:
    """What the stream gives of chunks of so many frames, until the features end."""
    found, start = [], 0
    for length in lengths:
        piece = np.ascontiguousarray(data[:, :, start : start + length])
        if not piece.size:
            break
        begun = time.perf_counter()
        sound = stream(gpuarray.to_gpu(piece)).get()
        took = (time.perf_counter() - begun) * 1e3
        found.append(Chunk(piece.shape[2], sound[0, 0], took))
        start += piece.shape[2]
    return found


def draw(path: Path, chunks: list[Chunk]) -> None:
    """Saves the picture: the sound by chunks, and the time of each chunk by its length."""
    figure = Figure(figsize=(13, 7), layout="constrained")  # without pyplot, it draws with Agg
    above, below = figure.subplots(2)
    start = 0
    for i, chunk in enumerate(chunks):
        seconds = (start + np.arange(len(chunk.sound))) / RATE
        above.plot(seconds, chunk.sound, color=RED if i % 2 else BLACK, lw=0.6)
        start += len(chunk.sound)
    above.set(
        title="Sound decoded in chunks, which change colour at each border",
        xlabel="time [s]",
        ylabel="sound",
    )
    span = [chunk.frames * 1e3 * np.prod(RATIOS) / RATE for chunk in chunks]
    below.plot(span, [chunk.milliseconds for chunk in chunks], ".", color=RED)
    below.set(xlabel="sound of a chunk [ms]", ylabel="time to decode it [ms]", xlim=(0, None))
    below.set_ylim(0, None)
    figure.savefig(path, dpi=150, format="png")


def main(argv: list[str] | None = None) -> int:
    """Decodes whole and in chunks, compares, draws; 0 where both agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=400, help="feature frames, 10 ms each")
    parser.add_argument(
        "--maps", type=int, default=128, help="of the first layer, a multiple of 16"
    )
    parser.add_argument("--output", type=Path, default=Path("stream_decoder.png"))
    options = parser.parse_args(argv)
    if options.frames < 1 or options.maps < 16 or options.maps % 16:
        parser.error("--frames must be at least 1, --maps a multiple of 16")
    if not options.output.parent.is_dir():
        parser.error("the folder of --output must exist")
    info = default_runtime().info
    print(f"Device: {info.name} ({info.platform})")
    np.random.seed(1)  # which layers draw their weights with
    rng = np.random.default_rng(1)
    net = decoder(options.maps)
    stream = StreamingSequential(net)
    print(f"Parameters: {net.numOfParams()}, latency {stream.latency}, stride {stream.stride}")
    data = features(rng, options.frames)
    whole = net(gpuarray.to_gpu(data)).get()[0, 0]
    lengths = rng.integers(1, LONGEST + 1, options.frames)
    decoded(stream, data, lengths)  # builds the kernels, and plans for the lengths
    stream.reset()
    chunks = decoded(stream, data, lengths)
    sound = np.concatenate([chunk.sound for chunk in chunks])
    times = np.array([chunk.milliseconds for chunk in chunks])
    spans = np.array([chunk.frames for chunk in chunks]) * 10
    print(
        f"{len(chunks)} chunks of 10 to {10 * LONGEST} ms: {np.median(times):.2f} ms each", end=""
    )
    print(f", real-time factor {times.sum() / spans.sum():.3f}")
    apart = float(abs(sound - whole).max() / abs(whole).max())
    print(f"Largest difference to the whole signal at once: {apart:.1e} of the largest sample")
    draw(options.output, chunks)
    print(f"Saved {options.output}")
    return int(not apart <= CLOSE)


if __name__ == "__main__":
    sys.exit(main())
