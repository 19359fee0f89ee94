"""What the planner says of sparse attention: FLOPs by the layout's density, no scores that are kept."""

import pytest

from mainspring.nn import TransformerConfig
from mainspring.planner.activations import keeps_scores, layer_bytes
from mainspring.planner.work import Pass

SHAPE = {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_ff": 128, "vocab_size": 100, "max_positions": 1024}
DENSE = TransformerConfig(**SHAPE, attention_dropout=0.1)
WINDOW = DENSE.replace(sparse={"kind": "sliding_window", "block": 16})


@pytest.mark.parametrize("length", [1024, 512])
def test_attention_counts_what_the_layout_has(length):
    (layers, head, attention), dense = Pass(WINDOW, length).forward_flops, Pass(DENSE, length).forward_flops
    assert (layers, head) == dense[:2]
    blocks = length // 16
    assert attention == pytest.approx(dense[2] * (3 * blocks - 2) / blocks**2)


def test_attention_to_an_encoder_stays_dense():
    both = {"n_layers": 0, "encoder_layers": 2, "decoder_layers": 2}
    sparse, dense = (Pass(c.replace(**both), 1024).forward_flops[2] for c in (WINDOW, DENSE))
    assert sparse == pytest.approx(dense * (2 + 4 * 190 / 64**2) / 6)


def test_no_scores_are_kept():
    assert keeps_scores(DENSE) and not keeps_scores(WINDOW)
    assert layer_bytes(WINDOW, 1024, "fp32") == layer_bytes(WINDOW, 64, "fp32")
    assert layer_bytes(DENSE, 1024, "fp32") > layer_bytes(DENSE, 64, "fp32")
