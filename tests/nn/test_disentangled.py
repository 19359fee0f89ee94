"""Disentangled attention: buckets, both ways of scoring against loops, gradients, masks, packing, caches."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import ConfigError, UsageError
from mainspring.models.deberta.config import deberta, deberta_v2, discriminator
from mainspring.nn import Absolute, Disentangled, KVCache, Transformer, TransformerConfig, allow, initialize
from mainspring.nn import relative_attention as kernel
from mainspring.nn.conv import neighbour
from mainspring.nn.disentangled import DistanceVectors, bucket, gathered_scores, positions_aligned, table_row


def small(**other) -> TransformerConfig:
    return TransformerConfig(
        **{
            "d_model": 12,
            "n_heads": 2,
            "n_layers": 2,
            "d_ff": 20,
            "vocab_size": 31,
            "norm_place": "post",
            "embed_norm": True,
            "embed_mask": True,
            "head_transform": True,
            "head_bias": True,
            "positions": (Disentangled(max_distance=16, buckets=6, norm_table=True),),
            **other,
        }
    )


def random(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose biases and norms are at random too."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (name.endswith("norm.weight") * 1.0))
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 31, (rows, length), generator=torch.Generator().manual_seed(seed))


# Buckets.


def test_buckets_of_the_specification():
    """Values measured on the published code (spec/language-models.md, 2.1), and oddness."""
    known = {131: 131, 150: 143, 200: 169, 256: 192, 511: 255}
    for distance, row in known.items():
        assert bucket(torch.tensor([distance, -distance]), 256, 512).tolist() == [row, -row]
    near = torch.arange(-131, 132)
    assert torch.equal(bucket(near, 256, 512), near)
    far = torch.arange(1, 600)
    assert torch.equal(bucket(-far, 256, 512), -bucket(far, 256, 512))
    assert (bucket(far, 256, 512).diff() >= 0).all()


@given(st.integers(2, 40), st.integers(2, 90), st.integers(-200, 200))
def test_bucket_formula(half, room, distance):
    """The formula of the paper's code in exact arithmetic, away from where ceil turns on a rounding."""
    mid, most = half, half + room
    away = abs(distance)
    got = int(bucket(torch.tensor([distance]), 2 * mid, most)[0])
    if away <= mid:
        assert got == distance
        return
    exact = math.log(away / mid) / math.log((most - 1) / mid) * (mid - 1)
    if abs(exact - round(exact)) > 1e-4:
        assert got == (mid + math.ceil(exact)) * (1 if distance > 0 else -1)


def test_rows_are_clamped():
    scheme = Disentangled(max_distance=4)
    assert table_row(torch.tensor([-9, -4, -3, 0, 3, 4, 9]), scheme).tolist() == [0, 0, 1, 4, 7, 7, 7]


def test_impossible_schemes():
    with pytest.raises(ConfigError, match="each once"):
        Disentangled().replace(terms=["c2p", "c2p"])
    with pytest.raises(ConfigError, match="nearest legal value: 130"):
        Disentangled().replace(buckets=256, max_distance=100)
    with pytest.raises(ConfigError, match="with absolute positions alone"):
        small().replace(positions=[{"kind": "disentangled"}, {"kind": "rotary"}])
    with pytest.raises(ConfigError, match="single stack"):
        small().replace(n_layers=0, encoder_layers=1, decoder_layers=1)
    with pytest.raises(ConfigError, match="norm_place = 'post'"):
        small().replace(positions=[{"kind": "absolute", "place": "decoder"}], norm_place="pre")
    with pytest.raises(ConfigError, match="no middle; nearest legal value: 5"):
        small().replace(conv={"kernel": 4})


# Scores.


def by_hand(q, k, keys, queries, row):
    """Every pair alone; row(i, j) in both terms, as the published models have it."""
    heads, rows, length, _ = q.shape
    scores = torch.zeros(heads, rows, length, length, dtype=q.dtype)
    for h, b, i, j in itertools.product(range(heads), range(rows), range(length), range(length)):
        total = q[h, b, i] @ k[h, b, j]
        if keys is not None:
            total = total + q[h, b, i] @ keys[row(i, j), h]
        if queries is not None:
            total = total + k[h, b, j] @ queries[row(i, j), h]
        scores[h, b, i, j] = total
    return scores


def mix_by_hand(scores, v, blocked, kept):
    weights = scores.masked_fill(blocked, -math.inf).softmax(-1)
    return (weights * kept) @ v


def drawn(length, width, heads=2, rows=3, dtype=torch.float64):
    """Queries, keys, values, two tables; a mask of each row's and factors of dropout."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(heads, rows, length, width)] * 3 + [(heads, 2 * length - 1, width)] * 2
    leaves = [torch.randn(s, generator=draw, dtype=dtype, requires_grad=True) for s in shapes]
    blocked = torch.rand(1, rows, length, length, generator=draw) < 0.3
    kept = (torch.rand(heads, rows, length, length, generator=draw) < 0.8).to(dtype) / 0.8
    return leaves, blocked & ~torch.eye(length, dtype=torch.bool), kept


@pytest.fixture
def cut(monkeypatch):
    """Blocks and pieces so small that tokens, heads and rows are cut."""
    monkeypatch.setattr(kernel, "BLOCK", {1 << 62: 3})
    monkeypatch.setattr(kernel, "PIECE", {"cpu": 1100})


@pytest.mark.parametrize("terms", ["both", "c2p", "p2c"])
def test_attention_against_loops(terms, cut):
    """The pairs read along diagonals and the pairs that are picked equal the pairs one by one."""
    length = 8
    (q, k, v, falling, rising), blocked, kept = drawn(length, 5)
    falling, rising = falling if terms != "p2c" else None, rising if terms != "c2p" else None
    keys = None if falling is None else falling.transpose(0, 1).flip(0)
    queries = None if rising is None else rising.transpose(0, 1)
    want = by_hand(q, k, keys, queries, lambda i, j: i - j + length - 1)
    got, weights = kernel.relative_attention(q, k, v, falling, rising, blocked, kept, True)
    torch.testing.assert_close(got, mix_by_hand(want, v, blocked, kept))
    torch.testing.assert_close(weights, want.masked_fill(blocked, -math.inf).softmax(-1))
    without, nothing = kernel.relative_attention(q, k, v, falling, rising, blocked, kept, False)
    assert torch.equal(without, got) and nothing.numel() == 0
    index = torch.arange(length)[:, None] - torch.arange(length) + length - 1
    torch.testing.assert_close(gathered_scores(q, k, DistanceVectors(keys, queries), index[None, None]), want)


@pytest.mark.parametrize("terms", ["both", "c2p", "p2c", "neither"])
@pytest.mark.parametrize("masked", [True, False])
def test_gradients_of_the_attention(terms, masked, cut):
    (q, k, v, falling, rising), *extra = drawn(5, 3)
    given = (
        q,
        k,
        v,
        falling if terms in ("both", "c2p") else None,
        rising if terms in ("both", "p2c") else None,
    )
    extra = extra if masked else (None, None)
    assert torch.autograd.gradcheck(lambda *t: kernel.relative_attention(*t, *extra, True)[0], given)


def test_the_operator_is_what_compilers_need():
    given, blocked, kept = drawn(4, 3, rows=1, dtype=torch.float32)
    torch.library.opcheck(kernel.relative_attention, (*given, blocked, kept, True))


@pytest.mark.parametrize("length", [8, 256, 512])
def test_scores_turned(length):
    scores = torch.randn(2, 1, length, length).to(torch.bfloat16)
    assert torch.equal(kernel._turned(scores), scores.transpose(2, 3))
    assert kernel._turned(scores).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_products_take_the_fast_path(dtype):
    """Sizes at which products go through oneDNN: the same as picking pairs in double precision."""
    given, blocked, kept = drawn(300, 64, dtype=dtype)
    with torch.no_grad():  # scores of some units
        given[0].mul_(0.1)
        given[4].mul_(0.1)
    wide = [t.detach().double().requires_grad_() for t in given]
    index = torch.arange(300)[:, None] - torch.arange(300) + 299
    vectors = DistanceVectors(wide[3].transpose(0, 1).flip(0), wide[4].transpose(0, 1))
    scores = gathered_scores(wide[0], wide[1], vectors, index[None, None])
    plain = mix_by_hand(scores, wide[2], blocked, kept.double())
    fast, _ = kernel.relative_attention(*given, blocked, kept, True)
    weight = torch.randn(plain.shape, dtype=torch.float64)
    results = [fast, *torch.autograd.grad(fast, given, weight.to(dtype))]
    expected = [plain, *torch.autograd.grad(plain, wide, weight)]
    for a, e in zip(results, expected, strict=True):
        assert (a.double() - e).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * e.norm()


def test_p2c_reads_the_distance_of_query_to_key():
    """Regression: the paper writes the third term with the distance of key to query; the models do not.

    A model whose only term is p2c, with queries of distances that grow with the row and keys all alike,
    prefers the keys that lie furthest behind the query: with the paper's index, the furthest ahead.
    """
    config = TransformerConfig(
        d_model=2,
        n_heads=1,
        n_layers=1,
        d_ff=2,
        vocab_size=2,
        norm_place="post",
        positions=(Disentangled(max_distance=8, terms=("p2c",), shared=False),),
    )
    attention = Transformer(config).layers[0].attention.disentangled
    rows = torch.arange(16.0).view(16, 1, 1).expand(16, 1, 2)
    q, k = torch.zeros(1, 1, 5, 2), torch.ones(1, 1, 5, 2)
    index = table_row(torch.arange(5)[:, None] - torch.arange(5), config.disentangled)[None, None]
    scores = gathered_scores(q, k, DistanceVectors(None, rows), index)
    assert attention.to_queries and not attention.to_keys
    assert scores[0, 0, 2].argmax() == 0 and scores[0, 0, 2].tolist() == [20.0, 18.0, 16.0, 14.0, 12.0]


# The model: any data, any mask.


@pytest.mark.parametrize(
    "scheme",
    [
        Disentangled(max_distance=16, buckets=6, norm_table=True),
        Disentangled(max_distance=5, shared=False, key_bias=False),
        Disentangled(max_distance=16, terms=("c2p",)),
    ],
)
def test_aligned_and_gathered_agree(scheme, monkeypatch):
    """Both ways of scoring give the same output and gradients, over masks of every kind."""
    model = random(small(positions=(scheme,)))
    ids = tokens(2, 13)
    doc = torch.tensor([[0] * 5 + [1] * 8, [0] * 13])
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[1, 9:] = False
    for batch in (
        bidirectional_batch(ids),
        bidirectional_batch(ids, valid=valid),
        causal_batch(ids),
        bidirectional_batch(ids, doc=doc),
        causal_batch(ids, doc=doc, valid=valid),
    ):
        results = []
        for aligned in (True, False):
            monkeypatch.setattr(
                "mainspring.nn.transformer.positions_aligned", lambda b, choice=aligned: choice
            )
            model.zero_grad()
            out = model(batch).hidden
            seen = torch.ones_like(ids, dtype=torch.bool) if batch.valid is None else batch.valid
            out[seen].square().sum().backward()
            results.append((out[seen], [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
        for a, b in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_which_positions_are_aligned():
    ids = tokens(1, 6)
    index = torch.arange(6)[None]
    rank = torch.zeros_like(ids)

    def aligned(pos, doc=None):
        doc = None if doc is None else torch.tensor([doc])
        return positions_aligned(TokenBatch(ids, torch.tensor([pos]), rank, doc=doc))

    assert positions_aligned(TokenBatch(ids, index + 7, rank))
    assert aligned([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    assert aligned([4, 5, 0, 1, 9, 10], [0, 0, 1, 1, 2, 2])
    assert not aligned([0, 1, 2, 0, 1, 2])
    assert not aligned([0, 1, 1, 2, 3, 4])
    assert not aligned([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0])  # the first document goes on with 0, not 2


def test_packed_documents_equal_documents_alone():
    model = random(small(conv={"kernel": 3}))
    ids = tokens(1, 12)
    packed = model(bidirectional_batch(ids, doc=torch.tensor([[0] * 5 + [1] * 7]))).logits
    for part in (slice(0, 5), slice(5, 12)):
        torch.testing.assert_close(
            packed[:, part], model(bidirectional_batch(ids[:, part])).logits, atol=1e-5, rtol=1e-5
        )


def test_padding_changes_nothing():
    model = random(small(conv={"kernel": 5, "activation": "tanh"}))
    ids = tokens(2, 9)
    for left in (False, True):
        valid = torch.ones(2, 9, dtype=torch.bool)
        valid[1, slice(0, 4) if left else slice(5, 9)] = False
        padded = model(bidirectional_batch(ids, valid=valid)).logits
        alone = model(bidirectional_batch(ids[1:, valid[1]])).logits
        torch.testing.assert_close(padded[1, valid[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_order_of_tokens_in_memory_does_not_matter():
    """Positions and ranks are data: a shuffled row gives the shuffled output."""
    model = random(small())
    batch = causal_batch(tokens(1, 10))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shuffled = TokenBatch(*(None if t is None else t[:, order] for t in batch))
    torch.testing.assert_close(model(shuffled).logits, model(batch).logits[:, order], atol=1e-5, rtol=1e-5)


@settings(max_examples=15)
@given(st.data())
def test_nothing_leaks(data):
    """Changing a token leaves every output bit-equal that may not see it, over layers and the convolution."""
    rank = torch.tensor([data.draw(st.lists(st.integers(0, 3), min_size=7, max_size=7))])
    doc = torch.tensor([sorted(data.draw(st.lists(st.integers(0, 1), min_size=7, max_size=7)))])
    probe = torch.tensor([data.draw(st.lists(st.booleans(), min_size=7, max_size=7))])
    ids = tokens(1, 7)
    batch = TokenBatch(ids, torch.arange(7)[None], rank, probe=probe, doc=doc)
    config = small(conv={"kernel": 3}, positions=(Disentangled(max_distance=16), Absolute(place="decoder")))
    model = random(config)
    seen = allow(batch)[0, 0] | torch.eye(7, dtype=torch.bool)
    for _ in range(3):
        seen = seen | (seen.float() @ seen.float() > 0)
    before = model(batch).logits
    changed = data.draw(st.integers(0, 6))
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 31
    after = model(batch._replace(ids=other)).logits
    hidden = ~seen[:, changed]
    assert torch.equal(before[0, hidden], after[0, hidden])
    assert not torch.equal(before[0, changed], after[0, changed])


def test_query_that_sees_nothing_attends_to_nothing():
    model = random(small())
    batch = bidirectional_batch(tokens(2, 4), valid=torch.tensor([[True] * 4, [False] * 4]))
    out = model(batch).hidden
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], model(bidirectional_batch(batch.ids[:1])).hidden)
    sight = model._sight(batch, None, model._inspect(batch), None)
    attended = model.layers[0].attention(torch.randn(2, 4, 12), sight)
    torch.testing.assert_close(attended[1], model.layers[0].attention.out.bias.expand(4, 12))


def test_cache_continues_rows():
    model = random(small())
    ids = tokens(2, 9)
    whole = model(causal_batch(ids)).logits
    with torch.inference_mode():
        cache = KVCache(model.config, 2, 9)
        parts = []
        for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
            batch = TokenBatch(*(None if t is None else t[:, part] for t in causal_batch(ids)))
            parts.append(model(batch, cache=cache).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_cache_is_refused_where_rows_are_read_whole():
    for config in (
        small(conv={"kernel": 3}),
        small(positions=(Disentangled(max_distance=9), Absolute(place="decoder"))),
    ):
        with pytest.raises(UsageError, match="takes no cache"), torch.inference_mode():
            Transformer(config)(causal_batch(tokens(1, 2)), cache=KVCache(config, 1, 4))


def test_convolution_against_torch():
    """Without packing the taps are a convolution of the embeddings."""
    model = random(small(conv={"kernel": 3}))
    ids = tokens(2, 6)
    batch = bidirectional_batch(ids)
    states = model(batch, states=True).states
    sight = model._sight(batch, None, model._inspect(batch), None)
    first = model.layers[0](states[0], sight)
    conv = model.conv
    mixed = torch.nn.functional.conv1d(states[0].transpose(1, 2), conv.weight, conv.bias, padding=1)
    want = model.conv.norm(first + torch.nn.functional.gelu(mixed.transpose(1, 2)))
    torch.testing.assert_close(states[1], want, atol=1e-5, rtol=1e-5)


@given(st.data())
def test_neighbours_follow_the_one_rule(data):
    def row(values):
        return torch.tensor([data.draw(st.lists(values, min_size=6, max_size=6))])

    step = data.draw(st.integers(-7, 7))
    batch = TokenBatch(
        tokens(1, 6),
        row(st.integers(0, 6)),
        row(st.integers(0, 2)),
        probe=row(st.booleans()) if data.draw(st.booleans()) else None,
        doc=row(st.integers(0, 1)) if data.draw(st.booleans()) else None,
        valid=row(st.booleans()) if data.draw(st.booleans()) else None,
    )
    seen, pos = allow(batch)[0, 0], batch.pos[0]
    want = [
        0 <= i + step < 6 and bool(seen[i, i + step]) and int(pos[i + step] - pos[i]) == step
        for i in range(6)
    ]
    assert neighbour(batch, step)[0].tolist() == want


# Training.


def test_recomputation_gives_the_same_gradients():
    config = small(conv={"kernel": 3}, positions=(Disentangled(max_distance=9), Absolute(place="decoder")))
    model = random(config).train()
    batch = bidirectional_batch(tokens(2, 7))
    grads = []
    for remat in (False, True):
        model.remat = remat
        model.zero_grad()
        model(batch).logits.square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_dropout_reaches_distances():
    config = small(dropout=0.5, attention_dropout=0.5)
    model = random(config)
    batch = bidirectional_batch(tokens(1, 5))
    assert torch.equal(model(batch).hidden, model(batch).hidden)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(batch).hidden, model(batch).hidden)


def test_half_precision_stays_near():
    model = random(small())
    batch = bidirectional_batch(tokens(2, 11))
    want = model(batch).hidden
    assert (model.to(torch.bfloat16)(batch).hidden.float() - want).abs().mean() < 0.05


def test_meta_device_forward():
    with torch.device("meta"):
        model = Transformer(deberta_v2(32, 2, 2, vocab_size=50))
        out = model(bidirectional_batch(torch.zeros(2, 600, dtype=torch.int64)))
    assert out.logits.shape == (2, 600, 50)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
def test_layer_compiles_whole():
    """A layer is one graph, forward and backward, with the numbers of the plain one."""
    model = random(small())
    batch = bidirectional_batch(tokens(2, 9))
    x = torch.randn(2, 9, 12, requires_grad=True)
    sight = model._sight(batch, None, model._inspect(batch), None)
    block = model.layers[0]
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    want, got = block(x, sight), compiled(x, sight)
    torch.testing.assert_close(got, want)
    (by_plain,) = torch.autograd.grad(want.square().sum(), x, retain_graph=True)
    (by_compiled,) = torch.autograd.grad(got.square().sum(), x)
    torch.testing.assert_close(by_compiled, by_plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [deberta, deberta_v2, discriminator])
def test_initial_values(make):
    model = initialize(Transformer(make(32, 1, 2, vocab_size=40)), 0)
    assert 0.015 < model.distances.table.weight.std() < 0.025
    assert (model.layers[0].attention.out.bias == 0).all()


def test_autocast_stays_near():
    """Mixed precision as plans without sharding use it: fp32 parameters, bf16 products."""
    config = small(conv={"kernel": 3}, positions=(Disentangled(max_distance=9), Absolute(place="decoder")))
    model = random(config)
    batch = bidirectional_batch(tokens(2, 11))
    want = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        got = model(batch).logits
    got.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (got.float() - want).abs().mean() < 0.05 * want.abs().mean()
