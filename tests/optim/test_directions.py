"""What the signs are of: momenta over the root of the variance leave rare coordinates steps of their size."""

import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan

LARGE, SMALL, LR, FREEZE = 1.0, 1e-3, 1e-2, 40


def train(sends):
    """How far coordinates of large and of small gradients go in a step, on average, in learning rates."""
    torch.manual_seed(0)
    model = parallel.apply(nn.Linear(64, 64, bias=False), Plan(communication="compressed"))
    onebit = {"freeze_step": FREEZE, "sends": sends}
    config = OptimConfig(kind="onebit_adam", lr=LR, weight_decay=0.0, onebit=onebit)
    optimizer = optim.build(model, config, replicas=parallel.replicas(model))
    sizes = torch.where(torch.arange(64) < 56, LARGE, SMALL)
    gone = torch.zeros(64)
    for step in range(2 * FREEZE):
        draw = torch.Generator().manual_seed(step)
        model.weight.grad = sizes[:, None] * torch.randn(64, 64, generator=draw)
        before = model.weight.detach().clone()
        optimizer.step()
        if step >= FREEZE:
            gone += (model.weight.detach() - before).abs().mean(1) / FREEZE
    return float(gone[:56].mean() / LR), float(gone[56:].mean() / LR)


def test_small_coordinates_take_small_steps():
    large, small = train("directions")
    assert 0.3 < small / large < 3
    large, small = train("momenta")  # a momentum of the large ones' length over their own small root
    assert small / large > 100
