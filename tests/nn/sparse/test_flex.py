"""Layouts as masks of FlexAttention: its plain form on CPU beside gathered tiles."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from mainspring.nn.masks import inspect
from mainspring.nn.sparse import gathered_attention, layout_of, plan_tiles
from mainspring.nn.sparse.flex import sparse_block_mask
from nn.sparse.test_gathered import BLOCK, HEADS, LAYOUTS, MASKS, operands


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", ["packed", "probing"])
@pytest.mark.parametrize("name", ["fixed by heads", "bigbird", "bslongformer"])
def test_as_gathered(name, mask):
    batch, layout = MASKS[mask](), layout_of(LAYOUTS[name], HEADS, 10)
    q, k, v = (t.detach().contiguous() for t in operands())
    want = gathered_attention(q, k, v, plan_tiles(batch, layout, BLOCK, inspect(batch)))
    block_mask = sparse_block_mask(batch, layout, BLOCK, tile=16)
    with torch.inference_mode():
        got = flex_attention(q, k, v, block_mask=block_mask)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-8)


def test_a_mask_is_as_sparse_as_its_layout():
    batch, layout = MASKS["causal"](), layout_of(LAYOUTS["sliding window"], HEADS, 10)
    mask = sparse_block_mask(batch, layout, BLOCK, tile=BLOCK)
    assert mask.kv_num_blocks[1, 0].tolist() == [1] * 10  # the diagonal, in part
    assert mask.full_kv_num_blocks[1, 0].tolist() == [0] + [1] * 9
