"""fp16 under a loss scaler: as in one process in fp32, and an overflow is skipped and named."""

import math

import pytest
import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.errors import NonFiniteError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives.base import labelled_loss
from mainspring.optim import OptimConfig
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


SPREAD = (
    {"data": 2, "tensor": 2, "zero": 2},
    {"tensor": 2, "pipeline": 2, "zero": 1},
    {"data": 2, "pipeline": 2, "zero": 2},
    {"data": 2, "sequence": 2, "zero": 3},
)


def one_overflows(rank, world):
    """On one rank of four, where the model begins, a gradient overflows that no other rank has part in."""
    found = []
    for fields in SPREAD:
        config = TransformerConfig(
            d_model=16, n_heads=2, n_layers=2, d_ff=24, vocab_size=40, max_positions=8, tied=False
        )
        model = initialize(Transformer(config), 0)
        parallel.apply(model, Plan(**fields), precision="fp16", reduce="sum")
        optimizer = optim.build(model, OptimConfig(lr=0.01))
        scaler = parallel.loss_scaler(model)
        axes, ids = parallel.axes_of(model), torch.arange(16).view(2, 8) + 20
        batch = causal_batch(ids, labels=ids.roll(-1, 1))
        boom = [True]

        def overflow(module, args, output, boom=boom):
            if boom:
                output.register_hook(lambda grad: grad * math.inf)

        # Of the table of tokens each tensor rank has rows of its own; nothing lies below it.
        if (axes.index("pipeline"), axes.index("tensor"), axes.index("replicas")) == (
            0, axes.size("tensor") - 1, 0
        ):  # fmt: skip
            model.embeddings.token.register_forward_hook(overflow)
        before = parallel.full_state(model, rank0_only=False)
        scales, culprits, moved = [scaler.scale], [], []
        for _ in range(2):
            parallel.accumulate(model, [batch, batch], lambda m, b: labelled_loss(m, b) * 1e-4)
            culprits.append(scaler.culprit)
            scales.append(scaler.scale)
            optimizer.step()
            optimizer.zero_grad()
            boom.clear()
            after = parallel.full_state(model, rank0_only=False)
            moved.append(any(not torch.equal(before[name], after[name]) for name in after))
        found.append((culprits, scales, moved))
    return found


@pytest.mark.distributed
def test_all_ranks_skip_what_one_overflows_in():
    for found in run_ranks(one_overflows, 4):
        for culprits, (first, same, half), moved in found:
            assert culprits == ["parameter 'weight' of module 'embeddings.token'", None]
            assert first == same == 2 * half and moved == [False, True]


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
