"""What the planner counts of layers of experts."""

from mainspring.nn import TransformerConfig
from mainspring.planner.parameters import count_parameters


def test_a_token_passes_through_the_experts_that_it_takes():
    dense = TransformerConfig(d_model=16, n_heads=2, n_layers=4, d_ff=32, vocab_size=50)
    sparse = dense.replace(experts={"count": 8, "top_k": 2})
    one, many = count_parameters(dense), count_parameters(sparse)
    feed_forward = 2 * 16 * 32
    assert many.matrix - one.matrix == 2 * (feed_forward + 8 * 16)
    assert many.total - one.total == 2 * (7 * (feed_forward + 16 + 32) + 8 * 16)
