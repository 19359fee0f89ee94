"""Sparse attention by gathered tiles: dense attention under the same mask, in fp64, is the oracle."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.data.batch import IGNORE, TokenBatch, bidirectional_batch, causal_batch
from mainspring.nn.masks import allow, inspect
from mainspring.nn.sparse import (
    BigBird,
    BSLongformer,
    Fixed,
    SlidingWindow,
    Variable,
    gathered,
    gathered_attention,
    layout_of,
    plan_tiles,
)
from mainspring.nn.sparse.sight import sparse_mask

HEADS, WIDTH, ROWS, LENGTH, BLOCK = 4, 8, 2, 75, 8
LAYOUTS = {
    "fixed": Fixed(block=BLOCK, horizontal=True),
    "fixed by heads": Fixed(block=BLOCK, global_patterns=4, attention="unidirectional"),
    "variable": Variable(block=BLOCK, local_windows=(1, 3), global_blocks=(0, 4), random_blocks=1),
    "bigbird": BigBird(block=BLOCK, per_head=True, global_blocks=1),
    "bigbird, causal": BigBird(block=BLOCK, attention="unidirectional"),
    "bslongformer": BSLongformer(block=BLOCK, global_blocks=(0, 3)),
    "sliding window": SlidingWindow(block=BLOCK, attention="unidirectional"),
}


def ids():
    return torch.zeros((ROWS, LENGTH), dtype=torch.int64)


def padded():
    valid = torch.arange(LENGTH) < torch.tensor([[LENGTH], [50]])
    return bidirectional_batch(ids(), valid=valid)


def packed():
    doc = torch.zeros((ROWS, LENGTH), dtype=torch.int64)
    doc[0, 30:] += 1
    doc[1, 11:] += 1
    doc[1, 64:] += 1
    return causal_batch(ids(), doc=doc)


def prefixed():
    batch = causal_batch(ids())
    return batch._replace(rank=(batch.rank - 20).clamp(min=0))


def probing():
    """Pseudo-masked: the last 25 tokens are probes at positions of the text, which is seen in their order."""
    batch = causal_batch(ids())
    rank, pos, probe = batch.rank.clone(), batch.pos.clone(), torch.zeros_like(batch.ids, dtype=torch.bool)
    rank[:, 50:], pos[:, 50:], probe[:, 50:] = rank[:, 10:35], pos[:, 10:35], True
    return batch._replace(rank=rank, pos=pos, probe=probe)


def blinded():
    """Tokens of which some see nothing: those before the first valid one."""
    valid = torch.ones((ROWS, LENGTH), dtype=torch.bool)
    valid[1, :9] = False
    return causal_batch(ids(), valid=valid)


MASKS = {
    "bidirectional": lambda: bidirectional_batch(ids()),
    "causal": lambda: causal_batch(ids()),
    "padded": padded,
    "packed": packed,
    "prefixed": prefixed,
    "probing": probing,
    "blinded": blinded,
}


def pairs(batch, layout, block):
    """Who sees whom, token by token: an oracle without tiles, [B, H, T, T]."""
    rule = allow(batch)[:, 0]
    seen = torch.zeros(ROWS, HEADS, *rule.shape[1:], dtype=torch.bool)
    for head in range(HEADS):
        blocks = layout[head if layout.shape[0] > 1 else 0].repeat_interleave(block, 0)
        blocks = blocks.repeat_interleave(block, 1)
        for row in range(rule.shape[0]):
            pos = batch.pos[row].tolist()
            seen[row, head] = rule[row] & blocks[pos][:, pos]
    return seen


def operands(dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (ROWS, LENGTH, HEADS, WIDTH)  # in memory as a layer has it
    return [torch.randn(shape, generator=draw).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def dense(q, k, v, seen, scale):
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    return mixed.masked_fill(~seen.any(-1, keepdim=True), 0.0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_gradients_are_those_of_dense_attention(name, mask):
    config, batch = LAYOUTS[name], MASKS[mask]()
    layout = layout_of(config, HEADS, -(-LENGTH // BLOCK))
    seen = pairs(batch, layout, BLOCK)
    assert torch.equal(sparse_mask(batch, None, layout, BLOCK).expand_as(seen), seen)
    for sizes in ((16, 8), (12, 4), None):
        tiles = plan_tiles(batch, layout, BLOCK, inspect(batch), sizes)
        q, k, v = operands()
        got, want = gathered_attention(q, k, v, tiles, 0.4), dense(q, k, v, seen, 0.4)
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)
        push = torch.randn_like(want)
        for ours, theirs in zip(
            torch.autograd.grad(got, (q, k, v), push), torch.autograd.grad(want, (q, k, v), push), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_small_pieces_give_the_same(monkeypatch):
    batch, layout = packed(), layout_of(LAYOUTS["bigbird"], HEADS, 10)
    tiles = plan_tiles(batch, layout, BLOCK, inspect(batch), (16, 8))
    q, k, v = operands(torch.float32)
    before = gathered_attention(q, k, v, tiles)
    monkeypatch.setattr(gathered, "SCORES", 1)
    torch.testing.assert_close(gathered_attention(q, k, v, tiles), before)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_leaks(data):
    """Changing a token changes exactly the queries that may see it, and has gradients only from them."""
    name = data.draw(st.sampled_from(sorted(LAYOUTS)))
    batch = MASKS[data.draw(st.sampled_from(sorted(MASKS)))]()
    at, row = data.draw(st.integers(0, LENGTH - 1)), data.draw(st.integers(0, ROWS - 1))
    layout = layout_of(LAYOUTS[name], HEADS, 10)
    tiles = plan_tiles(batch, layout, BLOCK, inspect(batch), (16, 8))
    seen = pairs(batch, layout, BLOCK)
    q, k, v = operands()
    before = gathered_attention(q, k, v, tiles)
    changed = v.detach().clone()
    changed[row, :, at] += 1
    moved = (gathered_attention(q, k, changed, tiles) != before).any(-1)
    assert torch.equal(moved[row], seen[row, :, :, at])
    assert not moved[1 - row].any()
    head, query = data.draw(st.integers(0, HEADS - 1)), data.draw(st.integers(0, LENGTH - 1))
    by_k, by_v = torch.autograd.grad(before[row, head, query].sum(), (k, v))
    assert torch.equal((by_v[row, head] != 0).any(-1), seen[row, head, query])
    assert not (by_k[row, head][~seen[row, head, query]] != 0).any()


def test_padding_changes_nothing():
    config = LAYOUTS["bigbird"]
    layout = layout_of(config, HEADS, 10)
    q, k, v = operands()
    short = bidirectional_batch(ids()[:, :50])
    alone = [t[:, :, :50] for t in (q, k, v)]
    want = gathered_attention(*alone, plan_tiles(short, layout, BLOCK, inspect(short)))
    long = bidirectional_batch(ids(), valid=(torch.arange(LENGTH) < 50).expand(ROWS, -1))
    got = gathered_attention(q, k, v, plan_tiles(long, layout, BLOCK, inspect(long)))
    torch.testing.assert_close(got[:, :, :50], want, atol=1e-12, rtol=1e-10)


def test_what_is_computed_follows_density():
    batch = causal_batch(torch.zeros((1, 4096), dtype=torch.int64))
    facts = inspect(batch)
    shares = {}
    for window in (3, 9, 17):
        config = SlidingWindow(block=64, window_blocks=window, attention="unidirectional")
        layout = layout_of(config, 1, 64)
        shares[window] = plan_tiles(batch, layout, 64, facts).computed
        assert shares[window] == layout.float().mean()  # a causal layout in the tiles' own blocks: no waste
    assert shares[3] < 0.04 and shares[17] / shares[3] > 4
    everything = layout_of(Fixed(block=64, local_blocks=64), 1, 64)
    assert plan_tiles(batch, everything, 64, facts).computed == (64 * 65 / 2) / 64**2  # causal: half


def test_dropout_keeps_the_mean_and_its_backward_has_the_same_draws():
    batch = causal_batch(ids())
    tiles = plan_tiles(batch, layout_of(SlidingWindow(block=BLOCK), HEADS, 10), BLOCK, inspect(batch))
    q, k, v = operands()
    torch.manual_seed(1)
    draws = torch.stack([gathered_attention(q, k, v, tiles, dropout=0.3).detach() for _ in range(400)])
    exact = gathered_attention(q, k, v, tiles).detach()
    assert (draws.mean(0) - exact).abs().max() < 6 * draws.std(0).max() / math.sqrt(400)
    assert not torch.equal(draws[0], draws[1])

    def seeded(q, k, v):
        torch.manual_seed(2)
        return gathered_attention(q, k, v, tiles, dropout=0.3).square().sum()

    by = torch.autograd.grad(seeded(q, k, v), (q, k, v))
    step = 1e-6
    for number, gradient in enumerate(by):
        direction = torch.randn_like(gradient)
        up, down = (
            seeded(*(t + sign * step * direction if i == number else t for i, t in enumerate((q, k, v))))
            for sign in (1, -1)
        )
        torch.testing.assert_close(
            (gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-5, atol=1e-6
        )


def test_bf16():
    batch = causal_batch(ids())
    layout = layout_of(LAYOUTS["bslongformer"], HEADS, 10)
    q, k, v = operands(torch.bfloat16)
    got = gathered_attention(q, k, v, plan_tiles(batch, layout, BLOCK, inspect(batch)))
    want = dense(*(t.double() for t in (q, k, v)), pairs(batch, layout, BLOCK), None)
    assert got.dtype == torch.bfloat16 and (got.double() - want).abs().max() < 0.03
    got.sum().backward()
    assert q.grad.dtype == torch.bfloat16


def test_labels_and_types_do_not_matter():
    batch = causal_batch(ids(), labels=torch.full_like(ids(), IGNORE))
    assert isinstance(batch, TokenBatch)
    tiles = plan_tiles(batch, layout_of(SlidingWindow(block=BLOCK), 1, 10), BLOCK, inspect(batch))
    assert tiles.length == LENGTH
