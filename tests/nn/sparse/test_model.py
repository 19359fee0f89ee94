"""Transformers with sparse attention: dense ones under the same mask, caches, packed rows, parts of heads."""

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import ConfigError, UsageError
from mainspring.nn import KVCache, Rotary, Transformer, TransformerConfig, initialize
from mainspring.nn import transformer as module
from mainspring.nn.packed import packed_rows
from mainspring.nn.sparse import BigBird, BSLongformer, SlidingWindow

LONGFORMER = BSLongformer(block=4, attention="unidirectional")
BIRD = BigBird(block=4, per_head=True, seed=3)
WINDOW = SlidingWindow(block=4, attention="unidirectional")


def shape(**other):
    values = {"d_model": 16, "n_heads": 4, "n_layers": 2, "d_ff": 24, "vocab_size": 31, "max_positions": 48}
    return TransformerConfig(**values, **other)


def made(**other):
    return initialize(Transformer(shape(init_std=0.3, **other)), 0)


def words(rows, length, seed=0):
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sparse", [LONGFORMER, BIRD], ids=["bslongformer", "bigbird"])
@pytest.mark.parametrize("remat", [False, True])
def test_tiles_and_the_mask_of_all_pairs_give_the_same(sparse, remat, monkeypatch):
    valid = torch.arange(41) < torch.tensor([[41], [30]])
    batch = bidirectional_batch(words(2, 41), valid=valid)
    if sparse is LONGFORMER:
        batch = causal_batch(batch.ids, valid=valid)
    model = made(sparse=sparse)
    model.remat = remat
    by_tiles = model(batch, select=valid).logits
    by_tiles.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(module, "has_no_data", lambda batch: True)  # as where the values are not known
    everywhere = model(batch, select=valid).logits
    everywhere.square().mean().backward()
    torch.testing.assert_close(by_tiles, everywhere, atol=2e-5, rtol=1e-4)
    for ours, theirs in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=2e-6, rtol=1e-3)
    monkeypatch.undo()
    model.config = shape(init_std=0.3)
    assert (model(batch, select=valid).logits - by_tiles).abs().max() > 1e-3  # dense is something else


def test_a_window_reaches_as_far_as_its_layers_allow():
    model, ids = made(sparse=WINDOW), words(1, 40)
    before = model(causal_batch(ids)).logits
    changed = ids.clone()
    changed[0, 9] = (ids[0, 9] + 1) % 31
    moved = (model(causal_batch(changed)).logits != before).any(-1)[0].nonzero().flatten()
    # Block 2 is seen by block 3 in a layer, and by block 4 after two.
    assert moved.min() == 9 and 16 <= moved.max() < 20


@pytest.mark.parametrize("positions", [{}, {"positions": (Rotary(),)}], ids=["absolute", "rotary"])
def test_a_cache_sees_what_the_whole_row_sees(positions):
    model, ids = made(sparse=LONGFORMER, **positions).eval(), words(2, 30)
    with torch.inference_mode():
        whole = model(causal_batch(ids)).logits
        cache = KVCache(model.config, 2, 30)
        batch = causal_batch(ids)
        steps = []
        for start, stop in ((0, 17), (17, 18), (18, 25), (25, 30)):
            part = batch._replace(
                ids=ids[:, start:stop], pos=batch.pos[:, start:stop], rank=batch.rank[:, start:stop]
            )
            steps.append(model(part, cache=cache).logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-4)


def test_packed_documents_have_the_blocks_that_they_have_alone():
    model = made(sparse=LONGFORMER).eval()
    first, second = words(1, 19), words(1, 14, 1)
    doc = torch.cat([torch.zeros(1, 19), torch.ones(1, 14)], 1).long()
    row = causal_batch(torch.cat([first, second], 1), doc=doc)
    with torch.inference_mode():
        alone = [model(causal_batch(ids)).logits for ids in (first, second)]
        torch.testing.assert_close(model(row).logits, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)
        with packed_rows(model):
            torch.testing.assert_close(model(row).logits, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)


def test_both_stacks_of_an_encoder_decoder():
    config = {"n_layers": 0, "encoder_layers": 2, "decoder_layers": 2}
    model = initialize(Transformer(shape(init_std=0.3).replace(**config, sparse=WINDOW.model_dump())), 0)
    source, target = bidirectional_batch(words(1, 40)), causal_batch(words(1, 20, 1))
    before = model(target, source=source).logits
    changed = source.ids.clone()
    changed[0, 39] = (changed[0, 39] + 1) % 31
    assert (model(target, source=source._replace(ids=changed)).logits != before).any()  # all see the source


def test_born_on_meta_and_compiled_for_inference():
    with torch.device("meta"):
        model = Transformer(shape(sparse=BIRD))
    assert model.layout.device.type == "cpu" and "layout" not in model.state_dict()
    batch = causal_batch(torch.zeros((1, 20), dtype=torch.int64, device="meta"))
    assert model(batch).logits.shape == (1, 20, 31)


def test_refused():
    for positions in ([{"kind": "t5_bias"}], [{"kind": "disentangled"}]):
        with pytest.raises(ConfigError, match="one for every pair of tokens"):
            parse(
                TransformerConfig,
                {**shape().model_dump(), "positions": positions, "sparse": {"kind": "fixed"}},
            )
    with pytest.raises(ConfigError, match=r"holds all of max_positions = 48.*block of 6"):
        shape().replace(sparse={"kind": "fixed", "block": 64})
    model = made(sparse=WINDOW, positions=(Rotary(),))
    with pytest.raises(UsageError, match="position 48 and the model has 48"):
        model(causal_batch(words(1, 49)))
