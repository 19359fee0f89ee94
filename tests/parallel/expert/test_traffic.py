"""What goes to experts and back is the formula's, to the byte: k rows a token, four times a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mainspring import parallel
from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.moe.gate import Gate, Gated
from mainspring.parallel import Plan
from mainspring.parallel.expert.spread import NAME
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

WIDTH, LAYERS, EXPERTS, CHOICES, ROWS, LENGTH = 16, 2, 8, 2, 3, 7
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "whole": ({}, "fp32"),
    "remat": ({"remat": True}, "fp32"),
    "bf16": ({"zero": 1}, "bf16"),
    "dropping": ({}, "fp32"),
}


def sent(rank: int, world: int) -> dict[str, dict[str, float]]:
    """Bytes of a micro-batch, and what the gates of this rank said."""
    found = {}
    for name, (fields, precision) in WAYS.items():
        experts = {"count": EXPERTS, "every": 1, "top_k": CHOICES, "min_capacity": 1, "keep": "first"}
        experts["capacity_factor"] = 0.5 if name == "dropping" else None
        config = TransformerConfig(
            d_model=WIDTH, n_heads=2, n_layers=LAYERS, d_ff=24, vocab_size=30, experts=experts
        )
        model = initialize(Transformer(config), seed=0)
        plan = Plan(data=world, expert=world, **fields)
        parallel.apply(model, plan, precision=precision, reduce="sum")  # type: ignore[arg-type]
        counts: list[torch.Tensor] = []

        def listen(module: object, given: object, out: Gated, counts: list[torch.Tensor] = counts) -> None:
            counts.append(out.routing.counts)

        for module in model.modules():
            if isinstance(module, Gate):
                module.register_forward_hook(listen)
        ids = torch.randint(30, (ROWS, LENGTH), generator=torch.Generator().manual_seed(rank))
        with parallel.traffic(model).measure() as seen:
            model(causal_batch(ids)).logits.float().sum().backward()
        moved, told = seen.records[NAME, "all_to_all"], seen.records["expert counts", "all_gather"]
        rows = torch.stack(counts[:LAYERS])
        here = rows.view(LAYERS, world, -1)[:, rank].sum()
        found[name] = {
            "payload": moved.payload,
            "wire": moved.wire,
            "told": told.payload,
            "rows": int(rows.sum()),
            "away": int(rows.sum() - here),
        }
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, float]]]:
    return run_ranks(sent, 4)


@pytest.mark.parametrize("name", list(WAYS))
def test_bytes_are_the_formulas(ranks: list[dict[str, dict[str, float]]], name: str) -> None:
    again = name == "remat"
    element = 2 if name == "bf16" else 4
    total = sum(rank[name]["payload"] for rank in ranks)
    rows = sum(rank[name]["rows"] for rank in ranks)
    tokens = 4 * ROWS * LENGTH * LAYERS * CHOICES
    assert rows < tokens if name == "dropping" else rows == tokens
    # There and back, forward and backward (and once more forward); nothing is padded.
    assert total == (4 + 2 * again) * rows * WIDTH * element
    for rank in ranks:
        assert rank[name]["told"] == (1 + again) * LAYERS * 4 * EXPERTS * 8
    sent_by_all = sum(rank[name]["wire"] for rank in ranks)
    assert sent_by_all == (4 + 2 * again) * sum(rank[name]["away"] for rank in ranks) * WIDTH * element
