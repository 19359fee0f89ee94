"""fp16 under a loss scaler: as in one process in fp32, and an overflow is skipped and named."""

import math

import pytest
import torch
from torch import nn

from mainspring import parallel
from mainspring.errors import NonFiniteError
from mainspring.parallel import Plan
from mainspring.parallel.strategy import strategy_of
from mainspring.parallel.zero.scale import LossScaler
from support.spawn import run_ranks


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x, boom=None):
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if boom == index:
                # Forward is well within range; what flows back is not.
                x = x + (x - x.detach()) * 60000
        return {"logits": self.head(x)}


def fresh():
    torch.manual_seed(2)
    return Net()


def batch(seed):
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))


def train(model, steps, share=1.0):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4)
    for seed in range(steps):
        # A gradient so small that fp16 has no number for it.
        (model(batch(seed))["logits"].float().square().sum() * 1e-6 * share).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1e6)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def ranks(rank, world):
    found = []
    want = fresh()
    train(want, 4)
    for zero in (1, 2, 3):
        model = parallel.apply(fresh(), Plan(data=world, zero=zero), precision="fp16", reduce="sum")
        optimizer = train(model, 4, 1 / world)
        got = parallel.full_state(model, rank0_only=False)
        error = max(float((got[name] - value).abs().max()) for name, value in want.state_dict().items())

        scaler = strategy_of(model).scaler
        before, scale = got, scaler.scale
        for boom in (1 if rank == 0 else None, None):
            (model(batch(9), boom=boom)["logits"].sum() * 1e-3 / world).backward()
            culprit = scaler.culprit
            norm = parallel.clip_grad_norm(model, 1.0)
            found.append(
                (boom is None or not math.isfinite(norm)) and (culprit is None) == (scaler.scale < scale)
            )
            optimizer.step()
            optimizer.zero_grad()
            if culprit is not None:
                after = parallel.full_state(model, rank0_only=False)
                same = all(torch.equal(before[name], after[name]) for name in after)
                found.append((same, culprit, "is named"))
        after = parallel.full_state(model, rank0_only=False)
        found += [
            error,
            scaler.scale == scale / 2 and scaler.skipped == 1,
            not torch.equal(before["head.weight"], after["head.weight"]),
        ]
    return found


@pytest.mark.distributed
def test_it_trains_as_in_fp32_and_an_overflow_is_skipped_and_named():
    for found in run_ranks(ranks, 2):
        for one in found:
            if isinstance(one, float):
                assert one < 2e-3
            elif isinstance(one, tuple):
                assert one == (True, "parameter 'bias' of module 'layers.1.2'", "is named")
            else:
                assert one
        assert sum(isinstance(one, tuple) for one in found) == 3


def test_the_scale_follows_overflows():
    scaler = LossScaler(scale=4.0, growth_interval=2)
    names = ["a.weight", "b.bias"]

    def step(*flags):
        scaler.find(torch.tensor(flags), names)
        may = scaler.stepping()
        said = scaler.culprit
        return may, said

    assert step(0.0, 0.0) == (True, None)
    scaler.begin()
    assert step(0.0, 0.0) == (True, None)
    scaler.begin()
    assert scaler.scale == 8
    for want in (4, 2, 1):
        assert step(0.0, 1.0) == (False, "parameter 'bias' of module 'b'")
        scaler.begin()
        assert scaler.scale == want
    step(2.0, 1.0)
    with pytest.raises(NonFiniteError, match="module 'a' overflowed fp16 at a loss scale of 1"):
        scaler.begin()
    assert scaler.skipped == 3
