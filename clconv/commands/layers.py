"""Which layers are measured: the public set, a file's, and random ones of realistic sizes."""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from clconv.errors import ProblemError
from clconv.geometry import Geometry
from clconv.problem import Conv1dProblem, Pass

PASSES = ("forward", "backward")
# Shapes that real 1-D networks and filters use: the public benchmark set.
# fmt: off
LAYERS = [
    # name                  N   Cin      L   Cout     K  s    p    d     g
    ("seed_example",        1,    1,    10,     2,    2, 1,   0,   1,    1),
    ("wav2vec2_conv0",      1,    1, 80000,   512,   10, 5,   0,   1,    1),
    ("wav2vec2_conv2",      1,  512,  7999,   512,    3, 2,   0,   1,    1),
    ("wav2vec2_pos",        1,  768,   499,   768,  128, 1,  64,   1,   16),
    ("whisper_conv1",       1,   80,  3000,   384,    3, 1,   1,   1,    1),
    ("whisper_conv2",       1,  384,  3000,   384,    3, 2,   1,   1,    1),
    ("wavenet_dil512",      1,   64, 16000,   128,    2, 1,   0, 512,    1),
    ("tasnet_dw_d128",      4,  512,  3200,   512,    3, 1, 128, 128,  512),
    ("tasnet_pw",           4,  128,  3200,   512,    1, 1,   0,   1,    1),
    ("hifigan_c256_k11d5",  1,  256,  2560,   256,   11, 1,  25,   5,    1),
    ("hifigan_c32_k11",     1,   32, 81920,    32,   11, 1,   5,   1,    1),
    ("hifigan_post",        1,   32, 81920,     1,    7, 1,   3,   1,    1),
    ("encodec_in",          1,    1, 48000,    32,    7, 1,   3,   1,    1),
    ("encodec_down",        1,   32, 48000,    64,    4, 2,   1,   1,    1),
    ("quartznet_dw33",     16,  256,   800,   256,   33, 1,  16,   1,  256),
    ("jasper_k11",          4,  256,   800,   256,   11, 1,   5,   1,    1),
    ("mamba_dw4",           1, 2048,  2048,  2048,    4, 1,   3,   1, 2048),
    ("tcn_k7",             32,   25,   784,    25,    7, 1,   6,   1,    1),
    ("inception_k39",      64,   32,   150,    32,   39, 1,  19,   1,    1),
    ("ecg_resnet_k17",     16,   12,  4096,    64,   17, 1,   8,   1,    1),
    ("kimcnn_k5",          50,  300,    56,   100,    5, 1,   0,   1,    1),
    ("basset_k19",         16,    4,  1000,   300,   19, 1,   9,   1,    1),
    ("sincnet_k251",        8,    1, 16000,    80,  251, 1,   0,   1,    1),
    ("fir_k1025",           8,    1, 48000,     1, 1025, 1, 512,   1,    1),
    ("group4_k5",           8,  128,  1024,   128,    5, 1,   2,   1,    4),
    ("stream_small",        1,   64,   128,    64,    3, 1,   1,   1,    1),
]
# fmt: on
# Layers below this much forward work measure a call's overhead; means leave them out.
TINY_FLOPS = 5e6
# Dense layers have this many channels a group on both sides, and this much forward work.
DENSE_CHANNELS = 16
DENSE_FLOPS = 1e8
# What random layers have: forward work, and bytes of all arrays of the backward pass.
RANDOM_FLOPS = (2e7, 5e9)
RANDOM_BYTES = 300e6


@dataclass(frozen=True)
class Layer:
    """A layer of float32, by a name: one row of a list LAYERS."""

    name: str
    batch: int
    in_channels: int
    length: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def problem(self) -> Conv1dProblem:
        """What clconv computes. Raises ProblemError where no such convolution exists."""
        return Conv1dProblem(*astuple(self)[1:])

    @property
    def is_tiny(self) -> bool:
        """So little work that a call's overhead counts."""
        return self.flops("forward") < TINY_FLOPS

    @property
    def is_dense(self) -> bool:
        """Enough channels and work to reach a device's peak."""
        channels = min(self.in_channels, self.out_channels) // self.groups
        return channels >= DENSE_CHANNELS and self.flops("forward") >= DENSE_FLOPS

    @property
    def is_depthwise(self) -> bool:
        """Each input channel has outputs of its own."""
        return self.groups == self.in_channels > 1

    def flops(self, pass_: str) -> float:
        """Operations of a pass, two a tap; backward is the gradients of input and weight."""
        problem = self.problem
        forward = 2.0 * int(np.prod(problem.output_shape)) * problem.terms(Pass.FORWARD)
        return forward * (1 if pass_ == "forward" else 2)

    def nbytes(self, pass_: str) -> int:
        """Bytes of the pass's arrays, once each; backward reads three and writes three."""
        problem = self.problem
        shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
        x, weight, y = (4 * int(np.prod(shape)) for shape in shapes)
        if pass_ == "forward":
            return x + weight + y
        return 2 * (x + weight) + y + 4 * self.out_channels

    def tensors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, weight and the output's gradient, the same in every process."""
        rng = np.random.default_rng(1)
        problem = self.problem
        shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
        x, weight, grad = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        return x, weight, grad


def load(path: str | None = None) -> list[Layer]:
    """The layers of a Python file with a list LAYERS; without one the public set.

    Raises ValueError that says what is wrong with the file.
    """
    if path is None:
        return [Layer(*row) for row in LAYERS]
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file")
    try:
        rows = runpy.run_path(path)["LAYERS"]
    except (KeyError, SyntaxError) as error:
        raise ValueError(f"{path} is no Python file with a list LAYERS: {error!r}") from error
    if not rows:
        raise ValueError(f"{path} has no layers: its list LAYERS is empty")
    layers = []
    for row in rows:
        try:
            layers.append(Layer(*row))
            layers[-1].problem  # noqa: B018  # raises where it is none
        except (TypeError, ProblemError) as error:
            raise ValueError(f"{path} has the row {row!r}: {error}") from error
    return layers


# Random layers

Draw = Callable[[int, int], int]

# What each family has instead of a dense layer's sizes.
FAMILIES: dict[str, Callable[[Draw, Draw], dict[str, int]]] = {
    "dense": lambda draw, channels: {},
    "downsampling": lambda draw, channels: {
        "stride": (stride := draw(2, 8)), "kernel_size": stride * draw(1, 3),
    },
    "dilated": lambda draw, channels: {"dilation": 2 ** draw(1, 9), "kernel_size": draw(2, 5)},
    "depthwise": lambda draw, channels: {
        "in_channels": (many := channels(32, 2048)), "out_channels": many, "groups": many,
        "kernel_size": draw(3, 64), "stride": draw(1, 2),
    },
    "grouped": lambda draw, channels: {
        "groups": (groups := 2 ** draw(1, 5)), "in_channels": groups * draw(4, 64),
        "out_channels": groups * draw(4, 64),
    },
    "pointwise": lambda draw, channels: {"kernel_size": 1},
    "first": lambda draw, channels: {
        "in_channels": draw(1, 4), "length": draw(1000, 160000), "kernel_size": draw(3, 64),
        "stride": draw(1, 5),
    },
    "one_output": lambda draw, channels: {"out_channels": 1, "length": draw(2000, 160000)},
    "fir": lambda draw, channels: {
        "in_channels": 1, "out_channels": 1, "length": draw(8000, 160000),
        "kernel_size": draw(129, 4097),
    },
    "short": lambda draw, channels: {
        "batch": draw(32, 512), "length": draw(8, 128), "kernel_size": draw(2, 9),
    },
}  # fmt: skip


def random_layers(count: int, seed: int) -> list[Layer]:
    """Layers of all families in turn, the same for the same seed; a longer list begins alike."""
    families = list(FAMILIES)
    return [_random(i, families[i % len(families)], seed) for i in range(count)]


def _random(place: int, family: str, seed: int) -> Layer:
    rng = random.Random(f"{seed}, {place}")

    def draw(least: int, most: int) -> int:
        """Log-uniform."""
        return min(most, int(least * ((most + 1) / least) ** rng.random()))

    def channels(least: int, most: int) -> int:
        """As drawn, or as networks like them: a multiple of 16."""
        drawn = draw(least, most)
        return drawn if rng.random() < 0.3 else max(16, drawn // 16 * 16)

    while True:
        sizes = {
            "batch": draw(1, 16), "in_channels": channels(16, 768), "length": draw(100, 50000),
            "out_channels": channels(16, 768), "kernel_size": draw(2, 15), "stride": 1,
            "dilation": 1, "groups": 1,
        }  # fmt: skip
        sizes |= FAMILIES[family](draw, channels)
        padding, _ = Geometry(padding="same", dilation=sizes["dilation"]).pads(sizes["kernel_size"])
        layer = Layer(f"random_{place:02d}_{family}", padding=padding, **sizes)
        # Padding of half a window leaves an output position of any length.
        if (
            RANDOM_FLOPS[0] <= layer.flops("forward") <= RANDOM_FLOPS[1]
            and layer.nbytes("backward") < RANDOM_BYTES
        ):
            return layer
