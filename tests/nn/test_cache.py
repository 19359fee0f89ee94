"""Decoding with a cache equals the forward without one, for any mix of prompt lengths, beams and sources."""

import pytest
import torch

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch, pad_rows
from mainspring.errors import UsageError
from mainspring.nn import Absolute, KVCache, Rotary, T5Bias, Transformer, TransformerConfig, initialize

POSITIONS = {
    "absolute": (Absolute(),),
    "rotary": (Rotary(),),
    "t5": (T5Bias(bidirectional=False),),
    "all": (Absolute(offset=2), Rotary(), T5Bias(bidirectional=False)),
}


def decoder(positions, **other):
    config = TransformerConfig(
        d_model=32,
        n_heads=4,
        d_ff=64,
        vocab_size=50,
        max_positions=64,
        init_std=0.2,
        positions=POSITIONS[positions],
        **{"n_layers": 3, **other},
    )
    return initialize(Transformer(config), 1).eval()


def step(ids, index):
    """One token a row, each at its row's own position."""
    index = torch.as_tensor(index)[:, None]
    return TokenBatch(torch.as_tensor(ids)[:, None], pos=index, rank=index)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.inference_mode()
def test_steps_equal_the_whole(positions):
    model = decoder(positions)
    ids = torch.randint(50, (2, 11))
    whole = model(causal_batch(ids)).logits
    cache = KVCache(model.config, rows=2, capacity=11)
    got = [model(causal_batch(ids[:, :4]), cache=cache).logits]
    chunk = causal_batch(ids[:, 4:7])
    got.append(model(chunk._replace(pos=chunk.pos + 4, rank=chunk.rank + 4), cache=cache).logits)
    got += [model(step(ids[:, i], [i, i]), cache=cache).logits for i in range(7, 11)]
    torch.testing.assert_close(torch.cat(got, 1), whole, atol=1e-5, rtol=1e-5)
    assert cache.length == 11 and cache.nbytes == 2 * 3 * 2 * 11 * 32 * 4


@pytest.mark.parametrize("positions", POSITIONS)
@torch.inference_mode()
def test_prompts_of_different_length_equal_one_by_one(positions):
    model = decoder(positions)
    prompts = [torch.randint(50, (n,)).tolist() for n in (3, 9, 1, 6)]
    later = torch.randint(50, (4, 5))
    ids, valid = pad_rows(prompts, pad=0)
    cache = KVCache(model.config, rows=4, capacity=9 + 5)
    first = model(causal_batch(ids, valid=valid), cache=cache).logits
    together = [first[torch.arange(4), valid.sum(1) - 1]]
    lengths = valid.sum(1)
    together += [model(step(later[:, i], lengths + i), cache=cache).logits[:, 0] for i in range(5)]
    for row, prompt in enumerate(prompts):
        alone = KVCache(model.config, rows=1, capacity=14)
        want = [model(causal_batch(torch.tensor([prompt])), cache=alone).logits[:, -1]]
        for i in range(5):
            want.append(model(step(later[row : row + 1, i], [len(prompt) + i]), cache=alone).logits[:, 0])
        got = torch.stack([t[row] for t in together])
        torch.testing.assert_close(got, torch.cat(want), atol=1e-5, rtol=1e-5)
        whole = model(causal_batch(torch.tensor([prompt + later[row].tolist()]))).logits[0, len(prompt) - 1 :]
        torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_select_reorders_repeats_and_drops_rows():
    model = decoder("rotary")
    ids = torch.randint(50, (3, 6))
    for rows in ([2, 0, 0], [1], [0, 0, 1, 1, 2, 2]):
        cache = KVCache(model.config, rows=3, capacity=8)
        model(causal_batch(ids), cache=cache)
        cache.select(torch.tensor(rows))
        assert cache.rows == len(rows)
        token = torch.randint(50, (len(rows),))
        got = model(step(token, [6] * len(rows)), cache=cache).logits[:, 0]
        want = model(causal_batch(torch.cat([ids[rows], token[:, None]], 1))).logits[:, -1]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_probe_is_forgotten_after_its_prediction():
    """UniLM's decoding: a [MASK] probe asks for the next token, then gives its place to it."""
    model = decoder("absolute")
    ids, mask = torch.randint(49, (1, 6)), 49
    cache = KVCache(model.config, rows=1, capacity=8)
    model(causal_batch(ids[:, :3]), cache=cache)
    for i in range(3, 6):
        probe = TokenBatch(
            torch.tensor([[mask]]),
            pos=torch.tensor([[i]]),
            rank=torch.tensor([[i]]),
            probe=torch.tensor([[True]]),
        )
        got = model(probe, cache=cache).logits[:, 0]
        cache.truncate(i)
        whole = causal_batch(torch.cat([ids[:, :i], torch.tensor([[mask]])], 1))
        torch.testing.assert_close(got, model(whole).logits[:, -1], atol=1e-5, rtol=1e-5)
        model(step(ids[:, i], [i]), cache=cache)
    with pytest.raises(UsageError, match="cannot keep 7 tokens of 6"):
        cache.truncate(7)


@torch.inference_mode()
def test_documents_in_a_cache_stay_apart():
    model = decoder("absolute")
    ids, doc = torch.randint(50, (1, 8)), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    batch = causal_batch(ids, doc=doc)
    cache = KVCache(model.config, rows=1, capacity=8)
    parts = [TokenBatch(*(None if t is None else t[:, a:b] for t in batch)) for a, b in ((0, 5), (5, 8))]
    got = torch.cat([model(part, cache=cache).logits for part in parts], 1)
    torch.testing.assert_close(got, model(batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "t5"])
@torch.inference_mode()
def test_encoder_decoder_steps_equal_the_whole(positions):
    model = decoder(positions, n_layers=0, encoder_layers=2, decoder_layers=2)
    source_ids, valid = pad_rows([[5, 6, 7], [8, 9, 10, 11, 12]], pad=0)
    source = bidirectional_batch(source_ids, valid=valid)
    ids = torch.randint(50, (2, 7))
    whole = model(causal_batch(ids), source=source).logits
    alone = model(causal_batch(ids[:1]), source=bidirectional_batch(source_ids[:1, :3])).logits
    torch.testing.assert_close(whole[:1], alone, atol=1e-5, rtol=1e-5)
    cache = KVCache(model.config, rows=2, capacity=7)
    got = [model(causal_batch(ids[:, :3]), source=source, cache=cache).logits]
    got += [model(step(ids[:, i], [i, i]), cache=cache).logits for i in range(3, 7)]
    torch.testing.assert_close(torch.cat(got, 1), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="holds a source already"):
        model(step(ids[:, 0], [7, 7]), source=source, cache=cache)
    rows = torch.tensor([1, 1, 0])
    beam = KVCache(model.config, rows=2, capacity=8)
    model(causal_batch(ids[:, :6]), source=source, cache=beam)
    beam.select(rows)
    token = torch.tensor([1, 2, 3])
    again = model(step(token, [6, 6, 6]), cache=beam).logits[:, 0]
    picked = TokenBatch(*(None if t is None else t[rows] for t in source))
    want = model(causal_batch(torch.cat([ids[rows, :6], token[:, None]], 1)), source=picked).logits[:, -1]
    torch.testing.assert_close(again, want, atol=1e-5, rtol=1e-5)


def test_misuse_is_refused():
    model = decoder("absolute")
    cache = KVCache(model.config, rows=2, capacity=4)
    batch = causal_batch(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(UsageError, match="no gradient"):
        model(batch, cache=cache)
    with torch.inference_mode():
        with pytest.raises(UsageError, match="holds 4 tokens a row; 0 are stored and 5 more .* capacity 5"):
            model(batch, cache=cache)
        with pytest.raises(UsageError, match="3 rows and the cache 2"):
            model(causal_batch(torch.zeros(3, 2, dtype=torch.int64)), cache=cache)
        with pytest.raises(UsageError, match="without an encoder"):
            model(batch, source=batch)
        both = decoder("absolute", n_layers=0, encoder_layers=1, decoder_layers=1)
        with pytest.raises(UsageError, match="needs a source"):
            both(batch, cache=cache)
    assert cache.length == 0
