#!/usr/bin/env python3
"""Do models of transformers give the same with `use_in_transformers` as without it?

    CLCONV_DEVICE=AMD python tools/check/transformers_models.py [family …]

Needs transformers 5.24 or later. Small models with random weights: outputs and all gradients of a
batch within float32's accuracy, the same tokens generated one by one with states, and calls of
clconv in each. Then lists the modules of transformers that have the functions at all. `--times`
adds seconds of a forward pass and of a step of Mamba's smallest size with and without it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from clconv.torch import in_transformers, use_in_transformers

try:
    import transformers
except ModuleNotFoundError:
    transformers = None

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
# Of each family its config and what makes it small.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"state_size": 4}),
    "falcon_mamba": ("FalconMamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "lfm2": ("Lfm2", {**ATTENTION, "layer_types": ["conv", "full_attention"]}),
    "falcon_h1": (
        "FalconH1",
        {**ATTENTION, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
    ),
    "bamba": (
        "Bamba",
        {**ATTENTION, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4,
         "attn_layer_indices": [1]},
    ),
    "jamba": (
        "Jamba",
        {**ATTENTION, "mamba_d_state": 4, "mamba_dt_rank": 4, "num_experts": 2,
         "attn_layer_offset": 1, "attn_layer_period": 2, "use_mamba_kernels": False},
    ),
    "qwen3_next": (
        "Qwen3Next",
        {**ATTENTION, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "num_experts": 4, "moe_intermediate_size": 16,
         "shared_expert_intermediate_size": 16, "num_experts_per_tok": 2},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {**ATTENTION, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4,
         "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
         "shared_intermediate_size": 16},
    ),
    "lfm2_moe": (
        "Lfm2Moe",
        {**ATTENTION, "layer_types": ["conv", "full_attention"], "moe_intermediate_size": 16,
         "num_experts": 2, "num_experts_per_tok": 1, "num_dense_layers": 1},
    ),
    "nemotron_h": (
        "NemotronH",
        {**ATTENTION, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8,
         "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 2, "head_dim": 8},
    ),
    "zamba2": (
        "Zamba2",
        {**ATTENTION, "mamba_d_state": 4, "mamba_ngroups": 1, "n_mamba_heads": 8,
         "mamba_headdim": 8, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1},
    ),
    "qwen3_5": (
        "Qwen3_5",
        {**ATTENTION, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4},
    ),
}  # fmt: skip
# A step of training of float32: sums of some hundred terms, in other orders.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


def results(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, list[Any], torch.Tensor]:
    """Outputs, gradients of all parameters, and generated tokens."""
    model.zero_grad()
    found = model(tokens, labels=tokens)
    found.loss.backward()
    grads = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    with torch.no_grad():
        made = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False
        )
    return found.logits.detach(), grads, made


def check(family: str, counts: tuple[Counted, Counted]) -> bool:
    """Prints a line; whether all is as it should be."""
    name, small = FAMILIES[family]
    kind = getattr(transformers, f"{name}TextConfig", None) or getattr(
        transformers, f"{name}Config"
    )
    config = kind(**SMALL, **small)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    tokens = torch.randint(0, 50, (2, 13))
    plain = results(model, tokens)
    for one in counts:
        one.calls = 0
    with use_in_transformers():
        ours = results(model, tokens)
    calls = [one.calls for one in counts]
    results(model, tokens)
    right = (
        all(calls)
        and calls == [one.calls for one in counts]
        and torch.allclose(ours[0], plain[0], **CLOSE)
        and all(
            a is b is None or torch.allclose(a, b, **CLOSE)
            for a, b in zip(ours[1], plain[1], strict=True)
        )
        and torch.equal(ours[2], plain[2])
    )  # fmt: skip
    print(f"{family}: {'the same' if right else 'NOT THE SAME'}, calls {calls}", flush=True)
    return right


def seconds(function: Callable[[], Any]) -> tuple[float, float]:
    """Of a call without and with clconv, medians of some that take turns."""
    took: tuple[list[float], list[float]] = [], []
    for _ in range(7):
        for place in (0, 1):
            switch = use_in_transformers() if place else None
            start = time.perf_counter()
            function()
            took[place].append(time.perf_counter() - start)
            if switch is not None:
                switch.undo()
    return statistics.median(took[0][1:]), statistics.median(took[1][1:])


def times() -> None:
    """Prints those of Mamba 130M's layers, two of its 24, without and with clconv."""
    config = transformers.MambaConfig(num_hidden_layers=2, vocab_size=1000)
    model = transformers.MambaModel(config).eval()
    tokens = torch.randint(0, 1000, (1, 512))
    with torch.no_grad():
        cache = model(tokens, use_cache=True)

        def step() -> None:
            model(tokens[:, :1], cache_params=cache.cache_params, use_cache=True)

        def whole() -> None:
            model(tokens)

        for name, function in (("512 tokens", whole), ("one token", step)):
            without, ours = seconds(function)
            print(f"Mamba, 2 layers, {name}: {1e3 * without:.2f} ms, with clconv {1e3 * ours:.2f}")


def main() -> int:
    """Prints what was found; 1 if anything was not the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="family")
    parser.add_argument("--times", action="store_true")
    chosen = parser.parse_args()
    if transformers is None:
        sys.exit("transformers is missing: pip install 'transformers>=5.24'")
    transformers.logging.set_verbosity_error()
    counts = tuple(Counted(getattr(in_transformers, name)) for name in in_transformers.NAMES)
    for name, one in zip(in_transformers.NAMES, counts, strict=True):
        setattr(in_transformers, name, one)
    right = [check(family, counts) for family in chosen.families]
    folder = Path(transformers.__file__).parent / "models"
    having = [
        path.parent.name
        for path in sorted(folder.glob("*/modeling_*.py"))
        if "def causal_conv1d_fn(" in path.read_text()
    ]
    print(f"transformers {transformers.__version__}: {len(having)} have them: {', '.join(having)}")
    if chosen.times:
        times()
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
