"""Masked language modelling over whole words and n-grams.

Devlin et al. 2019 (BERT, section 3.1) for the 80/10/10 replacement; Lan et al. 2020 (ALBERT, section 3.1)
for the n-gram lengths, p(n) = (1/n) / sum_k (1/k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mainspring.data.batch import IGNORE, TokenBatch, bidirectional_batch
from mainspring.objectives.base import LabelledView, Views, check_generators
from mainspring.objectives.config import MaskedConfig
from mainspring.objectives.replacement import Replacement
from mainspring.objectives.words import Bools, Ints, Vocabulary, word_starts


class MaskedLM(LabelledView):
    """Cross entropy of hidden tokens, each seeing its whole document.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """

    NAME = "mlm"

    def __init__(self, config: MaskedConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self._replacement = Replacement(config, vocabulary, config.kind)

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """Hide tokens of every row of a batch [B, T] and label them; row r draws from `rngs[r]` alone."""
        check_generators(batch, rngs)
        ids = batch.ids.cpu().numpy().copy()
        docs = None if batch.doc is None else batch.doc.cpu().numpy()
        valid = None if batch.valid is None else batch.valid.cpu().numpy()
        labels = np.full_like(ids, IGNORE)
        for row, rng in enumerate(rngs):
            doc = None if docs is None else docs[row]
            hide = self._choose(ids[row], doc, None if valid is None else valid[row], rng)
            labels[row, hide] = ids[row, hide]
            ids[row, hide] = self._replacement.draw(ids[row, hide], rng)
        device = batch.ids.device
        view = bidirectional_batch(
            torch.from_numpy(ids).to(device),
            doc=batch.doc,
            valid=batch.valid,
            labels=torch.from_numpy(labels).to(device),
        )
        return {self.NAME: view._replace(pos=batch.pos, type=batch.type, lang=batch.lang)}

    def _choose(self, ids: Ints, doc: Ints | None, valid: Bools | None, rng: np.random.Generator) -> Bools:
        maskable = ~self.vocabulary.special[ids]
        if valid is not None:
            maskable &= valid
        starts = np.ones(len(ids), bool)
        if self.config.whole_words:
            starts = word_starts(ids, self.vocabulary, doc)
        return mask_row(starts, maskable, self.config.rate, self.config.max_ngram, rng, doc=doc)


def mask_row(
    starts: Bools,
    maskable: Bools,
    rate: float,
    max_ngram: int,
    rng: np.random.Generator,
    *,
    doc: Ints | None = None,
    shares: Sequence[float] | None = None,
) -> Bools:
    """Choose the tokens of a row to predict: bool [T].

    Runs of 1..`max_ngram` whole words, which never overlap, never leave a document and never hold a token
    that is not maskable, are laid at random until `rate` of the maskable tokens is reached. A run that
    would go beyond the budget is shortened, so the share is met from below and misses it by less than one
    word; one token at least is chosen wherever a word fits, and a row whose every word is longer than the
    budget loses its shortest one.

    Args:
        starts: [T] where a word begins.
        maskable: [T] tokens that may be chosen.
        rate: share of the maskable tokens.
        max_ngram: longest run, in words; p(n) is proportional to 1/n.
        shares: other probabilities of the lengths 1 .. `max_ngram`.
        rng: the only source of chance.
        doc: [T] document of each token (None: one).
    """
    chosen = np.zeros(len(starts), bool)
    heads = np.flatnonzero(starts)
    ends = np.append(heads[1:], len(starts))
    whole = np.logical_and.reduceat(maskable, heads) if len(heads) else np.zeros(0, bool)
    if not whole.any():
        return chosen
    budget = max(1, round(rate * int(maskable.sum())))
    # A run may go on over the boundary between words i and i + 1 if both are of one document.
    joined = np.ones(len(heads), bool)
    if doc is not None:
        joined[:-1] = doc[heads[:-1]] == doc[heads[1:]]
    law = ngram_probabilities(max_ngram) if shares is None else np.asarray(shares)
    lengths = 1 + rng.choice(max_ngram, size=len(heads), p=law)
    left = budget
    for word, length in zip(rng.permutation(len(heads)), lengths, strict=True):
        last = word - 1
        while last + 1 < min(word + length, len(heads)):
            following = last + 1
            if following > word and not joined[last]:
                break
            if not whole[following] or chosen[heads[following]] or ends[following] - heads[word] > left:
                break
            last = following
        if last >= word:
            chosen[heads[word] : ends[last]] = True
            left -= int(ends[last] - heads[word])
        if left == 0:
            break
    if left == budget:
        sizes = np.where(whole, ends - heads, len(starts) + 1)
        shortest = int(sizes.argmin())
        chosen[heads[shortest] : ends[shortest]] = True
    return chosen


def ngram_probabilities(max_ngram: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of each run length 1..max_ngram: (1/n) / sum_k (1/k)."""
    inverse = 1.0 / np.arange(1, max_ngram + 1)
    return np.asarray(inverse / inverse.sum())
