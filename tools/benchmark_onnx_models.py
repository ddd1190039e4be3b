"""1-D networks of the kinds that people export to ONNX, small enough to build here; needs PyTorch.

Weights are random, and so are the statistics of normalisations. NETWORKS has them by name, each
with the shape of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

SEED = 20240229


class Chomp(nn.Module):
    """Cuts the last positions off, as TCNs do after padding both ends."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.count]


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def tcn(channels: int = 64, levels: int = 6) -> nn.Module:
    """A temporal convolutional network (Bai et al. 2018)."""
    layers: list[nn.Module] = []
    before = 16
    for level in range(levels):
        pad = 2 * 2**level
        body = []
        for given in (before, channels):
            body += [nn.Conv1d(given, channels, 3, padding=pad, dilation=2**level), Chomp(pad),
                     nn.ReLU()]  # fmt: skip
        shortcut = nn.Conv1d(before, channels, 1) if before != channels else nn.Identity()
        layers.append(Residual(nn.Sequential(*body), shortcut))
        before = channels
    return nn.Sequential(*layers, nn.Conv1d(channels, 10, 1))


def resnet() -> nn.Module:
    """A residual network with batch normalisations and a classifier."""

    def block(before: int, after: int, stride: int) -> nn.Module:
        body = nn.Sequential(
            nn.Conv1d(before, after, 3, stride, 1, bias=False), nn.BatchNorm1d(after), nn.ReLU(),
            nn.Conv1d(after, after, 3, 1, 1, bias=False), nn.BatchNorm1d(after),
        )  # fmt: skip
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            shortcut = nn.Sequential(
                nn.Conv1d(before, after, 1, stride, bias=False), nn.BatchNorm1d(after)
            )
        return Residual(body, shortcut)

    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
    return nn.Sequential(
        nn.Conv1d(12, 64, 15, 2, 7, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        nn.MaxPool1d(3, 2, 1), *(block(*one) for one in sizes), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(256, 27),
    )  # fmt: skip


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip connections (van den Oord et al. 2016)."""

    def __init__(self, channels: int = 32, layers: int = 20) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, channels, 1)
        self.gated = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, 3, padding=2 ** (i % 10), dilation=2 ** (i % 10))
            for i in range(layers)
        )
        self.after = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skip = torch.zeros_like(x)
        for gated, after in zip(self.gated, self.after, strict=True):
            a, b = gated(x).chunk(2, dim=1)
            y = after(torch.tanh(a) * torch.sigmoid(b))
            x, skip = x + y, skip + y
        return self.last(skip)


class UNet(nn.Module):
    """A U-Net: strides down, linear interpolation up, skips joined (Wave-U-Net's kind)."""

    def __init__(self, channels: int = 24, levels: int = 5) -> None:
        super().__init__()
        sizes = [channels * (i + 1) for i in range(levels)]
        before = [1, *sizes[:-1]]
        self.down = nn.ModuleList(nn.Conv1d(a, b, 15, padding=7)
                                  for a, b in zip(before, sizes, strict=True))  # fmt: skip
        self.middle = nn.Conv1d(sizes[-1], sizes[-1] + channels, 15, padding=7)
        above = [*sizes[1:], sizes[-1] + channels]
        self.up = nn.ModuleList(nn.Conv1d(a + b, b, 5, padding=2)
                                for a, b in zip(above, sizes, strict=True))  # fmt: skip
        self.last = nn.Conv1d(channels + 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        given, skips = x, []
        for down in self.down:
            x = nn.functional.leaky_relu(down(x))
            skips.append(x)
            x = x[:, :, ::2]
        x = nn.functional.leaky_relu(self.middle(x))
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2, mode="linear", align_corners=False)
            x = nn.functional.leaky_relu(up(torch.cat([x, skip], dim=1)))
        return torch.tanh(self.last(torch.cat([x, given], dim=1)))


class Inception(nn.Module):
    """A module of InceptionTime (Ismail Fawaz et al. 2020)."""

    def __init__(self, before: int, channels: int = 32) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(before, channels, 1, bias=False)
        self.wide = nn.ModuleList(
            nn.Conv1d(channels, channels, size, padding=size // 2, bias=False)
            for size in (9, 19, 39)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool1d(3, 1, 1), nn.Conv1d(before, channels, 1, bias=False)
        )
        self.norm = nn.BatchNorm1d(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(x)
        found = [one(y) for one in self.wide]
        return torch.relu(self.norm(torch.cat([*found, self.pooled(x)], dim=1)))


def inception_time() -> nn.Module:
    """Two blocks of three modules, and a classifier."""

    def block(before: int) -> nn.Module:
        body = nn.Sequential(Inception(before), Inception(128), Inception(128))
        shortcut = nn.Sequential(nn.Conv1d(before, 128, 1, bias=False), nn.BatchNorm1d(128))
        return Residual(body, shortcut)

    return nn.Sequential(
        block(3), block(128), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 5)
    )


def wav2vec_features(channels: int = 512) -> nn.Module:
    """The convolutions that wav2vec 2.0 makes its features by (Baevski et al. 2020)."""
    layers: list[nn.Module] = []
    sizes = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]
    for i, (size, stride) in enumerate(sizes):
        layers.append(nn.Conv1d(channels if i else 1, channels, size, stride, bias=False))
        if not i:
            layers.append(nn.GroupNorm(channels, channels))
        layers.append(nn.GELU())
    return nn.Sequential(*layers)


class VoiceFront(nn.Module):
    """The front of a detector of voices, of Silero VAD's kind: magnitudes of a short-time Fourier
    transform, which is a convolution, and an encoder of strided ones."""

    def __init__(self, window: int = 256) -> None:
        super().__init__()
        self.window = window
        points = torch.arange(window)
        angles = 2 * torch.pi / window * torch.outer(points[: window // 2 + 1], points)
        both = torch.cat([torch.cos(angles), -torch.sin(angles)])
        self.register_buffer("basis", (both * torch.hann_window(window))[:, None])
        sizes = [(window // 2 + 1, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
        layers: list[nn.Module] = []
        for before, after, stride in sizes:
            layers += [nn.Conv1d(before, after, 3, stride, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, self.window // 4), mode="reflect")
        x = nn.functional.conv1d(x, self.basis, stride=self.window // 2)
        real, imaginary = x.chunk(2, dim=1)
        return self.encoder(torch.sqrt(real**2 + imaginary**2))


def classifier() -> nn.Module:
    """A toy: two layers and a linear one."""
    return nn.Sequential(
        nn.Conv1d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 32, 5, padding=2),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


class Network(NamedTuple):
    """How to build a network, and the shape of its input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]


NETWORKS = {
    "TCN": Network(tcn, (1, 16, 1024)),
    "ResNet": Network(resnet, (1, 12, 2048)),
    "WaveNet": Network(WaveNet, (1, 1, 4096)),
    "U-Net": Network(UNet, (1, 1, 8192)),
    "InceptionTime": Network(inception_time, (1, 3, 512)),
    "wav2vec features": Network(wav2vec_features, (1, 1, 16000)),
    "voice front": Network(VoiceFront, (1, 1, 576)),
    "classifier": Network(classifier, (1, 3, 256)),
    "small TCN": Network(lambda: tcn(16, 3), (1, 16, 128)),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network in inference, with an input; the same each time."""
    torch.manual_seed(SEED)
    network = NETWORKS[name]
    model = network.build().eval()
    for one in model.modules():
        if isinstance(one, (nn.BatchNorm1d, nn.GroupNorm)):
            nn.init.uniform_(one.weight, 0.5, 1.5)
            nn.init.normal_(one.bias, std=0.1)
        if isinstance(one, nn.BatchNorm1d):
            nn.init.normal_(one.running_mean, std=0.1)
            nn.init.uniform_(one.running_var, 0.5, 1.5)
    return model, torch.randn(network.shape)


def export(name: str, path: str, dynamo: bool) -> None:
    """Writes a network as ONNX, by PyTorch's newer exporter or by that of TorchScript."""
    model, x = built(name)
    if dynamo:
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
    else:
        torch.onnx.export(model, (x,), path, dynamo=False)
