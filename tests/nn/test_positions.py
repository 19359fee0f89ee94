"""Position schemes against transformers' implementations."""

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.nn import Rotary, T5Bias
from mainspring.nn.positions import RelativeBias, relative_bucket, rotary_angles, rotate


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (320, 800)])
def test_buckets_equal_t5(bidirectional, buckets, distance):
    far = torch.arange(-1000, 1001)
    want = T5Attention._relative_position_bucket(far, bidirectional, buckets, distance)
    got = relative_bucket(
        far, T5Bias(buckets=buckets, max_distance=distance, bidirectional=bidirectional), bidirectional
    )
    assert torch.equal(got, want)


def test_rotation_equals_llama():
    q, k = torch.randn(2, 2, 7, 3, 8)
    pos = torch.randint(50, (2, 7))
    angles = rotary_angles(pos, 8, Rotary(base=500.0))
    got = rotate(q, angles), rotate(k, angles)
    want = apply_rotary_pos_emb(q, k, angles.cos[:, :, 0], angles.sin[:, :, 0], unsqueeze_dim=2)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_rotated_product_depends_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16)

    def score(i, j):
        turn = [rotate(x, rotary_angles(torch.tensor([[p]]), 16, Rotary())) for x, p in ((q, i), (k, j))]
        return (turn[0] * turn[1]).sum()

    torch.testing.assert_close(score(3, 8), score(40, 45), atol=1e-5, rtol=1e-4)
    assert not torch.isclose(score(3, 8), score(3, 9))


def test_rotation_keeps_dtype():
    x = torch.randn(1, 2, 1, 4, dtype=torch.bfloat16)
    assert rotate(x, rotary_angles(torch.arange(2)[None], 4, Rotary())).dtype == torch.bfloat16


def test_bias_goes_by_position_not_index():
    bias = RelativeBias(T5Bias(), 2, bidirectional=True)
    pos = torch.tensor([[4, 9, 4]])
    scores = bias(pos, pos, None)
    assert scores.shape == (1, 2, 3, 3)
    assert torch.equal(scores[:, :, 0], scores[:, :, 2]) and torch.equal(scores[..., 0], scores[..., 2])


def test_a_distance_within_the_exact_buckets_is_refused():
    with pytest.raises(ConfigError, match="max_distance = 8 .*nearest legal value: 9"):
        parse(T5Bias, {"buckets": 32, "max_distance": 8})
