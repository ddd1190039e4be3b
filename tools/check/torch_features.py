#!/usr/bin/env python3
"""Does opacus find the same gradients of each sample in a converted model?

    CLCONV_DEVICE=Intel python tools/check/torch_features.py

Needs opacus. A small network with random weights, converted, by each of opacus's ways to find
gradients of each sample, beside the network unconverted; then a step of its optimizer that clips
them, without noise.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from clconv.torch import convert

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def network() -> nn.Module:
    """Layers that opacus takes. It has no way of its own for the transposed one."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, padding="same"), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv1d(8, 8, 3, stride=2, padding=1, groups=4), nn.ReLU(),
        nn.ConvTranspose1d(8, 2, 4, stride=2),
    )  # fmt: skip


def of_each_sample(model: nn.Module, way: str, x: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of a loss that is a mean."""
    from opacus.grad_sample import wrap_model

    wrapped = wrap_model(model, grad_sample_mode=way)
    wrapped(x).square().mean(dim=(1, 2)).mean().backward()
    return [one.grad_sample for one in model.parameters()]


def private_step(model: nn.Module, way: str, x: torch.Tensor) -> list[torch.Tensor]:
    """The parameters after a step of opacus's optimizer."""
    import opacus

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=len(x))
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    model, steps, _ = opacus.PrivacyEngine().make_private(
        module=model, optimizer=steps, data_loader=data, noise_multiplier=0.0, max_grad_norm=0.1,
        poisson_sampling=False, grad_sample_mode=way,
    )  # fmt: skip
    model(x).square().mean(dim=(1, 2)).mean().backward()
    steps.step()
    return [one.detach() for one in model.parameters()]


def main() -> int:
    """Prints a line for each way; 1 if anything is not the same."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    try:
        import opacus
    except ModuleNotFoundError:
        sys.exit("opacus is missing: pip install opacus")
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    x = torch.randn(6, 2, 40)
    right = True
    checks: dict[str, Callable[..., list[torch.Tensor]]] = {
        "gradients of each sample": of_each_sample,
        "a step that clips": private_step,
    }
    print(f"opacus {opacus.__version__}, PyTorch {torch.__version__}")
    for said, check in checks.items():
        true = check(network(), "hooks", x)
        for way in ("hooks", "functorch", "ew"):
            ours = network()
            convert(ours)
            found = check(ours, way, x)
            same = all(torch.allclose(*both, **CLOSE) for both in zip(found, true, strict=True))
            right &= same
            print(f'{said}, "{way}": {"the same" if same else "NOT THE SAME"}', flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
