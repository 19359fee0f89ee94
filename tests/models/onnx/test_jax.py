"""A graph from JAX, with what JAX itself computed: its outputs, its loss and its gradients.

`jax_encoder.onnx` is a Flax encoder (a table, two layers of attention and GELU, a head) as jax2onnx 0.17.1
writes it from jax 0.10.2 and flax 0.12.8; `jax_encoder.npz` has tokens, logits, the mean of their squares and
its gradients. `jax_encoder.py` made both, in an environment of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mainspring.models.onnx import read_onnx, write_onnx

from .cases import runtime

GRAPH = Path(__file__).parent / "jax_encoder.onnx"


def test_a_graph_from_jax_is_what_jax_computes(tmp_path: Path) -> None:
    stored = np.load(GRAPH.with_suffix(".npz"))
    graph = read_onnx(GRAPH)
    (given,), (output,) = graph.module.inputs, graph.module.outputs
    feeds = {given: torch.from_numpy(stored["ids"])}
    logits = graph.module(**feeds)[output]
    np.testing.assert_allclose(logits.detach().numpy(), stored["logits"], atol=1e-5)
    loss = logits.square().mean()
    np.testing.assert_allclose(loss.item(), stored["loss"], rtol=1e-5)
    loss.backward()
    weights = dict(graph.module.named_parameters())
    assert all(weight.grad is not None for weight in weights.values())
    (table,) = (w for w in weights.values() if w.shape == stored["table"].shape)
    np.testing.assert_allclose(table.grad.numpy(), stored["table"], atol=1e-6)
    norms = sorted(float(w.grad.norm()) for w in weights.values())
    np.testing.assert_allclose(norms, stored["norms"], rtol=1e-4, atol=1e-6)
    torch.optim.SGD(weights.values(), lr=0.1).step()
    trained = graph.module(**feeds)[output].detach().numpy()
    assert np.abs(trained - stored["logits"]).max() > 1e-3
    written = write_onnx(GRAPH, graph, tmp_path / "trained.onnx")
    np.testing.assert_allclose(runtime(written, feeds, [output])[0], trained, atol=1e-5)
