"""The proof that a loaded model is the trained one fails where one weight differs by one bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mainspring.errors import CheckpointError
from mainspring.evaluate.probe import probe_batch, record, verify
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel import World
from mainspring.train.run import Run

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=97, max_positions=40)


def test_equal_weights_agree_and_one_bit_does_not(tmp_path: Path) -> None:
    run = Run(tmp_path)
    model = initialize(Transformer(CONFIG), 1)
    with pytest.raises(CheckpointError, match="kept no logits"):
        verify(model.state_dict(), CONFIG, run)
    record(model, run, 7, World())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    agreement = verify(state, CONFIG, run)
    assert agreement.identical
    assert agreement.step == 7
    assert agreement.logits == 2 * 40 * 97
    assert agreement.largest_difference == 0
    weight = next(
        t for name, t in state.items() if name.endswith("weight") and t.dim() == 2 and t.shape[0] == 32
    )
    weight.view(torch.int32)[3, 3] ^= 1 << 20
    changed = verify(state, CONFIG, run)
    assert not changed.identical
    assert changed.largest_difference > 0


def test_the_probe_suits_the_model() -> None:
    assert probe_batch(CONFIG).ids.max() < 97
    assert probe_batch(CONFIG).rank.max() == 39
    assert probe_batch(CONFIG.replace(norm_place="post")).rank.max() == 0
