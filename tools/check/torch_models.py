#!/usr/bin/env python3
"""Do networks that others wrote give the same with clconv as without it?

    CLCONV_DEVICE=Intel python tools/check/torch_models.py [network …]

Needs the packages in the table that it prints: transformers, seisbench, braindecode, asteroid,
tsai, diffwave, torch-ecg, mambapy, pytorch-tcn, julius, torchaudio, silero-vad. Small networks with
random weights, each beside itself unconverted: results and all gradients within float32's accuracy;
the state dict of one loaded into the other; pickled; compiled and exported. "PyTorch" stands where
the network as its package builds it cannot do it either. `--inductor` compiles by PyTorch's default
compiler, which takes minutes, not by aot_eager.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from clconv.torch import convert, patched, report

ATTENTION = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}


class First(nn.Module):
    """Gives the first tensor of what a network gives, or one by name."""

    def __init__(self, network: nn.Module, name: str | None = None, **arguments: Any) -> None:
        super().__init__()
        self.network, self.name, self.arguments = network, name, arguments

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        found = self.network(*inputs, **self.arguments)
        if self.name is not None:
            return getattr(found, self.name)
        return found if isinstance(found, torch.Tensor) else found[0]


def _hugging(name: str, **config: Any) -> Any:
    """A network of transformers, small."""
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**config))


def wav2vec2() -> Any:
    return First(_hugging(
        "Wav2Vec2Model", **ATTENTION, intermediate_size=48, conv_dim=(16, 16), conv_stride=(5, 2),
        conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    ))  # fmt: skip


def whisper() -> Any:
    return First(_hugging(
        "WhisperModel", d_model=32, encoder_layers=2, encoder_attention_heads=2, decoder_layers=1,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=50,
        max_source_positions=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    ).encoder)  # fmt: skip


def _codec(name: str, **config: Any) -> Any:
    """Encoder and decoder without what rounds between them."""
    model = _hugging(name, **config)
    return nn.Sequential(First(model.encoder), First(model.decoder))


def encodec() -> Any:
    return _codec(
        "EncodecModel", num_filters=4, hidden_size=16, upsampling_ratios=[4, 2], num_lstm_layers=1
    )


def dac() -> Any:
    return _codec(
        "DacModel", encoder_hidden_size=8, decoder_hidden_size=32, downsampling_ratios=[2, 4],
        upsampling_ratios=[4, 2],
    )  # fmt: skip


def mimi() -> Any:
    return _codec(
        "MimiModel", num_filters=4, hidden_size=16, upsampling_ratios=[4, 2], upsample_groups=16,
        num_hidden_layers=1, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip


def hifigan() -> Any:
    return _hugging(
        "SpeechT5HifiGan", model_in_dim=20, upsample_initial_channel=32, upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8], initializer_range=0.1,
    )  # fmt: skip


def vits() -> Any:
    return First(_hugging(
        "VitsModel", **ATTENTION, ffn_dim=48, flow_size=16, spectrogram_bins=17,
        upsample_initial_channel=32, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        duration_predictor_filter_channels=16, prior_encoder_num_flows=2,
        posterior_encoder_num_wavenet_layers=2, noise_scale=0.0, noise_scale_duration=0.0,
    ))  # fmt: skip


def moonshine() -> Any:
    import transformers

    config = transformers.MoonshineStreamingEncoderConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, sliding_windows=((4, 1), (4, 0)),
    )  # fmt: skip
    from transformers.models.moonshine_streaming import modeling_moonshine_streaming as module

    return First(module.MoonshineStreamingEncoder(config))


def voxtral() -> Any:
    from transformers.models.voxtral_realtime import configuration_voxtral_realtime as configs
    from transformers.models.voxtral_realtime import modeling_voxtral_realtime as module

    config = configs.VoxtralRealtimeEncoderConfig(
        **ATTENTION, intermediate_size=48, num_mel_bins=20, head_dim=16, sliding_window=10
    )
    return First(module.VoxtralRealtimeEncoder(config), use_cache=False)


def mamba() -> Any:
    return First(_hugging(
        "MambaModel", vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4,
        use_cache=False,
    ))  # fmt: skip


def mambapy() -> Any:
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=16, n_layers=2))


def inception_time() -> Any:
    from tsai.models.InceptionTime import InceptionTime

    return InceptionTime(2, 3, nf=8)


def resnet() -> Any:
    from tsai.models.ResNet import ResNet

    return ResNet(2, 3)


def usleep() -> Any:
    from braindecode.models import USleep

    return USleep(n_chans=2, sfreq=128, n_times=1024, n_outputs=3, depth=4)


def bdtcn() -> Any:
    from braindecode.models import BDTCN

    return BDTCN(n_chans=3, n_times=100, n_outputs=2, n_blocks=3, n_filters=8)


def phasenet() -> Any:
    from seisbench.models import PhaseNet

    return PhaseNet()


def eqtransformer() -> Any:
    from seisbench.models import EQTransformer

    return First(EQTransformer(in_samples=1024, lstm_blocks=1))


def conv_tasnet() -> Any:
    from asteroid.models import ConvTasNet

    size = {"n_repeats": 1, "n_blocks": 3, "bn_chan": 16, "hid_chan": 32, "skip_chan": 16}
    return ConvTasNet(2, n_filters=32, **size)


def diffwave() -> Any:
    from diffwave.model import DiffWave
    from diffwave.params import AttrDict
    from diffwave.params import params as defaults

    small = AttrDict({**defaults, "residual_channels": 8, "residual_layers": 4, "n_mels": 20})

    class AtStepFive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = DiffWave(small)
            nn.init.normal_(self.network.output_projection.weight)  # zeros

        def forward(self, x: torch.Tensor, spectrogram: torch.Tensor) -> torch.Tensor:
            return self.network(x, spectrogram, torch.full(x.shape[:1], 5))

    return AtStepFive()


def ecg() -> Any:
    from torch_ecg.models import ECG_CRNN

    return ECG_CRNN(classes=["N", "A"], n_leads=2)


def tcn() -> Any:
    from pytorch_tcn import TCN

    return TCN(4, [8] * 3, kernel_size=3, causal=True)


def resample() -> Any:
    from torchaudio.transforms import Resample

    return Resample(16000, 11025)


def low_pass() -> Any:
    from julius import LowPassFilters

    return LowPassFilters([0.1, 0.2], fft=False)


def silero() -> Any:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    import silero_vad

    return silero_vad.Front(silero_vad.load())


def noise(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.randn(shape),)


def ids(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.randint(1, 38, shape),)


# By name: package, network, inputs. Those that call functions run in `patched`.
NETWORKS: dict[str, tuple[str, Callable[[], Any], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "Wav2Vec2": ("transformers", wav2vec2, noise(2, 800)),
    "Whisper's encoder": ("transformers", whisper, noise(2, 80, 100)),
    "EnCodec": ("transformers", encodec, noise(2, 1, 320)),
    "DAC": ("transformers", dac, noise(2, 1, 320)),
    "Mimi": ("transformers", mimi, noise(2, 1, 320)),
    "SpeechT5's HiFi-GAN": ("transformers", hifigan, noise(2, 10, 20)),
    "VITS": ("transformers", vits, ids(1, 8)),
    "Moonshine, streaming": ("transformers", moonshine, noise(2, 1600)),
    "Voxtral, realtime": ("transformers", voxtral, noise(2, 20, 32)),
    "Mamba": ("transformers", mamba, ids(2, 12)),
    "Mamba of mambapy": ("mambapy", mambapy, noise(2, 12, 16)),
    "InceptionTime": ("tsai", inception_time, noise(2, 2, 60)),
    "ResNet": ("tsai", resnet, noise(2, 2, 60)),
    "U-Sleep": ("braindecode", usleep, noise(2, 2, 1024)),
    "BDTCN": ("braindecode", bdtcn, noise(2, 3, 100)),
    "PhaseNet": ("seisbench", phasenet, noise(1, 3, 3001)),
    "EQTransformer": ("seisbench", eqtransformer, noise(2, 3, 1024)),
    "Conv-TasNet": ("asteroid", conv_tasnet, noise(2, 800)),
    "DiffWave": ("diffwave", diffwave, lambda: (torch.randn(2, 512), torch.randn(2, 20, 2))),
    "CRNN": ("torch-ecg", ecg, noise(2, 2, 400)),
    "TCN": ("pytorch-tcn", tcn, noise(2, 4, 40)),
    "Silero VAD's encoder": ("silero-vad", silero, noise(2, 576)),
    "Resample": ("torchaudio", resample, noise(2, 400)),
    "LowPassFilters": ("julius", low_pass, noise(2, 400)),
}
PATCHED = {"Mamba", "Resample", "LowPassFilters"}


def near(found: torch.Tensor, true: torch.Tensor, whole: float = 0.0) -> None:
    """ValueError unless they differ by no more than float32's sums in another order."""
    if found.shape != true.shape:
        raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(true.shape)}")
    found, true = found.detach(), true.detach()
    away = float((found - true).norm())
    if not away <= 1e-3 * float(true.norm()) + 1e-5 * whole:
        raise ValueError(f"differ by {away:.1e} of {float(true.norm()):.1e}")


def result(model: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What a network gives; those with noise draw the same."""
    torch.manual_seed(1)
    return model(*inputs)


def gradients(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """Of all parameters and inputs, by name."""
    own = tuple(one.clone().requires_grad_() if one.is_floating_point() else one for one in inputs)
    wanted = {name: one for name, one in model.named_parameters() if one.requires_grad}
    wanted |= {f"input {i}": one for i, one in enumerate(own) if one.requires_grad}
    y = result(model, own)
    torch.manual_seed(2)
    found = torch.autograd.grad((y * torch.randn_like(y)).sum(), [*wanted.values()],
                                allow_unused=True)  # fmt: skip
    return {n: g for n, g in zip(wanted, found, strict=True) if g is not None}


class Pair:
    """A network as its package builds it, and converted."""

    def __init__(self, name: str) -> None:
        self.package, self.build, make = NETWORKS[name]
        torch.manual_seed(0)
        self.theirs = self.build().eval()
        self.ours = self.build().eval()
        self.ours.load_state_dict(self.theirs.state_dict())
        self.converted = convert(self.ours)
        self.inputs = make()
        self.true = result(self.theirs, self.inputs).detach()
        self.true_gradients = gradients(self.theirs, self.inputs)
        self.on_clconv: Any = patched if name in PATCHED else contextlib.nullcontext

    def where(self) -> str:
        """How many of the convolutions that it computes, it computes on clconv."""
        with self.on_clconv():
            torch.manual_seed(1)
            found = [one for one in report(self.ours, self.inputs) if one.where != "nowhere"]
        return f"{sum(one.where == 'clconv' for one in found)} of {len(found)}"

    def results(self, model: nn.Module) -> None:
        near(result(model, self.inputs), self.true)

    def gradients(self, model: nn.Module) -> None:
        found = gradients(model, self.inputs)
        if model is self.theirs:
            return
        true = self.true_gradients
        if set(found) != set(true):
            raise ValueError(f"gradients of {set(found) ^ set(true)}")
        whole = float(torch.cat([one.flatten() for one in true.values()]).norm())
        for name, one in true.items():
            near(found[name], one, whole)

    def state_dict(self, model: nn.Module) -> None:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = self.build().eval()
        other.load_state_dict(torch.load(file))
        near(result(other, self.inputs), self.true)

    def pickle(self, model: nn.Module) -> None:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        near(result(torch.load(file, weights_only=False), self.inputs), self.true)

    def compile(self, model: nn.Module) -> None:
        torch._dynamo.reset()
        near(result(torch.compile(model, backend=BACKEND), self.inputs), self.true)

    def export(self, model: nn.Module) -> None:
        torch.manual_seed(1)
        near(result(torch.export.export(model, self.inputs).module(), self.inputs), self.true)

    def tried(self, check: Callable[[nn.Module], None]) -> str:
        """yes, PyTorch (where the network can't do it either), or why not."""
        try:
            with self.on_clconv():
                check(self.ours)
        except Exception as error:  # whatever a package's code may raise
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            try:
                check(self.theirs)
            except Exception as theirs:
                if not isinstance(theirs, ValueError):
                    return "PyTorch"
            return f"NO ({said})"
        return "yes"


CHECKS = ("results", "gradients", "state_dict", "pickle", "compile", "export")
BACKEND = "aot_eager"


def main() -> int:
    """Prints a line for each network; 1 if something is not as without clconv."""
    global BACKEND
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=[*NETWORKS], metavar="network")
    parser.add_argument("--inductor", action="store_true")
    chosen = parser.parse_args()
    if chosen.inductor:
        BACKEND = "inductor"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"| network | package | on clconv | {' | '.join(CHECKS).replace('_', ' ')} |")
    print(f"|---|---|---|{'---|' * len(CHECKS)}")
    wrong = False
    for name in chosen.networks:
        try:
            pair = Pair(name)
            where = pair.where()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            wrong = True
            continue
        version = importlib.metadata.version(pair.package)
        cells = [pair.tried(getattr(pair, check)) for check in CHECKS]
        wrong |= any(one.startswith("NO") for one in cells)
        print(f"| {name} | {pair.package} {version} | {where} | {' | '.join(cells)} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
