"""Made-up pairs and a small network, shared by the tests of objectives on pairs."""

from __future__ import annotations

import numpy as np

from mainspring.data.batch import TokenBatch
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives import Vocabulary
from objectives.test_masked import SPECIAL, TOKENS, VOCAB

CLS, SEP, MASK = 2, 3, 4
FULL = Vocabulary.of(TOKENS, range(SPECIAL), MASK, first=CLS, separator=SEP)


def pairs(rows: int, seed: int = 0) -> TokenBatch:
    """Pairs of 1 to 9 tokens a side, in languages 1 and 2."""
    rng = np.random.default_rng(seed)

    def side() -> list[int]:
        return rng.integers(SPECIAL, VOCAB, size=rng.integers(1, 10)).tolist()

    return pair_batch([TextPair(side(), side(), 1, 2) for _ in range(rows)])


def rows_from(batch: TokenBatch, start: int, stop: int) -> TokenBatch:
    """Some rows of a batch."""
    return TokenBatch(*(t if t is None else t[start:stop] for t in batch))


def network(**changes: object) -> Transformer:
    """Three layers over the made-up vocabulary, without dropout."""
    values: dict[str, object] = {
        "d_model": 16,
        "n_heads": 2,
        "n_layers": 3,
        "d_ff": 32,
        "vocab_size": VOCAB,
        "max_positions": 64,
        "norm_place": "post",
        "embed_norm": True,
        "type_vocab": 6,
        "languages": 3,
        **changes,
    }
    return initialize(Transformer(TransformerConfig(**values)), 0).eval()
