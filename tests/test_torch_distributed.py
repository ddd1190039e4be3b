"""PyTorch's ways to train in several processes give a converted model the same parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from clconv.torch import Conv1d, convert

PROCESS = """
import copy, sys, torch, torch.distributed as dist
import clconv, clconv.torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

rank, folder, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def fsdp2(model):
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)

WAYS = {
    "DDP": DistributedDataParallel,
    "FSDP": lambda model: FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True
    ),
    "FSDP2": fsdp2,
}

def whole(model):
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return [one.detach().clone() for one in model.parameters()]
    return [getattr(one, "full_tensor", lambda: one)().detach() for one in model.parameters()]

trained = {}
with clconv.Runtime(device):
    start, batches = torch.load(f"{folder}/start", weights_only=False)
    for name, way in WAYS.items():
        model = way(copy.deepcopy(start))
        steps = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, target in batches:
            steps.zero_grad()
            part = slice(2 * rank, 2 * rank + 2)
            torch.nn.functional.mse_loss(model(x[part]), target[part]).backward()
            steps.step()
        trained[name] = whole(model)
torch.save(trained, f"{folder}/trained{rank}")
dist.destroy_process_group()
"""


def test_data_parallel_and_sharded(first_runtime, tmp_path):
    """Two processes with half of each batch end with the parameters of one with all of it, by DDP,
    FSDP and FSDP2."""
    torch.manual_seed(20240229)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 2, 3)).double()
    convert(model)
    batches = [[torch.randn(4, 2, 20).double() for _ in range(2)] for _ in range(2)]
    torch.save((model, batches), tmp_path / "start")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path), first_runtime.info.id],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    before = [one.detach().clone() for one in model.parameters()]
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, target in batches:
        steps.zero_grad()
        nn.functional.mse_loss(model(x), target).backward()
        steps.step()
    assert isinstance(model[0], Conv1d)
    for rank in range(2):
        trained = torch.load(tmp_path / f"trained{rank}")
        assert [*trained] == ["DDP", "FSDP", "FSDP2"]
        for parameters in trained.values():
            for one, true, old in zip(parameters, model.parameters(), before, strict=True):
                torch.testing.assert_close(one, true.detach())
                assert not torch.equal(one, old)
