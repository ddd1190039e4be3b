"""Which public networks does benchmark_models measure? Each is as its package builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmark_models_worker import Network


def noise(channels: int) -> Callable[[int, int], tuple[Any, ...]]:
    """Inputs of that many channels."""

    def inputs(batch: int, length: int) -> tuple[Any, ...]:
        import torch

        return (torch.randn(batch, channels, length),)

    return inputs


def rows(features: int) -> Callable[[int, int], tuple[Any, ...]]:
    """The same for networks whose features come last."""

    def inputs(batch: int, length: int) -> tuple[Any, ...]:
        import torch

        return (torch.randn(batch, length, features),)

    return inputs


def samples(batch: int, length: int) -> tuple[Any, ...]:
    """Series without an axis of channels."""
    import torch

    return (torch.randn(batch, length),)


def samples_and_spectrogram(batch: int, length: int) -> tuple[Any, ...]:
    """The same, and 80 mel bands for each 256 samples."""
    import torch

    return torch.randn(batch, length), torch.randn(batch, 80, length // 256)


def hifigan() -> Any:
    """The generator of SpeechT5, 80 mel bands to 16 kHz."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    # Weights of the default deviation, 0.01, let the signal fade to 1e-5.
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(initializer_range=0.03))


def encodec(part: str) -> Callable[[], Any]:
    """Half of EnCodec, 24 kHz."""

    def build() -> Any:
        from transformers import EncodecConfig, EncodecModel

        return getattr(EncodecModel(EncodecConfig()), part)

    return build


def dac(part: str) -> Callable[[], Any]:
    """Half of the Descript Audio Codec, 16 kHz."""

    def build() -> Any:
        from transformers import DacConfig, DacModel

        return getattr(DacModel(DacConfig()), part)

    return build


def wav2vec2() -> Any:
    """The feature encoder, 16 kHz."""
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

    return Wav2Vec2FeatureEncoder(Wav2Vec2Config())


def conv_tasnet() -> Any:
    """Two speakers, 8 kHz, the paper's best size."""
    from asteroid.models import ConvTasNet

    return ConvTasNet(2, sample_rate=8000)


def diffwave() -> Any:
    """A WaveNet with dilations of 1 to 512 that are not causal, 22 kHz."""
    import torch
    from diffwave.model import DiffWave
    from diffwave.params import AttrDict, params
    from torch import nn

    class AtStepFive(nn.Module):
        """Is told the step."""

        def __init__(self) -> None:
            super().__init__()
            self.network = DiffWave(AttrDict(params))

        def forward(self, x: Any, spectrogram: Any) -> Any:
            return self.network(x, spectrogram, torch.full(x.shape[:1], 5))

    return AtStepFive()


def tcn() -> Any:
    """Dilations of 1 to 128. Its layers have a forward of their own, which `convert` leaves."""
    from pytorch_tcn import TCN

    return TCN(32, [64] * 8, kernel_size=5)


def inception_time() -> Any:
    """Six modules of 32 filters of 40, 20 and 10."""
    from tsai.models.InceptionTime import InceptionTime

    return InceptionTime(1, 5)


def fcn() -> Any:
    """Of Wang, Yan and Oates."""
    from tsai.models.FCN import FCN

    return FCN(1, 5)


def mamba() -> Any:
    """Two layers, scans in parallel; the one of transformers never calls its convolutions."""
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=256, n_layers=2))


def phasenet() -> Any:
    """Earthquakes' phases on three components."""
    from seisbench.models import PhaseNet

    return PhaseNet()


def unet() -> Any:
    """Diffusers' default size, with the time embedding of Dance Diffusion."""
    from diffusers import UNet1DModel
    from torch import nn

    class AtStepFive(nn.Module):
        """Has the series as its one argument."""

        def __init__(self) -> None:
            super().__init__()
            self.network = UNet1DModel(8192, extra_in_channels=16, time_embedding_dim=16)

        def forward(self, x: Any) -> Any:
            return self.network(x, 5).sample

    return AtStepFive()


def ecg_resnet() -> Any:
    """Of Ribeiro et al., twelve leads at 400 Hz."""
    from torch_ecg.model_configs import resnet_nature_comm
    from torch_ecg.models import ResNet

    return ResNet(12, **resnet_nature_comm)


NETWORKS = [
    Network("hifigan", "transformers", hifigan, rows(80), 32, 2),
    Network("encodec_encoder", "transformers", encodec("encoder"), noise(1), 24000, 4, 320),
    Network("encodec_decoder", "transformers", encodec("decoder"), noise(128), 75, 2),
    Network("dac_encoder", "transformers", dac("encoder"), noise(1), 8192, 2, 512),
    Network("dac_decoder", "transformers", dac("decoder"), noise(1024), 8, 2),
    Network("wav2vec2_features", "transformers", wav2vec2, samples, 16000, 8),
    Network("conv_tasnet", "asteroid", conv_tasnet, noise(1), 8000, 2),
    Network("diffwave", "diffwave", diffwave, samples_and_spectrogram, 8192, 2, 256),
    Network("tcn", "pytorch-tcn", tcn, noise(32), 1000, 16),
    Network("inception_time", "tsai", inception_time, noise(1), 500, 16),
    Network("fcn", "tsai", fcn, noise(1), 500, 16),
    Network("mamba", "mambapy", mamba, rows(256), 256, 4),
    Network("phasenet", "seisbench", phasenet, noise(3), 3001, 16, fixed="it crops what fits 3001"),
    Network("unet1d", "diffusers", unet, noise(2), 8192, 2, 64),
    Network("ecg_resnet", "torch-ecg", ecg_resnet, noise(12), 4096, 8),
]
