"""What cannot be cut over tokens is refused with the reason and what can be done; how rows are cut."""

import pytest
import torch
from torch import nn

from mainspring.data.batch import IGNORE, causal_batch
from mainspring.errors import PlanError
from mainspring.models.deberta.config import CONVOLUTION, deberta_v2
from mainspring.nn import Transformer
from mainspring.parallel import Plan
from mainspring.parallel.sequence import split_tokens
from mainspring.parallel.sequence.spread import check_sequence
from parallel.sequence import cases


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("absolute", {"sequence": 8}, "sequence = 4 or less"),
        ("absolute", {"sequence": 4, "tensor": 2}, "sequence = 2 or less"),
        ("disentangled", {"sequence": 2, "sequence_attention": "ring"}, 'use sequence_attention = "heads"'),
    ],
)
def test_what_is_refused(name, fields, words):
    with pytest.raises(PlanError, match=words):
        check_sequence(cases.model(name), Plan(**fields))


def test_a_ring_needs_no_heads():
    check_sequence(cases.model("absolute"), Plan(sequence=8, sequence_attention="ring"))


def test_neighbours_and_foreign_models_are_refused():
    config = deberta_v2(8, 1, 2, d_ff=8, vocab_size=9, max_positions=8, conv=CONVOLUTION)
    with pytest.raises(PlanError, match="reads neighbours"):
        check_sequence(Transformer(config), Plan(sequence=2))
    with pytest.raises(PlanError, match="this model has none"):
        check_sequence(nn.Linear(2, 2), Plan(sequence=2))


def test_rows_that_do_not_divide_are_padded():
    ids = torch.arange(10).view(2, 5)
    batch = causal_batch(ids, doc=torch.tensor([[0, 0, 1, 1, 1]] * 2), labels=ids + 1)
    shares = [split_tokens(batch, i, 3) for i in range(3)]
    assert [share.ids.shape for share in shares] == [(2, 2)] * 3
    joined = [torch.cat(field, 1) for field in zip(*(s for s in shares), strict=True) if field[0] is not None]
    ids, pos, _, doc, valid, labels = joined
    assert ids[:, :5].tolist() == batch.ids.tolist() and labels[:, :5].tolist() == batch.labels.tolist()
    assert valid.tolist() == [[True] * 5 + [False]] * 2
    assert labels[:, 5].tolist() == [IGNORE] * 2 and doc[:, 5].tolist() == [1, 1]
    assert pos[:, 5].max() <= batch.pos.max()  # no position that the model may lack


def test_rows_that_divide_gain_nothing():
    share = split_tokens(causal_batch(torch.arange(8).view(2, 4)), 1, 2)
    assert (
        share.valid is None and share.ids.tolist() == [[2, 3], [6, 7]] and share.pos.tolist() == [[2, 3]] * 2
    )
