"""Bytes that a rank holds, counted over live storages, beside ZeRO's formulas (1910.02054, section 5)."""

import gc

import pytest
import torch
from torch import nn

from mainspring import comm, optim, parallel
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from mainspring.parallel.strategy import strategy_of
from support.spawn import run_ranks

WORLD, WIDTH, DEPTH = 2, 160, 12


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH + 1) for _ in range(DEPTH))
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))[:, :-1]
        return (x * self.gain[0]).sum()


def live(model):
    """Bytes of all storages that a tensor of this process has; a region that is free has none."""
    free = {
        row.region.tensor.untyped_storage().data_ptr()
        for unit in strategy_of(model).units
        for row in unit.rows
        if row.region is not None and not row.region.held
    }
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor) and not one.is_meta:
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for address, size in storages.items() if address not in free)


def count(rank, world):
    found = {}
    batch = torch.randn(4, WIDTH)
    for precision in ("fp32", "bf16"):
        for zero in (1, 2, 3):
            gc.collect()
            before = sum(
                {
                    t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                    for t in gc.get_objects()
                    if isinstance(t, torch.Tensor)
                }.values()
            )
            with torch.device("meta"):
                model = Stack()
            elements = sum(p.numel() for p in model.parameters())
            parallel.apply(model, Plan(data=world, zero=zero), precision=precision)
            strategy = strategy_of(model)
            sharers = strategy.rows[0].sharers
            for group in (sharers.group, sharers.gathers):
                comm.shared.disable(group, reason="its arenas, of a fixed size, are not to be counted")
            parallel.materialize(model, "cpu", lambda m: [p.fill_(0.01) for p in m.parameters()])

            def bytes_each(model=model, before=before, elements=elements):
                return (live(model) - before) / elements

            optimizer = optim.build(model, OptimConfig())
            seen = {}
            for _ in range(2):
                with parallel.no_sync(model):
                    loss = model(batch)
                    seen["forward"] = bytes_each()
                    loss.backward()
                    seen["accumulating"] = bytes_each()
                optimizer.zero_grad()
                strategy._reducer.abandon()
                model(batch).backward()
                seen["backward"] = bytes_each()
                optimizer.step()
                optimizer.zero_grad()
                seen["between"] = bytes_each()
            found[precision, zero] = seen
            del model, optimizer, loss, bytes_each, strategy, sharers
    return found


@pytest.mark.distributed
def test_bytes_a_rank_follow_the_formulas():
    for found in run_ranks(count, WORLD):
        for (precision, zero), seen in found.items():
            c = 2 if precision == "bf16" else 4
            states, gradients, n = 12, c, WORLD
            copies = 2 if precision == "bf16" else 0  # what the optimizer wrote for the next gather
            want = {
                # Stages 1 and 2 drop a copy when it is gathered, stage 3 gathers it again in backward.
                "forward": states / n + (copies / n if zero == 3 else c),
                "accumulating": {
                    1: c + c + states / n,
                    2: c + (states + gradients) / n,
                    3: (states + copies + gradients) / n,
                }[zero],
                "backward": (states + gradients) / n + (copies / n if zero == 3 else 0),
                "between": (states + copies) / n,
            }
            for moment, value in want.items():
                assert seen[moment] == pytest.approx(value, rel=0.02), (precision, zero, moment)
