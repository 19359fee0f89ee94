"""A tiny tokenizer and models for the tests of generation."""

import pytest

from mainspring.nn import Transformer, initialize
from mainspring.text import Tokenizer, train_tokenizer
from support.toy import small

TEXT = ["the cat sat on the mat; the dog sat on the log."] * 4 + [
    "naïve café — 東京の猫は魚が好き 🐈🐟 наука и жизнь"
] * 4


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level BPE of 300 tokens: most letters outside ASCII take several tokens."""
    return train_tokenizer(TEXT, "bpe", 300)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Transformer:
    """A causal model with learned positions; weights are wide, so that its distributions are not flat."""
    size = tokenizer.vocab_size
    config = small(size, d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_rows=320, max_positions=64)
    return initialize(Transformer(config), seed=0).eval().requires_grad_(False)
