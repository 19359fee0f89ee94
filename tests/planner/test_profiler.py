"""What the profiler says of models whose parts are known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mainspring.data.batch import causal_batch
from mainspring.errors import PlanError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel.pipedream import Layout, orders
from mainspring.planner.pipedream import Level, draw_profile, draw_schedule, partition, profile
from mainspring.planner.ticks import simulate


class Sleep(torch.autograd.Function):
    """Takes its time in both passes."""

    @staticmethod
    def forward(ctx, x: Tensor, forward: float, backward: float) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.backward_seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def, override]
        time.sleep(ctx.backward_seconds)
        return grad, None, None


class Slow(nn.Module):
    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.seconds = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Sleep.apply(x * self.weight, *self.seconds)
        return out


@pytest.mark.parametrize("sequential", [True, False])
def test_seconds_are_those_of_each_part(sequential: bool) -> None:
    seconds = [(0.010, 0.030), (0.020, 0.010), (0.005, 0.020)]
    stack = nn.Sequential(*(Slow(*s) for s in seconds))
    model = stack if sequential else nn.ModuleDict({"stack": stack})
    x = torch.ones(2, 4)
    chain = profile(model, lambda: stack(x).sum(), minibatches=3, name="slow", rows=2)
    nodes = chain.nodes if sequential else chain.nodes[1:-1]
    assert len(nodes) == 3
    for node, (forward, backward) in zip(nodes, seconds, strict=True):
        assert forward * 1e3 <= node.forward < forward * 1e3 + 6
        assert backward * 1e3 <= node.backward < backward * 1e3 + 6
        assert node.parameter_bytes == 16
    assert [n.activation_bytes for n in nodes[:2]] == [32, 32]
    assert all(p.grad is None for p in model.parameters())


def test_a_transformer_is_a_chain_from_embeddings_to_head(tmp_path: Path) -> None:
    config = TransformerConfig(d_model=16, n_heads=2, n_layers=3, d_ff=32, vocab_size=64, max_positions=8)
    model = initialize(Transformer(config), 0)
    batch = causal_batch(torch.randint(0, 64, (2, 8)))
    chain = profile(model, lambda: model(batch).logits.sum(), minibatches=2)
    assert [n.name.split(":")[0] for n in chain.nodes] == [
        "inputs",
        "layers.0",
        "layers.1",
        "layers.2",
        "head",
    ]
    assert sum(n.parameter_bytes for n in chain.nodes) == sum(4 * p.numel() for p in model.parameters())
    assert [n.activation_bytes for n in chain.nodes[:3]] == [2 * 8 * 16 * 4] * 3
    tables = sum(4 * p.numel() for p in model.embeddings.parameters())
    assert chain.nodes[0].parameter_bytes == tables
    assert all(n.forward > 0 and n.backward >= 0 for n in chain.nodes)
    cut = partition(chain, [Level(3, 1e8)])
    for name in ("profile.svg", "profile.png"):
        draw_profile(chain, tmp_path / name, cut)
        assert (tmp_path / name).stat().st_size > 5000


def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(PlanError, match="has 0 parts"):
        profile(nn.Linear(2, 2), lambda: torch.zeros(()))
    stack = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(PlanError, match=r"in the order \[1, 0\]"):
        profile(stack, lambda: stack[0](stack[1](torch.ones(1, 2))).sum())


def test_a_schedule_is_drawn(tmp_path: Path) -> None:
    made = simulate(orders(Layout((1, 1)), "stashing", 6))
    draw_schedule([("PipeDream", made)], tmp_path / "schedule.svg")
    text = (tmp_path / "schedule.svg").read_text()
    assert "rank 1" in text and "PipeDream" in text
