"""Networks that others wrote give the same converted, by everything that PyTorch does with them."""

from __future__ import annotations

import pytest
import torch
import torch_models

# Of each network, what it cannot do on PyTorch's own layers either.
NETWORKS: dict[str, set[str]] = {
    "Silero VAD's encoder": set(),
    "TCN": {"pickle"},  # parametrized layers
    "Mamba of mambapy": set(),
    "LowPassFilters": set(),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")  # theirs, of all kinds
def test_networks(first_runtime, name):
    """Results, gradients, state dicts, pickles, compiled and exported: tools/check/torch_models.py
    has more networks."""
    pair = torch_models.Pair(name)
    computed, of = pair.where().split(" of ")
    assert computed == of != "0"
    found = {check: pair.tried(getattr(pair, check)) for check in torch_models.CHECKS}
    expected = dict.fromkeys(torch_models.CHECKS, "yes")
    assert found == expected | dict.fromkeys(NETWORKS[name], "PyTorch")
    torch._dynamo.reset()


def test_a_wrong_result_is_seen(first_runtime):
    pair = torch_models.Pair("TCN")
    with torch.no_grad():
        for one in pair.ours.parameters():
            one.mul_(1.01)
    assert pair.tried(pair.results).startswith("NO (ValueError: differ by")
    assert pair.tried(pair.gradients).startswith("NO (ValueError: differ by")
