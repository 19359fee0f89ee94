"""Models in folders go out as graphs, as runs do (tests/cli/test_train_graph.py has those)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from mainspring.finetune.native import export_native_task
from mainspring.finetune.pooling import EmbedConfig, Embedder
from mainspring.infer import Engine
from mainspring.nn import TransformerConfig, initialize
from mainspring.recipes.graphs import export_graph
from mainspring.text import Tokenizer, train_tokenizer
from mainspring.text.framing import Framer
from support.toy import export_toy

TEXTS = ["the cat sat on the mat", "the mat", "a dog"]


def test_an_embedder_gives_its_vectors(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS * 8, "wordpiece", 60)
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=1, d_ff=32, vocab_size=tokenizer.vocab_size, init_std=0.3
    )
    embed = EmbedConfig(pooling=("mean", "max"), normalize=True)
    export_native_task(initialize(Embedder(config, embed), seed=0), tokenizer, tmp_path / "model")
    (file,) = export_graph(tmp_path / "model", tmp_path / "graph")
    assert Tokenizer.load(tmp_path / "graph").hash == tokenizer.hash
    frames = Framer(tokenizer, None).frame(TEXTS)
    longest = max(len(frame.ids) for frame in frames)
    ids, mask = (np.zeros((len(TEXTS), longest), np.int64) for _ in range(2))
    for row, frame in enumerate(frames):
        ids[row, : len(frame.ids)], mask[row, : len(frame.ids)] = frame.ids, 1
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (vectors,) = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(vectors, Engine.load(tmp_path / "model").embed(TEXTS).vectors, atol=1e-5)


@pytest.mark.slow
def test_a_model_of_transformers_is_written_with_a_cache(tmp_path: Path) -> None:
    (file,) = export_graph(export_toy(tmp_path / "toy"), tmp_path / "graph")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert "past_key_values.0.key" in [given.name for given in session.get_inputs()]
