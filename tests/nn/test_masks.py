"""The mask algebra: the one rule, its three forms, the legacy masks it replaces, and that nothing leaks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask, flex_attention

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.nn import (
    Absolute,
    Rotary,
    T5Bias,
    Transformer,
    TransformerConfig,
    allow,
    flex_block_mask,
    initialize,
    sdpa_mask,
)
from mainspring.nn.masks import as_source, inspect, source_mask


@st.composite
def batches(draw, max_rows=3, max_length=9):
    rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))

    def grid(values):
        row = st.lists(values, min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))

    index = torch.arange(length).expand(rows, length)
    kind = draw(st.sampled_from(["random", "causal", "flat"]))
    rank = {
        "random": lambda: grid(st.integers(0, 4)),
        "causal": lambda: index.clone(),
        "flat": lambda: torch.zeros_like(index),
    }[kind]()
    return TokenBatch(
        ids=grid(st.integers(0, 10)),
        pos=grid(st.integers(0, 15)),
        rank=rank,
        probe=grid(st.booleans()) if draw(st.booleans()) else None,
        doc=grid(st.integers(0, 1)) if draw(st.booleans()) else None,
        valid=grid(st.booleans()) if draw(st.booleans()) else None,
    )


def by_hand(q, k):
    """The formula of the specification, one pair at a time."""
    rows, tq, tk = q.ids.shape[0], q.ids.shape[1], k.ids.shape[1]
    result = torch.zeros(rows, 1, tq, tk, dtype=torch.bool)
    for b, i, j in itertools.product(range(rows), range(tq), range(tk)):
        probe_i = bool(q.probe[b, i]) if q.probe is not None else False
        probe_j = bool(k.probe[b, j]) if k.probe is not None else False
        same = (int(q.doc[b, i]) if q.doc is not None else 0) == (
            int(k.doc[b, j]) if k.doc is not None else 0
        )
        valid = bool(k.valid[b, j]) if k.valid is not None else True
        r_i, r_j = int(q.rank[b, i]), int(k.rank[b, j])
        seen = (not probe_j and r_j <= r_i - probe_i) or (probe_i and probe_j and r_i == r_j)
        result[b, 0, i, j] = valid and same and seen
    return result


@given(batches())
def test_rule_equals_formula(batch):
    assert torch.equal(allow(batch), by_hand(batch, batch))


@given(batches(max_rows=2), st.data())
def test_rule_between_different_tokens(keys, data):
    length = data.draw(st.integers(1, keys.ids.shape[1]))
    queries = TokenBatch(*(None if t is None else t[:, -length:] for t in keys))
    assert torch.equal(allow(queries, keys), by_hand(queries, keys))
    assert torch.equal(allow(queries, keys), allow(keys)[:, :, -length:])


def reference(q, k, v, mask):
    """Attention written out; a query that sees nothing gives 0."""
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return torch.nan_to_num(scores.softmax(-1)) @ v


@given(batches())
def test_sdpa_arguments_equal_rule(batch):
    rows, length = batch.ids.shape
    q, k, v = torch.randn(3, rows, 2, length, 8, generator=torch.Generator().manual_seed(0))
    mask, causal = sdpa_mask(batch)
    got = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(got, reference(q, k, v, allow(batch)), atol=1e-5, rtol=1e-5)


@settings(max_examples=25)
@given(batches())
def test_flex_rule_equals_rule(batch):
    rows, length = batch.ids.shape
    blocks = flex_block_mask(batch)
    assert torch.equal(create_mask(blocks.mask_mod, rows, None, length, length, device="cpu"), allow(batch))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_reference():
    draw = torch.Generator().manual_seed(0)
    rank = torch.randint(5, (2, 200), generator=draw)
    batch = TokenBatch(
        rank,
        rank,
        rank,
        probe=torch.rand(2, 200, generator=draw) < 0.2,
        doc=torch.arange(200).ge(130).long().expand(2, 200),
        valid=torch.rand(2, 200, generator=draw) < 0.9,
    )
    q, k, v = torch.randn(3, 2, 2, 200, 16, generator=draw)
    with torch.no_grad():
        got = flex_attention(q, k, v, block_mask=flex_block_mask(batch))
    torch.testing.assert_close(got, reference(q, k, v, allow(batch)), atol=1e-5, rtol=1e-5)


def test_flex_finds_empty_blocks():
    doc = torch.arange(4).repeat_interleave(128)[None]
    blocks = flex_block_mask(causal_batch(torch.zeros(1, 512, dtype=torch.int64), doc=doc))
    assert blocks.sparsity() == 75.0


def test_shortcuts_are_taken():
    ids = torch.zeros(2, 5, dtype=torch.int64)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    one, two = torch.zeros_like(ids), torch.tensor([[0, 0, 1, 1, 1]] * 2)
    assert sdpa_mask(causal_batch(ids)) == (None, True)
    assert sdpa_mask(causal_batch(ids, doc=one, valid=torch.ones_like(valid))) == (None, True)
    assert sdpa_mask(bidirectional_batch(ids)) == (None, False)
    assert sdpa_mask(bidirectional_batch(ids, valid=valid)).mask.shape == (2, 1, 1, 5)
    assert sdpa_mask(causal_batch(ids, doc=two)).mask.shape == (2, 1, 5, 5)
    assert sdpa_mask(causal_batch(ids, valid=valid)).mask.shape == (2, 1, 5, 5)
    facts = inspect(causal_batch(ids, doc=two))
    assert facts.shared_positions and facts.max_position == 2 and not facts.causal


def test_no_data_no_shortcut():
    assert inspect(causal_batch(torch.zeros(1, 3, dtype=torch.int64, device="meta"))).causal is False


# Legacy masks, each built as its own code base builds it.


def test_causal_is_lower_triangle():
    assert torch.equal(
        allow(causal_batch(torch.zeros(1, 6, dtype=torch.int64)))[0, 0],
        torch.ones(6, 6, dtype=torch.bool).tril(),
    )


def test_bidirectional_sees_the_valid():
    valid = torch.tensor([[True, True, False]])
    got = allow(bidirectional_batch(torch.zeros(1, 3, dtype=torch.int64), valid=valid))
    assert torch.equal(got, valid[:, None, None, :].expand(1, 1, 3, 3))


@given(st.integers(1, 5), st.integers(1, 5))
def test_prefix_language_model(source, target):
    rank = torch.cat([torch.zeros(source), torch.arange(1, target + 1)]).long()[None]
    length = source + target
    want = torch.ones(length, length, dtype=torch.bool).tril()
    want[:, :source] = True  # everyone sees the source; the source does not see the target
    assert torch.equal(allow(TokenBatch(rank, rank, rank))[0, 0], want)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_packed_documents_are_blocks(lengths):
    doc = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    want = torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).bool()
    assert torch.equal(allow(causal_batch(torch.zeros_like(doc), doc=doc))[0, 0], want)


@given(st.integers(1, 4), st.integers(1, 4))
def test_s2s_fine_tuning(source, target):
    """s2s-ft lays out source, copies of the target, pseudo tokens (spec 3.3).

    All see the source; copy t the copies up to t; pseudo token t the copies before t, and itself.
    """
    s, t = source, target
    rank = torch.cat([torch.zeros(s), torch.arange(1, t + 1), torch.arange(1, t + 1)]).long()[None]
    probe = (torch.arange(s + 2 * t) >= s + t)[None]
    want = torch.zeros(s + 2 * t, s + 2 * t, dtype=torch.bool)
    want[:, :s] = True
    lower = torch.ones(t, t, dtype=torch.bool).tril()
    want[s : s + t, s : s + t] = lower
    want[s + t :, s : s + t] = lower & ~torch.eye(t, dtype=torch.bool)
    want[s + t :, s + t :] = torch.eye(t, dtype=torch.bool)
    assert torch.equal(allow(TokenBatch(rank, rank, rank, probe))[0, 0], want)


@st.composite
def pseudo_masked(draw):
    """Context tokens with [M] in place of the masked, then for each block its originals and its [P]s."""
    length = draw(st.integers(3, 8))
    order = draw(st.permutations(range(length)))
    cuts = sorted(draw(st.sets(st.integers(1, length), min_size=1, max_size=3)))
    blocks = [list(order[a:b]) for a, b in itertools.pairwise([0, *cuts])]
    kind, step, where = ["context"] * length, [0] * length, list(range(length))
    for t, block in enumerate(blocks, start=1):
        for what in ("original", "pseudo"):
            kind += [what] * len(block)
            step += [t] * len(block)
            where += block
    return kind, step, where


@given(pseudo_masked())
def test_pseudo_masked_language_model(layout):
    """UniLMv2 (Bao et al. 2020, 3.2): [P] of block t sees context, earlier originals, and the block's [P]."""
    kind, step, where = layout
    batch = TokenBatch(
        torch.zeros(1, len(kind), dtype=torch.int64),
        torch.tensor([where]),
        torch.tensor([step]),
        torch.tensor([[k == "pseudo" for k in kind]]),
    )
    got = allow(batch)[0, 0]
    for i, j in itertools.product(range(len(kind)), repeat=2):
        if kind[i] == "context":
            want = kind[j] == "context"
        elif kind[i] == "original":
            want = kind[j] == "context" or (kind[j] == "original" and step[j] <= step[i])
        else:
            want = (
                kind[j] == "context"
                or (kind[j] == "original" and step[j] < step[i])
                or (kind[j] == "pseudo" and step[j] == step[i])
            )
        assert bool(got[i, j]) == want, (i, j)
    # No path of any number of hops leads from a [P] to an original of its own or a later block.
    reach = got.clone()
    for _ in range(12):
        reach = (reach.float() @ got.float() > 0) | reach
    for i, j in itertools.product(range(len(kind)), repeat=2):
        if kind[i] == "pseudo" and kind[j] == "original" and step[j] >= step[i]:
            assert not reach[i, j], (i, j)


@given(batches())
def test_no_leak_over_hops(batch):
    """What a token sees through others is what it may see itself: the rule is transitively closed."""
    direct = allow(batch)
    assert not ((direct.float() @ direct.float() > 0) & ~direct).any()


@pytest.mark.parametrize("positions", [(Absolute(),), (Rotary(),), (T5Bias(),)])
@pytest.mark.parametrize("seed", range(3))
def test_perturbation_reaches_only_what_may_see(seed, positions):
    """Changing token j leaves every output that may not see j bit-equal, in a model of three layers."""
    draw = torch.Generator().manual_seed(seed)
    length = 12
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=3, d_ff=32, vocab_size=20, max_positions=32, positions=positions
    )
    model = initialize(Transformer(config), seed).eval()
    batch = TokenBatch(
        ids=torch.randint(20, (1, length), generator=draw),
        pos=torch.randint(32, (1, length), generator=draw),
        rank=torch.randint(4, (1, length), generator=draw),
        probe=torch.rand(1, length, generator=draw) < 0.3,
        doc=torch.randint(2, (1, length), generator=draw),
        valid=torch.rand(1, length, generator=draw) < 0.9,
    )
    mask = allow(batch)[0, 0] | torch.eye(length, dtype=torch.bool)  # a residual always sees its own token
    with torch.no_grad():
        before = model(batch).logits[0]
        for j in range(length):
            ids = batch.ids.clone()
            ids[0, j] = (ids[0, j] + 1) % 20
            after = model(batch._replace(ids=ids)).logits[0]
            for i in range(length):
                if mask[i, j]:
                    assert not torch.equal(before[i], after[i])
                else:
                    assert torch.equal(before[i], after[i])


def test_source_is_seen_whatever_its_rank():
    source = causal_batch(torch.zeros(1, 3, dtype=torch.int64), valid=torch.tensor([[True, True, False]]))
    target = causal_batch(torch.zeros(1, 2, dtype=torch.int64))
    want = torch.tensor([[True, True, False]] * 2)[None, None]
    assert torch.equal(allow(target, as_source(source)), want)
    assert torch.equal(source_mask(target, source).mask.expand(1, 1, 2, 3), want)
    packed = source_mask(
        target._replace(doc=torch.tensor([[0, 1]])), source._replace(doc=torch.tensor([[0, 1, 1]]))
    )
    assert torch.equal(packed.mask[0, 0], torch.tensor([[True, False, False], [False, True, False]]))
