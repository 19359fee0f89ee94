"""Rows that do not go in step are what each would be alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.batch import TokenBatch, pad_rows
from mainspring.errors import UsageError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Rotary, T5Bias
from mainspring.nn.slot_cache import SlotCache

SHAPE = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "vocab_size": 23, "init_std": 0.3}
MODELS = {
    "absolute": TransformerConfig(**SHAPE, max_positions=64),
    "rotary": TransformerConfig(**SHAPE, positions=(Rotary(),)),
    "t5": TransformerConfig(**SHAPE, positions=(T5Bias(bidirectional=False),)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return initialize(Transformer(MODELS[request.param]), seed=3).eval().requires_grad_(False)


def alone(model: Transformer, row: list[int]) -> torch.Tensor:
    index = torch.arange(len(row))[None]
    return model(TokenBatch(torch.tensor([row]), index, index)).logits[0]


def read(
    model: Transformer, cache: SlotCache, slots: list[int], tokens: list[list[int]]
) -> list[torch.Tensor]:
    """Read more tokens into slots; logits at each of them."""
    ids, valid = pad_rows(tokens, 0)
    place = torch.tensor([cache.lengths[s] for s in slots])[:, None] + torch.arange(ids.shape[1])
    place = place.clamp(max=63)
    rows = cache.rows(slots, [len(t) for t in tokens])
    with torch.inference_mode():
        logits = model(TokenBatch(ids, place, place, valid=None if valid.all() else valid), cache=rows).logits
    return [row[: len(t)] for row, t in zip(logits, tokens, strict=True)]


@given(st.data())
def test_slots_read_in_any_order_what_rows_alone_read(data: st.DataObject) -> None:
    model = initialize(Transformer(MODELS["absolute"]), seed=3).eval().requires_grad_(False)
    cache = SlotCache(model.config, slots=4, context=40)
    held: list[list[int]] = [[] for _ in range(4)]
    for _ in range(data.draw(st.integers(1, 6))):
        slots = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        tokens = [data.draw(st.lists(st.integers(0, 22), min_size=1, max_size=6)) for _ in slots]
        for slot, new, logits in zip(slots, tokens, read(model, cache, slots, tokens), strict=True):
            held[slot] += new
            torch.testing.assert_close(logits, alone(model, held[slot])[-len(new) :], rtol=1e-4, atol=1e-4)
        one, other = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        match data.draw(st.sampled_from(["truncate", "copy", "swap"])):
            case "truncate":
                held[one] = held[one][: len(held[one]) // 2]
                cache.truncate(one, len(held[one]))
            case "copy":
                cache.copy(one, other)
                held[other] = list(held[one])
            case "swap":
                cache.swap(one, other)
                held[one], held[other] = held[other], held[one]
    assert cache.lengths == [len(row) for row in held]


def test_every_position_scheme(model: Transformer) -> None:
    cache = SlotCache(model.config, slots=3, context=30)
    first = [[1, 2, 3, 4, 5], [6], [7, 8]]
    read(model, cache, [0, 1, 2], first)
    second = [[9], [10, 11, 12]]
    for slot, new, logits in zip([2, 1], second, read(model, cache, [2, 1], second), strict=True):
        torch.testing.assert_close(logits, alone(model, first[slot] + new)[-len(new) :], rtol=1e-4, atol=1e-4)


def test_a_new_row_beside_one_that_goes_on() -> None:
    """As many keys as queries: the keys are not the queries all the same."""
    model = initialize(Transformer(MODELS["absolute"]), seed=3).eval().requires_grad_(False)
    cache = SlotCache(model.config, slots=2, context=8)
    read(model, cache, [0], [[1, 2, 3, 4]])
    new = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14]]
    got = read(model, cache, [0, 1], new)
    torch.testing.assert_close(got[0], alone(model, [1, 2, 3, 4, 5, 6])[-2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], alone(model, new[1]), rtol=1e-4, atol=1e-4)


def test_parts_of_rows_are_put_elsewhere() -> None:
    model = initialize(Transformer(MODELS["absolute"]), seed=3).eval().requires_grad_(False)
    cache = SlotCache(model.config, slots=2, context=20)
    read(model, cache, [0], [[1, 2, 3, 4, 5]])
    for start, stop in ((0, 2), (2, 4)):
        cache.write(1, *cache.read(0, stop, start), start=start)
    got = read(model, cache, [1], [[9, 9]])[0]
    torch.testing.assert_close(got, alone(model, [1, 2, 3, 4, 9, 9])[-2:], rtol=1e-4, atol=1e-4)


def test_memory_follows_what_is_stored() -> None:
    config = MODELS["absolute"]
    cache = SlotCache(config, slots=8, context=1000)
    assert cache.nbytes == 0
    cache.rows([0], [10])
    assert cache.nbytes == 64 * cache.token_bytes
    assert cache.token_bytes == 2 * 2 * 16 * 4
    cache.rows([3], [100])
    assert cache.nbytes == 4 * 128 * cache.token_bytes
    cache.release()
    assert cache.nbytes == 0
    with pytest.raises(UsageError, match="1001 tokens and the cache holds 1000"):
        cache.rows([0], [1001])
