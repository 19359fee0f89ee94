"""The rows of a run in their global order: of text, of pairs, or of both, drawn by one mixture.

A direction of pairs is a stream beside those of text. So which row comes at a global index depends on the
seed, the mixture and the index alone, every prefix of the order holds its share of pairs, and nothing of it
has to be kept to go on.
"""

from __future__ import annotations

import numpy as np

from mainspring.data.batch import TokenBatch
from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.loader import text_batch
from mainspring.data.pair_batch import pair_batch
from mainspring.data.pair_corpora import PairCorpora
from mainspring.data.sampler import Mixture, mixture_of, samples
from mainspring.data.token_row import collate, join, rows_of
from mainspring.errors import DataError

PAIRS = "pairs:"
"""Begins the names of streams of pairs; no source of text has such a name."""
_AWAY = 1 << 47


class TrainingRows:
    """What a run reads, by global index.

    Args:
        data: token data; its tokenizer is the pairs' too.
        config: shares, and where the pairs are.
        seed: of the order.

    Raises:
        DataError: there are no pairs where they should be, they were encoded with another tokenizer, or
            there are fewer than a row takes.
        ConfigError: the weights do not fit the data.
    """

    def __init__(self, data: TokenData, config: DataConfig, seed: int) -> None:
        self._data = data
        self._seed = seed
        self._seq_len = config.seq_len
        self._per_row = config.pairs_per_row
        self._pairs = None if config.pairs is None else open_pairs(config.pairs, data)
        self.mixture = _mixture(data, config, self._pairs)
        """Streams of text, and of pairs by the names `pairs:DIRECTION`, with their shares."""

    def batch(self, start: int, stop: int) -> TokenBatch:
        """Rows start .. stop-1 of the global order, as a batch: of pairs those that have tokens of type 1."""
        chosen, places = samples(self._seed, self.mixture, start, stop)
        wanted = [(self.mixture.names[int(c)], int(row)) for c, row in zip(chosen, places, strict=True)]
        paired = np.array([name.startswith(PAIRS) for name, _ in wanted], dtype=bool)
        if not paired.any():
            return text_batch(self._data, wanted, self._seq_len)
        pad = self._data.tokenizer.pad or 0
        pairs = self._pair_batch([one for one, pair in zip(wanted, paired, strict=True) if pair], pad)
        if paired.all():
            return pairs
        plain = [one for one, pair in zip(wanted, paired, strict=True) if not pair]
        text = iter(rows_of(text_batch(self._data, plain, self._seq_len)))
        both = iter(rows_of(pairs))
        return collate([next(both) if pair else next(text) for pair in paired], pad=pad)

    def batch_with_others(self, start: int, stop: int) -> TokenBatch:
        """Rows start .. stop-1, each followed by another from far away in the order, with type 1."""
        own, others = (
            rows_of(self.batch(first, last)) for first, last in ((start, stop), _away(start, stop))
        )
        joined = [
            join([row, other._replace(type=np.ones_like(other.type))])
            for row, other in zip(own, others, strict=True)
        ]
        return collate(joined, pad=self._data.tokenizer.pad or 0)

    def _pair_batch(self, wanted: list[tuple[str, int]], pad: int) -> TokenBatch:
        assert self._pairs is not None
        directions = self._pairs.directions
        chosen = [
            pair
            for name, row in wanted
            for pair in directions[name.removeprefix(PAIRS)].neighbours(row, self._per_row)
        ]
        return pair_batch(chosen, per_row=self._per_row, pad=pad)


def _away(start: int, stop: int) -> tuple[int, int]:
    """Indices that no run reaches, as many, and the same for the same rows."""
    return start + _AWAY, stop + _AWAY


def open_pairs(folder: str, data: TokenData) -> PairCorpora:
    """The pairs that a run reads.

    Raises:
        DataError: there are none, or they were encoded with another tokenizer than the run's data.
    """
    pairs = PairCorpora.open(folder)
    if pairs.tokenizer_hash != data.tokenizer.hash:
        raise DataError(
            f"data.pairs = {folder!r} was encoded with another tokenizer than data.path = "
            f"{str(data.directory)!r}; encode the pairs with the tokenizer.json there"
        )
    return pairs


def _mixture(data: TokenData, config: DataConfig, pairs: PairCorpora | None) -> Mixture:
    if pairs is None:
        return mixture_of(data, config)
    per_row = config.pairs_per_row
    rows = {PAIRS + name: one.count // per_row for name, one in pairs.directions.items()}
    sizes = {PAIRS + name: float(len(one.tokens)) ** config.alpha for name, one in pairs.directions.items()}
    sizes = {name: size for name, size in sizes.items() if rows[name]}
    if not sizes:
        count = sum(one.count for one in pairs.directions.values())
        raise DataError(
            f"a row takes data.pairs_per_row = {per_row} pairs of a direction, and there are {count}"
        )
    share = config.pairs_share
    weights = {name: share * size / sum(sizes.values()) for name, size in sizes.items()}
    if share < 1:
        text = mixture_of(data, config)
        rows |= dict(zip(text.names, text.rows, strict=True))
        weights |= {name: (1 - share) * w for name, w in zip(text.names, text.weights, strict=True)}
    return Mixture.of(rows, weights)
