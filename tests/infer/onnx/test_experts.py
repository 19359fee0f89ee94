"""Layers of experts as graphs: ONNX Runtime routes as the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infer.onnx.test_export import feed, ids_of, model_of, session
from mainspring.data.batch import bidirectional_batch
from mainspring.infer.onnx import export_onnx
from mainspring.infer.onnx.experts import GraphExperts, shares
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.moe import ExpertFeedForward

ROUTING: list[dict[str, Any]] = [
    {"count": 4},
    {"count": 4, "top_k": 2, "residual": True},
    {"count": 5, "top_k": 3, "renormalise": False},
    {"count": 3, "eval_capacity_factor": 0.5, "min_capacity": 1},
    {"count": 4, "top_k": 2, "eval_capacity_factor": 0.7, "min_capacity": 2, "keep": "probability"},
]


def layer_of(routing: dict[str, Any], **more: Any) -> ExpertFeedForward:
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=2, d_ff=24, vocab_size=20, experts={"every": 1, **routing}, **more
    )
    model = initialize(Transformer(config.replace(init_std=0.5)), 3).eval().requires_grad_(False)
    return next(one for one in model.modules() if isinstance(one, ExpertFeedForward))


@pytest.mark.parametrize("routing", ROUTING, ids=str)
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_a_layer_of_tensors_gives_what_the_layer_gives(routing: dict[str, Any], activation: str) -> None:
    layer = layer_of(routing, activation=activation)
    graph = GraphExperts(layer).eval()
    for seed, padding in ((0, 0), (1, 5), (2, 11)):
        x = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(seed))
        valid = torch.ones(3, 12, dtype=torch.bool)
        valid[-1, 12 - padding :] = False
        torch.testing.assert_close(graph(x, valid)[0], layer(x, valid)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(graph(x)[0], layer(x)[0], atol=1e-5, rtol=1e-5)


def test_what_has_no_room_goes_nowhere() -> None:
    """Ten tokens that all want one expert, which takes four."""
    layer = layer_of({"count": 2, "eval_capacity_factor": 0.7, "min_capacity": 1})
    layer.gate.weight.zero_()
    layer.gate.weight[1, 0] = 4.0
    x = torch.ones(10, 16)
    table = shares(layer.gate, x, None)
    assert (table > 0).sum(0).tolist() == [0, 4]
    assert (table[:4, 1] > 0.9).all()
    valid = torch.arange(10) > 1
    assert (shares(layer.gate, x, valid)[:, 1] > 0).nonzero().flatten().tolist() == [2, 3, 4]


@pytest.mark.slow
def test_experts_with_little_room_in_a_graph(tmp_path: Path) -> None:
    """Room is counted in the graph: at other sizes than the recorded ones, and in rows that are padded."""
    experts = {"count": 3, "every": 1, "eval_capacity_factor": 0.5, "min_capacity": 1}
    model = model_of("bert", experts=experts)
    (file,) = export_onnx(model, tmp_path)
    run = session(file)
    for rows, tokens, padding in ((1, 1, 0), (2, 9, 3), (4, 21, 6)):
        ids, mask = ids_of(rows, tokens), torch.ones(rows, tokens, dtype=torch.int64)
        mask[-1, tokens - padding :] = 0
        wanted = model(bidirectional_batch(ids, valid=mask > 0)).hidden
        (found,) = run.run(["last_hidden_state"], feed(input_ids=ids, attention_mask=mask))
        seen = (mask > 0).numpy()
        np.testing.assert_allclose(found[seen], wanted.numpy()[seen], atol=2e-4, rtol=1e-4)
