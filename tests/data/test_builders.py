"""Rows as arrays: taken apart, hidden and put together without loss."""

from __future__ import annotations

import numpy as np
import torch

from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.data.token_row import collate, join, rows_of, token_row


def test_a_batch_taken_apart_and_put_together_is_the_same() -> None:
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    generator = torch.Generator().manual_seed(0)
    fields = [torch.randint(1, 9, (2, 4), generator=generator) * valid for _ in range(6)]
    ids, pos, rank, kind, lang, doc = fields
    labels = torch.where(valid, ids, IGNORE)
    batch = TokenBatch(ids, pos, rank, ids > 4, kind, lang, doc, valid, labels)
    again = collate(rows_of(batch))
    for name, before, after in zip(TokenBatch._fields, batch, again, strict=True):
        assert torch.equal(before, after), name


def test_data_that_say_nothing_are_none() -> None:
    batch = collate(rows_of(causal_batch(torch.tensor([[3, 4, 5]]))))
    assert (batch.probe, batch.type, batch.lang, batch.doc, batch.valid) == (None,) * 5
    assert batch.rank.tolist() == [[0, 1, 2]] and batch.labels.tolist() == [[IGNORE] * 3]


def test_padding_has_the_id_that_is_asked_for() -> None:
    batch = collate([token_row([4, 5, 6]), token_row([7], start=3)], pad=1)
    assert batch.ids.tolist() == [[4, 5, 6], [7, 1, 1]] and batch.pos.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert batch.valid.tolist() == [[True] * 3, [True, False, False]]


def test_parts_keep_their_data_and_hidden_tokens_become_labels() -> None:
    row = join([token_row([4, 5], type=1), token_row([6, 7, 8], start=2, rank=np.arange(1, 4), lang=2)])
    hidden = row.hide(np.array([False, True, False, False, True]), np.array([0, 9]))
    assert hidden.ids.tolist() == [4, 0, 6, 7, 9]
    assert hidden.labels.tolist() == [IGNORE, 5, IGNORE, IGNORE, 8]
    assert row.ids.tolist() == [4, 5, 6, 7, 8], "the row itself stays"
    assert hidden.type.tolist() == [1, 1, 0, 0, 0] and hidden.rank.tolist() == [0, 0, 1, 2, 3]
    assert hidden.take(slice(2, 4)).ids.tolist() == [6, 7]
