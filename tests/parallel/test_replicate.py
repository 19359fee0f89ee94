"""Data parallelism's own corners: paths that differ between ranks, freezing, errors, several backwards,
strides."""

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from mainspring import comm, parallel
from mainspring.parallel import Plan
from mainspring.parallel.replicate import GradientReducer
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed


class Branches(nn.Module):
    """Two branches of which a forward takes some, and one that nobody takes."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.never = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x, take):
        for name in take:
            x = getattr(self, name)(x)
        return x


def spread(rank, world, reduce="sum", plan=None, **options):
    torch.manual_seed(rank)
    return parallel.apply(Branches(), Plan(data=world, **(plan or {})), reduce=reduce, **options)


def reference(model, inputs, takes, scale):
    """Gradients of one process that does the work of all ranks."""
    plain = Branches()
    plain.load_state_dict(model.state_dict())
    for x, take in zip(inputs, takes, strict=True):
        (plain(x, take).square().sum() * scale).backward()
    return {name: p.grad for name, p in plain.named_parameters()}


def same(model, want):
    return [
        name
        for name, p in model.named_parameters()
        if (p.grad is None) != (want[name] is None)
        or (p.grad is not None and not torch.allclose(p.grad, want[name], rtol=1e-5, atol=1e-6))
    ]


def corners(rank, world):
    x = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(world)]
    wrong = {}

    # Every rank takes another path; nobody takes `never`, whose gradient stays None as in one process.
    takes = [["left"] if r % 2 else ["right", "left"] for r in range(world)]
    for reduce, scale in (("sum", 1.0), ("mean", 1 / world)):
        model = spread(rank, world, reduce)
        model(x[rank], takes[rank]).square().sum().backward()
        wrong[f"paths {reduce}"] = same(model, reference(model, x, takes, scale))
        # A second backward without clearing adds to what was reduced before.
        model(x[rank], ["left"]).square().sum().backward()
        wrong[f"twice {reduce}"] = same(model, reference(model, x + x, takes + [["left"]] * world, scale))

    # Accumulate quietly on other paths, then reduce; views stay views.
    model = spread(rank, world)
    with parallel.no_sync(model):
        model(x[rank], ["right"]).square().sum().backward()
    model(x[rank], takes[rank]).square().sum().backward()
    wrong["accumulated"] = same(model, reference(model, x + x, takes + [["right"]] * world, 1.0))

    # Zeroed instead of dropped gradients.
    model.zero_grad(set_to_none=False)
    model(x[rank], ["left"]).square().sum().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    want = reference(model, x, [["left"]] * world, 1.0)
    want = {n: torch.zeros_like(got[n]) if g is None else g for n, g in want.items() if n in got}
    wrong["zeroed"] = [n for n, g in got.items() if not torch.allclose(g, want[n])]

    # A part is thawed after training began.
    model = spread(rank, world)
    model.right.requires_grad_(False)
    model(x[rank], ["left", "right"]).square().sum().backward()
    model.zero_grad()
    model.right.requires_grad_(True)
    model(x[rank], ["left", "right"]).square().sum().backward()
    wrong["thawed"] = same(model, reference(model, x, [["left", "right"]] * world, 1.0))

    # An error in the middle of a backward leaves nothing behind.
    model = spread(rank, world)
    out = model(x[rank], ["left", "right"])
    handle = model.left.weight.register_hook(lambda gradient: 1 / 0)
    with contextlib.suppress(ZeroDivisionError):
        out.square().sum().backward()
    handle.remove()
    dist.barrier()
    model.zero_grad()
    model(x[rank], ["left", "right"]).square().sum().backward()
    wrong["after an error"] = same(model, reference(model, x, [["left", "right"]] * world, 1.0))

    # Ranks that take part with no gradient at all.
    linear = nn.Linear(2, 2, bias=False)
    nn.init.ones_(linear.weight)
    reducer = GradientReducer({"w": linear.weight}, None, "sum", comm.Counter())
    free = torch.ones(1, 2, requires_grad=True)
    output = linear(free) if rank == 0 else free * 2
    reducer.expect((output, {"other": 3}))
    output.sum().backward()
    wrong["no gradient"] = [] if torch.equal(linear.weight.grad, torch.ones(2, 2)) else [linear.weight.grad]

    # Gradients that travel in 16 bits: what each rank sends is rounded once, and the sum of them.
    model = spread(rank, world, plan={"gradient_dtype": "bf16"})
    model(x[rank], takes[rank]).square().sum().backward()
    want = reference(model, x, takes, 1.0)
    wrong["bf16"] = [
        name
        for name, p in model.named_parameters()
        if (p.grad is None) != (want[name] is None)
        or (p.grad is not None and (p.grad - want[name]).abs().max() > 2**-6 * want[name].abs().max())
    ]
    found = model.left.weight.grad
    if found.dtype != torch.float32 or not torch.equal(found, found.bfloat16().float()):
        wrong["bf16"].append("the dtype")

    # Strides are the parameter's; a copy of the model is a plain module.
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    parallel.apply(conv, Plan(data=world), reduce="sum")
    conv(torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)).sum().backward()
    strides = (conv.weight.stride(), conv.weight.grad.stride())
    wrong["strides"] = [] if strides[0] == strides[1] else [strides]
    twin = copy.deepcopy(model)
    twin.zero_grad()
    if rank == 0:  # no other rank takes part
        twin(x[0], ["left"]).sum().backward()
    wrong["copy"] = [
        n
        for (n, p), q in zip(twin.named_parameters(), model.parameters(), strict=True)
        if not torch.equal(p, q) or p is q
    ]

    # Reentrant checkpoints run backwards inside a backward: a shared weight is reduced in each of them.
    model = spread(rank, world)
    checkpoint(
        model,
        checkpoint(model, x[rank].requires_grad_(), ["left"], use_reentrant=True),
        ["left"],
        use_reentrant=True,
    ).square().sum().backward()
    wrong["reentrant"] = same(model, reference(model, x, [["left", "left"]] * world, 1.0))
    return {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("world", [2, 3])
def test_corners(world):
    assert run_ranks(corners, world, timeout=60) == [{}] * world


def buckets(rank, world):
    """Many small buckets give the same as one, with a collective for each."""
    gradients = []
    for size in (1, 300, 10**9):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
        counter = comm.Counter()
        reducer = GradientReducer(dict(model.named_parameters()), None, "mean", counter, size)
        model(torch.full((2, 8), float(rank))).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        gradients[-1].append(torch.tensor(counter.calls("gradients")))
        reducer.close()
    same = all(
        torch.equal(a, b)
        for other in gradients[1:]
        for a, b in zip(gradients[0][:-1], other[:-1], strict=True)
    )
    return same, [int(g[-1]) for g in gradients]


def test_the_size_of_buckets_changes_nothing():
    assert run_ranks(buckets, 2) == [(True, [10, 4, 1])] * 2
