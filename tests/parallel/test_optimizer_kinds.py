"""Optimizers and their options under every ZeRO stage and tier: the weights of one process."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mainspring import optim, parallel
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from support.spawn import run_ranks

COMMON = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3}
CONFIGS = {
    "adamax": OptimConfig(kind="adamax", **COMMON),
    "radam of the paper": OptimConfig(kind="radam", rectify_above=4, **COMMON),
    "radam that waits": OptimConfig(kind="radam", unrectified="none", **COMMON),
    "adamw as it is": OptimConfig(kind="adamw", bias_correction=False, **COMMON),
    "lamb": OptimConfig(kind="lamb", **COMMON),
    "lamb as it is": OptimConfig(kind="lamb", bias_correction=False, **COMMON),
}
PLANS = [
    {"zero": 0},
    {"zero": 1},
    {"zero": 2},
    {"zero": 3},
    {"zero": 1, "offload": "host"},
    {"zero": 3, "offload": "host"},
    {"zero": 1, "offload": "disk"},
    {"zero": 3, "offload": "disk"},
]
STEPS = 7


def build():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))


def train(model, config, part, join=None):
    optimizer = optim.build(model, config, join=join)
    for step in range(STEPS):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))[part]
        ((model(x) - x.flip(1)).square().sum() / 48).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def every_plan(rank, world, folder):
    wrong = []
    for name, config in CONFIGS.items():
        want = train(build(), config, slice(None)).state_dict()
        for fields in PLANS:
            disk = {"offload_folder": folder} if fields.get("offload") == "disk" else {}
            model = parallel.apply(build(), Plan(data=world, **fields, **disk), reduce="sum")
            train(model, config, slice(rank * 4, rank * 4 + 4), parallel.piece_sum(model))
            got = parallel.full_state(model, rank0_only=False)
            far = max(float((got[key] - value).abs().max()) for key, value in want.items())
            if far > 2e-5:
                wrong.append((name, fields, far))
            dist.barrier()
    return wrong


@pytest.mark.distributed
def test_each_kind_under_each_plan(tmp_path):
    assert run_ranks(every_plan, 2, str(tmp_path)) == [[], []]
