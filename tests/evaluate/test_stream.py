"""Rows go back into the text they were cut from."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.evaluate.stream import labelled_stream

DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=8)


def rows(documents: list[list[int]], seq_len: int) -> list[TokenBatch]:
    """Windows of seq_len + 1 that overlap in one token; no label leads into another document."""
    text = [t for d in documents for t in d]
    number = [i for i, d in enumerate(documents) for _ in d]
    batches = []
    for at in range(0, len(text) - 1, seq_len):
        window, owner = text[at : at + seq_len + 1], number[at : at + seq_len + 1]
        labels = [b if m == n else IGNORE for b, m, n in zip(window[1:], owner, owner[1:], strict=False)]
        width = len(labels)
        pad = seq_len - width
        valid = torch.tensor([[True] * width + [False] * pad])
        batches.append(
            causal_batch(
                torch.tensor([window[:-1] + [0] * pad]),
                valid=valid,
                labels=torch.tensor([labels + [IGNORE] * pad]),
            )
        )
    return batches


@given(DOCUMENTS, st.integers(1, 6))
def test_rows_of_documents_make_the_documents_again(documents: list[list[int]], seq_len: int) -> None:
    stream, scored = labelled_stream(rows(documents, seq_len))
    text = [t for d in documents for t in d]
    starts = np.zeros(len(text), dtype=bool)
    starts[np.cumsum([0, *(len(d) for d in documents[:-1])])] = True
    # A last document of one token is never asked for nor context.
    size = len(text) - (len(documents[-1]) == 1) if len(text) > 1 else 0
    assert stream.ids.tolist() == text[:size]
    assert stream.starts.tolist() == starts[:size].tolist()
    assert scored.tolist() == (~starts[:size]).tolist()


def test_a_label_that_no_token_follows_is_kept() -> None:
    first = causal_batch(torch.tensor([[1, 2]]), labels=torch.tensor([[2, 3]]))
    other_source = causal_batch(torch.tensor([[7, 8]]), labels=torch.tensor([[8, 9]]))
    stream, scored = labelled_stream([first, other_source])
    assert stream.ids.tolist() == [1, 2, 3, 7, 8, 9]
    assert stream.starts.tolist() == [True, False, False, True, False, False]
    assert scored.sum() == 4


def test_rows_without_labels_score_nothing() -> None:
    stream, scored = labelled_stream([causal_batch(torch.tensor([[1, 2]]))])
    assert stream.starts.all()
    assert not scored.any()
    assert labelled_stream([])[0].ids.size == 0
