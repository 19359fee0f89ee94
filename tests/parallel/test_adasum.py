"""Adasum as a plan's communication: steps of Adam and LAMB, gradients of SGD, as one process joins them."""

import pytest
import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.optim import AdasumOptimizer, OptimConfig
from mainspring.parallel import Plan
from mainspring.train import checkpoint
from support.spawn import run_ranks

ROWS, STEPS = 12, 4
CONFIGS = {
    "adamw": OptimConfig(kind="adamw", lr=0.05, eps=1e-4),
    "lamb": OptimConfig(kind="lamb", lr=0.05, eps=1e-4),
}


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


def rows(step, rank, world):
    x = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(step))
    mine = x[rank * ROWS // world : (rank + 1) * ROWS // world]
    return mine, torch.stack([mine[:, 0] * mine[:, 1], mine[:, 2].sin()], 1)


def pair(a, b):
    dot, x, y = ((p.double() * q.double()).sum() for p, q in ((a, b), (a, a), (b, b)))
    return (1 - dot / (2 * x) if x else 1.0) * a + (1 - dot / (2 * y) if y else 1.0) * b


def tree(vectors):
    if len(vectors) == 1:
        return vectors[0]
    joined = [pair(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=False)]
    return tree(joined + vectors[2 * len(joined) :])


def one_process(world, make, on):
    """Every rank's model and optimizer in turn; what they did is joined layer by layer."""
    models = [build() for _ in range(world)]
    optimizers = [make(model) for model in models]
    for step in range(STEPS):
        before = [p.detach().clone() for p in models[0].parameters()]
        for rank, model in enumerate(models):
            model.zero_grad()
            x, y = rows(step, rank, world)
            (model(x) - y).square().mean().backward()
        if on == "gradients":
            for same in zip(*(m.parameters() for m in models), strict=True):
                joined = tree([p.grad.clone() for p in same])
                for p in same:
                    p.grad = joined.clone()
        for optimizer in optimizers:
            optimizer.step()
        if on == "deltas":
            for was, *same in zip(before, *(m.parameters() for m in models), strict=True):
                joined = tree([p.detach() - was for p in same])
                for p in same:
                    p.data = was + joined
    return torch.cat([p.detach().flatten() for p in models[0].parameters()])


def spread(rank, world, folder):
    plan = Plan(data=world, communication="adasum")
    for reduce in ("mean", "sum"):
        for name, config in CONFIGS.items():
            model = parallel.apply(build(), plan, reduce=reduce)
            optimizer = optim.build(model, config, replicas=parallel.replicas(model))
            train(model, optimizer, rank, world, reduce)
            want = one_process(world, lambda m, c=config: optim.build(m, c), "deltas")
            mine = torch.cat([p.detach().flatten() for p in model.parameters()])
            torch.testing.assert_close(mine, want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        model = parallel.apply(build(), plan, reduce=reduce)
        optimizer = AdasumOptimizer(sgd(model), parallel.replicas(model), on="gradients")
        train(model, optimizer, rank, world, reduce)
        want = one_process(
            world, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5), "gradients"
        )
        mine = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.testing.assert_close(mine, want, rtol=1e-4, atol=1e-5)
    # Saved moments are the mean of the ranks', which go on with them.
    model = parallel.apply(build(), plan)
    optimizer = optim.build(model, CONFIGS["adamw"], replicas=parallel.replicas(model))
    train(model, optimizer, rank, world, "mean")
    saved = checkpoint.save(folder, STEPS, checkpoint.run_state(model, optimizer), {}, group=group())
    other = parallel.apply(build(), plan)
    its = optim.build(other, CONFIGS["adamw"], replicas=parallel.replicas(other))
    checkpoint.load(saved, other, its, group=group())
    for one, two in ((model, optimizer), (other, its)):
        train(one, two, rank, world, "mean")
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def group():
    return torch.distributed.group.WORLD


def train(model, optimizer, rank, world, reduce):
    for step in range(STEPS):
        x, y = rows(step, rank, world)
        loss = (model(x) - y).square().mean()
        (loss / world if reduce == "sum" else loss).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_join_as_one_process_does(world, tmp_path):
    run_ranks(spread, world, str(tmp_path))
