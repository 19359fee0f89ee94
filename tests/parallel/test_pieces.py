"""Sums over whole parameters, from pieces: LAMB steps sharded models as it steps whole ones."""

from typing import Any

import pytest
import torch

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.optim import OptimConfig
from mainspring.parallel import Plan
from support.spawn import run_ranks

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=64, max_positions=16)
SETTINGS = OptimConfig(kind="lamb", lr=0.05, eps=1e-4)
STEPS = 3

pytestmark = pytest.mark.distributed


def trained(plan: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters after a few steps on the same tokens on every rank."""
    with torch.device("meta"):
        model = Transformer(CONFIG)
    parallel.apply(model, Plan(**plan), reduce="mean")
    parallel.materialize(model, "cpu", lambda module: initialize(module, seed=1))
    optimizer = optim.build(model, SETTINGS, join=parallel.piece_sum(model))
    ids = torch.arange(24).view(2, 12) % 60
    for step in range(STEPS):
        logits = model(causal_batch(ids + step)).logits
        logits.float().logsumexp(-1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return parallel.full_state(model, rank0_only=False)


def several(rank: int, world: int, plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [trained({**plan, "data": world}) for plan in plans]
    return [{name: value.numpy() for name, value in state.items()} for state in found]


def test_lamb_steps_pieces_as_it_steps_whole_parameters() -> None:
    plans: list[dict[str, Any]] = [
        {},
        {"zero": 1},
        {"zero": 3},
        {"zero": 3, "offload": "host"},
        {"zero": 3, "backend": "fsdp2"},
    ]
    want = trained({})
    for found in run_ranks(several, 2, plans):
        for plan, state in zip(plans, found, strict=True):
            for name, value in want.items():
                torch.testing.assert_close(
                    torch.from_numpy(state[name]), value, rtol=2e-5, atol=2e-6, msg=f"{plan} {name}"
                )
