"""TokenBatch builders."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data import bidirectional_batch, causal_batch, pad_rows
from mainspring.data.batch import restart_at_documents


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_positions_restart_at_documents(lengths: list[int]) -> None:
    doc = torch.tensor([[n for n, length in enumerate(lengths) for _ in range(length)]])
    expected = [place for length in lengths for place in range(length)]
    assert restart_at_documents(doc).tolist() == [expected]
    assert causal_batch(doc, doc=doc).pos.tolist() == [expected]


def test_layouts() -> None:
    ids = torch.arange(6).reshape(2, 3)
    assert causal_batch(ids).rank.tolist() == [[0, 1, 2], [0, 1, 2]]
    both = bidirectional_batch(ids)
    assert both.rank.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert both.pos.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert both.to("cpu").doc is None


def test_padding() -> None:
    ids, valid = pad_rows([[5, 6, 7], [8], []], pad=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert valid.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert pad_rows([], pad=0)[0].shape == (0, 0)
